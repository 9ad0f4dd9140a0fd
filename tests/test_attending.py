"""Small reads that come one at a time: whoever waits for one does its I/O, for a moment at most."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.nginx import Nginx
from servers.script import in_child, run

pytest.importorskip("zarr", minversion="3.1", reason="arrays by the pipeline")

import zarr
from arrays import bytes_codec, format_3, named, sharding
from shards import objects_of
from zarr.abc.store import RangeByteRequest
from zarr.api.asynchronous import open_array as open_async
from zarr.core.buffer import Buffer, default_buffer_prototype

import zfast
from zfast import Client, FastStore
from zfast.errors import CorruptError, NotWritableError

VALUES = np.arange(64 * 64, dtype="<f4").reshape(64, 64)
BODY = bytes(range(256)) * 64
ROUNDS = 60
PROTOTYPE = default_buffer_prototype()
# nginx's limit_rate: the first kilobytes at once, the rest of the body seconds later.
SLOW = "location ~ /slow/ { limit_rate 8k; }"

Start = Callable[..., Any]


@pytest.fixture
def near(start: Start, tmp_path: Path) -> Any:
    """A server that answers within microseconds, and has each kind of array."""
    root = tmp_path / "near"
    zstd = [bytes_codec(), named("zstd", level=1, checksum=False)]
    kinds = {
        "raw": (VALUES.shape, (16, 16), [bytes_codec()]),
        "zstd": (VALUES.shape, (16, 16), zstd),
        "sharded": (VALUES.shape, (32, 32), [sharding((8, 8), zstd)]),
    }
    for name, (shape, chunk, codecs) in kinds.items():
        for key, value in objects_of(format_3(shape, [chunk], "<f4", codecs), VALUES).items():
            path = root / name / key.removeprefix("a/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
    (root / "absent").mkdir()
    absent = format_3((512, 512), [(512, 512)], "<f4", [bytes_codec()]).document
    (root / "absent/zarr.json").write_text(json.dumps(absent))
    slow = format_3((len(BODY),), [(len(BODY),)], "|u1", [bytes_codec()]).document
    (root / "slow/c").mkdir(parents=True)
    (root / "slow/zarr.json").write_text(json.dumps(slow))
    for name in ("key", "slow/key", "slow/c/0"):
        (root / name).write_bytes(BODY)
    return start(Nginx, root, extra=SLOW)


def attended() -> int:
    count: int = zfast.stats()["batches_attended"]
    return count


def warm(client: Client) -> None:
    """Until the server is known to be near, which a busy machine may hide for a while."""
    for _ in range(500):
        before = attended()
        assert client.get("key") == BODY
        if attended() > before:
            return
        time.sleep(0.001)
    raise AssertionError("no read was attended to")


def rounds(count: int) -> Iterator[int]:
    """So many numbers, and again while nothing was attended to: a busy machine is far from all."""
    before = attended()
    for _ in range(50):
        yield from range(count)
        if attended() > before:
            return
    raise AssertionError("no read was attended to")


def window(number: int) -> tuple[slice, slice]:
    return slice(number % 40, number % 40 + 20), slice(number * 7 % 40, number * 7 % 40 + 20)


@pytest.mark.parametrize("kind", ["raw", "zstd", "sharded"])
def test_windows_one_after_another(near: Nginx, kind: str) -> None:
    store = FastStore(f"{near.url}/{kind}")
    array = zarr.open_array(store=store, mode="r")
    for number in rounds(ROUNDS):
        np.testing.assert_array_equal(array[window(number)], VALUES[window(number)])
    assert store.stats()["fallback_chunks"] == 0


def test_reads_of_a_client_one_after_another(near: Nginx) -> None:
    client = Client(near.url)
    warm(client)
    for number in rounds(ROUNDS):
        assert client.get("key", (number, number + 9)) == BODY[number : number + 9]
        assert client.get("missing") is None
    with pytest.raises(NotWritableError):
        client.put("key", b"no")
    assert client.get("key") == BODY


async def test_reads_of_a_loop_one_turn_after_another(near: Nginx) -> None:
    """Those of one turn are one batch, each with what is its own."""
    store = FastStore(near.url)
    for number in rounds(10 * ROUNDS):
        found = await asyncio.gather(
            store.get("key", PROTOTYPE, RangeByteRequest(number, number + 9)),
            store.get("missing", PROTOTYPE),
            store.get("key", PROTOTYPE),
            store.get("raw", PROTOTYPE),
            return_exceptions=True,
        )
        contents = [item.to_bytes() for item in found if isinstance(item, Buffer)]
        assert contents == [BODY[number : number + 9], BODY]
        assert found[1] is None
        assert isinstance(found[3], zfast.ZfastError)


async def test_of_one_turn_the_early_do_not_wait_for_the_late(near: Nginx) -> None:
    """What was done of a batch while the loop attended to it is told when it lets go."""
    store = FastStore(near.url)
    # A connection for each read of the turn, which is not attended to else.
    await asyncio.gather(*(store.get("slow/key", PROTOTYPE) for _ in range(3)))
    for _ in range(3):
        before = attended()
        while attended() == before:
            # Of reads in a row some are attended to, and so may the next be.
            await store.get("key", PROTOTYPE, RangeByteRequest(0, 9))
            await asyncio.sleep(0)
        slow = asyncio.ensure_future(store.get("slow/key", PROTOTYPE))
        early = [store.get("key", PROTOTYPE), store.get("missing", PROTOTYPE)]
        found, missing = await asyncio.gather(*early)
        assert found is not None
        assert found.to_bytes() == BODY
        assert missing is None
        assert not slow.done()
        assert await slow is not None


async def test_a_client_attends_in_a_loop(near: Nginx) -> None:
    client = Client(near.url)
    for number in rounds(10 * ROUNDS):
        assert await client.get_async("key", (number, number + 9)) == BODY[number : number + 9]
        assert await client.get_async("missing") is None


async def test_some_reads_are_left_to_the_threads_to_see_whether_others_come(near: Nginx) -> None:
    client = Client(near.url)
    before = attended()
    for _ in range(640):
        assert await client.get_async("key") == BODY
        await asyncio.sleep(0)
    # One in 64, after the first of all, that are not known to be alone.
    assert 0 < attended() - before <= 640 - 640 // 64


def test_a_corrupt_chunk_is_an_error(near: Nginx) -> None:
    array = zarr.open_array(store=FastStore(f"{near.url}/zstd"), mode="r")
    for number in range(ROUNDS):
        np.testing.assert_array_equal(array[window(number)], VALUES[window(number)])
    path = Path(near.root) / "zstd/c/0/0"
    path.write_bytes(path.read_bytes()[:-3])
    for _ in range(ROUNDS // 10):
        with pytest.raises(CorruptError, match="c/0/0"):
            array[:4, :4]
    np.testing.assert_array_equal(array[16:32], VALUES[16:32])


def test_many_requests_are_the_threads_work(near: Nginx) -> None:
    client = Client(near.url)
    warm(client)
    before = attended()
    assert client.get_many([("key", (at, at + 1)) for at in range(100)]) == [
        BODY[at : at + 1] for at in range(100)
    ]
    assert attended() == before


def test_an_event_loop_is_held_up_for_a_moment_only(near: Nginx) -> None:
    """A body that takes its time goes on in the engine, and other tasks of the loop go on."""
    array = zarr.open_array(store=FastStore(near.url), path="slow", mode="r")
    other = zarr.open_array(store=FastStore(f"{near.url}/raw"), mode="r")
    for number in range(ROUNDS):
        np.testing.assert_array_equal(other[window(number)], VALUES[window(number)])
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(array.__getitem__, ...)
        # All of them are reads of zarr's one loop.
        finished = 0
        while not slow.done():
            np.testing.assert_array_equal(other[:20, :20], VALUES[:20, :20])
            finished += 1
        np.testing.assert_array_equal(slow.result(), np.frombuffer(BODY, "u1"))
    assert finished > 10


def test_concurrent_reads_of_a_loop_are_not_put_in_a_row(near: Nginx) -> None:
    array = zarr.open_array(store=FastStore(f"{near.url}/raw"), mode="r")

    def read(number: int) -> None:
        np.testing.assert_array_equal(array[window(number)], VALUES[window(number)])

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(read, range(100)))
        before = attended()
        list(threads.map(read, range(400)))
        # One now and then finds nobody else.
        assert attended() - before < 200


def test_many_threads_and_one_place(near: Nginx) -> None:
    client = Client(near.url)
    warm(client)
    stop = threading.Event()

    def read(number: int) -> int:
        rounds = 0
        while not stop.is_set():
            assert client.get("key", (number, number + 100)) == BODY[number : number + 100]
            rounds += 1
        return rounds

    with ThreadPoolExecutor(8) as threads:
        reading = [threads.submit(read, number) for number in range(8)]
        time.sleep(1.0)
        stop.set()
        assert min(done.result() for done in reading) > 0


@pytest.mark.parametrize("kind", ["raw", "zstd", "sharded"])
def test_windows_of_many_loops_while_one_attends(near: Nginx, kind: str) -> None:
    array = zarr.open_array(store=FastStore(f"{near.url}/{kind}", deadline=20), mode="r")

    async def read(number: int) -> None:
        for at in range(number, number + ROUNDS):
            found = await array.async_array.getitem(window(at))
            np.testing.assert_array_equal(found, VALUES[window(at)])

    for _ in rounds(1):
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(lambda number: asyncio.run(read(number)), range(0, 600, 100)))


def test_chunks_too_large_for_whoever_attends(near: Nginx) -> None:
    # To fill a window of them is a decode thread's work.
    array = zarr.open_array(store=FastStore(f"{near.url}/absent", deadline=5), mode="r")
    for number in rounds(ROUNDS):
        np.testing.assert_array_equal(array[window(number)], np.zeros((20, 20)))


def test_a_deadline_while_attended(near: Nginx) -> None:
    client = Client(near.url)
    warm(client)
    hasty = Client(near.url, deadline=0.02)
    hastily = 0
    for _ in range(8):
        before = attended()
        with pytest.raises(zfast.DeadlineError):
            hasty.get("slow/key")
        hastily += attended() - before
        assert client.get("key") == BODY
    assert hastily


async def test_other_tasks_of_a_loop_have_their_turns(near: Nginx) -> None:
    array = await open_async(store=FastStore(f"{near.url}/raw"), mode="r")
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    taking = asyncio.ensure_future(take_turns())
    for number in rounds(ROUNDS):
        had = turns
        for _ in range(2):
            found = await array.getitem(window(number))
            np.testing.assert_array_equal(found, VALUES[window(number)])
        assert turns > had
    taking.cancel()


async def test_a_cancelled_read_lets_the_next_one_through(near: Nginx) -> None:
    near_one = await open_async(store=FastStore(f"{near.url}/raw"), mode="r")
    slow = await open_async(store=FastStore(near.url), path="slow", mode="r")
    for _ in rounds(5):
        for number in range(ROUNDS // 5):
            found = await near_one.getitem(window(number))
            np.testing.assert_array_equal(found, VALUES[window(number)])
        reading = asyncio.ensure_future(slow.getitem(...))
        await asyncio.sleep(0.005)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


def test_a_fork_while_others_attend(near: Nginx) -> None:
    maps = Path("/proc/self/maps")
    if maps.exists() and "libasan" in maps.read_text():
        pytest.skip("asan's own locks do not survive a fork beside busy threads")
    client = Client(near.url)
    warm(client)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            assert client.get("key") == BODY

    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(read) for _ in range(2)]
        try:
            for _ in range(10):
                in_child(lambda: client.get("key") == BODY or os._exit(3))
        finally:
            stop.set()
        for done in reading:
            done.result()


EXIT = """
    import sys, threading, time
    import zfast

    client = zfast.Client(sys.argv[1])

    def read():
        while True:
            client.get("key")

    for _ in range(3):
        threading.Thread(target=read, daemon=True).start()
    time.sleep(0.3)
    assert zfast.stats()["batches_attended"]
"""


def test_an_exit_while_daemon_threads_attend(near: Nginx, tmp_path: Path) -> None:
    for _ in range(3):
        ended = run(tmp_path, EXIT, near.url)
        assert (ended.code, ended.err) == (0, "")
