"""Reads of one event-loop turn are one batch; each of them lives and dies alone."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers.scripted import (
    Reply,
    Request,
    ScriptedServer,
    Stall,
    Wait,
    ok,
    overlay,
    ranged,
    status,
)
from servers.site import Site

import zfast
from zfast import Client
from zfast.collector import Collector, Read, _Turn

OBJECTS = {str(index): bytes([index]) * (index + 1) for index in range(100)}


class Reader:
    """A client with its collector, and what they did."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client(url, **options)
        self.collector = Collector(self.client)

    async def get(self, key: str, byte_range: Any = None) -> bytes | None:
        body = await self.collector.read(key, byte_range)
        return None if body is None else bytes(body)

    async def get_all(self, keys: Any) -> list[bytes | None]:
        return list(await asyncio.gather(*map(self.get, keys)))

    @property
    def batches(self) -> int:
        found: int = self.client.stats()["batches"]
        return found


# ----------------------------------------------------------------------------------- turns, batches


async def test_the_reads_of_a_turn_are_one_batch(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(ranged(dict(OBJECTS)))
    reader = Reader(server.url)
    assert await reader.get_all(OBJECTS) == list(OBJECTS.values())
    assert reader.batches == 1
    assert sorted(server.keys()) == sorted(OBJECTS)
    assert await reader.get_all(["1", "2"]) == [OBJECTS["1"], OBJECTS["2"]]
    assert await reader.get("3") == OBJECTS["3"]
    assert reader.batches == 3


async def test_another_turn_is_another_batch(scripted: Callable[..., ScriptedServer]) -> None:
    reader = Reader(scripted(ranged(dict(OBJECTS))).url)
    first = reader.collector.read("1")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = reader.collector.read("2")
    await asyncio.gather(first, second)
    assert reader.batches == 2


async def test_what_was_read_needs_no_garbage_collector(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """Bodies would wait for it, of any size; nor do those of a turn wait for its last one."""
    stall = Stall()
    serve = ranged(dict(OBJECTS))
    reader = Reader(scripted(lambda request: stall if request.key == "99" else serve(request)).url)
    gc.collect()
    gc.disable()
    try:
        last = asyncio.ensure_future(reader.get("99"))
        for _ in range(3):
            await reader.get_all(["1", "missing", "2"])
            await asyncio.gather(reader.get("3"), reader.get("4", (9, 2)), return_exceptions=True)
        left = [one for one in gc.get_objects() if type(one) is Read]
        assert [read.key for read in left] == ["99"]
    finally:
        gc.enable()
        last.cancel()


async def test_clients_do_not_share_batches(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(ranged(dict(OBJECTS)))
    readers = [Reader(server.url), Reader(server.url)]
    await asyncio.gather(*(reader.get(key) for key in ("1", "2", "3") for reader in readers))
    assert [reader.batches for reader in readers] == [1, 1]


async def test_every_read_ends_when_its_own_bytes_are_there(
    scripted: Callable[..., ScriptedServer],
) -> None:
    release = threading.Event()

    def handler(request: Request) -> Reply:
        if request.key == "0":
            assert release.wait(10)
        return ok(OBJECTS[request.key])

    reader = Reader(scripted(handler).url)
    slow, *others = [reader.collector.read(key) for key in OBJECTS]
    await asyncio.gather(*others)
    assert reader.batches == 1
    assert not slow.done()
    release.set()
    assert bytes(await slow or b"") == OBJECTS["0"]


async def test_a_range_each(scripted: Callable[..., ScriptedServer]) -> None:
    reader = Reader(scripted(ranged({"k": b"0123456789"})).url)
    found = await asyncio.gather(
        reader.get("k", (2, 5)),
        reader.get("k", (-3, None)),
        reader.get("k"),
        reader.get("k", (9, 9)),
    )
    assert found == [b"234", b"789", b"0123456789", b""]
    assert reader.batches == 1


async def test_ranges_that_the_server_ignores_share_a_request(pythonhttp: Site) -> None:
    pythonhttp.write({"k": b"0123456789", "l": b"abc"})
    reader = Reader(pythonhttp.url)
    assert await reader.get("k", (2, 5)) == b"234"
    before = len(pythonhttp.requests())
    wanted = [
        ("k", (2, 5)),
        ("k", (-3, None)),
        ("l", (1, 2)),
        ("k", None),
        ("missing", (0, 1)),
        ("k", (9, 30)),
    ]
    found = await asyncio.gather(*(reader.get(*item) for item in wanted))
    assert found == [b"234", b"789", b"b", b"0123456789", None, b"9"]
    asked = pythonhttp.requests(before + 3)[before:]
    assert sorted(entry.key.rpartition("/")[2] for entry in asked) == ["k", "l", "missing"]


# ------------------------------------------------------------------------------------------- errors


async def test_every_read_fails_alone(scripted: Callable[..., ScriptedServer]) -> None:
    def fault(request: Request, reply: Reply) -> Reply | None:
        return {"1": status(500), "2": reply.cut_body(1)}.get(request.key)

    reader = Reader(scripted(overlay(ranged(dict(OBJECTS)), fault)).url, retries=0)
    results = await asyncio.gather(
        *(
            reader.get(key, byte_range)
            for key, byte_range in [
                ("0", None),
                ("1", (0, 2)),
                ("2", None),
                ("nope", None),
                ("4", None),
            ]
        ),
        return_exceptions=True,
    )
    assert [results[0], results[3], results[4]] == [OBJECTS["0"], None, OBJECTS["4"]]
    refused, cut = results[1], results[2]
    assert isinstance(refused, zfast.ResponseError)
    assert (refused.key, refused.byte_range, refused.status, refused.attempts) == (
        "1",
        (0, 2),
        500,
        1,
    )
    assert isinstance(cut, zfast.ConnectionFailedError)
    assert cut.key == "2"
    assert reader.batches == 1


@pytest.mark.parametrize(("key", "byte_range"), [("k", (-3, 5)), ("k", "2-5"), ("\ud800", None)])
async def test_a_read_that_makes_no_sense_concerns_nobody_else(
    scripted: Callable[..., ScriptedServer], key: str, byte_range: Any
) -> None:
    reader = Reader(scripted(ranged(dict(OBJECTS))).url)
    good = reader.collector.read("1")
    with pytest.raises((ValueError, TypeError)):
        reader.collector.read(key, byte_range)
    assert bytes(await good or b"") == OBJECTS["1"]


async def test_a_client_closed_before_the_turn_ends(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(ranged(dict(OBJECTS)))
    reader = Reader(server.url)
    reads = [reader.collector.read(key) for key in ("1", "2")]
    reader.client.close()
    for read in reads:
        with pytest.raises(zfast.ConnectionFailedError, match="closed"):
            await read
    assert not server.requests


async def test_the_deadline_is_that_of_the_client(scripted: Callable[..., ScriptedServer]) -> None:
    reader = Reader(scripted(lambda request: Stall()).url, deadline=0.05)
    with pytest.raises(zfast.DeadlineError):
        await reader.get("k")


# --------------------------------------------------------------------------------------- cancelling


async def test_a_cancelled_read_is_cancelled_on_the_wire(
    scripted: Callable[..., ScriptedServer],
) -> None:
    def handler(request: Request) -> Any:
        return Stall() if request.key == "slow" else ok(b"1")

    server = scripted(handler)
    reader = Reader(server.url)
    slow = asyncio.create_task(reader.get("slow"))
    assert await reader.get("quick") == b"1"
    await asyncio.to_thread(server.wait_requests, 2)
    assert reader.batches == 1
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    # The server sees the connection of the cancelled read go, and no other.
    await asyncio.to_thread(server.wait_for, lambda: len(server.open_connections) == 1)
    assert await reader.get("quick") == b"1"


async def test_who_leaves_a_shared_request_leaves_it_to_the_others(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """Of a server that ignores ranges, whose objects are read whole, and once for all."""
    body, gate = bytes(range(20)), threading.Event()
    server = scripted([ok(body), [Wait(gate), ok(body)]])
    reader = Reader(server.url, deadline=20)
    assert await reader.get("key", (2, 5)) == body[2:5]
    one, other = (reader.collector.read("key", span) for span in [(0, 5), (5, 9)])
    await asyncio.to_thread(server.wait_requests, 2)
    one.cancel()
    # Time for the request to be cancelled, were it to be.
    await asyncio.sleep(0.1)
    gate.set()
    assert bytes(await other or b"") == body[5:9]


async def test_a_read_cancelled_within_its_turn_is_never_sent(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(ranged(dict(OBJECTS)))
    reader = Reader(server.url)
    reads = [reader.collector.read(key) for key in ("1", "2", "3")]
    assert reads[1].cancel()
    assert not reads[1].cancel()
    await asyncio.gather(reads[0], reads[2])
    assert sorted(server.keys()) == ["1", "3"]
    lone = reader.collector.read("4")
    lone.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reader.batches == 1


async def test_closing_as_completed_cancels_the_rest(
    scripted: Callable[..., ScriptedServer],
) -> None:
    def handler(request: Request) -> Any:
        return ok(b"1") if request.key == "quick" else Stall()

    server = scripted(handler)
    reader = Reader(server.url)
    reads = reader.collector.as_completed([("slow", None), ("quick", None), ("slower", None)])
    index, body = await anext(reads)
    assert (index, bytes(body or b"")) == (1, b"1")
    await asyncio.to_thread(server.wait_requests, 3)
    await reads.aclose()
    await asyncio.to_thread(server.wait_for, lambda: len(server.open_connections) <= 1)


async def test_what_as_completed_has_handed_over_it_lets_go_of(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """Whoever reads more than there is memory for drops each value before the next."""
    reader = Reader(scripted(lambda request: ok(b"1")).url)
    reads = reader.collector.as_completed([(str(key), None) for key in range(50)], 2)
    indexes, most = [], 0
    async for index, _ in reads:
        indexes.append(index)
        most = max(most, sum(type(known) is Read for known in gc.get_objects()))
    assert sorted(indexes) == list(range(50))
    assert most < 10


# ------------------------------------------------------------------------ loops, threads, processes


def test_many_loops_at_once(scripted: Callable[..., ScriptedServer]) -> None:
    reader = Reader(scripted(ranged(dict(OBJECTS))).url)
    rounds, loops = 5, 8

    async def work() -> None:
        for _ in range(rounds):
            assert await reader.get_all(OBJECTS) == list(OBJECTS.values())

    with ThreadPoolExecutor(loops) as pool:
        for done in [pool.submit(asyncio.run, work()) for _ in range(loops)]:
            done.result()
    assert reader.batches == rounds * loops


def test_a_turn_that_a_stopped_loop_never_ended(scripted: Callable[..., ScriptedServer]) -> None:
    reader = Reader(scripted(ranged(dict(OBJECTS))).url)
    stopped = asyncio.new_event_loop()
    left = stopped.create_task(reader.get("1"))
    stopped.call_soon(stopped.stop)
    stopped.run_forever()
    assert asyncio.run(reader.get("2")) == OBJECTS["2"]
    assert reader.batches == 1
    assert stopped.run_until_complete(left) == OBJECTS["1"]
    assert reader.batches == 2
    stopped.close()


def test_reads_in_a_forked_child(scripted: Callable[..., ScriptedServer]) -> None:
    reader = Reader(scripted(ranged(dict(OBJECTS))).url)
    expected = list(OBJECTS.values())
    assert asyncio.run(reader.get_all(OBJECTS)) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            code = 0 if asyncio.run(reader.get_all(OBJECTS)) == expected else 2
        finally:
            os._exit(code)
    assert asyncio.run(reader.get_all(OBJECTS)) == expected
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def test_a_turn_that_a_signal_lost_is_taken_up(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """asyncio forgets what it is about to call when a handler raises just there."""
    reader = Reader(scripted(ranged(dict(OBJECTS))).url)
    loop = asyncio.get_running_loop()
    for former in (0, 1):
        turn = reader.collector._here.turn = _Turn(loop)
        turn.reads = [Read(str(index), None, b"/", loop) for index in range(former)]
        for read in turn.reads:
            read.cancel()
        assert await asyncio.wait_for(reader.get("3"), 20) == OBJECTS["3"]


async def test_reads_that_are_cancelled_together_end(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(lambda request: Stall())
    reader = Reader(server.url)
    tasks = [asyncio.ensure_future(reader.get(str(index))) for index in range(300)]
    while reader.client.stats()["in_flight"] < 64:
        await asyncio.sleep(0.001)
    for task in tasks[1:]:
        task.cancel()
    while reader.client.stats()["in_flight"] > 1:
        await asyncio.sleep(0.001)
    # The one that is left goes on.
    assert not tasks[0].done()
    tasks[0].cancel()
    while reader.client.stats()["in_flight"]:
        await asyncio.sleep(0.001)
    assert all(task.cancelled() for task in await _ended(tasks))


async def _ended(tasks: list[asyncio.Future[Any]]) -> list[asyncio.Future[Any]]:
    await asyncio.wait(tasks)
    return tasks
