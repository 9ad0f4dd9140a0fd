"""Whatever a shard says, a read gives right values or an error that names shard and inner chunk."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from servers.nginx import Nginx
from servers.scripted import ScriptedServer, ok, ranged
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import zarr
from arrays import bytes_codec, compressors, format_3, named, sharding
from corruption import folder_of, opened, quiet_server, refused
from shards import (
    MISSING,
    Pair,
    index_size,
    make_index,
    objects_of,
    read_index,
    with_chunk,
    with_index,
)
from zarr.storage import MemoryStore

import zfast

ELEMENTS, INNER = 16, 4
"""Elements of an inner chunk, inner chunks of a shard."""
SHARD = ELEMENTS * INNER
VALUES = np.arange(1, 1 + SHARD, dtype="f4")
FILL = 7.5

ZSTD = compressors(3, 4)["zstd"]
CODERS = {"raw": [], "zstd": [ZSTD], "crc32c": [named("crc32c")]}
LOCATIONS = ["end", "start"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    yield from quiet_server(tmp_path_factory.mktemp("corrupt"))


@pytest.fixture
def site(server: Nginx) -> Site:
    return folder_of(server)


def part(shard: int, inner: int = 0) -> slice:
    """Some elements of an inner chunk."""
    start = shard * SHARD + inner * ELEMENTS + 1
    return slice(start, start + 3)


def whole(shard: int) -> slice:
    """All elements of a shard."""
    return slice(shard * SHARD, (shard + 1) * SHARD)


class Shards:
    """Bad shards, made of a good one, and an array of them that ends with the good one."""

    def __init__(self, coder: str = "raw", location: str = "end", checksum: bool = True) -> None:
        self.form: dict[str, Any] = {"location": location, "checksum": checksum}
        self._codec = sharding(
            (ELEMENTS,),
            [bytes_codec(), *CODERS[coder]],
            location=location,
            index_codecs=[bytes_codec(), named("crc32c")][: 1 + checksum],
        )
        self.good = self._objects(1)["a/c/0"]
        self.pairs: list[Pair] = read_index(self.good, INNER, **self.form)

    def _objects(self, count: int) -> dict[str, bytes]:
        levels = [(SHARD,), (ELEMENTS,)]
        layout = format_3((SHARD * count,), levels, "<f4", [self._codec], fill=FILL)
        return objects_of(layout, np.tile(VALUES, count))

    def with_pairs(self, pairs: list[Pair]) -> bytes:
        """The good shard with another index, whose checksum is right."""
        return with_index(self.good, pairs, **self.form)

    def with_chunk(self, inner: int, chunk: bytes) -> bytes:
        """The good shard with another inner chunk, about which the index is right."""
        return with_chunk(self.good, INNER, inner, chunk, **self.form)

    def serve(self, site: Site, shards: list[bytes]) -> zarr.Array[Any]:
        """An array of these shards."""
        objects = self._objects(len(shards) + 1)
        site.write(objects | {f"a/c/{number}": shard for number, shard in enumerate(shards)})
        return opened(site)


def check_good(array: zarr.Array[Any]) -> None:
    """The last shard reads as ever."""
    np.testing.assert_array_equal(array[-SHARD:], VALUES)
    np.testing.assert_array_equal(array[1 - SHARD : 4 - SHARD], VALUES[1:4])


# --------------------------------------------------------------------------------------- the index


@pytest.mark.parametrize("flip", [0xFF, 0x01])
@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("coder", CODERS)
def test_an_index_with_one_wrong_byte(site: Site, coder: str, location: str, flip: int) -> None:
    made = Shards(coder, location)
    array = made.serve(site, flipped(made, flip))
    for number in range(index_size(INNER)):
        refused(array, whole(number), f"a/c/{number}")
        for inner in range(INNER):
            refused(array, part(number, inner), f"a/c/{number}")
    check_good(array)


@pytest.mark.parametrize("flip", [0xFF, 0x01])
@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("coder", CODERS)
def test_an_index_with_one_wrong_byte_and_no_checksum(
    site: Site, coder: str, location: str, flip: int
) -> None:
    """Inner chunks lie close to each other here, so that every wrong entry is impossible."""
    made = Shards(coder, location, checksum=False)
    array = made.serve(site, flipped(made, flip))
    for number in range(index_size(INNER, checksum=False)):
        wrong = number // 16
        refused(array, whole(number), f"a/c/{number}")
        refused(array, part(number, wrong), f"a/c/{number}")
        for inner in set(range(INNER)) - {wrong}:
            try:
                got = array[part(number, inner)]
            except zfast.errors.CorruptError:
                continue
            np.testing.assert_array_equal(got, VALUES[part(0, inner)])
    check_good(array)


def flipped(made: Shards, flip: int) -> list[bytes]:
    """A shard for every byte of the index, in which that is wrong."""
    good = made.good
    size = index_size(INNER, checksum=made.form["checksum"])
    first = 0 if made.form["location"] == "start" else len(good) - size
    return [
        good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :] for at in range(first, first + size)
    ]


def impossible(made: Shards) -> dict[str, Pair]:
    """What the index cannot say of the second inner chunk."""
    size = len(made.good)
    index = index_size(INNER, checksum=made.form["checksum"])
    at_index = 0 if made.form["location"] == "start" else size - index
    offset, nbytes = made.pairs[1]
    return {
        "begins at the end": (size, nbytes),
        "begins far behind the end": (1 << 40, nbytes),
        "ends behind the end": (offset, size - offset + 1),
        "ends where numbers end": (offset, MISSING - offset),
        "ends where numbers begin again": (offset, MISSING + 1 - offset + 1),
        "is of almost any size": (offset, MISSING - 1),
        "begins where numbers end": (MISSING - 1, 1),
        "begins before the beginning": (MISSING + 1 - nbytes, nbytes),
        "has a size and no offset": (MISSING, nbytes),
        "has an offset and no size": (offset, MISSING),
        "is nothing": (offset, 0),
        "is nothing behind the end": (size + 1, 0),
        "is one byte short": (offset, nbytes - 1),
        "is the index": (at_index, index),
        "begins in the index": (at_index + 4, nbytes),
    }


def at_odds(made: Shards) -> dict[str, Pair]:
    """What the index cannot say of the second inner chunk and of another one at once."""
    offset, nbytes = made.pairs[1]
    return {
        "is another one": made.pairs[0],
        "ends in the next one": (offset, nbytes + 1),
        "begins in the one before": (offset - 1, nbytes),
        "is everything but the index": (
            min(offset for offset, _ in made.pairs),
            sum(nbytes for _, nbytes in made.pairs),
        ),
    }


@pytest.mark.parametrize("checksum", [True, False], ids=["checked", "bare"])
@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("coder", CODERS)
def test_an_index_that_says_what_cannot_be(
    site: Site, coder: str, location: str, checksum: bool
) -> None:
    made = Shards(coder, location, checksum)
    cases = impossible(made) | at_odds(made)
    said = [[made.pairs[0], pair, *made.pairs[2:]] for pair in cases.values()]
    array = made.serve(site, [made.with_pairs(pairs) for pairs in said])
    for number, case in enumerate(cases):
        # Of two that are at odds either may be named.
        inner = (1,) if case in impossible(made) else None
        refused(array, part(number, 1), f"a/c/{number}", inner)
        refused(array, whole(number), f"a/c/{number}", inner)
    check_good(array)


def expected(shard: bytes, pair: Pair) -> npt.NDArray[Any]:
    """The elements of an inner chunk that is stored as it is in memory."""
    offset, nbytes = pair
    if pair == (MISSING, MISSING):
        return np.full(ELEMENTS, FILL, "f4")
    assert nbytes == 4 * ELEMENTS
    return np.frombuffer(shard[offset : offset + nbytes], "<f4")


def test_indexes_of_anything(site: Site) -> None:
    """Checksums right, entries true, missing, exchanged or random: never a value but theirs."""
    made = Shards()
    generator = np.random.default_rng(3)
    said: list[list[Pair]] = []
    for _ in range(200):
        order = generator.permutation(INNER) if generator.random() < 0.7 else [0, 1, 1, 3]
        pairs = [made.pairs[inner] for inner in order]
        for inner in range(INNER):
            if generator.random() < 0.2:
                pairs[inner] = (MISSING, MISSING)
            elif generator.random() < 0.1:
                highest = int(generator.choice([100, 400, MISSING]))
                offset, nbytes = generator.integers(0, highest, 2, np.uint64).tolist()
                pairs[inner] = (offset, nbytes)
        said.append(pairs)
    shards = [made.with_pairs(pairs) for pairs in said]
    array = made.serve(site, shards)
    outcomes = {True: 0, False: 0}
    for number, pairs in enumerate(said):
        for inner, pair in enumerate(pairs):
            try:
                got = array[part(number, inner)]
            except zfast.errors.CorruptError as error:
                outcomes[False] += error.key == f"a/c/{number}"
            else:
                outcomes[True] += 1
                np.testing.assert_array_equal(got, expected(shards[number], pair)[1:4])
    assert sum(outcomes.values()) == 200 * INNER
    assert min(outcomes.values()) > 100
    check_good(array)


def test_the_order_of_inner_chunks_and_gaps_between_them_are_free(site: Site) -> None:
    made = Shards("zstd")
    room = bytes(index_size(INNER))
    data = made.good[: -len(room)]
    moved = [(offset + 5, nbytes) for offset, nbytes in made.pairs]
    backwards: list[Pair] = []
    reordered = b""
    for offset, nbytes in reversed(made.pairs):
        reordered += b"gap"
        backwards.insert(0, (len(reordered), nbytes))
        reordered += data[offset : offset + nbytes]
    array = made.serve(
        site,
        [
            with_index(b"front" + data + room, moved),
            with_index(reordered + room, backwards),
            with_index(data + bytes(1000) + room, made.pairs),
        ],
    )
    for number in range(3):
        np.testing.assert_array_equal(array[whole(number)], VALUES)
        np.testing.assert_array_equal(array[part(number, 2)], VALUES[part(0, 2)])


# --------------------------------------------------------------------------------------- the shard


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("coder", CODERS)
def test_a_shard_that_is_cut_short(site: Site, coder: str, location: str) -> None:
    """After any byte, the index's too. (Without any byte it is missing.)"""
    made = Shards(coder, location)
    shards = [made.good[:size] for size in range(1, len(made.good))]
    array = made.serve(site, shards)
    for number in range(len(shards)):
        refused(array, whole(number), f"a/c/{number}")
    check_good(array)


def test_a_shard_with_something_behind_its_index(site: Site) -> None:
    made = Shards()
    good = made.good
    array = made.serve(site, [good + b"\0", good + good[-1:], good + b"x" * 99])
    for number in range(3):
        refused(array, part(number), f"a/c/{number}")
        refused(array, whole(number), f"a/c/{number}")
    check_good(array)


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("coder", CODERS)
def test_an_inner_chunk_that_is_wrong(site: Site, coder: str, location: str) -> None:
    made = Shards(coder, location)
    offset, nbytes = made.pairs[2]
    chunk = made.good[offset : offset + nbytes]
    bad = [chunk[:-1], chunk[:1], chunk + b"\0", chunk + chunk]
    if coder != "raw":
        # Stored as they are in memory, these would be values.
        bad += [bytes(nbytes), b"\xff" * nbytes, b"x" * nbytes]
    if coder == "zstd":
        # Two frames one after another are twice as many values, and a zero byte no frame.
        smaller = format_3((8,), [(8,)], "<f4", [bytes_codec(), ZSTD])
        bad.append(objects_of(smaller, VALUES[:8])["a/c/0"])
    array = made.serve(site, [made.with_chunk(2, frame) for frame in bad])
    for number in range(len(bad)):
        refused(array, part(number, 2), f"a/c/{number}", (2,))
        refused(array, whole(number), f"a/c/{number}", (2,))
        # Its neighbours are as good as ever.
        for inner in (0, 1, 3):
            np.testing.assert_array_equal(array[part(number, inner)], VALUES[part(0, inner)])
    check_good(array)


def test_an_inner_chunk_that_takes_more_than_any_would(site: Site) -> None:
    """It is not asked for: the index alone says how much memory that would take."""
    made = Shards("zstd")
    array = made.serve(site, [made.with_chunk(1, bytes(3 << 20))])
    for selection in (part(0, 1), whole(0)):
        with pytest.raises(zfast.errors.CorruptError, match=r"\(1\): its size is not a chunk's"):
            array[selection]
    check_good(array)


def test_an_inner_chunk_is_named_by_its_place_in_the_shard(site: Site) -> None:
    codec = sharding((2, 4), [bytes_codec(), ZSTD])
    layout = format_3((12, 16), [(6, 8), (2, 4)], "<i4", [codec])
    values = np.arange(12 * 16, dtype="<i4").reshape(12, 16)
    objects = objects_of(layout, values)
    objects["a/c/1/0"] = with_chunk(objects["a/c/1/0"], 6, 5, b"nonsense")
    site.write(objects)
    array = opened(site)
    refused(array, np.s_[10:12, 4:8], "a/c/1/0", (2, 1))
    refused(array, np.s_[:], "a/c/1/0", (2, 1))
    np.testing.assert_array_equal(array[:10], values[:10])
    np.testing.assert_array_equal(array[:, 8:], values[:, 8:])


@pytest.mark.parametrize("checksum", [True, False], ids=["checked", "bare"])
def test_a_shard_within_a_shard(site: Site, checksum: bool) -> None:
    inmost = sharding((4,), [bytes_codec()])
    index_codecs = [bytes_codec(), named("crc32c")][: 1 + checksum]
    codec = sharding((16,), [inmost], index_codecs=index_codecs)
    count = index_size(4)
    layout = format_3((32 * (count + 1),), [(32,), (16,), (4,)], "<f4", [codec])
    values = np.arange(1, 33, dtype="f4")
    objects = objects_of(layout, np.tile(values, count + 1))
    good = objects["a/c/0"]
    offset, nbytes = read_index(good, 2, checksum=checksum)[1]
    for number in range(count):
        at = offset + nbytes - count + number
        objects[f"a/c/{number}"] = good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :]
    site.write(objects)
    array = opened(site)
    for number in range(count):
        start = 32 * number
        refused(array, slice(start + 20, start + 22), f"a/c/{number}", (1,))
        refused(array, slice(start, start + 32), f"a/c/{number}", (1,))
        np.testing.assert_array_equal(array[start : start + 16], values[:16])
    np.testing.assert_array_equal(array[-32:], values)


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec disables partial")
@pytest.mark.parametrize("coder", ["gzip", "crc32c"])
def test_a_shard_behind_another_codec(site: Site, coder: str) -> None:
    """Which has to be undone on the whole object before its index can be read: zarr does that."""
    outer = compressors(3, 4)[coder]
    codec = sharding((ELEMENTS,), [bytes_codec(), ZSTD])
    layout = format_3((3 * SHARD,), [(SHARD,), (ELEMENTS,)], "<f4", [codec, outer])
    objects = objects_of(layout, np.tile(VALUES, 3))
    objects["a/c/0"] = objects["a/c/0"][:-1]
    good = objects["a/c/1"]
    objects["a/c/1"] = good[:40] + bytes([good[40] ^ 1]) + good[41:]
    site.write(objects)
    array = opened(site)
    for number in range(2):
        for window in (part(number), whole(number)):
            with pytest.raises((ValueError, EOFError, OSError, zlib.error)):
                array[window]
    check_good(array)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_between_inner_chunks_may_be_anything(
    scripted: Callable[..., ScriptedServer], ranges: bool
) -> None:
    """Also much: a writer may have put chunks behind others that are none any more."""
    values = np.arange(64, dtype="<i4").reshape(8, 8)
    store = MemoryStore()
    zarr.create_array(
        store, name="a", shape=(8, 8), chunks=(4, 8), shards=(8, 8), dtype="i4", compressors=None
    )
    gap = bytes(2 << 20)
    pairs = [(0, 128), (128 + len(gap), 128)]
    shard = values[:4].tobytes() + gap + values[4:].tobytes() + make_index(pairs)
    objects = {"a/zarr.json": store._store_dict["a/zarr.json"].to_bytes(), "a/c/0/0": shard}
    server = scripted(ranged(objects) if ranges else lambda r: ok(objects[r.key]))
    gapped = zfast.FastStore(server.url, coalesce_gap=4 << 20, coalesce_size=8 << 20)
    array: Any = zarr.open_array(store=gapped, path="a", mode="r", zarr_format=3)
    np.testing.assert_array_equal(array[...], values)
    np.testing.assert_array_equal(array[3:5], values[3:5])
