# When to try again: urllib3's Retry as plain numbers. Pure: the caller brings clock and dice.

cdef enum Mishap:
    MISHAP_CONNECT
    MISHAP_READ
    MISHAP_STATUS
    MISHAP_LIMITED              # a status that asks for less, while others are served
    MISHAP_OTHER

cdef struct RetryPolicy:
    # Counts as in urllib3.Retry; -1 is its None: only `total` bounds that kind.
    int limited                 # retries that are not counted, each of a MISHAP_LIMITED
    int total
    int connect
    int read
    int status
    int other
    int redirects
    double backoff_factor
    double backoff_max
    double backoff_jitter
    double retry_after_max
    bint respect_retry_after
    unsigned int methods        # bit (1 << Method): may be sent again

cdef struct RetryCounts:
    int limited
    int total
    int connect
    int read
    int status
    int other
    int redirects

cdef double retry_delay(
    const RetryPolicy* policy,
    RetryCounts* counts,
    Mishap mishap,
    double retry_after,
    double dice,
) noexcept nogil

cdef double http_date(const char* text, size_t size) noexcept nogil
