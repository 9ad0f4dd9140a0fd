"""The plain-socket transport: moves what can be moved, never blocks, and says why it could not."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from zfast._core.transport import SocketTransport

Pair = tuple[SocketTransport, socket.socket]


@pytest.fixture
def ours() -> Iterator[socket.socket]:
    # A TCP connection, not a socket pair: RST is a matter of TCP.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted, _ = listener.accept()
            _peers[client.fileno()] = accepted
            with accepted:
                yield client
            del _peers[client.fileno()]


_peers: dict[int, socket.socket] = {}


@pytest.fixture
def pair(ours: socket.socket) -> Pair:
    return SocketTransport(ours.fileno()), _peers[ours.fileno()]


def received(transport: SocketTransport, ours: socket.socket, size: int) -> bytes:
    """`size` bytes, or fewer where the stream ends."""
    data = b""
    ours.settimeout(5)
    while len(data) < size:
        part = transport.recv(size - len(data))
        if part is None:
            ours.recv(1, socket.MSG_PEEK)
        elif part:
            data += part
        else:
            break
    return data


def test_nothing_to_receive(pair: Pair) -> None:
    transport, _ = pair
    assert transport.recv(10) is None
    assert transport.recv(10) is None


def test_receive(pair: Pair, ours: socket.socket) -> None:
    transport, peer = pair
    peer.sendall(b"hello world")
    assert received(transport, ours, 5) == b"hello"
    assert received(transport, ours, 6) == b" world"
    assert transport.recv(1) is None


def test_receive_no_more_than_asked_for(pair: Pair, ours: socket.socket) -> None:
    transport, peer = pair
    peer.sendall(b"abc")
    ours.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL)
    assert [transport.recv(1) for _ in range(4)] == [b"a", b"b", b"c", None]


def test_the_end_of_the_stream(pair: Pair, ours: socket.socket) -> None:
    transport, peer = pair
    peer.sendall(b"bye")
    peer.shutdown(socket.SHUT_WR)
    assert received(transport, ours, 99) == b"bye"
    assert transport.recv(1) == b""
    assert transport.recv(1) == b""
    # Half closed: the other direction still works.
    assert transport.send(b"yes") == 3
    assert peer.recv(10) == b"yes"


def test_send(pair: Pair) -> None:
    transport, peer = pair
    assert transport.send(b"hello") == 5
    assert peer.recv(10) == b"hello"
    assert transport.send(b"") == 0
    assert transport.send(memoryview(bytearray(b"view"))) == 4
    assert peer.recv(10) == b"view"


def test_send_as_much_as_fits(pair: Pair) -> None:
    transport, peer = pair
    data = os.urandom(1 << 20)
    sent = 0
    while (moved := transport.send(data)) is not None:
        assert moved > 0
        sent += moved
        data = data[moved:] + data[:moved]
    assert sent > 0
    assert transport.send(b"x") is None
    arrived = 0
    while arrived < sent:
        arrived += len(peer.recv(1 << 20))
    assert transport.send(b"x") == 1


def test_a_reset_is_an_error(pair: Pair, ours: socket.socket) -> None:
    transport, peer = pair
    peer.sendall(b"last words")
    assert received(transport, ours, 10) == b"last words"
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    select.select([ours], [], [], 5)
    with pytest.raises(ConnectionResetError) as caught:
        transport.recv(1)
    assert caught.value.errno == errno.ECONNRESET


def test_sending_to_nobody_raises_no_signal(pair: Pair, ours: socket.socket) -> None:
    transport, peer = pair
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        select.select([ours], [], [], 5)
        with pytest.raises(OSError) as caught:
            transport.send(b"x")
        assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)
        with pytest.raises(BrokenPipeError):
            transport.send(b"x")
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_shut_ends_both_directions(pair: Pair, ours: socket.socket) -> None:
    transport, peer = pair
    transport.shut()
    peer.settimeout(5)
    assert peer.recv(1) == b""
    assert transport.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        transport.send(b"x")
    # The descriptor is still its owner's to close.
    assert os.fstat(ours.fileno())
    transport.shut()


def test_shut_wakes_who_waits(pair: Pair, ours: socket.socket) -> None:
    transport, _ = pair
    ended = threading.Event()

    def wait() -> None:
        ours.settimeout(10)
        assert ours.recv(1) == b""
        ended.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    transport.shut()
    waiter.join(10)
    assert ended.is_set()


def test_a_blocking_descriptor_does_not_block(pair: Pair, ours: socket.socket) -> None:
    transport, _ = pair
    ours.settimeout(None)
    assert ours.getblocking()
    assert transport.recv(1) is None


@pytest.mark.parametrize("call", [lambda t: t.recv(1), lambda t: t.send(b"x")])
def test_no_socket(call: object) -> None:
    assert callable(call)
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(OSError) as caught:
            call(SocketTransport(read_end))
        assert caught.value.errno == errno.ENOTSOCK
    finally:
        os.close(read_end)
        os.close(write_end)
    with pytest.raises(OSError) as caught:
        call(SocketTransport(-1))
    assert caught.value.errno == errno.EBADF
