"""An operation as steps: batches out, one after another, and a result back.

How a batch is waited for is the business of whoever takes the steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from zfast._core.batch import Batch, Waker
from zfast._core.engine import Engine

__all__ = ["Course", "NewBatch", "Steps", "left_of"]

T = TypeVar("T")
Steps = Generator[Batch, None, T]

_LEAST_SECONDS = 0.001


class NewBatch:
    """Makes the batches of one call.

    Parameters
    ----------
    engine : Engine
        Where they run.
    deadline : float
        Seconds for each of them, 0 for no limit.
    waker : Waker, optional
        Told of their completion.
    began : float, optional
        When the call did, by `time.monotonic`; now if not given.
    """

    def __init__(
        self,
        engine: Engine,
        deadline: float,
        waker: Waker | None = None,
        began: float | None = None,
    ) -> None:
        self._engine = engine
        self._deadline = deadline
        self._waker = waker
        self._began = time.monotonic() if began is None else began

    def __call__(self, **options: Any) -> Batch:
        """A batch that has the whole deadline for itself; options are those of `Batch`."""
        return Batch(self._engine, self._deadline, self._waker, **options)

    def left(self, most: float) -> NewBatch:
        """One whose batches have what is left of the deadline, and no more than `most` seconds."""
        left = min(most, left_of(self._deadline, self._began) or most)
        return NewBatch(self._engine, left, self._waker)


def left_of(deadline: float, began: float) -> float:
    """Seconds that are left of a deadline for what began then; 0 where there is none."""
    return deadline and max(began + deadline - time.monotonic(), _LEAST_SECONDS)


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
