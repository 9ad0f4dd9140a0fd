"""HTTP/1.1 client codec after RFC 9112: request heads out, response bytes in, events back.

Sans-IO: never blocks, never allocates, total over all byte strings. How the bytes of a response
are split over calls never changes what comes out. Where the RFC lets a recipient be lenient it is
so in a head; the framing of a body is taken to the letter, for a connection is used again after it.
"""

from libc.limits cimport LLONG_MAX, UINT_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset
from libcpp.string cimport string


cdef extern from *:
    """
    // noexcept, so that std::bad_alloc ends here and not in a frame that cannot unwind.
    static inline void zfast_http1_append(
        std::string *out, const char *data, size_t size) noexcept { out->append(data, size); }
    static inline void zfast_http1_append(
        std::string *out, const char *text) noexcept { out->append(text); }
    """
    void _append_octets "zfast_http1_append"(
        string* out, const char* data, size_t size) noexcept nogil
    void _append_text "zfast_http1_append"(string* out, const char* text) noexcept nogil


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
    MAX_FIELDS = 256
    MAX_INTERIM = 64        # 1xx heads before the response
    MAX_EMPTY_LINES = 8     # left over before a status line
    MAX_CHUNK_HEADER = 4096

    TOKEN_OCTET = 1         # tchar, RFC 9110 section 5.6.2
    TEXT_OCTET = 2          # field-vchar, SP, HTAB: all but the other control characters
    TARGET_OCTET = 4        # VCHAR

cdef unsigned char OCTETS[256]


cdef void _classify_octets() noexcept nogil:
    cdef int octet
    for octet in range(256):
        OCTETS[octet] = 0
        if octet >= 0x20 and octet != 0x7F or octet == c'\t':
            OCTETS[octet] |= TEXT_OCTET
        if 0x21 <= octet <= 0x7E:
            OCTETS[octet] |= TARGET_OCTET
            if memchr(b'"(),/:;<=>?@[\\]{}', octet, 17) == NULL:
                OCTETS[octet] |= TOKEN_OCTET


_classify_octets()


# --- text: [text, end) of a field value that holds no control character but HTAB

cdef inline size_t _leading(const char* text, size_t size, int octet_class) noexcept nogil:
    # How many octets of this class the text begins with.
    cdef size_t at = 0
    while at < size and OCTETS[<unsigned char>text[at]] & octet_class:
        at += 1
    return at


cdef inline bint _is_digit(char octet) noexcept nogil:
    return c'0' <= octet <= c'9'


cdef inline bint _is_space(char octet) noexcept nogil:
    return octet == c' ' or octet == c'\t'


cdef inline bint _is_word(
    const char* text, const char* end, const char* lower, size_t size
) noexcept nogil:
    # Without regard to case. Bit 0x20 would also make a control character match, but there is none.
    cdef size_t at
    if <size_t>(end - text) != size:
        return False
    for at in range(size):
        if (text[at] | 0x20) != lower[at]:
            return False
    return True


cdef inline void _trim(const char** text, const char** end) noexcept nogil:
    while text[0] < end[0] and _is_space(text[0][0]):
        text[0] += 1
    while text[0] < end[0] and _is_space((end[0] - 1)[0]):
        end[0] -= 1


cdef inline bint _next_element(
    const char** rest, const char* end, const char** element, const char** element_end
) noexcept nogil:
    # Takes an element off a comma-separated list, OWS trimmed; False when there is none left.
    cdef const char* comma
    if rest[0] == NULL:
        return False
    comma = <const char*>memchr(rest[0], c',', end - rest[0])
    element[0] = rest[0]
    element_end[0] = end if comma == NULL else comma
    if comma != NULL:
        comma += 1
    rest[0] = comma
    _trim(element, element_end)
    return True


cdef long long _take_number(const char** text, const char* end) noexcept nogil:
    # 1*DIGIT off the front; -1 where there is no digit or no long long holds it.
    cdef long long number = 0
    cdef int digit
    if text[0] == end or not _is_digit(text[0][0]):
        return -1
    while text[0] < end and _is_digit(text[0][0]):
        digit = text[0][0] - c'0'
        if number > (LLONG_MAX - digit) // 10:
            return -1
        number = number * 10 + digit
        text[0] += 1
    return number


cdef inline long long _number(const char* text, const char* end) noexcept nogil:
    cdef long long number = _take_number(&text, end)
    return number if text == end else -1


# --- field values

cdef void _read_connection(Parser* parser, const char* rest, const char* end) noexcept nogil:
    cdef const char* option
    cdef const char* option_end
    while _next_element(&rest, end, &option, &option_end):
        if _is_word(option, option_end, b"close", 5):
            parser._close = True
        elif _is_word(option, option_end, b"keep-alive", 10):
            parser._keep_alive = True


cdef Http1Error _read_content_length(
    Parser* parser, const char* rest, const char* end
) noexcept nogil:
    # A list of equal numbers is the number (RFC 9112 section 6.3): some proxies join fields so.
    cdef const char* text
    cdef const char* text_end
    cdef long long length
    while _next_element(&rest, end, &text, &text_end):
        length = _number(text, text_end)
        if length < 0 or (parser.head.content_length >= 0 and parser.head.content_length != length):
            return BAD_CONTENT_LENGTH
        parser.head.content_length = length
    return NONE


cdef Http1Error _read_transfer_encoding(
    Parser* parser, const char* rest, const char* end
) noexcept nogil:
    # `chunked`, once, and nothing else: no other coding is ever asked for with TE.
    cdef const char* coding
    cdef const char* coding_end
    while _next_element(&rest, end, &coding, &coding_end):
        if coding != coding_end:
            if parser._transfer_codings or not _is_word(coding, coding_end, b"chunked", 7):
                return BAD_TRANSFER_ENCODING
            parser._transfer_codings += 1
    return NONE if parser._transfer_codings else BAD_TRANSFER_ENCODING


cdef void _read_content_encoding(Parser* parser, const char* rest, const char* end) noexcept nogil:
    cdef const char* coding
    cdef const char* coding_end
    while _next_element(&rest, end, &coding, &coding_end):
        if coding != coding_end and not _is_word(coding, coding_end, b"identity", 8):
            parser.head.encoded = True


cdef bint _parse_content_range(
    const char* text, const char* end, long long* start, long long* past, long long* total
) noexcept nogil:
    # RFC 9110 section 14.4: bytes first-last/length, bytes first-last/*, bytes */length
    cdef long long last
    start[0] = past[0] = total[0] = -1
    if end - text < 6 or not _is_word(text, text + 6, b"bytes ", 6):
        return False
    text += 6
    if text < end and text[0] == c'*':
        text += 1
    else:
        start[0] = _take_number(&text, end)
        if start[0] < 0 or text == end or text[0] != c'-':
            return False
        text += 1
        last = _take_number(&text, end)
        if last < start[0] or last == LLONG_MAX:
            return False
        past[0] = last + 1
    if text == end or text[0] != c'/':
        return False
    text += 1
    if start[0] >= 0 and end - text == 1 and text[0] == c'*':
        return True
    total[0] = _number(text, end)
    return total[0] >= past[0] and total[0] >= 0


cdef void _read_content_range(ResponseHead* head, const char* text, const char* end) noexcept nogil:
    cdef long long start, past, total
    cdef bint valid = _parse_content_range(text, end, &start, &past, &total)
    if head.has_content_range and (start != head.range_start or past != head.range_end
                                   or total != head.range_total):
        valid = False
    # Invalid is for good: no valid range has the three -1 that it leaves here.
    head.has_content_range = True
    head.content_range_valid = valid
    head.range_start = start if valid else -1
    head.range_end = past if valid else -1
    head.range_total = total if valid else -1


cdef inline bint _keep_first(
    Parser* parser, Span* span, const char* text, const char* end
) noexcept nogil:
    # Of a field that may come once only, the first counts.
    if span.offset:
        return False
    span.offset = <unsigned int>(text - parser.buffer)
    span.size = <unsigned int>(end - text)
    return True


cdef Http1Error _read_field(
    Parser* parser, const char* name, size_t name_size, const char* text, const char* end
) noexcept nogil:
    cdef ResponseHead* head = &parser.head
    cdef const char* name_end = name + name_size
    if name_size == 4:
        if _is_word(name, name_end, b"etag", 4):
            _keep_first(parser, &head.etag, text, end)
        elif _is_word(name, name_end, b"date", 4):
            _keep_first(parser, &head.date, text, end)
    elif name_size == 8:
        if _is_word(name, name_end, b"location", 8):
            _keep_first(parser, &head.location, text, end)
    elif name_size == 10:
        if _is_word(name, name_end, b"connection", 10):
            _read_connection(parser, text, end)
    elif name_size == 11:
        if _is_word(name, name_end, b"retry-after", 11):
            if _keep_first(parser, &head.retry_after_value, text, end):
                head.retry_after = _number(text, end)
    elif name_size == 12:
        if _is_word(name, name_end, b"content-type", 12):
            if _keep_first(parser, &head.content_type, text, end):
                name_end = <const char*>memchr(text, c';', end - text)
                end = end if name_end == NULL else name_end
                _trim(&text, &end)
                head.multipart = _is_word(text, end, b"multipart/byteranges", 20)
    elif name_size == 13:
        if _is_word(name, name_end, b"content-range", 13):
            _read_content_range(head, text, end)
        elif _is_word(name, name_end, b"last-modified", 13):
            _keep_first(parser, &head.last_modified, text, end)
    elif name_size == 14:
        if _is_word(name, name_end, b"content-length", 14):
            return _read_content_length(parser, text, end)
    elif name_size == 16:
        if _is_word(name, name_end, b"content-encoding", 16):
            _read_content_encoding(parser, text, end)
    elif name_size == 17:
        if _is_word(name, name_end, b"transfer-encoding", 17):
            return _read_transfer_encoding(parser, text, end)
    return NONE


# --- the head, line by line

cdef Http1Error _end_status_line(Parser* parser, const char* line, const char* end) noexcept nogil:
    # HTTP-version SP status-code [ SP reason-phrase ]
    cdef ResponseHead* head = &parser.head
    if end - line < 12 or memcmp(line, b"HTTP/1.", 7) != 0:
        return BAD_STATUS_LINE
    if not _is_digit(line[7]) or line[8] != c' ' or not c'1' <= line[9] <= c'9':
        return BAD_STATUS_LINE
    if not _is_digit(line[10]) or not _is_digit(line[11]):
        return BAD_STATUS_LINE
    head.minor_version = line[7] - c'0'
    head.status = (line[9] - c'0') * 100 + (line[10] - c'0') * 10 + (line[11] - c'0')
    line += 12
    if line < end and line[0] != c' ':
        return BAD_STATUS_LINE
    if _leading(line, end - line, TEXT_OCTET) != <size_t>(end - line):
        return BAD_STATUS_LINE
    _trim(&line, &end)
    if line < end:
        _keep_first(parser, &head.reason, line, end)
    return NONE


cdef Http1Error _end_field_line(Parser* parser, const char* line, const char* end) noexcept nogil:
    # field-name ":" OWS field-value OWS
    cdef size_t name_size = _leading(line, end - line, TOKEN_OCTET)
    cdef const char* value = line + name_size
    if name_size == 0 or value == end or value[0] != c':':
        return BAD_FIELD
    value += 1
    if _leading(value, end - value, TEXT_OCTET) != <size_t>(end - value):
        return BAD_FIELD
    parser._fields += 1
    if parser._fields > MAX_FIELDS:
        return TOO_MANY_FIELDS
    _trim(&value, &end)
    return _read_field(parser, line, name_size, value, end)


cdef void _begin_head(Parser* parser) noexcept nogil:
    memset(&parser.head, 0, sizeof(ResponseHead))
    parser.head.content_length = parser.head.retry_after = -1
    parser.head.range_start = parser.head.range_end = parser.head.range_total = -1
    parser.size = parser._line = parser._field = 0
    parser._fields = parser._transfer_codings = 0
    parser._close = parser._keep_alive = False
    parser._state = AT_STATUS_LINE


cdef Http1Error _end_head(Parser* parser) noexcept nogil:
    # Message body length, RFC 9112 section 6.3, and persistence, section 9.3.
    cdef ResponseHead* head = &parser.head
    if head.status == 101:
        return UNEXPECTED_UPGRADE
    if head.status < 200:
        parser._interim += 1
        if parser._interim > MAX_INTERIM:
            return TOO_MANY_INTERIM
        _begin_head(parser)
        return NONE
    head.keep_alive = not parser._close and (head.minor_version > 0 or parser._keep_alive)
    if parser._transfer_codings:
        # Framing of two minds, or of a version that has no chunks: somebody on the way is wrong
        # about where this response ends (sections 6.1 and 6.3).
        if head.content_length >= 0 or head.minor_version == 0:
            head.keep_alive = False
        head.content_length = -1
    if parser._head_request or head.status == 204 or head.status == 304:
        head.framing = NO_BODY
        parser._state = DONE
    elif parser._transfer_codings:
        head.framing = CHUNKED
        parser._state = IN_CHUNK_SIZE
    elif head.content_length >= 0:
        head.framing = CONTENT_LENGTH
        parser.remaining = head.content_length
        parser._state = IN_DATA if parser.remaining else DONE
    else:
        head.framing = UNTIL_EOF
        head.keep_alive = False
        parser.remaining = -1
        parser._state = IN_DATA
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
        return _end_status_line(parser, line, end)
    if line < end and _is_space(line[0]):
        # obs-fold (section 5.2): the line end before it becomes SP
        if parser._field == 0:
            return BAD_FIELD
        fold = parser.buffer + parser._field_end
        while fold < line:
            fold[0] = c' '
            fold += 1
    else:
        if parser._field:
            error = _end_field_line(
                parser, parser.buffer + parser._field, parser.buffer + parser._field_end)
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

cdef inline int _hex_digit(unsigned char octet) noexcept nogil:
    if c'0' <= octet <= c'9':
        return octet - c'0'
    octet |= 0x20
    return octet - c'a' + 10 if c'a' <= octet <= c'f' else -1


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
        digit = _hex_digit(octet)
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
        return NONE if OCTETS[octet] & TEXT_OCTET else BAD_CHUNK
    if state == IN_QUOTED_STRING:
        if octet == c'"':
            parser._state = IN_CHUNK_EXT
        elif octet == c'\\':
            parser._state = IN_QUOTED_PAIR
        return NONE if OCTETS[octet] & TEXT_OCTET else BAD_CHUNK
    if octet == c'\r':
        parser._state = AT_CHUNK_HEADER_LF
        return NONE
    if state == AFTER_CHUNK_SIZE:
        if octet == c';':
            parser._state = IN_CHUNK_EXT
            return NONE
        return NONE if _is_space(octet) else BAD_CHUNK
    if octet == c'"':
        parser._state = IN_QUOTED_STRING
    return NONE if OCTETS[octet] & TEXT_OCTET else BAD_CHUNK


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
        if _is_space(octet) and parser._fields:
            parser._state = IN_TRAILER_VALUE
            return NONE
        if not OCTETS[octet] & TOKEN_OCTET:
            return BAD_FIELD
        parser._fields += 1
        parser._state = IN_TRAILER_NAME
        return NONE if parser._fields <= MAX_FIELDS else TOO_MANY_FIELDS
    if state == IN_TRAILER_NAME:
        if octet == c':':
            parser._state = IN_TRAILER_VALUE
            return NONE
        return NONE if OCTETS[octet] & TOKEN_OCTET else BAD_FIELD
    if state == IN_TRAILER_VALUE:
        if octet == c'\r':
            parser._state = AT_TRAILER_LF
            return NONE
        return NONE if OCTETS[octet] & TEXT_OCTET else BAD_FIELD
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


# --- request heads

cdef void _append_number(string* out, unsigned long long number) noexcept nogil:
    cdef char digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <char>(c'0' + number % 10)
        number //= 10
        if number == 0:
            break
    _append_octets(out, digits + at, 20 - at)


cdef void http1_request_line(string* out, const char* method, const string& target) noexcept nogil:
    _append_text(out, method)
    _append_text(out, b" ")
    _append_octets(out, target.data(), target.size())
    _append_text(out, b" HTTP/1.1\r\n")


cdef void http1_field(string* out, const char* name, const string& value) noexcept nogil:
    _append_text(out, name)
    _append_text(out, b": ")
    _append_octets(out, value.data(), value.size())
    _append_text(out, b"\r\n")


cdef void http1_range(string* out, int kind, long long start, long long end) noexcept nogil:
    # HTTP's last-pos is inclusive (RFC 9110 section 14.1.2): the only place that knows it.
    _append_text(out, b"Range: bytes=-" if kind == 3 else b"Range: bytes=")
    _append_number(out, start)
    if kind != 3:
        _append_text(out, b"-")
    if kind == 1:
        _append_number(out, <unsigned long long>end - 1)
    _append_text(out, b"\r\n")


cdef void http1_content_length(string* out, long long size) noexcept nogil:
    _append_text(out, b"Content-Length: ")
    _append_number(out, size)
    _append_text(out, b"\r\n")


cdef void http1_finish(string* out) noexcept nogil:
    _append_text(out, b"\r\n")


cdef bint http1_is_token(const char* text, size_t size) noexcept nogil:
    return size > 0 and _leading(text, size, TOKEN_OCTET) == size


cdef bint http1_is_field_value(const char* text, size_t size) noexcept nogil:
    return _leading(text, size, TEXT_OCTET) == size


cdef bint http1_is_target(const char* text, size_t size) noexcept nogil:
    return size > 0 and _leading(text, size, TARGET_OCTET) == size


# --- the Python face

cdef bytes _octets(object value, str what):
    if not isinstance(value, str):
        return value
    try:
        return (<str>value).encode("iso-8859-1")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a {what} cannot hold U+{ord(value[error.start]):04X} at position {error.start}"
        ) from None


cdef object _refusal(bytes octets, int octet_class, str what):
    # The value itself stays out of the message: it may be a credential.
    cdef size_t at = _leading(octets, len(octets), octet_class)
    if not octets:
        return ValueError(f"a {what} cannot be empty: nothing at position 0")
    return ValueError(f"a {what} cannot hold octet 0x{octets[at]:02X} at position {at}")


def check_token(value):
    cdef bytes octets = _octets(value, "token")
    if not http1_is_token(octets, len(octets)):
        raise _refusal(octets, TOKEN_OCTET, "token")
    return octets


def check_field_value(value):
    cdef bytes octets = _octets(value, "field value")
    if not http1_is_field_value(octets, len(octets)):
        raise _refusal(octets, TEXT_OCTET, "field value")
    return octets


def check_target(value):
    cdef bytes octets = _octets(value, "request target")
    if not http1_is_target(octets, len(octets)):
        raise _refusal(octets, TARGET_OCTET, "request target")
    return octets


def request_head(method, target, fields=(), *, byte_range=None, content_length=None):
    cdef string out
    cdef bytes name = check_token(method)
    http1_request_line(&out, name, check_target(target))
    for field_name, field_value in fields:
        name = check_token(field_name)
        http1_field(&out, name, check_field_value(field_value))
    if byte_range is not None:
        start, end = byte_range
        if end is None:
            http1_range(&out, 3 if start < 0 else 2, abs(start), 0)
        elif 0 <= start < end:
            http1_range(&out, 1, start, end)
        else:
            raise ValueError(f"no Range field can ask for [{start}, {end})")
    if content_length is not None:
        http1_content_length(&out, content_length)
    http1_finish(&out)
    return <bytes>out


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
        head = <dict>self.parser.head
        for name, value in head.items():
            if isinstance(value, dict):
                start = value["offset"]
                head[name] = self.buffer[start:start + value["size"]] if start else None
        return head
