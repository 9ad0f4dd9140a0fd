"""Small arrays of every kind that zarr reads, written by zarr itself.

An array is its metadata document, to the letter of the specification, and a seed; so a failing
example prints all that is needed to make it again.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore, MemoryStore

try:
    from zarr.core.dtype import parse_dtype
except ImportError:

    class _PlainNumber:
        """What zarr 3.0, which has no such thing, is given of a dtype: numbers alone."""

        def __init__(self, dtype: np.dtype[Any]) -> None:
            self._dtype = dtype

        def to_json(self, *, zarr_format: int) -> Any:
            return {"name": self._dtype.str} if zarr_format == 2 else self._dtype.name

        def to_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
            return self._dtype.type(data).item()

    def parse_dtype(dtype: np.dtype[Any], *, zarr_format: int) -> Any:
        return _PlainNumber(dtype)


Document = dict[str, Any]
Shape = tuple[int, ...]

ZARRS_OWN = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
"""For `zarr.config.set`: zarr's own pipeline, whichever the process has chosen."""


DTYPES: dict[str, list[Any]] = {
    "bool": ["?"],
    "int": ["i1", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8"],
    "uint": ["u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8"],
    "float": ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"],
    "complex": ["<c8", ">c8", "<c16", ">c16"],
    "bytes": ["S1", "S5", "S16"],
    "text": ["<U1", "<U3", ">U3"],
    "void": ["V1", "V3", "V8", "V16"],
    "structured": [
        [("a", "<i2"), ("b", ">f8")],
        [("t", "<U2"), ("c", "<c8"), ("v", "V3")],
        [("one", "?")],
    ],
    "nested structured": [[("a", "<M8[s]"), ("n", [("x", "<f4"), ("y", "S3")])]],
    "datetime": ["<M8[ns]", ">M8[D]", "<M8[10us]"],
    "timedelta": ["<m8[s]", ">m8[ms]"],
}
"""By kind; all of a fixed size."""

BLOSC = list(
    itertools.product(
        ("blosclz", "lz4", "lz4hc", "zlib", "zstd"), ("noshuffle", "shuffle", "bitshuffle")
    )
)


@dataclass(frozen=True)
class Layout:
    """An array: what its document says, and what is in its chunks."""

    document: Document
    dtype: np.dtype[Any]
    """What zarr gives for it."""
    levels: tuple[Shape, ...]
    """Shapes in the array's axes: of a chunk or shard, of an inner chunk, of one nested in that."""
    order: str
    """The memory order of what is read."""
    seed: int
    holes: float
    """Which share of the objects, and of the inner chunks in each, is not there."""

    @property
    def shape(self) -> Shape:
        """The array's shape."""
        return tuple(self.document["shape"])

    @property
    def zarr_format(self) -> Any:
        """2 or 3."""
        return self.document["zarr_format"]

    @property
    def chain(self) -> list[Document]:
        """The codecs of format 3, or filters and compressor of format 2, in encoding order."""
        if self.zarr_format == 3:
            return list(self.document["codecs"])
        return [*(self.document["filters"] or ()), *filter(None, [self.document["compressor"]])]

    def kinds(self) -> set[str]:
        """What this array is an example of."""
        kinds = {f"format {self.zarr_format}", f"{len(self.shape)}-d"}
        kinds |= {f"dtype {dtype_kind(self.dtype)}", f"{len(self.levels) - 1} levels of shards"}
        kinds |= {f"reads as {self.order}", f"fill {fill_kind(self.document['fill_value'])}"}
        if any(size % chunk for size, chunk in zip(self.shape, self.levels[0], strict=True)):
            kinds.add("an edge that is cut")
        if 0 in self.shape:
            kinds.add("no element")
        if self.holes:
            kinds.add("holes")
        if self.zarr_format == 2:
            kinds |= {f"order {self.document['order']}", "raw" if not self.chain else "coded"}
            kinds.add(f"format 2 {self.document['dimension_separator']}")
            if self.dtype.byteorder == ">":
                kinds.add("format 2 big-endian")
        else:
            encoding = self.document["chunk_key_encoding"]
            kinds.add(f"{encoding['name']} {encoding['configuration']['separator']}")
        return kinds | _chain_kinds(self.chain)

    def write(self, folder: Path) -> None:
        """Write the array with zarr's own pipeline, and take its holes out."""
        folder.mkdir(parents=True)
        name = "zarr.json" if self.zarr_format == 3 else ".zarray"
        (folder / name).write_text(json.dumps(self.document))
        generator = np.random.default_rng(self.seed)
        with zarr.config.set(ZARRS_OWN):
            array = zarr.open_array(
                store=LocalStore(folder), mode="r+", zarr_format=self.zarr_format
            )
            assert array.dtype == self.dtype
            values = random_values(generator, self.shape, self.dtype)
            if self.holes and len(self.levels) > 1 and 0 not in self.shape:
                for cell in cells(self.shape, self.levels[-1]):
                    if generator.random() < self.holes:
                        values[cell] = array.metadata.fill_value
            array[...] = values
        for path in sorted(objects(folder)):
            if generator.random() < self.holes:
                path.unlink()


def objects(folder: Path) -> list[Path]:
    """The files of an array's chunks or shards."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((".z", "zarr.json"))
    ]


def cells(shape: Shape, cell: Shape) -> Iterator[tuple[slice, ...]]:
    """The cells of a regular grid over an array, in C order."""
    for corner in itertools.product(*map(range, [0] * len(shape), shape, cell)):
        yield tuple(map(slice, corner, map(sum, zip(corner, cell, strict=True))))


# ------------------------------------------------------------------------------------------ values


def random_values(
    generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Values of any bits that the dtype allows, NaNs with payloads included; often compressible."""
    if dtype.names:
        record = np.empty(shape, dtype)
        for name in dtype.names:
            record[name] = random_values(generator, shape, dtype[name])
        return record
    count = math.prod(shape)
    if dtype.kind == "U":
        letters = np.array([*map(ord, "abcé雪🜁"), 0], dtype.newbyteorder("=").str[0] + "u4")
        points = generator.choice(letters, (count, dtype.itemsize // 4))
        return points.astype(f"{dtype.byteorder}u4").view(dtype).reshape(shape)
    highest = 2 if dtype.kind == "b" else int(generator.choice([4, 256]))
    octets = generator.integers(0, highest, count * dtype.itemsize, np.uint8)
    return octets.view(dtype).reshape(shape)


def fill_json(fill: Any, dtype: np.dtype[Any], zarr_format: Any) -> Any:
    """A fill value as the document has it; a NaN of format 3 in hexadecimal, payload and all."""
    if fill is None:
        return None
    if zarr_format == 3 and dtype.kind == "c":
        part = np.dtype(f"f{dtype.itemsize // 2}")
        return [fill_json(half, part, 3) for half in np.full(1, fill, dtype).view(part)]
    if zarr_format == 3 and dtype.kind == "f" and np.isnan(fill):
        bits = np.asarray(fill, dtype.newbyteorder("=")).view(f"u{dtype.itemsize}")
        return f"0x{int(bits):0{2 * dtype.itemsize}x}"
    kind: Any = parse_dtype(dtype, zarr_format=zarr_format)
    return kind.to_json_scalar(fill, zarr_format=zarr_format)


def fill_kind(written: Any) -> str:
    """What a fill value is an example of, by how the document has it."""
    if written is None:
        return "none"
    if isinstance(written, list):
        return " ".join(sorted({fill_kind(part) for part in written}))
    if isinstance(written, str) and (written.startswith("0x") or written == "NaN"):
        quiet = written.lstrip("0x") in ("NaN", "7e00", "7fc00000", "7ff8000000000000")
        return "nan" if quiet else "nan with payload"
    if written in ("Infinity", "-Infinity"):
        return "infinity"
    if isinstance(written, float) and written == 0 and math.copysign(1, written) < 0:
        return "-0.0"
    return "zero" if not written else "other"


def dtype_kind(dtype: np.dtype[Any]) -> str:
    """What a dtype is an example of, its byte order aside."""
    if dtype.names:
        nested = any(dtype[name].names for name in dtype.names)
        return "nested structured" if nested else "structured"
    return dtype.str.lstrip("<>|=") if dtype.kind not in "SUV" else dtype.kind


# ------------------------------------------------------------------------------------------ codecs


def named(name: str, **configuration: Any) -> Document:
    """A codec of format 3."""
    return {"name": name, "configuration": configuration}


def bytes_codec(endian: str = "little") -> Document:
    """The codec `bytes`."""
    return named("bytes", endian=endian)


def sharding(
    chunk_shape: Sequence[int],
    codecs: Sequence[Document],
    *,
    location: str = "end",
    index_codecs: Sequence[Document] = (bytes_codec(), named("crc32c")),
) -> Document:
    """The codec `sharding_indexed`."""
    return named(
        "sharding_indexed",
        chunk_shape=list(chunk_shape),
        codecs=list(codecs),
        index_codecs=list(index_codecs),
        index_location=location,
    )


def blosc(
    cname: str, shuffle: str, item_size: int, clevel: int = 5, blocksize: int = 0
) -> Document:
    """The codec `blosc`."""
    return named(
        "blosc",
        cname=cname,
        shuffle=shuffle,
        typesize=item_size,
        clevel=clevel,
        blocksize=blocksize,
    )


def blosc_2(cname: str, shuffle: str, clevel: int = 5, blocksize: int = 0) -> Document:
    """Blosc of format 2."""
    number = ("noshuffle", "shuffle", "bitshuffle").index(shuffle)
    return {
        "id": "blosc",
        "cname": cname,
        "shuffle": number,
        "clevel": clevel,
        "blocksize": blocksize,
    }


def compressors(zarr_format: int, item_size: int) -> dict[str, Document]:
    """Every codec from bytes to bytes that arrays are met with, by what distinguishes it."""
    if zarr_format == 2:
        found: dict[str, Document] = {
            "zstd": {"id": "zstd", "level": 1},
            "zstd checksum": {"id": "zstd", "level": 3, "checksum": True},
            "gzip": {"id": "gzip", "level": 1},
            "zlib": {"id": "zlib", "level": 1},
            "lz4": {"id": "lz4", "acceleration": 1},
            "shuffle": {"id": "shuffle", "elementsize": item_size},
            "crc32c": {"id": "crc32c"},
            "crc32c at start": {"id": "crc32c", "location": "start"},
            "bz2": {"id": "bz2", "level": 1},
        }
        return found | {f"blosc {c} {s}": blosc_2(c, s) for c, s in BLOSC}
    found = {
        "zstd": named("zstd", level=1, checksum=False),
        "zstd checksum": named("zstd", level=3, checksum=True),
        "gzip": named("gzip", level=1),
        "crc32c": named("crc32c"),
        "numcodecs.zlib": named("numcodecs.zlib", level=1),
        "numcodecs.lz4": named("numcodecs.lz4", acceleration=1),
        "numcodecs.shuffle": named("numcodecs.shuffle", elementsize=item_size),
        "numcodecs.zstd": named("numcodecs.zstd", level=1),
        "numcodecs.gzip": named("numcodecs.gzip", level=1),
        "numcodecs.blosc": named("numcodecs.blosc", cname="lz4", clevel=5, shuffle=1, blocksize=0),
        "numcodecs.crc32c": named("numcodecs.crc32c", location="start"),
        "numcodecs.bz2": named("numcodecs.bz2", level=1),
    }
    return found | {f"blosc {c} {s}": blosc(c, s, item_size) for c, s in BLOSC}


INDEX_CODECS: dict[str, list[Document]] = {
    "checked": [bytes_codec(), named("crc32c")],
    "bare": [bytes_codec()],
    "big-endian": [bytes_codec("big")],
    "big-endian, checked": [bytes_codec("big"), named("crc32c")],
    "checked twice": [bytes_codec(), named("crc32c"), named("crc32c")],
}


def _chain_kinds(chain: Sequence[Document]) -> set[str]:
    kinds = set()
    for codec in chain:
        name = codec.get("name") or f"format 2 {codec['id']}"
        detail = {**codec, **codec.get("configuration", {})}
        if name == "sharding_indexed":
            index = next(k for k, v in INDEX_CODECS.items() if v == detail["index_codecs"])
            kinds |= {f"index {index}", f"index at {detail['index_location']}"}
            kinds |= {f"inner {kind}" for kind in _chain_kinds(detail["codecs"])}
            if chain[0] is not codec:
                name += " after transpose"
            if chain[-1] is not codec:
                name += " before others"
        elif name == "bytes":
            name += f" {detail['endian']}"
        elif "blosc" in name:
            name += f" {detail['cname']} {detail['shuffle']}"
        elif "crc32c" in name:
            name += " last" if codec is chain[-1] else " before others"
        kinds.add(name)
    return kinds


# ------------------------------------------------------------------------------------------ arrays


def as_read(dtype: Any) -> np.dtype[Any]:
    """What zarr gives for an array of format 3 of this dtype: the native byte order."""
    return np.dtype(dtype).newbyteorder("=")


def format_2(
    shape: Shape,
    chunks: Shape,
    dtype: Any,
    compressor: Document | None = None,
    filters: Sequence[Document] = (),
    *,
    fill: Any = 0,
    order: str = "C",
    separator: str = ".",
    seed: int = 0,
    holes: float = 0.0,
) -> Layout:
    """An array of format 2; `fill` is as the document has it."""
    dtype = np.dtype(dtype)
    kind: Any = parse_dtype(dtype, zarr_format=2)
    document = {
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": kind.to_json(zarr_format=2)["name"],
        "compressor": compressor,
        "filters": list(filters) or None,
        "fill_value": fill,
        "order": order,
        "dimension_separator": separator,
    }
    return Layout(document, dtype, (chunks,), order, seed, holes)


def format_3(
    shape: Shape,
    levels: Sequence[Shape],
    dtype: Any,
    codecs: Sequence[Document],
    *,
    fill: Any = 0,
    order: str = "C",
    encoding: str = "default",
    separator: str = "/",
    seed: int = 0,
    holes: float = 0.0,
) -> Layout:
    """An array of format 3; `fill` is as the document has it, `levels` as in `Layout`."""
    dtype = as_read(dtype)
    kind: Any = parse_dtype(dtype, zarr_format=3)
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": kind.to_json(zarr_format=3),
        "chunk_grid": named("regular", chunk_shape=levels[0]),
        "chunk_key_encoding": named(encoding, separator=separator),
        "fill_value": fill,
        "codecs": list(codecs),
        "attributes": {},
    }
    return Layout(document, dtype, tuple(levels), order, seed, holes)


def shardable(dtype: np.dtype[Any]) -> bool:
    """Whether this zarr reads shards of such elements: 3.1 fails where they are numpy voids."""
    return dtype.kind != "V" or _shards_voids()


@functools.cache
def _shards_voids() -> bool:
    with zarr.config.set(ZARRS_OWN):
        array = zarr.create_array(MemoryStore(), shape=(1,), shards=(1,), chunks=(1,), dtype="V1")
        try:
            array[...] = np.ones(1, "V1")
        except TypeError:
            return False
    return True
