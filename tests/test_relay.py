"""TLS by way of Python: right bytes, no end believed that was not meant, nothing before trust."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
import urllib3
from servers.script import in_child, run
from servers.scripted import (
    Action,
    Fin,
    Request,
    Reset,
    ScriptedServer,
    Stall,
    ok,
    ranged,
)
from servers.site import Site

import zfast
from zfast import Client

Start = Callable[..., ScriptedServer]

LARGE = os.urandom(1 << 16) * 160
OBJECTS = {f"small-{i}": bytes([i]) * (i * 331) for i in range(100)} | {"large": LARGE}


def echo(request: Request) -> Iterable[Action]:
    return [Stall() if request.key.startswith("stall") else ok(request.key.encode())]


@pytest.fixture
def site(caddy_tls: Site) -> Site:
    caddy_tls.write(OBJECTS)
    return caddy_tls


# ------------------------------------------------------------------------------------ right bytes


def test_small_and_large_bodies(site: Site, tls_ca_file: str) -> None:
    client = Client(site.url, ca_certs=tls_ca_file)
    assert client.get("large") == LARGE
    assert client.get_many([(key, None) for key in OBJECTS]) == list(OBJECTS.values())
    assert client.get("large", (1_000_000, 1_000_100)) == LARGE[1_000_000:1_000_100]
    assert client.get_ranges("large", [(0, 1), (-5, None)]) == [LARGE[:1], LARGE[-5:]]
    assert client.get("missing") is None
    into = bytearray(len(LARGE))
    assert client.read_into("large", None, into) == len(LARGE)
    assert into == LARGE


def test_many_threads_and_loops_at_once(site: Site, tls_ca_file: str) -> None:
    client = Client(site.url, ca_certs=tls_ca_file)
    expected = list(OBJECTS.values())

    def read(number: int) -> None:
        items = [(key, None) for key in OBJECTS]
        if number % 2:
            assert client.get_many(items) == expected
        else:
            assert asyncio.run(client.get_many_async(items)) == expected

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    assert client.stats()["retries"] == client.stats()["failed"] == 0


def test_every_framing(scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    frame = {
        "length": lambda: ok(LARGE),
        "chunked": lambda: ok(LARGE).chunked(7000),
        "dripped": lambda: ok(LARGE[:200]).drip(),
        "eof": lambda: ok(LARGE).until_eof(),
    }
    server = scripted(lambda request: frame[request.key](), tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    items = [(key, None) for key in frame] * 5
    assert client.get_many(items) == [LARGE, LARGE, LARGE[:200], LARGE] * 5


def test_a_put(scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    objects: dict[str, bytes] = {}
    server = scripted(ranged(objects), tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file)
    assert client.put("key", LARGE)
    assert objects == {"key": LARGE}
    assert client.get("key") == LARGE


def test_a_session_serves_many_requests(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(echo, tls=tls_context)
    before = zfast.stats()["connections_through_python"]
    client = Client(server.url, ca_certs=tls_ca_file)
    for number in range(30):
        assert client.get(str(number)) == str(number).encode()
    assert len(server.connections) == 1
    assert zfast.stats()["connections_through_python"] == before + 1


def test_urllib3_goes_on_with_the_session(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(echo, tls=tls_context)
    manager = urllib3.PoolManager(maxsize=1, block=True, ca_certs=tls_ca_file)
    for turn in range(3):
        client = Client(server.url, pool_manager=manager)
        assert client.get(f"ours-{turn}") == f"ours-{turn}".encode()
        client.close()
        theirs = manager.request("GET", f"{server.url}/theirs-{turn}", timeout=10)
        assert theirs.data == f"theirs-{turn}".encode()
    assert [r.connection for r in server.requests] == [0] * 6


def test_a_session_closed_while_idle_is_replaced(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(echo, tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    for turn in range(6):
        assert client.get("key") == b"key"
        server.close_idle(reset=bool(turn % 2))
    assert len(server.requests) == 6


# ------------------------------------------------------------------------------ ends of a stream


def test_a_body_until_eof_ends_with_close_notify(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted([ok(LARGE).until_eof().then(Fin())] * 3, tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    for _ in range(3):
        assert client.get("key") == LARGE


@pytest.mark.parametrize("size", [1, 1000, len(LARGE)])
@pytest.mark.parametrize("ending", [Fin(notify=False), Reset()], ids=["fin", "reset"])
def test_a_body_until_eof_that_is_cut(
    scripted: Start,
    tls_context: ssl.SSLContext,
    tls_ca_file: str,
    size: int,
    ending: Fin | Reset,
) -> None:
    # Whole as it may be: without close_notify anybody could have cut it (RFC 9112, section 9.8).
    server = scripted([ok(LARGE[:size]).until_eof().then(ending)], tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    with pytest.raises(zfast.ConnectionFailedError, match="cut short"):
        client.get("key")


@pytest.mark.parametrize("ending", [Fin(), Fin(notify=False), Reset()], ids=str)
@pytest.mark.parametrize("at", [0, 1, 5000])
def test_a_body_of_known_length_that_is_cut(
    scripted: Start,
    tls_context: ssl.SSLContext,
    tls_ca_file: str,
    at: int,
    ending: Fin | Reset,
) -> None:
    server = scripted([ok(LARGE).cut_body(at, ending), ok(LARGE)], tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    with pytest.raises(zfast.ConnectionFailedError):
        client.get("key")
    assert client.get("key") == LARGE


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


async def test_cancel_closes_the_session(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(echo, tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file)
    reading = asyncio.ensure_future(client.get_async("stall"))
    await asyncio.to_thread(server.wait_requests, 1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.to_thread(server.wait_closed)
    assert await client.get_async("key") == b"key"


# ------------------------------------------------------------------------------------ handshakes


def served(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("fault", ["unknown authority", "wrong host"])
@pytest.mark.parametrize("count", [1, 30])
def test_a_certificate_that_is_not_accepted(
    scripted: Start, tls_ca: trustme.CA, tls_ca_file: str, fault: str, count: int
) -> None:
    unknown = fault == "unknown authority"
    context = served(
        trustme.CA() if unknown else tls_ca, "127.0.0.1" if unknown else "other.example"
    )
    server = scripted(echo, tls=context)
    # Patient with anything else.
    client = Client(server.url, ca_certs=tls_ca_file, retries=10)
    errors = client.get_many([(str(i), None) for i in range(count)], "return")
    for error in errors:
        assert type(error) is zfast.ConnectionFailedError
        assert "certificate verify failed" in str(error).lower()
        assert error.attempts == 1
    # Before one byte of a request, credentials among them.
    assert server.requests == []
    server.wait_closed()
    assert {connection.ending for connection in server.connections} <= {"tls", "peer"}
    assert client.stats()["retries"] == client.stats()["requests"] == 0


def test_the_systems_trust_store_knows_nothing_of_the_tests(
    scripted: Start, tls_context: ssl.SSLContext
) -> None:
    server = scripted(echo, tls=tls_context)
    with pytest.raises(zfast.ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
        Client(server.url).get("key")
    assert server.requests == []


def test_ca_certs_of_two_clients_do_not_mix(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    server = scripted(echo, tls=tls_context)
    assert Client(server.url, ca_certs=tls_ca_file).get("key") == b"key"
    with pytest.raises(zfast.ConnectionFailedError):
        Client(server.url, ca_certs=str(other)).get("key")
    assert len(server.requests) == 1


def test_ca_certs_that_is_no_file(scripted: Start, tls_context: ssl.SSLContext) -> None:
    server = scripted(echo, tls=tls_context)
    with pytest.raises(zfast.ZfastError, match="No such file"):
        Client(server.url, ca_certs="/not-there.pem", retries=0).get("key")


def test_a_client_certificate(
    scripted: Start, tls_ca: trustme.CA, tls_ca_file: str, tmp_path: Path
) -> None:
    context = served(tls_ca, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    tls_ca.configure_trust(context)
    server = scripted(echo, tls=context)
    own = tmp_path / "own.pem"
    tls_ca.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(str(own))
    manager = urllib3.PoolManager(ca_certs=tls_ca_file, cert_file=str(own))
    assert Client(server.url, pool_manager=manager).get("key") == b"key"
    with pytest.raises(zfast.ConnectionFailedError):
        Client(server.url, ca_certs=tls_ca_file, retries=0).get("key")
    assert len(server.requests) == 1


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


def test_a_handshake_that_stalls_is_a_connect_timeout(silent: str, tls_ca_file: str) -> None:
    timeout = urllib3.Timeout(connect=0.3, read=60)
    client = Client(silent, ca_certs=tls_ca_file, timeout=timeout, retries=0)
    began = time.monotonic()
    with pytest.raises(zfast.DeadlineError, match="connect_timeout") as raised:
        client.get("key")
    assert 0.25 < time.monotonic() - began < 2
    assert raised.value.attempts == 1


def test_a_deadline_passes_within_a_handshake(silent: str, tls_ca_file: str) -> None:
    client = Client(silent, ca_certs=tls_ca_file, timeout=1, retries=0, deadline=0.1)
    began = time.monotonic()
    with pytest.raises(zfast.DeadlineError, match="deadline"):
        client.get("key")
    assert time.monotonic() - began < 0.9


def test_a_server_without_tls(scripted: Start, tls_ca_file: str) -> None:
    server = scripted([], on_accept=lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n", Fin()])
    client = Client(server.url.replace("http:", "https:"), ca_certs=tls_ca_file, retries=1)
    with pytest.raises(zfast.ConnectionFailedError) as raised:
        client.get("key")
    assert raised.value.attempts == 2
    assert server.requests == []


# ------------------------------------------------------------------------------------------- life


def test_a_forked_child_has_sessions_of_its_own(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    server = scripted(echo, tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file)
    assert client.get("parent") == b"parent"
    for _ in range(3):

        def read() -> None:
            assert client.get("child") == b"child"

        in_child(read)
        assert client.get("parent again") == b"parent again"
    assert [r.connection for r in server.requests if r.key.startswith("parent")] == [0] * 4
    assert [r.connection for r in server.requests if r.key == "child"] == [1, 2, 3]


def test_exit_while_sessions_are_read(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, tmp_path: Path
) -> None:
    server = scripted(echo, tls=tls_context)
    source = """
        import sys, threading, time
        import zfast

        client = zfast.Client(sys.argv[1], ca_certs=sys.argv[2])

        def forever():
            while True:
                assert client.get("key") == b"key"

        for work in (forever, forever, lambda: client.get_many([("stall", None)] * 20)):
            threading.Thread(target=work, daemon=True).start()
        while client.stats()["in_flight"] < 20:
            time.sleep(0.001)
        print(time.monotonic())
        sys.exit(3)
    """
    ended = run(tmp_path, source, server.url, tls_ca_file)
    assert (ended.code, ended.err) == (3, "")
    assert ended.at - float(ended.out) < 2
