"""TLS without the GIL, over the very session (SSL*) that Python's ssl opened, checked and owns.

Never blocks, never does a handshake, never ends a session: urllib3 and Python's ssl do.
"""

from libc cimport errno
from libc.signal cimport SIGPIPE
from libc.stdint cimport uintptr_t
from posix.signal cimport sigaddset, sigemptyset, sigismember, sigset_t

from zfast._core.extern.openssl cimport (
    ERR_LIB_SHIFT,
    ERR_LIB_SHIFT_1_1,
    ERR_LIB_SSL,
    ERR_REASONS,
    SSL_AD_ACCESS_DENIED,
    SSL_AD_BAD_CERTIFICATE,
    SSL_AD_CERTIFICATE_REQUIRED,
    SSL_AD_REASON_OFFSET,
    SSL_ERROR_SYSCALL,
    SSL_ERROR_WANT_READ,
    SSL_ERROR_WANT_WRITE,
    SSL_ERROR_ZERO_RETURN,
    SSL_OP_ENABLE_KTLS,
    SSL_OP_IGNORE_UNEXPECTED_EOF,
    SSL_R_UNEXPECTED_EOF_WHILE_READING,
)
from zfast._core.extern.pthread cimport (
    SIG_BLOCK,
    SIG_SETMASK,
    pthread_sigmask,
    zfast_take_broken_pipe,
)
from zfast._core.extern.sockets cimport POLLIN, POLLOUT, SHUT_RDWR, shutdown, zfast_acknowledge
from zfast._core.tls_sessions cimport enter_session, leave_session, openssl
from zfast._core.transport cimport (
    TRANSPORT_FAILED,
    TRANSPORT_WOULD_BLOCK,
    TransportOperations,
    transport_over_socket,
)

from zfast._core.tls_sessions import session_of

cdef enum:
    # A record's content (RFC 8446, section 5.1). Python's ssl does not let OpenSSL write less than
    # it was given, and so a longer piece would show no progress before all of it is out.
    LARGEST_PIECE = 16 << 10
    # What one call of the kernel may take: four records, where OpenSSL by itself calls twice for
    # each. With OpenSSL 3.0 reading 256 MiB in chunks of 1 MiB takes 8 % less time so, and with 16
    # records no less. From 3.2 on an open session keeps its room for one: 3 %.
    READ_AHEAD = 68 << 10


# --------------------------------------------------------------------------------------- operations


cdef void _note_fault(Transport* transport) noexcept nogil:
    cdef unsigned long code = openssl.peek_error()
    cdef unsigned long reason = code & ERR_REASONS
    cdef int shift = ERR_LIB_SHIFT_1_1 if openssl.version_num() < 0x30000000UL else ERR_LIB_SHIFT
    cdef unsigned long alert = 0
    if (code >> shift) & 0xFF == ERR_LIB_SSL:
        if reason == SSL_R_UNEXPECTED_EOF_WHILE_READING:
            return
        if reason > SSL_AD_REASON_OFFSET:
            alert = reason - SSL_AD_REASON_OFFSET
    transport.error = errno.EPROTO
    # Text of the library, which lives as long as that does.
    transport.fault = openssl.reason_string(code)
    if transport.fault == NULL:
        transport.fault = "a TLS protocol error"
    # What the peer does not like of our certificate does not get better by asking again.
    transport.is_refusal = (
        SSL_AD_BAD_CERTIFICATE <= alert <= SSL_AD_ACCESS_DENIED
        or alert == SSL_AD_CERTIFICATE_REQUIRED
    )


cdef ssize_t _outcome(
    Transport* transport, int returned, int number, short* wants
) noexcept nogil:
    # What it means that OpenSSL moved nothing; `number` is the errno that it left.
    cdef int error = openssl.get_error(transport.session, returned)
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        wants[0] = POLLIN if error == SSL_ERROR_WANT_READ else POLLOUT
        return TRANSPORT_WOULD_BLOCK
    # Unless it is told apart below: an end without close_notify, which anybody can have cut.
    transport.error = errno.ECONNRESET
    if error == SSL_ERROR_ZERO_RETURN:
        # With this option OpenSSL says the same of an end without close_notify.
        if not openssl.get_options(transport.session) & SSL_OP_IGNORE_UNEXPECTED_EOF:
            return 0
    elif error == SSL_ERROR_SYSCALL:
        if number:
            transport.error = number
    else:
        _note_fault(transport)
    # The queue is the thread's, and the thread may be one of Python's.
    openssl.clear_error()
    return TRANSPORT_FAILED


cdef ssize_t _session_recv(Transport* transport, char* into, size_t size) noexcept nogil:
    cdef size_t moved = 0
    cdef int returned
    cdef ssize_t outcome
    enter_session()
    openssl.clear_error()
    errno.errno = 0
    returned = openssl.read_ex(transport.session, into, size, &moved)
    if returned == 1:
        transport.recv_wants = POLLIN
        outcome = <ssize_t>moved
    else:
        outcome = _outcome(transport, returned, errno.errno, &transport.recv_wants)
    leave_session()
    return outcome


cdef ssize_t _session_send(Transport* transport, const char* data, size_t size) noexcept nogil:
    # What would block is tried again with the same bytes, as OpenSSL asks for.
    cdef size_t moved = 0
    cdef int returned
    cdef ssize_t outcome
    enter_session()
    openssl.clear_error()
    errno.errno = 0
    returned = openssl.write_ex(
        transport.session, data, min(size, <size_t>LARGEST_PIECE), &moved
    )
    if returned == 1:
        transport.send_wants = POLLOUT
        outcome = <ssize_t>moved
    else:
        outcome = _outcome(transport, returned, errno.errno, &transport.send_wants)
        if outcome == 0:
            transport.error = errno.EPIPE
            outcome = TRANSPORT_FAILED
    leave_session()
    return outcome


cdef bint _session_pending(Transport* transport) noexcept nogil:
    # Part of a record too: whoever asks for it waits for the rest.
    return openssl.has_pending(transport.session) > 0


cdef void _session_read_ahead(Transport* transport, bint ahead) noexcept nogil:
    # Not before OpenSSL 3, where a key update among what was read ahead can break the session, nor
    # where the kernel decrypts.
    if openssl.version_num() < 0x30000000UL or (
            openssl.get_options(transport.session) & SSL_OP_ENABLE_KTLS):
        return
    enter_session()
    openssl.set_read_ahead(transport.session, ahead)
    leave_session()


cdef void _session_acknowledge(Transport* transport) noexcept nogil:
    zfast_acknowledge(transport.fd)


cdef void _session_shut(Transport* transport) noexcept nogil:
    # Of the connection alone: another thread may be at the session.
    shutdown(transport.fd, SHUT_RDWR)


cdef TransportOperations _over_session
_over_session.recv = _session_recv
_over_session.recv_vectors = NULL
_over_session.send = _session_send
_over_session.pending = _session_pending
_over_session.read_ahead = _session_read_ahead
_over_session.acknowledge = _session_acknowledge
_over_session.shut = _session_shut


cdef void transport_over_session(Transport* transport, int fd, void* session) noexcept nogil:
    transport_over_socket(transport, fd)
    transport.session = session
    transport.operations = &_over_session
    openssl.set_read_buffer(session, READ_AHEAD)


cdef bint tls_block_broken_pipes(sigset_t* before) noexcept nogil:
    # For a thread of somebody else's that runs operations: a peer that has gone is not to end a
    # program that does not ignore SIGPIPE. False where the thread blocks it anyhow.
    cdef sigset_t broken_pipes
    sigemptyset(&broken_pipes)
    sigaddset(&broken_pipes, SIGPIPE)
    pthread_sigmask(SIG_BLOCK, &broken_pipes, before)
    return not sigismember(before, SIGPIPE)


cdef void tls_unblock_broken_pipes(const sigset_t* before) noexcept nogil:
    # One that came meanwhile is not to reach it later.
    zfast_take_broken_pipe()
    pthread_sigmask(SIG_SETMASK, before, NULL)


# ---------------------------------------------------------------------------------------- for tests


cdef class SessionTransport:
    """A transport over the session of an `ssl.SSLSocket`, for tests of the operations.

    Parameters
    ----------
    sock : ssl.SSLSocket
        Connected, its handshake done, and not blocking.

    Raises
    ------
    ValueError
        Where the session cannot be used natively, with the reason.
    """

    cdef Transport _transport
    cdef object _sock

    def __cinit__(self, sock):
        session, why = session_of(sock)
        if why:
            raise ValueError(why)
        self._sock = sock
        transport_over_session(&self._transport, sock.fileno(), <void*><uintptr_t>session)

    def recv(self, Py_ssize_t size):
        """Receive at most `size` bytes: bytes, b"" at close_notify, None when blocked.

        Raises
        ------
        OSError
            With the errno of the failure; EPROTO, and what OpenSSL says of it, for one of TLS.
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
            As in `recv`.
        """
        cdef const char* start = <const char*>&data[0] if data.shape[0] else NULL
        cdef ssize_t moved
        with nogil:
            moved = self._transport.operations.send(&self._transport, start, data.shape[0])
        return None if self._blocked(moved) else moved

    def pending(self):
        """Whether bytes wait that were received already."""
        return self._transport.operations.pending(&self._transport)

    def wants(self):
        """What to poll for before another `recv`, and before another `send`."""
        return self._transport.recv_wants, self._transport.send_wants

    def shut(self):
        """End both directions of the connection; the peer sees an end without close_notify."""
        with nogil:
            self._transport.operations.shut(&self._transport)

    cdef bint _blocked(self, ssize_t moved) except -1:
        if moved == TRANSPORT_FAILED:
            text = "the session failed"
            if self._transport.fault != NULL:
                text = self._transport.fault.decode(errors="replace")
            raise OSError(self._transport.error, text)
        return moved == TRANSPORT_WOULD_BLOCK
