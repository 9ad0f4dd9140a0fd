"""Thousands of short-lived processes that read an array; of none of them anything stays.

    python tests/short_lives.py [PROCESSES]

Not among the tests that are run each time, but for a short form of it. Prints what it did, and
fails where a value is wrong, or where descriptors, threads or memory of the parent grow.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr.api.asynchronous
from few_chunks import VALUES, opened, stored
from long_form import how_many
from servers.caddy import Caddy
from servers.leaks import open_descriptors
from servers.script import Child, in_child

import zfast
from zfast import FastStore

AT_ONCE = 8
# What the allocator may keep.
SLACK = 8 << 20


def resident() -> int:
    """Bytes of memory of this process; 0 where the kernel does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def right(window: Any, rows: slice) -> bool:
    return bool((window == VALUES[rows]).all())


def ways(array: Any) -> list[Callable[[slice], bool]]:
    """What a child may be there for; each says whether what it read is right."""
    store = array.store

    def own(rows: slice) -> bool:
        return right(opened(FastStore(store.url))[rows], rows)

    def in_a_loop(rows: slice) -> bool:
        async def read() -> Any:
            found = await zarr.api.asynchronous.open_array(
                store=store, path="a", mode="r", zarr_format=3
            )
            return await found.getitem(rows)

        return right(asyncio.run(read()), rows)

    def of_a_child(rows: slice) -> bool:
        return right(array[rows], rows) and bool(in_child(lambda: right(array[rows], rows)))

    def ends_amid_a_read(_: slice) -> bool:
        threading.Thread(target=lambda: array[...], daemon=True).start()
        return True

    return [lambda rows: right(array[rows], rows), own, in_a_loop, of_a_child, ends_amid_a_read]


def foreign_descriptors() -> int:
    """Descriptors that are not the engine's."""
    return len(open_descriptors()) - zfast.stats()["connections"]


def main(wanted: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Caddy(folder) as server:
        for key, body in stored("sharded, compressed").items():
            path = Path(folder, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        array = opened(FastStore(server.url))
        kinds = ways(array)
        done = 0

        def wave() -> None:
            nonlocal done
            children = []
            for _ in range(AT_ONCE):
                way, rows = kinds[done % len(kinds)], slice(done % 200, done % 200 + 40)
                children.append(Child(lambda way=way, rows=rows: way(rows)))  # type: ignore[misc]
                done += 1
            # Beside them.
            assert right(array[...], slice(None))
            results = [child.result() for child in children]
            assert all(results)

        assert right(array[...], slice(None))
        wave()
        began, threads = time.monotonic(), threading.active_count()
        descriptors, memory = foreign_descriptors(), resident()
        while done < wanted:
            wave()
        grown = resident() - memory
        print(
            f"{done} processes in {time.monotonic() - began:.1f} s; descriptors {descriptors} "
            f"before, {foreign_descriptors()} after; memory grown by {grown / (1 << 20):.1f} MiB"
        )
        assert foreign_descriptors() <= descriptors, "descriptors are left"
        assert threading.active_count() <= threads, "threads are left"
        assert grown < SLACK, "memory is left"
        assert zfast.stats()["fallback_chunks"] == 0


if __name__ == "__main__":
    main(how_many(__doc__, "processes", 10_000))
