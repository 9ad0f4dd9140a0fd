# How long an origin takes to answer, of late: a histogram that forgets.

cdef enum:
    # Four to an octave from 10 us on: the last begins at 140 s.
    LATENCY_BUCKETS = 96

cdef struct Latency:
    unsigned int counts[LATENCY_BUCKETS]
    unsigned int total

cdef void latency_note(Latency* latency, double seconds) noexcept nogil
cdef double latency_quantile(const Latency* latency, double quantile) noexcept nogil
