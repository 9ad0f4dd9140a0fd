"""The matrix of faults: each row a fault of a server, each face a way to read through it.

What holds of every cell: the right bytes, or the error that the row names, which says what, where
and after how many attempts; in time; and no descriptor, thread or request is left behind.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import urllib3
from few_chunks import VALUES, WAYS, opened, stored
from promises import at_once
from servers.leaks import open_descriptors, wait_until
from servers.ranged import Ranged, Result
from servers.scripted import Reply, Request, ScriptedServer
from soak import memory
from zarr.core.sync import sync

import zfast
from zfast import Client, FastStore, ZfastError, connections
from zfast.config import SETTINGS
from zfast.connections import leases
from zfast.connections.origins import origins
from zfast.errors import ConnectionFailedError, ResponseError

BODY = random.Random(1).randbytes(70_001)
DEADLINE = 20.0
# What a busy machine may add to any wait.
GRACE = 20.0
RETRIES = 2

Read = Callable[[], None]
"""Reads all that a face reads, and fails where one byte of it is wrong."""

# ------------------------------------------------------------------------------------------- faces


@dataclass(frozen=True)
class Face:
    """One way to read: what a server has for it, and how it is opened."""

    name: str
    objects: dict[str, bytes]
    open: Callable[..., tuple[Any, Read]]
    """Called with a URL and the options of a client: what has to be closed, and the read."""
    reads_anew: bool = False
    """Whether what does not fit a shard's index is taken for a new shard, once, and read anew."""

    def __str__(self) -> str:
        return self.name


_MANY = [("many/0", None), *((f"many/{i}", (i * 999, 70_000 - i)) for i in range(1, 8))]


def _get(url: str, **options: Any) -> tuple[Client, Read]:
    client = Client(url, **options)

    def read() -> None:
        assert client.get("key") == BODY

    return client, read


def _get_many(url: str, **options: Any) -> tuple[Client, Read]:
    client = Client(url, **options)
    expected = [BODY if part is None else BODY[slice(*part)] for _, part in _MANY]

    def read() -> None:
        assert client.get_many(_MANY) == expected

    return client, read


def _get_ranges(url: str, **options: Any) -> tuple[Client, Read]:
    client = Client(url, **options)
    parts = [(0, 1), (1000, 60_000), (70_000, None), (-5000, None)]

    def read() -> None:
        assert client.get_ranges("key", parts) == [BODY[slice(*part)] for part in parts]

    return client, read


def _read_into(url: str, **options: Any) -> tuple[Client, Read]:
    client = Client(url, **options)

    def read() -> None:
        into = bytearray(len(BODY) + 2)
        try:
            assert client.read_into("key", None, into) == len(BODY)
            assert into == BODY + b"\0\0"
        finally:
            # A pinned buffer would refuse.
            into.clear()

    return client, read


def _array(url: str, **options: Any) -> tuple[FastStore, Read]:
    store = FastStore(url, **options)
    array = opened(store)

    def read() -> None:
        np.testing.assert_array_equal(array[...], VALUES)

    return store, read


_KEY = {"key": BODY}
GET = Face("get", _KEY, _get)
GET_RANGES = Face("get_ranges", _KEY, _get_ranges)
READ_INTO = Face("read_into", _KEY, _read_into)
GET_MANY = Face("get_many", {key: BODY for key, _ in _MANY}, _get_many)
DIRECT, STREAMED, COMPRESSED, SHARDED, SHARDED_ANEW = (
    Face(way, stored(way), partial(_array, **way_options), reads_anew="sharded" in way)
    for way, way_options in zip(WAYS, [{}, {}, {}, {}, {"index_cache_size": 0}], strict=True)
)
"""An array in each way that the core has for it; the last reads the index of a shard every time."""


def _tried(*faces: Face) -> list[Face]:
    # Each row through every face takes minutes: two of each kind always, all where that is asked.
    return list(faces if os.environ.get("TEST_FAULTS") == "all" else faces[:2])


ARRAYS = _tried(SHARDED_ANEW, STREAMED, DIRECT, COMPRESSED, SHARDED)
FACES = _tried(
    GET_MANY, SHARDED_ANEW, GET, GET_RANGES, READ_INTO, DIRECT, STREAMED, COMPRESSED, SHARDED
)
FILLING = {str(face): face for face in (READ_INTO, DIRECT, COMPRESSED, SHARDED_ANEW)}
"""Those that read into memory that is not the engine's."""
PARTS = _tried(GET_RANGES, SHARDED_ANEW, SHARDED)
"""Those that ask for ranges alone."""
WHOLE = _tried(GET, STREAMED, READ_INTO, DIRECT, COMPRESSED)
"""Those that ask for whole objects alone."""


@contextmanager
def reading(face: Face, url: str, **options: Any) -> Iterator[Read]:
    """A face opened on connections of its own, which are closed with it."""
    manager = options.pop("pool_manager", None) or urllib3.PoolManager()
    given: dict[str, Any] = {"retries": at_once(RETRIES), "deadline": DEADLINE} | options
    closes, read = face.open(url, pool_manager=manager, **given)
    with reading_of(manager):
        try:
            yield read
        finally:
            closes.close()


@contextmanager
def reading_of(manager: urllib3.PoolManager) -> Iterator[None]:
    """Close the connections of a manager in the end, those that opened for nobody as well."""
    try:
        yield
    finally:
        give_back(manager)


def give_back(*managers: urllib3.PoolManager) -> None:
    """Have the engine keep no connection of these managers (none: of all), nor they any."""

    def given_back() -> bool:
        # A dial under way may be for nobody any more, and come in late.
        if zfast.stats()["dialling"]:
            return False
        for each in list(connections.all_connections):
            each.release_idle()
        every = [origin for origin in list(origins.values()) if origin.id in leased()]
        return not any(not managers or origin.manager in managers for origin in every)

    def leased() -> set[int]:
        return {lease.origin for lease in list(leases._leases.values())}

    wait_until(given_back)
    for manager in managers or [each.managers for each in list(connections.all_connections)]:
        manager.clear()


# -------------------------------------------------------------------------------------------- rows


Fault = Callable[[Request, Reply], Result]
"""What is done in place of the right reply to a request."""


@dataclass(frozen=True)
class Row:
    """A fault, and what it is to a reader."""

    name: str
    fault: Fault
    error: tuple[type[ZfastError], ...] = ()
    """What a read may end with when each reply is like this; where empty, the bytes are right."""
    retried: bool = True
    """Whether another attempt is made, so that one such reply alone does no harm."""
    may_pass: bool = False
    """Whether the right bytes are as good an end, where the error depends on what comes first."""

    def __str__(self) -> str:
        return self.name


def final(name: str, fault: Fault, *errors: type[ZfastError], may_pass: bool = False) -> Row:
    """A row of a fault that no other attempt would make good: a `ResponseError`, or others."""
    return Row(name, fault, errors or (ResponseError,), retried=False, may_pass=may_pass)


class Faulty:
    """Serves objects rightly, but their first or all replies with a fault once it is armed.

    Parameters
    ----------
    objects
        What it serves.
    fault
        Instead of the reply to anything but metadata.
    """

    def __init__(self, objects: dict[str, bytes], fault: Fault) -> None:
        self._serve = Ranged(dict(objects))
        self._fault = fault
        self._lock = threading.Lock()
        self._left = 0
        self.met = 0
        """How many replies were faulty."""

    def arm(self, count: int = 1 << 30) -> None:
        """From now on so many replies are faulty."""
        self._left = count

    def __call__(self, request: Request) -> Result:
        """The right reply, or the fault."""
        reply = self._serve(request)
        with self._lock:
            if self._left == 0 or request.key.endswith(".json"):
                return reply
            self._left -= 1
            self.met += 1
        return self._fault(request, reply)


@contextmanager
def short_timeouts(seconds: float = 0.3) -> Iterator[dict[str, Any]]:
    """Options, and settings, with which whatever stalls is given up soon."""
    first = "first_byte_timeout"
    with zfast.config.set({first: seconds} if first in SETTINGS else {}):
        yield {"timeout": urllib3.Timeout(connect=5.0, read=seconds)}


# ---------------------------------------------------------------------------------- what must hold


def lasting(row: Row, face: Face, **options: Any) -> None:
    """Every reply has the fault: the read ends as the row says, after as many attempts as it may.

    Once the server is well again, so is the reader.
    """
    with faced(row, face, **options) as (faulty, read):
        faulty.arm()
        error = outcome(read)
        assert faulty.met
        faulty.arm(0)
        read()
    if error is None:
        assert row.may_pass or not row.error
        return
    assert type(error) in row.error, repr(error)
    assert error.attempts == (RETRIES + 1 if row.retried else 1), repr(error)


def once(row: Row, face: Face, **options: Any) -> None:
    """One reply has the fault: it is made good, unless the row says that it is final."""
    with faced(row, face, **options) as (faulty, read):
        faulty.arm(1)
        error = outcome(read)
        assert faulty.met == 1
        read()
    if error is None:
        assert not row.error or row.retried or row.may_pass or face.reads_anew
    else:
        assert not row.retried
        assert type(error) in row.error, repr(error)


@contextmanager
def faced(row: Row, face: Face, **options: Any) -> Iterator[tuple[Faulty, Read]]:
    """A server that is well as long as it is not armed, and a read that has gone well once."""
    faulty = Faulty(face.objects, row.fault)
    with (
        nothing_left(),
        ScriptedServer(faulty, tls=options.pop("tls", None)) as server,
        reading(face, server.url, **options) as read,
    ):
        read()
        yield faulty, read


def outcome(read: Read, deadline: float = DEADLINE) -> ZfastError | None:
    """How a read ends: None, with every byte right, or an error that tells; in time."""
    began = time.monotonic()
    try:
        read()
    except ZfastError as error:
        tells(error)
        return error
    finally:
        assert time.monotonic() - began < deadline + GRACE
    return None


def grown_by_failures(name: str, url: str) -> int:
    """Bytes that this process has more after 250 failed reads than before."""
    warmed()
    with nothing_left(), reading(FILLING[name], url, retries=0) as read:
        assert type(outcome(read)) is ConnectionFailedError
        before = memory()
        for number in range(250):
            assert type(outcome(read)) is ConnectionFailedError
            # Without a GIL, what a failed read of zarr had, whatever the store, stays as garbage.
            if sysconfig.get_config_var("Py_GIL_DISABLED") and number % 10 == 0:
                gc.collect()
                _turned()
        return memory() - before


def tells(error: ZfastError) -> None:
    """The error says what, where and after how many attempts, if any, and pickles."""
    assert error.reason
    assert error.url
    assert error.key
    assert error.url in str(error)
    assert (f"after {error.attempts} attempt" in str(error)) == (error.attempts > 0)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail where a descriptor, a thread, or a request of the engine is still there in the end.

    The engine and zarr's event loop have to run already (see `warmed`).
    """
    # What earlier tests left to pools would come to light meanwhile.
    give_back()
    threads, before = _threads(), _foreign_descriptors()
    yield
    wait_until(lambda: zfast.stats()["in_flight"] == zfast.stats()["delayed"] == 0)
    wait_until(lambda: _threads() <= threads)
    if _foreign_descriptors() > before:
        # A traceback may hold what was read by.
        gc.collect()
        wait_until(lambda: _turned() and _foreign_descriptors() <= before)


def _turned() -> bool:
    # Without a GIL, a pool that zarr's loop made and others let go of stays until its next turn.
    sync(asyncio.sleep(0))
    return True


def warmed() -> None:
    """Start the engine and zarr's event loop, whose descriptors and threads stay."""
    with ScriptedServer(Ranged(dict(SHARDED.objects))) as server, reading(SHARDED, server.url) as r:
        r()


def _foreign_descriptors() -> int:
    return len(open_descriptors()) - int(zfast.stats()["connections"])


def _threads() -> set[threading.Thread]:
    # Those of zarr's event loop come with work and stay.
    pooled = ("asyncio_", "zfast-")
    return {each for each in threading.enumerate() if not each.name.startswith(pooled)}
