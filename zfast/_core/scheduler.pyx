"""Which request goes out next on which lease: lanes of waiting requests, idle leases, dialling.

No function here blocks, opens or reads anything; each one runs under the scheduler's lock, which
its caller holds. Whoever waits for the lock waits microseconds, also with the GIL.
"""

from libcpp.deque cimport deque
from libcpp.vector cimport vector
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from zfast._core.exchange cimport PHASE_IDLE, Profile, Request
from zfast._core.extern.pthread cimport pthread_cond_broadcast, pthread_cond_signal
from zfast._core.extern.sockets cimport ZFAST_SEND_FLAGS, send


cdef enum:
    # Exchanges that a connection is good for before another origin may take its place.
    TURN = 16


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef void ring(int fd) noexcept nogil:
    # One byte is enough: when the socket is full, whoever reads it is awake anyhow.
    send(fd, b"!", 1, ZFAST_SEND_FLAGS)


cdef void wake(Worker* worker) noexcept nogil:
    if not worker.woken:
        worker.woken = True
        ring(worker.wake_fd)


# ---------------------------------------------------------------------------------------- queueing


cdef void scheduler_enqueue(Scheduler* s, Request* request, bint first) noexcept nogil:
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
    if origin.dial_after > 0:
        # The first worker keeps the time of the pause, for as long as somebody waits for its end.
        wake(s.workers[0])
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


cdef void scheduler_withdraw(
    BatchState* batch, long long index, vector[Request_ptr]* withdrawn
) noexcept nogil:
    # Takes the batch's waiting requests (or the one, if it waits) out of their lanes.
    cdef deque[Request_ptr] kept
    cdef Origin* origin
    cdef Request* request
    for entry in batch.lanes:
        origin = <Origin*>entry.first
        kept.clear()
        for request in entry.second.waiting:
            if index < 0 or request.index == <size_t>index:
                withdrawn.push_back(request)
                origin.pending -= 1
            else:
                kept.push_back(request)
        entry.second.waiting.swap(kept)
        if entry.second.listed and entry.second.waiting.empty():
            _unlist(origin, entry.second)


cdef void scheduler_withdraw_all(Origin* origin, vector[Request_ptr]* withdrawn) noexcept nogil:
    # Takes every request that waits for the origin.
    cdef Lane* lane
    while not origin.lanes.empty():
        lane = origin.lanes.front()
        origin.lanes.pop_front()
        lane.listed = False
        while not lane.waiting.empty():
            withdrawn.push_back(lane.waiting.front())
            lane.waiting.pop_front()
    origin.pending = 0


cdef void _unlist(Origin* origin, Lane* lane) noexcept nogil:
    # An empty lane may end with its batch: the origin must not know it any more.
    cdef size_t index
    lane.listed = False
    for index in range(origin.lanes.size()):
        if origin.lanes[index] == lane:
            origin.lanes.erase(origin.lanes.begin() + <long>index)
            return


# ----------------------------------------------------------------------------- batches, in and out


cdef void scheduler_submit(Scheduler* s, BatchState* batch, double now) noexcept nogil:
    cdef Profile* counted = NULL
    cdef size_t index
    batch.submitted = True
    batch.outstanding = batch.requests.size()
    s.batches[batch.id] = batch
    if batch.deadline > 0 and (s.next_deadline == 0 or batch.deadline < s.next_deadline):
        s.next_deadline = batch.deadline
        wake(s.workers[0])
    for index in range(batch.requests.size()):
        if batch.requests[index].profile != counted:
            counted = batch.requests[index].profile
            counted.counters.batches += 1
        scheduler_enqueue(s, &batch.requests[index], False)
    if batch.outstanding == 0:
        scheduler_complete(s, batch)
    scheduler_dispatch(s, NOBODY, now)


cdef void scheduler_complete(Scheduler* s, BatchState* batch) noexcept nogil:
    if s.exiting:
        # Who still waits is a daemon thread, and waits for the end of the process.
        return
    batch.done = True
    s.batches.erase(batch.id)
    s.finished.push_back(batch.id)
    if batch.notices != NULL:
        scheduler_notice(batch, -1)
    pthread_cond_broadcast(&batch.completed)


cdef void scheduler_notice(BatchState* batch, long long index) noexcept nogil:
    cdef Notices* notices = batch.notices
    notices.batches.push_back(batch.id)
    notices.indexes.push_back(index)
    if not notices.signalled:
        notices.signalled = True
        ring(notices.wake_fd)


# ------------------------------------------------------------------------------------------ leases


cdef void scheduler_call(Scheduler* s, CallKind kind, long long id, size_t index) noexcept nogil:
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
    lease.origin.leaving += 1
    s.leases -= 1
    s.leaving += 1
    s.workers[lease.worker].leases -= 1
    s.workers[lease.worker].forget = True
    s.leases_by_id.erase(lease.id)
    if not reusable:
        s.connections_closed += 1
        lease.exchange.transport.operations.shut(&lease.exchange.transport)
    scheduler_call(s, CALL_RELEASE if reusable else CALL_CLOSE, lease.id, 0)


cdef void scheduler_left(Scheduler* s, Origin* origin, double now) noexcept nogil:
    # A connection that was given up is with its owner again.
    origin.leaving -= 1
    s.leaving -= 1
    scheduler_dispatch(s, NOBODY, now)


cdef void scheduler_lose(Scheduler* s, Lease* lease) noexcept nogil:
    # The lease's request is on it no more. Only the lease's own worker may call this.
    lease.request.profile.in_flight -= 1
    lease.request = NULL
    lease.exchange.request = NULL
    lease.exchange.phase = PHASE_IDLE
    s.in_flight -= 1


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
        s.connections_pooled += 1
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


cdef long _ready(Origin* origin, long enough) noexcept nogil:
    # How many waiting requests their clients let go out now; not counted beyond `enough`.
    cdef Profile* profile = NULL
    cdef long ready = 0
    cdef long allowed = 0
    cdef long more
    for lane in origin.lanes:
        if ready >= enough:
            break
        if lane.waiting.empty():
            continue
        if lane.waiting.front().profile != profile:
            profile = lane.waiting.front().profile
            allowed = profile.max_in_flight - profile.in_flight
        more = max(0, min(allowed, <long>lane.waiting.size()))
        allowed -= more
        ready += more
    return ready


cdef bint _evict(Scheduler* s, bint starving, int caller) noexcept nogil:
    # Makes room by giving back an idle connection of an origin that has nothing waiting; for one
    # that starves, of any that has had its turn. False when there is none.
    for entry in s.origins:
        for lease in entry.second.idle:
            if entry.second.pending == 0 or (starving and lease.served >= TURN):
                # In its pool it would stay open: not where descriptors are what is short.
                scheduler_retire(s, lease, s.max_leases >= s.max_in_flight)
                s.workers[lease.worker].scan = True
                if lease.worker != caller:
                    wake(s.workers[lease.worker])
                return True
    return False


cdef bint _withdraw_one(Scheduler* s, Origin* origin) noexcept nogil:
    # Another origin's dial that nobody has begun makes room for the first of this one.
    cdef size_t index = s.calls.size()
    cdef Origin* other
    while index > 0:
        index -= 1
        if s.calls[index].kind != CALL_DIAL:
            continue
        other = s.origins[s.calls[index].id]
        if other != origin and other.dialling > 1:
            s.calls.erase(s.calls.begin() + <long>index)
            other.dialling -= 1
            s.dialling -= 1
            return True
    return False


cdef void _dial(Scheduler* s, Origin* origin, int caller, double now) noexcept nogil:
    # One that is leaving still has its descriptor, and its place in the pool.
    cdef long room = s.max_leases - s.leases - s.dialling - s.leaving
    cdef long idle = <long>origin.idle.size()
    cdef long wanted, lacking
    cdef bint starving = origin.leases == 0 and origin.dialling == 0
    if origin.dial_after > now:
        return
    wanted = _ready(origin, idle + origin.dialling + s.max_leases) - idle - origin.dialling
    if origin.max_leases:
        wanted = min(wanted, <long>(
            origin.max_leases - origin.leases - origin.dialling - origin.leaving
        ))
    if starving and wanted > 0 and room <= 0 and _withdraw_one(s, origin):
        room += 1
    lacking = wanted - room - s.leaving
    # What is not in flight is idle.
    while lacking > 0 and s.leases - s.in_flight > idle and _evict(s, starving, caller):
        lacking -= 1
        starving = False
    wanted = min(wanted, room)
    while wanted > 0:
        wanted -= 1
        origin.dialling += 1
        s.dialling += 1
        scheduler_call(s, CALL_DIAL, origin.id, 0)


cdef void scheduler_withdraw_dials(Scheduler* s, Origin* origin) noexcept nogil:
    # Dials that nobody has begun would only repeat what has just failed, one timeout after another.
    cdef size_t index = 0
    while index < s.calls.size():
        if s.calls[index].kind == CALL_DIAL and s.calls[index].id == origin.id:
            s.calls.erase(s.calls.begin() + <long>index)
            origin.dialling -= 1
            s.dialling -= 1
        else:
            index += 1


# ------------------------------------------------------------------------------------- dispatching


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
    if lease.used:
        request.profile.counters.connections_reused += 1
    else:
        request.profile.counters.connections_opened += 1
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
