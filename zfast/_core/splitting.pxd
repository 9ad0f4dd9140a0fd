# Large ranges over several connections.

from zfast._core.request cimport Request
from zfast._core.state cimport Scheduler
from zfast._core.types cimport Status

cdef enum SplitStep:
    SPLIT_WAITS                     # parts are under way
    SPLIT_FAILS                     # ... and are to end, since one has failed
    SPLIT_AGAIN                     # the whole range is to be read by one request
    SPLIT_ENDS                      # all of it has come to its end

cdef void split_plan(Scheduler* s, Request* lead) noexcept nogil
cdef void split_go(Scheduler* s, Request* lead) noexcept nogil
cdef SplitStep split_ended(Scheduler* s, Request* request, Status* code) noexcept nogil
