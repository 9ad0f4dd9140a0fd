"""Connections are urllib3's: lent from its pools as they are set up, given back fit for use."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import urllib3
from echoing import Start, bodies, echo, items
from servers.leaks import wait_until
from servers.script import Child, in_child
from servers.scripted import (
    Action,
    Fin,
    Request,
    ScriptedServer,
    Tunnel,
    Wait,
    blackhole,
    ok,
    redirect,
    status,
)

import zfast
from zfast import Client
from zfast.connections.numbers import time_limits

# ------------------------------------------------------------------------------------- forwarding


def proxied(request: Request) -> Iterable[Action]:
    return [ok(f"{request.target} for {request.field('Proxy-Authorization')}".encode())]


def test_a_forwarding_proxy_gets_the_whole_url_and_its_headers(scripted: Start) -> None:
    proxy = scripted(proxied)
    manager = urllib3.ProxyManager(
        proxy.url, proxy_headers=urllib3.make_headers(proxy_basic_auth="user:secret")
    )
    client = Client(
        "http://origin.example:8080/base?v=1", pool_manager=manager, headers={"X-A": "b"}
    )
    expected = "http://origin.example:8080/base/a%20key?v=1 for Basic dXNlcjpzZWNyZXQ="
    assert client.get("a key") == expected.encode()
    (request,) = proxy.requests
    assert request.field("Host") == "origin.example:8080"
    assert request.field("X-A") == "b"


def test_fields_of_a_forwarding_proxy_are_sent_as_urllib3_sends_them(scripted: Start) -> None:
    proxy = scripted(proxied)
    manager = urllib3.ProxyManager(proxy.url, proxy_headers={"Proxy-Authorization": b"Basic YTpi"})
    Client("http://origin.example/base", pool_manager=manager).get("k")
    assert proxy.requests[0].field("Proxy-Authorization") == "Basic YTpi"


@pytest.mark.parametrize("fields", [{"X-A": "a\r\nX-B: b"}, {"X A": "a"}, {"X-A": "€"}], ids=str)
def test_a_field_of_a_proxy_that_cannot_be_sent(scripted: Start, fields: dict[str, str]) -> None:
    proxy = scripted(proxied)
    manager = urllib3.ProxyManager(proxy.url, proxy_headers=fields)
    with pytest.raises(zfast.ConfigurationError, match="of the proxy cannot be sent"):
        Client("http://origin.example/base", pool_manager=manager).get("k")
    assert proxy.requests == []


def test_a_redirect_stays_with_the_proxy(scripted: Start) -> None:
    def answer(request: Request) -> Action:
        if request.target == "http://a.example/key":
            return redirect("/moved")
        if request.target == "http://a.example/moved":
            return redirect("http://b.example/there")
        return ok(request.target.encode())

    proxy = scripted(answer)
    client = Client("http://a.example", pool_manager=urllib3.ProxyManager(proxy.url))
    assert client.get("key") == b"http://b.example/there"
    assert [r.field("Host") for r in proxy.requests] == ["a.example", "a.example", "b.example"]


def test_a_proxy_that_asks_for_credentials(scripted: Start) -> None:
    proxy = scripted(lambda request: status(407))
    client = Client("http://a.example", pool_manager=urllib3.ProxyManager(proxy.url))
    with pytest.raises(zfast.AccessError) as raised:
        client.get("key")
    assert raised.value.status == 407


# -------------------------------------------------------------------------------------- tunnelling


@pytest.fixture
def origin(scripted: Start, tls_context: Any) -> ScriptedServer:
    return scripted(echo, tls=tls_context)


def tunnels(origin: ScriptedServer) -> Callable[[Request], Action]:
    return lambda r: Tunnel(origin.address) if r.method == "CONNECT" else status(400)


def test_a_tunnel_to_a_tls_origin(
    scripted: Start, origin: ScriptedServer, tls_ca_file: str, tls_path: str
) -> None:
    proxy = scripted(tunnels(origin))
    manager = urllib3.ProxyManager(
        proxy.url, proxy_headers={"Proxy-Authorization": "Basic secret"}, ca_certs=tls_ca_file
    )
    client = Client(origin.url, pool_manager=manager)
    assert client.get_many(items(40)) == bodies(40)
    assert (client.stats()["fallback_reads"] == 40) == (tls_path == "python")
    assert {r.target for r in proxy.requests} == {f"127.0.0.1:{origin.port}"}
    assert {r.field("Proxy-Authorization") for r in proxy.requests} == {"Basic secret"}
    # The proxy's credentials are not the origin's business, nor is the whole URL.
    assert not any(r.fields.has("Proxy-Authorization") for r in origin.requests)
    assert all(r.target.startswith("/") for r in origin.requests)


def test_a_tunnel_through_a_tls_proxy(
    scripted: Start, origin: ScriptedServer, tls_context: Any, tls_ca_file: str
) -> None:
    large = bytes(range(256)) * 4096
    there = scripted(lambda r: ok(large) if r.key == "large" else ok(b"small"), tls=tls_context)
    proxy = scripted(tunnels(there), tls=tls_context)
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file)
    client = Client(there.url, pool_manager=manager)
    assert client.get("small") == b"small"
    assert client.get_many([("large", None), ("small", None)] * 4) == [large, b"small"] * 4
    # TLS within TLS has no descriptor of its own.
    assert client.stats()["fallback_reads"] == 9
    assert {r.method for r in proxy.requests} == {"CONNECT"}


def test_a_tunnel_that_is_refused(
    scripted: Start, origin: ScriptedServer, tls_ca_file: str
) -> None:
    proxy = scripted(lambda request: status(403).closing())
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file)
    client = Client(origin.url, pool_manager=manager)
    with pytest.raises(zfast.AccessError, match=r"refuses to lead there .*403") as raised:
        client.get("key")
    assert raised.value.status == 403
    # It would refuse again.
    assert client.stats()["retries"] == 0
    assert origin.connections == []


@pytest.mark.parametrize("code", [429, 503])
def test_a_tunnel_that_is_refused_for_now(
    scripted: Start, origin: ScriptedServer, tls_ca_file: str, code: int
) -> None:
    proxy = scripted([status(code).closing(), Tunnel(origin.address)])
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file, maxsize=1)
    client = Client(origin.url, pool_manager=manager, max_concurrency=1)
    assert client.get("key") == b"key"
    assert client.stats()["retries"] == 1


def test_a_proxy_that_now_and_then_refuses_a_tunnel(
    scripted: Start, tls_context: Any, tls_ca_file: str
) -> None:
    # One at a time, each of which carries one response: when it is refused there is no other.
    origin = scripted(lambda request: ok(request.key.encode()).closing(), tls=tls_context)

    def lead(request: Request) -> Action:
        return Tunnel(origin.address) if next(asked) % 3 else status(403).closing()

    asked = itertools.count(1)
    proxy = scripted(lead)
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file, maxsize=1)
    client = Client(origin.url, pool_manager=manager, max_concurrency=1)
    for number in range(8):
        assert client.get(f"{number}") == f"{number}".encode()
    assert client.stats()["retries"] == 3


# ---------------------------------------------------------------------------------------- dialling


def test_a_batch_starts_on_the_first_open_connection(
    scripted: Start, origin: ScriptedServer, tls_ca_file: str
) -> None:
    # Of the connections that are asked for, the proxy opens only one until the batch is read.
    held, first = threading.Event(), threading.Lock()

    def answer(request: Request) -> Iterable[Action]:
        if not first.acquire(blocking=False):
            yield Wait(held)
        yield Tunnel(origin.address)

    proxy = scripted(answer)
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file)
    client = Client(origin.url, pool_manager=manager)
    assert client.get_many(items(30)) == bodies(30)
    assert {r.connection for r in origin.requests} == {0}
    # The others were under way at the same time.
    proxy.wait_for(lambda: len(proxy.requests) > 1)
    held.set()


def test_connections_are_opened_in_parallel(
    scripted: Start, origin: ScriptedServer, tls_ca_file: str
) -> None:
    several = threading.Barrier(8, timeout=10)

    def answer(request: Request) -> Action:
        # Nobody gets through alone.
        several.wait()
        return Tunnel(origin.address)

    proxy = scripted(answer)
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file)
    client = Client(origin.url, pool_manager=manager, max_concurrency=8)
    assert client.get_many(items(8)) == bodies(8)


def test_nobody_waits_for_the_dialling_of_another(scripted: Start) -> None:
    # In the caller's thread nothing is dialled: a second loop and client go on.
    server = scripted(echo)
    with blackhole() as (host, port):
        lost = Client(f"http://{host}:{port}", timeout=1, retries=0)

        async def read() -> None:
            waiting = asyncio.ensure_future(lost.get_async("key"))
            assert await Client(server.url).get_async("key") == b"key"
            assert not waiting.done()
            with pytest.raises(zfast.DeadlineError):
                await waiting

        asyncio.run(read())


def test_an_address_that_does_not_answer_costs_one_timeout() -> None:
    with blackhole() as (host, port):
        client = Client(f"http://{host}:{port}", timeout=0.4, retries=0)
        began = time.monotonic()
        errors = client.get_many(items(64), "return")
        # Not one for each connection that was wanted.
        assert time.monotonic() - began < 1.5
    assert {type(error) for error in errors} == {zfast.DeadlineError}
    assert {error.attempts for error in errors} == {1}


@pytest.mark.parametrize("backoff", [0, 0.01])
def test_a_refused_connection_is_tried_again(scripted: Start, backoff: float) -> None:
    server = scripted(echo, listening=False)
    retries = urllib3.Retry(3, backoff_factor=backoff)
    client = Client(server.url, retries=retries, deadline=20)
    with pytest.raises(zfast.ConnectionFailedError) as raised:
        client.get("key")
    assert raised.value.attempts == 4
    server.listen()
    assert client.get("key") == b"key"


def test_a_forked_child_takes_nothing_out_of_the_parents_pools(scripted: Start) -> None:
    server = scripted(echo)
    client = Client(server.url)
    assert client.get("parent") == b"parent"
    pool = client._connections._origins["http", *server.address].pool().pool
    client._connections.release_idle()
    deadline = time.monotonic() + 20
    while all(connection is None for connection in list(pool.queue)):
        assert time.monotonic() < deadline
        time.sleep(0.001)

    def read() -> None:
        assert client.get("child") == b"child"

    in_child(read)
    assert client.get("parent") == b"parent"
    assert [r.connection for r in server.requests] == [0, 1, 0]


def test_a_limited_client_opens_no_more_than_it_may_use(scripted: Start) -> None:
    server = scripted(echo)
    client = Client(server.url, max_concurrency=2)
    assert client.get_many(items(300)) == bodies(300)
    assert len(server.connections) <= 2


def test_connections_are_kept_between_calls(scripted: Start) -> None:
    server = scripted(echo)
    client = Client(server.url)
    for number in range(50):
        assert client.get(str(number)) == str(number).encode()
    assert len(server.connections) == 1


@pytest.mark.parametrize("reset", [False, True])
def test_connections_closed_while_idle_are_replaced(scripted: Start, reset: bool) -> None:
    server = scripted(echo)
    client = Client(server.url, retries=0)
    for _ in range(5):
        assert client.get_many(items(10)) == bodies(10)
        server.close_idle(reset=reset)
    assert client.stats()["failed"] == client.stats()["retries"] == 0
    assert len(server.connections) > 5


def test_connections_closed_while_idle_keep_no_descriptor(scripted: Start) -> None:
    """Long before they have been idle for as long as they may be."""

    def read() -> None:
        with zfast.config.set(idle_timeout=1000):
            assert Client(server.url).get("key") == b"key"
        wait_until(lambda: zfast.stats()["connections"] == 0, 20)

    server = scripted(echo)
    child = Child(read)
    server.wait_requests(1)
    server.close_idle()
    child.result()


def test_a_server_that_accepts_and_closes_uses_up_the_attempts(scripted: Start) -> None:
    server = scripted(echo, on_accept=lambda _: [Fin()])
    for retries in (0, 3):
        before = len(server.connections)
        client = Client(server.url, retries=urllib3.Retry(retries, backoff_factor=0))
        with pytest.raises(zfast.ConnectionFailedError) as raised:
            client.get("key")
        assert raised.value.attempts == retries + 1
        server.wait_for(
            lambda before=before, made=retries + 1: len(server.connections) == before + made
        )
        client.close()


def test_a_timeout_of_none_is_no_limit() -> None:
    """In urllib3 another value says that none is given."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.25)
    try:
        assert time_limits(urllib3.Timeout(connect=None, read=None)) == (None, None, None)
        assert time_limits(urllib3.Timeout()) == (0.25, 0.25, 0.25)
        assert time_limits(urllib3.Timeout(total=3)) == pytest.approx((3, 3, 3), abs=0.5)
    finally:
        socket.setdefaulttimeout(before)
