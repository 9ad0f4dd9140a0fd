"""The way through Python: taken where it has to be, said, counted, and undone afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
from servers.script import in_child
from servers.scripted import (
    Action,
    BelowTLS,
    Fin,
    KeyUpdate,
    Renegotiate,
    Request,
    Reset,
    ScriptedServer,
    Stall,
    Tunnel,
    Wait,
    ok,
)
from urllib3.util.ssl_ import create_urllib3_context

import zfast
from zfast import Client
from zfast.connections import leases
from zfast.connections.relay import Relay
from zfast.connections.sessions import session_over

Start = Callable[..., ScriptedServer]

LARGE = os.urandom(1 << 16) * 160


def echo(request: Request) -> Action:
    return ok(request.key.encode())


@pytest.fixture
def by_python() -> Iterator[None]:
    with zfast.config.set(tls="python"):
        yield


@pytest.mark.usefixtures("by_python")
def test_a_forked_child_has_relayed_nothing(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    client = Client(scripted(echo, tls=tls_context).url, ca_certs=tls_ca_file)
    assert client.get("key") == b"key"
    assert zfast.stats()["connections_through_python"] > 0
    assert in_child(lambda: zfast.stats()["connections_through_python"]) == 0


@pytest.mark.usefixtures("by_python")
def test_the_thread_survives_sessions_that_break(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    breaks: list[Callable[[], Action]] = [
        lambda: ok(LARGE).cut_body(9000, Reset()),
        lambda: ok(LARGE).cut_body(9000, Fin(notify=False)),
        lambda: ok(LARGE).cut_body(-1, Fin()),
        lambda: b"nothing like HTTP\r\n\r\n",
        Reset,
        Fin,
    ]

    def answer(request: Request) -> Action:
        if request.key.startswith("break"):
            return breaks[int(request.key[5:]) % len(breaks)]()
        return ok(request.key.encode())

    server = scripted(answer, tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    assert client.get("before") == b"before"
    (thread,) = [t for t in threading.enumerate() if t.name == "zfast-tls-relay"]
    items = [(f"{'break' if i % 2 else 'good'}{i}", None) for i in range(120)]
    for (key, _), read in zip(items, client.get_many(items, "return"), strict=True):
        if key.startswith("good"):
            assert read == key.encode()
        else:
            assert isinstance(read, zfast.ZfastError)
    assert client.get("after") == b"after"
    assert thread.is_alive()


class Alike(socket.socket):
    """A session like one of TLS, as far as the relay can tell."""

    def recv(self, *arguments: Any) -> bytes:
        try:
            return super().recv(*arguments)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None


class Heard:
    """Who is told of sessions, and does not care."""

    def session_ended(self, lease_id: int, fault: bytes, refuses: bool) -> None:
        pass

    def content_held(self, lease_id: int, held: bool) -> None:
        pass


def attached(relay: Relay, lease: int, session: Any) -> socket.socket:
    far = relay.attach(lease, session, Heard())
    relay.begin(lease)
    return far


def test_a_session_that_fails_unforeseen_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    """As a TLS implementation of somebody else's may, which urllib3 takes as well."""

    class Unforeseen(Alike):
        def recv(self, *_: Any) -> bytes:
            raise RuntimeError("unforeseen")

    relay = Relay()
    pairs = [socket.socketpair() for _ in range(2)]
    for end in (end for pair in pairs for end in pair):
        end.setblocking(False)
    with contextlib.ExitStack() as stack:
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end)
        sessions = [
            stack.enter_context(kind(fileno=pair[0].detach()))
            for kind, pair in zip((Unforeseen, Alike), pairs, strict=True)
        ]
        far, other = (
            stack.enter_context(attached(relay, lease, session))
            for lease, session in enumerate(sessions)
        )
        far.settimeout(10)
        assert far.recv(1) == b""
        other.settimeout(10)
        for _ in range(3):
            pairs[1][1].send(b"more")
            assert other.recv(9) == b"more"
        relay.detach(0)
        relay.detach(1)
    assert [record.getMessage() for record in caplog.records] == [
        "the TLS relay failed at a session"
    ]


@pytest.fixture
def by_pyopenssl() -> Iterator[None]:
    pytest.importorskip("OpenSSL")
    pyopenssl = pytest.importorskip("urllib3.contrib.pyopenssl")
    pyopenssl.inject_into_urllib3()
    yield
    pyopenssl.extract_from_urllib3()


@pytest.mark.usefixtures("by_pyopenssl")
def test_sessions_of_pyopenssl(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    def answer(request: Request) -> Iterable[Action]:
        if request.key == "late":
            yield Wait(asked)
        yield ok(request.body or LARGE) if request.key != "end" else ok(LARGE).until_eof()

    asked = threading.Event()
    server = scripted(answer, tls=tls_context)
    manager = urllib3.PoolManager(
        maxsize=1,
        block=True,
        ca_certs=tls_ca_file,
        socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)],
    )
    client = Client(server.url, pool_manager=manager, retries=0)
    assert client.get("large") == LARGE
    timer = threading.Timer(0.2, asked.set)
    timer.start()
    assert client.get("late") == LARGE
    timer.join()
    client.put("key", LARGE)
    assert server.requests[-1].body == LARGE
    assert client.get("end") == LARGE
    assert client.stats()["fallback_reads"] == 4
    client.close()
    theirs = manager.request("GET", f"{server.url}/theirs", pool_timeout=10)
    assert theirs.data == LARGE


@pytest.mark.usefixtures("by_pyopenssl")
def test_ca_certs_of_pyopenssl(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(lambda request: ok(b"body"), tls=tls_context)
    assert Client(server.url, ca_certs=Path(tls_ca_file), retries=0).get("key") == b"body"


@pytest.mark.usefixtures("by_pyopenssl")
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("ending", [Fin(notify=False), Reset()], ids=str)
def test_a_stream_of_pyopenssl_that_is_cut(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, ending: Action, ignored: bool
) -> None:
    server = scripted([ok(LARGE).until_eof().then(ending)], tls=tls_context)
    context = create_urllib3_context()
    context.load_verify_locations(tls_ca_file)
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0) * ignored
    manager = urllib3.PoolManager(ssl_context=context)
    client = Client(server.url, pool_manager=manager, retries=0)
    with pytest.raises(zfast.ConnectionFailedError, match="cut short"):
        client.get("key")


@pytest.mark.usefixtures("by_pyopenssl")
def test_what_breaks_a_session_of_pyopenssl(
    scripted: Start, tls_ca: trustme.CA, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    broken: list[Action] = [ok(LARGE).wire()[:9000], BelowTLS(bytes(99)), Stall()]
    server = scripted([broken], tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    with pytest.raises(zfast.ConnectionFailedError, match=r"TLS session failed \(\w+ \w+"):
        client.get("key")
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_ca.issue_cert("127.0.0.1").configure_cert(asking)
    tls_ca.configure_trust(asking)
    asking.verify_mode = ssl.CERT_REQUIRED
    client = Client(scripted(echo, tls=asking).url, ca_certs=tls_ca_file, retries=9)
    with pytest.raises(zfast.ConnectionFailedError, match="certificate required") as raised:
        client.get("key")
    assert raised.value.attempts == 1


def test_a_thread_that_does_not_start_is_started_with_the_next_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    relay = Relay()
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    with theirs, Alike(fileno=ours.detach()) as session:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                attached(relay, 0, session)
        with attached(relay, 1, session) as far:
            far.settimeout(10)
            theirs.send(b"more")
            assert far.recv(9) == b"more"
            relay.detach(1)


def test_the_end_of_what_is_only_used_like_tls_is_not_believed() -> None:
    ours, theirs = socket.socketpair()
    with Alike(fileno=ours.detach()) as sock:
        theirs.close()
        with pytest.raises(ConnectionResetError):
            session_over(sock).recv(1)


def trusting(tls_ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=tls_ca_file)


@pytest.mark.skipif(
    not hasattr(ssl, "OP_IGNORE_UNEXPECTED_EOF"), reason="no such option before OpenSSL 3"
)
@pytest.mark.parametrize("way", ["natively", "python", "within tls"])
@pytest.mark.parametrize("options", [0, getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)])
@pytest.mark.parametrize("notify", [False, True])
def test_an_end_that_the_context_takes_from_anybody(
    scripted: Start,
    tls_context: ssl.SSLContext,
    tls_ca_file: str,
    way: str,
    options: int,
    notify: bool,
) -> None:
    server = scripted([ok(LARGE).until_eof().then(Fin(notify))], tls=tls_context)
    context = trusting(tls_ca_file)
    context.options |= options
    manager = urllib3.PoolManager(ssl_context=context)
    if way == "within tls":
        proxy = scripted(lambda request: Tunnel(server.address), tls=tls_context)
        manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file, ssl_context=context)
    with zfast.config.set(tls="python" if way == "python" else "auto"):
        client = Client(server.url, pool_manager=manager, retries=0)
        # With the option OpenSSL says the same of both ends.
        if notify and not options:
            assert client.get("key") == LARGE
        else:
            with pytest.raises(zfast.ConnectionFailedError, match="cut short"):
                client.get("key")


def reading_through(context: ssl.SSLContext, server: ScriptedServer) -> Client:
    client = Client(server.url, pool_manager=urllib3.PoolManager(ssl_context=context))
    assert client.get("key") == b"key"
    return client


def test_a_context_that_logs_keys_takes_the_way_through_python(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, tmp_path: Path
) -> None:
    server = scripted(echo, tls=tls_context)
    context = trusting(tls_ca_file)
    context.keylog_filename = str(tmp_path / "keys")
    assert reading_through(context, server).stats()["fallback_reads"] == 1
    assert (tmp_path / "keys").read_text().count("SECRET")
    assert "sessions by Python, the last: " in str(zfast.show_config().parts["tls"])


def test_a_context_that_calls_python_takes_the_way_through_it(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(echo, tls=tls_context)
    context = trusting(tls_ca_file)
    called: list[str] = []
    context._msg_callback = lambda *of: called.append(of[1])  # type: ignore[attr-defined]
    assert reading_through(context, server).stats()["fallback_reads"] == 1
    assert called


@pytest.mark.usefixtures("by_python")
def test_the_reason_is_said_once(
    scripted: Start,
    tls_context: ssl.SSLContext,
    tls_ca_file: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "_relayed", 0)
    server = scripted(echo, tls=tls_context)
    with caplog.at_level(logging.INFO, "zfast"):
        for _ in range(2):
            with Client(server.url, pool_manager=urllib3.PoolManager(ca_certs=tls_ca_file)) as c:
                assert c.get("key") == b"key"
    (line,) = [record.getMessage() for record in caplog.records if "Python" in record.getMessage()]
    assert line.endswith("the setting tls is 'python'")
    assert "GIL: the setting tls is 'python'" in zfast.show_config().parts["tls"]
    assert len(server.connections) == 2


def test_a_session_is_as_it_was_when_it_is_given_back(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, tls_path: str
) -> None:
    server = scripted(echo, tls=tls_context)
    manager = urllib3.PoolManager(maxsize=1, block=True, ca_certs=tls_ca_file)
    client = Client(server.url, pool_manager=manager)
    assert client.get("key") == b"key"
    client.close()
    pool = manager.connection_from_url(server.url)
    connection = pool._get_conn(timeout=10)
    assert connection.sock.suppress_ragged_eofs
    assert (client.stats()["fallback_reads"] == 1) == (tls_path == "python")
    pool._put_conn(connection)
    assert manager.request("GET", f"{server.url}/theirs").data == b"theirs"
    assert len(server.connections) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_uploads_within_tls_over_a_path_that_takes_little_at_once(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, version: ssl.TLSVersion
) -> None:
    server = scripted(echo, tls=tls_context)
    proxy = scripted(lambda request: Tunnel(server.address), tls=tls_context)
    context = trusting(tls_ca_file)
    context.maximum_version = version
    manager = urllib3.ProxyManager(
        proxy.url,
        ca_certs=tls_ca_file,
        ssl_context=context,
        maxsize=1,
        block=True,
        socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)],
    )
    client = Client(server.url, pool_manager=manager, retries=0)
    for size in (len(LARGE), 1, 70_000):
        client.put("key", LARGE[:size])
        assert server.requests[-1].body == LARGE[:size]
    client.close()
    # What urllib3 gets back goes on where the last record ended.
    manager.request("PUT", f"{server.url}/theirs", body=LARGE[:9000], pool_timeout=10)
    assert server.requests[-1].body == LARGE[:9000]
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("change", "version"),
    [(KeyUpdate(), ssl.TLSVersion.TLSv1_3), (Renegotiate(), ssl.TLSVersion.TLSv1_2)],
    ids=str,
)
def test_new_keys_within_tls(
    scripted: Start,
    tls_context: ssl.SSLContext,
    tls_ca_file: str,
    change: Action,
    version: ssl.TLSVersion,
) -> None:
    wire = ok(LARGE).wire()
    server = scripted([[wire[:9000], change, wire[9000:]], ok(b"key")], tls=tls_context)
    proxy = scripted(lambda request: Tunnel(server.address), tls=tls_context)
    context = trusting(tls_ca_file)
    context.maximum_version = version
    manager = urllib3.ProxyManager(proxy.url, ca_certs=tls_ca_file, ssl_context=context)
    client = Client(server.url, pool_manager=manager, retries=0)
    assert client.get("large") == LARGE
    assert client.get("key") == b"key"
    assert len(server.connections) == 1


def given_back(client: Client, manager: urllib3.PoolManager, url: str) -> None:
    """Have urllib3 go on with what the engine had."""
    client.close()
    theirs = manager.request("GET", f"{url}/theirs", pool_timeout=10, retries=False)
    assert theirs.data == b"theirs"


@pytest.mark.usefixtures("by_python")
def test_a_connection_with_half_a_request_is_not_given_back(
    tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    """As where the server answers from what the head says, and takes the content later."""
    heads: list[bytes] = []
    answered = threading.Event()

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), tls_context.wrap_socket(sock, server_side=True) as tls:
            heads.append(tls.recv(4096))
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntheirs")
            answered.wait(20)

    def accept() -> None:
        with contextlib.suppress(TimeoutError):
            for _ in range(2):
                threads.submit(serve, listening.accept()[0])

    with socket.socket() as listening, ThreadPoolExecutor(3) as threads:
        # Less than the local socket takes is more than this path does.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listening.settimeout(10)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threads.submit(accept)
        manager = urllib3.PoolManager(
            maxsize=1,
            block=True,
            ca_certs=tls_ca_file,
            socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)],
        )
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        client = Client(url, pool_manager=manager, retries=0)
        try:
            with pytest.raises(zfast.ResponseError, match="before it had all of the content"):
                client.put("key", LARGE[:150_000])
            given_back(client, manager, url)
        finally:
            answered.set()
    assert [head.split()[0] for head in heads] == [b"PUT", b"GET"]


def test_a_connection_that_answered_unasked_is_not_given_back(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, tls_path: str
) -> None:
    def answer(request: Request) -> Iterable[Action]:
        yield ok(request.key.encode())
        if request.key == "key":
            yield Wait(answered)
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforeign"
            said.set()

    answered, said = threading.Event(), threading.Event()
    server = scripted(answer, tls=tls_context)
    manager = urllib3.PoolManager(maxsize=1, block=True, ca_certs=tls_ca_file)
    client = Client(server.url, pool_manager=manager, retries=0)
    assert client.get("key") == b"key"
    answered.set()
    assert said.wait(10)
    # Long enough for the relay to have it, and too short for the engine to look.
    time.sleep(0.1)
    given_back(client, manager, server.url)
    assert len(server.connections) == 2
