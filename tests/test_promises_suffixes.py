"""Ranges that count from the end, of servers that know none: the size is asked for, or was told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from promises import OBJECT, Scripted, client_of, failure
from servers.scripted import Reply, Request, ok, overlay, partial, ranged, status, unsatisfiable

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

from sharded_array import CORNER, VALUES, opened, stored

import zfast
from zfast import Client, FastStore
from zfast.errors import ChangedError, MissingKeyError, ResponseError

SIZE = len(OBJECT)
OBJECTS = {"key": OBJECT, "empty": b""}


def asked(server: Any) -> list[str | None]:
    assert {request.method for request in server.requests} == {"GET"}
    return [request.range for request in server.requests]


@pytest.fixture
def knows_none(scripted: Scripted) -> Any:
    """As Azure: an error that says nothing."""

    def refuse(request: Request, reply: Reply) -> Reply:
        return status(500) if (request.range or "").startswith("bytes=-") else reply

    return scripted(overlay(ranged(dict(OBJECTS)), refuse))


def test_the_size_is_asked_for(knows_none: Any) -> None:
    client = client_of(knows_none, suffix_ranges=False)
    assert client.get("key", (-5, None)) == OBJECT[-5:]
    assert asked(knows_none) == ["bytes=0-0", f"bytes={SIZE - 5}-{SIZE - 1}"]
    assert client.stats()["reads"] == 1
    assert client.get("key", (-SIZE - 9, None)) == OBJECT
    assert client.get("missing", (-5, None)) is None
    assert client.get("empty", (-5, None)) == b""


async def test_for_every_face(knows_none: Any) -> None:
    client = client_of(knows_none, suffix_ranges=False)
    wanted = [("key", (-number, None)) for number in (1, 5, SIZE)]
    assert client.get_many(wanted) == [OBJECT[-1:], OBJECT[-5:], OBJECT]
    buffer = bytearray(5)
    assert client.read_into("key", (-5, None), buffer) == 5
    assert buffer == OBJECT[-5:]
    assert await client.get_async("key", (-5, None)) == OBJECT[-5:]
    with zfast.config.set(suffix_ranges=False):
        assert zfast.cat_ranges([f"{knows_none.url}/key"], [-5], [None]) == [OBJECT[-5:]]
    assert not any((request.range or "").startswith("bytes=-") for request in knows_none.requests)


def test_without_being_told_it_fails_and_says_how(knows_none: Any) -> None:
    error = failure(ResponseError, client_of(knows_none, retries=0).get, "key", (-5, None))
    assert error.status == 500
    assert "suffix_ranges=False" in str(error)
    assert "suffix_ranges" not in str(failure(MissingKeyError, knows_none_into, knows_none))


def test_indexes_of_shards_too(scripted: Scripted) -> None:
    objects = stored()
    serve = ranged(objects)

    def refuse(request: Request) -> Reply:
        return status(400) if (request.range or "").startswith("bytes=-") else serve(request)

    server = scripted(refuse)
    error = failure(ResponseError, lambda: opened(FastStore(server.url))[CORNER])
    assert "suffix_ranges=False" in str(error)
    assert (opened(FastStore(server.url, suffix_ranges=False))[CORNER] == VALUES[CORNER]).all()


def knows_none_into(server: Any) -> None:
    client_of(server, suffix_ranges=False).read_into("missing", (-5, None), bytearray(5))


@pytest.mark.parametrize("other", [b"another" + OBJECT, OBJECT[::-1]], ids=["longer", "as long"])
def test_an_object_that_changed_since_its_size_was_told(scripted: Scripted, other: bytes) -> None:
    objects = dict(OBJECTS)
    serve = ranged(objects)

    def change(request: Request) -> Any:
        reply = serve(request)
        if request.range == "bytes=0-0":
            objects["key"] = other
        return reply

    client = client_of(scripted(change), suffix_ranges=False)
    failure(ChangedError, client.get, "key", (-5, None))
    assert client.get("key", (0, 7)) == other[:7]


def test_a_size_that_is_not_told(scripted: Scripted) -> None:
    """Then the server may know such ranges all the same."""

    def untold(request: Request, reply: Reply) -> Reply:
        return reply.with_fields(content_range="bytes 0-0/*") if reply.body == OBJECT[:1] else reply

    server = scripted(overlay(ranged(dict(OBJECTS)), untold))
    assert client_of(server, suffix_ranges=False).get("key", (-5, None)) == OBJECT[-5:]
    assert asked(server) == ["bytes=0-0", "bytes=-5"]


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
def test_a_body_without_length_that_is_another_object(scripted: Scripted, size: int) -> None:
    def handle(request: Request) -> Reply:
        if request.range == "bytes=0-0":
            return partial(OBJECT[:1], 0, SIZE)
        return ok((OBJECT * 2)[:size]).chunked(3)

    client = client_of(scripted(handle), suffix_ranges=False)
    failure(ResponseError, client.get, "key", (-5, None))


@pytest.mark.parametrize("most", [0, SIZE], ids=["any", "one longer than the object"])
def test_a_refusal_that_tells_the_size(scripted: Scripted, most: int) -> None:
    def refuse(request: Request, reply: Reply) -> Reply:
        suffix = (request.range or "").removeprefix("bytes=-")
        return unsatisfiable(SIZE) if suffix.isdigit() and int(suffix) > most else reply

    server = scripted(overlay(ranged(dict(OBJECTS)), refuse))
    client = Client(server.url)
    assert client.get("key", (-SIZE - 9, None)) == OBJECT
    assert asked(server) == [f"bytes=-{SIZE + 9}", f"bytes=0-{SIZE - 1}"]
    assert client.get("key", (-5, None)) == OBJECT[-5:]
    assert len(server.requests) == (3 if most else 4)


def refusing(request: Request, reply: Reply) -> Reply:
    """Any range, without a word of the size, as S3 does where the object is empty."""
    return status(416) if request.range else reply


@pytest.mark.parametrize("byte_range", [(0, 5), (-5, None)])
@pytest.mark.parametrize("key", ["empty", "key"])
def test_a_refusal_of_any_range(
    scripted: Scripted, key: str, byte_range: tuple[int, int | None]
) -> None:
    server = scripted(overlay(ranged(dict(OBJECTS)), refusing))
    client = client_of(server)
    if key == "empty":
        assert client.get(key, byte_range) == b""
    else:
        error = failure(ResponseError, client.get, key, byte_range)
        assert "does not serve this kind of range" in str(error)
        assert error.attempts == 1
    assert asked(server)[1:] == ["bytes=0-0", None]


def test_ranges_are_ignored_as_well(scripted: Scripted) -> None:
    serve = ranged(dict(OBJECTS))

    def ignore(request: Request) -> Any:
        return serve(replace(request, fields=request.fields.without("Range")))

    assert client_of(scripted(ignore), suffix_ranges=False).get("key", (-5, None)) == OBJECT[-5:]
