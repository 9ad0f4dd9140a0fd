"""Threads that hammer one store, by every face at once; on free-threaded Python truly at once."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
import zarr
from servers.leaks import open_descriptors, wait_until
from servers.nginx import Nginx, has_dav
from servers.script import in_child
from servers.threads import together

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

from zarr.api.asynchronous import open_array as open_async
from zarr.core.buffer import cpu, default_buffer_prototype

import zfast
from zfast import FastStore

THREADS, TURNS = 16, 6

free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is not free-threaded"
)

VALUES = np.arange(192 * 160, dtype="f4").reshape(192, 160)


@pytest.fixture
def store(start: Callable[..., Any], tmp_path: Path) -> FastStore:
    if not has_dav():
        pytest.skip("nginx is built without dav")
    server = start(Nginx, tmp_path, dav=True)
    store = FastStore(server.url, read_only=False)
    for name, shards, compressor in [
        ("raw", None, None),
        ("zstd", None, zarr.codecs.ZstdCodec()),
        ("sharded", (96, 80), zarr.codecs.ZstdCodec()),
    ]:
        array = zarr.create_array(
            store,
            name=name,
            shape=VALUES.shape,
            dtype="f4",
            chunks=(16, 16),
            shards=shards,
            compressors=compressor,
        )
        array[...] = VALUES
    return store


def hammer(store: FastStore, number: int, turn: int) -> None:
    """What one thread does of everything, and looks at."""
    row = (number * 13 + turn * 7) % 150
    for name in ("raw", "zstd", "sharded"):
        array = zarr.open_array(store, path=name, mode="r")
        np.testing.assert_array_equal(array[row : row + 40, ::3], VALUES[row : row + 40, ::3])
        rows = np.array([row, row + 1, 3, 190])
        np.testing.assert_array_equal(array.oindex[rows, :], VALUES[rows])
    own, body = f"own/{number}", bytes([number]) * (1 + turn * 5000)
    store[own] = body
    assert store[own] == body
    store.set_sync(own, cpu.Buffer.from_bytes(body[:-1]))
    got = store.get_sync(own, prototype=default_buffer_prototype())
    assert got is not None
    assert got.to_bytes() == body[:-1]
    assert f"own/{number}-none" not in store
    assert store.getitems([own, f"own/{number}-none"]) == {own: body[:-1]}
    assert pickle.loads(pickle.dumps(store)) == store
    stats = store.stats()
    assert stats["failed"] == 0 <= stats["in_flight"]
    del store[own]
    assert own not in store


def test_every_face_from_many_threads(store: FastStore) -> None:
    def work(number: int) -> None:
        for turn in range(TURNS):
            hammer(store, number, turn)

    together(THREADS, work)
    assert store.stats()["in_flight"] == 0


def test_event_loops_in_many_threads(store: FastStore) -> None:
    prototype = default_buffer_prototype()

    async def read(number: int) -> None:
        keys = [f"raw/c/{row}/{number % 10}" for row in range(12)]
        for _ in range(TURNS):
            got = await asyncio.gather(*(store.get(key, prototype) for key in keys))
            column = np.concatenate([part.as_numpy_array().view("f4") for part in got])
            at = number % 10 * 16
            np.testing.assert_array_equal(column.reshape(192, 16), VALUES[:, at : at + 16])

    together(THREADS, lambda number: asyncio.run(read(number)))
    assert store.stats()["in_flight"] == 0


def test_one_array_object_in_many_threads(store: FastStore) -> None:
    # Nobody has compiled its recipe, or read its indexes.
    array = zarr.open_array(store, path="sharded", mode="r")

    def work(number: int) -> None:
        for turn in range(TURNS):
            at = (number * 31 + turn) % 100
            np.testing.assert_array_equal(array[at:, at::2], VALUES[at:, at::2])

    together(THREADS, work)


@free_threaded
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc: threads uncounted")
def test_the_first_reads_of_many_loops_start_the_threads_once(store: FastStore) -> None:
    def native_threads() -> int:
        return len(os.listdir("/proc/self/task")) - threading.active_count()

    async def read(array: Any, number: int, meet: threading.Barrier) -> None:
        meet.wait(10)
        # By single elements: what that takes of the array's recipe is made by the first, for all.
        rows, columns = (at[number::5, number::3].ravel() for at in np.indices(VALUES.shape))
        found = await array.get_coordinate_selection((rows, columns))
        np.testing.assert_array_equal(found, VALUES[rows, columns])

    def first_reads() -> int:
        before = native_threads()
        array = asyncio.run(open_async(store=store, path="zstd", mode="r"))
        meet = threading.Barrier(THREADS)
        together(THREADS, lambda number: asyncio.run(read(array, number, meet)))
        # A thread of Python's counts before it has begun, and no more before it has ended.
        deadline = time.monotonic() + 10
        while (found := native_threads() - before) != 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    with zfast.config.set(io_threads=2, decode_threads=3):
        assert [in_child(first_reads) for _ in range(5)] == [5] * 5


@free_threaded
def test_the_gil_stays_off() -> None:
    # One extension that does not say it can do without turns the GIL on for all.
    script = """if True:
        import sys, numcodecs.blosc, numpy, urllib3, zarr
        before = sys._is_gil_enabled()
        import zfast, zfast.pipeline
        sys.exit(sys._is_gil_enabled() > before)
    """
    subprocess.run([sys.executable, "-c", script], check=True)


@free_threaded
def test_what_a_dialling_thread_made_is_closed_when_others_let_go_of_it(store: FastStore) -> None:
    # Its references are counted by the thread that made it, which is inside of the core by then.
    url = f"{store.url}/raw/"
    open_before = len(open_descriptors())
    manager = urllib3.PoolManager(maxsize=4)
    with zfast.Client(url, pool_manager=manager) as client:
        assert client.get("zarr.json") is not None
    assert len(open_descriptors()) > open_before
    manager.clear()
    del client, manager
    wait_until(lambda: len(open_descriptors()) <= open_before, 10.0)
