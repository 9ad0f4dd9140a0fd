"""An index page that does not show all there is: an error, and never a shorter list."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zarr", minversion="3.1")

from servers.caddy import Caddy
from servers.nginx import Nginx
from servers.ranged import Ranged
from servers.scripted import Reply, Request, ScriptedServer, ok, status

import zfast
from zfast import FastStore

# Caddy's own limit: https://caddyserver.com/docs/caddyfile/directives/file_server
LIMIT = 10_000


class Cut(Ranged):
    """Lists its root in Caddy's manner, and takes DELETE."""

    def __call__(self, request: Request) -> Reply:
        if request.key:
            return super().__call__(request)
        names = [key for key in self.objects if "/" not in key][:LIMIT]
        rows = [{"name": name, "url": f"./{name}", "is_dir": False} for name in names]
        return ok(json.dumps(rows).encode(), content_type="application/json")


@pytest.mark.parametrize("more", [-99, 0, 7])
async def test_where_caddy_ends_a_page(
    start: Callable[..., Any], tmp_path: Path, more: int
) -> None:
    for number in range(LIMIT + more):
        (tmp_path / f"{number}").touch()
    store = FastStore(start(Caddy, tmp_path, browse=True).url)
    if more < 0:
        assert len(store) == LIMIT + more
        return
    with pytest.raises(zfast.ListingError, match="file_limit"):
        len(store)
    with pytest.raises(zfast.ListingError, match="file_limit"):
        [name async for name in store.list_dir("")]
    assert not await store.is_empty("")


@pytest.mark.parametrize("limit", [LIMIT - 1, LIMIT, LIMIT + 1])
async def test_as_many_entries_of_others(
    start: Callable[..., Any], tmp_path: Path, limit: int
) -> None:
    for number in range(limit):
        (tmp_path / f"{number}").touch()
    assert len(FastStore(start(Nginx, tmp_path).url)) == limit


async def test_what_a_page_does_not_show_is_deleted_too(
    scripted: Callable[..., ScriptedServer],
) -> None:
    listed = Cut({f"k{number}": b"" for number in range(LIMIT + 500)})
    await FastStore(scripted(listed).url, read_only=False).clear()
    assert listed.objects == {}


async def test_a_deletion_that_gets_nowhere_ends(
    scripted: Callable[..., ScriptedServer],
) -> None:
    listed = Cut({f"k{number}": b"" for number in range(LIMIT + 1)})
    server = scripted(lambda request: ok() if request.method == "DELETE" else listed(request))
    with pytest.raises(zfast.ListingError, match="file_limit"):
        await FastStore(server.url, read_only=False).clear()


@pytest.mark.parametrize("code", [404, 410])
async def test_a_directory_that_is_listed_and_not_there(
    start: Callable[..., Any], tmp_path: Path, code: int
) -> None:
    for name in ("zarr.json", "c/0", "c/d/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    extra = f"location ~ /(c|d)/$ {{ return {code}; }}"
    store = FastStore(start(Nginx, tmp_path, extra=extra).url, read_only=False)
    for call in (store.clear, lambda: store.delete_dir(""), lambda: store.getsize_prefix("")):
        with pytest.raises(zfast.ListingError, match="/c"):
            await call()
    assert (tmp_path / "zarr.json").exists()
    assert not await store.is_empty("")


async def test_a_directory_that_goes_while_it_is_listed(
    scripted: Callable[..., ScriptedServer],
) -> None:
    pages = iter([[{"name": "c", "type": "directory"}, {"name": "k", "type": "file"}], []])

    def handle(request: Request) -> Reply:
        if request.key:
            return status(404)
        return ok(json.dumps(next(pages)).encode(), content_type="application/json")

    assert list(iter(FastStore(scripted(handle).url))) == ["k"]
