"""Writes through FastCodecPipeline: encoded by zarr, and sent as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.scripted import ScriptedServer, ranged, status

pytest.importorskip("zarr", minversion="3.0", reason="codec pipelines of zarr 3")

import zarr
from served_arrays import CHUNKS, LAYOUTS, OURS, VALUES, Objects, create, opened
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore, StorePath

import zfast
from zfast import FastStore, pipeline
from zfast.pipeline import FastCodecPipeline

Start = Callable[..., ScriptedServer]


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Set by name, and not chosen by a store before.
    monkeypatch.setattr(pipeline, "_chosen", False)
    with zarr.config.set({"codec_pipeline.path": OURS}):
        yield


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def server(scripted: Start, objects: Objects) -> ScriptedServer:
    return scripted(ranged(objects))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_write_is_one_batch(
    server: ScriptedServer, objects: Objects, tmp_path: Path, layout: dict[str, Any]
) -> None:
    store = FastStore(server.url, read_only=False)
    array = create(store, **layout)
    before, asked, written = store.stats(), len(server.keys()), len(server.keys("PUT"))
    array[...] = VALUES
    after = store.stats()
    # Some zarrs look for shards even where they are written whole.
    looked = len(server.keys()) - asked
    assert looked == 0 or layout is LAYOUTS["sharded"]
    assert 1 <= after["batches"] - before["batches"] <= 1 + looked
    assert len(server.keys("PUT")) == written + CHUNKS
    assert len(server.keys("DELETE")) == 0
    np.testing.assert_array_equal(objects.local(tmp_path), VALUES)
    np.testing.assert_array_equal(array[...], VALUES)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    "selection",
    [
        np.s_[3:40, 5:33],
        np.s_[17, :],
        np.s_[59, 49],
        np.s_[::5, ::7],
        np.s_[2:3],
    ],
)
def test_part_of_a_chunk_is_written_into_what_is_there(
    server: ScriptedServer,
    objects: Objects,
    tmp_path: Path,
    layout: dict[str, Any],
    selection: Any,
) -> None:
    objects.fill(VALUES, **layout)
    _, array = opened(server, read_only=False)
    wanted = VALUES.copy()
    wanted[selection] *= -2
    written = len(server.keys("PUT"))
    array[selection] = wanted[selection]
    touched = server.keys("PUT")[written:]
    assert len(touched) == len(set(touched))
    np.testing.assert_array_equal(objects.local(tmp_path), wanted)
    array[selection] = 7
    wanted[selection] = 7
    np.testing.assert_array_equal(objects.local(tmp_path), wanted)


def test_single_elements_and_rows_are_written_too(
    server: ScriptedServer, objects: Objects, tmp_path: Path
) -> None:
    objects.fill(VALUES, **LAYOUTS["format 3"])
    _, array = opened(server, read_only=False)
    wanted = VALUES.copy()
    rows, columns = np.array([1, 30, 59]), np.array([2, 40, 49])
    array.vindex[rows, columns] = [-1, -2, -3]
    wanted[rows, columns] = [-1, -2, -3]
    array.oindex[rows, 3:5] = np.full((3, 2), -4)
    wanted[rows, 3:5] = -4
    np.testing.assert_array_equal(objects.local(tmp_path), wanted)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_chunks_that_become_empty_are_deleted_as_one_batch(
    server: ScriptedServer, objects: Objects, layout: dict[str, Any]
) -> None:
    objects.fill(VALUES, **layout)
    store, array = opened(server, read_only=False)
    kept = {key for key in objects if key.endswith(("zarr.json", ".zarray", ".zattrs", ".zgroup"))}
    before, asked = store.stats()["batches"], len(server.keys())
    array[...] = 0
    looked = len(server.keys()) - asked
    assert looked == 0 or layout is LAYOUTS["sharded"]
    assert 1 <= store.stats()["batches"] - before <= 1 + looked
    assert len(server.keys("DELETE")) == CHUNKS
    assert set(objects) == kept
    assert not array[...].any()


def test_writes_and_deletions_of_one_write(
    server: ScriptedServer, objects: Objects, tmp_path: Path
) -> None:
    objects.fill(VALUES, **LAYOUTS["format 3"])
    store, array = opened(server, read_only=False)
    wanted = VALUES.copy()
    wanted[:16, :16] = wanted[48:, 48:] = 0
    before, written = store.stats()["batches"], len(server.keys("PUT"))
    array[...] = wanted
    assert store.stats()["batches"] == before + 2
    assert set(server.keys("DELETE")) == {"a/c/0/0", "a/c/3/3"}
    assert len(server.keys("PUT")) == written + CHUNKS - 2
    np.testing.assert_array_equal(objects.local(tmp_path), wanted)


def test_what_waits_to_be_written_is_bounded(
    server: ScriptedServer, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_MOST_WAITING", 3000)
    store = FastStore(server.url, read_only=False)
    sizes: list[int] = []

    async def set_many(self: Any, values: Any) -> None:
        sizes.append(sum(len(value) for _, value in values))
        await original(self, values)

    original = FastStore._set_many
    monkeypatch.setattr(FastStore, "_set_many", set_many)
    array = create(store, VALUES, **LAYOUTS["raw"])
    # Chunks of 1024 bytes: up to the third all wait.
    assert sum(sizes) == CHUNKS * 1024
    assert sizes[0] == 3072
    assert len(sizes) > 1
    np.testing.assert_array_equal(objects.local(tmp_path), VALUES)
    np.testing.assert_array_equal(array[...], VALUES)


async def test_flushes_do_not_overtake_each_other() -> None:
    """The later value of a key is the one that stays, and nothing waits when all is flushed."""
    held: dict[str, bytes] = {}
    flying = 0

    class Slow:
        async def _set_many(self, values: Any) -> None:
            nonlocal flying
            flying += 1
            assert flying == 1
            await asyncio.sleep(0.01)
            held.update(values)
            flying -= 1

        async def _delete_all(self, keys: Any) -> None:
            for key in keys:
                del held[key]

    outbox = pipeline._Outbox(Slow())
    await outbox.add("k", b"first")
    flushes = asyncio.gather(outbox.flush(), outbox.flush())
    await asyncio.sleep(0)
    await outbox.add("k", b"second")
    await outbox.add("gone", b"x")
    await outbox.flush()
    await flushes
    assert held == {"k": b"second", "gone": b"x"}
    await outbox.add("gone", None)
    await outbox.flush()
    assert held == {"k": b"second"}


async def test_after_a_failure_nothing_more_is_written(scripted: Start) -> None:
    """zarr's other tasks go on, and the caller may have written there since."""
    server = scripted(lambda request: status(403 if request.key == "refused" else 201))
    outbox = pipeline._Outbox(FastStore(server.url, read_only=False))
    for key in ("refused", "later"):
        await outbox.add(key, cpu.Buffer.from_bytes(b"value"))
        with pytest.raises(zfast.AccessError):
            await outbox.flush()
    assert server.keys("PUT") == ["refused"]


def test_a_read_only_store_is_not_written(server: ScriptedServer, objects: Objects) -> None:
    objects.fill(VALUES, **LAYOUTS["format 3"])
    held = dict(objects)
    _, array = opened(server)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 1
    # Also where zarr would not have asked.
    made = array._async_array.codec_pipeline
    spec = array._async_array.metadata
    path = StorePath(FastStore(server.url), "a/c/0/0")
    with pytest.raises(ValueError, match="read-only"):
        asyncio.run(made.write([(path, spec, (), (), True)], None))
    assert objects == held
    assert not server.keys("PUT")


def test_a_server_that_takes_no_writes_is_an_error(scripted: Start, objects: Objects) -> None:
    objects.fill(VALUES, **LAYOUTS["format 3"])
    handler = ranged(objects)
    server = scripted(lambda request: status(405) if request.method == "PUT" else handler(request))
    _, array = opened(server, read_only=False)
    with pytest.raises(zfast.NotWritableError, match="PUT"):
        array[...] = 1


class Masked(BytesBytesCodec):
    """Somebody's own, which is known by no name: it cannot be made out of its metadata."""

    is_fixed_size = True

    def __init__(self, mask: int) -> None:
        object.__setattr__(self, "mask", mask)

    def to_dict(self) -> Any:
        return {"name": "masked", "configuration": {}}

    async def _decode_single(self, chunk: Any, spec: Any) -> Any:
        masked = np.bitwise_xor(chunk.as_numpy_array().view("u1"), np.uint8(self.mask))
        return spec.prototype.buffer.from_array_like(masked.view("B"))

    async def _encode_single(self, chunk: Any, spec: Any) -> Any:
        return await self._decode_single(chunk, spec)

    def compute_encoded_size(self, size: int, spec: Any) -> int:
        return size


def test_a_codec_without_a_name_beside_blosc_in_shards(server: ScriptedServer) -> None:
    store = FastStore(server.url, read_only=False)
    codecs = [BytesCodec(), BloscCodec(typesize=4, shuffle="shuffle"), Masked(7)]
    array = zarr.create(
        store=store,
        shape=(20,),
        chunks=(10,),
        dtype="i4",
        codecs=[ShardingCodec(chunk_shape=(5,), codecs=codecs)],
    )
    array[...] = np.arange(20)
    array[3:7] = -1
    np.testing.assert_array_equal(array[2:8], [2, -1, -1, -1, -1, 7])


def test_inner_chunks_and_indexes_are_zarrs_to_encode() -> None:
    """They come with byte getters and setters that know no store."""

    class Getter:
        value: Any = None

        async def get(self, prototype: Any, byte_range: Any = None) -> Any:
            return self.value

        async def set(self, value: Any) -> None:
            self.value = value

        async def delete(self) -> None:
            self.value = None

    async def write_and_read() -> Any:
        made, getter = FastCodecPipeline.from_codecs([BytesCodec()]), Getter()
        array = zarr.create(shape=(4,), chunks=(4,), dtype="i4", store=MemoryStore())
        seen: list[Any] = []

        async def remember(self: Any, batch_info: Any, *_: Any, **__: Any) -> None:
            seen.extend(batch_info)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FastCodecPipeline, "write", remember)
            await array._async_array.setitem(slice(None), np.arange(4, dtype="i4"))
        spec = seen[0][1]
        items = [(getter, spec, (slice(0, 4),), (slice(0, 4),), True)]
        await made.write(items, cpu.NDBuffer.from_numpy_array(np.arange(4, dtype="i4")))
        out = cpu.NDBuffer.from_numpy_array(np.zeros(4, "i4"))
        await made.read(items, out)
        return out.as_numpy_array()

    np.testing.assert_array_equal(asyncio.run(write_and_read()), np.arange(4))
