"""What the engine knows is in the declarations; here are its clock, and what wakes its threads.

Fields that nobody sets begin as zero, False and NULL.
"""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from zfast._core.extern.pthread cimport zfast_cond_wait_for
from zfast._core.extern.sockets cimport ZFAST_SEND_FLAGS, send


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef bint wait_for(pthread_cond_t* waiting, pthread_mutex_t* lock, double seconds) noexcept nogil:
    # Until there may be something to do; False when so many seconds have passed first.
    return zfast_cond_wait_for(waiting, lock, seconds) == 0


cdef void ring(int fd) noexcept nogil:
    # One byte is enough: when the socket is full, whoever reads it is awake anyhow.
    send(fd, b"!", 1, ZFAST_SEND_FLAGS)


cdef void wake(Worker* worker) noexcept nogil:
    if not worker.woken:
        worker.woken = True
        ring(worker.wake_fd)
