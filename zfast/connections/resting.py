"""Connections that lie open in pools, for nothing in particular: few, and none that has ended.

Each host's pool has room for all of them, which is more than the process has descriptors for where
it goes to many hosts. How many there are of a user's own manager is the
user's business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from urllib3.exceptions import ClosedPoolError
from urllib3.util.connection import is_connection_dropped

from zfast import runtime
from zfast.connections.managers import Managers

__all__ = ["MOST_KEPT", "clear", "drop", "forget", "keep", "put_back", "sweep", "taken"]

# Of all hosts together; fewer where descriptors are few.
MOST_KEPT = 256

# Those that came back to each pool; where one came last, last.
_kept: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()


def taken(pool: Any, connection: Any) -> bool:
    """Note that a connection was taken out of a pool; whether it had been left there open."""
    kept = _kept.get(pool, set())
    if connection not in kept:
        return False
    kept.remove(connection)
    return True


def put_back(pool: Any, connection: Any) -> bool:
    """Let a pool have one of its places back; whether an open connection was too many for it."""
    with runtime.fork_guard:
        has_room = pool.pool is not None and (pool.block or not pool.pool.full())
        too_many = not has_room and connection is not None and not connection.is_closed
        if too_many:
            # The pool would say so in the log for each.
            connection.close()
        if has_room:
            with contextlib.suppress(ClosedPoolError):
                pool._put_conn(connection)
        return too_many


def keep(pool: Any, connection: Any) -> int:
    """Leave an open connection in its pool, or close others of a pool that has rested longer.

    Returns
    -------
    int
        Connections that were closed.
    """
    with runtime.fork_guard:
        most = runtime.connection_limit(2 * MOST_KEPT) // 2
        kept = _kept.pop(pool, set())
        closed = 0
        while _kept and sum(map(len, _kept.values())) + len(kept) >= most:
            oldest = next(iter(_kept))
            # As urllib3 does with a pool that it closes; this one stays of use.
            closed += _close(oldest)
            del _kept[oldest]
        if len(kept) >= most:
            connection.close()
            closed += 1
        closed += put_back(pool, connection)
        if not connection.is_closed:
            kept.add(connection)
        # At the end: it has rested for no time.
        _kept[pool] = kept
        return closed


def sweep() -> tuple[int, bool]:
    """Close what servers have closed.

    Returns
    -------
    int
        How many that were.
    bool
        Whether others lie in pools.
    """
    closed = 0
    with runtime.fork_guard:
        for pool in list(_kept):
            closed += _close(pool, only=is_connection_dropped)
            if not _kept[pool]:
                del _kept[pool]
        return closed, bool(_kept)


def clear(managers: Managers) -> int:
    """Close what lies in the managers' pools; how many of those there were that were kept."""
    with runtime.fork_guard:
        # By itself urllib3 closes them as the pools are collected.
        closed = sum(map(drop, managers.pools()))
        managers.clear()
        return closed


def drop(pool: Any) -> int:
    """Close what lies in a pool; how many of those there were that were kept."""
    with runtime.fork_guard:
        return _close(pool) if pool in _kept else 0


def forget() -> None:
    """In a forked child: the pools are empty."""
    _kept.clear()


def _close(pool: Any, only: Callable[[Any], bool] | None = None) -> int:
    """Close those that were left open in a pool, or some of them; how many that are."""
    kept = _kept[pool]
    chosen = {connection for connection in kept if only is None or only(connection)}
    for connection in chosen:
        connection.close()
    kept -= chosen
    return len(chosen)
