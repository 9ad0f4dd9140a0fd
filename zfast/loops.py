"""Completions for asyncio: one descriptor wakes a loop for all its batches; nothing blocks it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from typing import Any

from zfast._core.batch import Batch, Waker
from zfast._core.engine import Engine

__all__ = ["Hub", "hub", "wait"]


class Hub:
    """What one event loop knows of its batches under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine) -> None:
        self.engine = engine
        self.loop = weakref.ref(loop)
        self.waker = Waker(engine)
        self._under_way: dict[int, tuple[Batch, Callable[[int], None]]] = {}
        # The loop's own reference is the lasting one: a closed loop lets go of its hub.
        loop.add_reader(self.waker.fileno(), self._on_readable)

    def __del__(self) -> None:
        # Nobody is left who could be told.
        for batch, _ in self._under_way.values():
            batch.cancel()

    def submit(self, batch: Batch, handler: Callable[[int], None]) -> None:
        """Submit a batch; `handler` gets read indexes as they complete, -1 for the batch."""
        self._under_way[batch.id] = batch, handler
        try:
            batch.submit()
        except BaseException:
            del self._under_way[batch.id]
            raise

    def _on_readable(self) -> None:
        for batch_id, index in self.waker.completions():
            try:
                if index >= 0:
                    self._under_way[batch_id][1](index)
                else:
                    self._under_way.pop(batch_id)[1](-1)
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
        if found is not None:
            # A fork or a restart: what the former engine still owed this loop it owes no more.
            with contextlib.suppress(OSError, ValueError):
                loop.remove_reader(found.waker.fileno())
        found = _hubs[id(loop)] = Hub(loop, engine)
    return found


async def wait(hub: Hub, batch: Batch) -> None:
    """Submit a batch and wait until it is complete.

    A cancelled wait cancels the batch and ends when the engine has let go of its memory, which is
    at once as people count.
    """
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    cancelled: asyncio.CancelledError | None = None

    def complete(_: int) -> None:
        if not done.done():
            done.set_result(None)

    hub.submit(batch, complete)
    try:
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError as error:
                cancelled = error
                batch.cancel()
    finally:
        # Thrown away, as a coroutine is that nobody awaits to its end.
        if not done.done():
            batch.cancel()
    if cancelled is not None:
        batch.discard()
        raise cancelled
