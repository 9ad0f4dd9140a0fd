"""Connections that ended while they were idle use up no attempt, however many of them there are."""

from __future__ import annotations

from typing import Any

import pytest
import urllib3
from promises import at_once, failure
from servers.connection import can_vanish
from servers.ranged import Ranged
from servers.scripted import Fin, Reply, Request, Reset, ScriptedServer, ok, status

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import DIRECT, GET_MANY, SHARDED_ANEW, Face, nothing_left, outcome, reading, warmed

from zfast import Client
from zfast.errors import AccessError, ConnectionFailedError

FACES = [GET_MANY, DIRECT, SHARDED_ANEW]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warmed()


@pytest.mark.parametrize("face", FACES, ids=str)
def test_closed_after_each_reply_without_a_word(face: Face) -> None:
    serve = Ranged(dict(face.objects))

    def closing(request: Request) -> Reply:
        return serve(request).then(Fin())

    with nothing_left(), ScriptedServer(closing) as server:
        # The next request may meet the end of its connection, again and again.
        with reading(face, server.url, retries=0) as read:
            for _ in range(20):
                assert outcome(read) is None


def test_an_attempt_on_one_that_had_ended_is_none() -> None:
    with nothing_left(), ScriptedServer([ok(b"body"), Reset(), status(403)]) as server:
        with Client(server.url, deadline=20) as client:
            assert client.get("key") == b"body"
            assert failure(AccessError, client.get, "key").attempts == 1


def test_a_request_that_ends_every_connection_is_not_sent_for_ever() -> None:
    """Even where others bring more of them all the time."""
    most = 20
    others: list[Any] = [(str(number), None) for number in range(8)]

    def handle(request: Request) -> Any:
        if request.key != "key" or server.keys().count("key") > most:
            return ok(b"body")
        client.get_many(others)
        return Reset()

    with nothing_left(), ScriptedServer(handle) as server:
        with Client(server.url, retries=0, deadline=20) as client:
            client.get_many(others)
            failure(ConnectionFailedError, client.get, "key")
            assert 1 < server.keys().count("key") < most


@pytest.mark.skipif(not can_vanish(), reason="connections end with a word, unless root asks Linux")
@pytest.mark.parametrize("retries", [0, 2])
def test_gone_while_idle_without_a_word(retries: int) -> None:
    # As behind a balancer or a firewall that forgot them: each is found out by its next request.
    bodies: dict[str, bytes] = {f"{number}": b"%d" % number for number in range(32)}
    items: list[Any] = [(key, None) for key in bodies]
    with nothing_left(), ScriptedServer(Ranged(bodies)) as server:
        with urllib3.PoolManager(maxsize=32) as manager:
            options: dict[str, Any] = {"pool_manager": manager, "retries": at_once(retries)}
            with Client(server.url, deadline=20, **options) as client:
                for _ in range(20):
                    assert client.get_many(items) == list(bodies.values())
                    assert server.vanish_idle() > 0
                # One alone, with as many connections to choose from.
                assert client.get("1") == b"1"
