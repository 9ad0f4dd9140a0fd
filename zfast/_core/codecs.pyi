from collections.abc import Iterable

from typing_extensions import Buffer

class ChunkDecoder:
    """A decoder of chunks, with what it keeps from one to the next. For one thread at a time.

    Attributes
    ----------
    place : str
        Where the last result was made: "into", "scratch" or "data".
    """

    place: str

    @property
    def scratch(self) -> tuple[int, int]:
        """Bytes of scratch that are kept, of each of the two buffers."""

    def trim(self) -> None:
        """Give large scratch back."""

    def decode(
        self,
        steps: Iterable[tuple[str, int]],
        data: Buffer,
        decoded_size: int,
        into: Buffer | None = None,
    ) -> bytes:
        """Undo the steps in the given order.

        Parameters
        ----------
        steps : iterable of (str, int)
            Codec and, for "shuffle" and "delta", bytes of an element.
        data : bytes-like
            The stored bytes.
        decoded_size : int
            Bytes of the chunk.
        into : writable bytes-like, optional
            At least `decoded_size` bytes for the last step to write to.

        Returns
        -------
        bytes
            A copy of the result, wherever that was made.

        Raises
        ------
        ValueError
            If the data does not decode to exactly `decoded_size` bytes; says what is wrong.
        """

def decode_bytes(steps: Iterable[tuple[str, int]], data: Buffer, decoded_size: int) -> bytes:
    """Undo the steps in the given order, once; see `ChunkDecoder.decode`."""

def sources() -> dict[str, str]:
    """Where the decoder of each codec is from.

    Returns
    -------
    dict of str to str
        By codec: "numcodecs" and its version, "zfast", or "not found: " and why.
    """
