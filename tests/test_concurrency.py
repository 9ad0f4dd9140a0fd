"""Many threads and clients at once: right bytes, limits shared, turns taken, no GIL needed."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from servers.script import Child, in_child
from servers.scripted import Request, ScriptedServer, Stall, ok, ranged
from servers.site import Site
from servers.threads import together

import zfast

Start = Callable[..., ScriptedServer]

OBJECTS = {f"{i}/key": bytes([i]) * (1 + 1303 * i) for i in range(64)}


@contextmanager
def gated(scripted: Start) -> Iterator[tuple[ScriptedServer, threading.Semaphore]]:
    """A server that replies to one request for each release of the semaphore; to all at the end.

    To `small` it replies at once.
    """
    gate = threading.Semaphore(0)
    opened = threading.Event()

    def handle(request: Request) -> object:
        while not (request.key == "small" or opened.is_set() or gate.acquire(timeout=0.01)):
            pass
        return ok(request.key.encode())

    server = scripted(handle)
    try:
        yield server, gate
    finally:
        opened.set()


def keys(server: ScriptedServer) -> list[str]:
    return [request.key for request in list(server.requests)]


# ------------------------------------------------------------------------------------ right bytes


def test_64_threads_read_at_once(nginx: Site) -> None:
    nginx.write(OBJECTS)
    client = zfast.Client(nginx.url)
    items = list(OBJECTS.items())

    def read(number: int) -> None:
        assert client.get(f"{number}-missing") is None
        for turn in range(8):
            key, body = items[(number * 7 + turn) % len(items)]
            assert client.get(key) == body
            assert client.get(key, (10, 2000)) == body[10:2000]
            into = bytearray(len(body) + 1)
            assert client.read_into(key, None, into) == len(body)
            assert into == body + b"\0"
            some = items[turn :: number % 5 + 3]
            assert client.get_many([(key, None) for key, _ in some]) == [body for _, body in some]

    together(64, read)
    assert client.stats()["in_flight"] == 0
    assert client.stats()["failed"] == client.stats()["retries"] == 0


def test_the_first_reads_of_many_threads_start_one_engine(scripted: Start) -> None:
    server = scripted(lambda request: ok(request.key.encode()))

    def first_reads() -> list[str]:
        def read(number: int) -> None:
            assert zfast.Client(server.url).get(f"key-{number}") == f"key-{number}".encode()

        together(32, read)
        return [t.name for t in threading.enumerate() if t.name.startswith("zfast-")]

    names = in_child(first_reads)
    assert names == [f"zfast-dial-{i}" for i in range(len(names))]


def test_threads_that_come_and_go(scripted: Start) -> None:
    server = scripted(ranged(OBJECTS))
    client = zfast.Client(server.url)
    for number in range(100):
        key = f"{number % 64}/key"
        read: list[object] = []
        thread = threading.Thread(target=lambda key=key, read=read: read.append(client.get(key)))
        thread.start()
        thread.join()
        assert read == [OBJECTS[key]]
    assert len(server.connections) == 1


def test_two_readers_of_one_buffer_write_their_own_parts(nginx: Site) -> None:
    body = bytes(range(256)) * 4096
    nginx.write({"key": body})
    client = zfast.Client(nginx.url)
    into = bytearray(len(body))
    size = len(body) // 16

    def read(number: int) -> None:
        start = number * size
        part = memoryview(into)[start : start + size]
        assert client.read_into("key", (start, start + size), part) == size

    together(16, read)
    assert into == body


# ----------------------------------------------------------------------------------- no GIL needed


def test_a_batch_is_read_while_another_thread_keeps_the_gil(nginx: Site) -> None:
    nginx.write(OBJECTS)
    client = zfast.Client(nginx.url)
    items = [(key, None) for key in OBJECTS] * 8
    # The connections are open: dialling is Python's.
    client.get_many(items)
    before = client.stats()["reads"]
    interval = sys.getswitchinterval()

    async def read() -> None:
        reading = asyncio.ensure_future(client.get_many_async(items))
        await asyncio.sleep(0)
        sys.setswitchinterval(1000)
        try:
            deadline = time.monotonic() + 20
            # Neither call lets go of the GIL.
            while client.stats()["reads"] < before + len(items):
                assert time.monotonic() < deadline
            assert not reading.done()
        finally:
            sys.setswitchinterval(interval)
        assert await reading == list(OBJECTS.values()) * 8

    asyncio.run(read())


# ----------------------------------------------------------------------------------------- limits


def test_max_concurrency_holds_over_all_clients(scripted: Start) -> None:
    full = threading.Event()
    peaks = []

    def handle(request: Request) -> object:
        if server.waiting == 4:
            full.set()
        assert full.wait(20)
        peaks.append(server.waiting)
        return ok(request.key.encode())

    server = scripted(handle)

    def read() -> int:
        with zfast.config.set(max_concurrency=4):
            clients = [zfast.Client(f"{server.url}/{i}") for i in range(3)]

            def one(number: int) -> None:
                client = clients[number % 3]
                items = [(str(i), None) for i in range(50)]
                expected = [f"{number % 3}/{key}".encode() for key, _ in items]
                if number < 3:
                    assert client.get_many(items) == expected
                else:
                    assert asyncio.run(client.get_many_async(items)) == expected

            together(6, one)
            return zfast.stats()["connections_opened"]

    assert in_child(read) == 4
    assert server.peak_waiting == 4
    assert len(server.requests) == 300


def test_max_concurrency_of_a_client(scripted: Start) -> None:
    with gated(scripted) as (server, gate), gated(scripted) as (other, _):
        client = zfast.Client(server.url, max_concurrency=3)
        beside = zfast.Client(other.url)

        async def read() -> None:
            limited = [
                asyncio.ensure_future(client.get_many_async([(str(i), None) for i in range(20)]))
                for _ in range(3)
            ]
            unlimited = asyncio.ensure_future(
                beside.get_many_async([(str(i), None) for i in range(30)])
            )
            # What one client may not send holds up no other.
            await asyncio.to_thread(other.wait_for, lambda: other.waiting == 30)
            await asyncio.to_thread(server.wait_for, lambda: server.waiting == 3)
            for _ in range(60):
                gate.release()
            await asyncio.gather(*limited)
            unlimited.cancel()
            with pytest.raises(asyncio.CancelledError):
                await unlimited

        asyncio.run(read())
        assert server.peak_waiting == 3
        # No more connections than it may use.
        assert len(server.connections) == 3


def test_a_client_raises_the_limit_of_the_process(scripted: Start) -> None:
    def read() -> list[int]:
        with zfast.config.set(max_concurrency=2):
            assert zfast.Client(server.url).get("small") == b"small"
            before = zfast.stats()["max_in_flight"]
            client = zfast.Client(server.url, max_concurrency=5)
            assert len(client.get_many([(str(i), None) for i in range(9)])) == 9
            return [before, zfast.stats()["max_in_flight"]]

    with gated(scripted) as (server, gate):
        child = Child(read)
        server.wait_for(lambda: server.waiting == 5)
        for _ in range(9):
            gate.release()
        assert child.result() == [2, 5]
        assert server.peak_waiting == 5


# --------------------------------------------------------------------------------------- fairness


def test_a_small_read_does_not_wait_for_a_large_batch(scripted: Start) -> None:
    with gated(scripted) as (server, gate):
        client = zfast.Client(server.url, max_concurrency=8)

        async def read() -> None:
            many = client.get_many_async([(f"large/{i}", None) for i in range(2000)])
            large = asyncio.ensure_future(many)
            await asyncio.to_thread(server.wait_for, lambda: server.waiting == 8)
            small = asyncio.ensure_future(client.get_async("small"))
            # It is in the engine's queue, behind the others.
            await asyncio.sleep(0)
            for _ in range(10):
                gate.release()
            # Ten places become free: it gets one.
            assert await asyncio.wait_for(small, 10) == b"small"
            assert not large.done()
            large.cancel()
            with pytest.raises(asyncio.CancelledError):
                await large

        asyncio.run(read())
        assert len(server.requests) < 100


def test_batches_take_turns(scripted: Start) -> None:
    with gated(scripted) as (server, gate):
        client = zfast.Client(server.url, max_concurrency=1)

        async def read() -> None:
            tasks = [
                asyncio.ensure_future(
                    client.get_many_async([(f"{name}{i}", None) for i in range(5)])
                )
                for name in "abc"
            ]
            await asyncio.to_thread(server.wait_for, lambda: server.waiting == 1)
            for _ in range(15):
                gate.release()
            await asyncio.gather(*tasks)

        asyncio.run(read())
        order = "".join(key[0] for key in keys(server))
        # Whichever came first, then one of each in turn.
        assert {order[i : i + 3] for i in range(1, 13, 3)} == {order[1:4]}
        assert sorted(order[1:4]) == ["a", "b", "c"]


def test_idle_connections_of_one_origin_make_room_for_another(scripted: Start) -> None:
    first = scripted(lambda request: ok(b"first"))

    def read() -> None:
        with zfast.config.set(max_concurrency=6, idle_timeout=1000):
            assert zfast.Client(first.url).get_many([("key", None)] * 200) == [b"first"] * 200
            assert len(zfast.Client(second.url).get_many([(str(i), None) for i in range(20)])) == 20

    with gated(scripted) as (second, gate):
        child = Child(read)
        second.wait_for(lambda: second.waiting == 6)
        for _ in range(20):
            gate.release()
        child.result()
        assert second.peak_waiting == 6


# ---------------------------------------------------------------------------- what is left behind


@pytest.fixture
def stalling(scripted: Start) -> ScriptedServer:
    """`stall...` never gets an answer, anything else its own name."""
    return scripted(lambda r: Stall() if r.key.startswith("stall") else ok(r.key.encode()))


def test_a_read_that_is_thrown_away_ends(stalling: ScriptedServer) -> None:
    client = zfast.Client(stalling.url)
    into = bytearray(100)

    async def throw_away() -> None:
        under_way = client.read_into_async("stall", None, into)
        under_way.send(None)
        await asyncio.to_thread(stalling.wait_requests, 1)
        under_way.close()
        # The loop goes on.
        await asyncio.to_thread(stalling.wait_closed)
        assert await client.get_async("key") == b"key"

    asyncio.run(throw_away())
    assert client.stats()["in_flight"] == 0
    # A pinned buffer would refuse.
    into.clear()


def test_reads_of_a_closed_loop_end(stalling: ScriptedServer) -> None:
    client = zfast.Client(stalling.url)
    into = bytearray(100)

    async def leave() -> None:
        tasks.append(asyncio.ensure_future(client.read_into_async("stall", None, into)))
        await asyncio.to_thread(stalling.wait_requests, 1)

    tasks: list[asyncio.Task[int]] = []
    loop = asyncio.new_event_loop()
    # That a pending task is destroyed is known, and is not the matter here.
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(leave())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    tasks.clear()
    del loop
    gc.collect()
    stalling.wait_closed()
    assert client.get("key") == b"key"
    assert client.stats()["in_flight"] == 0
    into.clear()


def test_what_a_store_reads_on_a_closed_loop_ends(stalling: ScriptedServer) -> None:
    buffer = pytest.importorskip("zarr.core.buffer", reason="FastStore of zarr 3")
    store = zfast.FastStore(stalling.url)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def leave() -> None:
        tasks.append(asyncio.ensure_future(store.get("stall", buffer.default_buffer_prototype())))
        await asyncio.to_thread(stalling.wait_requests, 1)

    tasks: list[asyncio.Task[object]] = []
    loop.run_until_complete(leave())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    tasks.clear()
    del loop
    gc.collect()
    stalling.wait_closed()
    assert store["key"] == b"key"


def test_garbage_collection_within_a_call_of_the_engine(stalling: ScriptedServer) -> None:
    def collect() -> None:
        client = zfast.Client(stalling.url)
        gc.disable()

        async def leave_garbage() -> None:
            # The traceback holds the frames, these the batch, and the list itself and all.
            try:
                async with asyncio.timeout(0.001):
                    await client.get_async("stall")
            except TimeoutError as error:
                cycle: list[object] = [error]
                cycle.append(cycle)

        # The collector runs at one of the objects that the call makes, at each in turn.
        for number in range(20):
            asyncio.run(leave_garbage())
            # New ones are made, none is used again.
            kept = [[{}, []] for _ in range(200)]
            gc.set_threshold(gc.get_count()[0] + number)
            gc.enable()
            zfast.stats()
            gc.disable()
            gc.collect()
            del kept
        assert client.get("key") == b"key"

    in_child(collect, timeout=20)
