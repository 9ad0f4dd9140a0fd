# c-blosc 1, decompression without global state: https://www.blosc.org/c-blosc-api.html
# The frame's header: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
# Types of functions that are looked up by name; nothing is linked and no header is needed.

ctypedef int (*blosc_cbuffer_validate_t)(const void*, size_t, size_t*) noexcept nogil
ctypedef int (*blosc_decompress_ctx_t)(const void*, void*, size_t, int) noexcept nogil

cdef enum:
    # Offsets in the header, and bits of its flags.
    BLOSC_VERSION = 0
    BLOSC_FLAGS = 2
    BLOSC_CBYTES = 12
    BLOSC_HEADER = 16
    BLOSC_MEMCPYED = 0x2
    # The inner format, 0 being blosclz.
    BLOSC_FORMAT = 0xE0

    BLOSC_VERSION_FORMAT = 2
