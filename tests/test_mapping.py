"""FastStore as a mapping: `store["zarr.json"]`, `in`, iteration, and the names zarr shares."""

from __future__ import annotations

import copy
import inspect
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.listed import Listed
from servers.script import in_child
from servers.scripted import Reply, Request, ScriptedServer, ok, ranged, status
from servers.site import Site

import zfast
from zfast import FastStore, _mapping

OBJECTS = {
    "zarr.json": b'{"node_type": "group"}',
    "a/zarr.json": b"{}",
    "a/c/0": bytes(range(256)),
    "empty": b"",
    "with space/é%?#": b"odd",
}


# zarr 2's stores take an array's memory in the order that it has.
zarr_3 = pytest.mark.skipif(not hasattr(FastStore, "get_sync"), reason="as zarr 3 has it")


@pytest.fixture(params=["nginx", "caddy", "apache", "pythonhttp"])
def store(request: pytest.FixtureRequest) -> FastStore:
    """A store on each kind of server."""
    site = request.getfixturevalue(request.param)
    site.write(OBJECTS)
    return FastStore(site.url)


@pytest.fixture
def objects() -> dict[str, bytes]:
    return dict(OBJECTS)


@pytest.fixture
def writable(scripted: Callable[..., ScriptedServer], objects: dict[str, bytes]) -> FastStore:
    """A writable store over `objects`."""
    return FastStore(scripted(Listed(objects)).url, read_only=False)


def test_it_is_a_mutable_mapping() -> None:
    store = FastStore("http://localhost:1/")
    assert isinstance(store, MutableMapping)
    assert issubclass(FastStore, MutableMapping)


def test_reading(store: FastStore) -> None:
    assert json.loads(store["zarr.json"]) == {"node_type": "group"}
    for key, value in OBJECTS.items():
        assert store[key] == value
        assert type(store[key]) is bytes
        assert key in store
    assert "nope" not in store
    with pytest.raises(KeyError, match="nope"):
        store["nope"]


def test_iterating(store: FastStore) -> None:
    assert sorted(store) == sorted(OBJECTS)
    assert len(store) == len(OBJECTS)
    assert sorted(store.keys()) == sorted(OBJECTS)
    assert dict(store) == OBJECTS
    assert dict(store.items()) == OBJECTS
    assert sorted(store.values()) == sorted(OBJECTS.values())
    assert ("empty", b"") in store.items()
    assert len(store.items()) == len(store.values()) == len(OBJECTS)
    assert {**store} == OBJECTS


@pytest.mark.parametrize("key", ["", "a/", 3, None, ("a",), b"zarr.json"])
def test_what_is_no_key_is_missing(nginx: Site, key: Any) -> None:
    store = FastStore(nginx.url)
    assert key not in store
    assert store.get(key, "default") == "default"
    with pytest.raises(KeyError):
        store[key]
    assert not nginx.requests()


def test_truth_and_membership_read_no_value(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(ranged(dict(OBJECTS)))
    store = FastStore(server.url)
    assert bool(store)
    assert not server.requests
    assert "zarr.json" in store
    assert [request.method for request in server.requests] == ["HEAD"]


def test_many_items_are_one_batch(scripted: Callable[..., ScriptedServer]) -> None:
    # One of zarr 2's documents shows: that there are others the pages do not hide.
    objects = {".zgroup": b"{}"} | {f"c/{index}": bytes([index]) for index in range(150)}
    server = scripted(Listed(objects))
    store = FastStore(server.url)
    assert dict(store.items()) == objects
    asked = server.keys()
    listing = sum(key == "" or key.endswith("/") for key in asked)
    assert len(asked) == 151 + listing
    assert store.stats()["batches"] == 3 + listing


def test_a_failure_is_not_a_missing_key(scripted: Callable[..., ScriptedServer]) -> None:
    store = FastStore(scripted(lambda request: status(500)).url, retries=0)
    for call in (
        lambda: store["k"],
        lambda: "k" in store,
        lambda: store.get("k"),
        lambda: store.get("k", b""),
        lambda: list(store),
        lambda: store.setdefault("k", b""),
    ):
        with pytest.raises(zfast.ResponseError, match="500"):
            call()


def test_iterating_needs_index_pages(scripted: Callable[..., ScriptedServer]) -> None:
    store = FastStore(scripted(ranged(dict(OBJECTS))).url)
    for call in (lambda: list(store), lambda: len(store), lambda: dict(store)):
        with pytest.raises(zfast.ListingError):
            call()
    assert store["empty"] == b""


# ------------------------------------------------------------------------------------------ writing


def test_assignment(writable: FastStore, objects: dict[str, bytes]) -> None:
    writable["new"] = b"bytes"
    writable["array"] = np.arange(3, dtype="<u2")
    writable["view"] = memoryview(b"view")
    writable["empty"] = bytearray(b"no more")
    assert objects == OBJECTS | {
        "new": b"bytes",
        "array": b"\0\0\1\0\2\0",
        "view": b"view",
        "empty": b"no more",
    }


@pytest.mark.parametrize("value", ["text", None, 3, [1]])
def test_only_bytes_are_assigned(
    writable: FastStore, objects: dict[str, bytes], value: Any
) -> None:
    with pytest.raises(TypeError):
        writable["k"] = value
    assert objects == OBJECTS


@zarr_3
def test_a_value_is_its_bytes_in_c_order(writable: FastStore, objects: dict[str, bytes]) -> None:
    table = np.arange(6, dtype="u1").reshape(2, 3)
    writable["k"] = table.T
    assert objects["k"] == table.T.tobytes()
    writable["k"] = memoryview(b"abcdef")[::2]
    assert objects["k"] == b"ace"
    times = np.arange(6).astype("m8[s]")
    writable["k"] = times[::2]
    assert objects["k"] == times[::2].tobytes()
    writable.setitems({"k": times.astype("M8[s]")})
    assert objects["k"] == times.tobytes()
    with pytest.raises(TypeError, match="the value of 'k' has no bytes"):
        writable["k"] = "text"  # type: ignore[assignment]
    for array in (np.array([{}]), np.array([{}] * 4)[::2], np.array([[{}] * 2] * 2).T):
        with pytest.raises(TypeError, match="a buffer of Python objects"):
            writable["k"] = array


def test_what_is_no_key_is_refused(writable: FastStore, objects: dict[str, bytes]) -> None:
    for key in (b"a", Path("a"), 5, None):
        for call in (writable.delitems, writable.getitems):
            with pytest.raises(TypeError, match="a key is a str, not"):
                call([key])
        if hasattr(writable, "get_sync"):
            with pytest.raises(TypeError, match="a key is a str, not"):
                writable.get_sync(key)
        with pytest.raises(TypeError, match="a key is a str, not"):
            writable[key] = b""  # type: ignore[index]
    for keys_or_values in (writable.delitems, writable.getitems, writable.setitems):
        with pytest.raises(TypeError, match="is a str; pass a"):
            keys_or_values("abc")  # type: ignore[operator]
    assert objects == OBJECTS


def test_read_only_is_a_flag() -> None:
    for flag in (None, "", "nope", []):
        with pytest.raises(zfast.ConfigurationError, match=r"read_only is .* True or False"):
            FastStore("http://localhost:1/", read_only=flag)  # type: ignore[arg-type]
    assert FastStore("http://localhost:1/", read_only=np.False_).read_only is False


@pytest.mark.parametrize("key", ["", "a/", ".", "a/.", "a/..", ".."])
def test_a_directory_is_not_assigned(writable: FastStore, key: str) -> None:
    with pytest.raises(ValueError, match="cannot name an object"):
        writable[key] = b""
    with pytest.raises(KeyError):
        del writable[key]


def test_deletion(writable: FastStore, objects: dict[str, bytes]) -> None:
    del writable["zarr.json"]
    assert "zarr.json" not in objects
    with pytest.raises(KeyError, match=r"zarr\.json"):
        del writable["zarr.json"]


def test_what_a_mapping_can_do(writable: FastStore, objects: dict[str, bytes]) -> None:
    assert writable.pop("empty") == b""
    assert writable.pop("empty", None) is None
    assert writable.setdefault("empty", b"full") == b"full"
    assert writable.setdefault("empty", b"other") == b"full"
    writable.update({"x": b"1"}, y=b"2")
    assert objects == OBJECTS | {"empty": b"full", "x": b"1", "y": b"2"}
    key, value = writable.popitem()
    assert key not in objects
    assert value == (OBJECTS | {"empty": b"full", "x": b"1", "y": b"2"})[key]


@pytest.mark.parametrize("write", ["store['k'] = b''", "del store['zarr.json']", "store.pop('k')"])
def test_a_read_only_store_is_not_written(
    scripted: Callable[..., ScriptedServer], write: str
) -> None:
    server = scripted(ranged(dict(OBJECTS) | {"k": b""}))
    store = FastStore(server.url)
    with pytest.raises((ValueError, PermissionError), match="read-only"):
        exec(write, {"store": store})
    assert not {request.method for request in server.requests} - {"GET", "HEAD"}


# ------------------------------------------------------------------------------ many keys at once


def test_getitems_leaves_missing_keys_out(store: FastStore) -> None:
    for keys in (["empty"], ["nope"], ["empty", "nope", "", "a/", "zarr.json", "empty"], []):
        found = store.getitems(keys)
        present = {key: OBJECTS[key] for key in keys if key in OBJECTS}
        assert found == present
        assert list(found) == list(present)
        assert len(found) == len(present)
        for key in {*keys, "other"}:
            assert (key in found) == (key in present)
            assert found.get(key) == present.get(key)
            if key not in present:
                with pytest.raises(KeyError):
                    found[key]


def test_getitems_has_the_errors_of_fsspecs_mappings(scripted: Callable[..., Any]) -> None:
    objects = ranged({"a": b"1", "b": b"2"})
    server = scripted(lambda r: status(500) if r.key == "bad" else objects(r))
    store: Any = FastStore(server.url, retries=0)
    for on_error in ("raise", "return"):
        assert store.getitems(iter(["a", "b"]), on_error=on_error) == {"a": b"1", "b": b"2"}
        assert store.getitems([], on_error=on_error) == {}
    for missing in ("nope", "", "a/"):
        with pytest.raises(KeyError, match=repr(missing)):
            store.getitems(["a", missing], on_error="raise")
    with pytest.raises(zfast.ZfastError, match="500"):
        store.getitems(["a", "bad"], on_error="raise")
    found = store.getitems(["nope", "a", "bad"], on_error="return")
    assert list(found) == ["nope", "a", "bad"]
    assert found["a"] == b"1"
    assert type(found["nope"]) is KeyError
    assert "500" in str(found["bad"])
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        store.getitems(["a"], on_error="ignore")


def test_getitems_gives_each_value_as_it_arrives(scripted: Callable[..., ScriptedServer]) -> None:
    release = threading.Event()

    def handler(request: Request) -> Reply:
        if request.key == "slow":
            assert release.wait(30)
        return ok(request.key.encode())

    store = FastStore(scripted(handler).url)
    found = store.getitems(["slow", "fast", "faster"])
    assert found["fast"] == b"fast"
    assert found["faster"] == b"faster"
    release.set()
    assert found["slow"] == b"slow"
    assert store.stats()["batches"] == 1


def test_getitems_serves_threads(store: FastStore) -> None:
    found = store.getitems(OBJECTS)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.__getitem__, list(OBJECTS) * 20)) == [*OBJECTS.values()] * 20


def test_a_failure_of_getitems_is_that_of_the_key_that_failed(
    scripted: Callable[..., ScriptedServer],
) -> None:
    answer = ranged(dict(OBJECTS))
    early = threading.Event()

    def handler(request: Request) -> Reply:
        if request.key == "bad":
            assert early.wait(30)
            return status(500)
        if request.key == "late":
            # Cancelled by the failure; the connection is gone by the time of an answer.
            assert done.wait(30)
        return answer(request)

    done = threading.Event()
    try:
        found = FastStore(scripted(handler).url, retries=0).getitems(["late", "bad", "empty"])
        assert found["empty"] == b""
        early.set()
        for ask in (lambda: found["late"], lambda: "bad" in found, lambda: dict(found)):
            with pytest.raises(zfast.ResponseError, match="500") as caught:
                ask()
            assert caught.value.key == "bad"
        assert found["empty"] == b""
    finally:
        done.set()


def test_getitems_thrown_away_is_cancelled(scripted: Callable[..., ScriptedServer]) -> None:
    release = threading.Event()

    def handler(request: Request) -> Reply:
        assert release.wait(30)
        return ok(b"")

    def reaches(in_flight: int) -> bool:
        limit = time.monotonic() + 30
        while store.stats()["in_flight"] != in_flight and time.monotonic() < limit:
            time.sleep(0.001)
        return bool(store.stats()["in_flight"] == in_flight)

    store = FastStore(scripted(handler).url)
    try:
        found = store.getitems(["a", "b"])
        assert reaches(2)
        del found
        assert reaches(0)
    finally:
        release.set()


def test_getitems_in_a_forked_child_is_an_error(scripted: Callable[..., ScriptedServer]) -> None:
    """What was asked for arrives in the parent; the child must not wait for it."""
    release = threading.Event()

    def handler(request: Request) -> Reply:
        assert release.wait(30)
        return ok(b"1")

    found = FastStore(scripted(handler).url).getitems(["a", "b"])
    child = os.fork()
    if child == 0:
        try:
            found["a"]
        except zfast.ZfastError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    release.set()
    assert found["a"] == b"1"


def test_setitems_and_delitems_are_one_batch_each(
    writable: FastStore, objects: dict[str, bytes]
) -> None:
    values = {str(index): bytes([index]) for index in range(40)}
    writable.setitems(values)
    assert objects == OBJECTS | values
    writable.delitems([*values, "nope"])
    assert objects == OBJECTS
    assert writable.stats()["batches"] == 2


# ---------------------------------------------------------- names that zarr 3 and the mapping share


def test_get_is_the_mappings_without_a_prototype(writable: FastStore) -> None:
    assert writable.get("empty") == b""
    assert writable.get("nope") is None
    assert writable.get("nope", b"default") == b"default"
    assert Mapping.get(writable, "nope", 3) == 3


async def test_get_is_zarrs_with_a_prototype(writable: FastStore) -> None:
    pytest.importorskip("zarr", minversion="3.0")
    from zarr.core.buffer import default_buffer_prototype

    prototype = default_buffer_prototype()
    for coroutine in (
        writable.get("a/c/0", prototype),
        writable.get("a/c/0", prototype=prototype),
        writable.get("a/c/0", prototype, None),
        writable.get(key="a/c/0", prototype=prototype, byte_range=None),
    ):
        assert inspect.iscoroutine(coroutine)
        assert (await coroutine).to_bytes() == OBJECTS["a/c/0"]


async def test_clear_is_zarrs(writable: FastStore, objects: dict[str, bytes]) -> None:
    pytest.importorskip("zarr", minversion="3.0")
    cleared = writable.clear()
    assert inspect.iscoroutine(cleared)
    await cleared
    assert not objects


def test_equality_is_of_the_configuration_not_of_the_keys(
    scripted: Callable[..., ScriptedServer],
) -> None:
    servers = [scripted(Listed(dict(OBJECTS))) for _ in range(2)]
    one, other = (FastStore(server.url) for server in servers)
    assert one != other
    assert one != OBJECTS
    assert one == FastStore(servers[0].url)
    assert not any(server.requests for server in servers)


def test_getitems_in_a_forked_child_whose_parent_waits_is_an_error(
    scripted: Callable[..., ScriptedServer],
) -> None:
    release = threading.Event()

    def handler(request: Request) -> Reply:
        assert release.wait(30)
        return ok(b"")

    server = scripted(handler)
    values = FastStore(server.url).getitems(["a", "b"])
    waiting = threading.Thread(target=lambda: values["a"])
    waiting.start()
    server.wait_requests(2)
    while not values._listening.locked():
        time.sleep(0.001)

    def read() -> None:
        with pytest.raises(zfast.errors.ConnectionFailedError):
            values["b"]

    in_child(read)
    with pytest.raises(TypeError, match=r"copy it by dict\(\)"):
        copy.copy(values)
    release.set()
    waiting.join()


def test_what_every_store_has_is_known() -> None:
    """Whatever else there is belongs to a subclass, and goes with it."""
    store = FastStore("http://host")
    assert vars(store).keys() <= _mapping._OURS
    assert not store._own()
