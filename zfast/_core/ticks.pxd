# What has come due.

from zfast._core.state cimport Scheduler

cdef void scheduler_tick(Scheduler* s, double now) noexcept nogil
cdef double scheduler_next_tick(Scheduler* s) noexcept nogil
