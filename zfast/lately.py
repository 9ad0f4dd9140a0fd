"""What was found out of servers and may have changed: kept for a minute, and of so many at most."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from zfast import runtime

__all__ = ["SECONDS", "Lately"]

T = TypeVar("T", bound=Hashable)

# As the core remembers such: see its WHOLE_SECONDS.
SECONDS = 60.0
_MOST = 1024


class Lately(Generic[T]):
    """The set of what was added in the last minute, without the oldest if that is much."""

    def __init__(self) -> None:
        # What was added last goes last.
        self._until: dict[T, float] = {}
        self._last = 0.0

    def __contains__(self, item: T) -> bool:
        until = self._until.get(item)
        return until is not None and time.monotonic() < until

    def __bool__(self) -> bool:
        return self._last > 0 and time.monotonic() < self._last

    def add(self, item: T) -> None:
        """Add it, or keep it for longer."""
        with runtime.fork_guard:
            self._until.pop(item, None)
            now = time.monotonic()
            self._until[item] = self._last = now + SECONDS
            for oldest, until in list(itertools.islice(self._until.items(), 2)):
                if len(self._until) > _MOST or until <= now:
                    del self._until[oldest]

    def discard(self, item: T) -> None:
        """Leave it out from now on."""
        if item not in self._until:
            return
        with runtime.fork_guard:
            self._until.pop(item, None)
            if not self._until:
                self._last = 0.0
