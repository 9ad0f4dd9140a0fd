"""`get_ranges` of a store: zarr 3.4's to the letter, under every zarr 3."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from servers.scripted import Request, ScriptedServer, ranged, status

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.storage import MemoryStore

import zfast
from zfast import FastStore

VALUE = b"0123456789"


def buffer(data: bytes) -> Buffer:
    return cpu.Buffer.from_bytes(data)


def content(found: Buffer | None) -> bytes | None:
    return None if found is None else found.to_bytes()


async def collect(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


ASKED = [
    RangeByteRequest(70, 80),
    RangeByteRequest(0, 10),
    None,
    RangeByteRequest(12, 20),
    RangeByteRequest(5, 15),
    SuffixByteRequest(4),
    RangeByteRequest(95, 200),
    RangeByteRequest(150, 160),
    RangeByteRequest(30, 30),
]
# What ends before it starts, and what no object is long enough for.
ODD = [
    RangeByteRequest(5, 3),
    RangeByteRequest(6, 8),
    RangeByteRequest(9, 2**64),
    RangeByteRequest(2**64, 2**65),
    OffsetByteRequest(2**63),
    SuffixByteRequest(2**63),
    RangeByteRequest(99, 2**63 - 1),
]


@pytest.mark.parametrize(
    ("gap", "size", "requests"),
    [(0, 1 << 20, 6), (10, 1 << 20, 5), (1 << 20, 1 << 20, 3), (1 << 20, 25, 7), (-1, 0, 9)],
)
@pytest.mark.parametrize("blocking", [False, True])
async def test_get_ranges(
    scripted: Callable[..., ScriptedServer], gap: int, size: int, requests: int, blocking: bool
) -> None:
    value = bytes(range(100))
    memory = MemoryStore({"k": buffer(value)})
    server = scripted(ranged({"k": value}))
    store = FastStore(server.url)
    prototype = default_buffer_prototype()
    options = {"prototype": prototype, "max_gap_bytes": gap, "max_coalesced_bytes": size}
    if blocking:
        groups = [store.get_ranges_sync("k", ASKED, **options)]
    else:
        groups = await collect(store.get_ranges("k", ASKED, **options))
        assert len(groups) == requests
    found = {index: content(part) for group in groups for index, part in group}
    assert found == {
        index: content(await memory.get("k", prototype, byte_range))
        for index, byte_range in enumerate(ASKED)
    }
    assert len(server.requests) == requests
    assert store.stats()["batches"] == 1


@pytest.mark.parametrize("gap", [0, 1 << 20])
@pytest.mark.parametrize("server", ["scripted", "nginx", "caddy", "apache"])
async def test_odd_ranges_are_what_they_are_in_memory_and_harm_no_other_read(
    request: pytest.FixtureRequest, server: str, gap: int
) -> None:
    value = bytes(range(100))
    place = request.getfixturevalue(server)
    if server == "scripted":
        place = place(ranged({"k": value}))
    else:
        place.write({"k": value})
    memory, store = MemoryStore({"k": buffer(value)}), FastStore(place.url)
    prototype = default_buffer_prototype()
    expected = [content(await memory.get("k", prototype, byte_range)) for byte_range in ODD]
    turn = await asyncio.gather(*(store.get("k", prototype, byte_range) for byte_range in ODD))
    assert [content(part) for part in turn] == expected
    options = {"prototype": prototype, "max_gap_bytes": gap, "max_coalesced_bytes": 2**70}
    groups = await collect(store.get_ranges("k", ODD, **options))
    once: Any = iter(ODD)
    groups_once = await collect(store.get_ranges("k", once, **options))
    for parts in (
        [pair for group in groups for pair in group],
        [pair for group in groups_once for pair in group],
        store.get_ranges_sync("k", ODD, **options),
        store.get_ranges_sync("k", (wanted for wanted in ODD), **options),
    ):
        assert [content(part) for _, part in sorted(parts)] == expected


SHARED_STARTS = [
    RangeByteRequest(20, 60),
    RangeByteRequest(20, 30),
    RangeByteRequest(20, 25),
    RangeByteRequest(0, 1),
    RangeByteRequest(61, 61),
]


@pytest.mark.skipif(not hasattr(Store, "get_ranges"), reason="zarr has no get_ranges before 3.3")
@pytest.mark.parametrize("asked", [ASKED, SHARED_STARTS], ids=["all kinds", "shared starts"])
@pytest.mark.parametrize(("gap", "size"), [(0, 1 << 20), (10, 1 << 20), (1 << 20, 25), (-1, 0)])
async def test_requests_and_order_are_zarrs(
    scripted: Callable[..., ScriptedServer], asked: Any, gap: int, size: int
) -> None:
    value = bytes(range(100))
    theirs: Any = MemoryStore({"k": buffer(value)})
    ours: Any = FastStore(scripted(ranged({"k": value})).url)
    options = {
        "prototype": default_buffer_prototype(),
        "max_gap_bytes": gap,
        "max_coalesced_bytes": size,
    }
    groups, flat = [], []
    for store in (theirs, ours):
        parts = await collect(store.get_ranges("k", asked, **options))
        groups.append(sorted([(index, content(part)) for index, part in group] for group in parts))
        flat.append(
            sorted((at, content(part)) for at, part in store.get_ranges_sync("k", asked, **options))
        )
    assert groups[0] == groups[1]
    assert flat[0] == flat[1]


async def test_get_ranges_of_a_missing_key(scripted: Callable[..., ScriptedServer]) -> None:
    """The sharding codec looks for a FileNotFoundError in a group."""
    store = FastStore(scripted(ranged({})).url)
    options = {"prototype": default_buffer_prototype()}
    with pytest.raises(BaseExceptionGroup) as caught:
        await collect(store.get_ranges("k", [RangeByteRequest(0, 1), None], **options))
    assert caught.value.split(FileNotFoundError)[1] is None
    with pytest.raises(BaseExceptionGroup) as caught:
        store.get_ranges_sync("k", [RangeByteRequest(0, 1), None], **options)
    assert caught.value.split(FileNotFoundError)[1] is None
    # A key that could only be a directory's is missing too.
    for key in ("", "k/"):
        with pytest.raises(BaseExceptionGroup) as caught:
            store.get_ranges_sync(key, [RangeByteRequest(0, 1)], **options)
        assert caught.value.split(FileNotFoundError)[1] is None
    assert store.get_ranges_sync("k", [], **options) == []
    assert await collect(store.get_ranges("k", [], **options)) == []


async def test_get_ranges_fails_as_a_group(scripted: Callable[..., ScriptedServer]) -> None:
    store = FastStore(scripted(lambda request: status(500)).url, retries=0)
    options = {"prototype": default_buffer_prototype(), "max_gap_bytes": -1}
    asked = [RangeByteRequest(start, start + 1) for start in range(20)]
    with pytest.raises(BaseExceptionGroup) as caught:
        await collect(store.get_ranges("k", asked, **options))
    (error,) = caught.value.exceptions
    assert isinstance(error, zfast.ResponseError)
    assert error.status == 500
    # As it is, which is what zarr's own does.
    with pytest.raises(zfast.ResponseError, match="500"):
        store.get_ranges_sync("k", asked, **options)
    with pytest.raises(BaseExceptionGroup) as caught:
        await collect(store.get_ranges("k", [(0, 1)], **options))  # type: ignore[list-item]
    assert caught.value.split(ValueError)[1] is None
    with pytest.raises(ValueError, match="Unexpected byte_range"):
        store.get_ranges_sync("k", [(0, 1)], **options)  # type: ignore[list-item]


async def test_get_ranges_streams(scripted: Callable[..., ScriptedServer]) -> None:
    """What has arrived can be had while the rest is on its way; leaving ends that."""
    release = threading.Event()

    def handler(request: Request) -> Any:
        if request.field("Range") == "bytes=0-0":
            assert release.wait(30)
        return ranged({"k": VALUE})(request)

    store = FastStore(scripted(handler).url)
    asked = [RangeByteRequest(0, 1), RangeByteRequest(5, 6), SuffixByteRequest(2)]
    options = {"prototype": default_buffer_prototype(), "max_gap_bytes": 0}
    try:
        groups = store.get_ranges("k", asked, **options)
        parts = [(await anext(groups))[0], (await anext(groups))[0]]
        assert {index: content(part) for index, part in parts} == {1: b"5", 2: b"89"}
        await groups.aclose()
    finally:
        release.set()


@pytest.mark.parametrize("most", [1, 3])
async def test_get_ranges_keeps_to_the_callers_concurrency(
    scripted: Callable[..., ScriptedServer], most: int
) -> None:
    meeting, lock = threading.Barrier(most), threading.Lock()
    now, peak = 0, 0

    def handler(request: Request) -> Any:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        # Fewer at once would wait here for ever.
        meeting.wait(30)
        with lock:
            now -= 1
        return ranged({"k": bytes(range(100))})(request)

    store = FastStore(scripted(handler).url)
    asked = [RangeByteRequest(10 * index, 10 * index + 1) for index in range(3 * most)]
    options: dict[str, Any] = {"prototype": default_buffer_prototype(), "max_gap_bytes": 0}
    groups = await collect(store.get_ranges("k", asked, max_concurrency=most, **options))
    assert {index: content(part) for ((index, part),) in groups} == {
        index: bytes([10 * index]) for index in range(3 * most)
    }
    assert peak == most
    with pytest.raises(BaseExceptionGroup, match="could not be read"):
        await collect(store.get_ranges("k", asked, max_concurrency=0, **options))
