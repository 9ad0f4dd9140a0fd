# A response head, read line by line into the few facts that framing, caching and range reads need.

cpdef enum Framing:
    NO_BODY
    CONTENT_LENGTH
    CHUNKED
    UNTIL_EOF

cpdef enum Http1Error:      # of the whole response, its head being the first part that can be wrong
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

cdef enum:
    MAX_FIELDS = 256        # of a head, and of a trailer section

cdef struct Span:           # into the buffer that holds the head
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
    # private
    int _fields
    int _transfer_codings
    bint _close                     # connection options seen
    bint _keep_alive

# In this order: one status line, the field lines, and at the empty line the framing. A line is
# [line, end) in `buffer`, without its line end and already unfolded.
cdef void response_head_begin(ResponseHead* head) noexcept nogil
cdef Http1Error response_head_status_line(
    ResponseHead* head, const char* buffer, const char* line, const char* end
) noexcept nogil
cdef Http1Error response_head_field_line(
    ResponseHead* head, const char* buffer, const char* line, const char* end
) noexcept nogil
cdef void response_head_frame(ResponseHead* head, bint head_request) noexcept nogil
