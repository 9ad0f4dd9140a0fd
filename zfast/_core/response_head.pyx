"""The lines of a response head (RFC 9112), read into the few facts that the core acts on.

Pure: never blocks, never allocates, total over all byte strings. Where the RFC lets a recipient be
lenient, these functions are; only about where the body ends they are not.
"""

from libc.limits cimport LLONG_MAX
from libc.string cimport memchr, memcmp, memset

from zfast._core.octets cimport (
    TEXT_OCTET,
    TOKEN_OCTET,
    is_digit,
    is_word,
    leading,
    next_element,
    take_number,
    trim,
    whole_number,
)

# --- field values

cdef void _read_connection(ResponseHead* head, const char* rest, const char* end) noexcept nogil:
    cdef const char* option
    cdef const char* option_end
    while next_element(&rest, end, &option, &option_end):
        if is_word(option, option_end, b"close", 5):
            head._close = True
        elif is_word(option, option_end, b"keep-alive", 10):
            head._keep_alive = True


cdef Http1Error _read_content_length(
    ResponseHead* head, const char* rest, const char* end
) noexcept nogil:
    # A list of equal numbers is the number (RFC 9112 section 6.3): some proxies join fields so.
    cdef const char* text
    cdef const char* text_end
    cdef long long length
    while next_element(&rest, end, &text, &text_end):
        length = whole_number(text, text_end)
        if length < 0 or (head.content_length >= 0 and head.content_length != length):
            return BAD_CONTENT_LENGTH
        head.content_length = length
    return NONE


cdef Http1Error _read_transfer_encoding(
    ResponseHead* head, const char* rest, const char* end
) noexcept nogil:
    # `chunked`, once, and nothing else: no other coding is ever asked for with TE.
    cdef const char* coding
    cdef const char* coding_end
    while next_element(&rest, end, &coding, &coding_end):
        if coding != coding_end:
            if head._transfer_codings or not is_word(coding, coding_end, b"chunked", 7):
                return BAD_TRANSFER_ENCODING
            head._transfer_codings += 1
    return NONE if head._transfer_codings else BAD_TRANSFER_ENCODING


cdef void _read_content_encoding(
    ResponseHead* head, const char* rest, const char* end
) noexcept nogil:
    cdef const char* coding
    cdef const char* coding_end
    while next_element(&rest, end, &coding, &coding_end):
        if coding != coding_end and not is_word(coding, coding_end, b"identity", 8):
            head.encoded = True


cdef bint _parse_content_range(
    const char* text, const char* end, long long* start, long long* past, long long* total
) noexcept nogil:
    # RFC 9110 section 14.4: bytes first-last/length, bytes first-last/*, bytes */length
    cdef long long last
    start[0] = past[0] = total[0] = -1
    if end - text < 6 or not is_word(text, text + 6, b"bytes ", 6):
        return False
    text += 6
    if is_word(text, end, b"0--1/0", 6):
        # Caddy's way to say that there is nothing, to a suffix of an empty object.
        start[0] = past[0] = total[0] = 0
        return True
    if text < end and text[0] == c'*':
        text += 1
    else:
        start[0] = take_number(&text, end)
        if start[0] < 0 or text == end or text[0] != c'-':
            return False
        text += 1
        last = take_number(&text, end)
        if last < start[0] or last == LLONG_MAX:
            return False
        past[0] = last + 1
    if text == end or text[0] != c'/':
        return False
    text += 1
    if start[0] >= 0 and end - text == 1 and text[0] == c'*':
        return True
    total[0] = whole_number(text, end)
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
    Span* span, const char* buffer, const char* text, const char* end
) noexcept nogil:
    # Of a field that may come once only, the first counts.
    if span.offset:
        return False
    span.offset = <unsigned int>(text - buffer)
    span.size = <unsigned int>(end - text)
    return True


cdef Http1Error _read_field(
    ResponseHead* head, const char* buffer, const char* name, size_t name_size,
    const char* text, const char* end,
) noexcept nogil:
    cdef const char* name_end = name + name_size
    if name_size == 4:
        if is_word(name, name_end, b"etag", 4):
            _keep_first(&head.etag, buffer, text, end)
        elif is_word(name, name_end, b"date", 4):
            _keep_first(&head.date, buffer, text, end)
    elif name_size == 8:
        if is_word(name, name_end, b"location", 8):
            _keep_first(&head.location, buffer, text, end)
    elif name_size == 10:
        if is_word(name, name_end, b"connection", 10):
            _read_connection(head, text, end)
    elif name_size == 11:
        if is_word(name, name_end, b"retry-after", 11):
            if _keep_first(&head.retry_after_value, buffer, text, end):
                head.retry_after = whole_number(text, end)
    elif name_size == 12:
        if is_word(name, name_end, b"content-type", 12):
            if _keep_first(&head.content_type, buffer, text, end):
                name_end = <const char*>memchr(text, c';', end - text)
                end = end if name_end == NULL else name_end
                trim(&text, &end)
                head.multipart = is_word(text, end, b"multipart/byteranges", 20)
    elif name_size == 13:
        if is_word(name, name_end, b"content-range", 13):
            _read_content_range(head, text, end)
        elif is_word(name, name_end, b"last-modified", 13):
            _keep_first(&head.last_modified, buffer, text, end)
    elif name_size == 14:
        if is_word(name, name_end, b"content-length", 14):
            return _read_content_length(head, text, end)
    elif name_size == 16:
        if is_word(name, name_end, b"content-encoding", 16):
            _read_content_encoding(head, text, end)
    elif name_size == 17:
        if is_word(name, name_end, b"transfer-encoding", 17):
            return _read_transfer_encoding(head, text, end)
    return NONE


# --- the head, line by line

cdef void response_head_begin(ResponseHead* head) noexcept nogil:
    memset(head, 0, sizeof(ResponseHead))
    head.content_length = head.retry_after = -1
    head.range_start = head.range_end = head.range_total = -1


cdef Http1Error response_head_status_line(
    ResponseHead* head, const char* buffer, const char* line, const char* end
) noexcept nogil:
    # HTTP-version SP status-code [ SP reason-phrase ]
    if end - line < 12 or memcmp(line, b"HTTP/1.", 7) != 0:
        return BAD_STATUS_LINE
    if not is_digit(line[7]) or line[8] != c' ' or not c'1' <= line[9] <= c'9':
        return BAD_STATUS_LINE
    if not is_digit(line[10]) or not is_digit(line[11]):
        return BAD_STATUS_LINE
    head.minor_version = line[7] - c'0'
    head.status = (line[9] - c'0') * 100 + (line[10] - c'0') * 10 + (line[11] - c'0')
    line += 12
    if line < end and line[0] != c' ':
        return BAD_STATUS_LINE
    if leading(line, end - line, TEXT_OCTET) != <size_t>(end - line):
        return BAD_STATUS_LINE
    trim(&line, &end)
    if line < end:
        _keep_first(&head.reason, buffer, line, end)
    return NONE


cdef Http1Error response_head_field_line(
    ResponseHead* head, const char* buffer, const char* line, const char* end
) noexcept nogil:
    # field-name ":" OWS field-value OWS
    cdef size_t name_size = leading(line, end - line, TOKEN_OCTET)
    cdef const char* value = line + name_size
    if name_size == 0 or value == end or value[0] != c':':
        return BAD_FIELD
    value += 1
    if leading(value, end - value, TEXT_OCTET) != <size_t>(end - value):
        return BAD_FIELD
    head._fields += 1
    if head._fields > MAX_FIELDS:
        return TOO_MANY_FIELDS
    trim(&value, &end)
    return _read_field(head, buffer, line, name_size, value, end)


cdef void response_head_frame(ResponseHead* head, bint head_request) noexcept nogil:
    # Message body length, RFC 9112 section 6.3, and persistence, section 9.3.
    head.keep_alive = not head._close and (head.minor_version > 0 or head._keep_alive)
    if head._transfer_codings:
        # Framing of two minds, or of a version that has no chunks: somebody on the way is wrong
        # about where this response ends (sections 6.1 and 6.3).
        if head.content_length >= 0 or head.minor_version == 0:
            head.keep_alive = False
        head.content_length = -1
    if head_request or head.status == 204 or head.status == 304:
        head.framing = NO_BODY
        if not head_request and (head._transfer_codings or head.content_length > 0):
            # Somebody may believe it, and send what would pass for the next response.
            head.keep_alive = False
    elif head._transfer_codings:
        head.framing = CHUNKED
    elif head.content_length >= 0:
        head.framing = CONTENT_LENGTH
    else:
        head.framing = UNTIL_EOF
        head.keep_alive = False
