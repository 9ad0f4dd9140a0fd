# zlib's inflate: https://www.zlib.net/manual.html
# Types of functions that are looked up by name; nothing is linked and no header is needed.

cdef struct z_stream:
    const unsigned char* next_in
    unsigned int avail_in
    unsigned long total_in
    unsigned char* next_out
    unsigned int avail_out
    unsigned long total_out
    const char* msg
    void* state
    void* (*zalloc)(void*, unsigned int, unsigned int) noexcept nogil
    void (*zfree)(void*, void*) noexcept nogil
    void* opaque
    int data_type
    unsigned long adler
    unsigned long reserved

ctypedef const char* (*zlibVersion_t)() noexcept nogil
ctypedef int (*inflateInit2_t)(z_stream*, int, const char*, int) noexcept nogil
ctypedef int (*inflateReset2_t)(z_stream*, int) noexcept nogil
ctypedef int (*inflate_t)(z_stream*, int) noexcept nogil
ctypedef int (*inflateEnd_t)(z_stream*) noexcept nogil

cdef enum:
    Z_NO_FLUSH = 0
    Z_FINISH = 4

    Z_OK = 0
    Z_STREAM_END = 1
    Z_NEED_DICT = 2
    Z_MEM_ERROR = -4
    Z_BUF_ERROR = -5

    # Window bits: of a zlib stream, and of a gzip member.
    MAX_WBITS = 15
    GZIP_WBITS = 31
