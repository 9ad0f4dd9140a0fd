"""What a response head means for the read that asked for it (RFC 9110, sections 13 to 15).

Pure and total: every head gets one verdict. No byte of a body may reach a destination before
its head was judged here.
"""

from libc.string cimport memset

from zfast._core.http1 cimport HEAD, Parser, http1_feed, http1_start
from zfast._core.response_head cimport ResponseHead
from zfast._core.types cimport (
    METHOD_DELETE,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_MKCOL,
    METHOD_PUT,
    RANGE_BOUNDED,
    RANGE_EMPTY,
    RANGE_OFFSET,
    RANGE_SUFFIX,
    RANGE_WHOLE,
    STATUS_BAD_STATUS,
    STATUS_ENCODED,
    STATUS_OK,
    STATUS_PROTOCOL,
    STATUS_RANGE_MISMATCH,
    STATUS_RANGE_UNSUPPORTED,
    ByteRange,
    Method,
    Status,
)


cdef inline Verdict _verdict(Meaning meaning) noexcept nogil:
    cdef Verdict verdict
    verdict.meaning = meaning
    verdict.code = STATUS_OK
    verdict.skip = 0
    verdict.take = 0
    verdict.tail = False
    verdict.from_start = False
    verdict.range_ignored = False
    verdict.object_size = -1
    return verdict


cdef inline Verdict _failure(Status code) noexcept nogil:
    cdef Verdict verdict = _verdict(MEANS_FAILURE)
    verdict.code = code
    return verdict


cdef inline Verdict _content(long long skip, long long take, long long object_size) noexcept nogil:
    cdef Verdict verdict = _verdict(MEANS_CONTENT)
    verdict.skip = skip
    verdict.take = take
    verdict.object_size = object_size
    return verdict


cdef Verdict _judge_whole(
    const ResponseHead* head, const ByteRange* wanted, long long delivered
) noexcept nogil:
    # 200: the whole object, whatever was asked. A resumed read that gets one was told by If-Range
    # that the object changed, so it begins again.
    cdef long long size = head.content_length
    cdef Verdict verdict
    if head.content_range_valid and head.range_start >= 0 and (
        head.range_start > 0
        or head.range_end != (head.range_total if head.range_total >= 0 else size)
    ):
        # By its status the whole, by its field a part (RFC 9110, 14.4): it may be either.
        return _failure(STATUS_RANGE_MISMATCH)
    if wanted.kind == RANGE_WHOLE:
        verdict = _content(0, size, size)
    elif wanted.kind == RANGE_EMPTY or (size >= 0 and wanted.kind != RANGE_SUFFIX
                                        and wanted.start >= size):
        verdict = _verdict(MEANS_EMPTY)
        verdict.object_size = size
    elif wanted.kind == RANGE_BOUNDED:
        verdict = _content(wanted.start, wanted.end - wanted.start, size)
        if size < 0:
            verdict.take = -1
        elif wanted.end > size:
            verdict.take = size - wanted.start
    elif wanted.kind == RANGE_OFFSET:
        verdict = _content(wanted.start, size - wanted.start if size >= 0 else -1, size)
    elif size < 0:
        verdict = _content(0, -1, -1)
        verdict.tail = True
    else:
        verdict = _content(max(size - wanted.start, 0), min(size, wanted.start), size)
    verdict.from_start = delivered > 0
    # A server may answer 200 where the range covers all there is; that says nothing about ranges.
    verdict.range_ignored = (
        wanted.kind != RANGE_WHOLE and (size < 0 or verdict.skip + verdict.take < size
                                        or verdict.skip > 0)
    )
    return verdict


cdef Verdict _judge_part(
    const ResponseHead* head, const ByteRange* wanted, long long delivered, long long known_size
) noexcept nogil:
    cdef long long first = head.range_start
    cdef long long past = head.range_end
    cdef long long total = head.range_total
    cdef long long should_begin = delivered
    cdef long long should_end
    cdef Verdict verdict
    if wanted.kind == RANGE_WHOLE and delivered == 0:
        return _failure(STATUS_RANGE_MISMATCH)
    if wanted.kind == RANGE_SUFFIX and delivered == 0 and (
            head.content_length == 0 and head.content_range_valid and past == total == 0):
        return _verdict(MEANS_EMPTY)
    if head.multipart or not head.has_content_range or not head.content_range_valid:
        return _failure(STATUS_RANGE_MISMATCH)
    if first < 0 or past <= first or (total >= 0 and past > total):
        return _failure(STATUS_RANGE_MISMATCH)
    if head.content_length >= 0 and head.content_length != past - first:
        return _failure(STATUS_PROTOCOL)
    if delivered > 0 and known_size >= 0:
        if total >= 0 and total != known_size:
            return _verdict(MEANS_RESTART)
        total = known_size
    should_end = total
    if wanted.kind == RANGE_EMPTY:
        verdict = _verdict(MEANS_EMPTY)
        verdict.object_size = total
        return verdict
    if wanted.kind == RANGE_BOUNDED:
        should_begin = wanted.start + delivered
        should_end = wanted.end if total < 0 or wanted.end < total else total
    elif wanted.kind == RANGE_OFFSET:
        should_begin = wanted.start + delivered
    elif wanted.kind == RANGE_SUFFIX:
        if total < 0:
            return _failure(STATUS_RANGE_MISMATCH)
        should_begin = max(total - wanted.start, 0) + delivered
    # The end of an open range is the end of the object: a total of "*" cannot confirm it.
    if first != should_begin or past != should_end:
        return _failure(STATUS_RANGE_MISMATCH)
    return _content(0, past - first, total)


cdef Verdict _judge_unsatisfiable(
    const ResponseHead* head, const ByteRange* wanted, long long delivered
) noexcept nogil:
    cdef long long total = -1
    cdef Verdict verdict = _verdict(MEANS_EMPTY)
    if delivered > 0:
        return _verdict(MEANS_RESTART)
    if head.content_range_valid:
        total = head.range_total
    verdict.object_size = total
    if wanted.kind == RANGE_EMPTY or total == 0:
        return verdict
    if wanted.kind == RANGE_WHOLE:
        return _failure(STATUS_BAD_STATUS)
    if wanted.kind == RANGE_SUFFIX or (total < 0 and wanted.start == 0):
        # There is something of every object that is not empty, and nothing says that it is.
        verdict = _failure(STATUS_RANGE_UNSUPPORTED)
        verdict.object_size = total
        return verdict
    return verdict if total < 0 or wanted.start >= total else _failure(STATUS_RANGE_MISMATCH)


cdef inline bint _may_miss(Method method, int status) noexcept nogil:
    # A PUT writes, or has failed; and what is refused to a DELETE, which a reader may take for
    # missing, is still there.
    return method in (METHOD_GET, METHOD_HEAD) or method == METHOD_DELETE and status in (404, 410)


cdef inline bint _redirects(int status) noexcept nogil:
    return status in (301, 302, 303, 307, 308)


cdef Verdict judge(
    const ResponseHead* head,
    Method method,
    const ByteRange* wanted,
    long long delivered,
    long long known_size,
    const StatusPolicy* policy,
) noexcept nogil:
    # `delivered` counts the bytes that former attempts of this read put into its destination, and
    # `known_size` is the object's size as they learned it (-1 unknown).
    cdef int status = head.status
    cdef bint reads = method == METHOD_GET
    if 0 <= status < STATUS_LIMIT:
        if policy.flags[status] & POLICY_MISSING and _may_miss(method, status):
            return _verdict(MEANS_MISSING)
        if policy.flags[status] & POLICY_RETRY:
            return _verdict(MEANS_RETRY)
    if reads and (status == 200 or status == 206):
        if head.encoded:
            return _failure(STATUS_ENCODED)
        if status == 200:
            return _judge_whole(head, wanted, delivered)
        return _judge_part(head, wanted, delivered, known_size)
    if reads and status == 416:
        return _judge_unsatisfiable(head, wanted, delivered)
    if status == 412:
        return _verdict(MEANS_RESTART if delivered > 0 else MEANS_PRECONDITION)
    if _redirects(status) and head.location.offset:
        # 301 to 303 turn a PUT into a GET (RFC 9110, 15.4): following them would write nothing.
        if method in (METHOD_GET, METHOD_HEAD) or status in (307, 308):
            return _verdict(MEANS_REDIRECT)
    if method == METHOD_HEAD and status == 200:
        return _content(0, 0, head.content_length)
    if method in (METHOD_PUT, METHOD_DELETE) and status in (200, 201, 202, 204):
        return _verdict(MEANS_DONE)
    if method == METHOD_MKCOL and status in (201, 405):
        # Made, or there already (RFC 4918, section 9.3.1).
        return _verdict(MEANS_DONE)
    return _failure(STATUS_BAD_STATUS)


def judge_response(bytes raw_head, int method=METHOD_GET, byte_range=(0, 0, 0), *,
                   long long delivered=0, long long known_size=-1, missing=(), retry=()):
    """Judge a whole response head, for tests.

    Parameters
    ----------
    raw_head : bytes
        Status line, fields and the empty line.
    method : Method
        Of the request.
    byte_range : tuple of (RangeKind, int, int)
        Kind, start and end (exclusive) of what was asked for.
    delivered, known_size : int
        What former attempts delivered, and the object's size as they learned it.
    missing, retry : iterable of int
        Statuses that the policies name.

    Returns
    -------
    dict
        The verdict; its meaning by name.

    Raises
    ------
    ValueError
        If the head is not a whole, valid one.
    """
    cdef Parser parser
    cdef StatusPolicy policy
    cdef ByteRange wanted
    cdef Verdict verdict
    cdef size_t used
    cdef bytearray memory = bytearray(len(raw_head) + 64)
    memset(&policy, 0, sizeof(policy))
    if not all(0 <= status < STATUS_LIMIT for status in (*missing, *retry)):
        raise ValueError("no HTTP status")
    for status in missing:
        policy.flags[status] |= POLICY_MISSING
    for status in retry:
        policy.flags[status] |= POLICY_RETRY
    wanted.kind, wanted.start, wanted.end = byte_range
    http1_start(&parser, memory, len(memory), method == METHOD_HEAD)
    if http1_feed(&parser, raw_head, len(raw_head), &used) != HEAD:
        raise ValueError("not a whole, valid response head")
    verdict = judge(&parser.head, <Method>method, &wanted, delivered, known_size, &policy)
    names = {
        MEANS_CONTENT: "content", MEANS_DONE: "done", MEANS_EMPTY: "empty",
        MEANS_MISSING: "missing", MEANS_PRECONDITION: "precondition", MEANS_RESTART: "restart",
        MEANS_RETRY: "retry", MEANS_REDIRECT: "redirect", MEANS_FAILURE: "failure",
    }
    return {
        "meaning": names[verdict.meaning],
        "code": verdict.code,
        "skip": verdict.skip,
        "take": verdict.take,
        "tail": verdict.tail,
        "from_start": verdict.from_start,
        "range_ignored": verdict.range_ignored,
        "object_size": verdict.object_size,
    }
