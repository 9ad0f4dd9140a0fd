"""A notebook's cell runs inside an event loop: what blocks may be called there, and Ctrl-C ends it.

Nothing is patched into the loop (``nest_asyncio``): a read never needs the loop of whoever waits.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.script import Script
from servers.scripted import ScriptedServer, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

import zarr.api.asynchronous
from few_chunks import VALUES, Request, Start, held, is_index, opened, stored
from zarr.core.buffer import default_buffer_prototype

import zfast
from zfast import FastStore

OBJECTS = stored("sharded, compressed") | {"key": b"value"}
ROW = VALUES[40]


def run_in_asyncio(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def run_in_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    return pytest.importorskip("uvloop").run(main)


LOOPS: dict[str, Callable[[Coroutine[Any, Any, Any]], Any]] = {
    "asyncio": run_in_asyncio,
    "uvloop": run_in_uvloop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    return LOOPS[request.param]


@pytest.fixture
def server(scripted: Start) -> ScriptedServer:
    return scripted(ranged(OBJECTS))


def read_blocking(store: FastStore) -> None:
    """Read by every kind of call that blocks."""
    np.testing.assert_array_equal(opened(store)[...], VALUES)
    np.testing.assert_array_equal(opened(store)[40], ROW)
    assert store["key"] == b"value"
    assert "missing" not in store
    found = store.get_sync("key")
    assert found is not None
    assert found.to_bytes() == b"value"
    assert zfast.Client(store.url).get_many([("key", (1, 3)), ("missing", None)]) == [b"al", None]
    assert zfast.cat_ranges([f"{store.url}/key"], 0, 2) == [b"va"]


async def read_awaiting(store: FastStore) -> None:
    """Read by every kind of call that is awaited."""
    array = await zarr.api.asynchronous.open_array(store=store, path="a", mode="r", zarr_format=3)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    found = await store.get("key", default_buffer_prototype())
    assert found is not None
    assert found.to_bytes() == b"value"
    assert await zfast.Client(store.url).get_async("key") == b"value"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# --------------------------------------------------------------------------------------- one loop


def test_cells_of_a_running_loop(server: ScriptedServer, run: Any) -> None:
    store = FastStore(server.url)

    async def kernel() -> None:
        # What blocks, what is awaited, and both in turn; from a task, and from a mere callback.
        read_blocking(store)
        await read_awaiting(store)
        read_blocking(store)
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: called.set_result(read_blocking(store)))
        await called
        await asyncio.gather(
            *(read_awaiting(store) for _ in range(3)),
            *(asyncio.to_thread(read_blocking, store) for _ in range(3)),
        )

    run(kernel())
    # And with the loop gone.
    read_blocking(store)
    assert store.stats()["fallback_chunks"] == 0


def test_what_blocks_a_loop_does_not_wait_for_the_loops_own_reads(
    scripted: Start, run: Any
) -> None:
    """Not even for an index that the loop itself has asked for, and cannot take now."""
    with held(scripted, OBJECTS, is_index, once=True) as (server, holding):
        store = FastStore(server.url)

        async def kernel() -> None:
            array = opened(store)
            own = asyncio.ensure_future(read_awaiting(store))
            await asyncio.to_thread(server.wait_for, lambda: any(map(is_index, server.requests)))
            assert store["key"] == b"value"
            before = zfast.stats()["batches"]
            goes_on = threading.Thread(
                target=lambda: (
                    until(lambda: zfast.stats()["batches"] > before),
                    holding.gate.set(),
                )
            )
            goes_on.start()
            # Of the shard whose index is held, until this read waits for it too.
            np.testing.assert_array_equal(array[40], ROW)
            goes_on.join()
            assert not own.done()
            await own

        run(kernel())
    indexes = [request.key for request in server.requests if is_index(request)]
    assert len(indexes) == len(set(indexes)) == 4


# --------------------------------------------------------------------------- loops and threads


@pytest.mark.parametrize("kinds", [["asyncio"], ["asyncio", "uvloop"]], ids="+".join)
def test_several_loops_and_threads_without_one_share_a_store(nginx: Site, kinds: list[str]) -> None:
    nginx.write(OBJECTS)
    store = FastStore(nginx.url)
    together = threading.Barrier(8)

    async def kernel() -> None:
        for _ in range(3):
            await asyncio.gather(*(read_awaiting(store) for _ in range(3)))
            read_blocking(store)

    def work(number: int) -> None:
        together.wait(20)
        if number % 2:
            LOOPS[kinds[number // 2 % len(kinds)]](kernel())
        else:
            for _ in range(3):
                read_blocking(store)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert store.stats()["fallback_chunks"] == 0
    assert zfast.stats()["in_flight"] == 0


# ------------------------------------------------------------------------------------------- trio


def test_trio_reads_in_threads(server: ScriptedServer) -> None:
    anyio = pytest.importorskip("anyio")
    pytest.importorskip("trio")
    store = FastStore(server.url)

    async def main() -> None:
        # In trio's own thread, where no asyncio loop runs; then in threads of its pool.
        read_blocking(store)
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(anyio.to_thread.run_sync, read_blocking, store)

    anyio.run(main, backend="trio")
    assert store.stats()["fallback_chunks"] == 0


def test_trio_leaves_a_read_behind(scripted: Start) -> None:
    """Abandoned by its task, it ends by itself; whoever reads meanwhile is not held up."""
    anyio = pytest.importorskip("anyio")
    pytest.importorskip("trio")
    with held(scripted, OBJECTS, lambda request: request.key == "key", once=True) as (
        server,
        holding,
    ):
        store = FastStore(server.url)
        ended = threading.Event()

        def read() -> None:
            assert store["key"] == b"value"
            ended.set()

        async def main() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: anyio.to_thread.run_sync(read, abandon_on_cancel=True))
                await anyio.to_thread.run_sync(server.wait_requests, 1)
                group.cancel_scope.cancel()
            assert not ended.is_set()
            await anyio.to_thread.run_sync(read_blocking, store)

        anyio.run(main, backend="trio")
        holding.gate.set()
        assert ended.wait(20)
    until(lambda: zfast.stats()["in_flight"] == 0)


# ----------------------------------------------------------------------------------------- Ctrl-C

KERNEL = """
    import asyncio, signal, sys, time
    import zarr, zarr.api.asynchronous
    import zfast

    if sys.argv[2] == "uvloop":
        from uvloop import run
    else:
        from asyncio import run

    store = zfast.FastStore(sys.argv[1], retries=0)
    client = zfast.Client(sys.argv[1], retries=0)

    def opened(path):
        return zarr.open_array(store=store, path=path, mode="r", zarr_format=3)

    async def read(path):
        array = await zarr.api.asynchronous.open_array(
            store=store, path=path, mode="r", zarr_format=3)
        return await array.getitem(...)

    def interrupted():
        print(time.monotonic(), flush=True)

    def blocking_cell(work):
        # Ctrl-C is an exception in a cell of a kernel, and leaves the kernel's loop alone.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            print("reading", flush=True)
            work()
        except KeyboardInterrupt:
            interrupted()
        finally:
            signal.signal(signal.SIGINT, ours)

    async def awaiting_cell(work):
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work())
        ours = signal.signal(
            signal.SIGINT, lambda *_: loop.call_soon_threadsafe(task.cancel))
        try:
            print("reading", flush=True)
            await task
        except asyncio.CancelledError:
            interrupted()
        finally:
            signal.signal(signal.SIGINT, ours)

    async def kernel():
        expected = opened("a")[...]
        background = asyncio.ensure_future(client.get_async("held/3"))
        blocking_cell(lambda: client.get("held/0"))
        assert (opened("a")[...] == expected).all()
        blocking_cell(lambda: opened("held-1")[...])
        assert (await read("a") == expected).all()
        await awaiting_cell(lambda: read("held-2"))
        assert (opened("a")[...] == expected).all()
        print("usable", flush=True)
        assert await background == b"held"
        # zarr's own loop still waits for what its interrupted caller asked for, and asyncio writes
        # a complaint about a task that a process ends with.
        while zfast.stats()["in_flight"]:
            await asyncio.sleep(0.01)
        assert (opened("a")[...] == expected).all()

    run(kernel())
    assert "nest_asyncio" not in sys.modules
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_ends_a_cell_and_not_the_kernel(scripted: Start, tmp_path: Path, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    objects = stored("streamed") | {"held/0": b"held", "held/3": b"held"}
    for path in ("held-1", "held-2"):
        objects |= stored("streamed", path=path)
    holds = ["held/0", "held-1/c/0/0", "held-2/c/0/0"]

    def is_held(request: Request) -> bool:
        return request.key in (*holds, "held/3")

    with held(scripted, objects, is_held) as (server, holding):
        with Script(tmp_path, KERNEL, server.url, loop) as script:
            for key in holds:
                assert script.line() == "reading"
                server.wait_for(lambda key=key: key in [r.key for r in server.requests])
                # What zarr waits with, a lock of Python, misses a signal just before it sleeps.
                time.sleep(0.2)
                sent = time.monotonic()
                script.process.send_signal(signal.SIGINT)
                assert float(script.line()) - sent < 3.0
            assert script.line() == "usable"
            holding.gate.set()
            ended = script.ended()
    assert (ended.code, ended.out, ended.err) == (0, "", "")
