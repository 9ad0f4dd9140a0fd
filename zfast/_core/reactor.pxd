# The engine's I/O threads, one poll loop each.

from libcpp.vector cimport vector

from zfast._core.codecs cimport Decoder
from zfast._core.extern.pthread cimport pthread_t
from zfast._core.extern.sockets cimport pollfd
from zfast._core.state cimport BatchState, Lease, Scheduler

cdef enum:
    # Stays in a core's cache while one recv takes a head and a small body together.
    SCRATCH_SIZE = 256 << 10

cdef cppclass Thread:
    Scheduler* scheduler
    int index
    int woken_fd
    pthread_t handle
    char* scratch
    vector[Lease*] leases
    vector[pollfd] polled           # polled[0] is the wake descriptor, polled[i + 1] leases[i]
    vector[Lease*] arrived          # with a request that is to be sent
    vector[Lease*] concluded        # with one whose exchange has ended
    double looked_at                # when it last began to look at what is polled
    double next_check               # when the first of them may have stalled for too long, 0 never
    double next_tick                # when the scheduler has something to do, 0 never

cdef bint reactor_attend(
    Thread* thread, Decoder* decoder, BatchState* batch, double until
) noexcept nogil
cdef void* reactor_run(void* thread) noexcept nogil
cdef void reactor_take_inbox(Thread* thread) noexcept nogil
cdef void reactor_let_go(Thread* thread) noexcept nogil
