"""Whatever the stored bytes are: a fault or a result of the right size, within all bounds.

Stored bytes and results lie right before a page that nobody may touch: one byte read or written
too far ends the process. (Decompressors are libraries that no sanitizer was built into.)
"""

from __future__ import annotations

import ctypes
import errno
import gzip
import mmap
import os
import struct
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from codec_frames import CHECKED, ENCODERS, by_numcodecs, some_bytes, with_crc32c, zstd_frame
from hypothesis import given
from hypothesis import strategies as st

from zfast._core.codecs import ChunkDecoder

SIZE = 400
PLAIN = some_bytes(SIZE)
STORED = {name: encode(PLAIN) for name, (_, encode) in ENCODERS.items()}
BEFORE = b"before what may be written" * 4
PAGE = mmap.PAGESIZE
ALLOWED = 64 << 10
LIBC = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Memory that ends where a page begins that cannot be read or written."""

    def __init__(self, size: int) -> None:
        room = -(-max(size, 1) // PAGE) * PAGE
        self._memory = mmap.mmap(-1, room + PAGE)
        anchor = ctypes.c_char.from_buffer(self._memory)
        address = ctypes.c_void_p(ctypes.addressof(anchor) + room)
        if LIBC.mprotect(address, ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.view = memoryview(self._memory)[room - size : room]

    def holding(self, data: bytes) -> memoryview:
        """`data` at the very end."""
        held = self.view[len(self.view) - len(data) :]
        held[:] = data
        return held


DECODER = ChunkDecoder()
SOURCE = Guarded(64 << 10)
TARGET = Guarded(64 << 10)


def attempt(steps: list[tuple[str, int]], stored: bytes, size: int = SIZE) -> bytes | None:
    """The result, or None for a fault that names the codec it is about."""
    source = SOURCE if len(stored) <= len(SOURCE.view) else Guarded(len(stored))
    target = TARGET if size + len(BEFORE) <= len(TARGET.view) else Guarded(size + len(BEFORE))
    before = target.holding(BEFORE + bytes(size))[: len(BEFORE)]
    into = target.view[len(target.view) - size :]
    about = decoded = None
    try:
        decoded = DECODER.decode(steps, source.holding(stored), size, into)
    except ValueError as fault:
        about = str(fault).split(":")[0]
    assert before == BEFORE
    if decoded is None:
        assert about in {name for name, _ in steps}
    else:
        assert len(decoded) == size
    return decoded


def test_a_guarded_page_is_guarded() -> None:
    # Or every test below would pass for nothing. Asked of the kernel, which does not crash.
    last = ctypes.addressof(ctypes.c_char.from_buffer(SOURCE.holding(b"!")))
    read, write = os.pipe()
    try:
        assert LIBC.write(write, ctypes.c_void_p(last), ctypes.c_size_t(1)) == 1
        assert LIBC.write(write, ctypes.c_void_p(last + 1), ctypes.c_size_t(1)) == -1
        assert ctypes.get_errno() == errno.EFAULT
    finally:
        os.close(read)
        os.close(write)


# ---------------------------------------------------------------------------------- cut, flipped


@pytest.mark.parametrize("name", ENCODERS)
def test_cut_anywhere_is_a_fault(name: str) -> None:
    steps, _ = ENCODERS[name]
    stored = STORED[name]
    assert attempt(steps, stored) == PLAIN
    for count in range(len(stored)):
        assert attempt(steps, stored[:count]) is None, f"cut after {count} bytes"


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("bits", [0xFF, 0x01, 0x80, 0x10])
def test_every_byte_flipped(name: str, bits: int) -> None:
    steps, _ = ENCODERS[name]
    stored = bytearray(STORED[name])
    for at in range(len(stored)):
        stored[at] ^= bits
        decoded = attempt(steps, bytes(stored))
        stored[at] ^= bits
        # The headers of gzip and zlib have bits that do not matter to the content.
        assert name not in CHECKED or decoded in (None, PLAIN), f"byte {at}"


@pytest.mark.parametrize("name", ENCODERS)
@given(data=st.data())
def test_mangled_anyhow(name: str, data: st.DataObject) -> None:
    steps, _ = ENCODERS[name]
    stored = bytearray(STORED[name])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(stored) - 1))
        past = at + data.draw(st.integers(0, 5))
        stored[at:past] = data.draw(st.binary(max_size=5))
        if not stored:
            break
    decoded = attempt(steps, bytes(stored), data.draw(st.sampled_from((SIZE, SIZE - 4, 4, 4096))))
    assert name not in CHECKED or decoded in (None, PLAIN)


@pytest.mark.parametrize("name", ["zstd", "blosc", "gzip", "zlib", "lz4"])
@given(stored=st.binary(max_size=200), size=st.sampled_from((0, 1, 100, 5000)))
def test_bytes_that_never_were_a_frame(name: str, stored: bytes, size: int) -> None:
    attempt([(name, 0)], stored, size)


# ------------------------------------------------------------------------------------- wrong sizes


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [0, 1, 4, SIZE - 4, SIZE - 1, SIZE + 1, SIZE + 4, 3 * SIZE])
def test_a_frame_of_another_size_than_the_chunk(name: str, size: int) -> None:
    steps, _ = ENCODERS[name]
    with pytest.raises(ValueError, match="another size"):
        DECODER.decode(steps, SOURCE.holding(STORED[name]), size)
    assert attempt(steps, STORED[name], size) is None


@pytest.mark.parametrize("declared", [0, 1, SIZE - 1, SIZE + 1, 2**31, 2**32, 2**63, 2**64 - 3])
def test_zstd_frames_that_declare_another_size(declared: int) -> None:
    frame = zstd_frame(PLAIN, declared=declared)
    assert attempt([("zstd", 0)], zstd_frame(PLAIN, declared=SIZE)) == PLAIN
    assert attempt([("zstd", 0)], frame) is None
    if declared < 4096:
        assert attempt([("zstd", 0)], frame, declared) is None


def test_a_zstd_checksum_is_checked() -> None:
    with pytest.raises(ValueError, match="zstd: the frame does not match its checksum"):
        DECODER.decode([("zstd", 0)], zstd_frame(PLAIN, checksum=0x12345678), SIZE)


@pytest.mark.parametrize("declared", [0, 1, SIZE - 1, SIZE + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_lz4_headers_that_declare_another_size(declared: int) -> None:
    stored = struct.pack("<I", declared) + STORED["lz4"][4:]
    assert attempt([("lz4", 0)], stored) is None
    if declared < 4096:
        assert attempt([("lz4", 0)], stored, declared) is None


@pytest.mark.parametrize("name", [name for name in ENCODERS if name.startswith("blosc")])
def test_blosc_headers_that_say_anything(name: str) -> None:
    # Versions, flags and element size; sizes of chunk, block and frame; where the first blocks
    # begin, and their sizes.
    for at, width in ((1, "B"), (2, "B"), (3, "B"), *((at, "<I") for at in range(4, 32, 4))):
        for value in (0, 1, 3, 127, 128, 255, SIZE - 1, SIZE + 1, 2**31, 2**32 - 1):
            stored = bytearray(STORED[name])
            struct.pack_into(width, stored, at, value & 0xFF if width == "B" else value)
            for size in (SIZE, value):
                if size < 4096:
                    attempt([("blosc", 0)], bytes(stored), size)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name.startswith("blosc")])
def test_nothing_follows_a_blosc_frame(name: str) -> None:
    with pytest.raises(ValueError, match="bytes after its end"):
        DECODER.decode([("blosc", 0)], STORED[name] + b".", SIZE)


def test_blosc_splits_that_leave_a_byte_over() -> None:
    # 400 bytes in 3 splits are 3 times 133.
    splits = (struct.pack("<I", 133) + PLAIN[:133]) * 3
    stored = struct.pack("<BBBBIIII", 2, 1, 0, 3, SIZE, SIZE, 20 + len(splits), 20) + splits
    assert attempt([("blosc", 0)], stored) is None


def test_a_match_that_blosclz_cannot_count() -> None:
    # 2**31 // 255 codes of 255, added up in an int.
    size = 16 << 20
    block = b"\0A\xe0" + b"\xff" * 8_421_506 + bytes(64)
    stored = struct.pack("<BBBBIII", 2, 1, 0x10, 1, size, size, 24 + len(block))
    stored += struct.pack("<II", 20, len(block)) + block
    assert attempt([("blosc", 0)], stored, size) is None


def test_ones_for_megabytes_are_decoded() -> None:
    # What the check against such matches must not be mistaken about.
    data = b"\xff" * (10 << 20) + some_bytes(9 << 20)
    for shuffle in (0, 1):
        for blocksize in (0, 16 << 20):
            for level in (0, 5):
                codec = numcodecs.Blosc("blosclz", level, shuffle, blocksize)
                frame = by_numcodecs(codec, "<u4")(data)
                assert ChunkDecoder().decode([("blosc", 0)], frame, len(data)) == data


# ------------------------------------------------------------------------------------------- bombs


BOMB = 30 << 20


def bomb(name: str) -> tuple[list[tuple[str, int]], bytes]:
    """Bytes that decode to `BOMB` zeros."""
    steps, encode = ENCODERS[name]
    if name == "zstd undeclared":
        # Blocks that repeat a byte for 128 KiB each, after a head that says nothing of a size.
        repeated, last = (struct.pack("<I", (128 << 10) << 3 | kind) for kind in (2, 3))
        count = BOMB // (128 << 10) - 1
        return steps, zstd_frame(b"")[:5] + b"\x70" + repeated * count + last
    return steps, encode(bytes(BOMB))


@pytest.mark.parametrize(
    "name", ["zstd", "zstd undeclared", "blosc lz4 1", "blosc zstd 1", "gzip", "zlib", "lz4"]
)
def test_bombs_are_faults_and_take_no_memory(name: str) -> None:
    steps, stored = bomb(name)
    zstd = by_numcodecs(numcodecs.Zstd(9))
    assert ChunkDecoder().decode(steps, stored, BOMB) == bytes(BOMB)
    size = 1000
    for chain, data in (
        (steps, stored),
        ([("crc32c", 0), *steps], with_crc32c(stored)),
        ([*steps, ("crc32c", 0)], stored),
        ([*steps, ("shuffle", 4)], stored),
        ([*steps, ("gzip", 0)], stored),
        ([("zstd", 0), *steps], zstd(stored)),
    ):
        decoder = ChunkDecoder()
        with pytest.raises(ValueError, match="decodes to another size than the chunk's"):
            decoder.decode(chain, data, size)
        assert max(decoder.scratch) <= size + size // 4 + ALLOWED


def test_what_is_between_compressors_is_bounded_only() -> None:
    # It may be longer than the chunk, as of bytes that do not compress, but not by much.
    noise = np.random.default_rng(3).integers(0, 256, 1 << 20, "u1").tobytes()
    stored = by_numcodecs(numcodecs.Zstd(1))(gzip.compress(noise))
    decoder = ChunkDecoder()
    assert decoder.decode([("zstd", 0), ("gzip", 0)], stored, len(noise)) == noise
    padded = by_numcodecs(numcodecs.Zstd(1))(gzip.compress(noise) + bytes(1 << 20))
    with pytest.raises(ValueError, match="zstd: decodes to another size"):
        decoder.decode([("zstd", 0), ("gzip", 0)], padded, len(noise))


def test_stored_bytes_larger_than_any_chunk_are_not_copied() -> None:
    decoder = ChunkDecoder()
    for steps in ([("shuffle", 4)], [("delta", 4), ("zstd", 0)], [("shuffle", 4), ("gzip", 0)]):
        with pytest.raises(ValueError, match="another size"):
            decoder.decode(steps, bytes(4 << 20), 1000)
    assert max(decoder.scratch) <= 1000 + 250 + ALLOWED


def test_sizes_beyond_all_memory() -> None:
    for steps in ([("zstd", 0)], [("zstd", 0), ("gzip", 0)], [("crc32c", 0)], []):
        for size in (2**63, 2**64 - 1):
            with pytest.raises(ValueError, match="the chunk is too large for this machine"):
                DECODER.decode(steps, STORED["zstd"], size)


def test_no_memory_is_a_fault() -> None:
    maps = Path("/proc/self/maps")
    if maps.exists() and "libasan" in maps.read_text():
        pytest.skip("asan ends a process that asks for so much")
    decoder = ChunkDecoder()
    with pytest.raises(ValueError, match="no memory to decode the chunk"):
        decoder.decode([("zstd", 0)], STORED["zstd"], 2**62)
    assert decoder.scratch == (0, 0)
    assert decoder.decode([("zstd", 0)], STORED["zstd"], SIZE) == PLAIN
