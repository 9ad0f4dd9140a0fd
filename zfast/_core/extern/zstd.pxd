# Zstandard's one-shot decompression: https://facebook.github.io/zstd/zstd_manual.html
# Types of functions that are looked up by name; nothing is linked and no header is needed.

ctypedef void ZSTD_DCtx

ctypedef ZSTD_DCtx* (*ZSTD_createDCtx_t)() noexcept nogil
ctypedef size_t (*ZSTD_freeDCtx_t)(ZSTD_DCtx*) noexcept nogil
ctypedef size_t (*ZSTD_decompressDCtx_t)(
    ZSTD_DCtx*, void*, size_t, const void*, size_t
) noexcept nogil
ctypedef unsigned int (*ZSTD_isError_t)(size_t) noexcept nogil
ctypedef int (*ZSTD_getErrorCode_t)(size_t) noexcept nogil

# From zstd_errors.h: only values that zstd has declared stable.
cdef enum:
    ZSTD_error_prefix_unknown = 10
    ZSTD_error_checksum_wrong = 22
    ZSTD_error_dictionary_wrong = 32
    ZSTD_error_memory_allocation = 64
    ZSTD_error_dstSize_tooSmall = 70
    ZSTD_error_srcSize_wrong = 72
