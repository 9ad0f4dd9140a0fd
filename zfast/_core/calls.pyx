"""What the engine needs Python for, and the answers: dialling, giving back, a redirect elsewhere.

The threads of the engine never wait for an answer: each call is queued, and serving it may take as
long as it does. `zfast.connections` serves.
"""

from libc.math cimport fmax, fmin
from libcpp.string cimport string
from posix.unistd cimport getpid

from zfast._core.engine cimport Engine
from zfast._core.exchange cimport (
    ENDING_CLEAN,
    ENDING_FAULT,
    ENDING_REFUSAL,
    ENDING_UNKNOWN,
    Ending,
    Exchange,
)
from zfast._core.extern.pthread cimport (
    pthread_cond_signal,
    pthread_cond_wait,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from zfast._core.leases cimport lease_free, lease_new, origin_drop_dial
from zfast._core.origins cimport origin_known
from zfast._core.redirects cimport scheduler_redirected
from zfast._core.request cimport Request
from zfast._core.scheduler cimport scheduler_adopt, scheduler_dispatch, scheduler_left
from zfast._core.settlement cimport scheduler_dial_failed
from zfast._core.state cimport (
    CALL_CLOSE,
    CALL_DIAL,
    CALL_REDIRECT,
    CALL_RELEASE,
    CALL_SWEEP,
    NOBODY,
    Call,
    Lease,
    Origin,
    Scheduler,
    monotonic,
    origin_has_waiting,
    wait_for,
    wake,
)
from zfast._core.tls cimport transport_over_session
from zfast._core.transport cimport transport_over_socket
from zfast._core.types cimport Status

cdef extern from *:
    """
    // Where there is no GIL, what other threads have let go of waits for the thread that made it
    // (PEP 703, "Biased reference counting"): one that serves calls must not stay away from Python.
    #ifdef Py_GIL_DISABLED
    #define ZFAST_AWAY_SECONDS 1.0
    #else
    #define ZFAST_AWAY_SECONDS 0.0
    #endif
    """
    const double AWAY_SECONDS "ZFAST_AWAY_SECONDS"

_NAMES = {
    CALL_DIAL: "dial", CALL_RELEASE: "release", CALL_CLOSE: "close", CALL_REDIRECT: "redirect",
    CALL_SWEEP: "sweep",
}

cdef enum:
    # For all the others while one origin does not answer.
    SPARE_THREADS = 2
    # One of so many threads is kept from an origin for each doubt that a dial of its will end soon:
    # that another is under way, that it was never reached, that the last one failed.
    DOUBTS_SHARE = 8

# Few threads are enough where a connection opens at once. Where that takes a round trip that one
# feels, 64 connections by eight threads take eight of them, and by as many threads one.
cdef double FAR_SECONDS = 0.005


# What servers have closed while it lay in a pool keeps its descriptor for so long.
cdef double SWEEP_SECONDS = 60.0
# ... and sooner where connections do not rest with the engine for long, either.
cdef double SWEEP_IDLE_TIMEOUTS = 12.0


cdef void _count_closed(Scheduler* s, int closed, bint others) noexcept nogil:
    s.connections_closed += closed
    if others and s.next_sweep == 0:
        s.next_sweep = monotonic() + fmin(
            SWEEP_SECONDS, fmax(1.0, SWEEP_IDLE_TIMEOUTS * s.idle_timeout))
        wake(s.workers[0])


cdef bint _may_dial(Scheduler* s, const Origin* origin) noexcept nogil:
    cdef int doubts = 0
    cdef int share = max(1, s.dial_threads // DOUBTS_SHARE)
    if s.dial_threads < s.max_dial_threads and s.dials_begun >= max(s.dial_threads - 1, 1):
        # The last one looks on, unless it is the only one: it sees when more are needed.
        return False
    if origin.leases == 0:
        doubts = (origin.dials_begun > 0) + (not origin.reached) + (origin.dial_failures > 0)
    if doubts > 0 and s.dials_begun >= max(1, s.dial_threads - doubts * share):
        return False
    return origin.dials_begun < max(1, s.dial_threads - SPARE_THREADS)


cdef long _callable(Scheduler* s) noexcept nogil:
    # Index of the call to serve next, -1 for none. What is quick goes first, and a host that
    # answers nobody does not get all the threads.
    cdef size_t index
    cdef long dial = -1
    cdef Origin* origin
    for index in range(s.calls.size()):
        if s.calls[index].kind != CALL_DIAL:
            return <long>index
        origin = s.origins[s.calls[index].id]
        # One that nobody needs any more is dropped rather than begun.
        if dial < 0 and (s.stopping or not origin_has_waiting(origin) or _may_dial(s, origin)):
            dial = <long>index
    return dial


cdef bint _are_far(Scheduler* s) noexcept nogil:
    # Where all dials have to wait: whether those of an origin have neither begun nor ended for so
    # long, and then not again for as long. Sleeps until that may be.
    cdef double now = monotonic()
    cdef double since = now
    for call in s.calls:
        since = min(since, s.origins[call.id].dialled_at)
    if now < since + FAR_SECONDS:
        wait_for(&s.calls_waiting, &s.lock, since + FAR_SECONDS - now)
        return False
    for call in s.calls:
        # One thread that says so is enough.
        s.origins[call.id].dialled_at = now
    return True


cdef void _dial_ended(Scheduler* s, Origin* origin) noexcept nogil:
    origin.dials_begun -= 1
    s.dials_begun -= 1
    origin.dialled_at = monotonic()
    if not s.calls.empty():
        pthread_cond_signal(&s.calls_waiting)


cdef class Calls:
    """The calls of an engine.

    Parameters
    ----------
    engine : Engine
        Whose; several of these, and threads, may serve one engine.
    """

    cdef readonly Engine engine

    def __cinit__(self, Engine engine not None):
        self.engine = engine

    def next(self):
        """Wait for something that needs Python.

        Returns
        -------
        tuple of (str, int, int) or None
            ("dial", origin, 0), ("release", lease, 0), ("close", lease, how it ended: 1 where it
            broke, and 2 where nobody acknowledged what went out), ("redirect", batch, index),
            ("sweep", 0, 0) of what lies in pools, ("threads", how many are needed, 0), or None when
            the engine has stopped. On a free-threaded Python also ("", 0, 0) now and then, which is
            for the thread itself.
        """
        cdef Scheduler* s = self.engine.scheduler
        cdef Call call
        cdef Origin* origin
        cdef bint stopping
        cdef bint away, far
        cdef long at
        cdef int wanted
        while True:
            away = far = False
            with nogil:
                pthread_mutex_lock(&s.lock)
                at = _callable(s)
                while at < 0 and not (s.stopping or away or far):
                    if not s.calls.empty() and s.dial_threads < s.max_dial_threads:
                        far = _are_far(s)
                    elif AWAY_SECONDS > 0:
                        away = not wait_for(&s.calls_waiting, &s.lock, AWAY_SECONDS)
                    else:
                        pthread_cond_wait(&s.calls_waiting, &s.lock)
                    at = _callable(s)
                stopping = at < 0 and s.stopping
                wanted = min(s.dialling + SPARE_THREADS, s.max_dial_threads)
                if at >= 0:
                    call = s.calls[<size_t>at]
                    s.calls.erase(s.calls.begin() + at)
                    if call.kind == CALL_DIAL and s.stopping:
                        call.id = -1
                    elif call.kind == CALL_DIAL:
                        origin = s.origins[call.id]
                        if not origin_has_waiting(origin):
                            # The connections that opened first have done the work meanwhile.
                            origin_drop_dial(s, origin)
                            call.id = -1
                        else:
                            origin.dials_begun += 1
                            s.dials_begun += 1
                            origin.dialled_at = monotonic()
                        if call.id < 0:
                            scheduler_dispatch(s, NOBODY, monotonic())
                pthread_mutex_unlock(&s.lock)
            if stopping:
                return None
            if at < 0:
                return ("threads", wanted, 0) if far else ("", 0, 0)
            if call.id >= 0:
                return _NAMES[call.kind], call.id, call.index

    def next_at_once(self):
        """As `next`, but no dial, and None where there is nothing: for who waits at a dial."""
        cdef Scheduler* s = self.engine.scheduler
        cdef Call call
        cdef size_t at
        cdef bint found = False
        pthread_mutex_lock(&s.lock)
        for at in range(s.calls.size()):
            if s.calls[at].kind != CALL_DIAL:
                call = s.calls[at]
                s.calls.erase(s.calls.begin() + <long>at)
                found = True
                break
        pthread_mutex_unlock(&s.lock)
        return (_NAMES[call.kind], call.id, call.index) if found else None

    def adopt(
        self, long long lease_id, long long origin_id, int fd, bint used, bint clean_end,
        size_t session=0, size_t address=0,
    ):
        """Take over an open connection that answers a "dial".

        Parameters
        ----------
        lease_id : int
            What "release" and "close" will name it by.
        origin_id : int
            The origin that it leads to.
        fd : int
            Its non-blocking descriptor; nobody else may read, write or close it until then.
        used : bool
            It came out of its pool and may have been closed by the server meanwhile.
        clean_end : bool
            The end of its stream can be believed (false for TLS by way of Python, until
            `session_ended` has told of it).
        session : int
            The address of its TLS session, see `zfast._core.tls_sessions.session_of`; 0 for none.
        address : int
            Tells the addresses of the host apart, where it has several; 0 for the only one.
        """
        cdef Scheduler* s = self.engine.scheduler
        cdef Lease* lease
        cdef bint stopping
        self.engine.ensure_usable()
        lease = lease_new(lease_id, self.engine.max_head)
        if lease == NULL:
            raise MemoryError("no memory for a connection")
        lease.used = used
        lease.relayed = not clean_end
        lease.address = address
        lease.exchange.ending.store(ENDING_CLEAN if clean_end else ENDING_UNKNOWN)
        lease.exchange.content_held.store(False)
        if session:
            transport_over_session(&lease.exchange.transport, fd, <void*>session)
        else:
            transport_over_socket(&lease.exchange.transport, fd)
        pthread_mutex_lock(&s.lock)
        stopping = s.stopping
        if not stopping:
            s.has_sessions = s.has_sessions or session != 0
            lease.origin = s.origins[origin_id]
            _dial_ended(s, lease.origin)
            scheduler_adopt(s, lease, monotonic())
        pthread_mutex_unlock(&s.lock)
        if stopping:
            lease_free(lease)
            raise RuntimeError("the process ends: no connection is needed any more")

    def session_ended(self, long long lease_id, bytes fault, bint refuses):
        """Tell how a relayed session ended, before the end of its stream is to be seen.

        Parameters
        ----------
        lease_id : int
            The lease.
        fault : bytes
            What broke it, UTF-8; b"" for close_notify.
        refuses : bool
            The peer will not have us, however often it is asked.
        """
        cdef Scheduler* s = self.engine.scheduler
        cdef string text = fault
        cdef Ending ending = ENDING_CLEAN
        cdef Exchange* exchange
        if not text.empty():
            ending = ENDING_REFUSAL if refuses else ENDING_FAULT
        pthread_mutex_lock(&s.lock)
        if s.leases_by_id.count(lease_id):
            exchange = &s.leases_by_id[lease_id].exchange
            exchange.session_fault.swap(text)
            exchange.ending.store(ending)
        pthread_mutex_unlock(&s.lock)

    def content_held(self, long long lease_id, bint held):
        """Tell whether the server's next bytes came before it had taken all of the request."""
        cdef Scheduler* s = self.engine.scheduler
        pthread_mutex_lock(&s.lock)
        if s.leases_by_id.count(lease_id):
            s.leases_by_id[lease_id].exchange.content_held.store(held)
        pthread_mutex_unlock(&s.lock)

    def dial_failed(
        self, long long origin_id, int code, int error, bint no_descriptor, bytes detail not None
    ):
        """Answer a "dial" that opened no connection.

        Parameters
        ----------
        origin_id : int
            The origin.
        code : Status
            What became of it.
        error : int
            The errno, 0 if there is none; of a refused tunnel the proxy's HTTP status.
        no_descriptor : bool
            The process is out of descriptors: fewer connections must do.
        detail : bytes
            What to tell the user, UTF-8.
        """
        cdef Scheduler* s = self.engine.scheduler
        # Before the lock, as elsewhere: whatever raises under it would leave it locked.
        cdef string why = detail
        self.engine.ensure_usable()
        pthread_mutex_lock(&s.lock)
        _dial_ended(s, s.origins[origin_id])
        scheduler_dial_failed(
            s, s.origins[origin_id], <Status>code, error, no_descriptor, why, monotonic()
        )
        pthread_mutex_unlock(&s.lock)

    def redirection(self, long long batch_id, size_t index):
        """What a "redirect" is about: (target, location, authority, origin), None if it is over."""
        cdef Scheduler* s = self.engine.scheduler
        cdef Request* request
        cdef string target, location, authority
        cdef long long origin = -1
        # As in `snapshot`: no Python object is made under the lock.
        pthread_mutex_lock(&s.lock)
        if s.batches.count(batch_id):
            request = &s.batches[batch_id].requests[index]
            if request.with_python:
                target, location = request.target, request.location
                authority = request.endpoint.authority
                origin = (<Origin*>request.origin).id
        pthread_mutex_unlock(&s.lock)
        return None if origin < 0 else (target, location, authority, origin)

    def redirect(
        self, long long batch_id, size_t index, long long origin_id, bytes target not None,
        bint foreign, bytes detail not None=b"",
    ):
        """Answer a "redirect"; an `origin_id` of -1 says that it leads nowhere, `detail` why."""
        cdef Scheduler* s = self.engine.scheduler
        cdef Origin* origin = NULL
        cdef Request* request
        cdef string to = target
        cdef string why = detail
        pthread_mutex_lock(&s.lock)
        if s.batches.count(batch_id):
            request = &s.batches[batch_id].requests[index]
            origin = origin_known(s, origin_id)
            if origin == NULL:
                request.detail.swap(why)
            scheduler_redirected(s, request, origin, to, foreign, monotonic())
        pthread_mutex_unlock(&s.lock)

    def left(self, long long origin_id, int closed, bint rests):
        """A connection that was to be released or closed is with its owner again.

        Parameters
        ----------
        origin_id : int
            The origin that it leads to.
        closed : int
            As in `count_closed`.
        rests : bool
            It may lie open in its pool: a "sweep" is to be asked for in a while.
        """
        cdef Scheduler* s = self.engine.scheduler
        if self._has_ended():
            return
        pthread_mutex_lock(&s.lock)
        _count_closed(s, closed, rests)
        scheduler_left(s, s.origins[origin_id], monotonic())
        pthread_mutex_unlock(&s.lock)

    def swept(self, int closed, bint others):
        """Answer a "sweep".

        Parameters
        ----------
        closed : int
            As in `count_closed`.
        others : bool
            Connections lie in pools: another is to be asked for in a while.
        """
        cdef Scheduler* s = self.engine.scheduler
        if self._has_ended():
            return
        pthread_mutex_lock(&s.lock)
        _count_closed(s, closed, others)
        pthread_mutex_unlock(&s.lock)

    def count_closed(self, int closed):
        """Count connections that were closed while they were not the engine's."""
        self.swept(closed, False)

    cdef bint _has_ended(self):
        return self.engine.stopped or self.engine.pid != getpid()
