"""An array of a few chunks, stored in each of the ways that the core reads by a path of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from arrays import Document, bytes_codec, format_3, named, sharding
from servers.scripted import Request, ScriptedServer, Wait, ranged
from sharded_array import set_at_last
from shards import index_size, numbered, objects_of

from zfast import FastStore

Start = Callable[..., ScriptedServer]

SHAPE = (256, 256)
INNER = (32, 32)
VALUES = numbered(SHAPE)
OTHERS = numbered(SHAPE, -1)

_RAW, _ZSTD = [bytes_codec()], [bytes_codec(), named("zstd", level=1, checksum=False)]
_WAYS: dict[str, tuple[tuple[int, int], list[Document]]] = {
    "direct": ((64, 256), _RAW),
    "streamed": ((128, 128), _RAW),
    "compressed": ((128, 128), _ZSTD),
    "sharded": ((128, 128), [sharding(INNER, _RAW)]),
    "sharded, compressed": ((128, 128), [sharding(INNER, _ZSTD)]),
}
WAYS = list(_WAYS)
"""Received into the output; row by row; decoded; by the index of a shard, as it is or decoded."""
SHARDED = WAYS[-2:]
FIRST = "a/c/0/0"
"""The key of the first chunk or shard."""

_INDEX = f"bytes=-{index_size(16)}"


def stored(way: str, values: Any = VALUES, path: str = "a") -> dict[str, bytes]:
    """All objects of the array."""
    chunk, codecs = _WAYS[way]
    return objects_of(format_3(SHAPE, [chunk], "<f4", codecs, fill=7.0), values, path)


def opened(store: FastStore, path: str = "a") -> Any:
    return zarr.open_array(store=store, path=path, mode="r", zarr_format=3)


def is_index(request: Request) -> bool:
    return request.range == _INDEX


def is_content(request: Request) -> bool:
    """Whether it asks for a chunk, or for inner chunks."""
    return "/c/" in request.key and not is_index(request)


def of_first(request: Request) -> bool:
    return request.key == FIRST and is_content(request)


class Holding:
    """Serves an array, but holds a request in the middle of its answer until `gate` is set.

    Parameters
    ----------
    objects
        What it serves.
    holds
        Which requests; the first alone where `once`.
    """

    def __init__(
        self, objects: dict[str, bytes], holds: Callable[[Request], bool], once: bool = False
    ) -> None:
        self.gate = threading.Event()
        self._serve = ranged(objects)
        self._holds = holds
        self._left = 1 if once else 1 << 30

    def __call__(self, request: Request) -> Any:
        """The reply, at once or in two halves."""
        reply = self._serve(request)
        if not self._holds(request) or self._left == 0:
            return reply
        self._left -= 1
        wire = reply.wire()
        head = len(wire) - len(reply.body) // 2
        return [wire[:head], Wait(self.gate), wire[head:]]


@contextmanager
def held(scripted: Start, *arguments: Any, **options: Any) -> Iterator[tuple[Any, Holding]]:
    """A server and what it holds back, which goes on at the latest when the test is over."""
    holding = Holding(*arguments, **options)
    with set_at_last(holding.gate):
        yield scripted(holding), holding
