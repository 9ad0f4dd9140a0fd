"""Origins that nobody uses are forgotten where there are many, and those in use never."""

from __future__ import annotations

import gc
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers.leaks import wait_until
from servers.script import in_child
from servers.scripted import Reply, Request, ScriptedServer, Wait, ok, redirect

import zfast
from zfast import Client
from zfast.connections import origins

Start = Callable[..., ScriptedServer]

MOST = 3


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few are kept, and not for long."""
    monkeypatch.setattr(origins, "_MOST_ORIGINS", MOST)
    monkeypatch.setattr(origins, "_REST_SECONDS", 0.1)
    monkeypatch.setattr(origins, "_LOOK_SECONDS", 0.0)


def forgotten() -> bool:
    """Whether a read of yet another origin, some time later, leaves no more than are kept."""
    time.sleep(0.15)
    with zfast.config.set(max_attempts=1), socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(zfast.ConnectionFailedError):
            Client(f"http://127.0.0.1:{unused.getsockname()[1]}").get("key")
    gc.collect()
    return zfast.stats()["origins"] == len(origins.origins) == MOST


def test_those_that_nobody_uses_are_forgotten(scripted: Start) -> None:
    servers = [scripted(lambda request: ok(b"body")) for _ in range(8)]

    def read() -> None:
        with zfast.config.set(idle_timeout=0.05):
            clients = [Client(server.url) for server in servers]
            for client in clients:
                assert client.get("key") == b"body"
            wait_until(forgotten)
            for client in clients:
                assert client.get("key") == b"body"

    in_child(read)


def test_those_that_only_redirects_name_are_forgotten(scripted: Start) -> None:
    targets = [scripted(lambda request: ok(b"body")) for _ in range(8)]
    server = scripted(lambda request: redirect(f"{targets[int(request.key)].url}/key"))

    def read() -> None:
        with zfast.config.set(idle_timeout=0.05):
            client = Client(server.url)
            keys = [(str(number), None) for number in range(8)]
            assert client.get_many(keys) == [b"body"] * 8
            wait_until(forgotten)
            assert client.get_many(keys) == [b"body"] * 8

    in_child(read)


def test_what_is_in_use_is_not_forgotten(scripted: Start) -> None:
    gate = threading.Event()
    late = scripted(lambda request: [Wait(gate), ok(b"late")])

    def open_gate(request: Request) -> Reply:
        gate.set()
        return ok(b"body")

    opener = scripted(open_gate)

    def read() -> None:
        with zfast.config.set(idle_timeout=0.05), ThreadPoolExecutor() as pool:
            client = Client(late.url)
            reading = pool.submit(client.get, "key")
            wait_until(lambda: zfast.stats()["in_flight"] == 1)
            wait_until(forgotten)
            number = client._connections._origins["http", *late.address].id
            Client(opener.url).get("key")
            assert reading.result() == b"late"
            assert client._connections._origins["http", *late.address].id == number

    in_child(read)


def test_many_threads_and_many_origins(scripted: Start) -> None:
    servers = [scripted(lambda request: ok(b"body")) for _ in range(12)]

    def read() -> None:
        def course(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(100):
                assert Client(dice.choice(servers).url).get("key") == b"body"

        with zfast.config.set(idle_timeout=0.01), ThreadPoolExecutor(8) as pool:
            list(pool.map(course, range(8)))
            wait_until(forgotten)

    in_child(read)
