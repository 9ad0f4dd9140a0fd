"""The decompressors that numcodecs brings, called without the GIL.

The extension `numcodecs.blosc` contains libzstd, c-blosc, lz4 and zlib and exports their functions.
They are looked up there by name, once, and trusted only after they decoded a known frame and
refused a cut one: no second copy of a codec, and the versions are those that zarr itself uses.
Where numcodecs or a function is missing nothing fails here; that codec has no decompressor then.

Total over all byte strings: no input makes them read or write out of bounds.
"""

import os
from importlib import import_module

from libc.limits cimport INT_MAX
from libc.string cimport memcmp, memset

from zfast._core.extern.blosc cimport (
    BLOSC_CBYTES,
    BLOSC_FLAGS,
    BLOSC_FORMAT,
    BLOSC_HEADER,
    BLOSC_MEMCPYED,
    BLOSC_VERSION,
    BLOSC_VERSION_FORMAT,
    blosc_cbuffer_validate_t,
    blosc_decompress_ctx_t,
)
from zfast._core.extern.lz4 cimport LZ4_decompress_safe_t
from zfast._core.extern.zlib cimport (
    GZIP_WBITS,
    MAX_WBITS,
    Z_BUF_ERROR,
    Z_FINISH,
    Z_MEM_ERROR,
    Z_NEED_DICT,
    Z_NO_FLUSH,
    Z_OK,
    Z_STREAM_END,
    inflate_t,
    inflateEnd_t,
    inflateInit2_t,
    inflateReset2_t,
    z_stream,
    zlibVersion_t,
)
from zfast._core.extern.zstd cimport (
    ZSTD_createDCtx_t,
    ZSTD_decompressDCtx_t,
    ZSTD_error_checksum_wrong,
    ZSTD_error_dictionary_wrong,
    ZSTD_error_dstSize_tooSmall,
    ZSTD_error_memory_allocation,
    ZSTD_error_prefix_unknown,
    ZSTD_error_srcSize_wrong,
    ZSTD_freeDCtx_t,
    ZSTD_getErrorCode_t,
    ZSTD_isError_t,
)
from zfast._core.symbols cimport look_up, open_library

cdef struct Library:
    ZSTD_createDCtx_t zstd_create
    ZSTD_freeDCtx_t zstd_free
    ZSTD_decompressDCtx_t zstd_decompress
    ZSTD_isError_t zstd_is_error
    ZSTD_getErrorCode_t zstd_error_code
    blosc_cbuffer_validate_t blosc_validate
    blosc_decompress_ctx_t blosc_decompress
    LZ4_decompress_safe_t lz4_decompress
    zlibVersion_t zlib_version
    inflateInit2_t inflate_init
    inflateReset2_t inflate_reset
    inflate_t inflate
    inflateEnd_t inflate_end

cdef struct InflateFaults:
    const char* truncated
    const char* corrupt
    const char* dictionary
    const char* memory

cdef enum:
    # As many codes of 255 in a row make blosclz's int of a match length overflow; no match of a
    # real frame is anywhere near that long.
    ENDLESS_MATCH = INT_MAX // 255
    # What zlib is given at once: its counters are of 32 bits.
    INFLATE_PIECE = 1 << 30

cdef Library _library
cdef InflateFaults _gzip_faults
cdef InflateFaults _zlib_faults

_gzip_faults.truncated = "gzip: the data is truncated"
_gzip_faults.corrupt = "gzip: the data is corrupt or does not match its checksum"
_gzip_faults.dictionary = "gzip: the data needs a dictionary"
_gzip_faults.memory = "gzip: no memory for its state"
_zlib_faults.truncated = "zlib: the data is truncated"
_zlib_faults.corrupt = "zlib: the data is corrupt or does not match its checksum"
_zlib_faults.dictionary = "zlib: the data needs a dictionary"
_zlib_faults.memory = "zlib: no memory for its state"


# --------------------------------------------------------------------------------- decompressors


cdef void contexts_init(Contexts* contexts) noexcept nogil:
    memset(contexts, 0, sizeof(Contexts))


cdef void contexts_clear(Contexts* contexts) noexcept nogil:
    if contexts.zstd != NULL:
        _library.zstd_free(contexts.zstd)
    if contexts.inflates:
        _library.inflate_end(&contexts.inflate)
    contexts_init(contexts)


cdef const char* _zstd(
    Contexts* contexts, const char* data, size_t size, char* into, size_t capacity, size_t* made
) noexcept nogil:
    # Copes with several frames, skippable ones, and such as do not declare their size. In one shot
    # zstd needs no window of its own, whatever the frame declares.
    cdef int code
    if size == 0:
        return "zstd: the frame is truncated"
    if contexts.zstd == NULL:
        contexts.zstd = _library.zstd_create()
        if contexts.zstd == NULL:
            return "zstd: no memory for its state"
    made[0] = _library.zstd_decompress(contexts.zstd, into, capacity, data, size)
    if not _library.zstd_is_error(made[0]):
        return NULL
    code = _library.zstd_error_code(made[0])
    if code == ZSTD_error_dstSize_tooSmall:
        made[0] = capacity + 1
        return NULL
    if code == ZSTD_error_srcSize_wrong:
        return "zstd: the frame is truncated"
    if code == ZSTD_error_prefix_unknown:
        return "zstd: the data is no zstd frame"
    if code == ZSTD_error_checksum_wrong:
        return "zstd: the frame does not match its checksum"
    if code == ZSTD_error_dictionary_wrong:
        return "zstd: the frame needs a dictionary"
    if code == ZSTD_error_memory_allocation:
        return "zstd: no memory for its state"
    return "zstd: the frame is corrupt"


cdef const char* _blosc_fault(const char* data, size_t size, size_t* made) noexcept nogil:
    if size < BLOSC_HEADER or load_le32(data + BLOSC_CBYTES) > size:
        return "blosc: the frame is truncated"
    if data[BLOSC_VERSION] != BLOSC_VERSION_FORMAT:
        return "blosc: the data is no frame of blosc 1"
    if _library.blosc_validate(data, size, made):
        return "blosc: the frame's header is corrupt, or there are bytes after its end"
    return NULL


cdef const char* _blosc(
    Contexts* contexts, const char* data, size_t size, char* into, size_t capacity, size_t* made
) noexcept nogil:
    cdef unsigned char flags
    cdef const char* fault = _blosc_fault(data, size, made)
    if fault != NULL:
        return fault
    flags = data[BLOSC_FLAGS]
    if made[0] == 0 or made[0] > capacity:
        return NULL
    if not flags & (BLOSC_FORMAT | BLOSC_MEMCPYED) and _has_endless_match(data, size):
        return "blosc: the frame is corrupt"
    # One thread: its own pool would be shared by all who decode.
    if _library.blosc_decompress(data, into, made[0], 1) != <int>made[0]:
        return "blosc: the frame is corrupt, or of a compressor that numcodecs is built without"
    return NULL


cdef bint _has_endless_match(const char* data, size_t size) noexcept nogil:
    # A run of n octets holds every n-th octet of the data: only around those is there a need to
    # look.
    cdef size_t at = ENDLESS_MATCH - 1
    cdef size_t start, end
    while at < size:
        start = at
        end = at
        while end < size and data[end] == <char>0xFF:
            end += 1
        while start > 0 and end > at and data[start - 1] == <char>0xFF:
            start -= 1
        if end - start >= ENDLESS_MATCH:
            return True
        at += ENDLESS_MATCH
    return False


cdef const char* _lz4(
    Contexts* contexts, const char* data, size_t size, char* into, size_t capacity, size_t* made
) noexcept nogil:
    # As numcodecs has it: a block after its decoded size, 4 bytes, little-endian.
    cdef int decoded
    if size < 4:
        return "lz4: the data is shorter than its size header"
    made[0] = load_le32(data)
    if made[0] == 0 or made[0] > INT_MAX or size - 4 > INT_MAX:
        return "lz4: the data is no lz4 block after a size header"
    if made[0] > capacity:
        return NULL
    decoded = _library.lz4_decompress(data + 4, into, <int>(size - 4), <int>made[0])
    if decoded < 0:
        return "lz4: the block is truncated, corrupt, or longer than its size header says"
    if decoded != <int>made[0]:
        return "lz4: the block decodes to less than its size header says"
    return NULL


cdef const char* _gzip(
    Contexts* contexts, const char* data, size_t size, char* into, size_t capacity, size_t* made
) noexcept nogil:
    # As Python's gzip module: any number of members, with zeros allowed after each.
    cdef size_t taken = 0
    cdef const char* fault
    made[0] = 0
    while True:
        fault = _inflate(
            contexts, GZIP_WBITS, &_gzip_faults, data, size, &taken, into, capacity, made
        )
        if fault != NULL or made[0] > capacity:
            return fault
        while taken < size and data[taken] == 0:
            taken += 1
        if taken == size:
            return NULL


cdef const char* _zlib(
    Contexts* contexts, const char* data, size_t size, char* into, size_t capacity, size_t* made
) noexcept nogil:
    # As Python's zlib.decompress: what comes after the stream is of no account.
    cdef size_t taken = 0
    made[0] = 0
    return _inflate(contexts, MAX_WBITS, &_zlib_faults, data, size, &taken, into, capacity, made)


cdef const char* _inflate(
    Contexts* contexts, int window_bits, const InflateFaults* faults, const char* data, size_t size,
    size_t* taken, char* into, size_t capacity, size_t* made
) noexcept nogil:
    # One stream, which begins at `taken` and goes on at `made`; both are moved along.
    cdef z_stream* stream = &contexts.inflate
    cdef unsigned int given, room
    cdef int outcome
    if not _inflate_ready(contexts, window_bits):
        return faults.memory
    while True:
        given = <unsigned int>min(size - taken[0], <size_t>INFLATE_PIECE)
        room = <unsigned int>min(capacity - made[0], <size_t>INFLATE_PIECE)
        stream.next_in = <const unsigned char*>data + taken[0]
        stream.avail_in = given
        stream.next_out = <unsigned char*>into + made[0]
        stream.avail_out = room
        outcome = _library.inflate(
            stream, Z_FINISH if given == size - taken[0] else Z_NO_FLUSH
        )
        given -= stream.avail_in
        room -= stream.avail_out
        taken[0] += given
        made[0] += room
        if outcome == Z_STREAM_END:
            return NULL
        if outcome == Z_NEED_DICT:
            return faults.dictionary
        if outcome == Z_MEM_ERROR:
            return faults.memory
        if outcome != Z_OK and outcome != Z_BUF_ERROR:
            return faults.corrupt
        if given == 0 and room == 0:
            if taken[0] == size:
                return faults.truncated
            made[0] = capacity + 1
            return NULL


cdef bint _inflate_ready(Contexts* contexts, int window_bits) noexcept nogil:
    if contexts.inflates:
        return _library.inflate_reset(&contexts.inflate, window_bits) == Z_OK
    memset(&contexts.inflate, 0, sizeof(z_stream))
    contexts.inflates = _library.inflate_init(
        &contexts.inflate, window_bits, _library.zlib_version(), <int>sizeof(z_stream)
    ) == Z_OK
    return contexts.inflates


# -------------------------------------------------------------------------- found, tried, trusted

# The same bytes, by every codec.
cdef bytes _PLAIN = b"known frame " * 20
cdef dict _FRAMES = {
    "zstd": "28b52ffd24f09d0000606b6e6f776e206672616d65200100e153250963669141",
    "blosc": (
        "02013104f0000000f000000046000000140000002e0000006f6b6e616b6e610600236f6e206d6e206d06"
        "00236f6f66656f66650600236f77722077722006001e507220777220"
    ),
    "gzip": "1f8b0800000000000003cbcecb2fcf53482b4acc4d55c81e016c003255941ef0000000",
    "zlib": "78dacbcecb2fcf53482b4acc4d55c81e016c003a1e5961",
    "lz4": "f0000000cf6b6e6f776e206672616d65200c00cc5072616d6520",
}
cdef dict _sources = {}


cdef Decompress decompressor(str codec):
    if codec not in _FRAMES or _sources[codec].startswith("not found"):
        return NULL
    return _function(codec)


cdef Decompress _function(str codec):
    if codec == "zstd":
        return _zstd
    elif codec == "blosc":
        return _blosc
    elif codec == "gzip":
        return _gzip
    elif codec == "zlib":
        return _zlib
    return _lz4


cdef bint _decodes(Decompress decompress, bytes frame):
    cdef Contexts contexts
    cdef bytearray plain = bytearray(len(_PLAIN))
    cdef const char* data = frame
    cdef char* into = plain
    cdef size_t made = 0
    cdef bint right
    contexts_init(&contexts)
    right = (
        decompress(&contexts, data, len(frame), into, len(_PLAIN), &made) == NULL
        and made == <size_t>len(_PLAIN)
        and memcmp(into, <const char*>_PLAIN, made) == 0
        and decompress(&contexts, data, len(frame) - 1, into, len(_PLAIN), &made) != NULL
    )
    contexts_clear(&contexts)
    return right


cdef dict _fill_library(void* handle):
    # The names that it lacks, by codec.
    cdef list zstd = []
    cdef list blosc = []
    cdef list lz4 = []
    cdef list zlib = []
    _library.zstd_create = <ZSTD_createDCtx_t>look_up(handle, "ZSTD_createDCtx", zstd)
    _library.zstd_free = <ZSTD_freeDCtx_t>look_up(handle, "ZSTD_freeDCtx", zstd)
    _library.zstd_decompress = <ZSTD_decompressDCtx_t>look_up(handle, "ZSTD_decompressDCtx", zstd)
    _library.zstd_is_error = <ZSTD_isError_t>look_up(handle, "ZSTD_isError", zstd)
    _library.zstd_error_code = <ZSTD_getErrorCode_t>look_up(handle, "ZSTD_getErrorCode", zstd)
    _library.blosc_validate = <blosc_cbuffer_validate_t>look_up(
        handle, "blosc_cbuffer_validate", blosc
    )
    _library.blosc_decompress = <blosc_decompress_ctx_t>look_up(
        handle, "blosc_decompress_ctx", blosc
    )
    _library.lz4_decompress = <LZ4_decompress_safe_t>look_up(handle, "LZ4_decompress_safe", lz4)
    _library.zlib_version = <zlibVersion_t>look_up(handle, "zlibVersion", zlib)
    _library.inflate_init = <inflateInit2_t>look_up(handle, "inflateInit2_", zlib)
    _library.inflate_reset = <inflateReset2_t>look_up(handle, "inflateReset2", zlib)
    _library.inflate = <inflate_t>look_up(handle, "inflate", zlib)
    _library.inflate_end = <inflateEnd_t>look_up(handle, "inflateEnd", zlib)
    return {"zstd": zstd, "blosc": blosc, "gzip": zlib, "zlib": zlib, "lz4": lz4}


cdef _find():
    cdef dict missing
    try:
        missing = _fill_library(
            open_library(os.fsencode(import_module("numcodecs.blosc").__file__))
        )
        version = import_module("numcodecs").__version__
    # Whatever a broken installation raises, arrays without these codecs can be read.
    except Exception as error:
        _sources.update(dict.fromkeys(_FRAMES, f"not found: {error or type(error).__name__}"))
        return
    for codec, frame in _FRAMES.items():
        if missing[codec]:
            names = ", ".join(sorted(missing[codec]))
            _sources[codec] = f"not found: numcodecs {version} does not export {names}"
        elif not _decodes(_function(codec), bytes.fromhex(frame)):
            _sources[codec] = f"not found: numcodecs {version} did not decode a known frame"
        else:
            _sources[codec] = f"numcodecs {version}"


_find()


def blosc_fault(const unsigned char[::1] data):
    """What is wrong with the header and length of a frame of blosc; "" where nothing shows."""
    cdef const char* fault = NULL
    cdef const char* start = NULL
    cdef size_t made = 0
    if data.shape[0]:
        start = <const char*>&data[0]
    if _library.blosc_validate != NULL:
        fault = _blosc_fault(start, <size_t>data.shape[0], &made)
    return "" if fault == NULL else fault.decode()


def sources():
    """Where the decompressor of each codec is from.

    Returns
    -------
    dict of str to str
        By codec: "numcodecs" and its version, or "not found: " and why.
    """
    return dict(_sources)
