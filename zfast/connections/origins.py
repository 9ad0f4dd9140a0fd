"""Origins as the engine knows them, and whose pools their connections come from."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from urllib3.util.proxy import connection_requires_http_tunnel

from zfast import runtime
from zfast._core.engine import Engine
from zfast._core.request_head import check_field_value, check_token
from zfast.config import setting
from zfast.connections import resting
from zfast.connections.managers import (
    EnvironmentManagers,
    Managers,
    OwnManager,
    PoolManager,
    proxy_shown,
)
from zfast.connections.trust import stamp_of
from zfast.errors import ConfigurationError
from zfast.locations.http import DEFAULT_PORTS
from zfast.proxies import Proxies

__all__ = ["Connections", "Origin", "all_connections", "origins", "shared", "tunnels"]

T = TypeVar("T")

_origin_ids = itertools.count(1)

# Of one set of connections: so many origins stay known as there are pools. What nobody has used for
# so long goes where there are more, and that is looked at no more often.
_MOST_ORIGINS = 1024
_REST_SECONDS = 60.0
_LOOK_SECONDS = 10.0


@dataclass(eq=False)
class Origin:
    """A connection pool's host, as the engine knows it by number.

    `proxy` is the one on the way there, as it may be shown; "" where there is none.
    """

    connections: Connections
    proxy: str
    scheme: str
    host: str
    port: int
    engine: Engine
    used_at: float = field(default_factory=time.monotonic)
    id: int = field(default_factory=lambda: next(_origin_ids))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_in_url()}:{self.port}"

    @property
    def manager(self) -> PoolManager:
        """The one that leads there now: with other certificates to trust it is another."""
        return self.connections.managers.leading_to(self.scheme, self.host, self.port)

    def pool(self) -> Any:
        """The pool; asked for anew each time, since a manager forgets those that it uses least."""
        return self.manager.connection_from_host(self.host_in_url(), self.port, self.scheme)

    def host_in_url(self) -> str:
        """The host, an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host


origins: weakref.WeakValueDictionary[int, Origin] = weakref.WeakValueDictionary()


class Connections:
    """The connections of pool managers, lent to the engine.

    Parameters
    ----------
    managers : Managers
        Whose pools are dialled.
    connect_timeout : float or None
        Seconds to open a connection.
    """

    def __init__(self, managers: Managers, connect_timeout: float | None) -> None:
        self.managers = managers
        self.connect_timeout = connect_timeout
        self._origins: dict[tuple[str, str, int], Origin] = {}
        self._look_at = 0.0
        self._ids: set[int] = set()
        all_connections.add(self)
        weakref.finalize(self, _forget_origins, self._ids).atexit = False

    def origin(self, engine: Engine, scheme: str, host: str, port: int) -> int:
        """The engine's number of an origin, which it is told of when it is new."""
        key = (scheme, host, port)
        origin = self._origins.get(key)
        if origin is not None and origin.engine is engine:
            origin.used_at = time.monotonic()
            # Who forgets it takes it out before looking at that: one of the two sees the other.
            if self._origins.get(key) is origin:
                return origin.id
        with runtime.fork_guard:
            manager = self.managers.leading_to(scheme, host, port)
        new = Origin(self, proxy_shown(manager), scheme, host, port, engine)
        # Not under the guard: a user's manager may do as it likes.
        pool = new.pool()
        with runtime.fork_guard:
            origin = self._origins.get(key)
            if origin is None or origin.engine is not engine:
                self._forget_rested(engine)
                origin = new
                self._introduce(engine, origin, pool)
                self._ids.add(origin.id)
                origins[origin.id] = origin
                self._origins[key] = origin
            origin.used_at = time.monotonic()
        return origin.id

    def _forget_rested(self, engine: Engine) -> None:
        # Under the guard.
        now = time.monotonic()
        too_many = len(self._origins) - _MOST_ORIGINS + 1
        if too_many <= 0 or now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS

        def rests(entry: tuple[Any, Origin]) -> bool:
            return entry[1].used_at <= now - _REST_SECONDS

        chosen = sorted(filter(rests, self._origins.items()), key=lambda entry: entry[1].used_at)
        del chosen[too_many:]
        for key, _ in chosen:
            del self._origins[key]
        ids = [origin.id for _, origin in filter(rests, chosen)]
        forgotten = set(engine.forget_rested(ids, _REST_SECONDS))
        self._ids -= forgotten
        # What the engine has in use, or somebody asked for just now.
        self._origins.update(entry for entry in chosen if entry[1].id not in forgotten)

    def _introduce(self, engine: Engine, origin: Origin, pool: Any) -> None:
        shown = origin.host_in_url()
        if origin.port != DEFAULT_PORTS[origin.scheme]:
            shown = f"{shown}:{origin.port}"
        authority = f"{origin.scheme}://{shown}".encode("ascii")
        fields = f"Host: {shown}\r\n".encode("ascii")
        prefix = b""
        if pool.proxy is not None:
            # Also those that go with a CONNECT: http.client would refuse one, and show its value.
            of_proxy = b"".join(_field_line(*field) for field in (pool.proxy_headers or {}).items())
            if not tunnels(pool, origin.scheme):
                # A forwarding proxy wants the whole URL (RFC 9112, 3.2.2), and to know who asks.
                prefix = authority
                fields += of_proxy
        limit = pool.pool.maxsize if pool.block and pool.pool is not None else 0
        engine.add_origin(origin.id, authority, fields, prefix, limit)

    def release_idle(self) -> None:
        """Have idle connections go back to their pools now instead of a little later."""
        engine = runtime.running()
        if engine is not None and not engine.stopped:
            known = list(self._origins.values())
            engine.release_idle([o.id for o in known if o.engine is engine])

    def forget(self) -> None:
        """In a forked child: close the parent's connections here, keep the configuration."""
        self._origins.clear()
        self._ids.clear()
        self.managers.forget()


def _forget_origins(ids: set[int]) -> None:
    # When the last client with these connections has gone, wherever it went.
    engine = runtime.running()
    if engine is not None and not engine.stopped:
        with contextlib.suppress(RuntimeError):
            engine.forget_origins(ids)


def tunnels(pool: Any, scheme: str) -> bool:
    """Whether the pool's proxy is asked for a tunnel (CONNECT) to an origin of this scheme."""
    return connection_requires_http_tunnel(pool.proxy, pool.proxy_config, scheme)


def _field_line(name: Any, value: Any) -> bytes:
    # As http.client takes them; neither may end its line. The value may be a credential, which is
    # not to be in an error's context either.
    refusal = ""
    try:
        encoded_name, encoded = (
            text if isinstance(text, bytes) else str(text).encode("latin-1")
            for text in (name, value)
        )
        check_token(encoded_name)
        check_field_value(encoded)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        raise ConfigurationError(f"header {name!r} of the proxy cannot be sent: {refusal}")
    return encoded_name + b": " + encoded + b"\r\n"


all_connections: weakref.WeakSet[Connections] = weakref.WeakSet()
# Of clients without a manager of their own: kept, since the next may have the same settings, but
# not each of as many as there are timeouts.
_shared: dict[tuple[Any, ...], Connections] = {}
_managers: dict[tuple[Any, ...], EnvironmentManagers] = {}
_MOST_SHARED = 32
# By the id of the manager, which each of them keeps alive.
_of_managers: weakref.WeakValueDictionary[tuple[int, float | None], Connections] = (
    weakref.WeakValueDictionary()
)


def shared(
    manager: PoolManager | None,
    ca_certs: str | os.PathLike[str] | None,
    connect_timeout: float | None,
) -> Connections:
    """The `Connections` of a manager, or those that all clients with these settings share.

    Parameters
    ----------
    manager : urllib3.PoolManager, optional
        The user's own.
    ca_certs : str or os.PathLike, optional
        Path of a bundle of CA certificates; the system's trust store by default.
    connect_timeout : float or None
        Seconds to open a connection.

    Notes
    -----
    Without a manager of one's own, what the environment says of proxies now holds for good.
    """
    if ca_certs is not None and not isinstance(ca_certs, str | os.PathLike):
        raise ConfigurationError(
            f"ca_certs is a {type(ca_certs).__name__}, but has to be the path of a file"
        )
    # As text, which pyOpenSSL takes alone; and one bundle has one set of connections.
    bundle = None if ca_certs is None else os.fsdecode(ca_certs)
    # A bundle or a trust store that was renewed is another one.
    stamp = stamp_of(bundle)
    if bundle is not None and not stamp:
        raise ConfigurationError(f"ca_certs is {bundle!r}, where there is no file")
    if manager is not None:
        if not isinstance(manager, PoolManager):
            raise ConfigurationError(
                f"pool_manager is a {type(manager).__name__}, but has to be a urllib3.PoolManager, "
                "such as a ProxyManager"
            )
        if bundle is not None:
            raise ConfigurationError("pass ca_certs to your own pool_manager, not beside it")
        with runtime.fork_guard:
            # One for all clients of a manager: they share what its pools allow.
            found = _of_managers.get((id(manager), connect_timeout))
            if found is None:
                found = Connections(OwnManager(manager), connect_timeout)
                _of_managers[id(manager), connect_timeout] = found
            return found
    proxies = Proxies.of_environment() if setting("trust_env") else Proxies()
    key = (bundle, stamp, proxies)
    with runtime.fork_guard:
        managers = _recent(
            _managers,
            key,
            lambda: EnvironmentManagers(proxies, bundle, maxsize=resting.MOST_KEPT),
        )
        return _recent(
            _shared, (*key, connect_timeout), lambda: Connections(managers, connect_timeout)
        )


def _recent(cache: dict[Any, T], key: Any, make: Callable[[], T]) -> T:
    found = cache.pop(key, None) or make()
    # Used last, it goes last.
    cache[key] = found
    while len(cache) > _MOST_SHARED:
        del cache[next(iter(cache))]
    return found
