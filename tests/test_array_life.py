"""Reads of arrays end well, however they end: by signals, deadlines, forks, exits, or forgotten."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.leaks import open_descriptors, wait_until
from servers.script import Script
from servers.scripted import Reset, ScriptedServer, Stall, Wait, ranged, unsatisfiable
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import zarr.api.asynchronous
from arrays import bytes_codec, format_3, named
from few_chunks import (
    FIRST,
    SHARDED,
    VALUES,
    WAYS,
    Request,
    Start,
    held,
    is_index,
    of_first,
    opened,
    stored,
)
from sharded_array import count, read_at_once, set_at_last
from zarr.core.buffer import default_buffer_prototype

import zfast
from zfast import FastStore, connections, runtime
from zfast._core.batch import Batch
from zfast.config import setting
from zfast.locations.http import HTTPLocation

MARK = -5.0
# The machine may be busy; what hangs does so for longer.
QUICKLY = 3.0


def foreign_descriptors() -> int:
    """Descriptors that are no connection of the engine."""
    return len(open_descriptors()) - zfast.stats()["connections"]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Have the engine and zarr's event loop, whose descriptors stay."""
    with ScriptedServer(ranged(stored("sharded"))) as server:
        np.testing.assert_array_equal(opened(FastStore(server.url))[...], VALUES)


@pytest.fixture(autouse=True)
def _nothing_stays(_warm: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """No descriptor, no thread and no request under way, once the servers have gone."""
    threads = {thread for thread in threading.enumerate() if not _is_pooled(thread)}
    _empty_pools()
    before = foreign_descriptors()
    yield
    wait_until(lambda: zfast.stats()["in_flight"] == 0)
    gc.collect()
    _empty_pools()
    if "nginx" not in request.fixturenames:
        wait_until(lambda: foreign_descriptors() <= before)
    engines = {thread for thread in threading.enumerate() if thread.name.startswith("zfast-")}
    assert {t for t in threading.enumerate() if not _is_pooled(t)} - threads <= engines


def _empty_pools() -> None:
    # A test that took longer than connections stay idle has given some back to them, open.
    for each in list(connections.all_connections):
        each.managers.clear()


def _is_pooled(thread: threading.Thread) -> bool:
    # Of zarr's event loop.
    return thread.name.startswith("asyncio_")


# ---------------------------------------------------------------------------------------- signals

CTRL_C = """
    import gc, os, sys, time
    import zarr, zfast

    def resident():
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * 4096

    def foreign_descriptors():
        return len(os.listdir("/dev/fd")) - zfast.stats()["connections"]

    # One request a chunk.
    zfast.config.set(split_size=0)
    store = zfast.FastStore(sys.argv[1], retries=0)

    def opened(path):
        return zarr.open_array(store=store, path=path, mode="r", zarr_format=3)

    small = opened("a")[...]
    held = opened("held")
    before = resident(), foreign_descriptors()
    print("reading", flush=True)
    try:
        held[...]
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
    # The half that has come.
    assert resident() - before[0] > 16 << 20 or sys.platform != "linux"
    assert (opened("a")[...] == small).all()
    print("usable", flush=True)
    # zarr's event loop goes on with a read that nobody waits for: the server ends it.
    while zfast.stats()["in_flight"]:
        time.sleep(0.001)
    assert (opened("a")[...] == small).all()
    until = time.monotonic() + 10
    while foreign_descriptors() > before[1] or (
            sys.platform == "linux" and resident() - before[0] > 12 << 20):
        assert time.monotonic() < until, (before, resident(), foreign_descriptors())
        gc.collect()
        time.sleep(0.01)
    print("all let go of", flush=True)
"""


def test_ctrl_c_while_reading_an_array(scripted: Start, tmp_path: Path) -> None:
    size = 64 << 20
    document = format_3((4096, 4096), [(4096, 4096)], "<f4", [bytes_codec()]).document
    large = {"held/zarr.json": json.dumps(document).encode(), "held/c/0/0": bytes(size)}
    half_sent, gate = threading.Event(), threading.Event()
    serve = ranged(stored("streamed") | large)

    def handle(request: Request) -> Any:
        reply = serve(request)
        yield reply if request.key != "held/c/0/0" else reply.wire()[: size // 2]
        if request.key == "held/c/0/0":
            half_sent.set()
            yield from (Wait(gate), Reset())

    server = scripted(handle)
    with set_at_last(gate), Script(tmp_path, CTRL_C, server.url) as script:
        assert script.line() == "reading"
        assert half_sent.wait(10)
        sent = time.monotonic()
        script.process.send_signal(signal.SIGINT)
        assert float(script.line()) - sent < 1.0
        assert script.line() == "usable"
        gate.set()
        ended = script.ended()
    assert (ended.code, ended.out, ended.err) == (0, "all let go of\n", "")


def test_ctrl_c_in_asyncio_run(scripted: Start, tmp_path: Path) -> None:
    source = """
        import asyncio, sys, time
        import zarr.api.asynchronous, zfast

        async def read(path):
            array = await zarr.api.asynchronous.open_array(
                store=zfast.FastStore(sys.argv[1]), path=path, mode="r", zarr_format=3)
            return await array.getitem(...)

        expected = asyncio.run(read("a"))
        try:
            asyncio.run(read("held"))
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
        assert not zfast.stats()["in_flight"]
        assert (asyncio.run(read("a")) == expected).all()
    """
    objects = stored("streamed") | stored("streamed", path="held")
    with held(scripted, objects, lambda request: request.key == "held/c/0/0") as (server, _):
        with Script(tmp_path, source, server.url) as script:
            server.wait_for(lambda: any(request.key == "held/c/0/0" for request in server.requests))
            sent = time.monotonic()
            script.process.send_signal(signal.SIGINT)
            assert float(script.line()) - sent < 1.0
            ended = script.ended()
    assert (ended.code, ended.err) == (0, "")


# ---------------------------------------------------------------------------------------- asyncio


async def read_async(store: FastStore, selection: Any = ...) -> Any:
    array = await zarr.api.asynchronous.open_array(store=store, path="a", mode="r", zarr_format=3)
    return await array.getitem(selection)


@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_read_ends_at_once(scripted: Start, way: str) -> None:
    with held(scripted, stored(way), of_first) as (server, holding):
        store = FastStore(server.url)

        async def main() -> Any:
            reading = asyncio.ensure_future(read_async(store))
            await asyncio.to_thread(server.wait_for, lambda: any(map(of_first, server.requests)))
            began = time.monotonic()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert time.monotonic() - began < QUICKLY
            assert store._client.stats()["in_flight"] == 0
            holding.gate.set()
            return await read_async(store)

        np.testing.assert_array_equal(asyncio.run(main()), VALUES)


@pytest.mark.parametrize("way", WAYS)
def test_a_read_of_a_loop_that_is_closed_is_forgotten(scripted: Start, way: str) -> None:
    """Its output, which nobody else knows, stays until no byte can come any more."""
    with held(scripted, stored(way), of_first) as (server, holding):
        loop = asyncio.new_event_loop()
        reading = loop.create_task(read_async(FastStore(server.url)))
        while not any(map(of_first, server.requests)):
            loop.run_until_complete(asyncio.sleep(0.005))
        # asyncio would say that it was destroyed.
        reading._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        del loop, reading
        gc.collect()
        wait_until(lambda: zfast.stats()["in_flight"] == 0)
        holding.gate.set()
        np.testing.assert_array_equal(opened(FastStore(server.url))[...], VALUES)


@pytest.mark.parametrize("way", WAYS)
def test_a_read_needs_nobody_who_holds_array_or_store(scripted: Start, way: str) -> None:
    with held(scripted, stored(way), of_first) as (server, holding):
        arrays = [opened(FastStore(server.url))]
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(lambda: arrays.pop()[...])
            server.wait_for(lambda: any(map(of_first, server.requests)))
            for _ in range(3):
                gc.collect()
            holding.gate.set()
            np.testing.assert_array_equal(reading.result(), VALUES)


# -------------------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_ends_a_read_and_nothing_lands_after_it(scripted: Start, way: str) -> None:
    with held(scripted, stored(way), of_first) as (server, holding):
        store = FastStore(server.url, deadline=0.3)
        mine = np.full(VALUES.shape, MARK, "f4")
        array = opened(store)
        began = time.monotonic()
        with pytest.raises(zfast.DeadlineError) as caught:
            array.get_basic_selection(
                ..., out=default_buffer_prototype().nd_buffer.from_numpy_array(mine)
            )
        assert time.monotonic() - began < QUICKLY
        assert (caught.value.key, caught.value.attempts) == (FIRST, 1)
        landed = mine.copy()
        # The half that had not come has left no trace.
        assert (landed == MARK).any()
        assert ((landed == VALUES) | (landed == MARK)).all()
        holding.gate.set()
        np.testing.assert_array_equal(opened(store)[...], VALUES)
        np.testing.assert_array_equal(mine, landed)


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_that_passes_before_all_is_planned_is_an_error(
    scripted: Start, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left out is not to pass for read, even if all that was asked for came."""
    server = scripted(ranged(stored(way)))
    array = opened(FastStore(server.url, deadline=0.1))
    affixes = HTTPLocation.affixes

    def late(location: HTTPLocation) -> Any:
        time.sleep(0.3)
        return affixes(location)

    np.testing.assert_array_equal(array[...], VALUES)
    monkeypatch.setattr(HTTPLocation, "affixes", late)
    with pytest.raises(zfast.DeadlineError) as caught:
        array[...]
    assert caught.value.key == FIRST


def windows(number: int) -> list[Any]:
    """So many windows of the first shard."""
    return [np.s_[at : at + 1, (5 * at) % 90 : (5 * at) % 90 + 20] for at in range(number)]


@pytest.mark.parametrize("way", SHARDED)
def test_a_deadline_while_many_wait_for_an_index(scripted: Start, way: str) -> None:
    with held(scripted, stored(way), is_index) as (server, holding):
        array = opened(FastStore(server.url, deadline=0.4))
        began = time.monotonic()
        for error in read_at_once(array, windows(8)):
            assert isinstance(error, zfast.DeadlineError)
            assert error.key == FIRST
        assert time.monotonic() - began < QUICKLY
        holding.gate.set()
        for window, got in zip(windows(8), read_at_once(array, windows(8)), strict=True):
            np.testing.assert_array_equal(got, VALUES[window])


@pytest.mark.parametrize("way", SHARDED)
def test_who_waits_reads_the_index_when_a_deadline_ends_its_reader(
    scripted: Start, way: str
) -> None:
    with held(scripted, stored(way), is_index, once=True) as (server, _):
        array = opened(FastStore(server.url, deadline=1.0))
        first, second = windows(2)
        with ThreadPoolExecutor(2) as threads:
            ended = threads.submit(array.__getitem__, first)
            server.wait_for(lambda: count(server.requests, is_index) == 1)
            time.sleep(0.5)
            got = threads.submit(array.__getitem__, second)
            assert isinstance(ended.exception(), zfast.DeadlineError)
            np.testing.assert_array_equal(got.result(), VALUES[second])
        assert count(server.requests, is_index) == 2


@pytest.mark.parametrize("cancelled", ["its reader", "one who waits"])
@pytest.mark.parametrize("way", SHARDED)
def test_who_is_cancelled_takes_no_index_from_the_others(
    scripted: Start, way: str, cancelled: str
) -> None:
    with held(scripted, stored(way), is_index, once=True) as (server, holding):
        store = FastStore(server.url)

        async def main() -> None:
            readings = []
            for window in windows(8):
                readings.append(asyncio.ensure_future(read_async(store, window)))
                await asyncio.to_thread(
                    server.wait_for, lambda: any(map(is_index, server.requests))
                )
                # Those who come later wait for what the first one reads.
                await asyncio.sleep(0.05)
            gone = 0 if cancelled == "its reader" else 4
            readings[gone].cancel()
            with pytest.raises(asyncio.CancelledError):
                await readings[gone]
            if cancelled == "one who waits":
                holding.gate.set()
            for number, window in enumerate(windows(8)):
                if number != gone:
                    np.testing.assert_array_equal(await readings[number], VALUES[window])

        asyncio.run(main())
        assert count(server.requests, is_index) == (2 if cancelled == "its reader" else 1)


def test_a_deadline_while_the_decode_threads_are_busy(scripted: Start) -> None:
    """An answer that is looked at after the deadline leads to no further request."""
    busy, size = setting("decode_threads"), 1 << 20
    slowly = [bytes_codec(), *[named("numcodecs.shuffle", elementsize=2)] * 8000]
    document = format_3((busy, size), [(1, size)], "<f4", slowly).document
    objects = stored("sharded") | {f"slow/c/{at}/0": bytes(4 * size) for at in range(busy)}
    objects["slow/zarr.json"] = json.dumps(document).encode()
    serve = ranged(objects)

    def handle(request: Request) -> Any:
        if request.key.startswith("a/c"):
            # No range that counts from the end; the other way never comes to an end.
            return unsatisfiable(len(objects[FIRST])) if is_index(request) else Stall()
        return serve(request)

    server = scripted(handle)
    # The codec's name is numcodecs' own.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        slow = opened(FastStore(server.url), "slow")
    array = opened(FastStore(server.url, deadline=0.15))
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(slow.__getitem__, ...)
        server.wait_for(
            lambda: len(server.keys()) == 2 + busy and all(c.idle for c in server.connections)
        )
        # The rest is in the sockets.
        time.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(zfast.DeadlineError):
            array[:32, :32]
        # Else this was about something else.
        assert time.monotonic() - began > 0.2
        assert not reading.result().any()
    found = [request.range for request in server.requests if request.key == FIRST]
    assert found == ["bytes=-260"]


# ------------------------------------------------------------------------------------- stop, many


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", [of_first, is_index], ids=["chunk", "index"])
def test_the_end_of_the_engine_ends_reads(scripted: Start, way: str, what: Any) -> None:
    if what is is_index and way not in SHARDED:
        pytest.skip("it has no index")
    with held(scripted, stored(way), what) as (server, holding):
        array = opened(FastStore(server.url))
        before = zfast.stats()["batches"]
        with ThreadPoolExecutor(4) as threads, set_at_last(holding.gate):
            readings = [threads.submit(array.__getitem__, ...) for _ in range(4)]
            server.wait_for(lambda: any(map(what, server.requests)))
            wait_until(lambda: zfast.stats()["batches"] == before + 4)
            engine = runtime.running()
            assert engine is not None
            engine.stop()
            # As at exit.
            runtime.answer_rest(engine)
            for reading in readings:
                assert isinstance(reading.exception(), zfast.ZfastError)
        np.testing.assert_array_equal(array[...], VALUES)


@pytest.mark.parametrize("way", SHARDED)
def test_many_threads_read_one_array_at_once(nginx: Site, way: str) -> None:
    nginx.write(stored(way), age=10)
    array = opened(FastStore(nginx.url))
    wanted = [
        np.s_[:, :] if at % 4 == 0 else np.s_[7 * at : 7 * at + 30, at::3] for at in range(32)
    ]
    for window, got in zip(wanted, read_at_once(array, wanted), strict=True):
        np.testing.assert_array_equal(got, VALUES[window])
    indexes = [request.key for request in nginx.requests() if is_index(request)]
    assert len(indexes) == len(set(indexes)) == 4


def test_a_batch_whose_planner_has_gone_ends_when_it_is_cancelled() -> None:
    """Ctrl-C may come between the batch and its first chunk; what it pins would stay pinned."""
    batch = Batch(runtime.current(), 0.0, fail_fast=True, open=True)
    batch.submit()
    assert not batch.done
    batch.cancel()
    assert batch.done
