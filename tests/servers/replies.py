"""What a scripted server does: replies, and the actions between and instead of them.

A reply is a value; every method gives another one, so that a fault is laid over a correct reply
(`reply.cut(10, Reset())`) rather than written out by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal

from .parsing import NO_FIELDS, Fields

Framing = Literal["length", "chunked", "eof"]


@dataclass(frozen=True)
class Fin:
    """Close with FIN; over TLS `notify=False` leaves close_notify out, as a cut line does."""

    notify: bool = True


@dataclass(frozen=True)
class Reset:
    """Close with RST, once the client's kernel has all that was sent before."""


@dataclass(frozen=True)
class Vanish:
    """Be gone without FIN or RST, as a machine that lost its power (see `can_vanish`)."""


@dataclass(frozen=True)
class HalfClose:
    """Send FIN, then read on until the client closes."""


@dataclass(frozen=True)
class Stall:
    """Send nothing more until the client closes or the server stops."""


@dataclass(frozen=True)
class Wait:
    """Hold until the event is set; a TimeoutError of the server where it is not in time."""

    event: threading.Event
    timeout: float = 30.0


@dataclass(frozen=True)
class Drip:
    """Send byte by byte, each in a segment of its own."""

    data: bytes


@dataclass(frozen=True)
class Cork:
    """Hold back what follows, so that its last bytes travel in one segment with the FIN."""


@dataclass(frozen=True)
class KeyUpdate:
    """Change the keys of a TLS 1.3 session, and ask the client to change its own."""


@dataclass(frozen=True)
class Renegotiate:
    """Ask the client of a TLS 1.2 session for another handshake."""


@dataclass(frozen=True)
class BelowTLS:
    """Send bytes on the connection as they are, past the TLS session."""

    data: bytes


@dataclass(frozen=True)
class Tunnel:
    """Reply 200 to a CONNECT and relay bytes to and from `address`, as a proxy does."""

    address: tuple[str, int]


Ending = Fin | Reset | Vanish | HalfClose | Stall


@dataclass(frozen=True)
class Reply:
    """One HTTP response.

    The server leaves the body out where RFC 9110 has none (HEAD, 1xx, 204, 304) and closes after
    a reply that says `Connection: close`, is framed by the end of the connection, or has an
    `ending`. Bytes instead of a `Reply` are sent as they are.
    """

    status: int = 200
    body: bytes = b""
    fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    reason: str | None = None
    head: bytes | None = None
    """The whole head, to the byte, instead of one made from status, fields and framing."""
    framing: Framing = "length"
    chunk_size: int = 1 << 16
    chunk_extension: bytes = b""
    trailers: Fields = NO_FIELDS
    stop: int | None = None
    """How many bytes of the wire form are sent; counted from its end where negative."""
    ending: Ending | None = None
    dripped: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", Fields.of(self.fields))
        object.__setattr__(self, "body", bytes(self.body))

    @property
    def _fields(self) -> Fields:
        assert isinstance(self.fields, Fields)
        return self.fields

    def field(self, name: str) -> str | None:
        """The value of a field that was given (not of one the framing adds)."""
        return self._fields.get(name)

    def with_fields(self, **fields: str | None) -> Reply:
        """This reply with these fields set, or left out where None (`_` stands for `-`)."""
        named = {_field_name(name): value for name, value in fields.items()}
        kept = self._fields.without(*named)
        added = [(name, value) for name, value in named.items() if value is not None]
        return replace(self, fields=Fields([*kept, *added]))

    def with_body(self, body: bytes) -> Reply:
        """This reply with another body; a Content-Length that was given stays."""
        return replace(self, body=body)

    def chunked(
        self,
        size: int = 1 << 16,
        *,
        extension: bytes = b"",
        trailers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Reply:
        """This reply in chunks of `size` bytes."""
        return replace(
            self,
            framing="chunked",
            chunk_size=size,
            chunk_extension=extension,
            trailers=Fields.of(trailers),
        )

    def until_eof(self) -> Reply:
        """This reply with neither length nor chunks: its end is the connection's."""
        return replace(self, framing="eof")

    def closing(self) -> Reply:
        """This reply with `Connection: close`, and FIN after it."""
        return self.with_fields(connection="close")

    def then(self, ending: Ending) -> Reply:
        """The whole reply, then `ending` without a word of it in the head."""
        return replace(self, ending=ending)

    def cut(self, at: int, ending: Ending | None = None) -> Reply:
        """Only the first `at` bytes of the wire form (from its end if negative), then `ending`."""
        return replace(self, stop=at, ending=ending or Fin())

    def cut_body(self, at: int, ending: Ending | None = None) -> Reply:
        """The head and the first `at` bytes after it (of the framed body), then `ending`."""
        return self.cut(len(self.wire_head()) + at, ending)

    def drip(self) -> Reply:
        """This reply byte by byte."""
        return replace(self, dripped=True)

    def with_head_size(self, size: int) -> Reply:
        """This reply with a padding field that makes its head `size` bytes long.

        Raises
        ------
        ValueError
            Where the head is too long already.
        """
        bare = self.with_fields(x_padding=None)
        missing = size - len(bare.wire_head()) - len("X-Padding: \r\n")
        if missing < 0:
            raise ValueError(f"the head cannot be as small as {size} bytes")
        return bare.with_fields(x_padding="a" * missing)

    @property
    def interim(self) -> bool:
        """Whether this is a 1xx response, which another one follows."""
        return 100 <= self.status < 200 and self.status != 101

    def has_body(self, method: str = "GET") -> bool:
        """Whether a response to `method` with this status has a body (RFC 9112, section 6.3)."""
        return not (method == "HEAD" or self.status < 200 or self.status in (204, 304))

    def closes(self) -> bool:
        """Whether the connection ends with this reply."""
        said = (self._fields.get("Connection") or "").lower()
        return "close" in said or self.framing == "eof"

    def wire_head(self) -> bytes:
        """The head's bytes."""
        if self.head is not None:
            return self.head
        fields = list(self._fields)
        if self.framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        elif (
            self.framing == "length"
            and self.status >= 200
            and self.status not in (204, 304)
            and not self._fields.has("Content-Length")
        ):
            fields.append(("Content-Length", str(len(self.body))))
        lines = [f"HTTP/1.1 {self.status} {self._reason()}"]
        lines += [f"{name}: {value}" for name, value in fields]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def wire_body(self) -> bytes:
        """The framed body's bytes."""
        if self.framing != "chunked":
            return self.body
        parts = []
        for start in range(0, len(self.body), self.chunk_size):
            chunk = self.body[start : start + self.chunk_size]
            parts.append(b"%x%s\r\n%s\r\n" % (len(chunk), self.chunk_extension, chunk))
        parts.append(b"0%s\r\n" % self.chunk_extension)
        parts += [f"{name}: {value}\r\n".encode("latin-1") for name, value in self.trailers]
        return b"".join([*parts, b"\r\n"])

    def wire(self, method: str = "GET") -> bytes:
        """All that is sent in answer to `method`."""
        body = self.wire_body() if self.has_body(method) else b""
        return (self.wire_head() + body)[: self.stop]

    def _reason(self) -> str:
        if self.reason is not None:
            return self.reason
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Unknown"


Action = (
    bytes
    | Reply
    | Wait
    | Cork
    | Drip
    | Tunnel
    | KeyUpdate
    | Renegotiate
    | BelowTLS
    | Fin
    | Reset
    | Vanish
    | HalfClose
    | Stall
)


def _field_name(name: str) -> str:
    return name.replace("_", "-").title()


def _named(fields: Mapping[str, Any]) -> Fields:
    return Fields((_field_name(name), str(value)) for name, value in fields.items())


def ok(body: bytes = b"", **fields: str) -> Reply:
    """200 with the whole body."""
    return Reply(200, body, _named(fields))


def partial(body: bytes, start: int, total: int | None, **fields: str) -> Reply:
    """206 with `body` as the bytes from `start` of an object of `total` bytes (None: unknown)."""
    size = "*" if total is None else total
    content_range = f"bytes {start}-{start + len(body) - 1}/{size}"
    return Reply(206, body, Fields([("Content-Range", content_range), *_named(fields)]))


def unsatisfiable(total: int, **fields: str) -> Reply:
    """416 for an object of `total` bytes."""
    pairs = [("Content-Range", f"bytes */{total}"), *_named(fields)]
    return Reply(416, b"range not satisfiable\n", Fields(pairs))


def status(code: int, body: bytes = b"an error page\n", **fields: str) -> Reply:
    """Any status with an error page, which no reader may ever be given."""
    return Reply(code, body, _named(fields))


def redirect(location: str, code: int = 302, **fields: str) -> Reply:
    """A redirect to `location`."""
    return Reply(code, b"moved\n", Fields([("Location", location), *_named(fields)]))


def interim(code: int = 103, **fields: str) -> Reply:
    """A 1xx response, to be followed by the final one."""
    return Reply(code, fields=_named(fields))
