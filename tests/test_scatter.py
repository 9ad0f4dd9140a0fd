"""Scatter, fill, cursor and cells, against numpy's own indexing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import cycle, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfast._core.scatter import Box

# Runs and single elements, of sizes with and without a kernel of their own.
ITEM_SIZES = (1, 2, 3, 4, 8, 12, 16, 24, 64, 100)
SWAPS = ((2, 2), (4, 4), (8, 8), (8, 4), (16, 8), (16, 16), (12, 4), (6, 2), (6, 3), (80, 4))


@dataclass(frozen=True)
class Axis:
    """One dimension of a chunk, and of the output."""

    size: int
    positions: list[int]
    listed: bool
    out_size: int
    places: list[int]
    placed: bool


@dataclass(frozen=True)
class Case:
    """A selection of a chunk; `order[k]` is the chunk's dimension that is the output's k-th."""

    axes: tuple[Axis, ...]
    order: tuple[int, ...]
    item_size: int
    swap: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def is_box(self) -> bool:
        return not any(len(a.positions) > 1 and (a.listed or a.placed) for a in self.axes)

    def chunk(self) -> np.ndarray:
        count = math.prod(self.shape) * self.item_size
        octets = np.random.default_rng(count).integers(0, 256, count, "u1")
        return octets.reshape(*self.shape, self.item_size)

    def out(self) -> np.ndarray:
        shape = [self.axes[dimension].out_size for dimension in self.order]
        return np.full((*shape, self.item_size), 0xEE, "u1")

    def strides(self) -> list[int]:
        out_strides = self.out().strides
        return [out_strides[self.order.index(k)] for k in range(len(self.axes))]

    def selected(self, chunk: np.ndarray) -> np.ndarray:
        taken = chunk[np.ix_(*(axis.positions for axis in self.axes))]
        if self.swap:
            units = taken.reshape(*taken.shape[:-1], -1, self.swap)
            taken = units[..., ::-1].reshape(taken.shape)
        return taken

    def put(self, out: np.ndarray, values: np.ndarray) -> None:
        """What scatter does, as numpy does it."""
        view = out.transpose(*(self.order.index(k) for k in range(len(self.axes))), -1)
        view[np.ix_(*(axis.places for axis in self.axes))] = values

    def box(self, out: np.ndarray) -> Box:
        base = 0
        extents: list[Any] = []
        for axis, stride in zip(self.axes, self.strides(), strict=True):
            start: Any = list(axis.positions) if axis.listed else axis.positions[0]
            step = 1
            if len(axis.positions) > 1 and not axis.listed:
                step = axis.positions[1] - axis.positions[0]
            if axis.placed:
                moved: Any = [place * stride for place in axis.places]
            else:
                base += axis.places[0] * stride
                moved = 0
                if len(axis.places) > 1:
                    moved = (axis.places[1] - axis.places[0]) * stride
            extents.append((start, step, len(axis.positions), moved))
        return Box(out.reshape(-1), base, self.shape, self.item_size, self.swap, extents)

    def expected(self) -> np.ndarray:
        out = self.out()
        self.put(out, self.selected(self.chunk()))
        return out


@st.composite
def axes(draw: st.DrawFn, lists: bool, largest: int) -> Axis:
    whole = draw(st.booleans())
    size = draw(st.integers(1, largest))
    if whole:
        return Axis(size, list(range(size)), False, size, list(range(size)), False)
    listed = lists and draw(st.booleans())
    if listed:
        positions = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=largest))
    else:
        start = draw(st.integers(0, size - 1))
        step = draw(st.integers(1, 3))
        last = draw(st.integers(start, size - 1))
        positions = list(range(start, last + 1, step))
    count = len(positions)
    placed = lists and draw(st.booleans())
    margin = draw(st.integers(0, 2))
    if placed:
        out_size = count + margin
        places = draw(st.permutations(range(out_size)))[:count]
    else:
        step = draw(st.integers(1, 2))
        out_size = count * step + margin
        places = list(range(margin, out_size, step))[:count]
        if draw(st.booleans()):
            places.reverse()
    return Axis(size, positions, listed, out_size, list(places), placed)


@st.composite
def cases(draw: st.DrawFn, lists: bool = True, swaps: bool = True) -> Case:
    ndim = draw(st.integers(0, 5))
    largest = (1, 80, 20, 8, 5, 4)[ndim]
    chosen = tuple(draw(axes(lists, largest)) for _ in range(ndim))
    order = tuple(range(ndim))
    if draw(st.booleans()):
        order = tuple(draw(st.permutations(order)))
    if swaps and draw(st.booleans()):
        return Case(chosen, order, *draw(st.sampled_from(SWAPS)))
    return Case(chosen, order, draw(st.sampled_from(ITEM_SIZES)))


@given(cases())
def test_scatter(case: Case) -> None:
    out = case.out()
    case.box(out).scatter(case.chunk().reshape(-1))
    np.testing.assert_array_equal(out, case.expected())


@pytest.mark.parametrize("size", [511, 512, 513, 575, 1000, 4096])
@pytest.mark.parametrize("base", [0, 1, 17, 63])
@pytest.mark.parametrize("listed", [False, True])
def test_rows_that_go_past_the_caches(size: int, base: int, listed: bool) -> None:
    # At any alignment, with neighbours that stay as they are.
    count, stride = 5, size + 7
    chunk = np.random.default_rng(size).integers(0, 256, (count, size), "u1")
    out = np.full((count, stride), 0xEE, "u1")
    held = np.zeros(out.size + 128, "u1")
    start = -held.ctypes.data % 64 + base
    memory = held[start : start + out.size]
    memory[:] = 0xEE
    rows = ([*range(count)], [row * stride for row in range(count)]) if listed else (0, stride)
    extents = [(rows[0], 1, count, rows[1]), (0, 1, size, 1)]
    Box(memory, 0, [count, size], 1, 0, extents).scatter(chunk.reshape(-1))
    out[:, :size] = chunk
    np.testing.assert_array_equal(memory, out.reshape(-1))
    assert not held[:start].any()
    assert not held[start + out.size :].any()


def whole(*shape: int, order: tuple[int, ...], item_size: int, swap: int = 0) -> Case:
    chosen = tuple(Axis(n, list(range(n)), False, n, list(range(n)), False) for n in shape)
    return Case(chosen, order, item_size, swap)


@pytest.mark.parametrize("size", [*((size, 0) for size in ITEM_SIZES), *SWAPS])
@pytest.mark.parametrize("shape", [(150, 131), (64, 64), (1, 200), (3, 70, 90), (70, 3, 90)])
def test_transposed(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    # Larger than a tile, and not a multiple of one.
    reverse = tuple(reversed(range(len(shape))))
    for order in (reverse, (1, 0, *range(2, len(shape)))):
        case = whole(*shape, order=order, item_size=size[0], swap=size[1])
        out = case.out()
        case.box(out).scatter(case.chunk().reshape(-1))
        np.testing.assert_array_equal(out, case.expected())


@pytest.mark.parametrize("size", SWAPS)
def test_swapped_runs(size: tuple[int, int]) -> None:
    case = whole(7, 333, order=(0, 1), item_size=size[0], swap=size[1])
    out = case.out()
    case.box(out).scatter(case.chunk().reshape(-1))
    np.testing.assert_array_equal(out, case.expected())


def test_swap_is_numpys_byteswap() -> None:
    for dtype in ("i2", "f4", "f8", "c8", "c16", "U5"):
        plain = np.dtype(dtype)
        unit = {"c": plain.itemsize // 2, "U": 4}.get(plain.kind, plain.itemsize)
        chunk = np.arange(60).astype(plain)
        out = np.zeros(60, plain)
        box = Box(out.view("u1"), 0, [60], plain.itemsize, unit, [(0, 1, 60, plain.itemsize)])
        box.scatter(chunk.byteswap().view("u1"))
        np.testing.assert_array_equal(out, chunk)


# -------------------------------------------------------------------------------------------- fills


@given(cases(swaps=False), st.booleans())
def test_fill(case: Case, uniform: bool) -> None:
    value = np.full(case.item_size, 7, "u1") if uniform else np.arange(1, case.item_size + 1)
    value = value.astype("u1")
    out, expected = case.out(), case.out()
    case.box(out).fill(value)
    case.put(expected, np.broadcast_to(value, (*(len(a.places) for a in case.axes), len(value))))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("item_size", [1, 4, 7, 16, 2000, 2048, 2049, 5000])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("margin", [0, 1])
def test_fill_of_long_runs(item_size: int, rows: int, margin: int) -> None:
    # Around the size of the pattern that fills copy from, and beyond.
    count = max(2, 13_000 // item_size)
    value = (np.arange(item_size) % 251).astype("u1")
    out = np.full((rows, count + margin, item_size), 0xEE, "u1")
    extents = [(0, 1, rows, out.strides[0]), (0, 1, count, item_size)]
    Box(out.reshape(-1), 0, [rows, count], item_size, 0, extents).fill(value)
    assert (out[:, :count] == value).all()
    assert (out[:, count:] == 0xEE).all()


# ------------------------------------------------------------------------------------------ targets


@given(cases())
def test_target(case: Case) -> None:
    out = case.out()
    target = case.box(out).target()
    offsets = np.arange(out.size).reshape(out.shape)
    view = offsets.transpose(*(case.order.index(k) for k in range(len(case.axes))), -1)
    placed = view[np.ix_(*(axis.places for axis in case.axes))].reshape(-1)
    is_whole = all(axis.positions == list(range(axis.size)) for axis in case.axes)
    direct = is_whole and not case.swap and bool((np.diff(placed) == 1).all())
    if direct and case.is_box:
        assert target == placed[0]
    elif target is not None:
        assert direct
        assert target == placed[0]


def test_target_of_a_part() -> None:
    out = np.zeros(100, "u1")
    assert Box(out, 12, [5, 4], 4, 0, [(0, 1, 5, 16), (0, 1, 4, 4)]).target() == 12
    assert Box(out, 12, [], 4, 0, []).target() == 12
    assert Box(out, 12, [5, 4], 4, 4, [(0, 1, 5, 16), (0, 1, 4, 4)]).target() is None
    assert Box(out, 12, [5, 4], 4, 0, [(0, 1, 4, 16), (0, 1, 4, 4)]).target() is None
    assert Box(out, 12, [5, 4], 4, 0, [(1, 1, 4, 16), (0, 1, 4, 4)]).target() is None


# ------------------------------------------------------------------------------------------ cursors


@st.composite
def pieces(draw: st.DrawFn, size: int) -> list[tuple[int, int]]:
    cuts = draw(st.lists(st.integers(0, size), max_size=8))
    return list(pairwise([0, *sorted(cuts), size]))


def partly(case: Case, parts: list[tuple[int, int]]) -> np.ndarray:
    """The output after these bytes of the chunk have been written."""
    chunk = case.chunk()
    written = np.zeros(chunk.size, bool)
    for start, end in parts:
        written[start:end] = True
    out, old = case.expected(), case.out()
    known = np.zeros(out.shape, bool)
    case.put(known, case.selected(written.reshape(chunk.shape)))
    return np.where(known, out, old)


@settings(max_examples=300)
@given(st.data(), cases(), st.booleans())
def test_cursor(data: st.DataObject, case: Case, seeks: bool) -> None:
    chunk = case.chunk().reshape(-1)
    parts = data.draw(pieces(chunk.size))
    if seeks:
        parts = data.draw(st.permutations(parts))[: data.draw(st.integers(0, len(parts)))]
    out = case.out()
    if case.box(out).write(chunk, list(parts)):
        assert case.is_box
        assert not case.swap
        np.testing.assert_array_equal(out, partly(case, list(parts)))
    else:
        assert case.swap or not case.is_box or case.item_size < 64
        assert (out == 0xEE).all()


@st.composite
def rows(draw: st.DrawFn) -> Case:
    """Boxes with rows of 64 bytes and more."""
    outer = tuple(draw(axes(False, 5)) for _ in range(draw(st.integers(0, 3))))
    size = draw(st.integers(16, 40))
    start = draw(st.integers(0, size - 16))
    count = draw(st.integers(16, size - start))
    margin = draw(st.integers(0, 2))
    places = list(range(margin, count + margin))
    inner = Axis(size, list(range(start, start + count)), False, count + margin, places, False)
    order = draw(st.permutations(range(len(outer))))
    return Case((*outer, inner), (*order, len(outer)), 4)


@settings(max_examples=300)
@given(st.data(), rows())
def test_cursor_over_rows(data: st.DataObject, case: Case) -> None:
    chunk = case.chunk().reshape(-1)
    before = data.draw(st.permutations(data.draw(pieces(chunk.size))))[:3]
    parts = [*before, *data.draw(pieces(chunk.size))]
    out = case.out()
    assert case.box(out).write(chunk, parts)
    np.testing.assert_array_equal(out, case.expected())


@given(st.data(), rows())
def test_cursor_writes_what_it_was_given_and_no_more(data: st.DataObject, case: Case) -> None:
    chunk = case.chunk().reshape(-1)
    parts = data.draw(st.permutations(data.draw(pieces(chunk.size))))[:3]
    out = case.out()
    assert case.box(out).write(chunk, list(parts))
    np.testing.assert_array_equal(out, partly(case, list(parts)))


@pytest.mark.parametrize("size", [1, 63, 64, 512, 1000, 4096, 65536])
def test_cursor_in_even_pieces(size: int) -> None:
    case = whole(128, 128, order=(0, 1), item_size=4)
    part = replace(case, axes=(case.axes[0], replace(case.axes[1], out_size=200)))
    chunk = part.chunk().reshape(-1)
    parts = [(at, min(at + size, chunk.size)) for at in range(0, chunk.size, size)]
    out = part.out()
    assert part.box(out).write(chunk, parts)
    np.testing.assert_array_equal(out, part.expected())


def test_short_rows_are_not_for_a_cursor() -> None:
    out = np.zeros(1000, "u1")
    chunk = np.zeros(2 * 20 * 4, "u1")
    for count, taken in ((15, False), (16, True)):
        extents = [(0, 1, 2, 100), (0, 1, count, 4)]
        assert Box(out, 0, [2, 20], 4, 0, extents).write(chunk, [(0, 160)]) is taken


@given(
    rows(),
    st.lists(st.integers(1, 500), min_size=1, max_size=5),
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
def test_vectors(case: Case, sizes: list[int], limits: list[int]) -> None:
    # The chunk is received to where the vectors say, and skipped where they say nothing.
    chunk = case.chunk()
    wanted = np.zeros(chunk.shape, bool)
    wanted[np.ix_(*(axis.positions for axis in case.axes))] = True
    wanted, chunk = wanted.reshape(-1), chunk.reshape(-1)
    out = case.out()
    flat, box = out.reshape(-1), case.box(out)
    at = 0
    for size, limit in zip(cycle(sizes), cycle(limits), strict=False):
        if at == chunk.size:
            break
        vectors = box.vectors(at, size, limit)
        assert vectors is not None
        assert bool(vectors) == wanted[at]
        assert len(vectors) <= limit
        assert sum(length for _, length in vectors) <= size
        for offset, length in vectors:
            flat[offset : offset + length] = chunk[at : at + length]
            at += length
        at += not vectors
    np.testing.assert_array_equal(out, case.expected())


# -------------------------------------------------------------------------------------------- cells


@given(st.data(), cases(lists=False))
def test_cells_make_up_the_whole(data: st.DataObject, case: Case) -> None:
    cell_shape = [data.draw(st.integers(1, axis.size)) for axis in case.axes]
    grid = [math.ceil(a.size / size) for a, size in zip(case.axes, cell_shape, strict=True)]
    padding = [
        (0, count * size - axis.size)
        for axis, size, count in zip(case.axes, cell_shape, grid, strict=True)
    ]
    chunk = np.pad(case.chunk(), [*padding, (0, 0)])
    out = case.out()
    whole_box = case.box(out)
    for cell in product(*map(range, grid)):
        slices = [slice(k * size, (k + 1) * size) for k, size in zip(cell, cell_shape, strict=True)]
        part = whole_box.within(cell_shape, cell)
        touched = all(
            any(s.start <= position < s.stop for position in axis.positions)
            for axis, s in zip(case.axes, slices, strict=True)
        )
        assert (part is not None) == touched
        if part is not None:
            box = Box(out.reshape(-1), part[0], cell_shape, case.item_size, case.swap, part[1])
            box.scatter(np.ascontiguousarray(chunk[tuple(slices)]).reshape(-1))
    np.testing.assert_array_equal(out, case.expected())


# --------------------------------------------------------------------------------------------- face


@pytest.mark.parametrize(
    ("base", "extent"),
    [
        (0, (0, 1, 11, 1)),
        (0, (4, 3, 3, 1)),
        (0, (-1, 1, 3, 1)),
        (0, (0, 1, 0, 1)),
        (0, (0, 0, 2, 1)),
        (0, ([0, 10], 1, 2, 1)),
        (0, (0, 1, 2, [0, 20])),
        (11, (0, 1, 10, 1)),
        (8, (0, 1, 10, -1)),
        (-1, (0, 1, 1, 1)),
    ],
)
def test_nothing_out_of_bounds(base: int, extent: Any) -> None:
    with pytest.raises(IndexError):
        Box(np.zeros(20, "u1"), base, [10], 1, 0, [extent])


def test_only_whole_chunks_and_pieces_within() -> None:
    box = Box(np.zeros(100, "u1"), 0, [100], 1, 0, [(0, 1, 100, 1)])
    chunk = np.zeros(100, "u1")
    with pytest.raises(IndexError):
        box.scatter(chunk[:99])
    with pytest.raises(IndexError):
        box.fill(chunk[:2])
    with pytest.raises(IndexError):
        box.write(chunk, [(5, 101)])
    with pytest.raises(ValueError):
        Box(np.zeros(20, "u1"), 0, [1], 1, 0, [])
