# TLS over a session that Python's ssl opened: the operations of a transport, on its SSL*.
#
# A session is used by one thread at a time, and its SSLSocket is kept alive meanwhile. OpenSSL
# writes by write(): a thread that runs an operation, recv too, which may have to answer a key
# update, blocks or ignores SIGPIPE. The engine's threads block every signal, and a guest blocks
# this one: Python itself ignores it, but a program may have undone that.

from posix.signal cimport sigset_t

from zfast._core.transport cimport Transport

cdef void transport_over_session(Transport* transport, int fd, void* session) noexcept nogil
cdef bint tls_block_broken_pipes(sigset_t* before) noexcept nogil
cdef void tls_unblock_broken_pipes(const sigset_t* before) noexcept nogil
