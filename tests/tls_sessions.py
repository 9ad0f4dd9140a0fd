"""Thousands of TLS sessions, ended in every way there is; memory and descriptors stay flat.

    python tests/tls_sessions.py [HANDSHAKES]

Not among the tests that are run each time, but for a short form of it: ten thousand handshakes take
minutes. Prints what it did, and fails where memory, descriptors or sessions grow.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trustme
import urllib3
from long_form import how_many
from servers.script import in_child

import zfast
from zfast import Client
from zfast._core.tls_sessions import session_count, unavailable

BODY = bytes(range(256)) * 300
AT_ONCE = 8
# What an allocator may keep of that many sessions, and the engine of each manager's origin: a
# session alone has tens of KiB.
SLACK = 20 << 20
SETTLED_SECONDS = 30


# ------------------------------------------------------------------------- the server, a process


def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=serve_one, args=(accepted, context), daemon=True).start()


def serve_one(accepted: socket.socket, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True) as sock:
        head = b""
        while data := sock.recv(1 << 16):
            head += data
            if not head.endswith(b"\r\n\r\n"):
                continue
            key = head.split()[1]
            head = b""
            length = b"" if key == b"/eof" else b"Content-Length: %d\r\n" % len(BODY)
            sock.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
            if key == b"/stall":
                continue
            sock.sendall(BODY)
            if key == b"/eof":
                sock.setblocking(False)
                with contextlib.suppress(ssl.SSLWantReadError):
                    sock.unwrap()
            if key in (b"/eof", b"/cut"):
                return


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """The URL of such a server, and the file with its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        pid = os.fork()
        if pid == 0:
            serve(listener, context)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield url, str(folder / "ca.pem")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


# ------------------------------------------------------------------------------ ways of an ending

Opened = Callable[..., Client]


def by_us(opened: Opened) -> None:
    with opened() as client:
        assert client.get_many([("key", None)] * AT_ONCE) == [BODY] * AT_ONCE


def by_the_server(opened: Opened) -> None:
    for key in ("eof", "cut"):
        with opened() as client:
            assert client.get_many([(key, None)] * AT_ONCE) == [BODY] * AT_ONCE


def by_cancelling(opened: Opened) -> None:
    client = opened(deadline=0.05)
    errors = client.get_many([("stall", None)] * AT_ONCE, "return")
    assert all(isinstance(error, zfast.DeadlineError) for error in errors)


def by_garbage_collection(opened: Opened) -> None:
    client = opened()
    assert client.get_many([("key", None)] * AT_ONCE) == [BODY] * AT_ONCE
    cycle: list[object] = [client]
    cycle.append(cycle)


def in_a_forked_child(opened: Opened) -> None:
    # With sessions of the parent at work, which are not the child's to use.
    client = opened()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            assert client.get_many([("key", None)] * 2) == [BODY] * 2

    assert client.get_many([("key", None)] * 2) == [BODY] * 2
    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(AT_ONCE):
            # A thread that opens a connection may hold a lock of OpenSSL, in Python's ssl, which
            # the child would wait for: as with any fork beside threads that use Python's ssl.
            while zfast.stats()["dialling"]:
                time.sleep(0.001)
            assert in_child(lambda: client.get_many([("key", None)] * 2) == [BODY] * 2)
    finally:
        ended.set()
        thread.join()
    assert client.get("key") == BODY


WAYS = [by_us, by_the_server, by_cancelling, by_garbage_collection, by_us, in_a_forked_child]


# -------------------------------------------------------------------------------------- measuring


def memory() -> int:
    """Bytes resident now; where that is not told, the most there ever were."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def settled() -> tuple[int, int]:
    """Descriptors and sessions, once the engine has given all of its own back."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while zfast.stats()["connections"] and time.monotonic() < deadline:
        time.sleep(0.01)
    gc.collect()
    counted = descriptors(), session_count()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        gc.collect()
        if counted == (descriptors(), session_count()):
            break
        counted = descriptors(), session_count()
    return counted


def main(wanted: int) -> None:
    assert not unavailable(), unavailable()
    handshakes = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        zfast.config.set(idle_timeout=0.1),
        served(Path(folder)) as (url, ca_certs),
    ):

        def opened(**options: Any) -> Client:
            manager = urllib3.PoolManager(maxsize=AT_ONCE, ca_certs=ca_certs)
            # What the server closes meets the next request now and then.
            retries = urllib3.Retry(9, backoff_factor=0)
            return Client(
                url,
                pool_manager=manager,
                retries=retries,
                max_concurrency=AT_ONCE,
                **options,
            )

        def round_() -> None:
            for way in WAYS:
                way(opened)

        for _ in range(2):
            round_()
        before, kept = settled(), memory()
        # Those in children are not counted here.
        start = zfast.stats()["connections_opened"]
        while handshakes < wanted:
            round_()
            handshakes = zfast.stats()["connections_opened"] - start
        after, grown = settled(), memory() - kept
        assert zfast.stats()["fallback_reads"] == 0
        print(
            f"{handshakes} handshakes; descriptors and sessions {before} before, {after} after; "
            f"memory {kept >> 20} MiB, grown by {grown / (1 << 20):.1f} MiB"
        )
        assert after <= before, "descriptors or sessions are left"
        assert grown < SLACK, "memory is left"
        # And at exit, with sessions at work.
        client = opened()

        def read_on() -> None:
            # The server may go a little before the process does.
            with contextlib.suppress(zfast.ZfastError):
                while True:
                    client.get_many([("key", None)] * AT_ONCE)

        for _ in range(2):
            threading.Thread(target=read_on, daemon=True).start()
        assert client.get("key") == BODY


if __name__ == "__main__":
    main(how_many(__doc__, "handshakes", 10_000))
