"""Thousands of array reads through a proxy that does harm: the truth, or a listed error.

    python tests/chaos.py --reads 20000 --seed 1

Prints what was done and what came of it, and fails on one wrong value, on an error that is not
listed, and on a descriptor, a thread or a request that stays. What harm is done, and what not, is
told in `servers/chaos.py`. The tests run a short form of it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import urllib3
import zarr
from arrays import bytes_codec, format_3, named, sharding
from faults import nothing_left, outcome, reading_of, short_timeouts, warmed
from promises import at_once
from servers.caddy import Caddy
from servers.chaos import Chaos
from shards import numbered, objects_of

from zfast import FastStore
from zfast.errors import (
    ChangedError,
    ConnectionFailedError,
    CorruptError,
    DeadlineError,
    ResponseError,
)

SHAPE, CHUNK, INNER = (96, 80), (32, 40), (8, 10)
VALUES = numbered(SHAPE)
CRC = named("crc32c")
ZSTD = named("zstd", level=1, checksum=False)
ARRAYS = {
    "raw": [bytes_codec()],
    "zstd": [bytes_codec(), ZSTD],
    "sharded": [sharding(INNER, [bytes_codec()])],
    "sharded-zstd": [sharding(INNER, [bytes_codec(), ZSTD])],
    "checked": [bytes_codec(), CRC],
    "checked-zstd": [bytes_codec(), ZSTD, CRC],
    "sharded-checked": [sharding(INNER, [bytes_codec(), CRC])],
}
"""By path. Those that are `checked` have a checksum over every byte of each chunk."""

LISTED = (ConnectionFailedError, DeadlineError, ResponseError, ChangedError, CorruptError)
THREADS = 4


def within(target: str) -> tuple[str, ...]:
    """The harm within a body that checksums find; in a shard, each of its inner chunks has one."""
    if "checked/c/" not in target and "checked-zstd/c/" not in target:
        return ()
    return ("changed", "lost") if "sharded" in target else ("changed", "lost", "twice")


def served(folder: Path) -> Path:
    for path, codecs in ARRAYS.items():
        layout = format_3(SHAPE, [CHUNK], "<f4", codecs, fill=-1.0)
        for key, body in objects_of(layout, VALUES, path).items():
            place = folder / key
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(body)
    return folder


def window(dice: random.Random) -> tuple[slice, ...]:
    """Any box of an array; the whole of it now and then."""
    if dice.random() < 0.2:
        return (slice(None),) * len(SHAPE)
    corners = [sorted(dice.sample(range(size + 1), 2)) for size in SHAPE]
    return tuple(slice(*pair) for pair in corners)


class Readers:
    """Reads of all arrays, by a seed, and what came of them."""

    def __init__(self, url: str, seed: int, **options: Any) -> None:
        self._seed = seed
        # One that knows the indexes of its shards, and one that reads them each time.
        self._stores = [FastStore(url, **options), FastStore(url, index_cache_size=0, **options)]
        self._arrays = [
            zarr.open_array(store=store, path=path, mode="r", zarr_format=3)
            for store in self._stores
            for path in ARRAYS
        ]
        self.ends: Counter[str] = Counter()
        self._counting = threading.Lock()

    def read(self, number: int) -> None:
        """One read: the truth, or a listed error that tells."""
        dice = random.Random(f"{self._seed} {number}")
        array, part = dice.choice(self._arrays), window(dice)
        got: list[Any] = []
        error = outcome(lambda: got.append(array[part]))
        if error is None:
            assert np.array_equal(got[0], VALUES[part]), (array.path, part, self._seed, number)
        else:
            assert type(error) in LISTED, repr(error)
        with self._counting:
            self.ends["the truth" if error is None else type(error).__name__] += 1

    def close(self) -> None:
        """Let go of the connections."""
        for store in self._stores:
            store.close()


@contextlib.contextmanager
def harmed(seed: int, share: float) -> Iterator[tuple[Chaos, Readers]]:
    """A server, the proxy before it, and readers; nothing of them stays."""
    with tempfile.TemporaryDirectory() as folder, Caddy(served(Path(folder))) as server:
        with nothing_left(), Chaos(server.port, seed, 0.0, within) as proxy:
            manager = urllib3.PoolManager(maxsize=64)
            with short_timeouts(0.2) as options, reading_of(manager):
                readers = Readers(
                    proxy.url,
                    seed,
                    pool_manager=manager,
                    retries=at_once(5),
                    deadline=20.0,
                    **options,
                )
                try:
                    proxy.share = share
                    yield proxy, readers
                finally:
                    readers.close()


def run(reads: int, seed: int, share: float = 0.3) -> tuple[Counter[str], Counter[str]]:
    """So many reads: what was done to them, and what came of them."""
    with harmed(seed, share) as (proxy, readers):
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(readers.read, range(reads)):
                pass
        # A server that is well is read well.
        proxy.share = 0.0
        for number in range(50):
            before = readers.ends["the truth"]
            readers.read(number)
            assert readers.ends["the truth"] == before + 1
        readers.ends["the truth"] -= 50
        return proxy.done, readers.ends


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--share", type=float, default=0.3, help="of the replies that are harmed")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    warmed()
    began = time.monotonic()
    done, ends = run(given.reads, given.seed, given.share)
    print(f"{given.reads} reads in {time.monotonic() - began:.0f} s")
    print("harm:", ", ".join(f"{count} {kind}" for kind, count in done.most_common()))
    print("ends:", ", ".join(f"{count} {kind}" for kind, count in ends.most_common()))


if __name__ == "__main__":
    main()
