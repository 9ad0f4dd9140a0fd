"""TLS for the engine, by way of Python: slow, never wrong.

The engine reads and writes descriptors only. For a TLS session, one thread here passes bytes
between the session and a local socket pair; the engine's threads stay free of the GIL, and this
one takes it for each block.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from zfast import runtime
from zfast.connections.sessions import Session, fault_of

__all__ = ["Relay", "Told"]

_BLOCK = 256 << 10
# What fails at once again is not to take a whole core.
_BREATH_SECONDS = 0.01


class Told(Protocol):
    """Who hears what the bytes of a session do not say: `zfast._core.calls.Calls`."""

    def session_ended(self, lease_id: int, fault: bytes, refuses: bool) -> None: ...

    def content_held(self, lease_id: int, held: bool) -> None: ...


class _Session:
    """One TLS session and the near end of its socket pair."""

    def __init__(self, lease: int, tls: Session, near: socket.socket, told: Told) -> None:
        self.lease = lease
        self.tls = tls
        self.near = near
        self.told = told
        self.held = False
        self.to_engine = memoryview(b"")
        self.to_server = memoryview(b"")
        self.tls_reads = True
        self.near_reads = True
        self.closed = False
        self.failure: OSError | None = None
        # TLS may have to write in order to read, and the other way round.
        self.read_wants = selectors.EVENT_READ
        self.write_wants = selectors.EVENT_WRITE

    def interests(self) -> tuple[int, int]:
        """What to wait for on the TLS socket and on the near end."""
        tls = near = 0
        if self.to_engine:
            near |= selectors.EVENT_WRITE
        elif self.tls_reads and not self._reads_to_write():
            tls |= self.read_wants
        if self.to_server:
            tls |= self.write_wants
        elif self.near_reads:
            near |= selectors.EVENT_READ
        return tls, near

    def _reads_to_write(self) -> bool:
        # In a handshake of TLS 1.2 that what is to be sent waits for. To receive would end it as
        # well, and nothing would come by which the other learns that.
        return bool(self.to_server) and self.write_wants == selectors.EVENT_READ

    def at_rest(self) -> bool:
        """Whether nothing is on its way, so that somebody else may go on with the session."""
        return not (
            self.to_engine or self.read_wants != selectors.EVENT_READ or self._holds_content()
        )

    def _holds_content(self) -> bool:
        # Or the end of what there will be of it.
        try:
            return bool(self.to_server) or self.near.recv(1, socket.MSG_PEEK) is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    def pass_on(self) -> bool:
        """Move what can be moved; False when the session is over."""
        try:
            try:
                self._pass_to_server()
            except OSError:
                # A server that takes no more may have said why.
                self.write_wants = selectors.EVENT_WRITE
                self._pass_to_engine()
                raise
            return self._pass_to_engine()
        except OSError as error:
            # Anything but close_notify: the engine sees an end that it must not believe.
            fault, refuses = fault_of(error)
            if fault:
                self.told.session_ended(self.lease, fault.encode(), refuses)
            return False

    def _pass_to_server(self) -> None:
        while True:
            if not self.to_server:
                if not self.near_reads:
                    return
                try:
                    block = self.near.recv(_BLOCK)
                except BlockingIOError:
                    return
                if not block:
                    self.near_reads = False
                    raise ConnectionAbortedError("the engine gave the connection up")
                self.to_server = memoryview(block)
            try:
                self.to_server = self.to_server[self.tls.send(self.to_server) :]
            except ssl.SSLWantReadError:
                self.write_wants = selectors.EVENT_READ
                return
            except ssl.SSLWantWriteError:
                self.write_wants = selectors.EVENT_WRITE
                return

    def _pass_to_engine(self) -> bool:
        while True:
            if self.to_engine:
                try:
                    self.to_engine = self.to_engine[self.near.send(self.to_engine) :]
                except BlockingIOError:
                    return True
                continue
            if self.failure is not None:
                raise self.failure
            if self.closed:
                self.told.session_ended(self.lease, b"", False)
                return False
            if not self.tls_reads or self._reads_to_write():
                return True
            self.to_engine = memoryview(self._received())
            if self.to_engine:
                self._say_what_is_held()
            elif self.failure is None and not self.closed:
                return True

    def _say_what_is_held(self) -> None:
        held = self._holds_content()
        if held != self.held:
            self.held = held
            self.told.content_held(self.lease, held)

    def _received(self) -> bytes:
        """All that the session has now.

        What came together is passed on together: the engine tells by it that something lies behind
        a response.
        """
        received = bytearray()
        while len(received) < _BLOCK:
            try:
                block = self.tls.recv(_BLOCK)
            except ssl.SSLWantReadError:
                self.read_wants = selectors.EVENT_READ
                break
            except ssl.SSLWantWriteError:
                self.read_wants = selectors.EVENT_WRITE
                break
            except OSError as error:
                self.failure = error
                break
            if not block:
                self.closed = True
                break
            received += block
        return bytes(received)


class Relay:
    """The relaying thread of this process; started with the first session."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._todo: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sessions: dict[int, _Session] = {}
        self._woken, self._wakes = socket.socketpair()
        self._woken.setblocking(False)
        self._wakes.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def attach(self, lease: int, tls: Session, told: Told) -> socket.socket:
        """Take a session over, to be relayed from `begin` on.

        Parameters
        ----------
        lease : int
            What the other methods, and `told`, name it by.
        tls : Session
            Open, and nobody else's until `detach`.
        told : Told
            Hears of each thing before the engine sees what it is about.

        Returns
        -------
        socket.socket
            The far end, for the engine; the caller's to close after `detach`.

        Raises
        ------
        RuntimeError
            There can be no thread now; nothing is attached.
        """
        self._start()
        far, near = socket.socketpair()
        for end in (far, near):
            end.setblocking(False)
        session = _Session(lease, tls, near, told)
        self._run(lambda: self._sessions.update({lease: session}))
        return far

    def begin(self, lease: int) -> None:
        """Relay a session, whose end can be told of from here on."""
        self._run(lambda: self._serve(lease))

    def detach(self, lease: int) -> bool:
        """Stop relaying a session, before its TLS socket is used or closed by anybody else.

        Returns
        -------
        bool
            Whether the session is open, and the server was given all that the engine sent. What
            the engine has not taken of what came may lie in the far end still.
        """
        done = threading.Event()
        at_rest = False

        def end() -> None:
            nonlocal at_rest
            try:
                session = self._sessions.get(lease)
                at_rest = session is not None and session.at_rest()
                self._end(lease)
            finally:
                done.set()

        self._run(end)
        done.wait()
        return at_rest

    def forget(self) -> None:
        """In a forked child: let go of the parent's descriptors, touch no session."""
        for session in self._sessions.values():
            session.near.close()
        self._sessions.clear()
        self._woken.close()
        self._wakes.close()
        self._selector.close()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name="zfast-tls-relay", daemon=True)
                # Where there are too many, the next session tries again.
                thread.start()
                self._thread = thread

    def _run(self, job: Callable[[], None]) -> None:
        self._todo.append(job)
        with contextlib.suppress(BlockingIOError):
            self._wakes.send(b"!")

    def _loop(self) -> None:
        # Python ignores SIGPIPE, but a program may have undone that, and ssl writes by write(2).
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        while True:
            try:
                for key, _ in self._selector.select():
                    if key.fileobj is self._woken:
                        self._do_jobs()
                    else:
                        self._serve(key.data)
            except Exception:
                # Whoever waits for a session to be detached waits for this thread.
                runtime.report("the TLS relay failed")
                time.sleep(_BREATH_SECONDS)

    def _do_jobs(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._todo:
            try:
                self._todo.popleft()()
            except Exception:
                # As in _serve.
                runtime.report("the TLS relay failed at a session")

    def _serve(self, lease: int) -> None:
        session = self._sessions.get(lease)
        if session is None:
            # Detached meanwhile.
            return
        try:
            goes_on = session.pass_on()
            if goes_on:
                ends = (session.tls, session.near)
                for end, events in zip(ends, session.interests(), strict=True):
                    self._watch(end, events, lease)
        except Exception:
            # It must not end the thread that all the others live by.
            runtime.report("the TLS relay failed at a session")
            goes_on = False
        if not goes_on:
            self._end(lease)

    def _watch(self, end: Any, events: int, lease: int) -> None:
        watched = end.fileno() in self._selector.get_map()
        if not events:
            if watched:
                self._selector.unregister(end)
        elif watched:
            self._selector.modify(end, events, lease)
        else:
            self._selector.register(end, events, lease)

    def _end(self, lease: int) -> None:
        session = self._sessions.pop(lease, None)
        if session is None:
            return
        for end in (session.tls, session.near):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
        with contextlib.suppress(OSError):
            # A child that was forked just now may have it still: the far end is to see it end.
            session.near.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            session.near.close()
