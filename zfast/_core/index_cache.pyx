"""The shard indexes of one store: each is read once, by one reader, however many want it.

Bounded by bytes; what was used least recently goes first. Everything happens under the scheduler's
lock, as the requests do that wait here.
"""

from cython.operator cimport dereference
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map

from zfast._core.exchange cimport RECENT_SECONDS
from zfast._core.shard_index cimport (
    ShardIndex,
    shard_index_release,
    shard_index_retain,
    shard_index_size,
)
from zfast._core.state cimport WHOLE_SECONDS, monotonic

cdef enum:
    # What an entry costs besides its pairs.
    ENTRY_OVERHEAD = 256


cdef inline size_t _cost(const IndexEntry* entry) noexcept nogil:
    return (
        ENTRY_OVERHEAD + entry.target.size() + entry.index.etag.size()
        + shard_index_size(entry.index.count, False)
    )


cdef void _unlink(IndexCache* cache, IndexEntry* entry) noexcept nogil:
    if entry.older != NULL:
        entry.older.newer = entry.newer
    else:
        cache.oldest = entry.newer
    if entry.newer != NULL:
        entry.newer.older = entry.older
    else:
        cache.newest = entry.older
    entry.older = entry.newer = NULL


cdef void _append(IndexCache* cache, IndexEntry* entry) noexcept nogil:
    entry.older = cache.newest
    entry.newer = NULL
    if cache.newest != NULL:
        cache.newest.newer = entry
    else:
        cache.oldest = entry
    cache.newest = entry


cdef IndexEntry* index_cache_find(IndexCache* cache, const string* target) noexcept nogil:
    # The entry of a shard, with or without its index yet; NULL if nobody has asked for it.
    cdef unordered_map[string, IndexEntry_ptr].iterator found = cache.entries.find(
        dereference(target))
    cdef IndexEntry* entry
    if found == cache.entries.end():
        return NULL
    entry = dereference(found).second
    if entry.index != NULL and entry.recent_since > 0:
        cache.expired_tag = entry.index.etag
        cache.expired_since = entry.recent_since
        index_cache_drop(cache, entry)
        return NULL
    if entry.index != NULL:
        _unlink(cache, entry)
        _append(cache, entry)
    return entry


cdef IndexEntry* index_cache_find_alike(
    IndexCache* cache, const string* target, const IndexFormat* format
) noexcept nogil:
    # The same, if it is of this format; one of another makes way for it.
    cdef IndexEntry* entry
    cache.expired_tag.clear()
    entry = index_cache_find(cache, target)
    if entry != NULL and (
        entry.format.count != format.count or entry.format.at_end != format.at_end
        or entry.format.checksum != format.checksum
        or entry.format.big_endian != format.big_endian
    ):
        index_cache_forget(cache, target)
        return NULL
    return entry


cdef IndexEntry* index_cache_begin(
    IndexCache* cache, const string* target, const IndexFormat* format
) noexcept nogil:
    # An entry for an index that its caller will read, and then keep or drop.
    cdef IndexEntry* entry = new IndexEntry()
    entry.target = dereference(target)
    entry.format = dereference(format)
    entry.expired_tag.swap(cache.expired_tag)
    entry.expired_since = cache.expired_since
    cache.expired_tag.clear()
    cache.entries[entry.target] = entry
    return entry


cdef void index_cache_keep(IndexCache* cache, IndexEntry* entry, ShardIndex* index) noexcept nogil:
    cdef double now
    if entry.detached:
        del entry
        return
    shard_index_retain(index)
    entry.index = index
    # Of a shard that was written just now the tag need not tell that it is written anew: such an
    # index is for those alone who wait for it. If it seems to be as young as it was long before,
    # that is a cache's Date.
    if index.recent:
        now = monotonic()
        if index.etag.empty() or index.etag != entry.expired_tag:
            entry.recent_since = now
        elif now < entry.expired_since + RECENT_SECONDS:
            entry.recent_since = entry.expired_since
        else:
            index.recent = False
    _append(cache, entry)
    cache.size += _cost(entry)
    while cache.size > cache.limit and cache.oldest != NULL:
        index_cache_drop(cache, cache.oldest)


cdef void index_cache_forget(IndexCache* cache, const string* target) noexcept nogil:
    # Whoever asks from here on begins another. What a reader will bring that is at it now is for
    # those who wait already.
    cdef IndexEntry* entry = index_cache_find(cache, target)
    if entry != NULL and entry.index != NULL:
        index_cache_drop(cache, entry)
    elif entry != NULL:
        entry.detached = True
        cache.entries.erase(entry.target)


cdef void index_cache_forget_index(
    IndexCache* cache, const string* target, const ShardIndex* index
) noexcept nogil:
    # The same, if it is this one.
    cdef IndexEntry* entry = index_cache_find(cache, target)
    if entry != NULL and entry.index == index:
        index_cache_drop(cache, entry)


cdef void index_cache_drop(IndexCache* cache, IndexEntry* entry) noexcept nogil:
    # Nobody may be waiting at it any more.
    if not entry.detached:
        cache.entries.erase(entry.target)
    if entry.index != NULL:
        cache.size -= _cost(entry)
        _unlink(cache, entry)
        shard_index_release(entry.index)
    del entry


cdef void index_cache_expect_whole(IndexCache* cache) noexcept nogil:
    # A range was ignored: for a while no part of a chunk or shard is asked for.
    cache.knows_ranges = False
    cache.whole_until = monotonic() + WHOLE_SECONDS


cdef void index_cache_expect_parts(IndexCache* cache) noexcept nogil:
    # Before a read, unless it is too early.
    if not cache.knows_ranges and monotonic() >= cache.whole_until:
        cache.knows_ranges = True
