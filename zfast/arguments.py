"""What callers may pass for a byte range, or as memory: for type checkers, and to be looked up."""

from __future__ import annotations

from typing import Any, Protocol, SupportsIndex, TypeAlias

__all__ = ["Buffer", "ByteRange"]


class _Bounded(Protocol):
    """As zarr's ``RangeByteRequest``."""

    @property
    def start(self) -> SupportsIndex: ...
    @property
    def end(self) -> SupportsIndex: ...


class _Offset(Protocol):
    """As zarr's ``OffsetByteRequest``."""

    @property
    def offset(self) -> SupportsIndex: ...


class _Suffix(Protocol):
    """As zarr's ``SuffixByteRequest``."""

    @property
    def suffix(self) -> SupportsIndex: ...


ByteRange: TypeAlias = (
    tuple[SupportsIndex | None, SupportsIndex | None] | _Bounded | _Offset | _Suffix | None
)


class _SupportsBuffer(Protocol):
    """As ``collections.abc.Buffer``, which Python has from 3.12 on."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class _SupportsArrayInterface(Protocol):
    """As numpy's arrays, whose types say that they are buffers from Python 3.12 on only."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Buffer: TypeAlias = _SupportsBuffer | _SupportsArrayInterface
