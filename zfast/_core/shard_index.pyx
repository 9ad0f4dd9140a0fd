"""The index of a shard, decoded and then validated: total over all byte strings, never a crash.

The layout is that of the sharding codec, version 1.0, with the index codecs `bytes` and `crc32c`:
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from libc.stdint cimport SIZE_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from zfast._core.crc32c cimport crc32c

cdef extern from * nogil:
    """
    #include <algorithm>
    #define ZFAST_BIG_ENDIAN (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
    """
    bint HOST_IS_BIG_ENDIAN "ZFAST_BIG_ENDIAN"
    unsigned long long swapped "__builtin_bswap64"(unsigned long long)

cdef enum:
    PAIR = 16
    CHECKSUM = 4

cdef struct HeldRange:
    unsigned long long start
    unsigned long long end
    size_t number

cdef extern from "<algorithm>" nogil:
    void sort "std::sort"(
        HeldRange*, HeldRange*, bint (*)(const HeldRange&, const HeldRange&) noexcept nogil)


cdef size_t shard_index_size(size_t count, bint checksum) noexcept nogil:
    if count > (SIZE_MAX - CHECKSUM) // PAIR:
        return SIZE_MAX
    return PAIR * count + (CHECKSUM if checksum else 0)


cdef inline unsigned int _little_endian(const unsigned char* data) noexcept nogil:
    return (data[0] | <unsigned int>data[1] << 8 | <unsigned int>data[2] << 16
            | <unsigned int>data[3] << 24)


cdef ShardIndex* shard_index_decode(
    const char* data,
    size_t size,
    size_t count,
    bint checksum,
    bint big_endian,
    const char** fault,
) noexcept nogil:
    cdef size_t expected = shard_index_size(count, checksum)
    cdef size_t covered = PAIR * count
    cdef unsigned long long* pairs
    cdef ShardIndex* index
    cdef size_t at
    if size < expected or expected == SIZE_MAX:
        fault[0] = "the index is truncated"
        return NULL
    if size > expected:
        fault[0] = "the index is longer than its inner chunks account for"
        return NULL
    if checksum and crc32c(data, covered) != _little_endian(<const unsigned char*>data + covered):
        fault[0] = "the checksum of the index does not match"
        return NULL
    # One byte more: malloc may answer NULL when it is asked for none.
    pairs = <unsigned long long*>malloc(covered + 1)
    if pairs == NULL:
        fault[0] = "there is no memory for the index"
        return NULL
    memcpy(pairs, data, covered)
    if big_endian != HOST_IS_BIG_ENDIAN:
        for at in range(2 * count):
            pairs[at] = swapped(pairs[at])
    index = new ShardIndex()
    index.owners.store(1)
    index.count = count
    index.pairs = pairs
    index.object_size = -1
    return index


cdef void shard_index_retain(ShardIndex* index) noexcept nogil:
    index.owners.fetch_add(1)


cdef void shard_index_release(ShardIndex* index) noexcept nogil:
    if index != NULL and index.owners.fetch_sub(1) == 1:
        free(index.pairs)
        del index


cdef const char* shard_index_fault(
    const ShardIndex* index,
    unsigned long long shard_size,
    unsigned long long index_start,
    size_t index_size,
    size_t* at,
) noexcept nogil:
    cdef unsigned long long offset, nbytes
    cdef unsigned long long written = 0     # where the inner chunk before this one ends
    cdef size_t number
    cdef size_t held = 0
    cdef bint in_order = True
    for number in range(index.count):
        if not shard_index_holds(index, number):
            continue
        offset = shard_index_offset(index, number)
        nbytes = shard_index_nbytes(index, number)
        at[0] = number
        if offset == MISSING or nbytes == MISSING:
            return "only one of offset and size says that the inner chunk is empty"
        # No sum before it is known to fit.
        if offset > shard_size or nbytes > shard_size - offset:
            return "the inner chunk ends after the shard"
        if nbytes == 0:
            continue
        if (offset - index_start < index_size if offset >= index_start
                else index_start - offset < nbytes and index_size > 0):
            return "the inner chunk overlaps the index"
        if offset < written:
            in_order = False
        written = offset + nbytes
        held += 1
    if in_order:
        return NULL
    return _overlap(index, held, at)


cdef bint _before(const HeldRange& one, const HeldRange& other) noexcept nogil:
    return one.number < other.number if one.start == other.start else one.start < other.start


cdef const char* _overlap(const ShardIndex* index, size_t held, size_t* at) noexcept nogil:
    # For any order, and writers like to have one of their own: zarr's is a Morton curve.
    cdef const char* fault = NULL
    cdef size_t number, slot
    cdef HeldRange* ranges = <HeldRange*>malloc(held * sizeof(HeldRange))
    if ranges == NULL:
        return "there is no memory to check the index"
    slot = 0
    for number in range(index.count):
        if shard_index_holds(index, number) and shard_index_nbytes(index, number) > 0:
            ranges[slot].start = shard_index_offset(index, number)
            ranges[slot].end = ranges[slot].start + shard_index_nbytes(index, number)
            ranges[slot].number = number
            slot += 1
    sort(ranges, ranges + held, _before)
    for slot in range(1, held):
        if ranges[slot].start < ranges[slot - 1].end:
            at[0] = ranges[slot].number
            fault = "the inner chunk overlaps another"
            break
    free(ranges)
    return fault


cdef class Index:
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

    cdef ShardIndex* _index

    def __cinit__(
        self, bytes data not None, size_t count, *, bint checksum=True, bint big_endian=False
    ):
        cdef const char* fault = NULL
        self._index = shard_index_decode(data, len(data), count, checksum, big_endian, &fault)
        if self._index == NULL:
            raise ValueError((<bytes>fault).decode())

    def __dealloc__(self):
        shard_index_release(self._index)

    @property
    def pairs(self):
        """Offset and nbytes of each inner chunk, None for an empty one."""
        return [
            (shard_index_offset(self._index, number), shard_index_nbytes(self._index, number))
            if shard_index_holds(self._index, number) else None
            for number in range(self._index.count)
        ]

    @property
    def owners(self):
        """How many share what was decoded."""
        return self._index.owners.load()

    def share(self):
        """Another owner of what was decoded."""
        cdef Index other = Index.__new__(Index, b"", 0, checksum=False)
        shard_index_release(other._index)
        shard_index_retain(self._index)
        other._index = self._index
        return other

    def fault(
        self, unsigned long long shard_size, unsigned long long index_start=0, size_t index_size=0
    ):
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
        cdef size_t at = 0
        cdef const char* fault
        with nogil:
            fault = shard_index_fault(self._index, shard_size, index_start, index_size, &at)
        return None if fault == NULL else ((<bytes>fault).decode(), at)


def index_size(size_t count, bint checksum=True):
    """Bytes of an encoded index of `count` inner chunks."""
    return shard_index_size(count, checksum)
