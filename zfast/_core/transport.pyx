"""Moves bytes over connections that somebody else opened and will close: one table of operations.

Never blocks: an operation that cannot move a byte says what to poll for. EINTR is retried here
and nowhere else.
"""

from libc.errno cimport EAGAIN, EINTR, errno

from zfast._core.extern.sockets cimport (
    MSG_DONTWAIT,
    POLLIN,
    POLLOUT,
    SHUT_RDWR,
    ZFAST_SEND_FLAGS,
    recv,
    send,
    shutdown,
    zfast_acknowledge,
    zfast_segment_size,
)
from zfast._core.extern.uio cimport iovec, readv


cdef inline ssize_t _outcome(Transport* transport, ssize_t moved) noexcept nogil:
    if moved >= 0:
        return moved
    if errno == EAGAIN:
        return TRANSPORT_WOULD_BLOCK
    transport.error = errno
    return TRANSPORT_FAILED


cdef ssize_t _socket_recv(Transport* transport, char* into, size_t size) noexcept nogil:
    cdef ssize_t moved
    while True:
        moved = recv(transport.fd, into, size, MSG_DONTWAIT)
        if moved >= 0 or errno != EINTR:
            return _outcome(transport, moved)


cdef ssize_t _socket_recv_vectors(
    Transport* transport, const iovec* vectors, int count
) noexcept nogil:
    # The descriptor itself does not block: readv has no flags.
    cdef ssize_t moved
    while True:
        moved = readv(transport.fd, vectors, count)
        if moved >= 0 or errno != EINTR:
            return _outcome(transport, moved)


cdef ssize_t _socket_send(Transport* transport, const char* data, size_t size) noexcept nogil:
    cdef ssize_t moved
    while True:
        moved = send(transport.fd, data, size, ZFAST_SEND_FLAGS)
        if moved >= 0 or errno != EINTR:
            return _outcome(transport, moved)


cdef void _socket_acknowledge(Transport* transport) noexcept nogil:
    zfast_acknowledge(transport.fd)


cdef void _socket_shut(Transport* transport) noexcept nogil:
    shutdown(transport.fd, SHUT_RDWR)


cdef TransportOperations _over_socket
_over_socket.recv = _socket_recv
_over_socket.recv_vectors = _socket_recv_vectors
_over_socket.send = _socket_send
_over_socket.pending = NULL
_over_socket.read_ahead = NULL
_over_socket.acknowledge = _socket_acknowledge
_over_socket.shut = _socket_shut


cdef void transport_over_socket(Transport* transport, int fd) noexcept nogil:
    transport.fd = fd
    transport.session = NULL
    transport.operations = &_over_socket
    transport.recv_wants = POLLIN
    transport.send_wants = POLLOUT
    transport.error = 0
    transport.fault = NULL
    transport.is_refusal = False
    # Ours; the peer's may be twice that, as on Linux's loopback.
    transport.segment = 2 * zfast_segment_size(fd)


cdef class SocketTransport:
    """A plain-socket transport over an open descriptor, for tests of the operations.

    Parameters
    ----------
    fd : int
        An open, connected socket; it stays the caller's to close.
    """

    cdef Transport _transport

    def __cinit__(self, int fd):
        transport_over_socket(&self._transport, fd)

    def recv(self, Py_ssize_t size):
        """Receive at most `size` bytes: bytes, b"" at the end of the stream, None when blocked.

        Raises
        ------
        OSError
            With the errno of the failed call.
        """
        cdef bytearray into = bytearray(size)
        cdef char* start = into
        cdef ssize_t moved
        with nogil:
            moved = self._transport.operations.recv(&self._transport, start, size)
        return None if self._blocked(moved) else bytes(into[:moved])

    def send(self, const unsigned char[::1] data):
        """Send some of `data`: how many bytes went out, None when blocked.

        Raises
        ------
        OSError
            With the errno of the failed call.
        """
        cdef const char* start = <const char*>&data[0] if data.shape[0] else NULL
        cdef ssize_t moved
        with nogil:
            moved = self._transport.operations.send(&self._transport, start, data.shape[0])
        return None if self._blocked(moved) else moved

    def shut(self):
        """End both directions; the peer sees the end of the stream."""
        with nogil:
            self._transport.operations.shut(&self._transport)

    cdef bint _blocked(self, ssize_t moved) except -1:
        if moved == TRANSPORT_FAILED:
            raise OSError(self._transport.error, "the transport failed")
        return moved == TRANSPORT_WOULD_BLOCK
