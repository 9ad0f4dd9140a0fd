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
from servers.scripted import Reply, Request, ScriptedServer, ok, redirect, status
from zarr.core.sync import sync

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


async def test_a_page_that_ends_before_any_key_does_not_make_it_empty(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """Of probes that a writer left behind, which are nobody's keys."""
    listed = Cut({f"zfast-probe-{number}": b"" for number in range(LIMIT)} | {"k": b""})
    with pytest.raises(zfast.ListingError, match="file_limit"):
        await FastStore(scripted(listed).url).is_empty("")


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


def test_a_directory_in_which_one_is_called_like_an_index_file(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """nginx redirects to that one, whose page does not list the one above."""
    for name in ("group/index.html/zarr.json", "group/a/zarr.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    url = start(Nginx, tmp_path).url
    for store, prefix in (
        (FastStore(f"{url}/group", read_only=False), ""),
        (FastStore(url, read_only=False), "group"),
    ):
        calls: list[Callable[[], Any]] = [
            lambda store=store: len(store),
            lambda store=store, prefix=prefix: sync(store.delete_dir(prefix)),
            lambda store=store, prefix=prefix: sync(store.getsize_prefix(prefix)),
        ]
        for call in calls:
            with pytest.raises(zfast.ListingError, match=r"redirects to .*/group/index\.html/,"):
                call()
    assert list(FastStore(f"{url}/group/a")) == ["zarr.json"]
    assert (tmp_path / "group/index.html/zarr.json").exists()


@pytest.mark.parametrize("there", ["/there/", "{other}/data/", "{other}/data/there/"])
def test_a_directory_that_is_elsewhere_is_listed_there(
    scripted: Callable[..., ScriptedServer], hosts: None, there: str
) -> None:
    """By a redirect, but for one to below it on the same host."""

    def handle(request: Request) -> Reply:
        if request.target == "/data/" and request.field("Host") in server.url:
            return redirect(there)
        if request.method == "HEAD":
            return status(404)
        rows = [{"name": "k", "type": "file"}]
        return ok(json.dumps(rows).encode(), content_type="application/json")

    server = scripted(handle)
    there = there.format(other=server.url.replace("127.0.0.1", "other.example"))
    assert list(FastStore(f"{server.url}/data")) == ["k"]
