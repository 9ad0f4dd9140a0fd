"""Bad networks and slow servers: where latency and loss, and not the machine, hold reads back.

Servers run in a network namespace behind a link that delays and loses packets (`tests/servers/
netns.py`), which takes root; or on loopback, and hold a response in a hundred back for two seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import urllib3
import zarr
from servers.held_back import HeldBack, why_not_held_back
from servers.netns import Network, why_no_networks

import zfast

from .common import (
    CONNECTIONS,
    DATA_MIB,
    MIB,
    ROUNDS,
    Rounds,
    Run,
    Subject,
    clocked,
    running,
    serving,
)
from .peers import ZARR_3, ZARRS_OWN, Open, Reader, readers

if TYPE_CHECKING:
    import numpy.typing as npt

    Values: TypeAlias = npt.NDArray[np.float32]

PEERS = ("fsspec", "obstore", "tensorstore")
CHUNKS = {"64 KiB": 64 * 1024, "1 MiB": MIB}


NETWORKS = {
    "30 ms": {"round_trip": 0.03},
    "100 ms": {"round_trip": 0.1},
    "30 ms, 1 % lost": {"round_trip": 0.03, "loss": 0.01},
}
CASES = {f"{chunk}, {name}": (chunk, name) for name in NETWORKS for chunk in CHUNKS}

WARMTHS = ("warmed", "not warmed")
ROUND_TRIP = 0.03

# Of data of 256 MiB; less where there is less of it.
_FULL_MIB = 256
_BODIES = 2000
_HELD_CHUNKS = 1000
_HELD_SHARE = 100
_HELD_SECONDS = 2.0


@dataclass(frozen=True)
class Beside:
    """What came of one case; rates are in MiB/s."""

    rate: float
    peer_rates: dict[str, float]
    peer_ratios: dict[str, float]
    """zfast's rate by each peer's."""


def beside_peers(
    folder: Path,
    cases: Iterable[str] = tuple(CASES),
    peers: Iterable[str] = PEERS,
    mib: int = DATA_MIB,
    rounds: int = ROUNDS,
) -> Iterator[tuple[str, Beside]]:
    """Read an array of half of `mib` MiB whole, opening included, over each network.

    Yields
    ------
    tuple of str and Beside
        The name of the case, and its figures. Nothing where there can be no networks.
    """
    if why_no_networks() or not ZARR_3:
        return
    root = _root(folder)
    found = readers(peers)
    for name in cases:
        chunk, network_name = CASES[name]
        key, values = _written(root, chunk, max(1, mib * MIB // 2 // CHUNKS[chunk]))
        with (
            Network(**NETWORKS[network_name]) as network,
            serving(root, network=network) as server,
        ):
            opens = _connected(found, f"{server.url}/{key}")
            _check(found, opens, values)
            ran = Rounds(
                {reader: _read(found[reader], opens[reader], opening=True) for reader in found},
                rounds,
            )
        work = values.nbytes / MIB
        others = [reader for reader in found if reader != "zfast"]
        yield (
            name,
            Beside(
                rate=work / ran.seconds("zfast"),
                peer_rates={peer: work / ran.seconds(peer) for peer in others},
                peer_ratios={peer: ran.seconds_ratio(peer, "zfast") for peer in others},
            ),
        )


def bodies(mib: int = DATA_MIB) -> int:
    """How many bodies `round_trips` reads."""
    return _scaled(_BODIES, mib)


def round_trips(folder: Path, mib: int = DATA_MIB, rounds: int = ROUNDS) -> dict[str, float]:
    """Read 2000 bodies of 64 KiB by 64 connections over 30 ms.

    Returns
    -------
    dict
        By warmth, the time by that of as many round trips as each connection has requests. Nothing
        where there can be no networks.
    """
    if why_no_networks():
        return {}
    root = _root(folder)
    count = bodies(mib)
    size = CHUNKS["64 KiB"]
    noise = np.random.default_rng(0).bytes(size + count)
    (root / "bodies").mkdir()
    wanted = [(f"bodies/{number}", None) for number in range(count)]
    for number, (key, _) in enumerate(wanted):
        (root / key).write_bytes(noise[number : number + size])

    def read(client: zfast.Client) -> list[Any]:
        return client.get_many(wanted)

    def cold(url: str) -> Run:
        with (
            urllib3.PoolManager(maxsize=CONNECTIONS) as pool,
            zfast.Client(url, max_concurrency=CONNECTIONS, pool_manager=pool) as client,
        ):
            return clocked(lambda: read(client))()

    def warm(client: zfast.Client) -> Run:
        read(client)
        return clocked(lambda: read(client))()

    with (
        Network(ROUND_TRIP) as network,
        serving(root, network=network) as server,
        zfast.Client(server.url, max_concurrency=CONNECTIONS) as client,
    ):
        for number, body in enumerate(read(client)):
            if body != noise[number : number + size]:
                raise AssertionError(f"body {number} is not what was written")
        subjects = (functools.partial(warm, client), functools.partial(cold, server.url))
        ran = Rounds(dict(zip(WARMTHS, subjects, strict=True)), rounds)
    least = count / CONNECTIONS * ROUND_TRIP
    return {warmth: ran.seconds(warmth) / least for warmth in WARMTHS}


def held_back(
    folder: Path,
    chunks: Iterable[str] = tuple(CHUNKS),
    peers: Iterable[str] = PEERS,
    mib: int = DATA_MIB,
    rounds: int = ROUNDS,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Read an array of 1000 chunks while ten responses come two seconds late, and none.

    Yields
    ------
    tuple of str and dict
        The size of the chunks, and by reader the time with responses held back by that without.
    """
    if why_not_held_back() or not ZARR_3:
        return
    root = _root(folder)
    found = readers(peers)
    for chunk in chunks:
        count = _scaled(_HELD_CHUNKS, mib)
        key, values = _written(root, chunk, count)
        every = max(2, count * _HELD_SHARE // _HELD_CHUNKS)
        with (
            running(HeldBack(root, every=0)) as prompt,
            running(HeldBack(root, every=every, seconds=_HELD_SECONDS)) as late,
        ):
            opens = _connected(found, f"{prompt.url}/{key}")
            _check(found, opens, values)
            opens_late = _connected(found, f"{late.url}/{key}")
            subjects = {}
            for name, reader in found.items():
                subjects[name] = _read(reader, opens[name], opening=False)
                subjects[_held(name)] = _read(reader, opens_late[name], opening=False)
            ran = Rounds(subjects, rounds)
        yield chunk, {reader: ran.seconds_ratio(_held(reader), reader) for reader in found}


def _held(reader: str) -> str:
    return f"{reader}, held back"


# --- arrays


def _root(folder: Path) -> Path:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    return root


def _scaled(count: int, mib: int) -> int:
    return max(CONNECTIONS, min(count, count * mib // _FULL_MIB))


def _written(root: Path, chunk: str, count: int) -> tuple[str, Values]:
    """The key of the array of so many chunks, written unless it is there, and what is in it."""
    key, length = f"{CHUNKS[chunk]}-{count}", CHUNKS[chunk] // 4
    values = np.random.default_rng(0).random(count * length, np.float32)
    if not (root / key).exists():
        with zarr.config.set(ZARRS_OWN):
            zarr.create_array(root / key, data=values, chunks=(length,), compressors=None)
    return key, values


def _connected(found: Mapping[str, Reader], url: str) -> dict[str, Open]:
    """What opens the array, by reader."""
    opens = {}
    for name, reader in found.items():
        with reader.configured():
            opens[name] = reader.connect(url)
    return opens


def _check(found: Mapping[str, Reader], opens: Mapping[str, Open], values: Values) -> None:
    """Read once by each reader, unmeasured, and compare with what was written."""
    for name, reader in found.items():
        with reader.configured():
            if not np.array_equal(opens[name]()[...], values):
                raise AssertionError(f"{name} read other values than were written")


def _read(reader: Reader, opened: Open, *, opening: bool) -> Subject:
    def run() -> Run:
        with reader.configured():
            if opening:
                return clocked(lambda: opened()[...])()
            array = opened()
            return clocked(lambda: array[...])()

    return run


# --- for asv

_NO_NETWORKS = "networks take root on Linux, /dev/net/tun, nsenter and a C compiler, and zarr 3"


class Networks:
    """Arrays of 128 MiB over each network, unless BENCH_MIB says otherwise."""

    params = [list(CASES)]
    param_names = ["case"]

    def setup_cache(self) -> dict[str, Beside]:
        return dict(beside_peers(Path.cwd()))

    setup_cache.timeout = 3600

    def setup(self, measured: dict[str, Beside], case: str) -> None:
        if case not in measured:
            raise NotImplementedError(_NO_NETWORKS)

    def track_rate(self, measured: dict[str, Beside], case: str) -> float:
        return measured[case].rate

    track_rate.unit = "MiB/s"


class NetworkPeers:
    """zfast by each peer, out of the same rounds."""

    params = [list(CASES), list(PEERS)]
    param_names = ["case", "peer"]

    setup_cache = Networks.setup_cache

    def setup(self, measured: dict[str, Beside], case: str, peer: str) -> None:
        if case not in measured:
            raise NotImplementedError(_NO_NETWORKS)
        if peer not in measured[case].peer_ratios:
            raise NotImplementedError(f"{peer} is not installed")

    def track_ratio_to_peer(self, measured: dict[str, Beside], case: str, peer: str) -> float:
        return measured[case].peer_ratios[peer]

    track_ratio_to_peer.unit = "zfast / peer"


class Distance:
    """2000 bodies of 64 KiB by 64 connections over 30 ms, unless BENCH_MIB says otherwise."""

    params = [list(WARMTHS)]
    param_names = ["connections"]

    def setup_cache(self) -> dict[str, float]:
        return round_trips(Path.cwd())

    setup_cache.timeout = 900

    def setup(self, measured: dict[str, float], connections: str) -> None:
        if connections not in measured:
            raise NotImplementedError(_NO_NETWORKS)

    def track_round_trips(self, measured: dict[str, float], connections: str) -> float:
        return measured[connections]

    track_round_trips.unit = "time / round trips"


class HeldBackReads:
    """1000 chunks, ten of them held back for two seconds, unless BENCH_MIB says otherwise."""

    params = [list(CHUNKS), ["zfast", *PEERS]]
    param_names = ["chunk", "reader"]

    def setup_cache(self) -> dict[str, dict[str, float]]:
        return dict(held_back(Path.cwd()))

    setup_cache.timeout = 3600

    def setup(self, measured: dict[str, dict[str, float]], chunk: str, reader: str) -> None:
        if reader not in measured.get(chunk, {}):
            raise NotImplementedError(f"no Linux, no C compiler, or no {reader}")

    def track_slowdown(
        self, measured: dict[str, dict[str, float]], chunk: str, reader: str
    ) -> float:
        return measured[chunk][reader]

    track_slowdown.unit = "held back / not"
