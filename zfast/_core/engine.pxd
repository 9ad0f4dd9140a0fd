# The process's engine: I/O threads that run every exchange, and the way in and out of them.

from libcpp.vector cimport vector

from zfast._core.extern.pthread cimport pthread_t
from zfast._core.extern.sockets cimport pollfd
from zfast._core.scheduler cimport Lease, Scheduler

cdef cppclass Thread:
    Scheduler* scheduler
    int index
    int wake_fd
    double idle_timeout
    pthread_t handle
    char* scratch
    vector[Lease*] leases
    vector[pollfd] polled           # polled[0] is the wake descriptor, polled[i + 1] leases[i]

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
