# The waiting requests, batch by batch in turn.

from libcpp.vector cimport vector

from zfast._core.request cimport Request
from zfast._core.state cimport BatchState, Origin, Request_ptr, Scheduler

cdef void lanes_enqueue(Scheduler* s, Request* request, bint first) noexcept nogil
cdef void lanes_list(Scheduler* s, Origin* origin) noexcept nogil
cdef Request* lanes_take_next(Scheduler* s, Origin* origin) noexcept nogil
cdef long lanes_ready(Scheduler* s, Origin* origin, long enough) noexcept nogil
cdef void lanes_withdraw(
    BatchState* batch, long long index, vector[Request_ptr]* withdrawn
) noexcept nogil
cdef void lanes_withdraw_before(
    Origin* origin, long dial_round, vector[Request_ptr]* withdrawn
) noexcept nogil
