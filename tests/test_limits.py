"""Ceilings: of memory, descriptors, threads, and of requests, none more than one for each read."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.nginx import Nginx
from servers.script import in_child, run
from servers.scripted import Reply, Request, ScriptedServer, blackhole, ok, ranged
from servers.site import Site

import zfast
from zfast import Client

Start = Callable[..., ScriptedServer]

MIB = 1 << 20

PREAMBLE = """
import os, resource, sys, threading
import zfast

client = zfast.Client(sys.argv[1])

def peak():
    # The most memory there was at once. On Linux ru_maxrss begins with that of the parent.
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

def descriptors():
    return len(os.listdir("/dev/fd"))
"""


# ------------------------------------------------------------------------------------------ memory


@pytest.fixture
def large(nginx: Site) -> Site:
    """A key `large` of 200 MiB, with a few bytes that are not zero."""
    path = nginx.root / "large"
    with path.open("wb") as file:
        file.truncate(200 * MIB)
        for place in range(0, 200, 7):
            file.seek(place * MIB)
            file.write(bytes([place + 1]) * 100)
    return nginx


def test_read_into_needs_no_memory_of_its_own(large: Site, tmp_path: Path) -> None:
    source = """
size = 200 << 20
buffer = bytearray(size)
# Every page is there already.
for page in range(0, size, 4096):
    buffer[page] = 1
client.get("large", (0, 1000))
before = peak()
assert client.read_into("large", None, buffer) == size
assert peak() - before < 64 << 20, (before, peak())
for place in range(0, 200, 7):
    assert buffer[place << 20] == place + 1
assert buffer.count(0) == size - 29 * 100
parts = [memoryview(buffer)[start : start + (1 << 20)] for start in range(0, size, 1 << 20)]
threads = [
    threading.Thread(target=lambda i=i: [
        client.read_into("large", (j << 20, (j + 1) << 20), parts[j]) for j in range(i, 200, 8)
    ])
    for i in range(8)
]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert peak() - before < 64 << 20, (before, peak())
"""
    ended = run(tmp_path, PREAMBLE + source, large.url)
    assert (ended.code, ended.err) == (0, "")


def test_a_body_takes_its_own_size_and_goes_with_it(large: Site, tmp_path: Path) -> None:
    source = """
client.get("large", (0, 1000))
before = peak()
body = client.get("large")
assert len(body) == 200 << 20
assert peak() - before < 264 << 20, (before, peak())
once = peak()
# What is read after it has been dropped takes its place.
for _ in range(2):
    del body
    body = client.get("large")
assert peak() - once < 32 << 20, (once, peak())
del body
for _ in range(15):
    assert len(client.get("large", (0, 10 << 20))) == 10 << 20
    assert len(client.get_many([("large", (i << 10, (i + 64) << 10)) for i in range(100)])) == 100
assert peak() - once < 96 << 20, (once, peak())
"""
    ended = run(tmp_path, PREAMBLE + source, large.url)
    assert (ended.code, ended.err) == (0, "")


def test_small_bodies_share_memory(nginx: Site, tmp_path: Path) -> None:
    nginx.write({"key": b"0123456789" * 10})
    source = """
import sysconfig
client.get("key")
before = peak()
bodies = client.get_many([("key", None)] * 20_000)
assert bodies == [b"0123456789" * 10] * 20_000
# With what a batch knows of each of its reads; Python objects are larger where there is no GIL.
most = 3000 if sysconfig.get_config_var("Py_GIL_DISABLED") else 1500
assert peak() - before < 20_000 * most, (before, peak())
"""
    ended = run(tmp_path, PREAMBLE + source, nginx.url)
    assert (ended.code, ended.err) == (0, "")


def test_many_small_reads_leave_nothing(nginx: Site, tmp_path: Path) -> None:
    nginx.write({f"key-{i}": bytes([i]) * 1000 for i in range(100)})
    source = """
import asyncio, gc

def read(count):
    for number in range(count):
        assert client.get(f"key-{number % 100}") == bytes([number % 100]) * 1000
        assert client.get(f"missing-{number % 100}") is None
    for _ in range(count // 100):
        client.get_many([(f"key-{i}", None) for i in range(100)])
        zfast.Client(sys.argv[1], headers={"x-a": "b"}).get("key-0")
        asyncio.run(client.get_async("key-1"))
        zfast.cat_ranges([f"{sys.argv[1]}/key-1"] * 10, 0, 5)

def held():
    gc.collect()
    return descriptors() - zfast.stats()["connections"], threading.active_count()

read(500)
before, then = peak(), held()
read(2500)
assert peak() - before < 4 << 20, (before, peak())
assert held() == then, (then, held())
"""
    ended = run(tmp_path, PREAMBLE + source, nginx.url, ZFAST_IDLE_TIMEOUT="1000")
    assert (ended.code, ended.err) == (0, "")


# ------------------------------------------------------------------------------------- descriptors


def test_ten_thousand_keys_with_64_descriptors(nginx: Site, tmp_path: Path) -> None:
    (nginx.root / "some").mkdir()
    for number in range(10_000):
        (nginx.root / "some" / f"{number}").write_text(str(number))
    source = """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
keys = [f"some/{number}" for number in range(10_000)]
bodies = client.get_many([(key, None) for key in keys])
assert [bytes(body).decode() for body in bodies] == [key[5:] for key in keys]
assert descriptors() < 64
# Some are left for others.
files = [open(os.devnull) for _ in range(20)]
assert zfast.stats()["max_connections"] <= 16, zfast.stats()
assert client.stats()["retries"] == client.stats()["failed"] == 0
"""
    ended = run(tmp_path, PREAMBLE + source, nginx.url)
    assert (ended.code, ended.err) == (0, "")


def test_descriptors_that_run_out_later(nginx: Site, tmp_path: Path) -> None:
    nginx.write({"key": b"body"})
    source = """
client.get("key")
# The engine has reckoned with more.
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 8,) * 2)
assert client.get_many([("key", None)] * 500) == [b"body"] * 500
assert client.stats()["failed"] == 0
"""
    ended = run(tmp_path, PREAMBLE + source, nginx.url)
    assert (ended.code, ended.err) == (0, "")


def test_descriptors_that_are_there_again_are_used_again(scripted: Start, tmp_path: Path) -> None:
    def slow(request: Request) -> Reply:
        time.sleep(0.005)
        return ok(request.key.encode())

    source = """
import time

def most():
    assert client.get_many([("key", None)] * 100) == [b"key"] * 100
    return zfast.stats()["max_connections"]

client.get("key")
before, limits = zfast.stats()["max_connections"], resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 8, limits[1]))
while most() == before:
    pass
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
until = time.monotonic() + 15
while most() < before:
    assert time.monotonic() < until
"""
    ended = run(tmp_path, PREAMBLE + source, scripted(slow).url)
    assert (ended.code, ended.err) == (0, "")


def test_fewer_descriptors_than_are_polled(nginx: Site, tmp_path: Path) -> None:
    # poll() takes no more than the process may have, and fails from then on.
    nginx.write({"key": b"body" * 100_000})
    source = """
import time
items = [("key", None)] * 64
assert client.get_many(items) == [b"body" * 100_000] * 64
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (8, before[1]))
try:
    assert client.get_many(items) == [b"body" * 100_000] * 64
    began = time.monotonic()
    try:
        zfast.Client(sys.argv[2], deadline=0.5).get("key")
    except zfast.ZfastError:
        assert time.monotonic() - began < 10
    else:
        raise AssertionError("it came")
finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
"""
    with blackhole() as (host, port):
        ended = run(tmp_path, PREAMBLE + source, nginx.url, f"http://{host}:{port}")
    assert (ended.code, ended.err) == (0, "")


def test_more_origins_than_descriptors(scripted: Start, tmp_path: Path) -> None:
    servers = [scripted(lambda request: ok(request.key.encode())) for _ in range(60)]
    source = """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for _ in range(2):
    urls = [f"{url}/{number}" for number in range(3) for url in sys.argv[1:]]
    assert zfast.cat_ranges(urls) == [url.rpartition("/")[2].encode() for url in urls]
    assert descriptors() < 64
assert client.get("key") == b"key"
"""
    ended = run(tmp_path, PREAMBLE + source, *(server.url for server in servers))
    assert (ended.code, ended.err) == (0, "")


def test_origins_that_answer_late_take_no_more_connections_than_there_are(
    scripted: Start, tmp_path: Path
) -> None:
    # Beside one that does not answer at all, for which the others may have one more, and a quarter.
    def late(request: Request) -> Reply:
        time.sleep(0.4)
        return ok(request.key.encode())

    servers = [scripted(late) for _ in range(40)]
    source = """
client.get("key")
most = 0
done = threading.Event()
def watch():
    global most
    while not done.wait(0.005):
        now = zfast.stats()
        most = max(most, now["connections"] + now["dialling"])
watching = threading.Thread(target=watch)
watching.start()
dead = threading.Thread(target=zfast.cat_ranges, args=([sys.argv[2]],), daemon=True)
dead.start()
urls = [f"{url}/{number}" for number in range(2) for url in sys.argv[3:]]
assert zfast.cat_ranges(urls) == [url.rpartition("/")[2].encode() for url in urls]
done.set()
watching.join()
assert most <= 8 + 1 + 2, most
"""
    urls = [server.url for server in servers]
    with blackhole() as (host, port):
        urls.insert(1, f"http://{host}:{port}/dead")
        ended = run(tmp_path, PREAMBLE + source, *urls, ZFAST_MAX_CONCURRENCY="8")
    assert (ended.code, ended.err) == (0, "")


def test_hosts_one_after_another_leave_descriptors_to_others(
    scripted: Start, tmp_path: Path
) -> None:
    """What comes back from the engine stays open in its pool, one for each host."""

    def slow(request: Request) -> Reply:
        time.sleep(0.01)
        return ok(request.key.encode())

    servers = [scripted(slow) for _ in range(8)]
    source = """
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
for url in sys.argv[1:]:
    keys = [str(number) for number in range(200)]
    assert zfast.Client(url).get_many([(k, None) for k in keys]) == [k.encode() for k in keys]
    for file in [open(os.devnull) for _ in range(64)]:
        file.close()
assert zfast.stats()["failed"] == zfast.stats()["retries"] == 0
"""
    ended = run(tmp_path, PREAMBLE + source, *(server.url for server in servers))
    assert (ended.code, ended.err) == (0, "")


# ------------------------------------------------------------------------------------------ threads


def test_threads_are_those_that_are_set(scripted: Start) -> None:
    server = scripted(ranged({"key": b"body"}))

    def count() -> list[int]:
        with zfast.config.set(io_threads=3, dial_threads=4):
            before = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
            clients = [Client(server.url) for _ in range(20)]
            for client in clients:
                assert client.get_many([("key", None)] * 50) == [b"body"] * 50
            after = len(os.listdir("/proc/self/task")) if before else 7
            return [before, after]

    before, after = in_child(count)
    assert after - before == 7


# ----------------------------------------------------------------------------------------- requests


@pytest.fixture
def objects(nginx: Site) -> dict[str, bytes]:
    objects = {f"a/key-{i}": bytes([i]) * (i * 4321) for i in range(40)}
    nginx.write(objects)
    return objects


def test_one_get_for_each_read(nginx: Site, objects: dict[str, bytes]) -> None:
    client = Client(nginx.url)
    for key in objects:
        client.get(key)
    client.get_many([(key, None) for key in objects])
    client.get_ranges("a/key-39", [(i, i + 10) for i in range(40)])
    for key, body in objects.items():
        client.read_into(key, None, bytearray(len(body)))
    client.get("a/key-39", (-100, None))
    client.get("a/key-39", (100, None))
    client.get("missing")
    logged = nginx.requests(163)
    assert [entry.method for entry in logged] == ["GET"] * 163
    assert sum(entry.range is None for entry in logged) == 121
    # And not a byte more than was asked for, but of the error page.
    sent = sum(entry.sent or 0 for entry in logged if entry.status in (200, 206))
    assert sent == client.stats()["bytes_received"]
    assert client.stats()["requests"] == 163


def test_a_new_client_asks_nothing_first(nginx: Site, objects: dict[str, bytes]) -> None:
    for _ in range(5):
        Client(nginx.url).get("a/key-7", (0, 10))
    assert [(entry.method, entry.range) for entry in nginx.requests(5)] == [
        ("GET", "bytes=0-9")
    ] * 5


def test_connections_are_reused_for_all(start: Callable[..., Nginx], tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(100))
    server = start(Nginx, tmp_path)
    client = Client(server.url, max_concurrency=4)
    for _ in range(5):
        client.get_many([("key", None)] * 100)
    logged = server.requests(500)
    assert len(logged) == 500
    assert len({entry.connection for entry in logged}) <= 4


def test_an_origin_that_ignores_ranges_is_asked_once_for_a_key(
    scripted: Start, caplog: pytest.LogCaptureFixture
) -> None:
    body = bytes(range(256)) * 100
    server = scripted(lambda request: ok(body))
    client = Client(server.url)
    # It has to be found out first.
    assert client.get("key", (5, 10)) == body[5:10]
    gc.collect()
    ranges = [(i, i + 50) for i in range(0, 1000, 10)]
    assert client.get_ranges("key", ranges) == [body[i : i + 50] for i, _ in ranges]
    assert len(server.requests) == 2
    assert client.stats()["ranges_ignored"] == 2
    assert caplog.text.count(f"{server.url} ignores byte ranges") == 1


# ------------------------------------------------------------------------------- what is kept of it


def test_a_timeout_for_each_call_keeps_nothing(scripted: Start, tmp_path: Path) -> None:
    server = scripted(lambda request: ok(request.key.encode()))
    source = """
def read(first, last):
    for number in range(first, last):
        assert zfast.cat_ranges([f"{sys.argv[1]}/key"], timeout=1 + number / 1000) == [b"key"]
    return descriptors()

before = read(0, 100)
assert read(100, 400) <= before, before
"""
    ended = run(tmp_path, PREAMBLE + source, server.url)
    assert (ended.code, ended.err) == (0, "")


def test_an_engine_that_cannot_start_keeps_no_descriptor(scripted: Start, tmp_path: Path) -> None:
    server = scripted(lambda request: ok(request.key.encode()))
    source = """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
try:
    while True:
        files.append(open(os.devnull))
except OSError:
    pass
for _ in range(5):
    files.pop().close()
before = descriptors()
for _ in range(3):
    try:
        client.get("key")
    except OSError as error:
        assert "Too many open files" in str(error), error
    else:
        raise AssertionError("it started")
    assert descriptors() == before
del files[:20]
assert client.get("key") == b"key"
"""
    ended = run(tmp_path, PREAMBLE + source, server.url)
    assert (ended.code, ended.err) == (0, "")
