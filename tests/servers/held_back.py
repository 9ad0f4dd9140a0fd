"""A quick file server that holds back some of its responses; `held_back.c` says which."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .compiled import compiled, has_compiler
from .processes import ChildServer, LoggedRequest


def why_not_held_back() -> str | None:
    """What this machine lacks for a `HeldBack`, if anything."""
    if sys.platform != "linux":
        return "the server that holds back needs Linux"
    return None if has_compiler() else "the server that holds back needs a C compiler"


class HeldBack(ChildServer):
    """Files over HTTP/1.1; of each `every` requests one is answered late.

    Parameters
    ----------
    root
        See `ChildServer`.
    every
        Of how many requests one is held back; 0: none is.
    seconds
        How late it is. For twice as long its target is not held back again.
    """

    name = "held-back"
    logs_requests = False

    def __init__(
        self, root: str | os.PathLike[str], *, every: int = 100, seconds: float = 2.0
    ) -> None:
        super().__init__(root)
        self._every = every
        self._seconds = seconds

    def command(self) -> Sequence[str]:
        options = (self.host, self.port, self.root, self._every, self._seconds)
        return [compiled("held_back"), *map(str, options)]

    def logged(self) -> list[LoggedRequest]:
        raise NotImplementedError("it has no log of requests; see held()")

    def held(self) -> list[str]:
        """The targets that have been held back, in order."""
        return self.output_path.read_text().splitlines()
