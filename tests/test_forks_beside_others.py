"""A fork amid what others do with the same pools and loops leaves both processes able to read."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import urllib3
from servers.script import in_child
from servers.scripted import Fin, ScriptedServer, Wait, ok, ranged

import zfast
from zfast.connections import leases

Start = Callable[..., ScriptedServer]


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """A lock that another thread has, as one that is amid a request of its own has it."""
    has, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            has.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    has.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("which", ["manager", "pool"])
def test_a_manager_that_is_in_use(scripted: Start, which: str) -> None:
    server = scripted(ranged({"key": b"value"}))
    manager = urllib3.PoolManager()
    client = zfast.Client(server.url, pool_manager=manager)
    assert client.get("key") == b"value"
    pool = manager.connection_from_url(server.url)
    assert pool.pool is not None
    with held(manager.pools.lock if which == "manager" else pool.pool.mutex):
        assert in_child(lambda: bytes(client.get("key") or b"").decode()) == "value"
        assert (
            in_child(lambda: manager.request("GET", f"{server.url}/key").data.decode()) == "value"
        )
    assert client.get("key") == b"value"


class Stubborn(urllib3.connection.HTTPConnection):
    """One that does not close."""

    def close(self) -> None:
        raise RuntimeError("no")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_connections_that_do_not_close(scripted: Start) -> None:
    server = scripted(ranged({"key": b"value"}))
    manager = urllib3.PoolManager()
    client = zfast.Client(server.url, pool_manager=manager)
    assert client.get("key") == b"value"

    def work() -> list[str]:
        found = []

        def read() -> None:
            found.append(bytes(zfast.Client(server.url).get("key") or b"").decode())

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    pool = manager.connection_from_url(server.url)
    pool.ConnectionCls = Stubborn  # type: ignore[assignment]
    assert client.get("key") == b"value"
    assert in_child(work) == ["value"] * 3


def test_a_loop_that_does_not_run(scripted: Start) -> None:
    """It may share its selector with the child: what the child leaves there is not the parent's."""
    client = zfast.Client(scripted(ranged({"key": b"value"})).url)
    loop = asyncio.new_event_loop()

    def read() -> str:
        reading = asyncio.wait_for(client.get_async("key"), 20)
        return bytes(loop.run_until_complete(reading) or b"").decode()

    try:
        for _ in range(3):
            assert read() == "value"
            assert in_child(read) == "value"
        assert read() == "value"
    finally:
        loop.close()


class Forked(BaseException):
    """What the handler of a signal raises in the child that it forked."""


def test_a_handler_that_forks_amid_a_wait(scripted: Start) -> None:
    """The child is not to wait for what goes on in its parent."""
    done = threading.Event()
    server = scripted(lambda _: [Wait(done), ok(b"value")])

    def work() -> int:
        children = []

        def fork(*_: Any) -> None:
            pid = os.fork()
            if pid == 0:
                raise Forked
            children.append(pid)

        signal.signal(signal.SIGUSR1, fork)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        try:
            zfast.Client(server.url, deadline=2).get("key")
        except Forked:
            os._exit(7)
        except zfast.DeadlineError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])

    assert in_child(work, timeout=20) == 7
    done.set()


@contextmanager
def near_ends_kept() -> Iterator[None]:
    """As a child has them that was just forked, until its hooks have run."""
    assert leases._relay is not None
    kept = [os.dup(session.near.fileno()) for session in leases._relay._sessions.values()]
    assert kept
    try:
        yield
    finally:
        for descriptor in kept:
            os.close(descriptor)


def test_a_child_that_was_just_forked_keeps_no_session_open(
    tls_context: ssl.SSLContext, scripted: Start, tls_ca_file: str
) -> None:
    """It has the near end until its hooks have run, in which others may take their time."""
    server = scripted(lambda request: ok(request.key.encode()), tls=tls_context)
    with zfast.config.set(tls="python"):
        manager = urllib3.PoolManager(maxsize=1, block=True, ca_certs=tls_ca_file)
        client = zfast.Client(server.url, pool_manager=manager, deadline=20)
        for number in range(3):
            assert client.get(str(number)) == str(number).encode()
            with near_ends_kept():
                client._connections.release_idle()
                assert manager.request("GET", f"{server.url}/own", timeout=20).data == b"own"


def test_a_child_that_was_just_forked_hides_no_end_of_a_body(
    tls_context: ssl.SSLContext, scripted: Start, tls_ca_file: str
) -> None:
    done = threading.Event()
    body = [b"HTTP/1.1 200 OK\r\n\r\nbody", Wait(done), Fin()]
    server = scripted(lambda _: body, tls=tls_context)
    with zfast.config.set(tls="python"):
        client = zfast.Client(server.url, ca_certs=tls_ca_file, retries=0, deadline=20)
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(client.get, "key")
            server.wait_requests(1)
            with near_ends_kept():
                done.set()
                assert reading.result() == b"body"
