"""A server that answers with the key that was asked for, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from servers.scripted import Action, Connection, Request, ScriptedServer, Stall, ok

Start = Callable[..., ScriptedServer]


def echo(request: Request) -> Iterable[Action]:
    """`stall...` never gets an answer, anything else its own name."""
    return [Stall() if request.key.startswith("stall") else ok(request.key.encode())]


def items(count: int, prefix: str = "") -> list[tuple[str, None]]:
    return [(f"{prefix}{number}", None) for number in range(count)]


def bodies(count: int, prefix: str = "") -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(count)]


class Counted:
    """A server that knows how many connections it ever had open at once."""

    def __init__(self, scripted: Start) -> None:
        self.most = 0
        self.server = scripted(echo, on_accept=self._count)

    def _count(self, connection: Connection) -> None:
        self.most = max(self.most, len(self.server.open_connections))
