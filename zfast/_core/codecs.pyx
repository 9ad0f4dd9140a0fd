"""Codec chains: from the stored bytes of a chunk to its elements' bytes, without the GIL.

Pure: memory to memory, the size of the result known beforehand. No input makes it read or write
out of bounds, nor allocate more than a bound that the chunk's size sets: a frame that declares or
decodes to more is a fault. Where each decompressor is from, see codecs_native.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport SIZE_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from libcpp.vector cimport vector

from zfast._core.codecs_native cimport (
    Decompress,
    contexts_clear,
    contexts_init,
    decompressor,
    load_le32,
)
from zfast._core.crc32c cimport crc32c

from zfast._core import codecs_native

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    // Loads and stores by memcpy: neither side needs to be aligned.

    template <int N>
    static void zfast_unshuffle(
        const char* __restrict data, size_t count, char* __restrict into
    ) noexcept {
        for (size_t item = 0; item < count; item++)
            for (int octet = 0; octet < N; octet++)
                into[item * N + octet] = data[octet * count + item];
    }

    template <typename T>
    static void zfast_undelta(const char* data, size_t count, char* into) noexcept {
        T sum = 0, step;
        for (size_t item = 0; item < count; item++) {
            memcpy(&step, data + item * sizeof(T), sizeof(T));
            sum = static_cast<T>(sum + step);
            memcpy(into + item * sizeof(T), &sum, sizeof(T));
        }
    }
    """
    void unshuffle2 "zfast_unshuffle<2>"(const char*, size_t, char*) noexcept nogil
    void unshuffle4 "zfast_unshuffle<4>"(const char*, size_t, char*) noexcept nogil
    void unshuffle8 "zfast_unshuffle<8>"(const char*, size_t, char*) noexcept nogil
    void undelta1 "zfast_undelta<uint8_t>"(const char*, size_t, char*) noexcept nogil
    void undelta2 "zfast_undelta<uint16_t>"(const char*, size_t, char*) noexcept nogil
    void undelta4 "zfast_undelta<uint32_t>"(const char*, size_t, char*) noexcept nogil
    void undelta8 "zfast_undelta<uint64_t>"(const char*, size_t, char*) noexcept nogil

cdef enum:
    KINDS = CODEC_DELTA + 1
    CHECKSUM_SIZE = 4
    # What a step whose result another compressor takes may yield beyond a quarter more than the
    # chunk: no compressor makes incompressible data longer than that.
    FRAME_OVERHEAD = 64 << 10
    # Scratch that is kept by decoder_trim.
    SMALL_SCRATCH = 1 << 20

ctypedef const char* Fault

cdef Decompress[KINDS] _decompress
cdef Fault[KINDS] _wrong_size
cdef Fault[KINDS] _missing
cdef dict _KINDS = {
    "zstd": CODEC_ZSTD,
    "blosc": CODEC_BLOSC,
    "gzip": CODEC_GZIP,
    "zlib": CODEC_ZLIB,
    "lz4": CODEC_LZ4,
    "crc32c": CODEC_CRC32C,
    "shuffle": CODEC_SHUFFLE,
    "delta": CODEC_DELTA,
}

for _name, _kind in _KINDS.items():
    _decompress[<int>_kind] = decompressor(_name)

_wrong_size[<int>CODEC_ZSTD] = "zstd: decodes to another size than the chunk's"
_wrong_size[<int>CODEC_BLOSC] = "blosc: decodes to another size than the chunk's"
_wrong_size[<int>CODEC_GZIP] = "gzip: decodes to another size than the chunk's"
_wrong_size[<int>CODEC_ZLIB] = "zlib: decodes to another size than the chunk's"
_wrong_size[<int>CODEC_LZ4] = "lz4: decodes to another size than the chunk's"
_wrong_size[<int>CODEC_CRC32C] = "crc32c: the data before it is of another size than the chunk"
_wrong_size[<int>CODEC_SHUFFLE] = "shuffle: the data is of another size than the chunk"
_wrong_size[<int>CODEC_DELTA] = "delta: the data is of another size than the chunk"
_missing[<int>CODEC_ZSTD] = "zstd: there is no native decompressor here"
_missing[<int>CODEC_BLOSC] = "blosc: there is no native decompressor here"
_missing[<int>CODEC_GZIP] = "gzip: there is no native decompressor here"
_missing[<int>CODEC_ZLIB] = "zlib: there is no native decompressor here"
_missing[<int>CODEC_LZ4] = "lz4: there is no native decompressor here"


cdef inline bint _is_compressor(CodecKind kind) noexcept nogil:
    return kind < CODEC_CRC32C


cdef CodecKind codec_kind(str name) except *:
    # KeyError for a name that is none.
    return <CodecKind><int>_KINDS[name]


cdef bint codec_available(CodecKind kind) noexcept nogil:
    return not _is_compressor(kind) or _decompress[<int>kind] != NULL


# ---------------------------------------------------------------------------------------- decoder


cdef Decoder* decoder_new() noexcept nogil:
    cdef Decoder* decoder = new Decoder()
    contexts_init(&decoder.contexts)
    return decoder


cdef void decoder_free(Decoder* decoder) noexcept nogil:
    if decoder != NULL:
        contexts_clear(&decoder.contexts)
        free(decoder.scratch[0].base)
        free(decoder.scratch[1].base)
        del decoder


cdef void decoder_trim(Decoder* decoder) noexcept nogil:
    # Gives large scratch back; what was decoded there is gone.
    cdef int which
    for which in range(2):
        if decoder.scratch[which].size > SMALL_SCRATCH:
            free(decoder.scratch[which].base)
            decoder.scratch[which].base = NULL
            decoder.scratch[which].size = 0


cdef char* _room(Scratch* scratch, size_t size) noexcept nogil:
    # Not realloc: what was there need not be kept.
    if scratch.size < size or scratch.base == NULL:
        free(scratch.base)
        scratch.base = <char*>malloc(size if size else 1)
        scratch.size = size if scratch.base != NULL else 0
    return scratch.base


# ------------------------------------------------------------------------------------------ steps


cdef const char* _checked(const char* data, size_t* size) noexcept nogil:
    # Takes the checksum off the end: 4 bytes, little-endian.
    # https://zarr-specs.readthedocs.io/en/latest/v3/codecs/crc32c/index.html
    if size[0] < CHECKSUM_SIZE:
        return "crc32c: the data is shorter than its checksum"
    size[0] -= CHECKSUM_SIZE
    if crc32c(data, size[0]) != load_le32(data + size[0]):
        return "crc32c: the data does not match its checksum"
    return NULL


cdef const char* _unshuffle(
    const char* data, size_t size, int item_size, char* into
) noexcept nogil:
    cdef size_t width, count, item, octet
    if item_size <= 1:
        memcpy(into, data, size)
        return NULL
    width = item_size
    if size % width:
        return "shuffle: the size of the data is no multiple of the element's"
    count = size // width
    if item_size == 2:
        unshuffle2(data, count, into)
    elif item_size == 4:
        unshuffle4(data, count, into)
    elif item_size == 8:
        unshuffle8(data, count, into)
    else:
        for item in range(count):
            for octet in range(width):
                into[item * width + octet] = data[octet * count + item]
    return NULL


cdef const char* _undelta(
    const char* data, size_t size, int item_size, char* into
) noexcept nogil:
    # Each integer is the difference to the one before it; sums wrap.
    if item_size <= 0 or size % <size_t>item_size:
        return "delta: the size of the data is no multiple of the element's"
    if item_size == 1:
        undelta1(data, size, into)
    elif item_size == 2:
        undelta2(data, size // 2, into)
    elif item_size == 4:
        undelta4(data, size // 4, into)
    elif item_size == 8:
        undelta8(data, size // 8, into)
    else:
        return "delta: elements must be integers of 1, 2, 4 or 8 bytes"
    return NULL


# ------------------------------------------------------------------------------------------ chain


cdef size_t _capacity(
    const CodecStep* steps, size_t count, size_t at, size_t decoded_size, bint* exact
) noexcept nogil:
    # What the step must yield; or, where another compressor takes it, may yield at most.
    cdef size_t size = decoded_size
    exact[0] = True
    while at + 1 < count:
        at += 1
        if steps[at].kind == CODEC_CRC32C:
            size += CHECKSUM_SIZE
        elif _is_compressor(steps[at].kind):
            exact[0] = False
            return decoded_size + decoded_size // 4 + FRAME_OVERHEAD
    return size


cdef const char* decode(
    Decoder* decoder, const CodecStep* steps, size_t count, const char* data, size_t size,
    size_t decoded_size, char* into, const char** decoded
) noexcept nogil:
    # Undoes the steps in the given order. NULL when all is well, and the `decoded_size` bytes are
    # at decoded[0]: in `into` (if that is not NULL and the last step makes new bytes), in scratch
    # (until the decoder's next use), or inside `data`. Else a static text that says what is wrong;
    # `into` may be overwritten then.
    cdef const char* fault = NULL
    cdef char* target
    cdef CodecKind kind
    cdef size_t at, capacity
    cdef int free_scratch = 0
    cdef bint exact
    if decoded_size > SIZE_MAX // 2:
        return "the chunk is too large for this machine"
    if count == 0 and size != decoded_size:
        return "the stored bytes are of another size than the chunk's"
    for at in range(count):
        kind = steps[at].kind
        capacity = _capacity(steps, count, at, decoded_size, &exact)
        if kind == CODEC_CRC32C:
            fault = _checked(data, &size)
            if not exact:
                # It takes no room: only the compressor's result has to be bounded.
                capacity = size
        elif _is_compressor(kind) and _decompress[<int>kind] == NULL:
            fault = _missing[<int>kind]
        elif not _is_compressor(kind) and (size > capacity or exact and size != capacity):
            fault = _wrong_size[<int>kind]
        else:
            if into != NULL and at + 1 == count:
                target = into
            else:
                target = _room(&decoder.scratch[free_scratch], capacity)
                free_scratch = 1 - free_scratch
            if target == NULL:
                return "no memory to decode the chunk"
            if kind == CODEC_SHUFFLE:
                fault = _unshuffle(data, size, steps[at].item_size, target)
            elif kind == CODEC_DELTA:
                fault = _undelta(data, size, steps[at].item_size, target)
            else:
                fault = _decompress[<int>kind](
                    &decoder.contexts, data, size, target, capacity, &size
                )
            data = target
        if fault == NULL and (size > capacity or exact and size != capacity):
            fault = _wrong_size[<int>kind]
        if fault != NULL:
            return fault
    decoded[0] = data
    return NULL


# --------------------------------------------------------------------------------- the Python face


cdef class ChunkDecoder:
    """A decoder of chunks, with what it keeps from one to the next. For one thread at a time.

    Attributes
    ----------
    place : str
        Where the last result was made: "into", "scratch" or "data".
    """

    cdef Decoder* _decoder
    cdef readonly str place

    def __cinit__(self):
        self._decoder = decoder_new()
        self.place = ""

    def __dealloc__(self):
        decoder_free(self._decoder)

    @property
    def scratch(self):
        """Bytes of scratch that are kept, of each of the two buffers."""
        return self._decoder.scratch[0].size, self._decoder.scratch[1].size

    def trim(self):
        """Give large scratch back."""
        decoder_trim(self._decoder)

    def decode(self, steps, data, size_t decoded_size, into=None):
        """Undo the steps in the given order.

        Parameters
        ----------
        steps : iterable of (str, int)
            Codec and, for "shuffle" and "delta", bytes of an element.
        data : bytes-like
            The stored bytes.
        decoded_size : int
            Bytes of the chunk.
        into : writable bytes-like, optional
            At least `decoded_size` bytes for the last step to write to.

        Returns
        -------
        bytes
            A copy of the result, wherever that was made.

        Raises
        ------
        ValueError
            If the data does not decode to exactly `decoded_size` bytes; says what is wrong.
        """
        cdef vector[CodecStep] chain
        cdef CodecStep step
        cdef Py_buffer source, target
        cdef const char* decoded = NULL
        cdef const char* fault
        cdef char* start = NULL
        for name, item_size in steps:
            step.kind = _KINDS[name]
            step.item_size = item_size
            chain.push_back(step)
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            if into is not None:
                PyObject_GetBuffer(into, &target, PyBUF_WRITABLE)
                start = <char*>target.buf
                if <size_t>target.len < decoded_size:
                    PyBuffer_Release(&target)
                    raise ValueError(f"{target.len} bytes for a chunk of {decoded_size}")
            with nogil:
                fault = decode(
                    self._decoder, chain.data(), chain.size(), <const char*>source.buf, source.len,
                    decoded_size, start, &decoded,
                )
            if into is not None:
                PyBuffer_Release(&target)
            if fault != NULL:
                raise ValueError(fault.decode())
            if decoded == start:
                self.place = "into"
            elif <const char*>source.buf <= decoded <= <const char*>source.buf + source.len:
                self.place = "data"
            else:
                self.place = "scratch"
            return PyBytes_FromStringAndSize(decoded, decoded_size)
        finally:
            PyBuffer_Release(&source)


def decode_bytes(steps, data, size_t decoded_size):
    """Undo the steps in the given order, once; see `ChunkDecoder.decode`."""
    return ChunkDecoder().decode(steps, data, decoded_size)


def sources():
    """Where the decoder of each codec is from.

    Returns
    -------
    dict of str to str
        By codec: "numcodecs" and its version, "zfast", or "not found: " and why.
    """
    return codecs_native.sources() | dict.fromkeys(("crc32c", "shuffle", "delta"), "zfast")
