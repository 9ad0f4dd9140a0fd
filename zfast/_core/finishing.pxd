# The end of a request, for now or for good.

from libcpp.vector cimport vector

from zfast._core.request cimport Request
from zfast._core.retry cimport Mishap
from zfast._core.state cimport BatchState, Scheduler
from zfast._core.types cimport Status

cdef void scheduler_finish(Scheduler* s, Request* request, Status code) noexcept nogil
cdef void scheduler_end(Scheduler* s, Request* request, Status code) noexcept nogil
cdef bint scheduler_retry(
    Scheduler* s, Request* request, Mishap mishap, Status code, double retry_after, double now
) noexcept nogil
cdef vector[char] chosen_of(const BatchState* batch, long long index) noexcept nogil
cdef void scheduler_cancel(
    Scheduler* s, BatchState* batch, const vector[char]& chosen, Status code
) noexcept nogil
cdef void scheduler_cancel_all(Scheduler* s, BatchState* batch, Status code) noexcept nogil
