from collections.abc import Sequence

class Recipe:
    """How the stored chunks of one array become elements of an output.

    Parameters
    ----------
    shape : tuple of int
        Of a chunk as it is stored: its bytes are in C order of this.
    axes : tuple of int
        Stored dimension k is dimension ``axes[k]`` of the level above.
    item_size : int
        Bytes of an element.
    swap : int
        Bytes of the units whose order is to be reversed, 0 for none.
    steps : sequence of (str, int)
        Bytes-to-bytes codecs in decoding order, each with its element size.
    inner : Recipe, optional
        Of the inner chunks, which makes this the recipe of a shard.
    index_at_end, index_checksum, index_big_endian : bool
        Where the shard index is and how it is encoded (zarr's sharding codec, section "Binary
        shard format").

    Raises
    ------
    ValueError
        If the core cannot read such chunks; says why.
    """

    def __init__(
        self,
        shape: Sequence[int],
        axes: Sequence[int],
        item_size: int,
        swap: int,
        steps: Sequence[tuple[str, int]],
        inner: Recipe | None = None,
        index_at_end: bool = True,
        index_checksum: bool = True,
        index_big_endian: bool = False,
    ) -> None: ...
    @property
    def sharded(self) -> bool:
        """Whether it is the recipe of a shard."""

    @property
    def inner(self) -> Recipe | None:
        """The recipe of the inner chunks of a shard, else None."""

    @property
    def axes(self) -> tuple[int, ...]:
        """Stored dimension k is dimension ``axes[k]`` of the level above."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a chunk as it is stored."""
