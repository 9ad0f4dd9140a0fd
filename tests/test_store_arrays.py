"""zarr over FastStore, on real servers: every value is right, at one request a chunk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from servers.caddy import Caddy
from servers.listed import Listed
from servers.nginx import Nginx
from servers.scripted import Reply, Request, ScriptedServer, overlay, ranged, status
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import cpu
from zarr.storage import LocalStore, MemoryStore

import zfast
from zfast import FastStore

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")

VALUES = np.arange(60 * 50, dtype="float32").reshape(60, 50)
LAYOUTS: dict[str, dict[str, Any]] = {
    "format 2": {"zarr_format": 2, "chunks": (16, 16)},
    "format 2, nested": {
        "zarr_format": 2,
        "chunks": (16, 16),
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "format 3": {"zarr_format": 3, "chunks": (16, 16)},
    "format 3, raw": {"zarr_format": 3, "chunks": (16, 16), "compressors": None},
    "sharded": {"zarr_format": 3, "chunks": (8, 8), "shards": (32, 32)},
    "sharded, raw": {
        "zarr_format": 3,
        "chunks": (8, 8),
        "shards": (32, 32),
        "compressors": None,
    },
}
SELECTIONS: list[Any] = [
    np.s_[:],
    np.s_[3],
    np.s_[3, 4],
    np.s_[10:20, 5:45],
    np.s_[::7, ::-1][:1] + np.s_[3:49:5,],
    np.s_[59:, 49:],
    np.s_[0:0],
]


# Before zarr 3.0.9 a mode has to say that a store is only read.
READ_ONLY: dict[str, Any] = {} if hasattr(Store, "with_read_only") else {"mode": "r"}


def write(store: Any, layout: dict[str, Any], name: str = "a") -> None:
    # Not `data=`, by which zarr 3.0 writes a shard from several sides at once, and destroys it.
    form: dict[str, Any] = {"shape": VALUES.shape, "dtype": VALUES.dtype, **layout}
    zarr.create_array(store=store, name=name, **form)[...] = VALUES


@pytest.fixture(params=["nginx", "caddy"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_arrays_are_read(site: Site, layout: dict[str, Any]) -> None:
    write(LocalStore(site.root), layout)
    array = zarr.open_array(store=FastStore(site.url), path="a")
    for selection in SELECTIONS:
        np.testing.assert_array_equal(array[selection], VALUES[selection])
    np.testing.assert_array_equal(array.oindex[[1, 40], [2, 30]], VALUES[np.ix_([1, 40], [2, 30])])
    np.testing.assert_array_equal(array.vindex[[1, 40], [2, 30]], VALUES[[1, 40], [2, 30]])
    assert array.read_only


def test_arrays_are_read_where_ranges_are_ignored(pythonhttp: Site) -> None:
    write(LocalStore(pythonhttp.root), LAYOUTS["sharded"])
    array = zarr.open_array(store=FastStore(pythonhttp.url), path="a")
    for selection in SELECTIONS:
        np.testing.assert_array_equal(array[selection], VALUES[selection])


@pytest.mark.parametrize(
    ("layout", "selection", "chunks"),
    [
        ("format 2", np.s_[:], 16),
        ("format 3", np.s_[:], 16),
        ("format 3", np.s_[20:40, 3], 2),
    ],
)
def test_an_array_read_is_one_get_a_chunk(
    site: Site, layout: str, selection: Any, chunks: int
) -> None:
    write(LocalStore(site.root), LAYOUTS[layout])
    array = zarr.open_array(store=FastStore(site.url), path="a")
    before = len(site.requests())
    np.testing.assert_array_equal(array[selection], VALUES[selection])
    reads = site.requests(before + chunks)[before:]
    assert {read.method for read in reads} == {"GET"}
    assert len({read.key for read in reads}) == len(reads) == chunks


def test_a_whole_shard_is_one_get_after_its_index(site: Site) -> None:
    write(LocalStore(site.root), LAYOUTS["sharded"])
    shard = site.root / "a/c/0/0"
    os.utime(shard, (shard.stat().st_mtime - 10,) * 2)
    array = zarr.open_array(store=FastStore(site.url), path="a")
    before = len(site.requests())
    for _ in range(2):
        np.testing.assert_array_equal(array[:32, :32], VALUES[:32, :32])
    reads = site.requests(before + 3)[before:]
    assert {(read.method, read.key) for read in reads} == {("GET", f"{site.name}/a/c/0/0")}
    index, whole, again = (str(read.range) for read in reads)
    assert index.startswith("bytes=-")
    assert whole == again
    assert whole.startswith("bytes=0-")


def test_opening_asks_only_for_metadata(site: Site) -> None:
    write(LocalStore(site.root), LAYOUTS["format 3"])
    zarr.open_array(store=FastStore(site.url), path="a", zarr_format=3)
    (asked,) = site.requests(1)
    assert (asked.method, asked.key, asked.status) == ("GET", f"{site.name}/a/zarr.json", 200)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups(nginx: Site, zarr_format: Any) -> None:
    root = zarr.open_group(
        store=LocalStore(nginx.root), mode="w", zarr_format=zarr_format, attributes={"n": 1}
    )
    for path in ("a", "b/c", "b/d/e"):
        write(root.store, {"zarr_format": zarr_format, "chunks": (16, 16)}, path)
    group = zarr.open(store=FastStore(nginx.url), **READ_ONLY)
    assert isinstance(group, zarr.Group)
    assert dict(group.attrs) == {"n": 1}
    assert dict(group.members(max_depth=None)).keys() == {"a", "b", "b/c", "b/d", "b/d/e"}
    np.testing.assert_array_equal(group["b/d/e"][5:9], VALUES[5:9])
    assert group.store.read_only


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("server", [(Nginx, {"autoindex": False}), (Caddy, {"browse": False})])
def test_consolidated_groups_need_no_listing(
    start: Callable[..., Any], tmp_path: Path, zarr_format: Any, server: Any
) -> None:
    local = LocalStore(tmp_path)
    zarr.open_group(store=local, mode="w", zarr_format=zarr_format)
    for path in ("a", "b/c"):
        write(local, {"zarr_format": zarr_format, "chunks": (16, 16)}, path)
    zarr.consolidate_metadata(local, zarr_format=zarr_format)
    kind, options = server
    store = FastStore(start(kind, tmp_path, **options).url)
    group = zarr.open_consolidated(store, mode="r")
    assert dict(group.members(max_depth=None)).keys() == {"a", "b", "b/c"}
    np.testing.assert_array_equal(group["b/c"][:], VALUES)
    asked = store.stats()["requests"]
    assert zarr.open(store=store, **READ_ONLY).metadata.consolidated_metadata is not None
    plain = zarr.open_group(store=store, mode="r", use_consolidated=False)
    np.testing.assert_array_equal(plain["a"][0], VALUES[0])
    assert store.stats()["requests"] > asked
    with pytest.raises(zfast.ListingError, match="consolidated metadata"):
        plain.members()


def test_missing_chunks_are_the_fill_value(site: Site) -> None:
    local = LocalStore(site.root)
    layouts = [LAYOUTS["format 2"], LAYOUTS["format 3"], LAYOUTS["sharded"]]
    for index, layout in enumerate(layouts):
        layout = {"shape": VALUES.shape, "dtype": "float32", "fill_value": 7, **layout}
        array = zarr.create_array(store=local, name=str(index), **layout)
        array[:10, :10] = VALUES[:10, :10]
    expected = np.full_like(VALUES, 7)
    expected[:10, :10] = VALUES[:10, :10]
    store = FastStore(site.url)
    for index in range(len(layouts)):
        np.testing.assert_array_equal(zarr.open_array(store=store, path=str(index))[:], expected)
    assert store.stats()["missing"]


@pytest.mark.parametrize("code", [500, 403, 204, 301])
@pytest.mark.parametrize("layout", ["format 2", "format 3", "sharded"])
def test_a_failure_is_an_error_and_never_the_fill_value(
    scripted: Callable[..., ScriptedServer], code: int, layout: str
) -> None:
    memory = MemoryStore()
    write(memory, LAYOUTS[layout])
    objects = {key: value.to_bytes() for key, value in memory._store_dict.items()}
    victim = sorted(key for key in objects if not key.rpartition("/")[2].startswith((".", "zarr")))[
        2
    ]

    def fault(request: Request, reply: Reply) -> Reply | None:
        return status(code) if request.key == victim else None

    store = FastStore(scripted(overlay(ranged(objects), fault)).url, retries=0)
    array = zarr.open_array(store=store, path="a")
    with pytest.raises(zfast.ZfastError) as caught:
        array[:]
    assert caught.value.key == victim
    assert caught.value.status == code
    assert str(code) in str(caught.value)


def test_a_body_cut_short_never_reaches_a_codec(scripted: Callable[..., ScriptedServer]) -> None:
    memory = MemoryStore()
    write(memory, LAYOUTS["format 3, raw"])
    objects = {key: value.to_bytes() for key, value in memory._store_dict.items()}

    def cut(request: Request, reply: Reply) -> Reply | None:
        return reply.cut_body(100) if request.key == "a/c/1/1" else None

    store = FastStore(scripted(overlay(ranged(objects), cut)).url, retries=0)
    array = zarr.open_array(store=store, path="a")
    with pytest.raises(zfast.ConnectionFailedError, match="cut short"):
        array[:]


# ----------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_is_written_is_what_zarr_writes(
    scripted: Callable[..., ScriptedServer], layout: dict[str, Any]
) -> None:
    memory = MemoryStore()
    objects: dict[str, bytes] = {}
    # No listing: creating and writing do without.
    store = FastStore(scripted(ranged(objects, writable=True)).url, read_only=False)
    for target in (memory, store):
        write(target, layout)
        array = zarr.open_array(store=target, path="a", mode="r+")
        array[10:20, 5:45] = 3
        array[0, 0] = np.nan
        array.attrs["unit"] = "m"
    assert objects == {key: value.to_bytes() for key, value in memory._store_dict.items()}
    expected = zarr.open_array(store=memory, path="a")[:]
    np.testing.assert_array_equal(zarr.open_array(store=store, path="a")[:], expected)


def test_groups_are_written_and_deleted(scripted: Callable[..., ScriptedServer]) -> None:
    objects: dict[str, bytes] = {}
    store = FastStore(scripted(Listed(objects)).url, read_only=False)
    memory = MemoryStore()
    for target in (memory, store):
        group = zarr.open_group(store=target, mode="a")
        form: dict[str, Any] = {"shape": VALUES.shape, "dtype": VALUES.dtype}
        for name in ("a", "b"):
            group.create_array(name, chunks=(16, 16), **form)[...] = VALUES
        group.create_group("c/d")
        del group["a"]
        group.create_array("b", chunks=(30, 30), overwrite=True, **form)[...] = VALUES + 1
        zarr.consolidate_metadata(target)
    expected = {key: value.to_bytes() for key, value in memory._store_dict.items()}
    assert objects.keys() == expected.keys()
    for key, value in expected.items():
        if key.endswith("zarr.json"):
            # zarr 3.0 consolidates metadata in the order in which they arrive.
            assert json.loads(objects[key]) == json.loads(value), key
        else:
            assert objects[key] == value, key
    group = zarr.open_group(store=store, mode="w")
    assert list(group) == []
    assert objects.keys() == {"zarr.json"}


def test_empty_chunks_are_deleted(scripted: Callable[..., ScriptedServer]) -> None:
    objects: dict[str, bytes] = {}
    store = FastStore(scripted(ranged(objects)).url, read_only=False)
    write(store, LAYOUTS["format 3"])
    assert sum(key.startswith("a/c/") for key in objects) == 16
    zarr.open_array(store=store, path="a", mode="r+")[:32] = 0
    assert sum(key.startswith("a/c/") for key in objects) == 8


@pytest.mark.skipif(bool(READ_ONLY), reason="zarr asks for no read-only store before 3.0.9")
def test_a_reader_of_a_writable_store(scripted: Callable[..., ScriptedServer]) -> None:
    """zarr asks for a read-only store itself where the mode says so."""
    store = FastStore(scripted(ranged({})).url, read_only=False)
    write(store, LAYOUTS["format 3"])
    array = zarr.open_array(store=store, path="a", mode="r")
    assert array.store.read_only
    np.testing.assert_array_equal(array[:], VALUES)
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 0


def test_write_only_where_it_is_allowed(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(ranged({}))
    with pytest.raises(ValueError, match="read-only"):
        write(FastStore(server.url), LAYOUTS["format 3"])
    assert not server.keys("PUT")


# ----------------------------------------------------------------------------- other shapes of data


def test_other_kinds_of_data(nginx: Site) -> None:
    local = LocalStore(nginx.root)
    arrays: dict[str, npt.NDArray[Any]] = {
        "scalar": np.array(42, dtype="int16"),
        "empty": np.zeros((0, 3), dtype="uint8"),
        "big endian": np.arange(100, dtype=">i4"),
        "complex": np.arange(10) * 1j,
        "bool": np.arange(10) % 3 == 0,
        "time": np.arange(10).astype("M8[s]"),
    }
    for name, values in arrays.items():
        chunks = tuple(max(1, extent // 2) for extent in values.shape)
        zarr.create_array(
            store=local, name=name, data=values, chunks=chunks or "auto", zarr_format=2
        )
    group = zarr.open_group(store=FastStore(nginx.url), mode="r", use_consolidated=False)
    for name, values in arrays.items():
        np.testing.assert_array_equal(group[name][...], values)


def test_zarr_save_and_load(scripted: Callable[..., ScriptedServer]) -> None:
    store = FastStore(scripted(Listed({})).url, read_only=False)
    zarr.save_array(store, VALUES)
    np.testing.assert_array_equal(zarr.load(store), VALUES)
    assert isinstance(cpu.Buffer.from_bytes(store["zarr.json"]), cpu.Buffer)
