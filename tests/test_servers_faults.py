"""The faults of the tests' own servers are those they are named after: vanished, full, chaotic."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
from typing import Any

import pytest
from plain_sockets import GET, OK, Start
from servers.chaos import ANYWHERE, WITHIN, Chaos
from servers.connection import can_vanish
from servers.leaks import open_descriptors, server_threads, wait_until
from servers.scripted import Reset, ok, ranged
from servers.site import Site


@pytest.mark.skipif(not can_vanish(), reason="connections end with a word, unless root asks Linux")
def test_vanished_without_a_word(scripted: Start) -> None:
    server = scripted(lambda _: ok(b"body"))
    with socket.create_connection(server.address, timeout=10) as sock:
        sock.sendall(GET)
        assert sock.recv(100) == OK
        assert server.vanish_idle() == 1
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        # Who asks is told that nobody is there.
        sock.settimeout(10)
        sock.sendall(GET)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert server.connections[0].ending == "vanished"


def test_full_and_then_not(scripted: Start) -> None:
    server = scripted(lambda _: ok(b"body"))
    with socket.create_connection(server.address, timeout=10) as before:
        server.wait_for(lambda: len(server.connections) == 1)
        with server.full():
            with pytest.raises(TimeoutError):
                socket.create_connection(server.address, timeout=0.05)
            before.sendall(GET)
            assert before.recv(100) == OK
        with socket.create_connection(server.address, timeout=10) as after:
            after.sendall(GET)
            assert after.recv(100) == OK


def test_a_reset_does_not_wait_for_a_client_that_has_gone(scripted: Start) -> None:
    gone = threading.Event()

    def reset(_: Any) -> Any:
        assert gone.wait(20)
        return ok(bytes(1 << 24)).cut(-1, Reset())

    server = scripted(reset)
    with socket.create_connection(server.address, timeout=10) as sock:
        sock.sendall(GET)
        server.wait_requests(1)
    gone.set()
    server.wait_closed()


# ----------------------------------------------------------------------------------- the proxy

BODY = random.Random(1).randbytes(5000)


def exchange(url: str, key: str) -> tuple[bytes, str]:
    """All that followed the head of a reply, by a client that asks once, and how that ended."""
    host, port = url.removeprefix("http://").split(":")
    data = b""
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % key.encode())
        # It may have been reset by now.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        try:
            while received := sock.recv(1 << 16):
                data += received
        except ConnectionResetError:
            return data.partition(b"\r\n\r\n")[2], "reset"
    return data.partition(b"\r\n\r\n")[2], "fin"


def test_without_a_share_it_does_nothing(caddy: Site) -> None:
    caddy.write({"key": BODY})
    with Chaos(caddy.server.port, 1, 0.0) as proxy:
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)
        for _ in range(50):
            connection.request("GET", f"/{caddy.name}/key")
            assert connection.getresponse().read() == BODY
        connection.close()
        assert not proxy.done


@pytest.mark.parametrize("seed", range(3))
def test_what_it_does_shows_in_the_framing(scripted: Start, seed: int) -> None:
    server = scripted(ranged({"key": BODY}))
    with Chaos(server.port, seed, 1.0) as proxy:
        for _ in range(25):
            before = dict(proxy.done)
            body, end = exchange(proxy.url, "key")
            (kind,) = proxy.done - type(proxy.done)(before)
            assert kind in ANYWHERE
            # What has come is a beginning of what there is, and what lies behind it, is behind it.
            assert body[: len(BODY)] == BODY[: len(body)]
            assert (len(body) > len(BODY)) == (kind == "behind")
            assert (len(body) < len(BODY)) == (kind in ("cut", "reset", "stall"))
            assert end == ("reset" if kind == "reset" else "fin")


def test_what_it_does_within_a_body_is_asked_for(scripted: Start) -> None:
    server = scripted(ranged({"key": BODY, "other": BODY}))
    with Chaos(server.port, 1, 1.0, lambda target: WITHIN if target == "/key" else ()) as proxy:
        for _ in range(25):
            exchange(proxy.url, "other")
        assert not set(proxy.done) & set(WITHIN)
        wrong = 0
        for _ in range(40):
            body, _ = exchange(proxy.url, "key")
            wrong += body[: len(BODY)] != BODY[: len(body)]
        assert wrong > 0
        assert set(proxy.done) & set(WITHIN)


def test_it_leaves_nothing(scripted: Start) -> None:
    server = scripted(ranged({"key": BODY}))
    with socket.create_connection(server.address):
        # Then it has all descriptors of its own, too.
        server.wait_for(lambda: len(server.connections) == 1)
    server.wait_closed()
    threads, descriptors = server_threads(), open_descriptors()
    with Chaos(server.port, 1, 0.0) as proxy:
        host, port = proxy.url.removeprefix("http://").split(":")
        with (
            socket.create_connection((host, int(port))),
            socket.create_connection((host, int(port))),
        ):
            server.wait_for(lambda: len(server.connections) == 3)
    server.wait_closed()
    # Neither is the server's state, which would wake who waits for it.
    wait_until(lambda: server_threads() <= threads)
    wait_until(lambda: open_descriptors().items() <= descriptors.items())
