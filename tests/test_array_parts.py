"""Of an uncompressed chunk only the rows that are wanted are asked for, where that saves enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from servers.scripted import Reply, Request, ScriptedServer, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

import zarr
from zarr.storage import LocalStore, MemoryStore

from zfast import FastStore
from zfast.errors import CorruptError

Scripted = Callable[..., ScriptedServer]

VALUES = np.arange(512 * 96, dtype="<f4").reshape(512, 96)
ROW = 64 * 4
CHUNK = 256 * ROW


def create(store: Any) -> None:
    zarr.create_array(
        store=store, name="a", data=VALUES, chunks=(256, 64), compressors=None, fill_value=-1
    )


def objects() -> dict[str, bytes]:
    store = MemoryStore()
    create(store)
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def opened(url: str) -> zarr.Array[Any]:
    return zarr.open_array(store=FastStore(url), path="a", mode="r", zarr_format=3)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (np.s_[:, :64], ["whole", "whole"]),
        (np.s_[10:20, 3:60], [f"bytes={10 * ROW + 12}-{19 * ROW + 60 * 4 - 1}"]),
        (np.s_[200:300, :20], [f"bytes={200 * ROW}-{255 * ROW + 79}", f"bytes=0-{43 * ROW + 79}"]),
        (np.s_[7], [f"bytes={7 * ROW}-{8 * ROW - 1}", f"bytes={7 * ROW}-{7 * ROW + 127}"]),
        (np.s_[2:200:50, :64], [f"bytes={2 * ROW}-{153 * ROW - 1}"]),
        # What little this would save is not worth a range.
        (np.s_[8:256, 0:64], ["whole"]),
    ],
)
def test_only_the_rows_that_are_wanted(nginx: Site, window: Any, expected: list[str]) -> None:
    create(LocalStore(nginx.root))
    array = opened(nginx.url)
    before = len(nginx.requests())
    np.testing.assert_array_equal(array[window], VALUES[window])
    found = nginx.requests(before + len(expected))[before:]
    assert sorted(request.range or "whole" for request in found) == sorted(expected)
    assert {request.method for request in found} == {"GET"}


def test_a_missing_chunk_is_filled(scripted: Scripted) -> None:
    kept = objects()
    del kept["a/c/1/0"]
    array = opened(scripted(ranged(kept)).url)
    expected = VALUES.copy()
    expected[256:, :64] = -1
    np.testing.assert_array_equal(array[250:270, 50:80], expected[250:270, 50:80])


@pytest.mark.parametrize("size", [0, 100, CHUNK - 1, CHUNK + 1, 2 * CHUNK])
def test_a_chunk_of_another_size_is_corrupt(scripted: Scripted, size: int) -> None:
    kept = objects()
    kept["a/c/0/0"] = (kept["a/c/0/0"] * 2)[:size]
    array = opened(scripted(ranged(kept)).url)
    with pytest.raises(CorruptError, match="a/c/0/0"):
        array[10:20, 3:60]
    with pytest.raises(CorruptError, match="a/c/0/0"):
        array[:256, :64]


def test_a_server_without_ranges_is_asked_for_whole_chunks(scripted: Scripted) -> None:
    serve = ranged(objects())

    def handle(request: Request) -> Reply:
        return serve(replace(request, fields=request.fields.without("Range")))

    server = scripted(handle)
    array = opened(server.url)
    for _ in range(2):
        np.testing.assert_array_equal(array[10:20, 3:60], VALUES[10:20, 3:60])
    chunks = [request.range for request in server.requests if "/c/" in request.key]
    # Found out at the first, and kept.
    assert [asked is None for asked in chunks] == [False, True]


def test_rows_go_on_where_a_connection_was_reset(scripted: Scripted) -> None:
    serve = ranged(objects())
    cut = iter([10_000, 20_001, 3])

    def handle(request: Request) -> Reply:
        reply = serve(request)
        at = next(cut, None) if request.key.endswith("c/0/0") else None
        return reply if at is None else reply.cut_body(at)

    store = FastStore(scripted(handle).url)
    array = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)
    np.testing.assert_array_equal(array[2:200, 3:60], VALUES[2:200, 3:60])
    assert store.stats()["resumed"] == 3


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize(
    "window",
    [
        np.s_[60, 50],
        np.s_[60:70, 50:53],
        np.s_[60:70, 3:60:2],
        [60, 62, 65],
        [62, 65, 60],
        [65, 60, 62],
    ],
    ids=str,
)
def test_whatever_their_elements_are_put_together_from(
    nginx: Site, dtype: str, window: Any
) -> None:
    """Short rows, steps, lists and other byte orders go by way of memory."""
    values = VALUES.astype(dtype)
    zarr.create_array(
        store=LocalStore(nginx.root),
        name="a",
        data=values,
        chunks=(512, 96),
        compressors=None,
        fill_value=-1,
    )
    array = opened(nginx.url)
    before = len(nginx.requests())
    if isinstance(window, list):
        np.testing.assert_array_equal(array.oindex[window], values[window])
    else:
        np.testing.assert_array_equal(array[window], values[window])
    (request,) = nginx.requests(before + 1)[before:]
    assert request.sent is not None
    assert request.sent <= 10 * 96 * 4
