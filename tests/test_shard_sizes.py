"""Shards where ranges cannot count from the end: their size is asked for, and may not change."""

from __future__ import annotations

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from servers.scripted import Reply, Request, Wait, ranged, status, unsatisfiable

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

import zarr
from arrays import bytes_codec, format_3, named, sharding
from sharded_array import CORNER, FIRST, VALUES, Scripted, opened, set_at_last, stored
from shards import make_index

from zfast import FastStore
from zfast._core.recipe import Recipe
from zfast.errors import ChangedError

OTHERS = -VALUES


@pytest.mark.parametrize("told", [False, True], ids=["size unknown", "size told"])
def test_all_shards_are_read_where_suffixes_are_refused(scripted: Scripted, told: bool) -> None:
    objects = stored()
    serve = ranged(objects)

    def handle(request: Request) -> Reply:
        if (request.range or "").startswith("bytes=-"):
            return unsatisfiable(len(objects[request.key])) if told else status(416)
        return serve(request)

    server = scripted(handle)
    array = opened(FastStore(server.url))
    np.testing.assert_array_equal(array[:], VALUES)
    asked = [request.range or "" for request in server.requests if "/c/" in request.key]
    assert asked.count("bytes=0-0") == (0 if told else 4)


def test_the_size_is_learned_where_suffixes_are_ignored(scripted: Scripted) -> None:
    serve = ranged(stored())

    def handle(request: Request) -> Reply:
        if (request.range or "").startswith("bytes=-"):
            return serve(replace(request, fields=request.fields.without("Range")))
        return serve(request)

    server = scripted(handle)
    array = opened(FastStore(server.url))
    np.testing.assert_array_equal(array[CORNER], VALUES[CORNER])
    asked = [request.range for request in server.requests if request.key == FIRST]
    # Nothing is asked for whole, and no suffix twice.
    assert len(asked) == 3
    assert asked[0] is not None
    assert asked[0].startswith("bytes=-")
    assert all(part and not part.startswith("bytes=-") for part in asked[1:])
    np.testing.assert_array_equal(array[:], VALUES)
    assert sum((r.range or "").startswith("bytes=-") for r in server.requests) == 1


def test_a_shard_that_is_replaced_after_its_size_is_read_anew(scripted: Scripted) -> None:
    objects = stored()
    other = stored(OTHERS, coder="raw")[FIRST]
    serve = ranged(objects)

    def handle(request: Request) -> Reply:
        reply = serve(request)
        if request.key == FIRST and request.range == "bytes=0-0":
            objects[FIRST] = other
        return reply

    array = opened(FastStore(scripted(handle).url, suffix_ranges=False))
    np.testing.assert_array_equal(array[CORNER], OTHERS[CORNER])


def test_a_shard_whose_size_never_rests_is_an_error(scripted: Scripted) -> None:
    serve = ranged(stored())

    def handle(request: Request) -> Reply:
        if request.key == FIRST and request.range not in (None, "bytes=0-0"):
            return status(416)
        return serve(request)

    array = opened(FastStore(scripted(handle).url, suffix_ranges=False))
    with pytest.raises(ChangedError, match=FIRST):
        array[CORNER]


def test_a_read_after_a_write_does_not_share_an_index_of_before(scripted: Scripted) -> None:
    objects = stored()
    shard = objects.pop(FIRST)
    serve = ranged(objects, writable=True)
    go_on = threading.Event()

    def handle(request: Request) -> Any:
        reply = serve(request)
        if request.key == FIRST and reply.status == 404:
            return (Wait(go_on), reply)
        return reply

    server = scripted(handle)
    store = FastStore(server.url, read_only=False)
    array = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)
    with ThreadPoolExecutor(1) as aside, set_at_last(go_on):
        before = aside.submit(array.__getitem__, CORNER)
        server.wait_for(lambda: server.waiting == 1)
        store[FIRST] = shard
        np.testing.assert_array_equal(array[CORNER], VALUES[CORNER])
        go_on.set()
        np.testing.assert_array_equal(before.result(), np.full((8, 8), 7))


@pytest.mark.parametrize(
    "shape", [(4, 2**62), (2**62 + 1,), (2**20, 2**42 + 256), (2**63,), (2**40, 2**40, 2**40)]
)
def test_chunks_larger_than_any_memory_are_refused(shape: tuple[int, ...]) -> None:
    axes = tuple(range(len(shape)))
    with pytest.raises(ValueError, match="more than any memory"):
        Recipe(shape, axes, 4, 0, ())
    with pytest.raises(ValueError, match="more than any memory"):
        Recipe(shape, axes, 4, 0, (), Recipe((1,) * len(shape), axes, 4, 0, ()))


def test_shards_of_more_chunks_than_any_index_are_refused() -> None:
    with pytest.raises(ValueError, match="chunks"):
        Recipe((2**44,), (0,), 1, 0, (), Recipe((1,), (0,), 1, 0, ()))


def test_a_shard_of_tiny_chunks_is_longer_than_they_are_and_read_whole(scripted: Scripted) -> None:
    # What gzip makes of one byte is 21 times as long.
    count = 100_000
    values = np.arange(count) % 250
    frames = [gzip.compress(bytes([value])) for value in range(250)]
    pairs = [(at * len(frames[0]), len(frames[0])) for at in range(count)]
    index = make_index(pairs, checksum=False)
    codecs = [sharding((1,), [bytes_codec(), named("gzip", level=1)], index_codecs=[bytes_codec()])]
    layout = format_3((count,), [(count,), (1,)], "u1", codecs)
    objects = {
        "a/zarr.json": json.dumps(layout.document).encode(),
        "a/c/0": b"".join(frames[value] for value in values) + index,
    }
    serve = ranged(objects)
    server = scripted(
        lambda request: serve(replace(request, fields=request.fields.without("Range")))
    )
    array = zarr.open_array(store=FastStore(server.url), path="a", mode="r")
    np.testing.assert_array_equal(array[:], values)
