"""Hosts that want more connections than there are share them, and none waits for another's end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers.script import in_child
from servers.scripted import Request, ScriptedServer, Stall, ok, ranged

import zfast

Start = Callable[..., ScriptedServer]


def slow(seconds: float) -> Callable[[Request], object]:
    def handle(_: Request) -> object:
        time.sleep(seconds)
        return ok(b"value")

    return handle


def reading(url: str, count: int) -> threading.Thread:
    keys = [(str(number), None) for number in range(count)]
    thread = threading.Thread(target=lambda: zfast.Client(url).get_many(keys))
    thread.start()
    return thread


def beside(limit: int, many: str, few: str, count: int) -> dict[str, bool | int]:
    """Read a few of one host while another's batch has all connections, in a new process."""

    def work() -> dict[str, bool | int]:
        with zfast.config.set(max_concurrency=limit):
            batch = reading(many, 100 * limit)
            while zfast.stats()["in_flight"] < limit:
                time.sleep(0.001)
            time.sleep(0.1)
            bodies = zfast.Client(few).get_many([(str(number), None) for number in range(count)])
            assert bodies == [b"value"] * count
            goes_on = batch.is_alive()
            batch.join()
            return {"goes on": goes_on, "opened": zfast.stats()["connections_opened"]}

    found: dict[str, bool | int] = in_child(work)
    return found


@pytest.mark.parametrize("byte_range", [None, (-10, None), (1 << 40, (1 << 40) + 10)])
def test_a_body_of_tiny_chunks_holds_up_nobody(byte_range: Any) -> None:
    """They come faster than they are parsed, so that the socket always has more."""
    ended = threading.Event()

    def pour(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        until = time.monotonic() + 20
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while time.monotonic() < until:
                connection.sendall(b"1\r\nx\r\n" * 200_000)
            ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        poured = thread.submit(pour, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(zfast.errors.DeadlineError):
            zfast.Client(url, deadline=0.5, retries=0).get("endless", byte_range)
        poured.result()
    # Not by the body's end.
    assert not ended.is_set()


def test_one_read_beside_a_batch_that_has_the_only_connection(scripted: Start) -> None:
    many, few = scripted(slow(0.01)), scripted(slow(0.01))
    assert beside(1, many.url, few.url, 1)["goes on"]
    assert len(few.requests) == 1


def test_a_batch_beside_a_batch_gets_its_share(scripted: Start) -> None:
    """Not its first connection alone; the other keeps its own share."""
    many, few = scripted(slow(0.01)), scripted(slow(0.01))
    assert beside(8, many.url, few.url, 160)["goes on"]
    assert 3 <= len(few.connections) <= 8
    # It stays so: connections are not taken back and forth.
    assert len(many.connections) < 40


@pytest.mark.parametrize("count", [1, 14])
def test_origins_that_answer_nobody_keep_no_others_waiting(scripted: Start, count: int) -> None:
    """Neither by the requests that may be out, nor by the connections that there may be."""
    hung = [scripted(lambda _: Stall()) for _ in range(count)]
    good, other = scripted(ranged({"key": b"value"})), scripted(ranged({"key": b"value"}))

    def work() -> dict[str, Any]:
        with zfast.config.set(max_concurrency=16):
            for server in hung:
                threading.Thread(
                    target=zfast.Client(server.url, timeout=120).get_many,
                    args=([(str(number), None) for number in range(40)],),
                    daemon=True,
                ).start()
            while zfast.stats()["in_flight"] < 16:
                time.sleep(0.001)
            began = time.monotonic()
            found = [
                bytes(body)
                for server in (good, other)
                for body in zfast.Client(server.url).get_many([("key", None)] * 100)
            ]
            return {"found": len(found), "seconds": time.monotonic() - began, **zfast.stats()}

    did = in_child(work)
    assert did["found"] == 200
    # Far from any of the limits on time; and not one request after another, where one origin hangs.
    assert did["seconds"] < 20
    assert count > 1 or len(good.connections) > 1
    assert did["in_flight"] <= 16 + 4 + count


def test_a_slow_origin_hands_connections_on_after_each_answer(scripted: Start) -> None:
    """Not after sixteen of them."""
    slow_one, quick = scripted(slow(0.4)), scripted(slow(0))

    def work() -> float:
        with zfast.config.set(max_concurrency=4):
            reading(slow_one.url, 400)
            while zfast.stats()["in_flight"] < 4:
                time.sleep(0.001)
            zfast.Client(quick.url).get("key")
            return float(zfast.stats()["reads"])

    # What the slow one had answered until then.
    assert in_child(work) < 4 * 8
