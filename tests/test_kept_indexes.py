"""What a store keeps of shards is never taken for what they are now, nor for another array's."""

from __future__ import annotations

import json
import sys
import time
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest
from servers.scripted import Reply, Request, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import zarr
from arrays import bytes_codec, format_3, named, sharding
from sharded_array import (
    CODERS,
    CORNER,
    COUNT,
    FIRST,
    INDEX,
    Scripted,
    asked,
    opened,
)
from shards import numbered, objects_of, read_index, with_index

import zfast
from zfast import FastStore

SHARD = (32, 32)
VALUES = numbered(SHARD)
FILL = 7.0
TAGS = ["strong", "none"]


def one_shard(
    values: Any = VALUES,
    *,
    inner: tuple[int, int] = (8, 8),
    coder: str = "raw",
    location: str = "end",
    checksum: bool = True,
) -> dict[str, bytes]:
    codec = sharding(
        inner,
        [bytes_codec(), *CODERS[coder]],
        location=location,
        index_codecs=[bytes_codec(), named("crc32c")] if checksum else [bytes_codec()],
    )
    return objects_of(format_3(SHARD, [SHARD, inner], "<f4", [codec], fill=FILL), values)


def check(array: Any, values: Any, window: Any) -> None:
    np.testing.assert_array_equal(array[window], values[window])


def serving(objects: dict[str, bytes], tag: str) -> Any:
    """A handler of objects, with or without their tags."""
    serve = ranged(objects)
    return serve if tag == "strong" else lambda request: serve(request).with_fields(etag=None)


# ------------------------------------------------------------------------------- of another state


def test_inner_chunks_that_somebody_adds(nginx: Site) -> None:
    """Where a kept index has nothing, nothing would be asked for; it is asked whether it holds."""
    values = np.full(SHARD, FILL, "f4")
    values[:8, :8] = VALUES[:8, :8]
    nginx.write(one_shard(values), age=100)
    array = opened(FastStore(nginx.url))
    np.testing.assert_array_equal(array[0:8, 0:16], values[0:8, 0:16])
    for column in (8, 16, 24):
        added = np.s_[0:8, column : column + 8]
        np.testing.assert_array_equal(array[added], FILL)
        values[added] = VALUES[added]
        nginx.write(one_shard(values), age=100 - column)
        found = asked(nginx, lambda added=added: check(array, values, added))
        assert [(request.range, request.status) for request in found][:2] == [
            ("bytes=0-0", 412),
            (INDEX["end"], 206),
        ]


def test_inner_chunks_that_somebody_adds_where_tags_are_weak(scripted: Scripted) -> None:
    """They are no condition that a request could have, but they are compared."""
    values = np.full(SHARD, FILL, "f4")
    values[:8, :8] = VALUES[:8, :8]
    objects = one_shard(values)
    serve = ranged(objects)

    def weakly(request: Request) -> Reply:
        reply = serve(request)
        tag = reply.field("ETag")
        return reply if tag is None else reply.with_fields(etag=f"W/{tag}")

    array = opened(FastStore(scripted(weakly).url))
    np.testing.assert_array_equal(array[0:8, 0:16], values[0:8, 0:16])
    values[0:8, 8:16] = VALUES[0:8, 8:16]
    objects.update(one_shard(values))
    check(array, values, np.s_[0:8, 8:16])


def test_a_shard_that_is_deleted_where_it_had_nothing(nginx: Site) -> None:
    values = np.full(SHARD, FILL, "f4")
    values[:8, :8] = 1
    nginx.write(one_shard(values))
    array = opened(FastStore(nginx.url))
    np.testing.assert_array_equal(array[...], values)
    (nginx.root / FIRST).unlink()
    np.testing.assert_array_equal(array[8:16, 8:16], FILL)
    np.testing.assert_array_equal(array[...], FILL)


def test_a_shard_that_a_cache_had_when_it_was_new(scripted: Scripted) -> None:
    """Its Date stays the origin's; its inner chunks are read by ranges all the same."""
    serve = ranged(one_shard())
    then = formatdate(time.time() - 3600, usegmt=True)
    server = scripted(
        lambda request: serve(request).with_fields(date=then, last_modified=then, age="3600")
    )
    array = opened(FastStore(server.url))
    for pause in (0, 2.1):
        time.sleep(pause)
        check(array, VALUES, CORNER)
    before = len(server.requests)
    for _ in range(2):
        check(array, VALUES, CORNER)
    assert None not in [request.range for request in server.requests[before:]]


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("tag", TAGS)
def test_an_index_that_is_mended(scripted: Scripted, coder: str, tag: str) -> None:
    right = one_shard(coder=coder)
    pairs = read_index(right[FIRST], COUNT)
    pairs[0] = pairs[0][0], 0
    objects = right | {FIRST: with_index(right[FIRST], pairs)}
    server = scripted(serving(objects, tag))
    array = opened(FastStore(server.url))
    for _ in range(2):
        with pytest.raises(zfast.errors.CorruptError, match="its size is not a chunk's"):
            array[CORNER]
    objects[FIRST] = right[FIRST]
    np.testing.assert_array_equal(array[CORNER], VALUES[CORNER])
    objects.pop(FIRST)
    np.testing.assert_array_equal(array[CORNER], FILL)


# ------------------------------------------------------------------------------ of another array


FORMATS: dict[str, dict[str, Any]] = {
    "fewer and larger": {"inner": (16, 16)},
    "more and smaller": {"inner": (1, 2)},
    "other location": {"location": "start"},
    "no checksum": {"checksum": False},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("tag", TAGS)
def test_an_array_that_is_made_anew(scripted: Scripted, form: str, tag: str) -> None:
    """With another index behind the same key; then as it was, and so on."""
    objects = one_shard()
    server = scripted(serving(objects, tag))
    store = FastStore(server.url)
    np.testing.assert_array_equal(opened(store)[CORNER], VALUES[CORNER])
    for sign, options in ((-1, FORMATS[form]), (1, {}), (-1, FORMATS[form])):
        objects.update(one_shard(sign * VALUES, **options))
        array = opened(store)
        for window in (np.s_[24:, 24:], CORNER, np.s_[...]):
            np.testing.assert_array_equal(array[window], sign * VALUES[window])


def test_two_arrays_whose_keys_meet(scripted: Scripted) -> None:
    """One's index, of two inner chunks, is none of the other's hundred million."""
    values, most = np.arange(40, dtype="u1"), 100_000_000

    def layout(length: int, inner: int) -> Any:
        codec = sharding((inner,), [bytes_codec()])
        return format_3((length,), [(length,), (inner,)], "|u1", [codec])

    objects = objects_of(layout(40, 20), values)
    # a/c/0 is the first shard of "a", and of "a/c" as well, whose keys are those of format 2.
    keys = {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}}
    objects["a/c/zarr.json"] = json.dumps(layout(most, 1).document | keys).encode()
    store = FastStore(scripted(ranged(objects)).url)
    small = zarr.open_array(store=store, path="a", mode="r")
    large = zarr.open_array(store=store, path="a/c", mode="r")
    for _ in range(3):
        np.testing.assert_array_equal(small[5:], values[5:])
        with pytest.raises(zfast.errors.CorruptError, match="shorter than its index"):
            large[most - 5 :]


# ------------------------------------------------------------------------------------- selections


@pytest.mark.parametrize("step", [2**62, sys.maxsize - 8, sys.maxsize])
def test_a_step_as_large_as_numbers_are(nginx: Site, step: int) -> None:
    nginx.write(one_shard())
    array = opened(FastStore(nginx.url))
    for start in (0, 3, 8, 31):
        out = zarr.core.buffer.cpu.NDBuffer.from_numpy_array(np.full((1, 1), -1, "f4"))
        array.get_basic_selection(np.s_[start::step, start::step], out=out)
        assert out.as_numpy_array()[0, 0] == VALUES[start, start]
