"""What HTTP does to a reader: statuses, ranges, bodies, redirects and changes that are wrong.

What a client alone makes of a single response is in test_promises_*.py; here every face meets it,
with a server that has been well before and is again.
"""

from __future__ import annotations

import itertools
import time
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest
import urllib3
from promises import at_once
from servers.ranged import Ranged, Result
from servers.scripted import (
    Fin,
    Reply,
    Request,
    ScriptedServer,
    ok,
    redirect,
    status,
)

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import (
    ARRAYS,
    COMPRESSED,
    DIRECT,
    FACES,
    GET,
    GET_MANY,
    GET_RANGES,
    PARTS,
    SHARDED,
    SHARDED_ANEW,
    STREAMED,
    WHOLE,
    Face,
    Faulty,
    Row,
    faced,
    final,
    lasting,
    nothing_left,
    once,
    outcome,
    reading,
    reading_of,
    warmed,
)
from few_chunks import opened, stored

import zfast
from zfast import FastStore
from zfast.errors import (
    AccessError,
    ChangedError,
    ConnectionFailedError,
    CorruptError,
    DeadlineError,
    ResponseError,
)

pytestmark = pytest.mark.usefixtures("_warm")


@pytest.fixture(scope="module")
def _warm() -> None:
    warmed()


# ---------------------------------------------------------------------------------------- statuses

RETRIED = [408, 429, 500, 502, 503, 504]
UNRETRIED = [400, 402, 405, 406, 409, 411, 413, 414, 415, 417, 418, 421, 422, 423, 425, 426, 428]
UNRETRIED += [431, 451, 499, 501, 505, 507, 508, 511, 520, 522, 524, 598, 599]


@pytest.mark.parametrize("face", FACES, ids=str)
def test_statuses(face: Face) -> None:
    code = 0
    errors: dict[int, Any] = {}
    with faced(Row("", lambda *_: status(code)), face) as (faulty, read):
        for code in [*RETRIED, *UNRETRIED, 401, 403, 407]:
            faulty.arm()
            errors[code] = outcome(read)
            faulty.arm(0)
            read()
    for code, error in errors.items():
        assert type(error) is (AccessError if code in (401, 403, 407) else ResponseError), code
        assert error.status == code
        assert error.attempts == (3 if code in RETRIED else 1)
        assert str(code) in str(error)


@pytest.mark.parametrize("face", [DIRECT, STREAMED, COMPRESSED, SHARDED_ANEW], ids=str)
@pytest.mark.parametrize("code", [404, 410])
def test_a_missing_chunk_is_the_fill_value_and_nothing_else_is(face: Face, code: int) -> None:
    def gone(request: Request, reply: Reply) -> Reply:
        return status(code) if request.key == "a/c/0/0" else reply

    server, manager = Faulty(face.objects, gone), urllib3.PoolManager()
    with nothing_left(), ScriptedServer(server) as at, reading_of(manager):
        store = FastStore(at.url, pool_manager=manager, index_cache_size=0)
        array = opened(store)
        whole = array[...]
        server.arm()
        rows, columns = array.shards or array.chunks
        expected = whole.copy()
        expected[:rows, :columns] = 7
        np.testing.assert_array_equal(array[...], expected)
        store.close()


WAITS = {
    "no Retry-After": lambda: None,
    "0": lambda: "0",
    "junk": lambda: "soon",
    "a date gone by": lambda: formatdate(time.time() - 3600, usegmt=True),
}


@pytest.mark.parametrize("face", [GET_MANY, GET_RANGES, DIRECT, SHARDED_ANEW], ids=str)
@pytest.mark.parametrize("code", [503, 429])
@pytest.mark.parametrize("wait", WAITS)
def test_a_burst(face: Face, wait: str, code: int) -> None:
    def fault(request: Request, reply: Reply) -> Reply:
        return status(code).with_fields(retry_after=WAITS[wait]())

    for length in (1, 5, 12):
        faulty = Faulty(face.objects, fault)
        with nothing_left(), ScriptedServer(faulty) as server:
            with reading(face, server.url, retries=at_once(12)) as read:
                read()
                faulty.arm(length)
                assert outcome(read) is None
                assert faulty.met == length


def test_a_burst_that_says_until_when() -> None:
    row = Row("", lambda *_: status(503, retry_after=formatdate(time.time() + 1, usegmt=True)))
    with faced(row, DIRECT) as (faulty, read):
        faulty.arm(3)
        assert outcome(read) is None


@pytest.mark.parametrize("then", [1e9, 3e9], ids=["slow", "fast"])
def test_a_burst_that_says_until_when_by_a_clock_of_its_own(then: float) -> None:
    """It counts from the time that the server itself says it is."""
    until, now = (formatdate(when, usegmt=True) for when in (then + 1, then))
    row = Row("", lambda *_: status(503, retry_after=until).with_fields(Date=now))
    begun = time.monotonic()
    with faced(row, DIRECT) as (faulty, read):
        faulty.arm(1)
        assert outcome(read) is None
    assert time.monotonic() - begun >= 1


@pytest.mark.parametrize("face", [GET, DIRECT, SHARDED_ANEW], ids=str)
@pytest.mark.parametrize("value", ["3600", formatdate(4e9, usegmt=True), "9" * 40])
def test_a_wait_that_is_asked_for_ends_with_the_deadline(face: Face, value: str) -> None:
    row = Row("", lambda *_: status(503, retry_after=value))
    with faced(row, face, deadline=0.5) as (faulty, read):
        faulty.arm()
        error = outcome(read, 0.5)
        assert type(error) in (DeadlineError, ResponseError)


# ------------------------------------------------------------------------------------------- ranges


def _with_range(value: str | None, body: Any = lambda body: body) -> Any:
    return lambda _, reply: reply.with_fields(content_range=value).with_body(body(reply.body))


def _moved(by: int, total: str | None = None) -> Any:
    def fault(_: Request, reply: Reply) -> Reply:
        said = reply.field("Content-Range") or ""
        first, last = map(int, said.removeprefix("bytes ").partition("/")[0].split("-"))
        size = total or said.rpartition("/")[2]
        return reply.with_fields(content_range=f"bytes {first + by}-{last + by}/{size}")

    return fault


RANGES = [
    final("none", _with_range(None)),
    final("junk", _with_range("junk")),
    final("empty", _with_range("")),
    final("other units", _with_range("items 0-9/10")),
    final("no range", _with_range("bytes */70001")),
    final("no size", _with_range("bytes 0-9")),
    final("reversed", _with_range("bytes 9-0/70001")),
    final("negative", _with_range("bytes -5-9/70001")),
    final("beyond 64 bits", _with_range("bytes 0-18446744073709551616/18446744073709551617")),
    final("sum that wraps", _with_range("bytes 18446744073709551615-18446744073709551615/*")),
    final("one byte further", _moved(1, "9999999")),
    final("far away", _moved(1 << 40, str(1 << 50))),
    final("beyond the size", _moved(0, "0")),
    final(
        "multipart", lambda _, reply: reply.with_fields(content_type="multipart/byteranges; b=x")
    ),
    final("a byte less than said", lambda _, reply: reply.with_body(reply.body[:-1])),
    final("a byte more than said", lambda _, reply: reply.with_body(reply.body + b"x")),
    final("more in chunks", lambda _, reply: reply.with_body(reply.body + b"x").chunked(99)),
]


@pytest.mark.parametrize("face", PARTS, ids=str)
@pytest.mark.parametrize("row", RANGES, ids=str)
def test_content_ranges(row: Row, face: Face) -> None:
    once(row, face)
    lasting(row, face)


@pytest.mark.parametrize("face", WHOLE, ids=str)
def test_a_part_that_nobody_asked_for(face: Face) -> None:
    def fault(_: Request, reply: Reply) -> Reply:
        size = len(reply.body)
        part = Reply(206, reply.body[: size // 2], reply.fields)
        return part.with_fields(content_range=f"bytes 0-{size // 2 - 1}/{size}")

    row = final("", fault)
    once(row, face)
    lasting(row, face)


# ------------------------------------------------------------------------- bodies of another length


PAGE = b"<h1>It works!</h1>"
# Of a shard, what its index has no place for; of its inner chunks, what is not where it was.
NO_CHUNK = (CorruptError, ChangedError, ResponseError)

PAGES = [
    final("an error page with status 200", lambda *_: ok(PAGE), *NO_CHUNK),
    final("an error page in chunks", lambda *_: ok(PAGE).chunked(4), *NO_CHUNK),
    final("half of the body", lambda _, r: ok(r.body[: len(r.body) // 2]), *NO_CHUNK),
    final("until the end", lambda _, r: ok(r.body[:-1]).until_eof(), *NO_CHUNK),
]
"""Whole replies to read at once, whose lengths nothing in HTTP could find wrong."""


# Of many at once some are whole, and some parts: which of them fails first, nobody knows.
@pytest.mark.parametrize("face", [face for face in FACES if face is not GET_MANY], ids=str)
def test_a_body_shorter_than_announced(face: Face) -> None:
    def fault(_: Request, reply: Reply) -> Reply:
        # Without a tag, so that each attempt asks for all of it.
        announced = reply.with_fields(etag=None, content_length=str(len(reply.body) + 9))
        return announced.then(Fin())

    row = final("", fault)
    if face in (GET, COMPRESSED):
        row = Row("", fault, (ConnectionFailedError,))
    elif face in (DIRECT, STREAMED):
        # Its length alone says that it is none of this array's chunks.
        row = final("", fault, CorruptError)
    once(row, face)
    lasting(row, face)


@pytest.mark.parametrize("face", ARRAYS, ids=str)
@pytest.mark.parametrize("row", PAGES, ids=str)
def test_pages_in_place_of_chunks(row: Row, face: Face) -> None:
    once(row, face)
    lasting(row, face)


@pytest.mark.parametrize("face", ARRAYS, ids=str)
def test_an_empty_page_is_no_chunk(face: Face) -> None:
    row = final("", lambda *_: ok(b""), CorruptError)
    once(row, face)
    lasting(row, face)


# ---------------------------------------------------------------------------------------- redirects

LOOPS = {
    "to itself": lambda request, _: redirect(request.target),
    "further and further": lambda request, _: redirect(request.target + "x"),
    "to nowhere": lambda *_: redirect(""),
    "to another scheme": lambda *_: redirect("file:///etc/passwd"),
    "without a place": lambda *_: Reply(302, b"moved"),
    "to its directory": lambda request, _: redirect(f"{request.target}/"),
    "to a broken place": lambda *_: redirect("http://[::1/"),
}


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("where", LOOPS)
def test_redirects_that_lead_nowhere(where: str, face: Face) -> None:
    with faced(Row("", LOOPS[where]), face) as (faulty, read):
        faulty.arm()
        error = outcome(read)
        assert type(error) is ResponseError
        assert error.status == 302
        # Each hop of a loop is a request.
        assert error.attempts <= 1 + zfast.config.get("max_redirects")
        faulty.arm(0)
        read()


SECRETS = {"Authorization": "Bearer s3cret", "Cookie": "a=s3cret"}


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("face", [GET_MANY, DIRECT, SHARDED_ANEW], ids=str)
def test_credentials_do_not_follow_to_another_origin(face: Face, code: int) -> None:
    with nothing_left(), ScriptedServer(Ranged(dict(face.objects))) as there:
        row = Row("", lambda request, _: redirect(there.url + request.target, code))
        faulty = Faulty(face.objects, row.fault)
        with ScriptedServer(faulty) as here:
            url = here.url.replace("//", "//user:passw0rd@")
            for options in ({"headers": SECRETS}, {}):
                with reading(face, url, **options) as read:
                    read()
                    faulty.arm()
                    assert outcome(read) is None
                    faulty.arm(0)
            assert all(request.fields.has("Authorization") for request in here.requests)
        assert len(there.requests) == faulty.met
        for request in there.requests:
            assert not request.fields.has("Authorization")
            assert not request.fields.has("Cookie")


# ------------------------------------------------------------------------------------- what changes


def _tags() -> Any:
    numbers = itertools.count()
    return lambda _, reply: reply.with_fields(etag=f'"{next(numbers)}"')


@pytest.mark.parametrize("face", [GET, GET_MANY, DIRECT, STREAMED, COMPRESSED], ids=str)
def test_another_tag_for_each_part_of_a_resumed_read(face: Face) -> None:
    tagged = _tags()

    def fault(request: Request, reply: Reply) -> Result:
        return tagged(request, reply).cut_body(len(reply.body) // 3)

    changing = Row("", fault, (ChangedError, ConnectionFailedError))
    once(changing, face)
    lasting(changing, face)


def test_another_tag_for_each_reply_of_a_shard() -> None:
    tagged = _tags()
    # The inner chunks do not belong to the index, nor one run of them to another.
    row = final("", tagged, ChangedError)
    with faced(row, SHARDED_ANEW) as (faulty, read):
        faulty.arm()
        error = outcome(read)
        assert type(error) is ChangedError
        faulty.arm(0)
        read()


def test_what_is_stored_anew_is_read_anew() -> None:
    for way, face in (("direct", DIRECT), ("sharded", SHARDED)):
        objects, manager = dict(face.objects), urllib3.PoolManager()
        with nothing_left(), ScriptedServer(Ranged(objects)) as server, reading_of(manager):
            store = FastStore(server.url, pool_manager=manager)
            array = opened(store)
            values = array[...]
            objects.update(stored(way, -values))
            np.testing.assert_array_equal(array[...], -values)
            store.close()
    assert zfast.stats()["in_flight"] == 0
