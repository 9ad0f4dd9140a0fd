"""What a test may leave behind: nothing. Descriptors, threads and processes, to compare."""

from __future__ import annotations

import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Callable

from .processes import ChildServer, running_servers
from .scripted import THREAD_NAME


def open_descriptors() -> dict[int, str]:
    """The open descriptors of this process, each with what it is open on.

    `len()` of it counts them; the difference of two says which are new.
    """
    found = {}
    for name in os.listdir("/dev/fd"):
        try:
            found[int(name)] = _describe(int(name))
        except OSError:
            # The descriptor of the listing itself.
            continue
    return found


def _describe(descriptor: int) -> str:
    state = os.fstat(descriptor)
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        kind = "socket" if stat.S_ISSOCK(state.st_mode) else "file"
        return f"{kind}:[{state.st_dev}:{state.st_ino}]"


def server_threads() -> set[threading.Thread]:
    """The living threads of scripted servers."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)}


def child_processes() -> set[ChildServer | multiprocessing.process.BaseProcess]:
    """The servers started for one test, and the children of `multiprocessing`."""
    servers = {server for server in running_servers() if not server.shared}
    return {*servers, *multiprocessing.active_children()}


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until it holds; an AssertionError where it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, (open_descriptors(), threading.enumerate())
        time.sleep(0.001)
