"""Request heads (RFC 9112, section 3): what is written, and what may be written at all.

Whatever comes from outside passes a check first, so that nothing can end its line early: the
writers look at nothing again.
"""

from libcpp.string cimport string

from zfast._core.octets cimport TARGET_OCTET, TEXT_OCTET, TOKEN_OCTET, leading
from zfast._core.types cimport RANGE_BOUNDED, RANGE_SUFFIX


cdef extern from *:
    """
    // noexcept, so that std::bad_alloc ends here and not in a frame that cannot unwind.
    static inline void zfast_request_head_append(
        std::string *out, const char *data, size_t size) noexcept { out->append(data, size); }
    static inline void zfast_request_head_append(
        std::string *out, const char *text) noexcept { out->append(text); }
    """
    void _append_octets "zfast_request_head_append"(
        string* out, const char* data, size_t size) noexcept nogil
    void _append_text "zfast_request_head_append"(string* out, const char* text) noexcept nogil


# --- writing

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
    _append_text(out, b"Range: bytes=-" if kind == RANGE_SUFFIX else b"Range: bytes=")
    _append_number(out, start)
    if kind != RANGE_SUFFIX:
        _append_text(out, b"-")
    if kind == RANGE_BOUNDED:
        _append_number(out, <unsigned long long>end - 1)
    _append_text(out, b"\r\n")


cdef void http1_content_length(string* out, long long size) noexcept nogil:
    _append_text(out, b"Content-Length: ")
    _append_number(out, size)
    _append_text(out, b"\r\n")


cdef void http1_finish(string* out) noexcept nogil:
    _append_text(out, b"\r\n")


cdef bint http1_is_token(const char* text, size_t size) noexcept nogil:
    return size > 0 and leading(text, size, TOKEN_OCTET) == size


cdef bint http1_is_field_value(const char* text, size_t size) noexcept nogil:
    return leading(text, size, TEXT_OCTET) == size


cdef bint http1_is_target(const char* text, size_t size) noexcept nogil:
    return size > 0 and leading(text, size, TARGET_OCTET) == size


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
    cdef size_t at = leading(octets, len(octets), octet_class)
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
