# The TLS sessions of this process, and the functions of the library that has them.

from zfast._core.extern.openssl cimport (
    CRYPTO_get_ex_data_t,
    CRYPTO_get_ex_new_index_t,
    CRYPTO_set_ex_data_t,
    ERR_clear_error_t,
    ERR_peek_error_t,
    ERR_reason_error_string_t,
    OpenSSL_version_num_t,
    SSL_get_error_t,
    SSL_get_ex_data_t,
    SSL_get_fd_t,
    SSL_get_options_t,
    SSL_has_pending_t,
    SSL_read_ex_t,
    SSL_set_default_read_buffer_len_t,
    SSL_set_read_ahead_t,
    SSL_write_ex_t,
)

cdef struct OpenSSL:
    OpenSSL_version_num_t version_num
    SSL_read_ex_t read_ex
    SSL_write_ex_t write_ex
    SSL_get_error_t get_error
    SSL_has_pending_t has_pending
    SSL_set_read_ahead_t set_read_ahead
    SSL_set_default_read_buffer_len_t set_read_buffer
    SSL_get_fd_t get_fd
    SSL_get_options_t get_options
    SSL_get_ex_data_t get_ex_data
    ERR_clear_error_t clear_error
    ERR_peek_error_t peek_error
    ERR_reason_error_string_t reason_string
    CRYPTO_get_ex_new_index_t get_ex_new_index
    CRYPTO_set_ex_data_t set_ex_data
    CRYPTO_get_ex_data_t get_ex_data_of

# All of it is there wherever a session has been found.
cdef OpenSSL openssl

# Around each call that may change a session: a fork waits until it is over.
cdef void enter_session() noexcept nogil
cdef void leave_session() noexcept nogil
