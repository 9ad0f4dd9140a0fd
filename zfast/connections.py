"""The only file that knows urllib3: pools, dialling, leases, and its Retry and Timeout as numbers.

urllib3 owns every connection. Here one is opened through its pool, as the user configured it, and
leased to the engine; it comes back in a state that urllib3 can use, or closed. Of a pool's methods
for subclasses it calls `_get_conn`, `_prepare_proxy`, `_validate_conn` and `_put_conn`, as
`HTTPConnectionPool.urlopen` does.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import socket
import ssl
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    EmptyPoolError,
    HTTPError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.util.proxy import connection_requires_http_tunnel

from zfast import runtime
from zfast._core.engine import Engine
from zfast._core.request_head import check_target
from zfast._core.types import Method, Status
from zfast.config import setting
from zfast.errors import ConfigurationError
from zfast.locations.http import HTTPLocation
from zfast.relay import Relay

__all__ = [
    "Connections",
    "PoolManager",
    "Retries",
    "Timeouts",
    "credential_fields",
    "retry_numbers",
    "retry_statuses",
    "shared",
    "timeouts",
]

PoolManager = urllib3.PoolManager
urllib3_version = version("urllib3")
Retries = urllib3.Retry | int | None
Timeouts = urllib3.Timeout | float | None

_log = logging.getLogger("zfast")

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_POOLS = 1024
# How long a dial waits for its turn at a pool that blocks; each retry waits again.
_FULL_POOL_SECONDS = 0.5
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


# --------------------------------------------------------------------------------- urllib3's values


def _retry(retries: Any) -> urllib3.Retry:
    if isinstance(retries, urllib3.Retry):
        return retries
    if retries is None:
        total = setting("max_attempts") - 1
    elif isinstance(retries, int):
        total = max(int(retries), 0)
    else:
        raise ConfigurationError(
            f"retries={retries!r}: pass a urllib3.Retry, a number of retries, or None"
        )
    return urllib3.Retry(
        total,
        status_forcelist=_RETRIED,
        backoff_factor=setting("backoff_factor"),
        backoff_max=setting("backoff_max"),
        backoff_jitter=setting("backoff_jitter"),
    )


def _count(value: Any) -> int:
    if value is None:
        return -1
    return 0 if value is False else int(value)


def retry_numbers(retries: Retries) -> dict[str, Any]:
    """What the engine needs of a `urllib3.Retry`, as numbers; None of urllib3 becomes -1.

    Parameters
    ----------
    retries : urllib3.Retry, int or None
        None takes the settings' attempts and backoff.
    """
    retry = _retry(retries)
    methods = 0
    for method in Method:
        if retry._is_method_retryable(method.name):
            methods |= 1 << method
    redirects = retry.redirect
    return {
        "total": _count(retry.total),
        "connect": _count(retry.connect),
        "read": _count(retry.read),
        "status": _count(retry.status),
        "other": _count(retry.other),
        "redirects": setting("max_redirects") if redirects is None else _count(redirects),
        "backoff_factor": float(retry.backoff_factor),
        "backoff_max": float(retry.backoff_max),
        "backoff_jitter": float(retry.backoff_jitter),
        "retry_after_max": float(getattr(retry, "retry_after_max", 21600)),
        "respect_retry_after": bool(retry.respect_retry_after_header),
        "methods": methods,
    }


def retry_statuses(retries: Retries) -> frozenset[int]:
    """The HTTP statuses worth another attempt: `status_forcelist`, or the default where empty."""
    return frozenset(_retry(retries).status_forcelist or _RETRIED)


def credential_fields(retries: Retries) -> frozenset[str]:
    """Names, in lower case, of the fields that must not follow a redirect to another origin."""
    return frozenset(name.lower() for name in _retry(retries).remove_headers_on_redirect)


def timeouts(timeout: Timeouts) -> tuple[float | None, float | None]:
    """Seconds to open a connection and seconds without progress, None for no limit.

    Parameters
    ----------
    timeout : urllib3.Timeout, float or None
        A number stands for both; None takes the settings'.
    """
    if timeout is None:
        return setting("connect_timeout"), setting("read_timeout")
    if not isinstance(timeout, urllib3.Timeout):
        return (
            setting("connect_timeout", timeout),
            setting("read_timeout", timeout),
        )
    # With a total, urllib3 tells the limit for reading only once the clock of connecting runs.
    running = timeout.clone()
    running.start_connect()
    limits = []
    for limit in (timeout.connect_timeout, running.read_timeout):
        limits.append(limit if isinstance(limit, (int, float)) else socket.getdefaulttimeout())
    return limits[0], limits[1]


# ---------------------------------------------------------------------------------- pools, origins


_origin_ids = itertools.count(1)
_lease_ids = itertools.count(1)


@dataclass(eq=False)
class _Origin:
    """A connection pool's host, as the engine knows it by number."""

    connections: Connections
    scheme: str
    host: str
    port: int
    engine: Engine
    id: int = field(default_factory=lambda: next(_origin_ids))

    def shares_pool_with(self, other: _Origin) -> bool:
        """Whether both lead to the same pool, on behalf of different clients."""
        return (
            self is not other
            and self.engine is other.engine
            and self.connections.manager is other.connections.manager
            and (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
        )

    def pool(self) -> Any:
        # Asked for anew each time: the manager forgets the pools that it uses least.
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.connections.manager.connection_from_host(host, self.port, self.scheme)


@dataclass(eq=False)
class _Lease:
    """A connection that the engine has; `far` is its end of the relay, where there is one."""

    origin: int
    pool: Any
    connection: Any
    far: socket.socket | None = None


_origins: weakref.WeakValueDictionary[int, _Origin] = weakref.WeakValueDictionary()
_leases: dict[int, _Lease] = {}
_relay: Relay | None = None
_relayed = 0


def relayed() -> int:
    """How many connections took the way through Python so far."""
    return _relayed


class Connections:
    """The connections of a `urllib3.PoolManager`, lent to the engine.

    Parameters
    ----------
    manager : urllib3.PoolManager
        Whose pools are dialled; a `ProxyManager` works alike.
    connect_timeout : float or None
        Seconds to open a connection.
    """

    def __init__(self, manager: urllib3.PoolManager, connect_timeout: float | None) -> None:
        self.manager = manager
        self.connect_timeout = connect_timeout
        self._origins: dict[tuple[str, str, int], _Origin] = {}
        _all.add(self)

    def origin(self, engine: Engine, scheme: str, host: str, port: int) -> int:
        """The engine's number of an origin, which it is told of when it is new."""
        key = (scheme, host, port)
        origin = self._origins.get(key)
        if origin is not None and origin.engine is engine:
            return origin.id
        with runtime.fork_guard:
            origin = self._origins.get(key)
            if origin is None or origin.engine is not engine:
                origin = _Origin(self, scheme, host, port, engine)
                self._introduce(engine, origin)
                _origins[origin.id] = origin
                self._origins[key] = origin
        return origin.id

    def _introduce(self, engine: Engine, origin: _Origin) -> None:
        shown = f"[{origin.host}]" if ":" in origin.host else origin.host
        if origin.port != {"http": 80, "https": 443}[origin.scheme]:
            shown = f"{shown}:{origin.port}"
        authority = f"{origin.scheme}://{shown}".encode("ascii")
        fields = f"Host: {shown}\r\n".encode("ascii")
        prefix = b""
        pool = origin.pool()
        if pool.proxy is not None and not _tunnels(pool, origin.scheme):
            # A forwarding proxy wants the whole URL (RFC 9112, 3.2.2), and to know who asks.
            prefix = authority
            for name, value in (pool.proxy_headers or {}).items():
                fields += f"{name}: {value}\r\n".encode("latin-1")
        limit = pool.pool.maxsize if pool.block and pool.pool is not None else 0
        engine.add_origin(origin.id, authority, fields, prefix, limit)

    def release_idle(self) -> None:
        """Have idle connections go back to their pools now instead of a little later."""
        engine = runtime.running()
        if engine is not None and not engine.stopped:
            origins = list(self._origins.values())
            engine.release_idle([o.id for o in origins if o.engine is engine])

    def forget(self) -> None:
        """In a forked child: close the parent's connections here, keep the configuration."""
        self._origins.clear()
        self.manager.clear()


_all: weakref.WeakSet[Connections] = weakref.WeakSet()
_shared: dict[tuple[Any, ...], Connections] = {}
# By the id of the manager, which each of them keeps alive.
_of_managers: weakref.WeakValueDictionary[tuple[int, float | None], Connections] = (
    weakref.WeakValueDictionary()
)


def shared(
    manager: urllib3.PoolManager | None, ca_certs: str | None, connect_timeout: float | None
) -> Connections:
    """The `Connections` of a manager, or those that all clients with these settings share.

    Parameters
    ----------
    manager : urllib3.PoolManager, optional
        The user's own.
    ca_certs : str, optional
        Path of a bundle of CA certificates; the system's trust store by default.
    connect_timeout : float or None
        Seconds to open a connection.
    """
    if manager is not None:
        if ca_certs is not None:
            raise ConfigurationError("pass ca_certs to your own pool_manager, not beside it")
        with runtime.fork_guard:
            # One for all clients of a manager: they share what its pools allow.
            found = _of_managers.get((id(manager), connect_timeout))
            if found is None:
                found = Connections(manager, connect_timeout)
                _of_managers[id(manager), connect_timeout] = found
            return found
    key = (ca_certs, connect_timeout)
    with runtime.fork_guard:
        if key not in _shared:
            options: dict[str, Any] = {"ca_certs": ca_certs} if ca_certs is not None else {}
            _shared[key] = Connections(
                urllib3.PoolManager(_POOLS, maxsize=setting("max_concurrency"), **options),
                connect_timeout,
            )
        return _shared[key]


# ----------------------------------------------------------------------------------------- dialling


def _tunnels(pool: Any, scheme: str) -> bool:
    return connection_requires_http_tunnel(pool.proxy, pool.proxy_config, scheme)


def _open(pool: Any, connection: Any, scheme: str, connect_timeout: float | None) -> None:
    # As HTTPConnectionPool.urlopen does before it sends a request.
    connection.timeout = connect_timeout
    if connection.is_closed and pool.proxy is not None and _tunnels(pool, scheme):
        pool._prepare_proxy(connection)
    pool._validate_conn(connection)
    if connection.is_closed:
        connection.connect()


def _dial(engine: Engine, origin_id: int) -> None:
    origin = _origins.get(origin_id)
    if origin is None:
        engine.dial_failed(origin_id, Status.CONNECT_FAILED, 0, False, b"the client is closed")
        return
    pool = connection = None
    try:
        with runtime.fork_guard:
            pool = origin.pool()
        connection = _connection_of(engine, origin, pool)
        used = not connection.is_closed
        _open(pool, connection, origin.scheme, origin.connections.connect_timeout)
        _lend(engine, origin_id, pool, connection, used)
    except BaseException as error:
        code, number, detail = _explain(error)
        text = detail.encode(errors="replace")
        try:
            if connection is not None:
                connection.close()
                _put_back(pool, connection)
            if number in _NO_DESCRIPTOR:
                # Those that wait in pools for nothing in particular are worth less than this one.
                with runtime.fork_guard:
                    origin.connections.manager.clear()
        finally:
            # Whatever else goes wrong, the engine hears of it: a request waits for the answer.
            with contextlib.suppress(RuntimeError):
                engine.dial_failed(
                    origin_id,
                    code,
                    number,
                    number in _NO_DESCRIPTOR,
                    text,
                )
        if not isinstance(error, (OSError, HTTPError, RuntimeError)):
            raise


def _connection_of(engine: Engine, origin: _Origin, pool: Any) -> Any:
    deadline = time.monotonic() + _FULL_POOL_SECONDS
    while True:
        try:
            with runtime.fork_guard:
                # Waits not here, where it would keep the process from forking.
                return pool._get_conn(timeout=0)
        except EmptyPoolError:
            if time.monotonic() > deadline:
                raise
        # What the pool has lent may only be idling with the engine, for another client of it.
        engine.release_idle([o.id for o in list(_origins.values()) if o.shares_pool_with(origin)])
        time.sleep(0.01)


def _lend(engine: Engine, origin_id: int, pool: Any, connection: Any, used: bool) -> None:
    global _relay, _relayed
    lease_id = next(_lease_ids)
    lease = _Lease(origin_id, pool, connection)
    sock: Any = connection.sock
    sock.settimeout(0)
    with runtime.fork_guard:
        _leases[lease_id] = lease
    try:
        if not isinstance(sock, socket.socket) or isinstance(sock, ssl.SSLSocket):
            if not _relayed:
                _log.info("TLS goes through Python's ssl module, with the GIL: slower than http")
            tls: Any = sock
            # A stream cut without close_notify must not look like one that ended.
            tls.suppress_ragged_eofs = False
            with runtime.fork_guard:
                _relay = _relay or Relay()
                _relayed += 1
            sock = lease.far = _relay.attach(lease_id, tls, lambda: engine.believe_end(lease_id))
        engine.adopt(lease_id, origin_id, sock.fileno(), used, lease.far is None)
    except BaseException:
        _take_back(lease_id)
        raise


def _explain(error: BaseException) -> tuple[Status, int, str]:
    chain = list(_causes(error))
    number = next((e.errno for e in chain if isinstance(e, OSError) and e.errno), 0)
    detail = str(error) or type(error).__name__
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in chain):
        return Status.TLS_FAILED, 0, detail
    if isinstance(error, (ConnectTimeoutError, TimeoutError)) and not isinstance(
        error, NewConnectionError
    ):
        return Status.CONNECT_TIMEOUT, number, detail
    if isinstance(error, EmptyPoolError):
        return Status.CONNECT_FAILED, 0, "every connection of the pool is in use elsewhere"
    if isinstance(error, (SSLError, ssl.SSLError, ProxyError)):
        return Status.CONNECT_FAILED, 0, detail
    return Status.CONNECT_FAILED, number, detail


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ------------------------------------------------------------------------------------ giving back


def _put_back(pool: Any, connection: Any) -> None:
    with runtime.fork_guard:
        if pool.pool is None or (not pool.block and pool.pool.full()):
            # The pool keeps fewer than were lent; it would say so in the log for each.
            connection.close()
            return
        with contextlib.suppress(ClosedPoolError):
            pool._put_conn(connection)


def _take_back(lease_id: int) -> _Lease | None:
    with runtime.fork_guard:
        lease = _leases.pop(lease_id, None)
    if lease is not None and lease.far is not None:
        assert _relay is not None
        _relay.detach(lease_id)
        lease.far.close()
        if lease.connection.sock is not None:
            lease.connection.sock.suppress_ragged_eofs = True
    return lease


def _redirect(engine: Engine, batch_id: int, index: int) -> None:
    found = engine.redirection(batch_id, index)
    if found is None:
        return
    target, location, authority, origin_id = found
    origin = _origins.get(origin_id)
    try:
        if origin is None:
            raise ConfigurationError("the client is closed")
        base = f"{authority.decode()}{target.decode()}"
        url = urljoin(base, location.decode("utf-8", "surrogateescape"))
        place = HTTPLocation(url.partition("#")[0])
        new_target = place.target("")
        check_target(new_target)
        new_origin = origin.connections.origin(engine, place.scheme, place.host, place.port)
    except Exception as error:
        # A user's pool manager may raise anything, and the request waits for an answer.
        _log.warning("a redirect cannot be followed: %s", error)
        engine.redirect(batch_id, index, -1, b"", False)
    else:
        engine.redirect(batch_id, index, new_origin, new_target, new_origin != origin_id)


def _serve(engine: Engine, kind: str, id: int, index: int) -> None:
    if kind == "dial":
        _dial(engine, id)
    elif kind == "redirect":
        _redirect(engine, id, index)
    else:
        lease = _take_back(id)
        if lease is not None:
            try:
                if kind == "close":
                    lease.connection.close()
                _put_back(lease.pool, lease.connection)
            finally:
                engine.left(lease.origin)


def _forget() -> None:
    global _relay
    if _relay is not None:
        _relay.forget()
        _relay = None
    for lease in _leases.values():
        if lease.far is not None:
            lease.far.close()
        lease.connection.close()
    _leases.clear()
    for connections in list(_all):
        connections.forget()


runtime.serve_with(_serve)
runtime.on_fork(_forget)
