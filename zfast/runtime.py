"""The engine of this process: started at first use, afresh after a fork, ended at exit.

A few Python threads serve what the engine cannot do without Python; what that is, the layer above
says by `serve_with`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from zfast._core.batch import LATE_SECONDS, NO_MORE
from zfast._core.calls import Calls
from zfast._core.engine import Engine
from zfast._core.policy import after_fork_in_child
from zfast.config import setting, source

__all__ = [
    "LATE_SECONDS",
    "NO_MORE",
    "connection_limit",
    "connection_limits",
    "current",
    "fork_guard",
    "on_end",
    "on_fork",
    "report",
    "running",
    "serve_with",
    "settings_taken",
]

_log = logging.getLogger("zfast")

# Descriptors that the process keeps for other things than connections.
_RESERVED_DESCRIPTORS = 32
_JOIN_SECONDS = 0.5
# The engine asks for more where hosts are far.
_FIRST_THREADS = 10
# What an engine takes at its start and keeps. Not max_concurrency, which a client may raise, and
# takes for itself.
_TAKEN = ("io_threads", "decode_threads", "dial_threads", "idle_timeout", "max_head_size")

_engine: Engine | None = None
# Whether exit has begun, and the engine that it has ended.
_is_over = False
_ended: Engine | None = None
_taken: dict[str, tuple[Any, str]] = {}
_threads: list[threading.Thread] = []
_serve: Callable[[Calls, str, int, int], None] | None = None
_forgets: list[Callable[[], None]] = []
_ends: list[Callable[[], None]] = []
_lock = threading.RLock()

# Held around whatever must be whole when the process forks, and by the fork itself.
fork_guard = threading.RLock()


def serve_with(serve: Callable[[Calls, str, int, int], None]) -> None:
    """Name the function that answers the engine's calls; see `Calls.next`."""
    global _serve
    _serve = serve


def on_fork(forget: Callable[[], None]) -> None:
    """Have `forget` called in a forked child, before anything else of zfast runs there."""
    _forgets.append(forget)


def on_end(tell: Callable[[], None]) -> None:
    """Have `tell` called when the process ends, and with it whatever is under way."""
    _ends.append(tell)


def running() -> Engine | None:
    """The engine, if there is one of this process."""
    engine = _engine
    if engine is not None and engine.pid != os.getpid():
        # Of a fork that no hook was told of, such as one of a C library.
        _after_fork_in_child()
        return None
    return engine


def settings_taken() -> dict[str, tuple[Any, str]]:
    """Settings that the running engine keeps, each with its source then; none without an engine."""
    engine = running()
    return {} if engine is None or engine.stopped else _taken


def current(max_concurrency: int = 0) -> Engine:
    """The engine, with room for so many requests at once; started if there is none."""
    engine = _current()
    if max_concurrency > engine.max_in_flight:
        engine.raise_limits(max_concurrency, *connection_limits(max_concurrency))
    return engine


def _current() -> Engine:
    global _engine
    engine = running()
    if engine is not None and not engine.stopped:
        return engine
    with _lock:
        if _is_over and threading.current_thread() is not threading.main_thread():
            return _after_the_end()
        if _engine is None or _engine.stopped:
            _engine = _start()
        return _engine


def _after_the_end() -> Engine:
    """The ended engine, for a daemon thread that reads while the process ends.

    What it submits never completes: it ends with the process, and says nothing; an event loop tells
    whoever waits after a while, see `zfast.loops`. For any other thread the process would wait.
    """
    if _ended is not None and threading.current_thread().daemon:
        return _ended
    raise RuntimeError(NO_MORE)


def connection_limit(max_concurrency: int) -> int:
    """How many connections the process can hold open, given its limit on descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_concurrency
    return max(1, min(max_concurrency, (soft - _RESERVED_DESCRIPTORS) // 2))


def connection_limits(max_concurrency: int) -> tuple[int, int]:
    """How many connections are for so many requests, and how many there may be at most."""
    return connection_limit(max_concurrency), connection_limit(3 * max_concurrency)


def _has_real_threads() -> bool:
    # From Python 3.13 on the first. A debugger has others too, which start threads as they are.
    starters = (getattr(threading, f"_start_{kind}_thread", None) for kind in ("joinable", "new"))
    return not any(
        str(getattr(start, "__module__", "")).startswith(("gevent.", "eventlet."))
        for start in starters
    )


def _start() -> Engine:
    global _taken
    if not _has_real_threads():
        raise RuntimeError(
            "zfast's threads wait without Python, and what is in place of this process's threads "
            "(gevent or eventlet) would wait with them: patch with thread=False"
        )
    if sys.is_finalizing():
        # As Thread.start says from Python 3.12 on; before, it waits for ever for the new thread.
        raise RuntimeError(NO_MORE)
    max_concurrency = setting("max_concurrency")
    taken = {name: (setting(name), source(name)) for name in _TAKEN}
    values = {name: value for name, (value, _) in taken.items()}
    engine = Engine(
        values["io_threads"],
        max_concurrency,
        *connection_limits(max_concurrency),
        values["idle_timeout"],
        values["max_head_size"],
        values["dial_threads"],
        values["decode_threads"],
    )
    if _engine is not None and not _engine.stopped:
        # Of a signal's handler that read meanwhile.
        engine.stop()
        return _engine
    _threads.clear()
    try:
        _add_threads(engine, min(_FIRST_THREADS, values["dial_threads"]))
    except BaseException:
        # There are too many threads.
        engine.stop()
        raise
    _taken = taken
    return engine


def _add_threads(engine: Engine, wanted: int) -> None:
    while len(_threads) < wanted:
        thread = threading.Thread(
            target=_serve_calls, args=(engine,), name=f"zfast-dial-{len(_threads)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            if _threads:
                # With fewer it is slower; more are asked for when they are needed.
                return
            raise RuntimeError(
                f"no thread to open connections could be started ({error}): too many threads run, "
                "or this user's limit on processes (ulimit -u) is too low"
            ) from error
        _threads.append(thread)
        engine.count_dial_threads(len(_threads))


def _serve_calls(engine: Engine) -> None:
    # As in the relay: a peer that has gone amid a handshake is no end of the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    calls = Calls(engine)
    while (call := calls.next()) is not None:
        what, number, _ = call
        if what == "threads":
            _grow(engine, number)
        elif what:
            _answer(calls, call)


def _grow(engine: Engine, wanted: int) -> None:
    # Who has the lock starts threads too, forks, or ends: nothing to wait for, least of all exit.
    if not _lock.acquire(blocking=False):
        return
    try:
        if engine is _engine and not engine.stopped:
            _add_threads(engine, wanted)
    except (RuntimeError, MemoryError):
        # No more can be started now: it is asked for again before long.
        pass
    finally:
        _lock.release()


def _answer(calls: Calls, call: tuple[str, int, int]) -> None:
    assert _serve is not None
    try:
        _serve(calls, *call)
    except BaseException:
        # SystemExit, too, of somebody's connections: a thread that ends with it serves nobody else.
        report("serving the engine's call %r failed", call[0])


def report(text: str, *arguments: Any) -> None:
    """Log the exception that is being handled, by a thread that others live by.

    A handler of the program's that raises is not to end it.
    """
    with contextlib.suppress(BaseException):
        _log.exception(text, *arguments)


def _stop() -> None:
    global _engine, _ended, _is_over
    # Who asks for an engine from here on, but for the main thread, gets none.
    _is_over = True
    with _lock:
        _ended = engine = _engine
        _engine = None
        if engine is None:
            return
        engine.stop(exiting=True)
        for tell in _ends:
            tell()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in _threads:
            # One that is opening a connection is not waited for: it ends with the process.
            thread.join(max(0.0, deadline - time.monotonic()))
        answer_rest(engine)


def answer_rest(engine: Engine) -> None:
    """Serve the calls that a stopped engine still has: what it holds goes back to its owners."""
    calls = Calls(engine)
    while (call := calls.next()) is not None:
        _answer(calls, call)


def _after_fork_in_child() -> None:
    global _engine
    engine, _engine = _engine, None
    if engine is not None:
        engine.abandon()
        _abandoned.append(engine)
    _threads.clear()
    try:
        after_fork_in_child()
        for forget in _forgets:
            forget()
    finally:
        # Whatever goes wrong is not to keep every thread of the child waiting, nor the lock of
        # another thread where a signal's handler raised as it was waited for.
        for lock in (fork_guard, _lock):
            if lock._is_owned():  # type: ignore[attr-defined]
                lock.release()
            else:
                lock._at_fork_reinit()  # type: ignore[attr-defined]


# The parent's engines, in a child: nothing of theirs may run, not even a destructor.
_abandoned: list[Any] = []

atexit.register(_stop)
# The locks' own methods: in a function of Python a signal's handler could raise between them, and
# Python ignores what hooks raise, whatever they hold. Before a fork the last is called first.
for _held in (fork_guard, _lock):
    os.register_at_fork(before=_held.acquire, after_in_parent=_held.release)
os.register_at_fork(after_in_child=_after_fork_in_child)
