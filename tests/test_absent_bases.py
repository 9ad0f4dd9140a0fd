"""A base URL that is not there: told from one that lists nothing, and the place of a new store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.caddy import find_caddy, writable
from servers.nginx import Nginx, has_dav
from servers.processes import ChildServer
from servers.scripted import Reply, Request, ScriptedServer, ok, ranged, status

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

import zarr
from zarr.core.buffer import cpu
from zarr.core.sync import sync

import zfast
from zfast import FastStore


async def collect(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


@pytest.fixture(params=["nginx", "caddy"])
def dav(
    request: pytest.FixtureRequest, start: Callable[..., Any], tmp_path: Path
) -> Iterator[ChildServer]:
    """A server that takes PUT and DELETE, and lists."""
    if not has_dav():
        pytest.skip("there is no nginx with PUT and DELETE")
    server = start(Nginx, tmp_path, dav=True)
    if request.param == "nginx":
        yield server
    elif find_caddy() is None:
        pytest.skip("there is no Caddy")
    else:
        with writable(server) as caddy:
            yield caddy


@pytest.mark.parametrize("base", ["/new", "/not/yet%20there/"])
async def test_a_base_that_is_not_there_is_not_empty_but_can_be_cleared(
    dav: ChildServer, base: str
) -> None:
    """No page shows that it is absent; that it lists what is written there shows that it was."""
    store = FastStore(dav.url + base, read_only=False)
    for call in (store.list, lambda: store.list_dir("a")):
        with pytest.raises(zfast.ListingError, match=r"mode='a'\) begins a store"):
            await collect(call())
    with pytest.raises(zfast.ListingError):
        await store.with_read_only(True).is_empty("")
    assert await store.is_empty("a")
    await store.delete_dir("a")
    await store.clear()
    assert await collect(store.list()) == []
    assert await store.is_empty("")
    await store.set("a/b", cpu.Buffer.from_bytes(b"1"))
    assert await collect(store.list()) == ["a/b"]


@pytest.mark.parametrize("dav", ["nginx"], indirect=True)
async def test_what_pages_do_not_show_is_listed_all_the_same(
    dav: ChildServer, tmp_path: Path
) -> None:
    """nginx lists no `.zarray`: a copy of what is listed would not open."""
    arrays = ("group/0", "b")
    for name in arrays:
        array: Any = zarr.open_array(
            tmp_path / name,
            mode="w",
            shape=(8, 8),
            chunks=(2, 2),
            dtype="i8",
            zarr_format=2,
            dimension_separator="/",
        )
        array[...] = np.arange(1, 65).reshape(8, 8)
    zarr.open_group(tmp_path, mode="a", zarr_format=2).require_group("group")
    there = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    store = FastStore(dav.url)
    assert set(await collect(store.list())) == there == await asyncio.to_thread(set, store)
    below = {key for key in there if key.startswith("group/0/")}
    assert ".zarray" in "".join(below)
    assert set(await collect(store.list_prefix("group/0"))) == below
    sizes = [path.stat().st_size for path in (tmp_path / "group/0").rglob("*") if path.is_file()]
    assert await store.getsize_prefix("group/0") == sum(sizes)
    # What is below an array is not asked about, and nothing is where a document shows.
    before = store.stats()["requests"]
    pages = 1 + 1 + 2 + 8
    await collect(store.list())
    assert store.stats()["requests"] - before == pages + 4 * 4
    # Of an array of format 3 that alone is asked about: it may have been of format 2.
    zarr.create_array(tmp_path / "c", data=np.ones((9, 9)), chunks=(1, 1))
    (tmp_path / "c/.zattrs").write_bytes(b"{}")
    before = store.stats()["requests"]
    assert "c/.zattrs" in await collect(store.list())
    assert store.stats()["requests"] - before == pages + 11 + 5 * 4
    before = store.stats()["requests"]
    assert len(await collect(store.list_prefix("c/c"))) == 81
    assert store.stats()["requests"] - before == 10 + 2 * 2


@pytest.mark.parametrize("path", ["", "a/b"])
def test_a_store_is_created_where_there_is_none(dav: ChildServer, path: str) -> None:
    for number, create in enumerate(
        (
            lambda store: zarr.open_group(store=store, path=path, mode="w"),
            lambda store: zarr.open_group(store=store, path=path, mode="w-"),
            lambda store: zarr.open_group(store=store, path=path, mode="a"),
            lambda store: zarr.create_group(store=store, path=path, overwrite=True),
            lambda store: zarr.create_array(store=store, name=path, shape=1, dtype="i4"),
            lambda store: zarr.save(store, np.zeros(1), path=path),
        )
    ):
        store = FastStore(f"{dav.url}/new/{number}", read_only=False)
        create(store)
        kept = [key for key in store if key.endswith("zarr.json")]
        assert f"{path}/zarr.json".removeprefix("/") in kept
        assert not [key for key in store if "probe" in key]


async def test_several_begin_at_once(dav: ChildServer) -> None:
    """Each finds out for itself, and takes nothing away from another."""
    stores = [FastStore(f"{dav.url}/new", read_only=False) for _ in range(8)]
    assert all(await asyncio.gather(*(store.is_empty("") for store in stores)))
    await asyncio.gather(*(store.clear() for store in stores))
    assert await collect(stores[0].list()) == []


async def test_what_was_left_by_who_was_interrupted_is_no_key(dav: ChildServer) -> None:
    left = FastStore(f"{dav.url}/new", read_only=False)
    await left.set("zfast-probe-0", cpu.Buffer.from_bytes(b"1"))
    store = FastStore(f"{dav.url}/new")
    assert await store.is_empty("")
    assert await collect(store.list()) == await collect(store.list_dir("")) == []
    # Nor is it deleted by a store that is not to write.
    assert "zfast-probe-0" in left


def test_a_server_that_takes_put_alone(start: Callable[..., Any], tmp_path: Path) -> None:
    if not has_dav():
        pytest.skip("there is no nginx with PUT and DELETE")
    extra = "dav_methods PUT; create_full_put_path on;"
    server = start(Nginx, tmp_path, extra=extra)
    for mode in ("w", "w-"):
        store = FastStore(f"{server.url}/new-{mode}", read_only=False)
        array = zarr.open_array(store=store, mode=mode, shape=4, chunks=2, dtype="i4")
        array[:] = 7
        assert (array[:] == 7).all()


@pytest.fixture
def mount(
    scripted: Callable[..., ScriptedServer], start: Callable[..., Any], tmp_path: Path
) -> tuple[str, dict[str, bytes]]:
    """An nginx that lists, a folder on it that leads to objects without a listing, and these."""
    if not has_dav():
        pytest.skip("there is no nginx with PUT and DELETE")
    objects: dict[str, bytes] = {}
    (tmp_path / "beside").write_bytes(b"")
    store = scripted(ranged(objects))
    extra = f"location /bucket/ {{ proxy_pass {store.url}/; }}"
    return start(Nginx, tmp_path, dav=True, extra=extra).url, objects


@pytest.mark.parametrize(("base", "path"), [("/bucket/s", ""), ("", "bucket/s")])
def test_what_is_mounted_below_a_listed_folder_is_not_empty(
    mount: tuple[str, dict[str, bytes]], base: str, path: str
) -> None:
    """Its name is on no page: all that was there would be taken for new."""
    url, objects = mount
    store = FastStore(url + base, read_only=False)
    array = zarr.open_array(store=store, path=path, mode="a", shape=4, chunks=2, dtype="i4")
    array[:] = 7
    before = dict(objects)
    for call in (
        lambda: zarr.open_array(store=store, path=path, mode="w", shape=4, chunks=2, dtype="i4"),
        lambda: sync(store.delete_dir(path)),
        lambda: sync(collect(store.list_prefix(f"{path}/" if path else ""))),
        lambda: sync(collect(store.list_dir(path))),
        lambda: sync(store.getsize_prefix(path)),
    ):
        with pytest.raises(zfast.ListingError, match="no directory index page"):
            call()
    assert not sync(store.is_empty(path))
    with pytest.raises(FileExistsError):
        zarr.open_group(store=store, path=path, mode="w-")
    assert objects == before


async def test_what_is_mounted_is_not_cleared_for_want_of_a_document(
    mount: tuple[str, dict[str, bytes]],
) -> None:
    """As after a deletion that broke off: the chunks alone are there."""
    url, objects = mount
    objects["s/c/0"] = b"chunk"
    store = FastStore(f"{url}/bucket/s", read_only=False)
    for call in (store.clear, lambda: store.delete_dir("c"), lambda: store.is_empty("")):
        with pytest.raises(zfast.ListingError, match="no directory index page"):
            await call()
    assert objects == {"s/c/0": b"chunk"}


async def test_where_nothing_lists_nothing_is_written_to_find_out(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(ranged({}))
    with pytest.raises(zfast.ListingError, match="no directory index page"):
        await FastStore(f"{server.url}/a/base", read_only=False).clear()
    assert server.keys("PUT") == []


@pytest.mark.parametrize(
    "above",
    [
        pytest.param({"": ["other", "a"]}, id="one that has it"),
        pytest.param({"": ["a"], "a/": ["base"]}, id="the nearest has it"),
    ],
)
async def test_what_a_page_has_is_not_absent(
    scripted: Callable[..., ScriptedServer], above: dict[str, list[str]]
) -> None:
    """As where some directories of a server have index pages, and those of others are missing."""

    def answer(request: Request) -> Reply:
        if request.key not in above:
            return status(404)
        rows = [{"name": name, "type": "directory"} for name in above[request.key]]
        return ok(json.dumps(rows).encode(), content_type="application/json")

    server = scripted(answer)
    store = FastStore(f"{server.url}/a/base", read_only=False)
    with pytest.raises(zfast.ListingError, match="no directory index page"):
        await store.clear()
    assert server.keys("PUT") == []
