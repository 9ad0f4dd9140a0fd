"""A connection on which somebody else's exchange is not over is not lent: its rest is nobody's."""

from __future__ import annotations

import io
import ssl
from collections.abc import Callable, Iterable, Iterator

import pytest
import urllib3
from servers.scripted import Action, Reply, Request, ScriptedServer, Tunnel, ok

from zfast import Client

Start = Callable[..., ScriptedServer]

FORGED = ok(b"forged").wire()
THEIRS = ok(b"begun" + FORGED)


def echo(request: Request) -> Iterable[Action]:
    return [ok(request.key.encode())]


def in_two_parts(reply: Reply) -> Callable[[Request], Iterable[Action]]:
    """The rest of a body comes when more is asked for, and looks like a response of its own."""

    def answer(request: Request) -> Iterable[Action]:
        if request.key == "theirs":
            return [reply.wire().partition(FORGED)[0]]
        return [FORGED] if request.connection == 0 else echo(request)

    return answer


def begin(manager: urllib3.PoolManager, url: str) -> Iterator[bytes]:
    response = manager.request("GET", f"{url}/theirs", preload_content=False)
    body = response.stream(5)
    assert next(body) == b"begun"
    response.release_conn()
    return body


def is_replaced(server: ScriptedServer, manager: urllib3.PoolManager) -> None:
    client = Client(server.url, pool_manager=manager, retries=0)
    assert client.get("ours") == b"ours"
    # One that has been used before might fail once at no cost.
    assert client.stats()["requests_on_new_connections"] == 1
    assert [(r.key, r.connection) for r in server.requests] == [("theirs", 0), ("ours", 1)]
    server.wait_for(lambda: len(server.open_connections) == 1)


@pytest.mark.parametrize("reply", [THEIRS, THEIRS.chunked()], ids=["length", "chunked"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "forgotten"])
def test_a_body_with_an_unread_rest(scripted: Start, reply: Reply, kept: bool) -> None:
    server = scripted(in_two_parts(reply))
    manager = urllib3.PoolManager()
    body = begin(manager, server.url)
    if not kept:
        # The response is closed with it, which looks as if all of it were read.
        del body
    is_replaced(server, manager)


@pytest.mark.usefixtures("tls_path")
def test_a_body_over_tls_with_an_unread_rest(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(in_two_parts(THEIRS), tls=tls_context)
    manager = urllib3.PoolManager(ca_certs=tls_ca_file)
    begin(manager, server.url)
    is_replaced(server, manager)


def test_a_request_whose_response_was_not_asked_for(scripted: Start) -> None:
    server = scripted(
        lambda request: [b""] if request.key == "theirs" else in_two_parts(THEIRS)(request)
    )
    manager = urllib3.PoolManager()
    pool = manager.connection_from_url(server.url)
    connection = pool._get_conn()
    connection.request("GET", "/theirs")
    pool._put_conn(connection)
    server.wait_for(lambda: len(server.requests) == 1)
    is_replaced(server, manager)


def test_a_connection_that_does_not_tell(scripted: Start) -> None:
    server = scripted(echo)
    manager = urllib3.PoolManager()
    assert manager.request("GET", f"{server.url}/theirs").data == b"theirs"
    pool = manager.connection_from_url(server.url)
    connection = pool._get_conn()
    # As in a Python whose http.client has other names.
    del vars(connection)["_HTTPConnection__state"]
    pool._put_conn(connection)
    is_replaced(server, manager)


def test_a_read_response_leaves_its_connection_to_the_next(scripted: Start) -> None:
    server = scripted(echo)
    # Blocking, urllib3 waits for the connection instead of opening another.
    manager = urllib3.PoolManager(maxsize=1, block=True)
    url = f"{server.url}/theirs"
    for method, preload in (("GET", True), ("HEAD", True), ("GET", False)):
        manager.request(method, url, preload_content=preload).drain_conn()
        client = Client(server.url, pool_manager=manager)
        assert client.get("ours") == b"ours"
        client.close()
        assert manager.request("GET", url, timeout=5).data == b"theirs"
    assert {r.connection for r in server.requests} == {0}


def test_tls_within_tls_does_not_tell_what_it_holds_back(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    # One record, of which the response's buffer takes what is before the forged one.
    def answer(request: Request) -> Iterable[Action]:
        reply = ok(request.key.encode()).wire()
        if request.key == "theirs":
            reply = reply.ljust(io.DEFAULT_BUFFER_SIZE) + FORGED
        return [reply]

    server = scripted(answer, tls=tls_context)
    proxy = scripted(lambda request: Tunnel(server.address), tls=tls_context)
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file)
    assert manager.request("GET", f"{server.url}/theirs").data == b"theirs"
    is_replaced(server, manager)
