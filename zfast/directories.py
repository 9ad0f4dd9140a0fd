"""What directories hold, by the server's index pages: listed, found empty, deleted; as steps.

A failure is never "nothing there": absent is only what no listing and no object contradicts.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from zfast._core.batch import Batch
from zfast._core.types import Method, Status
from zfast.errors import ListingError, ZfastError, redact, shortened, status_text
from zfast.keys import check_key, directories_above
from zfast.locations import CADDY_FILE_LIMIT, Listing
from zfast.operations import Operations, first_failure
from zfast.steps import NewBatch, Steps

__all__ = ["ZARR_2_DOCUMENTS", "Directories"]

_log = logging.getLogger("zfast")

_HEAD, _DELETE = (int(m) for m in (Method.HEAD, Method.DELETE))
_OK, _MISSING = (int(s) for s in (Status.OK, Status.MISSING))
_ZARR_2_ARRAY, _ZARR_2_GROUP, _ZARR_3 = ".zarray", ".zgroup", "zarr.json"
ZARR_2_DOCUMENTS = frozenset((_ZARR_2_ARRAY, _ZARR_2_GROUP, ".zattrs", ".zmetadata"))
"""What describes the nodes of zarr format 2; nginx leaves such names out of its index pages."""
_DOCUMENTS = (_ZARR_3, *sorted(ZARR_2_DOCUMENTS))
_LISTED_AT_ONCE = 256
# Below what is listed. Linux follows 40 links in one path: where names repeat, there are fewer.
_MOST_DEPTH = 128
_MOST_REPEATED = 36
_FOUND, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
_KNOWN = "nginx: autoindex, Caddy: file_server browse, Apache: Options +Indexes"
# What is written to see whether it is listed; no key to anybody, should one be left.
_PROBE = "zfast-probe-"
# What a server without index pages answers for a directory: nginx and Apache 403, Azure's 400,
# others 405.
_NO_INDEX = (400, 401, 403, 405)
# What one answers for a name that it keeps to itself; and, below a file, Caddy.
_REFUSED = (400, 401, 403, 405)
# What one answers that keeps its directories, has none, or takes no DELETE, where all listed keys
# are gone and only what no page shows is left; another status is a failure, and told.
_NOT_DELETED = (400, 403, 405, 409, 501)


def _is_probe(key: str) -> bool:
    return key.rpartition("/")[2].startswith(_PROBE)


def _with_above(directory: str) -> Iterator[str]:
    yield ""
    for name in directories_above(directory):
        yield f"{name}/"


def _is_too_deep(directory: str) -> bool:
    names = directory.split("/")
    repeats = 2 * len(set(names)) < len(names)
    return len(names) > (_MOST_REPEATED if repeats else _MOST_DEPTH)


@dataclass
class _Tree:
    """The keys that begin with a prefix, and the directories that may have such."""

    keys: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    # One whose page may not show all that is in it.
    cut: str | None = None


class Directories:
    """The directories below a location, as far as its server has such.

    Parameters
    ----------
    operations : Operations
        Those on the objects in them.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._location = operations.location
        self._policy = operations.policy
        self._lists = False

    def list_prefix(
        self, prefix: str, new_batch: NewBatch, *, documents: bool = False
    ) -> Steps[list[str]]:
        """All keys that begin with `prefix`; with the `documents` of zarr 2 that no page shows.

        Where none is listed each directory is asked for those, but for what is below an array, or
        below a node of format 3 and none itself.
        """
        tree = yield from self._walk(check_key(prefix), new_batch)
        if tree.cut is not None:
            raise self._cut_listing(tree.cut)
        keys = [key for key in tree.keys if not _is_probe(key)]
        if documents and not any(key.rpartition("/")[2] in ZARR_2_DOCUMENTS for key in keys):
            hidden = yield from self._hidden(prefix, tree.directories, keys, new_batch)
            keys += filter(lambda key: key.startswith(prefix), hidden)
        return keys

    def _hidden(
        self, prefix: str, directories: Sequence[str], keys: Iterable[str], new_batch: NewBatch
    ) -> Steps[list[str]]:
        listed = {key.removesuffix(_ZARR_3) for key in keys if key.rpartition("/")[2] == _ZARR_3}
        above = [name for name in _with_above(prefix) if name not in directories]
        held = yield from self._documents(above, new_batch, (_ZARR_2_ARRAY, _ZARR_3))
        # What is below these, and is no node of its own, is of chunks: there may be thousands.
        nodes = {name for name, _ in held} | listed
        by_depth: dict[int, list[str]] = {}
        for name in directories:
            by_depth.setdefault(name.count("/"), []).append(name)
        hidden: list[str] = []
        for _, alike in sorted(by_depth.items()):
            asked = [d for d in alike if d in listed or nodes.isdisjoint(_with_above(d))]
            held = yield from self._documents(asked, new_batch, ZARR_2_DOCUMENTS)
            arrays, groups = (
                {name for name, key in held if key == name + document}
                for document in (_ZARR_2_ARRAY, _ZARR_2_GROUP)
            )
            # A server where there is both says so of whatever it is asked for.
            hidden += [key for name, key in held if name not in arrays & groups]
            nodes |= arrays
        return hidden

    def list_dir(self, prefix: str, new_batch: NewBatch) -> Steps[list[str]]:
        """Bare names of what is directly below `prefix`."""
        prefix = check_key(prefix).rstrip("/")
        directory = f"{prefix}/" if prefix else ""
        (page,) = yield from self._pages([directory], new_batch)
        if page is not None and page.may_be_cut:
            raise self._cut_listing(directory)
        return [name for name, is_dir in page or () if is_dir or not _is_probe(name)]

    def is_empty(self, prefix: str, new_batch: NewBatch, *, writable: bool) -> Steps[bool]:
        """Whether there is no key in a directory, "" or with a slash at its end.

        Whether the base is absent may be found out by writing to it, where that is allowed.
        """
        # A document, which pages may not show, answers it without a walk and without pages.
        if (yield from self._with_documents([prefix], new_batch)):
            return False
        tree = yield from self._walk_even_if_absent(prefix, writable, new_batch)
        below = [directory for directory in tree.directories if directory != prefix]
        if not all(map(_is_probe, tree.keys)) or (
            yield from self._with_documents(below, new_batch)
        ):
            return False
        if tree.cut is not None:
            raise self._cut_listing(tree.cut)
        return True

    def delete_dir(self, prefix: str, new_batch: NewBatch) -> Steps[None]:
        """Delete the keys of a directory, "" or with a slash at its end, and what is left of it."""
        if prefix and any(name in ("", ".", "..") for name in prefix.split("/")[:-1]):
            # Servers take these out of a path, percent-encoded too: another directory would go.
            raise ValueError(f"{prefix!r} is no directory's name below the base URL")
        tree = yield from self._walk_even_if_absent(prefix, True, new_batch)
        while tree.directories:
            yield from self._delete_tree(prefix, tree, new_batch)
            if tree.cut is None:
                return
            # The rest of the page shows when what was on it has gone.
            before, tree = tree, (yield from self._walk(prefix, new_batch))
            if tree == before:
                raise self._cut_listing(before.cut or "")

    def _delete_tree(self, prefix: str, tree: _Tree, new_batch: NewBatch) -> Steps[None]:
        keys = [key for key in tree.keys if not _is_probe(key)]
        yield from self._operations.delete_many(keys, new_batch)
        # The base stays. A directory goes with all that is in it (RFC 4918, section 9.6.1): those
        # below, and what an index page does not show.
        depth = max(prefix.count("/"), 1)
        location = self._location
        left = [
            (d, location.directory_target(d)) for d in tree.directories if d.count("/") == depth
        ]
        if not prefix:
            left += [(key, location.target(key)) for key in ZARR_2_DOCUMENTS.difference(keys)]
        batch = new_batch()
        origin = self._operations.origin()
        for _, target in left:
            batch.add(self._policy, origin, _DELETE, target)
        yield batch
        for index in batch.failures():
            name, status = left[index][0], batch.outcome(index)["status"]
            if status not in _NOT_DELETED:
                raise self._operations.error(batch, index, name, method="DELETE")
            _log.debug("DELETE of %s: status %d, it stays", location.display(name), status)

    def _walk(self, prefix: str, new_batch: NewBatch) -> Steps[_Tree]:
        above = prefix.rpartition("/")[0]
        top = f"{above}/" if above else ""
        tree = _Tree()
        directories = [top]
        while directories:
            # The deepest first: of links that lead in a circle there would be no end of others.
            now = directories[-_LISTED_AT_ONCE:]
            del directories[-_LISTED_AT_ONCE:]
            if _is_too_deep(now[-1].removeprefix(top)):
                raise self._too_deep(now[-1])
            pages = yield from self._pages(now, new_batch)
            listed = list(zip(now, pages, strict=True))
            gone = [directory for directory, page in listed if page is None and directory != top]
            yield from self._assure_disappearance(gone, new_batch)
            for directory, page in listed:
                if page is not None:
                    tree.directories.append(directory)
                if page is not None and page.may_be_cut:
                    tree.cut = directory
                for name, is_dir in page or ():
                    key = directory + name
                    if is_dir and (f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/")):
                        directories.append(f"{key}/")
                    elif not is_dir and key.startswith(prefix):
                        tree.keys.append(key)
        return tree

    def _pages(
        self, directories: Sequence[str], new_batch: NewBatch
    ) -> Steps[list[Listing | None]]:
        # None for a directory that is not there.
        targets = [self._location.directory_target(directory) for directory in directories]
        pages = yield from self._fetch_pages(directories, targets, new_batch)
        self._lists = self._lists or any(page is not None for page in pages)
        absent = [at for at, page in zip(directories, pages, strict=True) if page is None]
        if absent:
            yield from self._assure_absence(absent, new_batch)
        return pages

    def _fetch_pages(
        self, directories: Sequence[str], targets: Sequence[bytes], new_batch: NewBatch
    ) -> Steps[list[Listing | None]]:
        batch = self._operations.index_pages(targets, new_batch(fail_fast=True))
        yield batch
        failed = first_failure(batch)
        if failed is not None:
            if batch.outcome(failed)["status"] in _NO_INDEX:
                raise self._no_listing(directories[failed], batch.outcome(failed)["status"])
            raise self._operations.error(batch, failed, directories[failed])
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

    def _assure_disappearance(self, directories: Sequence[str], new_batch: NewBatch) -> Steps[None]:
        # Since they were listed: what is listed still, and is not there, may be hidden from us.
        if not directories:
            return
        above = [directory[:-1].rpartition("/")[0] for directory in directories]
        parents = sorted({f"{parent}/" if parent else "" for parent in above})
        pages = yield from self._pages(parents, new_batch)
        for parent, page in zip(parents, pages, strict=True):
            for name, is_dir in page or ():
                if is_dir and f"{parent}{name}/" in directories:
                    raise self._no_listing(f"{parent}{name}/", _NOT_FOUND)

    def _with_documents(self, directories: Sequence[str], new_batch: NewBatch) -> Steps[list[str]]:
        # The directories in which there is a document of zarr's.
        held = yield from self._documents(directories, new_batch)
        return [directory for directory, _ in held]

    def _documents(
        self,
        directories: Sequence[str],
        new_batch: NewBatch,
        documents: Iterable[str] = _DOCUMENTS,
    ) -> Steps[list[tuple[str, str]]]:
        # What documents of zarr's there are, and in which directory, whatever pages show. One that
        # is refused (nginx is often told to keep dot files to itself) is there for nobody.
        held: list[tuple[str, str]] = []
        for start in range(0, len(directories), _LISTED_AT_ONCE):
            names = [
                (directory, directory + document)
                for directory in directories[start : start + _LISTED_AT_ONCE]
                for document in sorted(documents)
            ]
            batch = new_batch()
            origin = self._operations.origin()
            for _, key in names:
                batch.add(self._policy, origin, _HEAD, self._location.target(key))
            yield batch
            for index, (directory, key) in enumerate(names):
                outcome = batch.outcome(index)
                if outcome["directory"] or outcome["code"] == _MISSING:
                    continue
                if outcome["code"] == _OK:
                    held.append((directory, key))
                elif outcome["status"] not in _REFUSED:
                    raise self._operations.error(batch, index, key, method="HEAD")
        return held

    def _walk_even_if_absent(
        self, prefix: str, writable: bool, new_batch: NewBatch
    ) -> Steps[_Tree]:
        try:
            return (yield from self._walk(prefix, new_batch))
        except ListingError as error:
            if not writable or self._lists or error.status != _NOT_FOUND:
                raise
        if (yield from self._may_be_absent(new_batch)):
            return (yield from self._walk_written(prefix, new_batch))
        # Somebody else may just have begun it.
        return (yield from self._walk(prefix, new_batch))

    def _may_be_absent(self, new_batch: NewBatch) -> Steps[bool]:
        # As before the first write to a store: the nearest directory above the base that is there
        # lists, but not what is below.
        for name, target in self._location.ancestors():
            try:
                (page,) = yield from self._fetch_pages([""], [target], new_batch)
            except ZfastError as error:
                # It is the base that was to be listed, and its own error says so.
                _log.debug("what is above %s does not list: %s", self._location.url, error.reason)
                return False
            if page is not None:
                return all(entry.name != name for entry in page)
        return False

    def _walk_written(self, prefix: str, new_batch: NewBatch) -> Steps[_Tree]:
        # Nothing that is read tells a base that is absent from one that does not list. But to write
        # there makes the directory, whose page then has that key and whatever else there is: a
        # mount that does not list goes on to answer 404.
        # Others may do the same at the same time, and take away what is theirs.
        probe = f"{prefix}{_PROBE}{secrets.token_hex(8)}"
        try:
            yield from self._operations.put_many([(probe, b"listed?")], False, new_batch)
            tree = yield from self._walk(prefix, new_batch)
            if probe not in tree.keys:
                raise self._no_listing(prefix, _FOUND)
        except ZfastError:
            yield from self._forget_probe(probe, new_batch)
            raise
        yield from self._forget_probe(probe, new_batch)
        tree.keys.remove(probe)
        return tree

    def _forget_probe(self, probe: str, new_batch: NewBatch) -> Steps[None]:
        try:
            yield from self._operations.delete_many([probe], new_batch)
        except ZfastError as error:
            # A server may take PUT alone, and what was asked has its answer.
            _log.info("%s stays: %s", self._location.display(probe), error)

    def _page(self, batch: Batch, index: int, directory: str, target: bytes) -> Listing | None:
        page = self._operations.listing(batch, index, target)
        if page is None and batch.code(index) == _OK:
            outcome = batch.outcome(index)
            raise self._no_listing(directory, outcome["status"], outcome["redirected_to"])
        return page

    def _cut_listing(self, directory: str) -> ListingError:
        return ListingError(
            f"its index page may be cut: Caddy ends one after {CADDY_FILE_LIMIT} entries; set "
            "file_server { browse { file_limit N } } to more than there are",
            url=self._location.display(directory) if directory else self._location.url,
            status=200,
            method="GET",
        )

    def _too_deep(self, directory: str) -> ListingError:
        return ListingError(
            "directories are nested too deep: is there a link to one above?",
            url=shortened(self._location.display(directory)),
            status=200,
            method="GET",
        )

    def _no_listing(self, directory: str, status: int, redirected_to: str = "") -> ListingError:
        if redirected_to and status == _FOUND:
            reason = (
                f"it redirects to {shortened(redact(redirected_to))}, whose page is no directory "
                "index of a known kind, or one of another directory; list it by another server"
            )
        elif status == _FOUND:
            reason = (
                f"the page that came is no directory index of a known kind ({_KNOWN}); list it by "
                "such a server"
            )
        else:
            reason = (
                f"the server offers no directory index page ({status_text(status)}); switch it on "
                f"there ({_KNOWN})"
            )
        reason += "; zarr's consolidated metadata, and arrays and groups by name, need none"
        if status == _UNAUTHORIZED:
            reason += "; credentials are missing or refused"
        if status == _NOT_FOUND and not directory:
            # Not of xarray and others: before they write they look at what is there.
            reason += "; zarr.open_group(store, mode='a') begins a store without"
        return ListingError(
            reason,
            url=self._location.display(directory) if directory else self._location.url,
            status=status,
            method="GET",
        )
