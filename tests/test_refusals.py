"""What a refusal means is asked for once, within the deadline, and by stores alone."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers.scripted import Reply, Request, ScriptedServer, Stall, ok, redirect, status

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

from zarr.core.buffer import default_buffer_prototype

import zfast
from zfast import Client, FastStore

Start = Callable[..., ScriptedServer]

KEYS = [f"g/h/array/c/0/{number}" for number in range(50)]
# The directories in which one may be that is a file.
PAGES = ["/", "/g/", "/g/h/", "/g/h/array/", "/g/h/array/c/"]


def listed(*names: str) -> Reply:
    rows = [{"name": name, "type": "file"} for name in names]
    return ok(json.dumps(rows).encode(), content_type="application/json")


def get_all(store: FastStore, keys: list[str]) -> list[Any]:
    async def read() -> list[Any]:
        reads = (store.get(key, default_buffer_prototype()) for key in keys)
        return await asyncio.gather(*reads, return_exceptions=True)

    return asyncio.run(read())


def pages_of(server: ScriptedServer) -> list[str]:
    return sorted(request.target for request in server.requests if request.target.endswith("/"))


# ----------------------------------------------------------------------------------------- clients


@pytest.mark.parametrize("code", [400, 403])
def test_a_client_takes_a_refusal_for_what_it_is(scripted: Start, code: int) -> None:
    server = scripted(lambda request: status(code) if request.key == "f/x" else listed("f"))
    client = Client(server.url)
    calls: list[Callable[[], Any]] = [
        lambda: client.get("f/x"),
        lambda: client.head("f/x"),
        lambda: client.get_ranges("f/x", [None]),
        lambda: client.get_many([("f/x", None)]),
        lambda: client.read_into("f/x", None, bytearray(9)),
        lambda: asyncio.run(client.get_async("f/x")),
        lambda: asyncio.run(client.head_async("f/x")),
        lambda: zfast.cat_ranges([f"{server.url}/f/x"]),
    ]
    for call in calls:
        with pytest.raises((zfast.AccessError, zfast.ResponseError), match=str(code)):
            call()
    assert len(server.requests) == len(calls)


# ------------------------------------------------------------------------------------------ stores


@pytest.mark.parametrize("code", [403, 400])
def test_the_same_is_asked_for_once(scripted: Start, code: int) -> None:
    """As under a token that has expired."""
    server = scripted(lambda request: status(code))
    store = FastStore(server.url)
    for _ in range(2):
        errors = get_all(store, KEYS)
        assert {error.status for error in errors} == {code}
    directories = ["/g/", "/g/h/", "/g/h/array/", "/g/h/array/c/", "/g/h/array/c/0/"]
    assert pages_of(server) == (PAGES if code == 403 else directories)
    for key in KEYS:
        with pytest.raises((zfast.AccessError, zfast.ResponseError)):
            store[key]
        with pytest.raises((zfast.AccessError, zfast.ResponseError)):
            assert key in store
    assert len(server.requests) == 4 * len(KEYS) + 5


def test_what_other_keys_need_is_asked_for_together(scripted: Start) -> None:
    server = scripted(lambda request: status(403))
    keys = [f"array/c/{number}/0" for number in range(20)]
    store = FastStore(server.url)
    assert len({repr(error) for error in get_all(store, keys)}) == 20
    assert pages_of(server) == ["/", "/array/", "/array/c/"]
    # The reads, and then what each of them needs to know: of the first alone, of all others.
    assert store.stats()["batches"] <= 3


def test_what_is_below_a_file_is_found_for_all(scripted: Start) -> None:
    def handle(request: Request) -> Reply:
        return listed("file") if request.target == "/group/" else status(403)

    server = scripted(handle)
    keys = [f"group/file/{name}" for name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
    store = FastStore(server.url)
    assert get_all(store, keys) == [None] * 4
    asked = pages_of(server)
    assert (asked.count("/"), set(asked)) == (1, {"/", "/group/"})
    # It may have become a directory since.
    assert get_all(store, keys[:1]) == [None]
    assert pages_of(server) == [*asked, "/group/"]
    (other,) = get_all(store, ["group/key/zarr.json"])
    assert other.status == 403


def late_forbidden(request: Request) -> Any:
    if request.target.endswith("/"):
        return [Stall()]
    time.sleep(1)
    return status(403)


def late_bad(request: Request) -> Any:
    time.sleep(1)
    if request.method == "HEAD" and request.target.endswith("/"):
        return redirect(request.target.rstrip("/"))
    return status(400)


def read_async(store: FastStore) -> None:
    (found,) = get_all(store, ["a/key"])
    if isinstance(found, BaseException):
        raise found


@pytest.mark.parametrize("handle", [late_forbidden, late_bad])
@pytest.mark.parametrize("read", [read_async, lambda store: store["a/key"]])
def test_the_deadline_is_that_of_the_call(
    scripted: Start, handle: Any, read: Callable[[FastStore], Any]
) -> None:
    store = FastStore(scripted(handle).url, deadline=1.5)
    began = time.monotonic()
    with pytest.raises((zfast.AccessError, zfast.ResponseError)):
        read(store)
    assert time.monotonic() - began < 2.3


async def test_others_go_on_where_one_that_asks_is_cancelled(scripted: Start) -> None:
    asked = threading.Event()

    def handle(request: Request) -> Any:
        if not request.target.endswith("/"):
            return status(403)
        if asked.is_set():
            return listed("file")
        asked.set()
        return [Stall()]

    store = FastStore(scripted(handle).url)
    first, second = (
        asyncio.ensure_future(store.get(f"file/{name}", default_buffer_prototype()))
        for name in ("zarr.json", ".zarray")
    )
    while not asked.is_set():
        await asyncio.sleep(0.01)
    first.cancel()
    assert await second is None
    with pytest.raises(asyncio.CancelledError):
        await first
