"""Whatever zarr's own pipeline reads from files, FastStore reads from a server, to the bit."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

import zarr
from array_layouts import layouts
from array_selections import OUTS, Selection, selections
from arrays import (
    BLOSC,
    DTYPES,
    INDEX_CODECS,
    ZARRS_OWN,
    Layout,
    as_read,
    bytes_codec,
    compressors,
    dtype_kind,
    fill_json,
    format_2,
    format_3,
    named,
    objects,
    shardable,
    sharding,
)
from compared_arrays import Both, serving
from zarr.storage import LocalStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr"),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec disables partial"),
    # Of numpy, which zarr has compare and cast signalling NaNs.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

CASES = int(os.environ.get("TEST_CASES", "500"))
"""How many reads of drawn arrays are compared."""
READS = 5
"""How many of them for each array."""
ARRAYS = 10
"""How many arrays in a batch. Hypothesis draws the first ten afresh and then mostly varies them."""
SEED = os.environ.get("TEST_SEED", "")


@pytest.fixture
def both(start: Callable[..., Any], tmp_path: Path) -> Iterator[Both]:
    with serving(start, tmp_path) as found:
        yield found


@st.composite
def arrays_and_reads(draw: st.DrawFn) -> tuple[Layout, list[Selection]]:
    layout = draw(layouts())
    of = selections(layout.shape, layout.levels[0], layout.dtype)
    return layout, [draw(of) for _ in range(READS)]


def _kinds(layout: Layout, reads: list[Selection]) -> set[str]:
    return layout.kinds().union(*(selection.kinds for selection in reads))


AFRESH: dict[str, Any] = {
    "max_examples": ARRAYS,
    "suppress_health_check": list(HealthCheck),
}


@pytest.mark.parametrize("batch", range(-(-CASES // (ARRAYS * READS))))
def test_drawn_arrays_read_equal(both: Both, batch: int) -> None:
    @seed(f"{SEED} {batch}")
    @settings(**AFRESH, print_blob=True, report_multiple_bugs=False)
    @given(arrays_and_reads())
    def compare(drawn: tuple[Layout, list[Selection]]) -> None:
        both.compare(*drawn)

    compare()


def test_every_kind_is_drawn() -> None:
    """Among fewer draws than CI makes; without reading any. With -s, how often each was.

    What a seed draws is another thing with each hypothesis, so that it goes on until all were.
    """
    drawn: Counter[str] = Counter()
    for batch in range(300):
        if _every_kind() <= drawn.keys():
            break

        @seed(batch)
        @settings(**AFRESH, database=None)
        @given(arrays_and_reads())
        def count(of: tuple[Layout, list[Selection]]) -> None:
            kinds = _kinds(*of)
            drawn.update(kinds | {kind.replace("inner ", "") for kind in kinds})

        count()
    print(
        "\n".join(f"{drawn[kind]:5} {kind}" for kind in sorted(drawn)), f"{batch} batches", sep="\n"
    )
    assert not sorted(_every_kind() - drawn.keys())


def _every_kind() -> set[str]:
    kinds = {f"dtype {dtype_kind(np.dtype(dtype))}" for of in DTYPES.values() for dtype in of}
    kinds |= {f"out {out}" for out in OUTS}
    kinds |= {f"{dimensions}-d" for dimensions in range(5)}
    kinds |= {f"{levels} levels of shards" for levels in range(3)}
    kinds |= {f"index {index}" for index in INDEX_CODECS} | {"index at start", "index at end"}
    fills = ["none", "zero", "other", "nan", "nan with payload", "-0.0", "infinity"]
    kinds |= {f"fill {fill}" for fill in fills}
    kinds |= {"format 2", "order C", "order F", "raw", "format 2 big-endian", "format 2 delta"}
    kinds |= {"format 3", "transpose", "bytes little", "bytes big", "numcodecs.delta"}
    kinds |= {"sharding_indexed", "sharding_indexed after transpose", "inner transpose"}
    kinds |= {"sharding_indexed before others", "inner sharding_indexed", "inner inner zstd"}
    kinds |= {"reads as C", "reads as F", "holes", "no element", "an edge that is cut"}
    kinds |= {f"{key} {separator}" for key in ("default", "v2", "format 2") for separator in "./"}
    kinds |= {f"blosc {cname} {shuffle}" for cname, shuffle in BLOSC}
    kinds |= {f"format 2 blosc {cname} 1" for cname, _ in BLOSC}
    for name in compressors(2, 1):
        if not name.startswith(("blosc", "crc32c")):
            kinds.add(f"format 2 {name.split()[0]}")
    kinds |= {f"format 2 crc32c {place}" for place in ("last", "before others")}
    for name in compressors(3, 1):
        if "blosc" not in name and "crc32c" not in name:
            kinds |= {name.split()[0], f"inner {name.split()[0]}"}
    kinds |= {f"{of}crc32c {place}" for of in ("", "inner ") for place in ("last", "before others")}
    kinds |= {"basic slice", "basic step", "basic integer", "basic negative", "basic ellipsis"}
    kinds |= {"oindex slice", "oindex step", "oindex integer", "oindex negative"}
    kinds |= {"oindex 1-d int64", "oindex 1-d bool", "vindex integer", "vindex negative"}
    kinds |= {"vindex 1-d int64", "vindex 2-d int64", "mask", "blocks slice", "blocks integer"}
    return kinds | {"blocks negative", "a field", "1 fields", "3 fields"}


# ------------------------------------------------------------------------------------------- sweep

WHOLE = Selection("basic", Ellipsis)
PART = Selection("basic", slice(3, -2, 2))


def _dtypes(zarr_format: int) -> list[np.dtype[Any]]:
    """One of every kind, big-endian where there is that."""
    kinds = [kind for kind in DTYPES if zarr_format == 3 or kind != "nested structured"]
    return [np.dtype(DTYPES[kind][-1]) for kind in kinds]


@pytest.mark.parametrize("coder", ["raw", "delta", *compressors(2, 1)])
def test_every_codec_of_format_2_with_every_dtype(both: Both, coder: str) -> None:
    for dtype in _dtypes(2):
        filters = []
        if coder == "delta":
            if dtype.kind not in "iu":
                continue
            filters = [{"id": "delta", "dtype": dtype.str, "astype": dtype.str}]
        compressor = compressors(2, dtype.itemsize).get(coder)
        fill = fill_json(np.zeros((), dtype)[()], dtype, 2)
        layout = format_2((22,), (6,), dtype, compressor, filters, fill=fill, seed=dtype.itemsize)
        both.compare(layout, [WHOLE, PART])


@pytest.mark.parametrize("sharded", [False, True], ids=["chunks", "shards"])
@pytest.mark.parametrize("coder", ["raw", "delta", *compressors(3, 1)])
def test_every_codec_of_format_3_with_every_dtype(both: Both, coder: str, sharded: bool) -> None:
    for stored in _dtypes(3):
        dtype = as_read(stored)
        if (sharded and not shardable(dtype)) or (coder == "delta" and dtype.kind not in "iu"):
            continue
        codecs = [bytes_codec("big" if stored.byteorder == ">" else "little")]
        if coder == "delta":
            codecs.insert(0, named("numcodecs.delta", dtype=dtype.str))
        elif coder != "raw":
            codecs.append(compressors(3, dtype.itemsize)[coder])
        levels = [(12,), (4,)] if sharded else [(6,)]
        if sharded:
            codecs = [sharding((4,), codecs)]
        fill = fill_json(np.zeros((), dtype)[()], dtype, 3)
        layout = format_3((22,), levels, dtype, codecs, fill=fill, seed=dtype.itemsize)
        both.compare(layout, [WHOLE, PART])


# ---------------------------------------------------------------------- what zarr has to do itself

WORDS = np.array(["", "a", "é", "雪" * 9, "x" * 300, "a"] * 4)
SLOW: dict[str, dict[str, Any]] = {
    "text of any length": {"data": WORDS.astype("T"), "chunks": (5,)},
    "text of any length in shards": {"data": WORDS.astype("T"), "chunks": (3,), "shards": (6,)},
    "text of any length, format 2": {"data": WORDS.astype("T"), "chunks": (5,), "zarr_format": 2},
    "packed bits": {"data": WORDS == "a", "filters": named("numcodecs.packbits")},
    "scaled floats": {
        "data": np.linspace(0, 5, 24),
        "filters": named(
            "numcodecs.fixedscaleoffset", scale=10, offset=1, dtype="<f8", astype="i2"
        ),
    },
    "differences of floats": {
        "data": np.arange(24.0),
        "filters": named("numcodecs.delta", dtype="<f8"),
    },
    "wide differences": {
        "data": np.arange(24, dtype="i2"),
        "filters": named("numcodecs.delta", dtype="<i2", astype="<i8"),
    },
    "wide differences, format 2": {
        "data": np.arange(24, dtype="i2"),
        "filters": [numcodecs.Delta("<i2", "<i8")],
        "zarr_format": 2,
    },
    "an index in another order": {
        "data": np.arange(24).reshape(4, 6),
        "chunks": (4, 6),
        "serializer": sharding(
            (2, 2),
            [bytes_codec()],
            index_codecs=[named("transpose", order=[2, 1, 0]), bytes_codec(), named("crc32c")],
        ),
        "compressors": None,
    },
}


@pytest.mark.parametrize("options", SLOW.values(), ids=SLOW)
def test_what_only_zarr_decodes_reads_equal(both: Both, options: dict[str, Any]) -> None:
    with zarr.config.set(ZARRS_OWN):
        zarr.create_array(LocalStore(both.root), name="a", **{"chunks": (7,), **options})
    reads = [Selection("basic", index) for index in (Ellipsis, slice(1, -1, 2), 2, slice(0, 0))]
    reads.append(Selection("oindex", np.array([3, 0, 1])))
    both.compare_written("a", reads, options.get("zarr_format", 3))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shards", [None, (14,)], ids=["chunks", "shards"])
@pytest.mark.parametrize("name", ["bitround", "quantize"])
def test_rounded_floats_read_equal(
    both: Both, name: str, shards: tuple[int, ...] | None, zarr_format: int
) -> None:
    if zarr_format == 2 and shards:
        return
    options: dict[str, Any] = {"keepbits": 6} if name == "bitround" else {"digits": 3}
    if name == "quantize":
        options["dtype"] = "<f4"
    filters: Any = named(f"numcodecs.{name}", **options)
    if zarr_format == 2:
        filters = [numcodecs.get_codec({"id": name, **options})]
    with zarr.config.set(ZARRS_OWN):
        zarr.create_array(
            LocalStore(both.root),
            name="a",
            data=np.linspace(-1, 5, 40, dtype="f4"),
            chunks=(7,),
            shards=shards,
            filters=filters,
            zarr_format=zarr_format,
        )
    both.compare_written("a", [WHOLE, PART], zarr_format)
    assert not both.store.stats()["fallback_chunks"]


@pytest.mark.parametrize("bits", [0x7FC00001, 0x80000000], ids=["a NaN's payload", "a zero's sign"])
@pytest.mark.parametrize("sharded", [False, True], ids=["chunks", "shards"])
def test_one_bit_is_seen(both: Both, tmp_path: Path, sharded: bool, bits: int) -> None:
    """The comparison itself can fail."""
    codecs = [bytes_codec()]
    levels = [(12,), (4,)] if sharded else [(12,)]
    layout = format_3((12,), levels, "<f4", [sharding((4,), codecs)] if sharded else codecs)
    layout.write(both.root / "a")
    (served,) = objects(both.root / "a")
    shutil.copytree(both.root, tmp_path / "other")
    (local,) = objects(tmp_path / "other" / "a")
    served.write_bytes(bits.to_bytes(4, "little") + served.read_bytes()[4:])
    local.write_bytes((bits & 0x7FFFFFFE).to_bytes(4, "little") + served.read_bytes()[4:])
    both.compare_written("a", [WHOLE], 3)
    both.root = tmp_path / "other"
    with pytest.raises(AssertionError, match=r"gives .*ndarray.* at byte [03], not"):
        both.compare_written("a", [WHOLE], 3)
