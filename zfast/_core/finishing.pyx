"""The end of a request, for now or for good: finished, cancelled, or tried again after a while.

Every submitted request is finished once, and until then it is in one place: parked, in a lane,
delayed, on a lease (or two), with Python, or, its own exchange over, waiting for parts of its
range; one with a task is then a job of the decode threads. Each function runs under the
scheduler's lock; none blocks.
"""

from libcpp.map cimport multimap
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

from cython.operator cimport dereference, postincrement

from zfast._core.counters cimport count
from zfast._core.extern.pthread cimport pthread_cond_signal
from zfast._core.lanes cimport is_chosen, lanes_enqueue, lanes_withdraw
from zfast._core.retry cimport MISHAP_CONNECT, retry_delay
from zfast._core.scheduler cimport scheduler_complete, scheduler_notice
from zfast._core.splitting cimport SPLIT_AGAIN, SPLIT_ENDS, SPLIT_FAILS, SplitStep, split_ended
from zfast._core.state cimport Origin, Request_ptr, monotonic, wake
from zfast._core.types cimport (
    METHOD_GET,
    METHOD_HEAD,
    STATUS_CANCELLED,
    STATUS_DEADLINE,
    STATUS_MISSING,
    STATUS_OK,
)


cdef vector[char] chosen_of(const BatchState* batch, long long index) noexcept nogil:
    # Which of its requests; none at all stands for every one, as an index of -1 does.
    cdef vector[char] chosen
    if index >= 0:
        chosen.resize(batch.requests.size())
        chosen[<size_t>index] = True
    return chosen


cdef Request* _whole_range(Scheduler* s, Request* request, Status* code) noexcept nogil:
    # The lead where all parts of its range have come to their end, else NULL.
    cdef Request* lead = request.lead if request.lead != NULL else request
    cdef BatchState* batch = <BatchState*>lead.batch
    cdef SplitStep step = split_ended(s, request, code)
    if step == SPLIT_FAILS:
        _cancel(s, batch, chosen_of(batch, <long long>lead.index), STATUS_CANCELLED)
    elif step == SPLIT_AGAIN:
        lead.cancelled = lead.unwanted
        if lead.cancelled == STATUS_OK:
            lanes_enqueue(s, lead, True)
        else:
            code[0] = lead.cancelled
            return lead
    return lead if step == SPLIT_ENDS else NULL


cdef void scheduler_finish(Scheduler* s, Request* request, Status code) noexcept nogil:
    # What has a task goes on to the decode threads, however it came out.
    if request.lead != NULL or not request.parts.empty():
        request = _whole_range(s, request, &code)
        if request == NULL:
            return
    if request.task == NULL or (request.lands and code == STATUS_OK):
        scheduler_end(s, request, code)
        return
    request.code = code
    if code == STATUS_OK and request.pieces == NULL:
        s.backlog += request.delivered
    s.jobs.push_back(request)
    # The guest looks at the first before it lets go of the lock, and does it or wakes somebody: who
    # was woken for what it does itself would come too late, and often to its own core.
    if not s.guest_settles or s.jobs.size() > 1:
        pthread_cond_signal(&s.jobs_waiting)


cdef inline bint _writes(const Request* request) noexcept nogil:
    return request.method not in (METHOD_GET, METHOD_HEAD)


cdef void scheduler_end(Scheduler* s, Request* request, Status code) noexcept nogil:
    cdef BatchState* batch = <BatchState*>request.batch
    request.code = code
    count(&request.policy.counters.reads, 1)
    count(&request.policy.counters.ranges_ignored, request.range_ignored)
    if code == STATUS_OK:
        count(&request.policy.counters.bytes_received, request.delivered)
        count(&request.policy.counters.bytes_sent, request.content_size)
    elif code == STATUS_MISSING:
        count(&request.policy.counters.missing, 1)
    elif code == STATUS_CANCELLED:
        count(&request.policy.counters.cancelled, 1)
    else:
        count(&request.policy.counters.failed, 1)
        if batch.fail_fast and not batch.failed:
            batch.failed = True
            if _writes(request):
                _withdraw(s, batch)
            else:
                scheduler_cancel_all(s, batch, STATUS_CANCELLED)
    batch.outstanding -= 1
    if batch.notices != NULL and batch.notify_each and not s.exiting:
        if batch.attended:
            batch.untold.push_back(<long long>request.index)
        else:
            scheduler_notice(batch, <long long>request.index)
    if batch.outstanding == 0:
        scheduler_complete(s, batch)


cdef double _roll(Scheduler* s) noexcept nogil:
    # xorshift: jitter needs spread, not secrecy.
    s.dice ^= s.dice << 13
    s.dice ^= s.dice >> 7
    s.dice ^= s.dice << 17
    return <double>(s.dice >> 11) / 9007199254740992.0


cdef void _delay(Scheduler* s, Request* request, double delay, double now) noexcept nogil:
    cdef double due = now + delay
    cdef bint earliest = s.delayed.empty() or due < dereference(s.delayed.begin()).first
    count(&request.policy.counters.retries, 1)
    if delay <= 0:
        lanes_enqueue(s, request, True)
        return
    s.delayed.insert(pair[double, Request_ptr](due, request))
    if earliest:
        wake(s.workers[0])


cdef bint scheduler_retry(
    Scheduler* s, Request* request, Mishap mishap, Status code, double retry_after, double now
) noexcept nogil:
    # Whether there will be another attempt.
    cdef double delay = -1.0
    if request.cancelled != STATUS_OK:
        code = request.cancelled
    elif (request.repeatable or mishap == MISHAP_CONNECT) and not (
            (<BatchState*>request.batch).failed and _writes(request)):
        delay = retry_delay(
            &request.policy.retry, &request.retries, mishap, retry_after, _roll(s)
        )
    if delay < 0:
        scheduler_finish(s, request, code)
    else:
        _delay(s, request, delay, now)
    return delay >= 0


cdef void _cancel_waiting(
    Scheduler* s, BatchState* batch, const vector[char]& chosen, vector[Request_ptr]* cancelled
) noexcept nogil:
    cdef multimap[double, Request_ptr].iterator due = s.delayed.begin()
    cdef Request* request
    lanes_withdraw(batch, chosen, cancelled)
    while due != s.delayed.end():
        request = dereference(due).second
        if request.batch == batch and is_chosen(chosen, request.index):
            cancelled.push_back(request)
            due = s.delayed.erase(due)
        else:
            postincrement(due)


cdef void _withdraw(Scheduler* s, BatchState* batch) noexcept nogil:
    # What has not gone out. Of what has, the server may write it whenever it likes: not after the
    # caller has been told, and has written there himself what is to stay.
    cdef vector[Request_ptr] waiting
    _cancel_waiting(s, batch, vector[char](), &waiting)
    for request in waiting:
        scheduler_finish(s, request, STATUS_CANCELLED)


cdef void _cancel(
    Scheduler* s, BatchState* batch, const vector[char]& chosen, Status code
) noexcept nogil:
    # What waits is finished at once; what is on a lease, by the lease's worker, which is woken.
    cdef vector[Request_ptr] cancelled
    cdef Request* request
    cdef size_t at
    _cancel_waiting(s, batch, chosen, &cancelled)
    for at in range(batch.requests.size()):
        if is_chosen(chosen, at):
            batch.requests[at].cancelled = code
            if batch.requests[at].with_python or batch.requests[at].parked:
                batch.requests[at].with_python = batch.requests[at].parked = False
                cancelled.push_back(&batch.requests[at])
    for at in range(batch.parts.size()):
        request = &batch.parts[at]
        if request.batch != NULL and is_chosen(chosen, request.index):
            request.cancelled = code
    for worker in s.workers:
        worker.scan = True
        wake(worker)
    for request in cancelled:
        if code == STATUS_DEADLINE and request.detail.empty() and (
                (<Origin*>request.origin).governor.wished_until > monotonic()):
            request.detail = string(b"the server has asked to be left alone for longer")
        scheduler_finish(s, request, code)


cdef void scheduler_cancel(
    Scheduler* s, BatchState* batch, const vector[char]& chosen, Status code
) noexcept nogil:
    cdef size_t at
    if batch.done or not batch.submitted:
        return
    if chosen.empty():
        batch.cancelled = code
    for at in range(batch.requests.size()):
        if is_chosen(chosen, at):
            batch.requests[at].unwanted = code
    _cancel(s, batch, chosen, code)


cdef void scheduler_cancel_all(Scheduler* s, BatchState* batch, Status code) noexcept nogil:
    scheduler_cancel(s, batch, vector[char](), code)
