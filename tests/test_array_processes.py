"""Arrays across forks, other processes and the end of one, with reads of them under way."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from servers.script import Child, Ended, in_child, run
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from few_chunks import SHARDED, VALUES, WAYS, Start, held, is_index, of_first, opened, stored
from sharded_array import count, set_at_last

from zfast import FastStore

# The machine may be busy; what hangs at exit does so for longer.
QUICKLY = 3.0

WINDOWS = [np.s_[0, 0:20], np.s_[1, 30:90], np.s_[40:60, 7], np.s_[:128, :128]]
"""Of the first shard."""

# ------------------------------------------------------------------------------------------- fork


@pytest.mark.parametrize("way", WAYS)
def test_fork_while_a_thread_reads_an_array(scripted: Start, way: str) -> None:
    with held(scripted, stored(way), of_first, once=True) as (server, holding):
        array = opened(FastStore(server.url))
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(array.__getitem__, ...)
            server.wait_for(lambda: any(map(of_first, server.requests)))
            assert in_child(lambda: bool((array[...] == VALUES).all()))
            holding.gate.set()
            np.testing.assert_array_equal(reading.result(), VALUES)
        np.testing.assert_array_equal(array[...], VALUES)


@pytest.mark.parametrize("way", SHARDED)
def test_a_child_reads_an_index_that_its_parent_waits_for(scripted: Start, way: str) -> None:
    with held(scripted, stored(way), is_index, once=True) as (server, holding):
        array = opened(FastStore(server.url))
        with ThreadPoolExecutor(4) as threads:
            readings = [threads.submit(array.__getitem__, window) for window in WINDOWS]
            server.wait_for(lambda: count(server.requests, is_index) == 1)
            assert in_child(lambda: bool((array[...] == VALUES).all()))
            # Four shards; the first one's was held for the parent alone.
            assert count(server.requests, is_index) == 1 + 4
            holding.gate.set()
            for window, reading in zip(WINDOWS, readings, strict=True):
                np.testing.assert_array_equal(reading.result(), VALUES[window])
        np.testing.assert_array_equal(array[...], VALUES)
        assert count(server.requests, is_index) == 1 + 4 + 3


def test_many_forks_while_threads_read_arrays(nginx: Site) -> None:
    arrays = {}
    for way in WAYS:
        path = way.replace(", ", "-")
        nginx.write(stored(way, path=path))
        arrays[way] = opened(FastStore(nginx.url, max_concurrency=6), path)
    stopping = threading.Event()

    def equal(way: str) -> bool:
        return bool((arrays[way][...] == VALUES).all())

    def repeat(way: str) -> bool:
        right = True
        while not stopping.is_set():
            right = right and equal(way)
        return right

    with ThreadPoolExecutor(len(WAYS)) as threads:
        readings = [threads.submit(repeat, way) for way in WAYS]
        with set_at_last(stopping):
            for number in range(12):
                children = [
                    Child(lambda at=at: equal(WAYS[at % len(WAYS)])) for at in (number, number + 2)
                ]
                assert all(child.result() for child in children)
        assert all(reading.result() for reading in readings)


IN_A_POOL = """
    import multiprocessing, sys, threading
    import zarr, zfast

    def total(arguments):
        array, row = arguments
        return float(array[row].sum())

    if __name__ == "__main__":
        store = zfast.FastStore(sys.argv[1])
        array = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)
        whole = array[...]
        held = zarr.open_array(store=store, path="held", mode="r", zarr_format=3)
        threading.Thread(target=held.__getitem__, args=(...,), daemon=True).start()
        while not zfast.stats()["in_flight"]:
            pass
        with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
            totals = pool.map(total, [(array, row) for row in range(0, 256, 32)], chunksize=1)
            assert totals == [float(whole[row].sum()) for row in range(0, 256, 32)]
            pool.close()
            pool.join()
        assert (array[...] == whole).all()
        print("read")
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_children_of_multiprocessing(scripted: Start, tmp_path: Path, method: str) -> None:
    objects = stored("sharded, compressed") | stored("sharded", path="held")
    with held(scripted, objects, lambda request: request.key.startswith("held/c")) as (server, _):
        ended = run(tmp_path, IN_A_POOL, server.url, method, PYTHONWARNINGS="ignore")
    assert (ended.code, ended.out, ended.err) == (0, "read\n", "")


# ------------------------------------------------------------------------------------------- exit

PREAMBLE = """
import contextlib, sys, threading, time, warnings
import zarr, zfast

# At exit zarr closes its loop while daemon threads may be handing it another read.
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

store = zfast.FastStore(sys.argv[1])

def opened(path):
    return zarr.open_array(store=store, path=path, mode="r", zarr_format=3)

def in_daemon(work, *arguments):
    threading.Thread(target=work, args=arguments, daemon=True).start()

def forever(array):
    with contextlib.suppress(RuntimeError):  # of a closed loop
        while True:
            array[...]

def leave():
    print(time.monotonic(), flush=True)

"""
HELD = ("held-streamed/c", "held-sharded/c")
READING = {
    "held": """
for path in ("streamed", "sharded"):
    in_daemon(opened(f"held-{path}").__getitem__, ...)
while zfast.stats()["in_flight"] < 2:
    pass
""",
    "on and on": """
for path in ("streamed", "sharded"):
    for _ in range(2):
        in_daemon(forever, opened(path))
while zfast.stats()["reads"] < 100:
    pass
""",
}


def ended_well(ended: Ended, code: int) -> bool:
    """Whether a program ended with this code, quickly, and without a word."""
    assert (ended.code, ended.err) == (code, ""), ended
    return ended.at - float(ended.out) < QUICKLY


@pytest.mark.parametrize("reading", READING)
@pytest.mark.parametrize(("end", "code"), [("leave()", 0), ("leave(); sys.exit(3)", 3)])
def test_exit(scripted: Start, tmp_path: Path, reading: str, end: str, code: int) -> None:
    objects: dict[str, bytes] = {}
    for way in ("streamed", "sharded"):
        objects |= stored(way, path=way) | stored(way, path=f"held-{way}")
    with held(
        scripted, objects, lambda request: "held" in request.key and "/c/" in request.key
    ) as (
        server,
        _,
    ):
        ended = run(tmp_path, f"{dedent(PREAMBLE)}{READING[reading]}\n{end}", server.url)
    assert ended_well(ended, code)
