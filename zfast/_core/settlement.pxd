# What becomes of a request that is on no lease any more.

from libcpp.string cimport string

from zfast._core.exchange cimport Request
from zfast._core.scheduler cimport BatchState, Lease, Origin, Scheduler
from zfast._core.types cimport Status

cdef void scheduler_finish(Scheduler* s, Request* request, Status code) noexcept nogil
cdef void scheduler_settle(Scheduler* s, Lease* lease, double now) noexcept nogil
cdef void scheduler_take_back(Scheduler* s, Lease* lease) noexcept nogil
cdef void scheduler_redirected(
    Scheduler* s, Request* request, Origin* origin, string target, bint foreign, double now
) noexcept nogil
cdef void scheduler_dial_failed(
    Scheduler* s, Origin* origin, Status code, int error, bint no_descriptor, string detail,
    double now
) noexcept nogil
cdef void scheduler_cancel(
    Scheduler* s, BatchState* batch, long long index, Status code
) noexcept nogil
cdef void scheduler_tick(Scheduler* s, double now) noexcept nogil
cdef double scheduler_next_tick(Scheduler* s) noexcept nogil
