"""What can be asked of an array: selections of every kind, drawn by hypothesis, and their answers.

An answer is compared to the bit, so it carries bytes, dtype and shape, not values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype

Shape = tuple[int, ...]

INDEXES = 9
"""The most positions that are drawn for one dimension."""


class Answer(NamedTuple):
    """What a read gave; NaNs with different payloads are different."""

    kind: str
    dtype: str
    shape: Shape
    octets: bytes

    @classmethod
    def of(cls, given: Any) -> Answer:
        """What zarr gave: an array or a scalar."""
        array = np.asarray(given)
        # An object's bytes would be its address.
        octets = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        return cls(type(given).__name__, repr(array.dtype), array.shape, octets)

    def differs(self, other: Answer) -> str:
        """What is not the same in words, "" where nothing is."""
        if self[:3] != other[:3]:
            return f"{self[:3]}, not {other[:3]}"
        for at, (one, another) in enumerate(zip(self.octets, other.octets, strict=True)):
            if one != another:
                shown = slice(at, at + 16)
                mine, others = self.octets[shown].hex(" "), other.octets[shown].hex(" ")
                return f"{self[:3]} with {mine} at byte {at}, not {others}"
        return ""


@dataclass(frozen=True)
class Selection:
    """One read of an array."""

    method: str
    """basic, oindex, vindex, blocks or mask."""
    index: Any
    fields: str | list[str] | None = None
    out: str | None = None
    """What is given as `out`, None: nothing."""
    kinds: frozenset[str] = field(default_factory=frozenset, repr=False)

    @property
    def may_be_refused(self) -> bool:
        """Whether zarr itself does not take every such selection."""
        return self.fields is not None

    def read(self, array: zarr.Array[Any]) -> Answer:
        """What the array answers."""
        index = _fresh(self.index)
        if self.out is not None:
            return self._read_into(array, index)
        if self.method == "basic" and self.fields is None:
            return Answer.of(array[index])
        if self.method == "basic":
            return Answer.of(array.get_basic_selection(index, fields=self.fields))
        if self.method == "mask":
            return Answer.of(array.get_mask_selection(index))
        return Answer.of(getattr(array, self.method)[index])

    def _read_into(self, array: zarr.Array[Any], index: Any) -> Answer:
        shape = np.empty(array.shape, "V1")[index].shape
        memory, out = OUTS[self.out or ""](shape, array.dtype)
        buffer = default_buffer_prototype().nd_buffer.from_ndarray_like(out)
        array.get_basic_selection(index, out=buffer)
        # With the gaps: nothing may be written beside the output.
        return Answer.of(memory)


def _memory(shape: Shape, dtype: Any, order: Any = "C") -> npt.NDArray[Any]:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.full(size, 0x33, np.uint8).view(dtype).reshape(shape, order=order)


def _plain(shape: Shape, dtype: Any) -> tuple[Any, Any]:
    memory = _memory(shape, dtype)
    return memory, memory


def _fortran(shape: Shape, dtype: Any) -> tuple[Any, Any]:
    memory = _memory(shape, dtype, "F")
    return memory, memory


def _with_gaps(shape: Shape, dtype: Any) -> tuple[Any, Any]:
    memory = _memory(tuple(2 * size + 1 for size in shape), dtype)
    return memory, memory[..., *[slice(1, None, 2)] * len(shape)]


def _reversed(shape: Shape, dtype: Any) -> tuple[Any, Any]:
    memory = _memory(shape, dtype)
    return memory, memory[..., *[slice(None, None, -1)] * len(shape)]


def _swapped(shape: Shape, dtype: Any) -> tuple[Any, Any]:
    return _plain(shape, dtype.newbyteorder("S"))


def _wider(shape: Shape, dtype: Any) -> tuple[Any, Any]:
    wide = {"b": "i8", "i": "f8", "u": "f8", "f": "c16", "S": "S32", "U": "U32"}
    return _plain(shape, np.dtype(wide.get(dtype.kind, dtype)))


OUTS: dict[str, Callable[[Shape, Any], tuple[Any, Any]]] = {
    "plain": _plain,
    "fortran": _fortran,
    "with gaps": _with_gaps,
    "reversed": _reversed,
    "swapped": _swapped,
    "wider": _wider,
}


def _fresh(index: Any) -> Any:
    # zarr wraps negative positions around in place.
    if isinstance(index, tuple):
        return tuple(map(_fresh, index))
    return index.copy() if isinstance(index, np.ndarray) else index


# -------------------------------------------------------------------------------------- strategies


@st.composite
def slices(draw: st.DrawFn, size: int) -> slice:
    """A slice as zarr takes it: forwards, its ends anywhere."""
    bound = st.none() | st.integers(-size - 2, size + 2)
    step = draw(st.none() | st.just(1) | st.integers(1, size + 1))
    return slice(draw(bound), draw(bound), step)


@st.composite
def integers(draw: st.DrawFn, size: int) -> Any:
    """A position from either end, of Python's type or of one of numpy's."""
    position = draw(st.integers(-size, size - 1))
    return draw(st.sampled_from([int, int, np.int64, np.int16]))(position)


@st.composite
def positions(draw: st.DrawFn, size: int, shape: Shape | None = None) -> npt.NDArray[np.int64]:
    """Positions from either end in any order, some of them twice."""
    count = draw(st.integers(1, INDEXES)) if shape is None else math.prod(shape)
    drawn = draw(st.lists(st.integers(-size, size - 1), min_size=count, max_size=count))
    if draw(st.booleans()):
        drawn = sorted(position % size for position in drawn)
    return np.array(drawn, np.int64).reshape(count if shape is None else shape)


@st.composite
def masks(draw: st.DrawFn, shape: Shape) -> npt.NDArray[np.bool_]:
    """A mask, from empty to full."""
    generator = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    return generator.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))


@st.composite
def basic(draw: st.DrawFn, shape: Shape) -> Any:
    """Slices and integers, with an ellipsis or without, for all dimensions or only the first."""
    whole = draw(st.integers(0, 5)) == 5
    index: list[Any] = []
    for size in shape:
        single = size and draw(st.integers(0, 3)) == 3 and not whole
        index.append(slice(None) if whole else draw(integers(size) if single else slices(size)))
    if not index or draw(st.booleans()):
        first = draw(st.integers(0, len(index)))
        past = draw(st.integers(first, len(index)))
        index[first:past] = [Ellipsis]
    elif draw(st.booleans()):
        del index[draw(st.integers(1, len(index))) :]
    return index[0] if len(index) == 1 and draw(st.booleans()) else tuple(index)


@st.composite
def orthogonal(draw: st.DrawFn, shape: Shape) -> Any:
    """For each dimension positions, a mask, a slice or an integer, at least one of the former."""
    fancy = draw(st.integers(0, len(shape) - 1))
    index: list[Any] = []
    for axis, size in enumerate(shape):
        kinds = ["positions", "mask"] + ["slice", "integer"] * (axis != fancy)
        match draw(st.sampled_from(kinds)):
            case "positions":
                index.append(draw(positions(size)))
            case "mask":
                index.append(draw(masks((size,))))
            case "slice":
                index.append(draw(slices(size)))
            case _:
                index.append(draw(integers(size)))
    return index[0] if len(index) == 1 and draw(st.booleans()) else tuple(index)


@st.composite
def coordinates(draw: st.DrawFn, shape: Shape) -> Any:
    """For each dimension positions that broadcast against each other, or an integer."""
    count = draw(st.integers(1, INDEXES))
    across = draw(st.sampled_from([None, None, 2, 3]))
    index: list[Any] = []
    for size in shape:
        of = (
            (count,)
            if across is None
            else draw(st.sampled_from([(across, count), (across, 1), (count,)]))
        )
        single = draw(st.integers(0, 4)) == 4
        index.append(draw(st.integers(-size, size - 1)) if single else draw(positions(size, of)))
    return tuple(index)


@st.composite
def blocks(draw: st.DrawFn, shape: Shape, chunk: Shape) -> Any:
    """For each dimension the number of a chunk or a run of chunks."""
    index: list[Any] = []
    for size, step in zip(shape, chunk, strict=True):
        count = -(-size // step)
        first = draw(st.integers(0, count - 1))
        if draw(st.booleans()):
            index.append(draw(st.sampled_from([first, first - count])))
        else:
            index.append(slice(first, draw(st.integers(first + 1, count))))
    return tuple(index)


@st.composite
def selections(draw: st.DrawFn, shape: Shape, chunk: Shape, dtype: np.dtype[Any]) -> Selection:
    """A selection of any kind that an array of this shape and dtype takes."""
    methods = ["basic", "basic", "basic"]
    if 0 not in shape and shape:
        methods += ["oindex", "oindex", "vindex", "mask", "blocks"]
    method = draw(st.sampled_from(methods))
    fields = out = None
    index: Any
    match method:
        case "basic":
            index = draw(basic(shape))
            if dtype.names and draw(st.integers(0, 2)) == 2:
                names = list(dtype.names)
                fields = draw(st.sampled_from([*names, names[:1], names[::-1]]))
            elif not dtype.hasobject and draw(st.integers(0, 4)) == 4:
                out = draw(st.sampled_from(list(OUTS)))
        case "oindex":
            index = draw(orthogonal(shape))
        case "vindex":
            index = draw(coordinates(shape))
        case "mask":
            index = draw(masks(shape))
        case _:
            index = draw(blocks(shape, chunk))
    return Selection(method, index, fields, out, frozenset(_kinds(method, index, fields, out)))


def _kinds(method: str, index: Any, fields: Any, out: str | None) -> set[str]:
    kinds = {method}
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, slice):
            kinds.add(f"{method} step" if part.step not in (None, 1) else f"{method} slice")
        elif isinstance(part, np.ndarray):
            kinds.add(f"{method} {part.ndim}-d {part.dtype}" if method != "mask" else method)
        elif part is Ellipsis:
            kinds.add(f"{method} ellipsis")
        else:
            kinds.add(f"{method} {'negative' if part < 0 else 'integer'}")
    if fields is not None:
        kinds.add("a field" if isinstance(fields, str) else f"{len(fields)} fields")
    if out is not None:
        kinds.add(f"out {out}")
    return kinds
