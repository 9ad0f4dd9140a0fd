# TLS over a session that Python's ssl opened: the operations of a transport, on its SSL*.
#
# A session is used by one thread at a time, and its SSLSocket is kept alive meanwhile. OpenSSL
# writes by write(): a thread that runs an operation, recv too, which may have to answer a key
# update, blocks or ignores SIGPIPE. The engine's threads block every signal, and a guest blocks this
# one: Python itself ignores it, but a program may have undone that.

from zfast._core.transport cimport Transport

cdef void transport_over_session(Transport* transport, int fd, void* session) noexcept nogil
