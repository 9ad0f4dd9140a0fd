"""Client: a location, its settings and the process's engine; bytes of keys, sync and async."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Literal, Self, TypeAlias, TypeVar, overload

from zfast import connections
from zfast._core.buffers import Body
from zfast.arguments import Buffer, ByteRange
from zfast.config import setting
from zfast.connections import PoolManager, Retries, Timeouts
from zfast.directories import Directories
from zfast.errors import ZfastError
from zfast.keys import check_key
from zfast.locations.http import HTTPLocation
from zfast.operations import ObjectInfo, OnError, Operations
from zfast.planner import key_ranges
from zfast.policy import header_fields, policy_for
from zfast.running import Runner

__all__ = ["Client", "ObjectInfo"]

C = TypeVar("C", bound="Client")
# Client.list shadows the builtin inside its class.
_Bodies: TypeAlias = list[Body | None]
_Results: TypeAlias = list[Body | ZfastError | None]
_Items: TypeAlias = Iterable[tuple[str, ByteRange]]


class Client(Runner):
    """Reads and writes the objects below a URL, through the process's native engine.

    Parameters
    ----------
    url : str or HTTPLocation
        ``http(s)://[user:pass@]host[:port]/base/path[?query]``; the query goes with every request.
    headers : mapping of str to str, optional
        Fields of every request. To another origin a redirect takes them along, but for
        ``Authorization``, ``Proxy-Authorization``, ``Cookie`` and ``X-Amz-Security-Token``; where
        others are secrets, name all in
        ``retries=urllib3.Retry(..., remove_headers_on_redirect=[...])``.
    retries : urllib3.Retry or int, optional
        Which failures are tried again, how often and after which wait.
    timeout : urllib3.Timeout or float, optional
        Seconds to connect, to the first byte of an answer, and without progress.
    deadline : float, optional
        Seconds for each call as a whole, retries included; for each batch of a listing anew, and
        of a write that has to make directories.
    pool_manager : urllib3.PoolManager, optional
        Your own, with its proxies, certificates and pool sizes; its headers, retries and timeout
        stand where these are not given.
    ca_certs : str or os.PathLike, optional
        Path of a bundle of CA certificates to trust instead of the system's.
    max_concurrency : int, optional
        Requests of this client in flight at once; more than the process's limit raises that.
    missing_status : iterable of int, or int, optional
        HTTP statuses that mean "there is no such key"; nothing else ever does.
    index_cache_size : int, optional
        Bytes of shard indexes that are kept.
    coalesce_gap, coalesce_size : int, optional
        Of arrays, chunks of one shard at most so many bytes apart are one request, of at most so
        many bytes.
    suffix_ranges : bool, optional
        Whether the server answers ranges that are counted from the end. Where it does not, the
        size of the object is asked for first.

    Raises
    ------
    ConfigurationError
        If an argument or setting is not one that zfast can use.

    Notes
    -----
    A missing key is None where a method returns bytes. A ``byte_range`` is None, one of zarr's
    ``RangeByteRequest(start, end)`` (exclusive end), ``OffsetByteRequest`` and
    ``SuffixByteRequest``, or a tuple ``(start, end)`` with None on either side and a negative start
    for a suffix: for type checkers, a `zfast.ByteRange`. As with zarr's own stores, what lies
    behind the end of the object is left out: a range that begins there is empty, and so is one
    whose end is not behind its start. Of a type of your own it is refused where it says more than
    these do, say a length beside its offset.

    What is no key, byte range or buffer at all is a TypeError or ValueError of every method, before
    anything is sent.
    """

    def __init__(
        self,
        url: str | HTTPLocation,
        *,
        headers: Mapping[str, str] | None = None,
        retries: Retries = None,
        timeout: Timeouts = None,
        deadline: float | None = None,
        pool_manager: PoolManager | None = None,
        ca_certs: str | os.PathLike[str] | None = None,
        max_concurrency: int | None = None,
        missing_status: Iterable[int] | int | None = None,
        index_cache_size: int | None = None,
        coalesce_gap: int | None = None,
        coalesce_size: int | None = None,
        suffix_ranges: bool | None = None,
    ) -> None:
        usual = connections.usual_options(pool_manager)
        given = header_fields(headers)
        if missing_status is not None:
            missing_status = setting("missing_status", missing_status)
        self._options: dict[str, Any] = {
            "headers": dict(given) or None,
            "retries": retries,
            "timeout": timeout,
            "deadline": deadline,
            "pool_manager": pool_manager,
            "ca_certs": ca_certs,
            "max_concurrency": max_concurrency,
            "missing_status": missing_status,
            "index_cache_size": index_cache_size,
            "coalesce_gap": coalesce_gap,
            "coalesce_size": coalesce_size,
            "suffix_ranges": suffix_ranges,
        }
        given = header_fields(headers, usual.headers)
        retries = usual.retries if retries is None else retries
        timeout = usual.timeout if timeout is None else timeout
        self._location = url if isinstance(url, HTTPLocation) else HTTPLocation(url)
        if self._location.authorization and "authorization" not in map(str.lower, given):
            given["Authorization"] = self._location.authorization
        limits = connections.time_limits(timeout)
        self._deadline: float = setting("deadline", deadline) or 0.0
        self._max_concurrency: int = setting("max_concurrency", max_concurrency)
        self._index_cache_size: int = setting("index_cache_size", index_cache_size)
        self._coalesce_gap: int = setting("coalesce_gap", coalesce_gap)
        self._coalesce_size: int = setting("coalesce_size", coalesce_size)
        self._suffix_ranges: bool = setting("suffix_ranges", suffix_ranges)
        self._policy = policy_for(
            given,
            retries,
            limits,
            self._max_concurrency,
            setting("missing_status", missing_status),
            suffix_ranges=self._suffix_ranges,
            keys_only=True,
        )
        self._connections = connections.shared(pool_manager, ca_certs, limits.connect)
        self._operations = Operations(self._location, self._connections, self._policy)
        self._directories = Directories(self._operations)
        self._closed = False

    # ------------------------------------------------------------------------------- what it is

    @property
    def url(self) -> str:
        """The base URL without credentials and query string."""
        return self._location.url

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Refuse further calls, and give idle connections of one's own pool_manager back to it.

        Calls under way end as if nothing had happened. Closing twice does no harm.
        """
        self._closed = True
        if self._options["pool_manager"] is not None:
            self._connections.release_idle()

    def stats(self) -> dict[str, Any]:
        """Counters of this client; see `zfast.stats` for what they mean."""
        return self._policy.counters()

    def _identity(self) -> tuple[Any, ...]:
        # urllib3's Retry and Timeout compare by identity. A Retry's attributes are compared as what
        # they are: some are sets, which show their items in any order.
        options = {**self._options, "timeout": repr(self._options["timeout"])}
        retries = options["retries"]
        if hasattr(retries, "status_forcelist"):
            options["retries"] = type(retries), vars(retries)
        return self._location, options

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Client):
            return NotImplemented
        return type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._location))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._options["pool_manager"] is not None:
            raise TypeError(
                "a client with a pool_manager of its own cannot be pickled, since a urllib3 "
                "PoolManager cannot; pass ca_certs, timeout and retries instead"
            )
        return _rebuild, (type(self), self._location, self._options)

    def __copy__(self) -> Self:
        return _rebuild(type(self), self._location, self._options)

    def __deepcopy__(self, memo: Any) -> Self:
        # Nothing of it changes, and connections have no copies.
        return self.__copy__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------- reading

    def get(self, key: str, byte_range: ByteRange = None) -> Body | None:
        """Read a key, or a byte range of it.

        Parameters
        ----------
        key : str
            Below the base URL; not percent-encoded. A whole URL is a key like any other: those are
            for `cat_ranges`.
        byte_range : optional
            See the notes of `Client`.

        Returns
        -------
        Body or None
            None if the key is missing.

        Raises
        ------
        ZfastError
            If the bytes cannot be had.
        """
        return self._run(functools.partial(self._operations.get, key, byte_range))

    async def get_async(self, key: str, byte_range: ByteRange = None) -> Body | None:
        """Read a key; the async twin of `get`."""
        return await self._run_async(functools.partial(self._operations.get, key, byte_range))

    def get_ranges(self, key: str, ranges: Iterable[ByteRange]) -> _Bodies:
        """Read several byte ranges of one key at once.

        Parameters
        ----------
        key : str
            Below the base URL.
        ranges : iterable
            Byte ranges; see the notes of `Client`.

        Returns
        -------
        list of Body or None
            In the order of `ranges`; None throughout if the key is missing.

        Raises
        ------
        ZfastError
            The first failure; the other reads are cancelled.
        """
        items = [(key, byte_range) for byte_range in ranges]
        return self._run(functools.partial(self._operations.get_many, items, "raise"))

    async def get_ranges_async(self, key: str, ranges: Iterable[ByteRange]) -> _Bodies:
        """Read several byte ranges of one key at once; the async twin of `get_ranges`."""
        items = [(key, byte_range) for byte_range in ranges]
        return await self._run_async(functools.partial(self._operations.get_many, items, "raise"))

    @overload
    def get_many(self, items: _Items, on_error: Literal["raise"] = "raise") -> _Bodies: ...
    @overload
    def get_many(self, items: _Items, on_error: Literal["return"]) -> _Results: ...
    @overload
    def get_many(self, items: _Items, on_error: OnError) -> _Bodies | _Results: ...
    def get_many(self, items: _Items, on_error: OnError = "raise") -> _Bodies | _Results:
        """Read many keys, or ranges of them, as one batch.

        Parameters
        ----------
        items : iterable of (str, byte_range)
            See the notes of `Client`.
        on_error : "raise" or "return"
            Whether a failure ends the call, or takes the place of its bytes in the result.

        Returns
        -------
        list of Body, None or ZfastError
            In the order of `items`; None for a missing key.

        Raises
        ------
        ZfastError
            With "raise": the first failure; the other reads are cancelled.
        """
        return self._run(functools.partial(self._operations.get_many, key_ranges(items), on_error))

    @overload
    async def get_many_async(
        self, items: _Items, on_error: Literal["raise"] = "raise"
    ) -> _Bodies: ...
    @overload
    async def get_many_async(self, items: _Items, on_error: Literal["return"]) -> _Results: ...
    @overload
    async def get_many_async(self, items: _Items, on_error: OnError) -> _Bodies | _Results: ...
    async def get_many_async(
        self, items: _Items, on_error: OnError = "raise"
    ) -> _Bodies | _Results:
        """Read many keys as one batch; the async twin of `get_many`."""
        return await self._run_async(
            functools.partial(self._operations.get_many, key_ranges(items), on_error)
        )

    def read_into(self, key: str, byte_range: ByteRange, buffer: Buffer) -> int:
        """Read a key, or a byte range of it, into memory of your own.

        Parameters
        ----------
        key : str
            Below the base URL.
        byte_range : optional
            See the notes of `Client`.
        buffer : buffer
            Writable and C-contiguous, of any dtype but object; at least as long as what is read.

        Returns
        -------
        int
            Bytes written from the start of the buffer on.

        Raises
        ------
        ValueError
            If the buffer is read-only or not C-contiguous; or as for every method.
        TypeError
            If it is no buffer, or one of Python objects; or as for every method.
        MissingKeyError
            If the key is missing.
        ZfastError
            If the bytes cannot be had, or the buffer is too small. What it holds then is undefined.
        """
        return self._run(functools.partial(self._operations.read_into, key, byte_range, buffer))

    async def read_into_async(self, key: str, byte_range: ByteRange, buffer: Buffer) -> int:
        """Read into memory of your own; the async twin of `read_into`."""
        return await self._run_async(
            functools.partial(self._operations.read_into, key, byte_range, buffer)
        )

    def head(self, key: str) -> ObjectInfo | None:
        """Ask for size and validators of a key.

        Parameters
        ----------
        key : str
            Below the base URL; not percent-encoded.

        Returns
        -------
        ObjectInfo or None
            None if the key is missing.

        Raises
        ------
        ZfastError
            If the server does not tell.
        """
        (found,) = self._run(functools.partial(self._operations.head_many, [key]))
        return found

    async def head_async(self, key: str) -> ObjectInfo | None:
        """Ask for size and validators of a key; the async twin of `head`."""
        (found,) = await self._run_async(functools.partial(self._operations.head_many, [key]))
        return found

    # ---------------------------------------------------------------------------------- writing

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> bool:
        """Write a key with PUT.

        Parameters
        ----------
        key : str
            Below the base URL.
        data : buffer
            C-contiguous, of any dtype but object.
        if_absent : bool
            Write only if the key does not exist: by ``If-None-Match: *``, which not every server
            honours (nginx's WebDAV module overwrites all the same).

        Returns
        -------
        bool
            False if `if_absent` kept it from being written.

        Raises
        ------
        ValueError
            If the data is not C-contiguous, or the key names a directory.
        TypeError
            If it is no buffer, or one of Python objects.
        NotWritableError
            If the server takes no PUT.
        ZfastError
            If it failed; whether the server has written is then unknown.
        """
        return self._run(functools.partial(self._operations.put_many, [(key, data)], if_absent))

    async def put_async(self, key: str, data: Buffer, *, if_absent: bool = False) -> bool:
        """Write a key; the async twin of `put`."""
        return await self._run_async(
            functools.partial(self._operations.put_many, [(key, data)], if_absent)
        )

    def delete(self, key: str) -> None:
        """Delete a key; silent if it is missing.

        Parameters
        ----------
        key : str
            Below the base URL; not percent-encoded.

        Raises
        ------
        ValueError
            If the key names a directory: all that is in it would go.
        NotWritableError
            If the server takes no DELETE.
        ZfastError
            If it failed.
        """
        self._run(functools.partial(self._operations.delete_many, [key]))

    async def delete_async(self, key: str) -> None:
        """Delete a key; the async twin of `delete`."""
        await self._run_async(functools.partial(self._operations.delete_many, [key]))

    # ---------------------------------------------------------------------------------- listing

    def list(self, prefix: str = "") -> Iterator[str]:
        """Iterate over all keys that begin with `prefix`.

        Parameters
        ----------
        prefix : str
            Taken as it is: it need not end at a slash.

        Raises
        ------
        ListingError
            If the server offers no directory index pages.
        """
        return self._iterate(functools.partial(self._directories.list_prefix, check_key(prefix)))

    def list_async(self, prefix: str = "") -> AsyncIterator[str]:
        """Iterate over all keys that begin with `prefix`; the async twin of `list`."""
        return self._iterate_async(
            functools.partial(self._directories.list_prefix, check_key(prefix))
        )

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the bare names of what is directly below a prefix, each once.

        Parameters
        ----------
        prefix : str
            A directory, with or without a slash at its end.

        Raises
        ------
        ListingError
            If the server offers no directory index pages.
        """
        return self._iterate(functools.partial(self._directories.list_dir, check_key(prefix)))

    def list_dir_async(self, prefix: str = "") -> AsyncIterator[str]:
        """Iterate over what is directly below a prefix; the async twin of `list_dir`."""
        return self._iterate_async(functools.partial(self._directories.list_dir, check_key(prefix)))


def _rebuild(cls: type[C], location: HTTPLocation, options: dict[str, Any]) -> C:
    return cls(location, **options)
