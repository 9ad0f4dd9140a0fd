"""dask over FastStore: in threads, in processes, on a cluster; natively wherever its tasks run."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.script import Script, run
from servers.scripted import ScriptedServer, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")
pytest.importorskip("dask.array")

import dask
import dask.array as da
from arrays import bytes_codec, named
from dask.base import tokenize
from few_chunks import VALUES, WAYS, Start, held, is_content, is_index, opened, stored
from linked_chunks import write

from zfast import FastStore

MIB = 1 << 20
# Of processes that each import all that there is, on a machine that may be busy.
PATIENCE = 90


def distinct(server: ScriptedServer) -> list[tuple[str, str | None]]:
    """The requests for chunks and inner chunks; fails if there was one twice."""
    found = [(request.key, request.range) for request in server.requests if is_content(request)]
    assert len(found) == len(set(found))
    return found


# ---------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("way", WAYS)
def test_sixteen_threads(scripted: Start, way: str) -> None:
    server = scripted(ranged(stored(way)))
    store = FastStore(server.url)
    array = da.from_zarr(store, component="a")
    assert array.chunks == da.from_array(VALUES, opened(store).chunks).chunks
    found = array.compute(scheduler="threads", num_workers=16)
    np.testing.assert_array_equal(found, VALUES)
    # One for each of dask's blocks, and the index of a shard but once.
    assert len(distinct(server)) == array.npartitions
    indexes = [request.key for request in server.requests if is_index(request)]
    assert len(indexes) == len(set(indexes))
    assert store.stats()["fallback_chunks"] == 0


def test_threads_share_the_limit_of_the_process(scripted: Start) -> None:
    """Sixteen threads of dask are no sixteen times as many connections."""
    server = scripted(ranged(stored("sharded, compressed")))
    store = FastStore(server.url, max_concurrency=3)
    array = da.from_zarr(store, component="a")
    window = (array[::3, 5:] * 2.0).sum(axis=0)
    np.testing.assert_array_equal(
        window.compute(scheduler="threads", num_workers=16),
        (VALUES[::3, 5:] * 2.0).sum(axis=0, dtype="f8").astype(window.dtype),
    )
    assert len(server.connections) <= 3


def test_names_of_dask_are_those_of_what_is_read() -> None:
    """Two graphs over the same URL share their tasks; over another they never do."""
    url = "http://localhost:1/base"
    same = [FastStore(url), FastStore(url)]
    others = [FastStore(f"{url}/a"), FastStore(url, headers={"X-Tenant": "1"})]
    tokens = [tokenize(store, ensure_deterministic=True) for store in [*same, *others]]
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 3


def test_writing(scripted: Start) -> None:
    objects: dict[str, bytes] = {}
    server = scripted(ranged(objects))
    store = FastStore(server.url, read_only=False)
    with dask.config.set(scheduler="threads", num_workers=16):
        da.from_array(VALUES, (64, 128)).to_zarr(store, component="a")
    np.testing.assert_array_equal(opened(FastStore(server.url))[...], VALUES)
    written = [request.key for request in server.requests if request.method == "PUT"]
    assert sum("/c/" in key for key in written) == 4 * 2


CTRL_C = """
    import sys, time
    import dask.array as da
    import zarr, zfast

    store = zfast.FastStore(sys.argv[1])
    expected = da.from_zarr(store, component="a").compute(scheduler="threads")
    print("reading", flush=True)
    try:
        da.from_zarr(store, component="held").compute(scheduler="threads", num_workers=4)
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
    assert (da.from_zarr(store, component="a").compute(scheduler="threads") == expected).all()
    print("usable", flush=True)
"""


def test_ctrl_c_ends_a_computation(scripted: Start, tmp_path: Path) -> None:
    objects = stored("compressed") | stored("compressed", path="held")
    with held(scripted, objects, lambda request: request.key == "held/c/0/0") as (server, holding):
        with Script(tmp_path, CTRL_C, server.url) as script:
            assert script.line() == "reading"
            # By then all threads of dask's pool run: one that an interrupted start had left out of
            # the pool's books would be waited for at exit, for ever.
            chunks = {key for key in objects if key.startswith("held/c/")}
            server.wait_for(lambda: chunks <= set(server.keys()))
            sent = time.monotonic()
            script.process.send_signal(signal.SIGINT)
            assert float(script.line()) - sent < 3.0
            assert script.line() == "usable"
            # dask's own threads are waited for at the end.
            holding.gate.set()
            ended = script.ended()
    assert (ended.code, ended.out, ended.err) == (0, "", "")


# -------------------------------------------------------------------------------------- processes

PROCESSES = """
    import os, sys
    import dask, dask.array as da
    import zarr, zfast
    from zfast.pipeline import FastCodecPipeline

    def read(array, at):
        own = zarr.open_array(store=array.store, path="a", mode="r", zarr_format=3)
        assert (own[at] == array[at]).all()
        # By nothing but the core, in this process too.
        assert isinstance(own._async_array.codec_pipeline, FastCodecPipeline)
        assert isinstance(array._async_array.codec_pipeline, FastCodecPipeline)
        assert zfast.stats()["fallback_chunks"] == 0
        return os.getpid(), float(own[at].sum())

    if __name__ == "__main__":
        store = zfast.FastStore(sys.argv[1])
        array = da.from_zarr(store, component="a")
        # The parent's engine is at work before there are children.
        expected = array.compute(scheduler="threads")
        opened = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)
        rows = [dask.delayed(read)(opened, at) for at in range(0, 256, 64)]
        total, *found = dask.compute(
            array.astype("f8").sum(), *rows, scheduler="processes", num_workers=2)
        assert total == expected.sum(dtype="f8")
        assert [at for _, at in found] == [float(expected[at].sum()) for at in range(0, 256, 64)]
        assert os.getpid() not in {pid for pid, _ in found}
        assert (array.compute(scheduler="threads") == expected).all()
        print("read")
"""


def test_processes(scripted: Start, tmp_path: Path) -> None:
    server = scripted(ranged(stored("sharded, compressed")))
    ended = run(tmp_path, PROCESSES, server.url, timeout=PATIENCE, PYTHONWARNINGS="ignore")
    assert (ended.code, ended.out, ended.err) == (0, "read\n", "")


CLUSTER = """
    import os, sys
    import dask, dask.array as da
    import numpy as np
    import xarray as xr
    import zarr, zfast
    from distributed import Client, LocalCluster
    from zfast.pipeline import FastCodecPipeline

    def told():
        stats = zfast.stats()
        pipeline = zarr.registry.get_pipeline_class() is FastCodecPipeline
        return os.getpid(), pipeline, stats["requests"], stats["fallback_chunks"]

    def main(url):
        store = zfast.FastStore(url)
        array = da.from_zarr(store, component="a")
        expected = array.compute(scheduler="threads")
        dataset = xr.open_zarr(zfast.FastStore(f"{url}/group"), chunks={})
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=4, memory_limit=0, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(2)
            (whole,) = dask.compute(array)
            assert (whole == expected).all()
            # Each worker reads a whole array, opened here, and one that it opens there.
            workers = list(client.scheduler_info()["workers"])
            opened = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)

            def read(array, store):
                own = zarr.open_array(store=store, path="a", mode="r", zarr_format=3)
                assert (own[...] == array[...]).all()
                return float(own[...].sum())

            totals = [
                client.submit(read, opened, store, workers=[worker], pure=False)
                for worker in workers
            ]
            assert client.gather(totals) == [float(expected.sum())] * 2
            mean = dataset["v"].mean("y").compute()
            assert np.array_equal(mean, expected.mean(axis=0)), mean
            said = list(client.run(told).values())
            # An engine each, that has read natively.
            assert len({pid for pid, *_ in said} | {os.getpid()}) == 3
            assert all(pipeline for _, pipeline, *_ in said), said
            assert all(requests > 0 for *_, requests, _ in said), said
            assert all(fallbacks == 0 for *_, fallbacks in said), said
        # A worker in this very process, under the loop of a thread of its own.
        with Client(processes=False, n_workers=1, dashboard_address=None):
            assert (array.compute() == expected).all()
        assert (array.compute(scheduler="threads") == expected).all()
        print("read")

    if __name__ == "__main__":
        main(sys.argv[1])
"""


def test_a_cluster(scripted: Start, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    pytest.importorskip("xarray")
    server = scripted(ranged(stored("sharded, compressed") | grouped()))
    ended = run(tmp_path, CLUSTER, server.url, timeout=PATIENCE, PYTHONWARNINGS="ignore")
    assert (ended.code, ended.out, ended.err) == (0, "read\n", "")


def grouped() -> dict[str, bytes]:
    """The array as the only variable of a dataset, consolidated."""
    import xarray as xr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    dataset = xr.Dataset({"v": (("y", "x"), VALUES)})
    dataset.to_zarr(store, zarr_format=2, encoding={"v": {"chunks": (64, 64)}})
    return {f"group/{key}": value.to_bytes() for key, value in store._store_dict.items()}


# ----------------------------------------------------------------------------------------- memory

REDUCTION = """
    import sys
    import dask.array as da
    import zfast

    def now(name):
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines[name].split()[0]) << 10

    url, edge = sys.argv[1], int(sys.argv[2])
    array = da.from_zarr(zfast.FastStore(url, max_concurrency=8), component="a")
    # Threads, connections, modules.
    small = array[:edge, :edge].astype("f8").sum().compute(scheduler="threads", num_workers=4)
    before = now("VmRSS")
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    total = array.astype("f8").sum().compute(scheduler="threads", num_workers=4)
    assert total == small * array.npartitions, (total, small)
    assert zfast.stats()["fallback_chunks"] == 0
    print(now("VmHWM") - before, array.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is Linux's")
def test_a_reduction_needs_the_memory_of_a_few_blocks(nginx: Site, tmp_path: Path) -> None:
    edge = 512
    codecs: list[Any] = [bytes_codec(), named("zstd", level=1, checksum=False)]
    write(nginx, codecs, edge, across=16)
    ended = run(tmp_path, REDUCTION, nginx.url, str(edge), timeout=PATIENCE)
    assert (ended.code, ended.err) == (0, "")
    peak, size = map(int, ended.out.split())
    assert size == 256 * MIB
    # Of blocks of 1 MiB, in 8 bytes an element, four at once.
    assert peak < 96 * MIB
