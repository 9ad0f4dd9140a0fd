from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zfast._core.batch import Batch
from zfast._core.policy import Policy
from zfast._core.recipe import Recipe
from zfast._core.shard_indexes import ShardIndexes

class Inexpressible(Exception):
    """What is to be read cannot be put into native terms; the message says what it is."""

class ArrayRead:
    """One read of a zarr array into an output.

    Parameters
    ----------
    batch : Batch
        Open, and given to nobody else.
    recipe : Recipe
        Of the first chunk: those of other shapes differ in nothing else.
    indexes : ShardIndexes
        Of the store.
    policy : Policy
        Of the client that asks.
    origin : int
        As in `Engine.add_origin`.
    out : buffer
        Writable, with any strides and as many dimensions as it has; its items are as large as the
        recipe's.
    fill : bytes
        One element, for chunks that are missing.
    count : int
        How many chunks (or shards) will be added.
    max_gap, max_run : int
        Bytes between inner chunks that are asked for together, and of what is asked for at once.
    attends : float
        Seconds for which `add` attends to the batch, see `Batch.attend`, if the read is small.
    """

    def __init__(
        self,
        batch: Batch,
        recipe: Recipe,
        indexes: ShardIndexes,
        policy: Policy,
        origin: int,
        out: Any,
        fill: bytes,
        count: int,
        max_gap: int,
        max_run: int,
        attends: float = 0,
    ) -> None: ...
    def add(
        self,
        items: Iterable[tuple[Any, ...]],
        getter_type: type,
        store: Any,
        before: bytes,
        after: bytes,
        target: Callable[[str], bytes],
        recipe_of: Callable[[Any], tuple[Recipe, Callable[[Any, Any], Any]]],
        drop_axes: Sequence[int] = (),
    ) -> None:
        """Plan the chunks, all of the read's at once, and let them go out.

        Parameters
        ----------
        items : iterable of tuple
            As zarr gives them to a codec pipeline: ``(byte_getter, chunk_spec, chunk_selection,
            out_selection, ...)``.
        getter_type, store : type and object
            What every byte getter has to be, and whose: it has the attributes `store` and `path`.
        before, after : bytes
            A key of unreserved characters has the target ``before + key + after``.
        target : callable
            Gives the target of any other key.
        recipe_of : callable
            Gives the recipe for the chunks of a specification, and what places selections that
            are no boxes: a callable that gives what they want of a chunk, or of each inner chunk
            of a shard, as a list of (number, offset, extents, whether these are of the chunk as
            one dimension). See `zfast.selections`. Called whenever the shape is another than the
            last chunk's.
        drop_axes : sequence of int
            Dimensions of what is taken from a chunk that the output has not.

        Raises
        ------
        Inexpressible
            If an item cannot be read natively. The batch is then to be cancelled.
        """

    def seal(self) -> None:
        """Nothing more is added: the batch may be complete."""

    def missing(self) -> list[bool]:
        """Which chunks or shards of the complete read are missing, as a list of bool."""

    def failure(self) -> tuple[int, int] | None:
        """What failed first in the complete read: its item and request index, None if nothing."""
