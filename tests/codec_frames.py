"""Stored bytes of every codec: made by numcodecs where that has the encoder, else by hand."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numcodecs
import numpy as np

Encode = Callable[[bytes], bytes]


def _crc32c_of(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC32C = [_crc32c_of(octet) for octet in range(256)]


def crc32c(data: bytes) -> int:
    """CRC-32C by the polynomial of RFC 3720 (appendix B.4)."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


def with_crc32c(data: bytes) -> bytes:
    return data + struct.pack("<I", crc32c(data))


def by_numcodecs(codec: Any, dtype: str = "u1") -> Encode:
    def encode(data: bytes) -> bytes:
        return bytes(codec.encode(np.frombuffer(data, dtype)))

    return encode


def zstd_frame(
    data: bytes, *, declared: int | None = None, checksum: int | None = None, window: int = 0
) -> bytes:
    """A frame of uncompressed blocks (RFC 8878, 3.1.1), with a content size only where declared."""
    # Flags: an 8-byte content size, a checksum. `window` is the exponent above 1 KiB.
    descriptor = (0xC0 if declared is not None else 0) | (4 if checksum is not None else 0)
    frame = struct.pack("<IBB", 0xFD2FB528, descriptor, window << 3)
    if declared is not None:
        frame += struct.pack("<Q", declared)
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)] or [b""]
    for piece in pieces[:-1]:
        frame += struct.pack("<I", len(piece) << 3)[:3] + piece
    frame += struct.pack("<I", len(pieces[-1]) << 3 | 1)[:3] + pieces[-1]
    return frame if checksum is None else frame + struct.pack("<I", checksum)


def zstd_skippable(data: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A53, len(data)) + data


ENCODERS: dict[str, tuple[list[tuple[str, int]], Encode]] = {
    "zstd": ([("zstd", 0)], by_numcodecs(numcodecs.Zstd(3, checksum=True))),
    "zstd unchecked": ([("zstd", 0)], by_numcodecs(numcodecs.Zstd(3))),
    "zstd undeclared": ([("zstd", 0)], zstd_frame),
    **{
        f"blosc {name} {shuffle}": (
            [("blosc", 0)],
            by_numcodecs(numcodecs.Blosc(name, 5, shuffle, blocksize), "<u4"),
        )
        for name in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
        for shuffle, blocksize in ((0, 0), (1, 0), (2, 512))
    },
    "blosc copied": ([("blosc", 0)], by_numcodecs(numcodecs.Blosc("lz4", 0, 0))),
    "gzip": ([("gzip", 0)], lambda data: gzip.compress(data, mtime=0)),
    "zlib": ([("zlib", 0)], zlib.compress),
    "lz4": ([("lz4", 0)], by_numcodecs(numcodecs.LZ4())),
    "crc32c": ([("crc32c", 0)], with_crc32c),
    "shuffle": ([("shuffle", 4)], by_numcodecs(numcodecs.Shuffle(4))),
    "delta": ([("delta", 4)], by_numcodecs(numcodecs.Delta("<i4"), "<i4")),
}
"""By name: the steps that decode, and what encodes a multiple of four bytes for them."""

CHECKED = ("zstd", "gzip", "zlib", "crc32c")
"""What notices that any byte of the data is another one."""


def some_bytes(count: int, seed: int = 0) -> bytes:
    """`count` bytes (a multiple of 4) that compress well, but not to nothing."""
    steps = np.random.default_rng(seed).integers(-3, 9, count // 4)
    return np.cumsum(steps).astype("<i4").tobytes()
