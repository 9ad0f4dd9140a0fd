from collections.abc import Sequence

from typing_extensions import Buffer

_Extent = tuple[int | Sequence[int], int, int, int | Sequence[int]]

class Box:
    """A selection of a chunk and its place in a buffer, for tests.

    Parameters
    ----------
    out : buffer of uint8
        Writable and contiguous; no method writes outside of it.
    base : int
        Where the element of offset 0 goes, in bytes from the first of `out`.
    shape : sequence of int
        The chunk's.
    item_size, swap : int
        Bytes of an element, and of the units in it whose byte order is reversed (0 none).
    extents : sequence of tuple
        For each dimension ``(start, step, count, stride)``, with lists of positions for `start`
        and of byte offsets for `stride` where they are irregular.

    Raises
    ------
    IndexError
        An element lies outside of the chunk or of `out`.
    """

    def __init__(
        self,
        out: Buffer,
        base: int,
        shape: Sequence[int],
        item_size: int,
        swap: int,
        extents: Sequence[_Extent],
    ) -> None: ...
    def scatter(self, chunk: Buffer) -> None:
        """Copies the selected elements of a whole chunk into the output."""

    def fill(self, value: Buffer) -> None:
        """Puts one element, `item_size` bytes, everywhere in the selection's place."""

    def target(self) -> int | None:
        """Where in the output the whole chunk may be decoded to, in bytes; None if nowhere."""

    def write(self, chunk: Buffer, pieces: list[tuple[int, int]]) -> bool:
        """Writes bytes ``[start, end)`` of the chunk for each of the pieces, through one cursor.

        Returns
        -------
        bool
            False if this selection cannot be written in pieces; nothing is written then.
        """

    def vectors(self, position: int, size: int, limit: int) -> list[tuple[int, int]] | None:
        """Where bytes from `position` of the chunk on may be received to, at most `size` of them.

        Returns
        -------
        list of (int, int)
            Offset in the output and size of at most `limit` pieces; none if the byte at `position`
            is not wanted, None if this selection cannot be written in pieces.
        """

    def within(
        self, cell_shape: Sequence[int], cell: Sequence[int]
    ) -> tuple[int, list[tuple[int, int, int, int]]] | None:
        """The part in one cell of a grid, as ``(base, extents)``; None if there is none."""
