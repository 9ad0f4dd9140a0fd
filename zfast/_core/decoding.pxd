# The engine's decode threads.

from zfast._core.codecs cimport Decoder
from zfast._core.extern.pthread cimport pthread_t
from zfast._core.request cimport Request
from zfast._core.state cimport BatchState, Scheduler

cdef enum:
    # Bytes that whoever attends to a read decodes itself at once: of zstd it takes 0.3 ms.
    MOST_DECODED = 256 << 10

cdef cppclass DecodeThread:
    Scheduler* scheduler
    Decoder* decoder
    pthread_t handle

cdef void decoding_plan(Scheduler* s, Request* request, int caller) noexcept nogil
cdef bint decoding_has(const Scheduler* s, const BatchState* batch) noexcept nogil
cdef void decoding_help(Scheduler* s, BatchState* batch, Decoder* decoder) noexcept nogil
cdef void* decoding_run(void* thread) noexcept nogil
