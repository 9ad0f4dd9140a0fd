"""Hosts behind a proxy, and clients with other limits, take turns at a pool that blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from servers.script import in_child
from servers.scripted import Action, Request, ScriptedServer, ok, redirect

import zfast
from zfast import Client

Start = Callable[..., ScriptedServer]

HOSTS = [f"http://{name}.example" for name in "abc"]


def forwarded(request: Request) -> Iterable[Action]:
    if request.target.endswith("/moved"):
        return [redirect(f"{HOSTS[1]}/there")]
    return [ok(request.target.encode())]


def nothing_failed(proxy: ScriptedServer, maxsize: int, *clients: Client) -> None:
    # Nobody used up an attempt, and no connection was given up for another one.
    assert [client.stats()["retries"] for client in clients] == [0] * len(clients)
    assert len(proxy.connections) == len(proxy.open_connections) <= maxsize


@pytest.fixture(params=[1, 4])
def maxsize(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


def test_hosts_behind_a_forwarding_proxy(scripted: Start, maxsize: int) -> None:
    proxy = scripted(forwarded)
    manager = urllib3.ProxyManager(proxy.url, maxsize=maxsize, block=True)
    clients = [Client(host, pool_manager=manager) for host in HOSTS]
    for _ in range(3):
        for host, client in zip(HOSTS, clients, strict=True):
            read = client.get_many([(str(number), None) for number in range(20)])
            assert read == [f"{host}/{number}".encode() for number in range(20)]
    nothing_failed(proxy, maxsize, *clients)


def test_one_batch_of_several_hosts(scripted: Start, maxsize: int) -> None:
    proxy = scripted(forwarded)
    manager = urllib3.ProxyManager(proxy.url, maxsize=maxsize, block=True)
    urls = [f"{host}/{number}" for number in range(20) for host in HOSTS]
    assert zfast.cat_ranges(urls, pool_manager=manager) == [url.encode() for url in urls]
    nothing_failed(proxy, maxsize)


def test_a_redirect_to_another_host(scripted: Start, maxsize: int) -> None:
    proxy = scripted(forwarded)
    manager = urllib3.ProxyManager(proxy.url, maxsize=maxsize, block=True)
    client = Client(HOSTS[0], pool_manager=manager)
    assert client.get_many([("moved", None)] * 8) == [f"{HOSTS[1]}/there".encode()] * 8
    nothing_failed(proxy, maxsize, client)


def test_clients_of_other_timeouts(scripted: Start, maxsize: int) -> None:
    server = scripted(lambda request: ok(request.key.encode()))
    manager = urllib3.PoolManager(maxsize=maxsize, block=True)
    clients = [Client(server.url, pool_manager=manager, timeout=seconds) for seconds in (20, 30)]
    for _ in range(3):
        for client in clients:
            assert client.get_many([("key", None)] * 8) == [b"key"] * 8
    nothing_failed(server, maxsize, *clients)


def test_a_long_read_gives_others_their_turn(scripted: Start, maxsize: int) -> None:
    """A connection without a pause is no reason for other clients of its pool to fail."""
    had_theirs = threading.Event()

    def slow(request: Request) -> Iterable[Action]:
        # One after another the reads of the first client would take a minute.
        if not had_theirs.is_set() and request.key.startswith("long"):
            had_theirs.wait(0.02)
        return [ok(request.key.encode())]

    server = scripted(slow)
    manager = urllib3.PoolManager(maxsize=maxsize, block=True)
    first, *others = (
        Client(server.url, pool_manager=manager, timeout=seconds) for seconds in range(20, 25)
    )
    keys = [f"long/{number}" for number in range(3000)]
    with ThreadPoolExecutor(len(others) + 1) as threads:
        long = threads.submit(first.get_many, [(key, None) for key in keys])
        server.wait_for(lambda: len(server.requests) > maxsize)
        short = [threads.submit(client.get_many, [("short", None)] * 8) for client in others]
        assert [each.result() for each in short] == [[b"short"] * 8] * len(others)
        assert not long.done()
        had_theirs.set()
        assert long.result() == [key.encode() for key in keys]
    assert len(server.open_connections) <= maxsize


def test_between_two_turns_nobody_is_forgotten(scripted: Start) -> None:
    # Each turn is longer than anybody waits for a pool that others do not have.
    def slow(request: Request) -> Iterable[Action]:
        time.sleep(0.7)
        return [ok(request.key.encode())]

    server = scripted(slow)
    manager = urllib3.PoolManager(maxsize=1, block=True)
    clients = [
        Client(server.url, pool_manager=manager, timeout=seconds, retries=0)
        for seconds in (20, 21, 22, 23)
    ]
    with ThreadPoolExecutor(4) as threads:
        reads = [threads.submit(client.get, "key") for client in clients for _ in range(2)]
        assert [read.result() for read in reads] == [b"key"] * 8


def test_a_pool_that_is_shared_with_urllib3(scripted: Start) -> None:
    proxy = scripted(forwarded)
    manager = urllib3.ProxyManager(proxy.url, maxsize=1, block=True)
    for host in HOSTS:
        with Client(host, pool_manager=manager) as client:
            assert client.get("ours") == f"{host}/ours".encode()
        response = manager.request("GET", f"{host}/theirs", timeout=5, pool_timeout=5)
        assert response.data == f"{host}/theirs".encode()
        nothing_failed(proxy, 1, client)


def test_one_thread_serves_who_waits_and_who_gives_back(scripted: Start) -> None:
    """A dial that waits for a connection may have to take it from the engine itself."""
    server = scripted(lambda request: ok(request.key.encode()))

    def read() -> None:
        manager = urllib3.PoolManager(maxsize=1, block=True)
        with zfast.config.set(dial_threads=1):
            clients = [
                Client(server.url, pool_manager=manager, timeout=seconds, retries=0)
                for seconds in (20, 30)
            ]
            for _ in range(3):
                for client in clients:
                    assert client.get_many([("key", None)] * 8) == [b"key"] * 8
        nothing_failed(server, 1, *clients)

    in_child(read)


def test_turns_where_each_takes_a_new_connection(scripted: Start) -> None:
    """While one is being opened its place is nobody's, and those who wait are not to give up."""

    def closing(request: Request) -> Iterable[Action]:
        threading.Event().wait(0.05)
        return [ok(request.key.encode()).with_fields(connection="close")]

    server = scripted(closing)
    manager = urllib3.PoolManager(maxsize=1, block=True)
    clients = [
        Client(server.url, pool_manager=manager, timeout=seconds, retries=0)
        for seconds in range(20, 25)
    ]
    with ThreadPoolExecutor(len(clients)) as threads:
        reads = [threads.submit(client.get_many, [("key", None)] * 8) for client in clients]
        assert [read.result() for read in reads] == [[b"key"] * 8] * len(clients)
