"""The HTTP/1.1 codec: RFC 9112 as tables. Every row is fed whole, split, and to the oracle."""

from __future__ import annotations

import string
from typing import Any

import pytest
from fuzz.http1_feeding import read
from fuzz.http1_oracle import MAX_NUMBER
from hypothesis import given, settings
from hypothesis import strategies as st

from zfast._core.http1 import (
    Event,
    Http1Error,
    ResponseParser,
    check_field_value,
    check_target,
    check_token,
    parse_fields,
    request_head,
)

TOKEN = set((string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode())
TARGET = set(range(0x21, 0x7F))
TEXT = {*range(0x20, 0x7F), *range(0x80, 0x100), 0x09}
INVISIBLE = {*range(0x20), 0x7F}


def head_of(*lines: str, status_line: str = "HTTP/1.1 200 OK", **options: Any) -> dict[str, Any]:
    data = "\r\n".join([status_line, *lines, "", ""]).encode("latin-1")
    outcome = read(data, **options)
    assert outcome.error == "NONE"
    assert outcome.head is not None
    return outcome.head


def error_of(data: bytes, **options: Any) -> str:
    outcome = read(data, **options)
    assert outcome.event == "ERROR"
    return outcome.error


def field_error(*lines: str) -> str:
    return error_of("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1"))


# --- the head


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


def test_garbage_is_refused_before_its_line_ends() -> None:
    for begun in (b"\x15\x03\x01", b"HTTP/2", b"HTTP/1,"):
        assert error_of(begun) == "BAD_STATUS_LINE"
    assert read(b"HTTP/1").event == "NEED_DATA"


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\n\r\n"])
def test_few_empty_lines_before_the_status_line(empty: bytes) -> None:
    head = read(empty + b"HTTP/1.1 204 Fine\r\n\r\n").head
    assert head is not None
    assert head["reason"] == b"Fine"
    assert error_of(b"\r\n" * 9 + b"HTTP/1.1 204\r\n\r\n") == "BAD_STATUS_LINE"


def test_bare_line_feeds_end_the_lines_of_a_head() -> None:
    outcome = read(b"HTTP/1.1 200 OK\nContent-Length: 2\r\nETag: x\n\nhi")
    assert (outcome.event, outcome.body) == ("END", b"hi")
    assert outcome.head is not None
    assert outcome.head["etag"] == b"x"


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
        assert outcome.head["keep_alive"]
        assert outcome.head["content_length"] == (9 if "9" in framing else -1)


def test_body_until_eof() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    assert read(data).event == "NEED_DATA"
    outcome = read(data, eof=True)
    assert (outcome.event, outcome.body) == ("END", b"all of it")
    parser = ResponseParser()
    parser.feed(data)
    assert parser.remaining == -1
    assert parser.direct() == MAX_NUMBER
    assert parser.direct_received(MAX_NUMBER) == Event.NEED_DATA
    assert parser.body_received == MAX_NUMBER


def test_what_follows_a_response_is_not_its() -> None:
    for framing in (b"Content-Length: 2\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
        outcome = read(b"HTTP/1.1 200 OK\r\n" + framing + b"HTTP/1.1 200 OK")
        assert (outcome.event, outcome.unused) == ("END", 15)


@pytest.mark.parametrize(
    "interim",
    [b"100 Continue", b"103 Early Hints\r\nConnection: close\r\nContent-Length: 9", b"102"],
)
def test_interim_responses_are_skipped(interim: bytes) -> None:
    interim_head = b"HTTP/1.1 " + interim + b"\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    for count in (1, 64):
        outcome = read(interim_head * count + final)
        assert outcome.head is not None
        assert (outcome.body, outcome.head["status"]) == (b"hi", 200)
        assert outcome.head["content_length"] == 2
        assert outcome.head["keep_alive"]
    assert error_of(interim_head * 65 + final) == "TOO_MANY_INTERIM"
    assert error_of(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n") == "UNEXPECTED_UPGRADE"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("stream", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\nA\r\n, world..!\r\n000\r\n\r\n", b"hello, world..!"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"00000000000000000000002;x\r\nhi\r\n0;y=z\r\n\r\n", b"hi"),
        (b'2 \t;a = "\\"; " ;b\r\nhi\r\n0\r\n\r\n', b"hi"),
        (b'2;a="q;\xe9"\r\nhi\r\n0\r\n\r\n', b"hi"),
        (b"2  \r\nhi\r\n0 \r\n\r\n", b"hi"),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"2\r\nhi\r\n0\r\nX: y\r\nZ:\r\n folded\r\n\r\n", b"hi"),
        ((b"1;" + b"x" * 4092 + b"\r\n!\r\n") * 2 + b"0\r\n\r\n", b"!!"),
    ],
)
def test_chunked(stream: bytes, body: bytes) -> None:
    outcome = read(CHUNKED + stream + b"next")
    assert (outcome.event, outcome.body, outcome.unused) == ("END", body, 4)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"\r\n", "BAD_CHUNK"),
        (b";x\r\n", "BAD_CHUNK"),
        (b"5\r\nhello\r\n\r\n", "BAD_CHUNK"),
        (b" 5\r\nhello\r\n", "BAD_CHUNK"),
        (b"g\r\n", "BAD_CHUNK"),
        (b"-5\r\n", "BAD_CHUNK"),
        (b"0x5\r\n", "BAD_CHUNK"),
        (b"5 5\r\n", "BAD_CHUNK"),
        (b"5\nhello", "BAD_CHUNK"),
        (b"5\r\rhello", "BAD_CHUNK"),
        (b"5;x\nhello", "BAD_CHUNK"),
        (b'5;x="a\r\nhello', "BAD_CHUNK"),
        (b'5;x="\\\r\nhello', "BAD_CHUNK"),
        (b"5;x\x00\r\nhello", "BAD_CHUNK"),
        (b"5\r\nhello\n0\r\n\r\n", "BAD_CHUNK"),
        (b"5\r\nhello!\r\n0\r\n\r\n", "BAD_CHUNK"),
        (b"5\r\nhello!\n0\r\n\r\n", "BAD_CHUNK"),
        (b"5\r\nhello\r5\r\n", "BAD_CHUNK"),
        (b"8000000000000000\r\n", "BAD_CHUNK"),
        (b"10000000000000005\r\nhello\r\n", "BAD_CHUNK"),
        (b"1\r\n!\r\n7fffffffffffffff\r\n", "BAD_CHUNK"),
        (b"1;" + b"x" * 4093 + b"\r\n!\r\n0\r\n\r\n", "BAD_CHUNK"),
        (b"0" * 4097, "BAD_CHUNK"),
        (b"0\r\n\n", "BAD_FIELD"),
        (b"0\r\n\rX", "BAD_FIELD"),
        (b"0\r\nX: y\n\r\n", "BAD_FIELD"),
        (b"0\r\nX: y\rz\r\n\r\n", "BAD_FIELD"),
        (b"0\r\nX: \x00\r\n\r\n", "BAD_FIELD"),
        (b"0\r\nX : y\r\n\r\n", "BAD_FIELD"),
        (b"0\r\nX\r\n\r\n", "BAD_FIELD"),
        (b"0\r\n: y\r\n\r\n", "BAD_FIELD"),
        (b"0\r\n folded\r\n\r\n", "BAD_FIELD"),
        (b"0\r\n" + b"X: y\r\n" * 257, "TOO_MANY_FIELDS"),
    ],
)
def test_bad_chunks(stream: bytes, error: str) -> None:
    assert error_of(CHUNKED + stream) == error


def test_largest_chunk() -> None:
    parser = ResponseParser()
    assert parser.feed(CHUNKED + b"7fffffffffffffff\r\nx") == [Event.HEAD, b"x"]
    assert parser.direct() == MAX_NUMBER - 1
    assert parser.direct_received(MAX_NUMBER - 1) == Event.NEED_DATA
    assert parser.feed(b"\r\n1\r\n") == [Event.ERROR]


# --- limits and ends


def test_capacity_bounds_each_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nX: yyyy\r\nContent-Length: 1\r\n\r\n"
    for interim in (b"", b"HTTP/1.1 100 C\r\n\r\n" * 5, b"\r\n"):
        assert read(interim + head + b"!", capacity=len(head)).body == b"!"
    for capacity in range(len(head)):
        assert error_of(head, capacity=capacity) == "HEAD_TOO_LARGE"


def test_capacity_bounds_the_trailers() -> None:
    capacity = len(CHUNKED)
    for excess in (0, 1):
        trailers = b"X: y\r\nZ:\r\n " + b"y" * (capacity - 15 + excess) + b"\r\n\r\n"
        outcome = read(CHUNKED + b"0\r\n" + trailers, capacity=capacity)
        assert outcome.error == ("HEAD_TOO_LARGE" if excess else "NONE")


def test_field_count() -> None:
    for count, error in ((256, "NONE"), (257, "TOO_MANY_FIELDS")):
        data = b"HTTP/1.1 204 X\r\n" + b"A: b\r\n" * count + b"\r\n"
        assert read(data).error == error


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "EOF_BEFORE_HEAD"),
        (b"\r\n", "EOF_BEFORE_HEAD"),
        (b"\r", "EOF_IN_HEAD"),
        (b"H", "EOF_IN_HEAD"),
        (b"HTTP/1.1 200 OK\r\n", "EOF_IN_HEAD"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n", "EOF_IN_HEAD"),
        (b"HTTP/1.1 100 C\r\n\r\n", "EOF_IN_HEAD"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "EOF_IN_BODY"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", "EOF_IN_BODY"),
        (CHUNKED, "EOF_IN_BODY"),
        (CHUNKED + b"5", "EOF_IN_BODY"),
        (CHUNKED + b"5\r\nhel", "EOF_IN_BODY"),
        (CHUNKED + b"5\r\nhello", "EOF_IN_BODY"),
        (CHUNKED + b"5\r\nhello\r\n", "EOF_IN_BODY"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "EOF_IN_BODY"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r", "EOF_IN_BODY"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", "NONE"),
    ],
)
def test_eof(data: bytes, error: str) -> None:
    assert read(data, eof=True).error == error


def test_direct_within_its_framing() -> None:
    for framing, body, error in (
        (b"Content-Length: 5\r\n\r\n", b"", Http1Error.BAD_CONTENT_LENGTH),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\n", Http1Error.BAD_CHUNK),
    ):
        for wrong in (6, -1, MAX_NUMBER):
            parser = ResponseParser()
            assert parser.direct() == 0
            assert parser.direct_received(0) == Event.NEED_DATA
            assert parser.feed(b"HTTP/1.1 200 OK\r\n" + framing + body) == [Event.HEAD]
            assert parser.direct() == parser.remaining == 5
            assert parser.direct_received(3) == Event.NEED_DATA
            assert parser.direct() == parser.remaining == 2
            assert parser.direct_received(wrong) == Event.ERROR
            assert parser.error == error
            assert parser.direct_received(0) == Event.ERROR


def test_one_parser_reads_one_response_after_another() -> None:
    parser = ResponseParser(64)
    one = b"HTTP/1.1 206 A\r\nETag: x\r\nContent-Length: 1\r\n\r\n1"
    two = b"HTTP/1.1 200 B\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\n"
    assert parser.feed(one + two) == [Event.HEAD, b"1", Event.END]
    assert parser.unused == len(two)
    assert parser.feed(two) == [Event.END]
    parser.start()
    assert parser.feed(two) == [Event.HEAD, b"2", Event.END]
    assert parser.head["etag"] is None
    parser.start(head_request=True)
    assert parser.feed(one) == [Event.HEAD, Event.END]
    assert parser.unused == 1
    parser.start()
    assert parser.feed(b"nonsense") == [Event.ERROR]
    parser.start()
    assert parser.feed(one) == [Event.HEAD, b"1", Event.END]


def test_fields_of_a_stored_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nA: 1\nb:2 \r\nA:\r\nC: caf\xe9\r\n \tfold\r\nD: e:f\r\n\r\n"
    fields = [("A", "1"), ("b", "2"), ("A", ""), ("C", "café   \tfold"), ("D", "e:f")]
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 100 C\r\nX: y\r\n\r\n" + head + b"body")
    assert len(parser.raw_head) == len(head)
    assert parse_fields(parser.raw_head) == parse_fields(head) == fields
    assert parse_fields(b"HTTP/1.1 200\n\n") == []
    for bad, said in ((b"", "NEED_DATA"), (head[:-1], "NEED_DATA"), (b"x", "BAD_STATUS_LINE")):
        with pytest.raises(ValueError, match=said):
            parse_fields(bad)


# --- request heads


def test_request_head() -> None:
    assert request_head("GET", "/a/b?c=d") == b"GET /a/b?c=d HTTP/1.1\r\n\r\n"
    assert request_head(
        b"PUT", b"/k", [("Host", "h:1"), (b"X-Caf\x65", "é\t "), ("Empty", "")], content_length=0
    ) == (
        b"PUT /k HTTP/1.1\r\nHost: h:1\r\nX-Cafe: \xe9\t \r\nEmpty: \r\nContent-Length: 0\r\n\r\n"
    )
    large = request_head("PUT", "/", content_length=MAX_NUMBER)
    assert f"Content-Length: {MAX_NUMBER}\r\n".encode() in large


@pytest.mark.parametrize(
    ("byte_range", "value"),
    [
        ((0, 1), b"0-0"),
        ((5, 10), b"5-9"),
        ((0, MAX_NUMBER), b"0-9223372036854775806"),
        ((0, None), b"0-"),
        ((5, None), b"5-"),
        ((-5, None), b"-5"),
        ((5, 5), None),
        ((5, 4), None),
        ((-5, 4), None),
    ],
)
def test_range_field(byte_range: tuple[int, int | None], value: bytes | None) -> None:
    if value is None:
        with pytest.raises(ValueError, match="Range"):
            request_head("GET", "/", byte_range=byte_range)
    else:
        head = request_head("GET", "/", byte_range=byte_range)
        assert head == b"GET / HTTP/1.1\r\nRange: bytes=" + value + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("check", "allowed"),
    [(check_token, TOKEN), (check_field_value, TEXT), (check_target, TARGET)],
)
def test_every_octet_is_let_through_or_named(check: Any, allowed: set[int]) -> None:
    for octet in range(256):
        value = b"ab" + bytes([octet]) + b"c"
        if octet in allowed:
            assert check(value) == check(value.decode("latin-1")) == value
        else:
            for spelled in (value, value.decode("latin-1")):
                with pytest.raises(ValueError, match=rf"0x{octet:02X} at position 2$"):
                    check(spelled)
    # A careless narrowing makes CR and LF of these.
    for trick in ("ab\u010d", "ab\u010a", "ab\U0001010d", "ab\ud80d"):
        with pytest.raises(ValueError, match=rf"U\+{ord(trick[2]):04X} at position 2$"):
            check(trick)
    with pytest.raises(TypeError):
        check(7)
    if check is check_field_value:
        assert check("") == b""
    else:
        with pytest.raises(ValueError, match="empty"):
            check("")


@pytest.mark.parametrize("octet", sorted(INVISIBLE - {0x09}))
def test_nothing_can_be_injected_into_a_request(octet: int) -> None:
    bad = "x" + chr(octet) + "y"
    with pytest.raises(ValueError, match="position 1"):
        request_head(bad, "/")
    with pytest.raises(ValueError, match="position 1"):
        request_head("GET", bad)
    with pytest.raises(ValueError, match="position 1"):
        request_head("GET", "/", [("A", "b"), (bad, "c")])
    with pytest.raises(ValueError, match="position 1") as refused:
        request_head("GET", "/", [("Authorization", bad + "secret")])
    assert "secret" not in str(refused.value)


@settings(deadline=None)
@given(
    st.text(max_size=8),
    st.text(max_size=8),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3),
)
def test_a_request_head_holds_what_it_was_given(
    method: str, target: str, fields: list[tuple[str, str]]
) -> None:
    try:
        head = request_head(method, target, fields)
    except ValueError:
        return
    request_line, *lines = head.decode("latin-1").split("\r\n")
    assert request_line == f"{method} {target} HTTP/1.1"
    assert lines == [*(f"{name}: {value}" for name, value in fields), "", ""]
