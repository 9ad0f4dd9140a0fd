"""A large range goes over several connections, and what comes is of one state of the object."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from promises import Scripted, at_once, client_of, failure
from servers.scripted import Fields, Request, Reset, Stall, Wait, ok, ranged, redirect, status

import zfast
from zfast import Client, cat_ranges
from zfast.errors import ChangedError, DeadlineError, ResponseError, ZfastError

KIB = 1 << 10
MIB = 1 << 20
BODY = random.Random(1).randbytes(MIB + 12345)
WHOLE = (0, len(BODY))
OTHER = random.Random(2).randbytes(len(BODY))
PART = 128 * KIB
PARTS = -(-len(BODY) // PART)


@pytest.fixture(autouse=True)
def _small_parts() -> Iterator[None]:
    with zfast.config.set(split_threshold=256 * KIB, split_size=PART):
        yield


# ----------------------------------------------------------------------------------- what is asked


def test_the_first_part_leads_and_the_others_follow_its_tag(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    client = client_of(server)
    assert client.get("key", WHOLE) == BODY
    first, *others = server.requests
    assert first.field("If-Match") is None
    assert len(others) == PARTS - 1
    assert {request.field("If-Match") for request in others} == {ranged({"k": BODY}).etag("k")}
    asked = sorted(tuple(map(int, r.range[6:].split("-"))) for r in server.requests)
    assert asked[0][0] == 0
    assert asked[-1][1] == len(BODY) - 1
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(asked))
    assert len({request.connection for request in server.requests}) > 1
    now = client.stats()
    assert (now["split"], now["reads"], now["requests"]) == (1, 1, PARTS)
    assert now["bytes_received"] == len(BODY)


@pytest.mark.parametrize("size", [1, 256 * KIB - 1], ids=["little", "just below the threshold"])
def test_what_is_not_large_stays_whole(scripted: Scripted, size: int) -> None:
    server = scripted(ranged({"key": BODY}))
    assert client_of(server).get("key", (5, 5 + size)) == BODY[5 : 5 + size]
    assert len(server.requests) == 1


def test_what_is_of_unknown_size_stays_whole(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    client = client_of(server)
    for byte_range in (None, (100, None), (-300 * KIB, None)):
        assert client.get("key", byte_range) == BODY[slice(*byte_range or (None,))]
    assert len(server.requests) == 3


def test_none_where_the_setting_says_so(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    with zfast.config.set(split_size=0):
        assert client_of(server).get("key", WHOLE) == BODY
    assert len(server.requests) == 1


def test_many_large_ranges_are_parts_enough(scripted: Scripted) -> None:
    """With as many requests as there are connections, parts would only be more requests."""
    server = scripted(ranged({str(at): BODY for at in range(64)}))
    bodies = client_of(server).get_many([(str(at), WHOLE) for at in range(64)])
    assert all(body == BODY for body in bodies)
    assert len(server.requests) == 64


@pytest.mark.parametrize("start", [0, 1, 70_001])
def test_a_range_that_passes_the_end(scripted: Scripted, start: int) -> None:
    server = scripted(ranged({"key": BODY}))
    assert client_of(server).get("key", (start, 3 * MIB)) == BODY[start:]
    # What begins behind the end of the object is not asked for.
    assert all(int(r.range[6:].split("-")[0]) < len(BODY) for r in server.requests)


def test_a_range_behind_the_end(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    assert client_of(server).get("key", (4 * MIB, 8 * MIB)) == b""
    assert len(server.requests) == 1


def test_a_missing_key(scripted: Scripted) -> None:
    server = scripted(ranged({}))
    assert client_of(server).get("key", WHOLE) is None
    assert len(server.requests) == 1


def test_into_memory_of_the_caller(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    buffer = bytearray(len(BODY) - 7)
    assert client_of(server).read_into("key", (7, len(BODY)), buffer) == len(buffer)
    assert buffer == BODY[7:]
    assert len(server.requests) > 1


def test_ranges_of_urls(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    urls = [f"{server.url}/key"] * 2
    assert cat_ranges(urls, [0, 10], [len(BODY), 20]) == [BODY, BODY[10:20]]
    assert len(server.requests) > 2


# ------------------------------------------------------------------------------ one state of it all


class Replaced:
    """A server whose object becomes another one after so many requests for it."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.count = 0
        self.lock = threading.Lock()
        self.old, self.new = ranged({"key": BODY}), ranged({"key": OTHER})

    def __call__(self, request: Request) -> Any:
        with self.lock:
            self.count += 1
            return (self.old if self.count <= self.after else self.new)(request)


@pytest.mark.parametrize("after", range(1, PARTS))
def test_the_object_changes_between_parts(scripted: Scripted, after: int) -> None:
    """Never bytes of both: it is read anew, by one request."""
    server = scripted(Replaced(after))
    assert client_of(server).get("key", WHOLE) == OTHER
    (again,) = (r for r in server.requests if r.range == f"bytes=0-{len(BODY) - 1}")
    assert again.field("If-Match") is None


def broken_lead(scripted: Scripted, then: Callable[[Request], Any], start: int = 0) -> Any:
    """Read a range whose lead breaks when all its parts are there; the body, and the server."""
    old = ranged({"key": BODY})
    done = threading.Event()
    count = iter(range(1000))

    def handle(request: Request) -> Any:
        if next(count) == 0:
            return iter([old(request).wire()[: PART // 2], Wait(done), Reset()])
        return then(request) if done.is_set() else old(request)

    server = scripted(handle)
    client = client_of(server)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "key", (start, len(BODY)))
        server.wait_for(
            lambda: (
                len(server.requests) == -(-(len(BODY) - start) // PART)
                and sum(not connection.idle for connection in server.open_connections) == 1
            )
        )
        done.set()
        return reading.result(), server


def test_the_lead_breaks_and_then_the_object_changes(scripted: Scripted) -> None:
    body, _ = broken_lead(scripted, ranged({"key": OTHER}))
    assert body == OTHER


@pytest.mark.parametrize("told", [True, False], ids=["200", "416"])
def test_the_lead_breaks_and_then_the_object_is_short(scripted: Scripted, told: bool) -> None:
    """Nothing is left of the range: what its parts brought is of the object as it was."""
    short = ranged({"key": BODY[: 100 * KIB]})
    body, _ = broken_lead(scripted, short if told else lambda _: status(416), 300 * KIB)
    assert body == b""


def test_the_lead_breaks_and_is_redirected(scripted: Scripted) -> None:
    """A tag tells states of one resource apart: another one may have the same."""
    tag = ranged({"key": BODY}).etag("key")

    def then(request: Request) -> Any:
        if request.key == "key":
            return redirect("/other")
        return ranged({"other": OTHER})(request).with_fields(ETag=tag)

    body, _ = broken_lead(scripted, then)
    assert body == OTHER


def test_the_lead_breaks_and_leads_nowhere(scripted: Scripted) -> None:
    steps = iter([redirect("ftp://elsewhere/")])
    body, _ = broken_lead(scripted, lambda r: next(steps, ranged({"key": OTHER})(r)))
    assert body == OTHER


def test_a_part_is_redirected(scripted: Scripted) -> None:
    serve = {key: ranged({key: body}) for key, body in (("key", BODY), ("other", OTHER))}
    tag = serve["key"].etag("key")

    def handle(request: Request) -> Any:
        if request.key == "key" and request.field("If-Match"):
            return redirect("/other")
        return serve[request.key](request).with_fields(ETag=tag)

    assert client_of(scripted(handle)).get("key", WHOLE) == BODY


def test_the_lead_breaks_and_the_object_is_larger(scripted: Scripted) -> None:
    """Its parts go on in the memory that they were given, which nobody else may get meanwhile."""
    old, new = ranged({"key": b"A" * (3 * MIB)}), ranged({"key": b"B" * (6 * MIB)})
    breaks, gate = threading.Event(), threading.Event()
    count = iter(range(1000))

    def handle(request: Request) -> Any:
        if request.key == "other":
            return ok(bytes(3 * MIB))
        if next(count) == 0:
            return iter([old(request).wire_head(), Wait(breaks), Reset()])
        if breaks.is_set():
            return new(request)
        wire = old(request).wire()
        return iter([wire[: 32 * KIB], Wait(gate), wire[32 * KIB :]])

    server = scripted(handle)
    client = client_of(server)
    parts = 3 * MIB // PART
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "key", (0, 8 * MIB))
        server.wait_for(lambda: len(server.requests) >= parts)
        breaks.set()
        server.wait_for(lambda: len(server.requests) > parts)
        other = client.get("other")
        gate.set()
        assert reading.result() == b"B" * (6 * MIB)
    assert other == bytes(3 * MIB)


def test_replicas_that_never_agree_are_asked_once(scripted: Scripted) -> None:
    """Each has a tag of its own, as inodes make it."""
    serve = ranged({"key": BODY})
    count = iter(range(1000))

    def handle(request: Request) -> Any:
        tag = f'"replica {next(count) % 2}"'
        if request.field("If-Match") not in (None, tag):
            return status(412)
        fields = [(n, v) for n, v in request.fields if n != "If-Match"]
        return serve(replace(request, fields=Fields(fields))).with_fields(ETag=tag)

    server = scripted(handle)
    client = client_of(server)
    for _ in range(2):
        assert client.get("key", WHOLE) == BODY
    before = len(server.requests)
    assert client.get("key", WHOLE) == BODY
    assert len(server.requests) == before + 1


def test_replicas_that_agree_now_and_then_are_asked_again(scripted: Scripted) -> None:
    """What was lost before parts that came counts no more."""
    serve = ranged({"key": BODY})
    disagree = threading.Event()
    server = scripted(
        lambda r: status(412) if r.field("If-Match") and disagree.is_set() else serve(r)
    )
    client = client_of(server)
    for do in (disagree.set, disagree.clear, disagree.set, disagree.clear):
        do()
        before = len(server.requests)
        assert client.get("key", WHOLE) == BODY
        assert len(server.requests) > before + 1


@pytest.mark.parametrize("tag", [None, 'W/"weak"'], ids=["none", "weak"])
def test_without_a_strong_tag_it_stays_whole(scripted: Scripted, tag: str | None) -> None:
    serve = ranged({"key": BODY})

    def handle(request: Request) -> Any:
        return serve(request).with_fields(ETag=tag)

    server = scripted(handle)
    client = client_of(server)
    assert client.get("key", WHOLE) == BODY
    assert [r.range for r in server.requests][-1] == f"bytes=0-{len(BODY) - 1}"
    assert len(server.requests) == 2
    # That is known of the origin from then on.
    assert client.get("key", WHOLE) == BODY
    assert len(server.requests) == 3


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_server_without_ranges_is_asked_once(scripted: Scripted, framing: str) -> None:
    reply = ok(BODY)
    server = scripted(lambda _: reply.chunked() if framing == "chunked" else reply)
    client = client_of(server)
    for _ in range(2):
        assert client.get("key", (3, len(BODY))) == BODY[3:]
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [403, 404])
def test_parts_that_are_refused(scripted: Scripted, code: int) -> None:
    """A server may know ranges, and not what If-Match is; a replica may not have the object yet."""
    serve = ranged({"key": BODY})
    server = scripted(lambda r: status(code) if r.field("If-Match") else serve(r))
    assert client_of(server).get("key", WHOLE) == BODY


def test_a_redirect_to_the_same_origin_leads_all(scripted: Scripted) -> None:
    serve = ranged({"there": BODY})
    server = scripted(lambda r: redirect("/there") if r.key == "key" else serve(r))
    assert client_of(server).get("key", WHOLE) == BODY
    assert server.keys().count("key") == 1


def test_a_redirect_to_another_origin_leads_all(scripted: Scripted) -> None:
    there = scripted(ranged({"there": BODY}))
    here = scripted(lambda _: redirect(f"{there.url}/there"))
    client = client_of(here, headers={"Authorization": "Bearer secret"})
    assert client.get("key", WHOLE) == BODY
    assert len(here.requests) == 1
    assert here.requests[0].field("Authorization") == "Bearer secret"
    assert len(there.requests) == PARTS
    # Nor do the parts have what is for here alone.
    assert not any(request.fields.has("Authorization") for request in there.requests)


# ---------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("which", [0, 1, PARTS - 1])
def test_each_part_is_retried_and_resumed(scripted: Scripted, which: int) -> None:
    serve = ranged({"key": BODY})
    broken = threading.Lock()

    def handle(request: Request) -> Any:
        if f"bytes={which * PART}-" in (request.range or "") and broken.acquire(blocking=False):
            return serve(request).cut(-100, Reset())
        return serve(request)

    server = scripted(handle)
    client = client_of(server)
    assert client.get("key", (0, PARTS * PART)) == BODY
    assert client.stats()["retries"] == 1


def test_a_part_that_fails_for_good_fails_the_read(scripted: Scripted) -> None:
    serve = ranged({"key": BODY})
    server = scripted(lambda r: Stall() if r.field("If-Match") else serve(r))
    client = client_of(server, timeout=0.3, retries=at_once(1))
    error = failure(DeadlineError, client.get, "key", WHOLE)
    assert error.byte_range == WHOLE
    assert error.attempts == 2
    server.wait_for(lambda: all(c.idle for c in server.open_connections))
    assert zfast.stats()["in_flight"] == 0


def test_the_lead_that_fails_ends_its_parts(scripted: Scripted) -> None:
    serve = ranged({"key": BODY})

    def handle(request: Request) -> Any:
        reply = serve(request)
        return Stall() if request.field("If-Match") else reply.cut(-10, Stall())

    server = scripted(handle)
    client = client_of(server, timeout=0.3, retries=0)
    failure(DeadlineError, client.get, "key", WHOLE)
    server.wait_for(lambda: not server.open_connections)
    assert zfast.stats()["in_flight"] == 0


def test_the_deadline_ends_all_parts(scripted: Scripted) -> None:
    serve = ranged({"key": BODY})
    server = scripted(lambda r: Stall() if r.field("If-Match") else serve(r))
    failure(DeadlineError, client_of(server, deadline=0.5).get, "key", WHOLE)
    assert zfast.stats()["in_flight"] == 0


def test_one_of_many_fails_and_the_others_do_not(scripted: Scripted) -> None:
    serve = ranged({"a": BODY, "b": BODY})

    def handle(request: Request) -> Any:
        return status(500) if request.key == "a" and request.field("If-Match") else serve(request)

    server = scripted(handle)
    client = client_of(server, retries=0)
    first, second = client.get_many([("a", WHOLE), ("b", WHOLE)], on_error="return")
    # One request for all of it got through.
    assert (first, second) == (BODY, BODY)


def test_a_buffer_that_is_too_small(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    buffer = bytearray(PART + 5)
    error = failure(ResponseError, client_of(server).read_into, "key", WHOLE, buffer)
    assert "buffer" in str(error)


# ------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("name", ["contiguous", "rows"])
def test_chunks_of_an_array(scripted: Scripted, name: str) -> None:
    """Straight into the output, where it is contiguous and where it is not."""
    pytest.importorskip("zarr", minversion="3.1")
    import zarr
    from arrays import bytes_codec, format_3

    rng = np.random.default_rng(3)
    chunk = (512, 1024)
    shape = (1024, 1024) if name == "contiguous" else (512, 2048)
    values = rng.integers(0, 1 << 20, shape).astype("<f4")
    document = format_3(shape, [chunk], "<f4", [bytes_codec()]).document
    keys = ["c/0/0", "c/1/0" if name == "contiguous" else "c/0/1"]
    chunks = np.split(values, 2, 0 if name == "contiguous" else 1)
    objects = {key: part.tobytes() for key, part in zip(keys, chunks, strict=True)}
    server = scripted(ranged({"zarr.json": json.dumps(document).encode(), **objects}))
    store = zfast.FastStore(server.url)
    array = zarr.open_array(store=store, mode="r", zarr_format=3)
    np.testing.assert_array_equal(array[...], values)
    assert store.stats()["split"] == 2
    assert len(server.requests) > 4
    # A chunk that is longer than it should be is corrupt, whichever way it is read.
    server._handler = ranged(objects | {keys[0]: objects[keys[0]] + b"x"})
    with pytest.raises(ZfastError) as caught:
        array[...]
    assert "bytes" in str(caught.value)


def test_parts_under_faults(scripted: Scripted) -> None:
    """Cut, refused and replaced at random: one state of the object, or an error."""
    rolls = random.Random(11)
    lock = threading.Lock()
    states = [ranged({"key": random.Random(at).randbytes(MIB)}) for at in range(3)]
    bodies = [random.Random(at).randbytes(MIB) for at in range(3)]
    current = [0]

    def handle(request: Request) -> Any:
        with lock:
            roll, at = rolls.random(), rolls.randrange(1, PART)
            if roll > 0.97:
                current[0] = (current[0] + 1) % 3
            serve = states[current[0]]
        if roll < 0.05:
            return serve(request).cut(at, Reset())
        return status(503) if roll < 0.08 else serve(request)

    server = scripted(handle)
    client = client_of(server, retries=at_once(8), deadline=60)
    right = 0
    for _ in range(60):
        try:
            right += client.get("key", (0, MIB)) in bodies
        except ChangedError:
            continue
    assert right > 30


def test_parts_are_let_go_of_at_the_end_of_a_client(scripted: Scripted) -> None:
    server = scripted(ranged({"key": BODY}))
    client = Client(server.url)
    body = client.get("key", WHOLE)
    del client
    assert body == BODY
