"""Whatever is stored as a chunk, a read gives its right values or an error that names it.

Nothing that a server can have in its files makes the process crash, a value wrong, or memory run
out; and the next read of something good is good.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from servers.nginx import Nginx
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import google_crc32c
import numcodecs
import zarr
from arrays import (
    ZARRS_OWN,
    Document,
    Layout,
    bytes_codec,
    compressors,
    format_2,
    format_3,
    named,
)
from corruption import PeakMemory, folder_of, opened, quiet_server, refused
from shards import objects_of
from zarr.storage import LocalStore

import zfast

pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr"),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    yield from quiet_server(tmp_path_factory.mktemp("corrupt"))


@pytest.fixture
def site(server: Nginx) -> Site:
    return folder_of(server)


CHUNK = 64
"""Elements of a chunk."""
GOOD = (1 + np.arange(CHUNK) % 11).astype("f4")

KNOWN = compressors(3, GOOD.itemsize)
CODECS: dict[str, list[Document]] = {
    **{
        name: [KNOWN[name]]
        for name in [
            "zstd",
            "zstd checksum",
            "gzip",
            "crc32c",
            "numcodecs.zlib",
            "numcodecs.lz4",
            "blosc blosclz shuffle",
            "blosc lz4 bitshuffle",
            "blosc lz4hc noshuffle",
            "blosc zlib shuffle",
            "blosc zstd shuffle",
        ]
    },
    "zstd, crc32c": [KNOWN["zstd"], named("crc32c")],
    "crc32c, zstd": [named("crc32c"), KNOWN["zstd"]],
    "shuffle, lz4": [KNOWN["numcodecs.shuffle"], KNOWN["numcodecs.lz4"]],
}


def layout_of(codecs: list[Document], count: int = 1, chunk: int = CHUNK) -> Layout:
    """An array of so many chunks."""
    return format_3((count * chunk,), [(chunk,)], "<f4", [bytes_codec(), *codecs])


def frame_of(codecs: list[Document], values: npt.NDArray[Any] = GOOD) -> bytes:
    """A chunk as it is stored."""
    return objects_of(layout_of(codecs, chunk=len(values)), values)["a/c/0"]


def part(number: int) -> slice:
    """A chunk whole, which is decoded in its place, or every other element of it, by turns."""
    return slice(number * CHUNK, (number + 1) * CHUNK, 1 + number % 2)


class Chunks:
    """An array of bad chunks and, as its last, a good one, on a server and in files."""

    def __init__(self, site: Site, codecs: list[Document], frames: list[bytes]) -> None:
        objects = objects_of(layout_of(codecs, len(frames) + 1), np.tile(GOOD, len(frames) + 1))
        site.write(objects | {f"a/c/{number}": frame for number, frame in enumerate(frames)})
        self._count = len(frames)
        self._array = opened(site)
        self._root = site.root

    def check_good(self) -> None:
        """The last chunk reads as ever."""
        np.testing.assert_array_equal(self._array[-CHUNK:], GOOD)
        np.testing.assert_array_equal(self._array[1 - CHUNK : -1 : 3], GOOD[1:-1:3])

    def check_refused(self) -> None:
        """Every chunk but the last is refused."""
        for number in range(self._count):
            refused(self._array, part(number), f"a/c/{number}")
            if number % 16 == 0:
                self.check_good()
        with pytest.raises(zfast.errors.CorruptError):
            self._array[:]
        self.check_good()

    def check_refused_or_as_zarr(self) -> int:
        """Every chunk but the last is refused, or zarr reads the same; how many are refused."""
        refusals = 0
        with zarr.config.set(ZARRS_OWN):
            local = zarr.open_array(LocalStore(self._root), path="a", mode="r")
        for number in range(self._count):
            try:
                got = self._array[part(number)]
            except zfast.errors.CorruptError as error:
                if error.key != f"a/c/{number}":
                    raise
                refusals += 1
                continue
            # Only now: what is wrong may crash the libraries that zarr calls without checking it.
            with zarr.config.set(ZARRS_OWN):
                assert got.tobytes() == local[part(number)].tobytes(), number
        self.check_good()
        return refusals


# -------------------------------------------------------------------------------------- raw chunks


def test_a_raw_chunk_of_another_size(site: Site) -> None:
    size = GOOD.nbytes
    sizes = [size - 1, size + 1, size - 4, size + 4, 1, 0, 2 * size]
    frames = [(GOOD.tobytes() * 2)[:size] for size in sizes for _ in range(2)]
    Chunks(site, [], frames).check_refused()


@pytest.mark.parametrize("dtype", ["<f8", ">i2", "S3", "?"])
def test_a_raw_chunk_of_another_size_in_two_dimensions(site: Site, dtype: str) -> None:
    """Elements of any size, swapped or not, all of them, some, and one."""
    codec = bytes_codec("big" if dtype.startswith(">") else "little")
    layout = format_3((20, 20), [(10, 10)], dtype, [codec], fill="" if "S" in dtype else 0)
    values = np.ones((20, 20), dtype)
    objects = objects_of(layout, values)
    objects["a/c/0/0"] = objects["a/c/0/0"][:-1]
    objects["a/c/0/1"] += b"\1"
    site.write(objects)
    array = opened(site)
    for window in (np.s_[:10, :10], np.s_[0:1, 0:1], np.s_[0, 0], np.s_[0:10:3, 4], np.s_[5:, :9]):
        refused(array, window, "a/c/0/0")
    refused(array, np.s_[:10, 10:], "a/c/0/1")
    refused(array.oindex, ([3, 1], [11, 19]), "a/c/0/1")
    refused(array.vindex, ([3, 1], [11, 19]), "a/c/0/1")
    np.testing.assert_array_equal(array[10:], values[10:])


# ------------------------------------------------------------------------------------------ frames


@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_that_is_cut_short(site: Site, codec: str) -> None:
    frame = frame_of(CODECS[codec])
    Chunks(site, CODECS[codec], [frame[:size] for size in range(len(frame))]).check_refused()


@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_of_a_larger_or_smaller_array(site: Site, codec: str) -> None:
    sizes = [1, 2, CHUNK // 2, CHUNK - 1, CHUNK + 1, 2 * CHUNK, 100 * CHUNK]
    frames = [frame_of(CODECS[codec], np.resize(GOOD, size)) for size in sizes for _ in range(2)]
    Chunks(site, CODECS[codec], frames).check_refused()


@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_of_garbage(site: Site, codec: str) -> None:
    generator = np.random.default_rng(7)
    sizes = [1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 100, 256, 260, 1000, 70_000]
    frames = [generator.bytes(size) for size in sizes]
    frames += [octet * size for octet in (b"\0", b"\xff") for size in sizes]
    # What begins well and goes on with anything.
    good = frame_of(CODECS[codec])
    frames += [good[:kept] + generator.bytes(len(good) - kept) for kept in range(1, 33)]
    found = Chunks(site, CODECS[codec], frames)
    assert found.check_refused_or_as_zarr() > len(frames) // 2


@pytest.mark.parametrize("flip", [0xFF, 0x01])
@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_with_one_wrong_byte(site: Site, codec: str, flip: int) -> None:
    frame = frame_of(CODECS[codec])
    frames = [frame[:at] + bytes([frame[at] ^ flip]) + frame[at + 1 :] for at in range(len(frame))]
    refusals = Chunks(site, CODECS[codec], frames).check_refused_or_as_zarr()
    assert refusals
    if codec.endswith("crc32c"):
        assert refusals == len(frames)


FORMAT_2 = compressors(2, 4)
DELTA = {"id": "delta", "dtype": "<i4", "astype": "<i4"}
CHAINS_2: dict[str, list[Document]] = {
    "raw": [],
    "delta": [DELTA],
    "shuffle": [FORMAT_2["shuffle"]],
    "delta, zstd": [DELTA, FORMAT_2["zstd"]],
    "zlib": [FORMAT_2["zlib"]],
    "lz4": [FORMAT_2["lz4"]],
    "blosc": [FORMAT_2["blosc lz4 shuffle"]],
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("chain", CHAINS_2)
def test_chunks_of_format_2(site: Site, chain: str, order: str) -> None:
    filters = [codec for codec in CHAINS_2[chain] if codec["id"] in ("delta", "shuffle")]
    (compressor,) = [codec for codec in CHAINS_2[chain] if codec not in filters] or [None]
    values = np.arange(64, dtype="<i4").reshape(8, 8)
    objects = objects_of(format_2((8, 8), (4, 8), "<i4", compressor, filters, order=order), values)
    smaller = objects_of(
        format_2((4, 7), (4, 7), "<i4", compressor, filters, order=order), values[:4, :7]
    )
    good = objects["a/0.0"]
    for bad in (good[:-1], good[:-4], b"", smaller["a/0.0"]):
        site.write(objects | {"a/0.0": bad})
        array = opened(site)
        refused(array, np.s_[:4], "a/0.0")
        refused(array, np.s_[1:3, 2], "a/0.0")
        np.testing.assert_array_equal(array[4:], values[4:])


@pytest.mark.filterwarnings("ignore:.*vlen-utf8")
@pytest.mark.parametrize("kind", ["filters", "text", "text in shards", "bz2"])
def test_chunks_that_zarr_reads(site: Site, kind: str) -> None:
    # numcodecs' blosc by itself reads on behind a frame that is cut short, and gives other values.
    options: dict[str, Any] = {
        "filters": {
            "zarr_format": 2,
            "dtype": "f8",
            "filters": [numcodecs.FixedScaleOffset(0, 1, "<f8", "<i4")],
            "compressors": numcodecs.Blosc("lz4", 5, 1),
        },
        "text": {"dtype": str, "compressors": zarr.codecs.BloscCodec(cname="lz4")},
        "text in shards": {
            "dtype": str,
            "shards": (400,),
            "compressors": zarr.codecs.BloscCodec(cname="lz4"),
        },
        "bz2": {"zarr_format": 2, "dtype": "i4", "compressors": numcodecs.BZ2()},
    }[kind]
    local = LocalStore(site.root)
    array = zarr.create_array(local, name="a", shape=(800,), chunks=(400,), **options)
    values = (np.arange(800) % 50).astype(options["dtype"])
    array[:] = values
    key = "a/0" if "zarr_format" in options else "a/c/0"
    good = (site.root / key).read_bytes()
    for cut in range(1, len(good), 1 + len(good) // 60):
        bad = good[:-cut]
        if "shards" in options:
            # All that is there, and an index that says so.
            bad = good[: -20 - cut] + struct.pack("<QQ", 0, len(good) - 20 - cut)
            bad += struct.pack("<I", google_crc32c.value(bad[-16:]))
            if cut > len(good) - 40:
                break
        (site.root / key).write_bytes(bad)
        before = zfast.stats()["fallback_chunks"]
        refused(opened(site), np.s_[:], key)
        refused(opened(site), np.s_[3:5], key)
        assert zfast.stats()["fallback_chunks"] > before
    np.testing.assert_array_equal(opened(site)[400:], values[400:])


# ------------------------------------------------------------------------------------------- bombs

GIB = 1 << 30


def zstd_bomb(size: int, *, declared: int | None = None) -> bytes:
    """A frame of blocks that each repeat one byte (RFC 8878, section 3.1.1)."""
    block = 1 << 17
    window = bytes([(17 - 10) << 3])
    head = b"\x00" + window if declared is None else b"\xc0" + window + struct.pack("<Q", declared)
    repeat, last = 1 << 1, 1
    body = struct.pack("<I", block << 3 | repeat)[:3] + b"\0"
    end = struct.pack("<I", block << 3 | repeat | last)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd" + head + body * (size // block - 1) + end


def deflate_bomb(size: int, window_bits: int) -> bytes:
    """Zeros by zlib's `window_bits`: 15 for zlib, 31 for gzip."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, window_bits)
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, compressor.flush()])


LZ4_BOMB = b"\x1f\0\1\0" + b"\xff" * (1 << 20) + b"\0\x50" + b"\0" * 5
"""A block: one byte, itself again 255 MiB and 19 times, and five bytes to end with."""


def lz4_bombs() -> list[bytes]:
    size = (255 << 20) + 25
    return [struct.pack("<I", said) + LZ4_BOMB for said in (size, 256, 1 << 31, 0xFFFFFFFF)]


def blosc_bombs() -> list[bytes]:
    """Headers that say more than the frame has."""
    frame = frame_of(CODECS["blosc lz4 bitshuffle"])
    sizes = (GIB, 0x7FFFFFEF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    return [frame[:4] + struct.pack("<I", size) + frame[8:] for size in sizes]


def zstd_of(data: bytes) -> bytes:
    """Any bytes, compressed."""
    layout = format_3((len(data),), [(len(data),)], "u1", [bytes_codec(), *CODECS["zstd"]])
    return objects_of(layout, np.frombuffer(data, "u1"))["a/c/0"]


BOMBS: dict[str, tuple[list[Document], Callable[[], list[bytes]]]] = {
    "zstd": (
        CODECS["zstd"],
        lambda: [
            zstd_bomb(GIB),
            zstd_bomb(GIB, declared=GIB),
            zstd_bomb(GIB, declared=GOOD.nbytes),
            zstd_bomb(1 << 17, declared=1 << 62),
            zstd_bomb(GIB) * 2,
        ],
    ),
    "gzip": (CODECS["gzip"], lambda: [deflate_bomb(GIB >> 2, 31), deflate_bomb(1 << 20, 31) * 99]),
    "zlib": (CODECS["numcodecs.zlib"], lambda: [deflate_bomb(GIB >> 2, 15)]),
    "lz4": (CODECS["numcodecs.lz4"], lz4_bombs),
    "blosc": (CODECS["blosc lz4 bitshuffle"], blosc_bombs),
    "zstd in zstd": (
        CODECS["zstd"] * 2,
        lambda: [zstd_of(zstd_bomb(GIB >> 3)), zstd_bomb(GIB), zstd_bomb(GIB, declared=GIB)],
    ),
    "zstd around a checksum": (
        CODECS["crc32c, zstd"],
        lambda: [zstd_bomb(GIB), zstd_bomb(GIB, declared=GOOD.nbytes + 4)],
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_decompression_bomb(site: Site, bomb: str) -> None:
    """Whether it says its size or not: more than the chunk is never decompressed."""
    codecs, make = BOMBS[bomb]
    found = Chunks(site, codecs, make())
    found.check_good()
    memory = PeakMemory()
    found.check_refused()
    assert memory.grown() < 48 << 20
