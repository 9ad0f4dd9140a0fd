"""zarr 3's buffers, byte requests and prefixes ↔ what a client takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from zfast.keys import check_key
from zfast.planner import Group, coalesced

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest

    from zfast._core.buffers import Body

__all__ = [
    "check_range",
    "checked_ranges",
    "coalesced_ranges",
    "content_of",
    "directory_of",
    "to_buffer",
]

_BYTE_REQUESTS = (RangeByteRequest, OffsetByteRequest, SuffixByteRequest)


def to_buffer(prototype: BufferPrototype, body: Body | None) -> Buffer | None:
    """A body as zarr wants it; None where there is none."""
    # Host memory is taken as it is; a prototype for a device copies it there.
    return None if body is None else prototype.buffer.from_bytes(body)  # type: ignore[arg-type]


def check_range(byte_range: Any) -> None:
    """Raise ValueError for what is no byte request, as zarr's own stores do."""
    if byte_range is not None and not isinstance(byte_range, _BYTE_REQUESTS):
        raise ValueError(f"Unexpected byte_range, got {byte_range}.")


def checked_ranges(key_ranges: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Keys and byte ranges as a list; see `check_range`."""
    items = list(key_ranges)
    for _, byte_range in items:
        check_range(byte_range)
    return items


def coalesced_ranges(
    byte_ranges: Sequence[ByteRequest | None], max_gap: int, max_size: int
) -> list[Group]:
    """Which requests serve byte ranges of one key; see `check_range` and `planner.coalesced`."""
    for byte_range in byte_ranges:
        check_range(byte_range)
    return coalesced(byte_ranges, max_gap, max_size)


def content_of(key: str, value: Any) -> Buffer:
    """What is to be written; raises TypeError if it is no Buffer."""
    if not isinstance(value, Buffer):
        raise TypeError(f"the value of {key!r} is a {type(value).__name__}, not a Buffer")
    return value


def directory_of(prefix: str) -> str:
    """A prefix as the directory that zarr takes it for."""
    prefix = check_key(prefix)
    return f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
