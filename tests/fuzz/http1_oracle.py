"""What a stream of bytes means as an HTTP/1.1 response, read a second time and another way.

Whole streams and regular expressions, where the parser under test has single bytes and states:
what both say is hardly a mistake of either. Written from RFC 9112 and the limits of the parser.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

MAX_NUMBER = 2**63 - 1
MAX_FIELDS = 256
MAX_INTERIM = 64
MAX_EMPTY_LINES = 8
MAX_CHUNK_HEADER = 4096

TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TEXT = rb"[\t\x20-\x7e\x80-\xff]"
STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: (" + TEXT + rb"*))?")
FIELD_LINE = re.compile(rb"(" + TCHAR + rb"+):(" + TEXT + rb"*)")
CONTENT_RANGE = re.compile(rb"(?i:bytes) (?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)")

BARE = rb"[\t\x20\x21\x23-\x7e\x80-\xff]"
IN_QUOTES = rb"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\" + TEXT + rb")"
EXTENSION = rb";(?:" + BARE + rb'|"' + IN_QUOTES + rb'*")*'
CHUNK_HEADER = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:" + EXTENSION + rb")?\r\n")
CHUNK_HEADER_BEGUN = re.compile(
    rb"(?:[0-9A-Fa-f]+(?:[ \t]*(?:\r|" + EXTENSION + rb'(?:\r|"' + IN_QUOTES + rb"*\\?)?)?)?)?"
)
HEX_DIGITS = re.compile(rb"[0-9A-Fa-f]*")
TRAILER = re.compile(TCHAR + rb"+:" + TEXT + rb"*\r\n")
TRAILER_BEGUN = re.compile(rb"(?:" + TCHAR + rb"+(?::" + TEXT + rb"*\r?)?)?|\r")
TRAILER_FOLD = re.compile(rb"[ \t]" + TEXT + rb"*\r\n")
TRAILER_FOLD_BEGUN = re.compile(rb"[ \t]" + TEXT + rb"*\r?")


class Outcome(NamedTuple):
    """Where reading a stream ended: `event` is NEED_DATA, END or ERROR."""

    event: str
    error: str
    head: dict[str, Any] | None
    body: bytes
    unused: int


class MalformedError(Exception):
    """The name of the error is the argument."""


class IncompleteError(Exception):
    """The stream ends where the response does not."""


def _line(data: bytes, at: int, limit: int) -> tuple[bytes, bytes, int]:
    # The line at `at`, its line end, and where the next begins.
    line_feed = data.find(b"\n", at, limit)
    if line_feed < 0:
        raise MalformedError("HEAD_TOO_LARGE") if len(data) > limit else IncompleteError
    line = data[at:line_feed]
    if line.endswith(b"\r"):
        return line[:-1], b"\r\n", line_feed + 1
    return line, b"\n", line_feed + 1


def _elements(value: bytes) -> list[bytes]:
    return [element.strip(b" \t").lower() for element in value.split(b",")]


def _number(text: bytes) -> int:
    # -1 for what is none, or too large a one.
    digits = re.fullmatch(rb"0*([0-9]{1,19})", text)
    number = int(digits[1]) if digits else -1
    return number if number <= MAX_NUMBER else -1


class _Fields:
    """The fields of one head; refuses at once what the framing cannot live with."""

    def __init__(self) -> None:
        self.values: dict[bytes, list[bytes]] = {}
        self.count = 0
        self.lengths: set[int] = set()
        self.codings: list[bytes] = []

    def add(self, line: bytes) -> None:
        match = FIELD_LINE.fullmatch(line)
        if not match:
            raise MalformedError("BAD_FIELD")
        self.count += 1
        if self.count > MAX_FIELDS:
            raise MalformedError("TOO_MANY_FIELDS")
        name, value = match[1].lower(), match[2].strip(b" \t")
        self.values.setdefault(name, []).append(value)
        if name == b"content-length":
            self.lengths |= {_number(element) for element in _elements(value)}
            if len(self.lengths) > 1 or -1 in self.lengths:
                raise MalformedError("BAD_CONTENT_LENGTH")
        if name == b"transfer-encoding":
            self.codings += filter(None, _elements(value))
            if self.codings != [b"chunked"]:
                raise MalformedError("BAD_TRANSFER_ENCODING")

    def first(self, name: bytes) -> bytes | None:
        return self.values.get(name, [None])[0]

    def elements(self, name: bytes) -> set[bytes]:
        return {element for value in self.values.get(name, []) for element in _elements(value)}


def _content_range(values: list[bytes]) -> tuple[bool, int, int, int]:
    readings = set()
    for value in values:
        match = CONTENT_RANGE.fullmatch(value)
        if not match:
            return False, -1, -1, -1
        start, last, total = (_number(part or b"") for part in match.groups())
        end = last + 1 if match[2] else -1
        too_large = [part for part in match.groups() if part and part != b"*" and _number(part) < 0]
        if too_large or end > MAX_NUMBER or (match[1] and start >= end):
            return False, -1, -1, -1
        if (total < end) if match[3] != b"*" else not match[1]:
            return False, -1, -1, -1
        readings.add((start, end, total))
    if len(readings) != 1:
        return False, -1, -1, -1
    return True, *readings.pop()


def _head(match: re.Match[bytes], fields: _Fields, head_request: bool) -> dict[str, Any]:
    minor_version, status = int(match[1]), int(match[2])
    options = fields.elements(b"connection")
    chunked = bool(fields.codings)
    length = -1 if chunked or not fields.lengths else min(fields.lengths)
    if head_request or status in (204, 304):
        framing = "NO_BODY"
    elif chunked:
        framing = "CHUNKED"
    else:
        framing = "CONTENT_LENGTH" if length >= 0 else "UNTIL_EOF"
    keep_alive = minor_version >= 1 or b"keep-alive" in options
    if b"close" in options or framing == "UNTIL_EOF":
        keep_alive = False
    if chunked and (fields.lengths or minor_version == 0):
        keep_alive = False
    if framing == "NO_BODY" and not head_request and (chunked or length > 0):
        keep_alive = False
    ranges = fields.values.get(b"content-range", [])
    valid, start, end, total = _content_range(ranges)
    content_type = fields.first(b"content-type")
    media_type = (content_type or b"").split(b";")[0].strip(b" \t").lower()
    return {
        "status": status,
        "minor_version": minor_version,
        "keep_alive": keep_alive,
        "framing": framing,
        "content_length": length,
        "has_content_range": bool(ranges),
        "content_range_valid": valid,
        "range_start": start,
        "range_end": end,
        "range_total": total,
        "encoded": bool(fields.elements(b"content-encoding") - {b"", b"identity"}),
        "multipart": media_type == b"multipart/byteranges",
        "retry_after": _number(fields.first(b"retry-after") or b""),
        "reason": (match[3] or b"").strip(b" \t") or None,
        "etag": fields.first(b"etag"),
        "location": fields.first(b"location"),
        "retry_after_value": fields.first(b"retry-after"),
        "content_type": content_type,
        "last_modified": fields.first(b"last-modified"),
        "date": fields.first(b"date"),
    }


def _status_line(data: bytes, at: int, limit: int) -> tuple[bytes, int]:
    begun = data[at:limit]
    if b"\n" not in begun and begun != b"\r" and not b"HTTP/1.".startswith(begun[:7]):
        raise MalformedError("BAD_STATUS_LINE")
    line, _, after = _line(data, at, limit)
    return line, after


def _read_head(data: bytes, capacity: int, head_request: bool) -> tuple[dict[str, Any], int]:
    at = empty_lines = interim = 0
    while True:
        limit = at + capacity
        line, at = _status_line(data, at, limit)
        if not line:
            empty_lines += 1
            if empty_lines > MAX_EMPTY_LINES:
                raise MalformedError("BAD_STATUS_LINE")
            continue
        match = STATUS_LINE.fullmatch(line)
        if not match:
            raise MalformedError("BAD_STATUS_LINE")
        fields = _Fields()
        pending = line_end = b""
        while True:
            ended = line_end
            line, line_end, at = _line(data, at, limit)
            if line.startswith((b" ", b"\t")):
                if not pending:
                    raise MalformedError("BAD_FIELD")
                pending += b" " * len(ended) + line
                continue
            if pending:
                fields.add(pending)
            if not line:
                break
            pending = line
        status = int(match[2])
        if status == 101:
            raise MalformedError("UNEXPECTED_UPGRADE")
        if status >= 200:
            return _head(match, fields, head_request), at
        interim += 1
        if interim > MAX_INTERIM:
            raise MalformedError("TOO_MANY_INTERIM")


def _read_trailers(data: bytes, at: int, capacity: int) -> int:
    section = data[: at + capacity]
    fields = 0
    while not section.startswith(b"\r\n", at):
        folds = fields > 0 and section[at : at + 1] in (b" ", b"\t")
        if not folds and fields == MAX_FIELDS and re.match(TCHAR, section[at : at + 1]):
            raise MalformedError("TOO_MANY_FIELDS")
        match = (TRAILER_FOLD if folds else TRAILER).match(section, at)
        if not match:
            if not (TRAILER_FOLD_BEGUN if folds else TRAILER_BEGUN).fullmatch(section, at):
                raise MalformedError("BAD_FIELD")
            raise MalformedError("HEAD_TOO_LARGE") if len(data) > len(section) else IncompleteError
        fields += not folds
        at = match.end()
    return at + 2


def _read_chunked(data: bytes, at: int, capacity: int, body: bytearray) -> int:
    while True:
        line = data[at : at + MAX_CHUNK_HEADER]
        digits = HEX_DIGITS.match(line)
        if digits and int(digits[0] or b"0", 16) > MAX_NUMBER:
            raise MalformedError("BAD_CHUNK")
        header = CHUNK_HEADER.match(line)
        if not header:
            if CHUNK_HEADER_BEGUN.fullmatch(line) and len(data) - at <= MAX_CHUNK_HEADER:
                raise IncompleteError
            raise MalformedError("BAD_CHUNK")
        size = int(header[1], 16)
        at += header.end()
        if size > MAX_NUMBER - len(body):
            raise MalformedError("BAD_CHUNK")
        if size == 0:
            return _read_trailers(data, at, capacity)
        body += data[at : at + size]
        at += size
        line_end = data[at : at + 2]
        at += 2
        if not b"\r\n".startswith(line_end):
            raise MalformedError("BAD_CHUNK")
        if len(line_end) < 2:
            raise IncompleteError


def read_response(
    data: bytes, *, capacity: int = 65536, head_request: bool = False, eof: bool = False
) -> Outcome:
    """Read one response off a stream; `eof` says that the stream is closed after `data`."""
    head: dict[str, Any] | None = None
    body = bytearray()
    try:
        head, at = _read_head(data, capacity, head_request)
        if head["framing"] == "CHUNKED":
            at = _read_chunked(data, at, capacity, body)
        elif head["framing"] == "UNTIL_EOF":
            body += data[at:]
            at = len(data)
            if not eof:
                raise IncompleteError
        elif head["framing"] == "CONTENT_LENGTH":
            length = head["content_length"]
            body += data[at : at + length]
            at += length
            if len(body) < length:
                raise IncompleteError
        return Outcome("END", "NONE", head, bytes(body), len(data) - at)
    except MalformedError as error:
        return Outcome("ERROR", error.args[0], head, bytes(body), 0)
    except IncompleteError:
        if not eof:
            return Outcome("NEED_DATA", "NONE", head, bytes(body), 0)
        if head:
            return Outcome("ERROR", "EOF_IN_BODY", head, bytes(body), 0)
        nothing = re.fullmatch(rb"(?:\r?\n)*", data)
        return Outcome("ERROR", "EOF_BEFORE_HEAD" if nothing else "EOF_IN_HEAD", None, b"", 0)
