"""What FastStore writes, deletes and lists, and how many requests and batches that takes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.apache import Apache
from servers.caddy import Caddy
from servers.leaks import wait_until
from servers.listed import Listed
from servers.nginx import Nginx
from servers.scripted import (
    Reply,
    Request,
    Reset,
    ScriptedServer,
    Wait,
    ok,
    ranged,
    redirect,
    status,
)
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

import zarr
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import Buffer, cpu
from zarr.core.sync import sync

import zfast
from zfast import FastStore


def buffer(data: bytes) -> Buffer:
    return cpu.Buffer.from_bytes(data)


async def collect(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


async def test_many_writes_are_one_batch(scripted: Callable[..., ScriptedServer]) -> None:
    objects: dict[str, bytes] = {}
    store = FastStore(scripted(ranged(objects)).url, read_only=False)
    values = {f"c/{index}": bytes([index]) * index for index in range(50)}
    await store._set_many((key, buffer(value)) for key, value in values.items())
    assert objects == values
    assert store.stats()["batches"] == 1
    store.set_sync("c/0", buffer(b"again"))
    with pytest.raises(TypeError, match="not a Buffer"):
        store.set_sync("c/0", b"no buffer")  # type: ignore[arg-type]
    assert objects["c/0"] == b"again"
    store.delete_sync("c/0")
    assert "c/0" not in objects
    store.delete_sync("c/0")


def test_a_failed_write_ends_when_those_beside_it_have_and_sends_none_again(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """What the server may write yet would come after what the caller writes, who has been told."""
    gate = threading.Event()
    server = scripted(
        lambda r: status(403) if r.key == "refused" else iter([Wait(gate), status(503).wire()])
    )
    store = FastStore(server.url, read_only=False, deadline=20)
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(store.setitems, {"late": b"1", "refused": b"2"})
        server.wait_for(lambda: len(server.requests) == 2)
        wait_until(lambda: store.stats()["failed"] == 1)
        time.sleep(0.1)
        assert not writing.done()
        gate.set()
        with pytest.raises(zfast.ZfastError):
            writing.result()
    assert sorted(server.keys("PUT")) == ["late", "refused"]


def test_an_array_that_the_server_does_not_take(scripted: Callable[..., ScriptedServer]) -> None:
    """A base URL that leads nowhere, as a mistyped one does: 404 to every PUT."""
    store = FastStore(scripted(lambda _: status(404)).url, read_only=False)
    with pytest.raises(zfast.errors.ResponseError, match=r"PUT .*: 404"):
        zarr.create_array(store, shape=(4,), dtype="i4")


@pytest.mark.parametrize("value", [b"bytes", "text", None, 3])
async def test_only_buffers_are_written(value: Any) -> None:
    store = FastStore("http://localhost:1/", read_only=False)
    with pytest.raises(TypeError, match=r"the value of 'k' is a .*, not a Buffer"):
        await store.set("k", value)


async def test_what_exists_is_not_overwritten(scripted: Callable[..., ScriptedServer]) -> None:
    objects = {"k": b"theirs"}
    server = scripted(ranged(objects))
    store = FastStore(server.url, read_only=False)
    await store.set_if_not_exists("k", buffer(b"ours"))
    await store.set_if_not_exists("new", buffer(b"ours"))
    assert objects == {"k": b"theirs", "new": b"ours"}
    put = [request for request in server.requests if request.method == "PUT"]
    assert [(request.key, request.field("If-None-Match")) for request in put] == [("new", "*")]


async def test_whoever_writes_in_between_keeps_the_key(
    scripted: Callable[..., ScriptedServer],
) -> None:
    objects: dict[str, bytes] = {}
    handler = ranged(objects)

    def another_writes_after_the_question(request: Request) -> Reply:
        reply = handler(request)
        if request.method == "HEAD":
            objects["k"] = b"theirs"
        return reply

    store = FastStore(scripted(another_writes_after_the_question).url, read_only=False)
    await store.set_if_not_exists("k", buffer(b"ours"))
    assert objects == {"k": b"theirs"}


async def test_a_server_that_knows_no_conditions_overwrites_nothing_either(
    scripted: Callable[..., ScriptedServer],
) -> None:
    objects = {"k": b"theirs"}
    handler = ranged(objects)

    def unconditional(request: Request) -> Reply:
        if request.method == "PUT":
            objects[request.key] = request.body
            return Reply(204)
        return handler(request)

    store = FastStore(scripted(unconditional).url, read_only=False)
    await store.set_if_not_exists("k", buffer(b"ours"))
    assert objects == {"k": b"theirs"}


@pytest.mark.parametrize("code", [408, 429, 500, 503])
async def test_a_refusal_that_passes_ends_no_conditional_write(
    scripted: Callable[..., ScriptedServer], code: int
) -> None:
    """zarr writes the groups above a new array so."""
    objects: dict[str, bytes] = {}
    serve, refused = ranged(objects, writable=True), set()

    def handler(request: Request) -> Reply:
        if request.method == "PUT" and request.key not in refused:
            refused.add(request.key)
            return status(code).with_fields(retry_after="0")
        return serve(request)

    store = FastStore(scripted(handler).url, read_only=False)
    await store.set_if_not_exists("k", buffer(b"ours"))
    assert objects == {"k": b"ours"}


async def test_an_interrupted_conditional_write_is_finished(
    scripted: Callable[..., ScriptedServer],
) -> None:
    objects: dict[str, bytes] = {}
    serve, cut = ranged(objects, writable=True), []

    def handler(request: Request) -> Any:
        reply = serve(request)
        if request.method == "PUT" and not cut:
            cut.append(request.key)
            return Reset()
        return reply

    server = scripted(handler)
    store = FastStore(server.url, read_only=False)
    await store.set_if_not_exists("k", buffer(b"ours"))
    assert objects == {"k": b"ours"}
    assert server.keys("PUT") == ["k", "k"]


async def test_a_server_that_is_not_writable(nginx: Any) -> None:
    store = FastStore(nginx.url, read_only=False)
    with pytest.raises(zfast.NotWritableError, match="PUT"):
        await store.set("k", buffer(b""))
    with pytest.raises(zfast.NotWritableError, match="DELETE"):
        await store.delete("k")


async def test_the_keys_of_a_directory_are_deleted_as_one_batch(
    scripted: Callable[..., ScriptedServer],
) -> None:
    objects = {f"a/c/{index}": b"" for index in range(50)} | {"a/zarr.json": b"", "ab/c": b""}
    server = scripted(Listed(objects))
    store = FastStore(server.url, read_only=False)
    await store.delete_dir("a")
    assert objects == {"ab/c": b""}
    assert len(server.keys("DELETE")) == 52
    assert server.keys("DELETE")[-1] == "a/"
    pages = len(server.keys("GET"))
    assert store.stats()["batches"] <= pages + 2
    await store.delete_dir("a/")
    await store.clear()
    assert not objects


async def test_a_directory_goes_with_its_keys(start: Callable[..., Any], tmp_path: Path) -> None:
    """Also what nginx does not list: names that begin with a dot, and directories without keys."""
    root = tmp_path / "base of % é"
    url = f"{start(Nginx, tmp_path, dav=True).url}/base of % é?token=1"
    store = FastStore(url, read_only=False)
    for key in ["a/b/.zattrs", "a/b/0.0", "a/c/d/e", "ab/c", ".zgroup", "é ?#%2F/.zarray"]:
        await store.set(key, buffer(b"1"))
    (tmp_path / "sibling").write_bytes(b"1")
    await store.delete_dir("a/b")
    assert not (root / "a/b").exists()
    assert (root / "a/c/d/e").exists()
    await store.delete("a/c/d/e")
    await store.delete_dir("a")
    await store.delete_dir("é ?#%2F/")
    assert await collect(store.list_dir("")) == ["ab"]
    await store.clear()
    assert list(root.iterdir()) == []
    assert (tmp_path / "sibling").exists()


@pytest.mark.parametrize("prefix", ["..", "../", ".", "/", "//", "/a", "a//", "a/../..", "a/./b"])
async def test_no_directory_but_the_one_that_is_named_is_deleted(
    start: Callable[..., Any], tmp_path: Path, prefix: str
) -> None:
    """nginx would take these segments out of the path, and delete what is there then."""
    store = FastStore(f"{start(Nginx, tmp_path, dav=True).url}/u/base", read_only=False)
    keys = ["a/b", "a/.hidden", "k"]
    for key in keys:
        await store.set(key, buffer(b"1"))
    (tmp_path / "u/sibling").write_bytes(b"1")
    with pytest.raises(ValueError, match="directory's name below the base URL"):
        await store.delete_dir(prefix)
    assert all((tmp_path / "u/base" / key).exists() for key in keys)
    assert (tmp_path / "u/sibling").exists()


@pytest.mark.parametrize("code", [301, 307, 308])
@pytest.mark.parametrize(("place", "key"), [("/v2/", "v2/k"), ("/v2", "v2")], ids=str)
async def test_the_deletion_of_a_directory_is_not_led_elsewhere(
    scripted: Callable[..., ScriptedServer], code: int, place: str, key: str
) -> None:
    """Neither to another directory nor to an object."""
    listed = Listed({"latest/k": b"", key: b""})

    def leads(request: Request) -> Reply:
        if request.method == "DELETE" and request.key == "latest/":
            return redirect(place, code)
        return listed(request)

    server = scripted(leads)
    store = FastStore(server.url, read_only=False)
    with pytest.raises(zfast.ZfastError, match=str(code)):
        await store.delete_dir("latest")
    assert listed.objects == {key: b""}
    assert server.keys("DELETE") == ["latest/k", "latest/"]


@pytest.mark.parametrize(
    ("code", "raised"), [(403, None), (409, None), (501, None), (507, zfast.ResponseError)]
)
async def test_a_server_may_keep_its_directories_but_not_fail(
    scripted: Callable[..., ScriptedServer], code: int, raised: type[Exception] | None
) -> None:
    listed = Listed({"a/b": b"", "c": b""})

    def keeps(request: Request) -> Reply:
        directory = request.method == "DELETE" and request.key.endswith("/")
        return status(code) if directory else listed(request)

    store = FastStore(scripted(keeps).url, read_only=False)
    with contextlib.nullcontext() if raised is None else pytest.raises(raised, match="DELETE"):
        await store.delete_dir("a")
    assert listed.objects == {"c": b""}


async def test_nothing_is_cleared_where_nothing_is_deleted(
    scripted: Callable[..., ScriptedServer], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that takes PUT alone: an empty store can be begun anew all the same."""
    listed = Listed({})
    server = scripted(lambda r: status(405) if r.method == "DELETE" else listed(r))
    store = FastStore(server.url, read_only=False)
    with caplog.at_level("DEBUG", logger="zfast"):
        await store.clear()
    assert ".zgroup: status 405, it stays" in caplog.text
    await store.set("k", buffer(b"1"))
    with pytest.raises(zfast.NotWritableError, match="DELETE"):
        await store.clear()
    assert listed.objects == {"k": b"1"}


async def test_no_partial_writes() -> None:
    store = FastStore("http://localhost:1/", read_only=False)
    assert store.supports_partial_writes is False
    with pytest.raises(NotImplementedError):
        await store.set_partial_values([("k", 0, b"")])


# ----------------------------------------------------------------------------------------- listing

OBJECTS = {
    "zarr.json": b"1",
    "a/zarr.json": b"22",
    "a/c/0/0": b"333",
    "a/c/0/1": b"4444",
    "ab/zarr.json": b"55555",
    "with space/é%": b"666666",
}


async def test_a_range_takes_a_prototype(store: FastStore) -> None:
    with pytest.raises(TypeError, match="a byte range takes a prototype"):
        store.get("zarr.json", byte_range=RangeByteRequest(0, 5))  # type: ignore[call-overload]


def test_a_sibling_with_a_longer_name_is_no_part_of_an_array(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    site = start(Nginx, tmp_path, dav=True)
    store = FastStore(f"{site.url}/s", read_only=False)
    group = zarr.create_group(store)
    for name in ("t", "t_min"):
        group.create_array(name, shape=(4,), dtype="i8", chunks=(2,))[:] = np.arange(4) + 1
    assert group["t"].nchunks_initialized == 2


@pytest.fixture(params=["nginx", "caddy", "apache", "pythonhttp"])
def store(request: pytest.FixtureRequest) -> FastStore:
    site = request.getfixturevalue(request.param)
    site.write(OBJECTS)
    return FastStore(site.url)


async def test_keys_are_listed(store: FastStore) -> None:
    assert sorted(await collect(store.list())) == sorted(OBJECTS)
    assert sorted(await collect(store.list_prefix(""))) == sorted(OBJECTS)
    for prefix in ("a", "a/"):
        assert sorted(await collect(store.list_prefix(prefix))) == sorted(
            key for key in OBJECTS if key.startswith("a/")
        )
    assert sorted(await collect(store.list_prefix("a/c/"))) == ["a/c/0/0", "a/c/0/1"]
    assert await collect(store.list_prefix("nope/")) == []
    for prefix in ("a", "a/"):
        assert sorted(await collect(store.list_dir(prefix))) == ["c", "zarr.json"]
    assert sorted(await collect(store.list_dir(""))) == ["a", "ab", "with space", "zarr.json"]
    assert await collect(store.list_dir("nope")) == []


async def test_sizes_and_emptiness(store: FastStore) -> None:
    for prefix in ("a", "a/"):
        assert await store.getsize_prefix(prefix) == 9
    assert await store.getsize_prefix("") == 21
    assert await store.getsize_prefix("nope") == 0
    assert not await store.is_empty("")
    assert not await store.is_empty("a")
    assert await store.is_empty("nope")


@pytest.mark.parametrize("document", [".zgroup", "b/.zarray", "b/c/.zattrs", "zarr.json"])
async def test_a_directory_of_documents_that_no_page_shows_is_not_empty(
    nginx: Site, document: str
) -> None:
    nginx.write({f"a/{document}": b"{}"})
    (nginx.root / "empty/below").mkdir(parents=True)
    store = FastStore(nginx.url)
    assert not await store.is_empty("a")
    assert not await store.is_empty("")
    assert await store.is_empty("empty")


@pytest.mark.parametrize("server", [(Nginx, {"autoindex": False}), (Caddy, {"browse": False})])
async def test_without_index_pages_only_listing_fails(
    start: Callable[..., Any], tmp_path: Path, server: tuple[type[Any], dict[str, bool]]
) -> None:
    for key, value in OBJECTS.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(value)
    kind, options = server
    store = FastStore(start(kind, tmp_path, **options).url)
    calls: list[Callable[[], AsyncIterator[str]]] = [
        store.list,
        lambda: store.list_prefix("a/"),
        lambda: store.list_dir(""),
        lambda: store.list_dir("a"),
    ]
    for call in calls:
        with pytest.raises(zfast.ListingError, match="no directory index page"):
            await collect(call())
    with pytest.raises(zfast.ListingError):
        await store.is_empty("a/c")
    # What is known to be there needs no page.
    assert not await store.is_empty("")
    assert not await store.is_empty("a")
    with pytest.raises(zfast.ListingError):
        len(store)
    assert store["a/zarr.json"] == b"22"
    assert "a/zarr.json" in store


@pytest.mark.parametrize(
    "page", [status(403), ok(b"<html>Hello</html>", content_type="text/html")], ids=["403", "page"]
)
async def test_only_a_listing_says_what_is_missing(
    scripted: Callable[..., ScriptedServer], page: Reply
) -> None:
    server = scripted(lambda request: page if request.key == "" else status(404))
    with pytest.raises(zfast.ListingError, match="no directory index page"):
        await collect(FastStore(f"{server.url}/base").list())


async def test_a_failing_listing_is_not_an_empty_one(
    scripted: Callable[..., ScriptedServer],
) -> None:
    store = FastStore(scripted(lambda request: status(500)).url, retries=0)
    with pytest.raises(zfast.ResponseError, match="500"):
        await collect(store.list())


class WebDAV(Listed):
    """Takes PUT and MKCOL only into a directory that is there (RFC 4918, sections 9.3.1, 9.7.1)."""

    def __init__(self, refusal: int = 409) -> None:
        super().__init__({})
        self.refusal = refusal
        self.directories = {""}

    def __call__(self, request: Request) -> Reply:
        name = request.key.rstrip("/")
        above = name.rpartition("/")[0]
        if request.method in ("PUT", "MKCOL") and above not in self.directories:
            return status(self.refusal if request.method == "PUT" else 409)
        if request.method == "MKCOL":
            if name in self.directories:
                return status(405, allow="GET")
            self.directories.add(name)
            return status(201)
        return super().__call__(request)


@pytest.mark.parametrize("refusal", [409, 404])
@pytest.mark.parametrize("base", ["", "a/b c/store.zarr"])
def test_directories_that_a_server_leaves_to_its_clients(
    scripted: Callable[..., ScriptedServer], base: str, refusal: int
) -> None:
    """Servers that are written in Go say 404, as they say of other things."""
    dav = WebDAV(refusal)
    server = scripted(dav)
    store = FastStore(f"{server.url}/{base}", read_only=False)
    array = zarr.create_array(store, shape=(6, 6), chunks=(2, 2), dtype="i4")
    array[:] = np.arange(36).reshape(6, 6)
    assert (zarr.open_array(store, mode="r")[:] == array[:]).all()
    assert {f"{base}/c/{i}".lstrip("/") for i in range(3)} < dav.directories
    asked = server.keys("MKCOL")
    array[:] = 7
    assert server.keys("MKCOL") == asked
    sync(store.set_if_not_exists("new/one", buffer(b"1")))
    sync(store.set_if_not_exists("new/one", buffer(b"2")))
    assert store["new/one"] == b"1"


def test_a_server_that_makes_no_directories_at_all(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(lambda request: status(409 if request.method == "PUT" else 405))
    store = FastStore(server.url, read_only=False)
    with pytest.raises(zfast.ResponseError, match=r"409 Conflict .*cannot be made"):
        store["c/0"] = b"1"
    assert server.keys("PUT") == ["c/0"] * 2


def test_a_store_that_refuses_a_conditional_write_by_409(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """As Azure does where there is such a blob, and to make directories knows nothing."""
    objects = {"there": b"1"}

    def azure(request: Request) -> Reply:
        if request.method == "MKCOL":
            return status(400)
        if request.method == "PUT" and request.key in objects:
            return status(409)
        return ranged(objects)(request)

    server = scripted(azure)
    client = zfast.Client(server.url)
    assert client.put("new", b"2", if_absent=True)
    assert not client.put("there", b"2", if_absent=True)
    assert objects == {"there": b"1", "new": b"2"}
    with pytest.raises(zfast.ResponseError, match="409 Conflict"):
        client.put("there", b"2")


@pytest.mark.parametrize("above", [status(400), status(500), ok(b"<ListBucketResult/>")])
def test_what_is_above_does_not_list(scripted: Callable[..., ScriptedServer], above: Reply) -> None:
    """It is the store that was to be listed, and which the error names."""
    server = scripted(lambda request: above if request.target == "/b/" else status(404))
    store = FastStore(f"{server.url}/b/x.zarr", read_only=False, retries=0)
    with pytest.raises(zfast.ListingError, match=r"/b/x\.zarr: .*404 Not Found"):
        zarr.open_group(store, mode="w")


@pytest.mark.parametrize("mode", ["w", "w-", "a"])
def test_a_store_on_apaches_webdav(start: Callable[..., Any], tmp_path: Path, mode: str) -> None:
    (tmp_path / "root").mkdir()
    server = start(Apache, tmp_path / "root", dav=True)
    store = FastStore(f"{server.url}/there/x.zarr", read_only=False)
    group = zarr.open_group(store, mode=mode)
    array = group.create_array("a", shape=(4, 4), chunks=(2, 2), dtype="f8")
    array[:] = np.arange(16).reshape(4, 4)
    assert (zarr.open_group(store, mode="r")["a"][:] == array[:]).all()
    sync(store.delete_dir("a"))
    assert not (tmp_path / "root/there/x.zarr/a").exists()
    array = zarr.open_group(store, mode="w").create_array("b", shape=4, chunks=2, dtype="i4")
    array[:] = 1
    assert sorted(zarr.open_group(store, mode="r")) == ["b"]
