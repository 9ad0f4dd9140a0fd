# Requests submitted together, as their owner in Python holds them.

from zfast._core.engine cimport Engine
from zfast._core.request cimport Request
from zfast._core.state cimport BatchState, Notices

cdef class Waker:
    cdef readonly object untold     # completions
    cdef Notices* notices
    cdef int fd
    cdef Engine engine

cdef class Batch:
    cdef BatchState* state
    cdef Engine engine
    cdef list pins
    cdef dict policies
    cdef double deadline_seconds
    cdef bint ended_in_attendance   # nobody was told
    cdef readonly long long id
    cdef object __weakref__

    cdef _submit(self, bint attends)
    cdef _wait(self)
    cdef void attend_to(self, double seconds) noexcept nogil
    cdef Request* _request(self, size_t index) except NULL
    cdef _body(self, Request* request)
