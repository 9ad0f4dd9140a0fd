"""Shard indexes: those that zarr writes are read right, and of any others each fault is found."""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zfast._core.shard_index import Index, index_size

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 writes the shards")

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

MISSING = 2**64 - 1
EMPTY = (MISSING, MISSING)

HALF = "only one of offset and size says that the inner chunk is empty"
PAST = "the inner chunk ends after the shard"
ON_INDEX = "the inner chunk overlaps the index"
ON_ANOTHER = "the inner chunk overlaps another"

Pair = tuple[int, int]


def encoded(pairs: list[Pair], checksum: bool, big_endian: bool = False) -> bytes:
    numbers = [number for pair in pairs for number in pair]
    data = struct.pack(f"{'>' if big_endian else '<'}{len(numbers)}Q", *numbers)
    return data + struct.pack("<I", google_crc32c.value(data)) if checksum else data


def index(pairs: list[Pair]) -> Index:
    return Index(encoded(pairs, False), len(pairs), checksum=False)


# ------------------------------------------------------------------------------- written by zarr


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("checksum", [True, False], ids=["crc32c", "no checksum"])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_shards_of_zarr(tmp_path: Path, location: Any, checksum: bool, endian: Any) -> None:
    values = np.arange(32 * 32, dtype="<u2").reshape(32, 32) + 1
    values[8:16, 4:16] = 0
    array = zarr.create_array(
        zarr.storage.LocalStore(tmp_path),
        shape=values.shape,
        chunks=(32, 32),
        dtype=values.dtype,
        fill_value=0,
        compressors=None,
        serializer=ShardingCodec(
            chunk_shape=(8, 4),
            codecs=[BytesCodec(endian="little")],
            index_codecs=[BytesCodec(endian=endian), *([Crc32cCodec()] if checksum else [])],
            index_location=location,
        ),
    )
    array[:] = values
    shard = (tmp_path / "c/0/0").read_bytes()
    size = index_size(32, checksum)
    start = 0 if location == "start" else len(shard) - size

    found = Index(shard[start : start + size], 32, checksum=checksum, big_endian=endian == "big")
    assert found.fault(len(shard), start, size) is None
    for pair, cell in zip(found.pairs, np.ndindex(4, 8), strict=True):
        row, column = cell[0] * 8, cell[1] * 4
        inner = values[row : row + 8, column : column + 4]
        if pair is None:
            assert not inner.any()
        else:
            assert shard[pair[0] : sum(pair)] == inner.tobytes()
    assert found.pairs.count(None) == 3


# ------------------------------------------------------------------------- any bytes, no crash

SMALL = [(64, 10), EMPTY, (74, 26), (100, 1)]
SHARD_SIZE = 101


def flips(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            yield data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


@pytest.mark.parametrize("big_endian", [False, True])
def test_a_flip_under_a_checksum_is_a_fault(big_endian: bool) -> None:
    data = encoded(SMALL, True, big_endian)
    assert Index(data, 4, big_endian=big_endian).pairs == [
        None if pair == EMPTY else pair for pair in SMALL
    ]
    for broken in flips(data):
        with pytest.raises(ValueError, match="checksum of the index does not match"):
            Index(broken, 4, big_endian=big_endian)


def test_a_flip_without_checksum_is_a_fault_or_stays_in_bounds() -> None:
    before = index(SMALL).pairs
    faults = 0
    for broken in flips(encoded(SMALL, False)):
        after = Index(broken, 4, checksum=False)
        if after.fault(SHARD_SIZE, 0, 64) is not None:
            faults += 1
            continue
        assert after.pairs != before
        held = sorted(pair for pair in after.pairs if pair is not None)
        assert all(64 <= offset <= offset + nbytes <= SHARD_SIZE for offset, nbytes in held)
        filled = [pair for pair in held if pair[1]]
        assert all(sum(one) <= other[0] for one, other in pairwise(filled))
    assert faults > 500


@pytest.mark.parametrize("checksum", [True, False])
def test_another_size_is_a_fault(checksum: bool) -> None:
    data = encoded(SMALL, checksum)
    for size in range(len(data)):
        with pytest.raises(ValueError, match="truncated"):
            Index(data[:size], 4, checksum=checksum)
    with pytest.raises(ValueError, match="longer"):
        Index(data + b"\0", 4, checksum=checksum)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("count", [2**60 - 1, 2**60, 2**63, 2**64 - 1])
def test_counts_that_no_memory_holds(count: int, checksum: bool) -> None:
    assert index_size(count, checksum) == min(16 * count + 4 * checksum, 2**64 - 1)
    with pytest.raises(ValueError, match="truncated"):
        Index(b"", count, checksum=checksum)


def test_no_inner_chunk_at_all() -> None:
    empty = Index(b"", 0, checksum=False)
    assert empty.pairs == []
    assert empty.fault(0) is None


@given(st.binary(max_size=100), st.integers(0, 6), st.booleans(), st.booleans())
@example(encoded([], True), 0, True, False)
def test_any_bytes(data: bytes, count: int, checksum: bool, big_endian: bool) -> None:
    try:
        found = Index(data, count, checksum=checksum, big_endian=big_endian)
    except ValueError:
        if len(data) == 16 * count + 4 * checksum:
            assert checksum
            assert google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little")
        return
    pairs = [EMPTY if pair is None else pair for pair in found.pairs]
    assert encoded(pairs, checksum, big_endian) == data
    found.fault(len(data), 0, len(data))


# ------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0, 50), (50, 34)], None),
        ([(50, 34), (0, 50)], None),
        ([EMPTY, EMPTY], None),
        ([(84, 0), (0, 0)], None),
        # No byte is shared with one that has none.
        ([(0, 50), (10, 0)], None),
        ([(0, 50), (MISSING, 3)], (HALF, 1)),
        ([(3, MISSING), EMPTY], (HALF, 0)),
        ([(0, 1), (101, 0)], (PAST, 1)),
        ([(0, 1), (100, 1)], (PAST, 1)),
        ([(0, 101)], (PAST, 0)),
        ([(0, MISSING - 1)], (PAST, 0)),
        # The sum is 0, and 5, where it is taken in 64 bits.
        ([(2, 2**64 - 2)], (PAST, 0)),
        ([(2**64 - 5, 10)], (PAST, 0)),
        ([(0, 50), (80, 5)], (ON_INDEX, 1)),
        ([(84, 1)], (ON_INDEX, 0)),
        ([(90, 2)], (ON_INDEX, 0)),
        ([(99, 1)], (ON_INDEX, 0)),
        ([(0, 100)], (ON_INDEX, 0)),
        ([(0, 50), (49, 10)], (ON_ANOTHER, 1)),
        ([(49, 10), (0, 50)], (ON_ANOTHER, 0)),
        ([(0, 50), (60, 4), (10, 20)], (ON_ANOTHER, 2)),
        ([(7, 5), (7, 5)], (ON_ANOTHER, 1)),
        ([(7, 5), (20, 0), (0, 84)], (ON_ANOTHER, 0)),
    ],
)
def test_faults(pairs: list[Pair], expected: tuple[str, int] | None) -> None:
    """In a shard of 100 bytes, the last 16 of them the index."""
    assert index(pairs).fault(100, 84, 16) == expected


def test_around_an_index_at_the_start() -> None:
    assert index([(16, 84)]).fault(100, 0, 16) is None
    assert index([(15, 1)]).fault(100, 0, 16) == (ON_INDEX, 0)
    assert index([(0, 1)]).fault(100, 0, 16) == (ON_INDEX, 0)


def test_around_an_index_of_no_bytes() -> None:
    assert index([(0, 100)]).fault(100, 50, 0) is None


def test_the_largest_shard() -> None:
    assert index([(0, 2**64 - 2)]).fault(2**64 - 1) is None
    assert index([(2**64 - 2, 1)]).fault(2**64 - 1) is None
    assert index([(2**64 - 2, 2)]).fault(2**64 - 1) == (PAST, 0)


def expected_fault(
    pairs: list[Pair], shard_size: int, start: int, size: int
) -> tuple[str | None, set[int]]:
    """The fault, and the inner chunks that it may be told of."""
    taken: dict[int, int] = {}
    overlapping: set[int] = set()
    for inner, (offset, nbytes) in enumerate(pairs):
        if (offset, nbytes) == EMPTY:
            continue
        if MISSING in (offset, nbytes):
            return HALF, {inner}
        if offset + nbytes > shard_size:
            return PAST, {inner}
        if set(range(offset, offset + nbytes)) & set(range(start, start + size)):
            return ON_INDEX, {inner}
    for inner, (offset, nbytes) in enumerate(pairs):
        for byte in range(offset, offset + nbytes) if offset != MISSING else ():
            other = taken.setdefault(byte, inner)
            if other != inner:
                overlapping |= {other, inner}
    return (ON_ANOTHER, overlapping) if overlapping else (None, set())


NUMBERS = st.one_of(st.integers(0, 40), st.sampled_from([MISSING, MISSING - 1, 2**63, 2**32]))
PAIRS = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(0, 4)),
    st.just(EMPTY),
    st.tuples(NUMBERS, NUMBERS),
)


@given(
    st.one_of(
        st.lists(PAIRS, max_size=8),
        st.permutations([(at, 3) for at in range(0, 30, 3)]),
    ),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 10),
)
def test_every_fault_is_found(pairs: list[Pair], shard_size: int, start: int, size: int) -> None:
    found = index(pairs).fault(shard_size, start, size)
    fault, where = expected_fault(pairs, shard_size, start, size)
    if fault is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == fault
        assert found[1] in where


def test_a_shared_index_lives_until_its_last_owner_goes() -> None:
    first = index(SMALL)
    second = first.share()
    third = second.share()
    assert third.owners == 3
    del first, second
    gc.collect()
    assert third.owners == 1
    assert third.pairs[0] == (64, 10)
