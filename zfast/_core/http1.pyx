"""Response bytes in, events back: the sans-IO parser of an HTTP/1.1 client, after RFC 9112.

Never blocks, never allocates, total over all byte strings. How the bytes of a response are split
over calls never changes what comes out. Where the RFC lets a recipient be lenient it is so in a
head; the framing of a body is taken to the letter, for a connection is used again after it.
"""

from libc.limits cimport LLONG_MAX, UINT_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from zfast._core.octets cimport TEXT_OCTET, TOKEN_OCTET, hex_digit, is_octet, is_space
from zfast._core.response_head cimport (
    BAD_CHUNK,
    BAD_CONTENT_LENGTH,
    BAD_FIELD,
    BAD_STATUS_LINE,
    CHUNKED,
    CONTENT_LENGTH,
    EOF_BEFORE_HEAD,
    EOF_IN_BODY,
    EOF_IN_HEAD,
    HEAD_TOO_LARGE,
    MAX_FIELDS,
    NONE,
    TOO_MANY_FIELDS,
    TOO_MANY_INTERIM,
    UNEXPECTED_UPGRADE,
    UNTIL_EOF,
    Http1Error,
    response_head_begin,
    response_head_field_line,
    response_head_frame,
    response_head_status_line,
)


cdef enum State:            # in the order of a response: some are compared
    AT_STATUS_LINE
    AT_FIELD_LINE
    IN_DATA                 # of the body or of a chunk
    IN_CHUNK_SIZE
    AFTER_CHUNK_SIZE
    IN_CHUNK_EXT
    IN_QUOTED_STRING
    IN_QUOTED_PAIR
    AT_CHUNK_HEADER_LF
    AT_CHUNK_DATA_CR
    AT_CHUNK_DATA_LF
    AT_TRAILER
    IN_TRAILER_NAME
    IN_TRAILER_VALUE
    AT_TRAILER_LF
    AT_LAST_LF
    DONE
    FAILED

cdef enum:
    MAX_INTERIM = 64        # 1xx heads before the response
    MAX_EMPTY_LINES = 8     # left over before a status line
    MAX_CHUNK_HEADER = 4096


# --- the head

cdef void _begin_head(Parser* parser) noexcept nogil:
    response_head_begin(&parser.head)
    parser.size = parser._line = parser._field = 0
    parser._state = AT_STATUS_LINE


cdef Http1Error _end_head(Parser* parser) noexcept nogil:
    if parser.head.status == 101:
        return UNEXPECTED_UPGRADE
    if parser.head.status < 200:
        parser._interim += 1
        if parser._interim > MAX_INTERIM:
            return TOO_MANY_INTERIM
        _begin_head(parser)
        return NONE
    response_head_frame(&parser.head, parser._head_request)
    if parser.head.framing == CHUNKED:
        parser._state = IN_CHUNK_SIZE
    elif parser.head.framing == CONTENT_LENGTH:
        parser.remaining = parser.head.content_length
        parser._state = IN_DATA if parser.remaining else DONE
    elif parser.head.framing == UNTIL_EOF:
        parser.remaining = -1
        parser._state = IN_DATA
    else:
        parser._state = DONE
    return NONE


cdef Http1Error _end_line(Parser* parser) noexcept nogil:
    # [_line, size) is a whole line. A field line is read when the next line shows that it is over.
    cdef char* line = parser.buffer + parser._line
    cdef char* end = parser.buffer + parser.size - 1
    cdef char* fold
    cdef Http1Error error = NONE
    if end > line and (end - 1)[0] == c'\r':
        end -= 1
    if parser._state == AT_STATUS_LINE:
        if line == end:
            parser.size = 0
            parser._empty_lines += 1
            return NONE if parser._empty_lines <= MAX_EMPTY_LINES else BAD_STATUS_LINE
        parser._line = parser.size
        parser._state = AT_FIELD_LINE
        return response_head_status_line(&parser.head, parser.buffer, line, end)
    if line < end and is_space(line[0]):
        # obs-fold (section 5.2): the line end before it becomes SP
        if parser._field == 0:
            return BAD_FIELD
        fold = parser.buffer + parser._field_end
        while fold < line:
            fold[0] = c' '
            fold += 1
    else:
        if parser._field:
            error = response_head_field_line(
                &parser.head, parser.buffer, parser.buffer + parser._field,
                parser.buffer + parser._field_end)
        if error == NONE and line == end:
            return _end_head(parser)
        parser._field = parser._line
    parser._line = parser.size
    parser._field_end = end - parser.buffer
    return error


cdef Event _fail(Parser* parser, Http1Error error) noexcept nogil:
    parser.error = error
    parser.head.keep_alive = False
    parser.remaining = 0
    parser._state = FAILED
    return ERROR


cdef Event _receive_head(
    Parser* parser, const char* data, size_t size, size_t* used
) noexcept nogil:
    cdef size_t room, taken
    cdef const char* line_feed
    cdef Http1Error error
    while used[0] < size:
        room = min(parser.capacity - parser.size, size - used[0])
        if room == 0:
            return _fail(parser, HEAD_TOO_LARGE)
        line_feed = <const char*>memchr(data + used[0], c'\n', room)
        taken = room if line_feed == NULL else line_feed - (data + used[0]) + 1
        memcpy(parser.buffer + parser.size, data + used[0], taken)
        parser.size += taken
        used[0] += taken
        if line_feed != NULL:
            error = _end_line(parser)
            if error != NONE:
                return _fail(parser, error)
            if parser._state > AT_FIELD_LINE:
                return HEAD
        elif parser._state == AT_STATUS_LINE:
            # Something that is not HTTP/1 may never send a line feed: do not wait for one.
            if memcmp(parser.buffer, b"HTTP/1.", min(parser.size, <size_t>7)) != 0 and not (
                    parser.size == 1 and parser.buffer[0] == c'\r'):
                return _fail(parser, BAD_STATUS_LINE)
    return NEED_DATA


# --- the body

cdef Event _account(Parser* parser, long long size) noexcept nogil:
    # Only a body until EOF can reach the bound, and only in accounts of a broken caller.
    parser.body_received += min(size, LLONG_MAX - parser.body_received)
    if parser.remaining < 0:
        return NEED_DATA
    parser.remaining -= size
    if parser.remaining:
        return NEED_DATA
    if parser.head.framing == CHUNKED:
        parser._state = AT_CHUNK_DATA_CR
        return NEED_DATA
    parser._state = DONE
    return END


cdef inline Event _receive_data(
    Parser* parser, const char* data, size_t size, size_t* used
) noexcept nogil:
    cdef size_t taken = size - used[0]
    if taken == 0:
        return NEED_DATA
    if parser.remaining >= 0 and <unsigned long long>parser.remaining < taken:
        taken = <size_t>parser.remaining
    parser.body = data + used[0]
    parser.body_size = taken
    used[0] += taken
    _account(parser, <long long>taken)
    return BODY


cdef Http1Error _end_chunk_header(Parser* parser) noexcept nogil:
    parser._section = 0
    if parser._chunk_size == 0:
        parser._fields = 0
        parser._state = AT_TRAILER
        return NONE
    if parser._chunk_size > LLONG_MAX - parser.body_received:
        return BAD_CHUNK
    parser.remaining = parser._chunk_size
    parser._chunk_size = 0
    parser._chunk_digits = False
    parser._state = IN_DATA
    return NONE


cdef Http1Error _read_chunk_header(Parser* parser, unsigned char octet) noexcept nogil:
    # chunk-size *( BWS ";" chunk-ext ) CRLF, and the CRLF after chunk-data (section 7.1). A bare
    # LF is an error here: two readings of where a chunk ends are what smuggling lives on.
    cdef int state = parser._state
    cdef int digit
    parser._section += 1
    if parser._section > MAX_CHUNK_HEADER:
        return BAD_CHUNK
    if state == AT_CHUNK_DATA_CR:
        parser._state = AT_CHUNK_DATA_LF
        return NONE if octet == c'\r' else BAD_CHUNK
    if state == AT_CHUNK_DATA_LF:
        parser._section = 0
        parser._state = IN_CHUNK_SIZE
        return NONE if octet == c'\n' else BAD_CHUNK
    if state == AT_CHUNK_HEADER_LF:
        return _end_chunk_header(parser) if octet == c'\n' else BAD_CHUNK
    if state == IN_CHUNK_SIZE:
        digit = hex_digit(octet)
        if digit >= 0:
            if parser._chunk_size > LLONG_MAX >> 4:
                return BAD_CHUNK
            parser._chunk_size = parser._chunk_size << 4 | digit
            parser._chunk_digits = True
            return NONE
        if not parser._chunk_digits:
            return BAD_CHUNK
        state = parser._state = AFTER_CHUNK_SIZE
    if state == IN_QUOTED_PAIR:
        parser._state = IN_QUOTED_STRING
        return NONE if is_octet(octet, TEXT_OCTET) else BAD_CHUNK
    if state == IN_QUOTED_STRING:
        if octet == c'"':
            parser._state = IN_CHUNK_EXT
        elif octet == c'\\':
            parser._state = IN_QUOTED_PAIR
        return NONE if is_octet(octet, TEXT_OCTET) else BAD_CHUNK
    if octet == c'\r':
        parser._state = AT_CHUNK_HEADER_LF
        return NONE
    if state == AFTER_CHUNK_SIZE:
        if octet == c';':
            parser._state = IN_CHUNK_EXT
            return NONE
        return NONE if is_space(octet) else BAD_CHUNK
    if octet == c'"':
        parser._state = IN_QUOTED_STRING
    return NONE if is_octet(octet, TEXT_OCTET) else BAD_CHUNK


cdef Http1Error _read_trailer(Parser* parser, unsigned char octet) noexcept nogil:
    # *( field-line CRLF ) CRLF, skipped (section 7.1.2). It may be as large as a head.
    cdef int state = parser._state
    parser._section += 1
    if parser._section > parser.capacity:
        return HEAD_TOO_LARGE
    if state == AT_TRAILER:
        if octet == c'\r':
            parser._state = AT_LAST_LF
            return NONE
        if is_space(octet) and parser._fields:
            parser._state = IN_TRAILER_VALUE
            return NONE
        if not is_octet(octet, TOKEN_OCTET):
            return BAD_FIELD
        parser._fields += 1
        parser._state = IN_TRAILER_NAME
        return NONE if parser._fields <= MAX_FIELDS else TOO_MANY_FIELDS
    if state == IN_TRAILER_NAME:
        if octet == c':':
            parser._state = IN_TRAILER_VALUE
            return NONE
        return NONE if is_octet(octet, TOKEN_OCTET) else BAD_FIELD
    if state == IN_TRAILER_VALUE:
        if octet == c'\r':
            parser._state = AT_TRAILER_LF
            return NONE
        return NONE if is_octet(octet, TEXT_OCTET) else BAD_FIELD
    parser._state = AT_TRAILER if state == AT_TRAILER_LF else DONE
    return NONE if octet == c'\n' else BAD_FIELD


cdef Event _receive_chunked(
    Parser* parser, const char* data, size_t size, size_t* used
) noexcept nogil:
    cdef Http1Error error
    while used[0] < size:
        if parser._state == IN_DATA:
            return _receive_data(parser, data, size, used)
        if parser._state < AT_TRAILER:
            error = _read_chunk_header(parser, data[used[0]])
        else:
            error = _read_trailer(parser, data[used[0]])
        used[0] += 1
        if error != NONE:
            return _fail(parser, error)
        if parser._state == DONE:
            return END
    return NEED_DATA


# --- the parser's face in C

cdef void http1_start(
    Parser* parser, char* buffer, size_t capacity, bint head_request
) noexcept nogil:
    memset(parser, 0, sizeof(Parser))
    parser.buffer = buffer
    parser.capacity = min(capacity, <size_t>UINT_MAX)
    parser._head_request = head_request
    _begin_head(parser)


cdef Event http1_feed(Parser* parser, const char* data, size_t size, size_t* used) noexcept nogil:
    used[0] = 0
    parser.body = NULL
    parser.body_size = 0
    if parser._state == DONE:
        return END
    if parser._state == FAILED:
        return ERROR
    if parser._state <= AT_FIELD_LINE:
        return _receive_head(parser, data, size, used)
    if parser.head.framing == CHUNKED:
        return _receive_chunked(parser, data, size, used)
    return _receive_data(parser, data, size, used)


cdef Event http1_eof(Parser* parser) noexcept nogil:
    if parser._state == FAILED:
        return ERROR
    if parser._state == AT_STATUS_LINE and parser.size == 0 and parser._interim == 0:
        return _fail(parser, EOF_BEFORE_HEAD)
    if parser._state <= AT_FIELD_LINE:
        return _fail(parser, EOF_IN_HEAD)
    if parser._state != DONE and parser.head.framing != UNTIL_EOF:
        return _fail(parser, EOF_IN_BODY)
    parser.remaining = 0
    parser._state = DONE
    return END


cdef bint http1_in_trailers(const Parser* parser) noexcept nogil:
    return parser._state >= AT_TRAILER


cdef long long http1_direct(const Parser* parser) noexcept nogil:
    if parser._state != IN_DATA:
        return 0
    return parser.remaining if parser.remaining >= 0 else LLONG_MAX


cdef Event http1_direct_received(Parser* parser, long long size) noexcept nogil:
    if parser._state == FAILED:
        return ERROR
    if not 0 <= size <= http1_direct(parser):
        # More than the framing has: those bytes are no body, wherever they are now.
        return _fail(
            parser, BAD_CHUNK if parser.head.framing == CHUNKED else BAD_CONTENT_LENGTH)
    if size:
        return _account(parser, size)
    return END if parser._state == DONE else NEED_DATA


# --- the Python face

def parse_fields(bytes raw_head not None):
    parser = ResponseParser(len(raw_head))
    event = parser.next_event(raw_head)[0]
    if event != HEAD:
        raise ValueError(f"not a whole response head ({(parser.error or event).name})")
    fields = []
    lines = iter(parser.raw_head.split(b"\n"))
    next(lines)
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            value = value.strip(b" \t\r").decode("iso-8859-1")
            fields.append((name.decode("ascii"), value))
    return fields


cdef class ResponseParser:
    cdef Parser parser
    cdef char* buffer
    cdef size_t capacity
    cdef readonly size_t unused

    def __cinit__(self, size_t capacity=65536, *, bint head_request=False):
        self.capacity = capacity
        self.buffer = <char*>malloc(max(capacity, <size_t>1))
        if self.buffer == NULL:
            raise MemoryError
        self.start(head_request=head_request)

    def __dealloc__(self):
        free(self.buffer)

    def start(self, *, bint head_request=False):
        self.unused = 0
        http1_start(&self.parser, self.buffer, self.capacity, head_request)

    def next_event(self, bytes data not None):
        cdef size_t used
        cdef Event event = http1_feed(&self.parser, data, len(data), &used)
        self.unused = len(data) - used
        return event, used, self.parser.body[:self.parser.body_size]

    def feed(self, bytes data not None):
        cdef const char* at = data
        cdef size_t left = len(data)
        cdef size_t used
        cdef Event event = HEAD
        events = []
        while event == HEAD or event == BODY:
            event = http1_feed(&self.parser, at, left, &used)
            at += used
            left -= used
            if event == BODY:
                events.append(self.parser.body[:self.parser.body_size])
            elif event != NEED_DATA:
                events.append(event)
        self.unused = left
        return events

    def eof(self):
        return http1_eof(&self.parser)

    def direct(self):
        return http1_direct(&self.parser)

    def direct_received(self, long long size):
        return http1_direct_received(&self.parser, size)

    @property
    def error(self):
        return self.parser.error

    @property
    def remaining(self):
        return self.parser.remaining

    @property
    def body_received(self):
        return self.parser.body_received

    @property
    def raw_head(self):
        return self.buffer[:self.parser.size]

    @property
    def head(self):
        head = {}
        for name, value in (<dict>self.parser.head).items():
            if isinstance(value, dict):
                start = value["offset"]
                value = self.buffer[start:start + value["size"]] if start else None
            if not name.startswith("_"):
                head[name] = value
        return head
