"""What has come due: deadlines, retries, pauses that are over, connections that were idle for long.

Each function runs under the scheduler's lock, in the first I/O thread; none blocks.
"""

from libcpp.vector cimport vector

from cython.operator cimport dereference

from zfast._core.finishing cimport scheduler_cancel_all
from zfast._core.lanes cimport lanes_enqueue
from zfast._core.leases cimport (
    call_python,
    lease_has_ended,
    lease_retire,
    lease_watch_idle,
    origin_probed_next,
)
from zfast._core.request cimport Request
from zfast._core.scheduler cimport scheduler_dispatch
from zfast._core.state cimport (
    CALL_SWEEP,
    NOBODY,
    BatchState,
    BatchState_ptr,
    Lease,
    origin_has_waiting,
    sooner,
)
from zfast._core.types cimport STATUS_DEADLINE


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
        else:
            s.next_deadline = sooner(s.next_deadline, batch.deadline)
    for batch in expired:
        batch.deadline = 0
        scheduler_cancel_all(s, batch, STATUS_DEADLINE)


cdef void _sweep_idle(Scheduler* s, double now) noexcept nogil:
    # Gives back what has been idle for long enough, and closes what the server has closed.
    cdef vector[Lease*] idle
    cdef bint rested = False
    cdef bint due
    for entry in s.origins:
        idle.insert(idle.end(), entry.second.idle.begin(), entry.second.idle.end())
    s.next_idle = 0
    for lease in idle:
        due = lease.idle_since + s.idle_timeout <= now
        if lease_has_ended(lease):
            lease_retire(s, lease, False)
        elif due:
            lease_retire(s, lease, True)
        else:
            lease_watch_idle(s, lease, now)
        rested = rested or due
    s.trims = s.trims or rested


cdef void scheduler_tick(Scheduler* s, double now) noexcept nogil:
    # What has come due: retries after their backoff, deadlines, dialling after a pause, and the
    # idle leases.
    cdef Request* request
    cdef bint due = False
    if s.next_deadline > 0 and s.next_deadline <= now:
        _expire(s, now)
    if 0 < s.next_idle <= now:
        _sweep_idle(s, now)
    if 0 < s.next_sweep <= now:
        s.next_sweep = 0
        call_python(s, CALL_SWEEP, 0, 0)
    while not s.delayed.empty() and dereference(s.delayed.begin()).first <= now:
        request = dereference(s.delayed.begin()).second
        s.delayed.erase(s.delayed.begin())
        lanes_enqueue(s, request, True)
        due = True
    for origin in s.pending:
        if not origin_has_waiting(origin):
            continue
        if 0 < origin.dial_after <= now:
            due = True
            origin.dial_after = 0
        if 0 < origin.governor.paused_until <= now:
            due = True
            origin.governor.paused_until = 0
        if 0 < origin_probed_next(origin) <= now:
            due = origin.may_probe = True
            origin.probed_at = now
    if 0 < s.next_starving <= now:
        due = True
        s.next_starving = 0
    if 0 < s.restore_after <= now:
        due = True
        s.restore_after = 0
        s.max_leases = s.allowed_leases
    if due:
        scheduler_dispatch(s, NOBODY, now)


cdef double scheduler_next_tick(Scheduler* s) noexcept nogil:
    # When scheduler_tick has something to do next, 0 when nothing is waiting for a time.
    cdef double first = sooner(s.next_deadline, s.next_idle)
    first = sooner(first, s.next_sweep)
    first = sooner(first, sooner(s.restore_after, s.next_starving))
    if not s.delayed.empty():
        first = sooner(first, dereference(s.delayed.begin()).first)
    for origin in s.pending:
        if origin_has_waiting(origin):
            first = sooner(first, sooner(origin.dial_after, origin.governor.paused_until))
            first = sooner(first, origin_probed_next(origin))
    return first
