# OpenSSL 1.1.1 and newer, sessions and their extra data: https://docs.openssl.org/3.0/man3/
# Types of functions that are looked up by name; nothing is linked and no header is needed. The
# structures stay opaque: SSL*, CRYPTO_EX_DATA* are void*.

from libc.stdint cimport uint64_t

ctypedef unsigned long (*OpenSSL_version_num_t)() noexcept nogil

ctypedef int (*SSL_read_ex_t)(void*, void*, size_t, size_t*) noexcept nogil
ctypedef int (*SSL_write_ex_t)(void*, const void*, size_t, size_t*) noexcept nogil
ctypedef int (*SSL_get_error_t)(const void*, int) noexcept nogil
ctypedef int (*SSL_has_pending_t)(const void*) noexcept nogil
ctypedef void (*SSL_set_read_ahead_t)(void*, int) noexcept nogil
ctypedef void (*SSL_set_default_read_buffer_len_t)(void*, size_t) noexcept nogil
ctypedef int (*SSL_get_fd_t)(const void*) noexcept nogil
ctypedef uint64_t (*SSL_get_options_t)(const void*) noexcept nogil

ctypedef void (*ERR_clear_error_t)() noexcept nogil
ctypedef unsigned long (*ERR_peek_error_t)() noexcept nogil
ctypedef const char* (*ERR_reason_error_string_t)(unsigned long) noexcept nogil

# Parent, value, its CRYPTO_EX_DATA, index, and what the index was asked for with.
ctypedef void (*CRYPTO_EX_new)(void*, void*, void*, int, long, void*) noexcept nogil
ctypedef void (*CRYPTO_EX_free)(void*, void*, void*, int, long, void*) noexcept nogil
# To, from, the address of the value, index, ...
ctypedef int (*CRYPTO_EX_dup)(void*, const void*, void*, int, long, void*) noexcept nogil
ctypedef int (*CRYPTO_get_ex_new_index_t)(
    int, long, void*, CRYPTO_EX_new, CRYPTO_EX_dup, CRYPTO_EX_free
) noexcept nogil
ctypedef int (*CRYPTO_set_ex_data_t)(void*, int, void*) noexcept nogil
ctypedef void* (*CRYPTO_get_ex_data_t)(const void*, int) noexcept nogil
ctypedef void* (*SSL_get_ex_data_t)(const void*, int) noexcept nogil

cdef enum:
    SSL_ERROR_SSL = 1
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_WANT_WRITE = 3
    SSL_ERROR_SYSCALL = 5
    SSL_ERROR_ZERO_RETURN = 6

    SSL_OP_ENABLE_KTLS = 1 << 3
    SSL_OP_IGNORE_UNEXPECTED_EOF = 1 << 7

    CRYPTO_EX_INDEX_SSL = 0
    # What SSL_set_app_data sets.
    APP_DATA = 0

    # Codes of the error queue: the library's number is above the reason's bits.
    ERR_LIB_SSL = 20
    ERR_LIB_SHIFT = 23
    ERR_LIB_SHIFT_1_1 = 24
    ERR_REASONS = 0xFFF
    SSL_R_UNEXPECTED_EOF_WHILE_READING = 294
    # An alert that was received is a reason: this, plus its number (RFC 8446, section 6).
    SSL_AD_REASON_OFFSET = 1000
    SSL_AD_BAD_CERTIFICATE = 42
    SSL_AD_ACCESS_DENIED = 49
    SSL_AD_CERTIFICATE_REQUIRED = 116
