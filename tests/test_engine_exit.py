"""Exit: whatever is being read, a process ends quickly, with its own code and without a word."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import pytest
from servers.script import Ended, Script, run
from servers.scripted import Action, Request, ScriptedServer, Stall, Wait, blackhole, ok

Start = Callable[..., ScriptedServer]


def serve(request: Request) -> Iterable[Action]:
    """`stall...` never gets an answer, `half...` half of one, anything else its own name."""
    if request.key.startswith("half"):
        yield ok(bytes(2 << 20)).wire()[: 1 << 20]
    if request.key.startswith(("stall", "half")):
        yield Stall()
    yield ok(request.key.encode())


@pytest.fixture
def server(scripted: Start) -> ScriptedServer:
    return scripted(serve)


# The machine may be busy; what hangs at exit hangs for longer.
QUICKLY = 3.0

PREAMBLE = """
import asyncio, atexit, os, sys, threading, time
import zfast

client = zfast.Client(sys.argv[1])

def in_daemon(work, *arguments):
    threading.Thread(target=work, args=arguments, daemon=True).start()

def until(holds):
    while not holds():
        time.sleep(0.001)

def forever():
    while True:
        assert client.get("key") == b"key"

def leave():
    print(time.monotonic(), flush=True)

"""

READING = {
    "nothing": "",
    "read before": "assert client.get('key') == b'key'",
    "one stalled": """
in_daemon(client.get, 'stall')
until(lambda: client.stats()['in_flight'] == 1)
""",
    "many stalled": """
in_daemon(client.get_many, [(f'stall-{i}', None) for i in range(200)])
in_daemon(client.get_many, [(f'half-{i}', None) for i in range(2)])
until(lambda: client.stats()['in_flight'] == 64)
""",
    "reading on and on": """
for _ in range(8):
    in_daemon(forever)
until(lambda: client.stats()['reads'] > 100)
""",
    "in a loop": """
async def gather():
    await asyncio.gather(*(client.get_async(f'stall-{i}') for i in range(8)))
in_daemon(asyncio.run, gather())
until(lambda: client.stats()['in_flight'] == 8)
""",
}
ENDS = [
    ("leave()", 0),
    ("leave(); sys.exit(3)", 3),
    ("leave(); os._exit(4)", 4),
    ("leave(); raise RuntimeError('the end')", 1),
]


def ended_well(ended: Ended, code: int = 0) -> bool:
    """Whether a program ended with this code, quickly, and without a word of zfast."""
    assert ended.code == code, ended
    if code == 1:
        assert ended.err.startswith("Traceback")
        assert ended.err.endswith("\nRuntimeError: the end\n")
        assert ended.err.count("Traceback") == 1
    else:
        assert ended.err == ""
    assert ended.at - float(ended.out) < QUICKLY
    return True


@pytest.mark.parametrize("reading", READING)
def test_exit(server: ScriptedServer, tmp_path: Path, reading: str) -> None:
    with ExitStack() as stack:
        scripts = {}
        for how, code in ENDS:
            source = f"{PREAMBLE}{READING[reading]}\n{how}"
            scripts[stack.enter_context(Script(tmp_path, source, server.url))] = code
        for script, code in scripts.items():
            assert ended_well(script.ended(), code)


def test_exit_while_dialling(tmp_path: Path) -> None:
    source = """
        in_daemon(client.get_many, [(str(i), None) for i in range(20)])
        until(lambda: client.stats()["batches"] and zfast.stats()["dialling"])
        leave()
        sys.exit(3)
    """
    with blackhole() as (host, port):
        ended = run(tmp_path, PREAMBLE + dedent(source), f"http://{host}:{port}")
    assert ended_well(ended, 3)


def test_exit_by_a_handler_while_reading(server: ScriptedServer, tmp_path: Path) -> None:
    source = """
        import signal

        def terminate(*_):
            leave()
            sys.exit(5)

        signal.signal(signal.SIGTERM, terminate)
        client.get_many([(f"stall-{i}", None) for i in range(10)])
    """
    with Script(tmp_path, PREAMBLE + dedent(source), server.url) as script:
        server.wait_requests(10)
        script.process.send_signal(signal.SIGTERM)
        assert ended_well(script.ended(), 5)
    server.wait_closed()


def test_other_threads_read_on_after_the_main_one(scripted: Start, tmp_path: Path) -> None:
    gate = threading.Event()
    server = scripted(lambda r: [Wait(gate), ok(r.key.encode())] if r.key == "held" else ok(b"key"))
    source = """
        def read():
            assert client.get("held") == b"held"
            assert client.get_many([("key", None)] * 100) == [b"key"] * 100
            print("all read", flush=True)

        @atexit.register
        def at_exit():
            assert client.get("key") == b"key"
            print("and at exit", flush=True)

        assert client.get("key") == b"key"
        threading.Thread(target=read).start()
        print("the main thread ends", flush=True)
    """
    with Script(tmp_path, PREAMBLE + dedent(source), server.url) as script:
        assert script.line() == "the main thread ends"
        server.wait_for(lambda: server.waiting == 1)
        gate.set()
        ended = script.ended()
    assert (ended.code, ended.out, ended.err) == (0, "all read\nand at exit\n", "")


@pytest.mark.parametrize("before", ["", "client.get('key')"])
def test_a_read_of_what_is_deleted_last(
    server: ScriptedServer, tmp_path: Path, before: str
) -> None:
    """The interpreter is shutting down when it deletes a module's objects: no thread can start."""
    source = """
        class Last:
            def __del__(self):
                try:
                    client.get("key")
                except RuntimeError as error:
                    print(error, flush=True)

        last = Last()
    """
    ended = run(tmp_path, f"{PREAMBLE}{before}\n{dedent(source)}", server.url)
    said = "nothing can be read any more: the interpreter is shutting down\n"
    assert (ended.code, ended.out, ended.err) == (0, said, "")


def test_exit_with_a_pool_manager(server: ScriptedServer, tmp_path: Path) -> None:
    """Its pools, which were made after the engine, are emptied before the engine ends."""
    source = """
        import urllib3, warnings

        warnings.simplefilter("always", ResourceWarning)
        manager = urllib3.PoolManager()
        with zfast.Client(sys.argv[1], pool_manager=manager) as client:
            client.get("key")
        leave()
    """
    assert ended_well(run(tmp_path, PREAMBLE + dedent(source), server.url))


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("waits_for", ["a thread", "a loop"])
def test_a_late_hook_that_reads_elsewhere_is_told(
    server: ScriptedServer, tmp_path: Path, waits_for: str, read_before: bool
) -> None:
    """It was made before zfast was, runs after zfast has ended, and waits for another thread."""
    waits = {
        "a thread": "thread = threading.Thread(target=read); thread.start(); thread.join()",
        "a loop": "asyncio.run_coroutine_threadsafe(read_async(), loop).result()",
    }
    source = f"""
import asyncio, atexit, sys, threading

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()

def read():
    try:
        client.get("key")
    except RuntimeError as error:
        print(error)

async def read_async():
    try:
        await client.get_async("key")
    except RuntimeError as error:
        print(error)

@atexit.register
def late():
    {waits[waits_for]}

import zfast
client = zfast.Client(sys.argv[1])
if {read_before}:
    assert client.get("key") == b"key"
"""
    ended = run(tmp_path, source, server.url)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "nothing can be read any more: the interpreter is shutting down\n"


@pytest.mark.parametrize("waits_for", ["a thread", "a thread that reads on", "a loop"])
def test_a_late_hook_that_waits_for_what_is_under_way_is_told(
    server: ScriptedServer, tmp_path: Path, waits_for: str
) -> None:
    """Of a daemon, as prefetchers and monitors are, which such a hook ends and joins."""
    waits = {
        "a thread": "over = True; thread.join()",
        "a thread that reads on": "over = True; thread.join()",
        "a loop": "future.exception()",
    }
    source = f"""
import asyncio, atexit, sys, threading, time

over = False
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()

def read():
    try:
        while not over:
            client.get("{"stall" if waits_for == "a thread" else "key"}")
    except RuntimeError as error:
        print(error)

async def read_async():
    try:
        await client.get_async("stall")
    except RuntimeError as error:
        print(error)

@atexit.register
def late():
    global over
    {waits[waits_for]}

import zfast
client = zfast.Client(sys.argv[1])
if "{waits_for}" == "a loop":
    future = asyncio.run_coroutine_threadsafe(read_async(), loop)
else:
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
time.sleep(0.3)
"""
    ended = run(tmp_path, source, server.url)
    assert (ended.code, ended.err) == (0, "")
    said = "nothing can be read any more: the interpreter is shutting down\n"
    assert ended.out in ({said, ""} if waits_for == "a thread that reads on" else {said})


def test_a_late_hook_that_lists_in_a_loop(scripted: Start, tmp_path: Path) -> None:
    """No executor starts a thread any more."""
    page = "<title>Index of /</title><pre><a href='../'>..</a><a href='key'>key</a></pre>"
    server = scripted(lambda _: ok(page.encode()).with_fields(content_type="text/html"))
    source = """
import asyncio, atexit, sys

async def names():
    return [name async for name in zfast.Client(sys.argv[1]).list_async()]

@atexit.register
def late():
    print(asyncio.run(names()))

import zfast
"""
    ended = run(tmp_path, source, server.url)
    assert (ended.code, ended.out, ended.err) == (0, "['key']\n", "")
