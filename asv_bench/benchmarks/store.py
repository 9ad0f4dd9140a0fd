"""Whole arrays through `zarr.open(store=FastStore(url))[...]`, under a bare poll loop's ceiling.

The ceiling is the network's alone: the loop fetches every object of the array, and decodes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

import zfast

from .ceiling import Ceiling
from .common import (
    CONNECTIONS,
    DATA_MIB,
    MIB,
    ROUNDS,
    Figures,
    Rounds,
    Tracked,
    clocked,
    figures,
    serving,
    with_hogs,
)
from .peers import ZARR_3, ZARRS_OWN

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class _Layout:
    """One way to store the same array of float32."""

    chunks: tuple[int, int]
    shards: tuple[int, int] | None = None
    compressed: bool = False


LAYOUTS = {
    "64 KiB raw": _Layout((128, 128)),
    "1 MiB raw": _Layout((512, 512)),
    "256 KiB zstd": _Layout((256, 256), compressed=True),
    "sharded raw": _Layout((128, 128), shards=(512, 8192)),
    "sharded zstd": _Layout((128, 128), shards=(512, 8192), compressed=True),
}

_COLUMNS = 8192
_ROWS_PER_MIB = MIB // (4 * _COLUMNS)


def measure(
    folder: Path,
    layouts: Iterable[str] = tuple(LAYOUTS),
    mib: int = DATA_MIB,
    rounds: int = ROUNDS,
) -> dict[tuple[str], Figures]:
    """Read an array of `mib` MiB in each layout; nothing where zarr is older than version 3.

    Returns
    -------
    dict
        Figures by layout; rates are in MiB/s of the array.
    """
    if not ZARR_3:
        return {}
    root = folder / "root"
    root.mkdir()
    ceiling = Ceiling(folder)
    values = _values(mib)
    measured = {}
    with serving(root) as server, zarr.config.set({"async.concurrency": CONNECTIONS}):
        for number, name in enumerate(layouts):
            path = root / f"{number}"
            with zarr.config.set(ZARRS_OWN):
                targets, largest = _write(path, LAYOUTS[name], values)
            url = f"{server.url}/{number}"
            store = zfast.FastStore(url, max_concurrency=CONNECTIONS)
            read = functools.partial(_read, store)
            if not np.array_equal(read(), values):
                raise AssertionError(f"other values than were written: {name}")
            requests = store.stats()["requests"] / len(targets)
            ceilings = ceiling.readers(
                server.port, [f"/{number}/{target}" for target in targets], largest
            )
            ran = Rounds({**ceilings, **with_hogs({"zfast": clocked(read)})}, rounds)
            measured[(name,)] = figures(ran, "zfast", ceilings, mib, requests=requests)
            store.close()
    return measured


def _values(mib: int) -> npt.NDArray[np.float32]:
    """Numbers that compress like measured ones: noise in the leading bits, zeros behind."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 4096, (mib * _ROWS_PER_MIB, _COLUMNS), dtype=np.uint16)
    return values.astype(np.float32) / np.float32(16)


def _write(path: Path, layout: _Layout, values: npt.NDArray[np.float32]) -> tuple[list[str], int]:
    """Write an array; the keys of its chunks or shards, and the size of the largest."""
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=layout.chunks,
        shards=layout.shards,
        compressors=zarr.codecs.ZstdCodec(level=3) if layout.compressed else None,
        zarr_format=3,
    )
    array[...] = values
    objects = sorted(file for file in (path / "c").rglob("*") if file.is_file())
    sizes = [file.stat().st_size for file in objects]
    return [file.relative_to(path).as_posix() for file in objects], max(sizes)


def _read(store: Any) -> Any:
    return zarr.open(store=store, mode="r")[...]


# --- for asv


class Store(Tracked):
    """An array of 256 MiB, unless BENCH_MIB says otherwise."""

    params = [list(LAYOUTS)]
    param_names = ["layout"]
    unit = "MiB/s"

    def setup_cache(self) -> dict[Any, Figures]:
        return measure(Path.cwd())

    setup_cache.timeout = 1800

    def track_requests(self, measured: dict[Any, Figures], *params: str) -> float | None:
        return measured[params].requests

    track_requests.unit = "requests/object, to open it included"
