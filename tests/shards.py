"""Shards in plain Python: their objects as zarr writes them, and their indexes read and made.

The format is that of the codec `sharding_indexed`:
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from arrays import ZARRS_OWN, Layout
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

MISSING = 2**64 - 1
"""As an offset and as a size: this inner chunk is not there."""

Pair = tuple[int, int]


def objects_of(layout: Layout, values: npt.NDArray[Any], path: str = "a") -> dict[str, bytes]:
    """All objects of an array, as zarr writes them, by key."""
    name = "zarr.json" if layout.zarr_format == 3 else ".zarray"
    document = Buffer.from_bytes(json.dumps(layout.document).encode())
    memory = MemoryStore({f"{path}/{name}": document})
    with zarr.config.set(ZARRS_OWN):
        array = zarr.open_array(memory, path=path, mode="r+", zarr_format=layout.zarr_format)
        array[...] = values
    return {key: value.to_bytes() for key, value in memory._store_dict.items()}


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _entry(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_TABLE = [_entry(octet) for octet in range(256)]


def checked(data: bytes) -> bytes:
    """Data with its checksum, as the codec `crc32c` stores it."""
    return data + struct.pack("<I", crc32c(data))


def index_size(count: int, *, checksum: bool = True) -> int:
    """Bytes of the index of a shard of so many inner chunks."""
    return 16 * count + 4 * checksum


def read_index(
    shard: bytes, count: int, *, location: str = "end", checksum: bool = True
) -> list[Pair]:
    """Offset and size of every inner chunk, in C order."""
    size = index_size(count, checksum=checksum)
    index = shard[:size] if location == "start" else shard[len(shard) - size :]
    return list(struct.iter_unpack("<QQ", index[: 16 * count]))


def make_index(pairs: Sequence[Pair], *, checksum: bool = True) -> bytes:
    """The index that says so."""
    index = b"".join(struct.pack("<QQ", *pair) for pair in pairs)
    return checked(index) if checksum else index


def with_index(
    shard: bytes, pairs: Sequence[Pair], *, location: str = "end", checksum: bool = True
) -> bytes:
    """A shard with another index for as many inner chunks."""
    index = make_index(pairs, checksum=checksum)
    if location == "start":
        return index + shard[len(index) :]
    return shard[: len(shard) - len(index)] + index


def with_chunk(
    shard: bytes,
    count: int,
    inner: int,
    chunk: bytes,
    *,
    location: str = "end",
    checksum: bool = True,
) -> bytes:
    """A shard with another inner chunk, packed anew and with a right index."""
    form: dict[str, Any] = {"location": location, "checksum": checksum}
    chunks = [
        chunk if at == inner else None if offset == MISSING else shard[offset : offset + size]
        for at, (offset, size) in enumerate(read_index(shard, count, **form))
    ]
    offset = index_size(count, checksum=checksum) if location == "start" else 0
    pairs = []
    for body in chunks:
        pairs.append((MISSING, MISSING) if body is None else (offset, len(body)))
        offset += len(body or b"")
    parts = [make_index(pairs, checksum=checksum), b"".join(body or b"" for body in chunks)]
    return b"".join(parts if location == "start" else parts[::-1])


def runs(pairs: Sequence[Pair], gap: int) -> list[str]:
    """The Range fields for inner chunks, those at most `gap` bytes apart in one."""
    found: list[list[int]] = []
    for start, size in sorted(pairs):
        if found and start - found[-1][1] <= gap:
            found[-1][1] = max(found[-1][1], start + size)
        else:
            found.append([start, start + size])
    return [f"bytes={start}-{end - 1}" for start, end in found]


def cells_of(window: tuple[slice, slice], inner: tuple[int, int], across: int) -> list[int]:
    """The numbers, in C order, of the inner chunks of a 2-d shard that a window of it touches."""
    rows, columns = (
        range(part.start // step, -(-part.stop // step))
        for part, step in zip(window, inner, strict=True)
    )
    return [row * across + column for row in rows for column in columns]


def numbered(shape: tuple[int, ...], sign: int = 1) -> npt.NDArray[np.float32]:
    """Values of which every one tells its place, and the version that it belongs to."""
    return sign * np.arange(1, 1 + np.prod(shape), dtype="f4").reshape(shape)
