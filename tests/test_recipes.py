"""Codec chains as the core has them, undone in Python and compared with what zarr wrote."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("zarr", minversion="3.0", reason="codec pipelines of zarr 3")

import zarr
from stored_chunks import Stored, numbers
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.core.codec_pipeline import BatchedCodecPipeline

from zfast.recipes import Description, describe, why_not

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
@settings(max_examples=30)
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
