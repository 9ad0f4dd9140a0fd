# LZ4's block format: https://github.com/lz4/lz4/blob/dev/lib/lz4.h
# Type of a function that is looked up by name; nothing is linked and no header is needed.

ctypedef int (*LZ4_decompress_safe_t)(const char*, char*, int, int) noexcept nogil
