"""Reading an array takes little memory beside its output, however large it is and how often."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.script import run
from servers.scripted import ScriptedServer, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import zarr
from arrays import Document, blosc, bytes_codec, format_3, named, sharding
from linked_chunks import write
from shards import objects_of

from zfast import FastStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is Linux's")

MIB = 1 << 20
CONCURRENCY = 8
BESIDE_OUTPUT = 64 * MIB

_ZSTD = [bytes_codec(), named("zstd", level=1, checksum=False)]
KINDS: dict[str, tuple[int, list[Document]]] = {
    "zstd": (512, _ZSTD),
    "blosc": (512, [bytes_codec(), blosc("lz4", "shuffle", 4)]),
    "sharded zstd": (2048, [sharding((128, 128), _ZSTD)]),
}
"""Edge of a square chunk or shard, and its codecs."""

READ = """
    import sys, time
    import numpy as np
    import zarr, zfast
    from zfast._core.buffers import spare_memory

    def now(name):
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines[name].split()[0]) << 10

    url, edge, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = zfast.FastStore(url, max_concurrency=int(sys.argv[4]))
    array = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)
    # Threads, connections, modules.
    chunk = array[:edge, :edge]
    for _ in range(times):
        before = now("VmRSS")
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        out = array[...]
        print(now("VmHWM") - before - out.nbytes, flush=True)
        for row in range(0, array.shape[0], edge):
            for column in range(0, array.shape[1], edge):
                assert np.array_equal(out[row : row + edge, column : column + edge], chunk)
        del out
        # What is kept for the next read, and how much that is, is a matter of timing.
        while times > 1 and spare_memory():
            time.sleep(0.05)
        print(now("VmRSS"), flush=True)
    assert zfast.stats()["fallback_chunks"] == 0
"""


def read(
    site: Site, tmp_path: Path, edge: int, times: int = 1, **environment: str
) -> tuple[list[int], list[int]]:
    """Bytes beside the output at the peak of each read, and all there are after it."""
    arguments = map(str, (edge, times, CONCURRENCY))
    ended = run(tmp_path, READ, site.url, *arguments, **environment)
    assert (ended.code, ended.err) == (0, "")
    numbers = [*map(int, ended.out.split())]
    return numbers[::2], numbers[1::2]


def in_flight(site: Site) -> int:
    """Bytes of the bodies that are on their way at once, at most."""
    return CONCURRENCY * max(request.sent for request in site.requests() if "/c/" in request.key)


@pytest.mark.parametrize("mebibytes", [64, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_depend_on_the_size_of_the_array(
    nginx: Site, tmp_path: Path, kind: str, mebibytes: int
) -> None:
    edge, codecs = KINDS[kind]
    write(nginx, codecs, edge, {64: 4096, 256: 8192}[mebibytes] // edge)
    (beside,), _ = read(nginx, tmp_path, edge)
    assert beside < BESIDE_OUTPUT + in_flight(nginx)


def test_memory_does_not_depend_on_the_number_of_chunks(nginx: Site, tmp_path: Path) -> None:
    # 57600 of 4 KiB; zarr's own list of them takes 45 MiB.
    edge = 32
    write(nginx, [bytes_codec()], edge, 240)
    (beside,), _ = read(nginx, tmp_path, edge)
    assert beside < BESIDE_OUTPUT + in_flight(nginx)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_from_read_to_read(nginx: Site, tmp_path: Path, kind: str) -> None:
    edge, codecs = KINDS[kind]
    write(nginx, codecs, edge, 4096 // edge)
    _, after = read(nginx, tmp_path, edge, times=7, ZFAST_IDLE_TIMEOUT="0.1")
    # Five of them get 320 MiB.
    assert after[-1] - after[1] < 8 * MIB


def test_what_was_decoded_makes_room_for_more(scripted: Callable[..., ScriptedServer]) -> None:
    """However much that is in the life of a process: more than may wait at once."""
    layout = format_3((8, MIB), [(1, MIB)], "|u1", _ZSTD)
    values = np.random.default_rng(0).integers(0, 256, (8, MIB), "u1")
    server = scripted(ranged(objects_of(layout, values)))
    array = zarr.open_array(store=FastStore(server.url, deadline=20), path="a", mode="r")
    for _ in range(6):
        np.testing.assert_array_equal(array[...], values)


def test_bodies_that_come_faster_than_they_are_decoded_wait_in_the_sockets(
    nginx: Site, tmp_path: Path
) -> None:
    edge = 1024
    slow: list[Any] = [bytes_codec(), named("gzip", level=1)]
    write(nginx, slow, edge, 8)
    stored = os.path.getsize(nginx.root / "a/c/0/0")
    (beside,), _ = read(nginx, tmp_path, edge, ZFAST_DECODE_THREADS="1")
    assert beside < BESIDE_OUTPUT + in_flight(nginx)
    # Had they not waited, it would be more.
    assert 64 * stored > BESIDE_OUTPUT + in_flight(nginx)
