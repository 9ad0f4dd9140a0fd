"""TLS without the GIL, on the very session (SSL*) that Python's ssl opened, checked and owns.

Python's extension `_ssl` is linked to the libssl that it uses: its functions are looked up there by
name, once, and trusted only after they found a session that is known. OpenSSL tells of each session
that is made and freed, so that the one behind an `ssl.SSLSocket` can be found whoever opened it.
Where anything is missing nothing fails here; TLS goes through Python then.

Never blocks, never does a handshake, never ends a session: urllib3 and Python's ssl do.
"""

import os
import socket
import ssl
from importlib import import_module

from libc cimport errno
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libcpp.atomic cimport atomic
from posix.dlfcn cimport RTLD_LAZY, dlerror, dlopen, dlsym

from zfast._core.extern.openssl cimport (
    APP_DATA,
    CRYPTO_EX_INDEX_SSL,
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
from zfast._core.extern.pthread cimport (
    pthread_atfork,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
    sched_yield,
)
from zfast._core.extern.sockets cimport POLLIN, POLLOUT, SHUT_RDWR, shutdown, zfast_acknowledge
from zfast._core.transport cimport (
    TRANSPORT_FAILED,
    TRANSPORT_WOULD_BLOCK,
    TransportOperations,
    transport_over_socket,
)

cdef struct Library:
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

cdef struct Session:
    void* ssl
    Session* previous
    Session* next

cdef enum:
    # A record's content (RFC 8446, section 5.1). Python's ssl does not let OpenSSL write less than
    # it was given, and so a longer piece would show no progress before all of it is out.
    LARGEST_PIECE = 16 << 10
    # What one call of the kernel may take: four records, where OpenSSL by itself calls twice for
    # each. With OpenSSL 3.0 reading 256 MiB in chunks of 1 MiB takes 8 % less time so, and with 16
    # records no less. From 3.2 on an open session keeps its room for one: 3 %.
    READ_AHEAD = 68 << 10
    # Of other threads, while a fork waits for the calls under way: a second, or a few.
    MOST_TURNS = 1 << 20

cdef Library _library

# The sessions of this process, in a ring around a head that is none; one node each, made and freed
# with its session, by whatever thread does that.
cdef pthread_mutex_t _sessions_lock
cdef Session _sessions
pthread_mutex_init(&_sessions_lock, NULL)
_sessions.previous = _sessions.next = &_sessions

# A process forks while no call is under way: in the child a session would be half changed, and a
# lock of OpenSSL held by a thread that is not there. Not by `os.register_at_fork`: between its
# calls other Python threads run, and would wait for these locks with the GIL that the fork needs.
cdef atomic[int] _calls
cdef atomic[int] _forking
cdef pthread_mutex_t _fork_lock
pthread_mutex_init(&_fork_lock, NULL)


# ------------------------------------------------------------------------------ sessions, by owner


cdef void _note(
    void* parent, void* value, void* data, int index, long number, void* argument
) noexcept nogil:
    cdef Session* session = <Session*>malloc(sizeof(Session))
    if session == NULL:
        return
    session.ssl = parent
    # That also makes room below our index: app data, of a lower one, is set in place from here on,
    # and can be read while another thread makes a session.
    if not _library.set_ex_data(data, index, session):
        free(session)
        return
    pthread_mutex_lock(&_sessions_lock)
    session.previous = &_sessions
    session.next = _sessions.next
    session.next.previous = session
    _sessions.next = session
    pthread_mutex_unlock(&_sessions_lock)


cdef void _forget(
    void* parent, void* value, void* data, int index, long number, void* argument
) noexcept nogil:
    # While OpenSSL waits here, the session's extra data are whole: see _find.
    cdef Session* session = <Session*>value
    if session == NULL:
        return
    pthread_mutex_lock(&_sessions_lock)
    session.previous.next = session.next
    session.next.previous = session.previous
    pthread_mutex_unlock(&_sessions_lock)
    free(session)


cdef int _keep_own(
    void* to, const void* other, void* value, int index, long number, void* argument
) noexcept nogil:
    # A copy of a session was noted by itself when it was made.
    (<void**>value)[0] = _library.get_ex_data_of(to, index)
    return 1


cdef void* _find(const void* owner) noexcept nogil:
    # The session that Python made for this `_ssl._SSLSocket`: CPython names it in the app data. A
    # descriptor alone would be found again with sessions that are closed and not yet collected.
    cdef Session* session
    cdef void* found = NULL
    pthread_mutex_lock(&_sessions_lock)
    session = _sessions.next
    while session != &_sessions:
        if _library.get_ex_data(session.ssl, APP_DATA) == owner:
            found = session.ssl
            break
        session = session.next
    pthread_mutex_unlock(&_sessions_lock)
    return found


def session_count():
    """How many TLS sessions of Python's libssl there are in this process, whoever made them."""
    cdef Session* session
    cdef Py_ssize_t count = 0
    with nogil:
        pthread_mutex_lock(&_sessions_lock)
        session = _sessions.next
        while session != &_sessions:
            count += 1
            session = session.next
        pthread_mutex_unlock(&_sessions_lock)
    return count


# -------------------------------------------------------------------------------------- operations


cdef inline void _enter() noexcept nogil:
    while True:
        _calls.fetch_add(1)
        if not _forking.load():
            return
        _calls.fetch_sub(1)
        pthread_mutex_lock(&_fork_lock)
        pthread_mutex_unlock(&_fork_lock)


cdef inline void _leave() noexcept nogil:
    _calls.fetch_sub(1)


cdef void _note_fault(Transport* transport) noexcept nogil:
    cdef unsigned long code = _library.peek_error()
    cdef unsigned long reason = code & ERR_REASONS
    cdef int shift = ERR_LIB_SHIFT_1_1 if _library.version_num() < 0x30000000UL else ERR_LIB_SHIFT
    cdef unsigned long alert = 0
    if (code >> shift) & 0xFF == ERR_LIB_SSL:
        if reason == SSL_R_UNEXPECTED_EOF_WHILE_READING:
            return
        if reason > SSL_AD_REASON_OFFSET:
            alert = reason - SSL_AD_REASON_OFFSET
    transport.error = errno.EPROTO
    # Text of the library, which lives as long as that does.
    transport.fault = _library.reason_string(code)
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
    cdef int error = _library.get_error(transport.session, returned)
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        wants[0] = POLLIN if error == SSL_ERROR_WANT_READ else POLLOUT
        return TRANSPORT_WOULD_BLOCK
    # Unless it is told apart below: an end without close_notify, which anybody can have cut.
    transport.error = errno.ECONNRESET
    if error == SSL_ERROR_ZERO_RETURN:
        # With this option OpenSSL says the same of an end without close_notify.
        if not _library.get_options(transport.session) & SSL_OP_IGNORE_UNEXPECTED_EOF:
            return 0
    elif error == SSL_ERROR_SYSCALL:
        if number:
            transport.error = number
    else:
        _note_fault(transport)
    # The queue is the thread's, and the thread may be one of Python's.
    _library.clear_error()
    return TRANSPORT_FAILED


cdef ssize_t _session_recv(Transport* transport, char* into, size_t size) noexcept nogil:
    cdef size_t moved = 0
    cdef int returned
    cdef ssize_t outcome
    _enter()
    _library.clear_error()
    errno.errno = 0
    returned = _library.read_ex(transport.session, into, size, &moved)
    if returned == 1:
        transport.recv_wants = POLLIN
        outcome = <ssize_t>moved
    else:
        outcome = _outcome(transport, returned, errno.errno, &transport.recv_wants)
    _leave()
    return outcome


cdef ssize_t _session_send(Transport* transport, const char* data, size_t size) noexcept nogil:
    # What would block is tried again with the same bytes, as OpenSSL asks for.
    cdef size_t moved = 0
    cdef int returned
    cdef ssize_t outcome
    _enter()
    _library.clear_error()
    errno.errno = 0
    returned = _library.write_ex(
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
    _leave()
    return outcome


cdef bint _session_pending(Transport* transport) noexcept nogil:
    # Part of a record too: whoever asks for it waits for the rest.
    return _library.has_pending(transport.session) > 0


cdef void _session_read_ahead(Transport* transport, bint ahead) noexcept nogil:
    # Not before OpenSSL 3, where a key update among what was read ahead can break the session, nor
    # where the kernel decrypts.
    if _library.version_num() < 0x30000000UL or (
            _library.get_options(transport.session) & SSL_OP_ENABLE_KTLS):
        return
    _enter()
    _library.set_read_ahead(transport.session, ahead)
    _leave()


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
    _library.set_read_buffer(session, READ_AHEAD)


# ----------------------------------------------------------------------------------------- forking


cdef void _before_fork() noexcept nogil:
    cdef int turns = 0
    pthread_mutex_lock(&_fork_lock)
    _forking.store(1)
    # None of these calls blocks. One that needs the GIL after all, which a thread that forks may
    # hold, is not waited for forever.
    while _calls.load() > 0 and turns < MOST_TURNS:
        sched_yield()
        turns += 1
    pthread_mutex_lock(&_sessions_lock)


cdef void _after_fork() noexcept nogil:
    _forking.store(0)
    pthread_mutex_unlock(&_sessions_lock)
    pthread_mutex_unlock(&_fork_lock)


cdef void _after_fork_in_child() noexcept nogil:
    # A thread that is not here may have been about to wait.
    _calls.store(0)
    _after_fork()


# -------------------------------------------------------------------------- found, tried, trusted

cdef str _why = "it was not looked for"


cdef void* _symbol(void* handle, str name, list missing):
    cdef bytes encoded = name.encode()
    cdef void* found = dlsym(handle, encoded)
    if found == NULL:
        missing.append(name)
    return found


cdef list _look_up(void* handle):
    # Fills the library; the names that it lacks.
    cdef list missing = []
    _library.version_num = <OpenSSL_version_num_t>_symbol(handle, "OpenSSL_version_num", missing)
    _library.read_ex = <SSL_read_ex_t>_symbol(handle, "SSL_read_ex", missing)
    _library.write_ex = <SSL_write_ex_t>_symbol(handle, "SSL_write_ex", missing)
    _library.get_error = <SSL_get_error_t>_symbol(handle, "SSL_get_error", missing)
    _library.has_pending = <SSL_has_pending_t>_symbol(handle, "SSL_has_pending", missing)
    _library.set_read_ahead = <SSL_set_read_ahead_t>_symbol(handle, "SSL_set_read_ahead", missing)
    _library.set_read_buffer = <SSL_set_default_read_buffer_len_t>_symbol(
        handle, "SSL_set_default_read_buffer_len", missing
    )
    _library.get_fd = <SSL_get_fd_t>_symbol(handle, "SSL_get_fd", missing)
    _library.get_options = <SSL_get_options_t>_symbol(handle, "SSL_get_options", missing)
    _library.get_ex_data = <SSL_get_ex_data_t>_symbol(handle, "SSL_get_ex_data", missing)
    _library.clear_error = <ERR_clear_error_t>_symbol(handle, "ERR_clear_error", missing)
    _library.peek_error = <ERR_peek_error_t>_symbol(handle, "ERR_peek_error", missing)
    _library.reason_string = <ERR_reason_error_string_t>_symbol(
        handle, "ERR_reason_error_string", missing
    )
    _library.get_ex_new_index = <CRYPTO_get_ex_new_index_t>_symbol(
        handle, "CRYPTO_get_ex_new_index", missing
    )
    _library.set_ex_data = <CRYPTO_set_ex_data_t>_symbol(handle, "CRYPTO_set_ex_data", missing)
    _library.get_ex_data_of = <CRYPTO_get_ex_data_t>_symbol(handle, "CRYPTO_get_ex_data", missing)
    return missing


cdef void* _open() except NULL:
    # What is built into the interpreter is looked for in the whole process.
    cdef object path = getattr(import_module("_ssl"), "__file__", None)
    cdef bytes encoded = b"" if path is None else os.fsencode(path)
    cdef const char* name = encoded
    cdef void* handle = dlopen(name if len(encoded) else NULL, RTLD_LAZY)
    if handle == NULL:
        raise ImportError(dlerror().decode(errors="replace"))
    return handle


cdef str _try_out():
    # Finds a session that is known, and finds it no more when it is gone; why not, "" if so.
    cdef void* found = NULL
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    near, far = socket.socketpair()
    with far, context.wrap_socket(
        near, do_handshake_on_connect=False, server_hostname="localhost"
    ) as known:
        found = _find(<void*>known._sslobj)
        if found == NULL:
            return f"{ssl.OPENSSL_VERSION} did not tell of a known session"
        if _library.get_fd(found) != known.fileno():
            return f"{ssl.OPENSSL_VERSION} has another descriptor for a known session"
    del known
    if _is_noted(found):
        return f"{ssl.OPENSSL_VERSION} did not tell of a known session's end"
    return ""


cdef bint _is_noted(const void* ended) noexcept nogil:
    cdef Session* session
    cdef bint noted = False
    pthread_mutex_lock(&_sessions_lock)
    session = _sessions.next
    while session != &_sessions and not noted:
        noted = session.ssl == ended
        session = session.next
    pthread_mutex_unlock(&_sessions_lock)
    return noted


cdef str _settle():
    cdef list missing
    # Its relatives have functions of the same names with other parameters.
    if not ssl.OPENSSL_VERSION.startswith("OpenSSL "):
        return f"Python's ssl uses {ssl.OPENSSL_VERSION}"
    missing = _look_up(_open())
    if missing:
        return f"{ssl.OPENSSL_VERSION} does not export {', '.join(missing)}"
    if _library.version_num() != <unsigned long>ssl.OPENSSL_VERSION_NUMBER:
        return f"another OpenSSL than Python's {ssl.OPENSSL_VERSION} was found"
    if _library.get_ex_new_index(
            CRYPTO_EX_INDEX_SSL, 0, NULL, _note, _keep_own, _forget) < 0:
        return f"{ssl.OPENSSL_VERSION} has no index for its sessions"
    if pthread_atfork(_before_fork, _after_fork, _after_fork_in_child):
        return "there is no memory to prepare for forks"
    return _try_out()


def _prepare():
    global _why
    try:
        _why = _settle()
    # Whatever an unusual interpreter raises, TLS goes on through Python.
    except Exception as error:
        _why = f"{type(error).__name__}: {error}"


_prepare()
del _prepare


# ------------------------------------------------------------------------------------------- faces


def unavailable():
    """Why no session can be used natively: "" if nothing is in the way.

    Returns
    -------
    str
        A reason that fits behind a colon.
    """
    return _why


def session_of(sock):
    """Find the session (``SSL*``) behind a connected `ssl.SSLSocket`.

    Parameters
    ----------
    sock : object
        What is to be read and written natively; it is kept, and left alone, until that is over.

    Returns
    -------
    tuple of (int, str)
        The session's address and "", or 0 and why only Python can use it.
    """
    cdef void* found
    if _why:
        return 0, _why
    if not isinstance(sock, ssl.SSLSocket):
        return 0, "TLS within TLS, or not of Python's ssl"
    if sock.context.keylog_filename is not None:
        return 0, "keylog_filename is set, and keys are logged by Python"
    if getattr(sock.context, "_msg_callback", None) is not None:
        return 0, "a message callback of Python's is set"
    owner = sock._sslobj
    if owner is None:
        return 0, "the TLS session has ended"
    found = _find(<void*>owner)
    if found == NULL or _library.get_fd(found) != sock.fileno():
        return 0, "the session was opened before zfast was imported"
    return <uintptr_t>found, ""


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
