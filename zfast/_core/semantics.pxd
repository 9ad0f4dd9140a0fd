# What a response head means for the read that asked for it (RFC 9110). Pure: no bytes, no sockets.

from zfast._core.response_head cimport ResponseHead
from zfast._core.types cimport ByteRange, Method, Status

cdef enum Meaning:
    MEANS_CONTENT           # `take` wanted bytes come after `skip` others
    MEANS_DONE              # the request succeeded and has nothing to deliver
    MEANS_EMPTY             # the object exists and holds no byte of the range
    MEANS_MISSING           # a status that the missing-key policy names
    MEANS_PRECONDITION      # 412: the condition of this request does not hold
    MEANS_RESTART           # a resumed read found another object: begin again
    MEANS_RETRY             # a status that the retry policy names
    MEANS_REDIRECT
    MEANS_FAILURE

cdef enum:
    POLICY_MISSING = 1      # flags in a StatusPolicy
    POLICY_RETRY = 2
    STATUS_LIMIT = 1000

cdef struct StatusPolicy:
    unsigned char flags[1000]

cdef struct Verdict:
    Meaning meaning
    Status code             # for MEANS_FAILURE
    long long skip          # body bytes before the first wanted one
    long long take          # wanted body bytes, -1 until the end of the body
    bint tail               # the last `range.start` bytes of a body of unknown length
    bint from_start         # what a former attempt delivered is to be thrown away
    bint range_ignored      # a range was asked for and the whole object came
    long long object_size   # -1 unknown

cdef Verdict judge(
    const ResponseHead* head,
    Method method,
    const ByteRange* wanted,
    long long delivered,
    long long known_size,
    const StatusPolicy* policy,
) noexcept nogil
