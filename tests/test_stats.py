"""Counters are exact, of a client and of the process; what is set and native can be seen."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import urllib3
import zarr
from servers.script import in_child, run
from servers.scripted import (
    Action,
    Fin,
    Request,
    Reset,
    ScriptedServer,
    Stall,
    Wait,
    ok,
    ranged,
    redirect,
    status,
)

import zfast
from zfast import Client
from zfast._core import codecs
from zfast.config import SETTINGS

Start = Callable[..., ScriptedServer]

OBJECTS = {f"key-{i}": bytes(100 + i) for i in range(20)}
AT_ONCE = urllib3.Retry(5, backoff_factor=0, status_forcelist=[503])

COUNTS = (
    "batches",
    "requests",
    "reads",
    "missing",
    "failed",
    "cancelled",
    "bytes_received",
    "bytes_sent",
    "retries",
    "stale_retries",
    "redirects",
    "resumed",
    "in_flight",
)


def counted(client: Client) -> dict[str, int]:
    """The counters of a client that are not zero."""
    numbers = client.stats()
    assert set(COUNTS) <= set(numbers)
    return {name: numbers[name] for name in COUNTS if numbers[name]}


def timed(client: Client) -> tuple[int, int]:
    """How many times the histograms have: to the first byte, and of whole transfers."""
    return sum(client.stats()["first_byte"]), sum(client.stats()["transfer"])


# -------------------------------------------------------------------------------------- of a client


def test_nothing_yet(scripted: Start) -> None:
    client = Client(scripted([]).url)
    assert counted(client) == {}
    assert timed(client) == (0, 0)


def test_reads(scripted: Start) -> None:
    client = Client(scripted(ranged(OBJECTS)).url)
    client.get("key-0")
    assert counted(client) == {"batches": 1, "requests": 1, "reads": 1, "bytes_received": 100}
    client.get_many([(key, (10, 60)) for key in OBJECTS])
    client.get_ranges("key-5", [(0, 5), (-5, None), None])
    client.read_into("key-1", (0, 7), bytearray(7))
    asyncio.run(client.get_async("key-2"))
    assert counted(client) == {
        "batches": 5,
        "requests": 26,
        "reads": 26,
        "bytes_received": 100 + 20 * 50 + 5 + 5 + 105 + 7 + 102,
    }
    assert timed(client) == (26, 26)


def test_missing_and_failed(scripted: Start) -> None:
    handler = ranged(OBJECTS)
    server = scripted(lambda r: status(403) if r.key.startswith("secret") else handler(r))
    client = Client(server.url)
    client.get_many(
        [("missing-1", None), ("key-0", None), ("secret-1", None), ("missing-2", None)], "return"
    )
    assert counted(client) == {
        "batches": 1,
        "requests": 4,
        "reads": 4,
        "missing": 2,
        "failed": 1,
        "bytes_received": 100,
    }
    # Each was answered, one was transferred.
    assert timed(client) == (4, 1)


def test_writes(scripted: Start) -> None:
    client = Client(scripted(ranged(dict(OBJECTS))).url)
    client.put("new", bytes(1234))
    client.head("new")
    client.delete("new")
    assert counted(client) == {"batches": 3, "requests": 3, "reads": 3, "bytes_sent": 1234}


def test_retries(scripted: Start) -> None:
    # Not on one connection: a reset at the second request of one would be free.
    server = scripted([status(503).closing(), Reset(), ok(b"body")])
    client = Client(server.url, retries=AT_ONCE)
    assert client.get("key") == b"body"
    assert counted(client) == {
        "batches": 1,
        "requests": 3,
        "reads": 1,
        "retries": 2,
        "bytes_received": 4,
    }
    # The one that was reset has none.
    assert timed(client) == (2, 1)


def test_attempts_that_were_in_vain(scripted: Start) -> None:
    server = scripted(lambda request: status(503))
    client = Client(server.url, retries=AT_ONCE)
    with pytest.raises(zfast.ResponseError) as raised:
        client.get("key")
    assert raised.value.attempts == len(server.requests) == 6
    assert counted(client) == {
        "batches": 1,
        "requests": 6,
        "reads": 1,
        "retries": 5,
        "failed": 1,
    }


def test_a_connection_that_was_never_opened_is_no_request(scripted: Start) -> None:
    client = Client(scripted([], listening=False).url, retries=urllib3.Retry(2, backoff_factor=0))
    with pytest.raises(zfast.ConnectionFailedError):
        client.get("key")
    assert counted(client) == {"batches": 1, "reads": 1, "retries": 2, "failed": 1}


def test_stale_connections_are_free_retries(scripted: Start) -> None:
    first = threading.Event()

    def answer(request: Request) -> Iterable[Action]:
        # The second request of a connection finds it closing.
        if request.number == 1 and not first.is_set():
            first.set()
            return [Reset()]
        return [ok(b"body")]

    server = scripted(answer)
    client = Client(server.url, retries=0)
    assert [client.get("key") for _ in range(3)] == [b"body"] * 3
    assert counted(client) == {
        "batches": 3,
        "requests": 4,
        "reads": 3,
        "stale_retries": 1,
        "bytes_received": 12,
    }


def test_a_connection_found_closed_takes_no_count_back(scripted: Start) -> None:
    server = scripted(lambda request: ok(b"body").then(Fin()), strict=False)
    client = Client(server.url, retries=0)
    seen = [client.stats()]

    def look() -> None:
        while not done.is_set():
            seen.append(client.stats())

    done = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(20):
        assert client.get("key") == b"body"
        # It ends a little later, and not one of the next was sent over it.
        time.sleep(0.01)
    done.set()
    looking.join()
    numbers = client.stats()
    assert numbers["requests"] == 20 + numbers["stale_retries"]
    for before, after in itertools.pairwise([*seen, numbers]):
        assert all(before[name] <= after[name] for name in COUNTS if name != "in_flight")


def test_a_resumed_body_counts_once(scripted: Start) -> None:
    handler = ranged({"key": bytes(100_000)})
    server = scripted(
        lambda r: handler(r).cut_body(60_000, Reset()) if r.index == 0 else handler(r)
    )
    client = Client(server.url, retries=AT_ONCE)
    assert client.get("key") == bytes(100_000)
    assert server.requests[1].range == "bytes=60000-"
    assert counted(client) == {
        "batches": 1,
        "requests": 2,
        "reads": 1,
        "retries": 1,
        "resumed": 1,
        "bytes_received": 100_000,
    }


def test_redirects(scripted: Start) -> None:
    there = scripted([ok(b"there")])
    server = scripted([redirect("/second"), redirect(f"{there.url}/third")])
    client = Client(server.url)
    assert client.get("first") == b"there"
    assert counted(client) == {
        "batches": 1,
        "requests": 3,
        "reads": 1,
        "redirects": 2,
        "bytes_received": 5,
    }


def test_cancelled_reads_are_neither_failed_nor_missing(scripted: Start) -> None:
    server = scripted(lambda request: Stall())
    client = Client(server.url, max_concurrency=2)

    async def cancel() -> None:
        reading = asyncio.ensure_future(client.get_many_async([("key", None)] * 10))
        await asyncio.to_thread(server.wait_requests, 2)
        assert client.stats()["in_flight"] == 2
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(cancel())
    assert counted(client) == {"batches": 1, "requests": 2, "reads": 10, "cancelled": 10}
    assert timed(client) == (0, 0)


def test_in_flight(scripted: Start) -> None:
    gate = threading.Event()
    server = scripted(lambda request: [Wait(gate), ok(b"body")])
    client, other = Client(server.url), Client(server.url)
    reader = threading.Thread(target=client.get_many, args=([("key", None)] * 7,))
    reader.start()
    server.wait_requests(7)
    assert client.stats()["in_flight"] == 7
    assert zfast.stats()["in_flight"] == 7
    assert counted(other) == {}
    gate.set()
    reader.join()
    assert client.stats()["in_flight"] == zfast.stats()["in_flight"] == 0


def test_the_same_numbers_before_the_first_read(scripted: Start) -> None:
    def read() -> tuple[dict[str, Any], dict[str, Any]]:
        before = zfast.stats()
        assert zfast.Client(server.url).get("key") == b"value"
        return before, zfast.stats()

    server = scripted(ranged({"key": b"value"}))
    before, after = in_child(read)
    assert before.keys() == after.keys()
    assert before["connections"] == before["max_in_flight"] == 0 < after["max_in_flight"]


def test_a_histogram_tells_slow_from_fast(scripted: Start) -> None:
    gate = threading.Event()
    server = scripted(lambda request: [Wait(gate), ok(b"body")])
    client = Client(server.url)
    reader = threading.Thread(target=client.get, args=("key",))
    reader.start()
    server.wait_requests(1)
    assert not gate.wait(0.05)
    gate.set()
    reader.join()
    # Element b counts times below 2**b µs that no earlier element counts.
    (bucket,) = [b for b, count in enumerate(client.stats()["first_byte"]) if count]
    assert 2**bucket > 50_000
    (whole,) = [b for b, count in enumerate(client.stats()["transfer"]) if count]
    assert whole >= bucket


def test_a_counter_is_the_callers_own(scripted: Start) -> None:
    client = Client(scripted(ranged(OBJECTS)).url)
    numbers = client.stats()
    numbers["reads"] = 1000
    numbers["first_byte"][0] = 1000
    assert counted(client) == {}
    assert timed(client) == (0, 0)


# ----------------------------------------------------------------------------------- of the process


def difference(before: dict[str, Any]) -> dict[str, int]:
    after = zfast.stats()
    return {name: after[name] - before[name] for name in COUNTS if after[name] != before[name]}


def test_the_process_has_the_sum_of_all_clients(scripted: Start) -> None:
    server = scripted(ranged(OBJECTS))
    Client(server.url).get("key-0")
    before = zfast.stats()
    clients = [Client(server.url) for _ in range(3)]
    for client in clients:
        client.get_many([(key, None) for key in OBJECTS])
    zfast.cat_ranges([f"{server.url}/key-0"] * 4)
    read = 3 * sum(map(len, OBJECTS.values())) + 400
    expected = {"batches": 4, "requests": 64, "reads": 64, "bytes_received": read}
    assert difference(before) == expected
    # Also when the clients are gone.
    del client, clients
    gc.collect()
    assert difference(before) == expected


def test_connections_opened_reused_and_closed(scripted: Start) -> None:
    server = scripted(ranged(OBJECTS))

    def read() -> None:
        def connections() -> tuple[int, ...]:
            numbers = zfast.stats()
            kinds = ("", "_opened", "_pooled", "_closed")
            of_connections = tuple(numbers[f"connections{kind}"] for kind in kinds)
            return *of_connections, numbers["requests_on_used_connections"]

        manager = urllib3.PoolManager(maxsize=1, block=True)
        client = Client(server.url, pool_manager=manager)
        client.get("key-0")
        client.get("key-1")
        assert connections() == (1, 1, 0, 0, 1)
        client.close()
        manager.request("GET", f"{server.url}/key-2", timeout=10)
        client = Client(server.url, pool_manager=manager)
        client.get("key-3")
        assert connections() == (1, 1, 1, 0, 2)
        with pytest.raises(zfast.DeadlineError):
            Client(server.url, pool_manager=manager, deadline=0.05).get("stall")
        # The pool has room for one, and that was ended.
        client.get("key-4")
        assert connections() == (1, 2, 1, 1, 3)
        assert zfast.stats()["dialling"] == zfast.stats()["delayed"] == 0
        assert zfast.stats()["max_in_flight"] == zfast.stats()["max_connections"] == 64

    handler = server._handler
    server._handler = lambda r: Stall() if r.key == "stall" else handler(r)
    in_child(read)


def test_before_the_first_read(tmp_path: Path) -> None:
    source = """
        import zfast

        numbers = zfast.stats()
        assert not any(numbers[name] for name in numbers if isinstance(numbers[name], int))
        assert "not started" in str(zfast.show_config())
        assert zfast.stats() == numbers
    """
    ended = run(tmp_path, source)
    assert (ended.code, ended.err) == (0, "")


# -------------------------------------------------------------------------------------- show_config


def test_every_setting_is_shown(scripted: Start) -> None:
    Client(scripted(ranged(OBJECTS)).url).get("key-0")
    shown = zfast.show_config()
    assert set(shown.settings) == set(SETTINGS)
    # Above the empty line; a part may have a setting's name.
    lines = str(shown).partition("\n\n")[0].splitlines()
    for name, (value, origin) in shown.settings.items():
        (line,) = [line for line in lines if line.split()[0:1] == [name]]
        assert str(value) in line
        assert line.endswith(origin)
    assert repr(shown) == str(shown)


def test_where_a_value_comes_from() -> None:
    assert zfast.show_config().settings["max_attempts"] == (5, "default")
    with zfast.config.set(max_attempts=3):
        assert zfast.show_config().settings["max_attempts"] == (3, "config")
    assert zfast.show_config().settings["max_attempts"] == (5, "default")


def test_what_the_engine_took_is_shown_once_it_runs(scripted: Start, tmp_path: Path) -> None:
    source = """
        import sys
        import zfast

        def shown():
            settings = zfast.show_config().settings
            return [settings[name] for name in ("io_threads", "idle_timeout", "max_head_size")]

        with zfast.config.set(idle_timeout=1):
            assert shown() == [(3, "ZFAST_IO_THREADS"), (1, "config"), (65536, "default")]
            zfast.Client(sys.argv[1]).get("key-0")
        late = "is too late, the engine runs"
        with zfast.config.set(io_threads=1, max_head_size=4096, max_concurrency=5):
            assert shown() == [
                (3, f"ZFAST_IO_THREADS; 1 (config) {late}"),
                (1, f"config; 5.0 (default) {late}"),
                (65536, f"default; 4096 (config) {late}"),
            ]
            # A client that is made now takes it.
            assert zfast.show_config().settings["max_concurrency"] == (5, "config")
        assert shown()[::2] == [(3, "ZFAST_IO_THREADS"), (65536, "default")]
    """
    server = scripted(ranged(OBJECTS))
    ended = run(tmp_path, source, server.url, ZFAST_IO_THREADS="3")
    assert (ended.code, ended.err) == (0, "")


def test_what_is_native(scripted: Start, tls_context: Any, tls_ca_file: str) -> None:
    Client(scripted(ranged(OBJECTS)).url).get("key-0")
    parts = zfast.show_config().parts
    assert parts["engine"].startswith("native, running, ")
    assert parts["http"] == "native"
    config = getattr(zarr, "config", {"codec_pipeline.path": "none"})
    assert parts["codec pipeline"] == config.get("codec_pipeline.path")
    for name, origin in codecs.sources().items():
        assert re.search(rf"\b{name}\b[^;]*: {re.escape(origin)}", parts["codecs"]), name
    assert parts["tls"].startswith("native, OpenSSL ")
    # Said here, and counted: the slow way is not a secret.
    before = zfast.stats()["connections_through_python"]
    for way, counted in (("auto", 0), ("python", 1)):
        with zfast.config.set(tls=way):
            secure = scripted(ranged(OBJECTS), tls=tls_context)
            Client(secure.url, ca_certs=tls_ca_file).get("key-0")
            assert zfast.stats()["connections_through_python"] == before + counted
            assert ("with the GIL: " in zfast.show_config().parts["tls"]) == (way == "python")


def test_an_environment_variable_is_named_as_the_source(tmp_path: Path) -> None:
    source = """
        import zfast

        shown = zfast.show_config()
        assert shown.settings["max_concurrency"] == (7, "ZFAST_MAX_CONCURRENCY"), shown.settings
        assert shown.settings["idle_timeout"] == (0.5, "ZFAST_IDLE_TIMEOUT"), shown.settings
        with zfast.config.set(max_concurrency=9):
            assert zfast.show_config().settings["max_concurrency"] == (9, "config")
    """
    ended = run(tmp_path, source, ZFAST_MAX_CONCURRENCY="7", ZFAST_IDLE_TIMEOUT="0.5")
    assert (ended.code, ended.err) == (0, "")
