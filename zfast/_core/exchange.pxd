# One HTTP exchange: a request on a lease, from the first byte sent to the last one received.

from libcpp.atomic cimport atomic
from libcpp.string cimport string

from zfast._core.buffers cimport Slab
from zfast._core.http1 cimport Parser
from zfast._core.request cimport Request
from zfast._core.response_head cimport Span
from zfast._core.semantics cimport Verdict
from zfast._core.sink cimport Sink
from zfast._core.transport cimport TRANSPORT_WOULD_BLOCK, Transport
from zfast._core.types cimport Status

cdef enum:
    # Until a server's clock of whole seconds, at which it looks now and then, has moved on.
    RECENT_SECONDS = 2

cdef enum Conclusion:
    CONCLUDED_OK
    CONCLUDED_MISSING
    CONCLUDED_PRECONDITION
    CONCLUDED_RESTART               # the object changed under a resumed read
    CONCLUDED_STATUS                # a status that is worth another attempt
    CONCLUDED_REDIRECT
    CONCLUDED_FAILURE               # final: `code` says which
    CONCLUDED_BROKEN                # the connection or the response broke: `code` says how
    CONCLUDED_LOST                  # another exchange of the same request was first

cdef enum Phase:
    PHASE_IDLE
    PHASE_HEAD                      # sent or sending, no head yet
    PHASE_CONTENT
    PHASE_DRAIN                     # nothing more is wanted, the connection is

cdef enum Ending:                   # of a stream
    ENDING_UNKNOWN                  # anybody may have cut it
    ENDING_CLEAN                    # if it ends, then as the peer meant it
    ENDING_FAULT                    # the session broke: `session_fault` says how
    ENDING_REFUSAL                  # ... in that the peer will not have us

cdef cppclass Exchange:
    Transport transport
    Parser parser
    char* head
    size_t head_capacity
    string out
    size_t sent
    Request* request
    bint is_hedge                   # another exchange of the same request began before
    bint rivals                     # ... and goes on
    bint opens                      # parts may go out now
    bint late                       # another exchange of the same request is wished for
    Phase phase
    Verdict verdict
    long long skip
    long long take
    long long last_size             # what `take` was when a body last came; -1 unknown, 0 none yet
    Sink sink                       # takes the body where it goes out while it comes
    Slab* tail                      # a suffix of a body of unknown length, until its end is known
    size_t tail_size
    size_t tail_passed              # bytes of the body so far, most of which may be gone
    size_t drained
    bint heard                      # the peer's kernel has acknowledged the request
    bint answered                   # a byte of the response has come
    bint reusable                   # after the conclusion: the connection may carry another request
    # Said by the relay, each before that which it is about comes.
    atomic[int] ending              # an Ending
    string session_fault            # whole before `ending` points to it
    atomic[int] content_held        # the server has answered, and not had all of the content
    Conclusion conclusion
    Status code
    double begun
    double asked                    # when all of the request was sent, 0 before
    double first_byte
    double progress                 # when it last made some
    size_t trickled                 # bytes since then: too few to be any

cdef enum:
    # A PUT's content up to this size travels in one segment with its head.
    JOINED_CONTENT = 16 << 10


cdef inline size_t exchange_to_send(const Exchange* exchange) noexcept nogil:
    cdef size_t size = exchange.out.size()
    if exchange.request.content_size > JOINED_CONTENT:
        size += exchange.request.content_size
    return size


cdef inline bint exchange_has_more(Exchange* exchange) noexcept nogil:
    # Bytes behind a response must not pass for the next one (RFC 9112, section 6.3); part of a TLS
    # record is some as well.
    cdef char octet
    if exchange.transport.operations.recv(
            &exchange.transport, &octet, 1) != TRANSPORT_WOULD_BLOCK:
        return True
    return exchange.transport.operations.pending != NULL and (
        exchange.transport.operations.pending(&exchange.transport))


cdef double exchange_date(const Exchange* exchange, Span field) noexcept nogil
cdef bint exchange_conclude(
    Exchange* exchange, Conclusion conclusion, Status code
) noexcept nogil
cdef bint exchange_break(Exchange* exchange, Status code) noexcept nogil
cdef bint exchange_fail(Exchange* exchange, Status code) noexcept nogil
cdef bint exchange_malformed(Exchange* exchange) noexcept nogil
cdef bint exchange_conclude_as_judged(Exchange* exchange) noexcept nogil
cdef bint exchange_end(Exchange* exchange, bint junk) noexcept nogil
cdef bint exchange_take_in(
    Exchange* exchange, const char* data, size_t size, bint emptied, double now
) noexcept nogil
