"""Codec chains as the core has them, undone in Python and compared with what zarr wrote."""

from __future__ import annotations

import asyncio
import math
import pickle
import warnings
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.checksum32 import CRC32C

pytest.importorskip("zarr", minversion="3.0", reason="codec pipelines of zarr 3")

import zarr
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.core.buffer import default_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline

from zfast.recipes import Description, describe, why_not

wrappers = pytest.mark.skipif(
    find_spec("zarr.codecs.numcodecs") is None, reason="zarr has no wrappers of numcodecs yet"
)
MISSING = 2**64 - 1
DTYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
)


class Stored:
    """An array in memory, as its pipeline is asked to read it, and the bytes of one chunk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: np.ndarray, **options: Any) -> None:
        self.data = data
        store = zarr.storage.MemoryStore()
        with warnings.catch_warnings():
            # Codecs outside of the specification, and codecs around shards, are warned of.
            warnings.simplefilter("ignore")
            options = {"shape": data.shape, "chunks": data.shape, "dtype": data.dtype} | options
            array = zarr.create(store=store, **options)
            array[...] = data
            calls: list[Any] = []

            async def read(pipeline: Any, batch_info: Any, out: Any, drop_axes: Any = ()) -> Any:
                calls.append((pipeline, list(batch_info), out))
                return await original(pipeline, calls[-1][1], out, drop_axes)

            original = BatchedCodecPipeline.read
            with monkeypatch.context() as patch:
                patch.setattr(BatchedCodecPipeline, "read", read)
                # Whatever zarr does to values of other byte orders has happened here.
                self.value = np.asarray(array[...])
        self.pipeline, [(self.getter, self.spec, *_)], out = calls[0]
        self.out_dtype = out.dtype

    def describe(self, out_dtype: Any = None) -> Description:
        wanted = self.out_dtype if out_dtype is None else np.dtype(out_dtype)
        description = describe(self.pipeline, self.spec, wanted)
        assert description is not None, why_not(self.pipeline, self.spec, wanted)
        assert why_not(self.pipeline, self.spec, wanted) == ""
        return description

    def why_not(self, out_dtype: Any = None) -> str:
        wanted = self.out_dtype if out_dtype is None else np.dtype(out_dtype)
        assert describe(self.pipeline, self.spec, wanted) is None
        return why_not(self.pipeline, self.spec, wanted)

    @property
    def bytes(self) -> bytes:
        chunk = asyncio.run(self.getter.get(default_buffer_prototype()))
        return bytes(chunk.to_bytes())

    def check(self, out_dtype: Any = None) -> Description:
        """The chunk's bytes, undone as described, are the data."""
        description = self.describe(out_dtype)
        wanted = self.value.astype(out_dtype or self.out_dtype)
        undone = undo(description, self.bytes)
        assert undone.shape == wanted.shape
        assert undone.tobytes() == wanted.tobytes()
        assert pickle.loads(pickle.dumps(description)) == description
        assert hash(description) == hash(pickle.loads(pickle.dumps(description)))
        return description


def undo_shuffle(data: bytes, size: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(size, -1).T.tobytes()


def undo_delta(data: bytes, size: int) -> bytes:
    differences = np.frombuffer(data, f"=u{size}")
    return np.cumsum(differences, dtype=differences.dtype).tobytes()


UNDO = {
    "zstd": lambda data, _: numcodecs.Zstd().decode(data),
    "blosc": lambda data, _: numcodecs.Blosc().decode(data),
    "gzip": lambda data, _: numcodecs.GZip().decode(data),
    "zlib": lambda data, _: numcodecs.Zlib().decode(data),
    "lz4": lambda data, _: numcodecs.LZ4().decode(data),
    "crc32c": lambda data, _: CRC32C(location="end").decode(data).tobytes(),
    "shuffle": undo_shuffle,
    "delta": undo_delta,
}


def undo(description: Description, data: bytes) -> np.ndarray:
    """A chunk in the axes of what is around it, its elements as so many bytes."""
    for name, size in description.steps:
        data = bytes(UNDO[name](data, size))
    if description.inner is not None:
        stored = undo_shard(description, data)
    else:
        octets = np.frombuffer(data, np.uint8)
        if description.swap:
            octets = octets.reshape(-1, description.swap)[:, ::-1].ravel()
        stored = octets.view(f"V{description.item_size}").reshape(description.shape)
    return stored.transpose(np.argsort(description.axes))


def undo_shard(description: Description, data: bytes) -> np.ndarray:
    inner = description.inner
    cell = [0] * len(inner.shape)
    for stored, axis in enumerate(inner.axes):
        cell[axis] = inner.shape[stored]
    grid = [whole // size for whole, size in zip(description.shape, cell, strict=True)]
    size = 16 * math.prod(grid)
    checked = size + 4 * description.index_checksum
    index = data[-checked:] if description.index_at_end else data[:checked]
    if description.index_checksum:
        CRC32C(location="end").decode(index)
    order = ">" if description.index_big_endian else "<"
    pairs = np.frombuffer(index[:size], f"{order}u8").reshape(*grid, 2)
    shard = np.zeros(description.shape, f"V{description.item_size}")
    for at in np.ndindex(*grid):
        offset, nbytes = map(int, pairs[at])
        if offset == nbytes == MISSING:
            continue
        box = tuple(slice(i * n, i * n + n) for i, n in zip(at, cell, strict=True))
        shard[box] = undo(inner, data[offset : offset + nbytes])
    return shard


def numbers(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Values no two neighbours of which are alike, and none of which is a fill value."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return (np.arange(1, math.prod(shape) + 1).reshape(shape) % 3 > 0).astype(dtype)
    values = np.arange(1, math.prod(shape) + 1).reshape(shape)
    if dtype.kind == "c":
        return (values * (1.5 - 2.25j)).astype(dtype)
    return (values * (1 if dtype.kind in "SU" else 3)).astype(dtype)


# ------------------------------------------------------------------------------- bytes and dtypes


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_in_both_byte_orders(
    monkeypatch: pytest.MonkeyPatch, dtype: str, endian: str
) -> None:
    stored = Stored(monkeypatch, numbers((3, 4), dtype), codecs=[BytesCodec(endian=endian)])
    description = stored.check()
    part = np.dtype(dtype).itemsize // (2 if np.dtype(dtype).kind == "c" else 1)
    swapped = endian == "big" and np.dtype(dtype).itemsize > 1
    assert description == Description(
        (3, 4), (0, 1), np.dtype(dtype).itemsize, part if swapped else 0, ()
    )


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("dtype", ["U3", "S3", "M8[ms]", "m8[us]", "V5"])
def test_dtypes_that_are_not_numbers(
    monkeypatch: pytest.MonkeyPatch, dtype: str, endian: str
) -> None:
    if dtype[0] in "mM":
        data = np.arange(6, dtype="i8").view(np.dtype(dtype).newbyteorder("=")).reshape(2, 3)
    elif dtype[0] == "V":
        data = np.arange(30, dtype="u1").view(dtype).reshape(2, 3)
    else:
        data = numbers((2, 3), dtype)
    try:
        stored = Stored(monkeypatch, data, codecs=[BytesCodec(endian=endian)])
    except (ValueError, TypeError, KeyError, zarr.errors.BaseZarrError):
        pytest.skip(f"this zarr has no {dtype}")
    swap = {"U": 4, "M": 8, "m": 8}.get(dtype[0], 0)
    assert stored.check().swap == (swap if endian == "big" else 0)


def test_an_output_of_the_other_byte_order_is_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(monkeypatch, numbers((4,), "f8"), codecs=[BytesCodec(endian="little")])
    assert stored.check("<f8").swap == 0
    assert stored.check(">f8").swap == 8


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "V8", "<u8", "<c8"])
def test_an_output_of_another_dtype_is_zarrs_to_convert(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    stored = Stored(monkeypatch, numbers((4,), "f8"), codecs=[BytesCodec()])
    assert stored.why_not(dtype) == f"dtype float64 into {np.dtype(dtype)}"


def test_dates_of_another_unit_are_zarrs_to_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.arange(4, dtype="i8").view("M8[s]")
    stored = Stored(monkeypatch, data, zarr_format=2, compressor=None)
    assert stored.check().swap == 0
    assert stored.why_not("M8[ms]") == "dtype datetime64[s] into datetime64[ms]"


RECORD = np.dtype([("a", "<i4"), ("b", "<f8"), ("c", "S3")])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_records(monkeypatch: pytest.MonkeyPatch, zarr_format: Any) -> None:
    data = np.array([(1, 2.5, b"abc"), (-3, 4.5, b"d")], RECORD)
    try:
        stored = Stored(monkeypatch, data, zarr_format=zarr_format, fill_value=None)
    except (ValueError, TypeError, KeyError):
        pytest.skip("this zarr has no structured dtypes of that format")
    assert stored.check().item_size == 15
    assert stored.why_not(RECORD.newbyteorder()).startswith("dtype ")


def test_records_in_another_byte_order(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.array([(1, 2.5, b"abc"), (-3, 4.5, b"d")], RECORD)
    try:
        stored = Stored(monkeypatch, data, codecs=[BytesCodec(endian="big")], fill_value=None)
    except (ValueError, TypeError, KeyError):
        pytest.skip("this zarr has no structured dtypes of format 3")
    if stored.pipeline.array_bytes_codec.endian is None:
        # This zarr gives records no byte order but that of their fields.
        stored.check()
    else:
        assert stored.why_not() == "structured dtype in another byte order"


def test_strings_of_any_length_are_zarrs(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.array(["a", "bcd"], object)
    codec = {"name": "vlen-utf8"}
    stored = Stored(monkeypatch, data, dtype=str, codecs=[codec], fill_value="")
    assert stored.why_not().startswith("dtype ")


def test_a_chunk_of_no_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(monkeypatch, np.array(2.5), codecs=[BytesCodec(), ZstdCodec()])
    assert stored.check() == Description((), (), 8, 0, (("zstd", 0),))


# ---------------------------------------------------------------------------------------- codecs


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        (ZstdCodec(level=3, checksum=True), "zstd"),
        (BloscCodec(cname="zstd", shuffle="bitshuffle"), "blosc"),
        (GzipCodec(level=1), "gzip"),
        (Crc32cCodec(), "crc32c"),
    ],
)
def test_one_codec(monkeypatch: pytest.MonkeyPatch, codec: Any, name: str) -> None:
    stored = Stored(monkeypatch, numbers((5, 6), "i4"), codecs=[BytesCodec(), codec])
    assert stored.check().steps == ((name, 0),)


def test_codecs_are_undone_from_the_last_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [BytesCodec(), GzipCodec(), Crc32cCodec(), ZstdCodec()]
    stored = Stored(monkeypatch, numbers((5, 6), "i4"), codecs=chain)
    assert stored.check().steps == (("zstd", 0), ("crc32c", 0), ("gzip", 0))


@given(orders=st.lists(st.permutations(range(4)), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_transpositions(orders: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        chain = [*(TransposeCodec(order=tuple(order)) for order in orders), BytesCodec()]
        Stored(monkeypatch, numbers((2, 3, 4, 5), "i2"), codecs=chain).check()


def test_transposed_axes_are_named_by_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [TransposeCodec(order=(1, 2, 0)), BytesCodec()]
    description = Stored(monkeypatch, numbers((2, 3, 4), "i2"), codecs=chain).check()
    assert (description.shape, description.axes) == ((3, 4, 2), (1, 2, 0))


# ---------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_a_shard_and_its_index(
    monkeypatch: pytest.MonkeyPatch, location: str, checksum: bool, endian: str
) -> None:
    data = numbers((4, 6), "f4")
    # An empty inner chunk.
    data[:2, 2:4] = 0
    codec = ShardingCodec(
        chunk_shape=(2, 2),
        codecs=[BytesCodec(endian="big"), ZstdCodec()],
        index_codecs=[BytesCodec(endian=endian), *[Crc32cCodec()] * checksum],
        index_location=location,
    )
    description = Stored(monkeypatch, data, codecs=[codec], fill_value=0).check()
    assert description == Description(
        (4, 6),
        (0, 1),
        4,
        4,
        (),
        Description((2, 2), (0, 1), 4, 4, (("zstd", 0),)),
        index_at_end=location == "end",
        index_checksum=checksum,
        index_big_endian=endian == "big",
    )


def test_shards_in_shards_with_transpositions_and_codecs_all_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    innermost = ShardingCodec(
        chunk_shape=(1, 2, 3),
        codecs=[TransposeCodec(order=(2, 1, 0)), BytesCodec(), GzipCodec()],
        index_location="start",
    )
    between = ShardingCodec(
        chunk_shape=(2, 2, 6), codecs=[TransposeCodec(order=(0, 1, 2)), innermost, ZstdCodec()]
    )
    chain = [TransposeCodec(order=(1, 2, 0)), between, Crc32cCodec()]
    description = Stored(monkeypatch, numbers((6, 4, 6), "i2"), codecs=chain).check()
    assert description == Description(
        (4, 6, 6),
        (1, 2, 0),
        2,
        0,
        (("crc32c", 0),),
        Description(
            (2, 2, 6),
            (0, 1, 2),
            2,
            0,
            (("zstd", 0),),
            Description((3, 2, 1), (2, 1, 0), 2, 0, (("gzip", 0),)),
            index_at_end=False,
        ),
    )


def test_an_inner_chunk_may_be_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = [TransposeCodec(order=(2, 0, 1)), BytesCodec()]
    codec = ShardingCodec(chunk_shape=(2, 2, 3), codecs=inner)
    chain = [TransposeCodec(order=(2, 1, 0)), codec]
    description = Stored(monkeypatch, numbers((6, 4, 6), "i2"), codecs=chain).check()
    assert description.axes == (2, 1, 0)
    assert description.inner.axes == (2, 0, 1)
    assert description.inner.shape == (3, 2, 2)


def test_other_index_codecs_are_zarrs(monkeypatch: pytest.MonkeyPatch) -> None:
    index_codecs = [TransposeCodec(order=(1, 0)), BytesCodec()]
    codec = ShardingCodec(chunk_shape=(2,), index_codecs=index_codecs)
    stored = Stored(monkeypatch, numbers((4,), "i2"), codecs=[codec])
    assert stored.why_not() == "index codecs transpose, bytes"


# ---------------------------------------------------------------------------------------- format 2


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i4", ">i4", "|u1", ">f8", "<U2", ">U2", "|S3", "|b1", ">c8"])
def test_format_2(monkeypatch: pytest.MonkeyPatch, dtype: str, order: str) -> None:
    data = numbers((3, 4, 2), dtype)
    stored = Stored(monkeypatch, data, zarr_format=2, order=order, compressor=None)
    if stored.pipeline.array_bytes_codec.filters:
        pytest.skip("this zarr stores text by way of objects")
    description = stored.check()
    assert description.axes == ((0, 1, 2) if order == "C" else (2, 1, 0))
    assert description.shape == ((3, 4, 2) if order == "C" else (2, 4, 3))
    assert description.swap == 0
    if dtype[0] == ">":
        unit = {"c": 4, "U": 4}.get(dtype[1], np.dtype(dtype).itemsize)
        assert stored.check(np.dtype(dtype).newbyteorder("<")).swap == unit


@pytest.mark.parametrize(
    ("compressor", "steps"),
    [
        (None, ()),
        (numcodecs.Zstd(), (("zstd", 0),)),
        (numcodecs.Blosc(), (("blosc", 0),)),
        (numcodecs.GZip(), (("gzip", 0),)),
        (numcodecs.Zlib(), (("zlib", 0),)),
        (numcodecs.LZ4(), (("lz4", 0),)),
    ],
)
def test_format_2_compressors(monkeypatch: pytest.MonkeyPatch, compressor: Any, steps: Any) -> None:
    stored = Stored(monkeypatch, numbers((8, 3), "<i4"), zarr_format=2, compressor=compressor)
    assert stored.check().steps == steps


def test_format_2_filters_are_undone_after_the_compressor(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [numcodecs.Delta("<i4"), numcodecs.Shuffle(4)]
    stored = Stored(
        monkeypatch,
        numbers((8, 3), "<i4"),
        zarr_format=2,
        order="F",
        filters=filters,
        compressor=numcodecs.Zstd(),
    )
    assert stored.check().steps == (("zstd", 0), ("shuffle", 4), ("delta", 4))


def test_a_shuffle_of_single_bytes_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbers((8,), "|u1")
    options = {"zarr_format": 2, "filters": [numcodecs.Shuffle(1)], "compressor": None}
    assert Stored(monkeypatch, data, **options).check().steps == ()


@pytest.mark.parametrize(
    ("codec", "reason"),
    [
        (numcodecs.Delta("<i4", astype="<i8"), "codec numcodecs.delta"),
        (numcodecs.Delta(">i4"), "codec numcodecs.delta"),
        (numcodecs.FixedScaleOffset(0, 1, "<i4"), "codec numcodecs.fixedscaleoffset"),
        (CRC32C(location="end"), "codec numcodecs.crc32c"),
    ],
)
def test_other_filters_are_zarrs(monkeypatch: pytest.MonkeyPatch, codec: Any, reason: str) -> None:
    options = {"zarr_format": 2, "filters": [codec], "compressor": None}
    stored = Stored(monkeypatch, numbers((8,), codec.get_config().get("dtype", "<i4")), **options)
    assert stored.why_not() == reason


def test_a_delta_of_floats_is_zarrs(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"zarr_format": 2, "filters": [numcodecs.Delta("<f8")], "compressor": None}
    assert Stored(monkeypatch, numbers((8,), "<f8"), **options).why_not() == "codec numcodecs.delta"


# --------------------------------------------------------------------------- wrappers of numcodecs


def wrapped(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": f"numcodecs.{name}", "configuration": configuration}


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}


@wrappers
@pytest.mark.parametrize("name", ["zstd", "blosc", "gzip", "zlib", "lz4"])
def test_wrapped_compressors(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stored = Stored(monkeypatch, numbers((5, 6), "i4"), codecs=[LITTLE, wrapped(name)])
    assert stored.check().steps == ((name, 0),)


@wrappers
def test_wrapped_shuffle_and_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [
        {"name": "transpose", "configuration": {"order": [1, 0]}},
        wrapped("delta", dtype="<u2"),
        LITTLE,
        wrapped("shuffle", elementsize=2),
        wrapped("lz4"),
    ]
    stored = Stored(monkeypatch, numbers((5, 6), "u2")[:, ::-1], codecs=chain)
    assert stored.check().steps == (("lz4", 0), ("shuffle", 2), ("delta", 2))


@wrappers
def test_an_inner_chunks_shuffle_knows_its_element(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [2],
            "codecs": [LITTLE, wrapped("shuffle", elementsize=4)],
            "index_codecs": [LITTLE, {"name": "crc32c"}],
        },
    }
    description = Stored(monkeypatch, numbers((8,), "i4"), codecs=[codec]).check()
    assert description.inner.steps == (("shuffle", 4),)


@wrappers
@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (
            [wrapped("delta", dtype="<i4"), {"name": "transpose", "configuration": {"order": [0]}}],
            "codec transpose after numcodecs.delta",
        ),
        ([wrapped("delta", dtype="<i4", astype="<i8")], "codec numcodecs.delta"),
        ([wrapped("delta", dtype="<u4")], "codec numcodecs.delta of another dtype"),
        (
            [wrapped("fixedscaleoffset", dtype="<i4", scale=1, offset=0)],
            "codec numcodecs.fixedscaleoffset",
        ),
    ],
)
def test_other_wrapped_filters_are_zarrs(
    monkeypatch: pytest.MonkeyPatch, chain: Any, reason: str
) -> None:
    stored = Stored(monkeypatch, numbers((8,), "i4"), codecs=[*chain, LITTLE])
    assert stored.why_not() == reason


@wrappers
def test_a_delta_is_not_described_through_another_byte_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = Stored(monkeypatch, numbers((8,), "i4"), codecs=[wrapped("delta", dtype="<i4"), BIG])
    assert stored.why_not() == "codec numcodecs.delta in another byte order"


@wrappers
def test_other_wrapped_compressors_are_zarrs(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(monkeypatch, numbers((8,), "i4"), codecs=[LITTLE, wrapped("bz2")])
    assert stored.why_not() == "codec numcodecs.bz2"


# ------------------------------------------------------------------------------------- refusals


class MyZstd(ZstdCodec):
    """Who knows what it does."""


def test_only_exact_classes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(monkeypatch, numbers((8,), "i4"), codecs=[BytesCodec(), ZstdCodec()])
    stored.check()

    class Pipeline:
        array_array_codecs = ()
        array_bytes_codec = stored.pipeline.array_bytes_codec
        bytes_bytes_codecs = (MyZstd(),)

    assert describe(Pipeline, stored.spec, stored.out_dtype) is None
    assert why_not(Pipeline, stored.spec, stored.out_dtype) == "codec zstd"


def test_more_dimensions_than_the_core_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(monkeypatch, numbers((8,), "i4"), codecs=[BytesCodec()])
    spec = SimpleNamespace(shape=(1,) * 32, dtype=stored.spec.dtype, order="C")
    assert describe(stored.pipeline, spec, stored.out_dtype) is not None
    spec.shape += (1,)
    assert describe(stored.pipeline, spec, stored.out_dtype) is None
    assert why_not(stored.pipeline, spec, stored.out_dtype) == "more than 32 dimensions"


@pytest.mark.parametrize("fields", [False, True], ids=["alone", "in a record"])
def test_a_dtype_that_a_package_registers_is_zarrs(fields: bool) -> None:
    """It may look like bytes of no order, and have one: bfloat16 is of kind V."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(ml_dtypes.bfloat16)
    assert dtype.kind == "V"
    if fields:
        dtype = np.dtype([("a", dtype), ("b", "<i2")])
    spec = SimpleNamespace(dtype=dtype, shape=(4,), order="C")
    pipeline = BatchedCodecPipeline.from_codecs([BytesCodec(endian="big")])
    assert describe(pipeline, spec, dtype) is None
    assert "bfloat16" in why_not(pipeline, spec, dtype)
