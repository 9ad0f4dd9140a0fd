# The engine's I/O threads, one poll loop each.

from libcpp.vector cimport vector

from zfast._core.extern.pthread cimport pthread_t
from zfast._core.extern.sockets cimport pollfd
from zfast._core.scheduler cimport Assignment, Lease, Scheduler

cdef enum:
    # Stays in a core's cache while one recv takes a head and a small body together.
    SCRATCH_SIZE = 256 << 10

cdef cppclass Thread:
    Scheduler* scheduler
    int index
    int wake_fd
    double idle_timeout
    pthread_t handle
    char* scratch
    vector[Lease*] leases
    vector[pollfd] polled           # polled[0] is the wake descriptor, polled[i + 1] leases[i]

cdef void* reactor_run(void* thread) noexcept nogil
cdef void reactor_take_inbox(Thread* thread, vector[Assignment]* begun) noexcept nogil
cdef void reactor_forget_retired(Thread* thread) noexcept nogil
