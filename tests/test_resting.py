"""Connections that lie open in pools are few, and end there when their server ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import pytest
from servers.leaks import open_descriptors, wait_until
from servers.script import in_child
from servers.scripted import Action, Fin, Request, ScriptedServer, ok

import zfast
from zfast import Client
from zfast.connections import resting

Start = Callable[..., ScriptedServer]

KEYS = [(str(number), None) for number in range(8)]


def open_connections() -> int:
    """As many as there are by the counters."""
    numbers = zfast.stats()
    return int(numbers["connections_opened"] - numbers["connections_closed"])


def sockets() -> int:
    return sum(name.startswith("socket:") for name in open_descriptors().values())


def slow(request: Request) -> Iterable[Action]:
    # So that each read of a batch takes a connection of its own.
    time.sleep(0.01)
    yield ok(b"body")


def slow_and_closed_later(request: Request) -> Iterable[Action]:
    yield from slow(request)
    time.sleep(0.5)
    yield Fin()


def test_pools_have_room_for_what_is_read_at_once_later(scripted: Start) -> None:
    """Whatever the setting was when the first client was made."""
    gate = threading.Barrier(96)

    def together(request: Request) -> Iterable[Action]:
        gate.wait(20)
        yield ok(b"body")

    server = scripted(together)

    def read() -> None:
        Client(server.url)
        with zfast.config.set(max_concurrency=96, idle_timeout=0.05):
            with Client(server.url) as client:
                client.get_many([(str(number), None) for number in range(96)])
                wait_until(lambda: zfast.stats()["connections"] == 0)
        assert open_connections() == 96

    in_child(read)


def test_what_its_server_closes_in_a_pool_is_closed(scripted: Start) -> None:
    ending = scripted(slow_and_closed_later, strict=False)
    lasting = scripted(slow)

    def read() -> None:
        with zfast.config.set(idle_timeout=0.05):
            Client(lasting.url).get_many(KEYS)
            lasts = open_connections()
            before = sockets()
            Client(ending.url).get_many(KEYS)
            assert open_connections() > lasts
            wait_until(lambda: zfast.stats()["connections"] == 0)
            # Nothing else happens in this process.
            wait_until(lambda: open_connections() == lasts)
            assert sockets() == before
            # The others are of use still.
            Client(lasting.url).get_many(KEYS)
            assert zfast.stats()["connections_pooled"] > 0
            assert open_connections() == lasts

    in_child(read)
    assert len(lasting.requests) == 2 * len(KEYS)


def test_what_is_closed_since_pools_hold_too_many_is_counted(
    scripted: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = [scripted(slow) for _ in range(5)]
    monkeypatch.setattr(resting, "MOST_KEPT", 6)

    def others() -> int:
        """Sockets that are no connections, once all of these lie in pools."""
        for server in servers:
            Client(server.url).get_many(KEYS)
        wait_until(lambda: zfast.stats()["connections"] == 0)
        wait_until(lambda: open_connections() == sum(map(len, resting._kept.values())) <= 6)
        return sockets() - open_connections()

    def read() -> None:
        with zfast.config.set(idle_timeout=0.05):
            assert others() == others()

    in_child(read)
