"""What a client does, step by step: each operation yields batches to be run and returns a result.

Written once for both faces, sync and async.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from zfast.locations import HTTPLocation, Listing
from zfast.planner import Span, bounds_within, grouped, located, span
from zfast.range_support import range_support
from zfast.steps import NewBatch, Steps

__all__ = [
    "ObjectInfo",
    "OnError",
    "Operations",
    "check_on_error",
    "fields_of",
    "first_failure",
    "read_error",
]

OnError = Literal["raise", "return"]

_GET, _HEAD, _PUT, _DELETE, _MKCOL = (
    int(m) for m in (Method.GET, Method.HEAD, Method.PUT, Method.DELETE, Method.MKCOL)
)
_OK, _MISSING, _CHANGED, _CANCELLED, _REDIRECT = (
    int(s) for s in (Status.OK, Status.MISSING, Status.CHANGED, Status.CANCELLED, Status.REDIRECT)
)
_NOT_FOUND, _CONFLICT = 404, 409
# How servers answer that do not know ranges from the end.
_NO_SUFFIXES = (400, 416, 500, 501)
_INDEX_FIELDS = b"Accept: application/json, text/html;q=0.9\r\n"
_ASKED_AT_ONCE = 256


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
    batch: Batch,
    index: int,
    url: str,
    key: str | None,
    byte_range: Any,
    method: str = "GET",
    index_of_url: int | None = None,
) -> ZfastError:
    """Build the error of a completed read that is not OK."""
    outcome = batch.outcome(index)
    details = [outcome["detail"]] if outcome["detail"] else []
    if outcome["redirected_to"] and outcome["code"] != _REDIRECT:
        details.append(f"redirected to {shortened(redact(outcome['redirected_to']))}")
    if outcome["counts_from_end"] and outcome["status"] in _NO_SUFFIXES:
        details.append("a server that knows no ranges from the end is read by suffix_ranges=False")
    return error_for(
        Status(outcome["code"]),
        url=url,
        key=key,
        byte_range=byte_range,
        status=outcome["status"],
        attempts=outcome["attempts"],
        detail="; ".join(details),
        method=method,
        index=index_of_url,
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
        self.ranges = range_support(location.origin)
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

    def error(
        self, batch: Batch, index: int, key: str, byte_range: Any = None, method: str = "GET"
    ) -> ZfastError:
        """Build the error of a completed read of `key`; see `read_error`."""
        return read_error(batch, index, self.location.display(key), key, byte_range, method)

    def get(self, key: str, byte_range: Any, new_batch: NewBatch) -> Steps[Body | None]:
        """The body, None where missing."""
        reads = self._reads([(key, byte_range)])
        batch = self._added(reads, new_batch())
        yield batch
        self.ranges.learn(batch, reads.__getitem__)
        if batch.failures():
            batch.discard()
            raise self.error(batch, 0, key, byte_range)
        return batch.body(0)

    def get_many(
        self, items: Sequence[tuple[str, Any]], on_error: OnError, new_batch: NewBatch
    ) -> Steps[list[Any]]:
        """Bodies, None where missing, errors where `on_error` is "return"."""
        check_on_error(on_error)
        reads = self._reads(items)
        if len(items) > 1 and self.ranges.suspect:
            return (yield from self._get_grouped(reads, items, on_error, new_batch))
        batch = self._added(reads, new_batch(fail_fast=on_error == "raise"))
        yield batch
        return self._results(batch, reads, items, on_error)

    def _reads(self, items: Sequence[tuple[str, Any]]) -> list[tuple[bytes, Span]]:
        target = self.location.target
        reads: list[tuple[bytes, Span]] = []
        try:
            for key, byte_range in items:
                reads.append((target(key), span(byte_range)))
        except (TypeError, ValueError) as error:
            if len(items) == 1 or isinstance(error, ZfastError):
                raise
            index = len(reads)
            raise located(error, f"read {index} of {items[index][0]!r:.80}") from None
        return reads

    def _added(self, reads: Iterable[tuple[bytes, Span]], batch: Batch) -> Batch:
        policy, origin, add = self.policy, self.origin(), batch.add
        for target, wanted in reads:
            add(policy, origin, _GET, target, *wanted)
        return batch

    def _results(
        self,
        batch: Batch,
        reads: Sequence[tuple[bytes, Span]],
        items: Sequence[tuple[str, Any]],
        on_error: OnError,
    ) -> list[Any]:
        self.ranges.learn(batch, reads.__getitem__)
        failures = batch.failures()
        if failures and on_error == "raise":
            # An error that is kept keeps the batch, by the frames of its traceback.
            batch.discard()
            first = first_failure(batch)
            assert first is not None
            raise self.error(batch, first, *items[first])
        results: list[Any] = batch.bodies()
        for index in failures:
            results[index] = self.error(batch, index, *items[index])
        return results

    def _get_grouped(
        self,
        reads: Sequence[tuple[bytes, Span]],
        items: Sequence[tuple[str, Any]],
        on_error: OnError,
        new_batch: NewBatch,
    ) -> Steps[list[Any]]:
        groups = grouped(dict(enumerate(reads)), self.ranges.ignores)
        together = [(reads[members[0]][0], asked) for asked, members in groups]
        batch = self._added(together, new_batch(fail_fast=on_error == "raise"))
        yield batch
        firsts = [items[members[0]] for _, members in groups]
        results = self._results(batch, together, firsts, on_error)
        found: list[Any] = [None] * len(items)
        for index, (asked, members) in enumerate(groups):
            result = results[index]
            for at in members:
                wanted = reads[at][1]
                if isinstance(result, Body) and wanted != asked:
                    found[at] = result.part(*bounds_within(asked, wanted, len(result)))
                elif result is None or isinstance(result, Body):
                    found[at] = result
                else:
                    found[at] = self.error(batch, index, *items[at])
        return found

    def read_into(self, key: str, byte_range: Any, buffer: Any, new_batch: NewBatch) -> Steps[int]:
        """Bytes read into `buffer`."""
        if buffer is None:
            raise TypeError("the buffer to read into is None")
        batch = new_batch()
        read = self.location.target(key), span(byte_range)
        batch.add(self.policy, self.origin(), _GET, read[0], *read[1], buffer)
        yield batch
        self.ranges.learn(batch, lambda _: read)
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
                if outcome["code"] != _MISSING and not outcome["directory"]:
                    raise self.error(batch, index, key, method="HEAD")
                found.append(None)
        return found

    def index_pages(self, targets: Iterable[bytes], batch: Batch) -> Batch:
        """A batch that asks for the index pages of directories, by their targets."""
        for target in targets:
            batch.add(
                self.policy, self.origin(), _GET, target, fields=_INDEX_FIELDS, keep_head=True
            )
        return batch

    def listing(self, batch: Batch, index: int, target: bytes) -> Listing | None:
        """What an index page of `index_pages` lists; None where none came of a known kind."""
        body = batch.body(index) if batch.code(index) == _OK else None
        if body is None:
            return None
        outcome = batch.outcome(index)
        content_type = fields_of(outcome["head"]).get("content-type", "")
        return self.location.parse_listing(
            bytes(body), content_type, target, outcome["redirected_to"]
        )

    def heads(self, targets: Iterable[bytes], new_batch: NewBatch) -> Steps[list[dict[str, Any]]]:
        """What came of a HEAD of each target."""
        batch = new_batch()
        for target in targets:
            batch.add(self.policy, self.origin(), _HEAD, target)
        if not len(batch):
            return []
        yield batch
        return [batch.outcome(index) for index in range(len(batch))]

    def put_many(
        self,
        items: Sequence[tuple[str, Any]],
        if_absent: bool,
        new_batch: NewBatch,
        *,
        repeatable: bool | None = None,
    ) -> Steps[bool]:
        """False where `if_absent` kept one from being written.

        Sent twice, a conditional PUT may find what it has written itself: it is `repeatable` only
        for who does not ask whose it is.
        """
        repeatable = not if_absent if repeatable is None else repeatable
        for key, data in items:
            if check_key(key):
                # The empty one is the base URL, which may be an object's.
                check_object(key)
            if data is None:
                raise TypeError(f"the content of {key!r} is None, not a buffer of bytes")
        batch = yield from self._put(items, if_absent, repeatable, new_batch)
        failed = first_failure(batch)
        if failed is not None and batch.outcome(failed)["status"] in (_CONFLICT, _NOT_FOUND):
            # WebDAV leaves it to the client to make the directories, and asks for them by 409 (RFC
            # 4918, section 9.7.1); servers that are written in Go by 404.
            items = [item for index, item in enumerate(items) if batch.code(index) != _OK]
            yield from self._make_directories([key for key, _ in items], new_batch)
            batch = yield from self._put(items, if_absent, repeatable, new_batch)
            failed = first_failure(batch)
        if failed is None:
            return True
        key = items[failed][0]
        if if_absent and batch.code(failed) == _CHANGED:
            return False
        if if_absent and batch.outcome(failed)["status"] == _CONFLICT:
            # As Azure says that there is one.
            (found,) = yield from self.heads([self.location.target(key)], new_batch)
            if found["code"] == _OK and not found["directory"]:
                return False
        raise self.error(batch, failed, key, method="PUT")

    def _put(
        self,
        items: Sequence[tuple[str, Any]],
        if_absent: bool,
        repeatable: bool,
        new_batch: NewBatch,
    ) -> Steps[Batch]:
        batch = new_batch(fail_fast=True)
        origin = self.origin()
        targets: list[bytes] = []
        for key, data in items:
            target = self.location.target(key)
            targets.append(target)
            batch.add(
                self.policy,
                origin,
                _PUT,
                target,
                fields=b"If-None-Match: *\r\n" if if_absent else b"",
                content=data,
                repeatable=repeatable,
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
