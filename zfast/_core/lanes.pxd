# The waiting requests, batch by batch in turn.

from libcpp.vector cimport vector

from zfast._core.request cimport Request
from zfast._core.state cimport BatchState, Origin, Request_ptr, Scheduler


cdef inline bint is_chosen(const vector[char]& chosen, size_t index) noexcept nogil:
    # Of a batch's requests, where none chosen stands for all.
    return chosen.empty() or chosen[index]


cdef void lanes_enqueue(Scheduler* s, Request* request, bint first) noexcept nogil
cdef void lanes_list(Scheduler* s, Origin* origin) noexcept nogil
cdef Request* lanes_take_next(Scheduler* s, Origin* origin) noexcept nogil
cdef long lanes_ready(Scheduler* s, Origin* origin, long enough) noexcept nogil
cdef void lanes_withdraw(
    BatchState* batch, const vector[char]& chosen, vector[Request_ptr]* withdrawn
) noexcept nogil
cdef void lanes_withdraw_before(
    Origin* origin, long dial_round, vector[Request_ptr]* withdrawn
) noexcept nogil
