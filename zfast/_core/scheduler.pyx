"""Which request goes out next on which lease, and how batches come in and end.

No function here blocks, opens or reads anything; each one runs under the scheduler's lock, which
its caller holds. Whoever waits for the lock waits microseconds, also with the GIL.
"""

from zfast._core.counters cimport count
from zfast._core.extern.pthread cimport pthread_cond_broadcast
from zfast._core.governor cimport Governor, governor_asked, governor_room
from zfast._core.lanes cimport lanes_enqueue, lanes_take_next
from zfast._core.leases cimport (
    lease_rest,
    origin_can_dial,
    origin_dial,
    origin_end_dial,
    origin_lacks,
    origin_may_go_beyond,
    origin_room,
)
from zfast._core.request cimport PolicyState, Request
from zfast._core.splitting cimport split_plan
from zfast._core.state cimport (
    MOST_ATTENDED,
    NOBODY,
    Notices,
    Worker,
    origin_has_waiting,
    origin_in_flight,
    ring,
    sooner,
    wake,
)

# An origin that answers later than this is waited for elsewhere: a guest's thread has other things
# to do, and a thread to wake is then little beside the wait.
cdef double NEAR_SECONDS = 1e-3


# ----------------------------------------------------------------------------- batches, in and out


cdef void scheduler_submit(Scheduler* s, BatchState* batch, double now) noexcept nogil:
    # Of an open batch this may be done several times: what was added since goes out.
    cdef int caller = s.guest if batch.attended else NOBODY
    cdef PolicyState* counted = NULL
    cdef Request* request
    if not batch.submitted:
        batch.submitted = True
        batch.outstanding = 1 if batch.open else 0
        s.batches[batch.id] = batch
        if batch.deadline > 0 and sooner(s.next_deadline, batch.deadline) == batch.deadline:
            s.next_deadline = batch.deadline
            wake(s.workers[0])
    while batch.entered < batch.requests.size():
        request = &batch.requests[batch.entered]
        if request.policy != counted and (batch.entered == 0 or counted != NULL):
            count(&request.policy.counters.batches, 1)
        counted = request.policy
        scheduler_enter(s, request)
    if batch.outstanding == 0:
        scheduler_complete(s, batch)
    scheduler_dispatch(s, caller, now)


cdef void scheduler_enter(Scheduler* s, Request* request) noexcept nogil:
    # Takes the last request of a submitted batch in: it is to be finished once from here on.
    cdef BatchState* batch = <BatchState*>request.batch
    batch.entered += 1
    batch.outstanding += 1
    split_plan(s, request)
    if not request.parked:
        lanes_enqueue(s, request, False)


cdef bint scheduler_admit(
    Scheduler* s, BatchState* batch, Origin* origin, size_t requests
) noexcept nogil:
    # Whether whoever submits the batch is to do its I/O itself: two threads less have to wake up.
    # Where that may take long, or others are waiting, it is the I/O threads' work.
    if s.guest_is_expected or s.stopping or requests > MOST_ATTENDED:
        return False
    if origin.idle.size() < requests:
        return False
    if not 0 < origin.first_byte < NEAR_SECONDS or not s.pending.empty():
        return False
    s.guest_is_expected = batch.attended = True
    batch.over_sessions = s.has_sessions
    s.batches_attended += 1
    return True


cdef void scheduler_seal(Scheduler* s, BatchState* batch) noexcept nogil:
    # Nothing is added any more by whoever planned the batch.
    if batch.open and batch.submitted:
        batch.open = False
        batch.outstanding -= 1
        if batch.outstanding == 0:
            scheduler_complete(s, batch)


cdef void scheduler_complete(Scheduler* s, BatchState* batch) noexcept nogil:
    if s.exiting:
        # Who still waits is a daemon thread, and waits for the end of the process.
        return
    batch.done = True
    s.batches.erase(batch.id)
    s.finished.push_back(batch.id)
    if batch.attended:
        wake(s.workers[s.guest])
    elif batch.notices != NULL:
        scheduler_notice(batch, -1)
    pthread_cond_broadcast(&batch.completed)


cdef void scheduler_notice(BatchState* batch, long long index) noexcept nogil:
    cdef Notices* notices = batch.notices
    notices.batches.push_back(batch.id)
    notices.indexes.push_back(index)
    if not notices.signalled:
        notices.signalled = True
        ring(notices.wake_fd)


# ------------------------------------------------------------------------------------- dispatching


cdef void scheduler_left(Scheduler* s, Origin* origin, double now) noexcept nogil:
    # A connection that was given up is with its owner again.
    origin.leaving -= 1
    s.leaving -= 1
    scheduler_dispatch(s, NOBODY, now)


cdef void scheduler_adopt(Scheduler* s, Lease* lease, double now) noexcept nogil:
    # A connection that has just been opened, or came open out of its pool.
    cdef Origin* origin = lease.origin
    s.leases_by_id[lease.id] = lease
    origin_end_dial(s, origin)
    origin.leases += 1
    s.leases += 1
    origin.dial_failures = 0
    origin.dial_after = 0
    origin.reached = True
    if lease.used:
        s.connections_pooled += 1
    else:
        s.connections_opened += 1
    lease.adopted_at = now
    lease_rest(s, lease, now)
    s.adopted = lease
    scheduler_dispatch(s, NOBODY, now)
    s.adopted = NULL


cdef int _worker_for(const Scheduler* s, int caller) noexcept nogil:
    # The one with the least to do; the caller where that is as good, since it is awake.
    cdef int index
    cdef int fewest = 0
    if caller == s.guest and s.workers[caller].load < MOST_ATTENDED:
        return caller
    for index in range(s.guest):
        if s.workers[index].load < s.workers[fewest].load:
            fewest = index
    return caller if caller >= 0 and s.workers[caller].load <= s.workers[fewest].load else fewest


cdef void _assign(
    Scheduler* s, Lease* lease, Request* request, int chosen, int caller
) noexcept nogil:
    cdef Worker* worker = s.workers[chosen]
    lease.worker = chosen
    lease.awaited = lease == s.adopted and not lease.used
    lease.idle = False
    lease.request = request
    s.in_flight += 1
    request.policy.in_flight.fetch_add(1)
    worker.load += 1
    worker.inbox.push_back(lease)
    if chosen != caller:
        wake(worker)


cdef Lease* _idle_for(Origin* origin, const Request* request) noexcept nogil:
    # The most recently used; a retry goes to another address, where there is a choice.
    cdef size_t index = origin.idle.size()
    cdef Lease* lease
    while request.avoided and index > 0:
        index -= 1
        if origin.idle[index].address != request.avoided:
            lease = origin.idle[index]
            origin.idle.erase(origin.idle.begin() + <long>index)
            return lease
    lease = origin.idle.back()
    origin.idle.pop_back()
    return lease


cdef void _assign_next(
    Scheduler* s, Lease* lease, Request* request, int caller, double now
) noexcept nogil:
    # A guest does its own work only: it may not be there yet, and will not stay.
    cdef bint foreign = caller == s.guest and not (<BatchState*>request.batch).attended
    cdef Governor* governor = &lease.origin.governor
    lease.twin = NULL
    lease.exchange.is_hedge = lease.exchange.rivals = False
    lease.late_after = 0
    # The lease is counted already.
    lease.probes = governor_room(governor, origin_in_flight(lease.origin) - 1, now) == 0
    if lease.probes:
        lease.origin.probes += 1
        lease.origin.may_probe = False
    if request.attempts == 0:
        request.seen_answers = governor.answers
    if governor_asked(governor, request.policy.hedge_budget, now):
        wake(s.workers[0])
    if request.policy.hedge_budget > 0:
        lease.late_after = max(request.policy.hedge_floor, governor.late)
    if origin_in_flight(lease.origin) == 1:
        lease.origin.moved_at = now
    _assign(s, lease, request, _worker_for(s, NOBODY if foreign else caller), caller)


cdef inline bint _has_room(const PolicyState* policy) noexcept nogil:
    return policy.in_flight.load() < policy.max_in_flight


cdef bint _assign_hedge(Scheduler* s, Origin* origin, int caller) noexcept nogil:
    # By a connection that has proved good since the request went out, or is new; by any other only
    # where no more can be opened. Its worker is that of the first: they never race.
    cdef Lease* first
    cdef Lease* lease = origin.idle.back()
    cdef size_t index = 0
    while index < origin.awaiting_hedge.size() and (
            not _has_room(origin.awaiting_hedge[index].request.policy)):
        index += 1
    if index == origin.awaiting_hedge.size():
        return False
    first = origin.awaiting_hedge[index]
    if lease.idle_since < first.exchange.begun and (origin_can_dial(s, origin) or origin.dialling):
        return False
    origin.awaiting_hedge.erase(origin.awaiting_hedge.begin() + <long>index)
    origin.idle.pop_back()
    first.wants_twin = False
    first.twin = lease
    lease.twin = first
    lease.exchange.is_hedge = lease.exchange.rivals = True
    lease.probes = False
    lease.late_after = 0
    _assign(s, lease, first.request, first.worker, caller)
    return True


cdef void scheduler_reassign(Scheduler* s, Lease* lease) noexcept nogil:
    # To an I/O thread, with whatever it carries. Only the lease's own worker may call this.
    cdef int chosen = _worker_for(s, NOBODY)
    s.workers[lease.worker].load -= 1
    lease.worker = chosen
    s.workers[chosen].load += 1
    s.workers[chosen].inbox.push_back(lease)
    wake(s.workers[chosen])


cdef inline bint _may_have_in_flight(Scheduler* s, const Origin* origin, double now) noexcept nogil:
    # One request more than it has.
    return s.in_flight < s.max_in_flight or (
        origin_may_go_beyond(s, origin, s.in_flight - s.max_in_flight, now)
    )


cdef void scheduler_dispatch(Scheduler* s, int caller, double now) noexcept nogil:
    # Pairs waiting requests with idle leases, origin by origin in turn, and asks for connections
    # where there are too few. `caller` is the worker that will look at its inbox anyhow.
    cdef size_t index = 0
    cdef int promised
    cdef bint progress = True
    cdef Origin* origin
    cdef Request* request
    if s.stopping:
        return
    # Before what is idle is taken; and first those for which something was given up.
    for promised in range(2):
        for index in range(s.pending.size()):
            origin = s.pending[index]
            if origin.promised == (promised == 0) and origin_lacks(s, origin):
                origin_dial(s, origin, now)
    while progress:
        progress = False
        index = 0
        while index < s.pending.size():
            origin = s.pending[index]
            if not origin_has_waiting(origin):
                origin.listed = False
                s.pending.erase(s.pending.begin() + <long>index)
                continue
            index += 1
            if origin.idle.empty() or not _may_have_in_flight(s, origin, now):
                continue
            if _assign_hedge(s, origin, caller):
                progress = True
                continue
            if origin_room(origin, now) == 0:
                continue
            request = lanes_take_next(s, origin)
            if request == NULL:
                continue
            _assign_next(s, _idle_for(origin, request), request, caller, now)
            progress = True
            if s.pending.size() > 1:
                # The next one is another's, here and in the next call.
                index -= 1
                s.pending.erase(s.pending.begin() + <long>index)
                s.pending.push_back(origin)
    for index in range(s.pending.size()):
        if _may_have_in_flight(s, s.pending[index], now):
            origin_dial(s, s.pending[index], now)
