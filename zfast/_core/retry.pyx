"""When to try again: urllib3's `Retry` as plain numbers, so that a retry needs no Python.

Pure: the caller brings the clock and the dice. The arithmetic is that of
https://urllib3.readthedocs.io/en/stable/reference/urllib3.util.html#urllib3.util.Retry
"""

from libc.string cimport memcmp

from zfast._core.octets cimport is_digit


cdef inline bint _spent(int limit, int used) noexcept nogil:
    return limit >= 0 and used > limit


cdef double retry_delay(
    const RetryPolicy* policy,
    RetryCounts* counts,
    Mishap mishap,
    double retry_after,
    double dice,
) noexcept nogil:
    # Counts the mishap; the seconds to wait before the next attempt, or -1 when there is none.
    # `retry_after` is what the server asked for (-1 nothing), `dice` is uniform in [0, 1).
    cdef double delay = 0.0
    cdef int exponent
    cdef bint told = retry_after > 0 and policy.respect_retry_after
    if mishap == MISHAP_LIMITED and counts.limited < policy.limited and not told:
        # No failure: its turn comes, once the governor has found what the origin bears.
        counts.limited += 1
        delay = counts.limited * dice * policy.backoff_jitter
        return max(0.0, min(delay, policy.backoff_max))
    counts.total += 1
    if mishap == MISHAP_CONNECT:
        counts.connect += 1
    elif mishap == MISHAP_READ:
        counts.read += 1
    elif mishap in (MISHAP_STATUS, MISHAP_LIMITED):
        counts.status += 1
    else:
        counts.other += 1
    if (_spent(policy.total, counts.total) or _spent(policy.connect, counts.connect)
            or _spent(policy.read, counts.read) or _spent(policy.status, counts.status)
            or _spent(policy.other, counts.other)):
        return -1.0
    # As in urllib3, a Retry-After of 0, or a date that has passed, asks for the usual wait.
    if told:
        return min(retry_after, policy.retry_after_max)
    if counts.total > 1:
        exponent = min(counts.total - 1, 62)
        delay = policy.backoff_factor * <double>(1ULL << exponent)
    # The first retry is immediate in urllib3; jitter alone keeps many readers from retrying as one.
    delay += dice * policy.backoff_jitter
    return max(0.0, min(delay, policy.backoff_max))


cdef enum:
    IMF_FIXDATE_SIZE = 29
    ASCTIME_SIZE = 24
    RFC850_SIZE = 22        # behind the day of the week


cdef inline int _two_digits(const char* text) noexcept nogil:
    if not (c'0' <= text[0] <= c'9' and c'0' <= text[1] <= c'9'):
        return -1
    return (text[0] - c'0') * 10 + text[1] - c'0'


cdef double _since_1970(
    const char* month_name, int day, int year, const char* clock
) noexcept nogil:
    # -1 unless all of it is there; `clock` is hour:minute:second.
    cdef const char* names = "JanFebMarAprMayJunJulAugSepOctNovDec"
    cdef int month = -1
    cdef int hour = _two_digits(clock)
    cdef int minute = _two_digits(clock + 3)
    cdef int second = _two_digits(clock + 6)
    cdef int index
    cdef long long days
    for index in range(12):
        if not memcmp(month_name, names + 3 * index, 3):
            month = index + 1
    if month < 0 or year < 0 or not (
            1 <= day <= 31 and 0 <= hour < 24 and 0 <= minute < 60 and 0 <= second <= 60
            and clock[2] == c':' and clock[5] == c':'):
        return -1.0
    # Days since the epoch of a proleptic Gregorian date, the year taken to begin in March.
    if month <= 2:
        year -= 1
        month += 12
    days = 365LL * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5
    days += day - 1 - 719468
    return <double>(days * 86400 + hour * 3600 + minute * 60 + second)


cdef int _four_digits(const char* text) noexcept nogil:
    cdef int century = _two_digits(text)
    cdef int year = _two_digits(text + 2)
    return -1 if century < 0 or year < 0 else 100 * century + year


cdef double http_date(const char* text, size_t size) noexcept nogil:
    # Seconds since 1970 of an HTTP-date (RFC 9110, 5.6.7), in its form of today or one of the two
    # obsolete ones; -1 if it is none.
    cdef const char* date
    cdef int day, year
    if size == ASCTIME_SIZE:
        # Sun Nov  6 08:49:37 1994
        if text[3] != c' ' or text[7] != c' ' or text[10] != c' ' or text[19] != c' ':
            return -1.0
        day = text[9] - c'0' if text[8] == c' ' and is_digit(text[9]) else _two_digits(text + 8)
        return _since_1970(text + 4, day, _four_digits(text + 20), text + 11)
    if size < IMF_FIXDATE_SIZE or memcmp(text + size - 4, <const char*>" GMT", 4):
        return -1.0
    if size == IMF_FIXDATE_SIZE:
        # Sun, 06 Nov 1994 08:49:37 GMT
        if memcmp(text + 3, <const char*>", ", 2) or (
                text[7] != c' ' or text[11] != c' ' or text[16] != c' '):
            return -1.0
        return _since_1970(text + 8, _two_digits(text + 5), _four_digits(text + 12), text + 17)
    # Sunday, 06-Nov-94 08:49:37 GMT
    date = text + size - RFC850_SIZE
    if memcmp(date - 2, <const char*>", ", 2) or (
            date[2] != c'-' or date[6] != c'-' or date[9] != c' '):
        return -1.0
    year = _two_digits(date + 7)
    if year >= 0:
        year += 1900 if year > 68 else 2000
    return _since_1970(date + 3, _two_digits(date), year, date + 10)


_UNLIMITED = {
    "limited": 0,
    **dict.fromkeys(("total", "connect", "read", "status", "other", "redirects"), -1),
    "backoff_factor": 0.0,
    "backoff_max": 120.0,
    "backoff_jitter": 0.0,
    "retry_after_max": 21600.0,
    "respect_retry_after": True,
    "methods": 0,
}


def delays(dict policy, list mishaps, double dice=0.0):
    """The waits before each retry after the given mishaps, for tests against urllib3's own `Retry`.

    Parameters
    ----------
    policy : dict
        Fields of the policy; those not given are unlimited or off.
    mishaps : list of (str, float)
        Kind ("connect", "read", "status", "limited", "other") and the server's Retry-After in
        seconds (-1 none).

    Returns
    -------
    list of float
        Seconds, -1 where no attempt is left.
    """
    cdef RetryPolicy numbers = _UNLIMITED | policy
    cdef RetryCounts counts
    cdef Mishap mishap
    counts.limited = counts.total = counts.connect = counts.read = counts.status = 0
    counts.other = counts.redirects = 0
    kinds = {"connect": MISHAP_CONNECT, "read": MISHAP_READ, "status": MISHAP_STATUS,
             "limited": MISHAP_LIMITED, "other": MISHAP_OTHER}
    waits = []
    for kind, retry_after in mishaps:
        mishap = kinds[kind]
        waits.append(retry_delay(&numbers, &counts, mishap, retry_after, dice))
    return waits


def parse_http_date(bytes text):
    """Seconds since 1970 of an HTTP-date (RFC 9110, section 5.6.7), -1.0 if it is none."""
    return http_date(text, len(text))
