"""The Python face of a store's shard indexes."""

cimport cython
from libcpp.string cimport string
from posix.unistd cimport getpid

from zfast._core.engine cimport Engine
from zfast._core.extern.pthread cimport pthread_mutex_lock, pthread_mutex_unlock
from zfast._core.index_cache cimport (
    IndexCache,
    index_cache_drop,
    index_cache_expect_whole,
    index_cache_forget,
)


@cython.no_gc_clear  # letting go takes the engine
cdef class ShardIndexes:
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

    def __cinit__(self, Engine engine not None, size_t limit, bint suffix_ranges=True):
        self.engine = engine
        self.cache = new IndexCache()
        self.cache.limit = limit
        self.cache.knows_suffixes = suffix_ranges
        self.cache.knows_ranges = True

    def __dealloc__(self):
        # In a forked child they may be half written: another thread of the parent was at them.
        if self.cache == NULL or self.engine.pid != getpid():
            return
        while self.cache.oldest != NULL:
            index_cache_drop(self.cache, self.cache.oldest)
        del self.cache

    def forget(self, bytes target not None):
        """Have the index of a shard read anew, since the shard was written."""
        cdef string name = target
        if self.engine.pid != getpid():
            return
        pthread_mutex_lock(&self.engine.scheduler.lock)
        index_cache_forget(self.cache, &name)
        pthread_mutex_unlock(&self.engine.scheduler.lock)

    def expect_whole_objects(self):
        """Ask for no part of a chunk or shard for a while: the servers send the whole object."""
        if self.engine.pid != getpid():
            return
        pthread_mutex_lock(&self.engine.scheduler.lock)
        index_cache_expect_whole(self.cache)
        pthread_mutex_unlock(&self.engine.scheduler.lock)
