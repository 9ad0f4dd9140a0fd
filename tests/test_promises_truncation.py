"""A response that ends early, at any byte, gives the right bytes or a named error; never less."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from promises import OBJECT, Scripted, client_of
from servers.parsing import NO_FIELDS
from servers.replies import Ending
from servers.scripted import Fin, Reply, Request, Reset, ok, ranged

from zfast.errors import ConnectionFailedError

Shape = Callable[[Reply], Reply]

ENDINGS = [pytest.param(Fin(), id="fin"), pytest.param(Reset(), id="reset")]
SHAPES = [
    pytest.param((5, 17), lambda reply: reply, id="part"),
    pytest.param((5, 17), lambda reply: reply.chunked(5, trailers={"X": "y"}), id="chunked-part"),
    pytest.param((5, 17), lambda reply: reply.until_eof(), id="part-until-eof"),
    pytest.param(None, lambda reply: reply, id="whole"),
    pytest.param(None, lambda reply: reply.chunked(5, trailers={"X": "y"}), id="chunked-whole"),
    pytest.param((-9, None), lambda reply: reply.with_fields(etag=None), id="no-etag"),
]


def _correct(request: Request) -> Reply:
    # Every key holds the object. Short heads: each of their bytes is a case.
    reply = ranged({request.key: OBJECT})(request)
    return reply.with_fields(accept_ranges=None, last_modified=None, content_type=None)


class Cut:
    """Cuts the first reply to each key after as many bytes as the key says."""

    def __init__(self, shape: Shape, ending: Ending) -> None:
        self.shape, self.ending = shape, ending
        self.seen: set[str] = set()
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        """Give the reply, cut or whole."""
        reply = self.shape(_correct(request))
        with self.lock:
            first = request.key not in self.seen
            self.seen.add(request.key)
        return reply.cut(int(request.key), self.ending) if first else reply


def _wire_size(byte_range: Any, shape: Shape) -> int:
    field = {None: None, (5, 17): "bytes=5-16", (-9, None): "bytes=-9"}[byte_range]
    fields = NO_FIELDS if field is None else NO_FIELDS.of({"Range": field})
    return len(shape(_correct(Request("GET", "/key", "HTTP/1.1", fields, b""))).wire())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("byte_range", "shape"), SHAPES)
def test_cut_at_every_byte(
    scripted: Scripted, ending: Ending, byte_range: Any, shape: Shape
) -> None:
    size = _wire_size(byte_range, shape)
    expected = OBJECT if byte_range is None else OBJECT[slice(*byte_range)]
    server = scripted(Cut(shape, ending))
    items = [(str(at), byte_range) for at in range(size)]
    bodies = client_of(server, max_concurrency=8).get_many(items)
    assert [at for at, body in enumerate(bodies) if body != expected] == []
    assert len(server.requests) == 2 * size


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("byte_range", "shape"), SHAPES)
def test_cut_at_every_byte_without_a_retry(
    scripted: Scripted, ending: Ending, byte_range: Any, shape: Shape
) -> None:
    size = _wire_size(byte_range, shape)
    server = scripted(Cut(shape, ending))
    items = [(str(at), byte_range) for at in range(size)]
    errors = client_of(server, retries=0, max_concurrency=8).get_many(items, on_error="return")
    assert {type(error) for error in errors} == {ConnectionFailedError}
    assert {(error.key, error.byte_range, error.attempts) for error in errors} == {
        (key, byte_range, 1) for key, _ in items
    }
    assert {error.status for error in errors} == {None, 200 if byte_range is None else 206}
    reasons = {error.reason.partition(" (")[0] for error in errors}
    assert reasons == {"the connection was reset", "the response was cut short"}
    assert len(server.requests) == size


def test_read_into_when_cut(scripted: Scripted) -> None:
    server = scripted(Cut(lambda reply: reply, Fin()))
    client = client_of(server)
    for at in range(_wire_size(None, lambda reply: reply)):
        buffer = bytearray(len(OBJECT) + 2)
        assert client.read_into(str(at), None, buffer) == len(OBJECT)
        assert buffer == OBJECT + b"\0\0"


def test_a_body_until_the_end_of_the_connection_ends_with_fin_alone(scripted: Scripted) -> None:
    server = scripted([ok(OBJECT).until_eof().then(Reset()), ok(OBJECT).until_eof()])
    assert client_of(server).get("key") == OBJECT
    assert len(server.requests) == 2


def test_an_error_page_cut_short_says_what_its_head_said(scripted: Scripted) -> None:
    page = Reply(404, b"an error page").cut(-5)
    server = scripted([page, Reply(503, b"busy").cut(-2), ok(OBJECT)])
    client = client_of(server)
    assert client.get("key") is None
    assert client.get("key") == OBJECT
