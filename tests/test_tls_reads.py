"""TLS, natively and by way of Python alike: right bytes, no end believed that was not meant."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
import urllib3
from servers.script import in_child, run
from servers.scripted import (
    Action,
    BelowTLS,
    Fin,
    KeyUpdate,
    Reply,
    Request,
    Reset,
    ScriptedServer,
    Stall,
    Wait,
    ok,
    ranged,
)
from servers.site import Site

import zfast
from zfast import Client

Start = Callable[..., ScriptedServer]

LARGE = os.urandom(1 << 16) * 160
OBJECTS = {f"small-{i}": bytes([i]) * (i * 331) for i in range(100)} | {"large": LARGE}


pytestmark = pytest.mark.usefixtures("tls_path")

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


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


def test_what_the_session_holds_when_others_have_their_turn(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    # A turn ends after 1 MiB. By then the last of these may be where no poll sees it.
    server = scripted(lambda request: ok(LARGE[: int(request.key)]), tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0, timeout=5, max_concurrency=1)
    for size in range(1_048_576, 1_048_576 + 70_000, 1_000):
        assert client.get(f"{size}") == LARGE[:size]
    assert len({request.connection for request in server.requests}) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
def test_versions(
    scripted: Start, tls_ca: trustme.CA, tls_ca_file: str, version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_ca.issue_cert("127.0.0.1").configure_cert(context)
    context.minimum_version = context.maximum_version = version
    objects = {"large": LARGE, "small": b"small"}
    server = scripted(ranged(objects), tls=context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    assert client.get_many([("large", None), ("small", None)] * 4) == [LARGE, b"small"] * 4
    assert client.put("put", LARGE)
    assert objects["put"] == LARGE


def test_tickets_and_key_updates_within_a_body(
    scripted: Start, tls_ca: trustme.CA, tls_ca_file: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_ca.issue_cert("127.0.0.1").configure_cert(context)
    context.num_tickets = 10
    half = len(LARGE) // 2

    def answer(request: Request) -> Iterable[Action]:
        yield ok(LARGE).wire()[:-half]
        yield KeyUpdate()
        yield LARGE[-half:-5]
        yield KeyUpdate()
        yield KeyUpdate()
        yield LARGE[-5:]

    server = scripted(answer, tls=context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    for _ in range(3):
        assert client.get("key") == LARGE
    assert len(server.connections) == 1


def test_a_key_update_while_the_session_idles(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    # It wakes the poll loop, and is no end of the connection.
    updated = threading.Event()

    def answer(request: Request) -> Iterable[Action]:
        yield ok(request.key.encode())
        yield KeyUpdate()
        updated.set()

    server = scripted(answer, tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    for number in range(5):
        assert client.get(str(number)) == str(number).encode()
        assert updated.wait(10)
        updated.clear()
    assert len(server.connections) == 1


def test_a_put(scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    objects: dict[str, bytes] = {}
    server = scripted(ranged(objects), tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file)
    assert client.put("key", LARGE)
    assert objects == {"key": LARGE}
    assert client.get("key") == LARGE


def test_a_session_serves_many_requests(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, tls_path: str
) -> None:
    server = scripted(echo, tls=tls_context)
    before = zfast.stats()["connections_through_python"]
    client = Client(server.url, ca_certs=tls_ca_file)
    for number in range(30):
        assert client.get(str(number)) == str(number).encode()
    assert len(server.connections) == 1
    by_python = tls_path == "python"
    assert zfast.stats()["connections_through_python"] == before + by_python
    assert client.stats()["fallback_reads"] == 30 * by_python


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


def test_what_urllib3_left_unread_is_no_response(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    # In the record of the last response, behind what http.client reads at once: no poll sees it.
    theirs = ok(b"theirs").wire().ljust(io.DEFAULT_BUFFER_SIZE) + ok(b"of nobody").wire()
    server = scripted([theirs, ok(b"ours")], tls=tls_context)
    manager = urllib3.PoolManager(maxsize=1, block=True, ca_certs=tls_ca_file)
    assert manager.request("GET", f"{server.url}/key").data == b"theirs"
    assert Client(server.url, pool_manager=manager).get("key") == b"ours"


def test_what_lies_behind_a_response_urllib3_sees_as_before(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    # In a record of its own, behind a response that urllib3 reads on a session which was zfast's
    # before: still with the kernel, where urllib3 looks before it sends another request.
    theirs = ok(b"theirs" * 1000).wire()
    begun = threading.Event()
    server = scripted(
        [ok(b"ours"), [theirs[:1000], Wait(begun), theirs[1000:], FORGED], ok(b"next")],
        tls=tls_context,
    )
    manager = urllib3.PoolManager(maxsize=1, block=True, ca_certs=tls_ca_file)
    client = Client(server.url, pool_manager=manager)
    assert client.get("key") == b"ours"
    client.close()
    response = manager.request("GET", f"{server.url}/key", preload_content=False, timeout=10)
    begun.set()
    time.sleep(0.3)
    assert response.read() == b"theirs" * 1000
    response.release_conn()
    assert manager.request("GET", f"{server.url}/key", timeout=10).data == b"next"
    assert [request.connection for request in server.requests] == [0, 0, 1]


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


@pytest.mark.parametrize(
    "fault",
    [
        # A record of content that does not decrypt; an alert of nobody's; nothing like TLS.
        b"\x17\x03\x03\x00\x20" + bytes(32),
        b"\x15\x03\x03\x00\x02\x02\x50",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["record", "alert", "plain"],
)
@pytest.mark.parametrize("at", [-len(LARGE), -70_000, -1])
def test_a_session_that_breaks_within_a_body(
    scripted: Start,
    tls_context: ssl.SSLContext,
    tls_ca_file: str,
    fault: bytes,
    at: int,
) -> None:
    def broken(request: Request) -> Iterable[Action]:
        return [ok(LARGE).wire()[:at], BelowTLS(fault), Stall()]

    server = scripted([broken, ok(LARGE), broken], tls=tls_context)
    assert Client(server.url, ca_certs=tls_ca_file, retries=1).get("key") == LARGE
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    with pytest.raises(zfast.ConnectionFailedError, match=r"TLS session failed \(\w+ \w+"):
        client.get("key")
    assert len(server.requests) == 3


def test_a_success_before_all_of_the_content(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    done = threading.Event()
    server = scripted([], on_head=lambda _: [Reply(201).wire(), Wait(done)], tls=tls_context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=0)
    try:
        with pytest.raises(zfast.ResponseError, match="before it had all of the content"):
            client.put("key", bytes(50_000_000))
    finally:
        done.set()


def test_a_hint_before_all_of_the_content(tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    size = 20_000_000

    def serve() -> None:
        with tls_context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            received = connection.recv(16 << 10)
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            head, left = len(received.partition(b"\r\n\r\n")[0]) + 4, size
            left -= len(received) - head
            while left:
                left -= len(connection.recv(1 << 20))
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert Client(url, ca_certs=tls_ca_file, retries=0).put("key", bytes(size))
        served.result(10)


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


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="no other way to join two records")
def test_what_lies_behind_a_response_is_not_the_next_one(
    tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    """Also in a record of its own that is there already, while others wait for the connection."""

    def serve(accepted: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            accepted,
            tls_context.wrap_socket(accepted, server_side=True) as tls,
        ):
            received = b""
            while block := tls.recv(1 << 16):
                received += block
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    body = head.split()[1]
                    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
                    tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                    tls.sendall(reply % (len(body), body))
                    tls.sendall(FORGED)
                    tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                threads.submit(serve, accepted)

    with ThreadPoolExecutor(8) as threads, socket.create_server(("127.0.0.1", 0)) as listener:
        threads.submit(accept)
        try:
            port = listener.getsockname()[1]
            client = Client(
                f"https://127.0.0.1:{port}", ca_certs=tls_ca_file, max_concurrency=1, retries=0
            )
            keys = [f"key-{number}" for number in range(40)]
            found = client.get_many([(key, None) for key in keys])
            assert found == [f"/{key}".encode() for key in keys]
            client.close()
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def test_a_program_that_dies_of_broken_pipes_does_not_die_of_ours(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    """The thread that waits does the I/O of what is near itself, and libssl writes by write(2)."""
    server = scripted(
        ranged({"key": b"value"}),
        tls=tls_context,
        on_head=lambda request: [Fin()] if request.method == "PUT" else None,
    )

    def work() -> int:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        client = zfast.Client(server.url, ca_certs=tls_ca_file, retries=False)
        attended = 0
        # A busy machine is far from all for a while.
        for number in range(200):
            for _ in range(5):
                assert client.get("key") == b"value"
            with pytest.raises(zfast.ZfastError):
                client.put("new", bytes(8 << 20))
            attended = int(zfast.stats()["batches_attended"])
            if number > 20 and attended > 20:
                break
        return attended

    assert in_child(work) > 20
