"""The end of a response is taken to the letter: bytes beyond it are neither data nor answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from promises import OBJECT, Scripted, client_of, failure
from servers.scripted import (
    Drip,
    Fin,
    HalfClose,
    Reply,
    Request,
    Reset,
    ScriptedServer,
    Wait,
    interim,
    ok,
    overlay,
    partial,
    ranged,
    status,
)

import zfast
from zfast import Client
from zfast.config import setting
from zfast.errors import DeadlineError, ResponseError

LARGE = OBJECT * 5000
FORGED = ok(b"forged").wire()
# What one call takes of a response whose head is awaited, and behind it a large body.
AT_ONCE = 1 << 10


def with_head(*lines: str, body: bytes = OBJECT) -> Reply:
    head = "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1")
    return Reply(200, body, head=head)


def connections_used(server: ScriptedServer) -> list[int]:
    return [request.connection for request in server.requests]


# ------------------------------------------------------------------------------------------ lengths


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 20", "Content-Length: 21"],
        ["Content-Length: 20, 19"],
        ["Content-Length: -1"],
        ["Content-Length: +20"],
        ["Content-Length: 0x14"],
        ["Content-Length: 20;"],
        ["Content-Length: 2 0"],
        ["Content-Length: "],
        ["Content-Length: 99999999999999999999"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Content-Length : 20"],
        [" Content-Length: 20"],
        ["Content-Length"],
        ["X: a\0b", "Content-Length: 20"],
        ["X: a\rb", "Content-Length: 20"],
    ],
)
def test_an_ambiguous_head_is_an_error(scripted: Scripted, lines: list[str]) -> None:
    server = scripted([with_head(*lines).then(HalfClose()), ok(OBJECT)])
    client = client_of(server)
    error = failure(ResponseError, client.get, "key")
    assert "not valid HTTP/1.1" in str(error)
    assert error.attempts == 1
    assert client.get("key") == OBJECT
    assert connections_used(server) == [0, 1]


@pytest.mark.parametrize("lines", [["Content-Length: 20"] * 2, ["Content-Length: 20, 20"]])
def test_the_same_length_twice(scripted: Scripted, lines: list[str]) -> None:
    assert client_of(scripted([with_head(*lines)])).get("key") == OBJECT


def test_chunks_overrule_a_length(scripted: Scripted) -> None:
    # RFC 9112, 6.3: the length is not believed, nor the connection used again.
    reply = ok(OBJECT, content_length="7").chunked(6)
    server = scripted([reply, ok(OBJECT)])
    client = client_of(server)
    assert client.get("key") == OBJECT
    assert client.get("key") == OBJECT
    assert connections_used(server) == [0, 1]


@pytest.mark.parametrize("garbage", [b"garbage", b"HTTP/2.0 200 OK\r\n\r\n", b"\0" * 30, b"<html>"])
def test_what_is_not_http(scripted: Scripted, garbage: bytes) -> None:
    error = failure(ResponseError, client_of(scripted([[garbage, HalfClose()]])).get, "key")
    assert "not valid HTTP/1.1" in str(error)
    assert error.status is None


def test_an_upgrade_that_nobody_asked_for(scripted: Scripted) -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"
    failure(ResponseError, client_of(scripted([[head, HalfClose()]])).get, "key")


# ------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("size", [1, 7, 20, 100])
@pytest.mark.parametrize("extension", [b"", b";a", b';a="b;\\"c"', b" ; a=b"])
@pytest.mark.parametrize("trailers", [{}, {"X-Sum": "1", "Content-Length": "3"}])
def test_chunks(scripted: Scripted, size: int, extension: bytes, trailers: dict[str, str]) -> None:
    reply = ok(OBJECT).chunked(size, extension=extension, trailers=trailers)
    server = scripted([reply, reply])
    client = client_of(server)
    assert client.get("key") == OBJECT
    assert client.get("key") == OBJECT
    assert connections_used(server) == [0, 0]


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n",
        b"-1\r\nx\r\n0\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"14\n" + OBJECT + b"\r\n0\r\n\r\n",
        b"13\r\n" + OBJECT + b"\r\n0\r\n\r\n",
        b"14\r\n" + OBJECT + b"0\r\n\r\n",
        b"14 14\r\n" + OBJECT + b"\r\n0\r\n\r\n",
        b"14\r\n" + OBJECT + b"\r\n0\r\nno trailer\r\n\r\n",
    ],
)
def test_bad_chunks_are_an_error(scripted: Scripted, body: bytes) -> None:
    reply = with_head("Transfer-Encoding: chunked", body=body).then(HalfClose())
    error = failure(ResponseError, client_of(scripted([reply])).get, "key")
    assert "not valid HTTP/1.1" in str(error)


# ------------------------------------------------------------------------- beyond the end of a body


@pytest.mark.parametrize("junk", [b"\r\n\r\n", b"x", b"garbage" * 9, FORGED, FORGED * 2])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(ok(OBJECT), id="small"),
        pytest.param(ok(LARGE), id="large"),
        pytest.param(ok(OBJECT).chunked(6), id="chunked"),
        pytest.param(ok(LARGE).chunked(30_000), id="large-chunked"),
        pytest.param(ok(b""), id="empty"),
    ],
)
def test_a_body_ends_where_it_said(scripted: Scripted, junk: bytes, reply: Reply) -> None:
    def handle(request: Request) -> Any:
        return [reply.wire() + junk] if request.key == "key" else ok(OBJECT)

    server = scripted(handle)
    client = client_of(server)
    assert client.get("key") == reply.body
    assert client.get("next") == OBJECT
    assert connections_used(server) == [0, 1]


@pytest.mark.parametrize("body", [OBJECT, LARGE])
def test_a_forged_response_answers_no_request(scripted: Scripted, body: bytes) -> None:
    # What comes behind a response may look like the next one (RFC 9112, 6.3): not even a request
    # that waits for this very connection may have it.
    def handle(request: Request) -> Any:
        return [ok(body).wire() + FORGED] if request.key == "key" else ok(OBJECT)

    client = client_of(scripted(handle))
    keys = ["key", "next"] * 32
    for _ in range(4):
        bodies = client.get_many([(key, None) for key in keys])
        assert [bytes(one) for one in bodies] == [body, OBJECT] * 32


@pytest.mark.parametrize("behind", [b"", FORGED], ids=["nothing", "forged"])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(ok(OBJECT), id="small"),
        pytest.param(ok(LARGE), id="large"),
        pytest.param(ok(b""), id="empty"),
        pytest.param(ok(OBJECT).chunked(6), id="chunked"),
        pytest.param(ok(LARGE).chunked(30_000), id="large-chunked"),
        pytest.param(status(404), id="missing"),
        pytest.param(status(404, b"x" * 20_000), id="missing-large"),
        pytest.param(ok(OBJECT).with_head_size(AT_ONCE), id="head-fills-it"),
        pytest.param(ok(LARGE).with_head_size(AT_ONCE), id="head-fills-it-large"),
        pytest.param(ok(LARGE).with_head_size(AT_ONCE + 1), id="head-longer-by-one"),
        pytest.param(ok(OBJECT).with_head_size(AT_ONCE - len(OBJECT)), id="fills-it"),
        pytest.param(ok(OBJECT).with_head_size(2 * AT_ONCE - len(OBJECT)), id="fills-it-twice"),
        pytest.param(ok(OBJECT).chunked(6).with_head_size(AT_ONCE - 40), id="chunks-across"),
    ],
)
def test_whatever_follows_a_large_body(scripted: Scripted, reply: Reply, behind: bytes) -> None:
    # Where another large one is awaited, one call takes as much as a head has. A buffer that is
    # filled to its last byte does not say that the connection has no more.
    def handle(request: Request) -> Any:
        if request.key == "key":
            return [reply.wire() + behind]
        return ok(LARGE if request.key == "large" else OBJECT)

    server = scripted(handle)
    keys = ["large", "key", "next"] * 4
    found = client_of(server, max_concurrency=1).get_many([(key, None) for key in keys])
    assert found == [LARGE, None if reply.status == 404 else reply.body, OBJECT] * 4
    # What has more than its response is of no use for the next.
    several = [cycle + (key == "next") for cycle in range(4) for key in keys[:3]]
    assert connections_used(server) == (several if behind else [0] * len(keys))


@pytest.mark.parametrize("spoken", [FORGED, b"\r\n", b"x"])
def test_an_idle_connection_that_speaks(scripted: Scripted, spoken: bytes) -> None:
    read = threading.Event()
    server = scripted([[ok(OBJECT), Wait(read), spoken], ok(OBJECT[::-1])])
    client = client_of(server)
    assert client.get("key") == OBJECT
    read.set()
    server.wait_for(lambda: all(connection.idle for connection in server.open_connections))
    assert client.get("key") == OBJECT[::-1]
    server.wait_for(lambda: len(server.open_connections) == 1)
    assert connections_used(server) == [0, 1]
    assert client.stats()["stale_retries"] == 0


@pytest.mark.parametrize("method", ["head", "put", "delete"])
def test_a_body_where_none_can_be(scripted: Scripted, method: str) -> None:
    # RFC 9112, 6.3: a response to HEAD and a 204 end with their heads, whatever these announce.
    reply = ok(OBJECT) if method == "head" else Reply(204, OBJECT, {"Content-Length": "20"})
    wire = reply.wire_head() + OBJECT
    server = scripted([[wire], ok(OBJECT)])
    client = client_of(server)
    getattr(client, method)(*(("key", b"data") if method == "put" else ("key",)))
    assert client.get("key") == OBJECT
    assert connections_used(server) == [0, 1]


@pytest.mark.parametrize("code", [404, 503])
def test_a_page_longer_than_it_is_worth(scripted: Scripted, code: int) -> None:
    pages = [
        status(code, b"x" * 2000),
        status(code, b"x" * 200_000),
        status(code, b"x" * 200_000).chunked(5000),
        status(code, b"x" * 2000).until_eof(),
    ]
    server = scripted([step for page in pages for step in (page, ok(OBJECT))])
    client = client_of(server)
    for _ in pages:
        assert client.get("key") == (None if code == 404 else OBJECT)
        if code == 404:
            assert client.get("key") == OBJECT
    assert connections_used(server) == [0, 0, 0, 1, 1, 2, 2, 3]


# -------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("count", [1, 2, 64])
def test_interim_responses_are_skipped(scripted: Scripted, count: int) -> None:
    hints = [interim(103, link="</x>", content_length="3"), interim(100), interim(102)]
    server = scripted([[*(hints * count)[:count], ok(OBJECT)]])
    assert client_of(server).get("key") == OBJECT


def test_endless_interim_responses(scripted: Scripted) -> None:
    server = scripted([[*[interim(100)] * 65, HalfClose()]])
    error = failure(ResponseError, client_of(server).get, "key")
    assert error.attempts == 1


def test_head_size(scripted: Scripted) -> None:
    limit = setting("max_head_size")
    replies = [ok(OBJECT).with_head_size(limit), ok(OBJECT).with_head_size(limit + 1)]
    client = client_of(scripted(replies))
    assert client.get("key") == OBJECT
    error = failure(ResponseError, client.get, "key")
    assert "larger than max_head_size" in str(error)
    assert error.attempts == 1


def test_a_head_that_never_ends(scripted: Scripted) -> None:
    server = scripted([[b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, HalfClose()]])
    assert "max_head_size" in str(failure(ResponseError, client_of(server).get, "key"))


def test_too_many_fields(scripted: Scripted) -> None:
    def reply(count: int) -> Reply:
        fields = [(f"X-{i}", "y") for i in range(count)]
        return Reply(200, OBJECT, [*fields, ("Content-Length", "20")])

    client = client_of(scripted([reply(255), reply(256)]))
    assert client.get("key") == OBJECT
    failure(ResponseError, client.get, "key")


def test_lenient_where_the_rfc_is(scripted: Scripted) -> None:
    # RFC 9112, 2.2 and 5.2: bare LF, empty lines before a status line, folded fields.
    heads = [
        b"HTTP/1.1 200 OK\nContent-Length: 20\n\n",
        b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\ncontent-LENGTH:\t20  \r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 20\r\n\r\n",
    ]
    client = client_of(scripted([Reply(200, OBJECT, head=head) for head in heads]))
    for _ in heads:
        assert client.get("key") == OBJECT


@pytest.mark.parametrize("byte_range", [None, (5, 9), (-4, None)])
@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
def test_byte_by_byte(scripted: Scripted, byte_range: Any, framing: str) -> None:
    def drip(_: Request, reply: Reply) -> Reply:
        shaped = {"length": reply, "chunked": reply.chunked(4), "eof": reply.until_eof()}
        return shaped[framing].drip()

    server = scripted(overlay(ranged({"key": OBJECT}), drip))
    expected = OBJECT if byte_range is None else OBJECT[slice(*byte_range)]
    assert client_of(server).get("key", byte_range) == expected


# -------------------------------------------------------------------------------------- connections


def test_one_connection_for_one_after_another(scripted: Scripted) -> None:
    server = scripted(ranged({"key": OBJECT}))
    client = client_of(server)
    for start in range(5):
        assert client.get("key", (start, start + 3)) == OBJECT[start : start + 3]
        assert client.get("missing") is None
    assert connections_used(server) == [0] * 10


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(ok(OBJECT).closing(), id="close"),
        pytest.param(ok(OBJECT, connection="Keep-Alive, CLOSE"), id="close-among-others"),
        pytest.param(with_head("Content-Length: 20", "Connection: close").then(Fin()), id="fin"),
        pytest.param(
            Reply(200, OBJECT, head=b"HTTP/1.0 200 OK\r\nContent-Length: 20\r\n\r\n"), id="1.0"
        ),
        pytest.param(Reply(200, OBJECT, head=b"HTTP/1.0 200 OK\r\n\r\n").then(Fin()), id="1.0-eof"),
        pytest.param(ok(OBJECT).until_eof(), id="until-eof"),
    ],
)
def test_a_connection_that_is_not_kept(scripted: Scripted, reply: Reply) -> None:
    server = scripted([reply, ok(OBJECT[::-1])])
    client = client_of(server)
    assert client.get("key") == OBJECT
    assert client.get("key") == OBJECT[::-1]
    assert connections_used(server) == [0, 1]
    counters = client.stats()
    assert (counters["retries"], counters["stale_retries"]) == (0, 0)


def test_http_1_0_keeps_alive_where_it_says_so(scripted: Scripted) -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Length: 20\r\nConnection: keep-alive\r\n\r\n"
    server = scripted([Reply(200, OBJECT, head=head)] * 2)
    client = client_of(server)
    assert client.get("key") == client.get("key") == OBJECT
    assert connections_used(server) == [0, 0]


@pytest.mark.parametrize("limit", [1, 3])
def test_a_server_that_closes_after_some_requests(scripted: Scripted, limit: int) -> None:
    server = scripted(ranged({"key": OBJECT}), keepalive_requests=limit)
    client = client_of(server)
    ranges = [(i % 15, i % 15 + 5) for i in range(100)]
    assert client.get_ranges("key", ranges) == [OBJECT[a:b] for a, b in ranges]
    assert len(server.requests) == 100
    assert max(len(connection.requests) for connection in server.connections) <= limit
    assert client.stats()["retries"] == 0


def test_a_connection_closed_while_idle(scripted: Scripted) -> None:
    server = scripted(ranged({"key": OBJECT}))
    client = client_of(server, retries=0)
    for reset in (False, True):
        assert client.get("key") == OBJECT
        assert server.close_idle(reset=reset) == 1
        assert client.get("key") == OBJECT
    assert client.stats()["retries"] == 0


@pytest.mark.parametrize("ending", [Fin(), Reset()])
def test_a_stale_connection_is_a_free_retry(scripted: Scripted, ending: Fin | Reset) -> None:
    # The server's end crosses the request on its way: the second request of a connection has none.
    def handle(request: Request) -> Any:
        if request.number == 0:
            return ok(OBJECT) if request.key == "key" else status(400)
        return ending

    server = scripted(handle)
    client = client_of(server, retries=0)
    assert client.get("key") == OBJECT
    assert client.get("key") == OBJECT
    counters = client.stats()
    assert (counters["stale_retries"], counters["retries"], counters["requests"]) == (1, 0, 3)
    error = failure(ResponseError, client.get, "bad")
    assert (error.attempts, client.stats()["stale_retries"]) == (1, 2)


def test_drip_of_a_part_after_an_interim_response(scripted: Scripted) -> None:
    wire = interim(103).wire() + partial(OBJECT[5:9], 5, 20).wire()
    assert client_of(scripted([Drip(wire)])).get("key", (5, 9)) == OBJECT[5:9]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_answer_whose_page_never_ends(scripted: Scripted, method: str) -> None:
    """What it means is known from its head; extensions of chunks are no bytes of it."""

    def handle(request: Request) -> Iterator[Any]:
        code = 201 if request.method == "PUT" else 404
        yield f"HTTP/1.1 {code} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        while True:
            yield b"1;" + 4000 * b"x" + b"\r\na\r\n"
            time.sleep(0.3)

    client = Client(scripted(handle).url, timeout=1, deadline=20, retries=0)
    if method == "PUT":
        client.put("key", b"value")
    else:
        assert client.get("key") is None


@pytest.mark.parametrize("part", ["head", "interim heads", "trailers"])
def test_a_head_has_its_time_as_a_whole(scripted: Scripted, part: str) -> None:
    """Kibibytes now and then are progress in a body alone."""
    begin, line = {
        "head": (b"HTTP/1.1 200 OK\r\n", b"X: " + 4000 * b"x" + b"\r\n"),
        "interim heads": (b"", b"HTTP/1.1 103 X\r\nX: " + 4000 * b"x" + b"\r\n\r\n"),
        "trailers": (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            b"X: " + 4000 * b"x" + b"\r\n",
        ),
    }[part]

    def handle(_: Request) -> Iterator[Any]:
        yield begin
        while True:
            yield line
            time.sleep(0.3)

    with zfast.config.set(max_head_size=1 << 20):
        client = Client(scripted(handle).url, timeout=1, deadline=20, retries=0)
    with pytest.raises(DeadlineError, match="read_timeout"):
        client.get("key")


@pytest.mark.parametrize("framing", [b"Content-Length: 45", b"Transfer-Encoding: chunked"])
def test_a_body_behind_204_is_not_the_next_response(scripted: Scripted, framing: bytes) -> None:
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nWRONG"

    def handle(request: Request) -> Iterator[Any]:
        if request.method == "PUT":
            yield b"HTTP/1.1 204 No Content\r\n" + framing + b"\r\n\r\n"
            time.sleep(0.2)
            yield forged
        yield ok(b"right")

    client = Client(scripted(handle).url)
    client.put("key", b"value")
    time.sleep(0.4)
    assert client.get("key") == b"right"
