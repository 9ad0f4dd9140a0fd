"""Coalescing: every byte wanted is in one run, in as few and as even runs as the limits allow."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zfast._core.coalesce import runs_of

MIB = 1 << 20

Range = tuple[int, int]
"""Start and size."""


def sizes(ranges: list[Range], max_gap: int, max_size: int) -> list[int]:
    return [end - start for start, end, _ in runs_of(ranges, max_gap, max_size)]


@pytest.mark.parametrize(
    ("ranges", "max_gap", "expected"),
    [
        ([], 0, []),
        ([(5, 10)], 0, [(5, 15, [0])]),
        ([(10, 10), (0, 10)], 0, [(0, 20, [1, 0])]),
        ([(0, 10), (11, 10)], 0, [(0, 10, [0]), (11, 21, [1])]),
        ([(0, 10), (15, 10)], 4, [(0, 10, [0]), (15, 25, [1])]),
        ([(0, 10), (15, 10)], 5, [(0, 25, [0, 1])]),
        ([(0, 10), (0, 10), (3, 2)], 0, [(0, 10, [0, 1, 2])]),
        # The gap counts from the farthest byte, not from the last range.
        ([(0, 20), (1, 1), (21, 5)], 1, [(0, 26, [0, 1, 2])]),
        ([(2**64 - 11, 10), (2**64 - 21, 10)], 0, [(2**64 - 21, 2**64 - 1, [1, 0])]),
        ([(0, 10), (2**64 - 11, 10)], 2**64 - 1, [(0, 10, [0]), (2**64 - 11, 2**64 - 1, [1])]),
    ],
)
def test_neighbours(
    ranges: list[Range], max_gap: int, expected: list[tuple[int, int, list[int]]]
) -> None:
    assert runs_of(ranges, max_gap, 1000) == expected


def test_a_gap_is_not_read_when_nobody_wants_what_follows() -> None:
    assert runs_of([(0, 10), (20, 10)], 100, 29) == [(0, 10, [0]), (20, 30, [1])]


@pytest.mark.parametrize(
    ("count", "each", "expected"),
    [(16, MIB, [16]), (17, MIB, [9, 8]), (33, MIB, [11, 11, 11]), (4, 5 * MIB, [10, 10])],
)
def test_runs_are_even(count: int, each: int, expected: list[int]) -> None:
    ranges = [(number * each, each) for number in range(count)]
    assert sizes(ranges, 0, 16 * MIB) == [run * MIB for run in expected]


def test_a_larger_one_stays_alone() -> None:
    ranges = [(0, 10), (10, 50), (60, 10), (70, 10)]
    assert runs_of(ranges, 0, 30) == [(0, 10, [0]), (10, 60, [1]), (60, 80, [2, 3])]


def test_a_larger_one_does_not_unbalance_its_neighbours() -> None:
    ranges = [*((at, 1) for at in range(5)), (5, 10), *((at, 1) for at in range(15, 19))]
    assert sizes(ranges, 0, 4) == [3, 2, 10, 4]


def test_a_larger_one_is_asked_for_once() -> None:
    ranges = [(10, 50), (10, 50), (20, 5), (60, 5)]
    assert runs_of(ranges, 0, 30) == [(10, 60, [0, 1, 2]), (60, 65, [3])]


def test_nothing_larger_than_nothing() -> None:
    assert runs_of([(0, 1), (1, 1)], 0, 0) == [(0, 1, [0]), (1, 2, [1])]


def stretches(ranges: list[Range], max_gap: int, max_size: int) -> list[list[Range]]:
    """Disjoint ranges in the groups that may share a run as far as gaps are concerned."""
    groups: list[list[Range]] = []
    alone = True
    for start, size in sorted(ranges):
        large = size > max_size
        if alone or large or start - sum(groups[-1][-1]) > max_gap:
            groups.append([])
        groups[-1].append((start, size))
        alone = large
    return groups


def best_cut(stretch: list[Range], max_size: int) -> tuple[int, int]:
    """Fewest runs of a stretch, then bytes of the largest one: of every possible cut the best."""
    best = []
    for cuts in range(len(stretch)):
        for places in combinations(range(1, len(stretch)), cuts):
            parts = [stretch[a:b] for a, b in pairwise([0, *places, len(stretch)])]
            largest = max(sum(part[-1]) - part[0][0] for part in parts)
            if largest <= max_size or len(stretch) == 1:
                best.append((len(parts), largest))
        if best:
            break
    return min(best)


@st.composite
def disjoint(draw: st.DrawFn) -> list[Range]:
    ranges = []
    at = 0
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 12)), max_size=9)):
        ranges.append((at + gap, size))
        at += gap + size
    return draw(st.permutations(ranges))


def check(ranges: list[Range], runs: list[tuple[int, int, list[int]]], max_size: int) -> None:
    assert sorted(inner for *_, inners in runs for inner in inners) == list(range(len(ranges)))
    assert runs == sorted(runs)
    for start, end, inners in runs:
        starts = [ranges[inner][0] for inner in inners]
        assert starts == sorted(starts)
        assert (start, end) == (starts[0], max(sum(ranges[inner]) for inner in inners))
        assert end - start <= max_size or (start, end) == (start, sum(ranges[inners[0]]))


@given(disjoint(), st.integers(0, 5), st.integers(1, 40))
@example([(0, 1), (1, 9), (10, 1), (11, 1)], 0, 10)
def test_as_few_and_as_even_as_can_be(ranges: list[Range], max_gap: int, max_size: int) -> None:
    runs = runs_of(ranges, max_gap, max_size)
    check(ranges, runs, max_size)
    for stretch in stretches(ranges, max_gap, max_size):
        ours = [e - s for s, e, _ in runs if stretch[0][0] <= s <= stretch[-1][0]]
        assert (len(ours), max(ours)) == best_cut(stretch, max_size)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30),
    st.integers(0, 10),
    st.integers(0, 50),
)
def test_ranges_may_overlap(ranges: list[Range], max_gap: int, max_size: int) -> None:
    runs = runs_of(ranges, max_gap, max_size)
    check(ranges, runs, max_size)
    wanted = {byte for start, size in ranges for byte in range(start, start + size)}
    for start, end, _ in runs:
        missed = 0
        for byte in range(start, end):
            missed = 0 if byte in wanted else missed + 1
            assert missed <= max_gap
