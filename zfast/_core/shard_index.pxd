# Where the inner chunks of a shard are: its index, decoded and then validated, by bytes alone.

from libcpp.atomic cimport atomic
from libcpp.string cimport string

cdef extern from "<climits>" nogil:
    const unsigned long long MISSING "ULLONG_MAX"

cdef cppclass ShardIndex:
    atomic[long] owners
    size_t count                    # inner chunks, in C order
    unsigned long long* pairs       # offset and nbytes of each; MISSING twice: an empty inner chunk
    string etag                     # tag of the object it was read from, as it came; empty if none
    long long object_size           # bytes of that object, -1 unknown
    bint recent                     # ... whose next state may have the same tag

# Bytes of an encoded index; SIZE_MAX where no size_t holds them.
cdef size_t shard_index_size(size_t count, bint checksum) noexcept nogil

# An index with one owner; or NULL, and in `fault` a text that is never freed.
cdef ShardIndex* shard_index_decode(
    const char* data,
    size_t size,
    size_t count,
    bint checksum,
    bint big_endian,
    const char** fault,
) noexcept nogil

# NULL, or what is wrong, and in `at` the inner chunk that it is wrong at. Offsets count from the
# shard's start, and so does `index_start`; no byte of an inner chunk may be at or after
# `shard_size` or in the index. Without fault, offset + nbytes of every inner chunk held is a sum
# that does not overflow.
cdef const char* shard_index_fault(
    const ShardIndex* index,
    unsigned long long shard_size,
    unsigned long long index_start,
    size_t index_size,
    size_t* at,
) noexcept nogil

cdef void shard_index_retain(ShardIndex* index) noexcept nogil
cdef void shard_index_release(ShardIndex* index) noexcept nogil     # NULL is nobody's


cdef inline unsigned long long shard_index_offset(
    const ShardIndex* index, size_t number
) noexcept nogil:
    return index.pairs[2 * number]


cdef inline unsigned long long shard_index_nbytes(
    const ShardIndex* index, size_t number
) noexcept nogil:
    return index.pairs[2 * number + 1]


cdef inline bint shard_index_holds(const ShardIndex* index, size_t number) noexcept nogil:
    return (shard_index_offset(index, number) != MISSING
            or shard_index_nbytes(index, number) != MISSING)
