"""What becomes of a request that is on no lease any more: finished, tried again, sent elsewhere.

Every submitted request is finished once, and until then it is in one place: in a lane, delayed, on
a lease or with Python. Each function runs under the scheduler's lock, and none blocks.
"""

from libc.math cimport fmin
from libc.time cimport time
from libcpp.map cimport multimap
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

from cython.operator cimport dereference, postincrement

from zfast._core.counters cimport record_time
from zfast._core.exchange cimport (
    CONCLUDED_BROKEN,
    CONCLUDED_MISSING,
    CONCLUDED_OK,
    CONCLUDED_REDIRECT,
    CONCLUDED_RESTART,
    CONCLUDED_STATUS,
    Conclusion,
    Exchange,
    Request,
)
from zfast._core.request_head cimport http1_is_target
from zfast._core.retry cimport (
    MISHAP_CONNECT,
    MISHAP_OTHER,
    MISHAP_READ,
    MISHAP_STATUS,
    Mishap,
    http_date,
    retry_delay,
)
from zfast._core.scheduler cimport (
    CALL_REDIRECT,
    NOBODY,
    BatchState,
    BatchState_ptr,
    Lease,
    Origin,
    Request_ptr,
    Scheduler,
    scheduler_call,
    scheduler_complete,
    scheduler_dispatch,
    scheduler_enqueue,
    scheduler_lose,
    scheduler_notice,
    scheduler_retire,
    scheduler_withdraw,
    scheduler_withdraw_all,
    scheduler_withdraw_dials,
    wake,
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
    STATUS_TLS_FAILED,
    Status,
)


# --------------------------------------------------------------------- finishing, and trying again


cdef double DESCRIPTORS_PAUSE = 1.0     # seconds, then the limit on connections holds again


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
    if batch.notices != NULL and batch.notify_each and not s.exiting:
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
    request.profile.counters.retries += 1
    if delay <= 0:
        scheduler_enqueue(s, request, True)
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


# ---------------------------------------------------------------------------------------- settling


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
        and (request.repeatable or lease.exchange.sent == 0)
    ):
        # The server had closed the idle connection: nobody's fault, and nobody's attempt. But for
        # what may not be sent twice: it could have acted on it, and died.
        request.stale_retried = True
        request.attempts -= 1
        request.profile.counters.stale_retries += 1
        scheduler_enqueue(s, request, True)
        return
    if request.delivered and request.resumable:
        request.profile.counters.resumed += 1
    _retry_or_finish(s, request, MISHAP_READ, code, -1.0, now)


cdef bint _names_directory(Request* request, const string* target) noexcept nogil:
    # Servers answer for a directory by sending to its index page, which is no value of a key.
    cdef size_t size = min(request.target.find(b"?"), request.target.size())
    cdef size_t other = min(target.find(b"?"), target.size())
    return (
        request.profile.keys_only and other == size + 1 and dereference(target)[size] == c"/"
        and target.compare(0, size, request.target, 0, size) == 0
    )


cdef void _refuse_directory(Scheduler* s, Request* request) noexcept nogil:
    request.names_directory = True
    request.detail = string(b"it is a directory on this server")
    scheduler_finish(s, request, STATUS_REDIRECT)


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
    # An entity tag tells states of one resource apart: what came so far is of another one.
    request.delivered = 0
    request.etag.clear()
    if fragment < location.size():
        location.resize(fragment)
    if location.size() > authority.size() and location.compare(
            0, authority.size(), dereference(authority)) == 0 and (
            dereference(location)[authority.size()] == c"/"):
        location.erase(0, authority.size())
    if location.size() and dereference(location)[0] == c"/" and location.compare(
            0, 2, b"//") and http1_is_target(location.data(), location.size()):
        if _names_directory(request, location):
            _refuse_directory(s, request)
            return
        request.target = dereference(location)
        scheduler_enqueue(s, request, True)
    else:
        request.with_python = True
        scheduler_call(s, CALL_REDIRECT, (<BatchState*>request.batch).id, request.index)


cdef void scheduler_redirected(
    Scheduler* s, Request* request, Origin* origin, string target, bint foreign, double now
) noexcept nogil:
    # Python's answer to CALL_REDIRECT; a NULL origin means that it leads nowhere.
    if not request.with_python:
        # Cancelled meanwhile.
        return
    request.with_python = False
    if origin == NULL:
        scheduler_finish(s, request, STATUS_REDIRECT)
    elif not foreign and _names_directory(request, &target):
        _refuse_directory(s, request)
    else:
        request.origin = origin
        request.endpoint = &origin.endpoint
        request.target = target
        request.foreign = request.foreign or foreign
        scheduler_enqueue(s, request, True)
        scheduler_dispatch(s, NOBODY, now)


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
        request.profile.counters.fallback_reads += lease.relayed
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
    lease.served += 1
    if exchange.reusable:
        lease.idle = True
        lease.idle_since = now
        lease.origin.idle.push_back(lease)
    else:
        scheduler_retire(s, lease, False)


cdef void scheduler_take_back(Scheduler* s, Lease* lease) noexcept nogil:
    # The connection has ended and nothing was sent over it yet: no attempt was made.
    cdef Request* request = lease.request
    scheduler_lose(s, lease)
    scheduler_retire(s, lease, False)
    request.profile.counters.requests -= 1
    if lease.used:
        request.profile.counters.connections_reused -= 1
    else:
        request.profile.counters.connections_opened -= 1
    if request.cancelled != STATUS_OK:
        scheduler_finish(s, request, request.cancelled)
    else:
        scheduler_enqueue(s, request, True)


cdef void scheduler_dial_failed(
    Scheduler* s, Origin* origin, Status code, int error, bint no_descriptor, string detail,
    double now
) noexcept nogil:
    cdef vector[Request_ptr] failed
    cdef Request* request
    origin.dialling -= 1
    s.dialling -= 1
    if no_descriptor and s.leases > 0:
        # The process is out of descriptors: make do with the connections there are, for a while.
        s.max_leases = max(1, s.leases + s.dialling)
        s.restore_after = now + DESCRIPTORS_PAUSE
        wake(s.workers[0])
        scheduler_dispatch(s, NOBODY, now)
        return
    origin.dial_failures += 1
    origin.dial_after = now + fmin(0.05 * <double>(1 << min(origin.dial_failures, 7)), 5.0)
    scheduler_withdraw_dials(s, origin)
    if origin.leases > 0 or origin.dialling > 0:
        wake(s.workers[0])
        return
    # Nothing connects: it is the mishap of every request that waits for this origin.
    origin.dial_after = 0
    scheduler_withdraw_all(origin, &failed)
    for request in failed:
        request.attempts += 1
        request.error = error
        request.detail = detail
        if code == STATUS_TLS_FAILED and request.cancelled == STATUS_OK:
            # A certificate does not get better by asking again.
            scheduler_finish(s, request, code)
        else:
            _retry_or_finish(s, request, MISHAP_CONNECT, code, -1.0, now)
    # A first retry may be due at once.
    scheduler_dispatch(s, NOBODY, now)


# --------------------------------------------------------------------- cancelling, and what is due


cdef void _cancel_waiting(
    Scheduler* s, BatchState* batch, long long index, vector[Request_ptr]* cancelled
) noexcept nogil:
    cdef multimap[double, Request_ptr].iterator due = s.delayed.begin()
    cdef Request* request
    scheduler_withdraw(batch, index, cancelled)
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
            if batch.requests[at].with_python:
                batch.requests[at].with_python = False
                cancelled.push_back(&batch.requests[at])
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
        scheduler_enqueue(s, request, True)
        due = True
    for origin in s.pending:
        if origin.pending and 0 < origin.dial_after <= now:
            due = True
            origin.dial_after = 0
    if 0 < s.restore_after <= now:
        due = True
        s.restore_after = 0
        s.max_leases = s.allowed_leases
    if due:
        scheduler_dispatch(s, NOBODY, now)


cdef double scheduler_next_tick(Scheduler* s) noexcept nogil:
    # When scheduler_tick has something to do next, 0 when nothing is waiting for a time.
    cdef double first = s.next_deadline
    cdef double due
    if s.restore_after > 0:
        first = s.restore_after if first == 0 else min(first, s.restore_after)
    if not s.delayed.empty():
        due = dereference(s.delayed.begin()).first
        first = due if first == 0 else min(first, due)
    for origin in s.pending:
        if origin.pending and origin.dial_after > 0:
            first = origin.dial_after if first == 0 else min(first, origin.dial_after)
    return first
