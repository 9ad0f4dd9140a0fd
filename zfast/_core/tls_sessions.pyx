"""The TLS sessions (SSL*) of Python's libssl, and that library's functions, called without the GIL.

Python's extension `_ssl` is linked to the libssl that it uses: its functions are looked up there by
name, once, and trusted only after they found a session that is known. OpenSSL tells of each session
that is made and freed, so that the one behind an `ssl.SSLSocket` can be found whoever opened it.
Where anything is missing nothing fails here; TLS goes through Python then.
"""

import os
import socket
import ssl
from importlib import import_module

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libcpp.atomic cimport atomic

from zfast._core.extern.openssl cimport APP_DATA, CRYPTO_EX_INDEX_SSL
from zfast._core.extern.pthread cimport (
    pthread_atfork,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
    sched_yield,
)
from zfast._core.symbols cimport look_up, open_library

cdef struct Session:
    void* ssl
    Session* previous
    Session* next

cdef enum:
    # Of other threads, while a fork waits for the calls under way: a second, or a few.
    MOST_TURNS = 1 << 20

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


# ------------------------------------------------------------------------------- sessions, by owner


cdef void _note(
    void* parent, void* value, void* data, int index, long number, void* argument
) noexcept nogil:
    cdef Session* session = <Session*>malloc(sizeof(Session))
    if session == NULL:
        return
    session.ssl = parent
    # That also makes room below our index: app data, of a lower one, is set in place from here on,
    # and can be read while another thread makes a session.
    if not openssl.set_ex_data(data, index, session):
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
    (<void**>value)[0] = openssl.get_ex_data_of(to, index)
    return 1


cdef void* _find(const void* owner) noexcept nogil:
    # The session that Python made for this `_ssl._SSLSocket`: CPython names it in the app data. A
    # descriptor alone would be found again with sessions that are closed and not yet collected.
    cdef Session* session
    cdef void* found = NULL
    pthread_mutex_lock(&_sessions_lock)
    session = _sessions.next
    while session != &_sessions:
        if openssl.get_ex_data(session.ssl, APP_DATA) == owner:
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


# ---------------------------------------------------------------------------------- calls and forks


cdef void enter_session() noexcept nogil:
    while True:
        _calls.fetch_add(1)
        if not _forking.load():
            return
        _calls.fetch_sub(1)
        pthread_mutex_lock(&_fork_lock)
        pthread_mutex_unlock(&_fork_lock)


cdef void leave_session() noexcept nogil:
    _calls.fetch_sub(1)


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


# ---------------------------------------------------------------------------- found, tried, trusted

cdef str _why = "it was not looked for"


cdef list _fill_library(void* handle):
    # The names that it lacks.
    cdef list missing = []
    openssl.version_num = <OpenSSL_version_num_t>look_up(handle, "OpenSSL_version_num", missing)
    openssl.read_ex = <SSL_read_ex_t>look_up(handle, "SSL_read_ex", missing)
    openssl.write_ex = <SSL_write_ex_t>look_up(handle, "SSL_write_ex", missing)
    openssl.get_error = <SSL_get_error_t>look_up(handle, "SSL_get_error", missing)
    openssl.has_pending = <SSL_has_pending_t>look_up(handle, "SSL_has_pending", missing)
    openssl.set_read_ahead = <SSL_set_read_ahead_t>look_up(handle, "SSL_set_read_ahead", missing)
    openssl.set_read_buffer = <SSL_set_default_read_buffer_len_t>look_up(
        handle, "SSL_set_default_read_buffer_len", missing
    )
    openssl.get_fd = <SSL_get_fd_t>look_up(handle, "SSL_get_fd", missing)
    openssl.get_options = <SSL_get_options_t>look_up(handle, "SSL_get_options", missing)
    openssl.get_ex_data = <SSL_get_ex_data_t>look_up(handle, "SSL_get_ex_data", missing)
    openssl.clear_error = <ERR_clear_error_t>look_up(handle, "ERR_clear_error", missing)
    openssl.peek_error = <ERR_peek_error_t>look_up(handle, "ERR_peek_error", missing)
    openssl.reason_string = <ERR_reason_error_string_t>look_up(
        handle, "ERR_reason_error_string", missing
    )
    openssl.get_ex_new_index = <CRYPTO_get_ex_new_index_t>look_up(
        handle, "CRYPTO_get_ex_new_index", missing
    )
    openssl.set_ex_data = <CRYPTO_set_ex_data_t>look_up(handle, "CRYPTO_set_ex_data", missing)
    openssl.get_ex_data_of = <CRYPTO_get_ex_data_t>look_up(handle, "CRYPTO_get_ex_data", missing)
    return missing


cdef bytes _path():
    # Of the extension that is linked to it; of the interpreter, "", where it is built in.
    path = getattr(import_module("_ssl"), "__file__", None)
    return b"" if path is None else os.fsencode(path)


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
        if openssl.get_fd(found) != known.fileno():
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
    missing = _fill_library(open_library(_path()))
    if missing:
        return f"{ssl.OPENSSL_VERSION} does not export {', '.join(missing)}"
    if openssl.version_num() != <unsigned long>ssl.OPENSSL_VERSION_NUMBER:
        return f"another OpenSSL than Python's {ssl.OPENSSL_VERSION} was found"
    if openssl.get_ex_new_index(
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


# -------------------------------------------------------------------------------------------- faces


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
    if found == NULL or openssl.get_fd(found) != sock.fileno():
        return 0, "the session was opened before zfast was imported"
    return <uintptr_t>found, ""
