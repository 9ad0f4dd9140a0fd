from collections.abc import Iterator
from typing import Any, SupportsIndex, overload

class Body:
    """The bytes of one read, without a copy: read-only, with the buffer protocol.

    ``bytes(body)``, ``memoryview(body)`` and ``numpy.frombuffer(memoryview(body), dtype)`` all
    work, the last two on the memory that the network filled. Small bodies of one batch share slabs
    of up to 4 MiB: copy (``bytes(body)``) what should outlive the others.
    """

    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @overload
    def __getitem__(self, index: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> memoryview: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __contains__(self, item: object, /) -> bool: ...
    def __iter__(self) -> Iterator[int]: ...
    def part(self, start: int, end: int) -> Body:
        """The bytes from `start` to `end` (exclusive) as a Body of the same memory.

        As much of them as there is: neither counts from the end, as a slice's would.
        """

    def __hash__(self) -> int: ...

class Pin:
    """A caller's buffer that stays where it is until the last worker has let go of it."""

def holds_objects(buffer: Any) -> bool:
    """Whether a buffer's elements are Python objects, or have such in them."""

def spare_memory() -> int:
    """Bytes that are kept for the next bodies; at most 64 MiB, and none after a while of rest."""

def arena_addresses(sizes: list[int]) -> list[tuple[int, int, Any]]:
    """Take bodies of the given sizes from one arena; for tests of sharing and alignment.

    Parameters
    ----------
    sizes : list of int
        Bytes of each body.

    Returns
    -------
    list of (int, int, Body)
        Address of the slab, address of the body, and the body itself.
    """
