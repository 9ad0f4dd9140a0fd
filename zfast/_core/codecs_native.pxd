# The decompressors that numcodecs brings, called without the GIL.

from zfast._core.extern.zlib cimport z_stream
from zfast._core.extern.zstd cimport ZSTD_DCtx

cdef struct Contexts:
    # What decompressors keep from one frame to the next; of one thread. Made when first needed.
    ZSTD_DCtx* zstd
    z_stream inflate
    bint inflates

ctypedef const char* (*Decompress)(
    Contexts* contexts, const char* data, size_t size, char* into, size_t capacity, size_t* made
) noexcept nogil
# Decompresses all of `data` into at most `capacity` bytes. NULL when all is well, with the number
# of bytes in made[0], or with more than `capacity` there if that is what it decodes to; else a
# static text that says what is wrong. `into` may be overwritten anywhere, also on failure.

cdef void contexts_init(Contexts* contexts) noexcept nogil
cdef void contexts_clear(Contexts* contexts) noexcept nogil

# NULL if there is none for a codec of that name ("zstd", "blosc", "gzip", "zlib", "lz4").
cdef Decompress decompressor(str codec)


cdef inline unsigned int load_le32(const char* data) noexcept nogil:
    cdef const unsigned char* octets = <const unsigned char*>data
    return (octets[0] | (<unsigned int>octets[1] << 8) | (<unsigned int>octets[2] << 16)
            | (<unsigned int>octets[3] << 24))
