# What came of an exchange, or of opening a connection.

from libcpp.string cimport string

from zfast._core.state cimport Lease, Origin, Scheduler
from zfast._core.types cimport Status

cdef void scheduler_settle(Scheduler* s, Lease* lease, double now) noexcept nogil
cdef void scheduler_take_back(Scheduler* s, Lease* lease) noexcept nogil
cdef void scheduler_dial_failed(
    Scheduler* s, Origin* origin, Status code, int error, bint no_descriptor, string detail,
    double now
) noexcept nogil
