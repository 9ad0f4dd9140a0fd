class Index:
    """A decoded shard index, for tests.

    Parameters
    ----------
    data : bytes
        The index as it is stored.
    count : int
        Inner chunks of the shard.
    checksum : bool
        Whether a CRC32C ends it.
    big_endian : bool
        The byte order of the pairs; that of the checksum is always little.

    Raises
    ------
    ValueError
        With the fault that was found.
    """

    def __init__(
        self, data: bytes, count: int, *, checksum: bool = True, big_endian: bool = False
    ) -> None: ...
    @property
    def pairs(self) -> list[tuple[int, int] | None]:
        """Offset and nbytes of each inner chunk, None for an empty one."""

    @property
    def owners(self) -> int:
        """How many share what was decoded."""

    def share(self) -> Index:
        """Another owner of what was decoded."""

    def fault(
        self, shard_size: int, index_start: int = 0, index_size: int = 0
    ) -> tuple[str, int] | None:
        """What is wrong with the index of a shard.

        Parameters
        ----------
        shard_size, index_start, index_size : int
            Bytes of the whole shard, and where among them the index is.

        Returns
        -------
        (str, int) or None
            The fault and the inner chunk that it is about; None where all is well.
        """

def index_size(count: int, checksum: bool = True) -> int:
    """Bytes of an encoded index of `count` inner chunks."""
