"""Work in another process: a forked child of this one, or a short program of its own.

Both end in time whatever happens, and what they say of a failure is in the test's failure.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TIMEOUT = 30


class Child:
    """A forked child that does `work()` and ends; `result()` is what that returned, by JSON."""

    def __init__(self, work: Callable[[], Any], timeout: int = TIMEOUT) -> None:
        self._reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork beside threads, which is what is tried here.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _do(work, writing, timeout)
        os.close(writing)

    def result(self) -> Any:
        """Wait for the child's end.

        Raises
        ------
        AssertionError
            With the child's traceback, where it did not end well or in time.
        """
        with open(self._reading, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert code == 0, f"the child ended with {code}:\n{said}"
        return json.loads(said)


def in_child(work: Callable[[], Any], timeout: int = TIMEOUT) -> Any:
    """Do `work()` in a forked child and wait for it; see `Child`."""
    return Child(work, timeout).result()


def _do(work: Callable[[], Any], writing: int, timeout: int) -> None:
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, writing, all_threads=True, chain=True)
        signal.alarm(timeout)
        # What the parent has is no garbage of the child's: to look through it takes seconds.
        gc.freeze()
        said = json.dumps(work())
        code = 0
    except BaseException:
        said = traceback.format_exc()
    finally:
        with open(writing, "w", encoding="utf-8") as pipe:
            pipe.write(said)
        os._exit(code)


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str
    at: float
    """`time.monotonic()` of its end."""


class Script:
    """A program under way; use it as a context manager, which kills it where it has not ended."""

    def __init__(self, folder: Path, source: str, *arguments: str, **environment: str) -> None:
        path = folder / f"script-{len(list(folder.glob('script-*.py')))}.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ZFAST_")}
        self.process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, "PYTHONFAULTHANDLER": "1", **environment},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def line(self) -> str:
        """The next line that it prints, "" at the end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ended(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for its end; a program that does not end in time is killed, and fails the test."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # Faulthandler says where it hangs.
            self.process.send_signal(signal.SIGABRT)
            out, err = self.process.communicate()
            raise AssertionError(f"the program did not end:\n{out}\n{err}") from None
        return Ended(self.process.returncode, out, err, time.monotonic())


def run(
    folder: Path, source: str, *arguments: str, timeout: float = TIMEOUT, **environment: str
) -> Ended:
    """Run a program to its end; see `Script`."""
    with Script(folder, source, *arguments, **environment) as script:
        return script.ended(timeout)
