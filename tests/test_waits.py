"""Nobody waits for ever, or for somebody else's trouble."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
import urllib3
from servers.replies import Ending
from servers.script import in_child
from servers.scripted import (
    Fin,
    Reply,
    Request,
    Reset,
    ScriptedServer,
    Wait,
    blackhole,
    ok,
    partial,
    ranged,
    redirect,
)

import zfast

Start = Callable[..., ScriptedServer]
FEW = urllib3.Retry(2, backoff_factor=0.0)


def test_a_read_after_a_failed_dial(scripted: Start) -> None:
    """The pause after a failed dial ends for those who came in it, too."""
    second = threading.Event()

    def on_accept(connection: Any) -> Any:
        return None if connection.number == 0 else Wait(second)

    class FailsOnce(urllib3.connection.HTTPConnection):
        dials = 0

        def connect(self) -> None:
            FailsOnce.dials += 1
            if FailsOnce.dials == 2:
                answered.wait(10)
                raise urllib3.exceptions.NewConnectionError(self, "not this one")
            super().connect()

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = FailsOnce

    answered = threading.Event()
    server = scripted(lambda request: ok(request.key.encode()).closing())
    manager = urllib3.PoolManager()
    manager.pool_classes_by_scheme = {"http": Pool}
    client = zfast.Client(server.url, pool_manager=manager, deadline=8)
    threading.Timer(0.2, answered.set).start()
    assert client.get_many([("a", None), ("b", None)]) == [b"a", b"b"]
    answered.wait(10)
    for key in ("c", "d", "e"):
        begun = time.monotonic()
        assert client.get(key) == key.encode()
        assert time.monotonic() - begun < 5


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("fault", [SystemExit("bye"), _Unprintable()], ids=["exit", "unprintable"])
def test_connections_that_end_their_thread(scripted: Start, fault: BaseException) -> None:
    """It goes on for others, and the read is told."""

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            raise fault

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    server = scripted(ranged({"key": b"value"}))

    def read() -> bool:
        # Where a connection is not given back, the next read waits for it.
        manager = urllib3.PoolManager(maxsize=1, block=True)
        manager.pool_classes_by_scheme = {"http": Pool}
        broken = zfast.Client(server.url, pool_manager=manager, retries=0, deadline=8)
        for _ in range(12):
            with pytest.raises(zfast.ConnectionFailedError, match=r"bye|_Unprintable"):
                broken.get("key")
        return zfast.Client(server.url, deadline=8).get("key") == b"value"

    assert in_child(read)


def test_a_redirect_that_the_pool_manager_cannot_follow(scripted: Start) -> None:
    server = scripted(lambda request: redirect("https://127.0.0.1:1/elsewhere"))
    manager = urllib3.PoolManager()
    manager.pool_classes_by_scheme = {"http": urllib3.HTTPConnectionPool}
    with pytest.raises(zfast.ResponseError, match="redirect"):
        zfast.Client(server.url, pool_manager=manager, deadline=8).get("key")


def test_two_clients_of_one_full_pool(scripted: Start) -> None:
    server = scripted(ranged({"key": b"value"}))
    manager = urllib3.PoolManager(maxsize=1, block=True)
    for timeout in (5, 10, 5):
        client = zfast.Client(server.url, pool_manager=manager, timeout=timeout)
        assert client.get("key") == b"value"


@pytest.mark.parametrize("reads", [[20], [20, 20], [70], [64, 64, 64, 64]], ids=str)
def test_hosts_that_answer_nobody_do_not_stop_the_others(scripted: Start, reads: list[int]) -> None:
    """In a process that has opened no connection before, and so has few threads to do it."""
    server = scripted(ranged({"key": b"value"}))

    def read(dead: list[str]) -> float:
        def wait(url: str, count: int) -> None:
            with zfast.Client(
                url, timeout=3, retries=False, deadline=4, max_concurrency=count
            ) as client:
                found = client.get_many([(str(number), None) for number in range(count)], "return")
                assert all(isinstance(one, zfast.ZfastError) for one in found)

        waiting = [
            threading.Thread(target=wait, args=each) for each in zip(dead, reads, strict=True)
        ]
        for thread in waiting:
            thread.start()
        while zfast.stats()["dialling"] < min(sum(reads), 64):
            time.sleep(0.01)
        begun = time.monotonic()
        assert zfast.Client(server.url).get("key") == b"value"
        seconds = time.monotonic() - begun
        for thread in waiting:
            thread.join()
        return seconds

    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(blackhole()) for _ in reads]
        assert in_child(lambda: read([f"http://{host}:{port}" for host, port in dead])) < 2


def test_more_hosts_that_answer_nobody_than_threads(scripted: Start) -> None:
    """Once each has failed, as the first dial of nobody can be known to."""
    servers = [scripted(ranged({"key": b"value"})) for _ in range(4)]

    def read(dead: list[str]) -> float:
        def wait(url: str) -> None:
            with pytest.raises(zfast.ZfastError):
                zfast.Client(url, timeout=2, deadline=25).get("key")

        with zfast.config.set(dial_threads=16, max_attempts=100, backoff_max=0.1):
            for url in dead:
                threading.Thread(target=wait, args=(url,), daemon=True).start()
            # Two rounds of dials.
            time.sleep(5)
            begun = time.monotonic()
            for server in servers:
                assert zfast.Client(server.url).get("key") == b"value"
            return time.monotonic() - begun

    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(blackhole()) for _ in range(24)]
        assert in_child(lambda: read([f"http://{host}:{port}" for host, port in dead])) < 1


def test_who_comes_later_does_not_keep_the_others_waiting() -> None:
    """Of a host that answers nobody, each reader hears when his own time is over."""
    ended: list[zfast.ZfastError] = []

    def read(url: str) -> None:
        try:
            zfast.Client(url, timeout=0.5, retries=FEW).get("key")
        except zfast.DeadlineError as error:
            ended.append(error)

    with blackhole() as (host, port):
        threads = []
        while not ended:
            assert len(threads) < 100
            threads.append(threading.Thread(target=read, args=(f"http://{host}:{port}",)))
            threads[-1].start()
            time.sleep(0.2)
        for thread in threads:
            thread.join()
    assert len(ended) == len(threads)
    assert {error.attempts for error in ended} == {3}


def test_a_deadline_holds_after_another_one(scripted: Start) -> None:
    """The first to pass is not the last that is looked at."""
    late = threading.Event()
    server = scripted(lambda _: iter([Wait(late), ok(b"late").wire()]))
    clients = [zfast.Client(server.url, deadline=deadline) for deadline in (0.2, 0.4)]
    with ThreadPoolExecutor(2) as threads:
        reads = [threads.submit(client.get, "key") for client in clients]
        done, _ = wait(reads, 10)
        late.set()
        assert {type(read.exception()) for read in done} == {zfast.DeadlineError}
        assert len(done) == 2


def test_a_total_timeout(scripted: Start) -> None:
    server = scripted(ranged({"key": b"value"}))
    for timeout in (urllib3.Timeout(total=5), urllib3.Timeout(connect=1, total=5)):
        assert zfast.Client(server.url, timeout=timeout).get("key") == b"value"


def test_a_part_without_the_entity_tag_is_of_another_object(scripted: Start) -> None:
    """RFC 9110, section 15.3.7: a 206 has the ETag that a 200 would have had."""
    old, new = b"A" * 10, b"B" * 10

    def handler(request: Request) -> Reply:
        if request.index == 0:
            return ok(old, etag='"v1"').cut_body(5, Fin())
        return partial(new[5:], 5, 10) if request.range else ok(new)

    server = scripted(handler)
    assert zfast.Client(server.url, retries=FEW).get("key") == new


@pytest.mark.parametrize("ending", [Fin(), Reset()], ids=["fin", "reset"])
def test_a_conditional_put_is_not_sent_twice_over_an_old_connection(
    scripted: Start, ending: Ending
) -> None:
    objects = {"other": b"x"}
    serve = ranged(objects, writable=True)

    def handler(request: Request) -> Any:
        if request.method == "PUT":
            objects[request.key] = request.body
            return ending
        return serve(request)

    server = scripted(handler)
    client = zfast.Client(server.url, retries=FEW)
    assert client.get("other") == b"x"
    with pytest.raises(zfast.ConnectionFailedError) as caught:
        client.put("key", b"mine", if_absent=True)
    assert caught.value.attempts == 1
    assert server.keys("PUT") == ["key"]
