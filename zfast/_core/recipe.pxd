# How the chunks of one array are decoded, and the way from their bytes into the output.

from libcpp.vector cimport vector

from zfast._core.codecs cimport CodecStep, Decoder
from zfast._core.placement cimport MAX_DIMENSIONS, Extent, Layout, Placement

cdef cppclass Chain:
    # One level of a codec chain: an array's chunk or shard, or what is in a shard.
    Layout layout                   # of the decoded chunk, as it is stored
    size_t size                     # of the decoded chunk in bytes
    size_t most                     # bytes that it may take where it is stored
    vector[CodecStep] steps         # bytes to bytes, in decoding order
    vector[int] axes                # stored dimension k is dimension axes[k] of the level above
    bint permuted                   # `axes` are not just 0, 1, 2, ...
    Chain* inner                    # of an inner chunk, NULL where this is no shard
    bint index_at_end
    bint index_checksum
    bint index_big_endian
    size_t inner_count              # inner chunks of a shard
    size_t index_size               # bytes of its index
    Py_ssize_t[MAX_DIMENSIONS] grid  # inner chunks along each stored dimension
    Py_ssize_t[MAX_DIMENSIONS] inner_shape  # shape of one, in this level's stored dimensions

cdef struct InnerWalk:
    # Walks the inner chunks that a box touches, in C order.
    const Chain* chain
    const Placement* whole
    Py_ssize_t[MAX_DIMENSIONS] first
    Py_ssize_t[MAX_DIMENSIONS] last
    Py_ssize_t[MAX_DIMENSIONS] at
    bint ended

cdef void inner_walk_start(
    InnerWalk* walk, const Chain* chain, const Placement* whole
) noexcept nogil
cdef bint inner_walk_next(
    InnerWalk* walk, size_t* number, Placement* part, Extent* extents
) noexcept nogil

cdef struct WantedInner:
    # What is wanted of one inner chunk, where that is no box of the shard.
    size_t number
    Placement placement             # in the inner chunk's own stored dimensions, or its only one

cdef bint chain_place(
    const Chain* chain, const Placement* whole, size_t number, Placement* part, Extent* extents
) noexcept nogil

cdef const char* chain_read_wanted(
    const Chain* chain, const Chain* inner_chain, Decoder* decoder, const char* data, size_t size,
    const WantedInner* wanted, size_t count, const char* fill, long* number
) noexcept nogil

cdef const char* chain_read(
    const Chain* chain, Decoder* decoder, const char* data, size_t size,
    const Placement* placement, const char* fill, long* number
) noexcept nogil

cdef class Recipe:
    cdef Chain* chain
    cdef Chain* flat
    cdef Recipe inner_recipe

    cdef const Chain* flat_chain(self)
    cdef _shard(self, Recipe inner, bint at_end, bint checksum, bint big_endian)
