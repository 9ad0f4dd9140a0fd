"""xarray over FastStore: the values of a local read, natively, and no request too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.listed import Listed
from servers.ranged import Ranged
from servers.scripted import ScriptedServer, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="xarray's newest over zarr 3")
pytest.importorskip("xarray")
pytest.importorskip("dask.array", reason="chunks={} is dask's")

import xarray as xr
from zarr.registry import get_pipeline_class

import zfast
from zfast import FastStore
from zfast.pipeline import FastCodecPipeline

pytestmark = [
    # zarr's, of every group of format 3; xarray consolidates unless told not to.
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]

Start = Callable[..., ScriptedServer]

SHAPE = (12, 32, 48)
CHUNKS = (4, 16, 16)
GRID = (3, 2, 3)


def dataset(day: int = 0) -> Any:
    """Twelve days from `day` on: floats, and what is packed into integers with a scale."""
    values = np.arange(np.prod(SHAPE), dtype="f4").reshape(SHAPE) + day
    values[0, :3, :3] = np.nan
    dims = ("time", "y", "x")
    return xr.Dataset(
        {
            "temperature": (dims, values, {"units": "K"}),
            "rain": (dims, np.round(values % 100) / 4),
        },
        {
            "time": np.datetime64("2026-01-01", "ns")
            + np.arange(day, day + 12) * np.timedelta64(1, "D"),
            "y": np.linspace(-60.0, 60.0, SHAPE[1]),
            "x": np.arange(SHAPE[2]),
        },
        {"title": "tests"},
    )


def write(folder: Path, day: int = 0, zarr_format: int = 3, **options: Any) -> Path:
    """Write a dataset; packed variables of format 3 are sharded."""
    packed: dict[str, Any] = {"dtype": "i2", "scale_factor": 0.25, "_FillValue": -1}
    if zarr_format == 3:
        packed["shards"] = (4, 32, 48)
    encoding = {"temperature": {"chunks": CHUNKS}, "rain": {"chunks": CHUNKS, **packed}}
    dataset(day).to_zarr(folder, zarr_format=zarr_format, encoding=encoding, **options)
    return folder


def objects_in(folder: Path, below: str = "") -> dict[str, bytes]:
    """What is stored in a folder, by key."""
    return {
        f"{below}{path.relative_to(folder)}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def native(store: FastStore) -> bool:
    """Whether what is opened now is read by the core, and all that was read has been."""
    return get_pipeline_class() is FastCodecPipeline and store.stats()["fallback_chunks"] == 0


# ------------------------------------------------------------------------------------ one dataset


@pytest.mark.parametrize("chunks", [None, {}], ids=["lazy", "dask"])
@pytest.mark.parametrize("consolidated", [True, False], ids=["consolidated", "listed"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_dataset_is_that_of_a_local_read(
    nginx: Site, zarr_format: int, consolidated: bool, chunks: Any
) -> None:
    write(nginx.root, zarr_format=zarr_format, consolidated=consolidated)
    options = {"consolidated": consolidated, "chunks": chunks}
    store = FastStore(nginx.url)
    with xr.open_zarr(store, **options) as remote, xr.open_zarr(nginx.root, **options) as local:
        xr.testing.assert_identical(remote.load(), local.load())
        xr.testing.assert_allclose(remote, dataset())
    assert native(store)


def test_opening_asks_for_metadata_and_the_coordinates(scripted: Start, tmp_path: Path) -> None:
    """No listing, no HEAD; metadata once."""
    server = scripted(ranged(objects_in(write(tmp_path))))
    for zarr_format, metadata in (
        (3, ["zarr.json"]),
        # Unless told, xarray asks for both formats.
        (None, [".zattrs", ".zgroup", ".zmetadata", "zarr.json"]),
    ):
        before = len(server.requests)
        with xr.open_zarr(FastStore(server.url), zarr_format=zarr_format):
            pass
        asked = server.requests[before:]
        assert {request.method for request in asked} == {"GET"}
        keys = [request.key for request in asked if "/c/" not in request.key]
        assert sorted(keys) == metadata
        # The first and the last time are read apart, to see how times are decoded.
        assert {request.key for request in asked} - {*keys} == {"time/c/0", "x/c/0", "y/c/0"}


# Selections, and the chunks that they touch: along time, y and x.
SELECTIONS: dict[str, tuple[Callable[[Any], Any], set[tuple[int, int, int]]]] = {
    "all": (lambda v: v, {(t, y, x) for t in range(3) for y in range(2) for x in range(3)}),
    "one time": (lambda v: v.isel(time=5), {(1, y, x) for y in range(2) for x in range(3)}),
    "labels": (lambda v: v.sel(time="2026-01-03", x=slice(3, 9)), {(0, 0, 0), (0, 1, 0)}),
    "outer": (
        lambda v: v.isel(time=slice(None, None, 6), y=[1, 30], x=[40]),
        {(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)},
    ),
    "backwards": (lambda v: v.isel(time=slice(3, None, -1), y=0, x=-1), {(0, 0, 2)}),
    "points": (
        lambda v: v.isel(
            time=xr.DataArray([0, 11], dims="p"),
            y=xr.DataArray([2, 31], dims="p"),
            x=xr.DataArray([3, 40], dims="p"),
        ),
        {(0, 0, 0), (2, 1, 2)},
    ),
    "nearest": (lambda v: v.sel(x=46.7, y=1e3, method="nearest"), {(t, 1, 2) for t in range(3)}),
    "chained": (lambda v: v[4:][:, 20:].isel(x=47)[-1], {(2, 1, 2)}),
    "nothing": (lambda v: v[:0], set()),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_is_selected_is_all_that_is_read(
    scripted: Start, tmp_path: Path, selection: str
) -> None:
    server = scripted(ranged(objects_in(write(tmp_path))))
    store = FastStore(server.url)
    select, touched = SELECTIONS[selection]
    with xr.open_dataset(store, engine="zarr") as remote, xr.open_zarr(tmp_path) as local:
        before = len(server.requests)
        xr.testing.assert_identical(
            select(remote["temperature"]).compute(), select(local["temperature"]).compute()
        )
        keys = [request.key for request in server.requests[before:]]
        assert sorted(keys) == sorted(f"temperature/c/{t}/{y}/{x}" for t, y, x in touched)
        xr.testing.assert_identical(
            select(remote["rain"]).compute(), select(local["rain"]).compute()
        )
        asked = Counter((request.key, request.range) for request in server.requests[before:])
    # Shards: each index once, and nothing of a shard that is not touched.
    assert set(asked.values()) <= {1}
    shards = {key for key, _ in asked if key.startswith("rain")}
    assert shards == {f"rain/c/{t}/0/0" for t, *_ in touched}
    assert native(store)


def test_what_the_core_does_not_know_is_read_by_zarr(scripted: Start, tmp_path: Path) -> None:
    """Strings, which is what fallbacks are counted for; numbers beside them stay native."""
    names = xr.DataArray(np.array(["Łódź", "", "Zürich"], object), dims="station")
    stations = xr.Dataset({"height": ("station", [180.0, 0.0, 408.0])}, {"name": names})
    stations.to_zarr(tmp_path, zarr_format=2)
    server = scripted(ranged(objects_in(tmp_path)))
    store = FastStore(server.url)
    with xr.open_zarr(store, chunks=None) as found:
        np.testing.assert_array_equal(found["height"], stations["height"])
        assert native(store)
        np.testing.assert_array_equal(found["name"], names)
    assert store.stats()["fallback_chunks"] == 1


def test_a_tree_of_groups(scripted: Start, tmp_path: Path) -> None:
    tree = xr.DataTree.from_dict({"/a": dataset(), "/b": dataset(12), "/b/c": dataset(12) * 2})
    tree.to_zarr(tmp_path)
    server = scripted(ranged(objects_in(tmp_path)))
    store = FastStore(server.url)
    with xr.open_datatree(store, engine="zarr") as found:
        xr.testing.assert_identical(found.load(), tree)
    with xr.open_zarr(store, group="b/c") as group:
        # Coordinates are its parent's.
        xr.testing.assert_equal(group.load(), (dataset(12) * 2).drop_vars(["time", "y", "x"]))
    assert native(store)


# -------------------------------------------------------------------------------- several datasets


@pytest.fixture
def days(scripted: Start, tmp_path: Path) -> tuple[ScriptedServer, list[FastStore]]:
    """Three datasets, one after the other in time."""
    objects: dict[str, bytes] = {}
    for number in range(3):
        folder = write(tmp_path / str(number), 12 * number)
        objects |= objects_in(folder, f"{number}/")
    server = scripted(ranged(objects))
    return server, [FastStore(f"{server.url}/{number}") for number in range(3)]


@pytest.fixture
def joined() -> Any:
    """What is in them."""
    return xr.concat([dataset(12 * number) for number in range(3)], "time", data_vars="all")


def test_a_loop_over_datasets(days: Any, joined: Any) -> None:
    server, stores = days
    opened = [xr.open_dataset(store, engine="zarr", chunks=None) for store in stores]
    before = len(server.requests)
    found = xr.concat([each["temperature"].isel(y=3) for each in opened], "time")
    xr.testing.assert_equal(found, joined["temperature"].isel(y=3))
    keys = Counter(request.key for request in server.requests[before:])
    assert set(keys.values()) == {1}
    assert len(keys) == 3 * GRID[0] * GRID[2]
    assert all(map(native, stores))


@pytest.mark.parametrize("parallel", [False, True], ids=["in turn", "parallel"])
def test_open_mfdataset(days: Any, joined: Any, parallel: bool) -> None:
    server, stores = days
    with xr.open_mfdataset(
        stores,
        engine="zarr",
        combine="nested",
        concat_dim="time",
        parallel=parallel,
        data_vars="all",
        coords="minimal",
        compat="override",
        join="override",
    ) as found:
        assert found["temperature"].chunks[0] == (4,) * 9
        before = len(server.requests)
        window = found["temperature"].isel(time=slice(10, 14), x=0)
        xr.testing.assert_equal(
            window.compute(), joined["temperature"].isel(time=slice(10, 14), x=0)
        )
        asked = sorted(request.key for request in server.requests[before:])
        assert asked == sorted(
            f"{day}/temperature/c/{t}/{y}/0" for day, t in ((0, 2), (1, 0)) for y in range(2)
        )
        xr.testing.assert_allclose(found.compute(), joined)
    assert all(map(native, stores))


# ---------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_dataset_is_written_and_grows(scripted: Start, zarr_format: int) -> None:
    server = scripted(Listed({}))
    store = FastStore(server.url, read_only=False)
    encoding = {name: {"chunks": CHUNKS} for name in ("temperature", "rain")}
    dataset().to_zarr(store, mode="w", zarr_format=zarr_format, encoding=encoding)
    dataset(12).to_zarr(store, append_dim="time")
    # Over what is there.
    dry = dataset()[["rain"]].isel(time=slice(4, 8)) * 0
    dry.drop_vars(["time", "y", "x"]).to_zarr(store, region={"time": slice(4, 8)})
    with xr.open_zarr(FastStore(server.url)) as found:
        found.load()
    expected = xr.concat([dataset(), dataset(12)], "time", data_vars="all")
    expected["rain"][4:8] = 0
    xr.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_is_written_where_nothing_is_listed(scripted: Start, zarr_format: int) -> None:
    """A region of a consolidated store; to make one, or append to it, takes a listing."""
    objects = Listed({})
    dataset().to_zarr(
        FastStore(scripted(objects).url, read_only=False),
        zarr_format=zarr_format,
        consolidated=True,
    )
    url = scripted(Ranged(objects.objects)).url
    store = FastStore(url, read_only=False)
    for day, options in ((1, {}), (2, {"mode": "r+"})):
        other = dataset(day).isel(time=slice(4)).drop_vars(["time", "y", "x"])
        other.to_zarr(store, region={"time": slice(4)}, **options)
        with xr.open_zarr(store) as remote:
            found = remote.isel(time=slice(4)).drop_vars(["time", "y", "x"]).load()
        xr.testing.assert_allclose(found, other)
    for path, options in (
        ("", {"append_dim": "time"}),
        ("", {"mode": "w"}),
        *((f"/new-{mode}", {"mode": mode}) for mode in ("a", "w", "w-")),
    ):
        with pytest.raises(zfast.ListingError):
            dataset().to_zarr(FastStore(url + path, read_only=False), **options)
