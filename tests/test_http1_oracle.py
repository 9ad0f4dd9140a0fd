"""The HTTP/1.1 parser against its oracle: whole or split, any bytes are a response or an error."""

from __future__ import annotations

from typing import Any

from fuzz.http1_feeding import feed, feed_direct, read, split
from hypothesis import given
from hypothesis import strategies as st

FRAGMENTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 206 Partial Content\n",
    b"HTTP/1.0 200\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Content-Range: bytes 0-4/5\r\n",
    b"Content-Encoding: gzip\r\n",
    b'ETag: "x"\r\n',
    b"Retry-After: 7\r\n",
    b"A:b\r\n",
    b" fold\r\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"5\r\n",
    b"0\r\n",
    b";x",
    b'"',
    b"\\",
    b"7fffffffffffffff",
    b"X: trailer\r\n",
    b"\x00",
    b"\xff",
]

octets = st.binary(max_size=40)
soups = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=14).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=8)


def mixed_case(text: str) -> st.SearchStrategy[str]:
    return st.lists(st.booleans(), min_size=len(text), max_size=len(text)).map(
        lambda flips: "".join(
            c.upper() if up else c.lower() for c, up in zip(text, flips, strict=True)
        )
    )


@st.composite
def field_lines(draw: st.DrawFn, name: str, value: str) -> bytes:
    space = st.sampled_from(["", " ", "\t", "  "])
    fold = draw(st.sampled_from(["", "", "", "\r\n ", "\n\t"]))
    line = f"{draw(mixed_case(name))}:{draw(space)}{fold}{value}{draw(space)}"
    return line.encode("latin-1") + draw(st.sampled_from([b"\r\n", b"\r\n", b"\n"]))


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, str, int, bytes]:
    """The bytes of a well-formed response, its framing, its status and its body."""
    status = draw(st.sampled_from([200, 206, 204, 304, 404, 416, 503]))
    body = draw(st.binary(max_size=30))
    framing = draw(st.sampled_from(["CONTENT_LENGTH", "CHUNKED", "UNTIL_EOF"]))
    if status in (204, 304):
        framing, body = "NO_BODY", b""
    fields = [
        ("ETag", draw(st.text('"abc é', max_size=6))),
        ("Connection", draw(st.sampled_from(["close", "keep-alive", "x, Close", "te"]))),
        ("Content-Range", draw(st.sampled_from(["bytes 0-4/9", "bytes */9", "bytes 1-0/9", "?"]))),
        ("Retry-After", draw(st.sampled_from(["3", "soon"]))),
        ("X-Other", draw(st.text("xyz ,;=\"'\xff", max_size=9))),
        ("Date", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ]
    fields = draw(st.lists(st.sampled_from(fields), max_size=6))
    stream = body
    if framing == "CONTENT_LENGTH":
        fields.insert(draw(st.integers(0, len(fields))), ("Content-Length", str(len(body))))
    elif framing == "CHUNKED":
        fields.insert(draw(st.integers(0, len(fields))), ("Transfer-Encoding", "chunked"))
        stream = b""
        for piece in split(body, draw(cuts)):
            extension = draw(st.sampled_from([b"", b"", b" ;a", b';a="\\";"', b";a=b;c"]))
            stream += b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) if piece else b""
        stream += b"0\r\n" + draw(st.sampled_from([b"", b"T: x\r\n", b"T:\r\n y\r\nU: z\r\n"]))
        stream += b"\r\n"
    head = draw(st.sampled_from([b"", b"", b"\r\n", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"]))
    head += b"HTTP/1.%d %d" % (draw(st.integers(0, 1)), status)
    head += draw(st.sampled_from([b"", b" ", b" Some Reason"])) + b"\r\n"
    lines = [draw(field_lines(name, value)) for name, value in fields]
    return head + b"".join(lines) + b"\r\n" + stream, framing, status, body


@st.composite
def mutated_responses(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(responses())[0])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 4))
        new = draw(
            st.sampled_from([b"", bytes(data[at : at + 9]), *FRAGMENTS]) | st.binary(max_size=2)
        )
        data[at:end] = new
    return bytes(data)


@given(responses(), cuts, octets)
def test_well_formed_responses(
    response: tuple[bytes, str, int, bytes], at: list[int], more: bytes
) -> None:
    data, framing, status, body = response
    outcome = read(data, eof=True)
    assert outcome.head is not None
    assert (outcome.event, outcome.body, outcome.unused) == ("END", body, 0)
    assert (outcome.head["framing"], outcome.head["status"]) == (framing, status)
    assert feed(split(data, at), eof=True) == outcome
    assert feed_direct(split(data, at), eof=True) == outcome
    if framing != "UNTIL_EOF":
        assert read(data + more) == outcome._replace(unused=len(more))


@given(responses(), st.integers(0, 400))
def test_a_response_cut_short_is_never_whole(
    response: tuple[bytes, str, int, bytes], at: int
) -> None:
    data, framing, _, body = response
    outcome = read(data[: at % len(data)], eof=True)
    assert body.startswith(outcome.body)
    if framing == "UNTIL_EOF" and outcome.head:
        assert outcome.event == "END"
    else:
        assert (outcome.event, outcome.error[:4]) == ("ERROR", "EOF_")


@given(
    octets | soups | mutated_responses(),
    cuts,
    st.booleans(),
    st.booleans(),
    st.just(65536) | st.integers(0, 120),
)
def test_any_bytes_are_a_response_or_an_error(
    data: bytes, at: list[int], head_request: bool, eof: bool, capacity: int
) -> None:
    options: dict[str, Any] = {"head_request": head_request, "eof": eof, "capacity": capacity}
    outcome = read(data, **options)
    assert feed(split(data, at), **options) == outcome
    assert feed_direct(split(data, at), **options) == outcome
