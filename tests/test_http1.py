"""The HTTP/1.1 parser: RFC 9112 as tables. Every row is fed whole, split, and to the oracle."""

from __future__ import annotations

import pytest
from fuzz.http1_feeding import error_of, read
from fuzz.http1_oracle import MAX_NUMBER

from zfast._core.http1 import Event, ResponseParser, parse_fields
from zfast._core.response_head import Http1Error

# --- the head


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


# --- framing


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
