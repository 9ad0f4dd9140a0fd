"""A host with several addresses: connections go to all of them, and around those that fail."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
from servers.leaks import open_descriptors, wait_until
from servers.script import in_child
from servers.scripted import (
    Action,
    Fin,
    Request,
    Reset,
    ScriptedServer,
    Tunnel,
    blackhole,
    ok,
    status,
)
from urllib3.connection import HTTPConnection

import zfast
from zfast import Client, runtime
from zfast.connections import opening

Start = Callable[..., ScriptedServer]
Pair = tuple[ScriptedServer, ScriptedServer]

NAME = "two.example"
V4 = ("127.0.0.1", "127.0.0.2")


def _has(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            return False
    return True


several_loopbacks = pytest.mark.skipif(not _has(V4[1]), reason="127.0.0.1 alone is loopback here")


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    """Ports come again: what is known of addresses may be of another test's server."""
    with runtime.fork_guard:
        opening.forget()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """Names and their addresses, which this process resolves beside those that there are."""
    names: dict[str, tuple[str, ...]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> list[Any]:
        return [e for a in names.get(host, (host,)) for e in real(a, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def echo(request: Request) -> Iterable[Action]:
    return [ok(request.key.encode())]


@pytest.fixture
def pair(scripted: Start, resolve: dict[str, tuple[str, ...]]) -> Callable[..., Pair]:
    """Start two servers at one port of `NAME`'s two addresses; options are lists of two."""

    def start(hosts: tuple[str, str] = V4, **options: list[Any]) -> Pair:
        if not all(map(_has, hosts)):
            pytest.skip(f"not both of {hosts} are loopback addresses here")
        resolve[NAME] = hosts
        handlers = options.pop("handler", [echo, echo])

        def one(number: int, **where: Any) -> ScriptedServer:
            given = {name: values[number] for name, values in options.items()}
            return scripted(handlers[number], host=hosts[number], **where, **given)

        first = one(0)
        return first, one(1, port=first.port)

    return start


def client_of(server: ScriptedServer, **options: Any) -> Client:
    scheme = server.url.partition(":")[0]
    return Client(f"{scheme}://{NAME}:{server.port}", **options)


def connected(servers: Pair) -> list[int]:
    return [len(server.connections) for server in servers]


def counted(servers: Pair) -> list[int]:
    """How many connections are open to each, as zfast has it."""
    with runtime.fork_guard:
        known = opening.addresses._known
        names = [":".join(map(str, server.address)) for server in servers]
        return [known[name].open if name in known else 0 for name in names]


def all_at_once(count: int) -> Callable[[Request], Iterable[Action]]:
    """Nobody gets an answer before so many have asked, on as many connections."""
    several = threading.Barrier(count, timeout=20)

    def answer(request: Request) -> Iterable[Action]:
        several.wait()
        return echo(request)

    return answer


ANSWERED_ONCE = [1, 1]


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_where_one_address_fails_a_retry_takes_another(
    pair: Callable[..., Pair], code: int
) -> None:
    servers = pair(handler=[lambda _: [status(code)], echo])
    client = client_of(servers[0])
    for number in range(10):
        assert client.get(str(number)) == str(number).encode()
    # What it had of others then, it does not ask again.
    assert len(servers[0].requests) <= 1
    assert client.stats()["failed"] == 0


def test_where_connections_to_one_address_break_a_retry_takes_another(
    pair: Callable[..., Pair],
) -> None:
    """Of those that are open to both, and most of which have proved good."""
    warms = threading.Barrier(8, timeout=20)

    def serve(request: Request, *, breaks: bool) -> Iterable[Action]:
        if request.key != "key":
            warms.wait()
        elif breaks:
            return [ok(b"key").cut_body(1, Reset())]
        return echo(request)

    servers = pair(handler=[partial(serve, breaks=breaks) for breaks in (True, False)])
    client = client_of(servers[0], retries=urllib3.Retry(1, backoff_factor=0), deadline=60)
    for _ in range(12):
        client.get_many([(str(number), None) for number in range(8)])
        assert client.get("key") == b"key"


def test_where_all_addresses_fail_now_and_then_connections_stay(
    pair: Callable[..., Pair],
) -> None:
    def failing(request: Request) -> Iterable[Action]:
        return [status(500)] if request.key.endswith("0") else echo(request)

    servers = pair(handler=[failing, failing])
    client = client_of(servers[0], max_concurrency=4, retries=1)
    for _ in range(5):
        client.get_many([(str(number), None) for number in range(100)], "return")
    # Those to the one that failed first are opened anew, elsewhere; all others carry on.
    assert sum(connected(servers)) <= 16


def test_who_says_when_to_come_again_is_believed(pair: Callable[..., Pair]) -> None:
    def busy(request: Request) -> Iterable[Action]:
        return [status(503, retry_after="0")] if request.index == 0 else echo(request)

    servers = pair(handler=[busy, busy])
    client = client_of(servers[0], max_concurrency=1)
    assert client.get("key") == b"key"
    assert sum(connected(servers)) == 1


# ----------------------------------------------------------------------------------------- spread


@pytest.mark.parametrize("hosts", [V4, ("::1", "127.0.0.1")], ids=["v4", "v6"])
def test_connections_are_spread(pair: Callable[..., Pair], hosts: tuple[str, str]) -> None:
    servers = pair(hosts, handler=[all_at_once(8)] * 2)
    client = client_of(servers[0], max_concurrency=8, retries=0)
    assert client.get_many([(str(n), None) for n in range(8)]) == [b"%d" % n for n in range(8)]
    assert connected(servers) == [4, 4]
    shown = f"{NAME}:{servers[0].port}"
    assert {r.field("Host") for s in servers for r in s.requests} == {shown}


def test_one_after_another_takes_turns(pair: Callable[..., Pair]) -> None:
    servers = pair(keepalive_requests=ANSWERED_ONCE)
    client = client_of(servers[0], retries=0)
    for _ in range(6):
        assert client.get("key") == b"key"
    assert connected(servers) == [3, 3]


def test_those_that_clients_share_count_together(pair: Callable[..., Pair]) -> None:
    servers = pair(handler=[all_at_once(4)] * 2)
    clients = [client_of(servers[0], timeout=timeout, retries=0) for timeout in (20, 21, 22, 23)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda client: client.get("key"), clients)) == [b"key"] * 4
    assert connected(servers) == [2, 2]


def test_a_proxy_of_two_addresses(
    pair: Callable[..., Pair], scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    origin = scripted(all_at_once(4), tls=tls_context)
    proxies = pair(handler=[lambda request: Tunnel(origin.address)] * 2)
    manager = urllib3.ProxyManager(
        f"http://{NAME}:{proxies[0].port}", ca_certs=tls_ca_file, maxsize=4
    )
    client = Client(origin.url, pool_manager=manager, max_concurrency=4, retries=0)
    assert client.get_many([("key", None)] * 4) == [b"key"] * 4
    assert connected(proxies) == [2, 2]


# -------------------------------------------------------------------------------------------- TLS


def named_context(ca: trustme.CA, name: str, asked: list[str | None]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    context.sni_callback = lambda _, name, __: asked.append(name)
    return context


def test_the_certificate_is_for_the_name(
    pair: Callable[..., Pair], tls_ca: trustme.CA, tls_ca_file: str, tls_path: str
) -> None:
    asked: list[str | None] = []
    context = named_context(tls_ca, NAME, asked)
    servers = pair(handler=[all_at_once(4)] * 2, tls=[context] * 2)
    client = client_of(servers[0], ca_certs=tls_ca_file, max_concurrency=4, retries=0)
    assert client.get_many([("key", None)] * 4) == [b"key"] * 4
    assert connected(servers) == [2, 2]
    assert asked == [NAME] * 4
    assert (client.stats()["fallback_reads"] == 4) == (tls_path == "python")


def test_a_certificate_for_the_address_is_none(
    pair: Callable[..., Pair], tls_ca: trustme.CA, tls_ca_file: str
) -> None:
    asked: list[str | None] = []
    servers = pair(tls=[named_context(tls_ca, host, asked) for host in V4])
    client = client_of(servers[0], ca_certs=tls_ca_file, retries=3)
    with pytest.raises(zfast.ConnectionFailedError, match=f"not valid for '{NAME}'") as raised:
        client.get("key")
    assert raised.value.attempts == 1
    assert asked == [NAME]
    assert not any(server.requests for server in servers)


def test_a_handshake_that_fails_is_tried_again_elsewhere(
    pair: Callable[..., Pair], tls_ca: trustme.CA, tls_ca_file: str
) -> None:
    asked: list[str | None] = []
    servers = pair(
        tls=[None, named_context(tls_ca, NAME, asked)],
        on_accept=[lambda _: [Fin()], lambda _: None],
        keepalive_requests=ANSWERED_ONCE,
    )
    client = client_of(servers[1], ca_certs=tls_ca_file, retries=1)
    for _ in range(6):
        assert client.get("key") == b"key"
    assert connected(servers) == [1, 6]
    wait_until(lambda: counted(servers)[0] == 0)


def test_a_handshake_has_all_the_time_that_is_left(
    pair: Callable[..., Pair],
    tls_ca: trustme.CA,
    tls_ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # To connect: much less, while there are others.
    monkeypatch.setattr(opening, "_PATIENCE_SECONDS", 0.1)
    context = named_context(tls_ca, NAME, [])
    context.sni_callback = lambda *_: time.sleep(0.3)
    servers = pair(tls=[context] * 2)
    assert client_of(servers[0], ca_certs=tls_ca_file, retries=0).get("key") == b"key"


# ------------------------------------------------------------------------------------- that fail


@pytest.mark.parametrize("lost", [0, 1])
def test_one_that_refuses(pair: Callable[..., Pair], lost: int) -> None:
    servers = pair(listening=[number != lost for number in range(2)])
    client = client_of(servers[0], max_concurrency=8, retries=0)
    for _ in range(3):
        assert client.get_many([("key", None)] * 40) == [b"key"] * 40
        servers[1 - lost].close_idle()
    assert client.stats()["retries"] == client.stats()["failed"] == 0


@several_loopbacks
@pytest.mark.parametrize(
    ("connect", "patience"), [(1, 2), (200, 0.2), (None, 0.2)], ids=["short", "long", "unlimited"]
)
def test_one_that_does_not_answer(
    scripted: Start,
    resolve: dict[str, tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    connect: float | None,
    patience: float,
) -> None:
    monkeypatch.setattr(opening, "_PATIENCE_SECONDS", patience)
    resolve[NAME] = V4
    with blackhole(V4[0]) as (_, port):
        server = scripted(echo, host=V4[1], port=port, keepalive_requests=1)
        timeout = urllib3.Timeout(connect=connect, read=60)
        client = client_of(server, timeout=timeout, max_concurrency=4, retries=0)
        began = time.monotonic()
        for _ in range(3):
            assert client.get_many([("key", None)] * 10) == [b"key"] * 10
        assert time.monotonic() - began < 60


def test_each_address_has_a_fair_share_of_what_is_left() -> None:
    clock = opening._Clock(3.0)
    first, last = clock.share(2) or 0.0, clock.share(0) or 0.0
    assert 0 < first <= 1 < last <= 3
    assert opening._Clock(0.0).share(0)
    assert opening._Clock(None).share(0) is None


def test_after_a_failure_the_other_is_preferred(pair: Callable[..., Pair]) -> None:
    servers = pair(listening=[False, True], keepalive_requests=ANSWERED_ONCE)
    client = client_of(servers[0], retries=0)
    assert client.get("key") == b"key"
    assert counted(servers)[0] == 0
    servers[0].listen()
    for _ in range(10):
        assert client.get("key") == b"key"
    assert connected(servers) == [0, 11]


def test_one_that_failed_is_the_last_resort(pair: Callable[..., Pair]) -> None:
    servers = pair(listening=[False, True], keepalive_requests=ANSWERED_ONCE)
    client = client_of(servers[0], retries=0)
    assert client.get("key") == b"key"
    servers[0].listen()
    servers[1].refuse()
    for _ in range(3):
        assert client.get("key") == b"key"
    assert connected(servers) == [3, 1]
    # Having answered, it is as good as any again, and the other one no more.
    now = time.monotonic()
    known = [opening.addresses._known[f"{host}:{servers[0].port}"] for host in V4]
    assert [each.avoided_until > now for each in known] == [False, True]


def test_a_recovered_address_is_used_again(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zfast.addresses._AVOIDED_SECONDS", 0.1)
    servers = pair(listening=[False, True], keepalive_requests=ANSWERED_ONCE)
    client = client_of(servers[0], retries=0)
    assert client.get("key") == b"key"
    servers[0].listen()
    wait_until(lambda: client.get("key") == b"key" and bool(servers[0].connections))


def test_one_to_which_connections_break(pair: Callable[..., Pair]) -> None:
    servers = pair(
        handler=[lambda request: ok(b"key").cut_body(1, Reset()), echo],
        on_accept=[lambda _: None] * 2,
    )
    client = client_of(servers[0], retries=urllib3.Retry(1, backoff_factor=0))
    assert client.get("key") == b"key"
    assert connected(servers) == [1, 1]
    known = opening.addresses
    with runtime.fork_guard:
        choice = [f"{host}:{servers[0].port}" for host in V4]
        assert known.take(choice, time.monotonic()) == choice[1]
        known.drop(choice[1])


def test_connections_are_counted_until_they_are_closed(pair: Callable[..., Pair]) -> None:
    seen: list[list[int]] = []

    def answer(request: Request) -> Iterable[Action]:
        seen.append(counted(servers))
        return echo(request)

    servers = pair(handler=[answer] * 2, keepalive_requests=ANSWERED_ONCE)
    client = client_of(servers[0])
    for _ in range(4):
        assert client.get("key") == b"key"
        wait_until(lambda: not any(counted(servers)))
    assert seen == [[1, 0], [0, 1]] * 2


def test_a_process_without_descriptors_is_no_fault_of_an_address(pair: Callable[..., Pair]) -> None:
    servers = pair()

    def read() -> list[bool]:
        client = client_of(servers[0])
        assert client.get("key") == b"key"
        most = len(open_descriptors()) + 4
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        assert client.get_many([("key", None)] * 200) == [b"key"] * 200
        known = opening.addresses._known
        return [known[f"{host}:{servers[0].port}"].avoided_until > 0 for host in V4]

    assert in_child(read) == [False, False]


# ----------------------------------------------------------------------------------------- errors


def test_none_that_listens(pair: Callable[..., Pair]) -> None:
    servers = pair(listening=[False, False])
    with pytest.raises(zfast.ConnectionFailedError) as raised:
        client_of(servers[0], retries=0).get("key")
    for host in V4:
        assert f"{host}:{servers[0].port}: [Errno" in str(raised.value)
    assert NAME in str(raised.value)


@several_loopbacks
def test_none_that_answers_costs_one_timeout(resolve: dict[str, tuple[str, ...]]) -> None:
    hosts = tuple(f"127.0.0.{number}" for number in range(1, 7))
    resolve[NAME] = hosts
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(blackhole(hosts[0]))
        for host in hosts[1:]:
            stack.enter_context(blackhole(host, port))
        client = Client(f"http://{NAME}:{port}", timeout=0.5, retries=0)
        began = time.monotonic()
        with pytest.raises(zfast.DeadlineError, match="connect_timeout"):
            client.get("key")
        # One for each would be 3 s.
        assert time.monotonic() - began < 2.5


def test_a_name_that_there_is_none_of() -> None:
    # RFC 6761: this top-level domain has no hosts.
    with pytest.raises(zfast.ConnectionFailedError, match="resolve"):
        Client("http://nowhere.invalid", retries=0).get("key")


# ------------------------------------------------------------------------------- urllib3's own way


def test_one_address_is_left_to_urllib3(
    scripted: Start, resolve: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve["one.example"] = ("127.0.0.1",)
    asked: list[object] = []
    ours = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> list[Any]:
        asked.append(host)
        return ours(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server = scripted(echo, keepalive_requests=1)
    client = Client(f"http://one.example:{server.port}", retries=0)
    for number in range(1, 5):
        assert client.get("key") == b"key"
        # By the name, each time; whether there are more was asked once.
        assert asked == ["one.example"] * (number + 1)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets of Unix")
def test_a_class_with_its_own_way_is_let_be(
    resolve: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    resolve[NAME] = V4
    path = str(tmp_path / "socket")

    class UnixConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            return sock

    def serve() -> None:
        accepted, _ = listener.accept()
        with accepted:
            assert b"two.example" in accepted.recv(1 << 16)
            accepted.sendall(ok(b"body").wire())
            accepted.recv(1)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        manager = urllib3.PoolManager()
        pool = manager.connection_from_host(NAME, 80, "http")
        pool.ConnectionCls = UnixConnection
        with Client(f"http://{NAME}", pool_manager=manager, retries=0) as client:
            assert client.get("key") == b"body"
        pool.close()
        thread.join()


def test_a_connection_comes_back_as_it_was(pair: Callable[..., Pair]) -> None:
    servers = pair(keepalive_requests=ANSWERED_ONCE)
    manager = urllib3.PoolManager(maxsize=1, block=True, timeout=20)
    url = f"http://{NAME}:{servers[0].port}"
    for _ in range(3):
        with Client(url, pool_manager=manager, retries=0) as client:
            assert client.get("key") == b"key"
        assert manager.request("GET", f"{url}/theirs", retries=False).data == b"theirs"
    pool = manager.connection_from_url(url)
    connection = pool._get_conn()
    assert connection.host == NAME
    assert "_new_conn" not in vars(connection)
    pool._put_conn(connection)


def test_a_connection_out_of_a_pool_counts(pair: Callable[..., Pair]) -> None:
    servers = pair()
    manager = urllib3.PoolManager()
    url = f"http://{NAME}:{servers[0].port}"
    assert manager.request("GET", f"{url}/theirs").data == b"theirs"
    with Client(url, pool_manager=manager, retries=0) as client:
        assert client.get("key") == b"key"
        assert counted(servers) == [1, 0]
    wait_until(lambda: counted(servers) == [0, 0])
    assert connected(servers) == [1, 0]


def test_a_forked_child_spreads_its_own(pair: Callable[..., Pair]) -> None:
    servers = pair(keepalive_requests=ANSWERED_ONCE)
    client = client_of(servers[0], retries=0)
    assert client.get("key") == b"key"

    def read() -> None:
        for _ in range(4):
            assert client.get("key") == b"key"

    in_child(read)
    assert client.get("key") == b"key"
    assert connected(servers) == [3, 3]
