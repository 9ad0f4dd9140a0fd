"""Batches: reads submitted together, with one completion, and what pins their memory until then.

A batch that was submitted stays alive, with every destination pinned, until its last request has
been settled, whoever stopped waiting for it.
"""

import os
import socket
import threading

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uintptr_t
from libc.string cimport memset
from libcpp.deque cimport deque
from libcpp.unordered_set cimport unordered_set
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close

from zfast._core.buffers cimport (
    Body,
    Pin,
    arena_free,
    arena_new,
    body_over,
    pin,
    slab_release,
)
from zfast._core.counters cimport HISTOGRAM_BUCKETS, Counters
from zfast._core.engine cimport Engine
from zfast._core.exchange cimport Profile, Request
from zfast._core.extern.pthread cimport (
    pthread_cond_destroy,
    pthread_cond_init,
    pthread_cond_timedwait,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
)
from zfast._core.extern.sockets cimport MSG_DONTWAIT, recv
from zfast._core.scheduler cimport (
    BatchState,
    Notices,
    Origin,
    Scheduler,
    monotonic,
    scheduler_cancel,
    scheduler_submit,
)
from zfast._core.semantics cimport POLICY_MISSING, POLICY_RETRY, STATUS_LIMIT
from zfast._core.types cimport (
    METHOD_GET,
    STATUS_CANCELLED,
    STATUS_MISSING,
    STATUS_OK,
    Method,
    RangeKind,
)

cdef enum:
    # How long a signal may wait for the main thread to notice it.
    SIGNAL_CHECK_NANOSECONDS = 50_000_000

_ids = iter(range(1, 1 << 62))


ctypedef Profile* Profile_ptr

# The counters of every client that there is, and the sum of those of every one that was.
cdef pthread_mutex_t _profiles_lock
cdef unordered_set[Profile_ptr] _profiles
cdef Counters _retired
pthread_mutex_init(&_profiles_lock, NULL)
memset(&_retired, 0, sizeof(_retired))

cdef void _add_counters(Counters* total, const Counters* some) noexcept nogil:
    cdef unsigned long long* sums = <unsigned long long*>total
    cdef const unsigned long long* numbers = <const unsigned long long*>some
    cdef size_t index
    for index in range(sizeof(Counters) // sizeof(unsigned long long)):
        sums[index] += numbers[index]


cdef dict _as_dict(const Counters* c):
    return {
        "requests": c.requests,
        "reads": c.reads,
        "missing": c.missing,
        "failed": c.failed,
        "bytes_received": c.bytes_received,
        "bytes_sent": c.bytes_sent,
        "retries": c.retries,
        "stale_retries": c.stale_retries,
        "redirects": c.redirects,
        "resumed": c.resumed,
        "first_byte": [c.first_byte[b] for b in range(HISTOGRAM_BUCKETS)],
        "transfer": [c.transfer[b] for b in range(HISTOGRAM_BUCKETS)],
    }


def process_counters():
    """The counters of all clients that this process has had, summed; see `Policy.counters`."""
    cdef Counters total
    pthread_mutex_lock(&_profiles_lock)
    total = _retired
    for profile in _profiles:
        _add_counters(&total, &profile.counters)
    pthread_mutex_unlock(&_profiles_lock)
    return _as_dict(&total)


def after_fork_in_child():
    """Make this module's lock usable in a forked child, whoever held it in the parent."""
    pthread_mutex_init(&_profiles_lock, NULL)


cdef class Policy:
    """What all requests of a client have in common; immutable once made.

    Parameters
    ----------
    fields, foreign_fields : bytes
        Header lines for every request, and those that another origin may see after a redirect.
    missing, retry : iterable of int
        HTTP statuses that mean "missing", and those worth another attempt.
    retries : dict
        The numbers of a `urllib3.Retry`, None as -1; see ``RetryPolicy`` in retry.pxd.
    read_timeout : float
        Seconds without progress after which an attempt has failed, 0 for none.
    max_in_flight : int
        Requests of this client on the wire at once.
    """

    cdef Profile* profile

    def __cinit__(self, bytes fields, bytes foreign_fields, missing, retry, dict retries,
                  double read_timeout, int max_in_flight):
        cdef Profile* profile = new Profile()
        self.profile = profile
        profile.fields = fields
        profile.foreign_fields = foreign_fields
        memset(&profile.statuses, 0, sizeof(profile.statuses))
        memset(&profile.counters, 0, sizeof(profile.counters))
        for statuses, flag in ((missing, POLICY_MISSING), (retry, POLICY_RETRY)):
            for status in statuses:
                if not 100 <= status < STATUS_LIMIT:
                    raise ValueError(f"{status!r} is no HTTP status")
                profile.statuses.flags[status] |= flag
        profile.retry.total = retries["total"]
        profile.retry.connect = retries["connect"]
        profile.retry.read = retries["read"]
        profile.retry.status = retries["status"]
        profile.retry.other = retries["other"]
        profile.retry.redirects = retries["redirects"]
        profile.retry.backoff_factor = retries["backoff_factor"]
        profile.retry.backoff_max = retries["backoff_max"]
        profile.retry.backoff_jitter = retries["backoff_jitter"]
        profile.retry.retry_after_max = retries["retry_after_max"]
        profile.retry.respect_retry_after = retries["respect_retry_after"]
        profile.retry.methods = retries["methods"]
        profile.read_timeout = read_timeout
        profile.max_in_flight = max_in_flight
        profile.in_flight = 0
        pthread_mutex_lock(&_profiles_lock)
        _profiles.insert(profile)
        pthread_mutex_unlock(&_profiles_lock)

    def __dealloc__(self):
        # Batches hold the policies of their requests: no worker knows this one any more.
        if self.profile == NULL:
            return
        pthread_mutex_lock(&_profiles_lock)
        _add_counters(&_retired, &self.profile.counters)
        _profiles.erase(self.profile)
        pthread_mutex_unlock(&_profiles_lock)
        del self.profile

    def counters(self):
        """What the requests of this policy did, as a dict of int and of lists of int.

        ``first_byte`` and ``transfer`` are histograms: element b counts times below 2**b µs that
        no earlier element counts.
        """
        # Read without the lock: each number is right, their sum may be a moment apart.
        return _as_dict(&self.profile.counters) | {"in_flight": self.profile.in_flight}


cdef class Waker:
    """The one descriptor that wakes an event loop for completions of all its batches.

    Watch `fileno()` for reading and call `completions()` when it is readable.
    """

    cdef Notices* notices
    cdef int fd
    cdef Engine engine

    def __cinit__(self, Engine engine):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.engine = engine
        self.fd = ours.detach()
        self.notices = new Notices()
        self.notices.owners = 1
        self.notices.wake_fd = theirs.detach()
        self.notices.signalled = False

    def __dealloc__(self):
        if self.notices != NULL:
            close(self.fd)
            _disown_notices(self.engine, self.notices)

    def fileno(self):
        """The descriptor to watch."""
        return self.fd

    def completions(self):
        """What has completed since the last call.

        Returns
        -------
        list of (int, int)
            Batch id and read index; an index of -1 is the batch as a whole.
        """
        cdef char[64] rung
        cdef deque[long long] batches
        cdef deque[long long] indexes
        cdef size_t at
        pthread_mutex_lock(&self.engine.scheduler.lock)
        while recv(self.fd, rung, sizeof(rung), MSG_DONTWAIT) == sizeof(rung):
            pass
        self.notices.signalled = False
        batches.swap(self.notices.batches)
        indexes.swap(self.notices.indexes)
        pthread_mutex_unlock(&self.engine.scheduler.lock)
        self.engine.reap()
        return [(batches[at], indexes[at]) for at in range(batches.size())]


cdef _disown_notices(Engine engine, Notices* notices):
    cdef bint last
    if engine.pid != os.getpid():
        return
    pthread_mutex_lock(&engine.scheduler.lock)
    notices.owners -= 1
    last = notices.owners == 0
    pthread_mutex_unlock(&engine.scheduler.lock)
    if last:
        close(notices.wake_fd)
        del notices


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
    """

    cdef BatchState* state
    cdef Engine engine
    cdef list pins
    cdef dict policies
    cdef double seconds
    cdef readonly long long id
    cdef object __weakref__

    def __cinit__(self, Engine engine, double deadline=0, Waker waker=None, bint each=False,
                  bint fail_fast=False):
        self.engine = engine
        self.id = next(_ids)
        self.pins = []
        self.policies = {}
        self.seconds = deadline
        self.state = new BatchState()
        self.state.id = self.id
        self.state.arena = arena_new()
        self.state.outstanding = 0
        self.state.deadline = 0
        self.state.notify_each = each
        self.state.fail_fast = fail_fast
        self.state.failed = False
        self.state.submitted = self.state.done = False
        self.state.notices = NULL
        pthread_cond_init(&self.state.completed, NULL)
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
        if self.state.notices != NULL:
            _disown_notices(self.engine, self.state.notices)
        pthread_cond_destroy(&self.state.completed)
        del self.state

    def __len__(self):
        return self.state.requests.size()

    def add(self, Policy policy not None, long long origin, int method, bytes target not None,
            int kind=0, long long start=0, long long end=0, into=None, bytes fields=b"",
            content=None, bint repeatable=True, bint keep_head=False):
        """Add a request; its index in the batch is the number of those before it.

        Parameters
        ----------
        policy : Policy
            Of the client that asks.
        origin : int
            As in `Engine.add_origin`.
        method : Method
            GET, HEAD, PUT or DELETE.
        target : bytes
            Request target in origin form (RFC 9112, section 3.2.1), already encoded.
        kind : RangeKind
            Of the byte range; `start` and `end` (exclusive) are as that kind has them.
        into : buffer, optional
            Writable C-contiguous destination; without it the body gets memory made to measure.
        fields : bytes
            Further header lines.
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
        cdef Origin* place
        if self.state.submitted:
            raise RuntimeError("the batch has been submitted: nothing can be added to it")
        if not s.origins.count(origin):
            raise KeyError(f"no origin {origin}")
        place = s.origins[origin]
        # Pins first: nothing is added when a buffer is refused.
        pinned = pin(into, True) if into is not None else None
        sent = pin(content, False) if content is not None else None
        self.state.requests.emplace_back()
        request = &self.state.requests.back()
        request.profile = policy.profile
        request.origin = place
        request.endpoint = &place.endpoint
        request.arena = self.state.arena
        request.batch = self.state
        request.index = self.state.requests.size() - 1
        request.method = <Method>method
        request.target = target
        request.fields = fields
        request.wanted.kind = <RangeKind>kind
        request.wanted.start = start
        request.wanted.end = end
        request.object_size = -1
        request.measured = pinned is None
        request.keep_head = keep_head
        request.repeatable = repeatable and (policy.profile.retry.methods >> method) & 1
        if pinned is not None:
            request.memory = <char*>pinned._view.buf
            request.capacity = pinned._view.len
            self.pins.append(pinned)
        if sent is not None:
            request.content = <const char*>(<Pin>sent)._view.buf
            request.content_size = (<Pin>sent)._view.len
            self.pins.append(sent)
        self.policies[<uintptr_t>policy.profile] = policy

    def submit(self):
        """Hand the batch to the engine."""
        cdef double now = monotonic()
        self.engine.ensure_usable()
        if self.state.submitted:
            raise RuntimeError("the batch has been submitted already")
        if self.seconds > 0:
            self.state.deadline = now + self.seconds
        self.engine.reap()
        self.engine.live[self.id] = self
        pthread_mutex_lock(&self.engine.scheduler.lock)
        scheduler_submit(self.engine.scheduler, self.state, now)
        pthread_mutex_unlock(&self.engine.scheduler.lock)

    def cancel(self, long long index=-1):
        """End one read (or all, with -1) as CANCELLED, unless it is complete."""
        if self.engine.pid != os.getpid():
            return
        pthread_mutex_lock(&self.engine.scheduler.lock)
        scheduler_cancel(self.engine.scheduler, self.state, index, STATUS_CANCELLED)
        pthread_mutex_unlock(&self.engine.scheduler.lock)

    def wait(self):
        """Wait, without the GIL, until every read is complete.

        A signal is served while waiting; when its handler raises (Ctrl-C), the batch is cancelled,
        its memory let go of, and the exception goes on.
        """
        cdef bint serves_signals = threading.current_thread() is threading.main_thread()
        cdef bint done = False
        if not self.state.submitted or self.engine.pid != os.getpid():
            raise RuntimeError("the batch was not submitted in this process")
        while not done:
            with nogil:
                done = _wait_a_while(self.engine.scheduler, self.state)
            if not done and serves_signals:
                try:
                    PyErr_CheckSignals()
                except BaseException:
                    self.cancel()
                    with nogil:
                        while not _wait_a_while(self.engine.scheduler, self.state):
                            pass
                    self.engine.reap()
                    raise
        self.engine.reap()

    @property
    def done(self):
        """Whether every read is complete."""
        return self.state.done

    @property
    def range_ignored(self):
        """Whether a server answered a range with the whole object."""
        cdef size_t index
        for index in range(self.state.requests.size()):
            if self.state.requests[index].range_ignored:
                return True
        return False

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
            "detail": request.detail.decode("utf-8", "replace"),
            "location": request.location.decode("latin-1"),
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
        body = body_over(request.slab, request.memory, request.delivered)
        request.slab = NULL
        request.memory = NULL
        return body


cdef bint _wait_a_while(Scheduler* s, BatchState* state) noexcept nogil:
    cdef timespec until
    cdef bint done
    clock_gettime(CLOCK_REALTIME, &until)
    until.tv_nsec += SIGNAL_CHECK_NANOSECONDS
    if until.tv_nsec >= 1_000_000_000:
        until.tv_nsec -= 1_000_000_000
        until.tv_sec += 1
    pthread_mutex_lock(&s.lock)
    if not state.done:
        pthread_cond_timedwait(&state.completed, &s.lock, &until)
    done = state.done
    pthread_mutex_unlock(&s.lock)
    return done
