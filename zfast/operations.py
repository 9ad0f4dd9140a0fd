"""What a client does, step by step: each operation yields batches to be run and returns a result.

Written once for both faces: how the batches are waited for is the client's business.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from zfast import runtime
from zfast._core.batch import Batch
from zfast._core.buffers import Body
from zfast._core.engine import Engine
from zfast._core.http1 import parse_fields
from zfast._core.policy import Policy
from zfast._core.shard_indexes import ShardIndexes
from zfast._core.types import Method, Status
from zfast.connections import Connections
from zfast.errors import ZfastError, error_for, redact, shortened
from zfast.keys import check_key, check_object, directories_above
from zfast.locations.http import HTTPLocation
from zfast.planner import bounds, grouped, located, span

__all__ = [
    "Course",
    "NewBatch",
    "ObjectInfo",
    "OnError",
    "Operations",
    "Steps",
    "check_on_error",
    "fields_of",
    "first_failure",
    "read_error",
]

_log = logging.getLogger("zfast")

T = TypeVar("T")
OnError = Literal["raise", "return"]
NewBatch = Callable[..., Batch]
Steps = Generator[Batch, None, T]

_GET, _HEAD, _PUT, _DELETE, _MKCOL = (
    int(m) for m in (Method.GET, Method.HEAD, Method.PUT, Method.DELETE, Method.MKCOL)
)
_OK, _MISSING, _CHANGED, _CANCELLED, _REDIRECT = (
    int(s) for s in (Status.OK, Status.MISSING, Status.CHANGED, Status.CANCELLED, Status.REDIRECT)
)
_BAD_REQUEST, _NOT_FOUND, _CONFLICT = 400, 404, 409
_ASKED_AT_ONCE = 256
# So long whole objects are asked for where a range was ignored: see WHOLE_SECONDS of the core.
_WHOLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a HEAD says of an object.

    Attributes
    ----------
    size : int or None
        Bytes, None where the server does not say.
    etag, last_modified, content_type : str or None
        The fields of these names (RFC 9110, section 8), as they came.
    """

    size: int | None
    etag: str | None
    last_modified: str | None
    content_type: str | None


def check_on_error(on_error: Any) -> None:
    """Raise ValueError unless it is one of the two."""
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is {on_error!r}, but has to be 'raise' or 'return'")


def read_error(
    batch: Batch, index: int, url: str, key: str | None, byte_range: Any, method: str = "GET"
) -> ZfastError:
    """Build the error of a completed read that is neither OK nor missing."""
    outcome = batch.outcome(index)
    details = [outcome["detail"]] if outcome["detail"] else []
    if outcome["redirected_to"] and outcome["code"] != _REDIRECT:
        details.append(f"redirected to {shortened(redact(outcome['redirected_to']))}")
    return error_for(
        Status(outcome["code"]),
        url=url,
        key=key,
        byte_range=byte_range,
        status=outcome["status"],
        attempts=outcome["attempts"],
        detail="; ".join(details),
        method=method,
    )


def first_failure(batch: Batch) -> int | None:
    """Index of the read that failed first; what its failure cancelled is not what failed."""
    failures = batch.failures()
    return next((i for i in failures if batch.code(i) != _CANCELLED), next(iter(failures), None))


class Operations:
    """The operations on the objects of one location.

    Parameters
    ----------
    location : HTTPLocation
        Where they are.
    connections : Connections
        How to get there.
    policy : Policy
        What all requests have in common.
    """

    def __init__(self, location: HTTPLocation, connections: Connections, policy: Policy) -> None:
        self.location = location
        self.connections = connections
        self.policy = policy
        self._whole_until = 0.0
        self._indexes: ShardIndexes | None = None

    def origin(self) -> int:
        """The engine's number of the location's origin."""
        there = self.location
        return self.connections.origin(runtime.current(), there.scheme, there.host, there.port)

    def shard_indexes(self, engine: Engine, limit: int, suffix_ranges: bool) -> ShardIndexes:
        """The shard indexes that were read through this engine so far; see `ShardIndexes`."""
        indexes = self._indexes
        if indexes is None or indexes.engine is not engine:
            # Of loops in several threads that all read their first, each has to find the same.
            with runtime.fork_guard:
                indexes = self._indexes
                if indexes is None or indexes.engine is not engine:
                    indexes = self._indexes = ShardIndexes(engine, limit, suffix_ranges)
        return indexes

    def _change(self, batch: Batch, targets: Sequence[bytes]) -> Steps[None]:
        # Afterwards no index of what was there before is known, nor being read; also where nobody
        # waited for the end of it, since the server may have written all the same.
        try:
            yield batch
        finally:
            if self._indexes is not None:
                for target in targets:
                    self._indexes.forget(target)

    @property
    def ignores_ranges(self) -> bool:
        """Whether the origin has ignored a range lately: reads of one object are then one request.

        That may have been a cache on the way, or one key of many: not for good.
        """
        return self._whole_until > 0 and time.monotonic() < self._whole_until

    def learn(self, batch: Batch) -> None:
        """Note whether the origin ignored a range of a complete batch."""
        if batch.range_ignored:
            is_news = not self._whole_until
            self._whole_until = time.monotonic() + _WHOLE_SECONDS
            if is_news:
                _log.warning(
                    "%s ignores byte ranges: whole objects come, of which parts are taken",
                    self.location.origin,
                )

    def error(
        self, batch: Batch, index: int, key: str, byte_range: Any = None, method: str = "GET"
    ) -> ZfastError:
        """Build the error of a completed read of `key`; see `read_error`."""
        return read_error(batch, index, self.location.display(key), key, byte_range, method)

    def get(self, key: str, byte_range: Any, new_batch: NewBatch) -> Steps[Body | None]:
        """The body, None where missing."""
        batch = new_batch()
        self._add_reads(batch, [(key, byte_range)])
        yield batch
        if batch.failures():
            if (yield from self.is_below_file(key, batch.outcome(0)["status"], new_batch)):
                return None
            raise self.error(batch, 0, key, byte_range)
        self.learn(batch)
        return batch.body(0)

    def get_many(
        self, items: Sequence[tuple[str, Any]], on_error: OnError, new_batch: NewBatch
    ) -> Steps[list[Any]]:
        """Bodies, None where missing, errors where `on_error` is "return"."""
        check_on_error(on_error)
        if self.ignores_ranges and len(items) > 1:
            return (yield from self._get_grouped(items, on_error, new_batch))
        batch = new_batch(fail_fast=on_error == "raise")
        self._add_reads(batch, items)
        yield batch
        return self._results(batch, items, on_error)

    def _add_reads(self, batch: Batch, items: Sequence[tuple[str, Any]]) -> None:
        policy, origin, target, add = self.policy, self.origin(), self.location.target, batch.add
        try:
            for key, byte_range in items:
                add(policy, origin, _GET, target(key), *span(byte_range))
        except (TypeError, ValueError) as error:
            if len(items) == 1 or isinstance(error, ZfastError):
                raise
            index = len(batch)
            raise located(error, f"read {index} of {items[index][0]!r:.80}") from None

    def _results(
        self, batch: Batch, items: Sequence[tuple[str, Any]], on_error: OnError
    ) -> list[Any]:
        failures = batch.failures()
        if failures and on_error == "raise":
            first = first_failure(batch)
            assert first is not None
            raise self.error(batch, first, *items[first])
        results: list[Any] = batch.bodies()
        for index in failures:
            results[index] = self.error(batch, index, *items[index])
        self.learn(batch)
        return results

    def _get_grouped(
        self, items: Sequence[tuple[str, Any]], on_error: OnError, new_batch: NewBatch
    ) -> Steps[list[Any]]:
        # The origin sends the whole object for every range: one request a key, sliced here.
        wanted = [span(byte_range) for _, byte_range in items]
        keys = [key for key, _ in items]
        groups = grouped(zip(keys, wanted, strict=True))
        batch = new_batch(fail_fast=on_error == "raise")
        origin = self.origin()
        for asked, members in groups:
            batch.add(self.policy, origin, _GET, self.location.target(keys[members[0]]), *asked)
        yield batch
        results = self._results(batch, [items[members[0]] for _, members in groups], on_error)
        found: list[Any] = [None] * len(items)
        for index, (asked, members) in enumerate(groups):
            result = results[index]
            for at in members:
                if isinstance(result, Body):
                    exact = asked == wanted[at]
                    found[at] = result if exact else result.part(*bounds(wanted[at], len(result)))
                elif result is not None:
                    found[at] = self.error(batch, index, *items[at])
        return found

    def read_into(self, key: str, byte_range: Any, buffer: Any, new_batch: NewBatch) -> Steps[int]:
        """Bytes read into `buffer`."""
        if buffer is None:
            raise TypeError("the buffer to read into is None")
        batch = new_batch()
        target = self.location.target(key)
        batch.add(self.policy, self.origin(), _GET, target, *span(byte_range), buffer)
        yield batch
        outcome = batch.outcome(0)
        if outcome["code"] != _OK:
            raise self.error(batch, 0, key, byte_range)
        return int(outcome["delivered"])

    def head_many(self, keys: Sequence[str], new_batch: NewBatch) -> Steps[list[ObjectInfo | None]]:
        """Size and validators of each key, None where missing."""
        found: list[ObjectInfo | None] = []
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            some = keys[start : start + _ASKED_AT_ONCE]
            batch = new_batch()
            for key in some:
                target = self.location.target(key)
                batch.add(self.policy, self.origin(), _HEAD, target, keep_head=True)
            yield batch
            for index, key in enumerate(some):
                outcome = batch.outcome(index)
                if outcome["code"] == _OK:
                    found.append(_info(outcome))
                    continue
                missing = outcome["code"] == _MISSING or outcome["directory"]
                if not missing and not (
                    yield from self.is_below_file(key, outcome["status"], new_batch)
                ):
                    raise self.error(batch, index, key, method="HEAD")
                found.append(None)
        return found

    def is_below_file(self, key: str, status: int | None, new_batch: NewBatch) -> Steps[bool]:
        """Whether a key that was answered by this status is missing, since one above it is a file.

        zarr looks for nodes in all that is listed. For what is below a file Caddy answers 400,
        which may mean anything; but who asks for the directory of that name it sends to the file,
        and the file is there.
        """
        names = list(directories_above(key))
        if status != _BAD_REQUEST or not names:
            return False
        location = self.location
        asked = yield from self._heads(map(location.directory_target, names), new_batch)
        files = [
            name
            for name, outcome in zip(names, asked, strict=True)
            # Refused as it was redirected: where a redirect led elsewhere, the status is that of
            # what is there.
            if outcome["code"] == _MISSING and 300 <= (outcome["status"] or 0) < 400
        ]
        asked = yield from self._heads(map(location.target, files), new_batch)
        return any(outcome["code"] == _OK and not outcome["directory"] for outcome in asked)

    def _heads(self, targets: Iterable[bytes], new_batch: NewBatch) -> Steps[list[dict[str, Any]]]:
        batch = new_batch()
        for target in targets:
            batch.add(self.policy, self.origin(), _HEAD, target)
        if not len(batch):
            return []
        yield batch
        return [batch.outcome(index) for index in range(len(batch))]

    def put_many(
        self, items: Sequence[tuple[str, Any]], if_absent: bool, new_batch: NewBatch
    ) -> Steps[bool]:
        """False where `if_absent` kept one from being written."""
        for key, data in items:
            if check_key(key):
                # The empty one is the base URL, which may be an object's.
                check_object(key)
            if data is None:
                raise TypeError(f"the content of {key!r} is None, not a buffer of bytes")
        batch = yield from self._put(items, if_absent, new_batch)
        failed = first_failure(batch)
        if failed is not None and batch.outcome(failed)["status"] in (_CONFLICT, _NOT_FOUND):
            # WebDAV leaves it to the client to make the directories, and asks for them by 409 (RFC
            # 4918, section 9.7.1); servers that are written in Go by 404.
            items = [item for index, item in enumerate(items) if batch.code(index) != _OK]
            yield from self._make_directories([key for key, _ in items], new_batch)
            batch = yield from self._put(items, if_absent, new_batch)
            failed = first_failure(batch)
        if failed is None:
            return True
        key = items[failed][0]
        if if_absent and batch.code(failed) == _CHANGED:
            return False
        if if_absent and batch.outcome(failed)["status"] == _CONFLICT:
            # As Azure says that there is one.
            (found,) = yield from self._heads([self.location.target(key)], new_batch)
            if found["code"] == _OK and not found["directory"]:
                return False
        raise self.error(batch, failed, key, method="PUT")

    def _put(
        self, items: Sequence[tuple[str, Any]], if_absent: bool, new_batch: NewBatch
    ) -> Steps[Batch]:
        batch = new_batch(fail_fast=True)
        origin = self.origin()
        targets: list[bytes] = []
        for key, data in items:
            # Sent twice, a conditional PUT would find what it has written itself.
            target = self.location.target(key)
            targets.append(target)
            batch.add(
                self.policy,
                origin,
                _PUT,
                target,
                fields=b"If-None-Match: *\r\n" if if_absent else b"",
                content=data,
                repeatable=not if_absent,
            )
        yield from self._change(batch, targets)
        return batch

    def _make_directories(self, keys: Sequence[str], new_batch: NewBatch) -> Steps[None]:
        # Those of the keys, and the base with what is missing above it. What cannot be made the
        # next PUT tells of.
        above = [target for _, target in self.location.ancestors()]
        missing = [self.location.directory_target("")]
        while (yield from self._made(missing[-1:], new_batch)) == [_CONFLICT] and above:
            missing.append(above.pop(0))
        for target in reversed(missing[:-1]):
            yield from self._made([target], new_batch)
        by_depth: dict[int, dict[str, None]] = {}
        for key in keys:
            for depth, name in enumerate(directories_above(key)):
                by_depth.setdefault(depth, {})[name] = None
        for _, names in sorted(by_depth.items()):
            yield from self._made(map(self.location.directory_target, names), new_batch)

    def _made(self, targets: Iterable[bytes], new_batch: NewBatch) -> Steps[list[int | None]]:
        batch = new_batch()
        for target in targets:
            batch.add(self.policy, self.origin(), _MKCOL, target)
        yield batch
        return [batch.outcome(index)["status"] for index in range(len(batch))]

    def delete_many(self, keys: Sequence[str], new_batch: NewBatch) -> Steps[None]:
        """Silent where missing."""
        for key in keys:
            # With a directory all that is in it would go.
            check_object(key)
        batch = new_batch(fail_fast=True)
        origin = self.origin()
        targets = [self.location.target(key) for key in keys]
        for target in targets:
            batch.add(self.policy, origin, _DELETE, target)
        yield from self._change(batch, targets)
        failed = first_failure(batch)
        if failed is not None:
            raise self.error(batch, failed, keys[failed], method="DELETE")


def _info(outcome: Mapping[str, Any]) -> ObjectInfo:
    fields = fields_of(outcome["head"])
    names = ("etag", "last-modified", "content-type")
    return ObjectInfo(outcome["object_size"], *map(fields.get, names))


def fields_of(head: bytes) -> dict[str, str]:
    """The fields of a response head, by their names in lower case."""
    return {name.lower(): value for name, value in parse_fields(head)}


class Course(Generic[T]):
    """An operation under way: its batches one after another, then its result."""

    result: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps

    def close(self) -> None:
        """End it where it is: what it has begun is seen to at once, not when it is collected."""
        with contextlib.suppress(ValueError):  # a thread that was left alone is at it
            self._steps.close()

    def advance(self) -> Batch | None:
        """The next batch to run, None when there is a result."""
        try:
            return next(self._steps)
        except StopIteration as stop:
            self.result = stop.value
            return None
