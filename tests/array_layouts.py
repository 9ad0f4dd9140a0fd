"""Arrays of every kind for hypothesis to draw: see `arrays` for what one is."""

from __future__ import annotations

from typing import Any

import numpy as np
from arrays import (
    DTYPES,
    INDEX_CODECS,
    Document,
    Layout,
    Shape,
    as_read,
    bytes_codec,
    compressors,
    fill_json,
    format_2,
    format_3,
    named,
    random_values,
    shardable,
    sharding,
)
from hypothesis import strategies as st

MAX_BYTES = 1 << 16
MAX_OBJECTS = 16
MAX_INNER = 32


def dtypes(zarr_format: int) -> st.SearchStrategy[np.dtype[Any]]:
    """A dtype as zarr gives it: the byte order of what format 3 stores is a codec's affair."""
    # zarr 3.1 does not take nested structures in format 2.
    kinds = [kind for kind in DTYPES if zarr_format == 3 or kind != "nested structured"]
    kinds += ["float", "int", "uint"]
    drawn = st.sampled_from(kinds).flatmap(lambda kind: st.sampled_from(DTYPES[kind]))
    return drawn.map(np.dtype if zarr_format == 2 else as_read)


@st.composite
def _levels(
    draw: st.DrawFn, dimensions: int, item_size: int, shards: int
) -> tuple[Shape, tuple[Shape, ...]]:
    """A shape, and the shapes of its chunks from the outermost to the innermost."""
    left = max(1, MAX_BYTES // item_size // 4)
    # What is equally long along all axes can be transposed before it is sharded.
    cube = draw(st.integers(1, 5)) if shards and draw(st.booleans()) else 0
    inner = []
    for axis in range(dimensions):
        if cube:
            inner.append(cube)
            left = max(1, left // cube)
            continue
        longest = 2000 if axis == dimensions - 1 and draw(st.integers(0, 3)) == 3 else 12
        inner.append(draw(st.integers(1, max(1, min(longest, left)))))
        left //= inner[-1]
    levels = [tuple(inner)]
    for most in (*[MAX_INNER] * shards, MAX_OBJECTS):
        counts = []
        for _ in range(dimensions):
            counts.append(draw(st.integers(1, max(1, min(4, most, left)))))
            most //= counts[-1]
            left //= counts[-1]
        levels.append(tuple(map(int.__mul__, levels[-1], counts)))
    grid, outer = levels[-1], levels[-2]
    shape = tuple(
        size - draw(st.integers(0, chunk - 1)) for size, chunk in zip(grid, outer, strict=True)
    )
    if shape and draw(st.integers(0, 49)) == 49:
        shape = (0, *shape[1:])
    return shape, tuple(levels[-2::-1])


@st.composite
def _chain(
    draw: st.DrawFn, dtype: np.dtype[Any], levels: tuple[Shape, ...], axes: tuple[int, ...]
) -> list[Document]:
    """Codecs of format 3 for a chunk of `levels[0]` whose axes are the array's `axes`."""
    chain: list[Document] = []
    outer = axes
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2])) if axes else 0):
        order = draw(st.permutations(range(len(axes))))
        chain.append(named("transpose", order=order))
        axes = tuple(axes[axis] for axis in order)
    if len(levels) > 1:
        # zarr 3.1 tries divisibility in the array's axes even behind a transpose.
        if any(levels[0][own] % levels[1][axis] for own, axis in zip(outer, axes, strict=True)):
            chain, axes = [], outer
        inner = draw(_chain(dtype, levels[1:], axes))
        location = draw(st.sampled_from(["end", "start"]))
        index = draw(st.sampled_from(["checked"] * 3 + list(INDEX_CODECS)))
        shape = [levels[1][axis] for axis in axes]
        chain.append(sharding(shape, inner, location=location, index_codecs=INDEX_CODECS[index]))
        count = draw(st.sampled_from([0] * 7 + [1]))
    else:
        if dtype.kind in "iu" and draw(st.integers(0, 5)) == 5:
            chain.append(named("numcodecs.delta", dtype=dtype.str))
        chain.append(bytes_codec(draw(st.sampled_from(["little", "big"]))))
        count = draw(st.sampled_from([0, 0, 1, 1, 1, 2, 3]))
    return chain + draw(_coders(3, dtype.itemsize, count, fresh=len(levels) == 1))


@st.composite
def _coders(
    draw: st.DrawFn, zarr_format: int, item_size: int, count: int, *, fresh: bool = True
) -> list[Document]:
    """So many codecs from bytes to bytes; `fresh` where the first gets whole elements."""
    known = compressors(zarr_format, item_size)
    by_name: dict[str, list[str]] = {}
    for kind in known:
        by_name.setdefault(kind.split()[0], []).append(kind)
    found = []
    for place in range(count):
        # Shuffle takes whole elements only, which just the first codec is sure to get.
        names = [n for n in by_name if "shuffle" not in n or (fresh and place == 0)]
        # What arrays are mostly met with, and what has the most variants.
        name = draw(st.sampled_from([*names, "zstd", "blosc", "blosc", "blosc", "blosc"]))
        codec = known[draw(st.sampled_from(by_name[name]))]
        if name == "blosc":
            own = codec if zarr_format == 2 else codec["configuration"]
            changed = {
                "clevel": draw(st.sampled_from([0, 1, 5, 9])),
                "blocksize": draw(st.sampled_from([0, 0, 256, 4096])),
            }
            codec = own | changed if zarr_format == 2 else named("blosc", **own | changed)
        found.append(codec)
    return found


@st.composite
def _fill(draw: st.DrawFn, dtype: np.dtype[Any], zarr_format: int) -> Any:
    """A fill value as the document has it."""
    # zarr 3.1 has no default for a structure of voids.
    if zarr_format == 2 and not dtype.names and draw(st.integers(0, 4)) == 4:
        return None
    zero = np.zeros((), dtype)
    if draw(st.booleans()):
        generator = np.random.default_rng(draw(st.integers(0, 1 << 16)))
        return fill_json(random_values(generator, (), dtype)[()], dtype, zarr_format)
    if dtype.kind in "fc":
        part = np.dtype(f"f{dtype.itemsize // (1 + (dtype.kind == 'c'))}")
        bits = np.full(2 if dtype.kind == "c" else 1, np.nan, part).view(f"u{part.itemsize}")
        payload = (bits | draw(st.integers(1, 999))).view(part)
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], part)
        if draw(st.integers(0, 3)) < 3:
            payload[:] = [draw(st.sampled_from(list(special))) for _ in payload]
        return fill_json(payload.view(dtype.newbyteorder("="))[0], dtype, zarr_format)
    if dtype.kind in "mM" and draw(st.booleans()):
        return "NaT"
    return fill_json(zero[()], dtype, zarr_format)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """An array of any kind."""
    zarr_format = draw(st.sampled_from([3, 2, 3]))
    dtype = draw(dtypes(zarr_format))
    dimensions = draw(st.sampled_from([2, 1, 2, 3, 1, 2, 4, 0]))
    shards = 0
    if zarr_format == 3 and dimensions and shardable(dtype):
        shards = draw(st.sampled_from([0, 1, 1, 2]))
    shape, levels = draw(_levels(dimensions, dtype.itemsize, shards))
    options: dict[str, Any] = {
        "fill": draw(_fill(dtype, zarr_format)),
        "order": draw(st.sampled_from("CF")),
        "separator": draw(st.sampled_from("./")),
        "seed": draw(st.integers(0, 1 << 32)),
        "holes": draw(st.sampled_from([0.0, 0.0, 0.4, 0.9])),
    }
    if zarr_format == 3:
        options["encoding"] = draw(st.sampled_from(["default", "v2"]))
        chain = draw(_chain(dtype, levels, tuple(range(dimensions))))
        return format_3(shape, levels, dtype, chain, **options)
    filters = draw(_coders(2, dtype.itemsize, draw(st.sampled_from([0, 0, 0, 1, 2]))))
    if dtype.kind in "iu" and draw(st.integers(0, 3)) == 3:
        filters.insert(0, {"id": "delta", "dtype": dtype.str, "astype": dtype.str})
    count = draw(st.sampled_from([0, 1, 1, 1]))
    (compressor,) = draw(_coders(2, dtype.itemsize, count, fresh=not filters)) or [None]
    return format_2(shape, levels[0], dtype, compressor, filters, **options)
