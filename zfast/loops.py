"""Completions for asyncio: one descriptor wakes a loop for all its batches; nothing blocks it.

But for a moment: a loop whose reads come one at a time does the I/O of a small one itself, where
the server is so near that waking other threads would take longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any

from zfast import runtime
from zfast._core.batch import Batch, Waker
from zfast._core.engine import Engine

__all__ = ["Hub", "hub", "wait"]

# The longest that a loop is kept from its other tasks.
_ATTENDED_SECONDS = 0.002
# So many reads in a row that met no other; and of so many, one is left to the engine's threads, to
# see whether it still meets none: while the loop itself is at a read, no other can begin.
_ALONE, _LOOKED_AT = 4, 64


# A batch, who is told of its reads, and who is told that it never completes.
_UnderWay = tuple[Batch, Callable[[int], None], Callable[[Exception], None]]


class Hub:
    """What one event loop knows of its batches under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine) -> None:
        self._under_way: dict[int, _UnderWay] = {}
        self.engine = engine
        self.loop = weakref.ref(loop)
        self.waker = Waker(engine)
        self._alone = 0
        self._had_turn = True
        # The loop's own reference is the lasting one: a closed loop lets go of its hub.
        loop.add_reader(self.waker.fileno(), self._on_readable)

    def __del__(self) -> None:
        # Nobody is left who could be told.
        for batch, *_ in self._under_way.values():
            batch.cancel()

    def submit(
        self,
        batch: Batch,
        handler: Callable[[int], None],
        fail: Callable[[Exception], None],
        seconds: float = 0.0,
    ) -> None:
        """Submit a batch; `handler` gets read indexes as they complete, -1 for the batch.

        The loop attends to it for so many seconds at most. `fail` is for what never completes,
        since the process ends.
        """
        if self.engine.stopped:
            self._fail_late(fail)
        self._alone = 0 if self._under_way else self._alone + 1
        self._under_way[batch.id] = batch, handler, fail
        try:
            complete = batch.submit(seconds)
        except BaseException:
            del self._under_way[batch.id]
            raise
        if complete:
            self.waker.untold.extend((batch.id, index) for index in range(len(batch)))
            self.attended(batch)

    def end(self) -> None:
        """Tell of what is under way that it never completes: the process ends."""
        for _, _, fail in self._under_way.values():
            self._fail_late(fail)

    def _fail_late(self, fail: Callable[[Exception], None]) -> None:
        # Mostly nobody is there any more to hear of it, and nothing is to be said at exit. But a
        # hook of atexit may wait for this loop.
        error = RuntimeError(runtime.NO_MORE)
        asyncio.get_running_loop().call_later(runtime.LATE_SECONDS, fail, error)

    def attends(self) -> float:
        """For how many seconds the loop may attend to the batch that is submitted next."""
        alone = self._alone >= _ALONE and self._alone % _LOOKED_AT != 0
        return _ATTENDED_SECONDS if alone and self._had_turn and not self._under_way else 0.0

    def attended(self, batch: Batch) -> None:
        """Report a batch that the loop has attended to until it was complete."""
        self.waker.untold.append((batch.id, -1))
        self._deliver()
        # Whoever awaits it goes on at once. Before the next, the loop's other tasks have theirs.
        self._had_turn = False
        asyncio.get_running_loop().call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._had_turn = True

    def _on_readable(self) -> None:
        self._deliver(self.waker)

    def _deliver(self, news: Waker | None = None) -> None:
        untold = self.waker.untold
        try:
            if news is not None:
                news.completions()
            while untold:
                told = untold[0]
                self._tell(*told)
                if untold and untold[0] is told:
                    untold.popleft()
        except BaseException:
            # A signal's handler raised, and ends the loop; but its owner may run it again.
            asyncio.get_running_loop().call_soon(self._deliver)
            raise

    def _tell(self, batch_id: int, index: int) -> None:
        # Once more, where it was interrupted: told twice is as told once.
        try:
            known = self._under_way.get(batch_id)
            if known is not None:
                known[1](index)
            if index < 0:
                self._under_way.pop(batch_id, None)
        except Exception as error:
            # What else completed must be told all the same.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "zfast could not report a completion", "exception": error}
            )


# By the id of the loop. Keyed by the loop itself, reads under way would keep a closed one for ever.
_hubs: weakref.WeakValueDictionary[int, Hub] = weakref.WeakValueDictionary()


def hub(engine: Engine) -> Hub:
    """The running loop's hub for this engine."""
    loop = asyncio.get_running_loop()
    found = _hubs.get(id(loop))
    if found is not None and found.loop() is not loop:
        found = None
    if found is None or found.engine is not engine:
        if found is not None and found.engine.pid == os.getpid():
            # A restart: what the former engine still owed this loop it owes no more. After a fork
            # the loop may still share its selector with the parent, whose descriptor this is.
            with contextlib.suppress(OSError, ValueError):
                loop.remove_reader(found.waker.fileno())
        found = _hubs[id(loop)] = Hub(loop, engine)
    return found


def _end() -> None:
    for found in list(_hubs.values()):
        loop = found.loop()
        if loop is not None:
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(found.end)


runtime.on_end(_end)


class _Completion(asyncio.Future[None]):
    """Done when its batch is complete, and not before.

    Cancelling it cancels the batch: the task that awaits it gets its CancelledError when the engine
    has let go of the memory, as `Task.cancel` has it for a future that does not end at once.
    """

    def __init__(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._batch = batch

    def cancel(self, msg: Any | None = None) -> bool:
        self._batch.cancel()
        return False

    def fail(self, error: Exception) -> None:
        if not self.done():
            self.set_exception(error)

    def complete(self, _: int) -> None:
        if not self.done():
            self.set_result(None)


async def wait(hub: Hub, batch: Batch, feed: Callable[[], None] | None = None) -> None:
    """Submit a batch and wait until it is complete.

    `feed` adds to an open batch while the first of it is under way, and seals it; it may attend to
    it as well. What it raises is raised here, once the batch has been cancelled and is complete. A
    cancelled wait cancels the batch and ends when the engine has let go of its memory, which is at
    once as people count.
    """
    done = _Completion(batch, asyncio.get_running_loop())
    failed: BaseException | None = None
    try:
        hub.submit(batch, done.complete, done.fail, hub.attends() if feed is None else 0.0)
        if feed is not None:
            try:
                feed()
            except Exception as error:
                failed = error
                batch.cancel()
            finally:
                # Whether `feed` has, and to the end.
                if batch.attend(0.0):
                    hub.attended(batch)
        try:
            await done
        except asyncio.CancelledError as error:
            failed = error
    finally:
        # Thrown away, as a coroutine is that nobody awaits to its end.
        if not done.done():
            batch.cancel()
    if failed is not None:
        batch.discard()
        try:
            raise failed
        finally:
            # Its traceback has this frame: the two would stay until the collector comes.
            del failed
