"""A request whose answer is late is sent a second time; the first answer is the only one."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hedged import Held, hedges
from promises import OBJECT, Scripted, at_once, failure
from servers.leaks import open_descriptors, wait_until
from servers.scripted import (
    Fin,
    Request,
    Reset,
    Stall,
    Wait,
    ok,
    ranged,
    redirect,
    status,
)

import zfast
from zfast import Client
from zfast.errors import DeadlineError, ResponseError


@pytest.fixture(autouse=True)
def _hedges() -> Iterator[None]:
    with zfast.config.set(hedge_budget=0.05, hedge_floor=0.02):
        yield
    assert not zfast.stats().get("in_flight")


# ------------------------------------------------------------------------------------ who is first


@pytest.mark.parametrize("way", ["http", "https", "relay"])
def test_the_second_answer_is_first(
    scripted: Scripted, tls_context: Any, tls_ca_file: str, way: str
) -> None:
    tls = {} if way == "http" else {"tls": tls_context}
    with zfast.config.set(tls="python" if way == "relay" else "auto"):
        held = Held(scripted, Stall(), ok(OBJECT), **tls)
        client = held.client(ca_certs=tls_ca_file if tls else None)
        before = client.stats()
        assert client.get("held") == OBJECT
        after = client.stats()
    assert hedges(client) == (1, 1)
    assert after["requests"] - before["requests"] == 2
    assert after["reads"] - before["reads"] == 1
    assert after["retries"] == 0
    first, second = held.held()
    assert first.connection != second.connection
    # The loser is closed: nobody waits for what it may bring.
    held.server.wait_for(lambda: not held.server.connections[first.connection].open)
    assert client.get("held/not") == OBJECT


def test_what_is_written_says_nothing_of_when_a_read_is_late(scripted: Scripted) -> None:
    written = threading.Event()

    def on_head(request: Request) -> None:
        if request.method == "PUT":
            written.wait(1)

    held = Held(scripted, Stall(), ok(OBJECT), on_head=on_head)
    client = held.client()
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(client.put, f"warm/{at}", OBJECT) for at in range(8)]:
            assert done.result()
    begun = time.monotonic()
    assert client.get("held") == OBJECT
    assert time.monotonic() - begun < 1
    assert hedges(client) == (1, 1)


def test_the_first_answer_is_first_all_the_same(scripted: Scripted) -> None:
    gate = threading.Event()
    held = Held(scripted, [Wait(gate), ok(OBJECT)], Stall())
    client = held.client()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "held")
        held.wait_for_held(2)
        gate.set()
        assert reading.result() == OBJECT
    assert hedges(client) == (1, 0)
    second = held.held()[1]
    held.server.wait_for(lambda: not held.server.connections[second.connection].open)


def test_a_body_under_way_is_not_late(scripted: Scripted) -> None:
    gate = threading.Event()
    held = Held(scripted, lambda _: iter([ok(OBJECT).wire()[:-5], Wait(gate), OBJECT[-5:]]))
    client = held.client()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "held")
        held.wait_for_held(1)
        # So long that the second request would have come, were there one.
        assert client.get("warm") == OBJECT
        time.sleep(0.2)
        gate.set()
        assert reading.result() == OBJECT
    assert hedges(client) == (0, 0)


def test_the_winner_that_breaks_is_resumed(scripted: Scripted) -> None:
    serve = ranged({"held": OBJECT})
    held = Held(scripted, Stall(), lambda r: serve(r).cut(-8, Reset()), serve)
    client = held.client()
    assert client.get("held") == OBJECT
    assert hedges(client) == (1, 1)
    assert client.stats()["resumed"] == 1
    assert held.held()[2].range == f"bytes={len(OBJECT) - 8}-"


def test_a_redirect_may_win(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), redirect("/there"))
    client = held.client()
    assert client.get("held") == OBJECT
    assert hedges(client) == (1, 1)


def test_missing_may_win(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), status(404))
    client = held.client()
    assert client.get("held") is None
    assert hedges(client) == (1, 1)


def test_a_refusal_wins_too(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), status(400))
    client = held.client()
    assert failure(ResponseError, client.get, "held").status == 400


# --------------------------------------------------------------------------------- one of them ends


@pytest.mark.parametrize("answer", [status(503), Reset()], ids=["503", "reset"])
def test_the_second_that_fails_leaves_it_to_the_first(scripted: Scripted, answer: Any) -> None:
    gate = threading.Event()
    held = Held(scripted, [Wait(gate), ok(OBJECT)], answer)
    client = held.client(retries=0)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "held")
        held.wait_for_held(2)
        second = held.server.connections[held.held()[1].connection]
        held.server.wait_for(lambda: second.idle or not second.open)
        gate.set()
        assert reading.result() == OBJECT
    assert hedges(client) == (1, 0)
    assert client.stats()["retries"] == 0


@pytest.mark.parametrize("answer", [status(503), Reset()], ids=["503", "reset"])
def test_the_first_that_fails_leaves_it_to_the_second(scripted: Scripted, answer: Any) -> None:
    first, second = threading.Event(), threading.Event()
    held = Held(scripted, [Wait(first), answer], [Wait(second), ok(OBJECT)])
    client = held.client(retries=0)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "held")
        held.wait_for_held(2)
        first.set()
        one = held.server.connections[held.held()[0].connection]
        held.server.wait_for(lambda: one.idle or not one.open)
        second.set()
        assert reading.result() == OBJECT
    assert hedges(client) == (1, 1)


def test_both_that_fail_are_one_attempt(scripted: Scripted) -> None:
    gate = threading.Event()
    fails = [Wait(gate), Reset()]
    held = Held(scripted, fails, fails, ok(OBJECT))
    client = held.client(retries=at_once(1))
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "held")
        held.wait_for_held(2)
        gate.set()
        assert reading.result() == OBJECT
    # A connection that had been used may have been closed by the server: that is no attempt.
    assert client.stats()["retries"] + client.stats()["stale_retries"] == 1


# ----------------------------------------------------------------------------------- what ends both


def test_the_deadline_ends_both(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), Stall())
    client = held.client(deadline=1.0)
    error = failure(DeadlineError, client.get, "held")
    assert error.attempts == 1
    assert hedges(client) == (1, 0)
    for request in held.held():
        connection = held.server.connections[request.connection]
        held.server.wait_for(lambda connection=connection: not connection.open)


def test_a_timeout_ends_the_first_and_then_the_second(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), Stall())
    client = held.client(timeout=0.3, retries=0)
    error = failure(DeadlineError, client.get, "held")
    assert "first_byte_timeout" in str(error)
    assert hedges(client) == (1, 0)


def test_who_is_cancelled_ends_both(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), Stall())
    client = held.client()

    async def main() -> None:
        reading = asyncio.ensure_future(client.get_async("held"))
        await asyncio.to_thread(held.wait_for_held, 2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(main())
    for request in held.held():
        connection = held.server.connections[request.connection]
        held.server.wait_for(lambda connection=connection: not connection.open)


def test_the_end_of_the_engine_ends_both(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), Stall())
    client = held.client()
    engine = client._engine()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "held")
        held.wait_for_held(2)
        engine.stop()
        with pytest.raises(zfast.ZfastError):
            reading.result()
        # As at exit.
        zfast.runtime.answer_rest(engine)
    held.server.wait_closed()


def test_a_second_that_is_no_response_leaves_it_to_the_first(scripted: Scripted) -> None:
    gate = threading.Event()
    held = Held(scripted, [Wait(gate), ok(OBJECT)], [b"garbage in place of a response\r\n", Fin()])
    client = held.client()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get, "held")
        held.wait_for_held(2)
        second = held.held()[1]
        held.server.wait_for(lambda: not held.server.connections[second.connection].open)
        gate.set()
        assert reading.result() == OBJECT
    assert hedges(client) == (1, 0)


# --------------------------------------------------------------------------- which connection it is


def test_it_is_a_new_connection_where_none_has_proved_good(scripted: Scripted) -> None:
    """Those that were idle since before may have the same fault as the one that is late."""
    held = Held(scripted, Stall(), ok(OBJECT))
    with zfast.config.set(hedge_budget=1.0):
        client = held.client()
    client.get_many([(f"many/{at}", None) for at in range(20)])
    used = {request.connection for request in held.server.requests}
    assert client.get("held") == OBJECT
    assert held.held()[1].connection not in used


def test_a_new_connection_takes_the_place_of_one_that_idles_elsewhere(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), ok(OBJECT))
    with zfast.config.set(hedge_budget=1.0):
        client = held.client()
    most = zfast.stats()["max_connections"]
    together = threading.Barrier(most)

    def all_at_once(_: Request) -> Any:
        together.wait(20)
        return ok(OBJECT)

    elsewhere = Client(scripted(all_at_once).url, max_concurrency=most, deadline=30)
    elsewhere.get_many([(str(at), None) for at in range(most)])
    # Of which some go to the one server, and the others stay idle.
    client.get_many([(f"many/{at}", None) for at in range(20)])
    used = {request.connection for request in held.server.requests}
    assert len(used) > 1
    assert client.get("held") == OBJECT
    assert held.held()[1].connection not in used


def test_a_connection_that_proves_good_meanwhile_will_do(scripted: Scripted) -> None:
    held = Held(scripted, Stall(), ok(OBJECT))
    client = held.client()
    done = threading.Event()

    def others() -> None:
        while not done.is_set():
            assert client.get("other") == OBJECT

    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            threads.submit(others)
        assert client.get("held") == OBJECT
        done.set()
    assert hedges(client) >= (1, 1)


# --------------------------------------------------------------------------------------- under load


def test_whoever_answers_first_the_bytes_are_right(scripted: Scripted) -> None:
    """Answers come in any order, and often two at a time."""
    rolls = random.Random(5)
    bodies = {f"{at}": rolls.randbytes(rolls.choice([100, 5000, 300_000])) for at in range(100)}
    serve = ranged(bodies)
    pause = threading.Event()

    def handle(request: Request) -> Iterator[Any]:
        pause.wait(rolls.choice([0, 0, 0.003, 0.006, 0.012]))
        yield serve(request)

    server = scripted(handle)
    with zfast.config.set(hedge_budget=1.0, hedge_floor=0.002):
        client = Client(server.url, retries=0, deadline=60, max_concurrency=16)
    # The engine has some of its own, which it opens with the first read.
    assert client.get("0") == bodies["0"]
    before = open_descriptors()
    for _ in range(8):
        found = client.get_many([(key, None) for key in bodies])
        assert [bytes(body) for body in found] == list(bodies.values())
    assert client.stats()["in_flight"] == 0
    server.close()
    now = zfast.stats()
    assert now["in_flight"] == now["delayed"] == 0
    wait_until(lambda: len(open_descriptors()) <= len(before) + zfast.stats()["connections"])


def test_the_budget_is_kept(scripted: Scripted) -> None:
    """All answers are late, and only so many requests are sent again."""
    serve = ranged({str(at): OBJECT for at in range(400)})
    slow = threading.Event()
    pause = threading.Event()

    def handle(request: Request) -> Iterator[Any]:
        if slow.is_set():
            pause.wait(0.1)
        yield serve(request)

    client = Client(scripted(handle).url, retries=0, deadline=60, max_concurrency=8)
    for at in range(100):
        client.get(str(at))
    slow.set()
    client.get_many([(str(at), None) for at in range(200)])
    now = client.stats()
    assert 0 < now["hedges"] <= 0.05 * 300
    assert now["requests"] == 300 + now["hedges"]
