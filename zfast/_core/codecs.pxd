# Bytes-to-bytes codec chains, decoded in memory: crc32c, compressors, shuffle and delta.

from zfast._core.codecs_native cimport Contexts

cdef enum CodecKind:
    CODEC_ZSTD
    CODEC_BLOSC
    CODEC_GZIP
    CODEC_ZLIB
    CODEC_LZ4
    CODEC_CRC32C
    CODEC_SHUFFLE
    CODEC_DELTA

cdef struct CodecStep:
    CodecKind kind
    int item_size           # SHUFFLE, DELTA: bytes of an element (DELTA: 1, 2, 4 or 8)

cdef struct Scratch:
    char* base
    size_t size

cdef cppclass Decoder:
    # What one thread decodes with, again and again; shared by nobody.
    Contexts contexts
    Scratch[2] scratch

cdef bint codec_available(CodecKind kind) noexcept nogil

cdef Decoder* decoder_new() noexcept nogil
cdef void decoder_free(Decoder* decoder) noexcept nogil
cdef void decoder_trim(Decoder* decoder) noexcept nogil

cdef const char* decode(
    Decoder* decoder, const CodecStep* steps, size_t count, const char* data, size_t size,
    size_t decoded_size, char* into, const char** decoded
) noexcept nogil
cdef CodecKind codec_kind(str name) except *
