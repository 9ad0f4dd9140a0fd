"""Turns at a pool that blocks: who has none of its connections goes before those that have some."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from urllib3.exceptions import EmptyPoolError

from zfast import runtime
from zfast._core.engine import Engine
from zfast.connections.origins import Origin

__all__ = ["forget", "take_turn"]

# How long a dial waits for its turn; each retry waits again. The longer time is for an origin
# without a connection, where others have them and can be asked: one of their exchanges may take it.
_FULL_POOL_SECONDS = 0.5
_EXCHANGE_SECONDS = 10.0
_ASK_SECONDS = 0.1
_LOOK_AGAIN_SECONDS = 0.01

# (id of the pool, number of the origin), in the order in which they wait for their first one.
_line: dict[tuple[int, int], None] = {}


def take_turn(
    engine: Engine,
    origin: Origin,
    pool: Any,
    lent: Callable[[], Mapping[int, int]],
    take: Callable[[Any], None],
    meanwhile: Callable[[], None],
) -> None:
    """Take a connection out of a pool.

    Parameters
    ----------
    engine : Engine
        What lent connections idle with.
    origin : Origin
        Whom the connection is for.
    pool : HTTPConnectionPool
        The origin's pool; where it blocks, others may share it: clients with other limits, or other
        hosts where a proxy leads to both.
    lent : callable
        Gives how many of the pool's connections each origin has, by its number.
    take : callable
        Is given the connection, before anybody else looks at what is lent.
    meanwhile : callable
        Is called now and then as long as there is none.

    Raises
    ------
    EmptyPoolError
        If none came free in time.
    """
    began = asked = time.monotonic()
    place = id(pool), origin.id
    try:
        while True:
            with runtime.fork_guard:
                first = next((who for of, who in _line if of == place[0]), origin.id)
                if first == origin.id:
                    try:
                        # Waits not here, where it would keep the process from forking.
                        connection = pool._get_conn(timeout=0)
                    except EmptyPoolError:
                        pass
                    else:
                        _line.pop(place, None)
                        take(connection)
                        return
                holders = dict(lent())
                has_none = holders.pop(origin.id, 0) == 0
                if has_none:
                    _line.setdefault(place)
            now = time.monotonic()
            # Between two turns it is in the pool, and nobody holds it.
            in_line = has_none and (holders or first != origin.id)
            if now > began + (_EXCHANGE_SECONDS if in_line else _FULL_POOL_SECONDS):
                raise EmptyPoolError(pool, "Pool is empty, and a new connection can't be opened.")
            # What others have of the pool may only be idling.
            engine.release_idle(holders)
            if has_none and holders and now > asked + _ASK_SECONDS:
                asked = now
                engine.ask_back(max(holders, key=holders.__getitem__))
            meanwhile()
            time.sleep(_LOOK_AGAIN_SECONDS)
    finally:
        with runtime.fork_guard:
            _line.pop(place, None)


def forget() -> None:
    """In a forked child: nobody waits."""
    _line.clear()
