"""When zarr is given FastCodecPipeline, what arrays share of it, and what is left to zarr's own."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import field, make_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import dask
import numcodecs
import numpy as np
import pytest
from servers.scripted import ScriptedServer, ranged

pytest.importorskip("zarr", minversion="3.0", reason="codec pipelines of zarr 3")

import zarr
from served_arrays import CHUNKS, LAYOUTS, OURS, VALUES, Objects, create, opened
from zarr.abc.codec import CodecPipeline
from zarr.codecs import BytesCodec, ShardingCodec, TransposeCodec
from zarr.core.buffer import cpu
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import get_pipeline_class
from zarr.storage import LocalStore, LoggingStore, MemoryStore

import zfast
from zfast import FastStore, array_reads, pipeline
from zfast.pipeline import FastCodecPipeline

Start = Callable[..., ScriptedServer]

ZARRS = "zarr.core.codec_pipeline.BatchedCodecPipeline"
URL = "http://localhost:1/"
# What zarr alone can read, under every zarr.
FOREIGN = {"zarr_format": 2, "chunks": (16, 16), "compressors": numcodecs.BZ2()}


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has had no FastStore yet."""
    monkeypatch.setattr(pipeline, "_chosen", False)
    with zarr.config.set({"codec_pipeline.path": ZARRS}):
        yield


@pytest.fixture(autouse=True)
def _ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "undecided" in request.fixturenames:
        yield
        return
    # Set by name, and not chosen by a store before.
    monkeypatch.setattr(pipeline, "_chosen", False)
    with zarr.config.set({"codec_pipeline.path": OURS}):
        yield


def chosen() -> str:
    return str(zarr.config.get("codec_pipeline.path"))


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def server(scripted: Start, objects: Objects) -> ScriptedServer:
    return scripted(ranged(objects))


# ---------------------------------------------------------------------------------------- choosing


@pytest.mark.usefixtures("undecided")
def test_the_first_store_chooses_it() -> None:
    assert chosen() == ZARRS
    FastStore(URL)
    assert chosen() == OURS
    assert get_pipeline_class() is FastCodecPipeline


@pytest.mark.usefixtures("undecided")
def test_whoever_changes_it_afterwards_has_the_last_word() -> None:
    FastStore(URL)
    zarr.config.set({"codec_pipeline.path": ZARRS})
    FastStore(URL)
    assert chosen() == ZARRS


@pytest.mark.usefixtures("undecided")
def test_zarrs_own_in_its_place_again_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "zfast")
    with zarr.config.set({"codec_pipeline.path": ZARRS}):
        FastStore(URL)
        assert not caplog.messages
    assert chosen() == ZARRS
    FastStore(URL)
    (said,) = caplog.messages
    assert f"names {ZARRS}" in said
    assert OURS in said


@pytest.mark.usefixtures("undecided")
def test_another_pipeline_is_said_to_read_what_is_opened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "zfast")
    with zarr.config.set({"codec_pipeline.path": "a.pipeline.of.Another"}):
        FastStore(URL)
    (said,) = caplog.messages
    assert "names a.pipeline.of.Another" in said


def of_zarr(store: Any, zarr_format: Any) -> Any:
    options = {"shape": (40,), "chunks": (7,), "dtype": "f4", "zarr_format": zarr_format}
    return zarr.create_array(store, overwrite=True, **options)


@pytest.mark.usefixtures("undecided")
@pytest.mark.skipif(
    not hasattr(CodecPipeline, "from_array_metadata_and_store"),
    reason="zarr does not tell a pipeline of the store before 3.1",
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_on_other_stores_are_as_without_us(tmp_path: Path, zarr_format: int) -> None:
    store = LocalStore(tmp_path)
    before = of_zarr(store, zarr_format)
    FastStore(URL)
    array = zarr.open_array(store)
    assert array == before
    assert type(array.async_array.codec_pipeline) is BatchedCodecPipeline
    assert b"zfast" not in pickle.dumps(array)
    array[...] = np.arange(40)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array))[...], np.arange(40))
    # But for who has asked for it by its name.
    pipeline._chosen = False
    assert type(zarr.open_array(store).async_array.codec_pipeline) is FastCodecPipeline


@pytest.mark.usefixtures("undecided")
def test_another_pipeline_is_left_alone() -> None:
    with zarr.config.set({"codec_pipeline.path": "somebody.elses.Pipeline"}):
        FastStore(URL)
        assert chosen() == "somebody.elses.Pipeline"
    FastStore(URL)
    assert chosen() == OURS


@pytest.mark.usefixtures("undecided")
def test_a_store_without_leaves_it_alone() -> None:
    FastStore(URL, pipeline=False)
    with zfast.config.set(pipeline=False):
        FastStore(URL)
    pickle.loads(pickle.dumps(FastStore(URL, pipeline=False)))
    assert chosen() == ZARRS


@pytest.mark.usefixtures("undecided")
def test_a_store_out_of_a_pickle_chooses_it() -> None:
    pickled = pickle.dumps(FastStore(URL))
    zarr.config.set({"codec_pipeline.path": ZARRS})
    pipeline._chosen = False
    pickle.loads(pickled)
    assert chosen() == OURS


def in_new_process(code: str, stdin: bytes = b"", **environment: str) -> str:
    done = subprocess.run(
        # Of google-crc32c, where it has no extension for this Python.
        [sys.executable, "-W", "error", "-W", "ignore:As the c:RuntimeWarning", "-c", code],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().strip()


def test_it_is_found_by_its_name_alone() -> None:
    found = {entry.value for entry in entry_points(group="zarr.codec_pipeline")}
    assert "zfast.pipeline:FastCodecPipeline" in found
    code = """if True:
        import sys, zarr
        assert "zfast" not in sys.modules
        print(zarr.registry.get_pipeline_class().__name__)
    """
    assert in_new_process(code, ZARR_CODEC_PIPELINE__PATH=OURS) == "FastCodecPipeline"


def test_a_pickled_array_reads_in_another_process(server: ScriptedServer, objects: Objects) -> None:
    objects.fill(VALUES, **LAYOUTS["sharded"])
    _, array = opened(server)
    code = """if True:
        import pickle, sys, zarr
        array = pickle.load(sys.stdin.buffer)
        print(array[...].sum(), zarr.config.get("codec_pipeline.path"))
        print(type(array._async_array.codec_pipeline).__name__)
    """
    ended = in_new_process(code, pickle.dumps(array)).split()
    assert ended == [str(VALUES.sum()), OURS, "FastCodecPipeline"]


def test_it_pickles_and_evolves() -> None:
    made = FastCodecPipeline.from_codecs([TransposeCodec(order=(1, 0)), BytesCodec()])
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is FastCodecPipeline
    assert again == made
    array = zarr.create(shape=(4, 4), dtype="i4", store=MemoryStore())
    assert type(array._async_array.codec_pipeline) is FastCodecPipeline


def _compiled(array: Any) -> list[Any]:
    known: dict[Any, Any] = array._async_array.codec_pipeline._recipes._known
    return list(known.values())


@pytest.mark.parametrize("layout", ["raw", "format 3", "sharded"])
def test_what_was_compiled_serves_all_that_is_stored_alike(
    server: ScriptedServer, objects: Objects, layout: str
) -> None:
    objects.fill(VALUES, **LAYOUTS[layout])
    arrays = [opened(server)[1] for _ in range(2)]
    for array in arrays:
        np.testing.assert_array_equal(array[...], VALUES)
    (first,), (second,) = map(_compiled, arrays)
    assert first is second

    objects.clear()
    objects.fill(VALUES, **LAYOUTS[layout], serializer=BytesCodec(endian="big"))
    _, other = opened(server)
    np.testing.assert_array_equal(other[...], VALUES)
    (third,) = _compiled(other)
    assert third is not first


def test_codecs_without_a_hash_are_compiled_for_each_array(
    server: ScriptedServer, objects: Objects
) -> None:
    objects.fill(VALUES, zarr_format=2, chunks=(16, 16), compressors=numcodecs.Zlib())
    for _ in range(2):
        _, array = opened(server)
        with pytest.raises(TypeError, match="unhashable"):
            hash(array._async_array.codec_pipeline)
        np.testing.assert_array_equal(array[...], VALUES)


def test_a_dtype_without_a_hash_is_read(server: ScriptedServer, objects: Objects) -> None:
    dtypes = pytest.importorskip("zarr.core.dtype", reason="zarr's dtypes are numpy's up to 3.0")
    labelled = make_dataclass(
        "Labelled",
        [("labels", list, field(default_factory=list))],
        bases=(dtypes.Float32,),
        frozen=True,
        kw_only=True,
    )
    objects.fill(VALUES, **LAYOUTS["format 3"])
    store, array = opened(server)
    object.__setattr__(array._async_array.metadata, "data_type", labelled())
    np.testing.assert_array_equal(array[...], VALUES)
    assert store.stats()["fallback_chunks"] == 0


def test_what_was_compiled_is_bounded(
    server: ScriptedServer, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_reads, "_MOST_SHARED", 3)
    for side in range(4, 12):
        objects.clear()
        objects.fill(VALUES, **(LAYOUTS["raw"] | {"chunks": (side, side)}))
        np.testing.assert_array_equal(opened(server)[1][...], VALUES)
        assert 1 <= len(array_reads._shared) <= 3


# ------------------------------------------------------------------------------- what zarr reads


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every read of a FastCodecPipeline returns."""
    values: list[Any] = []

    async def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        values.append(await original(self, *args, **kwargs))
        return values[-1]

    original = FastCodecPipeline.read
    monkeypatch.setattr(FastCodecPipeline, "read", read)
    return values


def test_what_the_core_cannot_read_zarr_reads(
    server: ScriptedServer, objects: Objects, returned: list[Any], caplog: Any
) -> None:
    objects.fill(VALUES, **FOREIGN)
    del objects["a/1.2"], objects["a/3.3"]
    wanted = VALUES.copy()
    wanted[16:32, 32:48] = wanted[48:, 48:] = 0
    store, array = opened(server)
    before = zfast.stats()["fallback_chunks"]
    with caplog.at_level(logging.INFO, "zfast"):
        np.testing.assert_array_equal(array[...], wanted)
        np.testing.assert_array_equal(array[20:30, ::3], wanted[20:30, ::3])
        np.testing.assert_array_equal(array.oindex[[1, 59], 4], wanted[[1, 59], 4])
        np.testing.assert_array_equal(array.vindex[[1, 59], [4, 40]], wanted[[1, 59], [4, 40]])
    assert [len(statuses) for statuses in returned] == [CHUNKS, 4, 2, 2]
    missing = [at for at, said in enumerate(returned[0]) if said == {"status": "missing"}]
    present = [at for at, said in enumerate(returned[0]) if said == {"status": "present"}]
    assert missing == [6, 15]
    assert len(present) == CHUNKS - 2
    assert store.stats()["fallback_chunks"] == CHUNKS + 4 + 2 + 2
    assert zfast.stats()["fallback_chunks"] == before + CHUNKS + 4 + 2 + 2
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"zarr's own pipeline reads chunks of {store.url}: codec numcodecs.bz2"]


@pytest.mark.parametrize(
    "filters",
    [
        [numcodecs.FixedScaleOffset(0, 1, "<f4", "<i4")],
        # What blosc is given then is of any dtype.
        [numcodecs.FixedScaleOffset(0, 1, "<f4", "<i4"), numcodecs.Blosc(), numcodecs.Delta("i1")],
    ],
    ids=["one", "three"],
)
def test_what_zarr_reads_with_blosc(
    server: ScriptedServer, objects: Objects, filters: list[Any]
) -> None:
    layout = {"zarr_format": 2, "chunks": (16, 16), "compressors": numcodecs.Blosc("lz4", 5, 1)}
    objects.fill(VALUES, filters=filters, **layout)
    store, array = opened(server)
    np.testing.assert_array_equal(array[...], VALUES)
    assert store.stats()["fallback_chunks"] == CHUNKS
    objects["a/0.0"] = objects["a/0.0"][:-3]
    with pytest.raises(zfast.CorruptError, match=r"a/0.0.*truncated"):
        opened(server)[1][...]
    np.testing.assert_array_equal(array[16:], VALUES[16:])


def test_every_store_says_it_once(server: ScriptedServer, objects: Objects, caplog: Any) -> None:
    objects.fill(VALUES, **FOREIGN)
    stores = []
    with caplog.at_level(logging.INFO, "zfast"):
        for options in ({}, {}, {"headers": {"X-Other": "1"}}):
            store, array = opened(server, **options)
            array[0], array[1]
            stores.append(store)
    assert [store.stats()["fallback_chunks"] for store in stores] == [8, 8, 8]
    # Two of the stores are equal.
    assert len(caplog.records) == 2


@pytest.mark.skipif(
    not hasattr(zarr.errors, "ChunkNotFoundError"), reason="zarr fills in missing chunks"
)
@pytest.mark.parametrize("layout", [FOREIGN, *LAYOUTS.values()], ids=["foreign", *LAYOUTS])
def test_a_missing_chunk_is_an_error_where_zarr_says_so(
    server: ScriptedServer, objects: Objects, layout: dict[str, Any]
) -> None:
    objects.fill(VALUES, **layout)
    (gone,) = (key for key in objects if key.endswith(("1/2", "1.2")))
    del objects[gone]
    _, array = opened(server)
    with zarr.config.set({"array.read_missing_chunks": False}):
        strict = zarr.open_array(store=FastStore(server.url), path="a")
    np.testing.assert_array_equal(strict[:16], VALUES[:16])
    for selection in (np.s_[...], np.s_[20, 40], np.s_[17:20, 30:45]):
        with pytest.raises(zarr.errors.ChunkNotFoundError):
            strict[selection]
    assert array[20, 40] == 0


@pytest.mark.skipif(
    not hasattr(zarr.errors, "ChunkNotFoundError"), reason="zarr fills in missing chunks"
)
def test_a_missing_inner_chunk_never_is(server: ScriptedServer, objects: Objects) -> None:
    values = VALUES.copy()
    values[:8, :8] = 0
    objects.fill(values, **LAYOUTS["sharded"])
    with zarr.config.set({"array.read_missing_chunks": False}):
        strict = zarr.open_array(store=FastStore(server.url), path="a")
    np.testing.assert_array_equal(strict[...], values)
    np.testing.assert_array_equal(strict[:4, :4], values[:4, :4])


def test_a_store_without_is_zarrs(server: ScriptedServer, objects: Objects) -> None:
    objects.fill(VALUES, **LAYOUTS["format 3"])
    store, array = opened(server, read_only=False, pipeline=False)
    np.testing.assert_array_equal(array[...], VALUES)
    before = store.stats()["batches"]
    array[...] = VALUES + 1
    assert store.stats()["batches"] > before + 1
    assert store.stats()["fallback_chunks"] == 0


def test_what_wraps_a_store_sees_every_access(
    server: ScriptedServer, objects: Objects, tmp_path: Path
) -> None:
    store = FastStore(server.url, read_only=False)
    wrapper = LoggingStore(store, log_level="ERROR")
    array = create(wrapper, VALUES, **LAYOUTS["format 3"])
    np.testing.assert_array_equal(array[...], VALUES)
    assert wrapper.counter["set"] >= CHUNKS
    assert wrapper.counter["get"] >= CHUNKS
    np.testing.assert_array_equal(objects.local(tmp_path), VALUES)
    assert store.stats()["fallback_chunks"] == 0


class Masked(FastStore):
    """What is stored is not what is read and written."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        found = await super().get(key, *args, **options)
        return found if found is None or key.endswith(".json") else masked(found)

    async def set(self, key: str, value: Any) -> None:
        await super().set(key, value if key.endswith(".json") else masked(value))


class Renamed(FastStore):
    """Reads and writes as any other."""

    def __repr__(self) -> str:
        return "Renamed"


def masked(value: Any) -> Any:
    return type(value).from_bytes(bytes(octet ^ 0xFF for octet in value.to_bytes()))


def test_what_a_subclass_does_to_values_is_done_to_chunks(
    server: ScriptedServer, objects: Objects
) -> None:
    store = Masked(server.url, read_only=False)
    array = create(store, VALUES, chunks=(16, 16), compressors=None)
    np.testing.assert_array_equal(array[...], VALUES)
    stored = objects["a/c/0/0"]
    assert stored == bytes(octet ^ 0xFF for octet in VALUES[:16, :16].tobytes())


def test_another_subclass_is_as_fast(server: ScriptedServer, objects: Objects) -> None:
    objects.fill(VALUES, **LAYOUTS["format 3"])
    store = Renamed(server.url)
    array = zarr.open_array(store=store, path="a", mode="r")
    before = store.stats()["batches"]
    np.testing.assert_array_equal(array[...], VALUES)
    assert store.stats()["batches"] == before + 1


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_arrays_on_other_stores_are_zarrs(
    layout: dict[str, Any], returned: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = create(MemoryStore(), VALUES, **layout)
    array[3:40, 5] = -1
    assert type(array._async_array.codec_pipeline) is FastCodecPipeline
    expected = VALUES.copy()
    expected[3:40, 5] = -1
    np.testing.assert_array_equal(array[...], expected)
    # Whatever zarr's own returns.
    ours = returned[-1]
    with zarr.config.set({"codec_pipeline.path": ZARRS}):
        theirs = []
        original = BatchedCodecPipeline.read

        async def read(self: Any, *args: Any, **kwargs: Any) -> Any:
            theirs.append(await original(self, *args, **kwargs))
            return theirs[-1]

        monkeypatch.setattr(BatchedCodecPipeline, "read", read)
        zarr.open_array(array.store, path="a")[...]
    assert ours == theirs[-1]


def test_a_default_that_zarr_cannot_make_is_asked_for_where_a_chunk_is_missing(
    server: ScriptedServer, objects: Objects
) -> None:
    document = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": [["a", "|V3"], ["b", "<i2"]],
        "compressor": None,
        "filters": None,
        "order": "C",
        "fill_value": None,
    }
    data = bytes(range(20))
    objects.update({"a/.zarray": json.dumps(document).encode(), "a/0": data})
    _, array = opened(server)
    assert array[...].tobytes() == data


def test_what_zarr_reads_of_a_shard_that_was_cut_short(
    server: ScriptedServer, objects: Objects
) -> None:
    """zarr takes what is behind the end for empty, which would be filled in."""
    codec = ShardingCodec(chunk_shape=(8, 8), codecs=[BytesCodec()], index_location="start")
    objects.fill(VALUES, chunks=(16, 16), serializer=codec, compressors=None)
    (cut,) = (key for key in objects if key.endswith("c/0/0"))
    objects[cut] = objects[cut][:-300]
    store, array = opened(server)
    out = cpu.NDBuffer.from_numpy_array(np.zeros((4, 4), "f8"))
    # From 3.3 on zarr asks for all inner chunks at once, and takes none that is short.
    with pytest.raises(ValueError, match=r"ends after the shard|cannot reshape") as caught:
        array.get_basic_selection(np.s_[12:16, 12:16], out=out)
    assert getattr(caught.value, "key", cut) == cut
    assert store.stats()["fallback_chunks"] == 1


class Keyed(Masked):
    """Masked by a key of its own."""

    def __init__(self, url: str, key: int, **options: Any) -> None:
        super().__init__(url, **options)
        self.key = key


def test_what_a_subclass_keeps_goes_with_it(server: ScriptedServer) -> None:
    one, other = Keyed(server.url, 1), Keyed(server.url, 2)
    assert one == Keyed(server.url, 1) != other
    for store in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert type(store) is Keyed
        assert (store.key, store) == (1, one)
    assert one.with_read_only(False).key == 1
    assert (
        dask.base.tokenize(one) == dask.base.tokenize(copy.copy(one)) != dask.base.tokenize(other)
    )


def test_a_closed_store_reads_no_arrays(server: ScriptedServer, objects: Objects) -> None:
    """Also while another that shares its client is open."""
    objects.fill(VALUES, **LAYOUTS["format 3"])
    store = FastStore(server.url)
    shared = store.with_read_only(False)
    array = zarr.open_array(store, path="a", mode="r")
    assert array[...].shape == array.shape
    store.close()
    with pytest.raises(zfast.ConnectionFailedError, match="the store is closed"):
        array[...]
    shared.close()


def test_chunks_of_large_shards_are_planned_together(
    server: ScriptedServer, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are wanted, however many inner chunks their shards have besides."""
    rows, columns = VALUES.shape
    monkeypatch.setattr(array_reads, "_MOST_INNER", columns)
    monkeypatch.setattr(array_reads, "_FEWEST_SHARDS", 1)
    objects.fill(VALUES, chunks=(1, 1), shards=(1, columns), compressors=None)
    store, array = opened(server)
    for window, batches in ((np.s_[:, 3:4], -(-rows // columns)), (np.s_[...], rows)):
        before = store.stats()["batches"]
        np.testing.assert_array_equal(array[window], VALUES[window])
        assert store.stats()["batches"] == before + batches
