"""A client of the plainest kind, for tests of the tests' own servers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from servers.scripted import ScriptedServer

Start = Callable[..., ScriptedServer]

GET = b"GET /key HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


@contextmanager
def dial(server: ScriptedServer) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=10) as sock:
        yield sock


def drain(sock: socket.socket) -> tuple[bytes, str]:
    """All the bytes until the end, and which end it was."""
    received = b""
    while True:
        try:
            data = sock.recv(1 << 16)
        except ConnectionResetError:
            return received, "reset"
        if not data:
            return received, "fin"
        received += data


def exactly(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = sock.recv(size - len(received))
        assert data, received
        received += data
    return received


def exchange(server: ScriptedServer, data: bytes = GET) -> tuple[bytes, str]:
    with dial(server) as sock:
        sock.sendall(data)
        return drain(sock)
