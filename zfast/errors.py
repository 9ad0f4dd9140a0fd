"""The taxonomy of failures, and the one table that maps a status of the core to an error.

Every error says what failed, where, and after how many attempts; it is also the builtin that
fits, it pickles, and it never shows a credential or a query string.
"""

from __future__ import annotations

import errno
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from zfast._core.types import Status
from zfast.keys import quote_key

__all__ = [
    "AccessError",
    "ChangedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "CorruptError",
    "DeadlineError",
    "ListingError",
    "MissingKeyError",
    "NoMemoryError",
    "NotWritableError",
    "ResponseError",
    "ZfastError",
    "error_for",
    "redact",
    "shortened",
    "status_text",
    "without_secrets",
]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.%A-Za-z]*\]|[^\[\]:@\s\\]*)(?::[0-9]*)?")
# Without what ends a sentence, or a bracket, around it; an IPv6 address has its own.
_URL_IN_TEXT = re.compile(
    r"[A-Za-z][A-Za-z0-9+.\-]{0,63}://(?:\[[0-9A-Fa-f:.]*\](?=[\s'\"<>).,;!\]]|$)"
    r"|[^\s'\"<>]*[^\s'\"<>).,;:!\]])"
)
_QUERY_IN_TEXT = re.compile(r"\?[^\s'\"<>=?]+=[^\s'\"<>]*")
# Of what a server or a proxy says; it may be a whole head.
_MOST_SHOWN = 500


def redact(url: str) -> str:
    """Return ``url`` without userinfo, query and fragment, fit to be shown.

    Total: any string has an answer. Where the end of the userinfo cannot be told (a password
    with a bare ``/`` or ``?`` in it), the whole authority is left out rather than guessed. Without
    scheme or host whatever stands before an ``@`` may be a password, and is left out.

    Parameters
    ----------
    url : str
        An absolute URL, or any part of one.

    Returns
    -------
    str
        Printable, without spaces: what is neither is percent-encoded.
    """
    scheme, separator, rest = url.partition("://")
    if not (separator and _SCHEME.fullmatch(scheme)) or rest.startswith("/"):
        return _redact_part(url)
    # A "@" after a "?" or "#" and before any "/" may end a password that was not encoded.
    before_slash = rest.partition("/")[0]
    authority, *query = re.split(r"[?#]", before_slash, maxsplit=1)
    host = authority.rpartition("@")[2]
    if (query and "@" in query[0]) or not _AUTHORITY.fullmatch(host):
        return f"{scheme}://..."
    _, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return _printable(f"{scheme}://{host}{slash}{path}")


def _redact_part(text: str) -> str:
    # A slip (`http:/user:password@host/a`) has its userinfo anywhere: it ends at the last "@".
    path, *query = re.split(r"[?#]", text, maxsplit=1)
    if query and "@" in query[0]:
        return "..."
    _, at, rest = path.rpartition("@")
    return redact(rest) if at else _printable(path)


def _printable(text: str) -> str:
    if text.isprintable() and " " not in text:
        return text
    return "".join(
        c if c.isprintable() and c != " " else quote(c, safe="", errors="replace") for c in text
    )


def shortened(text: str) -> str:
    """Return the beginning of a text that somebody else has written."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def without_secrets(text: str) -> str:
    """Return ``text`` with each URL in it redacted, and without query strings."""
    text = _URL_IN_TEXT.sub(lambda match: redact(match[0]), text)
    return _QUERY_IN_TEXT.sub("", text)


def _range_text(byte_range: Any) -> str:
    """Describe a byte range as HTTP does: with an inclusive end (RFC 9110, section 14.1.2)."""
    if byte_range is None:
        return ""
    if hasattr(byte_range, "suffix"):
        start, end = -byte_range.suffix, None
    elif hasattr(byte_range, "offset"):
        start, end = byte_range.offset, None
    elif hasattr(byte_range, "start") and hasattr(byte_range, "end"):
        start, end = byte_range.start, byte_range.end
    elif isinstance(byte_range, tuple) and len(byte_range) == 2:
        start, end = byte_range
    else:
        return f"byte range {byte_range!r}"
    try:
        if start is None and end is None:
            return ""
        if end is None:
            return f"bytes {start}-" if start >= 0 else f"bytes {start}"
        start = start or 0
        if 0 <= start < end:
            return f"bytes {start}-{end - 1}"
    except TypeError:
        pass
    return f"byte range {start!r} to {end!r}"


def _where(method: str | None, url: str | None, key: str | None, byte_range: Any) -> str:
    aside = []
    # Two callers name an object differently: by the location's URL, or by the URL of the object.
    if key and url and not url.endswith(f"/{quote_key(key, errors='replace')}"):
        aside.append(f"key {key!r}")
    if text := _range_text(byte_range):
        aside.append(text)
    where = url or (repr(key) if key is not None else "")
    words = [word for word in (method, where) if word]
    if aside:
        words.append(f"({', '.join(aside)})")
    return " ".join(words)


class ZfastError(Exception):
    """A failure of zfast; every other error is a subclass, and also the builtin that fits.

    Parameters
    ----------
    reason : str
        What failed. URLs in it are redacted.
    url : str, optional
        Where; kept without userinfo and query string.
    key : str, optional
        The key that was asked for.
    byte_range : optional
        The byte range that was asked for, as the caller gave it.
    status : int, optional
        The HTTP status of the last response, if there was one.
    attempts : int
        How often it was tried; 0 where nothing was sent.
    method : str, optional
        The HTTP method.
    index : int, optional
        Which of the URLs of `cat_ranges`: its position in ``urls``.

    Attributes
    ----------
    reason, url, key, byte_range, status, attempts, method, index
        As given, with secrets removed.
    """

    _errno: int | None = None

    reason: str
    url: str | None
    key: str | None
    byte_range: Any
    status: int | None
    attempts: int
    method: str | None
    index: int | None

    def __init__(
        self,
        reason: str = "",
        *,
        url: str | None = None,
        key: str | None = None,
        byte_range: Any = None,
        status: int | None = None,
        attempts: int = 0,
        method: str | None = None,
        index: int | None = None,
    ) -> None:
        self.reason = without_secrets(reason)
        self.url = None if url is None else redact(url)
        self.key = key
        self.byte_range = byte_range
        self.status = status
        self.attempts = attempts
        self.method = method
        self.index = index
        message = self.reason
        if where := _where(method, self.url, key, byte_range):
            message = f"{where}: {message}"
        if index is not None:
            message = f"urls[{index}]: {message}"
        if attempts:
            message += f" after {attempts} attempt{'s' if attempts > 1 else ''}"
        # One argument only: OSError reads two as errno and strerror, and drops them from args.
        super().__init__(message)
        _fill_os_error(self, self._errno, self.reason, self.url)

    def __str__(self) -> str:
        # OSError would show errno and filename instead of the message.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {
            "url": self.url,
            "key": self.key,
            "byte_range": self.byte_range,
            "status": self.status,
            "attempts": self.attempts,
            "method": self.method,
            "index": self.index,
        }
        return _rebuild, (type(self), self.reason, fields), self.__dict__


def _fill_os_error(error: object, number: int | None, reason: str, url: str | None) -> None:
    if isinstance(error, OSError):
        error.errno = number
        error.strerror = reason
        error.filename = url


def _rebuild(cls: type[ZfastError], reason: str, fields: dict[str, Any]) -> ZfastError:
    # Not cls(...): a subclass may have a constructor of its own.
    error = cls.__new__(cls)
    ZfastError.__init__(error, reason, **fields)
    return error


class MissingKeyError(ZfastError, FileNotFoundError):
    """There is no such key: the server said so with a status that the missing-key policy names."""

    _errno = errno.ENOENT


class AccessError(ZfastError, PermissionError):
    """The server or a proxy refuses access: 401, 403 or 407; or a tunnel, by any 4xx that stays."""

    _errno = errno.EACCES


class NotWritableError(ZfastError, PermissionError):
    """The server takes no PUT or DELETE: 405 or 501."""

    _errno = errno.EPERM


class DeadlineError(ZfastError, TimeoutError):
    """A timeout or the total deadline passed."""

    _errno = errno.ETIMEDOUT


class ConnectionFailedError(ZfastError, ConnectionError):
    """No connection could be opened, or it failed before the response was complete."""


class ResponseError(ZfastError, OSError):
    """The server answered, but not with the bytes that were asked for."""


class ChangedError(ResponseError):
    """The object changed while it was read."""


class CorruptError(ZfastError, ValueError):
    """What is stored is not a chunk of this array: it cannot be decoded, or has another size."""


class ListingError(ZfastError, OSError):
    """The server offers no listing of this directory."""


class ConfigurationError(ZfastError, ValueError):
    """A setting, an argument or a URL is not one that zfast can use."""


class NoMemoryError(ZfastError, MemoryError):
    """There is no memory for a body."""

    def __new__(cls, *args: Any, **kwargs: Any) -> NoMemoryError:
        # MemoryError.__new__ serves itself alone; the layout is that of Exception.
        return Exception.__new__(cls)


# What every status of the core means to a caller. OK is no failure; BAD_STATUS is looked up
# further in the tables below.
_BY_STATUS: dict[Status, tuple[type[ZfastError], str]] = {
    Status.MISSING: (MissingKeyError, "no such key"),
    Status.CANCELLED: (ZfastError, "the read was cancelled"),
    Status.DEADLINE: (DeadlineError, "the deadline passed"),
    Status.CLOSED: (ConnectionFailedError, "closed before it was done"),
    Status.CONNECT_FAILED: (ConnectionFailedError, "no connection could be opened"),
    Status.CONNECT_TIMEOUT: (DeadlineError, "no connection was opened within connect_timeout"),
    Status.TLS_FAILED: (ConnectionFailedError, "the TLS session failed"),
    Status.TUNNEL_REFUSED: (AccessError, "the proxy refuses to lead there"),
    Status.RESET: (ConnectionFailedError, "the connection was reset"),
    Status.TRUNCATED: (ConnectionFailedError, "the response was cut short"),
    Status.FIRST_BYTE_TIMEOUT: (DeadlineError, "no answer came within first_byte_timeout"),
    Status.READ_TIMEOUT: (DeadlineError, "no progress was made within read_timeout"),
    Status.PROTOCOL: (ResponseError, "the response is not valid HTTP/1.1"),
    Status.HEAD_TOO_LARGE: (ResponseError, "the response head is larger than max_head_size"),
    Status.BAD_STATUS: (ResponseError, ""),
    Status.RANGE_MISMATCH: (
        ResponseError,
        "the response has another range than was asked for: a cache on the way may mix them up",
    ),
    Status.RANGE_UNSUPPORTED: (ResponseError, "the server does not serve this kind of range"),
    Status.ENCODED: (
        ResponseError,
        "the body is encoded although identity was asked for: switch that off for these files",
    ),
    Status.OVERLONG: (ResponseError, "the body is longer than announced"),
    Status.BUFFER_TOO_SMALL: (ResponseError, "the buffer is too small"),
    Status.CHANGED: (ChangedError, "the object changed while it was read"),
    Status.REDIRECT: (ResponseError, "the redirect cannot be followed"),
    Status.NO_MEMORY: (NoMemoryError, "no memory for the body"),
    Status.CORRUPT: (CorruptError, "the stored chunk is corrupt"),
}

# HTTP statuses that mean more than "neither success nor missing". 404 is not among them: under
# a missing-key policy that does not name it, it must not be taken for a missing key.
_BY_HTTP_STATUS: dict[int, tuple[type[ZfastError], str]] = {
    # nginx for plain HTTP on a port of https, and where a certificate is missing.
    400: (ResponseError, "perhaps https is wanted, or a client certificate"),
    401: (AccessError, "credentials are missing or refused"),
    # With 403 in missing_status, what an expired token no longer opens reads as fill values.
    403: (AccessError, "not allowed, or a missing key by this server: then see missing_status"),
    407: (AccessError, "the proxy asks for credentials"),
}
_BY_HTTP_STATUS_OF_WRITE: dict[int, tuple[type[ZfastError], str]] = {
    403: (AccessError, "writing is refused"),
    405: (NotWritableError, "the server does not take this method here"),
    501: (NotWritableError, "the server does not know this method"),
}
# WebDAV's PUT makes no directories (RFC 4918, section 9.7.1), and here MKCOL has made none. nginx
# answers 500 where one is not there.
_NO_DIRECTORY = "perhaps its directory is not there and cannot be made"
_BY_HTTP_STATUS_OF_PUT: dict[int, tuple[type[ZfastError], str]] = {
    # As Caddy answers any method but those it knows, for what is not there.
    404: (ResponseError, f"{_NO_DIRECTORY}, or the server takes no PUT"),
    409: (ResponseError, _NO_DIRECTORY),
    413: (ResponseError, "more than the server takes at once; nginx: client_max_body_size 0"),
    500: (ResponseError, "nginx, where a directory is not there: create_full_put_path on"),
}
_WRITES = frozenset({"PUT", "DELETE", "POST", "PATCH"})


def status_text(status: int | None) -> str:
    """An HTTP status with its phrase."""
    if status is None:
        return "no status"
    try:
        return f"{int(status)} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"


def error_for(
    code: Status,
    *,
    url: str | None,
    key: str | None = None,
    byte_range: Any = None,
    status: int | None = None,
    attempts: int = 0,
    detail: str = "",
    method: str = "GET",
    index: int | None = None,
) -> ZfastError:
    """Build the error that a status of the core means.

    Parameters
    ----------
    code : Status
        Anything but ``Status.OK``.
    url, key, byte_range, status, attempts, method, index
        See `ZfastError`; ``status`` decides which error ``Status.BAD_STATUS`` becomes.
    detail : str
        What more is known, such as the bytes received; URLs in it are redacted.

    Returns
    -------
    ZfastError
        Of the class that the status table names.

    Raises
    ------
    ValueError
        If ``code`` is no failure.
    """
    try:
        cls, sentence = _BY_STATUS[Status(code)]
    except KeyError:
        raise ValueError(f"{Status(code)!r} is not a failure") from None
    asides = [detail] if detail else []
    if code == Status.BAD_STATUS:
        sentence = status_text(status)
        table = _BY_HTTP_STATUS
        if method in _WRITES:
            table = _BY_HTTP_STATUS | _BY_HTTP_STATUS_OF_WRITE
        if method == "PUT":
            table = table | _BY_HTTP_STATUS_OF_PUT
        if status in table:
            cls, hint = table[status]
            asides.append(hint)
    elif status is not None and status >= 300:
        asides.insert(0, status_text(status))
        if code == Status.CHANGED and method in _WRITES:
            sentence = "what is there is not what the request was conditional on"
    if asides:
        sentence += f" ({'; '.join(asides)})"
    return cls(
        sentence,
        url=url,
        key=key,
        byte_range=byte_range,
        status=status,
        attempts=attempts,
        method=method,
        index=index,
    )
