"""A read gives one version of a shard, or an error, whatever happens to the shard meanwhile."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from servers.scripted import Reply, Request, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import zarr
from sharded_array import (
    CODERS,
    CORNER,
    COUNT,
    FIRST,
    INDEX,
    READERS,
    SHAPE,
    VALUES,
    Scripted,
    asked,
    count,
    is_index,
    is_run,
    opened,
    ranges,
    read_at_once,
    stored,
    wanted,
)
from shards import index_size, numbered, runs

import zfast
from zfast import FastStore

OTHERS = numbered(SHAPE, -1)


APART = np.s_[0:8, 0:32]
"""A window of four inner chunks, no two of them neighbours in the shard."""

WITHOUT_HEED = {
    "strong": "ETags and If-Match",
    "weak": "weak ETags, which match nothing",
    "deaf": "ETags, but no heed to If-Match",
    "untagged": "no ETags: only the size tells versions apart",
}


class Changing:
    """Serves an array of one shard that is replaced when its inner chunks are asked for.

    Parameters
    ----------
    objects
        The array.
    new
        The shard that it has then, None: it is deleted.
    kind
        What the server says of versions, a key of `WITHOUT_HEED`.
    before
        The number, from 0, of the request for inner chunks before which it is replaced; None:
        before each of them, the old one after the new one.
    """

    def __init__(
        self, objects: dict[str, bytes], new: bytes | None, kind: str, before: int | None = 0
    ) -> None:
        self.objects = dict(objects)
        self.kind = kind
        self._other = new
        self._before = before
        self._runs = 0
        self._serve = ranged(self.objects)
        self._lock = threading.Lock()

    def change(self) -> None:
        """Replace the shard by the other one."""
        former = self.objects.pop(FIRST, None)
        if self._other is not None:
            self.objects[FIRST] = self._other
        self._other = former

    def __call__(self, request: Request) -> Reply:
        """The reply, out of one version."""
        with self._lock:
            if is_run(request):
                if self._before in (None, self._runs):
                    self.change()
                self._runs += 1
            return self._reply(request)

    def _reply(self, request: Request) -> Reply:
        if self.kind in ("deaf", "untagged"):
            request = replace(request, fields=request.fields.without("If-Match"))
        if self.kind == "weak":
            assert request.field("If-Match") is None, request
        reply = self._serve(request)
        tag = reply.field("ETag")
        if tag is not None and self.kind == "weak":
            return reply.with_fields(etag=f"W/{tag}")
        return reply.with_fields(etag=None) if self.kind == "untagged" else reply


class Rewritten(Changing):
    """Replaces the shard by one that was written in the same second, and has the same tag."""

    def _reply(self, request: Request) -> Reply:
        now = formatdate(usegmt=True)
        fields = {"etag": '"alike"', "date": now, "last_modified": now}
        return super()._reply(request).with_fields(**fields)


def one_shard(values: npt.NDArray[Any], coder: str) -> dict[str, bytes]:
    return stored(values[:32, :32], coder=coder)


def replacement(coder: str, values: npt.NDArray[Any] = OTHERS) -> bytes:
    """Another version of the first shard; of another size too, for servers without ETags."""
    shard = one_shard(values, coder)[FIRST]
    size = index_size(COUNT)
    return shard[:-size] + b"unused" + shard[-size:]


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", WITHOUT_HEED)
@pytest.mark.parametrize("coder", CODERS)
def test_a_shard_that_is_replaced_during_a_read_is_read_anew(
    scripted: Scripted, coder: str, kind: str, before: int
) -> None:
    objects = one_shard(VALUES, coder)
    assert len(runs(wanted(objects, APART), 0)) == 4
    server = scripted(Changing(objects, replacement(coder), kind, before))
    array = opened(FastStore(server.url, coalesce_gap=0))
    np.testing.assert_array_equal(array[APART], OTHERS[APART])
    assert count(server.requests, is_index) == 2
    assert count(server.requests, is_run) <= 8
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize("kind", WITHOUT_HEED)
def test_a_shard_that_is_replaced_by_a_short_one_is_read_anew(
    scripted: Scripted, kind: str
) -> None:
    """So short that what the index says lies behind its end."""
    constant = np.full(SHAPE, 5, "f4")
    new = one_shard(constant, "zstd")[FIRST]
    objects = one_shard(VALUES, "zstd")
    assert len(new) < min(offset for offset, _ in wanted(objects, np.s_[24:32, 24:32]))
    server = scripted(Changing(objects, new, kind))
    array = opened(FastStore(server.url))
    np.testing.assert_array_equal(array[24:32, 24:32], constant[24:32, 24:32])
    assert count(server.requests, is_index) == 2


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("kind", WITHOUT_HEED)
def test_a_shard_that_is_deleted_during_a_read_is_missing_whole(
    scripted: Scripted, kind: str, before: int
) -> None:
    server = scripted(Changing(one_shard(VALUES, "raw"), None, kind, before))
    array = opened(FastStore(server.url, coalesce_gap=0))
    np.testing.assert_array_equal(array[APART], np.full((8, 32), 7))
    assert count(server.requests, is_index) == 2


@pytest.mark.parametrize("kind", WITHOUT_HEED)
@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("deleted", [False, True], ids=["replaced", "deleted"])
def test_a_shard_that_changes_between_reads_is_read_anew(
    scripted: Scripted, coder: str, kind: str, deleted: bool
) -> None:
    new = None if deleted else replacement(coder)
    changing = Changing(one_shard(VALUES, coder), new, kind, before=-1)
    server = scripted(changing)
    array = opened(FastStore(server.url))
    np.testing.assert_array_equal(array[APART], VALUES[APART])
    changing.change()
    for _ in range(2):
        expected = np.full_like(VALUES, 7) if deleted else OTHERS
        np.testing.assert_array_equal(array[APART], expected[APART])
    # What is not there has no index to keep.
    assert count(server.requests, is_index) == 2 + deleted


@pytest.mark.parametrize("kind", ["strong", "weak", "deaf"])
def test_a_shard_that_never_rests_is_an_error(scripted: Scripted, kind: str) -> None:
    server = scripted(Changing(one_shard(VALUES, "raw"), replacement("raw"), kind, before=None))
    array = opened(FastStore(server.url))
    with pytest.raises(zfast.ChangedError) as caught:
        array[CORNER]
    assert caught.value.key == FIRST
    assert 2 <= count(server.requests, is_index) <= 8


def test_readers_of_a_shard_that_is_replaced_get_one_version_each(scripted: Scripted) -> None:
    changing = Changing(one_shard(VALUES, "raw"), replacement("raw"), "strong", before=9)
    server = scripted(changing)
    array = opened(FastStore(server.url, coalesce_gap=0))
    found = read_at_once(array, [APART] * READERS)
    old, new = (sum(np.array_equal(got, of[APART]) for got in found) for of in (VALUES, OTHERS))
    assert old + new == READERS
    assert new
    np.testing.assert_array_equal(array[APART], OTHERS[APART])


def test_a_replaced_file_of_a_real_server(nginx: Site) -> None:
    """Its ETag is made of time and size."""
    nginx.write(one_shard(VALUES, "raw"), age=20)
    array = opened(FastStore(nginx.url, coalesce_gap=1 << 16))
    ranges(nginx, array, CORNER)
    nginx.write({FIRST: replacement("raw")}, age=10)

    def read() -> None:
        np.testing.assert_array_equal(array[APART], OTHERS[APART])

    found = asked(nginx, read)
    again = asked(nginx, read)
    assert [(request.range == INDEX["end"], request.status) for request in found] == [
        (False, 412),
        (True, 206),
        (False, 206),
    ]
    assert [request.range for request in again] == [found[-1].range]


def test_an_index_of_what_was_just_written_is_not_kept(nginx: Site) -> None:
    """A tag of whole seconds need not tell a shard from the one before it, of the same length."""
    first, other = np.zeros_like(VALUES), np.zeros_like(VALUES)
    first[:8, :8], other[8:16, 8:16] = 1, 2
    objects, others = one_shard(first, "raw"), one_shard(other, "raw")
    assert len(objects[FIRST]) == len(others[FIRST])
    nginx.write(objects)
    array = opened(FastStore(nginx.url))
    written = time.time()
    os.utime(nginx.root / FIRST, (written, written))
    np.testing.assert_array_equal(array[:8, :8], first[:8, :8])
    nginx.write({FIRST: others[FIRST]})
    os.utime(nginx.root / FIRST, (written, written))
    found = asked(nginx, lambda: np.testing.assert_array_equal(array[:32, :32], other[:32, :32]))
    assert count(found, is_index) == 1
    # It is, when it is old enough.
    time.sleep(2.1)
    assert count(asked(nginx, lambda: array[8:16, 8:16]), is_index) == 1
    assert count(asked(nginx, lambda: array[8:16, 8:16]), is_index) == 0


def test_what_was_just_written_is_of_one_version(scripted: Scripted) -> None:
    """By the index of the one, the other's values would be where they never were."""
    first, other = np.zeros_like(VALUES), np.zeros_like(VALUES)
    first[:8, :8], other[8:16, 8:16] = 1, 2
    objects, new = one_shard(first, "raw"), one_shard(other, "raw")[FIRST]
    assert len(objects[FIRST]) == len(new)
    server = scripted(Rewritten(objects, new, "strong"))
    array = opened(FastStore(server.url))
    np.testing.assert_array_equal(array[:32, :32], other[:32, :32])
    assert [request.range for request in server.requests if "/c/" in request.key] == [
        INDEX["end"],
        None,
    ]


def test_what_a_store_writes_it_reads_with_the_new_index(scripted: Scripted) -> None:
    server = scripted(ranged(one_shard(VALUES, "zstd"), writable=True))
    store = FastStore(server.url, read_only=False)
    array = zarr.open_array(store=store, path="a", mode="r+", zarr_format=3)
    np.testing.assert_array_equal(array[APART], VALUES[APART])
    for value in (3, 4):
        array[4:12, 4:12] = value
        expected = VALUES[:32, :32].copy()
        expected[4:12, 4:12] = value
        np.testing.assert_array_equal(array[2:14, 2:14], expected[2:14, 2:14])
    asked_before = count(server.requests, is_index)
    np.testing.assert_array_equal(array[APART], expected[APART])
    assert count(server.requests, is_index) == asked_before
    array[...] = 7
    np.testing.assert_array_equal(array[APART], np.full((8, 32), 7))
