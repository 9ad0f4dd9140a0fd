"""The sharded array that the tests of requests read, and what they ask of its servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from arrays import Document, bytes_codec, format_3, named, sharding
from servers.scripted import Request, ScriptedServer
from servers.site import Site
from shards import cells_of, index_size, numbered, objects_of, read_index

import zfast
from zfast import FastStore

Scripted = Callable[..., ScriptedServer]
Window = tuple[slice, slice]

SHAPE, SHARD, INNER = (64, 64), (32, 32), (8, 8)
ACROSS = SHARD[1] // INNER[1]
COUNT = ACROSS * SHARD[0] // INNER[0]
VALUES = numbered(SHAPE)
FIRST = "a/c/0/0"
"""The key of the first shard."""

CODERS: dict[str, list[Document]] = {"raw": [], "zstd": [named("zstd", level=1, checksum=False)]}
LOCATIONS = ["end", "start"]
INDEX = {"end": f"bytes=-{index_size(COUNT)}", "start": f"bytes=0-{index_size(COUNT) - 1}"}

CORNER = np.s_[0:8, 0:8]
"""One inner chunk of the first shard."""


def stored(
    values: npt.NDArray[Any] = VALUES, *, coder: str = "raw", location: str = "end"
) -> dict[str, bytes]:
    codecs = sharding(INNER, [bytes_codec(), *CODERS[coder]], location=location)
    return objects_of(format_3(values.shape, [SHARD, INNER], "<f4", [codecs], fill=7.0), values)


def opened(store: FastStore) -> zarr.Array[Any]:
    return zarr.open_array(store=store, path="a", mode="r", zarr_format=3)


def asked(site: Site, read: Callable[[], object]) -> list[Any]:
    """The requests of a read, each for a byte range of a shard."""
    before = len(site.requests())
    read()
    found = site.requests()[before:]
    assert {request.method for request in found} <= {"GET"}
    return found


def ranges(site: Site, array: zarr.Array[Any], window: Any) -> list[str | None]:
    """What was asked for to read a window, which has the right values."""

    def read() -> None:
        np.testing.assert_array_equal(array[window], VALUES[window])

    found = asked(site, read)
    assert {request.status for request in found} <= {206}
    return [request.range for request in found]


def wanted(objects: dict[str, bytes], window: Window, location: str = "end") -> list[Any]:
    """Offset and size of the inner chunks of the first shard that a window needs."""
    pairs = read_index(objects[FIRST], COUNT, location=location)
    return [pairs[cell] for cell in cells_of(window, INNER, ACROSS)]


def is_index(request: Request) -> bool:
    return request.range in INDEX.values()


def is_run(request: Request) -> bool:
    return "/c/" in request.key and not is_index(request)


def count(requests: Iterable[Request], kind: Callable[[Request], bool]) -> int:
    return sum(map(kind, requests))


READERS = 32


@contextmanager
def set_at_last(event: threading.Event) -> Iterator[None]:
    """So that a test that fails leaves nobody waiting for it."""
    try:
        yield
    finally:
        event.set()


def read_at_once(array: zarr.Array[Any], windows: list[Window]) -> list[Any]:
    """What as many threads read as there are windows; an error in the place of a failed read."""
    start = threading.Barrier(len(windows))

    def read(window: Window) -> Any:
        start.wait()
        try:
            return array[window]
        except zfast.ZfastError as error:
            return error

    with ThreadPoolExecutor(len(windows)) as threads:
        return list(threads.map(read, windows))
