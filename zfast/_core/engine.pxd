# The process's engine: the I/O threads' start and end, and the way in and out of them.

from libcpp.vector cimport vector

from zfast._core.reactor cimport Thread
from zfast._core.scheduler cimport Scheduler

cdef class Engine:
    cdef Scheduler* scheduler
    cdef vector[Thread*] threads
    cdef vector[int] descriptors
    cdef size_t max_head
    cdef readonly bint stopped
    cdef readonly int pid
    cdef dict live
    cdef object __weakref__

    cdef _add_thread(self, int index, double idle_timeout)
    cdef _start(self)
    cdef _close_leases(self)
    cdef reap(self)
    cdef ensure_usable(self)
