"""Responses that a server holds back: what is read is the same, and only the clock can tell."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from servers.held_back import HeldBack, why_not_held_back

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

import zarr
from arrays import ZARRS_OWN

import zfast

Start = Callable[..., HeldBack]

LAYOUTS: dict[str, dict[str, Any]] = {
    "raw": {"chunks": (16, 16), "compressors": None},
    "zstd": {"chunks": (16, 16), "compressors": zarr.codecs.ZstdCodec()},
    "sharded": {"chunks": (8, 8), "shards": (32, 32), "compressors": None},
}
VALUES = np.random.default_rng(0).standard_normal((256, 256), np.float32)


@pytest.fixture(autouse=True)
def _held_back() -> None:
    if why := why_not_held_back():
        pytest.skip(why)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays(start: Start, tmp_path: Path, layout: str) -> None:
    with zarr.config.set(ZARRS_OWN):
        zarr.create_array(tmp_path / layout, data=VALUES, **LAYOUTS[layout])
    server = start(HeldBack, every=50, seconds=0.2)
    with zfast.FastStore(f"{server.url}/{layout}", deadline=60) as store:
        np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], VALUES)
    assert server.held()


def test_bodies(start: Start, tmp_path: Path) -> None:
    bodies = {f"{number}": os.urandom(5000 + number) for number in range(200)}
    for key, body in bodies.items():
        (tmp_path / key).write_bytes(body)
    server = start(HeldBack, every=100, seconds=0.2)
    with zfast.Client(server.url, deadline=60) as client:
        assert client.get_many([(key, None) for key in bodies]) == list(bodies.values())
        assert client.get("7", (-5, None)) == bodies["7"][-5:]
        assert client.get("absent") is None
    assert len(server.held()) >= 2


def test_who_asks_once_more_is_answered_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"value")
    server = start(HeldBack, every=2, seconds=60)
    with urllib3.PoolManager() as pool, server.connect() as waiting:
        while not server.held():
            waiting.sendall(b"GET /key HTTP/1.1\r\n\r\n")
            _until(lambda: server.held() or _answered(waiting))
            if not server.held():
                waiting.recv(1 << 16)
        assert server.held() == ["/key"]
        for _ in range(10):
            assert pool.request("GET", f"{server.url}/key").data == b"value"
        assert server.held() == ["/key"]
        assert not _answered(waiting)
        # That one takes the turn of those which were answered.
        with server.connect() as other:
            other.sendall(b"HEAD /absent HTTP/1.1\r\n\r\n")
            _until(lambda: len(server.held()) == 2)
        assert server.held() == ["/key", "/absent"]


def _answered(sock: Any) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
