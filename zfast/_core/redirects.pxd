# Where a redirect leads.

from libcpp.string cimport string

from zfast._core.request cimport Request
from zfast._core.state cimport Origin, Scheduler

cdef void scheduler_redirect(Scheduler* s, Request* request) noexcept nogil
cdef void scheduler_redirected(
    Scheduler* s, Request* request, Origin* origin, string target, bint foreign, double now
) noexcept nogil
