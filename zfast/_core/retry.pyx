"""When to try again: urllib3's `Retry` as plain numbers, so that a retry needs no Python.

Pure: the caller brings the clock and the dice. The arithmetic is that of
https://urllib3.readthedocs.io/en/stable/reference/urllib3.util.html#urllib3.util.Retry
"""

from libc.string cimport memcmp


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
    counts.total += 1
    if mishap == MISHAP_CONNECT:
        counts.connect += 1
    elif mishap == MISHAP_READ:
        counts.read += 1
    elif mishap == MISHAP_STATUS:
        counts.status += 1
    else:
        counts.other += 1
    if (_spent(policy.total, counts.total) or _spent(policy.connect, counts.connect)
            or _spent(policy.read, counts.read) or _spent(policy.status, counts.status)
            or _spent(policy.other, counts.other)):
        return -1.0
    # As in urllib3, a Retry-After of 0, or a date that has passed, asks for the usual wait.
    if retry_after > 0 and policy.respect_retry_after:
        return min(retry_after, policy.retry_after_max)
    if counts.total > 1:
        exponent = min(counts.total - 1, 62)
        delay = policy.backoff_factor * <double>(1ULL << exponent)
    # The first retry is immediate in urllib3; jitter alone keeps many readers from retrying as one.
    delay += dice * policy.backoff_jitter
    return max(0.0, min(delay, policy.backoff_max))


cdef inline int _two_digits(const char* text) noexcept nogil:
    if not (c'0' <= text[0] <= c'9' and c'0' <= text[1] <= c'9'):
        return -1
    return (text[0] - c'0') * 10 + text[1] - c'0'


cdef double http_date(const char* text, size_t size) noexcept nogil:
    # Seconds since 1970 of an IMF-fixdate (RFC 9110, 5.6.7), -1 if it is none. The two obsolete
    # forms are not worth their code: without a date the ordinary backoff applies.
    cdef const char* names = "JanFebMarAprMayJunJulAugSepOctNovDec"
    cdef int day, month, century, year, hour, minute, second, index
    cdef long long days
    if size != 29 or memcmp(text + 25, <const char*>" GMT", 4):
        return -1.0
    month = -1
    for index in range(12):
        if not memcmp(text + 8, names + 3 * index, 3):
            month = index + 1
    day = _two_digits(text + 5)
    century = _two_digits(text + 12)
    year = _two_digits(text + 14)
    hour = _two_digits(text + 17)
    minute = _two_digits(text + 20)
    second = _two_digits(text + 23)
    if month < 0 or day < 1 or century < 0 or year < 0 or hour < 0 or minute < 0 or second < 0:
        return -1.0
    year += 100 * century
    # Days since the epoch of a proleptic Gregorian date, the year taken to begin in March.
    if month <= 2:
        year -= 1
        month += 12
    days = 365LL * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5
    days += day - 1 - 719468
    return <double>(days * 86400 + hour * 3600 + minute * 60 + second)


def delays(dict policy, list mishaps, double dice=0.0):
    """The waits before each retry after the given mishaps, for tests against urllib3's own `Retry`.

    Parameters
    ----------
    policy : dict
        Fields of the policy; those not given are unlimited or off.
    mishaps : list of (str, float)
        Kind ("connect", "read", "status", "other") and the server's Retry-After in seconds
        (-1 none).

    Returns
    -------
    list of float
        Seconds, -1 where no attempt is left.
    """
    cdef RetryPolicy numbers
    cdef RetryCounts counts
    cdef Mishap mishap
    numbers.total = policy.get("total", -1)
    numbers.connect = policy.get("connect", -1)
    numbers.read = policy.get("read", -1)
    numbers.status = policy.get("status", -1)
    numbers.other = policy.get("other", -1)
    numbers.redirects = policy.get("redirects", -1)
    numbers.backoff_factor = policy.get("backoff_factor", 0.0)
    numbers.backoff_max = policy.get("backoff_max", 120.0)
    numbers.backoff_jitter = policy.get("backoff_jitter", 0.0)
    numbers.retry_after_max = policy.get("retry_after_max", 21600.0)
    numbers.respect_retry_after = policy.get("respect_retry_after", True)
    numbers.methods = 0
    counts.total = counts.connect = counts.read = counts.status = counts.other = 0
    counts.redirects = 0
    kinds = {"connect": MISHAP_CONNECT, "read": MISHAP_READ, "status": MISHAP_STATUS,
             "other": MISHAP_OTHER}
    waits = []
    for kind, retry_after in mishaps:
        mishap = kinds[kind]
        waits.append(retry_delay(&numbers, &counts, mishap, retry_after, dice))
    return waits


def parse_http_date(bytes text):
    """Seconds since 1970 of an IMF-fixdate (RFC 9110, section 5.6.7), -1.0 if it is none."""
    return http_date(text, len(text))
