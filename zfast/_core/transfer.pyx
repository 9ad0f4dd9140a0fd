"""Moves the bytes of an exchange over its connection: a request out, its response in.

Never blocks; each step moves what can be moved now.
"""

from libc.errno cimport EPROTO
from libcpp.string cimport string

from zfast._core.exchange cimport (
    CONCLUDED_LOST,
    ENDING_CLEAN,
    ENDING_FAULT,
    ENDING_REFUSAL,
    JOINED_CONTENT,
    PHASE_CONTENT,
    PHASE_DRAIN,
    PHASE_HEAD,
    PHASE_IDLE,
    exchange_break,
    exchange_conclude,
    exchange_conclude_as_judged,
    exchange_end,
    exchange_fail,
    exchange_has_more,
    exchange_malformed,
    exchange_take_in,
    exchange_to_send,
)
from zfast._core.extern.sockets cimport POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from zfast._core.extern.uio cimport iovec
from zfast._core.http1 cimport (
    END,
    ERROR,
    Event,
    http1_direct,
    http1_direct_received,
    http1_eof,
    http1_in_trailers,
    http1_start,
)
from zfast._core.request cimport request_compose, request_has_all
from zfast._core.response_head cimport UNTIL_EOF
from zfast._core.sink cimport sink_vectors
from zfast._core.transport cimport TRANSPORT_FAILED, TRANSPORT_WOULD_BLOCK
from zfast._core.types cimport (
    METHOD_HEAD,
    RANGE_BOUNDED,
    STATUS_OK,
    STATUS_RESET,
    STATUS_TLS_FAILED,
    STATUS_TRUNCATED,
)

cdef enum:
    # A body with more than this to come goes straight to its memory: below, one recv into a
    # scratch that stays in cache gets head and body together.
    DIRECT_AT_LEAST = 16 << 10
    # Where a body goes to memory of its own and is this large, one recv takes little but the head:
    # a system call or two more, and no copy. Bodies of 64 and of 176 KiB take a tenth less CPU so,
    # of 32 KiB as much as before.
    LARGE = 64 << 10
    HEAD_AT_ONCE = 1 << 10
    # Pieces of the output that one call fills.
    MAX_VECTORS = 256
    # What one turn receives of a connection that always has more, before others have theirs, and
    # deadlines: small chunks come faster than they are parsed.
    TURN_BYTES = 1 << 20
    # ... in so many calls: a record of TLS may hold one byte.
    TURN_CALLS = 256
    # Fewer bytes within read_timeout are no progress: a byte now and then would go on for ever.
    LEAST_PROGRESS = 4 << 10


cdef void transfer_begin(Exchange* exchange, Request* request, double now) noexcept nogil:
    cdef string* out = &exchange.out
    if not exchange.is_hedge:
        request.attempts += 1
        request.claimant = NULL
        request.detail.clear()
        if request.delivered and (not request.resumable or request_has_all(request)):
            request.delivered = 0
    request_compose(request, out)
    if request.content_size <= JOINED_CONTENT:
        out.append(request.content, request.content_size)
    if exchange.transport.operations.read_ahead != NULL:
        exchange.transport.operations.read_ahead(&exchange.transport, True)
    exchange.sent = 0
    exchange.request = request
    exchange.phase = PHASE_HEAD
    exchange.skip = exchange.take = 0
    exchange.tail_size = exchange.tail_passed = exchange.drained = 0
    exchange.heard = exchange.answered = False
    exchange.reusable = False
    exchange.code = STATUS_OK
    exchange.begun = exchange.progress = now
    exchange.asked = exchange.first_byte = 0
    exchange.opens = exchange.late = False
    exchange.trickled = 0
    http1_start(
        &exchange.parser, exchange.head, exchange.head_capacity, request.method == METHOD_HEAD
    )


cdef inline void _progress(Exchange* exchange, size_t size, double now) noexcept nogil:
    exchange.trickled += size
    if exchange.trickled >= LEAST_PROGRESS:
        exchange.trickled = 0
        exchange.progress = now


cdef bint _send(Exchange* exchange, double now) noexcept nogil:
    # False when the connection takes no more.
    cdef size_t head_size = exchange.out.size()
    cdef size_t size = exchange_to_send(exchange)
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
        _progress(exchange, <size_t>moved, now)
    exchange.asked = now
    return True


cdef inline size_t _direct_room(const Exchange* exchange) noexcept nogil:
    # How many bytes may be received straight into the read's memory now.
    cdef long long room
    if exchange.phase != PHASE_CONTENT or exchange.skip or exchange.take < DIRECT_AT_LEAST:
        return 0
    room = http1_direct(&exchange.parser)
    return <size_t>min(room, exchange.take)


cdef inline size_t _scratch_room(const Exchange* exchange, size_t size) noexcept nogil:
    # How much of the scratch to fill now. Where the guess about the body is wrong, it costs a
    # system call, or the copy.
    cdef const Request* request = exchange.request
    cdef long long awaited = request.expected
    if exchange.phase != PHASE_HEAD or request.pieces != NULL:
        return size
    if request.wanted.kind == RANGE_BOUNDED:
        awaited = request.wanted.end - request.wanted.start
    elif awaited < 0:
        awaited = exchange.last_size
    return HEAD_AT_ONCE if awaited >= LARGE else size


cdef int _rows(Exchange* exchange, iovec* vectors, size_t* size) noexcept nogil:
    # The rows of the output that the next bytes belong to, and their size; 0 where scratch is
    # better. Large chunks (16 MiB in rows of 8 KiB) take a third less CPU so than by way of the
    # scratch, those of 1 MiB in rows of 2 KiB an eighth.
    cdef int count, index
    if exchange.transport.operations.recv_vectors == NULL:
        return 0
    count = sink_vectors(
        &exchange.sink, exchange.request.delivered, size[0], vectors, MAX_VECTORS
    )
    size[0] = 0
    for index in range(count):
        size[0] += vectors[index].iov_len
    return count if size[0] >= DIRECT_AT_LEAST else 0


cdef bint _receive_direct(Exchange* exchange, size_t size) noexcept nogil:
    cdef Request* request = exchange.request
    cdef Event event = http1_direct_received(&exchange.parser, <long long>size)
    request.delivered += size
    exchange.take -= <long long>size
    if event == END:
        return exchange_end(exchange, exchange_has_more(exchange))
    return exchange_malformed(exchange) if event == ERROR else False


cdef bint _on_fault(Exchange* exchange) noexcept nogil:
    # A record that cannot be, or an alert: another connection may do better, but not where it is
    # us that the server refuses.
    exchange.request.error = exchange.transport.error
    exchange.request.detail = string(exchange.transport.fault)
    if exchange.transport.is_refusal:
        return exchange_fail(exchange, STATUS_TLS_FAILED)
    return exchange_break(exchange, STATUS_TLS_FAILED)


cdef void _take_fault(Exchange* exchange) noexcept nogil:
    # Of a relayed session, as one of our own would have noted it.
    cdef int ending = exchange.ending.load()
    if ending >= ENDING_FAULT:
        exchange.transport.error = EPROTO
        exchange.transport.fault = exchange.session_fault.c_str()
        exchange.transport.is_refusal = ending == ENDING_REFUSAL


cdef bint _on_reset(Exchange* exchange) noexcept nogil:
    _take_fault(exchange)
    exchange.request.error = exchange.transport.error
    if exchange.phase == PHASE_DRAIN:
        exchange.reusable = False
        return exchange_conclude_as_judged(exchange)
    if exchange.transport.fault != NULL:
        return _on_fault(exchange)
    return exchange_break(
        exchange, STATUS_TRUNCATED if exchange.phase == PHASE_CONTENT else STATUS_RESET
    )


cdef bint _on_end_of_stream(Exchange* exchange) noexcept nogil:
    cdef int ending = exchange.ending.load()
    cdef Event event
    if ending >= ENDING_FAULT:
        return _on_reset(exchange)
    if exchange.parser.head.framing == UNTIL_EOF and ending != ENDING_CLEAN:
        return exchange_break(exchange, STATUS_TRUNCATED)
    event = http1_eof(&exchange.parser)
    return exchange_end(exchange, True) if event == END else exchange_malformed(exchange)


cdef bint _receive(
    Exchange* exchange, char* scratch, size_t scratch_size, double now
) noexcept nogil:
    cdef ssize_t moved
    cdef size_t asked
    cdef size_t received = 0
    cdef int calls = 0
    cdef bint direct, emptied
    cdef iovec[MAX_VECTORS] vectors
    cdef int count
    while True:
        asked = _direct_room(exchange)
        direct = asked > 0
        count = 0
        if direct and exchange.request.pieces != NULL:
            count = _rows(exchange, vectors, &asked)
            direct = count > 0
        if count > 0:
            moved = exchange.transport.operations.recv_vectors(
                &exchange.transport, vectors, count
            )
        elif direct:
            moved = exchange.transport.operations.recv(
                &exchange.transport, exchange.request.memory + exchange.request.delivered, asked
            )
        else:
            asked = _scratch_room(exchange, scratch_size)
            moved = exchange.transport.operations.recv(&exchange.transport, scratch, asked)
        if moved == TRANSPORT_WOULD_BLOCK:
            _hasten(exchange)
            return False
        if moved == TRANSPORT_FAILED:
            return _on_reset(exchange)
        if moved == 0:
            return _on_end_of_stream(exchange)
        calls += 1
        if exchange.phase == PHASE_CONTENT and not http1_in_trailers(&exchange.parser):
            # A head has its time as a whole, and what is behind the body, or not wanted.
            _progress(exchange, <size_t>moved, now)
        if not exchange.answered:
            exchange.answered = True
            exchange.first_byte = exchange.progress = now
        # A short read has emptied the socket: asking again would only cost a system call. Of TLS
        # each read is as short as a record.
        emptied = <size_t>moved < asked and exchange.transport.session == NULL
        if direct:
            if _receive_direct(exchange, <size_t>moved):
                return True
        elif exchange_take_in(exchange, scratch, <size_t>moved, emptied, now):
            return True
        if emptied:
            _hasten(exchange)
            return False
        received += <size_t>moved
        if received >= TURN_BYTES or calls == TURN_CALLS:
            if exchange.transport.session != NULL and (
                    exchange.transport.operations.pending(&exchange.transport)):
                # No poll tells of it; that the connection takes bytes it tells at once.
                exchange.transport.recv_wants = POLLIN | POLLOUT
            return False


cdef inline void _hasten(Exchange* exchange) noexcept nogil:
    # A server that holds its last, partial segment until the ones before are acknowledged (Nagle's
    # algorithm, RFC 9293, section 3.7.4) would wait for our delayed acknowledgement, 40 ms.
    if exchange.phase == PHASE_CONTENT and 0 < exchange.take < exchange.transport.segment:
        exchange.transport.operations.acknowledge(&exchange.transport)


cdef inline bint _reads_to_send(const Exchange* exchange) noexcept nogil:
    # In a handshake of TLS 1.2 that what is to be sent waits for. To receive would end it as well,
    # and nothing would come by which the other learns that.
    return (
        exchange.sent < exchange_to_send(exchange) and exchange.transport.send_wants == POLLIN
    )


cdef bint transfer_step(
    Exchange* exchange, short ready, char* scratch, size_t scratch_size, double now
) noexcept nogil:
    # Moves what can be moved; True when the exchange is concluded.
    cdef bint broken = False
    if exchange.request.claimant != NULL and exchange.request.claimant != exchange:
        exchange.reusable = False
        return exchange_conclude(exchange, CONCLUDED_LOST, STATUS_OK)
    if exchange.sent < exchange_to_send(exchange):
        # Even a connection that takes no more may hold the answer that says why.
        broken = not _send(exchange, now)
        ready |= POLLERR if broken else 0
        if not broken and _reads_to_send(exchange):
            return False
    if ready & (exchange.transport.recv_wants | POLLHUP | POLLERR | POLLNVAL):
        if _receive(exchange, scratch, scratch_size, now):
            return True
    if broken and exchange.transport.fault != NULL:
        return _on_fault(exchange)
    if broken:
        exchange.request.error = exchange.transport.error
        return exchange_break(exchange, STATUS_RESET)
    return False


cdef short transfer_wants(const Exchange* exchange) noexcept nogil:
    if exchange.phase == PHASE_IDLE:
        return POLLIN
    if _reads_to_send(exchange):
        return POLLIN
    if exchange.sent < exchange_to_send(exchange):
        return exchange.transport.recv_wants | exchange.transport.send_wants
    return exchange.transport.recv_wants
