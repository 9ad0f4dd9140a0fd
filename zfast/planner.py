"""Byte ranges as callers say them → ranges as the engine takes them. Pure; the one conversion.

A range that starts at or past the object's end holds no byte, an end past it is the object's end,
and a suffix longer than the object is the whole object: as zarr's LocalStore has it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from operator import index, itemgetter
from typing import Any, TypeVar

from zfast._core.types import RangeKind

__all__ = [
    "WHOLE",
    "Group",
    "Span",
    "bounds",
    "bounds_within",
    "coalesced",
    "grouped",
    "key_ranges",
    "located",
    "span",
]

# Plain ints: an enum's members cost a look-up a read.
_WHOLE, _BOUNDED, _OFFSET, _SUFFIX, _EMPTY = (
    int(kind)
    for kind in (
        RangeKind.WHOLE,
        RangeKind.BOUNDED,
        RangeKind.OFFSET,
        RangeKind.SUFFIX,
        RangeKind.EMPTY,
    )
)

_BOUNDS = ("offset", "suffix", "start", "end", "stop", "length", "size", "nbytes", "count")

K = TypeVar("K", bound=Hashable)
# (RangeKind, start, end): see types.pxd.
Span = tuple[int, int, int]
WHOLE: Span = (_WHOLE, 0, 0)
_NOTHING: Span = (_EMPTY, 0, 0)
# A byte range to ask for, and the indexes of those that it serves.
Group = tuple[Any, list[int]]

# The engine counts in 64 bits, of which one is the sign: no object is longer.
_MOST = 2**63 - 1
# Bytes that nobody wants, between two ranges that are asked for as one: it is held as a whole.
_MOST_BETWEEN = 1 << 20


def span(byte_range: Any) -> Span:
    """Convert a byte range to the engine's form.

    Parameters
    ----------
    byte_range : None, tuple or zarr byte request
        None for the whole object; zarr's ``RangeByteRequest`` (exclusive end),
        ``OffsetByteRequest`` or ``SuffixByteRequest``; or ``(start, end)`` in bytes, where None on
        either side leaves it open and a negative start counts from the end.

    Returns
    -------
    tuple of (int, int, int)
        `RangeKind`, start and exclusive end.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If a number is negative where it cannot be.
    """
    if byte_range is None:
        return WHOLE
    if isinstance(byte_range, tuple):
        if len(byte_range) == 2:
            return _between(*byte_range)
    elif hasattr(byte_range, "suffix"):
        if not _says_more(byte_range, "suffix"):
            return _last(index(byte_range.suffix))
    elif hasattr(byte_range, "offset"):
        if not _says_more(byte_range, "offset"):
            return _from(index(byte_range.offset))
    elif hasattr(byte_range, "start") and hasattr(byte_range, "end"):
        return _between(index(byte_range.start), index(byte_range.end))
    raise TypeError(
        f"Unexpected byte_range, got {byte_range!r}: it is None, (start, end), or one of zarr's "
        "byte requests"
    )


def _says_more(byte_range: Any, known: str) -> bool:
    # Of a type of the caller's own, say with an offset and a length: to leave that out would be to
    # read up to the end of the object.
    return any(name != known and hasattr(byte_range, name) for name in _BOUNDS)


def _last(count: int) -> Span:
    if count < 0:
        raise ValueError(f"a suffix of {count} bytes: it cannot be negative")
    return (_SUFFIX, min(count, _MOST), 0) if count else (_EMPTY, 0, 0)


def _from(start: int) -> Span:
    if start < 0:
        raise ValueError(f"an offset of {start} bytes: it cannot be negative")
    return (_OFFSET, min(start, _MOST), 0) if start else WHOLE


def _between(start: Any, end: Any) -> Span:
    if end is None:
        if start is None:
            return WHOLE
        first = index(start)
        return _from(first) if first >= 0 else _last(-first)
    first, past = 0 if start is None else index(start), index(end)
    if first < 0 or past < 0:
        raise ValueError(
            f"bytes {start!r} to {end!r}: with an end, neither may be negative (a suffix is "
            "a negative start and no end)"
        )
    if past <= first:
        return (_EMPTY, 0, 0)
    return (_BOUNDED, first, past) if past < _MOST else _from(first)


def coalesced(byte_ranges: Sequence[Any], max_gap: int, max_size: int) -> list[Group]:
    """Say which requests serve byte ranges of one object, neighbouring ones together.

    Parameters
    ----------
    byte_ranges : sequence
        None or zarr's byte requests.
    max_gap, max_size : int
        Ranges at most so far apart become one of at most so many bytes.

    Returns
    -------
    list of (byte range, list of int)
        What serves one alone is its own; what serves several is their ``(start, end)``.
    """
    groups: list[Group] = []
    bounded = []
    for at, wanted in enumerate(byte_ranges):
        # One that ends before it starts holds nothing, and is nobody's neighbour.
        if hasattr(wanted, "end") and wanted.start <= wanted.end:
            bounded.append((wanted.start, wanted.end, at))
        else:
            groups.append((wanted, [at]))
    for first, past, members in _runs(bounded, max_gap, max_size):
        groups.append((byte_ranges[members[0]] if len(members) == 1 else (first, past), members))
    return groups


def _runs(
    ranges: Iterable[tuple[int, int, int]], max_gap: int, max_size: int
) -> list[tuple[int, int, list[int]]]:
    # Start, end and index of each range → start, end and indexes of those that are neighbours.
    runs: list[tuple[int, int, list[int]]] = []
    for start, end, at in sorted(ranges, key=itemgetter(0)):
        if runs:
            first, past, members = runs[-1]
            if start - past <= max_gap and max(past, end) - first <= max_size:
                members.append(at)
                runs[-1] = first, max(past, end), members
                continue
        runs.append((start, end, [at]))
    return runs


def grouped(reads: Mapping[int, tuple[K, Span]], ignores: Callable[[K], bool]) -> list[Group]:
    """Say which requests serve some reads, where a range may cost its object up to its end.

    Parameters
    ----------
    reads : mapping of int to (hashable, Span)
        Of which object, and what of it.
    ignores : callable
        Whether ranges of an object are ignored: several reads of one are then one request where
        they are near each other, which costs no more than the dearest of them.

    Returns
    -------
    list of (Span, list of int)
        What each request asks for, and the reads that it serves; see `bounds_within`.
    """
    groups: list[Group] = []
    together: dict[K, list[int]] = {}
    for at, (of, wanted) in reads.items():
        if ignores(of):
            together.setdefault(of, []).append(at)
        else:
            groups.append((wanted, [at]))
    for members in together.values():
        groups += _covering([(reads[at][1], at) for at in members])
    return groups


def _covering(reads: Iterable[tuple[Span, int]]) -> Iterator[Group]:
    # By kind, and by where they begin.
    several = sorted(reads)
    if any(wanted == WHOLE for wanted, _ in several):
        yield WHOLE, [at for _, at in several]
        return
    of_kind: dict[int, list[tuple[Span, int]]] = {}
    for read in several:
        of_kind.setdefault(read[0][0], []).append(read)
    for kind in (_EMPTY, _SUFFIX):
        if alike := of_kind.get(kind):
            yield alike[-1][0], [at for _, at in alike]
    ranges = [
        (start, _MOST if kind == _OFFSET else end, at)
        for kind in (_BOUNDED, _OFFSET)
        for (_, start, end), at in of_kind.get(kind, ())
    ]
    for first, past, members in _runs(ranges, _MOST_BETWEEN, _MOST):
        yield ((_BOUNDED, first, past) if past < _MOST else _from(first)), members


def bounds(wanted: Span, size: int) -> tuple[int, int]:
    """Return start and exclusive end of a range in an object of `size` bytes."""
    kind, start, end = wanted
    if kind == _WHOLE:
        return 0, size
    if kind == _OFFSET:
        return min(start, size), size
    if kind == _SUFFIX:
        return max(size - start, 0), size
    if kind == _BOUNDED:
        return min(start, size), min(end, size)
    return 0, 0


def bounds_within(asked: Span, wanted: Span, size: int) -> tuple[int, int]:
    """Return start and exclusive end of a range in what came, `size` bytes, for one around it."""
    kind, start, end = wanted
    first = asked[1] if asked[0] in (_BOUNDED, _OFFSET) else 0
    return bounds((kind, max(start - first, 0), max(end - first, 0)), size)


def key_ranges(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The reads of one call; a TypeError where they are no pairs of key and byte range."""
    reads = list(items)
    if not all(isinstance(item, tuple | list) and len(item) == 2 for item in reads):
        raise TypeError("give a (key, byte_range) for each read; (key, None) is all of the key")
    return reads


def located(error: TypeError | ValueError, where: str) -> TypeError | ValueError:
    """The same error, which says of which of many reads it is."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{where}: {error}")
