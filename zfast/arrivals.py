"""Values of one batch, by key, as they arrive: who takes the first does not wait for the last."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from zfast import runtime
from zfast._core.batch import Batch, Waker
from zfast._core.types import Method, Status
from zfast.errors import error_for
from zfast.operations import first_failure

if TYPE_CHECKING:
    from zfast._core.buffers import Body
    from zfast.client import Client

__all__ = ["Arrivals"]

_GET = int(Method.GET)
_OK, _MISSING = int(Status.OK), int(Status.MISSING)


class Arrivals(Mapping[str, memoryview]):
    """What keys hold, on its way. Asking for a key waits for that one; counting waits for all.

    Keys that are missing are not in the mapping. A failure cancels what is not complete, and is
    raised for every key that has not arrived for it. Throwing the mapping away cancels as well.

    Parameters
    ----------
    client : Client
        Who reads.
    keys : iterable of str
        Below its base URL.
    """

    def __init__(self, client: Client, keys: Iterable[str]) -> None:
        operations = self._operations = client._operations
        engine = self._engine = client._engine()
        self._indexes = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        self._waker = Waker(engine)
        self._batch = Batch(engine, client._deadline, self._waker, each=True, fail_fast=True)
        self._arrived: dict[int, memoryview | None] = {}
        # A body is taken once, and whoever takes it may be interrupted before he has it.
        self._taken: dict[int, Body | None] = {}
        self._complete = False
        # Of several threads that wait, one hears the waker for all.
        self._listening = threading.Lock()
        # Not select, whose descriptors are numbered below 1024.
        self._poll = select.poll()
        self._poll.register(self._waker, select.POLLIN)
        origin, target = operations.origin(), operations.location.target
        for key in self._indexes:
            self._batch.add(operations.policy, origin, _GET, target(key))
        self._batch.submit()

    def __del__(self) -> None:
        # The batch may not have been made.
        if (batch := getattr(self, "_batch", None)) is not None:
            batch.cancel()

    def __reduce__(self) -> NoReturn:
        raise TypeError("what arrives here arrives nowhere else: copy it by dict()")

    def __getitem__(self, key: str) -> memoryview:
        value = self._wait(self._indexes[key])
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        index = self._indexes.get(key)  # type: ignore[call-overload]
        return index is not None and self._wait(index) is not None

    def __iter__(self) -> Iterator[str]:
        return (key for key, index in self._indexes.items() if self._wait(index) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{len(self._arrived)} of {len(self._indexes)} keys have arrived>"

    def _wait(self, index: int) -> memoryview | None:
        while index not in self._arrived:
            if self._engine.stopped and self._engine.pid == os.getpid():
                with self._listening:
                    self._note_all(self._waker.completions())
                if index in self._arrived or self._complete:
                    continue
                if threading.current_thread() is not threading.main_thread():
                    # A process that really ends has ended by then, and says nothing.
                    time.sleep(runtime.LATE_SECONDS)
                raise RuntimeError(runtime.NO_MORE)
            if runtime.running() is not self._engine:
                # A forked child's: what it waits for arrives in its parent, one of whose threads
                # may have had the lock.
                if self._complete:
                    self._fail()
                raise error_for(
                    Status.CLOSED,
                    url=self._operations.location.url,
                    detail="it was under way in the parent process",
                )
            with self._listening:
                if index not in self._arrived:
                    self._listen()
        return self._arrived[index]

    def _listen(self) -> None:
        if self._complete:
            self._fail()
        # A signal's handler runs wherever it likes, and what it raises ends the wait: what it came
        # between is taken up by the next.
        news = self._waker.completions()
        if not news:
            # Without the GIL.
            self._poll.poll()
        self._note_all(news)

    def _note_all(self, news: deque[tuple[int, int]]) -> None:
        while news:
            self._note(news[0][1])
            news.popleft()

    def _note(self, index: int) -> None:
        if index < 0:
            self._complete = True
            return
        code = self._batch.code(index)
        if code == _OK and index not in self._arrived:
            self._batch.body_into(index, self._taken)
            body = self._taken[index]
            assert body is not None
            self._arrived[index] = memoryview(body)
        elif code == _MISSING:
            self._arrived[index] = None
        self._taken.clear()

    def _fail(self) -> NoReturn:
        failed = first_failure(self._batch)
        assert failed is not None
        raise self._operations.error(self._batch, failed, list(self._indexes)[failed])
