"""A range in parts, when something comes between: a deadline, another answer, another size."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from promises import Scripted, at_once, client_of
from servers.scripted import Cork, Fin, Request, ok, ranged, status

import zfast
from zfast import cat_ranges
from zfast.errors import CorruptError, DeadlineError

KIB = 1 << 10
PART = 64 * KIB
BODY = random.Random(1).randbytes(5 * PART + 12345)
WHOLE = (0, len(BODY))
# A range may end behind its object.
MOST = 32 * PART


@pytest.fixture(autouse=True)
def _small_parts() -> Iterator[None]:
    with zfast.config.set(split_threshold=2 * PART, split_size=PART, hedge_budget=0):
        yield


@pytest.mark.parametrize("end", [sys.maxsize, sys.maxsize - 1, sys.maxsize - (1 << 20)])
def test_a_range_that_ends_where_numbers_do(scripted: Scripted, end: int) -> None:
    server = scripted(ranged({"key": BODY}))
    client = client_of(server)
    assert client.get("key", (0, end)) == BODY
    assert client.get("key", (70_001, end)) == BODY[70_001:]
    assert cat_ranges([f"{server.url}/key"], 1, end) == [BODY[1:]]


def test_a_deadline_in_the_turn_in_which_the_lead_ends(scripted: Scripted) -> None:
    """Its parts are not asked for any more: what they were to bring is not there."""
    serve = ranged({"key": BODY})
    deadline, begun, chance = 0.01, 0.0, random.Random(0)

    def handle(request: Request) -> Any:
        if request.field("If-Match") is None:
            answers_at = begun + deadline + chance.uniform(-0.0006, 0.0002)
            while time.monotonic() < answers_at:
                pass
        return serve(request)

    server = scripted(handle)
    client = client_of(server, deadline=deadline, retries=at_once(0))
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        buffer = bytearray(len(BODY))
        begun = time.monotonic()
        try:
            came = client.read_into("key", WHOLE, buffer) == len(BODY)
        except DeadlineError:
            came = False
        outcomes[came] += 1
        assert not came or buffer == BODY
    assert outcomes[False]
    assert zfast.stats()["in_flight"] == 0


def _cut_with_its_head(request: Request, total: int) -> list[Any]:
    """A lead's answer whose head, first bytes and end come in one segment, and in one read."""
    assert request.range is not None
    last = int(request.range.removeprefix("bytes=0-"))
    head = (
        f'HTTP/1.1 206 Partial Content\r\nETag: "v1"\r\nContent-Length: {last + 1}\r\n'
        f"Content-Range: bytes 0-{last}/{total}\r\nX-Fill: "
    ).encode()
    fill = b"x" * (1024 - len(head) - len(b"\r\n\r\n") - 8)
    return [Cork(), head + fill + b"\r\n\r\n" + BODY[:8], Fin()]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("tag", ['"v1"', None])
def test_the_lead_breaks_as_it_opens_and_the_server_does_no_ranges(
    scripted: Scripted, framing: str, tag: str | None
) -> None:
    """What the first answer opened is not open any more: the second brings all there is."""
    count = iter(range(1000))

    def handle(request: Request) -> Any:
        if next(count) == 0:
            return iter(_cut_with_its_head(request, MOST))
        if request.field("If-Match"):
            return status(400)
        reply = ok(BODY) if tag is None else ok(BODY).with_fields(ETag=tag)
        return reply.chunked() if framing == "chunked" else reply

    server = scripted(handle)
    assert client_of(server).get("key", (0, MOST)) == BODY
    assert len(server.requests) == 2


@pytest.mark.parametrize("total", ["*", MOST, 3 * PART])
def test_the_lead_breaks_and_the_object_has_another_size(
    scripted: Scripted, total: int | str
) -> None:
    """Under the same tag: what the parts were planned for does not hold."""
    serve = ranged({"key": BODY})
    leads = []

    def handle(request: Request) -> Any:
        reply = serve(request)
        told = reply.field("Content-Range")
        if request.field("If-Match") or told is None or request.range == f"bytes=0-{MOST - 1}":
            return reply
        leads.append(request)
        if len(leads) == 1:
            return iter([reply.wire_head(), Fin()])
        return reply.with_fields(Content_Range=f"{told.partition('/')[0]}/{total}")

    server = scripted(handle)
    assert client_of(server).get("key", (0, MOST)) == BODY
    # Anywhere among them: the server may notice later what was given up before.
    assert [request.range for request in server.requests].count(f"bytes=0-{MOST - 1}") == 1


@pytest.mark.parametrize("answers", ["chunked", "total unknown", "as it should"])
@pytest.mark.parametrize("more", [0, 1000], ids=["as long", "longer"])
def test_a_chunk_whose_object_is_longer(scripted: Scripted, answers: str, more: int) -> None:
    """The same every time: what comes first does not pass where what comes later would not."""
    pytest.importorskip("zarr", minversion="3.1")
    import zarr
    from arrays import bytes_codec, format_3

    shape = (len(BODY),)
    document = format_3(shape, [shape], "|u1", [bytes_codec()]).document
    serve = ranged({"zarr.json": json.dumps(document).encode(), "c/0": BODY + bytes(more)})

    def handle(request: Request) -> Any:
        reply = serve(request)
        if request.key != "c/0" or answers == "as it should":
            return reply
        if answers == "chunked":
            return ok(BODY + bytes(more)).chunked()
        told = reply.field("Content-Range")
        if told is None:
            return reply
        return reply.with_fields(Content_Range=f"{told.partition('/')[0]}/*")

    store = zfast.FastStore(scripted(handle).url, retries=at_once())
    array = zarr.open_array(store=store, mode="r", zarr_format=3)
    for _ in range(3):
        if more == 0:
            assert array[...].tobytes() == BODY
            continue
        with pytest.raises(CorruptError, match="has not the"):
            array[...]
