"""Batches: reads submitted together, with one completion, and what pins their memory until then.

A batch that was submitted stays alive, with every destination pinned, until its last request has
been settled, whoever stopped waiting for it.
"""

import collections
import itertools
import socket
import threading

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uintptr_t
from libcpp.deque cimport deque
from libcpp.vector cimport vector
from posix.signal cimport sigset_t
from posix.unistd cimport close, getpid

from zfast._core.buffers cimport Body, Pin, arena_free, arena_new, body_over, pin, slab_release
from zfast._core.engine cimport Engine
from zfast._core.extern.pthread cimport (
    pthread_cond_destroy,
    pthread_cond_wait,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    zfast_cond_init,
)
from zfast._core.extern.sockets cimport MSG_DONTWAIT, recv
from zfast._core.finishing cimport scheduler_cancel, scheduler_cancel_all
from zfast._core.origins cimport batch_holds, batch_lets_go, origin_known
from zfast._core.policy cimport Policy
from zfast._core.reactor cimport reactor_attend
from zfast._core.request cimport Request, request_ask_size
from zfast._core.scheduler cimport scheduler_admit, scheduler_seal, scheduler_submit
from zfast._core.state cimport BatchState, Notices, Origin, Scheduler, monotonic, wait_for
from zfast._core.tls cimport tls_block_broken_pipes, tls_unblock_broken_pipes
from zfast._core.types cimport (
    METHOD_GET,
    RANGE_SUFFIX,
    STATUS_CANCELLED,
    STATUS_FIRST_BYTE_TIMEOUT,
    STATUS_MISSING,
    STATUS_OK,
    STATUS_READ_TIMEOUT,
    STATUS_REDIRECT,
    Method,
    RangeKind,
)

cdef enum:
    PARTIAL_CONTENT = 206

# How long a signal may wait for the main thread to notice it.
cdef double SIGNAL_CHECK_SECONDS = 0.05
# A process that ends has ended by then; who still waits is told, in these words.
LATE_SECONDS = 1.0
NO_MORE = "nothing can be read any more: the interpreter is shutting down"
cdef double _late_seconds = LATE_SECONDS

_ids = itertools.count(1)


@cython.no_gc_clear  # giving the notices up takes the engine
cdef class Waker:
    """The one descriptor that wakes an event loop for completions of all its batches.

    Watch `fileno()` for reading and call `completions()` when it is readable.
    """

    def __cinit__(self, Engine engine not None):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.engine = engine
        self.untold = collections.deque()
        self.fd = ours.detach()
        self.notices = new Notices()
        self.notices.owners = 1
        self.notices.wake_fd = theirs.detach()

    def __dealloc__(self):
        if self.notices != NULL:
            close(self.fd)
            _disown_notices(self.engine, self.notices)

    def fileno(self):
        """The descriptor to watch."""
        return self.fd

    def completions(self):
        """Add to `untold` what has completed since the last call.

        Returns
        -------
        collections.deque of (int, int)
            `untold`: batch id and read index; an index of -1 is the batch as a whole. Take out of
            it what has been told, and what an exception kept from it is told later.
        """
        cdef char[64] rung
        cdef deque[long long] batches
        cdef deque[long long] indexes
        cdef size_t at
        if self.engine.pid != getpid():
            # The parent's loop, gone on with in a forked child: what it waits for runs elsewhere.
            return collections.deque()
        pthread_mutex_lock(&self.engine.scheduler.lock)
        while recv(self.fd, rung, sizeof(rung), MSG_DONTWAIT) == sizeof(rung):
            pass
        self.notices.signalled = False
        batches.swap(self.notices.batches)
        indexes.swap(self.notices.indexes)
        pthread_mutex_unlock(&self.engine.scheduler.lock)
        for at in range(batches.size()):
            self.untold.append((batches[at], indexes[at]))
        self.engine.reap()
        return self.untold


cdef _disown_notices(Engine engine, Notices* notices):
    cdef bint last
    if engine.pid != getpid():
        # A forked child's own descriptor; the rest a thread of the parent may have been at.
        if notices.wake_fd >= 0:
            close(notices.wake_fd)
            notices.wake_fd = -1
        return
    pthread_mutex_lock(&engine.scheduler.lock)
    notices.owners -= 1
    last = notices.owners == 0
    pthread_mutex_unlock(&engine.scheduler.lock)
    if last:
        close(notices.wake_fd)
        del notices


@cython.no_gc_clear  # as for the waker
cdef class Batch:
    """Reads (and writes) to be submitted together.

    Parameters
    ----------
    engine : Engine
        Where it will run.
    deadline : float
        Seconds from `submit` until everything unfinished fails, 0 for none.
    waker : Waker, optional
        Told of the completion.
    each : bool
        The waker is told of each read too.
    fail_fast : bool
        The first failure cancels what is not complete yet.
    open : bool
        More may be added after `submit`, until it is sealed; it is not complete before.
    """

    def __cinit__(self, Engine engine not None, double deadline=0, Waker waker=None,
                  bint each=False, bint fail_fast=False, bint open=False):
        self.engine = engine
        self.id = next(_ids)
        self.pins = []
        self.policies = {}
        self.deadline_seconds = deadline
        self.state = new BatchState()
        self.state.id = self.id
        self.state.arena = arena_new()
        self.state.notify_each = each
        self.state.fail_fast = fail_fast
        self.state.open = open
        zfast_cond_init(&self.state.completed)
        if waker is not None:
            self.state.notices = waker.notices
            pthread_mutex_lock(&engine.scheduler.lock)
            waker.notices.owners += 1
            pthread_mutex_unlock(&engine.scheduler.lock)

    def __dealloc__(self):
        # `Engine.live` holds every submitted batch until it is done: no worker knows this one.
        cdef size_t index
        if self.state == NULL:
            return
        for index in range(self.state.requests.size()):
            slab_release(self.state.requests[index].slab)
        for entry in self.state.lanes:
            del entry.second
        arena_free(self.state.arena)
        if self.engine.pid == getpid():
            pthread_mutex_lock(&self.engine.scheduler.lock)
            batch_lets_go(self.state)
            pthread_mutex_unlock(&self.engine.scheduler.lock)
        if self.state.notices != NULL:
            _disown_notices(self.engine, self.state.notices)
        pthread_cond_destroy(&self.state.completed)
        del self.state

    def __len__(self):
        return self.state.requests.size()

    def add(self, Policy policy not None, long long origin, int method, bytes target not None,
            int kind=0, long long start=0, long long end=0, into=None,
            bytes fields not None=b"", bytes credentials not None=b"", content=None,
            bint repeatable=True, bint keep_head=False):
        """Add a request; its index in the batch is the number of those before it.

        Parameters
        ----------
        policy : Policy
            Of the client that asks.
        origin : int
            As in `Engine.add_origin`.
        method : Method
            Of HTTP, or WebDAV's MKCOL.
        target : bytes
            Request target in origin form (RFC 9112, section 3.2.1), already encoded.
        kind : RangeKind
            Of the byte range; `start` and `end` (exclusive) are as that kind has them.
        into : buffer, optional
            Writable C-contiguous destination; without it the body gets memory made to measure.
        fields : bytes
            Further header lines.
        credentials : bytes
            Header lines that must not follow a redirect to another origin.
        content : buffer, optional
            What a PUT sends.
        repeatable : bool
            A failed attempt may be sent again although the server may have acted on it.
        keep_head : bool
            The raw head of the response is part of the outcome.
        """
        cdef Request* request
        cdef Pin pinned
        cdef Scheduler* s = self.engine.scheduler
        cdef Origin* found
        if self.state.submitted:
            raise RuntimeError("the batch has been submitted: nothing can be added to it")
        pthread_mutex_lock(&s.lock)
        found = origin_known(s, origin)
        if found != NULL:
            batch_holds(self.state, found)
        pthread_mutex_unlock(&s.lock)
        if found == NULL:
            raise KeyError(f"no origin {origin}")
        # Pins first: nothing is added when a buffer is refused.
        pinned = pin(into, True) if into is not None else None
        sent = pin(content, False) if content is not None else None
        self.state.requests.emplace_back()
        request = &self.state.requests.back()
        request.policy = policy.state
        request.origin = found
        request.endpoint = &found.endpoint
        request.arena = self.state.arena
        request.batch = self.state
        request.index = self.state.requests.size() - 1
        request.method = <Method>method
        request.target = target
        request.fields = fields
        request.credentials = credentials
        request.wanted.kind = <RangeKind>kind
        request.wanted.start = start
        request.wanted.end = end
        request.object_size = request.expected = request.required_object_size = -1
        request.measured = pinned is None
        request.keep_head = keep_head
        request.repeatable = repeatable and (policy.state.retry.methods >> method) & 1
        if kind == RANGE_SUFFIX and method == METHOD_GET and not policy.state.suffix_ranges:
            request_ask_size(request)
        if pinned is not None:
            request.memory = <char*>pinned._view.buf
            request.capacity = pinned._view.len
            self.pins.append(pinned)
        if sent is not None:
            request.content = <const char*>(<Pin>sent)._view.buf
            request.content_size = (<Pin>sent)._view.len
            self.pins.append(sent)
        self.policies[<uintptr_t>policy.state] = policy

    def submit(self, double seconds=0):
        """Hand the batch to the engine.

        Parameters
        ----------
        seconds : float
            The longest time to `attend` to it at once.

        Returns
        -------
        bool
            Whether the batch is complete; its waker was told of nothing then.
        """
        self._submit(seconds > 0)
        return seconds > 0 and self.attend(seconds)

    def run(self):
        """Submit the batch and `wait` for it; a small one is seen to by the calling thread."""
        self._submit(True)
        self.wait()

    cdef _submit(self, bint attends):
        cdef double now = monotonic()
        self.engine.ensure_usable()
        if self.state.submitted:
            raise RuntimeError("the batch has been submitted already")
        if self.deadline_seconds > 0:
            self.state.deadline = now + self.deadline_seconds
        self.engine.reap()
        self.engine.live[self.id] = self
        pthread_mutex_lock(&self.engine.scheduler.lock)
        if self.engine.stopped and not self.engine.scheduler.exiting:
            # Meanwhile: what was reaped may have run anything.
            pthread_mutex_unlock(&self.engine.scheduler.lock)
            del self.engine.live[self.id]
            self.engine.ensure_usable()
        if attends and self.state.requests.size():
            scheduler_admit(
                self.engine.scheduler, self.state, <Origin*>self.state.requests.front().origin,
                self.state.requests.size(),
            )
        scheduler_submit(self.engine.scheduler, self.state, now)
        pthread_mutex_unlock(&self.engine.scheduler.lock)

    def cancel(self):
        """End all reads that are not complete as CANCELLED."""
        if self.engine.pid != getpid():
            return
        pthread_mutex_lock(&self.engine.scheduler.lock)
        scheduler_cancel_all(self.engine.scheduler, self.state, STATUS_CANCELLED)
        # Whoever was to add to it has gone.
        scheduler_seal(self.engine.scheduler, self.state)
        pthread_mutex_unlock(&self.engine.scheduler.lock)

    def cancel_some(self, indexes):
        """The same of these reads alone; takes as long for many as for one."""
        cdef vector[size_t] named = indexes
        cdef vector[char] chosen
        cdef size_t index
        if self.engine.pid != getpid() or named.empty():
            return
        pthread_mutex_lock(&self.engine.scheduler.lock)
        chosen.resize(self.state.requests.size())
        for index in named:
            if index < chosen.size():
                chosen[index] = True
        scheduler_cancel(self.engine.scheduler, self.state, chosen, STATUS_CANCELLED)
        pthread_mutex_unlock(&self.engine.scheduler.lock)

    def unpin(self):
        """Let go of the callers' buffers; the engine does when the batch is complete."""
        self.pins.clear()

    def discard(self):
        """Let go of all bodies of a complete batch, for a traceback may keep the batch itself."""
        cdef size_t index
        if not self.state.done:
            return
        for index in range(self.state.requests.size()):
            slab_release(self.state.requests[index].slab)
            self.state.requests[index].slab = NULL
            self.state.requests[index].memory = NULL
            self.state.requests[index].delivered = 0
        arena_free(self.state.arena)
        self.state.arena = NULL

    def attend(self, double seconds):
        """Do the I/O of the batch here, without the GIL, if it was admitted to that.

        A small batch to a near server is, where nobody else waits: then no other thread has to
        wake up for it. What is not done in time goes on in the engine's threads.

        Parameters
        ----------
        seconds : float
            The longest time to do so.

        Returns
        -------
        bool
            Whether the batch is complete; its waker was not told of it then.
        """
        if self.state.attended:
            with nogil:
                self.attend_to(seconds)
        if self.ended_in_attendance:
            self.engine.reap()
        return self.ended_in_attendance

    cdef void attend_to(self, double seconds) noexcept nogil:
        cdef sigset_t before
        cdef bint blocks = self.state.over_sessions and tls_block_broken_pipes(&before)
        self.ended_in_attendance = reactor_attend(
            self.engine.guest, self.engine.guest_decoder, self.state, monotonic() + seconds
        )
        if blocks:
            tls_unblock_broken_pipes(&before)

    def wait(self):
        """Wait, without the GIL, until every read is complete.

        A signal is served while waiting; when its handler raises (Ctrl-C), the batch is cancelled,
        its memory let go of, and the exception goes on.
        """
        if not self.state.submitted or self.engine.pid != getpid():
            raise RuntimeError("the batch was not submitted in this process")
        try:
            if self.attend(SIGNAL_CHECK_SECONDS):
                return
            self._wait()
        except BaseException:
            # A signal's handler raised, at whatever it was that looked.
            if self.engine.pid != getpid() or (self.engine.stopped and not self.state.done):
                # It forked, and this is the child, or the process ends: nothing of the batch goes
                # on.
                raise
            self.cancel()
            with nogil:
                _wait_until_done(self.engine.scheduler, self.state)
            self.engine.reap()
            self.discard()
            raise
        self.engine.reap()

    cdef _wait(self):
        cdef bint done = False
        if threading.current_thread() is not threading.main_thread():
            with nogil:
                done = _wait_until_done(self.engine.scheduler, self.state)
            if not done:
                # Mostly nobody is there any more to hear of it. But a hook of atexit may wait.
                raise RuntimeError(NO_MORE)
        while not done:
            with nogil:
                done = _wait_a_while(self.engine.scheduler, self.state)
            if not done:
                PyErr_CheckSignals()

    @property
    def done(self):
        """Whether every read is complete."""
        return self.state.done

    def ranges_ignored(self):
        """Indexes of the completed reads for whose range the whole object came."""
        cdef size_t index
        return [index for index in range(self.state.requests.size())
                if self.state.requests[index].range_ignored]

    def ranges_answered(self):
        """Indexes of the completed reads that a range came for (206 Partial Content)."""
        cdef size_t index
        return [index for index in range(self.state.requests.size())
                if self.state.requests[index].http_status == PARTIAL_CONTENT
                and self.state.requests[index].code == STATUS_OK]

    def code(self, size_t index):
        """The Status of a completed read."""
        return self._request(index).code

    def failures(self):
        """Indexes of the completed reads that are neither OK nor MISSING."""
        cdef size_t index
        return [
            index for index in range(self.state.requests.size())
            if self.state.requests[index].code not in (STATUS_OK, STATUS_MISSING)
        ]

    def body(self, size_t index):
        """The Body of a completed read, None unless it is OK. Taken once: the batch keeps none."""
        return self._body(self._request(index))

    def body_into(self, size_t index, dict bodies not None):
        """Have `bodies` hold `body(index)`, if it does not yet; no signal comes between."""
        if index not in bodies:
            bodies[index] = self.body(index)

    def bodies(self):
        """`body` of every read."""
        cdef size_t index
        return [self._body(&self.state.requests[index])
                for index in range(self.state.requests.size())]

    def outcome(self, size_t index):
        """The facts of a completed request, as a dict."""
        cdef Request* request = self._request(index)
        return {
            "code": request.code,
            "status": request.http_status or None,
            "attempts": request.attempts,
            "errno": request.error,
            "delivered": request.delivered,
            "object_size": request.object_size if request.object_size >= 0 else None,
            "range_ignored": request.range_ignored,
            "counts_from_end": request.wanted.kind == RANGE_SUFFIX,
            "detail": request.detail.decode("utf-8", "replace") or _limit(request),
            "directory": request.code == STATUS_REDIRECT and request.names_directory,
            "location": request.location.decode("latin-1"),
            "redirected_to": (
                (request.endpoint.authority + request.target).decode("latin-1")
                if request.retries.redirects else ""
            ),
            "etag": request.etag.decode("latin-1") or None,
            "head": <bytes>request.head,
        }

    cdef Request* _request(self, size_t index) except NULL:
        if index >= self.state.requests.size():
            raise IndexError(f"the batch has {self.state.requests.size()} reads, no {index}")
        return &self.state.requests[index]

    cdef _body(self, Request* request):
        cdef Body body
        if request.code != STATUS_OK or request.method != METHOD_GET or not request.measured:
            return None
        if request.memory == NULL and request.delivered:
            raise RuntimeError("the body was taken already")
        body = body_over(request.slab, request.memory, request.delivered)
        request.slab = NULL
        request.memory = NULL
        return body


cdef str _limit(Request* request):
    # What has run out, where that is so.
    if request.code == STATUS_FIRST_BYTE_TIMEOUT:
        return f"{request.policy.first_byte_timeout:g} s"
    if request.code == STATUS_READ_TIMEOUT:
        return f"{request.policy.read_timeout:g} s"
    return ""


cdef bint _wait_until_done(Scheduler* s, BatchState* state) noexcept nogil:
    # False where the process ends, and has not ended after a while.
    cdef bint done
    pthread_mutex_lock(&s.lock)
    while not state.done and not s.exiting:
        pthread_cond_wait(&state.completed, &s.lock)
    if not state.done:
        wait_for(&state.completed, &s.lock, _late_seconds)
    done = state.done
    pthread_mutex_unlock(&s.lock)
    return done


cdef bint _wait_a_while(Scheduler* s, BatchState* state) noexcept nogil:
    cdef bint done
    pthread_mutex_lock(&s.lock)
    if not state.done:
        wait_for(&state.completed, &s.lock, SIGNAL_CHECK_SECONDS)
    done = state.done
    pthread_mutex_unlock(&s.lock)
    return done
