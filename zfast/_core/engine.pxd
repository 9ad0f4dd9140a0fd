# The process's engine: the I/O threads' start and end, and the way in and out of them.

from libcpp.vector cimport vector

from zfast._core.codecs cimport Decoder
from zfast._core.decoding cimport DecodeThread
from zfast._core.reactor cimport Thread
from zfast._core.state cimport Scheduler

cdef class Engine:
    cdef Scheduler* scheduler
    cdef vector[Thread*] threads
    cdef Thread* guest              # the place of a caller that attends to its own batch
    cdef Decoder* guest_decoder
    cdef vector[DecodeThread*] decode_threads
    cdef vector[int] descriptors
    cdef size_t max_head
    cdef readonly bint stopped
    cdef readonly int pid
    cdef int max_decode_threads
    cdef dict live
    cdef object __weakref__

    cdef Thread* _new_thread(self, int index) except NULL
    cdef _start(self)
    cdef _end_decoding(self)
    cdef ensure_decode_threads(self)
    cdef _start_decoding(self)
    cdef _close_leases(self)
    cdef _release_idle(self, origin_ids, bint forgets)
    cdef reap(self)
    cdef ensure_usable(self)
