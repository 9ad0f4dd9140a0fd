"""Whether a key that a server refuses is missing, since one above it is a file.

zarr looks for nodes in all that is listed, which may be files. For what is below one Caddy answers
400, and lighttpd, where it keeps paths from going on behind a file, 403; either may mean anything.
But who asks for the directory of that name Caddy sends to the file, and the file is there; and for
403, which may keep secret what is there, an index page has to list the file.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import TypeVar

from zfast._core.types import Status
from zfast.client import Client
from zfast.errors import AccessError, ResponseError
from zfast.keys import directories_above
from zfast.lately import Lately
from zfast.steps import NewBatch, Steps

__all__ = ["Refusals"]

T = TypeVar("T")
# The directory that a refused key is in, and the status: the answer is the same for all of them.
_Question = tuple[str, int]

_OK, _MISSING = int(Status.OK), int(Status.MISSING)
_BAD_REQUEST, _FORBIDDEN = 400, 403
# What a refusal means is worth no longer wait: it stands then.
_MOST_SECONDS = 5.0


class _Doubt:
    """A question, and its answer once there is one."""

    def __init__(self, question: _Question) -> None:
        self.question = question
        self.answer: bool | None = None


class _Waiting:
    """The doubts of a loop: whoever has the lock asks for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lock = asyncio.Lock()
        self.doubts: list[_Doubt] = []


class Refusals:
    """The keys that a server refuses to a client, and which of them are missing.

    Parameters
    ----------
    client : Client
        Who asks.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        # The directories that told of no file: of an expired token each key is refused, and so is
        # each directory.
        self._silent: Lately[bytes] = Lately()
        self._here = threading.local()

    def read(self, key: str, ask: Callable[[str], T | None]) -> T | None:
        """What `ask` gives for a key; None as well where it is refused, and missing."""
        began = time.monotonic()
        try:
            return ask(key)
        except (AccessError, ResponseError) as error:
            question = _question(key, error)
            if question is None or self._client.closed:
                raise
            asking = functools.partial(self._missing, [question])
            if not self._client._run(asking, began=began):
                raise
        return None

    async def read_async(self, key: str, ask: Callable[[str], Awaitable[T | None]]) -> T | None:
        """What `ask` gives for a key; the async twin of `read`."""
        began = time.monotonic()
        try:
            return await ask(key)
        except (AccessError, ResponseError) as error:
            question = _question(key, error)
            if question is None or self._client.closed:
                raise
            if not await self._is_missing(question, began):
                raise
        return None

    async def _is_missing(self, question: _Question, began: float) -> bool:
        deadline = self._client._deadline
        left = began + deadline - time.monotonic() if deadline else None
        waiting = self._waiting()
        doubt = _Doubt(question)
        waiting.doubts.append(doubt)
        try:
            async with asyncio.timeout(left), waiting.lock:
                if doubt.answer is None:
                    # What came in one turn has its doubts in the next.
                    await asyncio.sleep(0)
                    doubts, waiting.doubts = [doubt, *waiting.doubts], []
                    await self._settle(doubts)
        except TimeoutError:
            # Not known in time: the refusal stands.
            return False
        return bool(doubt.answer)

    def _waiting(self) -> _Waiting:
        # A thread runs one loop at a time.
        loop = asyncio.get_running_loop()
        waiting: _Waiting | None = getattr(self._here, "waiting", None)
        if waiting is None or waiting.loop is not loop:
            waiting = self._here.waiting = _Waiting(loop)
        return waiting

    async def _settle(self, doubts: Collection[_Doubt]) -> None:
        questions = {doubt.question for doubt in doubts}
        asking = functools.partial(self._missing, questions)
        missing = await self._client._run_async(asking, aside=True)
        for doubt in doubts:
            doubt.answer = doubt.question in missing

    def _missing(
        self, questions: Collection[_Question], new_batch: NewBatch
    ) -> Steps[set[_Question]]:
        missing: set[_Question] = set()
        for status, files_of in ((_BAD_REQUEST, self._redirected), (_FORBIDDEN, self._listed)):
            asked = [question for question in questions if question[1] == status]
            names = {name: None for directory, _ in asked for name in _with_above(directory)}
            files = yield from files_of(names, new_batch)
            missing.update(q for q in asked if not files.isdisjoint(_with_above(q[0])))
        return missing

    def _redirected(self, names: Collection[str], new_batch: NewBatch) -> Steps[set[str]]:
        operations, location = self._client._operations, self._client._location
        targets = {name: location.directory_target(name) for name in names}
        asked = {name: target for name, target in targets.items() if target not in self._silent}
        outcomes = yield from operations.heads(asked.values(), new_batch.left(_MOST_SECONDS))
        files = []
        for (name, target), outcome in zip(asked.items(), outcomes, strict=True):
            # Refused as it was redirected: where a redirect led elsewhere, the status is that of
            # what is there.
            if outcome["code"] == _MISSING and 300 <= (outcome["status"] or 0) < 400:
                files.append(name)
            else:
                self._silent.add(target)
        ends = new_batch.left(_MOST_SECONDS)
        outcomes = yield from operations.heads(map(location.target, files), ends)
        return {
            name
            for name, outcome in zip(files, outcomes, strict=True)
            if outcome["code"] == _OK and not outcome["directory"]
        }

    def _listed(self, names: Collection[str], new_batch: NewBatch) -> Steps[set[str]]:
        operations, location = self._client._operations, self._client._location
        parents = {name.rpartition("/")[0]: None for name in names}
        targets = {parent: location.directory_target(parent) for parent in parents}
        asked = {parent: target for parent, target in targets.items() if target not in self._silent}
        if not asked:
            return set()
        batch = operations.index_pages(asked.values(), new_batch.left(_MOST_SECONDS)())
        yield batch
        files: set[str] = set()
        for index, (parent, target) in enumerate(asked.items()):
            page = operations.listing(batch, index, target)
            if page is None:
                self._silent.add(target)
            prefix = f"{parent}/" if parent else ""
            listed = {prefix + entry.name for entry in page or () if not entry.is_dir}
            # An object store may have both.
            files |= listed.difference(prefix + entry.name for entry in page or () if entry.is_dir)
        return files


def _question(key: str, error: AccessError | ResponseError) -> _Question | None:
    directory = key.rpartition("/")[0]
    if not directory or error.status not in (_BAD_REQUEST, _FORBIDDEN):
        return None
    return directory, error.status


def _with_above(directory: str) -> Iterator[str]:
    return directories_above(f"{directory}/")
