"""Arrays as they are stored in the wild, through `zarr.open(store=FastStore(url))`, beside peers.

Read whole, opening included; or in small windows one after another, of an array that has just been
opened by a reader that has nothing cached: no shard's index, no chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import zarr

from .ceiling import Ceiling
from .common import (
    DATA_MIB,
    MIB,
    ROUNDS,
    Rounds,
    Run,
    Subject,
    clocked,
    hog_ratio,
    serving,
    trust,
    with_hogs,
)
from .peers import (
    ALONE,
    FUSED,
    HAS_FUSED,
    NO_ZARR,
    PEERS,
    STORES,
    ZARR_3,
    ZARRS_OWN,
    Reader,
    readers,
    zarr_alone,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Values: TypeAlias = npt.NDArray[np.float32]

Window: TypeAlias = tuple[slice, slice]


@dataclass(frozen=True)
class Layout:
    """One way to store the same array of float32; chunks and shards are squares of that side."""

    chunk: int
    shard: int | None = None
    compressor: Literal["zstd", "blosc"] | None = None


@dataclass(frozen=True)
class Case:
    """What is read of which layout, and how many times faster than a peer zfast is to be."""

    layout: str
    goals: dict[str, float]
    windows: bool = False
    tls: bool = False


LAYOUTS = {
    "64 KiB raw": Layout(128),
    "1 MiB raw": Layout(512),
    "16 MiB raw": Layout(2048),
    "256 KiB zstd": Layout(256, compressor="zstd"),
    "1 MiB blosc": Layout(512, compressor="blosc"),
    "sharded raw": Layout(128, shard=2048),
    "sharded zstd": Layout(128, shard=2048, compressor="zstd"),
}

CASES = {
    "64 KiB raw": Case("64 KiB raw", {"obstore": 6, "tensorstore": 2}),
    "1 MiB raw": Case("1 MiB raw", {"obstore": 1.8, "tensorstore": 1.8}),
    "16 MiB raw": Case("16 MiB raw", {"obstore": 1.5, "tensorstore": 2}),
    "256 KiB zstd": Case("256 KiB zstd", {"obstore": 3, "tensorstore": 1.6}),
    "1 MiB blosc": Case("1 MiB blosc", {"obstore": 1.8, "tensorstore": 1.4}),
    "sharded raw": Case("sharded raw", {"obstore": 1.5, "tensorstore": 2}),
    "sharded zstd": Case("sharded zstd", {"obstore": 1.8, "tensorstore": 1.4}),
    "windows of 64 KiB raw": Case("64 KiB raw", {"obstore": 4, "tensorstore": 1.2}, windows=True),
    "windows of sharded zstd": Case(
        "sharded zstd", {"obstore": 6, "tensorstore": 15}, windows=True
    ),
    "https, 64 KiB raw": Case("64 KiB raw", {"obstore": 4, "tensorstore": 1.8}, tls=True),
    "https, 1 MiB raw": Case("1 MiB raw", {"obstore": 1.8, "tensorstore": 1.5}, tls=True),
}
HOG_GOAL = 0.8
FUSED_GOAL = 1.0
"""How many times faster zarr's FusedCodecPipeline is to be on FastStore than on other stores."""

# Of the array of 256 MiB; a smaller one has shorter sides, and fewer windows are read of it.
_FULL_MIB = 256
_FULL_SIDE = 8192
_FULL_WINDOWS = 300
_WINDOW = 100
_SMALLEST_CHUNK = 128


@dataclass(frozen=True)
class Beside:
    """What came of one case; rates are in MiB/s of what was asked for, decompressed."""

    rate: float
    hog_ratio: float
    """Rate beside a GIL hog by the rate without, for each share of the machine that is left."""
    packed: float
    """How much smaller the array is as it is stored."""
    alone: float
    """How much of zfast's time zarr takes alone, which says what is wanted and reads nothing."""
    alone_hog_ratio: float
    """As `hog_ratio`, of zarr alone."""
    peer_rates: dict[str, float]
    peer_ratios: dict[str, float]
    """Its rate by each peer's."""
    peer_ratios_without: dict[str, float]
    """The same without what zarr alone takes, of both where the peer is read through zarr too."""
    ratio_to_ceiling: float | None
    """Its rate by that of a bare poll loop which starts when zarr has said what it wants."""
    ceiling_peer_ratios: dict[str, float]
    """The rate of that by each peer's; nothing where the loop knows no such array."""


def measure(
    folder: Path,
    cases: Iterable[str] = tuple(CASES),
    peers: Iterable[str] = PEERS,
    mib: int = DATA_MIB,
    rounds: int = ROUNDS,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, Beside]]:
    """Read an array of `mib` MiB as each case says; nothing where zarr is older than version 3.

    Parameters
    ----------
    settings
        What zarr is to be set to for all readers, instead of what suits each best.

    Yields
    ------
    tuple of str and Beside
        The name of the case, and its figures.
    """
    if not ZARR_3:
        return
    root = folder / "root"
    root.mkdir()
    values = _values(mib)
    windows = _windows(mib, len(values))
    trust(folder)
    found = readers(peers, settings)
    ceiling = Ceiling(folder)
    with serving(root) as plain, serving(root, tls=True) as secure:
        for name in cases:
            case = CASES[name]
            server = secure if case.tls else plain
            number = list(LAYOUTS).index(case.layout)
            packed = written(root / f"{number}", LAYOUTS[case.layout], values)
            url = f"{server.url}/{number}"
            read = windows if case.windows else None
            for reader in found:
                _check(reader, found[reader], url, values, read)
            alone = zarr_alone(root / f"{number}", settings)
            ceilings = _ceilings(ceiling, server.port, root / f"{number}", case)
            subjects = _subjects({**found, ALONE: alone}, url, read)
            ran = Rounds({**ceilings, **subjects}, rounds)
            work = (len(windows) * _WINDOW**2 if case.windows else values.size) * 4 / MIB
            others = [reader for reader in found if reader != "zfast"]
            rest = {
                reader: reader if reader in NO_ZARR else ran.without(reader, ALONE)
                for reader in found
            }
            best = min(ceilings, key=ran.seconds, default=None)
            behind_zarr = best and ran.after(best, ALONE)
            yield (
                name,
                Beside(
                    rate=work / ran.seconds("zfast"),
                    hog_ratio=hog_ratio(ran, "zfast"),
                    packed=packed,
                    alone=ran.seconds_ratio(ALONE, "zfast"),
                    alone_hog_ratio=hog_ratio(ran, ALONE),
                    peer_rates={peer: work / ran.seconds(peer) for peer in others},
                    peer_ratios={peer: ran.seconds_ratio(peer, "zfast") for peer in others},
                    peer_ratios_without={
                        peer: ran.seconds_ratio(rest[peer], rest["zfast"]) for peer in others
                    },
                    ratio_to_ceiling=behind_zarr and ran.seconds_ratio(behind_zarr, "zfast"),
                    ceiling_peer_ratios={
                        peer: ran.seconds_ratio(peer, behind_zarr) for peer in others if behind_zarr
                    },
                ),
            )


# --- the array


def _values(mib: int) -> Values:
    """A smooth field with noise, in steps of 1/4096: zstd makes it about 1.4 times smaller."""
    side = round(_FULL_SIDE * math.sqrt(mib / _FULL_MIB) / _SMALLEST_CHUNK) * _SMALLEST_CHUNK
    along = np.arange(max(side, _SMALLEST_CHUNK), dtype=np.float32)
    field = 280 + 20 * np.add.outer(np.sin(along / 240), np.cos(along / 175))
    field += np.random.default_rng(0).standard_normal(field.shape, np.float32) / 10
    values: Values = np.round(field * 4096) / 4096
    return values.astype(np.float32, copy=False)


def _windows(mib: int, side: int) -> list[Window]:
    count = max(1, round(_FULL_WINDOWS * mib / _FULL_MIB))
    starts = np.random.default_rng(1).integers(0, side - _WINDOW, (count, 2), endpoint=True)
    return [(slice(y, y + _WINDOW), slice(x, x + _WINDOW)) for y, x in starts.tolist()]


def written(path: Path, layout: Layout, values: Values) -> float:
    """Write the array, unless it is there; how many times smaller than in memory it is there."""
    if not path.exists():
        with zarr.config.set(ZARRS_OWN):
            array = zarr.create_array(
                path,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(layout.chunk, layout.chunk),
                shards=(layout.shard, layout.shard) if layout.shard else None,
                compressors=_compressors(layout),
                zarr_format=3,
            )
            array[...] = values
    return values.nbytes / sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _compressors(layout: Layout) -> Any:
    if layout.compressor is None:
        return None
    return {"zstd": zarr.codecs.ZstdCodec, "blosc": zarr.codecs.BloscCodec}[layout.compressor]()


# --- the subjects


def _check(
    name: str, reader: Reader, url: str, values: Values, windows: list[Window] | None
) -> None:
    """Read once, unmeasured, and compare with what was written."""
    with reader.configured():
        array = reader.connect(url)()
        for selection in windows or [...]:
            if not np.array_equal(array[selection], values[selection]):
                raise AssertionError(f"{name} read other values than were written: {selection}")


def _subjects(
    found: dict[str, Reader], url: str, windows: list[Window] | None
) -> dict[str, Subject]:
    subjects = {
        name: _whole(reader, url) if windows is None else _one_by_one(reader, url, windows)
        for name, reader in found.items()
    }
    return {**subjects, **with_hogs({name: subjects[name] for name in ("zfast", ALONE)})}


def _whole(reader: Reader, url: str) -> Subject:
    with reader.configured():
        opened = reader.connect(url)
    measured = clocked(lambda: opened()[...])
    return reader.within(measured)


def _one_by_one(reader: Reader, url: str, windows: list[Window]) -> Subject:
    def run() -> Run:
        array = reader.connect(url)()
        return clocked(lambda: [array[window] for window in windows])()

    return reader.within(run)


def _ceilings(ceiling: Ceiling, port: int, path: Path, case: Case) -> dict[str, Subject]:
    """Bare loops that read all of the same objects; none where decoding takes more than they know.

    They leave each chunk in one piece: what it takes to spread its rows over the array is not
    theirs.
    """
    layout = LAYOUTS[case.layout]
    decoded = layout.compressor is not None
    if case.windows or layout.compressor == "blosc" or (decoded and layout.shard):
        return {}
    objects = sorted(file for file in (path / "c").rglob("*") if file.is_file())
    return ceiling.readers(
        port,
        [f"/{path.name}/{file.relative_to(path).as_posix()}" for file in objects],
        layout.chunk**2 * 4 if decoded else max(file.stat().st_size for file in objects),
        ["tls"] * case.tls + ["zstd"] * decoded,
    )


# --- for asv


class Arrays:
    """Arrays of 256 MiB, and 300 windows of them, unless BENCH_MIB says otherwise."""

    params = [list(CASES)]
    param_names = ["case"]

    def setup_cache(self) -> dict[str, Beside]:
        return dict(measure(Path.cwd()))

    setup_cache.timeout = 3600

    def setup(self, measured: dict[str, Beside], case: str) -> None:
        if case not in measured:
            raise NotImplementedError("zarr is older than version 3")

    def track_rate(self, measured: dict[str, Beside], case: str) -> float:
        return measured[case].rate

    def track_hog_ratio(self, measured: dict[str, Beside], case: str) -> float:
        return measured[case].hog_ratio

    def track_alone(self, measured: dict[str, Beside], case: str) -> float:
        return measured[case].alone

    def track_ratio_to_ceiling(self, measured: dict[str, Beside], case: str) -> float:
        ratio = measured[case].ratio_to_ceiling
        # To asv None is a failure.
        return math.nan if ratio is None else ratio

    track_rate.unit = "MiB/s"
    track_hog_ratio.unit = "beside a hog / without, per core left"
    track_alone.unit = "zarr alone / zfast, time"
    track_ratio_to_ceiling.unit = "zfast / a bare poll loop behind zarr"


class ArrayPeers:
    """zfast by each peer, out of the same rounds."""

    params = [list(CASES), list(PEERS)]
    param_names = ["case", "peer"]

    setup_cache = Arrays.setup_cache

    def setup(self, measured: dict[str, Beside], case: str, peer: str) -> None:
        if case not in measured or peer not in measured[case].peer_ratios:
            raise NotImplementedError(f"{peer} is not installed")

    def track_ratio_to_peer(self, measured: dict[str, Beside], case: str, peer: str) -> float:
        return measured[case].peer_ratios[peer]

    def track_ratio_without_zarr(self, measured: dict[str, Beside], case: str, peer: str) -> float:
        return measured[case].peer_ratios_without[peer]

    track_ratio_to_peer.unit = "zfast / peer"
    track_ratio_without_zarr.unit = "zfast / peer, less what zarr takes alone"


class FusedPipeline(ArrayPeers):
    """The same by zarr's synchronous pipeline, on FastStore and on the stores among its peers."""

    params = [list(CASES), list(STORES)]

    def setup_cache(self) -> dict[str, Beside]:
        return dict(measure(Path.cwd(), peers=STORES, settings=FUSED)) if HAS_FUSED else {}

    setup_cache.timeout = 3600

    def setup(self, measured: dict[str, Beside], case: str, peer: str) -> None:
        if not HAS_FUSED:
            raise NotImplementedError("zarr has no FusedCodecPipeline before 3.3")
        super().setup(measured, case, peer)
