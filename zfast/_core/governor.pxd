# How much an origin bears: requests at once, when to pause, when to ask a second time.

from zfast._core.latency cimport Latency

cdef struct Governor:
    double window                   # requests in flight at once, 0 while no limit is known
    double cut_at                   # when the window was last cut, 0 never
    double pace                     # seconds from one request to the next, 0 while there is no need
    double paused_until             # nothing is asked before, as the origin wished, or by the pace
    double wished_until             # ... and of that, what the origin wished
    unsigned long long answers      # how many there were
    int refused                     # requests in a row that met a limit
    double troubled_until           # it failed of late: no hedges before
    double credit                   # hedges that the budget allows
    double late                     # seconds after which an answer is late, 0 unknown
    unsigned int unseen             # answers that `late` does not know of yet
    Latency latency                 # seconds to the first byte

cdef void governor_start(Governor* governor) noexcept nogil
cdef void governor_answered(Governor* governor, double first_byte, int most) noexcept nogil
cdef void governor_bore(Governor* governor, int in_flight) noexcept nogil
cdef void governor_throttled(
    Governor* governor, double begun, int in_flight, double pause, double longest, double now
) noexcept nogil
cdef void governor_failed(Governor* governor, double now) noexcept nogil
cdef int governor_room(const Governor* governor, int in_flight, double now) noexcept nogil
cdef bint governor_asked(Governor* governor, double budget, double now) noexcept nogil
cdef double governor_hedge_due(
    const Governor* governor, double begun, double floor
) noexcept nogil
cdef bint governor_hedge(Governor* governor) noexcept nogil
cdef void governor_give_back(Governor* governor) noexcept nogil
