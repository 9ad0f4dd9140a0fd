"""What zarr stores of an array, and what a described chain makes of it, undone in Python."""

from __future__ import annotations

import asyncio
import math
import pickle
import warnings
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from numcodecs.checksum32 import CRC32C
from zarr.core.buffer import default_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline

from zfast.recipes import Description, describe, why_not

MISSING = 2**64 - 1


class Stored:
    """An array in memory, as its pipeline is asked to read it, and the bytes of one chunk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: np.ndarray, **options: Any) -> None:
        self.data = data
        store = zarr.storage.MemoryStore()
        with warnings.catch_warnings():
            # Codecs outside of the specification, and codecs around shards, are warned of.
            warnings.simplefilter("ignore")
            options = {"shape": data.shape, "chunks": data.shape, "dtype": data.dtype} | options
            array = zarr.create(store=store, **options)
            array[...] = data
            calls: list[Any] = []

            async def read(pipeline: Any, batch_info: Any, out: Any, drop_axes: Any = ()) -> Any:
                calls.append((pipeline, list(batch_info), out))
                return await original(pipeline, calls[-1][1], out, drop_axes)

            original = BatchedCodecPipeline.read
            with monkeypatch.context() as patch:
                patch.setattr(BatchedCodecPipeline, "read", read)
                # Whatever zarr does to values of other byte orders has happened here.
                self.value = np.asarray(array[...])
        self.pipeline, [(self.getter, self.spec, *_)], out = calls[0]
        self.out_dtype = out.dtype

    def describe(self, out_dtype: Any = None) -> Description:
        wanted = self.out_dtype if out_dtype is None else np.dtype(out_dtype)
        description = describe(self.pipeline, self.spec, wanted)
        assert description is not None, why_not(self.pipeline, self.spec, wanted)
        assert why_not(self.pipeline, self.spec, wanted) == ""
        return description

    def why_not(self, out_dtype: Any = None) -> str:
        wanted = self.out_dtype if out_dtype is None else np.dtype(out_dtype)
        assert describe(self.pipeline, self.spec, wanted) is None
        return why_not(self.pipeline, self.spec, wanted)

    @property
    def bytes(self) -> bytes:
        chunk = asyncio.run(self.getter.get(default_buffer_prototype()))
        return bytes(chunk.to_bytes())

    def check(self, out_dtype: Any = None) -> Description:
        """The chunk's bytes, undone as described, are the data."""
        description = self.describe(out_dtype)
        wanted = self.value.astype(out_dtype or self.out_dtype)
        undone = undo(description, self.bytes)
        assert undone.shape == wanted.shape
        assert undone.tobytes() == wanted.tobytes()
        assert pickle.loads(pickle.dumps(description)) == description
        assert hash(description) == hash(pickle.loads(pickle.dumps(description)))
        return description


def undo_shuffle(data: bytes, size: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(size, -1).T.tobytes()


def undo_delta(data: bytes, size: int) -> bytes:
    differences = np.frombuffer(data, f"=u{size}")
    return np.cumsum(differences, dtype=differences.dtype).tobytes()


UNDO = {
    "zstd": lambda data, _: numcodecs.Zstd().decode(data),
    "blosc": lambda data, _: numcodecs.Blosc().decode(data),
    "gzip": lambda data, _: numcodecs.GZip().decode(data),
    "zlib": lambda data, _: numcodecs.Zlib().decode(data),
    "lz4": lambda data, _: numcodecs.LZ4().decode(data),
    "crc32c": lambda data, _: CRC32C(location="end").decode(data).tobytes(),
    "shuffle": undo_shuffle,
    "delta": undo_delta,
}


def undo(description: Description, data: bytes) -> np.ndarray:
    """A chunk in the axes of what is around it, its elements as so many bytes."""
    for name, size in description.steps:
        data = bytes(UNDO[name](data, size))
    if description.inner is not None:
        stored = undo_shard(description, data)
    else:
        octets = np.frombuffer(data, np.uint8)
        if description.swap:
            octets = octets.reshape(-1, description.swap)[:, ::-1].ravel()
        stored = octets.view(f"V{description.item_size}").reshape(description.shape)
    return stored.transpose(np.argsort(description.axes))


def undo_shard(description: Description, data: bytes) -> np.ndarray:
    inner = description.inner
    cell = [0] * len(inner.shape)
    for stored, axis in enumerate(inner.axes):
        cell[axis] = inner.shape[stored]
    grid = [whole // size for whole, size in zip(description.shape, cell, strict=True)]
    size = 16 * math.prod(grid)
    checked = size + 4 * description.index_checksum
    index = data[-checked:] if description.index_at_end else data[:checked]
    if description.index_checksum:
        CRC32C(location="end").decode(index)
    order = ">" if description.index_big_endian else "<"
    pairs = np.frombuffer(index[:size], f"{order}u8").reshape(*grid, 2)
    shard = np.zeros(description.shape, f"V{description.item_size}")
    for at in np.ndindex(*grid):
        offset, nbytes = map(int, pairs[at])
        if offset == nbytes == MISSING:
            continue
        box = tuple(slice(i * n, i * n + n) for i, n in zip(at, cell, strict=True))
        shard[box] = undo(inner, data[offset : offset + nbytes])
    return shard


def numbers(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Values no two neighbours of which are alike, and none of which is a fill value."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return (np.arange(1, math.prod(shape) + 1).reshape(shape) % 3 > 0).astype(dtype)
    values = np.arange(1, math.prod(shape) + 1).reshape(shape)
    if dtype.kind == "c":
        return (values * (1.5 - 2.25j)).astype(dtype)
    return (values * (1 if dtype.kind in "SU" else 3)).astype(dtype)
