"""What reading costs besides the network: opening an array, and reading it by dask's threads.

Opening and reading one chunk, by what zarr takes for that in memory and one round trip together;
64 threads of dask that read an array block by block, by one read of the whole, and what they take
where nothing has to be fetched.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import zarr

import zfast

from .arrays import Layout, written
from .common import CONNECTIONS, DATA_MIB, MIB, ROUNDS, Rounds, Subject, clocked, serving
from .peers import STORES, ZARR_3, ZARRS_OWN, Open, Reader, readers

if TYPE_CHECKING:
    import numpy.typing as npt

MEMORY = "memory"
"""The reader for which nothing is fetched: what zarr, and dask, take by themselves."""
OPENING_GOAL = 1.3

BLOCKS = {"a chunk each": 1, "64 chunks each": 8}
"""What a task of dask reads: squares of so many chunks a side."""

_CHUNK = 128
_CHUNKS_A_SIDE = 64
_OPENINGS = 100


# --- opening


@dataclass(frozen=True)
class Opening:
    """Opening an array and reading one chunk of 64 KiB: microseconds, and the ratio."""

    zfast: float
    least: float
    """What zarr takes for that of a store in memory, and one round trip for the chunk."""
    ratio: float


def opening(folder: Path, rounds: int = ROUNDS) -> Opening | None:
    """Measure opening; None where zarr is older than version 3."""
    if not ZARR_3:
        return None
    root = folder / "root"
    array = root / "a"
    written(array, Layout(_CHUNK), np.ones((_CHUNK, _CHUNK), np.float32))
    memory = _in_memory(array)
    with (
        serving(root) as server,
        zfast.FastStore(f"{server.url}/a") as store,
        socket.create_connection((server.host, server.port)) as sock,
    ):
        round_trip = _round_trips(sock, (array / "c/0/0").stat().st_size)

        def least() -> None:
            _open_and_read(memory)
            round_trip()

        subjects = {
            "zfast": _repeated(lambda: _open_and_read(store)),
            "least": Reader(lambda _: None, ZARRS_OWN).within(_repeated(least)),
        }
        Rounds(subjects, 1)
        ran = Rounds(subjects, rounds)
    return Opening(
        zfast=ran.seconds("zfast") / _OPENINGS * 1e6,
        least=ran.seconds("least") / _OPENINGS * 1e6,
        ratio=ran.seconds_ratio("zfast", "least"),
    )


def _in_memory(folder: Path) -> zarr.storage.MemoryStore:
    buffer_of = zarr.core.buffer.cpu.Buffer.from_bytes
    objects = {
        file.relative_to(folder).as_posix(): buffer_of(file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }
    return zarr.storage.MemoryStore(objects, read_only=True)


def _open_and_read(store: Any) -> None:
    zarr.open(store=store, mode="r")[:_CHUNK, :_CHUNK]


def _repeated(call: Callable[[], object]) -> Subject:
    def repeat() -> None:
        for _ in range(_OPENINGS):
            call()

    return clocked(repeat)


def _round_trips(sock: socket.socket, size: int) -> Callable[[], None]:
    """A call that asks for the chunk on an open connection, and waits for all of it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = b"GET /a/c/0/0 HTTP/1.1\r\nHost: a\r\n\r\n"
    room = memoryview(bytearray(size + 4096))

    def ask() -> None:
        sock.sendall(request)
        filled, wanted = 0, len(room)
        while filled < wanted:
            filled += sock.recv_into(room[filled:])
            head = bytes(room[:4096]).find(b"\r\n\r\n")
            if head >= 0:
                wanted = head + 4 + size

    return ask


# --- dask


@dataclass(frozen=True)
class Dask:
    """A reader's rate in MiB/s by dask's threads, and how much that is of one read's."""

    rate: float
    kept: float


def by_dask(
    folder: Path, peers: Iterable[str] = STORES, mib: int = DATA_MIB, rounds: int = ROUNDS
) -> Iterator[tuple[tuple[str, str], Dask]]:
    """Read an array of `mib` MiB in chunks of 64 KiB; nothing where zarr is older than version 3.

    Yields
    ------
    tuple of tuple of str and Dask
        What a task reads, the name of the reader, and its figures.
    """
    if not ZARR_3:
        return
    root = folder / "root"
    values = np.arange(mib * MIB // 4, dtype=np.float32).reshape(-1, _CHUNK * _CHUNKS_A_SIDE)
    written(root / "b", Layout(_CHUNK), values)
    with serving(root) as server:
        memory = functools.partial(zarr.open, store=_in_memory(root / "b"), mode="r")
        found = {**readers(peers), MEMORY: Reader(lambda _: memory, ZARRS_OWN)}
        subjects: dict[str, Subject] = {}
        for name, reader in found.items():
            with reader.configured():
                opened = reader.connect(f"{server.url}/b")
            reads = {name: functools.partial(_read, opened)}
            for blocks, chunks in BLOCKS.items():
                reads[f"{name}, {blocks}"] = functools.partial(
                    _read_by_dask, opened, chunks * _CHUNK
                )
            for what, read in reads.items():
                with reader.configured():
                    if not np.array_equal(read(), values):
                        raise AssertionError(f"{what}: other values than were written")
                subjects[what] = reader.within(clocked(read))
        ran = Rounds(subjects, rounds)
    for blocks in BLOCKS:
        for name in found:
            threads = f"{name}, {blocks}"
            yield (blocks, name), Dask(mib / ran.seconds(threads), ran.seconds_ratio(name, threads))


def _read(opened: Open) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = opened()[...]
    return values


def _read_by_dask(opened: Open, block: int) -> npt.NDArray[np.float32]:
    array = opened()
    lazy = dask.array.from_array(array, chunks=(block, block), name=False)
    out = np.empty(array.shape, array.dtype)
    with dask.config.set(scheduler="threads", num_workers=CONNECTIONS):
        lazy.store(out, lock=False)
    return out


# --- for asv


class Openings:
    """Opening an array and reading one chunk of it."""

    def setup_cache(self) -> Opening | None:
        return opening(Path.cwd())

    def setup(self, measured: Opening | None) -> None:
        if measured is None:
            raise NotImplementedError("zarr is older than version 3")

    def track_opening(self, measured: Opening) -> float:
        return measured.zfast

    def track_ratio_to_least(self, measured: Opening) -> float:
        return measured.ratio

    track_opening.unit = "us"
    track_ratio_to_least.unit = "zfast / zarr in memory and one round trip"


class DaskThreads:
    """An array of 256 MiB, unless BENCH_MIB says otherwise."""

    params = [list(BLOCKS), ["zfast", *STORES, MEMORY]]
    param_names = ["task", "reader"]

    def setup_cache(self) -> dict[tuple[str, str], Dask]:
        return dict(by_dask(Path.cwd()))

    setup_cache.timeout = 3600

    def setup(self, measured: dict[tuple[str, str], Dask], *params: str) -> None:
        if params not in measured:
            raise NotImplementedError("what it measures is not installed")

    def track_rate(self, measured: dict[tuple[str, str], Dask], *params: str) -> float:
        return measured[params].rate

    def track_kept(self, measured: dict[tuple[str, str], Dask], *params: str) -> float:
        return measured[params].kept

    track_rate.unit = "MiB/s"
    track_kept.unit = "by dask's threads / in one read"
