"""An origin that has too much to do is asked less: fewer requests at once, and pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest
import urllib3
from promises import OBJECT, Scripted, at_once, client_of, failure
from servers.leaks import wait_until
from servers.scripted import Request, Stall, Wait, ok, status

from zfast import Client
from zfast.errors import DeadlineError, ResponseError


class Bearing:
    """A server that bears so many requests at once, and refuses what is beyond."""

    def __init__(self, scripted: Scripted, most: int) -> None:
        self.most = most
        self.now = 0
        self.peaks: list[int] = []
        self.refused = 0
        self.lock = threading.Lock()
        self.pause = threading.Event()
        self.server = scripted(self.handle)

    def handle(self, request: Request) -> Iterator[Any]:
        with self.lock:
            self.now += 1
            self.peaks.append(self.now)
            refused = self.now > self.most
            self.refused += refused
        if not refused:
            self.pause.wait(0.01)
        with self.lock:
            self.now -= 1
        yield status(503) if refused else ok(OBJECT)


def test_an_origin_is_asked_no_more_than_it_bears(scripted: Scripted) -> None:
    """Without a limit of its own nearly all of the 64 at once would be refused, again and again."""
    bearing = Bearing(scripted, 6)
    client = Client(bearing.server.url, retries=urllib3.Retry(30, backoff_factor=0.01))
    bodies = client.get_many([(str(at), None) for at in range(600)])
    assert bodies == [OBJECT] * 600
    now = client.stats()
    assert now["throttled"] == bearing.refused == now["retries"] > 0
    # It is asked for one more now and then, as TCP does.
    assert bearing.refused < 300
    assert sum(peak > 12 for peak in bearing.peaks[300:]) < 10


def test_a_request_that_hangs_is_no_measure_of_what_an_origin_bears(scripted: Scripted) -> None:
    """It has the only place that refusals have left, and others do not wait for it."""
    gate = threading.Event()
    refuses = threading.Event()
    hanging: list[Request] = []

    def handle(request: Request) -> Any:
        if refuses.is_set():
            return status(503)
        if request.key != "hangs":
            return ok(OBJECT)
        hanging.append(request)
        return [Wait(gate), ok(OBJECT)]

    url = scripted(handle).url
    client, hasty = Client(url, timeout=40), Client(url, timeout=40, retries=0)
    keys = [(str(at), None) for at in range(64)]
    client.get_many(keys)
    refuses.set()
    # As many rounds as it takes to come from all at once to one.
    for _ in range(8):
        assert len(hasty.get_many(keys, on_error="return")) == 64
    refuses.clear()
    with ThreadPoolExecutor(1) as threads:
        hangs = threads.submit(client.get, "hangs")
        wait_until(lambda: bool(hanging))
        bodies = client.get_many(keys)
        gate.set()
        assert bodies == [OBJECT] * 64
        # It was not given up for them.
        assert len(hanging) == 1
        assert hangs.result() == OBJECT


class Counting:
    """A server that serves so many requests a second, and refuses at once what is beyond."""

    def __init__(self, scripted: Scripted, rate: float, burst: int = 10) -> None:
        self.rate, self.burst = rate, burst
        self.credit, self.at = float(burst), time.monotonic()
        self.refused = 0
        self.lock = threading.Lock()
        self.server = scripted(self.handle)

    def handle(self, request: Request) -> Any:
        with self.lock:
            now = time.monotonic()
            self.credit = min(self.burst, self.credit + (now - self.at) * self.rate)
            self.at = now
            if self.credit < 1 or request.key == "never":
                self.refused += 1
                return status(429)
            self.credit -= 1
        return ok(OBJECT)


def test_a_rate_is_found_and_fails_nothing(scripted: Scripted) -> None:
    """However few at once: what comes back within microseconds is refused thousands of times."""
    counting = Counting(scripted, 200)
    client = Client(counting.server.url)
    bodies = client.get_many([(str(at), None) for at in range(300)])
    assert bodies == [OBJECT] * 300
    assert client.stats()["throttled"] == counting.refused < 400


def test_what_is_refused_while_others_are_served_is_given_up_some_day(scripted: Scripted) -> None:
    counting = Counting(scripted, 200)
    client = Client(counting.server.url, max_concurrency=4)
    with ThreadPoolExecutor(1) as threads:
        never = threads.submit(failure, ResponseError, client.get, "never")
        served = 0
        while not never.done():
            served += client.get_many([(str(at), None) for at in range(20)]) == [OBJECT] * 20
        assert served
        assert 5 <= never.result().attempts <= 5 + 16
        # The others are not asked for less on its account: they go on at the rate that there is.
        began, served = time.monotonic(), 0
        while time.monotonic() - began < 1:
            served += client.get_many([(str(at), None) for at in range(20)]) == [OBJECT] * 20
        assert served


def test_retries_of_ones_own_are_counted_one_by_one(scripted: Scripted) -> None:
    counting = Counting(scripted, 200)
    client = Client(counting.server.url, retries=2)
    assert client.get("first") == OBJECT
    outcomes = client.get_many([("never", None), ("other", None)], on_error="return")
    assert isinstance(outcomes[0], ResponseError)
    assert outcomes[0].attempts == 3
    assert outcomes[1] == OBJECT


def test_it_is_asked_for_more_again(scripted: Scripted) -> None:
    bearing = Bearing(scripted, 2)
    client = Client(
        bearing.server.url, retries=urllib3.Retry(30, backoff_factor=0.01), max_concurrency=8
    )
    client.get_many([(str(at), None) for at in range(50)])
    bearing.most = 64
    client.get_many([(str(at), None) for at in range(300)])
    assert max(bearing.peaks[-100:]) >= 6
    assert bearing.refused == client.stats()["throttled"]


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_pause_that_it_asks_for_holds_for_all(scripted: Scripted, code: int, form: str) -> None:
    times: list[float] = []

    def handle(request: Request) -> Any:
        times.append(time.monotonic())
        if len(times) > 2:
            return ok(OBJECT)
        after = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
        return status(code, retry_after=after)

    client = client_of(scripted(handle), max_concurrency=1)
    with ThreadPoolExecutor(4) as threads:
        reads = [threads.submit(client.get, str(at)) for at in range(4)]
        assert [read.result() for read in reads] == [OBJECT] * 4
    # A date has whole seconds. One alone would be about its own object.
    assert all(later - times[1] > 0.9 for later in times[2:])


def test_no_pause_for_who_does_not_wait(scripted: Scripted) -> None:
    answers = iter([status(503, retry_after="60")])
    client = client_of(scripted(lambda _: next(answers, ok(OBJECT))), retries=0)
    assert failure(ResponseError, client.get, "key").status == 503
    began = time.monotonic()
    assert client.get("key") == OBJECT
    assert time.monotonic() - began < 5


def test_no_pause_is_longer_than_the_longest_backoff(scripted: Scripted) -> None:
    answers = iter([status(503, retry_after="600")] * 2)
    retries = urllib3.Retry(2, backoff_factor=0, backoff_max=0.3)
    server = scripted(lambda _: next(answers, ok(OBJECT)))
    client = client_of(server, retries=retries, max_concurrency=1)
    with ThreadPoolExecutor(2) as threads:
        waiting = client_of(server, retries=retries, deadline=2)
        first = threads.submit(waiting.get_many, [("1", None), ("2", None)], "return")
        server.wait_requests(2)
        assert client.get("key") == OBJECT
        first.result()


def test_the_deadline_holds_in_a_pause(scripted: Scripted) -> None:
    server = scripted(lambda _: status(503, retry_after="60"))
    client = client_of(server, deadline=0.3, max_concurrency=1)
    began = time.monotonic()
    outcomes = client.get_many([(str(at), None) for at in range(4)], on_error="return")
    assert 0.3 <= time.monotonic() - began < 5
    assert {type(outcome) for outcome in outcomes} == {DeadlineError}
    # Those that were never sent, too.
    assert all("asked to be left alone" in str(outcome) for outcome in outcomes[1:])


def test_a_pause_holds_up_no_other_origin(scripted: Scripted) -> None:
    throttled = client_of(scripted(lambda _: status(503, retry_after="60")), deadline=2)
    other = client_of(scripted(lambda _: ok(OBJECT)))
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(failure, DeadlineError, throttled.get, "key")
        began = time.monotonic()
        for at in range(20):
            assert other.get(str(at)) == OBJECT
        assert time.monotonic() - began < 1.5
        held.result()


def test_a_small_read_does_not_wait_behind_a_large_one(scripted: Scripted) -> None:
    """Batches take turns at an origin, however many requests one of them has."""
    gate = threading.Event()

    def handle(request: Request) -> Any:
        gate.wait(0.002)
        return ok(OBJECT)

    server = scripted(handle)
    client = Client(server.url, max_concurrency=4)
    with ThreadPoolExecutor(1) as threads:
        large = threads.submit(client.get_many, [(f"large/{at}", None) for at in range(2000)])
        server.wait_requests(100)
        before = len(server.requests)
        assert client.get("small") == OBJECT
        assert server.keys().index("small") - before < 200
        assert not large.done()
        assert len(large.result()) == 2000


def test_connections_refused_while_others_are_open(scripted: Scripted) -> None:
    """What is open goes on, with fewer requests at once, and nothing fails."""
    server = scripted(lambda _: ok(OBJECT))
    client = client_of(server, retries=at_once(0))
    assert client.get("first") == OBJECT
    server.refuse()
    bodies = client.get_many([(str(at), None) for at in range(50)])
    assert bodies == [OBJECT] * 50
    assert len(server.connections) == 1


def test_stalls_are_ended_in_a_pause_too(scripted: Scripted) -> None:
    answers = iter([Stall()])
    server = scripted(lambda _: next(answers, status(503, retry_after="60")))
    client = client_of(server, timeout=0.4, retries=at_once(2), deadline=1.5)
    outcomes = client.get_many([("0", None), ("1", None)], on_error="return")
    assert {type(outcome) for outcome in outcomes} == {DeadlineError}


def test_connections_refused_together_count_once(scripted: Scripted) -> None:
    """Each of many would double the pause before the next is tried."""
    gate = threading.Event()

    def handle(request: Request) -> Iterator[Any]:
        gate.wait(0.02)
        yield ok(OBJECT)

    server = scripted(handle)
    client = client_of(server, retries=at_once(0))
    assert client.get("first") == OBJECT
    server.refuse()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.get_many, [(str(at), None) for at in range(400)])
        server.wait_requests(20)
        server.listen()
        server.wait_requests(150)
        assert len(server.connections) > 1
        assert reading.result() == [OBJECT] * 400
