"""The lines of a response head: RFC 9112 as tables, each row whole, split, and to the oracle."""

from __future__ import annotations

import pytest
from fuzz.http1_feeding import error_of, head_of, read
from fuzz.http1_oracle import MAX_NUMBER


def field_error(*lines: str) -> str:
    return error_of("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1"))


@pytest.mark.parametrize(
    ("line", "status", "minor_version", "reason"),
    [
        ("HTTP/1.1 200 OK", 200, 1, b"OK"),
        ("HTTP/1.0 404 Not Found", 404, 0, b"Not Found"),
        ("HTTP/1.1 206 ", 206, 1, None),
        ("HTTP/1.1 206", 206, 1, None),
        ("HTTP/1.9 999 caf\xe9\tau  lait ", 999, 9, b"caf\xe9\tau  lait"),
    ],
)
def test_status_line(line: str, status: int, minor_version: int, reason: bytes | None) -> None:
    head = head_of(status_line=line)
    assert (head["status"], head["minor_version"], head["reason"]) == (
        status,
        minor_version,
        reason,
    )


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 099 Low",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1  200 OK",
        b" HTTP/1.1 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.x 200 OK",
        b"HTTP/1 200 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 200 OK\r",
        b"\r\rHTTP/1.1 200 OK",
        b"SSH-2.0-OpenSSH_9.2",
        b"<html>",
    ],
)
def test_bad_status_line(line: bytes) -> None:
    assert error_of(line + b"\r\n\r\n") == "BAD_STATUS_LINE"


@pytest.mark.parametrize(
    "line",
    [
        "no colon",
        "",
        ": no name",
        "Name : space before the colon",
        "Name\t: the same",
        "N\xe4me: no token",
        "Na(me: no token",
        "Name: nu\x00l",
        "Name: bare\rCR",
        "Name: two\r",
        "Name: bell\x07",
        "Name: del\x7f",
        "Na\x00me: x",
    ],
)
def test_bad_field_line(line: str) -> None:
    if line:
        assert field_error(line) == "BAD_FIELD"
        assert field_error("Before: 1", line, "After: 1") == "BAD_FIELD"
    assert field_error(" folded before any field") == "BAD_FIELD"


@pytest.mark.parametrize(
    ("text", "etag"),
    [
        ('ETag: "a"', b'"a"'),
        ('etag:"a"', b'"a"'),
        ("ETAG: \t W/x \t ", b"W/x"),
        ("eTaG:", b""),
        ("ETag: caf\xe9 \xff", b"caf\xe9 \xff"),
        ("ETag: a:b", b"a:b"),
        ("ETag: first\r\nETag: second", b"first"),
        ("X-ETag: other\r\nETags: other", None),
        ("ETag: un\r\n folded", b"un   folded"),
        ("ETag: un\n\tfolded", b"un \tfolded"),
        ("ETag:\r\n  late", b"late"),
        ("ETag: early\r\n \r\nX: y", b"early"),
        ("ETag: three\r\n times\r\n\tfolded\r\nX: y", b"three   times  \tfolded"),
    ],
)
def test_field_values(text: str, etag: bytes | None) -> None:
    assert head_of(text)["etag"] == etag
    assert head_of(f"A: b\r\n{text}\r\nC: d")["etag"] == etag


def test_every_span() -> None:
    head = head_of(
        "Location: /elsewhere",
        "Content-Type: text/plain",
        "Last-Modified: then",
        "Date: now",
        "Retry-After: later",
    )
    spans = ("location", "content_type", "last_modified", "date", "retry_after_value", "etag")
    assert [head[name] for name in spans] == [
        b"/elsewhere",
        b"text/plain",
        b"then",
        b"now",
        b"later",
        None,
    ]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        (str(MAX_NUMBER), MAX_NUMBER),
        (str(MAX_NUMBER + 1), -1),
        ("-1", -1),
        ("1.5", -1),
        ("", -1),
        ("Fri, 31 Dec 1999 23:59:59 GMT", -1),
    ],
)
def test_retry_after(value: str, seconds: int) -> None:
    head = head_of(f"Retry-After: {value}")
    assert (head["retry_after"], head["retry_after_value"]) == (seconds, value.encode())
    assert head_of(f"Retry-After: {value}", "Retry-After: 9")["retry_after"] == seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-0/1", (True, 0, 1, 1)),
        ("bytes 5-9/100", (True, 5, 10, 100)),
        ("BYTES 5-9/*", (True, 5, 10, -1)),
        ("bytes */100", (True, -1, -1, 100)),
        ("bytes */0", (True, -1, -1, 0)),
        (f"bytes 0-{MAX_NUMBER - 1}/{MAX_NUMBER}", (True, 0, MAX_NUMBER, MAX_NUMBER)),
        ("bytes 005-0009/10", (True, 5, 10, 10)),
        (f"bytes 0-{MAX_NUMBER}/*", None),
        (f"bytes 0-1/{MAX_NUMBER + 1}", None),
        ("bytes */*", None),
        ("bytes 5-4/100", None),
        ("bytes 0-100/100", None),
        ("bytes 0-9", None),
        ("bytes 0-9/", None),
        ("bytes 0-9/10 ;x", None),
        ("bytes 0-9/10x", None),
        ("bytes 0-9/**", None),
        ("bytes  0-9/10", None),
        ("bytes\t0-9/10", None),
        ("bytes=0-9/10", None),
        ("bytes -9/10", None),
        ("bytes 0-/10", None),
        ("bytes 0/10", None),
        ("bytes *", None),
        ("bytes ", None),
        ("bytes", None),
        ("items 0-9/10", None),
        ("", None),
    ],
)
def test_content_range(value: str, expected: tuple[bool, int, int, int] | None) -> None:
    def reading(*lines: str) -> tuple[bool, int, int, int]:
        head = head_of(*lines, status_line="HTTP/1.1 206 Partial Content")
        assert head["has_content_range"]
        names = ("content_range_valid", "range_start", "range_end", "range_total")
        valid, start, end, total = (head[name] for name in names)
        return valid, start, end, total

    invalid = (False, -1, -1, -1)
    line = f"Content-Range: {value}"
    assert reading(line) == (expected or invalid)
    assert reading(line, line) == (expected or invalid)
    assert reading(line, "Content-Range: bytes 1-2/7") == invalid
    assert reading("Content-Range: bytes 1-2/7", line) == invalid


@pytest.mark.parametrize(
    ("lines", "encoded", "multipart"),
    [
        ([], False, False),
        (["Content-Encoding: identity"], False, False),
        (["Content-Encoding: Identity, ,IDENTITY"], False, False),
        (["Content-Encoding:"], False, False),
        (["Content-Encoding: gzip"], True, False),
        (["Content-Encoding: identity", "content-encoding: x-new"], True, False),
        (["Content-Encoding: identity, br"], True, False),
        (["Content-Type: multipart/byteranges"], False, True),
        (["Content-Type: Multipart/ByteRanges ; boundary=x"], False, True),
        (["Content-Type: multipart/byterangesx"], False, False),
        (["Content-Type: text/plain", "Content-Type: multipart/byteranges"], False, False),
        (["Content-Type: multipart/mixed; x=multipart/byteranges"], False, False),
    ],
)
def test_content_coding_and_type(lines: list[str], encoded: bool, multipart: bool) -> None:
    head = head_of(*lines)
    assert (head["encoded"], head["multipart"]) == (encoded, multipart)


@pytest.mark.parametrize(
    ("minor_version", "lines", "keep_alive"),
    [
        (1, [], True),
        (0, [], False),
        (1, ["Connection: close"], False),
        (1, ["Connection: x, CLOSE ,y"], False),
        (1, ["Connection: x", "Connection: close"], False),
        (1, ["Connection: closed, x-close"], True),
        (0, ["Connection: Keep-Alive"], True),
        (0, ["Connection: x,keep-alive"], True),
        (0, ["Connection: keep-alive, close"], False),
        (1, ["Connection: keep-alive, close"], False),
        (1, ["Connection:"], True),
    ],
)
def test_persistence(minor_version: int, lines: list[str], keep_alive: bool) -> None:
    status_line = f"HTTP/1.{minor_version} 200 OK"
    head = head_of("Content-Length: 0", *lines, status_line=status_line)
    assert head["keep_alive"] is keep_alive
    assert head_of(*lines, status_line=status_line)["keep_alive"] is False


def test_field_count() -> None:
    for count, error in ((256, "NONE"), (257, "TOO_MANY_FIELDS")):
        data = b"HTTP/1.1 204 X\r\n" + b"A: b\r\n" * count + b"\r\n"
        assert read(data).error == error


# --- framing


@pytest.mark.parametrize(
    ("values", "length"),
    [
        (["0"], 0),
        (["5"], 5),
        (["005"], 5),
        (["5, 5"], 5),
        (["5 ,05", "5"], 5),
        ([str(MAX_NUMBER)], MAX_NUMBER),
        ([f"{'0' * 40}7"], 7),
        ([str(MAX_NUMBER + 1)], None),
        (["99999999999999999999"], None),
        ([str(2**64 + 5)], None),
        (["5, 6"], None),
        (["5", "6"], None),
        (["5,"], None),
        ([",5"], None),
        ([""], None),
        (["-5"], None),
        (["+5"], None),
        (["5 5"], None),
        (["0x5"], None),
        (["5.0"], None),
        (["\xb2"], None),
    ],
)
def test_content_length(values: list[str], length: int | None) -> None:
    lines = [f"Content-Length: {value}" for value in values]
    if length is None:
        assert field_error(*lines) == "BAD_CONTENT_LENGTH"
    else:
        head = head_of(*lines)
        assert (head["framing"], head["content_length"]) == ("CONTENT_LENGTH", length)


@pytest.mark.parametrize(
    ("values", "good"),
    [
        (["chunked"], True),
        (["Chunked"], True),
        ([", chunked,"], True),
        (["", "chunked"], False),
        ([""], False),
        (["identity"], False),
        (["gzip, chunked"], False),
        (["chunked, gzip"], False),
        (["chunked, chunked"], False),
        (["chunked", "chunked"], False),
        (["chunked;x=y"], False),
        (["xchunked"], False),
        (["chunked\x0b"], None),
    ],
)
def test_transfer_encoding(values: list[str], good: bool | None) -> None:
    lines = [f"Transfer-Encoding: {value}" for value in values]
    if good:
        assert head_of(*lines)["framing"] == "CHUNKED"
    else:
        assert field_error(*lines) == ("BAD_FIELD" if good is None else "BAD_TRANSFER_ENCODING")


@pytest.mark.parametrize("minor_version", [0, 1])
def test_doubtful_framing_is_not_kept_alive(minor_version: int) -> None:
    lines = ["Content-Length: 3", "Transfer-Encoding: chunked", "Connection: keep-alive"]
    status_line = f"HTTP/1.{minor_version} 200 OK"
    for order in (lines, lines[::-1], lines[1:]):
        head = head_of(*order, status_line=status_line)
        assert (head["framing"], head["content_length"]) == ("CHUNKED", -1)
        assert head["keep_alive"] is (minor_version == 1 and len(order) == 2)


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked", "X: y"])
def test_responses_without_a_body(framing: str) -> None:
    for status, head_request in ((204, False), (304, False), (200, True), (404, True)):
        data = f"HTTP/1.1 {status} X\r\n{framing}\r\n\r\nHTTP/1.1".encode()
        outcome = read(data, head_request=head_request)
        assert outcome.head is not None
        assert (outcome.event, outcome.body, outcome.unused) == ("END", b"", 8)
        assert outcome.head["framing"] == "NO_BODY"
        # Where a body is announced that there is not, somebody may send it later.
        assert outcome.head["keep_alive"] is (head_request or framing == "X: y")
        assert outcome.head["content_length"] == (9 if "9" in framing else -1)
