"""Connections that ended while they were idle use up no attempt, however many of them there are."""

from __future__ import annotations

from typing import Any

import pytest
import urllib3
from promises import at_once
from servers.connection import can_vanish
from servers.ranged import Ranged
from servers.scripted import Fin, Reply, Request, ScriptedServer

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import DIRECT, GET_MANY, SHARDED_ANEW, Face, nothing_left, outcome, reading, warmed

from zfast import Client

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
