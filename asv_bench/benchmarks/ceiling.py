"""The bare-loop ceiling, compiled once and run as a child process for each measurement."""

from __future__ import annotations

import ctypes.util
import functools
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .common import CONNECTIONS, Run, Subject

_SOURCE = Path(__file__).resolve().parents[1] / "ceiling.c"
_THREADS = (1, 2, 4)

LIBRARIES = {"tls": "ssl", "zstd": "zstd"}
"""What it takes to read by TLS and to decode zstd."""


class Ceiling:
    """`ceiling.c`, compiled into a folder; its head says what it does."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "ceiling"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run(
            [*compiler, "-O2", "-pthread", str(_SOURCE), "-o", str(self._program), "-ldl"],
            check=True,
        )

    def readers(
        self, port: int, targets: Sequence[str], room: int, libraries: Sequence[str] = ()
    ) -> dict[str, Subject]:
        """Subjects that read all targets: as many connections, over one thread or several.

        Parameters
        ----------
        room
            The most bytes of a body; what one in zstd decodes to.
        libraries
            Those of `LIBRARIES` that it takes to read them; none is read where one is missing.
        """
        found = _found(libraries)
        if found is None:
            return {}
        connections = min(CONNECTIONS, len(targets))
        given = "".join(f"{target}\n" for target in targets).encode()
        return {
            f"{threads} x {connections // threads}": functools.partial(
                self._run, given, "read", port, threads, connections // threads, room, *found
            )
            for threads in _THREADS
            if connections % threads == 0
        }

    def parser(self, response: bytes, times: int) -> Subject:
        """A subject that reads a response so many times."""
        return functools.partial(self._run, response, "parse", times)

    def _run(self, given: bytes, *arguments: object) -> Run:
        command = [str(self._program), *map(str, arguments)]
        done = subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True)
        seconds, cpu = map(float, done.stdout.split())
        return Run(seconds, cpu)


def _found(libraries: Iterable[str]) -> list[str] | None:
    """The arguments that have `ceiling` load them; nothing where one is not to be found."""
    arguments: list[str] = []
    for name in libraries:
        path = ctypes.util.find_library(LIBRARIES[name])
        if path is None:
            return None
        arguments += name, path
    return arguments
