# Plain values that the whole core shares. Nothing here owns memory or does anything.


cdef enum Status:
    STATUS_OK
    STATUS_MISSING
    STATUS_CANCELLED
    STATUS_DEADLINE
    STATUS_CLOSED
    STATUS_CONNECT_FAILED
    STATUS_CONNECT_TIMEOUT
    STATUS_TLS_FAILED
    STATUS_TUNNEL_REFUSED
    STATUS_RESET
    STATUS_TRUNCATED
    STATUS_FIRST_BYTE_TIMEOUT
    STATUS_READ_TIMEOUT
    STATUS_PROTOCOL
    STATUS_HEAD_TOO_LARGE
    STATUS_BAD_STATUS
    STATUS_RANGE_MISMATCH
    STATUS_RANGE_UNSUPPORTED
    STATUS_ENCODED
    STATUS_OVERLONG
    STATUS_BUFFER_TOO_SMALL
    STATUS_CHANGED
    STATUS_REDIRECT
    STATUS_NO_MEMORY
    STATUS_CORRUPT


cdef enum Method:
    METHOD_GET
    METHOD_HEAD
    METHOD_PUT
    METHOD_DELETE
    METHOD_MKCOL


# The kinds of byte range.
cdef enum RangeKind:
    RANGE_WHOLE = 0
    RANGE_BOUNDED = 1       # [start, end), end exclusive
    RANGE_OFFSET = 2        # from start to the end of the object
    RANGE_SUFFIX = 3        # the last `start` bytes
    RANGE_EMPTY = 4         # no byte at all: only whether the object exists


cdef struct ByteRange:
    RangeKind kind
    long long start
    long long end
