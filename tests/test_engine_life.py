"""The engine's life: started at first use, afresh in a forked child, prompt at every signal."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.leaks import open_descriptors, wait_until
from servers.script import Script, in_child, run
from servers.scripted import Action, Reply, Request, ScriptedServer, Stall, ok
from servers.site import Site

import zfast
from zfast import runtime

Start = Callable[..., ScriptedServer]

OBJECTS = {f"key-{i}": bytes([i]) * (1000 + 997 * i) for i in range(32)}
ITEMS = [(key, None) for key in OBJECTS]


HALF = 32 << 20

half_sent = threading.Event()


def serve(request: Request) -> Iterable[Action]:
    """`stall...` never gets an answer, `half...` half of one, anything else its own name."""
    if request.key.startswith("half"):
        yield ok(bytes(2 * HALF)).wire()[:-HALF]
        half_sent.set()
    if request.key.startswith(("stall", "half")):
        yield Stall()
    yield ok(request.key.encode())


@pytest.fixture
def server(scripted: Start) -> ScriptedServer:
    half_sent.clear()
    return scripted(serve)


@contextmanager
def running(work: Callable[[], object], count: int = 1) -> Iterator[list[BaseException]]:
    """Repeat `work` in threads; gives what they raised."""
    stopping = threading.Event()
    raised: list[BaseException] = []

    def repeat() -> None:
        try:
            while not stopping.is_set():
                work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=repeat) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield raised
    finally:
        stopping.set()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


# ------------------------------------------------------------------------------------------- fork


def test_many_forks_while_eight_threads_read(nginx: Site) -> None:
    nginx.write(OBJECTS)
    client = zfast.Client(nginx.url, max_concurrency=6)
    expected = list(OBJECTS.values())

    def read() -> None:
        assert client.get_many(ITEMS) == expected

    with running(read, 8) as raised:
        for number in range(24):
            # Reads of every kind come first in one child or another.
            in_child(
                [
                    read,
                    lambda: assert_read(client, "key-7"),
                    lambda: asyncio.run(client.get_many_async(ITEMS)) == expected or fail(),
                    lambda: zfast.cat_ranges([f"{nginx.url}/key-3"], 0, 2) == [b"\3\3"] or fail(),
                ][number % 4]
            )
    assert raised == []
    read()
    assert client.stats()["in_flight"] == 0


def fail() -> None:
    raise AssertionError("not the bytes that were asked for")


def assert_read(client: zfast.Client, key: str) -> None:
    assert client.get(key) == OBJECTS.get(key, key.encode())


def test_a_child_shares_no_connection(server: ScriptedServer) -> None:
    client = zfast.Client(server.url)
    assert_read(client, "parent")

    def connections() -> int:
        found = 0
        for descriptor in open_descriptors():
            try:
                with socket.socket(fileno=os.dup(descriptor)) as sock:
                    found += sock.getpeername() == server.address
            except OSError:
                continue
        return found

    assert connections() >= 1

    def read() -> int:
        inherited = connections()
        assert_read(client, "child")
        return inherited

    assert in_child(read) == 0
    assert_read(client, "parent again")
    assert [(r.key, r.connection) for r in server.requests] == [
        ("parent", 0),
        ("child", 1),
        ("parent again", 0),
    ]


def test_what_the_parent_has_in_flight_takes_no_place_in_the_child(server: ScriptedServer) -> None:
    client = zfast.Client(server.url, max_concurrency=1, retries=0)
    stalled = threading.Thread(target=client.get_many, args=([("stall", None)], "return"))
    stalled.start()
    server.wait_requests(1)

    def read() -> int:
        assert client.stats()["in_flight"] == 0
        assert_read(client, "child")
        return client.stats()["in_flight"]

    assert in_child(read, timeout=10) == 0
    server.close()
    stalled.join()


def test_a_child_of_a_child_reads(server: ScriptedServer) -> None:
    client = zfast.Client(server.url)
    assert_read(client, "one")

    def grandchild() -> None:
        assert_read(client, "three")

    def child() -> None:
        assert_read(client, "two")
        in_child(grandchild)
        assert_read(client, "two again")

    in_child(child)
    assert_read(client, "one again")
    assert [r.connection for r in server.requests] == [0, 1, 2, 1, 0]


def test_fork_inside_a_running_loop(server: ScriptedServer) -> None:
    client = zfast.Client(server.url)

    async def child() -> None:
        assert await client.get_async("child") == b"child"

    async def parent() -> None:
        under_way = asyncio.ensure_future(client.get_async("stall"))
        assert await client.get_async("parent") == b"parent"
        in_child(lambda: asyncio.run(child()))
        assert await client.get_async("parent again") == b"parent again"
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way

    asyncio.run(parent())


def test_fork_in_a_thread_while_others_wait(server: ScriptedServer) -> None:
    client = zfast.Client(server.url, retries=0)
    threads = [
        threading.Thread(target=client.get_many, args=([(f"stall-{i}", None)], "return"))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    server.wait_requests(4)
    children: list[object] = []
    forking = threading.Thread(
        target=lambda: children.append(in_child(lambda: assert_read(client, "child")))
    )
    forking.start()
    forking.join()
    assert children == [None]
    server.close()
    for thread in threads:
        thread.join()


def test_a_child_has_the_settings_of_its_fork(server: ScriptedServer) -> None:
    def settings() -> list[int]:
        with zfast.config.set(max_concurrency=3, dial_threads=2):
            assert_read(zfast.Client(server.url), "child")
            diallers = [t for t in threading.enumerate() if t.name.startswith("zfast-dial-")]
            return [zfast.stats()["max_in_flight"], len(diallers)]

    assert in_child(settings) == [3, 2]


IN_A_POOL = """
    import multiprocessing, sys, threading
    import zfast

    def read(arguments):
        client, key = arguments
        return bytes(client.get(key))

    if __name__ == "__main__":
        client = zfast.Client(sys.argv[1])
        assert client.get("parent") == b"parent"
        reader = threading.Thread(target=client.get_many, args=([("stall", None)], "return"))
        reader.daemon = True
        reader.start()
        context = multiprocessing.get_context(sys.argv[2])
        keys = [f"child-{i}" for i in range(8)]
        with context.Pool(2) as pool:
            read_there = pool.map(read, [(client, key) for key in keys], chunksize=1)
            assert read_there == [key.encode() for key in keys]
            pool.close()
            pool.join()
        assert client.get("parent") == b"parent"
        print("read")
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_children_of_multiprocessing(server: ScriptedServer, tmp_path: Path, method: str) -> None:
    ended = run(tmp_path, IN_A_POOL, server.url, method, PYTHONWARNINGS="ignore")
    assert (ended.code, ended.out, ended.err) == (0, "read\n", "")


@pytest.mark.parametrize("how", ["sys.exit(7)", "os._exit(7)"])
def test_a_child_ends_well(server: ScriptedServer, tmp_path: Path, how: str) -> None:
    source = f"""
        import os, sys, threading, warnings
        import zfast

        warnings.simplefilter("ignore", DeprecationWarning)
        client = zfast.Client(sys.argv[1])
        for name in ("stall-1", "stall-2"):
            threading.Thread(target=client.get, args=(name,), daemon=True).start()
        assert client.get("parent") == b"parent"
        for number in range(4):
            child = os.fork()
            if child == 0:
                # Whether it has read or not, has a reader under way or not.
                if number % 2:
                    assert client.get("child") == b"child"
                if number > 1:
                    threading.Thread(target=client.get, args=("stall-3",), daemon=True).start()
                    while not client.stats()["in_flight"]:
                        pass
                {how}
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert client.get("parent") == b"parent"
    """
    ended = run(tmp_path, source, server.url)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_no_descriptor_passes_to_another_program(server: ScriptedServer) -> None:
    before = set(open_descriptors())
    client = zfast.Client(server.url)
    assert_read(client, "key")
    asyncio.run(client.get_async("key"))
    ours = set(open_descriptors()) - before
    source = (
        "import os, sys\n"
        "for fd in map(int, sys.argv[1:]):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: continue\n"
        "    print(fd)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source, *map(str, ours)],
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""


# ---------------------------------------------------------------------------------------- signals


CTRL_C = """
    import sys, time
    import zfast

    def resident():
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * 4096

    client = zfast.Client(sys.argv[1])
    buffer = bytearray(1 << 20)
    for read in (
        lambda: client.get("stall/0"),
        lambda: client.get_many([(f"stall/1/{i}", None) for i in range(100)]),
        lambda: client.read_into("stall/2", None, buffer),
        lambda: client.get("half"),
    ):
        assert client.get("key") == b"key"
        print("reading", flush=True)
        try:
            read()
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
    # A pinned buffer would refuse.
    buffer.clear()
    assert client.get("key") == b"key"
    assert client.stats()["in_flight"] == 0
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        peak, now = (int(lines[name].split()[0]) for name in ("VmHWM", "VmRSS"))
        assert peak - now > 16 << 10, (peak, now)
    print("usable", flush=True)
    client.get("stall/last")
"""


def test_ctrl_c_while_reading(server: ScriptedServer, tmp_path: Path) -> None:
    with Script(tmp_path, CTRL_C, server.url) as script:
        for key in ("stall/0", "stall/1", "stall/2", "half"):
            assert script.line() == "reading"
            server.wait_for(lambda key=key: any(r.key.startswith(key) for r in server.requests))
            if key == "half":
                # Only what a socket holds is not in memory yet.
                assert half_sent.wait(10)
            sent = time.monotonic()
            script.process.send_signal(signal.SIGINT)
            assert float(script.line()) - sent < 1.0
        assert script.line() == "usable"
        server.wait_for(lambda: "stall/last" in [r.key for r in server.requests])
        sent = time.monotonic()
        script.process.send_signal(signal.SIGINT)
        ended = script.ended()
        assert ended.at - sent < 1.5
    assert ended.code == -signal.SIGINT
    assert ended.err.rstrip().endswith("KeyboardInterrupt")
    server.wait_closed()


def test_ctrl_c_in_asyncio_run(server: ScriptedServer, tmp_path: Path) -> None:
    source = """
        import asyncio, sys, time
        import zfast

        client = zfast.Client(sys.argv[1])
        try:
            asyncio.run(client.get_many_async([("stall-1", None), ("stall-2", None)]))
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
        assert asyncio.run(client.get_async("key")) == b"key"
    """
    with Script(tmp_path, source, server.url) as script:
        server.wait_requests(2)
        sent = time.monotonic()
        script.process.send_signal(signal.SIGINT)
        assert float(script.line()) - sent < 1.0
        ended = script.ended()
    assert (ended.code, ended.err) == (0, "")


@pytest.fixture
def on_usr1() -> Iterator[Callable[[Callable[..., object]], None]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def test_a_handler_is_served_and_the_read_goes_on(scripted: Start, on_usr1) -> None:
    served = threading.Event()
    on_usr1(lambda *_: served.set())
    main = threading.main_thread().ident

    def answer(request: Request) -> Reply:
        signal.pthread_kill(main, signal.SIGUSR1)
        assert served.wait(10)
        return ok(b"after the signal")

    assert zfast.Client(scripted(answer).url).get("key") == b"after the signal"


class Interrupted(Exception):
    pass


def interrupt(*_: object) -> None:
    raise Interrupted


def test_what_a_handler_raises_ends_the_read(scripted: Start, on_usr1) -> None:
    on_usr1(interrupt)
    main = threading.main_thread().ident

    def answer(request: Request) -> object:
        if request.key == "key":
            return ok(b"key")
        signal.pthread_kill(main, signal.SIGUSR1)
        return Stall()

    server = scripted(answer)
    client = zfast.Client(server.url)
    buffer = bytearray(100)
    with pytest.raises(Interrupted):
        client.read_into("stall", None, buffer)
    buffer.clear()
    server.wait_closed()
    assert_read(client, "key")
    assert client.stats()["in_flight"] == 0


def test_a_storm_of_signals(nginx: Site, on_usr1) -> None:
    nginx.write(OBJECTS)
    client = zfast.Client(nginx.url)
    came: list[None] = []
    on_usr1(lambda *_: came.append(None))
    main = threading.main_thread().ident
    with running(lambda: signal.pthread_kill(main, signal.SIGUSR1) or time.sleep(0.0002)) as raised:
        wait_until(lambda: len(came) > 10)
        for _ in range(20):
            assert client.get_many(ITEMS) == list(OBJECTS.values())
    assert raised == []


def test_threads_that_are_none_are_refused(server: ScriptedServer) -> None:
    """gevent and eventlet have greenlets in their place, which would wait for what never comes."""

    def read() -> str:
        def start(*_: object) -> None:
            raise AssertionError

        start.__module__ = "gevent.thread"
        threading._start_new_thread = start  # type: ignore[attr-defined]
        threading._start_joinable_thread = start  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="thread=False") as raised:
            zfast.Client(server.url).get("key")
        return str(raised.value)

    assert "gevent" in in_child(read)


def test_threads_that_a_debugger_starts(server: ScriptedServer) -> None:
    """It has functions of its own in place of Python's, which start threads all the same."""

    def read() -> str:
        for name in ("_start_new_thread", "_start_joinable_thread"):
            if start := getattr(threading, name, None):
                setattr(threading, name, functools.partial(start))
        return bytes(zfast.Client(server.url).get("key") or b"").decode()

    assert in_child(read) == "key"


@pytest.mark.parametrize("most", [0, 1, 3])
def test_few_threads_can_be_started(server: ScriptedServer, most: int) -> None:
    def read() -> bool:
        start, started = threading.Thread.start, itertools.count()

        def start_some(thread: threading.Thread) -> None:
            if next(started) >= most:
                raise RuntimeError("can't start new thread")
            start(thread)

        threading.Thread.start = start_some  # type: ignore[method-assign]
        client = zfast.Client(server.url)
        if most:
            return client.get("key") is not None
        with pytest.raises(RuntimeError, match=r"limit on processes \(ulimit -u\)"):
            client.get("key")
        return True

    assert in_child(read)


@pytest.mark.skipif(sys.platform != "linux", reason="by ctypes, in the C library")
def test_a_fork_that_no_hook_is_told_of(server: ScriptedServer) -> None:
    client = zfast.Client(server.url)
    expected = client.get("key")
    library = ctypes.PyDLL(None)
    # In the child the interpreter would wait for a thread that is told to have its turn, and is not
    # there: none is to ask for one.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    time.sleep(2 * interval)
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with runtime.fork_guard:
            held.set()
            free.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    pid = library.fork()
    if pid == 0:
        code = 1
        signal.alarm(20)
        try:
            # What is told of the process is told before it reads, too.
            assert zfast.stats()["reads"] == 0
            code = 0 if client.get("key") == expected else 2
            # Another fork, which the hooks are told of.
            if os.fork() == 0:
                os._exit(0 if client.get("key") == expected else 3)
            assert os.wait()[1] == 0
        finally:
            os._exit(code)
    sys.setswitchinterval(interval)
    free.set()
    holder.join()
    assert os.waitpid(pid, 0)[1] == 0
