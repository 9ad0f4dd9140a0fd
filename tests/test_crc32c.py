"""CRC32C, by instruction and by table, against RFC 3720 and the library that zarr's codec calls."""

from __future__ import annotations

import platform
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zfast._core.crc32c import checksum, implementation

# One round of the instruction takes three stripes of this size at once.
STRIPE = 1024
CPUINFO = Path("/proc/cpuinfo")

# RFC 3720, appendix B.4; the check value of the polynomial; nothing at all.
READ_10 = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400"
    "00000014 00000018 28000000 00000000 02000000 00000000"
)
VECTORS = {
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    bytes(reversed(range(32))): 0x113FDB5C,
    READ_10: 0xD9963A56,
    b"123456789": 0xE3069283,
    b"": 0,
}

both_ways = pytest.mark.parametrize("by_table", [False, True], ids=[implementation(), "table"])


@both_ways
@pytest.mark.parametrize(("data", "expected"), VECTORS.items())
def test_rfc_3720(data: bytes, expected: int, by_table: bool) -> None:
    assert checksum(data, by_table=by_table) == expected


@both_ways
def test_sizes_around_every_seam(by_table: bool) -> None:
    data = np.random.default_rng(3720).bytes(7 * STRIPE)
    seams = [0, 8, 16, *(rounds * 3 * STRIPE for rounds in (1, 2))]
    for size in {seam + near for seam in seams for near in range(-9, 10) if seam + near >= 0}:
        assert checksum(data[:size], by_table=by_table) == google_crc32c.value(data[:size]), size


@both_ways
def test_any_address(by_table: bool) -> None:
    data = memoryview(np.random.default_rng(8).bytes(4 * STRIPE))
    for start in range(16):
        expected = google_crc32c.value(bytes(data[start:]))
        assert checksum(data[start:], by_table=by_table) == expected, start


@both_ways
@given(
    piece=st.binary(min_size=1, max_size=64),
    size=st.integers(0, 20 * STRIPE),
    at=st.integers(0, 20 * STRIPE),
    bit=st.integers(0, 7),
)
@example(piece=b"\x00", size=3 * STRIPE, at=STRIPE, bit=7)
def test_any_bytes(piece: bytes, size: int, at: int, bit: int, by_table: bool) -> None:
    data = bytearray((piece * (size // len(piece) + 1))[:size])
    before = checksum(data, by_table=by_table)
    assert before == google_crc32c.value(bytes(data))
    if at < size:
        data[at] ^= 1 << bit
        assert checksum(data, by_table=by_table) != before


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(),
    reason="only there a test can know beforehand",
)
def test_the_instruction_is_used() -> None:
    """Else both ways above are the table's."""
    assert implementation() == ("sse4.2" if "sse4_2" in CPUINFO.read_text() else "table")
