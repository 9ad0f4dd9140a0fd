"""What goes wrong on the way of a chunk is made good, or is an error: never wrong data."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
from servers.scripted import Fin, Reply, Request, Reset, overlay, ranged, status

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from few_chunks import FIRST, OTHERS, SHARDED, VALUES, WAYS, Start, is_content, opened, stored
from promises import at_once

import zfast
from zfast import FastStore
from zfast.errors import CorruptError

PLAIN = ["direct", "streamed"]
"""Ways whose bytes are in the output before all of them have come."""

WINDOWS = [np.s_[:, :], np.s_[10:200, 30:97], np.s_[5::7, ::3], np.s_[3, 4]]


class Unreliable:
    """Cuts, resets, refuses and re-frames what it serves of an array, at random.

    Parameters
    ----------
    seed
        Of the dice.
    share
        Of the replies that are spoilt.
    tags
        Whether it says entity tags, so that a reply that was cut can be resumed.
    """

    def __init__(self, seed: int, share: float, tags: bool) -> None:
        self._dice = random.Random(seed)
        self._share = share
        self._tags = tags
        self._lock = threading.Lock()
        self.spoilt = 0

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        """The reply in place of the right one."""
        if "/c/" not in request.key or reply.status not in (200, 206):
            return None
        if not self._tags:
            reply = reply.with_fields(etag=None)
        with self._lock:
            reply = self._framed(reply)
            if self._dice.random() >= self._share:
                return reply
            self.spoilt += 1
            ending = self._dice.choice([Fin(), Reset()])
            kind = self._dice.randrange(4)
            if kind == 0:
                return status(503)
            if kind == 1:
                return reply.cut(self._dice.randrange(1, len(reply.wire_head())), ending)
            return reply.cut_body(self._dice.randrange(len(reply.wire_body())), ending)

    def _framed(self, reply: Reply) -> Reply:
        kind = self._dice.randrange(4)
        return reply.chunked(self._dice.choice([7001, 1 << 16])) if kind == 0 else reply


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("way", WAYS)
def test_an_unreliable_server(scripted: Start, way: str, tags: bool, seed: int) -> None:
    unreliable = Unreliable(seed, 0.4, tags)
    server = scripted(overlay(ranged(stored(way)), unreliable))
    patient = opened(FastStore(server.url, retries=at_once(60, status_forcelist=[503])))
    for window in WINDOWS:
        np.testing.assert_array_equal(patient[window], VALUES[window])
    hasty = opened(FastStore(server.url, retries=at_once(1, status_forcelist=[503])))
    failures = []
    for window in WINDOWS * 3:
        try:
            got = hasty[window]
        except zfast.ZfastError as error:
            failures.append(error)
        else:
            np.testing.assert_array_equal(got, VALUES[window])
    assert failures
    assert all((error.key or "").startswith("a/c/") for error in failures)
    assert unreliable.spoilt > 10


def cut_once(reached: int, ending: Any, **fields: str | None) -> Any:
    """Cuts the first reply with content; sets fields of all."""
    left = [True]

    def fault(request: Request, reply: Reply) -> Reply | None:
        if not is_content(request):
            return None
        reply = reply.with_fields(**fields)
        if request.key != FIRST or not left:
            return reply
        left.clear()
        return reply.cut_body(reached, ending)

    return fault


@pytest.mark.parametrize("ending", [Fin(), Reset()], ids=["fin", "reset"])
@pytest.mark.parametrize("reached", [1, 511, 4099, 30_000, 65_535])
@pytest.mark.parametrize("way", [*PLAIN, "sharded"])
def test_what_was_cut_is_resumed_in_mid_chunk(
    scripted: Start, way: str, reached: int, ending: Any
) -> None:
    correct = ranged(stored(way))
    server = scripted(overlay(correct, cut_once(reached, ending)))
    store = FastStore(server.url, retries=at_once())
    np.testing.assert_array_equal(opened(store)[...], VALUES)
    first, second = [r for r in server.requests if r.key == FIRST and is_content(r)]
    begun = 0 if first.range is None else int(first.range.removeprefix("bytes=").split("-")[0])
    assert second.range is not None
    assert second.range.startswith(f"bytes={begun + reached}-")
    assert second.field("If-Range") == correct.etag(FIRST)
    assert store._client.stats()["resumed"] == 1


@pytest.mark.parametrize("tag", [None, 'W/"weak"'], ids=["no tag", "weak tag"])
@pytest.mark.parametrize("reached", [1, 4099, 65_535])
@pytest.mark.parametrize("way", PLAIN)
def test_what_was_cut_and_has_no_strong_tag_is_read_again(
    scripted: Start, way: str, reached: int, tag: str | None
) -> None:
    server = scripted(overlay(ranged(stored(way)), cut_once(reached, Fin(), etag=tag)))
    np.testing.assert_array_equal(opened(FastStore(server.url, retries=at_once()))[...], VALUES)
    assert [r.range for r in server.requests if r.key == FIRST] == [None, None]


@pytest.mark.parametrize("then", ["replaced", "deleted", "of another size"])
@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("reached", [700, 40_000])
@pytest.mark.parametrize("way", PLAIN)
def test_a_chunk_that_is_replaced_after_it_was_cut_is_one_version(
    scripted: Start, way: str, reached: int, tags: bool, then: str
) -> None:
    """Not a byte of the former one stays in the output."""
    objects = stored(way)
    others = stored(way, OTHERS)[FIRST]
    cut = cut_once(reached, Fin(), **({} if tags else {"etag": None}))

    def fault(request: Request, reply: Reply) -> Reply | None:
        fault = cut(request, reply)
        if fault is not None and fault.ending is not None:
            del objects[FIRST]
            if then != "deleted":
                objects[FIRST] = others if then == "replaced" else others[:-4]
        return fault  # type: ignore[no-any-return]

    server = scripted(overlay(ranged(objects), fault))
    array = opened(FastStore(server.url, retries=at_once()))
    if then == "of another size":
        with pytest.raises(CorruptError) as caught:
            array[...]
        assert caught.value.key == FIRST
        return
    first = np.s_[: 64 if way == "direct" else 128, : 256 if way == "direct" else 128]
    expected = VALUES.copy()
    expected[first] = OTHERS[first] if then == "replaced" else 7
    np.testing.assert_array_equal(array[...], expected)


@pytest.mark.parametrize("way", SHARDED)
def test_a_run_that_is_cut_while_its_shard_is_replaced(scripted: Start, way: str) -> None:
    objects = stored(way)
    cut = cut_once(3000, Reset())

    def fault(request: Request, reply: Reply) -> Reply | None:
        fault = cut(request, reply)
        if fault is not None and fault.ending is not None:
            objects[FIRST] = stored(way, OTHERS)[FIRST]
        return fault  # type: ignore[no-any-return]

    server = scripted(overlay(ranged(objects), fault))
    array = opened(FastStore(server.url, retries=at_once()))
    expected = VALUES.copy()
    expected[:128, :128] = OTHERS[:128, :128]
    np.testing.assert_array_equal(array[...], expected)


@pytest.mark.parametrize("way", ["compressed", "sharded"])
@pytest.mark.parametrize("framing", ["announced", "endless"])
def test_a_body_that_no_chunk_has(scripted: Start, way: str, framing: str) -> None:
    """It is not taken in, however long it goes on: it is no chunk."""
    objects = stored(way)
    taken = []

    def handle(request: Request) -> Any:
        if not is_content(request):
            return ranged(objects)(request)
        if framing == "announced":
            return Reply(200, fields={"Content-Length": str(1 << 40)}).wire_head()
        block = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

        def endless() -> Any:
            yield head
            for _ in range(4096):
                taken.append(len(block))
                yield block

        return endless()

    with scripted(handle) as server:
        array = opened(FastStore(server.url, retries=at_once(1), deadline=30))
        with pytest.raises(CorruptError, match="longer than the"):
            array[:8, :8]
    # Of 256 MiB.
    assert sum(taken) < 128 << 20
