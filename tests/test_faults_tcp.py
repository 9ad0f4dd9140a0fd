"""What TCP does to a reader: connections refused, reset, cut, silent, gone; and none left open."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promises import at_once
from servers.caddy import Caddy
from servers.connection import can_vanish
from servers.leaks import wait_until
from servers.ranged import Ranged
from servers.scripted import Fin, Reply, Request, Reset, ScriptedServer, Stall, ok

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import (
    COMPRESSED,
    DIRECT,
    FACES,
    FILLING,
    GET,
    GET_MANY,
    READ_INTO,
    SHARDED_ANEW,
    Face,
    Faulty,
    Read,
    Row,
    grown_by_failures,
    lasting,
    nothing_left,
    once,
    outcome,
    reading,
    reading_of,
    short_timeouts,
    warmed,
)

import zfast
from zfast import Client
from zfast.errors import ConnectionFailedError, DeadlineError

pytestmark = pytest.mark.usefixtures("_warm")

FAILED = (ConnectionFailedError,)
LATE = (DeadlineError,)


@pytest.fixture(scope="module")
def _warm() -> None:
    warmed()


def _cut(ending: Any) -> Iterator[tuple[str, Any]]:
    def half(reply: Reply) -> int:
        return len(reply.body) // 2

    yield "before the head", lambda _, reply: ending
    yield "within the head", lambda _, reply: reply.cut(17, ending)
    yield "behind the head", lambda _, reply: reply.cut_body(0, ending)
    yield "at the first byte", lambda _, reply: reply.cut_body(1, ending)
    yield "in the middle", lambda _, reply: reply.cut_body(half(reply), ending)
    yield "before the last byte", lambda _, reply: reply.cut(-1, ending)
    yield (
        "within chunks",
        lambda _, reply: reply.chunked(999).cut_body(half(reply), ending),
    )
    yield "before the last chunk", lambda _, reply: reply.chunked(999).cut(-5, ending)


def _rows(kind: str, ending: Any, error: tuple[type[Any], ...]) -> list[Row]:
    return [Row(f"{kind} {where}", fault, error) for where, fault in _cut(ending)]


CUTS = [*_rows("fin", Fin(), FAILED), *_rows("reset", Reset(), FAILED)]
STALLS = _rows("stall", Stall(), LATE)
WHOLE_AND_CLOSED = [
    Row("whole, then fin", lambda _, reply: reply.then(Fin())),
    Row("whole, then reset", lambda _, reply: reply.then(Reset())),
    Row("whole, with Connection: close", lambda _, reply: reply.closing()),
    Row("whole in chunks, then fin", lambda _, reply: reply.chunked(4000).then(Fin())),
    Row("until the end of the connection", lambda _, reply: reply.until_eof()),
]


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("row", CUTS, ids=str)
def test_cut(row: Row, face: Face) -> None:
    once(row, face)
    lasting(row, face)


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("row", WHOLE_AND_CLOSED, ids=str)
def test_closed_behind_each_reply(row: Row, face: Face) -> None:
    # The next request may meet the end of its connection.
    once(row, face)
    lasting(row, face, retries=at_once(50))


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("row", STALLS, ids=str)
def test_half_open(row: Row, face: Face) -> None:
    # A busy machine may stall as well, which no attempt but the last is to be.
    with short_timeouts(0.1) as options:
        once(row, face, retries=at_once(50), **options)


@pytest.mark.parametrize("face", [GET, DIRECT, COMPRESSED, SHARDED_ANEW], ids=str)
@pytest.mark.parametrize("row", [STALLS[0], STALLS[4], STALLS[-1]], ids=str)
def test_half_open_for_good(row: Row, face: Face) -> None:
    with short_timeouts(0.3) as options:
        lasting(row, face, **options)


@pytest.mark.parametrize("name", FILLING)
def test_failures_leave_no_memory(name: str) -> None:
    faulty = Faulty(FILLING[name].objects, lambda _, reply: reply.cut(-1, Reset()))
    with (
        ScriptedServer(faulty) as server,
        # What the server keeps is no matter.
        ProcessPoolExecutor(1, get_context("spawn")) as reader,
    ):
        faulty.arm()
        grown = reader.submit(grown_by_failures, name, server.url).result()
    # Half of what there was if each kept what it read into.
    assert grown < (8 << 20 if FILLING[name] is READ_INTO else 30 << 20)


# ------------------------------------------------------------------------------- at any byte of it

SMALL, LARGE = random.Random(2).randbytes(1500), random.Random(3).randbytes(3_000_000)


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_cut_at_any_byte_again_and_again(body: bytes) -> None:
    cuts: list[tuple[int, Any]] = []

    def fault(_: Request, reply: Reply) -> Reply:
        at, ending = cuts.pop()
        return reply.cut_body(at % (len(reply.body) + 1), ending)

    faulty = Faulty({"key": body}, fault)
    manager = urllib3.PoolManager()
    with nothing_left(), ScriptedServer(faulty) as server, reading_of(manager):
        client = Client(server.url, pool_manager=manager, retries=at_once(9), deadline=20)

        @settings(max_examples=40, suppress_health_check=list(HealthCheck))
        @given(
            st.lists(
                st.tuples(st.integers(0, len(body)), st.sampled_from([Fin(), Reset()])),
                min_size=1,
                max_size=5,
            ),
            st.sampled_from([None, (7, len(body) - 9), (len(body) // 2, None)]),
        )
        def whole(several: list[tuple[int, Any]], part: Any) -> None:
            cuts[:] = several
            faulty.arm(len(several))
            expected = body if part is None else body[slice(*part)]
            assert client.get("key", part) == expected
            faulty.arm(0)

        whole()
        client.close()


# -------------------------------------------------------------------------- connecting, or failing


def read_and_connected(read: Read) -> None:
    """Read once, until no connection is opened any more that the read had no need of in the end."""
    read()
    wait_until(lambda: not zfast.stats()["dialling"])


@pytest.mark.parametrize("face", FACES, ids=str)
def test_refused_and_back_again(face: Face) -> None:
    with (
        nothing_left(),
        ScriptedServer(Ranged(dict(face.objects))) as server,
        reading(face, server.url) as read,
    ):
        read_and_connected(read)
        server.refuse()
        server.close_idle()
        error = outcome(read)
        assert type(error) is ConnectionFailedError
        assert "refused" in str(error)
        assert error.attempts == 3
        server.listen()
        read()


@pytest.mark.parametrize("face", FACES, ids=str)
def test_back_while_it_is_tried_again(face: Face) -> None:
    patient = urllib3.Retry(400, backoff_factor=0.01, backoff_max=0.05)
    with (
        nothing_left(),
        ScriptedServer(Ranged(dict(face.objects))) as server,
        reading(face, server.url, retries=patient) as read,
    ):
        read_and_connected(read)
        server.refuse()
        server.close_idle()
        timer = threading.Timer(0.1, server.listen)
        timer.start()
        assert outcome(read) is None
        timer.join()


@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_connect_that_is_never_answered(face: Face) -> None:
    timeout = urllib3.Timeout(connect=0.1, read=20)
    with nothing_left(), ScriptedServer(Ranged(dict(face.objects))) as server:
        with reading(face, server.url, retries=0, timeout=timeout) as read:
            read_and_connected(read)
            with server.full():
                server.close_idle()
                error = outcome(read)
                assert type(error) is DeadlineError
                assert "connect_timeout" in str(error)
                assert error.attempts == 1
            read()


def test_an_accept_queue_that_is_full_for_a_while() -> None:
    with (
        nothing_left(),
        ScriptedServer(Ranged(dict(GET_MANY.objects))) as server,
        reading(GET_MANY, server.url) as read,
    ):
        read_and_connected(read)
        with server.full():
            server.close_idle()
            reader = threading.Thread(target=read)
            reader.start()
            # It connects, and is not accepted.
            reader.join(0.2)
            assert reader.is_alive()
        reader.join(30)
        assert not reader.is_alive()
        read()


# ------------------------------------------------------------------------------------ idle and gone


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
@pytest.mark.parametrize("face", FACES, ids=str)
def test_closed_while_idle_again_and_again(face: Face, reset: bool) -> None:
    with (
        nothing_left(),
        ScriptedServer(Ranged(dict(face.objects))) as server,
        reading(face, server.url, retries=0) as read,
    ):
        for _ in range(12):
            assert outcome(read) is None
            assert server.close_idle(reset=reset) > 0


@pytest.mark.skipif(not can_vanish(), reason="connections end with a word, unless root asks Linux")
@pytest.mark.parametrize("face", FACES, ids=str)
def test_gone_while_idle_without_a_word(face: Face) -> None:
    with (
        nothing_left(),
        ScriptedServer(Ranged(dict(face.objects))) as server,
        reading(face, server.url, retries=at_once(99)) as read,
    ):
        for _ in range(3):
            assert outcome(read) is None
            assert server.vanish_idle() > 0


@pytest.mark.parametrize("said", [True, False], ids=["Connection: close", "without a word"])
@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("face", FACES, ids=str)
def test_closed_after_so_many_requests(face: Face, limit: int, said: bool) -> None:
    serve = Ranged(dict(face.objects))

    def closing(request: Request) -> Reply:
        reply = serve(request)
        return reply.then(Fin()) if request.number + 1 == limit else reply

    with nothing_left():
        with ScriptedServer(
            serve if said else closing, keepalive_requests=limit if said else None
        ) as server:
            with reading(face, server.url, retries=at_once(9)) as read:
                for _ in range(3):
                    assert outcome(read) is None
            assert {len(each.requests) for each in server.connections} <= set(range(limit + 1))


# ----------------------------------------------------------------------------------- real processes


@pytest.mark.parametrize("face", [GET, DIRECT, SHARDED_ANEW], ids=str)
def test_a_server_that_is_stopped_and_goes_on(start: Any, tmp_path: Path, face: Face) -> None:
    server = start(Caddy, _site(tmp_path, face))
    with nothing_left(), reading(face, server.url, deadline=0.5) as read:
        read()
        os.killpg(server.pid, signal.SIGSTOP)
        try:
            # With open connections, and then with new ones.
            for _ in range(2):
                # It stops a little later than it is told to.
                error = next(filter(None, (outcome(read, 0.5) for _ in itertools.count())))
                assert type(error) is DeadlineError
                assert "deadline" in str(error)
        finally:
            os.killpg(server.pid, signal.SIGCONT)
        ended = next(ended for ended in iter(lambda: outcome(read, 0.5), 0) if ended is None)
        assert ended is None


@pytest.mark.parametrize("face", [GET_MANY, DIRECT, SHARDED_ANEW], ids=str)
def test_a_server_that_is_killed(start: Any, tmp_path: Path, face: Face) -> None:
    server = start(Caddy, _site(tmp_path, face))
    with nothing_left(), reading(face, server.url) as read:
        read()
        killing = threading.Timer(0.05, server.kill)
        killing.start()
        # However far it has come, the connections end; then nobody listens.
        error = next(filter(None, (outcome(read) for _ in itertools.count())))
        killing.join()
        assert type(error) is ConnectionFailedError


def _site(folder: Path, face: Face) -> Path:
    for key, body in face.objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def test_what_is_served_is_what_is_read() -> None:
    # The rows would hold of anything if a face asked for nothing.
    wrong = Row("another byte", lambda _, reply: ok(b"\0" + reply.body[1:]))
    with pytest.raises(AssertionError):
        lasting(wrong, GET)
