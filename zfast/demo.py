"""Real zarr arrays over real HTTP on this machine: written, served, read back, checked, timed.

The proof that an installation works. A speed is shown only for values that were compared with
what was written, every one of them; the server is a process of its own, as it would be elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from zfast.config import config, setting
from zfast.serve import serving

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["leaving_nothing_to_zarr", "run"]

# Two reads each, in turns; the better one counts. The first also opens the connections.
_ROUNDS = 2

# 4 KiB a row of float32: any number of MiB is a whole number of 256 KiB chunks.
_COLUMNS = 1024
_ROWS_PER_MIB = 256


@dataclass(frozen=True)
class _Layout:
    """One way to store the same kind of array."""

    name: str
    chunks: tuple[int, int]
    shards: tuple[int, int] | None
    compressed: bool


_LAYOUTS = (
    _Layout("unsharded raw", (256, 256), None, False),
    _Layout("unsharded zstd", (256, 256), None, True),
    _Layout("sharded zstd", (128, 128), (1024, 1024), True),
)


class _Progress:
    """One line on a terminal, overwritten as things go on and erased at the end."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.erase()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._stream is not None:
            self._stream.write(f"\r\x1b[2K{text}")
            self._stream.flush()

    def erase(self) -> None:
        """Leave no trace, so that other output can follow."""
        self.show("")


@dataclass
class _Reading:
    """What came of reading one array through one store."""

    seconds: float = float("inf")
    equal: bool = True
    requests: int | None = None


def _values(layout: int, size: int) -> npt.NDArray[np.float32]:
    """Numbers that compress like measured ones: noise in the leading bits, zeros behind.

    Each array has its own: memory left over from another one is never taken for a good read.
    """
    rng = np.random.default_rng(layout)
    shape = (size * _ROWS_PER_MIB, _COLUMNS)
    values = rng.integers(1, 4096, shape, dtype=np.uint16).astype(np.float32)
    values /= 16
    return values


def _write(folder: str, layout: _Layout, values: npt.NDArray[np.float32]) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    array = zarr.create_array(
        os.path.join(folder, layout.name.replace(" ", "-")),
        shape=values.shape,
        dtype=values.dtype,
        chunks=layout.chunks,
        shards=layout.shards,
        compressors=ZstdCodec(level=3) if layout.compressed else None,
        zarr_format=3,
    )
    array[...] = values


def _read(store: Any, expected: npt.NDArray[np.float32], reading: _Reading) -> None:
    """Read a whole array once; opening it, which is a matter of metadata, is not timed."""
    import zarr

    array: Any = zarr.open(store=store, mode="r")
    start = time.perf_counter()
    values = array[...]
    reading.seconds = min(reading.seconds, time.perf_counter() - start)
    reading.equal &= bool(np.array_equal(values, expected))


def _fsspec_store(url: str) -> Any:
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(url, read_only=True)


def _has_fsspec() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("fsspec", "aiohttp"))


def _measure(
    url: str, expected: npt.NDArray[np.float32], zarrs_own: dict[str, Any], versus: bool
) -> tuple[_Reading, _Reading | None]:
    """Read one array through zfast and, where wanted, through zarr's own ways on fsspec."""
    import zarr

    from zfast import FastStore

    ours, theirs = _Reading(), _Reading() if versus else None
    # The server is on this machine, where no proxy leads.
    with config.set(trust_env=False), FastStore(url) as fast:
        fsspec = _fsspec_store(url) if versus else None
        for _ in range(_ROUNDS):
            _read(fast, expected, ours)
            if ours.requests is None:
                ours.requests = fast.stats()["requests"]
            if theirs is not None:
                with zarr.config.set(zarrs_own):
                    _read(fsspec, expected, theirs)
    return ours, theirs


def _zarrs_own() -> dict[str, Any]:
    """The settings zarr reads with when zfast is not there, at zfast's own concurrency.

    To be taken before the first FastStore chooses its pipeline. zarr's default of ten requests
    at once would flatter the comparison.
    """
    import zarr

    return {
        "codec_pipeline.path": zarr.config.get("codec_pipeline.path"),
        "async.concurrency": setting("max_concurrency"),
    }


def _row(name: str, size: int, ours: _Reading, theirs: _Reading | None) -> str:
    cells = [f"{name:<16}", f"{size:>6}", f"{size / ours.seconds:>8.0f}", f"{ours.requests:>9}"]
    if theirs is not None:
        cells.append(f"{size / theirs.seconds:>13.0f}")
        cells.append(f"{theirs.seconds / ours.seconds:>6.2f}")
    equal = ours.equal and (theirs is None or theirs.equal)
    return "  ".join([*cells, "equal" if equal else "DIFFERENT"])


def _head(versus: bool) -> str:
    cells = [f"{'array':<16}", f"{'MiB':>6}", f"{'MiB/s':>8}", f"{'requests':>9}"]
    if versus:
        cells += [f"{'fsspec MiB/s':>13}", f"{'ratio':>6}"]
    return "  ".join([*cells, "values"])


@contextlib.contextmanager
def leaving_nothing_to_zarr() -> Iterator[None]:
    """Have zarr end what it is at when its caller is interrupted.

    What is left is deleted next, folder or loop; of tasks that are pending then asyncio complains.
    """

    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Files are written by threads, which know of no cancelling.
        await asyncio.get_running_loop().shutdown_default_executor()

    try:
        yield
    except KeyboardInterrupt:
        # Not imported: it is zarr's own, what ends well has no need of it, and zarr 2 none of that.
        sync = sys.modules.get("zarr.core.sync")
        if sync is not None:
            asyncio.run_coroutine_threadsafe(end(), sync._get_loop()).result()
        raise


def run(size: int, *, say: Callable[[str], None] = print) -> int:
    """Write, serve, read and check three arrays, and print a table about it.

    Parameters
    ----------
    size
        MiB of each array.
    say
        Where a line of the table goes.

    Returns
    -------
    int
        Exit status: 0 when every value came back as it was written, else 1.

    Raises
    ------
    RuntimeError
        The installed zarr is older than version 3.
    """
    import zarr

    if int(zarr.__version__.partition(".")[0]) < 3:
        raise RuntimeError(f"the demo needs zarr 3, this is zarr {zarr.__version__}")
    versus = _has_fsspec()
    zarrs_own = _zarrs_own()
    all_equal = True
    with (
        _Progress(sys.stderr) as progress,
        tempfile.TemporaryDirectory(prefix="zfast-demo-", ignore_cleanup_errors=True) as folder,
        leaving_nothing_to_zarr(),
        serving(folder) as url,
    ):
        say(_head(versus))
        for number, layout in enumerate(_LAYOUTS, 1):
            step = f"{layout.name} ({number} of {len(_LAYOUTS)})"
            progress.show(f"{step}: writing {size} MiB")
            values = _values(number, size)
            with zarr.config.set(zarrs_own):
                _write(folder, layout, values)
            progress.show(f"{step}: reading over {url}")
            ours, theirs = _measure(
                f"{url}/{layout.name.replace(' ', '-')}", values, zarrs_own, versus
            )
            all_equal &= ours.equal and (theirs is None or theirs.equal)
            progress.erase()
            say(_row(layout.name, size, ours, theirs))
    return 0 if all_equal else 1
