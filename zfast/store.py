"""FastStore for zarr 3: translates zarr's `Store` and Python's mapping into calls of a Client.

One class serves zarr 3.0 to 3.4: it defines what any of them asks for.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from zfast._core.types import Status
from zfast._mapping import KeyMapping
from zfast._zarr3 import (
    check_range,
    checked_ranges,
    coalesced_ranges,
    content_of,
    directory_of,
    to_buffer,
)
from zfast.client import Client, ObjectInfo
from zfast.collector import Collector
from zfast.errors import (
    MissingKeyError,
    ZfastError,
    error_for,
)
from zfast.keys import names_object
from zfast.options import ClientOptions
from zfast.pipeline import choose_pipeline
from zfast.planner import Group, bounds, span

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest

    from zfast._core.buffers import Body

__all__ = ["FastStore"]

_GROUPED = "byte ranges could not be read"
# What is done to chunks on their way: a subclass may decrypt them, or look elsewhere for some.
_ACCESS = ("get", "get_sync", "get_partial_values", "set", "set_sync", "delete", "delete_sync")
# FastStore.list shadows the builtin inside its class.
_Buffers = list[Buffer | None]
_Indexed = Sequence[tuple[int, Buffer | None]]


# Both bases define `clear`, `get`, `__eq__` and `__hash__`. Store comes first, for `clear` is a
# coroutine to zarr; `get` serves both by its arguments. What is better of KeyMapping's the class
# body calls or names again (Store's abstract `__eq__` also takes `__hash__` away).
class FastStore(Store, KeyMapping):
    """The objects below a URL as a zarr store and as a mapping of keys to bytes.

    Parameters
    ----------
    url : str
        ``http(s)://[user:pass@]host[:port]/base/path[?query]``
    read_only : bool
        Whether writing raises; a store that is not sends PUT and DELETE.
    pipeline : bool, optional
        Whether zarr reads and writes the store's arrays by `zfast.pipeline.FastCodecPipeline`; the
        setting ``pipeline`` if not given. The first store that does makes it zarr's pipeline for
        the process, unless ``zarr.config`` names another one than zarr's default. Arrays on other
        stores are read and written as before.
    **options
        Those of `zfast.Client`.

    Raises
    ------
    ConfigurationError
        If an argument or setting is not one that zfast can use.

    Notes
    -----
    What is asked for in one turn of an event loop leaves as one native batch. The methods of the
    mapping, and those whose names end in ``_sync``, block until they are served.

    A missing key is None to zarr and a KeyError to the mapping; every other failure is a
    `ZfastError`. Whatever lists or iterates needs the server's directory index pages and raises
    `ListingError` where it has none; arrays, groups and consolidated metadata open without.
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True
    supports_partial_writes: Literal[False] = False
    supports_consolidated_metadata: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # zarr's own pipeline then reads and writes arrays, through these methods.
        cls._plain = all(getattr(cls, name) is getattr(FastStore, name) for name in _ACCESS)

    # Written out: a method that is only named again is Any to type checkers.
    def __init__(
        self,
        url: str,
        *,
        read_only: bool = True,
        pipeline: bool | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        KeyMapping.__init__(self, url, read_only=read_only, pipeline=pipeline, **options)

    def _set_up(self, client: Client, read_only: bool, pipeline: bool) -> None:
        Store.__init__(self, read_only=read_only)
        KeyMapping._set_up(self, client, read_only, pipeline)
        self._collector = Collector(client)
        # Here, so that a store that comes out of a pickle is as fast in a process of its own.
        if pipeline:
            choose_pipeline()

    __eq__ = KeyMapping.__eq__
    __hash__ = KeyMapping.__hash__

    def with_read_only(self, read_only: bool = False) -> Self:
        """A store of the same configuration but for `read_only`, on the same client.

        It need not be opened; closing one of the two leaves the other usable.
        """
        return KeyMapping.with_read_only(self, read_only)

    # ----------------------------------------------------------------------------- opened, closed

    async def _open(self) -> None:
        self._open_client()
        await super()._open()

    async def _ensure_open(self) -> None:
        self._use()

    def _use(self) -> Client:
        # Not through _open: two threads that find the store unopened may both pass here.
        client = self._open_client()
        self._is_open = True
        return client

    def close(self) -> None:
        """Refuse further reads and writes. Stores made by `with_read_only` stay usable."""
        Store.close(self)
        KeyMapping.close(self)

    # ------------------------------------------------------------------------------------ reading

    @overload
    def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Coroutine[Any, Any, Buffer | None]: ...

    @overload
    def get(self, key: str, prototype: Any = None, *, default: Any = None) -> Any: ...

    def get(
        self, key: str, prototype: Any = None, byte_range: Any = None, *, default: Any = None
    ) -> Any:
        """Read a key, or a byte range of it, as zarr does; or as ``dict.get`` does.

        Parameters
        ----------
        key : str
            Below the base URL; not percent-encoded.
        prototype : BufferPrototype, or anything else
            With a prototype this is zarr's method; anything else is the mapping's default.
        byte_range : RangeByteRequest, OffsetByteRequest or SuffixByteRequest, optional
            What zarr wants of the value.
        default : optional
            What the mapping gives for a missing key.

        Returns
        -------
        coroutine of Buffer or None; or bytes or the default

        Raises
        ------
        ValueError
            If the byte range is none of zarr's.
        TypeError
            If there is one, and no prototype of what to return.
        ZfastError
            If the bytes cannot be had.
        """
        if isinstance(prototype, BufferPrototype):
            return self._get(key, prototype, byte_range)
        if byte_range is not None:
            raise TypeError("a byte range takes a prototype, such as default_buffer_prototype()")
        return Mapping.get(self, key, default if prototype is None else prototype)

    async def _get(self, key: str, prototype: BufferPrototype, byte_range: Any) -> Buffer | None:
        self._use()
        check_range(byte_range)
        reading = functools.partial(self._collector.read, byte_range=byte_range)
        body = await self._refusals.read_async(key, reading)
        return to_buffer(prototype, body)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a key without an event loop; the blocking twin of zarr's `get`."""
        self._use()
        check_range(byte_range)
        return to_buffer(prototype or default_buffer_prototype(), self._fetch(key, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> _Buffers:
        """Read byte ranges of keys, as one batch; None where a key is missing."""
        self._use()
        items = checked_ranges(key_ranges)
        buffers: _Buffers = [None] * len(items)
        async with aclosing(self._collector.as_completed(items)) as completed:
            async for index, body in completed:
                buffers[index] = to_buffer(prototype, body)
        return buffers

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        self._use()
        wanted = list(requests)
        items = checked_ranges((key, byte_range) for key, _, byte_range in wanted)
        async with aclosing(self._collector.as_completed(items)) as completed:
            async for index, body in completed:
                key, prototype, _ = wanted[index]
                yield key, to_buffer(prototype, body)

    async def get_ranges(
        self,
        key: str,
        byte_ranges: Sequence[ByteRequest | None],
        *,
        prototype: BufferPrototype,
        max_concurrency: int | None = None,
        max_gap_bytes: int = 1 << 20,
        max_coalesced_bytes: int = 16 << 20,
    ) -> AsyncGenerator[_Indexed, None]:
        """Read byte ranges of one key, neighbouring ones together, as one batch.

        Parameters
        ----------
        key : str
            Below the base URL.
        byte_ranges : sequence
            zarr's byte requests, None for the whole value.
        prototype : BufferPrototype
            Of the buffers.
        max_concurrency : int, optional
            Most requests of this call that are under way at once; without it zfast's own setting of
            that name is the limit, for all calls together.
        max_gap_bytes, max_coalesced_bytes : int
            Ranges at most so far apart become one request of at most so many bytes.

        Yields
        ------
        sequence of (int, Buffer)
            For each request, as it completes: which byte ranges it served, and their bytes.

        Raises
        ------
        BaseExceptionGroup
            Of one MissingKeyError if the key is missing, else of the first failure.
        """
        self._use()
        byte_ranges = list(byte_ranges)
        try:
            groups = coalesced_ranges(byte_ranges, max_gap_bytes, max_coalesced_bytes)
            items = [(key, wanted) for wanted, _ in groups]
            reads = self._collector.as_completed(items, max_concurrency)
            async with aclosing(reads) as completed:
                async for index, body in completed:
                    yield self._parts(prototype, key, byte_ranges, groups[index], body)
        except (ZfastError, ValueError) as error:
            raise BaseExceptionGroup(_GROUPED, [error]) from None

    def get_ranges_sync(
        self,
        key: str,
        byte_ranges: Sequence[ByteRequest | None],
        *,
        prototype: BufferPrototype,
        max_gap_bytes: int = 1 << 20,
        max_coalesced_bytes: int = 16 << 20,
    ) -> _Indexed:
        """Read byte ranges of one key without an event loop, as one batch.

        As `get_ranges`, but for a failure other than a missing key: as with zarr's own, that is
        raised as it is.
        """
        client = self._use()
        byte_ranges = list(byte_ranges)
        groups = coalesced_ranges(byte_ranges, max_gap_bytes, max_coalesced_bytes)
        bodies: Sequence[Body | None] = [None] * len(groups)
        if names_object(key):
            bodies = client.get_ranges(key, [wanted for wanted, _ in groups])
        try:
            return [
                part
                for group, body in zip(groups, bodies, strict=True)
                for part in self._parts(prototype, key, byte_ranges, group, body)
            ]
        except MissingKeyError as error:
            raise BaseExceptionGroup(_GROUPED, [error]) from None

    def _parts(
        self,
        prototype: BufferPrototype,
        key: str,
        byte_ranges: Sequence[ByteRequest | None],
        group: Group,
        body: Body | None,
    ) -> _Indexed:
        wanted, members = group
        if body is None:
            raise self._missing(key)
        if len(members) == 1:
            return [(members[0], to_buffer(prototype, body))]
        first, _ = wanted
        parts = []
        for index in members:
            asked = byte_ranges[index]
            assert isinstance(asked, RangeByteRequest)
            within = span((asked.start - first, asked.end - first))
            parts.append((index, to_buffer(prototype, body.part(*bounds(within, len(body))))))
        return parts

    def _missing(self, key: str, method: str = "GET") -> ZfastError:
        return error_for(
            Status.MISSING,
            url=self._client._operations.location.display(key),
            key=key,
            method=method,
        )

    async def _head(self, key: str) -> ObjectInfo | None:
        client = self._use()
        if not names_object(key):
            return None
        return await self._refusals.read_async(key, client.head_async)

    async def exists(self, key: str) -> bool:
        """Whether there is such a key, by one HEAD."""
        return await self._head(key) is not None

    async def getsize(self, key: str) -> int:
        """Size of a value in bytes, by one HEAD.

        Raises
        ------
        MissingKeyError
            If the key is missing.
        """
        info = await self._head(key)
        if info is None:
            raise self._missing(key, "HEAD")
        if info.size is not None:
            return info.size
        # A server that makes the body as it goes does not say how long it will be.
        body = await self._collector.read(key)
        if body is None:
            raise self._missing(key)
        return len(body)

    async def getsize_prefix(self, prefix: str) -> int:
        """Size of all values below a prefix, which is a directory: siblings do not count."""
        keys = [key async for key in self.list_prefix(directory_of(prefix)) if names_object(key)]
        client = self._use()
        found = await client._run_async(functools.partial(client._operations.head_many, keys))
        sizes = [
            # What it is where the server does not say, or why there is none.
            await self.getsize(key) if info is None or info.size is None else info.size
            for key, info in zip(keys, found, strict=True)
        ]
        return sum(sizes)

    # ------------------------------------------------------------------------------------ writing

    def _content(self, value: Any) -> Any:
        return super()._content(value.as_numpy_array() if isinstance(value, Buffer) else value)

    async def _put(self, items: Iterable[tuple[str, Buffer]], if_absent: bool = False) -> None:
        self._check_writable()
        client = self._use()
        items = [(key, content_of(key, value)) for key, value in items]
        contents = self._contents(items)
        # Whether it was there before, or this has written it by an earlier attempt, nobody asks.
        put = functools.partial(client._operations.put_many, contents, if_absent, repeatable=True)
        await client._run_async(put)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key with PUT.

        Raises
        ------
        ValueError
            If the store is read-only.
        NotWritableError
            If the server takes no PUT.
        ZfastError
            If it failed; whether the server has written is then unknown.
        """
        await self._put([(key, value)])

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key unless it exists.

        The PUT is conditional (``If-None-Match: *``, RFC 9110, section 13.1.2). A server that
        does not know conditions would write all the same, so it is asked first whether the key
        exists: only there, and only between that question and the PUT, which a retry may make
        later, can another's value be lost.
        """
        self._check_writable()
        if not await self.exists(key):
            await self._put([(key, value)], if_absent=True)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await self._put(values)

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, Any]]) -> None:
        """HTTP has no partial write: raises NotImplementedError, as zarr expects."""
        raise NotImplementedError("no partial writes over HTTP")

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a key without an event loop; the blocking twin of `set`."""
        self._use()
        self._put_many([(key, content_of(key, value))])

    async def delete(self, key: str) -> None:
        """Delete a key; silent if it is missing.

        Raises
        ------
        ValueError
            If the store is read-only.
        NotWritableError
            If the server takes no DELETE.
        """
        await self._delete_all([key])

    async def _delete_all(self, keys: Iterable[str]) -> None:
        self._check_writable()
        client = self._use()
        named = [key for key in keys if names_object(key)]
        await client._run_async(functools.partial(client._operations.delete_many, named))

    def delete_sync(self, key: str) -> None:
        """Delete a key without an event loop; the blocking twin of `delete`."""
        self._use()
        self._delete_many([key])

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below a prefix, which is a directory, and the directory.

        Siblings stay. A server that has no directories, or keeps them, is asked in vain for those.

        Raises
        ------
        ValueError
            If the store is read-only, or an empty name, "." or ".." is among the prefix's.
        """
        self._check_writable()
        client = self._use()
        await client._run_async(
            functools.partial(client._directories.delete_dir, directory_of(prefix)), aside=True
        )

    async def clear(self) -> None:  # type: ignore[override]
        """Delete all keys.

        A coroutine, as zarr has it: ``await store.clear()``, or ``store.delitems(list(store))``.
        """
        await self.delete_dir("")

    # ------------------------------------------------------------------------------------ listing

    async def is_empty(self, prefix: str) -> bool:
        """Whether there is no key below a directory; see `list`. May write a key to find out."""
        client = self._use()
        ask = functools.partial(
            client._directories.is_empty, directory_of(prefix), writable=not self.read_only
        )
        return await client._run_async(ask, aside=True)

    def list(self) -> AsyncIterator[str]:
        """Iterate over all keys.

        Raises
        ------
        ListingError
            If the server offers no directory index pages.
        """
        return self.list_prefix("")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Iterate over the keys below a prefix, which is a directory as to zarr's own stores.

        Siblings whose names begin with it do not count. See `list`.
        """
        client, directory = self._use(), directory_of(prefix)
        return client._iterate_async(
            functools.partial(client._directories.list_prefix, directory, documents=True)
        )

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Iterate over the bare names directly below a directory; see `list`."""
        return self._use().list_dir_async(prefix)
