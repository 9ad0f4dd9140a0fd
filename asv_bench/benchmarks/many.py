"""Many bodies at once: `Client.get_many` and `cat_ranges`, under a bare poll loop's ceiling."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import zfast

from .ceiling import Ceiling
from .common import (
    CONNECTIONS,
    DATA_MIB,
    MIB,
    ROUNDS,
    Figures,
    Rounds,
    Tracked,
    clocked,
    figures,
    serving,
    with_hogs,
)

BODIES = {"64 KiB": 64 * 1024, "1 MiB": MIB, "16 MiB": 16 * MIB}
CALLS = ("get_many", "cat_ranges")

# Bytes that say which body it is.
_NUMBER = 8


def measure(
    folder: Path,
    bodies: Iterable[str] = tuple(BODIES),
    mib: int = DATA_MIB,
    rounds: int = ROUNDS,
) -> dict[tuple[str, str], Figures]:
    """Read `mib` MiB in bodies of each size, by each call.

    Returns
    -------
    dict
        Figures by body and call; rates are in MiB/s.
    """
    root = folder / "root"
    root.mkdir()
    ceiling = Ceiling(folder)
    measured = {}
    with serving(root) as server, zfast.Client(server.url, max_concurrency=CONNECTIONS) as client:
        for body in bodies:
            size = BODIES[body]
            keys = _write(root, size, max(1, mib * MIB // size))
            calls = _calls(client, keys)
            requests = {call: _checked(run, size) / len(keys) for call, run in calls.items()}
            ceilings = ceiling.readers(server.port, [f"/{key}" for key in keys], size)
            subjects = {call: clocked(run) for call, run in calls.items()}
            ran = Rounds({**ceilings, **with_hogs(subjects)}, rounds)
            for call in CALLS:
                measured[body, call] = figures(
                    ran, call, ceilings, len(keys) * size / MIB, requests=requests[call]
                )
    return measured


def _calls(client: zfast.Client, keys: Sequence[str]) -> dict[str, Callable[[], list[zfast.Body]]]:
    wanted = [(key, None) for key in keys]
    urls = [f"{client.url}/{key}" for key in keys]
    return {
        "get_many": lambda: client.get_many(wanted),
        "cat_ranges": lambda: zfast.cat_ranges(urls, max_concurrency=CONNECTIONS),
    }


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size - _NUMBER)


def _write(root: Path, size: int, count: int) -> list[str]:
    """Bodies of noise, each with its number in front; their keys."""
    noise = _noise(size)
    keys = [f"{size}/{number:06}" for number in range(count)]
    (root / f"{size}").mkdir()
    for number, key in enumerate(keys):
        (root / key).write_bytes(number.to_bytes(_NUMBER) + noise)
    return keys


def _checked(call: Callable[[], list[zfast.Body]], size: int) -> int:
    """Call once, unmeasured; how many requests it took for the bodies that were written."""
    before = zfast.stats()["requests"]
    bodies = call()
    noise = _noise(size)
    for number, body in enumerate(bodies):
        view = memoryview(body)
        if view[:_NUMBER] != number.to_bytes(_NUMBER) or view[_NUMBER:] != noise:
            raise AssertionError(f"body {number} of {size} bytes is not what was written")
    return zfast.stats()["requests"] - before


class Many(Tracked):
    """4096 bodies of 64 KiB, 256 of 1 MiB, 16 of 16 MiB, unless BENCH_MIB says otherwise."""

    params = [list(BODIES), list(CALLS)]
    param_names = ["body", "call"]
    unit = "MiB/s"

    def setup_cache(self) -> dict[tuple[str, str], Figures]:
        return measure(Path.cwd())

    setup_cache.timeout = 900

    def track_requests(self, measured: dict[Any, Figures], *params: str) -> float | None:
        return measured[params].requests

    track_requests.unit = "requests/body"
