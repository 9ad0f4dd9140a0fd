# Which request goes out next on which lease, and how batches come in and end.

from zfast._core.request cimport Request
from zfast._core.state cimport BatchState, Lease, Origin, Scheduler

cdef void scheduler_submit(Scheduler* s, BatchState* batch, double now) noexcept nogil
cdef void scheduler_enter(Scheduler* s, Request* request) noexcept nogil
cdef bint scheduler_admit(
    Scheduler* s, BatchState* batch, Origin* origin, size_t requests
) noexcept nogil
cdef void scheduler_seal(Scheduler* s, BatchState* batch) noexcept nogil
cdef void scheduler_complete(Scheduler* s, BatchState* batch) noexcept nogil
cdef void scheduler_notice(BatchState* batch, long long index) noexcept nogil
cdef void scheduler_left(Scheduler* s, Origin* origin, double now) noexcept nogil
cdef void scheduler_adopt(Scheduler* s, Lease* lease, double now) noexcept nogil
cdef void scheduler_reassign(Scheduler* s, Lease* lease) noexcept nogil
cdef void scheduler_dispatch(Scheduler* s, int caller, double now) noexcept nogil
