"""Requests, parsed strictly after RFC 9112.

What a lenient server would forgive is an error here: the scripted server judges the client, so a
bare LF, a raw space in a target or a second request sent before the first reply must show.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

MAX_HEAD = 1 << 20

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[^\x00-\x08\x0a-\x1f\x7f])*)")
_PCHAR = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
_ORIGIN_FORM = re.compile(rf"/(?:{_PCHAR}|/)*(?:\?(?:{_PCHAR}|[/?])*)?")
_ABSOLUTE_FORM = re.compile(rf"https?://[^/?#\s]+(?:/(?:{_PCHAR}|/)*)?(?:\?(?:{_PCHAR}|[/?])*)?")
_AUTHORITY_FORM = re.compile(r"[^/?#\s]+:[0-9]+")


class BadRequest(Exception):
    """The client sent what RFC 9112 does not allow."""


class PeerClosed(Exception):
    """The client closed its side (`reset`: with RST, not FIN)."""

    def __init__(self, reset: bool = False) -> None:
        super().__init__("reset by the client" if reset else "closed by the client")
        self.reset = reset


class Fields(tuple[tuple[str, str], ...]):
    """Header fields in the order sent; names are compared without case."""

    __slots__ = ()

    @classmethod
    def of(cls, fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> Fields:
        """Fields from a mapping or from pairs."""
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        return cls((name, str(value)) for name, value in pairs)

    def all(self, name: str) -> list[str]:
        """Every value sent under `name`."""
        return [value for known, value in self if known.lower() == name.lower()]

    def get(self, name: str, default: str | None = None) -> str | None:
        """The values sent under `name`, joined by commas (RFC 9110, section 5.3)."""
        values = self.all(name)
        return ", ".join(values) if values else default

    def has(self, name: str) -> bool:
        """Whether a field of this name was sent."""
        return bool(self.all(name))

    def without(self, *names: str) -> Fields:
        """These fields but those named."""
        dropped = {name.lower() for name in names}
        return Fields(pair for pair in self if pair[0].lower() not in dropped)


NO_FIELDS = Fields()


@dataclass(frozen=True)
class Request:
    """One request as it came over the wire."""

    method: str
    target: str
    version: str
    fields: Fields
    head: bytes = field(repr=False)
    """The head's exact bytes, its empty line included."""
    body: bytes = field(default=b"", repr=False)
    connection: int = 0
    """Number of the connection on its server, from 0 in order of acceptance."""
    number: int = 0
    """Number of the request on its connection, from 0."""
    index: int = -1
    """Number of the request on its server, from 0 in order of arrival."""
    arrival: float = 0.0
    """`time.monotonic()` when the head was complete."""

    @property
    def path(self) -> str:
        """The target's path, percent-decoded, without its query."""
        path = self.target.partition("?")[0]
        if not path.startswith("/"):
            path = "/" + path.partition("://")[2].partition("/")[2]
        return unquote(path, errors="surrogateescape")

    @property
    def query(self) -> str:
        """The target's query as sent, without the question mark."""
        return self.target.partition("?")[2]

    @property
    def key(self) -> str:
        """The path without its leading slash."""
        return self.path[1:]

    def field(self, name: str, default: str | None = None) -> str | None:
        """The value of the field `name`."""
        return self.fields.get(name, default)

    @property
    def range(self) -> str | None:
        """The value of Range."""
        return self.fields.get("Range")


def parse_head(head: bytes) -> Request:
    """Parse a request head that ends in its empty line.

    Raises
    ------
    BadRequest
        Where the head breaks the grammar of RFC 9112, sections 3 to 5 and 7.
    """
    lines = head.decode("latin-1").split("\r\n")
    if lines[-2:] != ["", ""]:
        raise BadRequest(f"a head that does not end in CRLF CRLF: {head!r}")
    start, field_lines = lines[0], lines[1:-2]
    matched = _REQUEST_LINE.fullmatch(start)
    if matched is None:
        raise BadRequest(f"malformed request line: {start!r}")
    method, target, minor = matched.groups()
    _check_target(method, target)
    pairs = []
    for line in field_lines:
        matched = _FIELD_LINE.fullmatch(line)
        if matched is None:
            raise BadRequest(f"malformed field line: {line!r}")
        pairs.append((matched[1], matched[2].rstrip(" \t")))
    fields = Fields(pairs)
    hosts = fields.all("Host")
    if len(hosts) > 1 or (minor == "1" and not hosts):
        raise BadRequest(f"{len(hosts)} Host fields in {head!r}")
    return Request(method, target, f"HTTP/1.{minor}", fields, head, arrival=time.monotonic())


def _check_target(method: str, target: str) -> None:
    forms = {"CONNECT": (_AUTHORITY_FORM,)}.get(method, (_ORIGIN_FORM, _ABSOLUTE_FORM))
    if target == "*" and method == "OPTIONS":
        return
    if not any(form.fullmatch(target) for form in forms):
        raise BadRequest(f"malformed target: {target!r}")


class RequestReader:
    """Reads requests from a stream of bytes; `receive` gives the next ones, b"" at the end."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """Bytes received that belong to no request read so far."""
        return bytes(self._buffer)

    def read_head(self) -> Request:
        """Read one request head.

        Raises
        ------
        PeerClosed
            Where the client closes before the first byte.
        BadRequest
            Where the head is malformed, too large or cut short.
        """
        while not self._buffer:
            self._fill("")
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadRequest(f"a head of more than {MAX_HEAD} bytes")
            if b"\n\n" in self._buffer:
                raise BadRequest(f"bare LF: {bytes(self._buffer)!r}")
            self._fill("a head")
        return parse_head(self._take(end + 4))

    def read_body(self, request: Request) -> bytes:
        """Read the body that the head announces (RFC 9112, section 6.3).

        Raises
        ------
        BadRequest
            Where the framing is ambiguous or broken, or the body cut short.
        """
        lengths = request.fields.all("Content-Length")
        codings = request.fields.all("Transfer-Encoding")
        if codings:
            if lengths or codings != ["chunked"]:
                raise BadRequest(f"ambiguous framing: {lengths} {codings}")
            return self._read_chunked()
        if not lengths:
            return b""
        if len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths[0]):
            raise BadRequest(f"malformed Content-Length: {lengths}")
        return self._read_exactly(int(lengths[0]))

    def _read_chunked(self) -> bytes:
        body = bytearray()
        while True:
            line = self._read_line()
            matched = re.fullmatch(rb"([0-9A-Fa-f]+)(?:;.*)?", line)
            if matched is None:
                raise BadRequest(f"malformed chunk header: {line!r}")
            size = int(matched[1], 16)
            if size == 0:
                break
            body += self._read_exactly(size)
            if self._read_line():
                raise BadRequest("a chunk that is longer than its header says")
        while self._read_line():
            pass
        return bytes(body)

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadRequest(f"a line of more than {MAX_HEAD} bytes")
            self._fill("a chunked body")
        return self._take(end + 2)[:-2]

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill("a body")
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _fill(self, what: str) -> None:
        received = self._receive()
        if received:
            self._buffer += received
        elif what:
            raise BadRequest(f"the client closed within {what}: {bytes(self._buffer[:200])!r}")
        else:
            raise PeerClosed
