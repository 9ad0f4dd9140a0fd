"""Whole arrays through `zarr.open(store=FastStore(url))[...]`, beside zarr on other stores.

The ceiling is the network's alone: a bare poll loop that fetches every object of the array.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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

if TYPE_CHECKING:
    import numpy.typing as npt

Read: TypeAlias = Callable[[], Any]


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
    if int(zarr.__version__.partition(".")[0]) < 3:
        return {}
    root = folder / "root"
    root.mkdir()
    ceiling = Ceiling(folder)
    # To be taken before the first FastStore chooses a pipeline for the process.
    zarrs_own = {"codec_pipeline.path": zarr.config.get("codec_pipeline.path")}
    values = _values(mib)
    measured = {}
    with serving(root) as server, zarr.config.set({"async.concurrency": CONNECTIONS}):
        for number, name in enumerate(layouts):
            path = root / f"{number}"
            with zarr.config.set(zarrs_own):
                targets, largest = _write(path, LAYOUTS[name], values)
            url = f"{server.url}/{number}"
            store = zfast.FastStore(url, max_concurrency=CONNECTIONS)
            peers = _peers(url, zarrs_own)
            reads: dict[str, Read] = {"zfast": _through(store), **peers}
            for reader, read in reads.items():
                if not np.array_equal(read(), values):
                    raise AssertionError(f"{reader} read other values than were written")
            requests = store.stats()["requests"] / len(targets)
            ceilings = ceiling.readers(
                server.port, [f"/{number}/{target}" for target in targets], largest
            )
            subjects = {
                **ceilings,
                **with_hogs({"zfast": clocked(reads["zfast"])}),
                **{peer: clocked(read) for peer, read in peers.items()},
            }
            measured[(name,)] = figures(
                Rounds(subjects, rounds), "zfast", ceilings, mib, requests=requests, peers=peers
            )
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


def _through(store: Any) -> Read:
    return lambda: zarr.open(store=store, mode="r")[...]


# --- the peers, each where it is installed


def _peers(url: str, zarrs_own: dict[str, Any]) -> dict[str, Read]:
    reads: dict[str, Read] = {}
    for name, store in (("fsspec", _fsspec_store), ("obstore", _obstore_store)):
        with contextlib.suppress(ImportError):
            reads[name] = _configured(_through(store(url)), zarrs_own)
    with contextlib.suppress(ImportError):
        reads["tensorstore"] = _tensorstore_read(url)
    return reads


def _configured(read: Read, settings: dict[str, Any]) -> Read:
    def configured() -> Any:
        with zarr.config.set(settings):
            return read()

    return configured


def _fsspec_store(url: str) -> Any:
    import aiohttp  # noqa: F401 (fsspec would say so only when it reads)
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(url, read_only=True)


def _obstore_store(url: str) -> Any:
    from obstore.store import HTTPStore
    from zarr.storage import ObjectStore

    return ObjectStore(HTTPStore.from_url(url, client_options={"allow_http": True}), read_only=True)


def _tensorstore_read(url: str) -> Read:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": f"{url}/"}}
    context = tensorstore.Context({"http_request_concurrency": {"limit": CONNECTIONS}})

    def read() -> Any:
        opened = tensorstore.open(spec, context=context, open=True, read=True)
        return opened.result().read().result()

    return read


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


class Peers:
    """zfast by each peer, out of the same rounds."""

    params = [list(LAYOUTS), ["fsspec", "obstore", "tensorstore"]]
    param_names = ["layout", "peer"]

    setup_cache = Store.setup_cache

    def setup(self, measured: dict[Any, Figures], layout: str, peer: str) -> None:
        if (layout,) not in measured or peer not in measured[(layout,)].peer_ratios:
            raise NotImplementedError(f"{peer} is not installed")

    def track_ratio_to_peer(self, measured: dict[Any, Figures], layout: str, peer: str) -> float:
        return measured[(layout,)].peer_ratios[peer]

    track_ratio_to_peer.unit = "zfast / peer"
