"""A body cut short is resumed from the byte reached, of the very same object, or read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from promises import OBJECT, Scripted, at_once, client_of, failure, fields_but, sent_ranges
from servers.replies import Ending
from servers.scripted import (
    Fin,
    Reply,
    Request,
    Reset,
    Stall,
    ok,
    overlay,
    partial,
    ranged,
    redirect,
    status,
    unsatisfiable,
)

from zfast.errors import ChangedError, ResponseError

LARGE = b"".join(i.to_bytes(4, "big") for i in range(30_000))
STRONG = '"v1"'

ENDINGS = [pytest.param(Fin(), id="fin"), pytest.param(Reset(), id="reset")]


# ----------------------------------------------------------------------------------------- resuming

CONTINUATIONS = [
    pytest.param(None, 7, "bytes=7-", id="whole"),
    pytest.param((5, 17), 3, "bytes=8-16", id="bounded"),
    pytest.param((5, None), 3, "bytes=8-", id="offset"),
    pytest.param((-9, None), 3, "bytes=14-", id="suffix"),
    pytest.param((-100, None), 3, "bytes=3-", id="long-suffix"),
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("byte_range", "reached", "field"), CONTINUATIONS)
def test_the_rest_is_asked_for(
    scripted: Scripted, ending: Ending, byte_range: Any, reached: int, field: str
) -> None:
    correct = ranged({"key": OBJECT})
    cut: Callable[..., Reply] = lambda _, reply: reply.cut_body(reached, ending)  # noqa: E731
    server = scripted(overlay(correct, [cut]))
    client = client_of(server, headers={"Authorization": "Bearer t"})
    expected = OBJECT if byte_range is None else OBJECT[slice(*byte_range)]
    assert client.get("key", byte_range) == expected
    first, second = server.requests
    assert second.target == first.target
    assert list(second.fields) == [
        *fields_but(first, "Range"),
        ("Range", field),
        ("If-Range", correct.etag("key")),
    ]
    counters = client.stats()
    assert (counters["resumed"], counters["retries"], counters["requests"]) == (1, 1, 2)
    assert counters["bytes_received"] == len(expected)


@pytest.mark.parametrize("reached", [1, 20_000, 100_000, len(LARGE) - 1])
@pytest.mark.parametrize("destination", ["own", "given"])
def test_a_large_body_is_resumed(scripted: Scripted, reached: int, destination: str) -> None:
    cut: Callable[..., Reply] = lambda _, reply: reply.cut_body(reached)  # noqa: E731
    server = scripted(overlay(ranged({"key": LARGE}), [cut]))
    if destination == "own":
        assert client_of(server).get("key") == LARGE
    else:
        buffer = bytearray(len(LARGE))
        assert client_of(server).read_into("key", None, buffer) == len(LARGE)
        assert buffer == LARGE
    assert sent_ranges(server) == [None, f"bytes={reached}-"]


def test_again_and_again(scripted: Scripted) -> None:
    cut: Callable[..., Reply] = lambda _, reply: reply.cut_body(4)  # noqa: E731
    server = scripted(overlay(ranged({"key": OBJECT}), [cut] * 4))
    client = client_of(server)
    assert client.get("key", (1, 19)) == OBJECT[1:19]
    assert sent_ranges(server) == [f"bytes={start}-18" for start in (1, 5, 9, 13, 17)]
    assert client.stats()["resumed"] == 4


def test_what_was_reached_outlives_other_failures(scripted: Scripted) -> None:
    cut: Callable[..., Reply] = lambda _, reply: reply.cut_body(4)  # noqa: E731
    faults: list[Any] = [cut, status(503), Reply(200).cut(9), cut]
    server = scripted(overlay(ranged({"key": OBJECT}), faults))
    assert client_of(server).get("key") == OBJECT
    assert sent_ranges(server) == [None, "bytes=4-", "bytes=4-", "bytes=4-", "bytes=8-"]


def test_resumed_after_a_stall(scripted: Scripted) -> None:
    cut: Callable[..., Reply] = lambda _, reply: reply.cut_body(4, Stall())  # noqa: E731
    server = scripted(overlay(ranged({"key": OBJECT}), [cut]))
    client = client_of(server, timeout=urllib3.Timeout(connect=5, read=0.5))
    assert client.get("key") == OBJECT
    assert sent_ranges(server) == [None, "bytes=4-"]


def test_a_sliced_object_is_resumed_where_it_began_with_the_range(scripted: Scripted) -> None:
    replies = [
        ok(OBJECT, etag=STRONG).cut_body(3),
        partial(OBJECT[3:9], 3, 20, etag=STRONG),
        ok(OBJECT, etag=STRONG).cut_body(8),
        ok(OBJECT, etag=STRONG),
    ]
    server = scripted(replies)
    client = client_of(server)
    assert client.get("key", (0, 9)) == OBJECT[:9]
    assert client.get("key", (5, 9)) == OBJECT[5:9]
    assert sent_ranges(server) == ["bytes=0-8", "bytes=3-8", "bytes=5-8", "bytes=5-8"]
    assert [request.field("If-Range") for request in server.requests] == [None, STRONG, None, None]


@pytest.mark.parametrize(
    ("byte_range", "cut"),
    [
        pytest.param(
            (5, 9), partial(OBJECT[5:9], 5, 20, etag=STRONG).chunked(2).cut(-2), id="bounded"
        ),
        pytest.param(
            (-4, None), partial(OBJECT[-4:], 16, 20, etag=STRONG).chunked(2).cut(-2), id="suffix"
        ),
        pytest.param(
            (5, None), partial(OBJECT[5:], 5, 20, etag=STRONG).chunked(9).cut(-2), id="offset"
        ),
        pytest.param((0, 4), ok(OBJECT, etag=STRONG).cut(-2), id="sliced"),
    ],
)
def test_nothing_is_left_to_ask_for(scripted: Scripted, byte_range: Any, cut: Reply) -> None:
    # All bytes of the range came, yet the response did not end: it is not to be trusted.
    server = scripted([cut, ranged({"key": OBJECT})])
    assert client_of(server).get("key", byte_range) == OBJECT[slice(*byte_range)]
    first, second = server.requests
    assert list(first.fields) == list(second.fields)


# --------------------------------------------------------------------------------------- restarting

OTHER = OBJECT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"v1"', "v1", '"', ""])
def test_without_a_strong_tag_a_read_begins_again(scripted: Scripted, etag: str | None) -> None:
    first = partial(OBJECT[5:17], 5, 20, last_modified="Thu, 01 Jan 2026 00:00:00 GMT")
    if etag is not None:
        first = first.with_fields(etag=etag)
    server = scripted([first.cut_body(6), partial(OTHER[5:17], 5, 20)])
    assert client_of(server).get("key", (5, 17)) == OTHER[5:17]
    before, after = server.requests
    assert list(after.fields) == list(before.fields)


@pytest.mark.parametrize("byte_range", [None, (5, 17), (5, None), (-9, None)])
def test_another_object_in_the_answer_is_read_from_its_start(
    scripted: Scripted, byte_range: Any
) -> None:
    objects = {"key": OBJECT}
    correct = ranged(objects)

    def cut(request: Request, reply: Reply) -> Reply:
        objects["key"] = OTHER + b"more"
        return reply.cut_body(4)

    server = scripted(overlay(correct, [cut]))
    expected = OTHER + b"more"
    client = client_of(server)
    assert client.get("key", byte_range) == expected[slice(*byte_range or (None,))]
    assert len(server.requests) == 2
    # The 200 said that the object had changed, not that ranges are ignored.
    client.get_ranges("key", [(0, 2), (2, 4)])
    assert sorted(filter(None, sent_ranges(server)[2:])) == ["bytes=0-1", "bytes=2-3"]


CHANGES = [
    pytest.param(partial(OTHER[9:17], 9, 20, etag='"v2"'), id="other-tag"),
    pytest.param(partial(OTHER[9:17], 9, 20, etag='W/"v1"'), id="weak-tag"),
    pytest.param(partial(OTHER[9:17], 9, 21, etag=STRONG), id="other-size"),
    pytest.param(unsatisfiable(8), id="416"),
    pytest.param(status(412), id="412"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_server_that_takes_no_notice_of_if_range(scripted: Scripted, change: Reply) -> None:
    first = partial(OBJECT[5:17], 5, 20, etag=STRONG).cut_body(4)
    server = scripted([first, change, partial(OTHER[5:17], 5, 20, etag='"v2"')])
    assert client_of(server).get("key", (5, 17)) == OTHER[5:17]
    assert sent_ranges(server) == ["bytes=5-16", "bytes=9-16", "bytes=5-16"]
    assert not server.requests[2].fields.has("If-Range")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_without_a_retry_left(scripted: Scripted, change: Reply) -> None:
    first = partial(OBJECT[5:17], 5, 20, etag=STRONG).cut_body(4)
    client = client_of(scripted([first, change]), retries=at_once(1))
    error = failure(ChangedError, client.get, "key", (5, 17))
    assert (error.attempts, error.byte_range) == (2, (5, 17))
    assert "changed while it was read" in str(error)


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(partial(OBJECT[5:17], 5, 20, etag=STRONG), id="the-part-from-its-start"),
        pytest.param(partial(OBJECT[8:17], 8, 20, etag=STRONG), id="a-byte-before"),
        pytest.param(partial(OBJECT[10:17], 10, 20, etag=STRONG), id="a-byte-after"),
        pytest.param(partial(OBJECT[9:16], 9, 20, etag=STRONG), id="too-short"),
        pytest.param(partial(OBJECT[9:], 9, 20, etag=STRONG), id="too-long"),
        pytest.param(Reply(206, OBJECT[9:17]), id="no-content-range"),
    ],
)
def test_a_rest_that_does_not_fit_is_an_error(scripted: Scripted, rest: Reply) -> None:
    first = partial(OBJECT[5:17], 5, 20, etag=STRONG).cut_body(4)
    error = failure(ResponseError, client_of(scripted([first, rest])).get, "key", (5, 17))
    assert "another range" in str(error)
    assert error.attempts == 2


@pytest.mark.parametrize("byte_range", [None, (5, None)])
def test_the_end_of_an_open_range_is_known_from_before(scripted: Scripted, byte_range: Any) -> None:
    start = 0 if byte_range is None else 5
    whole = ok(OBJECT, etag=STRONG)
    first = whole if byte_range is None else partial(OBJECT[5:], 5, 20, etag=STRONG)
    for body in (OBJECT[start + 4 :], OBJECT[start + 4 : -1]):
        rest = partial(body, start + 4, None, etag=STRONG)
        client = client_of(scripted([first.cut_body(4), rest]))
        if body[-1] == OBJECT[-1]:
            assert client.get("key", byte_range) == OBJECT[start:]
        else:
            failure(ResponseError, client.get, "key", byte_range)


def test_nothing_is_left_of_the_range_of_an_object_that_became_shorter(scripted: Scripted) -> None:
    """Nor does what came before, which was of the object as it was."""
    server = scripted([partial(OBJECT[10:], 10, 20, etag=STRONG).cut_body(6), ok(OBJECT[:5])])
    assert client_of(server).get("key", (10, 20)) == b""
    assert sent_ranges(server) == ["bytes=10-19", "bytes=16-19"]


def test_a_tag_means_nothing_at_another_place(scripted: Scripted) -> None:
    # RFC 9110, 8.8.3: an entity tag tells states of one resource apart, not resources.
    replies = {"/a": OBJECT, "/b": OTHER}

    def handle(request: Request) -> Reply:
        if request.index == 1:
            return redirect("/b")
        reply = partial(replies[request.target][5:17], 5, 20, etag=STRONG)
        return reply.cut_body(4) if request.index == 0 else reply

    server = scripted(handle)
    assert client_of(server).get("a", (5, 17)) == OTHER[5:17]
    assert sent_ranges(server) == ["bytes=5-16", "bytes=9-16", "bytes=5-16"]
    assert not server.requests[2].fields.has("If-Range")
