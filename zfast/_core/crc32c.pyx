"""CRC32C by the processor's own instruction where it has one, by tables where it has none.

Pure: both ways give the number of RFC 3720, appendix B.4, which is also that of zarr's codec
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/crc32c/).
"""

cdef extern from * nogil:
    """
    #include <cstddef>
    #include <cstdint>
    #include <cstring>

    #if defined(__x86_64__) && defined(__GNUC__)
    // Compiled for every x86-64, and used where the processor that runs it knows it.
    #include <nmmintrin.h>
    #define ZFAST_CRC32C_NAME "sse4.2"
    #define ZFAST_CRC32C_TARGET __attribute__((target("sse4.2")))
    #define ZFAST_CRC32C_SUPPORTED() __builtin_cpu_supports("sse4.2")
    #define ZFAST_CRC32C_WORD(crc, word) static_cast<uint32_t>(_mm_crc32_u64(crc, word))
    #define ZFAST_CRC32C_OCTET(crc, octet) _mm_crc32_u8(crc, octet)
    #elif defined(__ARM_FEATURE_CRC32) && defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN)
    #include <arm_acle.h>
    #define ZFAST_CRC32C_NAME "armv8"
    #define ZFAST_CRC32C_TARGET
    #define ZFAST_CRC32C_SUPPORTED() true
    #define ZFAST_CRC32C_WORD(crc, word) __crc32cd(crc, word)
    #define ZFAST_CRC32C_OCTET(crc, octet) __crc32cb(crc, octet)
    #endif

    enum { ZFAST_CRC32C_STRIPE = 1024 };

    #ifdef ZFAST_CRC32C_NAME
    static inline uint64_t zfast_crc32c_load(const unsigned char* data) {
        uint64_t word;
        memcpy(&word, data, sizeof word);
        return word;
    }

    static inline uint32_t zfast_crc32c_skip(const uint32_t (*skip)[256], uint32_t crc) {
        return skip[0][crc & 0xFF] ^ skip[1][crc >> 8 & 0xFF] ^ skip[2][crc >> 16 & 0xFF]
             ^ skip[3][crc >> 24];
    }

    // The instruction takes three cycles and can begin anew in each: three stripes side by side
    // cost what one does. `skip` then moves the state of one over the stripe after it.
    ZFAST_CRC32C_TARGET
    static uint32_t zfast_crc32c_instruction(
        uint32_t crc, const unsigned char* data, size_t size, const uint32_t (*skip)[256])
    {
        const size_t stripe = ZFAST_CRC32C_STRIPE;
        for (; size >= 3 * stripe; data += 3 * stripe, size -= 3 * stripe) {
            uint32_t second = 0, third = 0;
            for (size_t at = 0; at < stripe; at += 8) {
                crc = ZFAST_CRC32C_WORD(crc, zfast_crc32c_load(data + at));
                second = ZFAST_CRC32C_WORD(second, zfast_crc32c_load(data + stripe + at));
                third = ZFAST_CRC32C_WORD(third, zfast_crc32c_load(data + 2 * stripe + at));
            }
            crc = zfast_crc32c_skip(skip, crc) ^ second;
            crc = zfast_crc32c_skip(skip, crc) ^ third;
        }
        for (; size >= 8; data += 8, size -= 8)
            crc = ZFAST_CRC32C_WORD(crc, zfast_crc32c_load(data));
        for (; size > 0; data++, size--)
            crc = ZFAST_CRC32C_OCTET(crc, *data);
        return crc;
    }
    #else
    #define ZFAST_CRC32C_NAME "table"
    #define ZFAST_CRC32C_SUPPORTED() false
    #define zfast_crc32c_instruction(crc, data, size, skip) (crc)
    #endif
    """
    enum:
        STRIPE "ZFAST_CRC32C_STRIPE"
    const char* INSTRUCTION "ZFAST_CRC32C_NAME"
    bint supported "ZFAST_CRC32C_SUPPORTED"()
    unsigned int by_instruction "zfast_crc32c_instruction"(
        unsigned int crc, const unsigned char* data, size_t size, const unsigned int (*skip)[256])

# The polynomial 0x1EDC6F41, its bits in the order in which they are sent.
cdef unsigned int POLYNOMIAL = 0x82F63B78

cdef unsigned int[8][256] _slices   # [n][b]: octet b and then n octets of zero
cdef unsigned int[4][256] _skip     # [n][b]: a state whose octet n is b, over a stripe of zeros
cdef bint _has_instruction = supported()


cdef inline unsigned int _over(const unsigned int (*table)[256], unsigned int crc) noexcept nogil:
    return (table[0][crc & 0xFF] ^ table[1][crc >> 8 & 0xFF]
            ^ table[2][crc >> 16 & 0xFF] ^ table[3][crc >> 24])


cdef unsigned int _by_table(
    unsigned int crc, const unsigned char* data, size_t size
) noexcept nogil:
    # Slicing by 8: https://doi.org/10.1109/TC.2008.85
    while size >= 8:
        crc ^= (data[0] | <unsigned int>data[1] << 8 | <unsigned int>data[2] << 16
                | <unsigned int>data[3] << 24)
        crc = (_slices[7][crc & 0xFF] ^ _slices[6][crc >> 8 & 0xFF]
               ^ _slices[5][crc >> 16 & 0xFF] ^ _slices[4][crc >> 24]
               ^ _slices[3][data[4]] ^ _slices[2][data[5]]
               ^ _slices[1][data[6]] ^ _slices[0][data[7]])
        data += 8
        size -= 8
    while size > 0:
        crc = crc >> 8 ^ _slices[0][(crc ^ data[0]) & 0xFF]
        data += 1
        size -= 1
    return crc


cdef void _make_tables() noexcept nogil:
    cdef unsigned int[4][256] half
    cdef unsigned int crc
    cdef int octet, at, distance
    for octet in range(256):
        crc = octet
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
        _slices[0][octet] = crc
    for at in range(1, 8):
        for octet in range(256):
            crc = _slices[at - 1][octet]
            _slices[at][octet] = crc >> 8 ^ _slices[0][crc & 0xFF]
    # Four octets of zero; twice the way until it is a stripe's.
    for at in range(4):
        for octet in range(256):
            _skip[at][octet] = _slices[3 - at][octet]
    distance = 4
    while distance < STRIPE:
        half = _skip
        for at in range(4):
            for octet in range(256):
                _skip[at][octet] = _over(half, half[at][octet])
        distance *= 2


_make_tables()


cdef unsigned int crc32c(const char* data, size_t size) noexcept nogil:
    cdef const unsigned char* octets = <const unsigned char*>data
    if _has_instruction:
        return ~by_instruction(~<unsigned int>0, octets, size, _skip)
    return ~_by_table(~<unsigned int>0, octets, size)


def checksum(const unsigned char[::1] data not None, *, bint by_table=False):
    """The CRC32C of some bytes, for tests.

    Parameters
    ----------
    data : bytes-like
    by_table : bool
        By the tables, also where the processor has an instruction for it.

    Returns
    -------
    int
        In [0, 2**32).
    """
    cdef const char* start = <const char*>&data[0] if data.shape[0] else NULL
    cdef size_t size = data.shape[0]
    if by_table:
        return ~_by_table(~<unsigned int>0, <const unsigned char*>start, size)
    return crc32c(start, size)


def implementation():
    """How checksums are made on this machine: "sse4.2", "armv8" or "table"."""
    return (<bytes>INSTRUCTION).decode() if _has_instruction else "table"
