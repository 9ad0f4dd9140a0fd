"""A folder of a shared real server, so that a test need not start one of its own."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import ChildServer, LoggedRequest


@dataclass(frozen=True)
class Site:
    """A folder of a shared server that belongs to one test."""

    server: ChildServer
    name: str
    since: int = 0
    """How long the server's log was before, which grows with all tests that share it."""

    @property
    def root(self) -> Path:
        """The folder."""
        return self.server.root / self.name

    @property
    def url(self) -> str:
        """Its URL, without a trailing slash."""
        return f"{self.server.url}/{self.name}"

    def write(self, objects: dict[str, bytes], *, age: float = 0) -> None:
        """Write objects, by key, as if so many seconds ago."""
        for key, body in objects.items():
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            if age:
                os.utime(path, (time.time() - age,) * 2)

    def requests(self, at_least: int = 0) -> list[LoggedRequest]:
        """The requests for anything below this folder; see `ChildServer.requests`."""
        prefix = f"{self.name}/"
        before = 0
        while True:
            logged = self.server.requests(before, since=self.since)
            mine = [entry for entry in logged if entry.key.startswith(prefix)]
            if len(mine) >= at_least:
                return mine
            before = len(logged) + 1
