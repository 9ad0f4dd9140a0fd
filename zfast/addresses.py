"""Which address of a host to connect to: the least used, those that failed last. Opens nothing.

An address is any string that names one; the time is always the caller's. Not thread-safe.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Addresses"]

# How long an address that failed is tried last: so long first, then twice that, up to the most.
_AVOIDED_SECONDS = 30.0
_LONGEST_AVOIDED_SECONDS = 600.0
_MOST_KNOWN = 1024


@dataclass
class _Known:
    open: int = 0
    turn: int = 0
    failed: float = float("-inf")
    avoided_until: float = float("-inf")
    avoided_for: float = 0.0


class Addresses:
    """What is known of addresses: the connections that are open to each, and its failures."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._turns = itertools.count(1)

    def take(self, choice: Iterable[str], now: float) -> str:
        """The address to try next, from here on counted as one with a connection more.

        Of those that did not fail lately the one with the fewest connections, whose last turn is
        the longest ago; else the one that is avoided for the shortest time yet.
        """

        def rank(address: str) -> tuple[float, int, int]:
            known = self._known.get(address) or _Known()
            avoided = known.avoided_until if known.avoided_until > now else 0.0
            return avoided, known.open, known.turn

        address = min(choice, key=rank)
        self.hold(address, now)
        self._known[address].turn = next(self._turns)
        return address

    def hold(self, address: str, now: float) -> None:
        """Count a connection to this address that nobody asked `take` for."""
        if len(self._known) >= _MOST_KNOWN and address not in self._known:
            self._known = {
                name: known
                for name, known in self._known.items()
                if known.open or now < known.avoided_until + known.avoided_for
            }
        self._known.setdefault(address, _Known()).open += 1

    def drop(self, address: str) -> None:
        """A connection that was taken or held is open no more, or nobody's concern."""
        known = self._known.get(address)
        if known is not None and known.open:
            known.open -= 1

    def failed(self, address: str, now: float) -> None:
        """Connecting to it failed, or a connection to it broke: others are tried first.

        All that fails while it is avoided anyway counts as one failure.
        """
        known = self._known.setdefault(address, _Known())
        known.failed = now
        if now < known.avoided_until:
            return
        again = now < known.avoided_until + known.avoided_for
        longer = min(2 * known.avoided_for, _LONGEST_AVOIDED_SECONDS)
        known.avoided_for = longer if again else _AVOIDED_SECONDS
        known.avoided_until = now + known.avoided_for

    def succeeded(self, address: str, began: float, now: float) -> None:
        """A connection was opened, by an attempt that `began` then: it is avoided no longer.

        Should it fail again soon, it is avoided for longer all the same.
        """
        known = self._known.get(address)
        if known is not None and known.failed < began and now < known.avoided_until:
            known.avoided_until = now

    def clear(self) -> None:
        """Forget all of it."""
        self._known.clear()
