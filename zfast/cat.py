"""cat_ranges: byte ranges of many URLs, of many origins, as one batch; sync and async alike.

The two faces differ only in how they wait for the batch.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterable
from typing import Any, Literal, SupportsIndex, TypeAlias, Unpack, overload

from zfast import connections, loops, runtime
from zfast._core.batch import Batch, Waker
from zfast._core.buffers import Body
from zfast._core.engine import Engine
from zfast._core.types import Method
from zfast.config import setting
from zfast.connections import Connections
from zfast.errors import ConfigurationError, ZfastError
from zfast.locations.http import HTTPLocation
from zfast.operations import OnError, check_on_error, first_failure, read_error
from zfast.options import RequestOptions, check_options
from zfast.planner import located, span
from zfast.policy import header_fields, policy_for
from zfast.range_support import range_support

__all__ = ["cat_ranges", "cat_ranges_async"]

# Origin and target of a URL that needs nothing done to it; no segment begins with a dot.
_PLAIN = re.compile(
    r"(https?://[a-z0-9.:\-]+)((?:/[A-Za-z0-9\-_~!$&'()*+,;=:@][A-Za-z0-9\-._~!$&'()*+,;=:@]*)+)"
)
_GET = int(Method.GET)

_Positions: TypeAlias = SupportsIndex | Iterable[SupportsIndex | None] | None
_Bodies: TypeAlias = list[Body]
_Results: TypeAlias = list[Body | ZfastError]


@overload
def cat_ranges(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: Literal["raise"] = "raise",
    **options: Unpack[RequestOptions],
) -> _Bodies: ...
@overload
def cat_ranges(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: Literal["return"],
    **options: Unpack[RequestOptions],
) -> _Results: ...
@overload
def cat_ranges(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: OnError,
    **options: Unpack[RequestOptions],
) -> _Bodies | _Results: ...
def cat_ranges(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: OnError = "raise",
    **options: Unpack[RequestOptions],
) -> _Bodies | _Results:
    """Read a byte range of each URL, all at once.

    The URLs may lead to any number of servers; each range is a request.

    Parameters
    ----------
    urls : iterable of str
        Whole URLs, percent-encoded where they need to be.
    starts, ends : iterable of int or None, int, or None
        First byte and exclusive end of each range, or one for all; None leaves a side open, and a
        negative start without an end is a suffix. numpy's arrays and integers will do.
    on_error : "raise" or "return"
        Whether a failure ends the call, or takes the place of its bytes in the result.
    headers, retries, timeout, deadline, pool_manager, ca_certs, max_concurrency, missing_status, \
suffix_ranges : optional
        See `Client`. ``headers`` go to every origin; credentials in a URL only to its own.

    Returns
    -------
    list of Body or ZfastError
        In the order of `urls`.

    Raises
    ------
    MissingKeyError
        With "raise": if a URL is missing.
    ZfastError
        With "raise": the first failure; the other reads are cancelled. Its ``index`` says which of
        `urls` it is.
    ConfigurationError
        If an option or setting is not one that zfast can use; with "raise", if a URL is none.
    ValueError
        If the lengths differ, or a range makes no sense.
    TypeError
        If `urls` is no iterable of URLs, a position no integer, or an option none.

    See Also
    --------
    cat_ranges_async : The same in a coroutine.

    Notes
    -----
    From fsspec's ``cat_ranges``
    (https://filesystem-spec.readthedocs.io/en/latest/api.html#fsspec.spec.AbstractFileSystem.cat_ranges)
    this differs: the first argument is called ``urls``, there is no ``max_gap``, and failures are
    raised unless told otherwise. A range that begins behind the end of the object, or does not end
    behind its own start, is empty and no failure; an end cannot be negative.
    """
    call = _Call("cat_ranges", urls, starts, ends, on_error, options)
    batch = call.batch()
    try:
        batch.run()
    finally:
        call.release()
    return call.results(batch)


@overload
async def cat_ranges_async(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: Literal["raise"] = "raise",
    **options: Unpack[RequestOptions],
) -> _Bodies: ...
@overload
async def cat_ranges_async(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: Literal["return"],
    **options: Unpack[RequestOptions],
) -> _Results: ...
@overload
async def cat_ranges_async(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: OnError,
    **options: Unpack[RequestOptions],
) -> _Bodies | _Results: ...
async def cat_ranges_async(
    urls: Iterable[str],
    starts: _Positions = None,
    ends: _Positions = None,
    *,
    on_error: OnError = "raise",
    **options: Unpack[RequestOptions],
) -> _Bodies | _Results:
    """Read a byte range of each URL, all at once; the async twin of `cat_ranges`.

    The event loop goes on meanwhile. Cancelling it cancels the requests.
    """
    call = _Call("cat_ranges_async", urls, starts, ends, on_error, options)
    hub = loops.hub(call.engine)
    batch = call.batch(hub.waker)
    try:
        await loops.wait(hub, batch)
    finally:
        call.release()
    return call.results(batch)


class _Call:
    """One call: what it asks for as a batch, and its results."""

    def __init__(
        self,
        name: str,
        urls: Iterable[str],
        starts: _Positions,
        ends: _Positions,
        on_error: OnError,
        options: RequestOptions,
    ) -> None:
        if isinstance(urls, str | bytes) or not isinstance(urls, Iterable):
            raise TypeError(f"urls is a {type(urls).__name__}; pass a list of URLs")
        check_on_error(on_error)
        check_options(name, options, RequestOptions)
        # By position from here on: a pandas Series has labels.
        self._urls = list(urls)
        count = len(self._urls)
        self._ranges = list(
            zip(_each(starts, count, "starts"), _each(ends, count, "ends"), strict=True)
        )
        self._raises = on_error == "raise"
        self._refused: dict[int, ConfigurationError] = {}
        self._read_options(options)

    def _read_options(self, options: RequestOptions) -> None:
        self._pool_manager = options.get("pool_manager")
        usual = connections.usual_options(self._pool_manager)
        retries, timeout = options.get("retries"), options.get("timeout")
        limits = connections.time_limits(usual.timeout if timeout is None else timeout)
        limit = setting("max_concurrency", options.get("max_concurrency"))
        self.engine = runtime.current(limit)
        fields = header_fields(options.get("headers"), usual.headers)
        self._authorized = "authorization" in map(str.lower, fields)
        self._policy = policy_for(
            fields,
            usual.retries if retries is None else retries,
            limits,
            limit,
            setting("missing_status", options.get("missing_status")),
            suffix_ranges=setting("suffix_ranges", options.get("suffix_ranges")),
            keys_only=False,
        )
        self._deadline: float = setting("deadline", options.get("deadline")) or 0.0
        self._connections = connections.shared(
            self._pool_manager, options.get("ca_certs"), limits.connect
        )

    def batch(self, waker: Waker | None = None) -> Batch:
        """The requests for all URLs that are such."""
        batch = Batch(self.engine, self._deadline, waker, fail_fast=self._raises)
        targets = _Targets(self._connections, self.engine)
        for index, (url, byte_range) in enumerate(zip(self._urls, self._ranges, strict=True)):
            try:
                self._add(batch, targets, url, byte_range)
            except ConfigurationError as error:
                if self._raises:
                    raise ConfigurationError(error.reason, index=index) from None
                # Another one: the traceback of this has frames, which have the results.
                self._refused[index] = ConfigurationError(error.reason, index=index)
            except (TypeError, ValueError) as error:
                # Not the URL itself, which may have a password in it.
                raise located(error, f"urls[{index}]") from None
        return batch

    def _add(
        self,
        batch: Batch,
        targets: _Targets,
        url: str,
        byte_range: tuple[int | None, int | None],
    ) -> None:
        origin, target, authorization = targets.of(url)
        if authorization is None or self._authorized:
            batch.add(self._policy, origin, _GET, target, *span(byte_range))
            return
        credentials = f"Authorization: {authorization}\r\n".encode("ascii")
        batch.add(self._policy, origin, _GET, target, *span(byte_range), credentials=credentials)

    def release(self) -> None:
        """Give idle connections back: there is no client that would when it is closed."""
        if self._pool_manager is not None:
            self._connections.release_idle()

    def results(self, batch: Batch) -> list[Any]:
        """What each URL gave, in order; raises the first failure where failures are raised."""
        asked = [at for at in range(len(self._urls)) if at not in self._refused]
        for read in batch.ranges_ignored():
            at = asked[read]
            location = HTTPLocation(self._urls[at].partition("#")[0])
            wanted = span(self._ranges[at])
            range_support(location.origin).note_ignored(location.target(""), wanted)
        bodies = batch.bodies()
        without = [read for read, body in enumerate(bodies) if body is None]
        if without and self._raises:
            # An error that is kept keeps this frame.
            del bodies
            batch.discard()
            failed = first_failure(batch)
            read = without[0] if failed is None else failed
            raise self._error(batch, read, asked[read])
        results: list[Any] = [None] * len(self._urls)
        for read, at in enumerate(asked):
            body = bodies[read]
            results[at] = body if body is not None else self._error(batch, read, at)
        for at, error in self._refused.items():
            results[at] = error
        return results

    def _error(self, batch: Batch, read: int, at: int) -> ZfastError:
        return read_error(batch, read, self._urls[at], None, self._ranges[at], index_of_url=at)


def _each(value: Any, count: int, name: str) -> list[int | None]:
    if value is None:
        return [None] * count
    try:
        return [operator.index(value)] * count
    except TypeError:
        # Then it is one for each.
        pass
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} is a {type(value).__name__}: give a list, one integer, or None")
    positions: list[int | None] = []
    # One more than there may be: it may have no end.
    for at, position in enumerate(itertools.islice(value, count + 1)):
        try:
            positions.append(None if position is None else operator.index(position))
        except TypeError:
            raise TypeError(
                f"{name}[{at}] is a {type(position).__name__}, but has to be an integer or None"
            ) from None
    if len(positions) != count:
        raise ValueError(
            f"{count} urls, but {len(positions)} {name}: give one for each, or one for all"
        )
    return positions


class _Targets:
    """Origins and targets of URLs; each origin is looked up once."""

    def __init__(self, connections: Connections, engine: Engine) -> None:
        self._connections = connections
        self._engine = engine
        self._origins: dict[str, int] = {}

    def of(self, url: str) -> tuple[int, bytes, str | None]:
        """Origin number, request target and Authorization value of a URL."""
        plain = _PLAIN.fullmatch(url) if isinstance(url, str) else None
        if plain is not None:
            # 1 µs instead of 10: the rule, in a list of some thousands of one server.
            known = self._origins.get(plain[1])
            if known is not None:
                return known, plain[2].encode("ascii"), None
        location = HTTPLocation(url.partition("#")[0] if isinstance(url, str) else url)
        origin = self._origins.get(location.origin)
        if origin is None:
            origin = self._connections.origin(
                self._engine, location.scheme, location.host, location.port
            )
            self._origins[location.origin] = origin
        return origin, location.target(""), location.authorization
