"""What numpy's indexing takes from a chunk, and where it goes in the output: as strides and lists.

``out[out_selection] = chunk[chunk_selection].squeeze(drop_axes)``, said in bytes. Pure; the slow,
general form, for what is not only slices and integers. Every position and place that comes out of
here lies within the chunk and the output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cell", "Extent", "Indices", "Points", "place", "split"]

Indices = NDArray[np.intp]
# Of one stored dimension: (start, step, count, stride), or (positions, places or stride).
Extent = tuple[int, int, int, int] | tuple[Indices, Indices | int]


@dataclass(frozen=True, eq=False)
class Points:
    """A selection of single elements.

    Attributes
    ----------
    positions : array of intp, shape (n,)
        Of the elements in the stored chunk, in C order.
    places : array of intp, shape (n,)
        Byte offsets from the output's first element.
    """

    positions: Indices
    places: Indices


class Cell(NamedTuple):
    """What is wanted of one inner chunk of a shard.

    Attributes
    ----------
    number : int
        Of the inner chunk, in C order of the shard's stored axes.
    where : tuple of (int, list of Extent), or Points
        As from `place`, of the inner chunk's own stored axes.
    """

    number: int
    where: tuple[int, list[Extent]] | Points


class _Dimension(NamedTuple):
    """One dimension of what an index gives: its size, and the axes that vary along it."""

    size: int
    along: tuple[tuple[int, range | Indices], ...]


class _Table(NamedTuple):
    """An index of an array: where it stays on an axis, and how the others vary."""

    fixed: list[tuple[int, int]]
    dimensions: list[_Dimension]

    def fix(self, at: int) -> None:
        """Take out a dimension of size 1."""
        for axis, indices in self.dimensions.pop(at).along:
            self.fixed.append((axis, int(indices[0])))


def place(
    chunk_selection: Any,
    out_selection: Any,
    drop_axes: Iterable[int],
    shape: Sequence[int],
    out_shape: Sequence[int],
    out_strides: Sequence[int],
    axes: Sequence[int],
) -> tuple[int, list[Extent]] | Points | None:
    """Say where the selected elements of a chunk are, and where in the output they go.

    Parameters
    ----------
    chunk_selection, out_selection : int, slice, array of int or bool, or tuple of these
        Indexes of zarr's chunk and of the output, with numpy's meaning.
    drop_axes : iterable of int
        Dimensions of size 1 that what is taken from the chunk has, and the output has not.
    shape : sequence of int
        Of the chunk as stored; in C order.
    out_shape, out_strides : sequence of int
        Of the output; strides in bytes.
    axes : sequence of int
        Axis k of the stored chunk is axis ``axes[k]`` of zarr's.

    Returns
    -------
    tuple of (int, list of Extent), Points or None
        Byte offset from the output's first element to where the first selected element goes, and
        what is taken of each stored dimension: ``(start, step, count, stride)`` with ``step >= 1``,
        or ``(positions, places)``, where the places are byte offsets, or one stride. Points where
        dimensions of the chunk vary together. None if nothing is selected, or if it is no
        selection of these kinds.
    """
    chunk_shape = [0] * len(shape)
    for stored, axis in enumerate(axes):
        chunk_shape[axis] = shape[stored]
    taken = _resolve(chunk_selection, chunk_shape)
    put = _resolve(out_selection, out_shape)
    if taken is None or put is None:
        return None
    for axis in sorted(drop_axes, reverse=True):
        if axis >= len(taken.dimensions) or taken.dimensions[axis].size != 1:
            return None
        taken.fix(axis)
    if not _aligned(taken, put):
        return None
    offset = sum(index * out_strides[axis] for axis, index in put.fixed)
    places = [_places(dimension, out_strides) for dimension in put.dimensions]
    if any(len(dimension.along) > 1 for dimension in taken.dimensions):
        return _points(taken, offset, places, shape, axes)
    stored_axis = {axis: stored for stored, axis in enumerate(axes)}
    extents: list[Extent] = [(0, 1, 1, 0)] * len(shape)
    for axis, index in taken.fixed:
        extents[stored_axis[axis]] = (index, 1, 1, 0)
    for dimension, wanted in zip(taken.dimensions, places, strict=True):
        if not dimension.along:
            # Of size 1, from an index array of one element.
            offset += int(wanted[0])
            continue
        [(axis, indices)] = dimension.along
        extent, first = _extent(indices, wanted)
        extents[stored_axis[axis]] = extent
        offset += first
    return offset, extents


def _aligned(taken: _Table, put: _Table) -> bool:
    """Make the dimensions of both the same; False if they differ, or nothing is selected."""
    for longer, shorter in ((taken, put), (put, taken)):
        while len(longer.dimensions) > len(shorter.dimensions) and longer.dimensions[0].size == 1:
            longer.fix(0)
    sizes = [dimension.size for dimension in taken.dimensions]
    return 0 not in sizes and sizes == [dimension.size for dimension in put.dimensions]


def _places(dimension: _Dimension, strides: Sequence[int]) -> range | Indices:
    if len(dimension.along) == 1:
        [(axis, indices)] = dimension.along
        return _scaled(indices, strides[axis])
    total = np.zeros(dimension.size, np.intp)
    for axis, indices in dimension.along:
        total += np.asarray(indices, np.intp) * strides[axis]
    return total


def _scaled(indices: range | Indices, by: int) -> range | Indices:
    if isinstance(indices, range) and by:
        return range(indices.start * by, indices.stop * by, indices.step * by)
    return np.asarray(indices, np.intp) * by


def _extent(indices: range | Indices, places: range | Indices) -> tuple[Extent, int]:
    """What is taken of one dimension, and the place of its first element."""
    ordered, evenly = _evenly(indices), _evenly(places)
    if evenly is None:
        return (np.asarray(indices, np.intp), np.asarray(places, np.intp)), 0
    first, stride = evenly[0], evenly.step
    if ordered is None:
        return (np.asarray(indices, np.intp), stride), first
    count = len(ordered)
    if ordered.step < 0:
        # The same elements from the other end.
        return (ordered[-1], -ordered.step, count, -stride), evenly[-1]
    return (ordered[0], ordered.step, count, stride), first


def _evenly(indices: range | Indices) -> range | None:
    """The same as a range, if they are evenly spaced."""
    if len(indices) == 1:
        first = int(indices[0])
        return range(first, first + 1)
    if isinstance(indices, range):
        return indices
    step = int(indices[1]) - int(indices[0])
    if step == 0 or not (np.diff(indices) == step).all():
        return None
    first = int(indices[0])
    return range(first, first + step * len(indices), step)


def _points(
    taken: _Table,
    offset: int,
    places: list[range | Indices],
    shape: Sequence[int],
    axes: Sequence[int],
) -> Points:
    stride = {axis: math.prod(shape[stored + 1 :]) for stored, axis in enumerate(axes)}
    position: Any = sum(index * stride[axis] for axis, index in taken.fixed)
    where: Any = offset
    for dimension, wanted in zip(taken.dimensions, places, strict=True):
        within = np.zeros(dimension.size, np.intp)
        for axis, indices in dimension.along:
            within += np.asarray(indices, np.intp) * stride[axis]
        position = np.add.outer(position, within)
        where = np.add.outer(where, np.asarray(wanted, np.intp))
    return Points(np.ravel(position), np.ravel(where))


def _resolve(selection: Any, shape: Sequence[int]) -> _Table | None:
    """An index as numpy takes it; None for what is not an index of whole numbers and slices."""
    wanted = list(selection) if isinstance(selection, tuple) else [selection]
    dots = [at for at, entry in enumerate(wanted) if entry is Ellipsis]
    missing = len(shape) - len(wanted) + len(dots)
    if missing < 0 or len(dots) > 1:
        return None
    at = dots[0] if dots else len(wanted)
    wanted[at : at + len(dots)] = [slice(None)] * missing
    entries = [_entry(entry, size) for entry, size in zip(wanted, shape, strict=True)]
    fixed: list[tuple[int, int]] = []
    slices: list[tuple[int, range]] = []
    arrays: list[tuple[int, Indices]] = []
    for axis, entry in enumerate(entries):
        if entry is None:
            return None
        if isinstance(entry, int):
            fixed.append((axis, entry))
        elif isinstance(entry, range):
            slices.append((axis, entry))
        else:
            arrays.append((axis, entry))
    if not arrays:
        return _Table(fixed, [_Dimension(len(r), ((axis, r),)) for axis, r in slices])
    if dots:
        return None
    return _with_arrays(fixed, slices, arrays)


def _with_arrays(
    fixed: list[tuple[int, int]],
    slices: list[tuple[int, range]],
    arrays: list[tuple[int, Indices]],
) -> _Table | None:
    # Before arrays of one element count as fixed: an integer counts as an array here.
    sliced = {axis for axis, _ in slices}
    ndim = len(fixed) + len(slices) + len(arrays)
    advanced = [axis for axis in range(ndim) if axis not in sliced]
    try:
        together = np.broadcast_shapes(*(array.shape for _, array in arrays))
    except ValueError:
        return None
    along: list[list[tuple[int, Indices]]] = [[] for _ in together]
    for axis, array in arrays:
        varies = [at - array.ndim for at, size in enumerate(array.shape) if size != 1]
        if len(varies) > 1:
            return None
        if varies:
            along[varies[0]].append((axis, array.ravel()))
        else:
            fixed.append((axis, int(array.ravel()[0])))
    joint = [
        _Dimension(size, tuple(members)) for size, members in zip(together, along, strict=True)
    ]
    return _Table(fixed, _merged(joint, slices, advanced))


def _merged(
    joint: list[_Dimension], slices: list[tuple[int, range]], advanced: list[int]
) -> list[_Dimension]:
    # Dimensions of arrays take the place of the first array if they are neighbours, and come
    # before all others if not.
    neighbours = advanced[-1] - advanced[0] == len(advanced) - 1
    dimensions = [(axis, _Dimension(len(r), ((axis, r),))) for axis, r in slices]
    before = [d for axis, d in dimensions if neighbours and axis < advanced[0]]
    after = [d for axis, d in dimensions if not neighbours or axis > advanced[0]]
    return before + joint + after


def _entry(entry: Any, size: int) -> int | range | Indices | None:
    """One axis of an index, within bounds and counted from the start."""
    if isinstance(entry, slice):
        return range(*entry.indices(size))
    if entry is None or isinstance(entry, bool | np.bool_):
        return None
    array = np.asarray(entry)
    if array.dtype.kind == "b" and array.shape == (size,):
        array = array.nonzero()[0]
    if array.dtype.kind not in "iu" or not array.size:
        return None
    if array.min() < -size or array.max() >= size:
        return None
    indices = array.astype(np.intp)
    if array.ndim == 0:
        return int(indices) % size
    return np.where(indices < 0, indices + size, indices)


# ---------------------------------------------------------------------------------------- shards

# What falls into one inner chunk along one axis: which, the offset it adds, and its extent.
_Part = tuple[int, int, Extent]


def split(
    where: tuple[int, list[Extent]] | Points,
    shape: Sequence[int],
    inner_shape: Sequence[int],
    axes: Sequence[int],
) -> list[Cell]:
    """Divide what is wanted of a shard among its inner chunks.

    Parameters
    ----------
    where : tuple of (int, list of Extent), or Points
        As from `place`.
    shape : sequence of int
        Of the shard as stored.
    inner_shape : sequence of int
        Of an inner chunk as stored.
    axes : sequence of int
        Axis k of the stored inner chunk is axis ``axes[k]`` of the stored shard.

    Returns
    -------
    list of Cell
        In the order of their numbers; none of which nothing is wanted.
    """
    cell = [0] * len(shape)
    for stored, axis in enumerate(axes):
        cell[axis] = inner_shape[stored]
    grid = [whole // size for whole, size in zip(shape, cell, strict=True)]
    if isinstance(where, Points):
        return _split_points(where, shape, cell, grid, inner_shape, axes)
    offset, extents = where
    along = [_split_extent(extent, size) for extent, size in zip(extents, cell, strict=True)]
    cells = []
    for parts in itertools.product(*along):
        number = 0
        for (index, _, _), count in zip(parts, grid, strict=True):
            number = number * count + index
        base = offset + sum(part[1] for part in parts)
        cells.append(Cell(number, (base, [parts[axis][2] for axis in axes])))
    return sorted(cells, key=lambda cell: cell.number)


def _split_points(
    points: Points,
    shape: Sequence[int],
    cell: Sequence[int],
    grid: Sequence[int],
    inner_shape: Sequence[int],
    axes: Sequence[int],
) -> list[Cell]:
    at = np.unravel_index(points.positions, tuple(shape))
    numbers = np.ravel_multi_index(
        tuple(index // size for index, size in zip(at, cell, strict=True)), tuple(grid)
    )
    within = [index % size for index, size in zip(at, cell, strict=True)]
    positions = np.ravel_multi_index(tuple(within[axis] for axis in axes), tuple(inner_shape))
    return [
        Cell(
            int(numbers[members[0]]),
            Points(positions[members].astype(np.intp), points.places[members]),
        )
        for members in _groups(numbers)
    ]


def _groups(numbers: Indices) -> list[Indices]:
    """Where each number is, the smallest first."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)


def _split_extent(extent: Extent, size: int) -> list[_Part]:
    if len(extent) == 4:
        start, step, count, stride = extent
        parts: list[_Part] = []
        past = 0
        while past < count:
            first, index = past, (start + past * step) // size
            past = min(count, -(-((index + 1) * size - start) // step))
            begin = start + first * step - index * size
            parts.append((index, first * stride, (begin, step, past - first, stride)))
        return parts
    positions, places = extent
    if not isinstance(places, np.ndarray):
        places = np.arange(len(positions), dtype=np.intp) * places
    return [
        (
            int(positions[members[0]]) // size,
            0,
            (positions[members] % size, places[members]),
        )
        for members in _groups(positions // size)
    ]
