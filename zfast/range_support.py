"""What is known of the byte ranges of an origin: for which of them whole objects came instead.

Kept for the process, since stores may be as short-lived as what they serve; bounded, and for a
minute: it may have been a cache on the way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from zfast import runtime
from zfast._core.batch import Batch
from zfast._core.types import RangeKind
from zfast.lately import SECONDS, Lately
from zfast.planner import Span

__all__ = ["RangeSupport", "range_support"]

_log = logging.getLogger("zfast")

_MOST_ORIGINS = 256
_MOST_TOLD = 4096
_SUFFIX = int(RangeKind.SUFFIX)


class RangeSupport:
    """How an origin has answered byte ranges.

    Parameters
    ----------
    origin : str
        Scheme, host and port.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._ignored: Lately[bytes] = Lately()
        self._answered_until = 0.0

    @property
    def suspect(self) -> bool:
        """Whether a range was ignored lately, of whatever object."""
        return bool(self._ignored)

    def ignores(self, target: bytes) -> bool:
        """Whether ranges of this object are ignored, so that each would cost it up to its end.

        They were lately; or others' were, and none of this origin was answered lately.
        """
        if not self.suspect:
            return False
        return target in self._ignored or time.monotonic() >= self._answered_until

    def learn(self, batch: Batch, read_of: Callable[[int], tuple[bytes, Span]]) -> None:
        """Note how the ranges of a complete batch were answered, given target and span of each."""
        now = time.monotonic()
        if self._ignored or now >= self._answered_until:
            for index in batch.ranges_answered():
                self._answered_until = now + SECONDS
                self._ignored.discard(read_of(index)[0])
        for index in batch.ranges_ignored():
            self.note_ignored(*read_of(index))

    def note_ignored(self, target: bytes, wanted: Span) -> None:
        """Note that the whole object came for a range of it."""
        self.tell()
        # Many servers that know no ranges from the end do know others.
        if wanted[0] != _SUFFIX:
            self._ignored.add(target)

    def tell(self) -> None:
        """Log, once, that whole objects come for ranges."""
        with runtime.fork_guard:
            is_news = self._origin not in _told and len(_told) < _MOST_TOLD
            if is_news:
                _told.add(self._origin)
        if is_news:
            _log.warning(
                "%s ignores byte ranges, of some objects at least: they come whole, and parts are "
                "taken",
                self._origin,
            )


_known: dict[str, RangeSupport] = {}
_told: set[str] = set()


def range_support(origin: str) -> RangeSupport:
    """What is known of an origin, the same for all who ask; of the least used it is forgotten."""
    with runtime.fork_guard:
        found = _known.pop(origin, None) or RangeSupport(origin)
        _known[origin] = found
        if len(_known) > _MOST_ORIGINS:
            del _known[next(iter(_known))]
    return found
