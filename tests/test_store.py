"""FastStore as zarr's Store: what it is, what a read means, what each method costs in requests."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import numpy as np
import pytest
import urllib3
from servers.scripted import Request, ScriptedServer, ok, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="FastStore of zarr 3")

from zarr.abc.store import (
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, cpu, default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

import zfast
from zfast import FastStore

SECRETS = {
    "headers": {"Authorization": "Bearer hush"},
    "retries": 2,
    "timeout": urllib3.Timeout(connect=3, read=4),
    "missing_status": (404, 403),
}


def buffer(data: bytes) -> Buffer:
    return cpu.Buffer.from_bytes(data)


def content(found: Buffer | None) -> bytes | None:
    return None if found is None else found.to_bytes()


async def collect(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


# --------------------------------------------------------------------------------------- what it is


NAMES = """
    _ensure_open _get_many _open _set_many clear close delete delete_dir delete_sync exists get
    get_partial_values get_ranges get_ranges_sync get_sync getsize getsize_prefix is_empty list
    list_dir list_prefix set set_if_not_exists set_partial_values set_sync
    supports_consolidated_metadata supports_deletes supports_listing supports_partial_writes
    supports_writes with_read_only __eq__ __hash__
"""


def test_it_defines_what_any_zarr_3_asks_for() -> None:
    """The names of zarr 3.0 to 3.4; none may be left to a default that costs requests."""
    for name in NAMES.split():
        assert name in vars(FastStore), name
    assert issubclass(FastStore, Store)
    assert not FastStore.__abstractmethods__


def test_equality_is_that_of_the_configuration() -> None:
    url = "http://localhost:1/base"
    assert FastStore(url) == FastStore(url)
    assert hash(FastStore(url)) == hash(FastStore(url))
    assert FastStore(url, **SECRETS) == FastStore(url, **SECRETS)
    others = [
        FastStore("http://localhost:1/other"),
        FastStore(url, read_only=False),
        FastStore(url, pipeline=False),
        FastStore(url, headers={"X-Tenant": "1"}),
        FastStore(url, retries=1),
        FastStore("http://user:word@localhost:1/base"),
    ]
    for other in others:
        assert other != FastStore(url)
    assert len({FastStore(url), *others}) == 1 + len(others)
    assert FastStore(url) != MemoryStore()
    assert FastStore(url) != url


def test_the_retries_of_equal_stores_are_the_same_whatever_order_their_sets_have() -> None:
    def store(statuses: Iterable[int], total: int = 3) -> FastStore:
        retries = urllib3.Retry(total, status_forcelist=set(statuses))
        return FastStore("http://localhost:1/base", retries=retries)

    # Of equal hashes as far as a small set looks at them: what comes first is shown first.
    one, other = store([408, 504]), store([504, 408])
    assert one == other
    assert hash(one) == hash(other)
    for different in (store([408]), store([408, 504], 4), FastStore(one.url, retries=3)):
        assert one != different


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_a_store_with_retries_equals_its_pickle_in_another_process(seed: str) -> None:
    code = (
        "import pickle, sys, urllib3, zfast; retries = urllib3.Retry(3); "
        "store = zfast.FastStore('http://localhost:1/base', retries=retries); "
        "again = pickle.loads(pickle.dumps(store)); "
        "print(store == again == pickle.load(sys.stdin.buffer), hash(store) == hash(again))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=pickle.dumps(FastStore("http://localhost:1/base", retries=urllib3.Retry(3))),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"True True", b"")


def test_secrets_are_not_shown() -> None:
    store = FastStore("https://user:hush@example.org/base?sig=hush", **SECRETS)
    assert repr(store) == "FastStore('https://example.org/base', read_only=True)"
    assert str(store) == "https://example.org/base"
    assert "hush" not in repr(StorePath(store, "a"))


def test_it_is_true_however_few_keys_it_has() -> None:
    assert FastStore("http://localhost:1/")


@pytest.mark.parametrize("options", [{}, {**SECRETS, "read_only": False, "pipeline": False}])
def test_a_pickled_store_is_its_configuration(options: dict[str, Any]) -> None:
    store = FastStore("http://user:word@localhost:1/base?sig=1", **options)
    store.close()
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert hash(again) == hash(store)
    assert again.read_only == store.read_only
    assert not again._is_open


@pytest.mark.parametrize("options", [{}, SECRETS], ids=["bare", "options"])
def test_a_pickled_store_reads_in_another_process(
    scripted: Callable[..., ScriptedServer], options: dict[str, Any]
) -> None:
    server = scripted(ranged({"k": b"value"}))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)['k'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=pickle.dumps(FastStore(server.url, **options)),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"b'value'", b"")
    assert server.requests[0].field("Authorization") == ("Bearer hush" if options else None)


def test_pipeline_is_an_argument_and_a_setting() -> None:
    url = "http://localhost:1/"
    assert FastStore(url) == FastStore(url, pipeline=True)
    with zfast.config.set(pipeline=False):
        assert FastStore(url) == FastStore(url, pipeline=False)
        assert FastStore(url, pipeline=True) != FastStore(url)
    with pytest.raises(zfast.ConfigurationError, match="pipeline is 'perhaps'"):
        FastStore(url, pipeline="perhaps")  # type: ignore[arg-type]


def test_options_are_those_of_the_client() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        FastStore("http://localhost:1/", nonsense=1)
    with pytest.raises(zfast.ConfigurationError, match="http or https"):
        FastStore("ftp://localhost/")


# -------------------------------------------------------------------------------- opened and closed


async def test_a_store_is_opened_once() -> None:
    store = await FastStore.open("http://localhost:1/")
    assert store._is_open
    with pytest.raises(ValueError, match="store is already open"):
        await store._open()
    await store._ensure_open()


async def test_an_unopened_store_reads(scripted: Callable[..., ScriptedServer]) -> None:
    store = FastStore(scripted(ranged({"k": b"1"})).url)
    assert not store._is_open
    assert content(await store.get("k", default_buffer_prototype())) == b"1"
    assert store._is_open


async def test_a_closed_store_refuses(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(ranged({"k": b"1"}))
    with await FastStore.open(server.url, read_only=False) as store:
        assert store["k"] == b"1"
    assert not store._is_open
    store.close()
    prototype = default_buffer_prototype()
    with pytest.raises(zfast.ConnectionFailedError, match="the store is closed"):
        await store.get("k", prototype)
    with pytest.raises(zfast.ConnectionFailedError, match="the store is closed"):
        await store.set("k", buffer(b"2"))
    for call in (
        lambda: store["k"],
        lambda: store.get_sync("k"),
        lambda: "k" in store,
        lambda: store.list(),
        lambda: store.get_ranges_sync("k", [None], prototype=prototype),
        lambda: store.delete_sync("k"),
        lambda: store.with_read_only(),
    ):
        with pytest.raises(zfast.ConnectionFailedError, match="the store is closed"):
            call()
    with pytest.raises(zfast.ConnectionFailedError):
        await store._open()
    assert len(server.requests) == 1


async def test_with_read_only_shares_the_client(scripted: Callable[..., ScriptedServer]) -> None:
    objects = {"k": b"1"}
    reader = FastStore(scripted(ranged(objects)).url, headers={"X-Tenant": "1"})
    writer = reader.with_read_only(False)
    assert (reader.read_only, writer.read_only, writer._is_open) == (True, False, False)
    assert writer.with_read_only(True) == reader
    await writer.set("k", buffer(b"22"))
    assert objects["k"] == b"22"
    assert writer.stats() == reader.stats()
    writer.close()
    assert reader["k"] == b"22"
    assert not reader._client.closed
    reader.close()
    assert reader._client.closed


def test_a_copy_shares_the_client_too() -> None:
    store = FastStore("http://localhost:1/", headers={"X-Tenant": "1"})
    shallow, deep = copy.copy(store), copy.deepcopy(store)
    assert shallow == deep == store
    manager = urllib3.PoolManager()
    assert copy.deepcopy(FastStore("http://localhost:1/", pool_manager=manager)).url.endswith("/")
    shallow.close()
    deep.close()
    assert not store._client.closed


def test_closing_a_store_closes_its_client_at_once() -> None:
    store = FastStore("http://localhost:1/")
    store.with_read_only(False)  # and forgotten
    store.close()
    assert store._client.closed


async def test_read_only_is_the_default_and_refuses(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(ranged({}))
    store = FastStore(server.url)
    refused = pytest.raises(
        ValueError, match="store was opened in read-only mode and does not support writing"
    )
    for write in (
        lambda: store.set("k", buffer(b"")),
        lambda: store.set_if_not_exists("k", buffer(b"")),
        lambda: store._set_many([("k", buffer(b""))]),
        lambda: store.delete("k"),
        lambda: store.delete_dir("k"),
        lambda: store.clear(),
    ):
        with refused:
            await write()
    with refused:
        store.set_sync("k", buffer(b""))
    with refused:
        store.delete_sync("k")
    with refused:
        store["k"] = b""
    with refused:
        del store["k"]
    assert not server.requests


# ------------------------------------------------------------------------------------------ reading

VALUE = b"0123456789"
RANGES = [
    None,
    RangeByteRequest(0, 10),
    RangeByteRequest(2, 5),
    RangeByteRequest(8, 20),
    RangeByteRequest(10, 12),
    RangeByteRequest(20, 30),
    RangeByteRequest(3, 3),
    RangeByteRequest(0, 0),
    OffsetByteRequest(0),
    OffsetByteRequest(7),
    OffsetByteRequest(10),
    OffsetByteRequest(20),
    SuffixByteRequest(0),
    SuffixByteRequest(3),
    SuffixByteRequest(10),
    SuffixByteRequest(30),
]


@pytest.fixture(params=["nginx", "caddy", "pythonhttp"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


async def test_ranges_mean_what_they_mean_to_zarrs_own_stores(site: Site) -> None:
    values = {"value": VALUE, "empty": b""}
    site.write(values)
    memory = MemoryStore({key: buffer(value) for key, value in values.items()})
    prototype = default_buffer_prototype()
    store = FastStore(site.url)
    # Twice: the second time it is known whether the server ignores ranges.
    for _ in range(2):
        for key in ("value", "empty", "missing"):
            for byte_range in RANGES:
                expected = content(await memory.get(key, prototype, byte_range))
                found = await store.get(key, prototype, byte_range)
                assert content(found) == expected, (key, byte_range)
                assert content(store.get_sync(key, byte_range=byte_range)) == expected
            wanted = [(key, byte_range) for byte_range in RANGES]
            assert list(map(content, await store.get_partial_values(prototype, iter(wanted)))) == [
                content(await memory.get(*item[:1], prototype, item[1])) for item in wanted
            ]


@pytest.mark.parametrize("byte_range", [(0, 2), 3, slice(0, 2), "bytes=0-1"])
async def test_a_range_of_a_wrong_type_is_refused(byte_range: Any) -> None:
    store = FastStore("http://localhost:1/")
    prototype = default_buffer_prototype()
    with pytest.raises(ValueError, match="Unexpected byte_range, got"):
        await store.get("k", prototype, byte_range)
    with pytest.raises(ValueError, match="Unexpected byte_range, got"):
        store.get_sync("k", byte_range=byte_range)
    with pytest.raises(ValueError, match="Unexpected byte_range, got"):
        await store.get_partial_values(prototype, [("k", byte_range)])


async def test_a_key_that_names_a_directory_is_missing(nginx: Site) -> None:
    """Its index page is not a value."""
    nginx.write({"a/b": b"1"})
    store = FastStore(nginx.url, read_only=False)
    prototype = default_buffer_prototype()
    for key in ("", "a/", ".", "a/.", "a/b/..", ".."):
        assert await store.get(key, prototype) is None
        assert store.get_sync(key) is None
        assert await store.get_partial_values(prototype, [(key, None)]) == [None]
        assert not await store.exists(key)
        with pytest.raises(FileNotFoundError):
            await store.getsize(key)
        await store.delete(key)
        with pytest.raises(ValueError, match="cannot name an object"):
            await store.set(key, buffer(b""))
    assert not nginx.requests()


async def test_buffers_are_the_memory_that_the_network_filled(
    scripted: Callable[..., ScriptedServer],
) -> None:
    store = FastStore(scripted(ranged({"k": b"x" * 100_000})).url)
    found = await store.get("k", default_buffer_prototype(), RangeByteRequest(10, 90_000))
    assert found is not None
    owner: Any = found.as_array_like()
    while not isinstance(owner, zfast.Body):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    assert len(owner) == 89_990


class DeviceBuffer(cpu.Buffer):
    """Stands for memory of a device: what is in the host's has to be copied there."""

    @classmethod
    def from_bytes(cls, bytes_like: Any) -> DeviceBuffer:
        return cls.from_array_like(cpu.Buffer.from_bytes(bytes(bytes_like)).as_array_like())


async def test_the_prototype_makes_the_buffer(scripted: Callable[..., ScriptedServer]) -> None:
    store = FastStore(scripted(ranged({"k": VALUE})).url)
    prototype = BufferPrototype(buffer=DeviceBuffer, nd_buffer=cpu.NDBuffer)
    found = [
        await store.get("k", prototype),
        store.get_sync("k", prototype=prototype),
        *(await store.get_partial_values(prototype, [("k", None)])),
        *(value for _, value in await collect(store._get_many([("k", prototype, None)]))),
    ]
    assert [type(value) for value in found] == [DeviceBuffer] * 4
    assert {content(value) for value in found} == {VALUE}


async def test_existence_costs_one_request_and_no_body(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(ranged({"k": VALUE}))
    store = FastStore(server.url)
    assert await store.exists("k")
    assert not await store.exists("missing")
    assert await store.getsize("k") == len(VALUE)
    with pytest.raises(zfast.MissingKeyError, match="missing"):
        await store.getsize("missing")
    assert [request.method for request in server.requests] == ["HEAD"] * 4


async def test_the_size_of_what_has_no_announced_length(
    scripted: Callable[..., ScriptedServer],
) -> None:
    store = FastStore(scripted(lambda request: ok(VALUE).chunked(3)).url)
    assert await store.getsize("k") == len(VALUE)


async def test_many_reads_are_one_batch(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(ranged({str(index): bytes([index]) for index in range(50)}))
    store = FastStore(server.url)
    prototype = default_buffer_prototype()
    keys = [str(index) for index in range(51)]
    values = [bytes([index]) for index in range(50)] + [None]
    found = await store.get_partial_values(prototype, ((key, None) for key in keys))
    assert list(map(content, found)) == values
    assert store.stats()["batches"] == 1
    pairs = await collect(store._get_many((key, prototype, None) for key in keys))
    assert {key: content(value) for key, value in pairs} == dict(zip(keys, values, strict=True))
    assert store.stats()["batches"] == 2
    assert sorted(server.keys()) == sorted(keys * 2)


async def test_get_many_gives_values_as_they_come(
    scripted: Callable[..., ScriptedServer],
) -> None:
    release = threading.Event()

    def handler(request: Request) -> Any:
        if request.key == "slow":
            assert release.wait(10)
        return ok(VALUE)

    store = FastStore(scripted(handler).url)
    prototype = default_buffer_prototype()
    found = []
    async for key, _ in store._get_many([(key, prototype, None) for key in ("slow", "fast")]):
        found.append(key)
        release.set()
    assert found == ["fast", "slow"]


class WithMore(FastStore):
    """Has what has no truth, and what does not travel."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.table = np.arange(3)
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"table": self.table}


def test_what_a_subclass_has_may_be_anything() -> None:
    one, other = WithMore("http://host"), WithMore("http://host")
    assert one != other
    assert copy.copy(one) == one
    moved = pickle.loads(pickle.dumps(one))
    assert (moved.table == one.table).all()
    assert not hasattr(moved, "lock")
