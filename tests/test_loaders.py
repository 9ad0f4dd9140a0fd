"""Data loaders of training: a parent that reads, workers that read, and the parent again.

Without torch: its workers are processes of `multiprocessing` that take indexes from one queue, and
put what they read into another.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers.script import Script, run
from servers.scripted import ranged

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

from few_chunks import VALUES, Start, held, of_first, stored

import zfast
from zfast import FastStore

# Workers that are not forked import all that there is, on a machine that may be busy.
PATIENCE = 90

LOADER = """
    import multiprocessing, os, sys
    import numpy as np
    import zarr, zfast
    from zfast.pipeline import FastCodecPipeline

    ROWS, WORKERS = 16, 2

    class Windows:
        # Opened in the parent, before there are workers.
        def __init__(self, url):
            self.array = zarr.open_array(
                store=zfast.FastStore(url), path="a", mode="r", zarr_format=3)

        def __len__(self):
            return self.array.shape[0] // ROWS

        def __getitem__(self, at):
            return self.array[at * ROWS : (at + 1) * ROWS]

    def work(windows, wanted, found):
        for at in iter(wanted.get, None):
            found.put((at, os.getpid(), windows[at]))
        # What a worker was given is read natively, and what it opens itself.
        own = zarr.open_array(store=windows.array.store, path="a", mode="r", zarr_format=3)
        for array in (windows.array, own):
            assert isinstance(array._async_array.codec_pipeline, FastCodecPipeline)
            array[0]
        assert zfast.stats()["fallback_chunks"] == 0

    def epoch(context, windows, whole):
        # A fork must not take along what a thread of the queues is at.
        wanted, found = context.SimpleQueue(), context.SimpleQueue()
        workers = [
            context.Process(target=work, args=(windows, wanted, found)) for _ in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        for at in range(len(windows)):
            wanted.put(at)
        pids = set()
        for number in range(len(windows)):
            at, pid, window = found.get()
            assert np.array_equal(window, whole[at * ROWS : (at + 1) * ROWS])
            pids.add(pid)
            if number % 4 == 0:
                # While they read.
                assert np.array_equal(windows.array[...], whole)
        for _ in workers:
            wanted.put(None)
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * WORKERS
        assert pids <= {worker.pid for worker in workers}

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[2])
        windows = Windows(sys.argv[1])
        whole = windows.array[...]
        # Where workers are cheap, as many again that begin after the first have ended.
        for _ in range(2 if sys.argv[2] == "fork" else 1):
            epoch(context, windows, whole)
            assert np.array_equal(windows.array[...], whole)
        assert zfast.stats()["fallback_chunks"] == 0
        print(float(whole.sum()))
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_of_every_kind(scripted: Start, tmp_path: Path, method: str) -> None:
    server = scripted(ranged(stored("sharded, compressed")))
    ended = run(tmp_path, LOADER, server.url, method, timeout=PATIENCE, PYTHONWARNINGS="ignore")
    assert (ended.code, ended.err) == (0, "")
    assert float(ended.out) == float(VALUES.sum(dtype="f4"))


def test_arguments_travel_and_settings_stay() -> None:
    """What a process set for itself is no matter of those that it sends a store to."""
    with zfast.config.set(deadline=3.0, max_concurrency=5):
        store = FastStore("http://localhost:1/", max_concurrency=7)
    assert (store._client._deadline, store._client._max_concurrency) == (3.0, 7)
    there = pickle.loads(pickle.dumps(store))
    assert (there._client._deadline, there._client._max_concurrency) == (0.0, 7)
    assert there == store


KILLED = """
    import multiprocessing, signal, sys
    import numpy as np
    import zarr, zfast

    def read(array):
        array[...]

    if __name__ == "__main__":
        store = zfast.FastStore(sys.argv[1])
        array = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)
        row = array[200]
        worker = multiprocessing.get_context("fork").Process(target=read, args=(array,))
        worker.start()
        print(worker.pid, flush=True)
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        # Of a chunk that nobody has held back, over the connection from before.
        assert np.array_equal(array[200], row)
        assert zfast.stats()["connections_opened"] == 1
"""


def test_a_worker_that_is_killed_takes_nothing_along(scripted: Start, tmp_path: Path) -> None:
    with held(scripted, stored("direct"), of_first) as (server, _):
        # The connection must not have gone back to its pool when it is asked for again.
        patient = {"PYTHONWARNINGS": "ignore", "ZFAST_IDLE_TIMEOUT": "60"}
        with Script(tmp_path, KILLED, server.url, **patient) as script:
            worker = int(script.line())
            server.wait_for(lambda: any(map(of_first, server.requests)))
            os.kill(worker, signal.SIGKILL)
            ended = script.ended()
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_processes_that_come_and_go() -> None:
    """The short form of `short_lives.py`."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("short_lives.py")), "120"],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "120 processes" in done.stdout
