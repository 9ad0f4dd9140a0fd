"""Arrays as a server holds them and as a FastStore opens them, for tests of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from servers.scripted import ScriptedServer
from zarr.storage import LocalStore, MemoryStore

from zfast import FastStore

OURS = "zfast.pipeline.FastCodecPipeline"
VALUES = np.arange(1, 60 * 50 + 1, dtype="float32").reshape(60, 50)
LAYOUTS: dict[str, dict[str, Any]] = {
    "format 2": {"zarr_format": 2, "chunks": (16, 16)},
    "format 3": {"zarr_format": 3, "chunks": (16, 16)},
    "raw": {"zarr_format": 3, "chunks": (16, 16), "compressors": None},
    "sharded": {"zarr_format": 3, "chunks": (8, 8), "shards": (16, 16)},
}
CHUNKS = 16
"""In the 60 by 50 elements."""


def create(store: Any, values: Any = None, **options: Any) -> Any:
    options = {"shape": VALUES.shape, "dtype": VALUES.dtype, "fill_value": 0} | options
    array = zarr.create_array(store=store, name="a", **options)
    if values is not None:
        array[...] = values
    return array


class Objects(dict[str, bytes]):
    """What a server holds, also as a local store of zarr's sees it."""

    def local(self, folder: Path) -> Any:
        for key, value in self.items():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
        return zarr.open_array(store=LocalStore(folder), path="a")[...]

    def fill(self, values: Any, **options: Any) -> None:
        store = MemoryStore()
        create(store, values, **options)
        for key, value in store._store_dict.items():
            self[key] = value.to_bytes()


def opened(server: ScriptedServer, **options: Any) -> tuple[FastStore, Any]:
    store = FastStore(server.url, **options)
    return store, zarr.open_array(store=store, path="a", mode="r" if store.read_only else "r+")
