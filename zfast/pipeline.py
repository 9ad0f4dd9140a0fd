"""FastCodecPipeline: one read of a FastStore's array is one native batch, and so is one write.

Whatever the core cannot do is done by zarr's own pipeline, counted, and said once in the log.
Arrays on other stores are zarr's throughout: as objects too, from zarr 3.1 on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.codecs import ShardingCodec
from zarr.core.array import create_codec_pipeline
from zarr.core.array_spec import ArraySpec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline
from zarr.storage import StorePath

from zfast import checked_codecs
from zfast._core.types import Status
from zfast._mapping import KeyMapping
from zfast.array_reads import Inexpressible, Recipes, read_array
from zfast.errors import CorruptError, ZfastError, error_for

try:
    from zarr.core.codec_pipeline import fill_value_or_default
except ImportError:
    # Before zarr 3.0.3.
    def fill_value_or_default(chunk_spec: ArraySpec) -> Any:
        value = chunk_spec.fill_value
        dtype: Any = chunk_spec.dtype
        return np.zeros((), dtype)[()] if value is None else value


__all__ = ["FastCodecPipeline", "choose_pipeline"]

_log = logging.getLogger("zfast")

# Encoded bytes that wait to be written; once more as many may be on their way.
_MOST_WAITING = 64 * 1024 * 1024
# So many chunks are looked at together to find the one that is bad.
_NAMED_AT_ONCE = 16

# (StorePath, ArraySpec, chunk selection, out selection, whether the chunk is complete); without
# the last up to zarr 3.0.2.
Item = tuple[Any, ...]
# As zarr's GetResult: {"status": "present" | "missing"} for every item.
_STATUSES = ({"status": "present"}, {"status": "missing"})
Statuses = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class FastCodecPipeline(BatchedCodecPipeline):
    """zarr's codec pipeline, which leaves a FastStore's chunks to the native core.

    zarr makes it from its configuration (``codec_pipeline.path``) as it opens an array; see
    `choose_pipeline`. Equal, and pickled, as zarr's own is.
    """

    @classmethod
    def from_array_metadata_and_store(cls, array_metadata: Any, store: Any) -> Any:
        """Make zarr's own pipeline for an array on another store, where a FastStore chose ours.

        Such an array is equal to, and pickled and tokenised as, one of a process without zfast.

        Parameters
        ----------
        array_metadata : ArrayV2Metadata or ArrayV3Metadata
            Of the array.
        store : zarr.abc.store.Store
            That it is on.

        Raises
        ------
        NotImplementedError
            For a FastStore: zarr then makes one of these by the codecs alone.
        """
        if not _chosen or isinstance(store, KeyMapping):
            raise NotImplementedError("made by its codecs")
        made: Any = create_codec_pipeline(array_metadata)
        if type(made) is not cls:
            return made
        return BatchedCodecPipeline(
            **{field.name: getattr(made, field.name) for field in fields(made) if field.init}
        )

    @cached_property
    def _recipes(self) -> Recipes:
        return Recipes(self)

    @cached_property
    def _checked(self) -> FastCodecPipeline:
        return checked_codecs.checked(self)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        made = ("_recipes", "_checked")
        return {name: value for name, value in vars(self).items() if name not in made}

    async def read(  # type: ignore[override]
        self, batch_info: Iterable[Item], out: Any, drop_axes: tuple[int, ...] = ()
    ) -> Statuses | None:
        """Read chunks, and put what is selected of them into `out`.

        Parameters
        ----------
        batch_info : iterable of tuple
            For each chunk where it is, its ArraySpec, what is selected of it, and where in `out`
            that goes.
        out : NDBuffer
            Not initialised; every element is written.
        drop_axes : tuple of int
            Axes of what is selected that `out` does not have.

        Returns
        -------
        tuple of dict
            ``{"status": "present"}`` or ``{"status": "missing"}`` for each chunk; of chunks on
            other stores what zarr's own pipeline returns.

        Raises
        ------
        ZfastError
            If bytes cannot be had.
        """
        items = list(batch_info)
        store = _fast_store(items)
        if store is None:
            # Returns nothing up to zarr 3.1.
            return await super().read(items, out, drop_axes)  # type: ignore[func-returns-value]
        statuses, reason = await _native_read(self, store, items, out, drop_axes)
        if statuses is None:
            statuses = await self._read_by_zarr(store, items, out, drop_axes, reason)
        return statuses

    async def _read_by_zarr(
        self, store: Any, items: list[Item], out: Any, drop_axes: tuple[int, ...], reason: str
    ) -> Statuses:
        """Have zarr's own pipeline read items of a FastStore, for a reason worth a log line."""
        _count_fallback(store, len(items), reason)
        watched = [(_Watched(path.store, path.path), *rest) for path, *rest in items]
        read = super(FastCodecPipeline, self._checked).read
        try:
            statuses: Any = await read(watched, out, drop_axes)  # type: ignore[func-returns-value]
        except _NO_FAULT_OF_DATA:
            raise
        except Exception:
            await self._name_bad_chunk(store, watched, out, drop_axes)
            raise
        if statuses is None:
            statuses = tuple(
                {"status": "missing" if item[0].missing else "present"} for item in watched
            )
        return statuses  # type: ignore[no-any-return]

    async def _name_bad_chunk(
        self, store: Any, bad: list[Item], out: Any, drop_axes: tuple[int, ...]
    ) -> None:
        """Raise CorruptError for the one of these chunks that cannot be decoded, if it is that.

        Codecs do not say which it is; and what failed may be what was made of a chunk.
        """
        read = super(FastCodecPipeline, self._checked).read
        while len(bad) > 1:
            half = bad[: len(bad) // 2]
            try:
                await read(half, out, drop_axes)
            except _NO_FAULT_OF_DATA:
                raise
            except Exception:
                bad = half
            else:
                bad = bad[len(half) :]
        await self._name_if_bad(store, *bad[0][:2])

    async def _name_if_bad(self, store: Any, getter: Any, spec: Any) -> None:
        stored = await getter.get(spec.prototype)
        with _naming(store, getter.path):
            list(await self._checked.decode([(stored, spec)]))

    async def write(
        self, batch_info: Iterable[Item], value: Any, drop_axes: tuple[int, ...] = ()
    ) -> None:
        """Encode chunks by zarr, and write them as one batch.

        Parameters
        ----------
        batch_info : iterable of tuple
            For each chunk where it is, its ArraySpec, which part of it is written, which part of
            `value` that is, and whether it is the whole chunk.
        value : NDBuffer
            What is written.
        drop_axes : tuple of int
            Axes of a chunk that `value` does not have.

        Raises
        ------
        ValueError
            If the store is read-only.
        ZfastError
            If it failed; which chunks the server has written is then unknown.
        """
        items = list(batch_info)
        store = _fast_store(items)
        if store is None:
            await super().write(items, value, drop_axes)
            return
        store._check_writable()
        outbox = _Outbox(store)
        sharded = isinstance(self.array_bytes_codec, ShardingCodec)
        collected: list[Any] = [
            # Without the last of these up to zarr 3.0.2.
            (_Collected(path.store, path.path, outbox, sharded and rest[3:] != [True]), *rest)
            for path, *rest in items
        ]
        write = super(FastCodecPipeline, self._checked).write
        try:
            await write(collected, value, drop_axes)
        except _NO_FAULT_OF_DATA:
            raise
        except Exception:
            # One of those that were read before may be what cannot be decoded.
            read = [item for item in collected if item[0].was_read]
            for start in range(0, len(read), _NAMED_AT_ONCE):
                some = read[start : start + _NAMED_AT_ONCE]
                looks = (self._name_if_bad(store, item[0], item[1]) for item in some)
                for found in await asyncio.gather(*looks, return_exceptions=True):
                    if isinstance(found, CorruptError):
                        raise found from found.__cause__
            raise
        await outbox.flush()


async def _native_read(
    pipeline: FastCodecPipeline,
    store: Any,
    items: list[Item],
    out: Any,
    drop_axes: tuple[int, ...],
) -> tuple[Statuses | None, str]:
    """Read items by the core: their statuses, or None and why it is not for the core."""
    try:
        fill_value = fill_value_or_default(items[0][1])
    except Exception as error:
        # zarr asks for it only where a chunk is missing.
        return None, f"a fill value that zarr cannot make ({error})"
    try:
        missing = await read_array(
            pipeline._recipes,
            store._use(),
            items,
            StorePath,
            store,
            out.as_ndarray_like(),
            drop_axes,
            fill_value,
        )
    except Inexpressible as error:
        return None, str(error)
    return tuple(_STATUSES[gone] for gone in missing), ""


def _fast_store(items: list[Item]) -> Any:
    """The FastStore that all items are on and that wants this pipeline, else None."""
    # Inner chunks of a shard come with byte getters of zarr's own, which have no store.
    if not items or type(items[0][0]) is not StorePath:
        return None
    store: Any = items[0][0].store
    # The only mapping of ours that zarr 3 takes for a Store. What wraps one sees every access, and
    # so does a subclass with methods of its own.
    if not isinstance(store, KeyMapping) or not store._pipeline or not store._plain:
        return None
    alike = all(type(item[0]) is StorePath and item[0].store is store for item in items)
    return store if alike else None


# ------------------------------------------------------------------------------------- fallbacks

_said: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def _count_fallback(store: Any, chunks: int, reason: str) -> None:
    store._client._policy.count_fallback(chunks)
    said = _said.setdefault(store._client, set())
    if reason not in said:
        said.add(reason)
        _log.info("zarr's own pipeline reads chunks of %s: %s", store.url, reason)


# What a codec raises whatever the data are like, and what zarr says itself.
_NO_FAULT_OF_DATA = (
    ZfastError,
    MemoryError,
    TypeError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    getattr(zarr.errors, "BaseZarrError", ZfastError),
)


def _corrupt(path: StorePath, detail: str, byte_range: Any = None) -> ZfastError:
    store: Any = path.store
    return error_for(
        Status.CORRUPT,
        url=store._client._operations.location.display(path.path),
        key=path.path,
        byte_range=byte_range,
        detail=detail,
    )


@contextlib.contextmanager
def _naming(store: Any, key: str) -> Iterator[None]:
    """Have what a codec raises name the chunk."""
    try:
        yield
    except _NO_FAULT_OF_DATA:
        raise
    except Exception as error:
        raise _corrupt(StorePath(store, key), f"{type(error).__name__}: {error}") from error


class _Watched(StorePath):
    """Where zarr reads a chunk; knows afterwards whether there was none."""

    missing = False

    async def get(self, prototype: Any = None, byte_range: Any = None) -> Any:
        value = await super().get(prototype, byte_range)
        self.missing = self.missing or value is None
        if isinstance(byte_range, RangeByteRequest) and value is not None:
            self._check(byte_range.end - byte_range.start, len(value), byte_range)
        return value

    def _check(self, wanted: int, came: int, byte_range: Any) -> None:
        # Of a shard: what its index says is there. zarr would take what is not for empty.
        if came < wanted:
            raise _corrupt(self, "an inner chunk ends after the shard", byte_range)


# ---------------------------------------------------------------------------------------- writes


class _Outbox:
    """Chunks of one write that wait to leave together; None for one to be deleted."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._waiting: dict[str, Any] = {}
        self._size = 0
        self._leaving = asyncio.Lock()
        self._failure: BaseException | None = None

    async def add(self, key: str, value: Any) -> None:
        self._waiting[key] = value
        self._size += 0 if value is None else len(value)
        if self._size > _MOST_WAITING:
            await self.flush()

    async def flush(self) -> None:
        async with self._leaving:
            # zarr's other tasks go on when one has failed: what they bring is not to be written
            # later than whatever the caller does when he has been told.
            if self._failure is not None:
                raise self._failure
            leaving, self._waiting, self._size = self._waiting, {}, 0
            written = [(key, value) for key, value in leaving.items() if value is not None]
            deleted = [key for key, value in leaving.items() if value is None]
            try:
                if written:
                    await self._store._set_many(written)
                if deleted:
                    await self._store._delete_all(deleted)
            except BaseException as error:
                self._failure = error
                raise


class _Collected(StorePath):
    """Where zarr reads a chunk, and puts it to be written with the others."""

    was_read = False

    def __init__(self, store: Any, path: str, outbox: _Outbox, in_part: bool) -> None:
        super().__init__(store, path)
        self._outbox = outbox
        self._in_part = in_part

    async def get(self, prototype: Any = None, byte_range: Any = None) -> Any:
        value = await super().get(prototype, byte_range)
        self.was_read = self.was_read or value is not None
        if self._in_part and value is not None and len(value) == 0:
            # zarr would take it for a shard without inner chunks, and write what is left out.
            raise _corrupt(self, "the shard is shorter than its index")
        return value

    async def set(self, value: Any) -> None:
        await self._outbox.add(self.path, value)

    async def delete(self) -> None:
        await self._outbox.add(self.path, None)


# -------------------------------------------------------------------------------------- choosing

_chosen = False


def choose_pipeline() -> None:
    """Make FastCodecPipeline what zarr opens arrays with, unless that was decided already.

    Only where ``zarr.config`` names zarr's own default, and only once a process: whoever sets
    ``codec_pipeline.path`` before or afterwards has the last word.
    """
    global _chosen
    default, ours = (
        f"{pipeline.__module__}.{pipeline.__qualname__}"
        for pipeline in (BatchedCodecPipeline, FastCodecPipeline)
    )
    path = zarr.config.get("codec_pipeline.path")
    if not _chosen and path == default:
        zarr.config.set({"codec_pipeline.path": ours})
        _chosen = True
    elif path != ours:
        _log.info(
            "zarr.config names %s as the codec pipeline, which reads what is opened now: "
            "zarr.config.set({'codec_pipeline.path': %r}) is the native one",
            path,
            ours,
        )


# For processes that were told of it by name alone the entry point of pyproject.toml does this.
register_pipeline(FastCodecPipeline)
