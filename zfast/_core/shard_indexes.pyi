from zfast._core.engine import Engine

class ShardIndexes:
    """The shard indexes that a store has read so far.

    Parameters
    ----------
    engine : Engine
        Whose batches read them; another engine needs a cache of its own.
    limit : int
        Bytes that they may take.
    suffix_ranges : bool
        Whether the servers know ranges that count from the end of an object.
    """

    engine: Engine

    def __init__(self, engine: Engine, limit: int, suffix_ranges: bool = True) -> None: ...
    def forget(self, target: bytes) -> None:
        """Have the index of a shard read anew, since the shard was written."""

    def expect_whole_objects(self) -> None:
        """Ask for no part of a chunk or shard for a while: the servers send the whole object."""
