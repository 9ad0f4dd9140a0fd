"""A proxy before a real server that does harm to its replies, by a seed, and only such as shows.

What can show over HTTP/1.1 is what its framing says: that a reply ends before its Content-Length,
or that there is something behind it. So the proxy delays, stalls, cuts and resets anywhere, and
says bytes twice behind the end of a body alone; never a whole reply, for that could be the right
answer to somebody else's question, and never within a head, for that could make another valid one.

Within a body, a byte that is said twice, lost or changed leaves the length as it was announced,
and nothing in HTTP tells. That is done only to what `within` names, where a checksum has to find
it. One over the whole body finds anything. One for each of several chunks in a body does not find
that a whole chunk has taken the place of another, as saying bytes twice may have it.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Self

from .processes import HOST

BLOCK = 1 << 16
THREAD_NAME = "scripted-server-chaos"
"""Beginning as those of scripted servers do, so that one that stays fails its test."""

ANYWHERE = ("delay", "split", "cut", "reset", "stall", "behind")
WITHIN = ("twice", "changed", "lost")


class _Gone(Exception):
    """The connection is at an end."""


class Chaos:
    """Relays to `port` what comes to its own, one exchange after another; a context manager.

    Parameters
    ----------
    port
        Of the server, on loopback.
    seed
        Of the dice; each connection has some of its own.
    share
        Of the replies that come to harm.
    within
        The kinds of harm within a body that a checksum finds in the reply to a target.
    """

    def __init__(
        self,
        port: int,
        seed: int,
        share: float,
        within: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        self._upstream = (HOST, port)
        self._seed = seed
        self._within = within
        self.share = share
        self.done: Counter[str] = Counter()
        """How often each kind of harm was done."""
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._accepted = 0

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server((HOST, 0), backlog=1024)
        self._acceptor = threading.Thread(target=self._accept, name=f"{THREAD_NAME}-accept")
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        # Accepting ends with a connection of its own.
        socket.create_connection(self._listener.getsockname()).close()
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closing.is_set():
                client.close()
                return
            dice = random.Random(f"{self._seed} {self._accepted}")
            self._accepted += 1
            name = f"{THREAD_NAME}-{self._accepted}"
            thread = threading.Thread(target=self._serve, args=(client, dice), name=name)
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, dice: random.Random) -> None:
        with client, socket.create_connection(self._upstream) as server:
            with self._lock:
                self._sockets |= {client, server}
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while not self._closing.is_set():
                    self._exchange(client, server, dice)
            except (_Gone, OSError):
                pass
            finally:
                with self._lock:
                    self._sockets -= {client, server}

    def _exchange(self, client: socket.socket, server: socket.socket, dice: random.Random) -> None:
        request, _ = _head(client)
        server.sendall(request)
        head, body = _head(server)
        length = re.search(rb"(?im)^content-length: *([0-9]+)", head)
        assert length is not None, head
        while len(body) < int(length[1]):
            body += _received(server)
        target = request.split()[1].decode()
        if dice.random() >= self.share:
            client.sendall(head + body)
            return
        kind = dice.choice([*ANYWHERE, *(self._within(target) if body else ())])
        with self._lock:
            self.done[kind] += 1
        getattr(self, f"_{kind}")(client, dice, head, body)

    # ------------------------------------------------------------------------------------- harm

    def _delay(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        at = dice.randrange(len(head + body))
        client.sendall((head + body)[:at])
        self._closing.wait(dice.random() * 0.05)
        client.sendall((head + body)[at:])

    def _split(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        wire = head + body
        while wire:
            size = dice.randrange(1, 1 + max(1, len(wire) // 2))
            client.sendall(wire[:size])
            wire = wire[size:]

    def _cut(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        client.sendall((head + body)[: dice.randrange(len(head + body))])
        raise _Gone

    def _reset(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        client.sendall((head + body)[: dice.randrange(len(head + body))])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Gone

    def _stall(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        client.sendall((head + body)[: dice.randrange(len(head + body))])
        # Until the client has had enough.
        select.select([client], [], [])
        raise _Gone

    def _behind(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        tail = body[-dice.randrange(1, 200) :] or b"\r\n"
        client.sendall(head + body + tail)

    def _twice(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        first, last = sorted(dice.randrange(len(body) + 1) for _ in range(2))
        client.sendall(head + body[:last] + body[first:])

    def _changed(
        self, client: socket.socket, dice: random.Random, head: bytes, body: bytes
    ) -> None:
        at = dice.randrange(len(body))
        changed = bytes([body[at] ^ (1 << dice.randrange(8))])
        client.sendall(head + body[:at] + changed + body[at + 1 :])

    def _lost(self, client: socket.socket, dice: random.Random, head: bytes, body: bytes) -> None:
        at = dice.randrange(len(body))
        # Its length is made good, or it would only be one more that was cut.
        client.sendall(head + body[:at] + body[at + 1 :] + body[at : at + 1])


def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    """A message up to the end of its head, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(sock)
    head, end, rest = data.partition(b"\r\n\r\n")
    return head + end, rest


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(BLOCK)
    if not data:
        raise _Gone
    return data
