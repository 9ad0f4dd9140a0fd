"""How the batches of an operation are run: by a caller that waits, or in its event loop.

The sync and the async face of an operation differ in nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from zfast import loops, runtime
from zfast._core.engine import Engine
from zfast._core.types import Status
from zfast.errors import error_for
from zfast.locations.http import HTTPLocation
from zfast.loops import Hub
from zfast.steps import Course, NewBatch, Steps

T = TypeVar("T")


class Runner:
    """Runs operations on the process's engine, for who is not closed, within a deadline."""

    _location: HTTPLocation
    _closed: bool
    _deadline: float
    _max_concurrency: int

    def _engine(self) -> Engine:
        if self._closed:
            raise error_for(Status.CLOSED, url=self._location.url, detail="the client is closed")
        return runtime.current(self._max_concurrency)

    def _begin(self, operation: Callable[[NewBatch], Steps[T]], began: float | None) -> Course[T]:
        return Course(operation(NewBatch(self._engine(), self._deadline, began=began)))

    def _begin_async(self, operation: Callable[[NewBatch], Steps[T]]) -> tuple[Hub, Course[T]]:
        hub = loops.hub(self._engine())
        return hub, Course(operation(NewBatch(hub.engine, self._deadline, hub.waker)))

    def _run(self, operation: Callable[[NewBatch], Steps[T]], *, began: float | None = None) -> T:
        # Began: when the call did that it is a part of.
        course = self._begin(operation, began)
        try:
            while (batch := course.advance()) is not None:
                batch.run()
        finally:
            course.close()
        return course.result

    async def _run_async(
        self, operation: Callable[[NewBatch], Steps[T]], *, aside: bool = False
    ) -> T:
        # Aside: a listing parses pages between its batches, which takes too long for the loop.
        hub, course = self._begin_async(operation)
        try:
            while True:
                batch = await _aside(course.advance) if aside else course.advance()
                if batch is None:
                    return course.result
                await loops.wait(hub, batch)
        finally:
            course.close()

    def _iterate(self, operation: Callable[[NewBatch], Steps[list[str]]]) -> Iterator[str]:
        yield from self._run(operation)

    async def _iterate_async(
        self, operation: Callable[[NewBatch], Steps[list[str]]]
    ) -> AsyncIterator[str]:
        for name in await self._run_async(operation, aside=True):
            yield name


async def _aside(step: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    try:
        done = loop.run_in_executor(None, contextvars.copy_context().run, step)
    except RuntimeError:
        # The process ends, and starts no thread any more.
        return step()
    return await done
