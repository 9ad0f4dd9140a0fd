"""Plain values that the whole core shares, as Python's enums. Decides nothing."""

from enum import IntEnum


def _enum(name, doc, **values):
    # Made by hand and put into globals(): the C enum of the same name holds the name itself.
    members = IntEnum(name, values, module=__name__)
    members.__doc__ = doc
    globals()[name] = members


_enum(
    "Status",
    "What became of a read; `zfast.errors` has an exception for each but the first.",
    OK=STATUS_OK,
    MISSING=STATUS_MISSING,
    CANCELLED=STATUS_CANCELLED,
    DEADLINE=STATUS_DEADLINE,
    CLOSED=STATUS_CLOSED,
    CONNECT_FAILED=STATUS_CONNECT_FAILED,
    CONNECT_TIMEOUT=STATUS_CONNECT_TIMEOUT,
    TLS_FAILED=STATUS_TLS_FAILED,
    TUNNEL_REFUSED=STATUS_TUNNEL_REFUSED,
    RESET=STATUS_RESET,
    TRUNCATED=STATUS_TRUNCATED,
    FIRST_BYTE_TIMEOUT=STATUS_FIRST_BYTE_TIMEOUT,
    READ_TIMEOUT=STATUS_READ_TIMEOUT,
    PROTOCOL=STATUS_PROTOCOL,
    HEAD_TOO_LARGE=STATUS_HEAD_TOO_LARGE,
    BAD_STATUS=STATUS_BAD_STATUS,
    RANGE_MISMATCH=STATUS_RANGE_MISMATCH,
    RANGE_UNSUPPORTED=STATUS_RANGE_UNSUPPORTED,
    ENCODED=STATUS_ENCODED,
    OVERLONG=STATUS_OVERLONG,
    BUFFER_TOO_SMALL=STATUS_BUFFER_TOO_SMALL,
    CHANGED=STATUS_CHANGED,
    REDIRECT=STATUS_REDIRECT,
    NO_MEMORY=STATUS_NO_MEMORY,
    CORRUPT=STATUS_CORRUPT,
)
_enum(
    "Method",
    "The request methods that the engine sends (RFC 9110, section 9; RFC 4918, section 9.3).",
    GET=METHOD_GET,
    HEAD=METHOD_HEAD,
    PUT=METHOD_PUT,
    DELETE=METHOD_DELETE,
    MKCOL=METHOD_MKCOL,
)
_enum(
    "RangeKind",
    "The kinds of byte range; `EMPTY` only asks whether the object exists.",
    WHOLE=RANGE_WHOLE,
    BOUNDED=RANGE_BOUNDED,
    OFFSET=RANGE_OFFSET,
    SUFFIX=RANGE_SUFFIX,
    EMPTY=RANGE_EMPTY,
)
