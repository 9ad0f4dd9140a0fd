"""A GET with a range gives exactly the bytes asked for, out of a 206 or a 200, or an error."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from promises import OBJECT, Scripted, client_of, failure, sent_ranges
from servers.scripted import Reply, Request, ok, overlay, partial, ranged, status, unsatisfiable

pytest.importorskip("zarr", minversion="3.0", reason="byte requests of zarr 3")

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

import zfast
from zfast.errors import MissingKeyError, ResponseError

KINDS: list[tuple[Any, str, bytes]] = [
    (RangeByteRequest(5, 9), "bytes=5-8", OBJECT[5:9]),
    (RangeByteRequest(5, 100), "bytes=5-99", OBJECT[5:]),
    (OffsetByteRequest(5), "bytes=5-", OBJECT[5:]),
    (SuffixByteRequest(5), "bytes=-5", OBJECT[-5:]),
    (SuffixByteRequest(100), "bytes=-100", OBJECT),
    ((5, 9), "bytes=5-8", OBJECT[5:9]),
    ((None, 9), "bytes=0-8", OBJECT[:9]),
    ((5, None), "bytes=5-", OBJECT[5:]),
    ((-5, None), "bytes=-5", OBJECT[-5:]),
]
WHOLE_FRAMINGS = [
    pytest.param(lambda reply: reply, id="length"),
    pytest.param(lambda reply: reply.chunked(3), id="chunked"),
    pytest.param(lambda reply: reply.until_eof(), id="until-eof"),
]


@pytest.mark.parametrize(("byte_range", "field", "expected"), KINDS)
def test_a_part(scripted: Scripted, byte_range: Any, field: str, expected: bytes) -> None:
    server = scripted(ranged({"key": OBJECT}))
    assert client_of(server).get("key", byte_range) == expected
    (request,) = server.requests
    assert request.range == field
    assert request.field("Accept-Encoding") == "identity"
    assert not request.fields.has("If-Range")


@pytest.mark.parametrize("byte_range", [None, OffsetByteRequest(0), (None, None), (0, None)])
def test_no_range_is_asked_for_the_whole(scripted: Scripted, byte_range: Any) -> None:
    server = scripted(ranged({"key": OBJECT}))
    assert client_of(server).get("key", byte_range) == OBJECT
    assert sent_ranges(server) == [None]


def test_cat_ranges_asks_as_a_client_does(scripted: Scripted) -> None:
    server = scripted(ranged({"key": OBJECT}))
    bodies = zfast.cat_ranges([f"{server.url}/key"] * 4, [5, 5, -5, None], [9, None, None, 4])
    assert bodies == [OBJECT[5:9], OBJECT[5:], OBJECT[-5:], OBJECT[:4]]
    assert sorted(filter(None, sent_ranges(server))) == [
        "bytes=-5",
        "bytes=0-3",
        "bytes=5-",
        "bytes=5-8",
    ]


@pytest.mark.parametrize("framing", WHOLE_FRAMINGS)
def test_a_part_in_any_framing(scripted: Scripted, framing: Any) -> None:
    server = scripted(overlay(ranged({"key": OBJECT}), lambda _, reply: framing(reply)))
    for byte_range, _, expected in KINDS:
        assert client_of(server).get("key", byte_range) == expected


def test_a_bounded_part_of_an_object_of_unknown_length(scripted: Scripted) -> None:
    server = scripted([partial(OBJECT[5:9], 5, None)])
    assert client_of(server).get("key", (5, 9)) == OBJECT[5:9]


def _part(content_range: str | None, body: bytes = OBJECT[5:9], **fields: str) -> Reply:
    fields |= {} if content_range is None else {"content_range": content_range}
    return Reply(206, body).with_fields(**fields)


WRONG_PARTS = [
    ((5, 9), _part("bytes 4-7/20")),
    ((5, 9), _part("bytes 6-9/20")),
    ((5, 9), _part("bytes 5-9/20", OBJECT[5:10])),
    ((5, 9), _part("bytes 5-7/20", OBJECT[5:8])),
    ((5, 9), _part("bytes 5-8/8")),
    ((5, 9), _part("bytes 5-8/-1")),
    ((5, 9), _part("bytes 8-5/20")),
    ((5, 9), _part("bytes */20")),
    ((5, 9), _part("items 5-8/20")),
    ((5, 9), _part("5-8/20")),
    ((5, 9), _part("bytes=5-8/20")),
    ((5, 9), _part("bytes 5-8")),
    ((5, 9), _part("bytes 5-8/20, bytes 9-10/20")),
    ((5, 9), _part("bytes 99999999999999999999-8/20")),
    ((5, 9), _part("garbage")),
    ((5, 9), _part("")),
    ((5, 9), _part(None)),
    ((5, 9), _part("bytes 5-8/20", content_type="multipart/byteranges; boundary=x")),
    ((5, 100), _part("bytes 5-8/20")),
    ((5, 100), _part("bytes 5-8/*")),
    ((5, None), _part("bytes 5-8/20")),
    ((5, None), _part("bytes 5-8/*")),
    ((5, None), _part("bytes 4-19/20", OBJECT[4:])),
    ((-4, None), _part("bytes 5-8/20")),
    ((-4, None), _part("bytes 16-19/*", OBJECT[16:])),
    ((-4, None), _part("bytes 15-18/20", OBJECT[15:19])),
    ((-30, None), _part("bytes 1-19/20", OBJECT[1:])),
    (None, _part("bytes 0-19/20", OBJECT)),
    (None, _part(None, OBJECT)),
]


@pytest.mark.parametrize(("byte_range", "reply"), WRONG_PARTS)
def test_another_part_is_an_error(scripted: Scripted, byte_range: Any, reply: Reply) -> None:
    server = scripted([reply])
    error = failure(ResponseError, client_of(server).get, "key", byte_range)
    assert "another range than was asked for" in str(error)
    assert (error.status, error.attempts, error.byte_range) == (206, 1, byte_range)
    assert len(server.requests) == 1


@pytest.mark.parametrize("came", ["bytes 6-9/20", "bytes 6-9/*"])
def test_what_came_in_place_of_a_part_is_told(scripted: Scripted, came: str) -> None:
    server = scripted([_part(came)])
    error = failure(ResponseError, client_of(server).get, "key", (5, 9))
    assert f"its Content-Range is {came}" in str(error)
    assert "a cache on the way" in str(error)


@pytest.mark.parametrize("byte_range", [None, (5, 9), (5, None), (-15, None)])
@pytest.mark.parametrize("total", ["20", "*"])
def test_a_whole_object_that_says_it_is_a_part_is_an_error(
    scripted: Scripted, byte_range: Any, total: str
) -> None:
    """Sliced once more, it would give other bytes, or none."""
    reply = ok(OBJECT[5:9]).with_fields(content_range=f"bytes 5-8/{total}")
    error = failure(ResponseError, client_of(scripted([reply])).get, "key", byte_range)
    assert "another range than was asked for" in str(error)


def test_a_whole_object_may_say_that_it_is_one(scripted: Scripted) -> None:
    reply = ok(OBJECT).with_fields(content_range="bytes 0-19/20")
    assert client_of(scripted([reply])).get("key", (5, 9)) == OBJECT[5:9]


def test_two_content_ranges_must_agree(scripted: Scripted) -> None:
    fields = [("Content-Range", "bytes 5-8/20"), ("Content-Range", "bytes 5-8/21")]
    server = scripted([Reply(206, OBJECT[5:9], fields), Reply(206, OBJECT[5:9], fields[:1] * 2)])
    client = client_of(server)
    failure(ResponseError, client.get, "key", (5, 9))
    assert client.get("key", (5, 9)) == OBJECT[5:9]


@pytest.mark.parametrize("length", ["3", "5"])
def test_length_and_range_must_agree(scripted: Scripted, length: str) -> None:
    reply = _part("bytes 5-8/20", OBJECT[5 : 5 + int(length)])
    error = failure(ResponseError, client_of(scripted([reply])).get, "key", (5, 9))
    assert "not valid" in str(error)


def test_chunks_beyond_the_part_are_an_error(scripted: Scripted) -> None:
    reply = _part("bytes 5-8/20", OBJECT[5:10]).chunked(2)
    error = failure(ResponseError, client_of(scripted([reply])).get, "key", (5, 9))
    assert "longer than announced" in str(error)


# ---------------------------------------------------------------------------------- 200 for a range


@pytest.mark.parametrize("framing", WHOLE_FRAMINGS)
@pytest.mark.parametrize("size", [0, 1, 5, 8, 20, 5000])
def test_a_whole_object_is_sliced(scripted: Scripted, framing: Any, size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    server = scripted(lambda _: framing(ok(body)))
    client = client_of(server)
    slices = {
        (5, 9): body[5:9],
        (0, 4): body[:4],
        (4990, 6000): body[4990:],
        (5, None): body[5:],
        (-5, None): body[-5:],
        (-6000, None): body,
    }
    for byte_range, expected in slices.items():
        assert client.get("key", byte_range) == expected, byte_range
        buffer = bytearray(b"\xff" * 6000)
        assert client.read_into("key", byte_range, buffer) == len(expected), byte_range
        assert buffer == expected + b"\xff" * (6000 - len(expected)), byte_range


@pytest.mark.parametrize("framing", WHOLE_FRAMINGS)
def test_a_large_object_is_sliced(scripted: Scripted, framing: Any) -> None:
    body = b"".join(i.to_bytes(4, "big") for i in range(250_000))
    server = scripted(lambda _: framing(ok(body)))
    client = client_of(server)
    for start, end in [
        (10, 20),
        (10, 300_000),
        (500_000, 600_001),
        (999_990, None),
        (-70_000, None),
    ]:
        assert client.get("key", (start, end)) == body[start:end]


def test_cat_ranges_slices_too(scripted: Scripted) -> None:
    server = scripted(lambda _: ok(OBJECT))
    bodies = zfast.cat_ranges([f"{server.url}/key"] * 3, [5, -4, 30], [9, None, 40], deadline=20)
    assert bodies == [OBJECT[5:9], OBJECT[-4:], b""]


def test_ignored_ranges_are_remembered(scripted: Scripted) -> None:
    objects = {"a": OBJECT, "b": OBJECT[::-1]}
    server = scripted(lambda request: ok(objects[request.key]))
    client = client_of(server)
    assert client.get_ranges("a", [(0, 2), (5, 9)]) == [OBJECT[:2], OBJECT[5:9]]
    assert sorted(filter(None, sent_ranges(server))) == ["bytes=0-1", "bytes=5-8"]
    parts = [(i, i + 3) for i in range(10)]
    assert client.get_ranges("a", parts) == [OBJECT[i : i + 3] for i in range(10)]
    assert len(server.requests) == 3
    wanted = [("a", (1, 2)), ("b", None), ("b", (-4, None)), ("a", (30, 40)), ("b", (3, 3))]
    assert client.get_many(wanted) == [
        OBJECT[1:2],
        OBJECT[::-1],
        OBJECT[3::-1],
        b"",
        b"",
    ]
    # Of what is known to come whole, a request for all that is wanted.
    assert [r.range for r in server.requests[3:] if r.key == "a"] == ["bytes=1-39"]


def test_ignored_ranges_of_missing_and_failing_keys(scripted: Scripted) -> None:
    def handle(request: Request) -> Reply:
        return {"gone": status(404), "bad": status(400)}.get(request.key, ok(OBJECT))

    client = client_of(scripted(handle))
    client.get("key", (0, 2))
    wanted = [("gone", (0, 2)), ("bad", (0, 2)), ("gone", (3, 4)), ("key", (3, 4)), ("bad", None)]
    missing, bad, missing_too, body, bad_too = client.get_many(wanted, on_error="return")
    assert (missing, missing_too, body) == (None, None, OBJECT[3:4])
    assert (bad.status, bad_too.status) == (400, 400)
    assert (bad.byte_range, bad.key) == ((0, 2), "bad")
    error = failure(ResponseError, client.get_ranges, "bad", [(0, 2), (3, 4)])
    assert (error.key, error.status) == ("bad", 400)


def test_a_whole_object_that_was_asked_for_says_nothing(scripted: Scripted) -> None:
    # RFC 9110, 14.2: a server may answer 200 where the part is all there is.
    def handle(request: Request) -> Reply:
        return ok(OBJECT) if request.range in ("bytes=0-19", "bytes=-50") else correct(request)

    correct = ranged({"key": OBJECT})
    server = scripted(handle)
    client = client_of(server)
    assert client.get("key", (0, 20)) == OBJECT
    assert client.get("key", (-50, None)) == OBJECT
    assert client.get_ranges("key", [(0, 2), (2, 4)]) == [OBJECT[:2], OBJECT[2:4]]
    assert sorted(filter(None, sent_ranges(server)[2:])) == ["bytes=0-1", "bytes=2-3"]


# ---------------------------------------------------------------------------- 416, and empty ranges


@pytest.mark.parametrize("byte_range", [(20, 30), (20, None), (25, 30), (2**40, 2**41)])
def test_past_the_end_is_empty(scripted: Scripted, byte_range: Any) -> None:
    client = client_of(scripted(ranged({"key": OBJECT})))
    assert client.get("key", byte_range) == b""
    assert client.read_into("key", byte_range, bytearray(4)) == 0


@pytest.mark.parametrize("byte_range", [(0, 5), (5, None), (-5, None), (0, 1)])
def test_an_empty_object(scripted: Scripted, byte_range: Any) -> None:
    client = client_of(scripted(lambda _: unsatisfiable(0)))
    assert client.get("key", byte_range) == b""
    client = client_of(scripted(ranged({"key": b""})))
    assert client.get("key", byte_range) == b""


BARE = Reply(416, b"no\n")


@pytest.mark.parametrize(
    ("byte_range", "reply", "message"),
    [
        ((5, 9), unsatisfiable(20), "another range"),
        ((5, None), unsatisfiable(6), "another range"),
        (None, unsatisfiable(20), "416 "),
        (None, BARE, "416 "),
    ],
)
def test_an_untrue_416_is_an_error(
    scripted: Scripted, byte_range: Any, reply: Reply, message: str
) -> None:
    server = scripted([reply])
    error = failure(ResponseError, client_of(server).get, "key", byte_range)
    assert message in str(error)
    assert (error.status, error.attempts) == (416, 1)


@pytest.mark.parametrize("byte_range", [(5, 9), (5, None), (3, 3)])
@pytest.mark.parametrize("fields", [{}, {"content_range": "garbage"}])
def test_416_without_a_length(scripted: Scripted, byte_range: Any, fields: dict[str, str]) -> None:
    assert client_of(scripted([BARE.with_fields(**fields)])).get("key", byte_range) == b""


@pytest.mark.parametrize("byte_range", [(3, 3), (0, 0), (9, 5), SuffixByteRequest(0)])
def test_an_empty_range_asks_whether_the_key_exists(scripted: Scripted, byte_range: Any) -> None:
    server = scripted(ranged({"key": OBJECT, "empty": b""}))
    client = client_of(server)
    assert client.get("key", byte_range) == b""
    assert client.get("empty", byte_range) == b""
    assert client.get("missing", byte_range) is None
    assert client.read_into("key", byte_range, bytearray()) == 0
    failure(MissingKeyError, client.read_into, "missing", byte_range, bytearray())
    assert client_of(scripted([ok(OBJECT)])).get("key", byte_range) == b""


# ----------------------------------------------------------------------------------- encoded bodies


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x-unknown"])
@pytest.mark.parametrize("byte_range", [None, (5, 9)])
def test_an_encoded_body_is_an_error(scripted: Scripted, coding: str, byte_range: Any) -> None:
    def handle(request: Request) -> Reply:
        return correct(request).with_fields(content_encoding=coding)

    correct = ranged({"key": OBJECT})
    server = scripted(handle)
    error = failure(ResponseError, client_of(server).get, "key", byte_range)
    assert "encoded although identity was asked for" in str(error)
    assert error.attempts == 1


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_identity_is_no_encoding(scripted: Scripted, coding: str) -> None:
    replies = [ok(OBJECT, content_encoding=coding)]
    assert client_of(scripted(replies)).get("key") == OBJECT


# --------------------------------------------------------------------------------------------- HEAD


def test_head_tells_size_and_validators(scripted: Scripted) -> None:
    server = scripted(ranged({"key": OBJECT, "empty": b""}))
    client = client_of(server)
    info = client.head("key")
    assert info is not None
    assert info.size == len(OBJECT)
    assert info.etag is not None
    assert info.etag.startswith('"')
    assert info.content_type == "application/octet-stream"
    empty = client.head("empty")
    assert empty is not None
    assert empty.size == 0
    assert client.head("missing") is None
    assert [request.method for request in server.requests] == ["HEAD"] * 3
    assert len(server.connections) == 1


def test_head_of_unknown_size(scripted: Scripted) -> None:
    info = client_of(scripted([ok(OBJECT).chunked()])).head("key")
    assert info is not None
    assert (info.size, info.etag) == (None, None)


def test_reads_send_get_alone(scripted: Scripted) -> None:
    server = scripted(ranged({str(i): OBJECT for i in range(30)}))
    client_of(server).get_many([(str(i), (i, i + 5)) for i in range(20)])
    methods = [(request.method, request.key) for request in server.requests]
    assert sorted(methods) == sorted(zip(itertools.repeat("GET"), map(str, range(20))))
