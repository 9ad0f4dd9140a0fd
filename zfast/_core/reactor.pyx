"""The I/O threads: each polls many leases and runs their exchanges to the end.

No thread here ever holds a Python thread state or waits for the GIL; signals are blocked in them.
A caller that waits for a small batch may do the same for a moment, without the GIL: the guest.
What an exchange leads to, the scheduler decides, under its lock.
"""

from libc.errno cimport EINTR, ETIMEDOUT, errno
from libc.math cimport ceil, fmax, fmin
from posix.unistd cimport usleep

from zfast._core.buffers cimport buffers_trim
from zfast._core.codecs cimport Decoder
from zfast._core.counters cimport Counters, count
from zfast._core.decoding cimport decoding_has, decoding_help
from zfast._core.exchange cimport (
    PHASE_DRAIN,
    PHASE_IDLE,
    Exchange,
    exchange_break,
    exchange_conclude_as_judged,
)
from zfast._core.extern.pthread cimport (
    pthread_cond_signal,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    sched_yield,
)
from zfast._core.extern.sockets cimport (
    MSG_DONTWAIT,
    POLLIN,
    poll,
    pollfd,
    recv,
    zfast_unacknowledged,
)
from zfast._core.finishing cimport scheduler_finish
from zfast._core.leases cimport (
    lease_drop_hedge,
    lease_drop_twin,
    lease_free,
    lease_has_ended,
    lease_hedge,
    lease_hedge_due,
    lease_lose,
    lease_retire,
)
from zfast._core.request cimport Request
from zfast._core.scheduler cimport scheduler_dispatch, scheduler_notice, scheduler_reassign
from zfast._core.settlement cimport scheduler_settle, scheduler_take_back
from zfast._core.splitting cimport split_go
from zfast._core.state cimport BatchState, Lease, Scheduler, Worker, monotonic, sooner, wake
from zfast._core.ticks cimport scheduler_next_tick, scheduler_tick
from zfast._core.transfer cimport transfer_begin, transfer_step, transfer_wants
from zfast._core.types cimport (
    STATUS_FIRST_BYTE_TIMEOUT,
    STATUS_OK,
    STATUS_READ_TIMEOUT,
    STATUS_RESET,
)

# What a guest waits awake, windows of 64 KiB chunks on loopback: 854 us each for 970 us asleep.
cdef double PATIENCE_SECONDS = 200e-6
# A connection is not worth more of the reader's time.
cdef double DRAIN_SECONDS = 1.0
# A kernel acknowledges at once what it gets; by then TCP has sent it several times.
cdef double UNHEARD_SECONDS = 5.0

cdef enum:
    # Between two looks at connections that cannot be polled.
    UNPOLLED_MICROSECONDS = 1000


cdef void _watch(Thread* thread, Lease* lease) noexcept nogil:
    cdef pollfd polled
    polled.fd = lease.exchange.transport.fd
    polled.events = POLLIN
    polled.revents = 0
    lease.polled = True
    thread.leases.push_back(lease)
    thread.polled.push_back(polled)


cdef void reactor_let_go(Thread* thread) noexcept nogil:
    # Stops polling what is no longer the thread's. Under the lock, and in the same turn in which it
    # lost the lease: nobody else touches one that is still polled here.
    cdef size_t index = 0
    cdef Lease* lease
    while index < thread.leases.size():
        lease = thread.leases[index]
        if lease.worker == thread.index and not lease.retired:
            index += 1
            continue
        thread.leases[index] = thread.leases.back()
        thread.leases.pop_back()
        thread.polled[index + 1] = thread.polled.back()
        thread.polled.pop_back()
        lease.polled = False
        if lease.retired:
            lease_free(lease)


cdef void _cancel_marked(Thread* thread) noexcept nogil:
    cdef Scheduler* s = thread.scheduler
    cdef Request* request
    for lease in s.workers[thread.index].inbox:
        if not lease.polled:
            _watch(thread, lease)
    for lease in thread.leases:
        request = lease.request
        if request != NULL and lease.worker == thread.index and request.cancelled != STATUS_OK:
            lease_drop_twin(s, lease)
            lease_lose(s, lease)
            lease_retire(s, lease, False)
            scheduler_finish(s, request, request.cancelled)


cdef inline bint _awaits_answer(const Exchange* exchange) noexcept nogil:
    return exchange.asked > 0 and not exchange.answered


cdef double _ends_at(const Exchange* exchange) noexcept nogil:
    # When it is to have made progress, 0 where there is no limit.
    cdef double limit = exchange.request.policy.read_timeout
    cdef double since = exchange.progress
    if _awaits_answer(exchange):
        limit = exchange.request.policy.first_byte_timeout
        since = exchange.asked
    elif exchange.phase == PHASE_DRAIN and exchange.asked > 0:
        # What the answer means is known: only the connection is waited for.
        limit = fmin(limit, DRAIN_SECONDS) if limit > 0 else DRAIN_SECONDS
    return since + limit if limit > 0 else 0


cdef double _unheard_at(const Lease* lease) noexcept nogil:
    # When it is to be looked whether the peer has acknowledged the request, 0 for never: of content
    # the last bytes may be on their way for long.
    cdef const Exchange* exchange = &lease.exchange
    if exchange.heard or lease.relayed or exchange.request.content_size > 0:
        return 0
    return exchange.asked + UNHEARD_SECONDS if _awaits_answer(exchange) else 0


cdef void _end_stalled(Exchange* exchange) noexcept nogil:
    if exchange.phase == PHASE_DRAIN:
        # The rest of an error's page is of no use to anybody.
        exchange.reusable = False
        exchange_conclude_as_judged(exchange)
    else:
        exchange_break(
            exchange,
            STATUS_FIRST_BYTE_TIMEOUT if _awaits_answer(exchange) else STATUS_READ_TIMEOUT,
        )


cdef double _check_times(Thread* thread, double now) noexcept nogil:
    # Ends what has made no progress for too long, and has sent again what is late; when to look
    # again, 0 for never. Under the lock.
    cdef double due
    cdef double next = 0
    for lease in thread.leases:
        if lease.request == NULL or lease.worker != thread.index or (
                lease.exchange.phase == PHASE_IDLE):
            continue
        if lease.twin != NULL and lease.request.claimant == &lease.exchange:
            lease_drop_twin(thread.scheduler, lease)
        if lease.exchange.late and lease.exchange.answered:
            lease.exchange.late = False
            lease_drop_hedge(lease)
        if lease.exchange.opens:
            lease.exchange.opens = False
            split_go(thread.scheduler, lease.request)
        due = _unheard_at(lease)
        if 0 < due <= thread.looked_at:
            lease.exchange.heard = zfast_unacknowledged(lease.exchange.transport.fd) == 0
            if not lease.exchange.heard:
                lease.silent = True
                lease.exchange.request.error = ETIMEDOUT
                exchange_break(&lease.exchange, STATUS_RESET)
                scheduler_settle(thread.scheduler, lease, now)
                continue
            due = 0
        next = sooner(next, due)
        due = _ends_at(&lease.exchange)
        if 0 < due <= thread.looked_at:
            _end_stalled(&lease.exchange)
            scheduler_settle(thread.scheduler, lease, now)
            continue
        next = sooner(next, due)
        due = lease_hedge_due(thread.scheduler, lease, now)
        # An answer may have come since the connections were looked at: to move what was there then
        # takes milliseconds, where the core has others to serve.
        if 0 < due <= thread.looked_at:
            lease_hedge(thread.scheduler, lease)
        else:
            next = sooner(next, due)
    return next


cdef int _milliseconds(double until, double now) noexcept nogil:
    if until <= 0:
        return -1
    return <int>min(ceil(fmax(until - now, 0) * 1000), 60000.0)


cdef void _drain_wake(int fd) noexcept nogil:
    cdef char[64] rung
    while recv(fd, rung, sizeof(rung), MSG_DONTWAIT) == sizeof(rung):
        pass


cdef void _step_ready(Thread* thread, double now) noexcept nogil:
    cdef size_t index
    cdef Lease* lease
    for index in range(thread.leases.size()):
        if thread.polled[index + 1].revents == 0:
            continue
        lease = thread.leases[index]
        if transfer_step(
            &lease.exchange, thread.polled[index + 1].revents, thread.scratch, SCRATCH_SIZE, now
        ):
            thread.concluded.push_back(lease)
        else:
            # The limit may be another one from here on.
            thread.next_check = sooner(thread.next_check, _ends_at(&lease.exchange))
        thread.polled[index + 1].events = transfer_wants(&lease.exchange)


cdef void _settle(Thread* thread, double now) noexcept nogil:
    # Under the lock.
    for lease in thread.concluded:
        if lease.retired:
            # Its twin was first, in this very turn.
            continue
        if lease.exchange.phase != PHASE_IDLE:
            scheduler_settle(thread.scheduler, lease, now)
        else:
            scheduler_take_back(thread.scheduler, lease)
    thread.concluded.clear()


cdef void reactor_take_inbox(Thread* thread) noexcept nogil:
    # Under the lock. What was cancelled before it came here is retired already.
    cdef Worker* worker = thread.scheduler.workers[thread.index]
    for lease in worker.inbox:
        if not lease.polled:
            _watch(thread, lease)
        if not lease.retired:
            thread.arrived.push_back(lease)
    worker.inbox.clear()


cdef inline void _count(const Lease* lease) noexcept nogil:
    # What is given to a connection that has ended goes to another one: it is no request yet.
    cdef Counters* counters = &lease.request.policy.counters
    count(&counters.requests, 1)
    if lease.used:
        count(&counters.requests_on_used_connections, 1)
    else:
        count(&counters.requests_on_new_connections, 1)
    count(&counters.hedges, lease.exchange.is_hedge)


cdef void _begin(Thread* thread, double now) noexcept nogil:
    # Sends what has been assigned; what a guest has left is under way already.
    cdef size_t index
    for lease in thread.arrived:
        if lease.exchange.phase == PHASE_IDLE:
            # One that came free in this very turn had nothing behind its last response. What is
            # closed as soon as it is open is a failed attempt, and counts as one.
            if not lease.awaited and (lease.idle_since != now or lease.relayed) and (
                    lease_has_ended(lease)):
                thread.concluded.push_back(lease)
                continue
            _count(lease)
            transfer_begin(&lease.exchange, lease.request, now)
            if transfer_step(&lease.exchange, 0, thread.scratch, SCRATCH_SIZE, now):
                thread.concluded.push_back(lease)
        thread.next_check = sooner(thread.next_check, _ends_at(&lease.exchange))
        thread.next_check = sooner(thread.next_check, _unheard_at(lease))
        if lease.late_after > 0:
            thread.next_check = sooner(thread.next_check, now + lease.late_after)
    if not thread.arrived.empty():
        thread.arrived.clear()
        for index in range(thread.leases.size()):
            thread.polled[index + 1].events = transfer_wants(&thread.leases[index].exchange)


cdef bint _has_news(Thread* thread) noexcept nogil:
    # Of two that carry one request, whether one has the answer: the other is to end at once, or not
    # to begin. Or whether parts of a range may go out.
    for lease in thread.leases:
        if lease.exchange.phase == PHASE_IDLE:
            continue
        if lease.exchange.opens or (lease.exchange.late and lease.exchange.answered):
            return True
        if lease.exchange.rivals and lease.exchange.request.claimant != NULL:
            return True
    return False


cdef bint _comes_at_once(Thread* thread) noexcept nogil:
    # A guest is there for servers that answer sooner than a sleeping core wakes up.
    cdef double until = monotonic() + PATIENCE_SECONDS
    thread.looked_at = 0
    while thread.looked_at < until:
        thread.looked_at = monotonic()
        if poll(thread.polled.data(), thread.polled.size(), 0) > 0:
            return True
        sched_yield()
    return False


cdef void _suppose_ready(Thread* thread) noexcept nogil:
    # Where polling itself fails, as where the process may have fewer descriptors from now on than
    # are polled: each is tried, for none waits.
    cdef size_t index
    usleep(UNPOLLED_MICROSECONDS)
    for index in range(thread.polled.size()):
        thread.polled[index].revents = thread.polled[index].events


cdef bint _move(Thread* thread, double limit) noexcept nogil:
    # Waits for something to do, until `limit` at most (0 none), and moves what can be moved;
    # whether the scheduler has to know.
    cdef double now
    cdef double until = thread.next_check
    if not thread.concluded.empty():
        # Ended as they began: none of them is to be stepped again.
        return True
    if thread.next_tick > 0 and (until == 0 or thread.next_tick < until):
        until = thread.next_tick
    if limit > 0 and (until == 0 or limit < until):
        until = limit
    if limit == 0 or thread.leases.empty() or not _comes_at_once(thread):
        thread.looked_at = monotonic()
        if poll(
            thread.polled.data(), thread.polled.size(), _milliseconds(until, thread.looked_at)
        ) < 0:
            if errno == EINTR:
                return False
            _suppose_ready(thread)
    now = monotonic()
    _step_ready(thread, now)
    if thread.polled[0].revents:
        _drain_wake(thread.woken_fd)
        return True
    return not thread.concluded.empty() or 0 < until <= now or _has_news(thread)


cdef void _carry_on(Thread* thread, double now) noexcept nogil:
    # Under the lock: tells the scheduler what came of it, and takes what is next.
    cdef Scheduler* s = thread.scheduler
    cdef Worker* worker = s.workers[thread.index]
    # What it does itself need not wake it.
    worker.woken = True
    _settle(thread, now)
    if worker.scan:
        worker.scan = False
        _cancel_marked(thread)
    if thread.index == 0:
        scheduler_tick(s, now)
    thread.next_check = _check_times(thread, now)
    scheduler_dispatch(s, thread.index, now)
    reactor_take_inbox(thread)
    if worker.forget:
        worker.forget = False
        reactor_let_go(thread)
    thread.next_tick = scheduler_next_tick(s) if thread.index == 0 else 0
    worker.woken = False
    if worker.scan or worker.forget:
        wake(worker)


cdef void* reactor_run(void* argument) noexcept nogil:
    cdef Thread* thread = <Thread*>argument
    cdef Scheduler* s = thread.scheduler
    cdef double now
    cdef bint trims
    cdef bint stopping = False
    while not stopping:
        if not _move(thread, 0):
            continue
        now = monotonic()
        pthread_mutex_lock(&s.lock)
        _carry_on(thread, now)
        stopping = s.stopping
        trims = s.trims
        s.trims = False
        pthread_mutex_unlock(&s.lock)
        _begin(thread, now)
        if trims:
            # Not under the lock: giving memory back may take a while.
            buffers_trim()
    return NULL


cdef void _hand_over(Thread* thread) noexcept nogil:
    # To the I/O threads, whatever it is at. Under the lock.
    cdef Scheduler* s = thread.scheduler
    for lease in thread.leases:
        if lease.worker == thread.index:
            scheduler_reassign(s, lease)
    thread.arrived.clear()
    s.workers[thread.index].forget = False
    reactor_let_go(thread)


cdef bint reactor_attend(
    Thread* thread, Decoder* decoder, BatchState* batch, double until
) noexcept nogil:
    # The calling thread does the work of an I/O thread, and of a decode thread, for a batch that it
    # waits for; until then at most. Whether the batch is done.
    cdef Scheduler* s = thread.scheduler
    cdef bint decodes, done, leaves
    cdef double now
    cdef long long index
    pthread_mutex_lock(&s.lock)
    if s.guest_is_here or not batch.attended:
        # Somebody else attends to it.
        pthread_mutex_unlock(&s.lock)
        return False
    s.guest_is_here = not s.stopping
    while s.guest_is_here:
        now = monotonic()
        s.guest_settles = True
        _carry_on(thread, now)
        s.guest_settles = False
        leaves = batch.done or now >= until or s.stopping
        decodes = not leaves and decoding_has(s, batch)
        if not decodes and not s.jobs.empty():
            pthread_cond_signal(&s.jobs_waiting)
        if leaves:
            _hand_over(thread)
            break
        pthread_mutex_unlock(&s.lock)
        _begin(thread, now)
        if not decodes:
            _move(thread, until)
        pthread_mutex_lock(&s.lock)
        if decodes:
            decoding_help(s, batch, decoder)
    batch.attended = s.guest_is_expected = s.guest_is_here = False
    done = batch.done
    if not done:
        for index in batch.untold:
            scheduler_notice(batch, index)
    batch.untold.clear()
    pthread_mutex_unlock(&s.lock)
    return done
