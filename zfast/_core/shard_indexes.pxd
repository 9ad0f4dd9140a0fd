# The shard indexes of one store, as their owner in Python holds them.

from zfast._core.engine cimport Engine
from zfast._core.index_cache cimport IndexCache

cdef class ShardIndexes:
    cdef IndexCache* cache
    cdef readonly Engine engine
