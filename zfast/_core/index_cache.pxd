# Shard indexes that were read once, by the target of their shard. Under the scheduler's lock.

from libcpp.deque cimport deque
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map

from zfast._core.request cimport Request
from zfast._core.shard_index cimport ShardIndex

cdef struct IndexFormat:
    # By how it is stored and how many it has, one array's index is no other's. Several may ask for
    # one of the same target: arrays whose keys meet, or one before and after it was made anew.
    size_t count
    bint at_end
    bint checksum
    bint big_endian

cdef cppclass IndexEntry:
    string target
    IndexFormat format
    ShardIndex* index               # NULL while it is being read
    deque[Request*] waiting         # parked until it has been
    double recent_since             # its tag may be the next one's too; 0 where it is not
    string expired_tag              # of the one before it, where that was recent
    double expired_since            # ... and since when
    bint detached                   # written to meanwhile: those who ask later begin another
    IndexEntry* older               # neighbours in the order of use
    IndexEntry* newer

ctypedef IndexEntry* IndexEntry_ptr

cdef cppclass IndexCache:
    unordered_map[string, IndexEntry_ptr] entries
    IndexEntry* oldest
    IndexEntry* newest
    string expired_tag              # of the index that was found last, if that was recent
    double expired_since
    size_t size                     # bytes of the indexes
    size_t limit
    bint knows_suffixes             # servers here answer ranges that count from the end
    bint knows_ranges               # ... and any ranges at all
    double whole_until              # when that is to be found out anew

cdef IndexEntry* index_cache_find(IndexCache* cache, const string* target) noexcept nogil
cdef IndexEntry* index_cache_find_alike(
    IndexCache* cache, const string* target, const IndexFormat* format
) noexcept nogil
cdef IndexEntry* index_cache_begin(
    IndexCache* cache, const string* target, const IndexFormat* format
) noexcept nogil
cdef void index_cache_keep(IndexCache* cache, IndexEntry* entry, ShardIndex* index) noexcept nogil
cdef void index_cache_forget(IndexCache* cache, const string* target) noexcept nogil
cdef void index_cache_forget_index(
    IndexCache* cache, const string* target, const ShardIndex* index
) noexcept nogil
cdef void index_cache_expect_whole(IndexCache* cache) noexcept nogil
cdef void index_cache_expect_parts(IndexCache* cache) noexcept nogil
cdef void index_cache_drop(IndexCache* cache, IndexEntry* entry) noexcept nogil
