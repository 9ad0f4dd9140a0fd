"""Which request goes out next on which lease, after which wait: the queues of the engine.

No function here blocks, opens or reads anything; each one runs under the scheduler's lock, which
its caller holds. Whoever waits for the lock waits microseconds, also with the GIL.
"""

from libc.math cimport fmin
from libc.time cimport time
from libcpp.deque cimport deque
from libcpp.map cimport multimap
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from cython.operator cimport dereference, postincrement

from zfast._core.counters cimport record_time
from zfast._core.exchange cimport (
    CONCLUDED_BROKEN,
    CONCLUDED_MISSING,
    CONCLUDED_OK,
    CONCLUDED_REDIRECT,
    CONCLUDED_RESTART,
    CONCLUDED_STATUS,
    PHASE_IDLE,
    Conclusion,
    Exchange,
    Request,
)
from zfast._core.extern.pthread cimport pthread_cond_broadcast, pthread_cond_signal
from zfast._core.extern.sockets cimport ZFAST_SEND_FLAGS, send
from zfast._core.http1 cimport http1_is_target
from zfast._core.retry cimport (
    MISHAP_CONNECT,
    MISHAP_OTHER,
    MISHAP_READ,
    MISHAP_STATUS,
    Mishap,
    http_date,
    retry_delay,
)
from zfast._core.types cimport (
    STATUS_BAD_STATUS,
    STATUS_CANCELLED,
    STATUS_CHANGED,
    STATUS_DEADLINE,
    STATUS_MISSING,
    STATUS_OK,
    STATUS_REDIRECT,
    STATUS_RESET,
    Status,
)

cdef enum:
    NOBODY = -1


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef double _roll(Scheduler* s) noexcept nogil:
    # xorshift: jitter needs spread, not secrecy.
    s.dice ^= s.dice << 13
    s.dice ^= s.dice >> 7
    s.dice ^= s.dice << 17
    return <double>(s.dice >> 11) / 9007199254740992.0


cdef void ring(int fd) noexcept nogil:
    # One byte is enough: when the socket is full, whoever reads it is awake anyhow.
    send(fd, b"!", 1, ZFAST_SEND_FLAGS)


cdef void wake(Worker* worker) noexcept nogil:
    if not worker.woken:
        worker.woken = True
        ring(worker.wake_fd)


# ---------------------------------------------------------------------------------------- queueing


cdef void _enqueue(Scheduler* s, Request* request, bint first) noexcept nogil:
    cdef Origin* origin = <Origin*>request.origin
    cdef BatchState* batch = <BatchState*>request.batch
    cdef Lane* lane = batch.lanes[<size_t>origin]
    if lane == NULL:
        lane = new Lane()
        lane.listed = False
        batch.lanes[<size_t>origin] = lane
    if first:
        lane.waiting.push_front(request)
    else:
        lane.waiting.push_back(request)
    if not lane.listed:
        lane.listed = True
        origin.lanes.push_back(lane)
    origin.pending += 1
    if not origin.listed:
        origin.listed = True
        s.pending.push_back(origin)


cdef Request* _take_next(Scheduler* s, Origin* origin) noexcept nogil:
    # The next request for the origin, NULL when every client with one is at its own limit.
    cdef size_t turns = origin.lanes.size()
    cdef Lane* lane
    cdef Request* request
    while turns > 0:
        turns -= 1
        lane = origin.lanes.front()
        origin.lanes.pop_front()
        if lane.waiting.empty():
            lane.listed = False
            continue
        request = lane.waiting.front()
        if request.profile.in_flight >= request.profile.max_in_flight:
            origin.lanes.push_back(lane)
            continue
        lane.waiting.pop_front()
        if lane.waiting.empty():
            lane.listed = False
        else:
            origin.lanes.push_back(lane)
        origin.pending -= 1
        return request
    return NULL


cdef void scheduler_submit(Scheduler* s, BatchState* batch, double now) noexcept nogil:
    cdef size_t index
    batch.submitted = True
    batch.outstanding = batch.requests.size()
    s.batches[batch.id] = batch
    if batch.deadline > 0 and (s.next_deadline == 0 or batch.deadline < s.next_deadline):
        s.next_deadline = batch.deadline
        wake(s.workers[0])
    for index in range(batch.requests.size()):
        _enqueue(s, &batch.requests[index], False)
    if batch.outstanding == 0:
        _complete(s, batch)
    scheduler_dispatch(s, NOBODY, now)


# ------------------------------------------------------------------------------------- dispatching


cdef void _call(Scheduler* s, CallKind kind, long long id, size_t index) noexcept nogil:
    cdef Call call
    call.kind = kind
    call.id = id
    call.index = index
    s.calls.push_back(call)
    pthread_cond_signal(&s.calls_waiting)


cdef void scheduler_retire(Scheduler* s, Lease* lease, bint reusable) noexcept nogil:
    # Gives the connection up; its worker frees the lease once it has stopped polling it.
    cdef size_t index
    if lease.retired:
        return
    lease.retired = True
    if lease.idle:
        lease.idle = False
        for index in range(lease.origin.idle.size()):
            if lease.origin.idle[index] == lease:
                lease.origin.idle.erase(lease.origin.idle.begin() + <long>index)
                break
    lease.origin.leases -= 1
    s.leases -= 1
    s.workers[lease.worker].leases -= 1
    s.leases_by_id.erase(lease.id)
    if not reusable:
        s.connections_closed += 1
        lease.exchange.transport.operations.shut(&lease.exchange.transport)
    _call(s, CALL_RELEASE if reusable else CALL_CLOSE, lease.id, 0)


cdef bint _evict(Scheduler* s, int caller) noexcept nogil:
    # Makes room for an origin that has no connection at all by giving back another's idle one.
    cdef Lease* lease
    for entry in s.origins:
        if not entry.second.idle.empty():
            lease = entry.second.idle.front()
            scheduler_retire(s, lease, True)
            s.workers[lease.worker].scan = True
            if lease.worker != caller:
                wake(s.workers[lease.worker])
            return True
    return False


cdef void _dial(Scheduler* s, Origin* origin, int caller, double now) noexcept nogil:
    cdef long wanted = <long>origin.pending - <long>origin.idle.size() - origin.dialling
    cdef long room = s.max_leases - s.leases - s.dialling
    if origin.dial_after > now:
        return
    if room <= 0 and wanted > 0 and origin.leases == 0 and origin.dialling == 0:
        room = 1 if _evict(s, caller) else 0
    wanted = min(wanted, room)
    if origin.max_leases:
        wanted = min(wanted, <long>(origin.max_leases - origin.leases - origin.dialling))
    while wanted > 0:
        wanted -= 1
        origin.dialling += 1
        s.dialling += 1
        _call(s, CALL_DIAL, origin.id, 0)


cdef void _assign(
    Scheduler* s, Lease* lease, Request* request, int caller
) noexcept nogil:
    cdef Worker* worker = s.workers[lease.worker]
    cdef Assignment assignment
    assignment.lease = lease
    assignment.request = request
    lease.idle = False
    lease.request = request
    s.in_flight += 1
    request.profile.in_flight += 1
    request.profile.counters.requests += 1
    worker.inbox.push_back(assignment)
    if lease.worker != caller:
        wake(worker)


cdef void scheduler_dispatch(Scheduler* s, int caller, double now) noexcept nogil:
    # Pairs waiting requests with idle leases, origin by origin in turn, and asks for connections
    # where there are too few. `caller` is the worker that will look at its inbox anyhow.
    cdef size_t index = 0
    cdef bint progress = True
    cdef Origin* origin
    cdef Request* request
    cdef Lease* lease
    if s.stopping:
        return
    for index in range(s.pending.size()):
        origin = s.pending[index]
        if origin.pending and origin.leases == 0 and origin.dialling == 0:
            _dial(s, origin, caller, now)
    while progress and s.in_flight < s.max_in_flight:
        progress = False
        index = 0
        while index < s.pending.size() and s.in_flight < s.max_in_flight:
            origin = s.pending[index]
            if origin.pending == 0:
                origin.listed = False
                s.pending.erase(s.pending.begin() + <long>index)
                continue
            index += 1
            if origin.idle.empty():
                continue
            request = _take_next(s, origin)
            if request == NULL:
                continue
            lease = origin.idle.back()
            origin.idle.pop_back()
            _assign(s, lease, request, caller)
            progress = True
    for index in range(s.pending.size()):
        if s.in_flight >= s.max_in_flight:
            break
        _dial(s, s.pending[index], caller, now)


cdef void scheduler_adopt(Scheduler* s, Lease* lease, double now) noexcept nogil:
    # A connection that has just been opened, or came open out of its pool.
    cdef size_t index
    cdef int fewest = 0
    cdef Assignment assignment
    cdef Origin* origin = lease.origin
    for index in range(s.workers.size()):
        if s.workers[index].leases < s.workers[fewest].leases:
            fewest = <int>index
    lease.worker = fewest
    s.workers[fewest].leases += 1
    s.leases_by_id[lease.id] = lease
    origin.leases += 1
    origin.dialling -= 1
    s.leases += 1
    s.dialling -= 1
    origin.dial_failures = 0
    origin.dial_after = 0
    if lease.used:
        s.connections_reused += 1
    else:
        s.connections_opened += 1
    lease.idle = True
    lease.idle_since = now
    origin.idle.push_back(lease)
    # Adopted through the inbox even where it stays idle: its worker must watch for its end.
    assignment.lease = lease
    assignment.request = NULL
    s.workers[fewest].inbox.push_back(assignment)
    wake(s.workers[fewest])
    scheduler_dispatch(s, NOBODY, now)


cdef void scheduler_dial_failed(
    Scheduler* s, Origin* origin, Status code, int error, bint no_descriptor, string detail,
    double now
) noexcept nogil:
    cdef vector[Request*] failed
    cdef Request* request
    cdef Lane* lane
    origin.dialling -= 1
    s.dialling -= 1
    if no_descriptor and s.leases > 0:
        # The process is out of descriptors: make do with the connections there are.
        s.max_leases = max(1, s.leases + s.dialling)
        scheduler_dispatch(s, NOBODY, now)
        return
    origin.dial_failures += 1
    origin.dial_after = now + fmin(0.05 * <double>(1 << min(origin.dial_failures, 7)), 5.0)
    if origin.leases > 0 or origin.dialling > 0:
        wake(s.workers[0])
        return
    # Nothing connects: it is the mishap of every request that waits for this origin.
    origin.dial_after = 0
    while not origin.lanes.empty():
        lane = origin.lanes.front()
        origin.lanes.pop_front()
        lane.listed = False
        while not lane.waiting.empty():
            failed.push_back(lane.waiting.front())
            lane.waiting.pop_front()
    origin.pending = 0
    for request in failed:
        request.attempts += 1
        request.error = error
        request.detail = detail
        _retry_or_finish(s, request, MISHAP_CONNECT, code, -1.0, now)


# ---------------------------------------------------------------------------------------- settling


cdef void _complete(Scheduler* s, BatchState* batch) noexcept nogil:
    batch.done = True
    s.batches.erase(batch.id)
    s.finished.push_back(batch.id)
    if batch.notices != NULL:
        _notice(batch, -1)
    pthread_cond_broadcast(&batch.completed)


cdef void _notice(BatchState* batch, long long index) noexcept nogil:
    cdef Notices* notices = batch.notices
    notices.batches.push_back(batch.id)
    notices.indexes.push_back(index)
    if not notices.signalled:
        notices.signalled = True
        ring(notices.wake_fd)


cdef void scheduler_finish(Scheduler* s, Request* request, Status code) noexcept nogil:
    cdef BatchState* batch = <BatchState*>request.batch
    request.code = code
    request.profile.counters.reads += 1
    if code == STATUS_OK:
        request.profile.counters.bytes_received += request.delivered
        request.profile.counters.bytes_sent += request.content_size
    elif code == STATUS_MISSING:
        request.profile.counters.missing += 1
    elif code != STATUS_CANCELLED:
        request.profile.counters.failed += 1
        if batch.fail_fast and not batch.failed:
            batch.failed = True
            scheduler_cancel(s, batch, -1, STATUS_CANCELLED)
    batch.outstanding -= 1
    if batch.notices != NULL and batch.notify_each:
        _notice(batch, <long long>request.index)
    if batch.outstanding == 0:
        _complete(s, batch)


cdef void _delay(Scheduler* s, Request* request, double delay, double now) noexcept nogil:
    cdef double due = now + delay
    cdef bint earliest = s.delayed.empty() or due < dereference(s.delayed.begin()).first
    request.profile.counters.retries += 1
    if delay <= 0:
        _enqueue(s, request, True)
        return
    s.delayed.insert(pair[double, Request_ptr](due, request))
    if earliest:
        wake(s.workers[0])


cdef void _retry_or_finish(
    Scheduler* s, Request* request, Mishap mishap, Status code, double retry_after, double now
) noexcept nogil:
    cdef double delay = -1.0
    if request.cancelled != STATUS_OK:
        code = request.cancelled
    elif request.repeatable or mishap == MISHAP_CONNECT:
        delay = retry_delay(
            &request.profile.retry, &request.retries, mishap, retry_after, _roll(s)
        )
    if delay < 0:
        scheduler_finish(s, request, code)
    else:
        _delay(s, request, delay, now)


cdef double _retry_after(const Exchange* exchange) noexcept nogil:
    cdef double date
    if exchange.parser.head.retry_after >= 0:
        return <double>exchange.parser.head.retry_after
    if exchange.parser.head.retry_after_value.offset:
        date = http_date(
            exchange.head + exchange.parser.head.retry_after_value.offset,
            exchange.parser.head.retry_after_value.size,
        )
        if date >= 0:
            return max(0.0, date - <double>time(NULL))
    return -1.0


cdef void _settle_broken(
    Scheduler* s, Lease* lease, Request* request, Status code, double now
) noexcept nogil:
    if lease.used and not lease.exchange.answered and code == STATUS_RESET and (
        request.cancelled == STATUS_OK and not request.stale_retried
    ):
        # The server had closed the idle connection: nobody's fault, and nobody's attempt.
        request.stale_retried = True
        request.attempts -= 1
        request.profile.counters.stale_retries += 1
        _enqueue(s, request, True)
        return
    if request.delivered and request.resumable:
        request.profile.counters.resumed += 1
    _retry_or_finish(s, request, MISHAP_READ, code, -1.0, now)


cdef void _settle_redirect(Scheduler* s, Request* request) noexcept nogil:
    # To the same origin here and now; anything else takes Python's URL handling.
    cdef string* location = &request.location
    cdef string* authority = &request.endpoint.authority
    cdef size_t fragment = location.find(b"#")
    request.retries.redirects += 1
    request.profile.counters.redirects += 1
    if request.retries.redirects > request.profile.retry.redirects:
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    if fragment < location.size():
        location.resize(fragment)
    if location.size() > authority.size() and location.compare(
            0, authority.size(), dereference(authority)) == 0 and (
            dereference(location)[authority.size()] == c"/"):
        location.erase(0, authority.size())
    if location.size() and dereference(location)[0] == c"/" and location.compare(
            0, 2, b"//") and http1_is_target(location.data(), location.size()):
        request.target = dereference(location)
        _enqueue(s, request, True)
    else:
        _call(s, CALL_REDIRECT, (<BatchState*>request.batch).id, request.index)


cdef void scheduler_redirected(
    Scheduler* s, Request* request, Origin* origin, string target, bint foreign, double now
) noexcept nogil:
    # Python's answer to CALL_REDIRECT; a NULL origin means that it leads nowhere.
    if request.cancelled != STATUS_OK:
        scheduler_finish(s, request, request.cancelled)
    elif origin == NULL:
        scheduler_finish(s, request, STATUS_REDIRECT)
    else:
        request.origin = origin
        request.endpoint = &origin.endpoint
        request.target = target
        request.foreign = request.foreign or foreign
        _enqueue(s, request, True)
        scheduler_dispatch(s, NOBODY, now)


cdef void scheduler_lose(Scheduler* s, Lease* lease) noexcept nogil:
    # The lease's request is on it no more. Only the lease's own worker may call this.
    lease.request.profile.in_flight -= 1
    lease.request = NULL
    lease.exchange.request = NULL
    lease.exchange.phase = PHASE_IDLE
    s.in_flight -= 1


cdef void scheduler_settle(Scheduler* s, Lease* lease, double now) noexcept nogil:
    # Acts on the conclusion of the lease's exchange: the lease is idle or retired afterwards, its
    # request finished, waiting again, or on its way through Python.
    cdef Exchange* exchange = &lease.exchange
    cdef Request* request = lease.request
    cdef Conclusion conclusion = exchange.conclusion
    if exchange.answered:
        record_time(request.profile.counters.first_byte, exchange.first_byte - exchange.begun)
    scheduler_lose(s, lease)
    if conclusion == CONCLUDED_OK:
        record_time(request.profile.counters.transfer, now - exchange.begun)
        scheduler_finish(s, request, STATUS_OK)
    elif conclusion == CONCLUDED_MISSING:
        scheduler_finish(s, request, STATUS_MISSING)
    elif conclusion == CONCLUDED_BROKEN:
        _settle_broken(s, lease, request, exchange.code, now)
    elif request.cancelled != STATUS_OK:
        scheduler_finish(s, request, request.cancelled)
    elif conclusion == CONCLUDED_RESTART:
        request.delivered = 0
        request.etag.clear()
        _retry_or_finish(s, request, MISHAP_OTHER, STATUS_CHANGED, -1.0, now)
    elif conclusion == CONCLUDED_STATUS:
        _retry_or_finish(
            s, request, MISHAP_STATUS, STATUS_BAD_STATUS, _retry_after(exchange), now
        )
    elif conclusion == CONCLUDED_REDIRECT:
        _settle_redirect(s, request)
    else:
        scheduler_finish(s, request, exchange.code)
    lease.used = True
    if exchange.reusable:
        lease.idle = True
        lease.idle_since = now
        lease.origin.idle.push_back(lease)
    else:
        scheduler_retire(s, lease, False)


# ---------------------------------------------------------------------- cancelling, and what is due


cdef void _unlist(Origin* origin, Lane* lane) noexcept nogil:
    # An empty lane may end with its batch: the origin must not know it any more.
    cdef size_t index
    lane.listed = False
    for index in range(origin.lanes.size()):
        if origin.lanes[index] == lane:
            origin.lanes.erase(origin.lanes.begin() + <long>index)
            return


cdef void _cancel_waiting(
    Scheduler* s, BatchState* batch, long long index, vector[Request_ptr]* cancelled
) noexcept nogil:
    cdef deque[Request_ptr] kept
    cdef Origin* origin
    cdef Request* request
    for entry in batch.lanes:
        origin = <Origin*>entry.first
        kept.clear()
        for request in entry.second.waiting:
            if index < 0 or request.index == <size_t>index:
                cancelled.push_back(request)
                origin.pending -= 1
            else:
                kept.push_back(request)
        entry.second.waiting.swap(kept)
        if entry.second.listed and entry.second.waiting.empty():
            _unlist(origin, entry.second)
    cdef multimap[double, Request_ptr].iterator due = s.delayed.begin()
    while due != s.delayed.end():
        request = dereference(due).second
        if request.batch == batch and (index < 0 or request.index == <size_t>index):
            cancelled.push_back(request)
            due = s.delayed.erase(due)
        else:
            postincrement(due)


cdef void scheduler_cancel(
    Scheduler* s, BatchState* batch, long long index, Status code
) noexcept nogil:
    # What waits is finished at once; what is on a lease, by the lease's worker, which is woken.
    cdef vector[Request_ptr] cancelled
    cdef Request* request
    cdef size_t at
    if batch.done or not batch.submitted:
        return
    _cancel_waiting(s, batch, index, &cancelled)
    for at in range(batch.requests.size()):
        if index < 0 or at == <size_t>index:
            batch.requests[at].cancelled = code
    for worker in s.workers:
        worker.scan = True
        wake(worker)
    for request in cancelled:
        scheduler_finish(s, request, code)


cdef void _expire(Scheduler* s, double now) noexcept nogil:
    cdef vector[BatchState_ptr] expired
    cdef BatchState* batch
    s.next_deadline = 0
    for entry in s.batches:
        batch = entry.second
        if batch.deadline <= 0:
            continue
        if batch.deadline <= now:
            expired.push_back(batch)
        elif s.next_deadline == 0 or batch.deadline < s.next_deadline:
            s.next_deadline = batch.deadline
    for batch in expired:
        batch.deadline = 0
        scheduler_cancel(s, batch, -1, STATUS_DEADLINE)


cdef void scheduler_tick(Scheduler* s, double now) noexcept nogil:
    # What has come due: retries after their backoff, deadlines, dialling after a pause.
    cdef Request* request
    cdef bint due = False
    if s.next_deadline > 0 and s.next_deadline <= now:
        _expire(s, now)
    while not s.delayed.empty() and dereference(s.delayed.begin()).first <= now:
        request = dereference(s.delayed.begin()).second
        s.delayed.erase(s.delayed.begin())
        _enqueue(s, request, True)
        due = True
    for origin in s.pending:
        if origin.pending and 0 < origin.dial_after <= now:
            due = True
            origin.dial_after = 0
    if due:
        scheduler_dispatch(s, NOBODY, now)


cdef double scheduler_next_tick(Scheduler* s) noexcept nogil:
    # When scheduler_tick has something to do next, 0 when nothing is waiting for a time.
    cdef double first = s.next_deadline
    cdef double due
    if not s.delayed.empty():
        due = dereference(s.delayed.begin()).first
        first = due if first == 0 else min(first, due)
    for origin in s.pending:
        if origin.pending and origin.dial_after > 0:
            first = origin.dial_after if first == 0 else min(first, origin.dial_after)
    return first
