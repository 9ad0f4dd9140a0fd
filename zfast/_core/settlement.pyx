"""What came of an exchange, or of opening a connection: for the request, the lease and the origin.

Each function runs under the scheduler's lock; none blocks.
"""

from libc.math cimport fmax, fmin
from libc.time cimport time
from libcpp.vector cimport vector

from zfast._core.counters cimport count, record_time
from zfast._core.exchange cimport (
    CONCLUDED_BROKEN,
    CONCLUDED_FAILURE,
    CONCLUDED_MISSING,
    CONCLUDED_OK,
    CONCLUDED_REDIRECT,
    CONCLUDED_RESTART,
    CONCLUDED_STATUS,
    Conclusion,
    Exchange,
    exchange_date,
)
from zfast._core.finishing cimport scheduler_finish, scheduler_retry
from zfast._core.governor cimport (
    governor_answered,
    governor_bore,
    governor_failed,
    governor_give_back,
    governor_throttled,
)
from zfast._core.lanes cimport lanes_enqueue, lanes_withdraw_before
from zfast._core.leases cimport (
    lease_drop_twin,
    lease_lose,
    lease_part,
    lease_rest,
    lease_retire,
    origin_end_dial,
    origin_withdraw_dials,
)
from zfast._core.redirects cimport scheduler_redirect
from zfast._core.request cimport Request, request_ask_size, request_count_from_start
from zfast._core.retry cimport (
    MISHAP_CONNECT,
    MISHAP_LIMITED,
    MISHAP_OTHER,
    MISHAP_READ,
    MISHAP_STATUS,
    Mishap,
)
from zfast._core.scheduler cimport scheduler_dispatch
from zfast._core.state cimport NOBODY, Request_ptr, origin_in_flight, wake
from zfast._core.types cimport (
    METHOD_GET,
    METHOD_HEAD,
    STATUS_BAD_STATUS,
    STATUS_CHANGED,
    STATUS_CONNECT_FAILED,
    STATUS_MISSING,
    STATUS_OK,
    STATUS_RANGE_UNSUPPORTED,
    STATUS_RESET,
    STATUS_TLS_FAILED,
    STATUS_TUNNEL_REFUSED,
)

# Then the limit on connections holds again.
cdef double DESCRIPTORS_PAUSE_SECONDS = 1.0
# As long as addresses.py then tries others first.
cdef double BLAMED_SECONDS = 30.0

cdef enum:
    # Of one request, by connections that had ended: with so many it is no accident any more.
    MOST_STALE_RETRIES = 8
    # Of one request: with more it is about its own object.
    MOST_TELLING_REFUSALS = 2


cdef double _retry_after(const Exchange* exchange) noexcept nogil:
    cdef double date, now
    if exchange.parser.head.retry_after >= 0:
        return <double>exchange.parser.head.retry_after
    date = exchange_date(exchange, exchange.parser.head.retry_after_value)
    if date < 0:
        return -1.0
    # By the server's own clock, where it says what that shows.
    now = exchange_date(exchange, exchange.parser.head.date)
    return max(0.0, date - (now if now >= 0 else <double>time(NULL)))


cdef inline void _note_failure(Lease* lease, double now) noexcept nogil:
    lease.broken = True
    governor_failed(&lease.origin.governor, now)


cdef inline bint _asks_for_less(const Lease* lease) noexcept nogil:
    # An origin that has too much to do says so (RFC 9110, 15.6.4; RFC 6585, 4).
    return lease.exchange.parser.head.status in (429, 503)


cdef Mishap _mishap_of_status(const Lease* lease, Request* request) noexcept nogil:
    # Who serves others has nothing against this one: but for that, a rate that a thousand requests
    # exceed together would use up the attempts of some.
    cdef unsigned long long answers = lease.origin.governor.answers
    cdef bint limited = _asks_for_less(lease) and (lease.probes or answers != request.seen_answers)
    request.seen_answers = answers
    return MISHAP_LIMITED if limited else MISHAP_STATUS


cdef void _note_status(
    Scheduler* s, Lease* lease, Request* request, bint waits, double now
) noexcept nogil:
    # What the origin asks to wait for, and a request of its own waits for, holds for all; but not
    # for longer than one looks after it anyhow.
    cdef double pause = 0
    if not _asks_for_less(lease):
        governor_failed(&lease.origin.governor, now)
        return
    count(&request.policy.counters.throttled, 1)
    if lease.probes or request.retries.limited + request.retries.status > MOST_TELLING_REFUSALS:
        governor_failed(&lease.origin.governor, now)
        return
    if waits and request.policy.retry.respect_retry_after:
        pause = fmin(_retry_after(&lease.exchange), request.policy.retry.retry_after_max)
        pause = fmax(0, fmin(pause, request.policy.retry.backoff_max))
    governor_throttled(
        &lease.origin.governor, lease.exchange.begun, origin_in_flight(lease.origin), pause,
        request.policy.retry.backoff_max, now
    )
    if pause > 0:
        wake(s.workers[0])


cdef inline bint _was_stale(const Lease* lease, Status code) noexcept nogil:
    # The server had closed the connection while it was idle.
    return code == STATUS_RESET and not lease.awaited and not lease.exchange.answered


cdef void _distrust_idle(Scheduler* s, Lease* lease) noexcept nogil:
    # Connections end by the dozen, behind a balancer or a firewall that forgets them: those that
    # were idle when this one was found dead may have ended as it did.
    cdef vector[Lease*] idle = lease.origin.idle
    for other in idle:
        if other.idle_since <= lease.exchange.begun:
            lease_retire(s, other, False)


cdef void _distrust_address(Scheduler* s, Lease* lease, double now) noexcept nogil:
    # One of a host's servers fails where others may not: what is asked of it next, and again, is
    # asked of those. The pool hears that the connections are no good, and chooses another address.
    cdef vector[Lease*] idle = lease.origin.idle
    for other in idle:
        if other.address == lease.address:
            lease_retire(s, other, False)
    lease.broken = True
    lease.exchange.reusable = False
    lease.origin.blamed = lease.address
    lease.origin.blamed_until = now + BLAMED_SECONDS


cdef inline bint _blames_address(const Lease* lease, double now) noexcept nogil:
    # Who says when to come again speaks for the host as a whole; and where a second address fails
    # beside the first, it is not the address.
    return lease.address and lease.exchange.parser.head.status >= 500 and (
        lease.exchange.parser.head.retry_after_value.offset == 0
        and (lease.origin.blamed == lease.address or lease.origin.blamed_until <= now)
    )


cdef bint _leaves_it(Scheduler* s, Lease* lease, double now) noexcept nogil:
    # Of two that carry one request: whether this one goes, and the other has or gets the answer.
    cdef Exchange* exchange = &lease.exchange
    cdef Request* request = lease.request
    if lease.twin == NULL or request.claimant == exchange:
        return False
    if request.claimant == NULL:
        if exchange.conclusion == CONCLUDED_STATUS:
            _note_status(s, lease, request, True, now)
        elif exchange.conclusion not in (CONCLUDED_BROKEN, CONCLUDED_FAILURE):
            # What came in place of a response, which nobody has claimed, is a fault alike.
            return False
        elif not _was_stale(lease, exchange.code):
            _note_failure(lease, now)
    lease_part(s, lease)
    _rest_or_retire(s, lease, now)
    return True


cdef void _rest_or_retire(Scheduler* s, Lease* lease, double now) noexcept nogil:
    lease.used = True
    lease.served += 1
    if not lease.exchange.reusable:
        lease_retire(s, lease, False)
    elif lease.origin.asked_back:
        lease.origin.asked_back = False
        lease_retire(s, lease, True)
    else:
        lease_rest(s, lease, now)


cdef void _settle_broken(
    Scheduler* s, Lease* lease, Request* request, Status code, double now
) noexcept nogil:
    if _was_stale(lease, code) and (
        request.cancelled == STATUS_OK and request.stale_retries < MOST_STALE_RETRIES
        and (request.repeatable or lease.exchange.sent == 0)
    ):
        # Nobody's fault, and nobody's attempt. But for what may not be sent twice: the server could
        # have acted on it, and died.
        request.stale_retries += 1
        _distrust_idle(s, lease)
        if not lease.exchange.is_hedge:
            request.attempts -= 1
        count(&request.policy.counters.stale_retries, 1)
        lanes_enqueue(s, request, True)
        return
    if request.delivered and request.resumable:
        count(&request.policy.counters.resumed, 1)
    _note_failure(lease, now)
    scheduler_retry(s, request, MISHAP_READ, code, -1.0, now)


cdef bint _goes_by_size(Request* request, const Exchange* exchange) noexcept nogil:
    # Whether it goes out again: by the size of the object, or to ask for that, since a range from
    # the end is none that the server knows; or since any range of an object without bytes is
    # refused, by servers that do not say that it has none.
    cdef bint refused = (
        exchange.conclusion == CONCLUDED_FAILURE and exchange.code == STATUS_RANGE_UNSUPPORTED
    )
    if request.cancelled != STATUS_OK:
        return False
    if request.asks_size:
        return exchange.conclusion == CONCLUDED_OK and not request_count_from_start(request)
    if not refused or request.by_size or request.task != NULL or not request.parts.empty():
        return False
    if request.object_size >= 0:
        return not request_count_from_start(request)
    request_ask_size(request)
    return True


cdef inline void _note_first_byte(Origin* origin, double seconds) noexcept nogil:
    # A mean that forgets: half of it is of the last three.
    if origin.first_byte == 0:
        origin.first_byte = seconds
    origin.first_byte += (seconds - origin.first_byte) / 5


cdef void scheduler_settle(Scheduler* s, Lease* lease, double now) noexcept nogil:
    # Acts on the conclusion of the lease's exchange: the lease is idle or retired afterwards, its
    # request finished, waiting again, or on its way through Python.
    cdef Exchange* exchange = &lease.exchange
    cdef Request* request = lease.request
    cdef Conclusion conclusion = exchange.conclusion
    cdef double first_byte
    cdef bint waits
    if _leaves_it(s, lease, now):
        return
    lease.origin.moved_at = now
    lease.origin.may_probe = False
    lease_drop_twin(s, lease)
    count(&request.policy.counters.hedge_wins, exchange.is_hedge and request.claimant == exchange)
    if exchange.answered:
        first_byte = exchange.first_byte - exchange.begun
        record_time(request.policy.counters.first_byte, first_byte)
        if request.method in (METHOD_GET, METHOD_HEAD):
            _note_first_byte(lease.origin, first_byte)
        else:
            # What is written takes as long as it is large: a read is late before that.
            first_byte = -1
        if conclusion != CONCLUDED_STATUS:
            if lease.probes:
                governor_bore(&lease.origin.governor, origin_in_flight(lease.origin))
            lease.origin.probes = 0
            governor_answered(&lease.origin.governor, first_byte, s.max_in_flight)
    lease_lose(s, lease)
    # Where it failed, a retry goes elsewhere.
    request.avoided = lease.address if conclusion in (CONCLUDED_BROKEN, CONCLUDED_STATUS) else 0
    if _goes_by_size(request, exchange):
        request.attempts -= 1
        lanes_enqueue(s, request, True)
    elif conclusion == CONCLUDED_OK and not request.asks_size:
        record_time(request.policy.counters.transfer, now - exchange.begun)
        count(&request.policy.counters.fallback_reads, lease.relayed)
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
        scheduler_retry(s, request, MISHAP_OTHER, STATUS_CHANGED, -1.0, now)
    elif conclusion == CONCLUDED_STATUS:
        waits = scheduler_retry(
            s, request, _mishap_of_status(lease, request), STATUS_BAD_STATUS,
            _retry_after(exchange), now
        )
        _note_status(s, lease, request, waits, now)
        if _blames_address(lease, now):
            _distrust_address(s, lease, now)
    elif conclusion == CONCLUDED_REDIRECT:
        scheduler_redirect(s, request)
    else:
        scheduler_finish(s, request, exchange.code)
    _rest_or_retire(s, lease, now)


cdef void scheduler_take_back(Scheduler* s, Lease* lease) noexcept nogil:
    # The connection has ended and nothing was sent over it yet: no attempt was made.
    cdef Request* request = lease.request
    cdef bint shared = lease.twin != NULL
    if shared:
        lease_part(s, lease)
    else:
        lease_lose(s, lease)
    lease_retire(s, lease, False)
    if shared:
        # It was to hedge, and did not.
        governor_give_back(&lease.origin.governor)
        return
    if request.cancelled != STATUS_OK:
        scheduler_finish(s, request, request.cancelled)
    else:
        lanes_enqueue(s, request, True)


cdef void scheduler_dial_failed(
    Scheduler* s, Origin* origin, Status code, int error, bint no_descriptor, string detail,
    double now
) noexcept nogil:
    cdef vector[Request_ptr] failed
    cdef Request* request
    cdef long dial_round = origin_end_dial(s, origin)
    if no_descriptor and s.leases > 0:
        # The process is out of descriptors: make do with the connections there are, for a while.
        s.max_leases = max(1, min(s.allowed_leases, s.leases + s.dialling))
        s.restore_after = now + DESCRIPTORS_PAUSE_SECONDS
        wake(s.workers[0])
        scheduler_dispatch(s, NOBODY, now)
        return
    governor_failed(&origin.governor, now)
    for lease in origin.awaiting_hedge:
        lease.wants_twin = False
        governor_give_back(&origin.governor)
    origin.awaiting_hedge.clear()
    if origin.dial_after <= now:
        # Those that were begun together fail as one.
        origin.dial_failures += 1
        origin.dial_after = now + fmin(0.05 * <double>(1 << min(origin.dial_failures, 7)), 5.0)
        if code in (STATUS_CONNECT_FAILED, STATUS_TUNNEL_REFUSED) and origin.leases > 0:
            # It takes no more connections than it has.
            governor_throttled(&origin.governor, now, origin.leases, 0, 0, now)
    origin_withdraw_dials(s, origin)
    if origin.leases > 0 or (origin.dialling > 0 and origin.dials.front() <= dial_round):
        wake(s.workers[0])
        return
    # Nothing connects: it is the mishap of every request that has waited for these dials. Who came
    # later has others, which must not keep those waiting that were here before.
    origin.dial_after = 0
    lanes_withdraw_before(origin, dial_round, &failed)
    for request in failed:
        request.attempts += 1
        request.detail = detail
        if code == STATUS_TUNNEL_REFUSED:
            request.http_status = error
        else:
            request.error = error
        if request.cancelled == STATUS_OK and (
            code == STATUS_TLS_FAILED or code == STATUS_TUNNEL_REFUSED and not origin.reached
        ):
            # Neither a certificate nor a refusal gets better by asking again. But a proxy that has
            # led there may only have as many tunnels as it bears.
            scheduler_finish(s, request, code)
        else:
            scheduler_retry(s, request, MISHAP_CONNECT, code, -1.0, now)
    # A first retry may be due at once.
    scheduler_dispatch(s, NOBODY, now)
