"""Proxies that the environment names: by origin, of every kind, their passwords shown nowhere."""

from __future__ import annotations

import base64
import logging
import pickle
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import urllib3
from proxy_credentials import (
    AUTHORIZATION,
    PASSWORD,
    USER,
    USERINFO,
    nothing_secret,
    shown,
    with_credentials,
)
from servers.script import in_child, run
from servers.scripted import (
    Action,
    Fin,
    Reply,
    Request,
    ScriptedServer,
    Tunnel,
    ok,
    redirect,
    status,
)

import zfast
from zfast import Client, demo
from zfast.proxies import Proxies, Proxy

Start = Callable[..., ScriptedServer]
Environment = Callable[..., None]


def echo(request: Request) -> Iterable[Action]:
    return [ok(request.key.encode())]


def forwarded(request: Request) -> Iterable[Action]:
    return [ok(request.target.encode())]


@pytest.fixture
def proxy(scripted: Start) -> ScriptedServer:
    return scripted(forwarded)


@pytest.fixture
def origin(scripted: Start, tls_context: ssl.SSLContext) -> ScriptedServer:
    return scripted(echo, tls=tls_context)


# ----------------------------------------------------------------------------------- which proxy


def led(url: str = "http://a.example") -> str | None:
    scheme, _, host = url.partition("://")
    found = Proxies.of_environment().leading_to(scheme, host, 443 if scheme == "https" else 80)
    return found and found.url


@pytest.mark.parametrize(
    ("variables", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://p:1", None),
        ({"https_proxy": "http://p:1"}, None, "http://p:1"),
        ({"HTTPS_PROXY": "https://p"}, None, "https://p"),
        ({"ALL_PROXY": "socks5h://p:1"}, "socks5h://p:1", "socks5h://p:1"),
        ({"all_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "http://p:1", "http://q:2"),
        ({"HTTP_PROXY": "http://upper", "http_proxy": "http://lower"}, "http://lower", None),
        ({"HTTP_PROXY": "http://upper", "http_proxy": ""}, None, None),
        ({"HTTP_PROXY": ""}, None, None),
        # As curl and requests have it.
        ({"http_proxy": "p:3128"}, "http://p:3128", None),
        ({"http_proxy": " HTTP://P:3128/ "}, "http://p:3128", None),
        ({"http_proxy": "http://[::1]:3128"}, "http://[::1]:3128", None),
        # RFC 3875: a CGI script is told a request's field `Proxy` by that name.
        ({"HTTP_PROXY": "http://theirs", "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": "http://ours", "REQUEST_METHOD": "GET"}, "http://ours", None),
        ({"HTTPS_PROXY": "http://ours", "REQUEST_METHOD": "GET"}, None, "http://ours"),
    ],
)
def test_variables(
    environment: Environment, variables: dict[str, str], http: str | None, https: str | None
) -> None:
    environment(**variables)
    assert led("http://a.example") == http
    assert led("https://a.example") == https


@pytest.mark.parametrize(
    ("listed", "host", "direct"),
    [
        ("a.example", "a.example", True),
        ("a.example", "b.example", False),
        ("a.example", "nota.example", False),
        ("example", "a.example", True),
        (".example", "a.example", True),
        (".EXAMPLE, other", "a.example", True),
        ("b.example,a.example", "a.example", True),
        ("a.example:80", "a.example", True),
        ("a.example:8080", "a.example", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("a.example, [::1]:80", "::1", True),
        ("[::1]:8080", "::1", False),
        ("[::2]", "::1", False),
        ("*", "a.example", True),
        ("", "a.example", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_hosts_without_a_proxy(
    environment: Environment, variable: str, listed: str, host: str, direct: bool
) -> None:
    environment(ALL_PROXY="http://p:1", **{variable: listed})
    assert led(f"http://{host}") == (None if direct else "http://p:1")


@pytest.mark.parametrize(
    "text",
    [
        "http://user:p@ss:w/rd@proxy:3128",
        "http://user:p#w/rd@proxy",
        "http://proxy:3128/path",
        "http://proxy?w/rd",
        "http://proxy:w/rd",
        "http://proxy:99999",
        "http://proxy:0",
        "http://",
        "http://pro xy",
        "http://[::1",
        "ftp://user:w/rd@proxy",
        "socks9://user:w/rd@proxy",
        "http://user:w/rd",
    ],
)
def test_what_is_no_proxy(environment: Environment, text: str) -> None:
    environment(HTTPS_PROXY=text)
    # Where it is not needed it does no harm.
    client = Client("https://a.example")
    assert led("http://a.example") is None
    with pytest.raises(zfast.ConfigurationError, match="HTTPS_PROXY in the environment") as raised:
        client.get("key")
    nothing_secret(str(raised.value))
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_what_a_proxy_is_to_look_like_is_shown(environment: Environment) -> None:
    environment(HTTP_PROXY="http://proxy:w/rd")
    example = r"write one like http://proxy:3128 with user:password@ before the host"
    with pytest.raises(zfast.ConfigurationError, match=example):
        Client("http://a.example").get("key")


def test_credentials_are_kept_apart(environment: Environment) -> None:
    environment(HTTP_PROXY=f"http://{USERINFO}@proxy:3128", HTTPS_PROXY="http://user@proxy")
    proxies = Proxies.of_environment()
    found = proxies.leading_to("http", "a.example", 80)
    assert found == Proxy("http://proxy:3128", USER, PASSWORD)
    assert found.authorization == AUTHORIZATION
    nothing_secret(f"{found!r} {found} {proxies!r}")
    found = proxies.leading_to("https", "a.example", 443)
    assert found is not None
    assert found.authorization == f"Basic {base64.b64encode(b'user:').decode()}"


# ------------------------------------------------------------------------------------------- HTTP


def test_an_http_origin_is_forwarded_to(proxy: ScriptedServer, environment: Environment) -> None:
    environment(HTTP_PROXY=with_credentials(proxy.url))
    client = Client("http://origin.example:8080/base")
    assert client.get("a key") == b"http://origin.example:8080/base/a%20key"
    (request,) = proxy.requests
    assert request.field("Host") == "origin.example:8080"
    assert request.field("Proxy-Authorization") == AUTHORIZATION


def test_an_https_origin_is_tunnelled_to(
    scripted: Start,
    origin: ScriptedServer,
    environment: Environment,
    tls_ca_file: str,
    tls_path: str,
) -> None:
    proxy = scripted(lambda request: Tunnel(origin.address))
    environment(HTTPS_PROXY=with_credentials(proxy.url), HTTP_PROXY="http://not.needed")
    client = Client(origin.url, ca_certs=tls_ca_file)
    assert client.get_many([("key", None)] * 20) == [b"key"] * 20
    assert (client.stats()["fallback_reads"] == 20) == (tls_path == "python")
    assert {(r.method, r.target) for r in proxy.requests} == {
        ("CONNECT", f"127.0.0.1:{origin.port}")
    }
    assert {r.field("Proxy-Authorization") for r in proxy.requests} == {AUTHORIZATION}
    assert not any(r.fields.has("Proxy-Authorization") for r in origin.requests)


def test_a_proxy_that_speaks_tls(
    scripted: Start, environment: Environment, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    proxy = scripted(forwarded, tls=tls_context)
    environment(ALL_PROXY=with_credentials(proxy.url))
    client = Client("http://origin.example", ca_certs=tls_ca_file)
    assert client.get("key") == b"http://origin.example/key"
    assert client.stats()["fallback_reads"] == 0
    assert proxy.requests[0].field("Proxy-Authorization") == AUTHORIZATION


@pytest.mark.parametrize("kind", ["http", "https"])
@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\nX-A: ", b""], ids=["field", "status"])
def test_a_tunnel_whose_reply_never_ends(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, kind: str, part: bytes
) -> None:
    def dripping(request: Request) -> Iterator[Action]:
        yield part
        while True:
            # Each byte long before the time to connect is over.
            yield b"H"
            time.sleep(0.02)

    proxy = scripted(dripping, tls=tls_context if kind == "https" else None)
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file)
    options = {"retries": 0, "timeout": 0.5, "deadline": 5}
    client = Client("https://origin.example", pool_manager=manager, **options)
    began = time.monotonic()
    with pytest.raises(zfast.DeadlineError, match=r"connect_timeout .*timed out"):
        client.get("key")
    assert 0.5 <= time.monotonic() - began < 3
    # The thread that dialled has let go of it.
    proxy.wait_for(lambda: not proxy.open_connections)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"\x1b[2J2026-01-01 CRITICAL\r\n\r\n", "to CONNECT is not HTTP"),
        (b"", "closed connection without response"),
    ],
)
def test_a_tunnel_whose_reply_is_no_http(
    scripted: Start, caplog: pytest.LogCaptureFixture, reply: bytes, says: str
) -> None:
    proxy = scripted(lambda _: [reply, Fin()])
    manager = urllib3.ProxyManager(proxy.url)
    with pytest.raises(zfast.ConnectionFailedError, match=says) as raised:
        Client("https://origin.example", pool_manager=manager, retries=1).get("key")
    assert str(raised.value).isprintable()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_a_tunnel_is_refused_with_is_a_status(scripted: Start) -> None:
    proxy = scripted(lambda _: [Reply(403, reason="\x1b[31mFORGED\x07")])
    manager = urllib3.ProxyManager(proxy.url)
    with pytest.raises(zfast.AccessError, match="CONNECT is 403 Forbidden") as raised:
        Client("https://origin.example", pool_manager=manager).get("key")
    # Its own words may be anything, and hold what it was sent.
    assert "FORGED" not in str(raised.value)


@pytest.mark.parametrize("target", ["http://origin.example", "https://origin.example"])
@pytest.mark.parametrize("value", ["Basic s3cret\n", "Basic s3cret\r\nEvil: 1"])
def test_a_field_that_no_proxy_gets(
    scripted: Start, caplog: pytest.LogCaptureFixture, target: str, value: str
) -> None:
    caplog.set_level(logging.DEBUG, "zfast")
    proxy = scripted(echo)
    manager = urllib3.ProxyManager(proxy.url, proxy_headers={"Proxy-Authorization": value})
    with pytest.raises(zfast.ConfigurationError, match="cannot be sent") as raised:
        Client(target, pool_manager=manager).get("key")
    assert "s3cret" not in f"{shown(raised.value)}{pickle.dumps(raised.value)!r}{caplog.text}"
    assert proxy.requests == []


# ------------------------------------------------------------------------------------- by origin


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("listed", ["near.example", ".example", "x.org,example", "*"])
def test_no_proxy_is_passed_by(
    scripted: Start, environment: Environment, proxy: ScriptedServer, listed: str
) -> None:
    near = scripted(echo)
    environment(HTTP_PROXY=proxy.url, NO_PROXY=listed)
    assert Client(f"http://near.example:{near.port}").get("key") == b"key"
    assert proxy.requests == []


@pytest.mark.usefixtures("hosts")
def test_each_origin_of_a_batch_has_its_own_way(
    scripted: Start, environment: Environment, proxy: ScriptedServer
) -> None:
    near = scripted(echo)
    environment(HTTP_PROXY=proxy.url, NO_PROXY="near.example")
    urls = [f"http://{host}.example:{near.port}/key" for host in ("near", "far", "near")]
    assert zfast.cat_ranges(urls) == [b"key", urls[1].encode(), b"key"]
    assert len(proxy.requests) == 1


@pytest.mark.usefixtures("hosts")
def test_a_redirect_takes_the_way_of_its_own_origin(
    scripted: Start, environment: Environment
) -> None:
    near = scripted(echo)
    proxy = scripted(lambda request: redirect(f"http://near.example:{near.port}/there"))
    environment(HTTP_PROXY=with_credentials(proxy.url), NO_PROXY="near.example")
    assert Client("http://far.example").get("key") == b"there"
    assert not near.requests[0].fields.has("Proxy-Authorization")


def test_a_client_keeps_to_the_environment_that_it_was_made_in(
    scripted: Start, environment: Environment, proxy: ScriptedServer
) -> None:
    server = scripted(echo)
    direct = Client(server.url)
    environment(HTTP_PROXY=proxy.url)
    proxied = Client(server.url)
    for _ in range(2):
        assert direct.get("key") == b"key"
        assert proxied.get("key") == f"{server.url}/key".encode()


def test_a_manager_of_ones_own_is_used_as_it_is(
    scripted: Start, environment: Environment, proxy: ScriptedServer
) -> None:
    server = scripted(echo)
    environment(HTTP_PROXY=proxy.url)
    assert Client(server.url, pool_manager=urllib3.PoolManager()).get("key") == b"key"
    assert proxy.requests == []


def test_the_environment_may_be_left_alone(
    scripted: Start, environment: Environment, proxy: ScriptedServer
) -> None:
    server = scripted(echo)
    environment(HTTP_PROXY=proxy.url)
    with zfast.config.set(trust_env=False):
        client = Client(server.url)
    assert client.get("key") == b"key"
    assert proxy.requests == []


# ----------------------------------------------------------------------------------------- secrets


def test_a_pickle_takes_no_proxy_along(proxy: ScriptedServer, environment: Environment) -> None:
    environment(HTTP_PROXY=with_credentials(proxy.url))
    client = Client("http://origin.example")
    assert client.get("key") == b"http://origin.example/key"
    there = pickle.dumps(client)
    nothing_secret(f"{client!r} {there!r} {client.stats()} {zfast.show_config()}")
    assert proxy.url.encode() not in there
    # Where it is unpickled, that environment holds.
    again = pickle.loads(there)
    assert again == client
    assert again.get("key") == b"http://origin.example/key"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that is logged, urllib3's doings included."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_credentials_that_a_forwarding_proxy_refuses(
    scripted: Start, environment: Environment, log: pytest.LogCaptureFixture
) -> None:
    proxy = scripted(lambda request: status(407))
    environment(HTTP_PROXY=with_credentials(proxy.url))
    with pytest.raises(zfast.AccessError, match="the proxy asks for credentials") as raised:
        Client("http://origin.example").get("key")
    assert raised.value.status == 407
    nothing_secret(shown(raised.value) + log.text)


def test_credentials_that_a_tunnelling_proxy_refuses(
    scripted: Start, environment: Environment, log: pytest.LogCaptureFixture
) -> None:
    proxy = scripted(lambda request: status(407).closing())
    environment(HTTPS_PROXY=with_credentials(proxy.url))
    with pytest.raises(zfast.AccessError, match="407") as raised:
        Client("https://origin.example").get("key")
    assert raised.value.status == 407
    assert len(proxy.requests) == 1
    assert f"through the http proxy 127.0.0.1:{proxy.port}: " in str(raised.value)
    nothing_secret(shown(raised.value) + log.text)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("target", ["http://origin.example", "https://origin.example"])
def test_a_proxy_that_cannot_be_reached(
    scripted: Start,
    environment: Environment,
    log: pytest.LogCaptureFixture,
    scheme: str,
    target: str,
) -> None:
    lost = scripted(echo, listening=False)
    environment(ALL_PROXY=with_credentials(f"{scheme}://127.0.0.1:{lost.port}"))
    with pytest.raises(zfast.ConnectionFailedError, match="refused") as raised:
        Client(target, retries=0).get("key")
    assert f"through the {scheme} proxy 127.0.0.1:{lost.port}: " in str(raised.value)
    nothing_secret(shown(raised.value) + log.text)


def test_credentials_of_a_managers_proxy_are_not_shown(scripted: Start) -> None:
    lost = scripted(echo, listening=False)
    manager = urllib3.ProxyManager(with_credentials(lost.url))
    with pytest.raises(zfast.ConnectionFailedError, match=f"proxy 127.0.0.1:{lost.port}") as raised:
        Client("http://origin.example", pool_manager=manager, retries=0).get("key")
    nothing_secret(str(raised.value))


# ---------------------------------------------------------------------------------- other processes


READ = """
    import os, sys
    import zfast

    client = zfast.Client("http://origin.example")
    print(bytes(client.get("key")).decode())
    sys.stdout.flush()
    if os.fork() == 0:
        print(bytes(client.get("child")).decode())
        sys.stdout.flush()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def test_a_process_and_its_child(proxy: ScriptedServer, tmp_path: Path) -> None:
    ended = run(tmp_path, READ, PYTHONWARNINGS="ignore", HTTP_PROXY=with_credentials(proxy.url))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.split() == ["http://origin.example/key", "http://origin.example/child"]
    assert {r.field("Proxy-Authorization") for r in proxy.requests} == {AUTHORIZATION}


def test_the_setting_in_the_environment(
    scripted: Start, proxy: ScriptedServer, tmp_path: Path
) -> None:
    server = scripted(echo)
    source = "import sys, zfast; print(bytes(zfast.Client(sys.argv[1]).get('key')).decode())"
    ended = run(tmp_path, source, server.url, HTTP_PROXY=proxy.url, ZFAST_TRUST_ENV="0")
    assert (ended.out, ended.err) == ("key\n", "")


def test_a_forked_child_goes_on_through_the_proxy(
    proxy: ScriptedServer, environment: Environment
) -> None:
    environment(HTTP_PROXY=proxy.url)
    client = Client("http://origin.example")

    def read() -> None:
        assert client.get("key") == b"http://origin.example/key"

    read()
    # What the child's own environment says is no matter to the clients that it has.
    environment(HTTP_PROXY="http://127.0.0.1:9")
    in_child(read)
    read()
    assert [r.connection for r in proxy.requests] == [0, 1, 0]


def test_the_demo_looks_away(scripted: Start, environment: Environment) -> None:
    pytest.importorskip("zarr", minversion="3.0", reason="the demo writes sharded arrays")
    environment(HTTP_PROXY=scripted([]).url)
    said: list[str] = []
    assert demo.run(1, say=said.append) == 0
    assert said
