"""Chains with codecs of numcodecs: those of format 2, and what format 3 wraps."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numcodecs
import numpy as np
import pytest

pytest.importorskip("zarr", minversion="3.0", reason="codec pipelines of zarr 3")

from numcodecs.checksum32 import CRC32C
from stored_chunks import Stored, numbers

wrappers = pytest.mark.skipif(
    find_spec("zarr.codecs.numcodecs") is None, reason="zarr has no wrappers of numcodecs yet"
)


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


@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_what_loses_digits_is_no_step(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    for codec in (numcodecs.BitRound(5), numcodecs.Quantize(2, dtype)):
        data = numbers((4, 5), dtype) / 7
        options = {"zarr_format": 2, "filters": [codec], "compressor": numcodecs.Zstd()}
        assert Stored(monkeypatch, data, **options).check().steps == (("zstd", 0),)


@pytest.mark.parametrize(
    ("codec", "reason"),
    [
        (numcodecs.Quantize(2, "<f8", astype="<f4"), "codec numcodecs.quantize"),
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
def test_wrapped_losses_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbers((5, 6), "f4") / 7
    for filters in (
        [wrapped("bitround", keepbits=5)],
        [wrapped("quantize", digits=2, dtype="<f4")],
    ):
        codecs = [{"name": "transpose", "configuration": {"order": [1, 0]}}, *filters, LITTLE]
        stored = Stored(monkeypatch, data, codecs=[*codecs, wrapped("zstd")])
        assert not np.array_equal(stored.value, data)
        assert stored.check().steps == (("zstd", 0),)


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
        ([wrapped("quantize", digits=0, dtype="<f4")], "codec numcodecs.quantize of another dtype"),
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
@pytest.mark.parametrize(
    ("codec", "dtype"),
    [
        (wrapped("delta", dtype="<i4"), "i4"),
        (wrapped("quantize", digits=2, dtype="<f4"), "f4"),
        (wrapped("bitround", keepbits=3), "f4"),
    ],
)
def test_none_is_described_through_another_byte_order(
    monkeypatch: pytest.MonkeyPatch, codec: dict[str, Any], dtype: str
) -> None:
    stored = Stored(monkeypatch, numbers((8,), dtype), codecs=[codec, BIG])
    assert stored.why_not() == f"codec {codec['name']} in another byte order"


@wrappers
def test_other_wrapped_compressors_are_zarrs(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(monkeypatch, numbers((8,), "i4"), codecs=[LITTLE, wrapped("bz2")])
    assert stored.why_not() == "codec numcodecs.bz2"
