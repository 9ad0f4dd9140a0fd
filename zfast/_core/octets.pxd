# Octets by class (RFC 9110 section 5.6.2), and the small readers of text that all of HTTP/1 is read
# with. Inline, all of it: each octet of a head passes through here.

from libc.limits cimport LLONG_MAX
from libc.string cimport memchr

cdef extern from *:
    """
    enum { ZFAST_TOKEN_OCTET = 1, ZFAST_TEXT_OCTET = 2, ZFAST_TARGET_OCTET = 4 };

    // Made by the compiler, for every module anew: no loop has to look for the table elsewhere.
    struct zfast_octet_table {
        unsigned char classes[256];
        constexpr zfast_octet_table() : classes() {
            for (int octet = 0; octet < 256; octet++) {
                if ((octet >= 0x20 && octet != 0x7F) || octet == '\\t')
                    classes[octet] |= ZFAST_TEXT_OCTET;
                if (0x21 <= octet && octet <= 0x7E)
                    classes[octet] |= ZFAST_TARGET_OCTET | ZFAST_TOKEN_OCTET;
            }
            for (char delimiter : "\\"(),/:;<=>?@[\\\\]{}")
                classes[static_cast<int>(delimiter)] &= ~ZFAST_TOKEN_OCTET;
        }
    };
    inline constexpr zfast_octet_table zfast_octets;
    """
    enum:
        TOKEN_OCTET "ZFAST_TOKEN_OCTET"     # tchar
        TEXT_OCTET "ZFAST_TEXT_OCTET"       # field-vchar, SP, HTAB: no other control character
        TARGET_OCTET "ZFAST_TARGET_OCTET"   # VCHAR

    const unsigned char* OCTETS "zfast_octets.classes"


cdef inline bint is_octet(unsigned char octet, int octet_class) noexcept nogil:
    return OCTETS[octet] & octet_class


cdef inline size_t leading(const char* text, size_t size, int octet_class) noexcept nogil:
    # How many octets of this class the text begins with.
    cdef size_t at = 0
    while at < size and is_octet(text[at], octet_class):
        at += 1
    return at


cdef inline bint is_digit(char octet) noexcept nogil:
    return c'0' <= octet <= c'9'


cdef inline int hex_digit(unsigned char octet) noexcept nogil:
    # Its value, -1 where it is none.
    if c'0' <= octet <= c'9':
        return octet - c'0'
    octet |= 0x20
    return octet - c'a' + 10 if c'a' <= octet <= c'f' else -1


cdef inline bint is_space(char octet) noexcept nogil:
    return octet == c' ' or octet == c'\t'


# --- text: [text, end) of a field value that holds no control character but HTAB

cdef inline bint is_word(
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


cdef inline void trim(const char** text, const char** end) noexcept nogil:
    while text[0] < end[0] and is_space(text[0][0]):
        text[0] += 1
    while text[0] < end[0] and is_space((end[0] - 1)[0]):
        end[0] -= 1


cdef inline bint next_element(
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
    trim(element, element_end)
    return True


cdef inline long long take_number(const char** text, const char* end) noexcept nogil:
    # 1*DIGIT off the front; -1 where there is no digit or no long long holds it.
    cdef long long number = 0
    cdef int digit
    if text[0] == end or not is_digit(text[0][0]):
        return -1
    while text[0] < end and is_digit(text[0][0]):
        digit = text[0][0] - c'0'
        if number > (LLONG_MAX - digit) // 10:
            return -1
        number = number * 10 + digit
        text[0] += 1
    return number


cdef inline long long whole_number(const char* text, const char* end) noexcept nogil:
    cdef long long number = take_number(&text, end)
    return number if text == end else -1


cdef inline bint is_strong_tag(const char* text, size_t size) noexcept nogil:
    # An entity tag that tells one state of an object from any other (RFC 9110, section 8.8.3).
    # What is none could be more than one, or end a field, where it is sent back.
    cdef size_t at
    if size < 2 or text[0] != c'"' or text[size - 1] != c'"':
        return False
    for at in range(1, size - 1):
        if text[at] == c'"' or text[at] == 0x7F or 0 <= <signed char>text[at] <= c' ':
            return False
    return True
