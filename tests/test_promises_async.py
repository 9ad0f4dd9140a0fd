"""The async face keeps the same promises, for it runs the very same steps."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import numpy as np
import pytest
from promises import OBJECT, Scripted, at_once, client_of, sent_ranges
from servers.scripted import Reply, Request, Reset, Stall, ok, overlay, ranged, redirect, status

from zfast import Client
from zfast.errors import (
    AccessError,
    ConnectionFailedError,
    DeadlineError,
    MissingKeyError,
    NotWritableError,
    ResponseError,
    ZfastError,
)


async def failure(kind: type[ZfastError], reading: Any) -> ZfastError:
    """The error that awaiting raises; its class is exactly `kind`."""
    with pytest.raises(ZfastError) as caught:
        await reading
    assert type(caught.value) is kind
    return caught.value


def test_every_method_has_a_twin() -> None:
    # What the sync method takes the async one takes, by the same names and defaults.
    methods = ["get", "get_ranges", "get_many", "read_into", "head", "put", "delete"]
    for name in [*methods, "list", "list_dir"]:
        sync, twin = getattr(Client, name), getattr(Client, f"{name}_async")
        assert list(inspect.signature(sync).parameters.values()) == list(
            inspect.signature(twin).parameters.values()
        )


async def test_reads(scripted: Scripted) -> None:
    server = scripted(ranged({"key": OBJECT}))
    client = client_of(server)
    assert await client.get_async("key") == OBJECT
    assert await client.get_async("key", (5, 9)) == OBJECT[5:9]
    assert await client.get_async("missing") is None
    assert await client.get_ranges_async("key", [(0, 2), (-4, None)]) == [OBJECT[:2], OBJECT[-4:]]
    assert await client.get_many_async([("key", (1, 2)), ("missing", None)]) == [b"\1", None]
    into = np.zeros(2, "<M8[s]")
    assert await client.read_into_async("key", (0, 16), into) == 16
    assert into.tobytes() == OBJECT[:16]
    info = await client.head_async("key")
    assert info == client.head("key")
    assert await client.head_async("missing") is None


async def test_writes(scripted: Scripted) -> None:
    objects: dict[str, bytes] = {}
    client = client_of(scripted(ranged(objects)))
    assert await client.put_async("key", bytes(3_000_000)) is True
    assert await client.put_async("key", b"other", if_absent=True) is False
    assert objects == {"key": bytes(3_000_000)}
    await client.delete_async("key")
    await client.delete_async("key")
    assert objects == {}
    client = client_of(scripted([status(405)]))
    await failure(NotWritableError, client.put_async("key", b""))


async def test_retried_resumed_redirected(scripted: Scripted) -> None:
    faults: list[Any] = [
        status(503),
        redirect("/there"),
        lambda _, reply: reply.cut_body(4, Reset()),
        Reset(),
    ]
    server = scripted(overlay(ranged({"key": OBJECT, "there": OBJECT}), faults))
    client = client_of(server)
    assert await client.get_async("key", (5, 17)) == OBJECT[5:17]
    assert server.keys() == ["key", "key", "there", "there", "there"]
    assert sent_ranges(server) == ["bytes=5-16"] * 3 + ["bytes=9-16"] * 2


async def test_ignored_ranges_are_remembered(scripted: Scripted) -> None:
    server = scripted(lambda _: ok(OBJECT))
    client = client_of(server)
    assert await client.get_async("key", (5, 9)) == OBJECT[5:9]
    assert await client.get_ranges_async("key", [(0, 2), (5, 9)]) == [OBJECT[:2], OBJECT[5:9]]
    assert sent_ranges(server) == ["bytes=5-8", "bytes=0-8"]


async def test_errors(scripted: Scripted) -> None:
    replies: dict[str, Any] = {
        "access": status(403),
        "range": Reply(206, b"x"),
        "reset": Reset(),
        "missing": status(404),
    }

    def handle(request: Request) -> Any:
        return replies.get(request.key, ok(OBJECT))

    client = client_of(scripted(handle), retries=at_once(1))
    error = await failure(AccessError, client.get_async("access", (3, 7)))
    assert (error.key, error.byte_range, error.status, error.attempts) == (
        "access",
        (3, 7),
        403,
        1,
    )
    assert (await failure(ConnectionFailedError, client.get_async("reset"))).attempts == 2
    await failure(MissingKeyError, client.read_into_async("missing", None, bytearray(1)))
    await failure(ResponseError, client.get_ranges_async("range", [(0, 1), (2, 3)]))
    items = [(key, None) for key in ("access", "key", "reset", "missing", "range")]
    outcomes = await client.get_many_async(items, on_error="return")
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "AccessError",
        "Body",
        "ConnectionFailedError",
        "NoneType",
        "ResponseError",
    ]


async def test_the_deadline_and_the_loop(scripted: Scripted) -> None:
    # While one read stalls, the loop and the other reads go on.
    def handle(request: Request) -> Any:
        return Stall() if request.key == "stall" else ok(OBJECT)

    client = client_of(scripted(handle), deadline=0.3)
    began = time.monotonic()
    stalled = asyncio.ensure_future(client.get_async("stall"))
    for _ in range(20):
        assert await client.get_async("key") == OBJECT
    assert not stalled.done()
    await failure(DeadlineError, stalled)
    assert 0.3 <= time.monotonic() - began < 3
