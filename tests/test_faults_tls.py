"""What breaks a TLS session under a reader, natively and by way of Python's ssl alike."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import trustme
import urllib3
from promises import at_once
from servers.ranged import Ranged
from servers.scripted import (
    BelowTLS,
    Fin,
    KeyUpdate,
    Renegotiate,
    Reply,
    Reset,
    ScriptedServer,
    Stall,
)

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import (
    COMPRESSED,
    DIRECT,
    GET,
    GET_MANY,
    SHARDED_ANEW,
    STREAMED,
    Face,
    Row,
    faced,
    lasting,
    nothing_left,
    once,
    outcome,
    reading,
    short_timeouts,
    warmed,
)
from few_chunks import opened

import zfast
from zfast import FastStore
from zfast.errors import ConnectionFailedError, DeadlineError

pytestmark = pytest.mark.usefixtures("_warm", "tls_path")

FACES = [GET, GET_MANY, DIRECT, STREAMED, COMPRESSED, SHARDED_ANEW]
FAILED = (ConnectionFailedError,)


@pytest.fixture(scope="module")
def _warm(tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    warmed()
    # And the thread through which Python's ssl reads.
    with zfast.config.set(tls="python"), ScriptedServer(Ranged(GET.objects), tls=tls_context) as at:
        with urllib3.PoolManager(ca_certs=tls_ca_file) as manager:
            with reading(GET, at.url, pool_manager=manager) as read:
                read()


def _in_the_middle(*actions: Any) -> Any:
    """A fault: half of the reply, and then this."""

    def fault(_: Any, reply: Reply) -> list[Any]:
        wire = reply.wire()
        return [wire[: len(wire) - len(reply.body) // 2], *actions]

    return fault


def _with_the_rest(*actions: Any) -> Any:
    """A fault: this in the middle of a reply that is whole."""

    def fault(_: Any, reply: Reply) -> list[Any]:
        wire = reply.wire()
        half = len(wire) - len(reply.body) // 2
        return [wire[:half], *actions, wire[half:]]

    return fault


ALERT, WARNING = b"\x15\x03\x03\x00\x02\x02\x50", b"\x15\x03\x03\x00\x02\x01\x5a"
RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)

ROWS = [
    Row("fatal alert that is not encrypted", _in_the_middle(BelowTLS(ALERT), Stall()), FAILED),
    Row("warning that is not encrypted", _in_the_middle(BelowTLS(WARNING), Stall()), FAILED),
    Row("record that does not decrypt", _in_the_middle(BelowTLS(RECORD), Stall()), FAILED),
    Row("record too large", _in_the_middle(BelowTLS(b"\x17\x03\x03\xff\xff"), Stall()), FAILED),
    Row("record of no kind", _in_the_middle(BelowTLS(b"\x7f" + RECORD[1:]), Stall()), FAILED),
    Row("half a record, then fin", _in_the_middle(BelowTLS(RECORD[:20]), Fin(False)), FAILED),
    Row("plain text", _in_the_middle(BelowTLS(b"HTTP/1.1 400 Bad\r\n\r\n"), Stall()), FAILED),
    Row("fin alone", _in_the_middle(Fin(notify=False)), FAILED),
    Row("close_notify", _in_the_middle(Fin()), FAILED),
    Row("reset", _in_the_middle(Reset()), FAILED),
    Row("close_notify before the head", lambda *_: Fin(), FAILED),
    Row("reset before the head", lambda *_: Reset(), FAILED),
    Row("until an end without close_notify", lambda _, r: r.until_eof().then(Fin(False)), FAILED),
    Row("until close_notify", lambda _, reply: reply.until_eof()),
    Row("keys that change", _with_the_rest(KeyUpdate())),
    Row("whole, then fin alone", lambda _, reply: reply.then(Fin(notify=False))),
    Row(
        "whole, then a bad record",
        lambda _, reply: [reply, BelowTLS(RECORD), Stall()],
        FAILED,
        may_pass=True,
    ),
]
HALF_A_RECORD = Row(
    "half a record", _in_the_middle(BelowTLS(RECORD[:20]), Stall()), (DeadlineError,)
)


@pytest.fixture
def served(tls_context: ssl.SSLContext, tls_ca_file: str) -> dict[str, Any]:
    """The options of a session that is accepted."""
    return {"tls": tls_context, "pool_manager": urllib3.PoolManager(ca_certs=tls_ca_file)}


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_sessions_that_break(row: Row, face: Face, served: dict[str, Any]) -> None:
    once(row, face, **served)
    # The next request may meet the end of its connection.
    lasting(row, face, **served, **({} if row.error else {"retries": at_once(50)}))


@pytest.mark.parametrize("face", FACES, ids=str)
def test_half_a_record(face: Face, served: dict[str, Any]) -> None:
    with short_timeouts(0.2) as options:
        once(HALF_A_RECORD, face, retries=at_once(50), **served, **options)


@pytest.mark.parametrize("face", [GET, SHARDED_ANEW], ids=str)
def test_half_a_record_for_good(face: Face, served: dict[str, Any]) -> None:
    with short_timeouts(0.4) as options:
        lasting(HALF_A_RECORD, face, **served, **options)


def test_many_handshakes_one_after_another(tls_ca: trustme.CA, tls_ca_file: str) -> None:
    """One may end while something is received, and what is to be sent has to learn of it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_ca.issue_cert("127.0.0.1").configure_cert(server)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    asked = Row("", _with_the_rest(Renegotiate()), FAILED, may_pass=True)
    manager = urllib3.PoolManager(ca_certs=tls_ca_file)
    with faced(asked, GET, tls=server, pool_manager=manager, deadline=3) as (faulty, read):
        for _ in range(1000):
            faulty.arm(1)
            read()


@pytest.mark.parametrize("refuses", [False, True], ids=["taken up", "refused"])
@pytest.mark.parametrize("face", FACES, ids=str)
def test_another_handshake_in_mid_body(
    face: Face, refuses: bool, tls_ca: trustme.CA, tls_ca_file: str
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_ca.issue_cert("127.0.0.1").configure_cert(server)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    client = ssl.create_default_context(cafile=tls_ca_file)
    if refuses:
        client.options |= ssl.OP_NO_RENEGOTIATION
    asked = Row("", _with_the_rest(Renegotiate()), FAILED, may_pass=True)
    options = {"tls": server, "pool_manager": urllib3.PoolManager(ssl_context=client)}
    once(asked, face, **options)
    lasting(asked, face, **options)


@pytest.mark.parametrize("reset", [False, True], ids=["close_notify", "reset"])
@pytest.mark.parametrize("face", FACES, ids=str)
def test_closed_while_idle_again_and_again(face: Face, reset: bool, served: dict[str, Any]) -> None:
    with (
        nothing_left(),
        ScriptedServer(Ranged(dict(face.objects)), tls=served["tls"]) as server,
        reading(face, server.url, retries=at_once(99), pool_manager=served["pool_manager"]) as read,
    ):
        for _ in range(6):
            assert outcome(read) is None
            assert server.close_idle(reset=reset) > 0


def test_a_handshake_that_stalls(tls_ca_file: str) -> None:
    with nothing_left(), socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        for options, words in (
            ({"timeout": urllib3.Timeout(connect=0.2, read=20)}, "connect_timeout"),
            ({"deadline": 0.2}, "deadline"),
        ):
            with urllib3.PoolManager(ca_certs=tls_ca_file) as manager:
                with FastStore(url, retries=0, pool_manager=manager, **options) as store:
                    error = outcome(lambda store=store: opened(store), 0.2)
                    assert type(error) is DeadlineError
                    assert words in str(error)
