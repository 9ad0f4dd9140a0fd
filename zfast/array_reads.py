"""One read of an array: zarr's list of chunks → one native batch, and one future to wait for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zfast import loops
from zfast._core.array_read import ArrayRead, Inexpressible
from zfast._core.batch import Batch
from zfast._core.recipe import Recipe
from zfast.recipes import Description, describe, why_not
from zfast.selections import Extent, Indices, Points, place, split
from zfast.steps import left_of

if TYPE_CHECKING:
    from zfast.client import Client

__all__ = ["Inexpressible", "Recipes", "read_array"]


# What is planned of a chunk takes about 1 KiB until the last of its batch has come, and of an inner
# chunk 200 bytes: an array of millions is read in so many at a time.
_MOST_PLANNED = 8192
_MOST_INNER = 1 << 17
_FEWEST_SHARDS = 16

# A recipe and the order of its stored axes, or why there is none.
_Compiled = tuple[Recipe, tuple[int, ...]] | str


class Recipes:
    """The compiled codec chains of one pipeline, by what a chunk's specification says.

    Parameters
    ----------
    pipeline : CodecPipeline
        Whose codecs they are.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._known: dict[Any, _Compiled] = {}

    def get(self, spec: Any, dtype: np.dtype[Any]) -> tuple[Recipe, tuple[int, ...]]:
        """The recipe for the chunks of a specification, and the order of their stored axes.

        Raises
        ------
        Inexpressible
            If the core cannot read such chunks.
        """
        name = (spec.shape, spec.dtype, spec.order, dtype)
        try:
            found = self._known.get(name)
        except TypeError:
            # A dtype of somebody else's need not have a hash: it may be made of a list of labels.
            found = _compile(self._pipeline, spec, dtype)
        if found is None:
            found = self._known[name] = _compiled(self._pipeline, name, spec, dtype)
        if isinstance(found, str):
            raise Inexpressible(found)
        return found


# zarr makes a pipeline for each array that it opens, most of them equal to one before.
_shared: dict[Any, _Compiled] = {}
_MOST_SHARED = 1024


def _compiled(pipeline: Any, name: Any, spec: Any, dtype: np.dtype[Any]) -> _Compiled:
    try:
        found = _shared.get((pipeline, name))
    except Exception:
        # numcodecs' codecs have no hash, and somebody else's need not compare.
        return _compile(pipeline, spec, dtype)
    if found is None:
        if len(_shared) >= _MOST_SHARED:
            _shared.clear()
        found = _shared[pipeline, name] = _compile(pipeline, spec, dtype)
    return found


def _compile(pipeline: Any, spec: Any, dtype: np.dtype[Any]) -> _Compiled:
    description = describe(pipeline, spec, dtype)
    if description is None:
        return why_not(pipeline, spec, dtype)
    try:
        return _recipe(description), description.axes
    except (ValueError, OverflowError) as error:
        return str(error)


def _recipe(description: Description) -> Recipe:
    return Recipe(
        description.shape,
        description.axes,
        description.item_size,
        description.swap,
        description.steps,
        None if description.inner is None else _recipe(description.inner),
        description.index_at_end,
        description.index_checksum,
        description.index_big_endian,
    )


async def read_array(
    recipes: Recipes,
    client: Client,
    items: Sequence[tuple[Any, ...]],
    getter_type: type,
    store: Any,
    out: Any,
    drop_axes: Sequence[int],
    fill_value: Any,
) -> list[bool]:
    """Read chunks into an output.

    Parameters
    ----------
    recipes : Recipes
        Of the pipeline that reads.
    client : Client
        The store's.
    items : sequence of tuple
        As zarr gives them to a codec pipeline.
    getter_type, store : type and object
        What every byte getter has to be, and whose.
    out : numpy.ndarray
        Where the elements go; every one that the items select is written.
    drop_axes : sequence of int
        As zarr gives them to a codec pipeline.
    fill_value : scalar
        For chunks that are missing.

    Returns
    -------
    list of bool
        For each item, whether its chunk or shard is missing.

    Raises
    ------
    Inexpressible
        If the core cannot read this: nothing was read then, or what was read does not matter.
    ZfastError
        If a chunk cannot be had, or is corrupt.
    """
    if type(out) is not np.ndarray or not out.flags.writeable:
        raise Inexpressible("an output that is no numpy array")
    recipe, _ = recipes.get(items[0][1], out.dtype)
    fill = np.empty((), out.dtype)
    fill[...] = fill_value
    hub = loops.hub(client._engine())
    operations = client._operations
    location = operations.location
    indexes = operations.shard_indexes(hub.engine, client._index_cache_size, client._suffix_ranges)
    # Not every dtype has a buffer; its bytes do.
    memory = out.view(f"V{out.dtype.itemsize}")

    def recipe_of(spec: Any) -> tuple[Recipe, Callable[[Any, Any], Any]]:
        recipe, axes = recipes.get(spec, out.dtype)
        return recipe, partial(_placed, recipe, axes, out, drop_axes)

    async def read_some(items: Sequence[tuple[Any, ...]], deadline: float) -> list[bool]:
        batch = Batch(hub.engine, deadline, hub.waker, fail_fast=True, open=True)
        read = ArrayRead(
            batch,
            recipe,
            indexes,
            operations.policy,
            operations.origin(),
            memory,
            fill.tobytes(),
            len(items),
            client._coalesce_gap,
            client._coalesce_size,
            hub.attends(),
        )

        def feed() -> None:
            named = *location.affixes(), location.target
            try:
                read.add(items, getter_type, store, *named, recipe_of, drop_axes)
            finally:
                read.seal()

        await loops.wait(hub, batch, feed)
        if batch.ranges_ignored():
            operations.ranges.tell()
            if recipe.inner is None:
                # Of shards the core itself knows best what was ignored.
                indexes.expect_whole_objects()
        failed = read.failure()
        if failed is not None:
            item, index = failed
            raise operations.error(batch, index, items[item][0].path)
        return read.missing()

    missing: list[bool] = []
    began = time.monotonic()
    for some in _planned_together(items, recipe):
        missing += await read_some(some, left_of(client._deadline, began))
    return missing


def _planned_together(
    items: Sequence[tuple[Any, ...]], recipe: Recipe
) -> Iterator[Sequence[tuple[Any, ...]]]:
    inner = recipe.inner
    each = 0 if inner is None else math.prod(recipe.shape) // max(math.prod(inner.shape), 1)
    if len(items) <= min(_MOST_PLANNED, _MOST_INNER // max(each, 1)):
        yield items
        return
    first = planned = 0
    for at, item in enumerate(items):
        # As many as the shard has, or as are selected, where that is a box of slices.
        planned += min(each, _elements(item[2]))
        count = at - first
        if count == _MOST_PLANNED or (planned > _MOST_INNER and count >= _FEWEST_SHARDS):
            yield items[first:at]
            first, planned = at, min(each, _elements(item[2]))
    yield items[first:]


def _elements(selection: Any) -> int:
    parts = selection if isinstance(selection, tuple) else ()
    if not all(isinstance(part, slice) and None not in (part.start, part.stop) for part in parts):
        return _MOST_INNER
    return math.prod(max(part.stop - part.start, 0) for part in parts) if parts else _MOST_INNER


def _placed(
    recipe: Recipe,
    axes: tuple[int, ...],
    out: np.ndarray[Any, Any],
    drop_axes: Sequence[int],
    chunk_selection: Any,
    out_selection: Any,
) -> list[tuple[Any, ...]] | None:
    where = place(
        chunk_selection, out_selection, drop_axes, recipe.shape, out.shape, out.strides, axes
    )
    if where is None:
        return None
    inner = recipe.inner
    if inner is None:
        return [(0, *_listed(where))]
    return [
        (number, *_listed(part))
        for number, part in split(where, recipe.shape, inner.shape, inner.axes)
    ]


def _listed(where: tuple[int, list[Extent]] | Points) -> tuple[int, list[tuple[Any, ...]], bool]:
    # As the core takes it: an offset, extents of four numbers or with lists, whether it is flat.
    if isinstance(where, Points):
        return 0, [_extent(where.positions, where.places)], True
    offset, extents = where
    return offset, [e if len(e) == 4 else _extent(*e) for e in extents], False


def _extent(positions: Indices, places: Indices | int) -> tuple[Any, ...]:
    if isinstance(places, np.ndarray):
        return 0, 1, len(positions), 0, positions, places
    return 0, 1, len(positions), places, positions, None
