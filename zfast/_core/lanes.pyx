"""The waiting requests of each origin, in lanes of one batch each, which take turns.

Each function runs under the scheduler's lock, and none blocks.
"""

from libcpp.deque cimport deque
from libcpp.vector cimport vector

from zfast._core.request cimport PolicyState, Request
from zfast._core.state cimport MAX_BACKLOG, Lane, wake


cdef void lanes_enqueue(Scheduler* s, Request* request, bint first) noexcept nogil:
    cdef Origin* origin = <Origin*>request.origin
    cdef BatchState* batch = <BatchState*>request.batch
    cdef Lane* lane = batch.lanes[<size_t>origin]
    if lane == NULL:
        lane = new Lane()
        batch.lanes[<size_t>origin] = lane
    if first:
        lane.waiting.push_front(request)
    else:
        lane.waiting.push_back(request)
    if not lane.listed:
        lane.listed = True
        origin.lanes.push_back(lane)
    origin.pending += 1
    request.dial_round = origin.dial_rounds
    lanes_list(s, origin)


cdef void lanes_list(Scheduler* s, Origin* origin) noexcept nogil:
    # Among those that have something to do.
    if origin.dial_after > 0 or origin.governor.paused_until > 0:
        # The first worker keeps the time of the pause, for as long as somebody waits for its end.
        wake(s.workers[0])
    if not origin.listed:
        origin.listed = True
        s.pending.push_back(origin)


cdef inline bint _waits_for_decoding(const Scheduler* s, const Request* request) noexcept nogil:
    return request.task != NULL and s.backlog > MAX_BACKLOG


cdef Request* lanes_take_next(Scheduler* s, Origin* origin) noexcept nogil:
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
        if request.policy.in_flight.load() >= request.policy.max_in_flight or (
                _waits_for_decoding(s, request)):
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


cdef long lanes_ready(Scheduler* s, Origin* origin, long enough) noexcept nogil:
    # How many waiting requests their clients let go out now; not counted beyond `enough`.
    cdef PolicyState* policy = NULL
    cdef long ready = 0
    cdef long allowed = 0
    cdef long more
    for lane in origin.lanes:
        if ready >= enough:
            break
        if lane.waiting.empty() or _waits_for_decoding(s, lane.waiting.front()):
            continue
        if lane.waiting.front().policy != policy:
            policy = lane.waiting.front().policy
            allowed = policy.max_in_flight - policy.in_flight.load()
        more = max(0, min(allowed, <long>lane.waiting.size()))
        allowed -= more
        ready += more
    return ready


cdef void lanes_withdraw(
    BatchState* batch, const vector[char]& chosen, vector[Request_ptr]* withdrawn
) noexcept nogil:
    # Takes those of the batch's requests that wait out of their lanes.
    cdef deque[Request_ptr] kept
    cdef Origin* origin
    cdef Request* request
    for entry in batch.lanes:
        origin = <Origin*>entry.first
        kept.clear()
        for request in entry.second.waiting:
            if is_chosen(chosen, request.index):
                withdrawn.push_back(request)
                origin.pending -= 1
            else:
                kept.push_back(request)
        entry.second.waiting.swap(kept)
        if entry.second.listed and entry.second.waiting.empty():
            _unlist(origin, entry.second)


cdef void lanes_withdraw_before(
    Origin* origin, long dial_round, vector[Request_ptr]* withdrawn
) noexcept nogil:
    # Takes the requests that had been waiting for the origin when dials of that round were asked
    # for.
    cdef size_t turns = origin.lanes.size()
    cdef deque[Request_ptr] kept
    cdef Lane* lane
    cdef Request* request
    while turns > 0:
        turns -= 1
        lane = origin.lanes.front()
        origin.lanes.pop_front()
        kept.clear()
        for request in lane.waiting:
            if request.dial_round < dial_round:
                withdrawn.push_back(request)
                origin.pending -= 1
            else:
                kept.push_back(request)
        lane.waiting.swap(kept)
        lane.listed = not lane.waiting.empty()
        if lane.listed:
            origin.lanes.push_back(lane)


cdef void _unlist(Origin* origin, Lane* lane) noexcept nogil:
    # An empty lane may end with its batch: the origin must not know it any more.
    cdef size_t index
    lane.listed = False
    for index in range(origin.lanes.size()):
        if origin.lanes[index] == lane:
            origin.lanes.erase(origin.lanes.begin() + <long>index)
            return
