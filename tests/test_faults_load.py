"""Hundreds of callers at once, of one store and of several: right bytes, and nobody starves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from promises import at_once
from servers.nginx import Nginx
from servers.scripted import Reply, Request, ScriptedServer, Stall, overlay, ranged
from servers.site import Site
from servers.threads import together

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import zarr.api.asynchronous
from faults import nothing_left, outcome, reading_of, warmed
from few_chunks import VALUES, WAYS, opened, stored

import zfast
from zfast import Client, FastStore

CALLERS = 256
OBJECTS = {f"key-{number}": bytes([number]) * (1 + 331 * number) for number in range(64)}
TURNS = 5


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warmed()


@pytest.fixture
def site(nginx: Site) -> Site:
    nginx.write(OBJECTS)
    for number, way in enumerate(WAYS):
        nginx.write(stored(way, path=f"{number}"))
    return nginx


def one_key(number: int, turn: int) -> tuple[str, bytes]:
    key = f"key-{(number * 7 + turn) % len(OBJECTS)}"
    return key, OBJECTS[key]


def window(number: int) -> tuple[slice, slice]:
    row, column = number % 200, number * 3 % 200
    return np.s_[row : row + 50, column : column + 40]


@pytest.mark.parametrize("stores", [1, 16])
def test_threads_read_keys(site: Site, stores: int) -> None:
    with nothing_left(), urllib3.PoolManager(maxsize=64) as manager, reading_of(manager):
        clients = [Client(site.url, pool_manager=manager, deadline=90) for _ in range(stores)]

        def read(number: int) -> None:
            client = clients[number % stores]
            for turn in range(TURNS):
                key, body = one_key(number, turn)
                assert client.get(key) == body
                assert client.get(key, (5, 5000)) == body[5:5000]
                assert client.get(f"{key}-missing") is None

        together(CALLERS, read)
        for client in clients:
            assert client.stats()["failed"] == client.stats()["in_flight"] == 0
            client.close()


@pytest.mark.parametrize("stores", [1, 16])
@pytest.mark.parametrize("number", range(len(WAYS)), ids=WAYS)
def test_threads_read_an_array(site: Site, number: int, stores: int) -> None:
    with nothing_left(), urllib3.PoolManager(maxsize=64) as manager, reading_of(manager):
        opens = [FastStore(site.url, pool_manager=manager, deadline=90) for _ in range(stores)]
        arrays = [opened(store, str(number)) for store in opens]

        def read(caller: int) -> None:
            part = window(caller)
            np.testing.assert_array_equal(arrays[caller % stores][part], VALUES[part])

        together(CALLERS, read)
        for store in opens:
            assert store.stats()["failed"] == 0
            store.close()


@pytest.mark.parametrize("stores", [1, 16])
async def test_tasks_read_keys_and_arrays(site: Site, stores: int) -> None:
    opens = [FastStore(site.url, deadline=90) for _ in range(stores)]
    clients = [Client(site.url, deadline=90) for _ in range(stores)]
    arrays = [
        await zarr.api.asynchronous.open_array(store=store, path=str(way), mode="r", zarr_format=3)
        for store in opens
        for way in range(len(WAYS))
    ]

    async def read(caller: int) -> None:
        key, body = one_key(caller, 0)
        assert await clients[caller % stores].get_async(key) == body
        part = window(caller)
        got = await arrays[caller % len(arrays)].getitem(part)
        np.testing.assert_array_equal(got, VALUES[part])
        assert await clients[caller % stores].get_many_async([(key, None)] * 3) == [body] * 3

    async with asyncio.timeout(100):
        await asyncio.gather(*(read(caller) for caller in range(CALLERS)))
    assert all(client.stats()["failed"] == 0 for client in clients)


def test_threads_and_loops_at_once(site: Site) -> None:
    client = Client(site.url, deadline=90)
    store = FastStore(site.url, deadline=90)

    async def in_a_loop(caller: int) -> None:
        keys = [one_key(caller, turn) for turn in range(8)]
        got = await asyncio.gather(*(client.get_async(key) for key, _ in keys))
        assert got == [body for _, body in keys]

    def read(caller: int) -> None:
        if caller % 2:
            asyncio.run(in_a_loop(caller))
        else:
            key, body = one_key(caller, 0)
            assert store[key] == body

    together(64, read)


# --------------------------------------------------------------------------------------- a fair end


def test_nobody_starves(site: Site) -> None:
    client = Client(site.url, deadline=90)
    reads = [0] * CALLERS
    ended = threading.Event()
    until = time.monotonic() + 90

    def read(caller: int) -> None:
        # Who is done goes on until all are: only turns that are taken let the last one end.
        while not ended.is_set():
            key, body = one_key(caller, reads[caller])
            assert client.get(key) == body
            reads[caller] += 1
            if min(reads) >= TURNS:
                ended.set()
            assert time.monotonic() < until, sorted(reads)

    together(CALLERS, read)
    assert min(reads) >= TURNS


def test_large_batches_starve_no_single_read(site: Site) -> None:
    client = Client(site.url, deadline=90, max_concurrency=8)
    items = [(key, None) for key in OBJECTS] * 20
    left = set(range(4, 32))

    def read(caller: int) -> None:
        if caller < 4:
            # A single read that waited for the batches to end would wait for ever.
            while left:
                assert client.get_many(items) == list(OBJECTS.values()) * 20
            return
        try:
            for turn in range(TURNS):
                key, body = one_key(caller, turn)
                assert client.get(key) == body
        finally:
            left.discard(caller)

    together(32, read)


def test_a_stalled_origin_holds_up_no_other(scripted: Callable[..., ScriptedServer]) -> None:
    stalled, well = scripted(lambda _: Stall()), scripted(ranged(OBJECTS))
    slow = Client(stalled.url, deadline=90, retries=0, max_concurrency=16)
    quick = Client(well.url, deadline=90)
    errors: list[Any] = []

    def wait(number: int) -> None:
        errors.append(outcome(lambda: slow.get(f"key-{number}"), 90))

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    stalled.wait_requests(16)
    together(64, lambda number: _reads(quick, number))
    assert all(thread.is_alive() for thread in threads)
    stalled.close()
    for thread in threads:
        thread.join(60)
    assert len(errors) == 64
    assert {type(error) for error in errors} == {zfast.ConnectionFailedError}


def _reads(client: Client, number: int) -> None:
    key, body = one_key(number, 0)
    assert client.get(key) == body


def test_callers_of_a_server_that_closes_all_the_time(
    start: Callable[..., Nginx], tmp_path: Path
) -> None:
    for key, body in OBJECTS.items():
        (tmp_path / key).write_bytes(body)
    client = Client(start(Nginx, keepalive_requests=7).url, deadline=90)
    together(CALLERS, lambda number: _reads(client, number))
    # What it closes, it says.
    assert client.stats()["failed"] == 0


def test_callers_of_a_server_that_cuts_every_third_reply(
    scripted: Callable[..., ScriptedServer],
) -> None:
    def cut(request: Request, reply: Reply) -> Reply | None:
        return reply.cut_body(len(reply.body) // 2) if request.index % 3 == 0 else None

    server = scripted(overlay(ranged(OBJECTS), cut))
    client = Client(server.url, deadline=90, retries=at_once(50))
    together(CALLERS, lambda number: _reads(client, number))
