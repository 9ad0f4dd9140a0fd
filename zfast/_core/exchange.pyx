"""One HTTP exchange: what its response brings, verified, into the memory of the read.

Never blocks, receives nothing but the one octet that may not be there, and never decides what comes
next: it ends in a conclusion, and the engine acts on it. Body bytes go to the read's memory only
after `semantics.judge` accepted the head, only as many as were asked for, and count as delivered
only then.
"""

from libc.errno cimport ECONNRESET
from libc.string cimport memcpy, memmove
from libcpp.string cimport string, to_string

from zfast._core.buffers cimport slab_grown, slab_release
from zfast._core.http1 cimport BODY, END, HEAD, NEED_DATA, Event, http1_feed
from zfast._core.octets cimport is_strong_tag
from zfast._core.request cimport (
    request_forget_memory,
    request_grow,
    request_make_room,
    request_shrink,
    request_undivide,
)
from zfast._core.response_head cimport (
    CONTENT_LENGTH,
    EOF_BEFORE_HEAD,
    EOF_IN_BODY,
    EOF_IN_HEAD,
    HEAD_TOO_LARGE,
    TOO_MANY_FIELDS,
    TOO_MANY_INTERIM,
    UNTIL_EOF,
    ResponseHead,
    Span,
)
from zfast._core.retry cimport http_date
from zfast._core.semantics cimport (
    MEANS_CONTENT,
    MEANS_DONE,
    MEANS_EMPTY,
    MEANS_FAILURE,
    MEANS_MISSING,
    MEANS_PRECONDITION,
    MEANS_REDIRECT,
    MEANS_RESTART,
    MEANS_RETRY,
    Meaning,
    judge,
)
from zfast._core.sink cimport sink_start, sink_write
from zfast._core.types cimport (
    METHOD_GET,
    METHOD_HEAD,
    RANGE_BOUNDED,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_CHANGED,
    STATUS_CORRUPT,
    STATUS_HEAD_TOO_LARGE,
    STATUS_NO_MEMORY,
    STATUS_OK,
    STATUS_OVERLONG,
    STATUS_PROTOCOL,
    STATUS_RANGE_MISMATCH,
    STATUS_RANGE_UNSUPPORTED,
    STATUS_RESET,
    STATUS_TRUNCATED,
    ByteRange,
)

cdef enum:
    # An unwanted body (an error page) that is longer costs more than a new connection.
    DRAIN_LIMIT = 64 << 10
    # Of a body of unknown length whose end is wanted.
    FIRST_TAIL = 64 << 10
    # A longer entity tag is taken for none: each is kept as long as its read, or a shard's index.
    MAX_TAG = 1 << 10


cdef bint exchange_conclude(Exchange* exchange, Conclusion conclusion, Status code) noexcept nogil:
    slab_release(exchange.tail)
    exchange.tail = NULL
    exchange.conclusion = conclusion
    exchange.code = code
    return True


cdef bint exchange_break(Exchange* exchange, Status code) noexcept nogil:
    exchange.reusable = False
    return exchange_conclude(exchange, CONCLUDED_BROKEN, code)


cdef bint exchange_fail(Exchange* exchange, Status code) noexcept nogil:
    exchange.reusable = False
    return exchange_conclude(exchange, CONCLUDED_FAILURE, code)


cdef bint exchange_malformed(Exchange* exchange) noexcept nogil:
    cdef int error = exchange.parser.error
    if error == EOF_BEFORE_HEAD or error == EOF_IN_HEAD:
        exchange.request.error = ECONNRESET
        return exchange_break(exchange, STATUS_RESET)
    if error == EOF_IN_BODY:
        if exchange.phase == PHASE_DRAIN:
            return exchange_conclude_as_judged(exchange)
        return exchange_break(exchange, STATUS_TRUNCATED)
    if error in (HEAD_TOO_LARGE, TOO_MANY_FIELDS, TOO_MANY_INTERIM):
        return exchange_fail(exchange, STATUS_HEAD_TOO_LARGE)
    return exchange_fail(exchange, STATUS_PROTOCOL)


cdef bint exchange_conclude_as_judged(Exchange* exchange) noexcept nogil:
    cdef Meaning meaning = exchange.verdict.meaning
    if meaning == MEANS_MISSING:
        return exchange_conclude(exchange, CONCLUDED_MISSING, STATUS_OK)
    if meaning == MEANS_PRECONDITION:
        return exchange_conclude(exchange, CONCLUDED_PRECONDITION, STATUS_CHANGED)
    if meaning == MEANS_RESTART:
        return exchange_conclude(exchange, CONCLUDED_RESTART, STATUS_CHANGED)
    if meaning == MEANS_RETRY:
        return exchange_conclude(exchange, CONCLUDED_STATUS, STATUS_OK)
    if meaning == MEANS_REDIRECT:
        return exchange_conclude(exchange, CONCLUDED_REDIRECT, STATUS_OK)
    if meaning == MEANS_FAILURE:
        return exchange_conclude(exchange, CONCLUDED_FAILURE, exchange.verdict.code)
    if meaning == MEANS_DONE and (
            exchange.sent < exchange_to_send(exchange) or exchange.content_held.load()):
        # It cannot have written what it does not have.
        exchange.request.detail = string(b"the server answered before it had all of the content")
        return exchange_fail(exchange, STATUS_PROTOCOL)
    if not _has_expected(exchange.request, exchange.request.delivered):
        return _wrong_size(exchange)
    return exchange_conclude(exchange, CONCLUDED_OK, STATUS_OK)


cdef inline bint _has_expected(const Request* request, size_t size) noexcept nogil:
    return request.expected < 0 or <size_t>request.expected == size


cdef bint _wrong_size(Exchange* exchange) noexcept nogil:
    # A whole object of another size is no such chunk; a part that ends early is of another object.
    cdef long long size = max(exchange.request.expected, exchange.request.required_object_size)
    if exchange.request.by_size and size == 0:
        # The whole was to show that there is nothing: it is the ranges that are refused.
        return exchange_fail(exchange, STATUS_RANGE_UNSUPPORTED)
    if not exchange.request.pinned:
        exchange.request.detail = (
            string(b"the object has not the ") + to_string(size) + string(b" bytes of a chunk")
        )
    return exchange_fail(exchange, STATUS_CHANGED if exchange.request.pinned else STATUS_CORRUPT)


cdef bint _no_room(Exchange* exchange, size_t size) noexcept nogil:
    # In the memory that somebody gave; `size` is what all of it takes, 0 where that is unknown.
    cdef Request* request = exchange.request
    if request.task != NULL:
        return _wrong_size(exchange)
    request.detail = (
        string(b"it has ") + to_string(<unsigned long long>request.capacity) + string(b" bytes")
    )
    if size:
        request.detail += (
            string(b", and ") + to_string(<unsigned long long>size) + string(b" are to be read")
        )
    return exchange_fail(exchange, STATUS_BUFFER_TOO_SMALL)


cdef bint _too_much(Exchange* exchange) noexcept nogil:
    exchange.request.detail = (
        string(b"the body is longer than the ") + to_string(exchange.request.most)
        + string(b" bytes that a chunk could have at most")
    )
    return exchange_fail(exchange, STATUS_CORRUPT)


cdef inline bint _is_too_much(const Request* request, size_t size) noexcept nogil:
    return 0 < request.most < size


# ----------------------------------------------------------------------------------- taking it in


cdef double exchange_date(const Exchange* exchange, Span field) noexcept nogil:
    # Seconds since 1970, -1 where there is no such field, or no date in it.
    if field.offset == 0:
        return -1.0
    return http_date(exchange.head + field.offset, field.size)


cdef bint _is_recent(const Exchange* exchange) noexcept nogil:
    # Whether what is written next may get the same entity tag, since that is of a time in seconds:
    # by the server's own clock, and for all servers (RFC 9110, 8.8.2.2), as no tag says what it is
    # of.
    cdef double modified = exchange_date(exchange, exchange.parser.head.last_modified)
    cdef double now = exchange_date(exchange, exchange.parser.head.date)
    return modified >= 0 and now >= 0 and now - modified < RECENT_SECONDS


cdef bint _remember_object(Exchange* exchange) noexcept nogil:
    # Notes what a continuation needs to know; False when this is another object than before.
    cdef Request* request = exchange.request
    cdef const char* etag = exchange.head + exchange.parser.head.etag.offset
    cdef size_t size = exchange.parser.head.etag.size if exchange.parser.head.etag.offset else 0
    cdef bint strong = size <= MAX_TAG and is_strong_tag(etag, size)
    if size > MAX_TAG:
        size = 0
    if request.pinned and (
        not request.pinned_tag.empty() and string(etag, size) != request.pinned_tag or (
            request.object_size >= 0 and exchange.verdict.object_size >= 0
            and exchange.verdict.object_size != request.object_size
        )
    ):
        exchange.verdict.meaning = MEANS_FAILURE
        exchange.verdict.code = STATUS_CHANGED
        return True
    if request.delivered and not exchange.verdict.from_start:
        # A part without the entity tag may be of any state of the object (RFC 9110, 15.3.7).
        if request.etag != string(etag, size):
            return False
    else:
        request.tag = string(etag, size)
        request.etag = request.tag if strong else string()
        request.object_size = exchange.verdict.object_size
        request.recent = _is_recent(exchange)
    # A body of unknown length, or one that is sliced here, is read from its start again; and so is
    # one that may have been written anew under the same tag.
    request.resumable = (
        not request.etag.empty() and not request.recent
        and exchange.verdict.take > 0 and exchange.verdict.skip == 0
        and (exchange.verdict.object_size >= 0 or request.wanted.kind == RANGE_BOUNDED)
    )
    return True


cdef bint _on_head(Exchange* exchange) noexcept nogil:
    # True when the exchange is concluded.
    cdef Request* request = exchange.request
    cdef Verdict verdict
    verdict = _judged(exchange)
    if verdict.meaning != MEANS_RETRY:
        # From here on the request is this exchange's; one that was refused leaves it to the other.
        request.claimant = exchange
    request.http_status = exchange.parser.head.status
    if verdict.range_ignored and request.lead == NULL and not request.parts.empty() and (
            not request.parts_sent):
        _take_undivided(exchange, &verdict)
    exchange.verdict = verdict
    exchange.phase = PHASE_DRAIN
    if request.keep_head:
        request.head.assign(exchange.head, exchange.parser.size)
    if verdict.meaning == MEANS_REDIRECT:
        request.location.assign(
            exchange.head + exchange.parser.head.location.offset,
            exchange.parser.head.location.size,
        )
    if verdict.meaning == MEANS_EMPTY or verdict.meaning == MEANS_CONTENT:
        if verdict.range_ignored and not verdict.from_start:
            request.range_ignored = True
        if verdict.meaning == MEANS_CONTENT and request.method == METHOD_GET:
            return _on_content_head(exchange)
        if request.asks_size:
            _remember_object(exchange)
        elif request.by_size and request.required_object_size > 0:
            # That there is something was said by the size.
            exchange.verdict.meaning = MEANS_FAILURE
            exchange.verdict.code = STATUS_CHANGED
        request.object_size = verdict.object_size
        request.delivered = 0
        request.opened = False
    elif verdict.code == STATUS_RANGE_UNSUPPORTED:
        # With the size the same bytes can be asked for from the start.
        request.object_size = verdict.object_size
    elif verdict.code == STATUS_RANGE_MISMATCH:
        _tell_range(exchange)
    return _drains_too_much(exchange)


cdef void _tell_range(Exchange* exchange) noexcept nogil:
    cdef const ResponseHead* head = &exchange.parser.head
    if head.content_range_valid and head.range_start >= 0:
        exchange.request.detail = (
            string(b"its Content-Range is bytes ") + to_string(head.range_start) + string(b"-")
            + to_string(head.range_end - 1) + string(b"/")
        )
        exchange.request.detail += (
            to_string(head.range_total) if head.range_total >= 0 else string(b"*")
        )


cdef Verdict _judged(const Exchange* exchange) noexcept nogil:
    cdef const Request* request = exchange.request
    return judge(
        &exchange.parser.head, request.method, &request.wanted, <long long>request.delivered,
        request.object_size, &request.policy.statuses,
    )


cdef void _take_undivided(Exchange* exchange, Verdict* verdict) noexcept nogil:
    # The server sends all that there is: no part has to be asked for.
    cdef Request* request = exchange.request
    request_undivide(request)
    request.undivided = True
    # A former attempt may have begun to divide it.
    request.opened = False
    verdict[0] = _judged(exchange)


cdef bint _open_parts(Exchange* exchange) noexcept nogil:
    # Of a lead: makes room for all of its range, if parts may go out. False when it is concluded.
    cdef Request* request = exchange.request
    cdef size_t size
    # Without its size, an object that goes on behind the range could not be told.
    cdef bint holds = not request.etag.empty() and not request.recent and (
        not exchange.verdict.range_ignored
        and exchange.verdict.take > 0 and request.object_size >= 0)
    if request.parts_sent:
        # Its parts write to the memory that they were given, for the object as it was: what it is
        # now is read when they have ended.
        if holds and request.tag == request.part_tag and (
                request.object_size == request.part_object_size):
            return True
        return not exchange_fail(exchange, STATUS_CHANGED)
    exchange.opens = request.opened = holds
    if not request.opened or request.pieces != NULL:
        return True
    size = <size_t>(min(request.past, request.object_size) - request.wanted.start)
    if request.measured:
        return request_make_room(request, size) or not exchange_fail(exchange, STATUS_NO_MEMORY)
    return size <= request.capacity or not _no_room(exchange, size)


cdef bint _drains_too_much(Exchange* exchange) noexcept nogil:
    cdef long long rest = exchange.parser.remaining
    if exchange.request.method == METHOD_HEAD:
        return False
    if exchange.parser.head.framing == UNTIL_EOF or (
        exchange.parser.head.framing == CONTENT_LENGTH and rest > DRAIN_LIMIT
    ):
        exchange.reusable = False
        return exchange_conclude_as_judged(exchange)
    return False


cdef bint _on_content_head(Exchange* exchange) noexcept nogil:
    cdef Request* request = exchange.request
    cdef Verdict* verdict = &exchange.verdict
    if not _remember_object(exchange):
        verdict.meaning = MEANS_RESTART
        return _drains_too_much(exchange)
    if verdict.meaning == MEANS_FAILURE:
        return _drains_too_much(exchange)
    if request.by_size and request.required_object_size >= 0 and verdict.object_size < 0:
        # Whether it is still that object nothing tells.
        return exchange_fail(exchange, STATUS_RANGE_UNSUPPORTED)
    if not request.parts.empty() and not request.undivided and not _open_parts(exchange):
        return True
    if verdict.from_start:
        request.delivered = 0
    if verdict.take >= 0 and not verdict.tail and not _has_expected(
            request, request.delivered + <size_t>verdict.take):
        return _wrong_size(exchange)
    if verdict.object_size >= 0 and request.required_object_size >= 0 and (
            verdict.object_size != request.required_object_size):
        return _wrong_size(exchange)
    if verdict.take >= 0 and _is_too_much(request, <size_t>verdict.take):
        return _too_much(exchange)
    exchange.phase = PHASE_CONTENT
    exchange.skip = verdict.skip
    exchange.take = exchange.last_size = verdict.take
    if request.pieces != NULL:
        sink_start(
            &exchange.sink, request.layout, request.pieces, request.piece_count, request.offset
        )
        return False
    if verdict.tail or verdict.take < 0:
        if request.measured:
            request_forget_memory(request)
        return False
    if request.measured:
        if verdict.take and not request_make_room(
                request, request.delivered + <size_t>verdict.take):
            return exchange_fail(exchange, STATUS_NO_MEMORY)
    elif request.delivered + <size_t>verdict.take > request.capacity:
        return _no_room(exchange, request.delivered + <size_t>verdict.take)
    return False


cdef bint _keep_tail(Exchange* exchange, const char* data, size_t size) noexcept nogil:
    # Of what has passed, the end; a little more of it, so that not each piece moves all of it.
    cdef Slab* slab
    cdef size_t wanted = <size_t>exchange.request.wanted.start
    cdef size_t needed
    exchange.tail_passed += size
    if _is_too_much(exchange.request, exchange.tail_passed):
        return _too_much(exchange)
    if size >= wanted:
        data += size - wanted
        size = wanted
        exchange.tail_size = 0
    elif exchange.tail_size + size > max(2 * wanted, <size_t>FIRST_TAIL):
        memmove(
            exchange.tail.base, exchange.tail.base + exchange.tail_size - (wanted - size),
            wanted - size,
        )
        exchange.tail_size = wanted - size
    needed = exchange.tail_size + size
    if exchange.tail == NULL or exchange.tail.size < needed:
        slab = slab_grown(exchange.tail, max(needed * 2, <size_t>FIRST_TAIL))
        if slab == NULL:
            return exchange_fail(exchange, STATUS_NO_MEMORY)
        exchange.tail = slab
    memcpy(exchange.tail.base + exchange.tail_size, data, size)
    exchange.tail_size = needed
    return False


cdef bint _on_body(Exchange* exchange, const char* data, size_t size) noexcept nogil:
    # True when the exchange is concluded.
    cdef Request* request = exchange.request
    cdef size_t now
    if exchange.phase == PHASE_CONTENT and exchange.verdict.tail:
        return _keep_tail(exchange, data, size)
    if exchange.skip and exchange.phase == PHASE_CONTENT:
        now = <size_t>min(exchange.skip, <long long>size)
        exchange.skip -= <long long>now
        data += now
        size -= now
    if size == 0:
        return False
    if exchange.phase == PHASE_CONTENT and exchange.take != 0:
        now = size
        if exchange.take > 0:
            now = <size_t>min(exchange.take, <long long>size)
            exchange.take -= <long long>now
        else:
            now = _unbounded(exchange, size)
            if request.pieces != NULL:
                if request.delivered + now > <size_t>request.expected:
                    return _wrong_size(exchange)
            elif _is_too_much(request, request.delivered + now):
                return _too_much(exchange)
            elif request.measured:
                if not request_grow(request, request.delivered + now):
                    return exchange_fail(exchange, STATUS_NO_MEMORY)
            elif request.delivered + now > request.capacity:
                return _no_room(exchange, 0)
        if now and request.pieces != NULL:
            sink_write(&exchange.sink, request.delivered, data, now)
        elif now:
            memcpy(request.memory + request.delivered, data, now)
        request.delivered += now
        size -= now
    if size == 0:
        return False
    if exchange.phase == PHASE_CONTENT and not exchange.verdict.range_ignored:
        return exchange_fail(exchange, STATUS_OVERLONG)
    return _on_unwanted(exchange, size)


cdef inline size_t _unbounded(Exchange* exchange, size_t size) noexcept nogil:
    # Of `size` bytes of a body of unknown length, those that a bounded range still wants.
    cdef ByteRange* wanted = &exchange.request.wanted
    cdef size_t limit
    if wanted.kind != RANGE_BOUNDED:
        return size
    limit = <size_t>(wanted.end - wanted.start) - exchange.request.delivered
    return min(size, limit)


cdef bint _on_unwanted(Exchange* exchange, size_t size) noexcept nogil:
    exchange.drained += size
    if exchange.drained > DRAIN_LIMIT:
        exchange.reusable = False
        return exchange_conclude_as_judged(exchange)
    return False


cdef bint exchange_end(Exchange* exchange, bint junk) noexcept nogil:
    cdef Request* request = exchange.request
    cdef size_t size
    exchange.reusable = (
        exchange.parser.head.keep_alive and not junk
        and exchange.sent == exchange_to_send(exchange)
        and exchange.parser.head.framing != UNTIL_EOF
    )
    if exchange.reusable and exchange.transport.operations.read_ahead != NULL:
        exchange.transport.operations.read_ahead(&exchange.transport, False)
    if exchange.phase == PHASE_CONTENT:
        if exchange.take > 0:
            return exchange_break(exchange, STATUS_TRUNCATED)
        if exchange.verdict.tail:
            size = min(exchange.tail_size, <size_t>request.wanted.start)
            request.object_size = <long long>exchange.tail_passed
            if request.measured:
                if size and not request_make_room(request, size):
                    return exchange_fail(exchange, STATUS_NO_MEMORY)
            elif size > request.capacity:
                return _no_room(exchange, size)
            if size:
                memcpy(request.memory, exchange.tail.base + exchange.tail_size - size, size)
            request.delivered = size
        elif exchange.take < 0 and request.measured and request.pieces == NULL:
            request_shrink(request)
    return exchange_conclude_as_judged(exchange)


cdef bint exchange_take_in(
    Exchange* exchange, const char* data, size_t size, bint emptied, double now
) noexcept nogil:
    # Feeds received bytes to the parser; `emptied` says that they are all that the connection has.
    # True when the exchange is concluded.
    cdef size_t used
    cdef Event event
    while True:
        used = 0
        event = http1_feed(&exchange.parser, data, size, &used)
        data += used
        size -= used
        if event == NEED_DATA:
            return False
        if event == HEAD:
            exchange.progress = now
            if _on_head(exchange):
                return True
        elif event == BODY:
            if _on_body(exchange, exchange.parser.body, exchange.parser.body_size):
                return True
        elif event == END:
            return exchange_end(
                exchange, size > 0 or (not emptied and exchange_has_more(exchange))
            )
        else:
            return exchange_malformed(exchange)
