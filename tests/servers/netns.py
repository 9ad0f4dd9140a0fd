"""Bad networks: real servers in a network namespace, behind a slow and lossy link.

The link is a program of its own (`link.c`) and no `tc netem`, a module that many kernels are built
without: this one needs nothing but /dev/net/tun, and is the same wherever a figure is measured.
Both ends are real TCP, which sends again what the link loses. The namespace has no name: it is gone
with its last process, whatever became of the tests.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Self

from .compiled import compiled, has_compiler

_FIRST_PORT = 8000
_END_TIMEOUT = 5.0


@functools.cache
def why_no_networks() -> str | None:
    """What this machine lacks for a `Network`, if anything."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if not has_compiler():
        return "the link needs a C compiler"
    if shutil.which("nsenter") is None:
        return "nsenter is not installed (util-linux)"
    try:
        with Network():
            return None
    except OSError as error:
        return str(error)


class Network:
    """A namespace that only this link leads to; servers start in it by `server.within(network)`.

    Networks of one process, and of several at once, have different addresses.

    Parameters
    ----------
    round_trip
        Seconds from a packet to the answer to it: half of them each way.
    loss
        The probability that a packet is lost, each way.
    rate
        Bytes a second, at most, each way; 0 for as many as the machine can.
    """

    def __init__(self, round_trip: float = 0.0, *, loss: float = 0.0, rate: int = 0) -> None:
        self.round_trip = round_trip
        self._settings = (round(round_trip / 2 * 1e6), loss, rate)
        self._ports = itertools.count(_FIRST_PORT)
        self._link: subprocess.Popen[str] | None = None
        self.here = self.host = ""
        """The addresses of this end, and of the other, which servers listen on."""

    def __enter__(self) -> Self:
        with tempfile.TemporaryFile("w+") as errors:
            self._link = subprocess.Popen(
                [compiled("link"), *map(str, self._settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Ctrl-C at the terminal is for the tests.
                start_new_session=True,
            )
            addresses = self._heard().split()
            if not addresses:
                self.__exit__()
                errors.seek(0)
                raise OSError(errors.read().strip())
        self.here, self.host = addresses
        return self

    def __exit__(self, *_: object) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        with link:
            assert link.stdin is not None
            link.stdin.close()
            try:
                link.wait(_END_TIMEOUT)
            except subprocess.TimeoutExpired:
                link.kill()

    def down(self) -> None:
        """Lose every packet from now on, those under way included; neither end is told."""
        self._say("down")

    def up(self) -> None:
        """Carry packets again."""
        self._say("up")

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` in the namespace, as the same process."""
        assert self._link is not None, "the network is not entered"
        return ["nsenter", f"--net=/proc/{self._link.pid}/ns/net", "--", *command]

    def free_port(self) -> int:
        """A port that nobody has asked for before."""
        return next(self._ports)

    def _say(self, word: str) -> None:
        assert self._link is not None
        assert self._link.stdin is not None
        self._link.stdin.write(f"{word}\n")
        self._link.stdin.flush()
        if self._heard().strip() != word:
            raise OSError("the link has ended")

    def _heard(self) -> str:
        assert self._link is not None
        assert self._link.stdout is not None
        return self._link.stdout.readline()
