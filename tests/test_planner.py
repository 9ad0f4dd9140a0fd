"""Byte ranges as callers say them, converted in one place and after zarr's semantics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("zarr", minversion="3.0", reason="byte requests of zarr 3")

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from zfast._core.types import RangeKind
from zfast.planner import WHOLE, Span, bounds, bounds_within, coalesced, grouped, span

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
        *(SimpleNamespace(offset=5, **{more: 9}) for more in ("length", "size", "nbytes", "end")),
        *(SimpleNamespace(suffix=5, **{more: 9}) for more in ("offset", "stop", "count")),
        ("5", "9"),
        (5.0, 9),
    ],
)
def test_what_is_no_byte_range(said: Any) -> None:
    with pytest.raises(TypeError):
        span(said)


def test_a_range_within_another_does_not_end_it() -> None:
    """What comes next is as near to the end of the longer one as it was."""
    ranges = [RangeByteRequest(0, 100), RangeByteRequest(10, 20), RangeByteRequest(105, 110)]
    assert coalesced(ranges[:2], 10, 1000) == [((0, 100), [0, 1])]
    assert coalesced(ranges, 10, 1000) == [((0, 110), [0, 1, 2])]
    assert coalesced(ranges, 4, 1000) == [((0, 100), [0, 1]), (ranges[2], [2])]


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


spans = st.builds(span, requests)


def cost(wanted: Span, size: int) -> int:
    """Bytes until the end of a range, which come where it is ignored, though it may begin after."""
    return bounds(wanted, size)[1]


@given(wanted=st.lists(spans, min_size=1), size=st.integers(0, 50))
def test_what_covers_ranges_holds_each_and_costs_no_more(wanted: list[Span], size: int) -> None:
    body = bytes(range(size))
    reads = {at: ("key", one) for at, one in enumerate(wanted)}
    groups = grouped(reads, lambda _: True)
    assert sorted(at for _, members in groups for at in members) == list(reads)
    for asked, members in groups:
        first, past = bounds(asked, size)
        came = body[first:past]
        for one in (wanted[at] for at in members):
            start, end = bounds_within(asked, one, len(came))
            begin, stop = bounds(one, size)
            assert came[start:end] == body[begin:stop]
        assert cost(asked, size) <= sum(cost(wanted[at], size) for at in members)


def test_only_what_is_ignored_is_grouped() -> None:
    reads = {0: ("a", (BOUNDED, 0, 5)), 1: ("b", (BOUNDED, 0, 5)), 2: ("a", (BOUNDED, 8, 9))}
    assert grouped(reads, lambda of: of == "a") == [
        ((BOUNDED, 0, 5), [1]),
        ((BOUNDED, 0, 9), [0, 2]),
    ]


def test_what_is_far_apart_is_not_held_as_one() -> None:
    mib = 1 << 20
    last = (OFFSET, 9 * mib, 0)
    wanted = [last, (BOUNDED, 0, 5), (BOUNDED, mib, mib + 5), (BOUNDED, 3 * mib, 3 * mib + 4)]
    reads = {at: ("a", one) for at, one in enumerate(wanted)}
    assert grouped(reads, lambda _: True) == [
        ((BOUNDED, 0, mib + 5), [1, 2]),
        (wanted[3], [3]),
        (wanted[0], [0]),
    ]
