"""cat_ranges: byte ranges of many URLs, of many origins, as one batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from zfast import connections, runtime
from zfast._core.batch import Batch
from zfast._core.types import Method, Status
from zfast.config import setting
from zfast.errors import ConfigurationError, error_for
from zfast.locations.http import HTTPLocation
from zfast.operations import OnError, check_on_error, first_failure, read_error
from zfast.planner import located, span
from zfast.policy import header_fields, policy_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zfast._core.engine import Engine
    from zfast._core.policy import Policy
    from zfast.connections import Connections, PoolManager, Retries, Timeouts

__all__ = ["cat_ranges"]

# Origin and target of a URL that needs nothing done to it; no segment begins with a dot.
_PLAIN = re.compile(
    r"(https?://[a-z0-9.:\-]+)((?:/[A-Za-z0-9\-_~!$&'()*+,;=:@][A-Za-z0-9\-._~!$&'()*+,;=:@]*)+)"
)
_GET = int(Method.GET)
_MISSING = int(Status.MISSING)


def cat_ranges(
    urls: Sequence[str],
    starts: int | Sequence[int | None] | None = None,
    ends: int | Sequence[int | None] | None = None,
    *,
    on_error: OnError = "raise",
    headers: Mapping[str, str] | None = None,
    retries: Retries = None,
    timeout: Timeouts = None,
    deadline: float | None = None,
    pool_manager: PoolManager | None = None,
    ca_certs: str | None = None,
    max_concurrency: int | None = None,
    missing_status: Iterable[int] | int | None = None,
) -> list[Any]:
    """Read a byte range of each URL, all at once.

    The URLs may lead to any number of servers; each range is a request. The arguments are those of
    fsspec's ``cat_ranges``
    (https://filesystem-spec.readthedocs.io/en/latest/api.html#fsspec.spec.AbstractFileSystem.cat_ranges),
    which returns failures unless told otherwise, takes negative ends, and fails where a range
    begins behind the end of an object: here that is empty. Options are `Client`'s.

    Parameters
    ----------
    urls : sequence of str
        Whole URLs, percent-encoded where they need to be.
    starts, ends : sequence of int or None, int, or None
        First byte and exclusive end of each range, or one for all; None leaves a side open, and a
        negative start without an end is a suffix.
    on_error : "raise" or "return"
        Whether a failure ends the call, or takes the place of its bytes in the result.
    headers, retries, timeout, deadline, pool_manager, ca_certs, max_concurrency, missing_status
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
        With "raise": the first failure; the other reads are cancelled.
    ValueError
        If the lengths differ or a range makes no sense.
    """
    if isinstance(urls, str | bytes):
        raise TypeError(f"urls is a {type(urls).__name__}; pass a list of URLs")
    check_on_error(on_error)
    # By position from here on: a pandas Series has labels.
    urls = list(urls)
    count = len(urls)
    ranges = list(zip(_each(starts, count, "starts"), _each(ends, count, "ends"), strict=True))
    usual = connections.usual_options(pool_manager)
    retries = usual.retries if retries is None else retries
    limits = connections.time_limits(usual.timeout if timeout is None else timeout)
    limit = setting("max_concurrency", max_concurrency)
    engine = runtime.current()
    if limit > engine.max_in_flight:
        engine.raise_limits(limit, runtime.connection_limit(limit))
    fields = header_fields(headers, usual.headers)
    policy = policy_for(
        fields,
        retries,
        limits,
        limit,
        setting("missing_status", missing_status),
        keys_only=False,
    )
    ours = connections.shared(pool_manager, ca_certs, limits.connect)
    targets = _Targets(ours, engine)
    batch = Batch(engine, setting("deadline", deadline) or 0.0, fail_fast=on_error == "raise")
    authorized = "authorization" in map(str.lower, fields)
    results: list[Any] = [None] * count
    asked = []
    for index, (url, byte_range) in enumerate(zip(urls, ranges, strict=True)):
        try:
            _add(batch, policy, targets, url, byte_range, authorized)
        except ConfigurationError as error:
            if on_error == "raise":
                raise
            results[index] = error
        except (TypeError, ValueError) as error:
            # Not the URL itself, which may have a password in it.
            raise located(error, f"urls[{index}]") from None
        else:
            asked.append(index)
    if asked:
        try:
            batch.run()
        finally:
            if pool_manager is not None:
                # There is no client that would give them back when it is closed.
                ours.release_idle()
    read = _results(batch, [urls[at] for at in asked], [ranges[at] for at in asked], on_error)
    for at, result in zip(asked, read, strict=True):
        results[at] = result
    return results


def _each(value: Any, count: int, name: str) -> Sequence[int | None]:
    if value is None or isinstance(value, Integral):
        return [None if value is None else int(value)] * count
    if not hasattr(value, "__len__"):
        raise TypeError(f"{name} is a {type(value).__name__}: give a list, one integer, or None")
    if len(value) != count:
        raise ValueError(
            f"{count} urls, but {len(value)} {name}: give one for each, or one for all"
        )
    return value  # type: ignore[no-any-return]


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


def _add(
    batch: Batch,
    policy: Policy,
    targets: _Targets,
    url: str,
    byte_range: tuple[int | None, int | None],
    authorized: bool,
) -> None:
    origin, target, authorization = targets.of(url)
    if authorization is None or authorized:
        batch.add(policy, origin, _GET, target, *span(byte_range))
        return
    credentials = f"Authorization: {authorization}\r\n".encode("ascii")
    batch.add(policy, origin, _GET, target, *span(byte_range), credentials=credentials)


def _results(
    batch: Batch, urls: Sequence[str], ranges: Sequence[Any], on_error: OnError
) -> list[Any]:
    results: list[Any] = batch.bodies()
    failed = set(batch.failures())
    first = first_failure(batch)
    for index, body in enumerate(results):
        if body is not None:
            continue
        if index in failed:
            error = read_error(batch, index, urls[index], None, ranges[index])
        else:
            error = error_for(
                Status.MISSING,
                url=urls[index],
                byte_range=ranges[index],
                status=batch.outcome(index)["status"],
                attempts=batch.outcome(index)["attempts"],
            )
        if on_error == "raise" and (first is None or index == first):
            raise error
        results[index] = error
    return results
