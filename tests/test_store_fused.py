"""zarr's own pipelines over FastStore: the synchronous fast path of zarr 3.3 and newer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from servers.listed import Listed
from servers.scripted import Reply, Request, ScriptedServer, overlay, ranged, status

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

import zarr
from zarr.abc import store as abc
from zarr.core import codec_pipeline
from zarr.storage import MemoryStore

import zfast
from zfast import FastStore

if not hasattr(codec_pipeline, "FusedCodecPipeline"):
    pytest.skip("zarr has no synchronous pipeline before 3.3", allow_module_level=True)

FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
VALUES = np.arange(60 * 50, dtype="float32").reshape(60, 50)
LAYOUTS: dict[str, dict[str, Any]] = {
    "format 2": {"zarr_format": 2, "chunks": (16, 16)},
    "format 3": {"zarr_format": 3, "chunks": (16, 16)},
    "sharded": {"zarr_format": 3, "chunks": (8, 8), "shards": (32, 32)},
    "sharded, raw": {
        "zarr_format": 3,
        "chunks": (8, 8),
        "shards": (32, 32),
        "compressors": None,
    },
}
SELECTIONS: list[Any] = [np.s_[:], np.s_[3], np.s_[10:20, 5:45], np.s_[::7, 3:49:5], np.s_[0, 0]]

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(autouse=True)
def _fused() -> Iterator[None]:
    with zarr.config.set({"codec_pipeline.path": FUSED}):
        yield


@pytest.fixture
def synchronous(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the synchronous methods that were called."""
    called = []

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(FastStore, name)

        def call(*args: Any, **options: Any) -> Any:
            called.append(name)
            return real(*args, **options)

        return call

    for name in ("get_sync", "get_ranges_sync", "set_sync", "delete_sync"):
        monkeypatch.setattr(FastStore, name, watched(name))
    return called


def write(store: Any, layout: dict[str, Any]) -> Any:
    form: dict[str, Any] = {"shape": VALUES.shape, "dtype": VALUES.dtype, "fill_value": 0}
    array = zarr.create_array(store=store, name="a", **form, **layout)
    array[...] = VALUES
    return array


def written(layout: dict[str, Any]) -> dict[str, bytes]:
    memory = MemoryStore()
    write(memory, layout)
    return {key: value.to_bytes() for key, value in memory._store_dict.items()}


def test_zarr_takes_it_for_synchronous() -> None:
    for read_only in (True, False):
        assert abc._store_supports_sync_io(FastStore("http://localhost:1/", read_only=read_only))


@layouts
def test_arrays_are_read(
    scripted: Callable[..., ScriptedServer], layout: dict[str, Any], synchronous: list[str]
) -> None:
    array = zarr.open_array(store=FastStore(scripted(ranged(written(layout))).url), path="a")
    assert type(array.async_array.codec_pipeline).__name__ == "FusedCodecPipeline"
    for selection in SELECTIONS:
        np.testing.assert_array_equal(array[selection], VALUES[selection])
    np.testing.assert_array_equal(array.oindex[[1, 40], [2, 30]], VALUES[np.ix_([1, 40], [2, 30])])
    assert "get_sync" in synchronous
    assert ("get_ranges_sync" in synchronous) == ("shards" in layout)


@layouts
def test_arrays_are_written(
    scripted: Callable[..., ScriptedServer], layout: dict[str, Any], synchronous: list[str]
) -> None:
    objects: dict[str, bytes] = {}
    store = FastStore(scripted(Listed(objects)).url, read_only=False)
    memory = MemoryStore()
    for target in (memory, store):
        array = write(target, layout)
        array[10:20, 5:45] = 3
        array[:32] = 0
    assert objects == {key: value.to_bytes() for key, value in memory._store_dict.items()}
    assert {"set_sync", "delete_sync"} <= set(synchronous)


def test_inner_chunks_are_read_at_once(scripted: Callable[..., ScriptedServer]) -> None:
    """Ranges too far apart to be one request do not wait for one another."""
    objects = written(LAYOUTS["sharded"])
    meeting = threading.Barrier(2)
    inner = []

    def meet(request: Request, reply: Reply) -> Reply | None:
        asked = request.field("Range") or ""
        if request.key == "a/c/0/0" and asked.startswith("bytes=") and asked[6:7] != "-":
            inner.append(asked)
            meeting.wait(30)
        return None

    store = FastStore(scripted(overlay(ranged(objects), meet)).url)
    with zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0}):
        array = zarr.open_array(store=store, path="a")
        found = array[0:32:31, 0:8]
    np.testing.assert_array_equal(found, VALUES[0:32:31, 0:8])
    assert len(inner) == 2


@layouts
def test_missing_chunks_are_the_fill_value(
    scripted: Callable[..., ScriptedServer], layout: dict[str, Any]
) -> None:
    objects = written(layout)
    for key in list(objects):
        if key.endswith(("0/0", "0.0")):
            del objects[key]
    edge = layout.get("shards", layout["chunks"])[0]
    expected = VALUES.copy()
    expected[:edge, :edge] = 0
    store = FastStore(scripted(ranged(objects)).url)
    np.testing.assert_array_equal(zarr.open_array(store=store, path="a")[:], expected)
    np.testing.assert_array_equal(
        zarr.open_array(store=store, path="a")[2:50, 2:40], expected[2:50, 2:40]
    )


@pytest.mark.parametrize("code", [500, 403])
@layouts
def test_a_failure_is_an_error_and_never_the_fill_value(
    scripted: Callable[..., ScriptedServer], layout: dict[str, Any], code: int
) -> None:
    objects = written(layout)
    (victim,) = (key for key in objects if key.endswith(("1/1", "1.1")))

    def fault(request: Request, reply: Reply) -> Reply | None:
        return status(code) if request.key == victim else None

    store = FastStore(scripted(overlay(ranged(objects), fault)).url, retries=0)
    array = zarr.open_array(store=store, path="a")
    for selection in (np.s_[:], np.s_[2:50, 2:50]):
        with pytest.raises(zfast.ZfastError) as caught:
            array[selection]
        assert (caught.value.key, caught.value.status) == (victim, code)
