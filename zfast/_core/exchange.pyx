"""One HTTP exchange on one open connection: sends a request, receives and verifies its response.

Never blocks and never decides what comes next: it ends in a conclusion, and the engine acts on it.
Body bytes go to the read's memory only after `semantics.judge` accepted the head, only as many as
were asked for, and count as delivered only then.
"""

from libc.errno cimport ECONNRESET
from libc.string cimport memcpy

from zfast._core.buffers cimport arena_take, slab_grown, slab_release
from zfast._core.extern.sockets cimport POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from zfast._core.http1 cimport (
    BODY,
    END,
    ERROR,
    HEAD,
    NEED_DATA,
    Event,
    http1_direct,
    http1_direct_received,
    http1_eof,
    http1_feed,
    http1_start,
)
from zfast._core.request_head cimport (
    http1_content_length,
    http1_field,
    http1_finish,
    http1_range,
    http1_request_line,
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
)
from zfast._core.semantics cimport (
    MEANS_CONTENT,
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
from zfast._core.transport cimport TRANSPORT_FAILED, TRANSPORT_WOULD_BLOCK
from zfast._core.types cimport (
    METHOD_DELETE,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_PUT,
    RANGE_BOUNDED,
    RANGE_EMPTY,
    RANGE_OFFSET,
    RANGE_SUFFIX,
    RANGE_WHOLE,
    STATUS_CHANGED,
    STATUS_HEAD_TOO_LARGE,
    STATUS_NO_MEMORY,
    STATUS_OK,
    STATUS_OVERLONG,
    STATUS_PROTOCOL,
    STATUS_RESET,
    STATUS_TRUNCATED,
)

cdef enum:
    # An unwanted body (an error page) that is longer costs more than a new connection.
    DRAIN_LIMIT = 64 << 10
    # A PUT's content up to this size travels in one segment with its head.
    JOINED_CONTENT = 16 << 10
    # A body with more than this to come goes straight to its memory: below, one recv into a
    # scratch that stays in cache gets head and body together.
    DIRECT_AT_LEAST = 16 << 10
    FIRST_GUESS = 64 << 10


# ---------------------------------------------------------------------------------------- sending


cdef const char* _method_name(Method method) noexcept nogil:
    if method == METHOD_HEAD:
        return "HEAD"
    if method == METHOD_PUT:
        return "PUT"
    if method == METHOD_DELETE:
        return "DELETE"
    return "GET"


cdef void _write_range(Request* request, string* out) noexcept nogil:
    cdef ByteRange* wanted = &request.wanted
    cdef long long first = <long long>request.delivered
    if request.method != METHOD_GET:
        return
    if first == 0:
        if wanted.kind == RANGE_EMPTY:
            http1_range(out, RANGE_BOUNDED, 0, 1)
        elif wanted.kind != RANGE_WHOLE:
            http1_range(out, wanted.kind, wanted.start, wanted.end)
        return
    # Resuming: only the object that the delivered bytes are from may answer with a part.
    if wanted.kind == RANGE_BOUNDED:
        http1_range(out, RANGE_BOUNDED, wanted.start + first, wanted.end)
    elif wanted.kind == RANGE_SUFFIX:
        http1_range(
            out, RANGE_OFFSET, max(request.object_size - wanted.start, 0) + first, 0
        )
    else:
        http1_range(out, RANGE_OFFSET, wanted.start + first, 0)
    http1_field(out, "If-Range", request.etag)


cdef bint _has_all(const Request* request) noexcept nogil:
    # Every byte came, yet the response was not complete: there is no range left to resume with.
    cdef long long reached = request.wanted.start + <long long>request.delivered
    if request.wanted.kind == RANGE_BOUNDED and reached >= request.wanted.end:
        return True
    if request.wanted.kind == RANGE_SUFFIX:
        reached = max(request.object_size - request.wanted.start, 0) + <long long>request.delivered
    return 0 <= request.object_size <= reached


cdef void exchange_begin(Exchange* exchange, Request* request, double now) noexcept nogil:
    cdef string* out = &exchange.out
    request.attempts += 1
    if request.delivered and (not request.resumable or _has_all(request)):
        request.delivered = 0
    out.clear()
    if request.endpoint.prefix.empty():
        http1_request_line(out, _method_name(request.method), request.target)
    else:
        http1_request_line(
            out, _method_name(request.method), request.endpoint.prefix + request.target
        )
    out.append(request.endpoint.fields)
    if request.foreign:
        out.append(request.profile.foreign_fields)
    else:
        out.append(request.profile.fields)
        out.append(request.credentials)
    out.append(request.fields)
    _write_range(request, out)
    if request.method == METHOD_PUT:
        http1_content_length(out, <long long>request.content_size)
    http1_finish(out)
    if request.content_size <= JOINED_CONTENT:
        out.append(request.content, request.content_size)
    exchange.sent = 0
    exchange.request = request
    exchange.phase = PHASE_HEAD
    exchange.skip = exchange.take = 0
    exchange.tail_size = exchange.drained = 0
    exchange.answered = False
    exchange.reusable = False
    exchange.code = STATUS_OK
    exchange.begun = exchange.progress = now
    exchange.first_byte = 0
    http1_start(
        &exchange.parser, exchange.head, exchange.head_capacity, request.method == METHOD_HEAD
    )


cdef inline size_t _to_send(const Exchange* exchange) noexcept nogil:
    cdef size_t size = exchange.out.size()
    if exchange.request.content_size > JOINED_CONTENT:
        size += exchange.request.content_size
    return size


cdef bint _send(Exchange* exchange, double now) noexcept nogil:
    # False when the connection takes no more.
    cdef size_t head_size = exchange.out.size()
    cdef size_t size = _to_send(exchange)
    cdef ssize_t moved
    while exchange.sent < size:
        if exchange.sent < head_size:
            moved = exchange.transport.operations.send(
                &exchange.transport, exchange.out.data() + exchange.sent,
                head_size - exchange.sent,
            )
        else:
            moved = exchange.transport.operations.send(
                &exchange.transport, exchange.request.content + (exchange.sent - head_size),
                size - exchange.sent,
            )
        if moved == TRANSPORT_WOULD_BLOCK:
            return True
        if moved < 0:
            return False
        exchange.sent += <size_t>moved
        exchange.progress = now
    return True


# -------------------------------------------------------------------------------------- concluding


cdef bint _conclude(Exchange* exchange, Conclusion conclusion, Status code) noexcept nogil:
    slab_release(exchange.tail)
    exchange.tail = NULL
    exchange.conclusion = conclusion
    exchange.code = code
    return True


cdef bint _break(Exchange* exchange, Status code) noexcept nogil:
    exchange.reusable = False
    return _conclude(exchange, CONCLUDED_BROKEN, code)


cdef bint _fail(Exchange* exchange, Status code) noexcept nogil:
    exchange.reusable = False
    return _conclude(exchange, CONCLUDED_FAILURE, code)


cdef bint _protocol_error(Exchange* exchange) noexcept nogil:
    cdef int error = exchange.parser.error
    if error == EOF_BEFORE_HEAD or error == EOF_IN_HEAD:
        exchange.request.error = ECONNRESET
        return _break(exchange, STATUS_RESET)
    if error == EOF_IN_BODY:
        if exchange.phase == PHASE_DRAIN:
            return _conclude_verdict(exchange)
        return _break(exchange, STATUS_TRUNCATED)
    if error in (HEAD_TOO_LARGE, TOO_MANY_FIELDS, TOO_MANY_INTERIM):
        return _fail(exchange, STATUS_HEAD_TOO_LARGE)
    return _fail(exchange, STATUS_PROTOCOL)


cdef bint _conclude_verdict(Exchange* exchange) noexcept nogil:
    cdef Meaning meaning = exchange.verdict.meaning
    if meaning == MEANS_MISSING:
        return _conclude(exchange, CONCLUDED_MISSING, STATUS_OK)
    if meaning == MEANS_PRECONDITION:
        return _conclude(exchange, CONCLUDED_PRECONDITION, STATUS_CHANGED)
    if meaning == MEANS_RESTART:
        return _conclude(exchange, CONCLUDED_RESTART, STATUS_CHANGED)
    if meaning == MEANS_RETRY:
        return _conclude(exchange, CONCLUDED_STATUS, STATUS_OK)
    if meaning == MEANS_REDIRECT:
        return _conclude(exchange, CONCLUDED_REDIRECT, STATUS_OK)
    if meaning == MEANS_FAILURE:
        return _conclude(exchange, CONCLUDED_FAILURE, exchange.verdict.code)
    return _conclude(exchange, CONCLUDED_OK, STATUS_OK)


# --------------------------------------------------------------------------------------- receiving


cdef bint _make_room(Exchange* exchange, size_t size) noexcept nogil:
    # Room for `size` bytes in all, False when there is no memory. What is delivered stays.
    cdef Request* request = exchange.request
    cdef Slab* slab = NULL
    cdef char* memory
    if request.memory != NULL and request.capacity >= size:
        return True
    memory = arena_take(request.arena, size, &slab)
    if memory == NULL:
        return False
    if request.delivered:
        memcpy(memory, request.memory, request.delivered)
    slab_release(request.slab)
    request.slab = slab
    request.memory = memory
    request.capacity = size
    return True


cdef bint _grow(Request* request, size_t size) noexcept nogil:
    # For a body of unknown length: memory of its own that doubles.
    cdef size_t room = max(request.capacity * 2, max(size, <size_t>FIRST_GUESS))
    cdef Slab* slab
    if request.capacity >= size:
        return True
    slab = slab_grown(request.slab, room)
    if slab == NULL:
        return False
    request.slab = slab
    request.memory = slab.base
    request.capacity = room
    return True


cdef void _forget_memory(Request* request) noexcept nogil:
    slab_release(request.slab)
    request.slab = NULL
    request.memory = NULL
    request.capacity = 0


cdef bint _remember_object(Exchange* exchange) noexcept nogil:
    # Notes what a continuation needs to know; False when this is another object than before.
    cdef Request* request = exchange.request
    cdef const char* etag = exchange.head + exchange.parser.head.etag.offset
    cdef size_t size = exchange.parser.head.etag.size if exchange.parser.head.etag.offset else 0
    cdef bint strong = size >= 2 and etag[0] == c'"'
    if request.delivered and not exchange.verdict.from_start:
        # A part without the entity tag may be of any state of the object (RFC 9110, 15.3.7).
        if request.etag != string(etag, size):
            return False
    else:
        request.etag = string(etag, size) if strong else string()
        request.object_size = exchange.verdict.object_size
    # A body of unknown length, or one that is sliced here, is read from its start again.
    request.resumable = (
        not request.etag.empty() and exchange.verdict.take > 0 and exchange.verdict.skip == 0
        and (exchange.verdict.object_size >= 0 or request.wanted.kind == RANGE_BOUNDED)
    )
    return True


cdef bint _on_head(Exchange* exchange) noexcept nogil:
    # True when the exchange is concluded.
    cdef Request* request = exchange.request
    cdef Verdict verdict
    request.http_status = exchange.parser.head.status
    verdict = judge(
        &exchange.parser.head, request.method, &request.wanted, <long long>request.delivered,
        request.object_size, &request.profile.statuses,
    )
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
        request.object_size = verdict.object_size
        request.delivered = 0
    return _drains_too_much(exchange)


cdef bint _drains_too_much(Exchange* exchange) noexcept nogil:
    cdef long long rest = exchange.parser.remaining
    if exchange.request.method == METHOD_HEAD:
        return False
    if exchange.parser.head.framing == UNTIL_EOF or (
        exchange.parser.head.framing == CONTENT_LENGTH and rest > DRAIN_LIMIT
    ):
        exchange.reusable = False
        return _conclude_verdict(exchange)
    return False


cdef bint _on_content_head(Exchange* exchange) noexcept nogil:
    cdef Request* request = exchange.request
    cdef Verdict* verdict = &exchange.verdict
    if not _remember_object(exchange):
        verdict.meaning = MEANS_RESTART
        return _drains_too_much(exchange)
    if verdict.from_start:
        request.delivered = 0
    exchange.phase = PHASE_CONTENT
    exchange.skip = verdict.skip
    exchange.take = verdict.take
    if verdict.tail or verdict.take < 0:
        if request.measured:
            _forget_memory(request)
        return False
    if request.measured:
        if verdict.take and not _make_room(exchange, request.delivered + <size_t>verdict.take):
            return _fail(exchange, STATUS_NO_MEMORY)
    elif request.delivered + <size_t>verdict.take > request.capacity:
        return _fail(exchange, STATUS_OVERLONG)
    return False


cdef bint _keep_tail(Exchange* exchange, const char* data, size_t size) noexcept nogil:
    cdef Slab* slab
    cdef size_t needed = exchange.tail_size + size
    if exchange.tail == NULL or exchange.tail.size < needed:
        slab = slab_grown(exchange.tail, max(needed * 2, <size_t>FIRST_GUESS))
        if slab == NULL:
            return _fail(exchange, STATUS_NO_MEMORY)
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
            if request.measured:
                if not _grow(request, request.delivered + now):
                    return _fail(exchange, STATUS_NO_MEMORY)
            elif request.delivered + now > request.capacity:
                return _fail(exchange, STATUS_OVERLONG)
        if now:
            memcpy(request.memory + request.delivered, data, now)
            request.delivered += now
        size -= now
    if size == 0:
        return False
    if exchange.phase == PHASE_CONTENT and not exchange.verdict.range_ignored:
        return _fail(exchange, STATUS_OVERLONG)
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
        return _conclude_verdict(exchange)
    return False


cdef bint _on_end(Exchange* exchange, bint junk) noexcept nogil:
    cdef Request* request = exchange.request
    cdef size_t size
    exchange.reusable = (
        exchange.parser.head.keep_alive and not junk
        and exchange.sent == _to_send(exchange) and exchange.parser.head.framing != UNTIL_EOF
    )
    if exchange.phase == PHASE_CONTENT:
        if exchange.take > 0:
            return _break(exchange, STATUS_TRUNCATED)
        if exchange.verdict.tail:
            size = min(exchange.tail_size, <size_t>request.wanted.start)
            request.object_size = <long long>exchange.tail_size
            if request.measured:
                if size and not _make_room(exchange, size):
                    return _fail(exchange, STATUS_NO_MEMORY)
            elif size > request.capacity:
                return _fail(exchange, STATUS_OVERLONG)
            if size:
                memcpy(request.memory, exchange.tail.base + exchange.tail_size - size, size)
            request.delivered = size
    return _conclude_verdict(exchange)


cdef bint _take_in(Exchange* exchange, const char* data, size_t size) noexcept nogil:
    # Feeds received bytes to the parser; True when the exchange is concluded.
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
            if _on_head(exchange):
                return True
        elif event == BODY:
            if _on_body(exchange, exchange.parser.body, exchange.parser.body_size):
                return True
        elif event == END:
            return _on_end(exchange, size > 0)
        else:
            return _protocol_error(exchange)


cdef inline size_t _direct_room(const Exchange* exchange) noexcept nogil:
    # How many bytes may be received straight into the read's memory now.
    cdef long long room
    if exchange.phase != PHASE_CONTENT or exchange.skip or exchange.take < DIRECT_AT_LEAST:
        return 0
    room = http1_direct(&exchange.parser)
    return <size_t>min(room, exchange.take)


cdef bint _receive_direct(Exchange* exchange, size_t size) noexcept nogil:
    cdef Request* request = exchange.request
    cdef Event event = http1_direct_received(&exchange.parser, <long long>size)
    request.delivered += size
    exchange.take -= <long long>size
    if event == END:
        return _on_end(exchange, _has_more(exchange))
    return _protocol_error(exchange) if event == ERROR else False


cdef inline bint _has_more(Exchange* exchange) noexcept nogil:
    # Bytes behind a response must not pass for the next one (RFC 9112, section 6.3).
    cdef char octet
    return exchange.transport.operations.recv(
        &exchange.transport, &octet, 1) != TRANSPORT_WOULD_BLOCK


cdef bint _on_end_of_stream(Exchange* exchange) noexcept nogil:
    cdef Event event
    if exchange.parser.head.framing == UNTIL_EOF and not exchange.end_of_stream_is_clean:
        return _break(exchange, STATUS_TRUNCATED)
    event = http1_eof(&exchange.parser)
    return _on_end(exchange, True) if event == END else _protocol_error(exchange)


cdef bint _on_reset(Exchange* exchange) noexcept nogil:
    exchange.request.error = exchange.transport.error
    if exchange.phase == PHASE_DRAIN:
        exchange.reusable = False
        return _conclude_verdict(exchange)
    return _break(
        exchange, STATUS_TRUNCATED if exchange.phase == PHASE_CONTENT else STATUS_RESET
    )


cdef bint _receive(
    Exchange* exchange, char* scratch, size_t scratch_size, double now
) noexcept nogil:
    cdef ssize_t moved
    cdef size_t asked
    cdef bint direct
    while True:
        asked = _direct_room(exchange)
        direct = asked > 0
        if direct:
            moved = exchange.transport.operations.recv(
                &exchange.transport, exchange.request.memory + exchange.request.delivered, asked
            )
        else:
            asked = scratch_size
            moved = exchange.transport.operations.recv(&exchange.transport, scratch, asked)
        if moved == TRANSPORT_WOULD_BLOCK:
            return False
        if moved == TRANSPORT_FAILED:
            return _on_reset(exchange)
        if moved == 0:
            return _on_end_of_stream(exchange)
        exchange.progress = now
        if not exchange.answered:
            exchange.answered = True
            exchange.first_byte = now
        if direct:
            if _receive_direct(exchange, <size_t>moved):
                return True
        elif _take_in(exchange, scratch, <size_t>moved):
            return True
        # A short read has emptied the socket: asking again would only cost a system call.
        if <size_t>moved < asked and exchange.transport.session == NULL:
            return False


cdef bint exchange_step(
    Exchange* exchange, short ready, char* scratch, size_t scratch_size, double now
) noexcept nogil:
    # Moves what can be moved; True when the exchange is concluded.
    cdef bint broken = False
    if exchange.sent < _to_send(exchange):
        # Even a connection that takes no more may hold the answer that says why.
        broken = not _send(exchange, now)
        ready |= POLLIN if broken else 0
    if ready & (POLLIN | POLLHUP | POLLERR | POLLNVAL):
        if _receive(exchange, scratch, scratch_size, now):
            return True
    if broken:
        exchange.request.error = exchange.transport.error
        return _break(exchange, STATUS_RESET)
    return False


cdef short exchange_wants(const Exchange* exchange) noexcept nogil:
    if exchange.phase != PHASE_IDLE and exchange.sent < _to_send(exchange):
        return POLLIN | POLLOUT
    return POLLIN
