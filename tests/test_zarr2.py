"""FastStore under zarr 2: zarr's own tests of a store, and arrays over real servers."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs.abc import Codec
from numcodecs.compat import ndarray_copy
from numcodecs.registry import register_codec
from servers.listed import Listed
from servers.nginx import Nginx
from servers.scripted import Reply, Request, ScriptedServer, overlay, ranged, status
from servers.site import Site

zarr: Any = pytest.importorskip("zarr")
if not zarr.__version__.startswith("2."):
    pytest.skip("zarr 2 is not installed", allow_module_level=True)

import zfast  # noqa: E402
from zfast import FastStore  # noqa: E402

with pytest.MonkeyPatch.context() as patch:
    # Its module starts with stores that warn of their age.
    patch.setenv("PYTHONWARNINGS", "ignore")
    from zarr.tests.test_storage import StoreTests, dimension_separator_fixture  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

VALUES = np.arange(60 * 50, dtype="float32").reshape(60, 50)


class TestContract(StoreTests):  # type: ignore[misc]
    """zarr's tests of a store, over a server that takes PUT and DELETE and lists."""

    @pytest.fixture(autouse=True)
    def _servers(self) -> Iterator[None]:
        with contextlib.ExitStack() as self.stack:
            yield

    def create_store(self, **kwargs: Any) -> FastStore:
        if kwargs.get("dimension_separator") == "/":
            pytest.skip("how chunks are named is no business of this store")
        server = self.stack.enter_context(ScriptedServer(Listed({})))
        return FastStore(server.url, read_only=False)


@pytest.fixture(params=["nginx", "caddy"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


def write(store: Any, name: str = "a", **options: Any) -> None:
    group = zarr.open_group(store, mode="a")
    group.create_dataset(name, data=VALUES, **{"chunks": (16, 16), **options})


def contents(store: Any) -> dict[str, bytes]:
    return {key: bytes(store[key]) for key in store}


def test_what_pages_do_not_show_is_there_all_the_same(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """nginx lists no `.zarray`: without it what is moved or copied would be no array any more."""
    store = FastStore(start(Nginx, tmp_path, dav=True).url, read_only=False)
    write(store, "a/x")
    assert set(store) == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    root = zarr.open_group(store, mode="a")
    root.move("a/x", "b/y")
    assert "a/x" not in root
    np.testing.assert_array_equal(root["b/y"][...], VALUES)
    copied = zarr.MemoryStore()
    zarr.copy_store(store, copied)
    np.testing.assert_array_equal(zarr.open_group(copied, mode="r")["b/y"][...], VALUES)
    zarr.consolidate_metadata(store)
    np.testing.assert_array_equal(zarr.open_consolidated(store)["b/y"][...], VALUES)


def test_a_directory_is_removed_whole(start: Callable[..., Any], tmp_path: Path) -> None:
    """nginx lists no `.zarray`, which would make what is written there next an array."""
    store = FastStore(start(Nginx, tmp_path, dav=True).url, read_only=False)
    write(store, "g/a")
    store.rmdir("g/a")
    assert [path.name for path in (tmp_path / "g").iterdir()] == [".zgroup"]
    assert "a" not in zarr.open_group(store, mode="r")["g"]
    store.rmdir("")
    assert list(tmp_path.iterdir()) == []


def test_it_is_a_store_of_zarr_2() -> None:
    store = FastStore("http://user:word@localhost:1/base?sig=1", headers={"X-Tenant": "1"})
    assert isinstance(store, zarr.storage.Store)
    assert zarr.storage.normalize_store_arg(store) is store
    assert "word" not in repr(store)
    assert "sig" not in repr(store)
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert hash(again) == hash(store)
    assert store != FastStore("http://localhost:1/base")
    assert not hasattr(store, "get_partial_values")


@pytest.mark.parametrize(
    "options",
    [{}, {"compressor": None}, {"order": "F", "compressor": None}, {"dimension_separator": "/"}],
)
def test_arrays_are_read(site: Site, options: dict[str, Any]) -> None:
    write(zarr.DirectoryStore(str(site.root)), **options)
    array = zarr.open(store=FastStore(site.url), path="a")
    for selection in (np.s_[:], np.s_[3], np.s_[10:20, 5:45], np.s_[::7, 3:49:5]):
        np.testing.assert_array_equal(array[selection], VALUES[selection])
    np.testing.assert_array_equal(array.oindex[[1, 40], [2, 30]], VALUES[np.ix_([1, 40], [2, 30])])


def test_an_array_read_is_one_batch_of_one_get_a_chunk(site: Site) -> None:
    write(zarr.DirectoryStore(str(site.root)))
    store = FastStore(site.url)
    array = zarr.open_array(store, path="a", mode="r")
    before, batches = len(site.requests()), store.stats()["batches"]
    np.testing.assert_array_equal(array[:], VALUES)
    assert store.stats()["batches"] == batches + 1
    reads = site.requests(before + 16)[before:]
    assert {read.method for read in reads} == {"GET"}
    assert len({read.key for read in reads}) == len(reads) == 16


def test_fetching_overlaps_decoding(scripted: Callable[..., ScriptedServer]) -> None:
    """zarr has the first chunks decoded before the last one is sent."""
    memory = zarr.MemoryStore()
    decoded = threading.Event()

    class Witness(Codec):  # type: ignore[misc]
        codec_id = "witness"

        def encode(self, buf: Any) -> bytes:
            return bytes(buf)

        def decode(self, buf: Any, out: Any = None) -> Any:
            decoded.set()
            return ndarray_copy(buf, out)

    register_codec(Witness)
    write(memory, compressor=Witness())
    answer = ranged(contents(memory))
    decoded.clear()

    def handler(request: Request) -> Reply:
        if request.key == "a/3.3":
            assert decoded.wait(30)
        return answer(request)

    array = zarr.open_array(FastStore(scripted(handler).url), path="a", mode="r")
    np.testing.assert_array_equal(array[:], VALUES)


@pytest.mark.parametrize("to_zfast", [True, False])
def test_stores_are_copied(scripted: Callable[..., ScriptedServer], to_zfast: bool) -> None:
    objects: dict[str, bytes] = {}
    ours: Any = FastStore(scripted(Listed(objects)).url, read_only=False)
    theirs = zarr.MemoryStore()
    source, dest = (theirs, ours) if to_zfast else (ours, theirs)
    write(source)
    write(source, "b/c", compressor=None)
    copied, skipped, _ = zarr.copy_store(source, dest)
    assert (copied, skipped) == (len(contents(theirs)), 0)
    assert contents(theirs) == objects
    assert zarr.copy_store(source, dest, if_exists="skip")[:2] == (0, copied)
    with pytest.raises(zarr.errors.CopyError):
        zarr.copy_store(source, dest)
    zarr.copy_all(zarr.open_group(source, path="b", mode="r"), zarr.open_group(dest, path="d"))
    np.testing.assert_array_equal(zarr.open_group(dest, mode="r")["d/c"][:], VALUES)


def test_groups_are_listed_and_walked(site: Site) -> None:
    root = zarr.group(zarr.DirectoryStore(str(site.root)))
    for name in ("a", "b/c", "b/d/e"):
        root.create_dataset(name, data=VALUES, chunks=(16, 16), dimension_separator="/")
    if site.server.name == "nginx":
        # Its index pages leave out what begins with a dot, and so what says what a path is.
        zarr.consolidate_metadata(root.store)
        group = zarr.open_consolidated(FastStore(site.url), mode="r")
    else:
        group = zarr.open_group(FastStore(site.url), mode="r")
    walked = []
    group.visit(walked.append)
    assert sorted(walked) == ["a", "b", "b/c", "b/d", "b/d/e"]
    assert sorted(group["b"].group_keys()) == ["d"]
    assert sorted(group["b"].array_keys()) == ["c"]
    assert "b/d/e" in group
    assert "b/x" not in group
    np.testing.assert_array_equal(group["b/d/e"][5:9], VALUES[5:9])


def test_missing_chunks_are_the_fill_value(site: Site) -> None:
    group = zarr.open_group(zarr.DirectoryStore(str(site.root)), mode="w")
    group.create_dataset("a", shape=(60, 50), chunks=(16, 16), fill_value=7)[:10, :10] = 1
    found = zarr.open_group(FastStore(site.url), mode="r")["a"][:]
    expected = np.full((60, 50), 7)
    expected[:10, :10] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("code", [500, 403])
def test_a_failure_is_an_error_and_never_the_fill_value(
    scripted: Callable[..., ScriptedServer], code: int
) -> None:
    memory = zarr.MemoryStore()
    write(memory)

    def fault(request: Request, reply: Reply) -> Reply | None:
        return status(code) if request.key == "a/1.1" else None

    server = scripted(overlay(ranged(contents(memory)), fault))
    array = zarr.open_array(FastStore(server.url, retries=0), path="a", mode="r")
    with pytest.raises(zfast.ZfastError) as caught:
        array[:]
    assert (caught.value.key, caught.value.status) == ("a/1.1", code)


def test_consolidated_metadata_needs_no_listing(start: Callable[..., Any], tmp_path: Path) -> None:
    local = zarr.DirectoryStore(str(tmp_path))
    write(local)
    write(local, "b/c")
    zarr.consolidate_metadata(local)
    store = FastStore(start(Nginx, tmp_path, autoindex=False).url)
    group = zarr.open_consolidated(store)
    assert sorted(group) == ["a", "b"]
    np.testing.assert_array_equal(group["b/c"][:], VALUES)
    plain = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(plain["b/c"][:], VALUES)
    with pytest.raises(zfast.ListingError, match="no directory index page"):
        list(plain)
    assert plain["a"].nbytes_stored == -1


@pytest.mark.parametrize("options", [{}, {"order": "F", "compressor": None}])
def test_what_is_written_is_what_zarr_writes(
    scripted: Callable[..., ScriptedServer], options: dict[str, Any]
) -> None:
    memory = zarr.MemoryStore()
    objects: dict[str, bytes] = {}
    store = FastStore(scripted(Listed(objects)).url, read_only=False)
    for target in (memory, store):
        write(target, **options)
        write(target, "b/when", compressor=None, dtype="M8[s]")
        group = zarr.open_group(target, mode="r+")
        group["a"][10:20, 5:45] = 3
        group["a"].attrs["unit"] = "m"
        group.move("b/when", "b/then")
        zarr.consolidate_metadata(target)
    assert objects == contents(memory)
    batches = store.stats()["batches"]
    zarr.open_array(store, path="a", mode="r+")[:48, :48] = 5
    # Nine whole chunks: metadata, and all of them at once.
    assert store.stats()["batches"] <= batches + 3
    assert (zarr.open_array(store, path="a", mode="r")[:48, :48] == 5).all()
    assert zarr.open_array(store, path="a").nbytes_stored == sum(
        len(value) for key, value in objects.items() if key.startswith("a/")
    )
    zarr.open_group(store, mode="w")
    assert objects.keys() == {".zgroup"}


def test_empty_chunks_are_deleted(scripted: Callable[..., ScriptedServer]) -> None:
    objects: dict[str, bytes] = {}
    store = FastStore(scripted(ranged(objects)).url, read_only=False)
    write(store, write_empty_chunks=False)
    chunks = [key for key in objects if key.startswith("a/") and not key.endswith("zarray")]
    assert len(chunks) == 16
    zarr.open_array(store, path="a", mode="r+", write_empty_chunks=False)[:32] = 0
    assert len(objects.keys() & set(chunks)) == 8


def test_read_only(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(Listed({"k": b"1"}))
    store = FastStore(server.url)
    assert not store.is_writeable()
    assert not store.is_erasable()
    for write_to in (
        lambda: store.update(k=b"2"),
        lambda: store.setitems({"k": b"2"}),
        lambda: store.delitems(["k"]),
        lambda: store.rmdir("k"),
        lambda: store.clear(),
        lambda: zarr.open_group(store, mode="w"),
    ):
        with pytest.raises(zarr.errors.ReadOnlyError):
            write_to()
    assert not {request.method for request in server.requests} - {"GET", "HEAD"}


def test_a_closed_store_refuses(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(ranged({"k": b"1"}))
    with FastStore(server.url) as store:
        assert store["k"] == b"1"
    with pytest.raises(zfast.ConnectionFailedError, match="the store is closed"):
        store["k"]
    with pytest.raises(zfast.ConnectionFailedError, match="the store is closed"):
        store.getitems(["k"], contexts={})
