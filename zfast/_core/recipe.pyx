"""Recipes: an array's codec chain, compiled once, and what it does to the bytes of a chunk.

Pure: decodes memory into memory. A shard within a shard, or one inside a compressed object, is
read whole and taken apart here; the shards of an array itself the assembly reads by ranges.
"""

import math

cimport cython

from zfast._core.codecs cimport (
    CodecStep,
    Decoder,
    codec_available,
    codec_kind,
    decode,
)
from zfast._core.placement cimport MAX_DIMENSIONS, Extent, Placement, placement_within
from zfast._core.scatter cimport scatter, scatter_fill, scatter_target
from zfast._core.shard_index cimport (
    ShardIndex,
    shard_index_decode,
    shard_index_fault,
    shard_index_holds,
    shard_index_nbytes,
    shard_index_offset,
    shard_index_release,
    shard_index_size,
)

# Of a chunk or an index: sums of offsets within it cannot overflow.
cdef long long MAX_SIZE = 1 << 46

cdef enum:
    # No codec makes so much of a chunk as this many times its bytes, and more for its frames: of an
    # inner chunk of one byte gzip makes 21.
    WORTH_TIMES = 4
    FRAMES = 256
    # Between the inner chunks of a shard there may be what is none of theirs.
    GAPS = 64 << 20


# ------------------------------------------------------------------------------------ inner chunks


cdef void inner_walk_start(
    InnerWalk* walk, const Chain* chain, const Placement* whole
) noexcept nogil:
    cdef int dimension
    cdef const Extent* extent
    walk.chain = chain
    walk.whole = whole
    walk.ended = False
    for dimension in range(chain.layout.ndim):
        extent = &whole.extents[dimension]
        walk.first[dimension] = extent.start // chain.inner_shape[dimension]
        walk.last[dimension] = (
            (extent.start + (extent.count - 1) * extent.step) // chain.inner_shape[dimension]
        )
        walk.at[dimension] = walk.first[dimension]


cdef bint inner_walk_next(
    InnerWalk* walk, size_t* number, Placement* part, Extent* extents
) noexcept nogil:
    # The next inner chunk with something wanted, placed as by chain_place; False after the last.
    cdef const Chain* chain = walk.chain
    cdef int dimension
    cdef bint touched = False
    while not touched:
        if walk.ended:
            return False
        number[0] = 0
        for dimension in range(chain.layout.ndim):
            number[0] *= <size_t>chain.grid[dimension]
            number[0] += <size_t>walk.at[dimension]
        touched = placement_within(
            walk.whole, chain.layout.ndim, chain.inner_shape, walk.at, part, extents)
        dimension = chain.layout.ndim - 1
        while dimension >= 0 and walk.at[dimension] == walk.last[dimension]:
            walk.at[dimension] = walk.first[dimension]
            dimension -= 1
        if dimension < 0:
            walk.ended = True
        else:
            walk.at[dimension] += 1
    _permute(chain.inner, extents)
    return True


cdef bint chain_place(
    const Chain* chain, const Placement* whole, size_t number, Placement* part, Extent* extents
) noexcept nogil:
    # Where the wanted part of an inner chunk goes, in the inner chunk's own stored dimensions;
    # False if nothing of it is wanted. `extents` has room for all dimensions.
    cdef Py_ssize_t[MAX_DIMENSIONS] at
    cdef int dimension = chain.layout.ndim
    while dimension > 0:
        dimension -= 1
        at[dimension] = <Py_ssize_t>(number % <size_t>chain.grid[dimension])
        number //= <size_t>chain.grid[dimension]
    if not placement_within(whole, chain.layout.ndim, chain.inner_shape, at, part, extents):
        return False
    _permute(chain.inner, extents)
    return True


cdef void _permute(const Chain* chain, Extent* extents) noexcept nogil:
    cdef Extent[MAX_DIMENSIONS] kept
    cdef int dimension
    if not chain.permuted:
        return
    for dimension in range(chain.layout.ndim):
        kept[dimension] = extents[dimension]
    for dimension in range(chain.layout.ndim):
        extents[dimension] = kept[chain.axes[dimension]]


# ----------------------------------------------------------------------------------------- reading


cdef const char* chain_read(
    const Chain* chain, Decoder* decoder, const char* data, size_t size,
    const Placement* placement, const char* fill, long* number
) noexcept nogil:
    # Decodes a stored chunk and puts what the placement selects into the output. NULL, or a static
    # text that says what is wrong; then in `number` the inner chunk it is wrong at, if it is one.
    cdef const char* decoded = data
    cdef const char* fault
    cdef char* target
    if chain.inner != NULL:
        return _read_shard(chain, decoder, data, size, placement, fill, number)
    target = scatter_target(&chain.layout, placement)
    fault = decode(
        decoder, chain.steps.data(), chain.steps.size(), data, size, chain.size, target, &decoded
    )
    if fault == NULL and (target == NULL or decoded != target):
        scatter(&chain.layout, placement, decoded)
    return fault


cdef const char* _read_shard(
    const Chain* chain, Decoder* decoder, const char* data, size_t size,
    const Placement* placement, const char* fill, long* number
) noexcept nogil:
    cdef const char* fault = NULL
    cdef InnerWalk walk
    cdef WantedInner one
    cdef Extent[MAX_DIMENSIONS] extents
    cdef ShardIndex* index = _index_of(chain, data, size, &fault, number)
    if index == NULL:
        return fault
    inner_walk_start(&walk, chain, placement)
    while fault == NULL and inner_walk_next(&walk, &one.number, &one.placement, extents):
        fault = _read_inner(chain.inner, decoder, data, index, &one, fill, number)
    shard_index_release(index)
    return fault


cdef const char* chain_read_wanted(
    const Chain* chain, const Chain* inner_chain, Decoder* decoder, const char* data, size_t size,
    const WantedInner* wanted, size_t count, const char* fill, long* number
) noexcept nogil:
    # The same for a shard of which other things are wanted than a box.
    cdef const char* fault = NULL
    cdef size_t at
    cdef ShardIndex* index = _index_of(chain, data, size, &fault, number)
    if index == NULL:
        return fault
    for at in range(count):
        if fault == NULL:
            fault = _read_inner(inner_chain, decoder, data, index, &wanted[at], fill, number)
    shard_index_release(index)
    return fault


cdef ShardIndex* _index_of(
    const Chain* chain, const char* data, size_t size, const char** fault, long* number
) noexcept nogil:
    cdef size_t start, at
    cdef ShardIndex* index
    if size < chain.index_size:
        fault[0] = "the shard is shorter than its index"
        return NULL
    start = size - chain.index_size if chain.index_at_end else 0
    index = shard_index_decode(
        data + start, chain.index_size, chain.inner_count, chain.index_checksum,
        chain.index_big_endian, fault,
    )
    if index == NULL:
        return NULL
    fault[0] = shard_index_fault(index, size, start, chain.index_size, &at)
    if fault[0] == NULL:
        return index
    number[0] = <long>at
    shard_index_release(index)
    return NULL


cdef const char* _read_inner(
    const Chain* chain, Decoder* decoder, const char* data, const ShardIndex* index,
    const WantedInner* wanted, const char* fill, long* number
) noexcept nogil:
    cdef const char* fault
    cdef long deeper = -1
    if not shard_index_holds(index, wanted.number):
        scatter_fill(chain.layout.item_size, &wanted.placement, fill)
        return NULL
    fault = chain_read(
        chain, decoder, data + shard_index_offset(index, wanted.number),
        <size_t>shard_index_nbytes(index, wanted.number), &wanted.placement, fill, &deeper,
    )
    if fault != NULL:
        number[0] = <long>wanted.number
    return fault


# --------------------------------------------------------------------------------- the Python face


cdef class Recipe:
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

    def __cinit__(self, shape, axes, size_t item_size, size_t swap, steps, Recipe inner=None,
                  bint index_at_end=True, bint index_checksum=True, bint index_big_endian=False):
        cdef Chain* chain = new Chain()
        cdef CodecStep step
        cdef int dimension
        self.chain = chain
        if len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"{len(shape)} dimensions")
        if math.prod(shape) * item_size > MAX_SIZE:
            raise ValueError(f"chunks of shape {shape}, which is more than any memory")
        chain.layout.ndim = len(shape)
        chain.layout.item_size = item_size
        chain.layout.swap = swap
        chain.size = item_size
        chain.permuted = False
        for dimension in range(chain.layout.ndim):
            chain.layout.shape[dimension] = shape[dimension]
            chain.size *= <size_t>chain.layout.shape[dimension]
            chain.axes.push_back(axes[dimension])
            chain.permuted = chain.permuted or chain.axes[dimension] != dimension
        chain.most = WORTH_TIMES * chain.size + FRAMES
        for name, size in steps:
            step.kind = codec_kind(name)
            step.item_size = size
            if not codec_available(step.kind):
                raise ValueError(f"no native decoder for {name}")
            chain.steps.push_back(step)
        if inner is not None:
            self._shard(inner, index_at_end, index_checksum, index_big_endian)

    cdef _shard(self, Recipe inner, bint at_end, bint checksum, bint big_endian):
        cdef Chain* chain = self.chain
        cdef int dimension
        if chain.steps.size():
            raise ValueError("a codec around shards")
        self.inner_recipe = inner
        chain.inner = inner.chain
        chain.inner_count = 1
        for dimension in range(chain.layout.ndim):
            chain.inner_shape[inner.chain.axes[dimension]] = inner.chain.layout.shape[dimension]
        for dimension in range(chain.layout.ndim):
            if chain.inner_shape[dimension] <= 0:
                raise ValueError("shards of chunks without elements")
            chain.grid[dimension] = chain.layout.shape[dimension] // chain.inner_shape[dimension]
            chain.inner_count *= <size_t>chain.grid[dimension]
        chain.index_at_end = at_end
        chain.index_checksum = checksum
        chain.index_big_endian = big_endian
        chain.index_size = shard_index_size(chain.inner_count, checksum)
        if chain.index_size > <size_t>MAX_SIZE:
            raise ValueError(f"shards of {chain.inner_count} chunks")
        chain.most = chain.index_size + chain.inner_count * inner.chain.most + GAPS

    def __dealloc__(self):
        del self.flat
        del self.chain

    cdef const Chain* flat_chain(self):
        # The same chunk as one dimension, for selections that name single elements. Without a GIL
        # two threads that share an array may both be the first to want it.
        cdef Chain* flat
        with cython.critical_section(self):
            if self.flat == NULL:
                flat = new Chain()
                flat.layout.ndim = 1
                flat.layout.item_size = self.chain.layout.item_size
                flat.layout.swap = self.chain.layout.swap
                flat.layout.shape[0] = <Py_ssize_t>(self.chain.size // self.chain.layout.item_size)
                flat.size = self.chain.size
                flat.most = self.chain.most
                flat.steps = self.chain.steps
                self.flat = flat
        return self.flat

    @property
    def sharded(self):
        """Whether it is the recipe of a shard."""
        return self.chain.inner != NULL

    @property
    def inner(self):
        """The recipe of the inner chunks of a shard, else None."""
        return self.inner_recipe

    @property
    def axes(self):
        """Stored dimension k is dimension ``axes[k]`` of the level above."""
        return tuple(self.chain.axes)

    @property
    def shape(self):
        """Of a chunk as it is stored."""
        return tuple([
            self.chain.layout.shape[dimension] for dimension in range(self.chain.layout.ndim)
        ])
