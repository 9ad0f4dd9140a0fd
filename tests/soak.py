"""A million requests of 4 KiB in one process: memory, descriptors and threads stay flat.

    python tests/soak.py [REQUESTS]

Not among the tests that are run each time, but for a short form of it: a million take minutes.
Reads from nginx (from Caddy, where there is none), checks every byte, prints how it stands after
each tenth, and fails where memory, descriptors or threads grow.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from long_form import how_many
from servers.caddy import Caddy
from servers.nginx import Nginx, find_nginx

import zfast
from zfast import Client

OBJECTS = {f"key-{number}": os.urandom(4096) for number in range(100)}
ITEMS = [(key, None) for key in OBJECTS]
BODIES = list(OBJECTS.values())
TENTHS = 10
# What an allocator may keep, and less than the smallest object that each request could leave.
SLACK, SLACK_EACH = 4 << 20, 8


def memory() -> int:
    """Bytes resident now; where that is not told, the most there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held() -> tuple[int, int]:
    """Descriptors that are no connection of the engine, and threads."""
    return len(os.listdir("/dev/fd")) - zfast.stats()["connections"], threading.active_count()


def many(client: Client) -> None:
    assert client.get_many(ITEMS) == BODIES


def some_into(client: Client) -> None:
    into = bytearray(4096)
    for key, body in list(OBJECTS.items())[::10]:
        assert client.read_into(key, None, into) == 4096
        assert into == body


def parts(client: Client) -> None:
    ranges = [(at, at + 64) for at in range(0, 640, 64)]
    assert client.get_ranges("key-7", ranges) == [OBJECTS["key-7"][a:b] for a, b in ranges]


async def at_once(client: Client) -> None:
    assert await asyncio.gather(*(client.get_async(key) for key in OBJECTS)) == BODIES


def in_a_loop(client: Client) -> None:
    asyncio.run(at_once(client))


WAYS: list[Callable[[Client], None]] = [many, many, some_into, many, parts, many, in_a_loop]


def read(client: Client, requests: int) -> None:
    """So many requests of a client, or a few more, in all ways."""
    wanted = client.stats()["requests"] + requests
    while client.stats()["requests"] < wanted:
        for way in WAYS:
            way(client)


def main(requests: int) -> None:
    """The whole soak."""
    with tempfile.TemporaryDirectory() as folder:
        for key, body in OBJECTS.items():
            (Path(folder) / key).write_bytes(body)
        kind = Caddy if find_nginx() is None else Nginx
        options = {} if kind is Caddy else {"access_log": False}
        with kind(folder, **options) as server, zfast.config.set(idle_timeout=1000):
            soak(Client(server.url), requests)


def soak(client: Client, requests: int) -> None:
    """Read, and compare what there is with what there was after the first tenth."""
    began = time.monotonic()
    grown: list[int] = []
    for tenth in range(1, TENTHS + 1):
        read(client, requests // TENTHS)
        gc.collect()
        if tenth == 1:
            base, then = memory(), held()
        grown.append(memory() - base)
        done = client.stats()["requests"]
        print(
            f"{done:9d} requests in {time.monotonic() - began:5.0f} s: "
            f"{memory() / (1 << 20):6.1f} MiB, {held()[0]} descriptors, {held()[1]} threads",
            flush=True,
        )
    stats = client.stats()
    assert stats["failed"] == 0, stats
    assert stats["requests"] >= requests
    assert held() <= then, (then, held())
    assert max(grown) < SLACK + SLACK_EACH * requests, grown


if __name__ == "__main__":
    main(how_many(__doc__, "requests", 1_000_000))
