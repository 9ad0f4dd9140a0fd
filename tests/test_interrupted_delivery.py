"""What a signal's handler raises, wherever it comes, loses no completion: reads go on."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers.script import in_child
from servers.scripted import ScriptedServer, ranged

import zfast
from zfast.arrivals import Arrivals
from zfast.collector import Collector, _Flight

Start = Callable[..., ScriptedServer]
OBJECTS = {f"{number}": b"%d" % number for number in range(300)}


class Interrupted(KeyboardInterrupt):
    """What ends an event loop too, amid its callbacks."""


def _interrupt(*_: Any) -> None:
    raise Interrupted


def test_values_as_they_arrive(scripted: Start) -> None:
    server = scripted(ranged(OBJECTS))

    def work() -> int:
        signal.signal(signal.SIGALRM, _interrupt)
        chance, interrupted = random.Random(0), 0
        client = zfast.Client(server.url)
        for _ in range(60):
            arrivals = Arrivals(client, OBJECTS)
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(5e-4, 2e-2))
                len(arrivals)
                time.sleep(1)
            except Interrupted:
                interrupted += 1
            assert {key: bytes(value) for key, value in arrivals.items()} == OBJECTS
        return interrupted

    assert in_child(work) == 60


def test_values_that_are_taken_one_after_another(scripted: Start) -> None:
    """A body is taken once; who is interrupted as he takes it gets the same the next time."""
    server = scripted(ranged(OBJECTS))

    def work() -> int:
        signal.signal(signal.SIGALRM, _interrupt)
        chance, interrupted = random.Random(0), 0
        client = zfast.Client(server.url)
        for _ in range(500):
            # How often a round is interrupted is a matter of how fast this machine is.
            if interrupted > 30:
                break
            arrivals = Arrivals(client, OBJECTS)
            while not arrivals._batch.done:
                time.sleep(0.001)
            left = list(OBJECTS)
            while left:
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 2e-4))
                    while left:
                        assert bytes(arrivals[left[-1]]) == OBJECTS[left[-1]]
                        left.pop()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    interrupted += 1
            assert {key: bytes(value) for key, value in arrivals.items()} == OBJECTS
        return interrupted

    assert in_child(work) > 30


async def _values(client: zfast.Client) -> list[bytes]:
    collector = Collector(client)
    return [bytes(body or b"") for body in await asyncio.gather(*map(collector.read, OBJECTS))]


@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_a_loop_that_is_run_again(
    scripted: Start, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """asyncio does not call again what was interrupted; that is for whoever was called."""
    server = scripted(ranged(OBJECTS))
    told = _Flight.arrive
    times = iter(range(1000))

    def arrive(flight: _Flight, index: int) -> None:
        interrupts = next(times) in (3, 40, 41)
        if interrupts and before:
            raise Interrupted
        told(flight, index)
        if interrupts:
            raise Interrupted

    monkeypatch.setattr(_Flight, "arrive", arrive)
    loop = asyncio.new_event_loop()
    reading = loop.create_task(_values(zfast.Client(server.url)))
    interrupted = 0
    try:
        while not reading.done():
            try:
                loop.run_until_complete(asyncio.wait([reading], timeout=20))
            except Interrupted:
                interrupted += 1
        assert reading.result() == list(OBJECTS.values())
        assert interrupted == 3
    finally:
        loop.close()
