"""Writes of arrays that fail, or are given up: nothing of them comes later, or from elsewhere."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numcodecs
import numpy as np
import pytest
from servers.scripted import Reply, Request, ScriptedServer, ranged, status

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

import zarr
from zarr.codecs import BloscCodec
from zarr.core.buffer import cpu

import zfast
from zfast import FastStore, pipeline
from zfast.errors import CorruptError

Scripted = Callable[..., ScriptedServer]


def test_what_was_sent_is_settled_before_a_failure_is_told(
    scripted: Scripted,
) -> None:
    """Or it would be written later than what the caller writes there next."""
    objects: dict[str, bytes] = {}
    handler = ranged(objects)

    def slow(request: Request) -> Reply:
        if request.key == "full":
            return status(507)
        if request.body == b"first":
            # The content is there; the server takes its time to write it.
            time.sleep(0.4)
        return handler(request)

    store = FastStore(scripted(slow).url, read_only=False)
    with pytest.raises(zfast.ResponseError, match="507"):
        store.setitems({"slow": b"first", "full": b"", "other": b"first"})
    store["slow"] = b"second"
    time.sleep(0.6)
    assert objects["slow"] == b"second"


def test_after_a_failure_no_chunk_is_written_any_more(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zarr's other tasks go on encoding, and would bring theirs later."""
    monkeypatch.setattr(pipeline, "_MOST_WAITING", 64)
    objects: dict[str, bytes] = {}
    handler = ranged(objects)
    server = scripted(lambda r: status(507) if r.key == "c/3" else handler(r))
    store = FastStore(server.url, read_only=False, retries=0)
    array = zarr.create_array(store, shape=4000, chunks=10, dtype="i4", compressors=None)
    with pytest.raises(zfast.ResponseError, match="507"):
        array[:] = 1
    array[3000:] = 2
    time.sleep(0.3)
    assert (zarr.open_array(store, mode="r")[3000:] == 2).all()


async def test_of_a_write_that_is_given_up_no_index_is_kept(
    scripted: Scripted,
) -> None:
    """The server may have written: also while the exception is being handled."""
    objects: dict[str, bytes] = {}
    handler = ranged(objects)
    held = threading.Event()

    def late(request: Request) -> Reply:
        reply = handler(request)
        if request.method == "PUT" and request.key == "c/0" and held.is_set():
            time.sleep(0.5)
        return reply.with_fields(etag=None)

    store = FastStore(scripted(late).url, read_only=False)
    array = zarr.create_array(
        store, shape=(8,), chunks=(4,), shards=(8,), dtype="i4", compressors=None, fill_value=0
    )
    array[:4] = 1
    first = objects["c/0"]
    array[:] = [0, 0, 0, 0, 3, 3, 3, 3]
    other, objects["c/0"] = objects["c/0"], first
    # Another, which does not know what this one wrote.
    store = FastStore(store.url, read_only=False)
    array = zarr.open_array(store, mode="r")
    reading: Any = await asyncio.to_thread(array.__getitem__, slice(0, 4))
    assert (reading == 1).all()
    held.set()
    with pytest.raises(TimeoutError) as raised:
        await asyncio.wait_for(store.set("c/0", cpu.Buffer.from_bytes(other)), 0.2)
    # Also while somebody keeps the exception, and with its traceback what waited.
    assert raised.value.__traceback__ is not None
    reading = await asyncio.to_thread(array.__getitem__, ...)
    assert list(reading) == [0, 0, 0, 0, 3, 3, 3, 3]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_partial_write_to_a_chunk_that_is_cut_short(scripted: Scripted, zarr_format: Any) -> None:
    """What lies behind it in memory is not to be written to the server."""
    store = FastStore(scripted(ranged({})).url, read_only=False)
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 0}
    compressor: Any = numcodecs.get_codec(blosc) if zarr_format == 2 else BloscCodec(cname="lz4")
    array = zarr.create_array(
        store, shape=4096, chunks=4096, dtype="i4", compressors=compressor, zarr_format=zarr_format
    )
    array[:] = np.random.default_rng(0).integers(0, 1 << 30, 4096)
    key = "0" if zarr_format == 2 else "c/0"
    store[key] = cut = store[key][:-1000]
    with pytest.raises(CorruptError, match=rf"{key}.*truncated"):
        array[3] = 7
    assert store[key] == cut


@pytest.mark.parametrize("index_location", ["start", "end"])
def test_a_partial_write_to_an_empty_shard(scripted: Scripted, index_location: Any) -> None:
    store = FastStore(scripted(ranged({})).url, read_only=False)
    array = zarr.create_array(
        store,
        shape=64,
        chunks=(8,),
        shards={"shape": (64,), "index_location": index_location},
        dtype="i4",
    )
    array[:] = 5
    store["c/0"] = b""
    with pytest.raises(CorruptError, match=r"c/0.*shorter than its index"):
        array[3] = 7
    assert store["c/0"] == b""


def test_an_empty_shard_is_replaced_by_a_whole_one(scripted: Scripted) -> None:
    store = FastStore(scripted(ranged({})).url, read_only=False)
    array = zarr.create_array(store, shape=(16,), chunks=(4,), shards=(8,), dtype="i4")
    array[:] = 5
    store["c/0"] = b""
    array[:] = 9
    assert (array[:] == 9).all()


def test_what_cannot_be_encoded_is_no_fault_of_what_is_stored(scripted: Scripted) -> None:
    objects: dict[str, bytes] = {}
    server = scripted(ranged(objects))
    store = FastStore(server.url, read_only=False)
    array = zarr.create_array(store, shape=80, chunks=10, dtype="i4")
    array[:] = 1
    # Refuses what comes in while the chunks are encoded, and may be looked at meanwhile.
    with pytest.raises(ValueError, match=r"^no such value$"):
        array[5:75] = Refusing(70)


class Refusing(np.ndarray):  # type: ignore[type-arg]
    """An array that nothing is taken of."""

    def __new__(cls, count: int) -> Any:
        return np.zeros(count, "i4").view(cls)

    def __getitem__(self, index: Any) -> Any:
        raise ValueError("no such value")
