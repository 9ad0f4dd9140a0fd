"""Arrays of other libraries read equal through FastStore, and what FastStore writes reads so there.

The others are tensorstore and zarrs, which share no code with zarr-python or with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from servers.nginx import Nginx, has_dav
from servers.site import Site

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")
# Not made for every Python that zfast is for.
pytest.importorskip("tensorstore", reason="tensorstore")
pytest.importorskip("zarrs", reason="zarrs")

import numcodecs
import tensorstore as ts
import zarr
import zarrs
from zarr import codecs
from zarr.storage import LocalStore

from zfast import FastStore

pytestmark = pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")

Array = npt.NDArray[Any]
Metadata = dict[str, Any]

SHAPE = (61, 47)
CHUNK = (16, 16)
SHARD = (32, 48)
INNER = (8, 16)


def values(dtype: npt.DTypeLike = "float32", shape: tuple[int, ...] = SHAPE) -> Array:
    """Any bits at all beside long runs, and a hole as large as a chunk and some inner chunks."""
    rng = np.random.default_rng(3)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        made = rng.integers(0, 2, shape).astype(kind)
    else:
        made = np.frombuffer(rng.bytes(int(np.prod(shape)) * kind.itemsize), kind).reshape(shape)
        made = made.copy()
    made[shape[0] // 2 :, : shape[1] // 4] = 1
    made[16:32, 16:32] = 0
    return made


def check(array: Any, expected: Array) -> None:
    """`array` has these elements, to the bit, however it is asked."""
    rows, columns = expected.shape[:2]
    mask = np.zeros(expected.shape, bool)
    mask[::7, 5:30:4] = True
    few = tuple([1, length // 3, length - 1] for length in expected.shape)
    found = [
        (array[window], expected[window])
        for window in (
            np.s_[...],
            np.s_[3],
            np.s_[-1, 4],
            np.s_[10:20, 5:45],
            np.s_[3:49:5, ::7],
            np.s_[rows - 2 :, columns - 1 :],
            np.s_[17:31, 17:31],
        )
    ]
    found += [
        (array.oindex[few], expected[np.ix_(*few)]),
        (array.vindex[few], expected[few]),
        (array.vindex[mask], expected[mask]),
    ]
    for got, wanted in ((np.asarray(got), np.asarray(wanted)) for got, wanted in found):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype.newbyteorder(got.dtype.byteorder)
        assert got.tobytes() == wanted.astype(got.dtype).tobytes()


# ----------------------------------------------------------------------------------- tensorstore


def codec(name: str, **configuration: Any) -> Metadata:
    return {"name": name, "configuration": configuration}


LITTLE = codec("bytes", endian="little")
BIG = codec("bytes", endian="big")
CRC32C = {"name": "crc32c"}
ZSTD = codec("zstd", level=3)
GZIP = codec("gzip", level=3)
TRANSPOSE = codec("transpose", order=[1, 0])


def sharding(
    *inner: Metadata, at: str = "end", shape: tuple[int, int] = INNER, **other: Any
) -> Metadata:
    return codec(
        "sharding_indexed",
        chunk_shape=shape,
        codecs=list(inner),
        index_location=at,
        **{"index_codecs": [LITTLE, CRC32C]} | other,
    )


def tensorstore(folder: Path, driver: str, **create: Any) -> Any:
    """The array in a folder, made where there is none and `create` says how."""
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return ts.open(ts.Spec(spec | create), open=True, create=bool(create)).result()


ZSTD_2 = {"id": "zstd", "level": 3}
FORMAT_2_RAW: Metadata = {
    "shape": SHAPE,
    "chunks": CHUNK,
    "dtype": "<f4",
    "fill_value": 0,
    "order": "C",
    "compressor": None,
    "filters": None,
}
FORMAT_2: dict[str, Metadata] = {
    "raw": {},
    "F": {"order": "F"},
    "F, big endian": {"order": "F", "dtype": ">f4"},
    "nested keys": {"dimension_separator": "/"},
    "zstd": {"compressor": ZSTD_2},
    "zlib": {"compressor": {"id": "zlib", "level": 3}},
    "gzip": {"compressor": {"id": "gzip", "level": 3}, "order": "F"},
    "bz2": {"compressor": {"id": "bz2", "level": 3}},
} | {
    f"blosc, {cname}, shuffle {shuffle}": {
        "compressor": {
            "id": "blosc",
            "cname": cname,
            "clevel": 5,
            "shuffle": shuffle,
            "blocksize": 0,
        }
    }
    for cname, shuffle in [
        ("lz4", 1),
        ("lz4", 2),
        ("lz4hc", 0),
        ("zstd", 1),
        ("zstd", 2),
        ("zlib", 1),
        ("blosclz", 0),
    ]
}


@pytest.mark.parametrize("metadata", FORMAT_2.values(), ids=FORMAT_2)
def test_format_2_of_tensorstore(caddy: Site, metadata: Metadata) -> None:
    expected = values()
    array = tensorstore(caddy.root, "zarr", metadata=FORMAT_2_RAW | metadata)
    array.write(expected).result()
    check(zarr.open(store=FastStore(caddy.url)), expected)


def test_fields_of_tensorstore(caddy: Site) -> None:
    dtype = np.dtype([("a", "<i2"), ("b", ">f8")])
    expected = np.zeros(SHAPE, dtype)
    metadata = FORMAT_2_RAW | {"dtype": dtype.descr, "fill_value": None, "compressor": ZSTD_2}
    for field in ("a", "b"):
        expected[field] = values(dtype[field].newbyteorder("="))
        array = tensorstore(caddy.root, "zarr", metadata=metadata, field=field)
        array.write(expected[field]).result()
    found = zarr.open(store=FastStore(caddy.url))
    assert found.dtype == dtype
    assert found[...].tobytes() == expected.tobytes()
    assert found[10:20, 5:45].tobytes() == expected[10:20, 5:45].tobytes()


FORMAT_3: dict[str, list[Metadata]] = {
    "raw": [LITTLE],
    "big endian": [BIG],
    "zstd": [LITTLE, ZSTD],
    "zstd with checksum": [LITTLE, codec("zstd", level=3, checksum=True)],
    "gzip": [LITTLE, GZIP],
    "blosc": [
        LITTLE,
        codec("blosc", cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4, blocksize=0),
    ],
    "crc32c": [LITTLE, CRC32C],
    "gzip, crc32c": [LITTLE, GZIP, CRC32C],
    "transpose": [TRANSPOSE, LITTLE],
    "transpose, big endian, zstd": [TRANSPOSE, BIG, ZSTD],
    "sharded, index at the end": [sharding(LITTLE)],
    "sharded, index at the start": [sharding(LITTLE, at="start")],
    "sharded zstd": [sharding(LITTLE, ZSTD)],
    "sharded zstd, index at the start": [sharding(LITTLE, ZSTD, at="start")],
    "sharded, index without checksum": [sharding(BIG, GZIP, index_codecs=[LITTLE])],
    "sharded, index big endian": [sharding(LITTLE, index_codecs=[BIG, CRC32C])],
    "sharded, inner transpose, crc32c": [sharding(TRANSPOSE, LITTLE, CRC32C)],
    "sharded, outer transpose": [TRANSPOSE, sharding(LITTLE, ZSTD, shape=(16, 8))],
    "shards in shards": [sharding(sharding(LITTLE, ZSTD, at="start", shape=(4, 8)))],
}


def format_3(shape: tuple[int, ...], chain: list[Metadata], dtype: str) -> Metadata:
    sharded = any(step["name"] == "sharding_indexed" for step in chain)
    chunk = (SHARD if sharded else CHUNK) if len(shape) == 2 else (6, 5, 4)
    return {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": codec("regular", chunk_shape=chunk),
        "codecs": chain,
        "fill_value": {"b": False, "c": [0, 0]}.get(np.dtype(dtype).kind, 0),
    }


@pytest.mark.parametrize("chain", FORMAT_3.values(), ids=FORMAT_3)
def test_format_3_of_tensorstore(caddy: Site, chain: list[Metadata]) -> None:
    expected = values()
    metadata = format_3(SHAPE, chain, "float32")
    tensorstore(caddy.root, "zarr3", metadata=metadata).write(expected).result()
    check(zarr.open(store=FastStore(caddy.url)), expected)


DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float64",
    "complex64",
    "complex128",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("endian", [LITTLE, BIG], ids=["little", "big"])
def test_dtypes_of_tensorstore(caddy: Site, dtype: str, endian: Metadata) -> None:
    expected = values(dtype, (13, 31, 9))
    metadata = format_3(expected.shape, [codec("transpose", order=[2, 0, 1]), endian], dtype)
    tensorstore(caddy.root, "zarr3", metadata=metadata).write(expected).result()
    check(zarr.open(store=FastStore(caddy.url)), expected)


@pytest.mark.parametrize("chain", [[LITTLE], [sharding(LITTLE, ZSTD)]], ids=["raw", "sharded"])
def test_what_tensorstore_left_out_is_fill(caddy: Site, chain: list[Metadata]) -> None:
    metadata = format_3(SHAPE, chain, "float32") | {"fill_value": "NaN"}
    array = tensorstore(caddy.root, "zarr3", metadata=metadata)
    expected = np.full(SHAPE, np.nan, "float32")
    for window in (np.s_[3:9, 2:5], np.s_[33:, 40:]):
        expected[window] = 1.5
        array[window].write(expected[window]).result()
    check(zarr.open(store=FastStore(caddy.url)), expected)


# ----------------------------------------------------------------------------------------- zarrs


ZARRS: dict[str, Metadata] = {
    "format 2": {"zarr_format": 2, "compressors": None},
    "format 2, zstd, F": {"zarr_format": 2, "compressors": numcodecs.Zstd(3), "order": "F"},
    "format 2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("lz4", shuffle=2)},
    "raw": {"compressors": None},
    "big endian": {"compressors": None, "serializer": codecs.BytesCodec(endian="big")},
    "zstd": {"compressors": codecs.ZstdCodec(checksum=True)},
    "gzip": {"compressors": codecs.GzipCodec()},
    "blosc": {"compressors": codecs.BloscCodec(cname="zstd", shuffle="bitshuffle")},
    "crc32c": {"compressors": [codecs.GzipCodec(), codecs.Crc32cCodec()]},
    "transpose": {"filters": codecs.TransposeCodec(order=(1, 0)), "compressors": None},
    "sharded": {"shards": SHARD, "chunks": INNER, "compressors": None},
    "sharded zstd": {"shards": SHARD, "chunks": INNER},
    "sharded, index at the start": {
        "shards": {"shape": SHARD, "index_location": "start"},
        "chunks": INNER,
    },
    "sharded, index without checksum": {
        "chunks": SHARD,
        "compressors": None,
        "serializer": codecs.ShardingCodec(
            chunk_shape=INNER,
            codecs=[codecs.BytesCodec(endian="big"), codecs.BloscCodec()],
            index_codecs=[codecs.BytesCodec(endian="big")],
        ),
    },
    "shards in shards": {
        "chunks": SHARD,
        "compressors": None,
        "serializer": codecs.ShardingCodec(
            chunk_shape=INNER,
            codecs=[codecs.ShardingCodec(chunk_shape=(4, 8)), codecs.Crc32cCodec()],
        ),
    },
}


@pytest.mark.parametrize("layout", ZARRS.values(), ids=ZARRS)
def test_arrays_of_zarrs(caddy: Site, layout: Metadata) -> None:
    expected = values()
    pipeline = "zarrs.ZarrsCodecPipeline"
    with zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": True}):
        array = zarr.create_array(
            LocalStore(caddy.root),
            **{"shape": SHAPE, "chunks": CHUNK, "dtype": "float32", "fill_value": 0} | layout,
        )
        assert isinstance(array._async_array.codec_pipeline, zarrs.ZarrsCodecPipeline)
        array[...] = expected
    check(zarr.open(store=FastStore(caddy.url)), expected)


# ------------------------------------------------------------------------- written by FastStore


WRITTEN: dict[str, Metadata] = {
    "format 2": {"zarr_format": 2, "compressors": None, "order": "F"},
    "format 2, zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(3)},
    "format 2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("zstd")},
    "raw": {"compressors": None},
    "zstd": {},
    "transpose, gzip": {
        "filters": codecs.TransposeCodec(order=(1, 0)),
        "compressors": codecs.GzipCodec(),
    },
    "sharded": {"shards": SHARD, "chunks": INNER, "compressors": None},
    "sharded blosc, index at the start": {
        "shards": {"shape": SHARD, "index_location": "start"},
        "chunks": INNER,
        "compressors": codecs.BloscCodec(),
    },
}


@pytest.mark.parametrize("layout", WRITTEN.values(), ids=WRITTEN)
def test_what_faststore_writes(start: Callable[..., Any], tmp_path: Path, layout: Metadata) -> None:
    if not has_dav():
        pytest.skip("this nginx was built without PUT")
    expected = values()
    layout = {"shape": SHAPE, "chunks": CHUNK, "dtype": "float32", "fill_value": 0} | layout
    url = start(Nginx, tmp_path, dav=True).url
    array = zarr.create_array(FastStore(url, read_only=False), **layout)
    array[...] = expected
    # Chunks are read, changed in part, and written again; one of them was not there.
    for window in (np.s_[5:40, 3:20], np.s_[::9, 31]):
        expected[window] = expected[window][::-1].copy()
        array[window] = expected[window]
    array[48:, :16] = expected[48:, :16] = 0

    check(array, expected)
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        check(zarr.open(LocalStore(tmp_path, read_only=True)), expected)
    driver = "zarr" if layout.get("zarr_format") == 2 else "zarr3"
    read = tensorstore(tmp_path, driver).read().result()
    assert read.tobytes() == expected.tobytes()
