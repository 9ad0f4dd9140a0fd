"""What a read of sharded arrays asks a server for.

At most one index request a shard in the life of a store, one GET a coalesced run, never a HEAD.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from servers.scripted import Handler, Reply, Request, Wait, ranged, status
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from sharded_array import (
    CODERS,
    CORNER,
    COUNT,
    FIRST,
    INDEX,
    INNER,
    LOCATIONS,
    READERS,
    SHAPE,
    VALUES,
    Scripted,
    Window,
    asked,
    count,
    is_index,
    is_run,
    opened,
    ranges,
    read_at_once,
    set_at_last,
    stored,
    wanted,
)
from shards import index_size, runs

import zfast
from zfast import FastStore
from zfast.errors import CorruptError

# What was written lately has its index read once more, see test_shard_changes.py: a slow machine
# would take long enough for that.
AGE = 10

# ------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("location", LOCATIONS)
def test_an_index_is_asked_for_once(nginx: Site, coder: str, location: str) -> None:
    nginx.write(stored(coder=coder, location=location), age=AGE)
    array = opened(FastStore(nginx.url))
    first = ranges(nginx, array, CORNER)
    assert len(first) == 2
    assert first[0] == INDEX[location]
    again = ranges(nginx, array, CORNER)
    assert again == first[1:]
    for window in (np.s_[8:16, 8:16], np.s_[0:32, 5], np.s_[3, 4], np.s_[20:29:3, 0:30:7]):
        found = ranges(nginx, array, window)
        assert found
        assert INDEX[location] not in found


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("location", LOCATIONS)
def test_a_whole_array_is_an_index_and_a_run_a_shard(
    nginx: Site, coder: str, location: str
) -> None:
    nginx.write(stored(coder=coder, location=location), age=AGE)
    array = opened(FastStore(nginx.url))
    found = asked(nginx, lambda: np.testing.assert_array_equal(array[:], VALUES))
    # A shard that is wanted whole may be read without its index.
    for shard in {request.key for request in found}:
        of = [request.range for request in found if request.key == shard]
        assert of.count(INDEX[location]) <= 1
        assert len(of) <= 2
    found = asked(nginx, lambda: np.testing.assert_array_equal(array[:], VALUES))
    assert len(found) == len({request.key for request in found}) == 4
    assert INDEX[location] not in {request.range for request in found}


@pytest.mark.parametrize("another", ["array", "store by another name", "thread"])
def test_all_readers_of_a_store_share_its_indexes(nginx: Site, another: str) -> None:
    nginx.write(stored(), age=AGE)
    store = FastStore(nginx.url)
    ranges(nginx, opened(store), CORNER)
    array = opened(store.with_read_only(True) if another == "store by another name" else store)
    if another == "thread":
        with ThreadPoolExecutor(1) as threads:
            found = threads.submit(ranges, nginx, array, CORNER).result()
    else:
        found = ranges(nginx, array, CORNER)
    assert len(found) == 1
    assert INDEX["end"] not in found


def test_another_store_reads_the_index_itself(nginx: Site) -> None:
    nginx.write(stored(), age=AGE)
    for _ in range(2):
        assert ranges(nginx, opened(FastStore(nginx.url)), CORNER)[0] == INDEX["end"]


@pytest.mark.parametrize("selection", ["oindex", "vindex", "mask", "blocks", "step"])
def test_no_selection_reads_an_index_again(nginx: Site, selection: str) -> None:
    nginx.write(stored(), age=AGE)
    array = opened(FastStore(nginx.url))
    np.testing.assert_array_equal(array[:32, :32], VALUES[:32, :32])
    rows, columns = np.array([1, 30, 9]), np.array([2, 17, 0])
    mask = np.zeros(SHAPE, bool)
    mask[rows, columns] = True
    reads: dict[str, tuple[Callable[[], Any], npt.NDArray[Any]]] = {
        "oindex": (lambda: array.oindex[rows, columns], VALUES[np.ix_(rows, columns)]),
        "vindex": (lambda: array.vindex[rows, columns], VALUES[rows, columns]),
        "mask": (lambda: array.get_mask_selection(mask), VALUES[mask]),
        "blocks": (lambda: array.blocks[0, 0], VALUES[:32, :32]),
        "step": (lambda: array[1:32:5, :32:9], VALUES[1:32:5, :32:9]),
    }
    read, expected = reads[selection]
    found = asked(nginx, lambda: np.testing.assert_array_equal(read(), expected))
    assert found
    assert INDEX["end"] not in {request.range for request in found}


WINDOWS: list[Window] = [
    np.s_[0:8, 0:32],
    np.s_[0:32, 0:8],
    np.s_[8:24, 8:24],
    np.s_[0:9, 0:25],
    np.s_[31:32, 31:32],
]


@pytest.mark.parametrize("gap", [0, 256, 600, 1 << 16])
@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("location", LOCATIONS)
def test_inner_chunks_that_are_near_are_one_get(
    nginx: Site, gap: int, coder: str, location: str
) -> None:
    objects = stored(coder=coder, location=location)
    nginx.write(objects, age=AGE)
    array = opened(FastStore(nginx.url, coalesce_gap=gap))
    ranges(nginx, array, CORNER)
    for window in WINDOWS:
        expected = runs(wanted(objects, window, location), gap)
        assert sorted(ranges(nginx, array, window), key=str) == sorted(expected)


def test_no_get_is_longer_than_it_may_be(nginx: Site) -> None:
    objects = stored()
    nginx.write(objects, age=AGE)
    inner = INNER[0] * INNER[1] * 4
    array = opened(FastStore(nginx.url, coalesce_gap=1 << 16, coalesce_size=3 * inner))
    ranges(nginx, array, CORNER)
    found = ranges(nginx, array, np.s_[0:16, 0:16])
    (whole,) = runs(wanted(objects, np.s_[0:16, 0:16]), 0)
    start, last = map(int, whole.removeprefix("bytes=").split("-"))
    middle = start + 2 * inner
    assert sorted(found) == sorted([f"bytes={start}-{middle - 1}", f"bytes={middle}-{last}"])


def test_what_a_shard_does_not_hold_is_not_asked_for(nginx: Site) -> None:
    values = VALUES.copy()
    values[0:8, 0:16] = 7
    values[32:, 32:] = 7
    nginx.write(stored(values), age=AGE)
    store = FastStore(nginx.url)
    array = opened(store)
    found = asked(nginx, lambda: np.testing.assert_array_equal(array[0:8, 0:16], 7))
    assert [request.range for request in found] == [INDEX["end"]]
    # Not even where the index is kept; but whether the object is still the same.
    found = asked(nginx, lambda: np.testing.assert_array_equal(array[0:4, 3:9], 7))
    assert [(request.range, request.status) for request in found] == [("bytes=0-0", 206)]
    # A shard that is not there has no index to keep.
    for _ in range(2):
        found = asked(nginx, lambda: np.testing.assert_array_equal(array[40:48, 40:48], 7))
        assert [(request.range, request.status) for request in found] == [(INDEX["end"], 404)]
    nginx.write({"a/c/1/1": stored()["a/c/1/1"]}, age=AGE)
    np.testing.assert_array_equal(array[40:48, 40:48], VALUES[40:48, 40:48])


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("suffix_ranges", [True, False])
def test_an_empty_object_is_no_shard(nginx: Site, location: str, suffix_ranges: bool) -> None:
    """A write that was cut short is no shard without chunks: zarr deletes those."""
    nginx.write(stored(location=location) | {FIRST: b""}, age=AGE)
    array = opened(FastStore(nginx.url, suffix_ranges=suffix_ranges))
    for window in (np.s_[:], np.s_[:32, :32], CORNER, np.s_[30:34, 30:34], np.s_[3, 3]):
        with pytest.raises(CorruptError, match="shorter than its index"):
            array[window]
    np.testing.assert_array_equal(array[32:], VALUES[32:])


def test_indexes_that_have_no_room_are_read_again(nginx: Site) -> None:
    nginx.write(stored(), age=AGE)
    with zfast.config.set(index_cache_size=0):
        array = opened(FastStore(nginx.url))
        for _ in range(2):
            assert INDEX["end"] in ranges(nginx, array, CORNER)
    room = 2 * (16 * COUNT + 600)
    # The last of them: to read what is known keeps it.
    for shards in ((0, 1, 2, 3, 3, 2), (0, 2, 1, 2, 3)):
        with zfast.config.set(index_cache_size=room):
            array = opened(FastStore(nginx.url))
        for shard in shards:
            row, column = (32 * part for part in divmod(shard, 2))
            ranges(nginx, array, np.s_[row : row + 1, column : column + 1])
        # The two used last are known, the others are not.
        assert INDEX["end"] not in ranges(nginx, array, np.s_[40:41, :])
        assert INDEX["end"] in ranges(nginx, array, CORNER)


# ----------------------------------------------------------------------------------------- at once


def windows_of_one_shard() -> list[Window]:
    return [np.s_[at : at + 1, (5 * at) % 25 : (5 * at) % 25 + 8] for at in range(READERS)]


def test_readers_at_once_share_one_index_request(nginx: Site) -> None:
    nginx.write(stored(), age=AGE)
    array = opened(FastStore(nginx.url))

    def read() -> None:
        windows = windows_of_one_shard()
        for window, got in zip(windows, read_at_once(array, windows), strict=True):
            np.testing.assert_array_equal(got, VALUES[window])

    found = [request.range for request in asked(nginx, read)]
    assert found.count(INDEX["end"]) == 1
    # A window touches one inner chunk or two, which may be apart.
    assert READERS <= len(found) - 1 <= 2 * READERS


@pytest.fixture
def turns_at_every_step() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("turns_at_every_step")
def test_readers_in_loops_of_their_own_share_one_index_request(nginx: Site) -> None:
    nginx.write(stored(), age=AGE)

    def read_by_loops(array: Any) -> None:
        meet = threading.Barrier(READERS)

        async def read(window: Window) -> None:
            meet.wait(60)
            np.testing.assert_array_equal(await array.getitem(window), VALUES[window])

        with ThreadPoolExecutor(READERS) as threads:
            list(threads.map(lambda window: asyncio.run(read(window)), windows_of_one_shard()))

    for _ in range(10):
        array = opened(FastStore(nginx.url)).async_array
        found = asked(nginx, functools.partial(read_by_loops, array))
        assert [request.range for request in found].count(INDEX["end"]) == 1


def test_readers_that_come_while_an_index_is_read_wait_for_it(scripted: Scripted) -> None:
    serve = ranged(stored())
    go_on = threading.Event()

    def handle(request: Request) -> Any:
        return (Wait(go_on), serve(request)) if is_index(request) else serve(request)

    server = scripted(handle)
    array = opened(FastStore(server.url))
    windows = windows_of_one_shard()
    with ThreadPoolExecutor(1) as aside, set_at_last(go_on):
        reading = aside.submit(read_at_once, array, windows)
        server.wait_for(lambda: count(server.requests, is_index) >= 1)
        with pytest.raises(TimeoutError):
            server.wait_for(lambda: count(server.requests, is_index) > 1, timeout=0.3)
        assert count(server.requests, is_run) == 0
        go_on.set()
        for window, got in zip(windows, reading.result(), strict=True):
            np.testing.assert_array_equal(got, VALUES[window])
    assert count(server.requests, is_index) == 1


@pytest.mark.parametrize("code", [403, 500])
def test_an_index_that_cannot_be_had_fails_all_that_wait_and_is_not_kept(
    scripted: Scripted, code: int
) -> None:
    serve = ranged(stored())
    broken = threading.Event()
    broken.set()
    go_on = threading.Event()

    def handle(request: Request) -> Any:
        fails = is_index(request) and broken.is_set()
        return (Wait(go_on), status(code)) if fails else serve(request)

    server = scripted(handle)
    array = opened(FastStore(server.url, retries=0))
    windows = windows_of_one_shard()
    with ThreadPoolExecutor(1) as aside, set_at_last(go_on):
        reading = aside.submit(read_at_once, array, windows)
        server.wait_for(lambda: count(server.requests, is_index) >= 1)
        go_on.set()
        for got in reading.result():
            assert isinstance(got, zfast.ZfastError)
            assert got.status == code
            assert got.key == FIRST
    broken.clear()
    np.testing.assert_array_equal(array[CORNER], VALUES[CORNER])


def test_indexes_of_different_shards_are_read_at_once(scripted: Scripted) -> None:
    serve = ranged(stored())
    go_on = threading.Event()

    def handle(request: Request) -> Any:
        return (Wait(go_on), serve(request)) if is_index(request) else serve(request)

    server = scripted(handle)
    array = opened(FastStore(server.url))
    with ThreadPoolExecutor(1) as aside, set_at_last(go_on):
        reading = aside.submit(array.__getitem__, np.s_[20:40, 20:40])
        server.wait_for(lambda: server.waiting == 4)
        go_on.set()
        np.testing.assert_array_equal(reading.result(), VALUES[20:40, 20:40])


def test_chunks_are_read_as_soon_as_their_index_is_there(scripted: Scripted) -> None:
    serve = ranged(stored())
    go_on = threading.Event()

    def handle(request: Request) -> Any:
        late = is_index(request) and request.key == FIRST
        return (Wait(go_on), serve(request)) if late else serve(request)

    server = scripted(handle)
    array = opened(FastStore(server.url))
    with ThreadPoolExecutor(1) as aside, set_at_last(go_on):
        reading = aside.submit(array.__getitem__, np.s_[20:40, 20:40])
        server.wait_for(lambda: len({r.key for r in server.requests if is_run(r)}) == 3)
        go_on.set()
        np.testing.assert_array_equal(reading.result(), VALUES[20:40, 20:40])


# ------------------------------------------------------------------- servers without suffix ranges


def suffixless(objects: dict[str, bytes]) -> Handler:
    """As Azure does: a range that counts from the end is ignored."""
    serve = ranged(objects)

    def handle(request: Request) -> Reply:
        if (request.range or "").startswith("bytes=-"):
            request = replace(request, fields=request.fields.without("Range"))
        return serve(request)

    return handle


@pytest.mark.parametrize("known", [False, True], ids=["found out", "by setting"])
def test_a_server_without_suffix_ranges_is_asked_for_sizes(scripted: Scripted, known: bool) -> None:
    objects = stored()
    server = scripted(suffixless(objects))
    with zfast.config.set(suffix_ranges=not known):
        array = opened(FastStore(server.url))
        # One shard, that this is found out at; then all, with an index each, and once more.
        np.testing.assert_array_equal(array[CORNER], VALUES[CORNER])
        for _ in range(2):
            np.testing.assert_array_equal(array[20:40, 20:40], VALUES[20:40, 20:40])
    found = [request.range or "whole" for request in server.requests if "/c/" in request.key]
    assert sum(asked.startswith("bytes=-") for asked in found) == (not known)
    size = len(objects[FIRST])
    index = f"bytes={size - index_size(COUNT)}-{size - 1}"
    assert found.count(index) == 4
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_server_without_ranges_gives_shards_whole(scripted: Scripted, location: str) -> None:
    serve = ranged(stored(location=location))

    def handle(request: Request) -> Reply:
        return serve(replace(request, fields=request.fields.without("Range")))

    server = scripted(handle)
    array = opened(FastStore(server.url))
    for window in (CORNER, np.s_[:], np.s_[20:40, 20:40]):
        before = len(server.requests)
        np.testing.assert_array_equal(array[window], VALUES[window])
    # Nothing is kept of the shards, but that there is no other way is.
    assert [request.range for request in server.requests[before:]] == [None] * 4
