"""Byte ranges as callers say them, converted in one place and after zarr's semantics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from zfast._core.types import RangeKind
from zfast.planner import WHOLE, bounds, span

BOUNDED, OFFSET, SUFFIX, EMPTY = (
    RangeKind.BOUNDED,
    RangeKind.OFFSET,
    RangeKind.SUFFIX,
    RangeKind.EMPTY,
)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, (RangeKind.WHOLE, 0, 0)),
        ((None, None), WHOLE),
        ((0, None), WHOLE),
        (OffsetByteRequest(0), WHOLE),
        ((5, 9), (BOUNDED, 5, 9)),
        ((None, 9), (BOUNDED, 0, 9)),
        (RangeByteRequest(5, 9), (BOUNDED, 5, 9)),
        ((5, None), (OFFSET, 5, 0)),
        (OffsetByteRequest(5), (OFFSET, 5, 0)),
        ((-5, None), (SUFFIX, 5, 0)),
        (SuffixByteRequest(5), (SUFFIX, 5, 0)),
        ((5, 5), (EMPTY, 0, 0)),
        ((0, 0), (EMPTY, 0, 0)),
        ((None, 0), (EMPTY, 0, 0)),
        ((9, 5), (EMPTY, 0, 0)),
        (RangeByteRequest(5, 5), (EMPTY, 0, 0)),
        (SuffixByteRequest(0), (EMPTY, 0, 0)),
        ((2**62, 2**62 + 1), (BOUNDED, 2**62, 2**62 + 1)),
        # No object is as long: what is past its end is past any end.
        ((5, 2**63 - 1), (OFFSET, 5, 0)),
        ((0, 2**64), WHOLE),
        (RangeByteRequest(2**64, 2**65), (OFFSET, 2**63 - 1, 0)),
        (RangeByteRequest(2**64, 2**63), (EMPTY, 0, 0)),
        (OffsetByteRequest(2**63), (OFFSET, 2**63 - 1, 0)),
        (SuffixByteRequest(2**100), (SUFFIX, 2**63 - 1, 0)),
        ((-(2**70), None), (SUFFIX, 2**63 - 1, 0)),
        ((np.int64(5), np.uint8(9)), (BOUNDED, 5, 9)),
        (RangeByteRequest(np.int32(5), np.int64(9)), (BOUNDED, 5, 9)),
    ],
)
def test_span(said: Any, meant: tuple[int, int, int]) -> None:
    result = span(said)
    assert result == meant
    assert all(type(number) is int for number in result)


@pytest.mark.parametrize("said", [(-5, 9), (5, -1), (-5, -1), (-1, 0), RangeByteRequest(-1, 5)])
def test_a_negative_number_where_none_can_be(said: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        span(said)


@pytest.mark.parametrize("said", [OffsetByteRequest(-1), SuffixByteRequest(-1)])
def test_a_negative_offset_or_suffix(said: Any) -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        span(said)


@dataclass(frozen=True)
class Odd:
    first: int


@pytest.mark.parametrize(
    "said",
    [
        5,
        "5-9",
        b"bytes=5-9",
        (5,),
        (5, 9, 1),
        (),
        [5, 9],
        slice(5, 9),
        Odd(5),
        ("5", "9"),
        (5.0, 9),
    ],
)
def test_what_is_no_byte_range(said: Any) -> None:
    with pytest.raises(TypeError):
        span(said)


numbers = st.integers(0, 40)
requests = st.one_of(
    st.none(),
    st.builds(RangeByteRequest, numbers, numbers),
    st.builds(OffsetByteRequest, numbers),
    st.builds(SuffixByteRequest, numbers),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of zarr's own with an object of each size, under its size."""
    root = tmp_path_factory.mktemp("objects")
    for size in range(31):
        (root / str(size)).write_bytes(bytes(range(size)))
    return root


@settings(deadline=None)
@given(said=requests, size=st.integers(0, 30))
@example(said=SuffixByteRequest(31), size=30)
@example(said=SuffixByteRequest(0), size=30)
@example(said=RangeByteRequest(30, 31), size=30)
@example(said=OffsetByteRequest(31), size=30)
def test_bounds_are_those_of_zarrs_own_store(root: Path, said: Any, size: int) -> None:
    start, end = bounds(span(said), size)
    if isinstance(said, RangeByteRequest) and said.start > said.end:
        # A range that ends before it begins holds nothing; zarr's store reads to the end there.
        assert start == end
        return
    reading = LocalStore(root).get(str(size), default_buffer_prototype(), said)
    found = asyncio.run(reading)
    assert found is not None
    assert bytes(range(size))[start:end] == found.to_bytes()


@given(st.integers(-40, 40) | st.none(), st.integers(0, 40) | st.none(), st.integers(0, 30))
def test_bounds_are_those_of_a_slice(start: int | None, end: int | None, size: int) -> None:
    body = bytes(range(size))
    if start is not None and start < 0 and end is not None:
        return
    first, past = bounds(span((start, end)), size)
    assert 0 <= first <= size
    assert 0 <= past <= size
    assert body[first:past] == body[start:end]
