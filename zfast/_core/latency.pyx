"""How long an origin takes to answer, of late: a histogram that forgets.

Pure. Buckets are a quarter of an octave wide: a quantile is right within 19 %.
"""

from libc.math cimport ceil, exp2, log2
from libc.string cimport memset

cdef double SHORTEST = 10e-6
cdef enum:
    TO_AN_OCTAVE = 4
    # Then all counts are halved: what came before weighs less and less.
    HALVED_AT = 1024


cdef void latency_note(Latency* latency, double seconds) noexcept nogil:
    cdef int bucket = 0
    cdef int index
    if seconds > SHORTEST:
        bucket = <int>min(log2(seconds / SHORTEST) * TO_AN_OCTAVE, LATENCY_BUCKETS - 1.0)
    latency.counts[bucket] += 1
    latency.total += 1
    if latency.total < HALVED_AT:
        return
    latency.total = 0
    for index in range(LATENCY_BUCKETS):
        latency.counts[index] //= 2
        latency.total += latency.counts[index]


cdef double latency_quantile(const Latency* latency, double quantile) noexcept nogil:
    # Seconds that so much of the answers took at most; 0 where there were none.
    cdef unsigned int above = latency.total - <unsigned int>ceil(latency.total * quantile - 1e-9)
    cdef unsigned int seen = 0
    cdef int bucket = LATENCY_BUCKETS
    if latency.total == 0:
        return 0
    while bucket > 0 and seen <= above:
        bucket -= 1
        seen += latency.counts[bucket]
    return SHORTEST * exp2((bucket + 1.0) / TO_AN_OCTAVE)


def quantile_of(times, double quantile):
    """The quantile of times as the histogram has it, for tests.

    Parameters
    ----------
    times : iterable of float
        Seconds, the latest last.
    quantile : float
        From 0 to 1.

    Returns
    -------
    float
        Seconds; 0.0 where there were no times.
    """
    cdef Latency latency
    memset(&latency, 0, sizeof(latency))
    for seconds in times:
        latency_note(&latency, seconds)
    return latency_quantile(&latency, quantile)
