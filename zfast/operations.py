"""What a client does, step by step: each operation yields batches to be run and returns a result.

Written once for both faces: how the batches are waited for is the client's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from zfast import runtime
from zfast._core.batch import Batch
from zfast._core.buffers import Body
from zfast._core.engine import Engine
from zfast._core.http1 import parse_fields
from zfast._core.policy import Policy
from zfast._core.shard_indexes import ShardIndexes
from zfast._core.types import Method, Status
from zfast.connections import Connections
from zfast.errors import ListingError, ZfastError, error_for
from zfast.locations.http import HTTPLocation
from zfast.locations.listing import Listing
from zfast.planner import bounds, grouped, span

__all__ = [
    "ZARR_2_DOCUMENTS",
    "NewBatch",
    "ObjectInfo",
    "OnError",
    "Operations",
    "Steps",
    "first_failure",
    "read_error",
]

_log = logging.getLogger("zfast")

T = TypeVar("T")
OnError = Literal["raise", "return"]
NewBatch = Callable[..., Batch]
Steps = Generator[Batch, None, T]

_INDEX_FIELDS = b"Accept: application/json, text/html;q=0.9\r\n"
_GET, _HEAD, _PUT, _DELETE = (int(m) for m in (Method.GET, Method.HEAD, Method.PUT, Method.DELETE))
_OK, _MISSING, _CHANGED, _CANCELLED, _OVERLONG = (
    int(s) for s in (Status.OK, Status.MISSING, Status.CHANGED, Status.CANCELLED, Status.OVERLONG)
)
ZARR_2_DOCUMENTS = frozenset((".zarray", ".zattrs", ".zgroup", ".zmetadata"))
"""What describes the nodes of zarr format 2; nginx leaves such names out of its index pages."""
_DOCUMENTS = ("zarr.json", *sorted(ZARR_2_DOCUMENTS))
_LISTED_AT_ONCE = 256
_NOT_FOUND = 404
_PROBE = "zfast-probe"
# What a server without index pages answers for a directory: nginx and Apache 403, others 405.
_NO_INDEX = (401, 403, 405)
# What one answers for a name that it keeps to itself; and, below a file, Caddy.
_REFUSED = (400, 401, 403, 405)
# What one answers that keeps its directories, has none, or takes no DELETE, where all listed keys
# are gone and only what no page shows is left; another status is a failure, and told.
_NOT_DELETED = (400, 403, 405, 409, 501)


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


def read_error(
    batch: Batch, index: int, url: str, key: str | None, byte_range: Any, method: str = "GET"
) -> ZfastError:
    """Build the error of a completed read that is neither OK nor missing."""
    outcome = batch.outcome(index)
    detail = outcome["detail"]
    if outcome["code"] == _OVERLONG and outcome["capacity"] is not None:
        detail = f"the buffer has {outcome['capacity']} bytes"
    return error_for(
        Status(outcome["code"]),
        url=url,
        key=key,
        byte_range=byte_range,
        status=outcome["status"],
        attempts=outcome["attempts"],
        detail=detail,
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
        self.ignores_ranges = False
        self._indexes: ShardIndexes | None = None
        self._lists = False

    def origin(self) -> int:
        """The engine's number of the location's origin."""
        place = self.location
        return self.connections.origin(runtime.current(), place.scheme, place.host, place.port)

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
        batch = new_batch()
        self._add_reads(batch, [(key, byte_range)])
        yield batch
        if batch.failures():
            raise self.error(batch, 0, key, byte_range)
        self.ignores_ranges = self.ignores_ranges or batch.range_ignored
        return batch.body(0)

    def get_many(
        self, items: Sequence[tuple[str, Any]], on_error: OnError, new_batch: NewBatch
    ) -> Steps[list[Any]]:
        """Bodies, None where missing, errors where `on_error` is "return"."""
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}, but has to be 'raise' or 'return'")
        if self.ignores_ranges and len(items) > 1:
            return (yield from self._get_grouped(items, on_error, new_batch))
        batch = new_batch(fail_fast=on_error == "raise")
        self._add_reads(batch, items)
        yield batch
        return self._results(batch, items, on_error)

    def _add_reads(self, batch: Batch, items: Sequence[tuple[str, Any]]) -> None:
        policy, origin, target, add = self.policy, self.origin(), self.location.target, batch.add
        for key, byte_range in items:
            add(policy, origin, _GET, target(key), *span(byte_range))

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
        self.ignores_ranges = self.ignores_ranges or batch.range_ignored
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
        batch = new_batch()
        target = self.location.target(key)
        batch.add(self.policy, self.origin(), _GET, target, *span(byte_range), buffer)
        yield batch
        outcome = batch.outcome(0)
        if outcome["code"] != _OK:
            raise self.error(batch, 0, key, byte_range)
        return int(outcome["delivered"])

    def head(self, key: str, new_batch: NewBatch) -> Steps[ObjectInfo | None]:
        """Size and validators, None where missing."""
        batch = new_batch()
        batch.add(self.policy, self.origin(), _HEAD, self.location.target(key), keep_head=True)
        yield batch
        outcome = batch.outcome(0)
        if outcome["code"] == _MISSING or outcome["directory"]:
            return None
        if outcome["code"] != _OK:
            raise self.error(batch, 0, key, method="HEAD")
        fields = _fields(outcome["head"])
        return ObjectInfo(
            outcome["object_size"],
            fields.get("etag"),
            fields.get("last-modified"),
            fields.get("content-type"),
        )

    def put_many(
        self, items: Sequence[tuple[str, Any]], if_absent: bool, new_batch: NewBatch
    ) -> Steps[bool]:
        """False where `if_absent` kept one from being written."""
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
        failed = first_failure(batch)
        if failed is None:
            return True
        if if_absent and batch.code(failed) == _CHANGED:
            return False
        raise self.error(batch, failed, items[failed][0], method="PUT")

    def delete_many(self, keys: Sequence[str], new_batch: NewBatch) -> Steps[None]:
        """Silent where missing."""
        batch = new_batch(fail_fast=True)
        origin = self.origin()
        targets = [self.location.target(key) for key in keys]
        for target in targets:
            batch.add(self.policy, origin, _DELETE, target)
        yield from self._change(batch, targets)
        failed = first_failure(batch)
        if failed is not None:
            raise self.error(batch, failed, keys[failed], method="DELETE")

    def delete_dir(self, prefix: str, new_batch: NewBatch) -> Steps[None]:
        """Delete the keys of a directory, "" or with a slash at its end, and what is left of it."""
        if prefix and any(name in ("", ".", "..") for name in prefix.split("/")[:-1]):
            # Servers take these out of a path, percent-encoded too: another directory would go.
            raise ValueError(f"{prefix!r} is no directory's name below the base URL")
        try:
            keys, directories = yield from self._walk(prefix, new_batch)
        except ListingError as error:
            if self._lists or error.status != _NOT_FOUND:
                raise
            if not (yield from self._may_be_absent(new_batch)):
                raise
            keys, directories = yield from self._walk_written(prefix, new_batch)
        if not directories:
            return
        yield from self.delete_many(keys, new_batch)
        # The base stays. A directory goes with all that is in it (RFC 4918, section 9.6.1): those
        # below, and what an index page does not show.
        depth = max(prefix.count("/"), 1)
        place = self.location
        left = [(d, place.directory_target(d)) for d in directories if d.count("/") == depth]
        if not prefix:
            left += [(key, place.target(key)) for key in ZARR_2_DOCUMENTS.difference(keys)]
        batch = new_batch()
        origin = self.origin()
        for _, target in left:
            batch.add(self.policy, origin, _DELETE, target)
        yield batch
        for index in batch.failures():
            name, status = left[index][0], batch.outcome(index)["status"]
            if status not in _NOT_DELETED:
                raise self.error(batch, index, name, method="DELETE")
            _log.debug("DELETE of %s: status %d, it stays", place.display(name), status)

    # ---------------------------------------------------------------------------------- listing

    def list_prefix(self, prefix: str, new_batch: NewBatch) -> Steps[list[str]]:
        """All keys that begin with `prefix`."""
        keys, _ = yield from self._walk(prefix, new_batch)
        return keys

    def _walk(self, prefix: str, new_batch: NewBatch) -> Steps[tuple[list[str], list[str]]]:
        # The keys that begin with it, and the directories that may have such.
        top = prefix.rpartition("/")[0]
        keys: list[str] = []
        found: list[str] = []
        directories = [f"{top}/" if top else ""]
        while directories:
            now, directories = directories[:_LISTED_AT_ONCE], directories[_LISTED_AT_ONCE:]
            pages = yield from self._pages(now, new_batch)
            for directory, page in zip(now, pages, strict=True):
                if page is not None:
                    found.append(directory)
                for name, is_dir in page or ():
                    key = directory + name
                    if is_dir and (f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/")):
                        directories.append(f"{key}/")
                    elif not is_dir and key.startswith(prefix):
                        keys.append(key)
        return keys, found

    def list_dir(self, prefix: str, new_batch: NewBatch) -> Steps[list[str]]:
        """Bare names of what is directly below `prefix`."""
        prefix = prefix.rstrip("/")
        (page,) = yield from self._pages([f"{prefix}/" if prefix else ""], new_batch)
        return [name for name, _ in page or ()]

    def _pages(
        self, directories: Sequence[str], new_batch: NewBatch
    ) -> Steps[list[Listing | None]]:
        # None for a directory that is not there.
        targets = [self.location.directory_target(directory) for directory in directories]
        pages = yield from self._fetch_pages(directories, targets, new_batch)
        self._lists = self._lists or any(page is not None for page in pages)
        absent = [at for at, page in zip(directories, pages, strict=True) if page is None]
        if absent:
            yield from self._assure_absence(absent, new_batch)
        return pages

    def _fetch_pages(
        self, directories: Sequence[str], targets: Sequence[bytes], new_batch: NewBatch
    ) -> Steps[list[Listing | None]]:
        batch = new_batch(fail_fast=True)
        origin = self.origin()
        for target in targets:
            batch.add(self.policy, origin, _GET, target, fields=_INDEX_FIELDS, keep_head=True)
        yield batch
        failed = first_failure(batch)
        if failed is not None:
            if batch.outcome(failed)["status"] in _NO_INDEX:
                raise self._no_listing(directories[failed], batch.outcome(failed)["status"])
            raise self.error(batch, failed, directories[failed])
        return [
            self._page(batch, index, directory, target)
            for index, (directory, target) in enumerate(zip(directories, targets, strict=True))
        ]

    def _assure_absence(self, directories: Sequence[str], new_batch: NewBatch) -> Steps[None]:
        # 404 is not enough: Caddy without index pages and object stores answer it for any directory
        # at all. Nor is a page above that does not have the name, since none shows what is mounted
        # there (nginx's `location`). So the base itself has to list; its pages then speak for what
        # is below it, until an object shows that they do not.
        if not self._lists:
            if "" in directories:
                raise self._no_listing("", _NOT_FOUND)
            yield from self._pages([""], new_batch)
        held = yield from self._with_documents(directories, new_batch)
        if held:
            raise self._no_listing(held[0], _NOT_FOUND)

    def _with_documents(self, directories: Sequence[str], new_batch: NewBatch) -> Steps[list[str]]:
        # The directories in which there is a document of zarr's, whatever pages show. One that is
        # refused (nginx is often told to keep dot files to itself) is there for nobody.
        held: list[str] = []
        for start in range(0, len(directories), _LISTED_AT_ONCE):
            names = [
                (directory, directory + document)
                for directory in directories[start : start + _LISTED_AT_ONCE]
                for document in _DOCUMENTS
            ]
            batch = new_batch()
            for _, key in names:
                batch.add(self.policy, self.origin(), _HEAD, self.location.target(key))
            yield batch
            for index, (directory, key) in enumerate(names):
                outcome = batch.outcome(index)
                if outcome["directory"] or outcome["code"] == _MISSING:
                    continue
                if outcome["code"] == _OK:
                    held.append(directory)
                elif outcome["status"] not in _REFUSED:
                    raise self.error(batch, index, key, method="HEAD")
        return held

    def _may_be_absent(self, new_batch: NewBatch) -> Steps[bool]:
        # As before the first write to a store: the nearest directory above the base that is there
        # lists, but not what is below.
        for name, target in self.location.ancestors():
            (page,) = yield from self._fetch_pages([""], [target], new_batch)
            if page is not None:
                return all(entry.name != name for entry in page)
        return False

    def _walk_written(self, prefix: str, new_batch: NewBatch) -> Steps[tuple[list[str], list[str]]]:
        # Nothing that is read tells a base that is absent from one that does not list. But to write
        # there makes the directory, whose page then has that key and whatever else there is: a
        # mount that does not list goes on to answer 404.
        probe = prefix + _PROBE
        yield from self.put_many([(probe, b"listed?")], False, new_batch)
        try:
            keys, directories = yield from self._walk(prefix, new_batch)
            if probe not in keys:
                raise self._no_listing(prefix, 200)
        except ZfastError:
            yield from self.delete_many([probe], new_batch)
            raise
        return keys, directories

    def _page(self, batch: Batch, index: int, directory: str, target: bytes) -> Listing | None:
        body = batch.body(index)
        if body is None:
            return None
        outcome = batch.outcome(index)
        content_type = _fields(outcome["head"]).get("content-type", "")
        page = self.location.parse_listing(bytes(body), content_type, target)
        if page is None:
            raise self._no_listing(directory, outcome["status"])
        return page

    def _no_listing(self, directory: str, status: int) -> ListingError:
        reason = (
            "the server offers no directory index page; switch it on there (nginx: autoindex, "
            "Caddy: file_server browse, Apache: Options +Indexes), or open the store by "
            "consolidated metadata"
        )
        if status == _NOT_FOUND and not directory:
            reason += '; if there is no store yet, mode "a" creates one without'
        return ListingError(
            reason,
            url=self.location.display(directory) if directory else self.location.url,
            status=status,
            method="GET",
        )


def _fields(head: bytes) -> dict[str, str]:
    return {name.lower(): value for name, value in parse_fields(head)}
