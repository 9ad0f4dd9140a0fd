"""The scripted server does what its script says, to the byte; clients not of ours judge it."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import urllib3
from plain_sockets import GET, OK, Start, dial, drain, exactly, exchange
from servers.leaks import open_descriptors, server_threads, wait_until
from servers.scripted import (
    BadRequest,
    Drip,
    Fin,
    HalfClose,
    Reply,
    Request,
    Reset,
    ScriptedServer,
    Stall,
    Wait,
    blackhole,
    interim,
    ok,
    partial,
    ranged,
    redirect,
    status,
    unsatisfiable,
)


@pytest.fixture
def connect() -> Iterator[Callable[[ScriptedServer], http.client.HTTPConnection]]:
    opened: list[http.client.HTTPConnection] = []

    def connect_to(server: ScriptedServer) -> http.client.HTTPConnection:
        opened.append(http.client.HTTPConnection(*server.address, timeout=10))
        return opened[-1]

    yield connect_to
    for connection in opened:
        connection.close()


Connect = Callable[[ScriptedServer], http.client.HTTPConnection]


# Records


def test_requests_are_recorded(scripted: Start, connect: Connect) -> None:
    server = scripted(lambda request: ok(b"body"))
    first, second = connect(server), connect(server)
    for client, method, target, body in [
        (first, "GET", "/a%20b/c?x=%31", None),
        (first, "PUT", "/d", b"data"),
        (second, "GET", "/e", None),
    ]:
        client.request(method, target, body, {"X-Name": "1, 2", "Range": "bytes=0-1"})
        assert client.getresponse().read() == b"body"
    recorded = server.requests
    assert [(r.method, r.target) for r in recorded] == [
        ("GET", "/a%20b/c?x=%31"),
        ("PUT", "/d"),
        ("GET", "/e"),
    ]
    assert [(r.connection, r.number, r.index) for r in recorded] == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 2),
    ]
    assert (recorded[0].path, recorded[0].key, recorded[0].query) == ("/a b/c", "a b/c", "x=%31")
    assert recorded[1].body == b"data"
    assert recorded[0].field("x-NAME") == "1, 2"
    assert recorded[0].range == "bytes=0-1"
    assert recorded[0].field("absent") is None
    assert recorded[0].arrival <= recorded[1].arrival <= recorded[2].arrival
    assert server.keys() == ["a b/c", "e"]
    assert [len(connection.requests) for connection in server.connections] == [2, 1]


def test_chunked_request_body(scripted: Start, connect: Connect) -> None:
    server = scripted(lambda request: ok(request.body))
    client = connect(server)
    client.request("PUT", "/key", iter([b"some", b"thing"]), encode_chunked=True)
    assert client.getresponse().read() == b"something"


def test_expect_continue(scripted: Start) -> None:
    server = scripted([ok(b"").closing()])
    with dial(server) as sock:
        sock.sendall(
            b"PUT /k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        expected = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert exactly(sock, len(expected)) == expected
        sock.sendall(b"x")
        assert drain(sock)[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.requests[0].body == b"x"


def test_answer_before_the_body(scripted: Start) -> None:
    server = scripted([], on_head=lambda request: status(413))
    with dial(server) as sock:
        sock.sendall(b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        received, end = drain(sock)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in received
    assert end == "fin"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /k HTTP/1.1\nHost: x\n\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /k#f HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET k HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /k HTTP/1.1\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n",
        b"GET /k HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n1",
        b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1",
        GET + GET,
    ],
)
def test_malformed_requests_are_errors(data: bytes) -> None:
    server = ScriptedServer(lambda request: ok(b""))
    received, _ = exchange(server, data)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert not server.requests
    with pytest.raises(BadRequest):
        server.close()


def test_lenient_server(scripted: Start) -> None:
    server = scripted([ok(b"body")], strict=False)
    assert exchange(server, b"nonsense\r\n\r\n")[0].startswith(b"HTTP/1.1 400 ")
    assert not server.errors


def test_a_failing_script_fails_the_test() -> None:
    def handler(request: Request) -> Reply:
        raise LookupError("in the script")

    server = ScriptedServer(handler)
    assert exchange(server) == (b"", "fin")
    server.wait_closed()
    assert server.waiting == 0
    with pytest.raises(LookupError, match="in the script"):
        server.close()


@pytest.mark.parametrize("result", [None, (), [interim()], 7])
def test_a_script_without_a_reply_fails_the_test(result: object) -> None:
    server = ScriptedServer(lambda request: result)  # type: ignore[arg-type,return-value]
    exchange(server)
    server.wait_closed()
    with pytest.raises((AssertionError, TypeError)):
        server.close()


def test_a_failing_server_does_not_hide_the_failure_of_the_test() -> None:
    def run() -> None:
        with ScriptedServer([]) as server:
            exchange(server)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run()
    assert "no step is left for GET /key" in caught.value.__notes__[0]


# Replies


def test_steps_in_order_of_arrival(scripted: Start, connect: Connect) -> None:
    server = scripted(
        [ok(b"1"), [interim(100), status(503)], lambda request: ok(request.key.encode())]
    )
    client = connect(server)
    seen = []
    for _ in range(3):
        client.request("GET", "/key")
        response = client.getresponse()
        seen.append((response.status, response.read()))
    assert seen == [(200, b"1"), (503, b"an error page\n"), (200, b"key")]


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        (ok(b"body"), OK),
        (
            ok(b"body").chunked(3),
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n",
        ),
        (
            ok(b"body").chunked(extension=b";a=b", trailers={"T": "v"}),
            b"\r\n\r\n4;a=b\r\nbody\r\n0;a=b\r\nT: v\r\n\r\n",
        ),
        (ok(b"").chunked(), b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (ok(b"body").until_eof(), b"HTTP/1.1 200 OK\r\n\r\nbody"),
        (Reply(head=b"HTTP/1.1 299 \r\n\r\n", body=b"body"), b"HTTP/1.1 299 \r\n\r\nbody"),
        (partial(b"bc", 1, 4), b"206 Partial Content\r\nContent-Range: bytes 1-2/4\r\n"),
        (partial(b"bc", 1, None), b"Content-Range: bytes 1-2/*\r\n"),
        (unsatisfiable(4), b"Content-Range: bytes */4\r\n"),
        (redirect("/x", 307), b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\n"),
        (status(599), b"HTTP/1.1 599 Unknown\r\n"),
        (Reply(204, b"body"), b"HTTP/1.1 204 No Content\r\n\r\n"),
        (interim(), b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (ok(b"body", etag='"x"', content_type="a/b"), b'Etag: "x"\r\nContent-Type: a/b\r\n'),
        (ok(b"body").with_fields(content_length="7"), b"Content-Length: 7\r\n\r\nbody"),
        (ok(b"body", etag="x").with_fields(etag=None), OK),
    ],
)
def test_wire_form(scripted: Start, reply: Reply, wire: bytes) -> None:
    server = scripted([[reply, Fin()]])
    received, end = exchange(server)
    assert received == reply.wire()
    assert wire in received
    assert end == "fin"


def test_head_of_a_given_size() -> None:
    for size in (100, 65536):
        reply = ok(b"body").with_head_size(size)
        assert len(reply.wire_head()) == size
        assert len(reply.with_head_size(200).wire_head()) == 200
    with pytest.raises(ValueError, match="20 bytes"):
        ok(b"body").with_head_size(20)


@pytest.mark.parametrize("reply", [ok(b"body"), ok(b"body").chunked(3), ok(b"body").until_eof()])
@pytest.mark.parametrize("dripped", [False, True])
def test_framing_as_http_client_reads_it(
    scripted: Start, connect: Connect, reply: Reply, dripped: bool
) -> None:
    server = scripted(lambda request: reply.drip() if dripped else reply)
    client = connect(server)
    for _ in range(3):
        client.request("GET", "/key")
        assert client.getresponse().read() == b"body"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("code", [200, 204, 304])
def test_bodiless_replies_keep_the_connection(
    scripted: Start, connect: Connect, method: str, code: int
) -> None:
    server = scripted(lambda request: Reply(code, b"body"))
    client = connect(server)
    for _ in range(2):
        client.request(method, "/key")
        response = client.getresponse()
        assert response.status == code
        assert response.read() == (b"body" if (method, code) == ("GET", 200) else b"")
    assert [request.number for request in server.requests] == [0, 1]


@pytest.mark.parametrize("ending", [Fin(), Reset()])
def test_truncation_at_every_byte(scripted: Start, ending: Fin | Reset) -> None:
    reply = ok(b"body")
    server = scripted(lambda request: reply.cut(request.index, ending))
    for size in range(len(OK) + 1):
        assert exchange(server) == (OK[:size], "fin" if ending == Fin() else "reset")
    server.wait_closed()
    assert {c.ending for c in server.connections} == {"fin" if ending == Fin() else "reset"}


def test_truncation_from_the_end_and_of_the_body(scripted: Start) -> None:
    server = scripted([ok(b"body").cut(-1), ok(b"body").chunked(2).cut_body(4)])
    assert exchange(server)[0] == OK[:-1]
    assert exchange(server)[0].endswith(b"\r\n\r\n2\r\nb")


def test_reset_follows_all_bytes_of_a_large_body(scripted: Start) -> None:
    body = bytes(8 << 20)
    server = scripted([ok(body).cut_body(len(body) - 1, Reset())])
    received, end = exchange(server)
    assert len(received.partition(b"\r\n\r\n")[2]) == len(body) - 1
    assert end == "reset"


def test_garbage(scripted: Start) -> None:
    server = scripted([[b"\x00\xff", Drip(b"no HTTP"), Fin()]])
    assert exchange(server) == (b"\x00\xffno HTTP", "fin")


def test_pauses_end_with_their_event(scripted: Start) -> None:
    event = threading.Event()
    server = scripted([[OK[:10], Wait(event), OK[10:]]])
    with dial(server) as sock:
        sock.sendall(GET)
        assert exactly(sock, 10) == OK[:10]
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(10)
        event.set()
        assert exactly(sock, len(OK) - 10) == OK[10:]


def test_an_event_that_is_not_set_is_an_error() -> None:
    server = ScriptedServer([[Wait(threading.Event(), timeout=0.01), ok()]])
    exchange(server)
    server.wait_closed()
    with pytest.raises(TimeoutError):
        server.close()


def test_generators_hold_between_actions(scripted: Start) -> None:
    sent = []

    def handler(request: Request) -> Iterator[bytes]:
        for start in range(0, len(OK), 5):
            sent.append(start)
            yield OK[start : start + 5]

    server = scripted(handler)
    with dial(server) as sock:
        sock.sendall(GET)
        assert exactly(sock, len(OK)) == OK
    assert sent == list(range(0, len(OK), 5))


def test_stall_until_the_client_closes(scripted: Start) -> None:
    server = scripted([[OK[:7], Stall()], Stall()])
    with dial(server) as first, dial(server) as second:
        first.sendall(GET)
        assert exactly(first, 7) == OK[:7]
        server.wait_requests(1)
        second.sendall(GET)
        server.wait_requests(2)
        assert server.waiting == 1
        first.close()
        server.wait_for(lambda: not server.connections[0].open)
        assert server.connections[1].open
    server.wait_closed()
    assert {connection.ending for connection in server.connections} == {"peer"}
    assert server.waiting == 0


def test_half_close(scripted: Start) -> None:
    server = scripted([[OK, HalfClose()]])
    with dial(server) as sock:
        sock.sendall(GET)
        assert drain(sock) == (OK, "fin")
        assert server.connections[0].open
    server.wait_closed()


# Connections


def test_a_client_that_resets_is_told_from_one_that_closes(scripted: Start) -> None:
    server = scripted(lambda request: Stall())
    for linger in (False, True):
        with dial(server) as sock:
            sock.sendall(GET)
            server.wait_requests(1 + linger)
            if linger:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.wait_closed()
    assert [connection.ending for connection in server.connections] == ["peer", "peer reset"]


def test_accept_and_reset(scripted: Start) -> None:
    server = scripted(
        [ok(b"body")], on_accept=lambda connection: Reset() if connection.number == 0 else None
    )
    # The reset may come while connecting.
    with pytest.raises(ConnectionResetError), dial(server) as sock:
        sock.recv(1)
    with dial(server) as sock:
        sock.sendall(GET)
        assert exactly(sock, len(OK)) == OK


@pytest.mark.parametrize("announced", [True, False])
def test_one_request_a_connection(scripted: Start, announced: bool) -> None:
    server = (
        scripted(lambda request: ok(b"body"), keepalive_requests=1)
        if announced
        else scripted(lambda request: [ok(b"body"), Fin()])
    )
    for _ in range(2):
        received, end = exchange(server)
        assert (b"Connection: close" in received) is announced
        assert received.endswith(b"\r\n\r\nbody")
        assert end == "fin"
    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize("field", [b"Connection: close", b"connection: Close, x"])
def test_a_client_may_ask_to_close(scripted: Start, field: bytes) -> None:
    server = scripted([ok(b"body")])
    assert exchange(server, GET[:-2] + field + b"\r\n\r\n") == (OK, "fin")


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_close_idle_connections(scripted: Start, reset: bool, used: bool) -> None:
    server = scripted(lambda request: ok(b"body"))
    with dial(server) as first, dial(server) as second:
        if used:
            for sock in (first, second):
                sock.sendall(GET)
                assert exactly(sock, len(OK)) == OK
        else:
            server.wait_for(lambda: len(server.connections) == 2)
        assert server.close_idle(reset=reset) == 2
        end = "reset" if reset else "fin"
        assert drain(first) == (b"", end)
        assert drain(second) == (b"", end)
    assert {connection.ending for connection in server.connections} == {end}


def test_close_idle_leaves_busy_connections(scripted: Start) -> None:
    event = threading.Event()
    server = scripted([ok(b"body"), [Wait(event), ok(b"body")]])
    with dial(server) as idle, dial(server) as busy:
        idle.sendall(GET)
        assert exactly(idle, len(OK)) == OK
        busy.sendall(GET)
        server.wait_requests(2)
        assert server.close_idle(at_least=1) == 1
        assert drain(idle) == (b"", "fin")
        event.set()
        assert exactly(busy, len(OK)) == OK


def test_refuse_and_listen_again(scripted: Start) -> None:
    server = scripted(lambda request: ok(b"body"), listening=False)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address, timeout=10)
        server.listen()
        with dial(server) as sock:
            sock.sendall(GET)
            assert exactly(sock, len(OK)) == OK
            server.refuse()
            sock.sendall(GET)
            assert exactly(sock, len(OK)) == OK


def test_blackhole() -> None:
    with blackhole() as address, pytest.raises(TimeoutError):
        socket.create_connection(address, timeout=0.05)


def test_waiting_requests_are_counted(scripted: Start) -> None:
    event = threading.Event()
    server = scripted(lambda request: [Wait(event), ok(b"body")])
    with dial(server) as first, dial(server) as second:
        for sock in (first, second):
            sock.sendall(GET)
        server.wait_for(lambda: server.waiting == 2)
        event.set()
        for sock in (first, second):
            assert exactly(sock, len(OK)) == OK
    assert (server.waiting, server.peak_waiting) == (0, 2)


def test_closing_ends_whatever_is_under_way() -> None:
    before = open_descriptors()
    event = threading.Event()
    steps = [[Wait(event), ok()], Stall(), ok(bytes(64 << 20)), ok(b"body")]
    with ScriptedServer(steps) as server:
        clients = [socket.create_connection(server.address) for _ in range(5)]
        for client in clients[:4]:
            client.sendall(GET)
        server.wait_requests(4)
    assert not server_threads()
    for client in clients:
        client.close()
    assert {connection.ending for connection in server.connections} == {"server"}
    wait_until(lambda: open_descriptors().items() <= before.items())
    server.close()


def test_many_connections_at_once(scripted: Start) -> None:
    server = scripted(ranged({"key": b"body"}))
    with urllib3.PoolManager(maxsize=32, block=True) as pool:

        def read() -> None:
            for _ in range(20):
                assert pool.request("GET", f"{server.url}/key", retries=False).data == b"body"

        threads = [threading.Thread(target=read) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.requests) == 640
    assert sorted(request.index for request in server.requests) == list(range(640))
    assert len(server.connections) <= 32
