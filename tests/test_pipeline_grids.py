"""Chunks of different shapes in one array are one native batch too: rectilinear grids.

https://github.com/zarr-developers/zarr-extensions/tree/main/chunk-grids/rectilinear
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from servers.scripted import ScriptedServer, ranged

pytest.importorskip("zarr", minversion="3.1", reason="what draws arrays knows zarr 3.1")

import zarr
from array_layouts import layouts
from array_selections import Selection, selections
from arrays import Document, Layout, bytes_codec, format_3, named, sharding
from compared_arrays import serving
from served_arrays import OURS
from shards import numbered, objects_of
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import StorePath

from zfast import FastStore

try:
    from zarr.core.metadata.v3 import RectilinearChunkGridMetadata

    HAS_GRIDS = RectilinearChunkGridMetadata is not None
except ImportError:
    HAS_GRIDS = False

Scripted = Callable[..., ScriptedServer]
Edges = tuple[tuple[int, ...], ...]

needs_grids = pytest.mark.skipif(not HAS_GRIDS, reason="rectilinear grids came with zarr 3.4")

RAW, ZSTD = [bytes_codec()], [bytes_codec(), named("zstd", level=1, checksum=False)]
CODECS: dict[str, list[Document]] = {
    "raw": RAW,
    "compressed": ZSTD,
    "transposed": [named("transpose", order=[1, 0]), *ZSTD],
    "sharded": [sharding((4, 4), RAW)],
    "sharded, compressed": [sharding((4, 4), ZSTD)],
}
EDGES: Edges = ((8, 32, 4, 16, 8), (16, 4, 36))
SHAPE = (68, 56)
VALUES = numbered(SHAPE)
READS: dict[str, Any] = {
    "all": np.s_[:, :],
    "a window": np.s_[5:43, 10:22],
    "steps": np.s_[3::7, 1::5],
    "a row": np.s_[41, :],
    "an element": np.s_[44, 20],
}


@pytest.fixture(autouse=True)
def _ours() -> Iterator[None]:
    rectilinear = {"array.rectilinear_chunks": True} if HAS_GRIDS else {}
    with zarr.config.set({"codec_pipeline.path": OURS, **rectilinear}):
        yield


def in_grid(layout: Layout, edges: Edges) -> Layout:
    """The same array with chunks of these edges."""
    grid = named("rectilinear", kind="inline", chunk_shapes=[list(edge) for edge in edges])
    return replace(layout, document=layout.document | {"chunk_grid": grid})


def corners(edges: Edges) -> Iterator[tuple[slice, ...]]:
    """Where each chunk is, in C order."""
    parts = []
    for along in edges:
        ends = list(itertools.accumulate(along))
        parts.append([slice(end - edge, end) for edge, end in zip(along, ends, strict=True)])
    return itertools.product(*parts)


def shape_of(corner: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in corner)


# ------------------------------------------------------------------------------- by the pipeline


@pytest.mark.parametrize("codecs", CODECS.values(), ids=CODECS)
@pytest.mark.skipif(HAS_GRIDS, reason="this zarr has such arrays itself")
async def test_chunks_of_several_shapes_are_one_batch(
    scripted: Scripted, codecs: list[Document]
) -> None:
    """As a zarr with such grids would ask for them."""
    regular = format_3(SHAPE, [(8, 16)], "<f4", CODECS["raw"])
    objects = {"a/zarr.json": objects_of(regular, VALUES)["a/zarr.json"]}
    for number, corner in enumerate(corners(EDGES)):
        alone = format_3(shape_of(corner), [shape_of(corner)], "<f4", codecs)
        objects[f"a/{number}"] = objects_of(alone, VALUES[corner])["a/c/0/0"]
    server = scripted(ranged(objects))
    with FastStore(server.url) as store:
        array = await zarr.api.asynchronous.open_array(store=store, path="a", mode="r")
        of_chunks = format_3(SHAPE, [SHAPE], "<f4", codecs)
        objects["b/zarr.json"] = objects_of(of_chunks, VALUES, "b")["b/zarr.json"]
        pipeline = (await zarr.api.asynchronous.open_array(store=store, path="b")).codec_pipeline
        prototype = default_buffer_prototype()
        spec = array.metadata.get_chunk_spec((0, 0), array.config, prototype=prototype)
        out = prototype.nd_buffer.create(shape=SHAPE, dtype=np.dtype("<f4"), fill_value=0)
        items = [
            (
                StorePath(store, f"a/{number}"),
                replace(spec, shape=shape_of(corner)),
                tuple(slice(0, edge) for edge in shape_of(corner)),
                corner,
                True,
            )
            for number, corner in enumerate(corners(EDGES))
        ]
        await pipeline.read(items, out)
        np.testing.assert_array_equal(out.as_numpy_array(), VALUES)
        assert store.stats()["fallback_chunks"] == 0


# ----------------------------------------------------------------------------------- as zarr reads


@needs_grids
@pytest.mark.parametrize("index", READS.values(), ids=READS)
@pytest.mark.parametrize("codecs", CODECS.values(), ids=CODECS)
def test_the_core_reads_them(scripted: Scripted, codecs: list[Document], index: Any) -> None:
    objects = objects_of(in_grid(format_3(SHAPE, [SHAPE], "<f4", codecs), EDGES), VALUES)
    server = scripted(ranged(objects))
    with FastStore(server.url) as store:
        array = zarr.open_array(store=store, path="a", mode="r")
        np.testing.assert_array_equal(array[index], VALUES[index])
        assert store.stats()["fallback_chunks"] == 0


@needs_grids
def test_each_chunk_is_asked_for_once(scripted: Scripted) -> None:
    objects = objects_of(in_grid(format_3(SHAPE, [SHAPE], "<f4", ZSTD), EDGES), VALUES)
    server = scripted(ranged(objects))
    with FastStore(server.url) as store:
        array = zarr.open_array(store=store, path="a", mode="r")
        np.testing.assert_array_equal(array.oindex[[60, 2, 30], :], VALUES[[60, 2, 30], :])
        asked = [request.key for request in server.requests if "/c/" in request.key]
        assert sorted(asked) == sorted(
            f"a/c/{row}/{column}" for row in (0, 1, 4) for column in range(3)
        )


@st.composite
def edges(draw: st.DrawFn, size: int, unit: int) -> tuple[int, ...]:
    """Edges that cover a dimension: multiples of a unit, which may reach beyond its end."""
    found = [unit * draw(st.integers(1, 3))]
    while sum(found) < size:
        found.append(unit * draw(st.integers(1, 3)))
    return tuple(found)


@st.composite
def irregular(draw: st.DrawFn) -> tuple[Layout, list[Selection]]:
    """An array of any kind in chunks of several shapes, and what is read of it."""
    layout = draw(layouts().filter(lambda layout: layout.zarr_format == 3 and layout.shape))
    sharded = len(layout.levels) > 1
    grid = []
    for size, chunk in zip(layout.shape, layout.levels[0], strict=True):
        # Shards are made of whole inner chunks.
        parts = 1 if sharded or len(layout.shape) > 2 else draw(st.integers(1, 3))
        grid.append(draw(edges(size, max(1, chunk // parts))))
    of = selections(layout.shape, layout.levels[0], layout.dtype)
    reads = of.filter(lambda selection: selection.method != "blocks")
    return in_grid(layout, tuple(grid)), [draw(reads) for _ in range(5)]


@needs_grids
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec disables partial")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("batch", range(20))
def test_drawn_arrays_read_equal(start: Callable[..., Any], tmp_path: Path, batch: int) -> None:
    with serving(start, tmp_path) as both:

        @seed(f"{os.environ.get('TEST_SEED', '')} {batch}")
        @settings(max_examples=10, suppress_health_check=list(HealthCheck))
        @given(irregular())
        def compare(drawn: tuple[Layout, list[Selection]]) -> None:
            both.compare(*drawn)

        compare()
