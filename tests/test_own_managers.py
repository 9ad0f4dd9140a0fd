"""A pool manager of the user's own is used as it was set up, and gets back what it lent."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from echoing import Counted, Start, bodies, echo, items
from servers.leaks import wait_until
from servers.script import in_child
from servers.scripted import (
    Action,
    Fin,
    Request,
    ScriptedServer,
    Stall,
    ok,
    redirect,
    status,
)
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

import zfast
from zfast import Client


@pytest.mark.parametrize("maxsize", [1, 3])
def test_a_blocking_pools_size_is_never_exceeded(scripted: Start, maxsize: int) -> None:
    counted = Counted(scripted)
    manager = urllib3.PoolManager(maxsize=maxsize, block=True)
    client = Client(counted.server.url, pool_manager=manager, retries=0)
    with ThreadPoolExecutor(8) as pool:
        for read in pool.map(lambda _: client.get_many(items(50)), range(8)):
            assert read == bodies(50)
    assert counted.most == len(counted.server.connections) == maxsize


@pytest.mark.parametrize("maxsize", [1, 2, 5])
def test_a_blocking_pool_whose_connections_all_end(scripted: Start, maxsize: int) -> None:
    # The place of one that ends is free only when urllib3 has it back.
    server = scripted(echo, keepalive_requests=1)
    manager = urllib3.PoolManager(maxsize=maxsize, block=True)
    client = Client(server.url, pool_manager=manager, retries=0)
    for _ in range(5):
        assert client.get_many(items(40)) == bodies(40)
    assert server.peak_waiting <= maxsize
    assert len(server.connections) == len(server.requests) == 200


def test_clients_of_one_manager_share_its_pool(scripted: Start) -> None:
    counted = Counted(scripted)
    manager = urllib3.PoolManager(maxsize=2, block=True)
    clients = [
        Client(f"{counted.server.url}/{name}", pool_manager=manager, retries=0) for name in "ab"
    ]
    for _ in range(3):
        for name, client in zip("ab", clients, strict=True):
            assert client.get_many(items(20)) == bodies(20, f"{name}/")
    assert counted.most == len(counted.server.connections) == 2


def test_calls_of_cat_ranges_share_a_managers_pool(scripted: Start) -> None:
    server = scripted(echo)
    manager = urllib3.PoolManager(maxsize=1, block=True)
    for _ in range(3):
        urls = [f"{server.url}/{key}" for key, _ in items(5)]
        assert zfast.cat_ranges(urls, pool_manager=manager) == bodies(5)
    assert manager.request("GET", f"{server.url}/key", timeout=5).data == b"key"
    assert len(server.connections) == 1


def test_closing_a_client_gives_its_connections_back(scripted: Start) -> None:
    server = scripted(echo)
    # Blocking, urllib3 waits for the connection instead of opening another.
    manager = urllib3.PoolManager(maxsize=1, block=True)
    with Client(server.url, pool_manager=manager) as client:
        assert client.get("ours") == b"ours"
        assert client.get("ours too") == b"ours too"
    began = time.monotonic()
    response = manager.request("GET", f"{server.url}/theirs", timeout=10)
    assert time.monotonic() - began < 2
    assert (response.status, response.data) == (200, b"theirs")
    assert manager.request("GET", f"{server.url}/more", timeout=10).data == b"more"
    # And back to zfast.
    opened = zfast.stats()["connections_opened"]
    again = Client(server.url, pool_manager=manager)
    assert again.get("again") == b"again"
    assert zfast.stats()["connections_opened"] == opened
    again.close()
    assert [(r.key, r.connection) for r in server.requests] == [
        (key, 0) for key in ("ours", "ours too", "theirs", "more", "again")
    ]


def test_an_idle_connection_goes_back_after_idle_timeout(scripted: Start) -> None:
    server = scripted(echo)

    def read_and_wait() -> None:
        with zfast.config.set(idle_timeout=0.05):
            manager = urllib3.PoolManager(maxsize=1, block=True)
            client = Client(server.url, pool_manager=manager)
            assert client.get("ours") == b"ours"
            assert manager.request("GET", f"{server.url}/theirs", timeout=10).data == b"theirs"
            assert client.get("ours") == b"ours"
            assert zfast.stats()["connections_pooled"] == 1

    in_child(read_and_wait)
    assert [(r.key, r.connection) for r in server.requests] == [
        ("ours", 0),
        ("theirs", 0),
        ("ours", 0),
    ]


def test_urllib3_and_zfast_use_one_pool_at_once(scripted: Start) -> None:
    counted = Counted(scripted)

    def read_both() -> None:
        with zfast.config.set(idle_timeout=0.01):
            manager = urllib3.PoolManager(maxsize=4, block=True)
            client = Client(counted.server.url, pool_manager=manager, max_concurrency=2)

            def theirs(number: int) -> None:
                url = f"{counted.server.url}/{number}"
                assert manager.request("GET", url, timeout=10).data == str(number).encode()

            with ThreadPoolExecutor(2) as pool:
                for _ in range(5):
                    under_way = pool.map(theirs, range(20))
                    assert client.get_many(items(20)) == bodies(20)
                    list(under_way)

    in_child(read_both)
    assert counted.most <= 4


def connecting_by(kind: type, server: ScriptedServer) -> urllib3.PoolManager:
    manager = urllib3.PoolManager()
    manager.connection_from_url(server.url).ConnectionCls = kind
    return manager


class OwnConnection(HTTPConnection):
    opened: list[int | None] = []

    def connect(self) -> None:
        super().connect()
        self.opened.append(self.port)


class OwnPool(HTTPConnectionPool):
    ConnectionCls = OwnConnection


@pytest.mark.parametrize("way", ["ConnectionCls", "pool_classes_by_scheme"])
def test_ones_own_classes_open_the_connections(scripted: Start, way: str) -> None:
    server = scripted(echo)
    manager = urllib3.PoolManager()
    if way == "ConnectionCls":
        manager.connection_from_url(server.url).ConnectionCls = OwnConnection
    else:
        manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, "http": OwnPool}
    OwnConnection.opened.clear()
    client = Client(server.url, pool_manager=manager)
    assert client.get_many(items(200)) == bodies(200)
    # Those that opened last are not needed any more: nobody waits until the server has them.
    server.wait_for(lambda: len(server.connections) == len(OwnConnection.opened))
    assert set(OwnConnection.opened) == {server.port}


def test_a_connection_class_that_fails(scripted: Start) -> None:
    class Failing(HTTPConnection):
        def connect(self) -> None:
            raise OSError("no luck today")

    server = scripted(echo)
    manager = connecting_by(Failing, server)
    with pytest.raises(zfast.ConnectionFailedError, match="no luck today") as raised:
        Client(server.url, pool_manager=manager, retries=1).get("key")
    assert raised.value.attempts == 2
    assert server.connections == []


def test_a_connection_class_whose_error_is_its_own_cause(scripted: Start) -> None:
    class Failing(HTTPConnection):
        def connect(self) -> None:
            error = OSError("no luck today")
            raise error from error

    server = scripted(echo)
    manager = connecting_by(Failing, server)
    with pytest.raises(zfast.ConnectionFailedError, match="no luck today"):
        Client(server.url, pool_manager=manager, retries=0, deadline=30).get("key")


def test_a_connection_class_that_does_not_close(
    scripted: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(HTTPConnection):
        yields = False

        def close(self) -> None:
            was_open = self.sock is not None
            super().close()
            if was_open and not self.yields:
                raise ValueError("it cannot be closed")

    server = scripted(lambda request: [ok(b"x"), Fin()])
    manager = urllib3.PoolManager(maxsize=1, block=True)
    pool = manager.connection_from_url(server.url)
    pool.ConnectionCls = Stubborn
    client = Client(server.url, pool_manager=manager, retries=1)
    for _ in range(3):
        assert client.get("key") == b"x"
    client.close()
    wait_until(lambda: pool.pool is not None and pool.pool.qsize() == 1)
    wait_until(lambda: "it cannot be closed" in caplog.text)
    Stubborn.yields = True


class Counting(socket.socket):
    """A socket that has to see what is sent and received, as one that encrypts does."""

    seen = 0

    def recv(self, *arguments: Any) -> bytes:
        block = super().recv(*arguments)
        Counting.seen += len(block)
        return block

    def recv_into(self, *arguments: Any) -> int:
        raise NotImplementedError


class Alike:
    """No socket, but used like one."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("kind", [Counting, Alike])
def test_sockets_with_ways_of_their_own(scripted: Start, kind: type) -> None:
    class Own(HTTPConnection):
        def _new_conn(self) -> Any:
            sock = super()._new_conn()
            return Alike(sock) if kind is Alike else Counting(fileno=sock.detach())

    def answer(request: Request) -> Iterable[Action]:
        time.sleep(0.05)
        return [ok(large)]

    large = bytes(range(256)) * 8000
    server = scripted(answer)
    Counting.seen = 0
    manager = connecting_by(Own, server)
    with Client(server.url, pool_manager=manager, retries=0) as client:
        assert client.get("key") == client.get("key") == large
        client.put("key", large)
        assert server.requests[-1].body == large
        assert client.stats()["fallback_reads"] == 3
    assert kind is Alike or Counting.seen > 2 * len(large)


def test_a_socket_whose_ways_cannot_be_used(scripted: Start) -> None:
    class Encrypting(socket.socket):
        def sendall(self, data: Any, *rest: Any) -> None:
            super().sendall(bytes(octet ^ 1 for octet in bytes(data)), *rest)

    class Own(HTTPConnection):
        def _new_conn(self) -> Any:
            return Encrypting(fileno=super()._new_conn().detach())

    server = scripted(echo)
    manager = connecting_by(Own, server)
    with pytest.raises(zfast.ConnectionFailedError, match="has sendall of its own") as raised:
        Client(server.url, pool_manager=manager).get("key")
    assert raised.value.attempts == 1
    assert server.requests == []


def test_a_connection_that_speaks_http2(scripted: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(HTTPConnection):
        """As urllib3's own, which takes a package that is not everywhere."""

    module = SimpleNamespace(HTTP2Connection=Other)
    monkeypatch.setitem(sys.modules, "urllib3.http2.connection", module)
    server = scripted(echo)
    manager = connecting_by(Other, server)
    with pytest.raises(zfast.ConnectionFailedError, match="told to speak HTTP/2") as raised:
        Client(server.url, pool_manager=manager).get("key")
    assert raised.value.attempts == 1
    assert server.connections == []


@pytest.mark.parametrize("way", ["create_connection", "_new_conn"])
def test_a_program_that_has_names_lead_elsewhere(
    scripted: Start, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def resolved(host: str, port: int, *rest: Any) -> Any:
        hosts = ("127.0.0.2", "127.0.0.3") if host == "data.example" else (host,)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    def connected(address: tuple[str, int], *rest: Any, **options: Any) -> Any:
        assert address[0] == "data.example"
        return socket.create_connection(("127.0.0.1", address[1]))

    server = scripted(echo)
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    if way == "create_connection":
        monkeypatch.setattr(urllib3.util.connection, way, connected)
    else:
        monkeypatch.setattr(HTTPConnection, way, lambda own: connected((own.host, own.port)))
    assert Client(f"http://data.example:{server.port}").get("key") == b"key"


def test_a_manager_that_keeps_few_pools(scripted: Start) -> None:
    servers = [scripted(echo) for _ in range(4)]
    manager = urllib3.PoolManager(num_pools=1)
    clients = [Client(server.url, pool_manager=manager) for server in servers]
    for _ in range(3):
        for client in clients:
            assert client.get_many(items(20)) == bodies(20)


def test_managers_one_after_another_leave_nothing(scripted: Start) -> None:
    server = scripted(echo)
    gc.collect()
    before = zfast.stats()["origins"]
    for number in range(12):
        client = Client(server.url, pool_manager=urllib3.PoolManager())
        assert client.get(str(number)) == str(number).encode()
        del client
        gc.collect()
    # One's connections may be on their way back as the next one's origin comes.
    assert zfast.stats()["origins"] <= before + 5
    wait_until(lambda: not server.open_connections, seconds=3)


def test_a_manager_goes_while_its_reads_are_under_way(scripted: Start) -> None:
    def late(request: Request) -> Iterable[Action]:
        time.sleep(0.2)
        return echo(request)

    server = scripted(late)
    before = zfast.stats()["origins"]

    async def read(number: int) -> None:
        client = Client(server.url, pool_manager=urllib3.PoolManager())
        reads = [asyncio.ensure_future(client.get_async(str(key))) for key in range(5)]
        del client
        await asyncio.sleep(0.05)
        for at in range(number % 5):
            reads[at].cancel()
        for key, found in enumerate(await asyncio.gather(*reads, return_exceptions=True)):
            assert isinstance(found, asyncio.CancelledError) or found == str(key).encode()

    async def all_of_them() -> None:
        await asyncio.gather(*map(read, range(20)))

    asyncio.run(all_of_them())
    gc.collect()

    def few_are_left() -> bool:
        # The next one takes those away that were still in use.
        Client(server.url, pool_manager=urllib3.PoolManager()).get("key")
        gc.collect()
        return zfast.stats()["origins"] <= before + 5

    wait_until(few_are_left)


def test_a_managers_own_headers_retries_and_timeout(scripted: Start) -> None:
    """They stand for what no argument says, but for what the engine writes itself."""
    server = scripted(lambda request: [status(503)] if request.key == "busy" else [Stall()])
    headers: dict[Any, Any] = {"X-A": "theirs", b"X-B": b"theirs", "X-C": 1}
    headers |= {"User-Agent": urllib3.util.SKIP_HEADER, **urllib3.make_headers(keep_alive=True)}
    manager = urllib3.PoolManager(
        headers=headers,
        retries=urllib3.Retry(2, status_forcelist=[503]),
        timeout=urllib3.Timeout(0.3),
    )
    client = Client(server.url, pool_manager=manager, headers={"x-a": "ours"})
    with pytest.raises(zfast.ResponseError, match="after 3 attempts"):
        client.get("busy")
    request = server.requests[0]
    sent = [request.field(name) for name in ("X-A", "X-B", "X-C", "User-Agent")]
    assert sent == ["ours", "theirs", "1", f"zfast/{zfast.__version__}"]
    for read in (
        lambda: client.get("stalls"),
        lambda: zfast.cat_ranges([f"{server.url}/stalls"], pool_manager=manager),
    ):
        with pytest.raises(zfast.DeadlineError, match="after 3 attempts"):
            read()
    assert server.requests[-1].field("X-B") == "theirs"
    with pytest.raises(zfast.ResponseError, match="after 1 attempt"):
        Client(server.url, pool_manager=manager, retries=0).get("busy")


def test_a_manager_without_retries(scripted: Start) -> None:
    server = scripted(lambda request: [redirect("/there") if request.key == "r" else status(503)])
    client = Client(server.url, pool_manager=urllib3.PoolManager(retries=False))
    for key in ("busy", "r"):
        with pytest.raises(zfast.ResponseError):
            client.get(key)
    assert len(server.requests) == 2


def test_a_manager_that_reads_by_zfast_itself(scripted: Start) -> None:
    """Or does whatever else takes long: nobody else waits for it."""
    server = scripted(echo)

    class Reading(urllib3.PoolManager):
        def connection_from_host(self, *arguments: Any, **options: Any) -> Any:
            assert Client(server.url).get("first") == b"first"
            return super().connection_from_host(*arguments, **options)

    def read() -> None:
        client = Client(server.url, pool_manager=Reading())
        assert client.get("second") == b"second"

    in_child(read)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_a_log_that_raises_ends_no_thread(scripted: Start, level: int) -> None:
    server = scripted(echo)

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit("no log")

    class Broken(urllib3.PoolManager):
        def connection_from_host(self, *arguments: Any, **options: Any) -> Any:
            pool = super().connection_from_host(*arguments, **options)
            pool._get_conn = broken
            return pool

    def broken(timeout: float | None = None) -> Any:
        raise ZeroDivisionError("no connection")

    blocking = urllib3.PoolManager(maxsize=1, block=True)

    def read() -> None:
        log = logging.getLogger("zfast")
        log.setLevel(level)
        log.addHandler(Raising())
        for _ in range(3):
            # Its only place is not lost.
            with pytest.raises(zfast.errors.ConnectionFailedError, match="Connection refused"):
                Client("http://127.0.0.1:1/", pool_manager=blocking, retries=0).get("key")
        for _ in range(20):
            with pytest.raises(zfast.errors.ConnectionFailedError):
                Client("http://127.0.0.1:1/", retries=0).get("key")
            with pytest.raises(zfast.errors.ConnectionFailedError):
                Client(server.url, pool_manager=Broken(), retries=0).get("key")
        assert Client(server.url).get("key") == b"key"

    in_child(read)


def test_a_redirect_that_cannot_be_followed_ends_though_the_log_raises(scripted: Start) -> None:
    server = scripted(lambda request: redirect("http://[nonsense/"))

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit("no log")

    def read() -> None:
        logging.getLogger("zfast").addHandler(Raising())
        with pytest.raises(zfast.errors.ResponseError, match="redirect cannot be followed"):
            Client(server.url).get("key")

    in_child(read)
