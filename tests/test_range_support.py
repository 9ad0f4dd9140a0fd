"""An object whose ranges are ignored is asked for once, and no other pays for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr
from servers.scripted import Handler, Reply, Request, ScriptedServer, Stall, ok, ranged, status
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

import zfast
from zfast import Client, FastStore
from zfast.range_support import range_support

Start = Callable[..., ScriptedServer]

MIB = 1 << 20
LARGE = np.random.default_rng(5).bytes(8 * MIB)
FAR = [(0, 10), (8 * MIB - 10, 8 * MIB)]
AT_ENDS = [LARGE[:10], LARGE[-10:]]


def mostly_ranged(**objects: bytes) -> Handler:
    """Knows ranges, but for what is made on demand: the key "dynamic"."""
    correct = ranged({"large": LARGE, **objects})
    return lambda request: ok(b"{}" * 50) if request.key == "dynamic" else correct(request)


def ignorant(request: Request) -> Reply:
    """Knows no ranges."""
    return ok(LARGE)


class Sync:
    """Reads by a client."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = Client(url, **options)
        self.stats = self._client.stats

    def read(self, key: str, *ranges: Any) -> list[Any]:
        return self._client.get_ranges(key, ranges)


class Async:
    """Reads by a store, in one turn of a loop."""

    def __init__(self, url: str, **options: Any) -> None:
        self._store = FastStore(url, **options)
        self.stats = self._store.stats

    def read(self, key: str, *ranges: Any) -> list[Any]:
        async def read() -> list[Any]:
            reads = [
                self._store.get(key, default_buffer_prototype(), RangeByteRequest(*wanted))
                for wanted in ranges
            ]
            return await asyncio.gather(*reads)

        return [None if one is None else one.to_bytes() for one in asyncio.run(read())]


@pytest.fixture(params=[Sync, Async])
def reader(request: pytest.FixtureRequest) -> Any:
    return request.param


def ranges_of(server: ScriptedServer, key: str) -> list[str | None]:
    return [request.range for request in server.requests if request.key == key]


# ----------------------------------------------------------------------------------- other objects


@pytest.mark.parametrize("answered_before", [True, False])
def test_one_object_does_not_speak_for_others(
    scripted: Start, reader: Any, answered_before: bool
) -> None:
    server = scripted(mostly_ranged())
    reads = reader(server.url)
    if answered_before:
        reads.read("large", (5, 6))
    reads.read("dynamic", (0, 10))
    before = reads.stats()["bytes_received"]
    for _ in range(2):
        assert reads.read("large", *FAR) == AT_ENDS
    assert reads.stats()["bytes_received"] - before == 40
    assert None not in ranges_of(server, "large")


def test_ranges_from_the_end_speak_for_no_others(scripted: Start, reader: Any) -> None:
    correct = ranged({"large": LARGE})

    def handle(request: Request) -> Reply:
        return ok(LARGE) if (request.range or "").startswith("bytes=-") else correct(request)

    server = scripted(handle)
    reads = reader(server.url)
    for _ in range(2):
        assert Client(server.url).get("large", (-10, None)) == LARGE[-10:]
        before = reads.stats()["bytes_received"]
        assert reads.read("large", (0, 10), (20, 30)) == [LARGE[:10], LARGE[20:30]]
        assert reads.stats()["bytes_received"] - before == 20


def test_what_answers_ranges_again_is_read_by_ranges(scripted: Start, reader: Any) -> None:
    answers = iter([ok(LARGE)])
    correct = ranged({"large": LARGE})
    server = scripted(lambda request: next(answers, None) or correct(request))
    reads = reader(server.url)
    reads.read("large", (0, 10))
    reads.read("large", (0, 10))
    before = reads.stats()["bytes_received"]
    assert reads.read("large", *FAR) == AT_ENDS
    assert reads.stats()["bytes_received"] - before == 20


# --------------------------------------------------------------------------- origins without ranges


def test_each_new_object_comes_once(scripted: Start, reader: Any) -> None:
    reads = reader(scripted(ignorant).url)
    reads.read("first", (0, 10))
    wanted = [(start, start + 10) for start in range(0, 8 * MIB, MIB)]
    for key in ("second", "third"):
        before = reads.stats()["bytes_received"]
        assert reads.read(key, *wanted) == [LARGE[start:end] for start, end in wanted]
        assert reads.stats()["bytes_received"] - before < len(LARGE)


def test_beginnings_cost_no_more_than_alone(scripted: Start, reader: Any) -> None:
    reads = reader(scripted(ignorant).url)
    reads.read("key", (0, 10))
    before = reads.stats()["bytes_received"]
    wanted = [(0, 10 * count) for count in range(1, 20)]
    assert reads.read("key", *wanted) == [LARGE[:end] for _, end in wanted]
    assert reads.stats()["bytes_received"] - before == 190


@pytest.mark.parametrize("wanted", [[(5, 5), (7, 7)], [(0, 10), (0, 10)], [(5, 5), (0, 10)]])
def test_what_wants_little_gets_little(
    scripted: Start, reader: Any, wanted: list[tuple[int, int]]
) -> None:
    reads = reader(scripted(ignorant).url)
    reads.read("key", (0, 10))
    before = reads.stats()["bytes_received"]
    assert reads.read("key", *wanted) == [LARGE[start:end] for start, end in wanted]
    assert reads.stats()["bytes_received"] - before <= 20


def test_what_is_no_range_is_located(scripted: Start) -> None:
    client = Client(scripted(ignorant).url)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"read 1 of 'key': .* negative"):
            client.get_many([("key", (0, 10)), ("key", (-5, 10))])
        client.get("key", (0, 10))


def test_a_slow_object_holds_no_other_up(scripted: Start) -> None:
    """Whatever is not known of it."""

    def handle(request: Request) -> Any:
        return [Stall()] if request.key == "slow" else ok(LARGE)

    client = Client(scripted(handle).url, deadline=2)
    client.get("first", (0, 10))
    wanted = [("slow", (0, 10)), ("slow", (20, 30)), ("quick", (0, 10)), ("other", None)]
    found = client.get_many(wanted, on_error="return")
    assert [isinstance(one, zfast.DeadlineError) for one in found] == [True, True, False, False]
    assert found[2:] == [LARGE[:10], LARGE]


async def test_a_read_that_waits_can_be_cancelled(scripted: Start) -> None:
    server = scripted(ignorant)
    store = FastStore(server.url)
    prototype = default_buffer_prototype()
    await store.get("first", prototype, RangeByteRequest(0, 10))
    one, other = (
        asyncio.ensure_future(store.get("second", prototype, RangeByteRequest(0, end)))
        for end in (10, 20)
    )
    await asyncio.sleep(0)
    other.cancel()
    assert (await one).to_bytes() == LARGE[:10]
    with pytest.raises(asyncio.CancelledError):
        await other
    assert len(server.requests) == 2


# ---------------------------------------------------------------------------------- what is known


def test_stores_of_an_origin_share_what_is_known(
    scripted: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(ignorant)
    for _ in range(20):
        found = FastStore(server.url)._client.get_ranges("key", [(0, 10), (20, 30), (40, 50)])
        assert found == [LARGE[:10], LARGE[20:30], LARGE[40:50]]
    assert len(server.requests) == 3 + 19
    assert caplog.text.count("ignores byte ranges") == 1


def read_into(url: str) -> None:
    Client(url).read_into("key", (0, 10), bytearray(10))


def cat(url: str) -> None:
    zfast.cat_ranges([f"{url}/key?a=b#c"] * 5, 0, 10)


def window(url: str) -> None:
    zarr.open_array(FastStore(url), mode="r")[:1]


@pytest.mark.parametrize("read", [read_into, cat, window])
def test_every_way_to_read_says_so_once(
    scripted: Start, caplog: pytest.LogCaptureFixture, read: Callable[[str], None]
) -> None:
    objects: dict[str, Any] = {"key": LARGE}
    stored = zarr.create_array(
        MemoryStore(objects), shape=(4, MIB), chunks=(4, MIB), dtype="i1", compressors=None
    )
    stored[:] = 7
    bodies = {
        key: value if isinstance(value, bytes) else value.to_bytes()
        for key, value in objects.items()
    }
    server = scripted(
        lambda request: ok(bodies[request.key]) if request.key in bodies else status(404)
    )
    for _ in range(2):
        read(server.url)
    assert caplog.text.count(f"{server.url} ignores byte ranges") == 1


def test_of_some_origins_it_is_known_at_most() -> None:
    first = range_support("http://origin-0")
    for number in range(1, 500):
        range_support(f"http://origin-{number}")
        assert range_support("http://origin-1") is range_support("http://origin-1")
    assert range_support("http://origin-0") is not first
