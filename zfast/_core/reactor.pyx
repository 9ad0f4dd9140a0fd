"""The I/O threads: each polls many leases and runs their exchanges to the end.

No thread here ever holds a Python thread state or waits for the GIL; signals are blocked in them.
What an exchange leads to, the scheduler decides, under its lock.
"""

from libc.math cimport ceil, fmax
from libc.stdlib cimport free
from libcpp.vector cimport vector

from zfast._core.buffers cimport buffers_trim, slab_release
from zfast._core.exchange cimport (
    CONCLUDED_BROKEN,
    PHASE_IDLE,
    Exchange,
    Request,
    exchange_begin,
    exchange_step,
    exchange_wants,
)
from zfast._core.extern.pthread cimport pthread_mutex_lock, pthread_mutex_unlock
from zfast._core.extern.sockets cimport MSG_DONTWAIT, POLLIN, poll, pollfd, recv
from zfast._core.scheduler cimport (
    Assignment,
    Lease,
    Scheduler,
    Worker,
    monotonic,
    scheduler_dispatch,
    scheduler_lose,
    scheduler_retire,
)
from zfast._core.settlement cimport (
    scheduler_finish,
    scheduler_next_tick,
    scheduler_settle,
    scheduler_take_back,
    scheduler_tick,
)
from zfast._core.types cimport STATUS_OK, STATUS_READ_TIMEOUT


cdef void _watch(Thread* thread, Lease* lease) noexcept nogil:
    cdef pollfd polled
    polled.fd = lease.exchange.transport.fd
    polled.events = POLLIN
    polled.revents = 0
    lease.adopted = True
    thread.leases.push_back(lease)
    thread.polled.push_back(polled)


cdef void reactor_forget_retired(Thread* thread) noexcept nogil:
    # Under the lock: who retired a lease may be another thread, and not have let go of it yet.
    cdef size_t index = 0
    cdef Lease* lease
    while index < thread.leases.size():
        lease = thread.leases[index]
        if not lease.retired:
            index += 1
            continue
        thread.leases[index] = thread.leases.back()
        thread.leases.pop_back()
        thread.polled[index + 1] = thread.polled.back()
        thread.polled.pop_back()
        _free_lease(lease)


cdef void _free_lease(Lease* lease) noexcept nogil:
    free(lease.exchange.head)
    slab_release(lease.exchange.tail)
    del lease


cdef void _cancel_marked(Thread* thread) noexcept nogil:
    cdef Scheduler* s = thread.scheduler
    cdef Request* request
    for assignment in s.workers[thread.index].inbox:
        if not assignment.lease.adopted:
            _watch(thread, assignment.lease)
    for lease in thread.leases:
        request = lease.request
        if request != NULL and request.cancelled != STATUS_OK:
            scheduler_lose(s, lease)
            scheduler_retire(s, lease, False)
            scheduler_finish(s, request, request.cancelled)


cdef double _expire(Thread* thread, double now) noexcept nogil:
    # Ends what took too long; when to look again, 0 for never. Under the lock.
    cdef Scheduler* s = thread.scheduler
    cdef Request* request
    cdef double due
    cdef double first = 0
    for lease in thread.leases:
        request = lease.request
        if lease.retired:
            continue
        if request != NULL:
            if request.profile.read_timeout <= 0 or lease.exchange.phase == PHASE_IDLE:
                continue
            due = lease.exchange.progress + request.profile.read_timeout
        elif lease.idle:
            due = lease.idle_since + thread.idle_timeout
        else:
            continue
        if due > now:
            first = due if first == 0 else min(first, due)
        elif request == NULL:
            scheduler_retire(s, lease, True)
            buffers_trim()
        else:
            lease.exchange.conclusion = CONCLUDED_BROKEN
            lease.exchange.code = STATUS_READ_TIMEOUT
            lease.exchange.reusable = False
            scheduler_settle(s, lease, now)
    return first


cdef int _milliseconds(double until, double now) noexcept nogil:
    if until <= 0:
        return -1
    return <int>min(ceil(fmax(until - now, 0) * 1000), 60000.0)


cdef void _drain_wake(int fd) noexcept nogil:
    cdef char[64] rung
    while recv(fd, rung, sizeof(rung), MSG_DONTWAIT) == sizeof(rung):
        pass


cdef void _step_ready(Thread* thread, vector[Lease*]* concluded, double now) noexcept nogil:
    # Idle leases that have something to say come back as concluded too: they have ended.
    cdef size_t index
    cdef Lease* lease
    cdef short ready
    for index in range(thread.leases.size()):
        ready = thread.polled[index + 1].revents
        if ready == 0:
            continue
        lease = thread.leases[index]
        if lease.exchange.phase == PHASE_IDLE or exchange_step(
                &lease.exchange, ready, thread.scratch, SCRATCH_SIZE, now):
            concluded.push_back(lease)
            thread.polled[index + 1].events = POLLIN
        else:
            thread.polled[index + 1].events = exchange_wants(&lease.exchange)


cdef void _settle(Thread* thread, vector[Lease*]* concluded, double now) noexcept nogil:
    # Under the lock.
    for lease in concluded[0]:
        if lease.exchange.phase != PHASE_IDLE:
            scheduler_settle(thread.scheduler, lease, now)
        elif lease.idle:
            # The server closed an idle connection, or spoke unasked.
            scheduler_retire(thread.scheduler, lease, False)
        elif lease.request != NULL:
            # The same, while a request was about to be sent over it.
            scheduler_take_back(thread.scheduler, lease)
    concluded.clear()


cdef void reactor_take_inbox(Thread* thread, vector[Assignment]* begun) noexcept nogil:
    # Under the lock. A lease that was retired before it came here is adopted only to be freed.
    cdef Worker* worker = thread.scheduler.workers[thread.index]
    for assignment in worker.inbox:
        if not assignment.lease.adopted:
            _watch(thread, assignment.lease)
        if assignment.request != NULL and not assignment.lease.retired:
            begun.push_back(assignment)
    worker.inbox.clear()


cdef double _begin(
    Thread* thread, vector[Assignment]* begun, vector[Lease*]* concluded, double next_check
) noexcept nogil:
    # Sends what was assigned; the next check, which a new exchange may bring forward.
    cdef double now = monotonic()
    cdef double due
    cdef Exchange* exchange
    cdef size_t index
    for assignment in begun[0]:
        exchange = &assignment.lease.exchange
        exchange_begin(exchange, assignment.request, now)
        if exchange_step(exchange, 0, thread.scratch, SCRATCH_SIZE, now):
            concluded.push_back(assignment.lease)
        due = now + assignment.request.profile.read_timeout
        if assignment.request.profile.read_timeout > 0 and (next_check == 0 or due < next_check):
            next_check = due
    if not begun.empty():
        begun.clear()
        for index in range(thread.leases.size()):
            thread.polled[index + 1].events = exchange_wants(&thread.leases[index].exchange)
    return next_check


cdef void* reactor_run(void* argument) noexcept nogil:
    cdef Thread* thread = <Thread*>argument
    cdef Scheduler* s = thread.scheduler
    cdef Worker* worker = s.workers[thread.index]
    cdef vector[Lease*] concluded
    cdef vector[Assignment] begun
    cdef double next_check = 0
    cdef double next_tick = 0
    cdef double now = monotonic()
    cdef double until
    cdef bint stopping = False
    while not stopping:
        until = next_check
        if next_tick > 0 and (until == 0 or next_tick < until):
            until = next_tick
        if poll(thread.polled.data(), thread.polled.size(),
                0 if concluded.size() else _milliseconds(until, now)) < 0:
            continue
        now = monotonic()
        _step_ready(thread, &concluded, now)
        if concluded.empty() and thread.polled[0].revents == 0 and (until == 0 or now < until):
            continue
        if thread.polled[0].revents:
            _drain_wake(thread.wake_fd)
        pthread_mutex_lock(&s.lock)
        worker.woken = False
        _settle(thread, &concluded, now)
        if worker.scan:
            worker.scan = False
            _cancel_marked(thread)
        if thread.index == 0:
            scheduler_tick(s, now)
        next_check = _expire(thread, now)
        scheduler_dispatch(s, thread.index, now)
        reactor_take_inbox(thread, &begun)
        next_tick = scheduler_next_tick(s) if thread.index == 0 else 0
        stopping = s.stopping
        if worker.forget:
            worker.forget = False
            reactor_forget_retired(thread)
        pthread_mutex_unlock(&s.lock)
        next_check = _begin(thread, &begun, &concluded, next_check)
    return NULL
