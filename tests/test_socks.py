"""SOCKS proxies that the environment names, versions 4 and 5, over http and https."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Iterator

import pytest
from proxy_credentials import PASSWORD, USER, USERINFO, nothing_secret, shown, with_credentials
from servers.script import in_child
from servers.scripted import Action, Request, ScriptedServer, ok
from servers.socks import Asked, SOCKSServer

import zfast
from zfast import Client

Start = Callable[..., ScriptedServer]
Environment = Callable[..., None]


def echo(request: Request) -> Iterable[Action]:
    return [ok(request.key.encode())]


@pytest.fixture
def socks() -> Iterator[SOCKSServer]:
    with SOCKSServer(credentials=(USER, PASSWORD), hosts={"far.example": "127.0.0.1"}) as server:
        yield server


def test_http_through_socks(scripted: Start, environment: Environment, socks: SOCKSServer) -> None:
    server = scripted(echo)
    environment(HTTP_PROXY=with_credentials(f"socks5h://{socks.address}"))
    client = Client(f"http://far.example:{server.port}", retries=0)
    assert client.get_many([(str(n), None) for n in range(20)]) == [b"%d" % n for n in range(20)]
    # To the origin it is a connection like any other.
    assert {r.field("Host") for r in server.requests} == {f"far.example:{server.port}"}
    assert {r.target for r in server.requests} == {f"/{n}" for n in range(20)}
    assert set(socks.asked) == {Asked(5, "far.example", server.port, USER)}
    client.close()


def test_https_through_socks(
    scripted: Start,
    environment: Environment,
    socks: SOCKSServer,
    tls_context: ssl.SSLContext,
    tls_ca_file: str,
    tls_path: str,
) -> None:
    origin = scripted(echo, tls=tls_context)
    environment(ALL_PROXY=with_credentials(f"socks5h://{socks.address}"))
    client = Client(origin.url, ca_certs=tls_ca_file, retries=0)
    assert client.get_many([("key", None)] * 20) == [b"key"] * 20
    assert (client.stats()["fallback_reads"] == 20) == (tls_path == "python")
    assert {asked.port for asked in socks.asked} == {origin.port}


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("scheme", "version", "host"),
    [
        ("socks4", 4, "127.0.0.1"),
        ("socks4a", 4, "near.example"),
        ("socks5", 5, "127.0.0.1"),
        ("socks5h", 5, "near.example"),
    ],
)
def test_who_resolves_the_name(
    scripted: Start, environment: Environment, scheme: str, version: int, host: str
) -> None:
    server = scripted(echo)
    with SOCKSServer(hosts={"near.example": "127.0.0.1"}) as socks:
        environment(ALL_PROXY=f"{scheme}://{socks.address}")
        client = Client(f"http://near.example:{server.port}", retries=0)
        assert client.get("key") == b"key"
        assert socks.asked == [Asked(version, host, server.port, "")]


@pytest.mark.parametrize("userinfo", ["", "user:wrong-w%2Frd@"])
def test_credentials_that_socks_refuses(
    environment: Environment, socks: SOCKSServer, userinfo: str
) -> None:
    environment(ALL_PROXY=f"socks5h://{userinfo}{socks.address}")
    with pytest.raises(zfast.ConnectionFailedError, match="authenticat") as raised:
        Client("http://far.example", retries=0).get("key")
    assert f"through the socks5h proxy {socks.address}: " in str(raised.value)
    nothing_secret(shown(raised.value))
    assert socks.refused == 1
    assert socks.asked == []


def test_an_origin_that_socks_does_not_reach(
    scripted: Start, environment: Environment, socks: SOCKSServer
) -> None:
    lost = scripted(echo, listening=False)
    environment(ALL_PROXY=with_credentials(f"socks5h://{socks.address}"))
    with pytest.raises(zfast.ConnectionFailedError, match="refused") as raised:
        Client(lost.url, retries=1).get("key")
    assert raised.value.attempts == 2
    assert len(socks.asked) == 2


def test_socks_without_pysocks(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socks", None)
    environment(ALL_PROXY=f"socks5h://{USERINFO}@proxy:1080")
    with pytest.raises(zfast.ConfigurationError, match=r'pip install "urllib3\[socks\]"') as raised:
        Client("http://far.example").get("key")
    nothing_secret(shown(raised.value))


def test_a_forked_child_goes_on_through_socks(
    scripted: Start, environment: Environment, socks: SOCKSServer
) -> None:
    server = scripted(echo)
    environment(ALL_PROXY=with_credentials(f"socks5h://{socks.address}"))
    client = Client(server.url, retries=0)

    def read() -> None:
        assert client.get("key") == b"key"

    read()
    in_child(read)
    read()
    assert [r.connection for r in server.requests] == [0, 1, 0]
