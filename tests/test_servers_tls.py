"""The scripted server speaks TLS, and is a proxy; clients not of ours judge it."""

from __future__ import annotations

import ssl

import pytest
import trustme
import urllib3
from plain_sockets import GET, OK, Start, dial, drain, exactly, exchange
from servers.scripted import Fin, Reset, Tunnel, ok, ranged


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def test_tls(scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    server = scripted(lambda request: ok(b"body"), tls=tls_context)
    with urllib3.PoolManager(ca_certs=tls_ca_file) as pool:
        for _ in range(2):
            assert pool.request("GET", f"{server.url}/key", retries=False).data == b"body"
    assert len(server.connections) == 1
    with urllib3.PoolManager() as pool, pytest.raises(urllib3.exceptions.SSLError):
        pool.request("GET", f"{server.url}/key", retries=False)
    server.wait_for(lambda: server.connections[1].ending == "tls")


@pytest.mark.parametrize(
    ("ending", "seen"), [(Fin(), "close_notify"), (Fin(notify=False), "cut"), (Reset(), "reset")]
)
def test_tls_endings(
    scripted: Start,
    tls_context: ssl.SSLContext,
    tls_ca: trustme.CA,
    ending: Fin | Reset,
    seen: str,
) -> None:
    server = scripted([ok(b"body").cut(-1, ending)], tls=tls_context)
    with (
        dial(server) as plain,
        trusting(tls_ca).wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=False
        ) as sock,
    ):
        sock.sendall(GET)
        assert exactly(sock, len(OK) - 1) == OK[:-1]
        try:
            end = "close_notify" if sock.recv(1) == b"" else "data"
        except ssl.SSLEOFError:
            # Some versions of Python take a reset for an end.
            end = "cut" if ending != Reset() else "reset"
        except ConnectionResetError:
            end = "reset"
    assert end == seen
    server.wait_closed()
    assert server.connections[0].ending == ("reset" if ending == Reset() else "fin")


@pytest.mark.parametrize("reset", [False, True])
def test_tls_close_idle(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca: trustme.CA, reset: bool
) -> None:
    server = scripted([ok(b"body")], tls=tls_context)
    with (
        dial(server) as plain,
        trusting(tls_ca).wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(GET)
        assert exactly(sock, len(OK)) == OK
        assert server.close_idle(reset=reset) == 1
        assert drain(sock)[0] == b""
    assert server.connections[0].ending == ("reset" if reset else "fin")


def test_tls_proxy(scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    origin = scripted(lambda request: ok(b"body"), tls=tls_context)
    proxy = scripted(lambda request: Tunnel(origin.address))
    with urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file) as pool:
        for _ in range(2):
            assert pool.request("GET", f"{origin.url}/key", retries=False).data == b"body"
    assert [(r.method, r.target) for r in proxy.requests] == [("CONNECT", origin.url[8:])]
    assert len(origin.requests) == 2


def test_plain_proxy(scripted: Start) -> None:
    proxy = scripted(ranged({"key": b"body"}))
    with urllib3.ProxyManager(proxy.url) as pool:
        assert pool.request("GET", "http://origin.test/key", retries=False).data == b"body"
    assert proxy.requests[0].target == "http://origin.test/key"
    assert proxy.requests[0].key == "key"


def test_unreachable_tunnel(scripted: Start) -> None:
    origin = scripted([], listening=False)
    proxy = scripted([Tunnel(origin.address)])
    received, end = exchange(proxy, b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 502 ")
    assert end == "fin"
