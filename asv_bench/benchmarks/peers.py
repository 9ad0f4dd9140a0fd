"""Who reads arrays over HTTP: zfast as it comes, and each of its peers where it is installed.

All keep as many requests in flight. zarr takes the pipeline of an array from its configuration when
the array is opened, and that of inner chunks when they are read: a reader's settings have to be in
force for both.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import zarr

import zfast

from .common import CONNECTIONS, Run, Subject

ZARR_3 = not zarr.__version__.startswith("2.")

PEERS = ("fsspec", "obstore", "tensorstore", "zarrs")

# What opens the array each time that it is called; the array gives numpy's when it is indexed.
Open: TypeAlias = Callable[[], Any]

ZARRS_OWN = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}

STORES = ("fsspec", "obstore")
"""Peers that are stores, and read by whatever pipeline zarr is set to."""

NO_ZARR = ("tensorstore",)
"""Peers with arrays of their own."""

ALONE = "zarr alone"
"""The reader that opens arrays and says what is wanted of them, of which nothing is read."""

FUSED = {
    "codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline",
    # Of a store that reads without asyncio, the requests at once; of the others, those that decode.
    "codec_pipeline.max_workers": CONNECTIONS,
}
HAS_FUSED = ZARR_3 and hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline")

_CONCURRENCY = {"async.concurrency": CONNECTIONS}


@dataclass(frozen=True)
class Reader:
    """One way to read arrays."""

    connect: Callable[[str], Open]
    """Of the URL of an array. It knows nothing yet of the array, and has no connection to it."""
    settings: Mapping[str, Any] = field(default_factory=lambda: _CONCURRENCY)
    """What zarr is to be set to while arrays are opened and read."""

    @contextlib.contextmanager
    def configured(self) -> Iterator[None]:
        with zarr.config.set(dict(self.settings)):
            yield

    def within(self, subject: Subject) -> Subject:
        """The same subject, run with zarr set so."""

        def run() -> Run:
            with self.configured():
                return subject()

        return run


def readers(
    peers: Iterable[str] = PEERS, settings: Mapping[str, Any] | None = None
) -> dict[str, Reader]:
    """Of zfast, and of those peers that are installed; with other settings of zarr, if any."""
    found = {"zfast": Reader(_through(zfast.FastStore))}
    for peer in peers:
        with contextlib.suppress(ImportError):
            found[peer] = _MAKERS[peer]()
    return {
        name: replace(reader, settings={**reader.settings, **(settings or {})})
        for name, reader in found.items()
    }


def zarr_alone(folder: Path, settings: Mapping[str, Any] | None = None) -> Reader:
    """Of the array that is written there; as set by `settings`, but for the pipeline."""
    metadata = zarr.core.buffer.cpu.Buffer.from_bytes((folder / "zarr.json").read_bytes())
    store = zarr.storage.MemoryStore({"zarr.json": metadata}, read_only=True)
    return Reader(
        lambda _: functools.partial(zarr.open, store=store, mode="r"),
        {**_CONCURRENCY, **(settings or {}), "codec_pipeline.path": _pipeline_that_reads_nothing()},
    )


@functools.cache
def _pipeline_that_reads_nothing() -> str:
    """Where zarr finds it; zarr 2 has no pipelines."""
    from zarr.core.codec_pipeline import BatchedCodecPipeline

    class Nothing(BatchedCodecPipeline):
        async def read(  # type: ignore[override]
            self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()
        ) -> tuple[dict[str, str], ...]:
            return tuple({"status": "present"} for _ in batch_info)

    zarr.registry.register_pipeline(Nothing)
    return f"{Nothing.__module__}.{Nothing.__qualname__}"


def _through(store_of: Callable[[str], Any]) -> Callable[[str], Open]:
    return lambda url: functools.partial(zarr.open, store=store_of(url), mode="r")


def _fsspec() -> Reader:
    import aiohttp  # noqa: F401 (fsspec would say so only when it reads)
    from zarr.storage import FsspecStore

    store_of = functools.partial(FsspecStore.from_url, read_only=True)
    return Reader(_through(store_of), {**_CONCURRENCY, **ZARRS_OWN})


def _obstore() -> Reader:
    return Reader(_through(_object_store_of()), {**_CONCURRENCY, **ZARRS_OWN})


def _object_store_of() -> Callable[[str], Any]:
    from obstore.store import HTTPStore
    from zarr.storage import ObjectStore

    def store_of(url: str) -> Any:
        http = HTTPStore.from_url(url, client_options={"allow_http": True})
        return ObjectStore(http, read_only=True)

    return store_of


def _zarrs() -> Reader:
    """zarrs' pipeline over obstore, which it opens once more on its own side."""
    # A request holds a thread of its pool, which the process has one of, as large as this says
    # when it is first used; else there are as many requests at once as cores.
    os.environ.setdefault("RAYON_NUM_THREADS", f"{CONNECTIONS}")
    import zarrs  # noqa: F401 (zarr would import it only when it opens an array)

    warnings.filterwarnings("ignore", "Successfully reconstructed a store", RuntimeWarning)
    settings = {
        "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
        # An error, rather than zarr's own pipeline, for what zarrs cannot read.
        "codec_pipeline.strict": True,
        "codec_pipeline.chunk_concurrent_maximum": CONNECTIONS,
        "threading.max_workers": CONNECTIONS,
    }
    return Reader(_through(_object_store_of()), {**_CONCURRENCY, **settings})


def _tensorstore() -> Reader:
    import tensorstore

    class Array:
        def __init__(self, opened: Any) -> None:
            self._opened = opened

        def __getitem__(self, selection: Any) -> Any:
            return self._opened[selection].read().result()

    def connect(url: str) -> Open:
        spec = {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": f"{url}/"}}
        context = tensorstore.Context(
            {
                "cache_pool": {"total_bytes_limit": 0},
                "http_request_concurrency": {"limit": CONNECTIONS},
            }
        )
        return lambda: Array(tensorstore.open(spec, context=context, open=True, read=True).result())

    return Reader(connect)


_MAKERS: dict[str, Callable[[], Reader]] = {
    "fsspec": _fsspec,
    "obstore": _obstore,
    "tensorstore": _tensorstore,
    "zarrs": _zarrs,
}
