# Sans-IO HTTP/1.1 client codec after RFC 9112: bytes in, events out. The caller owns all memory:
# http1_start takes the buffer that holds the head, http1_feed leaves body bytes where they are.

from libcpp.string cimport string

cpdef enum Event:
    NEED_DATA               # everything fed was used
    HEAD                    # Parser.head is complete
    BODY                    # Parser.body, Parser.body_size are the next body bytes
    END                     # the response is complete; bytes not used belong to no part of it
    ERROR                   # Parser.error says which; the connection is of no more use

cpdef enum Framing:
    NO_BODY
    CONTENT_LENGTH
    CHUNKED
    UNTIL_EOF

cpdef enum Http1Error:
    NONE
    BAD_STATUS_LINE
    BAD_FIELD
    BAD_CONTENT_LENGTH
    BAD_TRANSFER_ENCODING
    BAD_CHUNK
    HEAD_TOO_LARGE
    TOO_MANY_FIELDS
    TOO_MANY_INTERIM
    EOF_IN_HEAD
    EOF_IN_BODY
    EOF_BEFORE_HEAD         # not one byte of a response came
    UNEXPECTED_UPGRADE      # 101, though no upgrade is ever asked for

cdef struct Span:           # into Parser.buffer
    unsigned int offset     # 0 = absent: the status line is there
    unsigned int size

cdef struct ResponseHead:
    int status
    int minor_version
    bint keep_alive
    Framing framing
    long long content_length        # -1 = not announced, or overruled by Transfer-Encoding
    bint has_content_range
    bint content_range_valid
    long long range_start           # -1 in "bytes */N", as range_end
    long long range_end             # exclusive
    long long range_total           # -1 for "*"
    bint encoded                    # a Content-Encoding other than identity
    bint multipart                  # Content-Type: multipart/byteranges
    long long retry_after           # seconds; -1 where absent or no number: then see the span
    Span reason
    Span etag
    Span location
    Span retry_after_value
    Span content_type
    Span last_modified
    Span date

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
    bint _close                     # connection options seen
    bint _keep_alive
    size_t _line                    # where the current line begins
    size_t _field                   # the field line before it, which a fold may still continue
    size_t _field_end               # (0 = none yet)
    int _fields
    int _transfer_codings
    int _empty_lines
    int _interim
    long long _chunk_size
    bint _chunk_digits
    size_t _section                 # bytes of the current chunk header or trailer section

# One response: the parser forgets the one before. `data` fed later must not overlap `buffer`.
cdef void http1_start(
    Parser* parser, char* buffer, size_t capacity, bint head_request
) noexcept nogil
# One event at most, `used` bytes consumed for it. After HEAD and BODY call again with the rest,
# even with 0 bytes: END may need no more. NEED_DATA has used everything.
cdef Event http1_feed(Parser* parser, const char* data, size_t size, size_t* used) noexcept nogil
cdef Event http1_eof(Parser* parser) noexcept nogil
# How many body bytes may be received into their destination without being fed.
cdef long long http1_direct(const Parser* parser) noexcept nogil
cdef Event http1_direct_received(Parser* parser, long long size) noexcept nogil

# A request head, appended to a string that the caller reuses. What goes in has passed the
# predicates below (from Python: check_token, check_target, check_field_value): nothing is looked
# at again here. Running out of memory ends the process.
cdef void http1_request_line(string* out, const char* method, const string& target) noexcept nogil
cdef void http1_field(string* out, const char* name, const string& value) noexcept nogil
# kind 1: [start, end), with start < end; 2: from start; 3: the last `start` bytes
cdef void http1_range(string* out, int kind, long long start, long long end) noexcept nogil
cdef void http1_content_length(string* out, long long size) noexcept nogil
cdef void http1_finish(string* out) noexcept nogil

cdef bint http1_is_token(const char* text, size_t size) noexcept nogil
cdef bint http1_is_field_value(const char* text, size_t size) noexcept nogil
cdef bint http1_is_target(const char* text, size_t size) noexcept nogil
