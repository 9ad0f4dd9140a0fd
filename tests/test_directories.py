"""A directory is no key: its index page is never taken for a value, on any server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers.caddy import Caddy
from servers.lighttpd import Lighttpd
from servers.nginx import Nginx
from servers.processes import ChildServer
from servers.pythonhttp import PythonHTTP
from servers.scripted import Reply, Request, ScriptedServer, ok, redirect, status
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import zfast

# lighttpd does not say that what it has no index page of is a file.
SERVERS = ("nginx", "caddy", "apache", "pythonhttp", "lighttpd")


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    found.write({"group/zarr.json": b"{}", "group/c/0": b"chunk"})
    return found


def test_reading_a_directory_is_an_error(site: Site) -> None:
    with zfast.Client(site.url) as client:
        with pytest.raises(zfast.ResponseError, match="directory") as caught:
            client.get("group")
        assert caught.value.status in (301, 308)
        assert client.get("group/zarr.json") == b"{}"


def test_a_directory_is_not_there(site: Site) -> None:
    with zfast.Client(site.url) as client:
        assert client.head("group") is None
    store = zfast.FastStore(site.url)
    assert "group" not in store
    assert "group/c/0" in store


@pytest.mark.parametrize("site", SERVERS[:-1], indirect=True)
async def test_a_file_is_no_directory(site: Site) -> None:
    store = zfast.FastStore(site.url)
    assert [key async for key in store.list_prefix("group/c/0/")] == []
    assert [name async for name in store.list_dir("group/c/0")] == []
    assert await store.getsize_prefix("group/c/0") == 0
    assert await store.is_empty("group/c/0")
    assert [name async for name in store.list_dir("group/c")] == ["0"]


NAMES = ["d é", "日本", "a{b", "x[1]", "~u", "a+b&c", "50%"]


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_however_the_server_writes_it(site: Site, name: str) -> None:
    """Servers encode what they redirect to in ways of their own."""
    site.write({f"{name}/inner": b"x"})
    store = zfast.FastStore(site.url)
    assert name not in store
    assert f"{name}/inner" in store
    with pytest.raises(zfast.ResponseError, match="directory"):
        store[name]
    assert store[f"{name}/inner"] == b"x"


@pytest.mark.parametrize("base", ["b\u00e9", "b%c3%a9", "%7Eb", "/b", "~b"])
def test_a_directory_below_a_base_of_many_forms(site: Site, base: str) -> None:
    site.write({"bé/group/inner": b"x", "~b/group/inner": b"x", "b/group/inner": b"x"})
    store = zfast.FastStore(f"{site.url}/{base}")
    assert "group" not in store
    assert store["group/inner"] == b"x"
    with pytest.raises(zfast.ResponseError, match="directory"):
        store["group"]


def test_a_directory_by_way_of_another_origin(scripted: Callable[..., ScriptedServer]) -> None:
    """A server that stands behind another redirects to its own name for itself."""
    page = scripted(lambda _: ok(b"<html>Index of /group/</html>"))
    server = scripted(lambda request: redirect(f"{page.url}/{request.key}/"))
    with pytest.raises(zfast.ResponseError, match="directory"):
        zfast.FastStore(server.url)["group"]
    assert not page.requests


@pytest.mark.parametrize("kind", [Caddy, PythonHTTP, Nginx])
def test_a_directory_of_a_server_behind_one_that_takes_a_prefix_off(
    start: Callable[..., Any], tmp_path: Path, kind: type[ChildServer]
) -> None:
    """It redirects to what its own name is, where the one in front has something else."""
    (tmp_path / "back/a").mkdir(parents=True)
    (tmp_path / "back/a/k").write_bytes(b"value")
    (tmp_path / "front/a").mkdir(parents=True)
    (tmp_path / "front/a/index.html").write_bytes(b"<html>somebody else's</html>")
    back = start(kind, tmp_path / "back")
    extra = f"location /data/ {{ proxy_pass {back.url}/; }}"
    front = start(Nginx, tmp_path / "front", autoindex=False, extra=extra)
    store = zfast.FastStore(f"{front.url}/data")
    assert store["a/k"] == b"value"
    assert "a" not in store
    with pytest.raises(zfast.ResponseError, match="directory"):
        store["a"]


async def test_there_is_nothing_below_a_file(site: Site) -> None:
    """As zarr finds out of all that is listed; Caddy answers 400, and lighttpd 403."""
    store = zfast.FastStore(site.url)
    for key in ("group/c/0/zarr.json", "group/c/0/deeper/.zarray"):
        assert await store.get(key, default_buffer_prototype()) is None
        assert store.get_sync(key) is None
        assert not await store.exists(key)
        assert key not in store
        with pytest.raises(KeyError):
            store[key]


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized as a component")
def test_files_beside_its_nodes_do_not_end_the_listing_of_a_group(site: Site) -> None:
    local = zarr.open_group(str(site.root / "hierarchy"), mode="w")
    local.create_array("a", shape=1, dtype="i4")
    local.create_group("b/c")
    site.write({"hierarchy/README.txt": b"", "hierarchy/b/notes": b""})
    group = zarr.open_group(zfast.FastStore(f"{site.url}/hierarchy"), mode="r")
    assert sorted(group) == ["a", "b"]
    assert sorted(name for name, _ in group.members(max_depth=None)) == ["a", "b", "b/c"]
    assert "README.txt" not in group


@pytest.mark.parametrize("key", ["a/b/zarr.json", "zarr.json"])
@pytest.mark.parametrize("answer", [status(404), ok(b"<html>", content_type="text/html")])
async def test_a_bad_request_is_an_error(
    scripted: Callable[..., ScriptedServer], key: str, answer: Reply
) -> None:
    """Unless the server itself says that what is above the key is a file."""
    objects = {"a", "a/b"}
    server = scripted(
        lambda request: (
            status(400) if request.key == key else ok(b"1") if request.key in objects else answer
        )
    )
    store = zfast.FastStore(server.url)
    calls: list[Callable[[], Any]] = [
        lambda: store[key],
        lambda: key in store,
        lambda: store.get_sync(key),
        lambda: sync(store.get(key, default_buffer_prototype())),
        lambda: sync(store.exists(key)),
    ]
    for call in calls:
        with pytest.raises(zfast.ResponseError, match="400"):
            call()


_FILE = {"name": "a", "type": "file"}
_DIRECTORY = {"name": "a", "type": "directory"}


@pytest.mark.parametrize(
    "page",
    [
        status(403),
        status(404),
        ok(b"<title>a</title>", content_type="text/html"),
        *(
            ok(json.dumps(rows).encode(), content_type="application/json")
            for rows in ([], [_DIRECTORY], [_FILE, _DIRECTORY], [{"name": "b", "type": "file"}])
        ),
    ],
)
async def test_what_is_forbidden_is_an_error(
    scripted: Callable[..., ScriptedServer], page: Reply
) -> None:
    """Unless an index page has what is above the key as a file, and as nothing else."""
    server = scripted(
        lambda request: (
            status(403) if request.key == "a/key" else ok(b"1") if request.key == "a" else page
        )
    )
    store = zfast.FastStore(server.url)
    calls: list[Callable[[], Any]] = [
        lambda: store["a/key"],
        lambda: "a/key" in store,
        lambda: store.get_sync("a/key"),
        lambda: sync(store.get("a/key", default_buffer_prototype())),
        lambda: sync(store.exists("a/key")),
    ]
    for call in calls:
        with pytest.raises(zfast.AccessError, match="403"):
            call()
    requests = len(server.requests)
    with pytest.raises(zfast.AccessError, match="403"):
        zfast.FastStore(f"{server.url}/a")["key"]
    assert len(server.requests) == requests + 1


def test_a_server_that_lists_nothing_cannot_say_what_is_a_file(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"1")
    store = zfast.FastStore(start(Lighttpd, tmp_path, listing=False).url)
    for read in (store.__getitem__, store.__contains__):
        with pytest.raises(zfast.AccessError, match="403"):
            read("file/zarr.json")


def test_a_url_may_lead_to_a_directory(site: Site) -> None:
    """`cat_ranges` reads URLs, not keys: what a redirect leads to is what was asked for."""
    (page,) = zfast.cat_ranges([f"{site.url.rstrip('/')}/group"])
    assert b"zarr.json" in bytes(page)


@pytest.mark.parametrize("strips", [False, True], ids=["leads elsewhere", "strips slashes"])
def test_a_400_behind_a_redirect_is_an_error(
    scripted: Callable[..., ScriptedServer], strips: bool
) -> None:
    """A file's own server sends there who asks for its directory; others send for other reasons."""

    def handle(request: Any) -> Reply:
        if strips and request.key.endswith("/"):
            return redirect(f"/{request.key.rstrip('/')}", 308)
        if not strips and not request.key.startswith("there/"):
            return redirect(f"/there/{request.key}", 302)
        return status(400 if request.key.endswith("key") else 404)

    server = scripted(handle)
    store = zfast.FastStore(server.url)
    for read in (store.__getitem__, store.__contains__):
        with pytest.raises(zfast.ResponseError, match="400"):
            read("group/key")


def test_links_that_lead_in_a_circle(start: Callable[..., Any], tmp_path: Path) -> None:
    """Of two there are more directories than anybody could list."""
    for name in ("one", "other"):
        (tmp_path / name).symlink_to(".")
    client = zfast.Client(start(Nginx, tmp_path).url)
    with pytest.raises(zfast.ListingError, match="nested too deep"):
        list(client.list())


def test_a_directory_that_is_elsewhere(scripted: Callable[..., ScriptedServer]) -> None:
    """The links of its page are relative to where that is."""
    page = (
        "<title>Index of /there/</title><pre><a href='/there/sub/'>sub</a>"
        "<a href='/there/key'>key</a><a href='/data/none'>none</a></pre>"
    )

    def moved(request: Request) -> Reply:
        if request.target.startswith("/data/"):
            return redirect(request.target.replace("/data/", "/there/"))
        if request.target == "/there/":
            return ok(page.encode()).with_fields(content_type="text/html")
        return status(404)

    client = zfast.Client(f"{scripted(moved).url}/data")
    assert sorted(client.list_dir()) == ["key", "sub"]


def test_a_page_with_a_number_that_is_none(scripted: Callable[..., ScriptedServer]) -> None:
    page = f"<title>Index of /</title><pre><a href='&#{5000 * '1'};'>x</a></pre>".encode()
    server = scripted(lambda _: ok(page).with_fields(content_type="text/html"))
    with pytest.raises(zfast.ListingError, match="no directory index of a known kind") as caught:
        list(zfast.Client(server.url).list_dir())
    assert "switch it on" not in str(caught.value)
    # A client knows no stores.
    assert "the store" not in str(caught.value)
