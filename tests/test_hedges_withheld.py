"""A request is not sent a second time where that cannot help, or is not allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3
from hedged import WARM, Held, hedges
from promises import OBJECT, Scripted, failure
from servers.scripted import Request, Reset, Stall, Wait, ok, status

import zfast
from zfast import Client
from zfast.errors import ResponseError


@pytest.fixture(autouse=True)
def _hedges() -> Iterator[None]:
    with zfast.config.set(hedge_budget=0.05, hedge_floor=0.02):
        yield
    assert not zfast.stats().get("in_flight")


def test_none_of_a_client_that_has_as_many_as_it_may(scripted: Scripted) -> None:
    held = gated(scripted)
    client = held.client(max_concurrency=1)
    late(client, held, lambda: client.get("held"))
    # Nor a connection for what cannot be sent.
    assert len(held.server.connections) == 1


def late(client: Client, held: Held, read: Callable[[], Any]) -> None:
    """Have `read` wait for an answer for longer than anything is late."""
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        held.wait_for_held(1)
        time.sleep(0.2)
        held.gate.set()  # type: ignore[attr-defined]
        reading.result()
    assert len(held.held()) == 1


def gated(scripted: Scripted) -> Held:
    gate = threading.Event()
    held = Held(scripted, [Wait(gate), ok(OBJECT)])
    held.gate = gate  # type: ignore[attr-defined]
    return held


def test_none_on_what_another_client_has_left_idle(scripted: Scripted) -> None:
    """Of a client that has as many as it may: whose connection it is makes no difference."""
    held = gated(scripted)
    client, other = held.client(max_concurrency=1), Client(held.server.url)

    def read() -> Any:
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(client.get, "held")
            held.wait_for_held(1)
            while not reading.done():
                assert other.get("other") == OBJECT
                time.sleep(0.01)

    late(client, held, read)


def test_none_where_there_is_no_budget(scripted: Scripted) -> None:
    held = gated(scripted)
    with zfast.config.set(hedge_budget=0):
        client = held.client()
    late(client, held, lambda: client.get("held"))


def test_none_where_little_is_known(scripted: Scripted) -> None:
    held = gated(scripted)
    client = Client(held.server.url)
    late(client, held, lambda: client.get("held"))


def test_none_of_what_writes(scripted: Scripted) -> None:
    held = gated(scripted)
    client = held.client()
    late(client, held, lambda: client.put("held", b"value"))


def test_none_of_what_may_not_be_sent_again(scripted: Scripted) -> None:
    held = gated(scripted)
    client = held.client(retries=urllib3.Retry(0, allowed_methods={"PUT"}))
    late(client, held, lambda: client.get("held"))


def test_those_for_which_there_was_no_connection_cost_nothing(scripted: Scripted) -> None:
    """They would have been all that the budget is good for."""
    pause = threading.Event()

    def slow(_: Request) -> Any:
        pause.wait(0.1)
        return ok(OBJECT)

    held = Held(scripted, slow, slow, slow, Stall(), ok(OBJECT))
    client = held.client()
    before = client.stats()["hedges"]
    with held.server.full():
        for _ in range(3):
            assert client.get("held") == OBJECT
    assert client.stats()["hedges"] == before
    assert client.get("held") == OBJECT
    assert client.stats()["hedges"] == before + 1


def test_none_after_a_failure(scripted: Scripted) -> None:
    steps = iter([status(500)])
    held = gated(scripted)
    plain = held.handle
    held.server._handler = lambda r: next(steps) if r.key == "fails" else plain(r)  # type: ignore
    client = held.client(retries=0)
    failure(ResponseError, client.get, "fails")
    late(client, held, lambda: client.get("held"))


@pytest.mark.parametrize("answer", [status(500), ok(OBJECT).cut_body(3, Reset())], ids=str)
def test_those_that_are_put_off_are_sent_all_the_same(scripted: Scripted, answer: Any) -> None:
    """Soon after a failure, on whichever thread."""
    held = Held(scripted, Stall(), Stall(), ok(OBJECT), ok(OBJECT))
    plain, steps = held.handle, iter([answer])
    held.server._handler = lambda r: next(steps) if r.key == "fails" else plain(r)  # type: ignore
    client = held.client(retries=0)
    with pytest.raises(zfast.ZfastError):
        client.get("fails")
    with ThreadPoolExecutor(2) as threads:
        reads = [threads.submit(client.get, "held") for _ in range(2)]
        assert [read.result() for read in reads] == [OBJECT] * 2
    assert hedges(client) >= (2, 2)


def test_none_of_what_has_been_answered(scripted: Scripted) -> None:
    """Wished for while there was no room for it."""
    first, rest, other = threading.Event(), threading.Event(), threading.Event()

    def handle(request: Request) -> Any:
        wire = ok(OBJECT).wire()
        if request.key == "a":
            return iter([Wait(first), wire[:-5], Wait(rest), wire[-5:]])
        return iter([Wait(other), wire]) if request.key == "b" else ok(OBJECT)

    server = scripted(handle)
    client = Client(server.url, retries=0, max_concurrency=2, deadline=20)
    for at in range(WARM):
        client.get(f"warm/{at}")
    # One of those may have been late as well.
    before = client.stats()["requests"]
    with ThreadPoolExecutor(2) as threads:
        reads = [threads.submit(client.get, key) for key in "ab"]
        server.wait_for(lambda: {"a", "b"} <= set(server.keys()))
        time.sleep(0.2)
        first.set()
        server.wait_for(lambda: server.waiting == 1)
        time.sleep(0.1)
        other.set()
        assert reads[1].result() == OBJECT
        rest.set()
        assert reads[0].result() == OBJECT
    assert client.stats()["requests"] - before == 2
    asked = server.keys("GET")
    assert asked.count("a") == asked.count("b") == 1
