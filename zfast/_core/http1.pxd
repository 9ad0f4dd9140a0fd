# Sans-IO parser of HTTP/1.1 responses: bytes in, events out. The caller owns all memory:
# http1_start takes the buffer that holds the head, http1_feed leaves body bytes where they are.

from zfast._core.response_head cimport Http1Error, ResponseHead

cpdef enum Event:
    NEED_DATA               # everything fed was used
    HEAD                    # Parser.head is complete
    BODY                    # Parser.body, Parser.body_size are the next body bytes
    END                     # the response is complete; bytes not used belong to no part of it
    ERROR                   # Parser.error says which; the connection is of no more use

cdef struct Parser:
    ResponseHead head
    char* buffer
    size_t capacity
    size_t size                     # bytes of the head so far; they stay until http1_start
    const char* body                # of the BODY event, inside the data fed
    size_t body_size
    long long remaining             # of the body or of the current chunk; -1 until EOF
    long long body_received
    Http1Error error
    # private
    int _state
    bint _head_request
    size_t _line                    # where the current line begins
    size_t _field                   # the field line before it, which a fold may still continue
    size_t _field_end               # (0 = none yet)
    int _empty_lines
    int _interim
    long long _chunk_size
    bint _chunk_digits
    size_t _section                 # bytes of the current chunk header or trailer section
    int _fields                     # of the trailer section

# One response: the parser forgets the one before. `data` fed later must not overlap `buffer`.
cdef void http1_start(
    Parser* parser, char* buffer, size_t capacity, bint head_request
) noexcept nogil
# One event at most, `used` bytes consumed for it. After HEAD and BODY call again with the rest,
# even with 0 bytes: END may need no more. NEED_DATA has used everything.
cdef Event http1_feed(Parser* parser, const char* data, size_t size, size_t* used) noexcept nogil
cdef Event http1_eof(Parser* parser) noexcept nogil
cdef bint http1_in_trailers(const Parser* parser) noexcept nogil
# How many body bytes may be received into their destination without being fed.
cdef long long http1_direct(const Parser* parser) noexcept nogil
cdef Event http1_direct_received(Parser* parser, long long size) noexcept nogil
