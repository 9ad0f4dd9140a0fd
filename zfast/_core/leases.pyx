"""Connections in the engine's hands: idle, at work, in pairs, given back, and wished for.

Each function runs under the scheduler's lock (but `lease_new` and `lease_has_ended`, which touch
nothing of its), and none blocks or opens anything.
"""

from libc.math cimport fmax, fmin
from libc.stdlib cimport free, malloc
from libcpp.vector cimport vector

from zfast._core.buffers cimport slab_release
from zfast._core.exchange cimport PHASE_IDLE
from zfast._core.extern.pthread cimport pthread_cond_signal
from zfast._core.governor cimport (
    governor_give_back,
    governor_hedge,
    governor_hedge_due,
    governor_room,
)
from zfast._core.lanes cimport lanes_list, lanes_ready
from zfast._core.request cimport PolicyState, Request
from zfast._core.state cimport (
    CALL_CLOSE,
    CALL_DIAL,
    CALL_RELEASE,
    NOBODY,
    Call,
    monotonic,
    origin_in_flight,
    sooner,
    wake,
)
from zfast._core.transport cimport TRANSPORT_WOULD_BLOCK
from zfast._core.types cimport METHOD_GET, METHOD_HEAD

# An idle connection that the server has closed holds its descriptor no longer than this.
cdef double SWEEP_SECONDS = 1.0
# Whether an answer is late may be known then, by what others take.
cdef double ASK_AGAIN_SECONDS = 0.1

# What a connection is good for before another origin may take its place: opening it must be worth
# it, and an origin that takes long over each answer must not keep the others waiting.
cdef enum:
    EXCHANGES_A_TURN = 16
cdef double TURN_SECONDS = 0.25

# An origin where no dial, or no request, has ended for so long may be one that answers nobody.
cdef double DIAL_HANGS_SECONDS = 0.25
cdef double REQUEST_HANGS_SECONDS = 1.0
# They are counted no more often: there may be many.
cdef double COUNT_SECONDS = 0.05
# One that has refused some, and of whose requests none has ended for so long, and for so many times
# what makes one late, may have let those hang.
cdef double PROBE_SECONDS = 5.0
cdef double PROBE_TIMES = 4.0
cdef enum:
    MOST_DOUBLINGS = 6


cdef void call_python(Scheduler* s, CallKind kind, long long id, size_t index) noexcept nogil:
    cdef Call call
    call.kind = kind
    call.id = id
    call.index = index
    s.calls.push_back(call)
    pthread_cond_signal(&s.calls_waiting)


cdef Lease* lease_new(long long id, size_t max_head) noexcept nogil:
    # Idle nowhere yet, and of no origin; NULL where there is no memory for a response head.
    cdef Lease* lease = new Lease()
    lease.id = id
    lease.worker = NOBODY
    lease.exchange.phase = PHASE_IDLE
    lease.exchange.head = <char*>malloc(max_head)
    lease.exchange.head_capacity = max_head
    if lease.exchange.head == NULL:
        del lease
        return NULL
    return lease


cdef void lease_free(Lease* lease) noexcept nogil:
    free(lease.exchange.head)
    slab_release(lease.exchange.tail)
    del lease


cdef void lease_rest(Scheduler* s, Lease* lease, double now) noexcept nogil:
    # The connection is open, and nobody polls it: whether the server closed it meanwhile is found
    # out by who takes it next.
    lease.idle = True
    lease.idle_since = now
    lease.origin.idle.push_back(lease)
    if s.next_idle == 0:
        lease_watch_idle(s, lease, now)
        wake(s.workers[0])


cdef void lease_watch_idle(Scheduler* s, const Lease* lease, double now) noexcept nogil:
    cdef double due = fmin(lease.idle_since + s.idle_timeout, now + SWEEP_SECONDS)
    s.next_idle = sooner(s.next_idle, due)


cdef bint lease_has_ended(Lease* lease) noexcept nogil:
    # Of an idle one: whether the server has closed it, or spoken unasked.
    cdef char octet
    return lease.exchange.transport.operations.recv(
        &lease.exchange.transport, &octet, 1) != TRANSPORT_WOULD_BLOCK


cdef void lease_retire(Scheduler* s, Lease* lease, bint reusable) noexcept nogil:
    # Gives the connection up. Where its worker still polls the lease, that one frees it, else it is
    # gone from here on.
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
    s.leases_by_id.erase(lease.id)
    if not reusable:
        s.connections_closed += 1
        lease.exchange.transport.operations.shut(&lease.exchange.transport)
    call_python(
        s, CALL_RELEASE if reusable else CALL_CLOSE, lease.id, lease.broken + 2 * lease.silent
    )
    if not lease.polled:
        lease_free(lease)


cdef void lease_lose(Scheduler* s, Lease* lease) noexcept nogil:
    # The lease's request is on it no more. Only its own worker may call this, which polls it.
    lease_drop_hedge(lease)
    lease.request.policy.in_flight.fetch_sub(1)
    lease.request = NULL
    lease.exchange.request = NULL
    lease.exchange.phase = PHASE_IDLE
    s.in_flight -= 1
    s.workers[lease.worker].load -= 1
    s.workers[lease.worker].forget = True
    lease.worker = NOBODY


# ----------------------------------------------------------------------------------------- dialling


cdef inline int _share(const Scheduler* s) noexcept nogil:
    # What each of the origins may have that requests wait for, where they want more than there is.
    return max(1, s.max_leases // max(1, <int>s.pending.size()))


cdef bint origin_lacks(const Scheduler* s, const Origin* origin) noexcept nogil:
    # Its first connection; or, of one that answers, its share, where there is no room for more.
    cdef int count = origin.leases + origin.dialling
    return origin.pending > 0 and (count == 0 or (
        origin.leases > 0 and count < _share(s)
        and (origin.promised or s.leases + s.dialling + s.leaving >= s.max_leases)
    ))


cdef inline bint _has_had_its_turn(
    const Lease* lease, bint stays_open, double now
) noexcept nogil:
    return lease.served >= EXCHANGES_A_TURN or (
        stays_open and lease.served > 0 and lease.adopted_at + TURN_SECONDS <= now)


cdef bint _evict(Scheduler* s, const Origin* origin, bint lacks, double now) noexcept nogil:
    # Makes room for `origin` by giving back an idle connection of another one that has nothing
    # waiting; where it lacks some, of any that has more than its share, or has had its turn. False
    # when there is none.
    # In its pool it would stay open: not where descriptors are what is short.
    cdef bint stays_open = s.max_leases >= s.max_in_flight and s.restore_after == 0
    for entry in s.origins:
        if entry.second == origin:
            # The next to be opened would be the same one, out of its pool.
            continue
        for lease in entry.second.idle:
            if entry.second.pending == 0 or (
                lacks and _has_had_its_turn(lease, stays_open, now)
                and (origin.leases == 0 or entry.second.leases > _share(s))
            ):
                lease_retire(s, lease, stays_open)
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
            origin_drop_dial(s, other)
            return True
    return False


cdef bint origin_can_dial(const Scheduler* s, const Origin* origin) noexcept nogil:
    if origin.max_leases and origin.leases + origin.dialling + origin.leaving >= origin.max_leases:
        return False
    if s.leases + s.dialling + s.leaving < s.max_leases:
        return True
    # What is idle elsewhere makes room.
    return s.leases - s.in_flight > <long>origin.idle.size()


cdef double origin_probed_next(const Origin* origin) noexcept nogil:
    # When it is asked for one more than it is taken to bear, unless a request ends before; 0 never.
    # Each refusal has the next one wait twice as long.
    cdef double patience = fmax(PROBE_SECONDS, PROBE_TIMES * origin.governor.late)
    if origin.governor.window == 0 or origin_in_flight(origin) == 0:
        return 0
    patience *= 1 << min(origin.probes, MOST_DOUBLINGS)
    return fmax(origin.moved_at, origin.probed_at) + patience


cdef int origin_room(const Origin* origin, double now) noexcept nogil:
    # How many more requests it may be asked now.
    cdef int room = governor_room(&origin.governor, origin_in_flight(origin), now)
    return 1 if room == 0 and origin.may_probe and origin.governor.paused_until <= now else room


cdef bint _hangs(const Origin* origin, double now) noexcept nogil:
    if origin.leases == 0:
        return origin.dials_begun > 0 and origin.dialled_at + DIAL_HANGS_SECONDS <= now
    return origin_in_flight(origin) > 0 and origin.moved_at + REQUEST_HANGS_SECONDS <= now


cdef bint origin_may_go_beyond(
    Scheduler* s, const Origin* origin, long beyond, double now
) noexcept nogil:
    # Beyond the process's limit, that is, which is passed by `beyond`: origins that answer nobody
    # keep no others waiting. Each of them makes room for one request to an origin that has none
    # out, so that also this one may turn out to hang; and, as long as there are any, there is some
    # for those that have answered before. No more than two and a quarter times the limit.
    cdef long most = s.max_in_flight // 4 if origin.first_byte > 0 else 0
    cdef bint starving = origin_in_flight(origin) == 0 and origin.dialling == 0
    if s.max_leases < s.max_in_flight or s.restore_after > 0:
        return False
    if not starving and (origin.first_byte == 0 or _hangs(origin, now)):
        return False
    if s.hanging_at + COUNT_SECONDS <= now:
        s.hanging = 0
        for entry in s.origins:
            s.hanging += _hangs(entry.second, now)
        s.hanging_at = now
    if starving:
        most += min(s.hanging, s.max_in_flight)
    if s.hanging > 0 and beyond < most:
        return True
    if starving and s.next_starving == 0:
        s.next_starving = now + COUNT_SECONDS
        wake(s.workers[0])
    return False


cdef long _hedges_ready(Origin* origin) noexcept nogil:
    # How many of them their clients let go out now.
    cdef const PolicyState* policy = NULL
    cdef long ready = 0
    cdef long allowed = 0
    for lease in origin.awaiting_hedge:
        if lease.request.policy != policy:
            policy = lease.request.policy
            allowed = policy.max_in_flight - policy.in_flight.load()
        if allowed > 0:
            allowed -= 1
            ready += 1
    return ready


cdef void origin_dial(Scheduler* s, Origin* origin, double now) noexcept nogil:
    # One that is leaving still has its descriptor, and its place in the pool.
    cdef long room = s.max_leases - s.leases - s.dialling - s.leaving
    cdef long idle = <long>origin.idle.size()
    cdef long wanted, lacking, bearable
    cdef bint starving = origin.leases == 0 and origin.dialling == 0
    cdef bint lacks = origin_lacks(s, origin)
    if origin.dial_after > now:
        return
    bearable = origin_room(origin, now)
    wanted = min(bearable, lanes_ready(s, origin, idle + origin.dialling + s.max_leases))
    wanted = max(0, wanted - idle) + _hedges_ready(origin) - origin.dialling
    if origin.max_leases:
        wanted = min(wanted, <long>(
            origin.max_leases - origin.leases - origin.dialling - origin.leaving
        ))
    if starving and wanted > 0 and room <= 0 and _withdraw_one(s, origin):
        room += 1
    lacking = wanted - room - s.leaving
    # What is not in flight is idle.
    while lacking > 0 and s.leases - s.in_flight > idle and _evict(s, origin, lacks, now):
        lacking -= 1
        lacks = False
        origin.promised = True
    if wanted > 0 and room <= 0 and s.max_leases - room < s.most_leases and (
            origin_may_go_beyond(s, origin, -room, now)):
        room = 1
    wanted = min(wanted, room)
    if wanted > 0 and origin.dialling == 0:
        origin.dialled_at = monotonic()
    if wanted > 0:
        origin.dial_rounds += 1
        origin.promised = False
    while wanted > 0:
        wanted -= 1
        origin.dialling += 1
        s.dialling += 1
        origin.dials.push_back(origin.dial_rounds)
        call_python(s, CALL_DIAL, origin.id, 0)


cdef void origin_drop_dial(Scheduler* s, Origin* origin) noexcept nogil:
    # One that nobody has begun, and nobody will: the last ones begin last.
    origin.dialling -= 1
    s.dialling -= 1
    origin.dials.pop_back()


cdef long origin_end_dial(Scheduler* s, Origin* origin) noexcept nogil:
    # The round of the one that has ended: the first to begin, or one that took no longer.
    cdef long dial_round = origin.dials.front()
    origin.dialling -= 1
    s.dialling -= 1
    origin.dials.pop_front()
    return dial_round


cdef void origin_withdraw_dials(Scheduler* s, Origin* origin) noexcept nogil:
    # Dials that nobody has begun would only repeat what has just failed, one timeout after another.
    cdef size_t index = 0
    while index < s.calls.size():
        if s.calls[index].kind == CALL_DIAL and s.calls[index].id == origin.id:
            s.calls.erase(s.calls.begin() + <long>index)
            origin_drop_dial(s, origin)
        else:
            index += 1


# ------------------------------------------------------------------------------------------ hedging


cdef double lease_hedge_due(Scheduler* s, const Lease* lease, double now) noexcept nogil:
    # When the lease's request is to be sent a second time, or that is to be asked again; 0 for
    # never.
    cdef const Request* request = lease.request
    cdef double due
    if lease.twin != NULL or lease.wants_twin or lease.exchange.answered or (
            lease.worker == s.guest or request.policy.hedge_budget <= 0):
        return 0
    if not request.repeatable or request.method not in (METHOD_GET, METHOD_HEAD):
        return 0
    due = governor_hedge_due(
        &lease.origin.governor, lease.exchange.begun, request.policy.hedge_floor
    )
    return due if due > 0 else now + ASK_AGAIN_SECONDS


cdef void lease_hedge(Scheduler* s, Lease* lease) noexcept nogil:
    # Has the request sent on another connection too. Only the lease's own worker may call this.
    if not governor_hedge(&lease.origin.governor):
        return
    lease.wants_twin = lease.exchange.late = True
    lease.origin.awaiting_hedge.push_back(lease)
    lanes_list(s, lease.origin)


cdef void lease_drop_hedge(Lease* lease) noexcept nogil:
    # It was wished for, and is not needed any more. Only the lease's own worker may call this.
    cdef vector[Lease*]* hedges = &lease.origin.awaiting_hedge
    cdef size_t index
    if not lease.wants_twin:
        return
    lease.wants_twin = False
    governor_give_back(&lease.origin.governor)
    for index in range(hedges.size()):
        if hedges[0][index] == lease:
            hedges.erase(hedges.begin() + <long>index)
            return


cdef void lease_part(Scheduler* s, Lease* lease) noexcept nogil:
    # The lease goes, and leaves the request to its twin. Only their own worker may call this.
    lease.twin.exchange.rivals = lease.exchange.rivals = False
    lease.twin.twin = NULL
    lease.twin = NULL
    lease_lose(s, lease)


cdef void lease_drop_twin(Scheduler* s, Lease* lease) noexcept nogil:
    # The request is this lease's alone: what the other one was about to receive is not wanted.
    cdef vector[Lease*]* inbox = &s.workers[lease.worker].inbox
    cdef Lease* twin = lease.twin
    cdef size_t index
    if twin == NULL:
        return
    if not twin.polled:
        for index in range(inbox.size()):
            if inbox[0][index] == twin:
                inbox.erase(inbox.begin() + <long>index)
                break
    lease_part(s, twin)
    lease_retire(s, twin, False)
