"""Event loops: nothing blocks one, a cancelled read ends at once, a closed loop leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3
from servers.leaks import open_descriptors, wait_until
from servers.scripted import Action, Request, ScriptedServer, Stall, Wait, blackhole, ok, redirect
from servers.site import Site

import zfast
from zfast import Client

Start = Callable[..., ScriptedServer]

OBJECTS = {f"key-{i}": bytes([i]) * (1 + 997 * i) for i in range(50)}

# More than sockets hold between them: what is not read stays with the server.
LARGE = 64 << 20
PROMPTLY = 1.0


class Paused(ScriptedServer):
    """`stall...` never gets an answer, `large...` half of one, anything else its own name.

    The second half of a large one leaves when `go_on` is set.
    """

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.half_sent = threading.Event()
        super().__init__(self._answer)

    def _answer(self, request: Request) -> Iterable[Action]:
        if request.key.startswith("stall"):
            yield Stall()
        if request.key.startswith("large"):
            wire = ok(b"\xaa" * LARGE).wire()
            yield wire[: -LARGE // 2]
            self.half_sent.set()
            yield Wait(self.go_on)
            yield wire[-LARGE // 2 :]
        else:
            yield ok(request.key.encode())

    def close(self) -> None:
        self.go_on.set()
        super().close()


@pytest.fixture
def server() -> Iterable[Paused]:
    with Paused() as server:
        yield server


async def off(work: Callable[..., object], *arguments: object) -> None:
    """Wait for what blocks without blocking the loop."""
    await asyncio.to_thread(work, *arguments)


# ------------------------------------------------------------------------------------ right bytes


async def test_many_reads_of_one_loop(nginx: Site) -> None:
    nginx.write(OBJECTS)
    client = Client(nginx.url)
    keys = [key for key in OBJECTS for _ in range(5)]
    assert await asyncio.gather(*map(client.get_async, keys)) == [OBJECTS[key] for key in keys]
    many = await client.get_many_async([(key, (1, 50)) for key in OBJECTS])
    assert many == [body[1:50] for body in OBJECTS.values()]
    ranges = await client.get_ranges_async("key-40", [(0, 10), (-7, None), None])
    assert ranges == [OBJECTS["key-40"][:10], OBJECTS["key-40"][-7:], OBJECTS["key-40"]]
    assert await client.get_async("missing") is None
    into = bytearray(5)
    assert await client.read_into_async("key-9", (2, 7), into) == 5
    assert into == OBJECTS["key-9"][2:7]
    assert client.stats()["in_flight"] == 0


def test_loops_in_many_threads_at_once(nginx: Site) -> None:
    nginx.write(OBJECTS)
    client = Client(nginx.url)

    async def gather() -> list[object]:
        return list(await asyncio.gather(*map(client.get_async, OBJECTS)))

    with ThreadPoolExecutor(8) as pool:
        for read in pool.map(lambda _: asyncio.run(gather()), range(32)):
            assert read == list(OBJECTS.values())


def test_a_read_goes_on_from_one_run_of_the_loop_to_the_next(server: Paused) -> None:
    client = Client(server.url)
    loop = asyncio.new_event_loop()
    reading = loop.create_task(client.get_async("large"))
    assert loop.run_until_complete(client.get_async("key")) == b"key"
    assert not reading.done()
    server.go_on.set()
    body = loop.run_until_complete(reading)
    assert body == b"\xaa" * LARGE
    loop.close()


def test_uvloop(nginx: Site) -> None:
    uvloop = pytest.importorskip("uvloop")
    nginx.write(OBJECTS)
    client = Client(nginx.url)

    async def gather() -> list[object]:
        return list(await asyncio.gather(*map(client.get_async, OBJECTS)))

    def others() -> int:
        return len(open_descriptors()) - zfast.stats()["connections"]

    before = 0
    for turn in range(10):
        loop = uvloop.new_event_loop()
        assert loop.run_until_complete(gather()) == list(OBJECTS.values())
        loop.close()
        del loop
        if turn == 1:
            gc.collect()
            before = others()
    gc.collect()
    # A connection that is being opened is not counted yet.
    wait_until(lambda: others() <= before)


async def test_the_loop_is_not_blocked(server: Paused) -> None:
    client = Client(server.url)
    reading = asyncio.ensure_future(client.get_async("large"))
    await off(server.half_sent.wait, 10)
    # Only a loop that runs gets here.
    asyncio.get_running_loop().call_soon(server.go_on.set)
    assert await reading == b"\xaa" * LARGE


async def test_beginning_a_read_does_not_wait_for_a_connection() -> None:
    with blackhole() as (host, port):
        client = Client(f"http://{host}:{port}", timeout=20)
        began = time.monotonic()
        reading = asyncio.ensure_future(client.get_async("key"))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert time.monotonic() - began < PROMPTLY


# ------------------------------------------------------------------------------------- cancelling


async def test_cancel_closes_the_connection_and_leaves_the_others(server: Paused) -> None:
    client = Client(server.url)
    cancelled = asyncio.ensure_future(client.get_async("stall"))
    other = asyncio.ensure_future(client.get_async("large"))
    await off(server.half_sent.wait, 10)
    await off(server.wait_requests, 2)
    (connection,) = [c for c in server.open_connections if c.requests[-1].key == "stall"]
    began = time.monotonic()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await off(server.wait_for, lambda: not connection.open)
    assert time.monotonic() - began < PROMPTLY
    assert connection.ending in ("peer", "peer reset")
    server.go_on.set()
    assert await other == b"\xaa" * LARGE
    assert await client.get_async("key") == b"key"
    assert client.stats()["in_flight"] == 0
    assert client.stats()["failed"] == 0


async def test_after_a_cancel_the_buffer_is_the_callers(server: Paused) -> None:
    client = Client(server.url)
    buffer = bytearray(LARGE)
    reading = asyncio.ensure_future(client.read_into_async("large", None, buffer))
    await off(server.half_sent.wait, 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert buffer[:1000] == b"\xaa" * 1000
    buffer[:] = bytes(LARGE)
    server.go_on.set()
    await off(server.wait_closed)
    assert not any(buffer)
    # Pinned, it would refuse.
    buffer.clear()


async def test_cancel_of_what_waits_for_its_turn(server: Paused) -> None:
    client = Client(server.url, max_concurrency=1)
    first = asyncio.ensure_future(client.get_async("large"))
    await off(server.half_sent.wait, 10)
    waiting = [asyncio.ensure_future(client.get_async(f"stall-{i}")) for i in range(20)]
    last = asyncio.ensure_future(client.get_async("key"))
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(*waiting, return_exceptions=True)
    )
    assert not first.done()
    server.go_on.set()
    await first
    assert await last == b"key"
    assert [request.key for request in server.requests] == ["large", "key"]


async def test_cancel_of_one_batch_of_many_reads(server: Paused) -> None:
    client = Client(server.url, max_concurrency=8)
    items = [(f"stall-{i}", None) for i in range(500)]
    reading = asyncio.ensure_future(client.get_many_async(items))
    await off(server.wait_requests, 8)
    began = time.monotonic()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await off(server.wait_closed)
    assert time.monotonic() - began < PROMPTLY
    assert len(server.requests) == 8
    assert client.stats()["reads"] == 500


async def test_cancel_of_cat_ranges(server: Paused) -> None:
    urls = [f"{server.url}/stall-{i}" for i in range(500)]
    reading = asyncio.ensure_future(zfast.cat_ranges_async(urls, max_concurrency=8))
    await off(server.wait_requests, 8)
    began = time.monotonic()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await off(server.wait_closed)
    assert time.monotonic() - began < PROMPTLY
    assert len(server.requests) == 8
    assert await zfast.cat_ranges_async([f"{server.url}/key"]) == [b"key"]


async def test_the_loop_goes_on_beside_cat_ranges(server: Paused) -> None:
    read = asyncio.ensure_future(zfast.cat_ranges_async([f"{server.url}/large"], 0, None))
    await off(server.half_sent.wait, 10)
    assert not read.done()
    server.go_on.set()
    assert len((await read)[0]) == LARGE
    with pytest.raises(zfast.DeadlineError):
        await zfast.cat_ranges_async([f"{server.url}/stall"], deadline=0.1)


async def test_cancel_at_any_moment(server: Paused) -> None:
    # From before the first connection is asked for until after the request is on the wire.
    for turn in range(150):
        client = Client(server.url)
        reading = asyncio.ensure_future(client.get_async("stall"))
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        if turn % 3:
            await asyncio.sleep(turn * 0.00002)
        began = time.monotonic()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert time.monotonic() - began < PROMPTLY
    assert await Client(server.url).get_async("key") == b"key"


async def test_cancel_does_not_wait_for_a_redirect(scripted: Start) -> None:
    found = threading.Event()

    class Slow(urllib3.PoolManager):
        def connection_from_host(self, host: str | None, *args: Any, **kwargs: Any) -> Any:
            if host == "elsewhere.example":
                assert found.wait(20)
            return super().connection_from_host(host, *args, **kwargs)

    server = scripted([redirect("http://elsewhere.example/key")])
    client = Client(server.url, pool_manager=Slow())
    reading = asyncio.ensure_future(client.get_async("key"))
    # Where it leads is Python's to find out.
    await until(lambda: client.stats()["redirects"] == 1)
    began = time.monotonic()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert time.monotonic() - began < PROMPTLY
    found.set()
    assert client.stats()["in_flight"] == 0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_timeout_and_a_read_after_it(server: Paused) -> None:
    client = Client(server.url)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await client.get_async("stall")
    await off(server.wait_closed)
    assert await asyncio.wait_for(client.get_async("key"), 10) == b"key"


async def test_a_failure_in_a_task_group_cancels_the_others(server: Paused) -> None:
    client = Client(server.url)

    async def fail() -> None:
        await off(server.wait_requests, 3)
        raise ValueError("enough")

    async def all_together() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(client.get_async(f"stall-{number}"))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as raised:
        await all_together()
    assert [str(error) for error in raised.value.exceptions] == ["enough"]
    await off(server.wait_closed)


async def test_a_second_cancel_changes_nothing(server: Paused) -> None:
    client = Client(server.url)
    reading = asyncio.ensure_future(client.get_async("stall"))
    await off(server.wait_requests, 1)
    reading.cancel("first")
    reading.cancel("second")
    with pytest.raises(asyncio.CancelledError):
        await reading
    await off(server.wait_closed)


async def test_a_failing_batch_ends_what_it_has_on_the_wire(scripted: Start) -> None:
    stalled = threading.Event()

    def answer(request: Request) -> Iterable[Action]:
        if request.key == "bad":
            yield Wait(stalled)
            yield ok(b"x", content_encoding="gzip")
            return
        stalled.set()
        yield Stall()

    server = scripted(answer)
    client = Client(server.url)
    with pytest.raises(zfast.ResponseError):
        await client.get_many_async([("stall", None), ("bad", None)])
    await off(server.wait_for, lambda: all(c.idle for c in server.open_connections))
    assert client.stats()["in_flight"] == 0


# ---------------------------------------------------------------------------- what is left behind


def test_closed_loops_leak_no_descriptors(server: Paused) -> None:
    client = Client(server.url)
    assert client.get("key") == b"key"
    before = set(open_descriptors())

    async def read() -> None:
        assert await client.get_async("key") == b"key"

    for _ in range(50):
        asyncio.run(read())
    gc.collect()
    assert set(open_descriptors()) - before == set()


def test_loops_closed_amid_reads_leak_no_descriptors(server: Paused) -> None:
    client = Client(server.url)
    assert client.get("key") == b"key"
    gc.collect()
    before = len(open_descriptors())
    for _ in range(10):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        under_way = loop.create_task(client.get_async("stall"))
        assert loop.run_until_complete(client.get_async("key")) == b"key"
        loop.close()
        del loop, under_way
    gc.collect()
    # What it finds complete, a call lets go of.
    wait_until(lambda: client.get("key") == b"key" and len(open_descriptors()) <= before)
