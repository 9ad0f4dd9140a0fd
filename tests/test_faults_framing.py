"""What framing does to a reader: heads and chunks that are malformed, endless, slow or forged.

What a client alone makes of a single response is in test_promises_framing.py.
"""

from __future__ import annotations

import gzip
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from servers.scripted import Drip, Fin, Reply, Request, Stall, interim, ok, status

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import (
    ARRAYS,
    FACES,
    GET_MANY,
    GET_RANGES,
    Face,
    Row,
    faced,
    final,
    lasting,
    once,
    outcome,
    warmed,
)

from zfast.errors import ConnectionFailedError, CorruptError, DeadlineError, ResponseError

pytestmark = pytest.mark.usefixtures("_warm")


@pytest.fixture(scope="module")
def _warm() -> None:
    warmed()


# ----------------------------------------------------------------------------- what lies behind it


def _forged(reply: Reply) -> bytes:
    """A reply like this one, with every byte another."""
    return reply.with_body(bytes(byte ^ 0xFF for byte in reply.body)).wire()


BEHIND = [
    Row("a byte", lambda _, reply: reply.wire() + b"x"),
    Row("an empty line", lambda _, reply: reply.wire() + b"\r\n\r\n"),
    Row("junk", lambda _, reply: reply.wire() + b"\0junk" * 99),
    Row("the body once more", lambda _, reply: reply.wire() + reply.body),
    Row("an error", lambda _, reply: reply.wire() + status(503).wire()),
    Row("a forged reply", lambda _, reply: reply.wire() + _forged(reply)),
    Row("forged replies", lambda _, reply: reply.wire() + _forged(reply) * 3),
    Row("a forged reply behind chunks", lambda _, r: r.chunked(999).wire() + _forged(r)),
]


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("row", BEHIND, ids=str)
def test_what_lies_behind_a_reply_belongs_to_nobody(row: Row, face: Face) -> None:
    once(row, face)
    lasting(row, face)


# ------------------------------------------------------------------------------------------- chunks


def _framed(frame: Any) -> Any:
    """A fault: the body within the chunks that `frame` makes of it, and nothing after them."""

    def fault(_: Request, reply: Reply) -> list[Any]:
        head = reply.chunked().wire_head()
        return [head + frame(reply.body), Fin()]

    return fault


def _sized(size: bytes) -> Any:
    return _framed(lambda body: size + b"\r\n" + body + b"\r\n0\r\n\r\n")


CHUNKS = [
    *(
        final(f"size {size!r}", _sized(size))
        for size in (b"", b"g", b"-1", b"0x9", b"+9", b"9 9", b"1" * 17, b"f" * 16, b"f" * 300)
    ),
    final("less than said", _framed(lambda body: b"%x\r\n%b\r\n" % (len(body) - 1, body))),
    final(
        "more than said",
        _framed(lambda body: b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) + 1, body)),
        ResponseError,
        CorruptError,
    ),
    final("no line end", _framed(lambda body: b"%x\r\n%b0\r\n\r\n" % (len(body), body))),
    final(
        "no trailer",
        _framed(lambda body: b"%x\r\n%b\r\n0\r\nno trailer\r\n\r\n" % (len(body), body)),
    ),
    final(
        "endless extensions",
        _framed(lambda body: b"%x;%b\r\n%b\r\n0\r\n\r\n" % (len(body), b"a" * 200_000, body)),
    ),
    final(
        "endless trailers",
        _framed(lambda body: b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, b"A: b\r\n" * 50_000)),
    ),
    final("a coding unknown", lambda _, r: r.with_fields(transfer_encoding="x").then(Fin())),
    Row(
        "no last chunk",
        _framed(lambda body: b"%x\r\n%b\r\n" % (len(body), body)),
        (ConnectionFailedError,),
    ),
    Row("chunks of a byte", lambda _, reply: reply.chunked(1)),
    Row("extensions", lambda _, reply: reply.chunked(5000, extension=b';a="b;\\"c"')),
    Row("trailers", lambda _, r: r.chunked(5000, trailers={"Content-Length": "3", "ETag": '"x"'})),
]


@pytest.mark.parametrize("face", [GET_MANY, GET_RANGES, *ARRAYS], ids=str)
@pytest.mark.parametrize("row", CHUNKS, ids=str)
def test_chunked(row: Row, face: Face) -> None:
    once(row, face)
    lasting(row, face)


# -------------------------------------------------------------------------------------------- heads


def _headed(*fields: tuple[str, str]) -> Any:
    def fault(_: Request, reply: Reply) -> Reply:
        head = reply.wire_head()[:-2] + b"".join(f"{n}: {v}\r\n".encode() for n, v in fields)
        return Reply(reply.status, reply.body, head=head + b"\r\n")

    return fault


HEADS = [
    final("not HTTP", lambda *_: [b"SSH-2.0-OpenSSH_9.6\r\n", Fin()]),
    final("of another version", lambda _, r: [r.wire().replace(b"/1.1", b"/2.0", 1), Fin()]),
    final("an upgrade", lambda *_: [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Fin()]),
    final("too large", lambda _, reply: reply.with_head_size(70_000).then(Fin())),
    final("endless", lambda *_: [b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 50_000, Fin()]),
    final("two lengths", _headed(("Content-Length", "3"))),
    final("length and chunks", _headed(("Transfer-Encoding", "chunked, chunked"))),
    final("a gzip'd body", lambda _, r: r.with_fields(content_encoding="gzip")),
    final(
        "a gzip'd body, and it is one",
        lambda _, r: ok(gzip.compress(r.body), content_encoding="gzip"),
    ),
    Row("large", lambda _, reply: reply.with_head_size(60_000)),
    Row("in bytes", lambda _, reply: [Drip(reply.wire_head()), reply.body]),
    *(Row(f"{n} times 103", lambda _, r, n=n: [*[interim()] * n, r]) for n in (1, 60)),
    final("hundreds of 1xx", lambda _, reply: [*[interim(100)] * 700, reply], may_pass=True),
    final("1xx without end", lambda *_: itertools.chain([interim(102)] * 50_000, [Fin()])),
]


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("row", HEADS, ids=str)
def test_heads(row: Row, face: Face) -> None:
    once(row, face)
    lasting(row, face)


def _slowly(data: bytes) -> Iterator[Any]:
    for byte in data:
        yield bytes([byte])
        time.sleep(0.02)
    yield Stall()


SLOW = {
    "head": lambda _, reply: _slowly(reply.wire()),
    "body": lambda _, reply: itertools.chain([reply.wire_head()], _slowly(reply.wire_body())),
    "chunks": lambda _, reply: itertools.chain(
        [reply.chunked(1).wire_head()], _slowly(reply.chunked(1).wire_body())
    ),
    "1xx": lambda *_: itertools.chain.from_iterable(_slowly(interim().wire()) for _ in range(9)),
}


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("what", SLOW)
def test_slow_ones_end_in_time(what: str, face: Face) -> None:
    with faced(Row("", SLOW[what]), face, deadline=0.3, retries=0) as (faulty, read):
        faulty.arm()
        assert type(outcome(read, 0.3)) is DeadlineError
