"""Selections as strides and lists, against numpy's indexing, and as zarr's indexers give them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("zarr", minversion="3.0", reason="indexers of zarr 3")

import zarr
from zarr.core.codec_pipeline import BatchedCodecPipeline

from zfast.selections import Points, place


def scatter(found: Any, chunk: np.ndarray, out: np.ndarray, axes: tuple[int, ...]) -> None:
    """Copy what was selected from the stored chunk, element by element, by bytes alone."""
    stored = chunk.transpose(axes).copy(order="C")
    flat = stored.ravel()
    # The output's elements by their byte offset from its first one.
    where = sum(
        np.arange(size).reshape(-1, *[1] * (out.ndim - 1 - axis)) * stride
        for axis, (size, stride) in enumerate(zip(out.shape, out.strides, strict=True))
    )
    cells = {
        int(offset): at
        for offset, at in zip(
            np.broadcast_to(where, out.shape).ravel(), np.ndindex(*out.shape), strict=True
        )
    }
    if isinstance(found, Points):
        assert found.positions.dtype == found.places.dtype == np.intp
        for position, offset in zip(found.positions, found.places, strict=True):
            out[cells[int(offset)]] = flat[position]
        return
    first, extents = found
    assert len(extents) == stored.ndim
    taken = []
    for extent in extents:
        if len(extent) == 4:
            start, step, count, stride = extent
            assert all(type(number) is int for number in extent)
            assert step >= 1
            assert count >= 1
            taken.append([(start + step * k, stride * k) for k in range(count)])
        else:
            positions, places = extent
            if isinstance(places, int):
                places = np.arange(len(positions)) * places
            taken.append(list(zip(positions, places, strict=True)))
    for combination in itertools.product(*taken):
        offset = first + sum(int(offset) for _, offset in combination)
        position = tuple(int(at) for at, _ in combination)
        out[cells[offset]] = stored[position]


def copied(
    chunk: np.ndarray,
    chunk_selection: Any,
    out: np.ndarray,
    out_selection: Any,
    drop_axes: tuple[int, ...] = (),
    axes: tuple[int, ...] | None = None,
) -> Any:
    """Check `place` against numpy; return what it said."""
    axes = tuple(range(chunk.ndim)) if axes is None else axes
    wanted = out.copy()
    taken = chunk[chunk_selection]
    wanted[out_selection] = taken.squeeze(axis=drop_axes) if drop_axes else taken
    shape = tuple(chunk.shape[axis] for axis in axes)
    found = place(chunk_selection, out_selection, drop_axes, shape, out.shape, out.strides, axes)
    assert found is not None
    scatter(found, chunk, out, axes)
    np.testing.assert_array_equal(out, wanted)
    return found


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, int(np.prod(shape)) + 1, dtype="i4").reshape(shape)


def laid_out(shape: tuple[int, ...], layout: str) -> np.ndarray:
    """An output of that shape: of zeros, and not always contiguous."""
    if layout == "reversed":
        return np.zeros(shape, "i4")[(..., *[slice(None, None, -1)] * len(shape))]
    if layout == "strided":
        return np.zeros([2 * size for size in shape], "i4")[
            (..., *[slice(None, None, 2)] * len(shape))
        ]
    return np.zeros(shape, "i4", order=layout)


layouts = st.sampled_from(["C", "F", "reversed", "strided"])
shapes = st.lists(st.integers(1, 6), min_size=0, max_size=4).map(tuple)


@st.composite
def basic_entries(draw: Any, size: int) -> Any:
    if draw(st.booleans()):
        return draw(st.integers(-size, size - 1).map(draw(st.sampled_from([int, np.int64]))))
    taken = slice(
        draw(st.none() | st.integers(-size - 1, size + 1)),
        draw(st.none() | st.integers(-size - 1, size + 1)),
        draw(st.none() | st.integers(-3, 3).filter(bool)),
    )
    return taken if len(range(*taken.indices(size))) else slice(None)


index_arrays = lambda size, length: st.lists(  # noqa: E731
    st.integers(-size, size - 1), min_size=length, max_size=length
).map(lambda indices: np.array(indices, "i8"))


@st.composite
def out_dimension(draw: Any, size: int) -> tuple[int, Any]:
    """A dimension of an output with room for `size` elements, and where these go."""
    whole = size + draw(st.integers(0, 3))
    if draw(st.booleans()):
        return whole, draw(st.permutations(range(whole)).map(lambda p: np.array(p[:size])))
    start = draw(st.integers(0, whole - size))
    return whole, slice(start, start + size)


@st.composite
def basic(draw: Any) -> Any:
    shape = draw(shapes)
    chosen = tuple(draw(basic_entries(size)) for size in shape)
    taken = numbered(shape)[chosen].shape
    start = [draw(st.integers(0, 2)) for _ in taken]
    out_shape = tuple(s + n + draw(st.integers(0, 2)) for s, n in zip(start, taken, strict=True))
    out_selection = tuple(slice(s, s + n) for s, n in zip(start, taken, strict=True))
    return shape, chosen, out_shape, out_selection


@given(
    case=basic(),
    layout=layouts,
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=300)
@example(case=((), (), (), ()), layout="C", order=None)
@example(case=((2, 3), (1, 2), (), ()), layout="C", order=None)
def test_slices_and_integers(case: Any, layout: str, order: Any) -> None:
    shape, chosen, out_shape, out_selection = case
    axes = list(range(len(shape)))
    if order is not None:
        order.shuffle(axes)
    out = laid_out(out_shape, layout)
    found = copied(numbered(shape), chosen, out, out_selection, axes=tuple(axes))
    assert not isinstance(found, Points)
    assert all(len(extent) == 4 for extent in found[1])


@st.composite
def orthogonal(draw: Any) -> Any:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    lengths = [draw(st.integers(1, 4)) for _ in shape]
    arrays = [draw(index_arrays(n, k)) for n, k in zip(shape, lengths, strict=True)]
    outs = [draw(out_dimension(k)) for k in lengths]
    drop = tuple(axis for axis, k in enumerate(lengths) if k == 1 and draw(st.booleans()))
    kept = [out for axis, out in enumerate(outs) if axis not in drop]
    out_selection = tuple(at for _, at in kept)
    if sum(isinstance(at, np.ndarray) for at in out_selection) > 1:
        ranges = [np.arange(n)[at] if isinstance(at, slice) else at for n, at in kept]
        out_selection = np.ix_(*ranges)
    return shape, np.ix_(*arrays), tuple(n for n, _ in kept), out_selection, drop


@given(case=orthogonal(), layout=layouts, order=st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_orthogonal_index_arrays(case: Any, layout: str, order: Any) -> None:
    shape, chosen, out_shape, out_selection, drop = case
    axes = list(range(len(shape)))
    order.shuffle(axes)
    out = laid_out(out_shape, layout)
    found = copied(numbered(shape), chosen, out, out_selection, drop, tuple(axes))
    assert not isinstance(found, Points)


@st.composite
def pointwise(draw: Any) -> Any:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    length = draw(st.integers(1, 6))
    arrays = tuple(draw(index_arrays(size, length)) for size in shape)
    whole, where = draw(out_dimension(length))
    return shape, arrays, (whole,), draw(st.sampled_from([where, (where,)]))


@given(case=pointwise(), layout=layouts, order=st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_points(case: Any, layout: str, order: Any) -> None:
    shape, chosen, out_shape, out_selection = case
    axes = list(range(len(shape)))
    order.shuffle(axes)
    found = copied(
        numbered(shape), chosen, laid_out(out_shape, layout), out_selection, axes=tuple(axes)
    )
    assert len(shape) == 1 or len(chosen[0]) == 1 or isinstance(found, Points)


@pytest.mark.parametrize(
    ("chosen", "out_shape"),
    [
        # One array among slices stays where it is; arrays that are no neighbours go first, and an
        # integer beside an array counts as one.
        ((slice(None), np.array([2, 0])), (3, 2, 5)),
        ((np.array([2, 0]), slice(1, 3)), (2, 2, 5)),
        ((slice(None), np.array([2, 0]), 3), (3, 2)),
        ((np.array([2, 0]), slice(None), 3), (2, 4)),
        ((1, slice(None), np.array([4, 4, 0])), (3, 4)),
        ((np.array([1]), slice(None), np.array([4, 4, 0])), (3, 4)),
        ((np.array([0, 2]), slice(None), np.array([4, 3])), (2, 4)),
        ((np.array([0, 2]), np.array([1, 1]), slice(0, 5, 2)), (2, 3)),
        ((np.array([True, False, True]), slice(None), 0), (2, 4)),
        ((Ellipsis, 2), (3, 4)),
        ((1, Ellipsis), (4, 5)),
        (2, (4, 5)),
        ([0, 2], (2, 4, 5)),
        ((), (3, 4, 5)),
        (Ellipsis, (3, 4, 5)),
        ((np.array(1), slice(None), np.uint8(4)), (4,)),
    ],
)
def test_numpys_rules_for_arrays_among_slices(chosen: Any, out_shape: tuple[int, ...]) -> None:
    chunk = numbered((3, 4, 5))
    assert chunk[chosen].shape == out_shape
    copied(chunk, chosen, np.zeros(out_shape, "i4"), (slice(None),) * len(out_shape))
    copied(chunk, chosen, np.zeros(out_shape, "i4"), Ellipsis, axes=(2, 0, 1))


def test_evenly_spaced_indices_are_a_slice() -> None:
    """So that whole rows are copied at once where zarr spells slices out as index arrays."""
    chosen = np.ix_(np.array([5, 3, 1]), np.arange(2, 8))
    found = copied(numbered((6, 8)), chosen, np.zeros((3, 6), "i4"), (slice(None), slice(None)))
    assert found == (2 * 24, [(1, 2, 3, -24), (2, 1, 6, 4)])


def test_a_dimension_of_one_more_than_the_output_has() -> None:
    copied(numbered((1, 4)), (slice(None), slice(1, 3)), np.zeros(2, "i4"), (slice(None),))
    copied(numbered((4,)), (slice(1, 3),), np.zeros((1, 2), "i4"), (slice(None), slice(None)))


@pytest.mark.parametrize(
    ("chosen", "out_selection", "drop"),
    [
        ((slice(0, 0), slice(None)), (slice(0, 0), slice(None)), ()),
        ((3, slice(None)), (0, slice(None)), ()),
        ((-4, slice(None)), (0, slice(None)), ()),
        ((np.array([0, 3]), slice(None)), (slice(0, 2), slice(None)), ()),
        ((np.array([0, -4]), slice(None)), (slice(0, 2), slice(None)), ()),
        ((2**70, slice(None)), (0, slice(None)), ()),
        ((None, slice(None)), (slice(0, 1), slice(None)), ()),
        ((True, slice(None)), (slice(0, 1), slice(None)), ()),
        ((np.ones((3, 4), bool),), (slice(None), 0), ()),
        ((np.array([0.0, 1.0]), slice(None)), (slice(0, 2), slice(None)), ()),
        ((np.array([[0, 1], [1, 2]]), slice(None)), (slice(0, 2), slice(None)), ()),
        ((np.array([0, 1]), np.array([0, 1, 2])), (slice(0, 2), 0), ()),
        ((0, 0, 0), (0, 0), ()),
        ((Ellipsis, 0, Ellipsis), (0, 0), ()),
        # Would repeat what was taken, or does not fit.
        ((slice(0, 1), slice(None)), (slice(None), slice(None)), ()),
        ((slice(0, 2), slice(None)), (slice(None), slice(None)), ()),
        # Dropped axes of other sizes than 1, or that are none.
        ((slice(None), slice(None)), (slice(None), 0), (1,)),
        ((slice(None), slice(None)), (slice(None), 0), (2,)),
        ((slice(None), slice(None)), (slice(None), "name"), ()),
    ],
)
def test_what_cannot_be_said(chosen: Any, out_selection: Any, drop: tuple[int, ...]) -> None:
    assert place(chosen, out_selection, drop, (3, 4), (3, 4), (16, 4), (0, 1)) is None


# ---------------------------------------------------------------------------------------- zarr's


ROWS = np.array([8, 0, 3, 3])
COLUMNS = np.array([1, 6, 2, 2])
MASK = numbered((9, 7)) % 5 == 0


@pytest.mark.parametrize(
    "select",
    [
        lambda z: z[...],
        lambda z: z[2:8, 1:7:2],
        lambda z: z[5],
        lambda z: z[-1, 3],
        lambda z: z[::4, -1],
        lambda z: z[[0, 8, 3], :],
        lambda z: z.oindex[ROWS, 2:5],
        lambda z: z.oindex[2:9:3, COLUMNS],
        lambda z: z.oindex[ROWS, COLUMNS],
        lambda z: z.oindex[ROWS, 4],
        lambda z: z.oindex[3, COLUMNS],
        lambda z: z.oindex[MASK[:, 0], :],
        lambda z: z.oindex[MASK.any(axis=1), MASK.any(axis=0)],
        lambda z: z.vindex[ROWS, COLUMNS],
        lambda z: z.vindex[ROWS.reshape(2, 2), COLUMNS.reshape(2, 2)],
        lambda z: z.vindex[MASK],
        lambda z: z[MASK],
        lambda z: z.blocks[1, 0:2],
        lambda z: z.get_coordinate_selection(([8], [6])),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_selections_as_zarr_gives_them(
    monkeypatch: pytest.MonkeyPatch, select: Any, order: Any
) -> None:
    data = numbered((9, 7))
    array = zarr.create(shape=(9, 7), chunks=(4, 3), dtype="i4", store=zarr.storage.MemoryStore())
    array[...] = data
    wanted = select(array)
    padded = np.zeros((12, 9), "i4")
    padded[:9, :7] = data
    calls = []

    async def read(pipeline: Any, batch_info: Any, out: Any, drop_axes: Any = ()) -> Any:
        # Of the same shape as zarr's, and laid out otherwise.
        mine = np.zeros(out.shape, "i4", order=order)
        for getter, _, chunk_selection, out_selection, *_ in (items := list(batch_info)):
            row, column = map(int, getter.path.split("/")[-2:])
            chunk = padded[4 * row : 4 * row + 4, 3 * column : 3 * column + 3]
            copied(chunk, chunk_selection, mine, out_selection, drop_axes, (1, 0))
        calls.append(mine)
        return await original(pipeline, items, out, drop_axes)

    original = BatchedCodecPipeline.read
    monkeypatch.setattr(BatchedCodecPipeline, "read", read)
    np.testing.assert_array_equal(select(array), wanted)
    np.testing.assert_array_equal(calls[0].reshape(np.shape(wanted)), wanted)
