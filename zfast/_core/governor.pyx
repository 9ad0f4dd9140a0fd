"""How much an origin bears, as its answers say: additive increase, multiplicative decrease.

Pure: the caller brings the clock. The window of requests at once is halved when the origin says
that it is too much (429, 503, a connection refused), once a round trip, and grows by one a round
trip. Where one at a time is too much they go out at a pace, whose interval a refusal doubles and an
answer shortens. A Retry-After (RFC 9110, section 10.2.3) of two requests in a row pauses it. An
answer is late when it takes twice as long as nearly all did of late: then a request may be hedged,
as far as the budget goes and the origin is well.
"""

from libc.limits cimport INT_MAX
from libc.string cimport memset

from zfast._core.latency cimport latency_note, latency_quantile

# An answer is late that takes LATE_TIMES as long as this share of all at most: by the share alone
# every twentieth would be, where all take about as long.
cdef double LATE_QUANTILE = 0.95
cdef double LATE_TIMES = 2.0
# Twenty times a twentieth come to a little less than one.
cdef double ONE_HEDGE = 0.999
# Seconds from one request to the next: below, one at a time is slow enough. An origin that counts
# requests by the second refuses within microseconds, and no window is small enough for it.
cdef double SHORTEST_PACE = 1e-3
# And above, a server that was away for a while would be read slowly for long after it is back.
cdef double LONGEST_PACE = 1.0
# What is left of the pace after an answer: it finds a rate within some ten requests, and then one
# of about as many is refused.
cdef double PACE_AFTER_ANSWER = 0.875
# A longer one is more often of a server that was away than of its rate, and is halved.
cdef double LONG_PACE = 0.1
# Seconds without a refusal after which it is forgotten.
cdef double PACE_SECONDS = 10.0
# Seconds without a failure until hedges are sent again.
cdef double CALM_SECONDS = 1.0

cdef enum:
    FEWEST_ANSWERS = 20
    ANSWERS_BETWEEN_LOOKS = 16
    # With more refusals, and no answer in between, there is no rate to be found: it is away.
    MOST_IN_A_ROW = 8
    # Hedges at once, however much was asked before.
    MOST_CREDIT = 16


cdef void governor_start(Governor* governor) noexcept nogil:
    memset(governor, 0, sizeof(Governor))


cdef void governor_answered(Governor* governor, double first_byte, int most) noexcept nogil:
    # It bore the request; `most` is what is asked of it at once at most. A first byte before 0 is
    # one that says nothing of how long others take.
    governor.refused = 0
    governor.answers += 1
    if first_byte >= 0:
        latency_note(&governor.latency, first_byte)
        governor.unseen += 1
    if governor.latency.total >= FEWEST_ANSWERS and (
            governor.late == 0 or governor.unseen >= ANSWERS_BETWEEN_LOOKS):
        governor.unseen = 0
        governor.late = LATE_TIMES * latency_quantile(&governor.latency, LATE_QUANTILE)
    if governor.pace > 0:
        governor.pace *= 0.5 if governor.pace > LONG_PACE else PACE_AFTER_ANSWER
        if governor.pace < SHORTEST_PACE:
            governor.pace = 0
    elif governor.window > 0:
        governor.window += 1.0 / governor.window
        if governor.window >= most:
            governor.window = 0


cdef void governor_bore(Governor* governor, int in_flight) noexcept nogil:
    # It answered one beyond the window, with so many out: the others may hang, and are no measure.
    if governor.window > 0:
        governor.window = max(governor.window, <double>in_flight)


cdef void governor_throttled(
    Governor* governor, double begun, int in_flight, double pause, double longest, double now
) noexcept nogil:
    # A request that was begun then met a limit; `in_flight` counts it, `pause` is what the origin
    # asks for, in seconds, and no pace is slower than `longest`.
    cdef double slower
    governor.refused += 1
    if governor.refused > 1:
        # One alone may be about its own object.
        governor.wished_until = max(governor.wished_until, now + pause)
        governor.paused_until = max(governor.paused_until, governor.wished_until)
    governor_failed(governor, now)
    if begun <= governor.cut_at:
        # It went out with those that met the limit first.
        return
    governor.cut_at = now
    if governor.window == 1 and governor.refused <= MOST_IN_A_ROW:
        slower = max(2 * governor.pace, max(now - begun, SHORTEST_PACE))
        governor.pace = max(governor.pace, min(min(longest, LONGEST_PACE), slower))
    if governor.window > 0:
        in_flight = min(in_flight, <int>governor.window)
    governor.window = max(1.0, in_flight / 2.0)


cdef void governor_failed(Governor* governor, double now) noexcept nogil:
    governor.troubled_until = now + CALM_SECONDS


cdef int governor_room(const Governor* governor, int in_flight, double now) noexcept nogil:
    # How many more requests may go out now.
    if now < governor.paused_until:
        return 0
    return max(0, <int>governor.window - in_flight) if governor.window > 0 else INT_MAX


cdef bint governor_asked(Governor* governor, double budget, double now) noexcept nogil:
    # A request went out: `budget` is the share of them that may be hedged. Whether the next has to
    # wait for the pace.
    governor.credit = min(governor.credit + budget, <double>MOST_CREDIT)
    if governor.pace > 0 and now - governor.cut_at > PACE_SECONDS:
        governor.pace = 0
    if governor.pace > 0:
        governor.paused_until = max(governor.paused_until, now + governor.pace)
    return governor.pace > 0


cdef double governor_hedge_due(
    const Governor* governor, double begun, double floor
) noexcept nogil:
    # When a request that was begun then may be hedged, 0 where it is not known that it may.
    if governor.late == 0 or governor.credit < ONE_HEDGE or governor.window > 0:
        return 0
    return max(
        begun + max(floor, governor.late), max(governor.troubled_until, governor.paused_until)
    )


cdef bint governor_hedge(Governor* governor) noexcept nogil:
    # Takes one hedge out of the budget.
    if governor.credit < ONE_HEDGE:
        return False
    governor.credit -= 1
    return True


cdef void governor_give_back(Governor* governor) noexcept nogil:
    # A hedge was not sent after all.
    governor.credit += 1


cdef class GovernorOf:
    """The governor of an origin, for tests.

    Parameters
    ----------
    most : int
        Requests that are asked of the origin at once at most.
    """

    cdef Governor governor
    cdef int most

    def __cinit__(self, int most=64):
        governor_start(&self.governor)
        self.most = most

    def answered(self, double first_byte=0.001):
        """Count an answer whose first byte took so many seconds."""
        governor_answered(&self.governor, first_byte, self.most)

    def throttled(self, double begun, int in_flight, double pause, double now, double longest=20):
        """Count a request that met a limit."""
        governor_throttled(&self.governor, begun, in_flight, pause, longest, now)

    def failed(self, double now):
        """Count a failure."""
        governor_failed(&self.governor, now)

    def asked(self, double budget=0.05, double now=0):
        """Count a request that went out; whether the next one has to wait."""
        return governor_asked(&self.governor, budget, now)

    def hedge(self):
        """Take a hedge out of the budget, False where there is none."""
        return governor_hedge(&self.governor)

    def room(self, int in_flight, double now):
        """How many more requests may go out."""
        return governor_room(&self.governor, in_flight, now)

    def give_back(self):
        """Put a hedge back into the budget."""
        governor_give_back(&self.governor)

    def hedges_at(self, double begun, double floor):
        """When a request that was begun then may be hedged, 0.0 where none may."""
        return governor_hedge_due(&self.governor, begun, floor)
