"""One connection of a scripted server: the socket, and how each action is done to it.

Everything that blocks ends when the server closes, which shuts the socket down.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import select
import socket
import ssl
import struct
import sys
import termios
import threading
import time

from .parsing import PeerClosed, Request
from .replies import (
    Action,
    BelowTLS,
    Cork,
    Drip,
    Ending,
    Fin,
    HalfClose,
    KeyUpdate,
    Renegotiate,
    Reply,
    Reset,
    Stall,
    Tunnel,
    Vanish,
    Wait,
    status,
)
from .tls import renegotiate, update_keys

BLOCK = 1 << 16
_MACOS_SO_NWRITE = 0x1024
_LINUX_TCP_REPAIR = 19


class Ended(Exception):
    """The connection was ended by the server; the argument is how."""


def ending_of(error: BaseException) -> str:
    """How a connection ended, by the exception that ended it; "error" where it is a fault."""
    if isinstance(error, Ended):
        return str(error.args[0])
    if isinstance(error, PeerClosed):
        return "peer reset" if error.reset else "peer"
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, ConnectionError):
        return "peer reset"
    return "error"


def can_vanish() -> bool:
    """Whether this process may close a connection without FIN or RST: root may, on Linux."""
    with socket.socket() as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _LINUX_TCP_REPAIR, 1)
        return sys.platform == "linux"
    return False


class Connection:
    """A connection that the server accepted."""

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        peer: tuple[str, int],
        closing: threading.Event,
        changed: threading.Condition,
    ) -> None:
        self._sock = sock
        self._closing = closing
        self._changed = changed
        self._command: Fin | Reset | Vanish | None = None
        self._waker, self._wakes = socket.socketpair()
        self._readable = select.poll()
        for source in (sock, self._wakes):
            self._readable.register(source, select.POLLIN)
        self.number = number
        """From 0, in order of acceptance."""
        self.peer = peer
        """The client's address."""
        self.requests: list[Request] = []
        """The requests that came over it."""
        self.opened = time.monotonic()
        self.idle = True
        """Whether no request is under way."""
        self.open = True
        self.waiting = False
        self.ending: str | None = None
        """How it ended: "peer" (FIN), "peer reset", "fin", "reset", "vanished", "bad request",
        "tls" (no handshake, or cut), "error" (of the script), "server" (closed with the server)."""

    def __repr__(self) -> str:
        state = self.ending if not self.open else "idle" if self.idle else "busy"
        return f"<Connection {self.number}: {len(self.requests)} requests, {state}>"

    def handshake(self) -> None:
        """Do the TLS handshake, if there is to be one."""
        if not isinstance(self._sock, ssl.SSLSocket):
            return
        try:
            self._sock.do_handshake()
        except ssl.SSLError:
            # A close with unread bytes would be a RST, and the client not see the alert.
            self._shut(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while socket.socket.recv(self._sock, BLOCK):
                    pass
            raise

    def rest(self) -> None:
        """From now on no request is under way."""
        self._set_idle(True)

    def work(self) -> None:
        """From now on a request is under way."""
        self._set_idle(False)

    def close_if_idle(self, command: Fin | Reset | Vanish) -> bool:
        """Have the connection's thread close it, unless a request is under way."""
        with self._changed:
            if not (self.idle and self.open):
                return False
            self._command = command
            self._waker.send(b"x")
        return True

    def receive(self) -> bytes:
        """The next bytes, b"" at the end.

        Raises
        ------
        PeerClosed
            Where the client resets the connection.
        """
        if not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            self._readable.poll()
        if self._command is not None:
            self.finish(self._command)
        data, failure = b"", None
        try:
            data = self._sock.recv(BLOCK)
        except (ConnectionResetError, ssl.SSLError) as error:
            failure = error
        if not data and self._closing.is_set():
            raise Ended("server")
        if failure is not None:
            raise PeerClosed(reset=True) from failure
        return data

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._sock.sendall(data)
        except OSError:
            if self._closing.is_set():
                raise Ended("server") from None
            raise

    def perform(self, action: Action, method: str) -> bool:
        """Do one action; whether the connection is still good for another request."""
        match action:
            case bytes():
                self.send(action)
            case Reply():
                return self._reply(action, method)
            case Cork():
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            case Drip(data):
                self._drip(data)
            case Wait(event, timeout):
                self._wait(event, timeout)
            case KeyUpdate():
                assert isinstance(self._sock, ssl.SSLSocket)
                update_keys(self._sock)
            case Renegotiate():
                assert isinstance(self._sock, ssl.SSLSocket)
                renegotiate(self._sock)
            case BelowTLS(data):
                socket.socket.sendall(self._sock, data)
            case Tunnel(address):
                self._relay(address)
            case Fin() | Reset() | Vanish() | HalfClose() | Stall():
                self.finish(action)
            case _:
                raise TypeError(f"neither a reply nor an action: {action!r}")
        return True

    def finish(self, ending: Ending) -> None:
        """Close in the way asked for.

        Raises
        ------
        Ended, PeerClosed
            Always: nothing more happens on this connection.
        """
        match ending:
            case Stall():
                self._read_to_end()
            case HalfClose():
                self._send_fin(notify=True)
                self._read_to_end()
            case Fin(notify):
                # A FIN with unread bytes behind it would become a RST.
                self._sock.setblocking(False)
                with contextlib.suppress(OSError):
                    while self._sock.recv(BLOCK):
                        pass
                self._sock.setblocking(True)
                self._send_fin(notify)
                raise Ended("fin")
            case Reset():
                self._flush()
                linger = struct.pack("ii", 1, 0)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                raise Ended("reset")
            case Vanish():
                self._flush()
                self._sock.setsockopt(socket.IPPROTO_TCP, _LINUX_TCP_REPAIR, 1)
                raise Ended("vanished")

    def closed(self, ending: str) -> None:
        """Close the socket and say so."""
        with self._changed:
            for sock in (self._sock, self._waker, self._wakes):
                sock.close()
            self.open = False
            self.idle = False
            self.ending = ending
            self._changed.notify_all()

    def shut_down(self) -> None:
        """Make whatever blocks on the socket return."""
        with self._changed:
            self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        # Not SSLSocket's own method: it would take the session from under the thread using it.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, how)

    def _set_idle(self, idle: bool) -> None:
        with self._changed:
            self.idle = idle
            self._changed.notify_all()
            command = self._command
        if command is not None:
            self.finish(command)

    def _reply(self, reply: Reply, method: str) -> bool:
        wire = reply.wire(method)
        if reply.dripped:
            self._drip(wire)
        else:
            self.send(wire)
        if reply.ending is not None:
            self.finish(reply.ending)
        return not reply.closes()

    def _drip(self, data: bytes) -> None:
        for byte in data:
            self.send(bytes((byte,)))

    def _wait(self, event: threading.Event, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not event.wait(0.05):
            if self._closing.is_set():
                raise Ended("server")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the script's event was not set in {timeout} s")

    def _read_to_end(self) -> None:
        while self.receive():
            pass
        raise PeerClosed

    def _send_fin(self, notify: bool) -> None:
        with contextlib.suppress(OSError):
            if notify and isinstance(self._sock, ssl.SSLSocket):
                self._sock.setblocking(False)
                with contextlib.suppress(ssl.SSLError):
                    self._sock.unwrap()
                self._sock.setblocking(True)
        self._shut(socket.SHUT_WR)

    def _flush(self) -> None:
        """Hold until the client's kernel has everything, which a RST discards, or is gone."""
        gone = select.poll()
        gone.register(self._sock, 0)
        while self._unsent() and not gone.poll(1):
            pass

    def _unsent(self) -> int:
        if sys.platform == "darwin":
            return self._sock.getsockopt(socket.SOL_SOCKET, _MACOS_SO_NWRITE)
        count = array.array("i", [0])
        fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, count)
        return count[0]

    def _relay(self, address: tuple[str, int]) -> None:
        try:
            upstream = socket.create_connection(address)
        except OSError:
            self.send(status(502).closing().wire())
            raise Ended("fin") from None
        with upstream:
            self.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {self._sock.fileno(): self._sock, upstream.fileno(): upstream}
            readable = select.poll()
            for descriptor in ends:
                readable.register(descriptor, select.POLLIN)
            while True:
                for descriptor, _ in readable.poll():
                    data = ends[descriptor].recv(BLOCK)
                    if not data:
                        raise Ended("fin")
                    next(sock for key, sock in ends.items() if key != descriptor).sendall(data)
