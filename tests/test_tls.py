"""The native TLS transport: moves what can be moved, says what it waits for, tells ends apart."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme
from servers.script import in_child, run
from servers.tls import renegotiate, update_keys

from zfast._core.tls import SessionTransport
from zfast._core.tls_sessions import session_count, session_of, unavailable

Pair = tuple[ssl.SSLSocket, ssl.SSLSocket]
Connect = Callable[..., Pair]

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def client_context(tls_ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # OpenSSL's SSL_OP_IGNORE_UNEXPECTED_EOF, which some builds of Python set.
    context.options &= ~(1 << 7)
    tls_ca.configure_trust(context)
    return context


@pytest.fixture
def connect(client_context: ssl.SSLContext, tls_context: ssl.SSLContext) -> Iterator[Connect]:
    """Connect a client, which does not block, and a server, which does."""
    with ExitStack() as stack:

        def connected(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Pair:
            client_context.maximum_version = version
            with socket.create_server(("127.0.0.1", 0)) as listener:
                plain = socket.create_connection(listener.getsockname())
                accepted, _ = listener.accept()
            server = tls_context.wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            )
            stack.enter_context(server)
            thread = threading.Thread(target=server.do_handshake)
            thread.start()
            client = client_context.wrap_socket(plain, server_hostname="127.0.0.1")
            stack.enter_context(client)
            thread.join()
            client.settimeout(0)
            server.settimeout(10)
            return client, server

        yield connected


def wait(sock: ssl.SSLSocket, events: int = select.POLLIN) -> None:
    poll = select.poll()
    poll.register(sock, events)
    assert poll.poll(10_000)


def received(transport: SessionTransport, sock: ssl.SSLSocket, size: int) -> bytes:
    """`size` bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < size:
        part = transport.recv(size - len(data))
        if part is None:
            assert transport.wants()[0] == select.POLLIN
            wait(sock)
        elif part:
            data += part
        else:
            break
    return data


def fill(sock: ssl.SSLSocket) -> int:
    """Write below TLS until the connection takes not one byte more; how much that was."""
    count, before = 0, -1
    while count > before:
        before = count
        for size in (1 << 12, 16):
            with suppress(BlockingIOError):
                while True:
                    count += os.write(sock.fileno(), bytes(size))
        # The kernels may still be moving what they took.
        time.sleep(0.05)
    return count


def failure(transport: SessionTransport, sock: ssl.SSLSocket) -> OSError:
    with pytest.raises(OSError) as raised:
        received(transport, sock, 1)
    return raised.value


def test_it_is_native_here() -> None:
    assert unavailable() == ""


# ---------------------------------------------------------------------------------- moving bytes


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_what_is_sent_is_received(connect: Connect, version: ssl.TLSVersion) -> None:
    client, server = connect(version)
    transport = SessionTransport(client)
    assert client.version() == version.name.replace("_", ".")
    # With TLS 1.3 there are tickets to read, which are no content.
    assert transport.recv(10) is None
    assert transport.wants() == (select.POLLIN, select.POLLOUT)
    data = os.urandom(100_000)
    server.sendall(data)
    assert received(transport, client, len(data)) == data
    assert transport.recv(10) is None
    sent = transport.send(data)
    # One record at a time, or a long content would show no progress.
    assert sent == 16384
    assert server.recv(sent) == data[:sent]


def test_bytes_that_no_poll_would_tell_of(connect: Connect) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    server.sendall(b"record")
    assert received(transport, client, 2) == b"re"
    assert transport.pending()
    assert transport.recv(10) == b"cord"
    assert not transport.pending()


def test_a_peer_that_does_not_read(connect: Connect) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    total = 0
    while (sent := transport.send(b"x" * 50_000)) is not None:
        total += sent
    assert transport.wants() == (select.POLLIN, select.POLLOUT)
    # The record that did not fit is half out: it goes on with the same bytes.
    count = 0
    while count < total:
        count += len(server.recv(1 << 16))
    wait(client, select.POLLOUT)
    assert transport.send(b"x" * 50_000) == 16384
    while count < total + 16384:
        count += len(server.recv(1 << 16))


@pytest.mark.parametrize("times", [1, 5])
def test_key_updates_between_records(connect: Connect, times: int) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    for number in range(times):
        server.sendall(b"before")
        update_keys(server)
        server.sendall(b"after")
        assert received(transport, client, 11) == b"beforeafter"
        assert transport.send(b"%d" % number) == 1
        assert server.recv(10) == b"%d" % number


def test_each_direction_may_wait_for_the_other(connect: Connect) -> None:
    # The client is asked for another handshake, which it has to write while it reads, and to read
    # while it writes.
    client, server = connect(ssl.TLSVersion.TLSv1_2)
    transport = SessionTransport(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    junk = fill(client)
    renegotiate(server)
    wait(client)
    assert transport.recv(4) is None
    assert transport.wants()[0] == select.POLLOUT
    while junk:
        junk -= len(socket.socket.recv(server, min(junk, 1 << 16)))
    wait(client, select.POLLOUT)
    assert transport.send(b"!") is None
    assert transport.wants()[1] == select.POLLIN
    answered = threading.Thread(target=lambda: server.sendall(server.recv(1) * 4))
    answered.start()
    while transport.send(b"!") is None:
        wait(client, transport.wants()[1])
    assert received(transport, client, 4) == b"!!!!"
    assert transport.wants() == (select.POLLIN, select.POLLOUT)
    answered.join()


def test_python_goes_on_with_the_session(connect: Connect) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    for _ in range(3):
        server.sendall(b"natively")
        assert received(transport, client, 8) == b"natively"
        assert transport.send(b"natively") == 8
        assert server.recv(8) == b"natively"
        client.settimeout(10)
        server.sendall(b"by Python")
        assert client.recv(9) == b"by Python"
        client.sendall(b"by Python")
        assert server.recv(9) == b"by Python"
        client.settimeout(0)


# ------------------------------------------------------------------------------------------ ends


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_close_notify_is_the_end(connect: Connect, version: ssl.TLSVersion) -> None:
    client, server = connect(version)
    transport = SessionTransport(client)
    server.sendall(b"body")
    server.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        server.unwrap()
    assert received(transport, client, 10) == b"body"
    assert transport.recv(10) == b""


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_an_end_without_close_notify(connect: Connect, version: ssl.TLSVersion, how: str) -> None:
    client, server = connect(version)
    transport = SessionTransport(client)
    assert transport.recv(1) is None
    if how == "reset":
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    assert failure(transport, client).errno == errno.ECONNRESET
    assert failure(transport, client).errno == errno.ECONNRESET


def test_a_context_that_hides_such_an_end(connect: Connect, client_context: ssl.SSLContext) -> None:
    client_context.options |= 1 << 7
    client, server = connect()
    transport = SessionTransport(client)
    server.close()
    assert failure(transport, client).errno == errno.ECONNRESET


def test_a_record_that_cannot_be(connect: Connect) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    server.sendall(b"body")
    socket.socket.sendall(server, b"\x17\x03\x03\x00\x20" + bytes(32))
    assert received(transport, client, 4) == b"body"
    error = failure(transport, client)
    assert error.errno == errno.EPROTO
    assert "bad record mac" in str(error)


def test_an_alert(connect: Connect) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    server.sendall(b"body")
    socket.socket.sendall(client, b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        server.recv(1)
    assert received(transport, client, 4) == b"body"
    error = failure(transport, client)
    assert error.errno == errno.EPROTO
    assert "alert bad record mac" in str(error)


def test_a_connection_that_is_shut(connect: Connect) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    transport.shut()
    assert failure(transport, client).errno == errno.ECONNRESET
    with pytest.raises(OSError, match="session failed"):
        transport.send(b"x")
    # Without a word, which Python's ssl lets pass unless it is told not to.
    # Of newer versions, while it writes what it still had to say.
    with contextlib.suppress(BrokenPipeError):
        assert server.recv(1) == b""


# -------------------------------------------------------------------------------------- sessions


def test_a_plain_socket_is_no_session() -> None:
    with socket.socket() as plain:
        assert session_of(plain)[0] == 0
        with pytest.raises(ValueError, match="TLS within TLS"):
            SessionTransport(plain)


def test_a_session_in_memory_is_none_of_a_socket(client_context: ssl.SSLContext) -> None:
    inside = client_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")
    assert session_of(inside) == (0, "TLS within TLS, or not of Python's ssl")


def test_a_session_that_was_ended(connect: Connect) -> None:
    client, server = connect()
    server.close()
    client.close()
    assert session_of(client) == (0, "the TLS session has ended")


def test_a_descriptor_that_is_used_again(connect: Connect) -> None:
    # A closed session that is not collected yet has the number of a new one.
    old = [connect() for _ in range(5)]
    kept = [client._sslobj for client, _ in old]
    numbers = {client.fileno() for client, _ in old}
    for client, server in old:
        client.close()
        server.close()
    again = 0
    for _ in range(5):
        client, server = connect()
        again += client.fileno() in numbers
        server.sendall(b"right")
        assert received(SessionTransport(client), client, 5) == b"right"
    assert again
    assert len(kept) == 5


def test_a_session_that_is_gone_is_forgotten(connect: Connect) -> None:
    before = -1
    # Of earlier tests some may take more than one turn to go.
    while before != (before := session_count()):
        gc.collect()
    plain, far = socket.socketpair()
    with far:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        sock = context.wrap_socket(plain, do_handshake_on_connect=False, server_hostname="x")
        assert session_count() == before + 1
        cycle = [sock]
        cycle.append(cycle)  # type: ignore[arg-type]
        sock.close()
    del sock, cycle
    gc.collect()
    assert session_count() == before


def test_sessions_of_many_threads(client_context: ssl.SSLContext) -> None:
    gc.collect()
    before = session_count()
    wrong: list[object] = []

    def make() -> None:
        for _ in range(200):
            plain, far = socket.socketpair()
            with (
                far,
                client_context.wrap_socket(
                    plain, do_handshake_on_connect=False, server_hostname="x"
                ) as sock,
            ):
                if session_of(sock)[1]:
                    wrong.append(session_of(sock))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    gc.collect()
    assert session_count() == before


def test_a_fork_while_sessions_are_made_and_used(
    connect: Connect, client_context: ssl.SSLContext
) -> None:
    client, server = connect()
    transport = SessionTransport(client)
    ending = threading.Event()

    def use() -> None:
        while not ending.is_set():
            transport.recv(100)

    def make() -> None:
        while not ending.is_set():
            client_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")

    threads = [threading.Thread(target=work) for work in (use, make, make)]
    for thread in threads:
        thread.start()

    def child() -> str:
        # With a context of its own: OpenSSL's locks do not outlive a fork beside other threads.
        client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        before = session_count()
        client_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")
        assert session_count() == before
        # Without a handshake nothing is sent: the session is the parent's.
        plain, far = socket.socketpair()
        with (
            far,
            client_context.wrap_socket(
                plain, do_handshake_on_connect=False, server_hostname="x"
            ) as sock,
        ):
            sock.settimeout(0)
            assert SessionTransport(sock).recv(1) is None
        return session_of(client)[1]

    try:
        for _ in range(20):
            assert in_child(child) == ""
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    server.sendall(b"parent")
    assert received(transport, client, 6) == b"parent"


def test_what_was_opened_before_zfast_is_not_found(tmp_path: Path) -> None:
    source = """
        import socket, ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        near, far = socket.socketpair()
        sock = context.wrap_socket(near, do_handshake_on_connect=False, server_hostname="x")
        from zfast._core.tls_sessions import session_of, unavailable
        print(session_of(sock)[1], unavailable(), sep="|")
    """
    ended = run(tmp_path, source)
    assert (ended.out, ended.err) == ("the session was opened before zfast was imported|\n", "")
