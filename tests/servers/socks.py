"""A SOCKS proxy of versions 4, 4a and 5 (RFC 1928, RFC 1929) that records what it is asked for."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Mapping
from typing import NamedTuple, Self

from .scripted import THREAD_NAME

BLOCK = 1 << 16


class Asked(NamedTuple):
    """One connection that somebody asked for."""

    version: int
    host: str
    """A name, or an address in digits."""
    port: int
    user: str


class SOCKSServer:
    """A SOCKS proxy on a free loopback port; use it as a context manager.

    Parameters
    ----------
    credentials
        User and password that SOCKS 5 has to be given; None: none are asked for.
    hosts
        The addresses of names, which nobody but the proxy knows.
    """

    def __init__(
        self,
        *,
        credentials: tuple[str, str] | None = None,
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        self._credentials = credentials
        self._hosts = dict(hosts or {})
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.asked: list[Asked] = []
        """In order of arrival."""
        self.refused = 0
        """How often credentials were missing, or wrong."""
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(
            target=work,  # type: ignore[arg-type]
            args=arguments,
            name=f"{THREAD_NAME}-socks",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with self._lock:
                    self._open.add(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        # What a client does wrong, or too early, ends its connection.
        with contextlib.suppress(OSError, EOFError):
            version = _read(sock, 1)[0]
            asked = self._socks5(sock) if version == 5 else self._socks4(sock)
            if asked is not None:
                self.asked.append(asked)
                self._connect(sock, asked)
        with self._lock:
            self._open.discard(sock)
            sock.close()

    def _socks5(self, sock: socket.socket) -> Asked | None:
        methods = _read(sock, _read(sock, 1)[0])
        wanted = 0 if self._credentials is None else 2
        if wanted not in methods:
            self.refused += 1
            sock.sendall(b"\x05\xff")
            return None
        sock.sendall(bytes((5, wanted)))
        user = ""
        if self._credentials is not None:
            assert _read(sock, 1) == b"\x01"
            user = _read(sock, _read(sock, 1)[0]).decode()
            password = _read(sock, _read(sock, 1)[0]).decode()
            if (user, password) != self._credentials:
                self.refused += 1
                sock.sendall(b"\x01\x01")
                return None
            sock.sendall(b"\x01\x00")
        version, command, _, kind = _read(sock, 4)
        assert (version, command) == (5, 1)
        if kind == 3:
            host = _read(sock, _read(sock, 1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, _read(sock, size))
        return Asked(5, host, *struct.unpack("!H", _read(sock, 2)), user)

    def _socks4(self, sock: socket.socket) -> Asked:
        command, port, address = struct.unpack("!BH4s", _read(sock, 7))
        assert command == 1
        user = _read_text(sock)
        # 4a: an address that cannot be, and a name behind the user.
        named = address[:3] == bytes(3) and address[3]
        host = _read_text(sock) if named else socket.inet_ntop(socket.AF_INET, address)
        return Asked(4, host, port, user)

    def _connect(self, sock: socket.socket, asked: Asked) -> None:
        granted, refused = (b"\x05\x00\x00\x01", b"\x05\x05\x00\x01")
        if asked.version == 4:
            granted, refused = (b"\x00\x5a", b"\x00\x5b")
        try:
            upstream = socket.create_connection(
                (self._hosts.get(asked.host, asked.host), asked.port)
            )
        except OSError:
            sock.sendall(refused + bytes(6))
            return
        with upstream:
            sock.sendall(granted + bytes(6))
            _relay(sock, upstream)


def _read(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        block = sock.recv(size - len(found))
        if not block:
            raise EOFError
        found += block
    return found


def _read_text(sock: socket.socket) -> str:
    found = b""
    while (byte := _read(sock, 1)) != b"\x00":
        found += byte
    return found.decode()


def _relay(one: socket.socket, other: socket.socket) -> None:
    ends = {one.fileno(): (one, other), other.fileno(): (other, one)}
    readable = select.poll()
    for descriptor in ends:
        readable.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in readable.poll():
            source, target = ends[descriptor]
            data = source.recv(BLOCK)
            if not data:
                return
            target.sendall(data)
