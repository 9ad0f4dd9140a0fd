"""Pool managers: the user's own, or one for each proxy that the environment names."""

from __future__ import annotations

import contextlib
import socket
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.util import ssl_ as urllib3_ssl
from urllib3.util.request import SKIP_HEADER

from zfast import runtime
from zfast.connections.trust import Trust
from zfast.errors import ConfigurationError
from zfast.proxies import Proxies, Proxy

__all__ = [
    "EnvironmentManagers",
    "Managers",
    "OwnManager",
    "PoolManager",
    "proxy_shown",
    "usual_options",
]

PoolManager = urllib3.PoolManager
urllib3_version = version("urllib3")

_POOLS = 1024
# What lies idle tells the firewalls on its way that it is in use, who forget it otherwise and say
# nothing; and of its peer's end, where that does not come.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _KEEPALIVE.items()
        if hasattr(socket, name)
    ),
]


class Options(NamedTuple):
    """What a request is made with where nobody says otherwise."""

    headers: Any
    retries: Any
    timeout: Any


def usual_options(manager: PoolManager | None) -> Options:
    """Those of a user's pool manager, None for what it was not told."""
    if manager is None:
        return Options(None, None, None)
    options = getattr(manager, "connection_pool_kw", {})
    retries, timeout = options.get("retries"), options.get("timeout")
    if retries is False:
        retries = urllib3.Retry(0, redirect=0)
    if not isinstance(timeout, (urllib3.Timeout, int, float)):
        # urllib3 has a mark of its own for "not told".
        timeout = None
    headers = {
        _text(name): _text(value)
        for name, value in (getattr(manager, "headers", None) or {}).items()
        if value != SKIP_HEADER
    }
    return Options(headers, retries, timeout)


def _text(value: Any) -> str:
    # As http.client takes them.
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class Managers(Protocol):
    """Which pool manager leads to an origin."""

    @property
    def trust(self) -> Trust | None:
        """What new connections are verified by; None where a user's manager knows."""
        ...

    def leading_to(self, scheme: str, host: str, port: int) -> PoolManager:
        """The one whose pools are dialled for this origin."""
        ...

    def renew_trust(self) -> None:
        """Have connections that are opened from here on be verified by what is trusted now."""
        ...

    def pools(self) -> set[Any]:
        """Those there are."""
        ...

    def clear(self) -> None:
        """Close what their pools hold."""
        ...

    def forget(self) -> None:
        """The same in a forked child."""
        ...


class OwnManager:
    """The user's own, as it is.

    Parameters
    ----------
    manager : urllib3.PoolManager
        A `ProxyManager` works alike.
    """

    def __init__(self, manager: PoolManager) -> None:
        self.trust = None
        self._manager = manager

    def leading_to(self, scheme: str, host: str, port: int) -> PoolManager:
        return self._manager

    def renew_trust(self) -> None:
        # The user's business.
        pass

    def pools(self) -> set[Any]:
        return _pools(self._manager)

    def clear(self) -> None:
        self._manager.clear()

    def forget(self) -> None:
        _forget(self._manager)


class EnvironmentManagers:
    """One for the origins without a proxy, and one for each proxy; for https others than for http.

    Parameters
    ----------
    proxies : Proxies
        What the environment said when the client was made.
    ca_certs : str, optional
        Path of a bundle of CA certificates to trust instead of the system's.
    **options
        Of each `urllib3.PoolManager`.

    Raises
    ------
    ConfigurationError
        If no certificate can be read from the bundle.
    """

    def __init__(self, proxies: Proxies, ca_certs: str | None = None, **options: Any) -> None:
        self.trust = Trust(ca_certs)
        self._proxies = proxies
        self._options = {"socket_options": _SOCKET_OPTIONS, **options}
        # By the kind of context that urllib3 makes, which pyOpenSSL may change; None without TLS.
        self._managers: dict[tuple[Proxy | None, Any], PoolManager] = {}

    def leading_to(self, scheme: str, host: str, port: int) -> PoolManager:
        proxy = self._proxies.leading_to(scheme, host, port)
        has_tls = scheme == "https" or (proxy is not None and proxy.url.startswith("https:"))
        key = proxy, urllib3_ssl.SSLContext if has_tls else None
        manager = self._managers.get(key)
        if manager is not None:
            return manager
        with runtime.fork_guard:
            manager = self._managers.get(key)
            if manager is None:
                options = {**self._options, **(self.trust.options() if has_tls else {})}
                manager = self._managers[key] = _manager(proxy, options)
            return manager

    def renew_trust(self) -> None:
        trust = self.trust.renewed()
        if trust is self.trust:
            return
        self.trust = trust
        # Not closed: what is open in their pools was verified, and may be in use.
        self._managers = {key: kept for key, kept in self._managers.items() if key[1] is None}

    def pools(self) -> set[Any]:
        return set().union(*map(_pools, self._managers.values()))

    def clear(self) -> None:
        for manager in self._managers.values():
            manager.clear()

    def forget(self) -> None:
        for manager in self._managers.values():
            _forget(manager)
        self._managers.clear()
        self.trust.forget()


def _pools(manager: PoolManager) -> set[Any]:
    pools: Any = manager.pools
    with contextlib.suppress(AttributeError), pools.lock:
        return set(pools._container.values())
    return set()


def _forget(manager: PoolManager) -> None:
    # A thread of the parent that was about to use the manager had its locks when the process was
    # forked, and is not here to give them back.
    pools: Any = manager.pools
    with contextlib.suppress(AttributeError):
        pools.lock._at_fork_reinit()
        for queue in [pool.pool for pool in pools._container.values()]:
            # None where its owner has closed it.
            for lock in ("mutex", "not_empty", "not_full", "all_tasks_done") if queue else ():
                getattr(queue, lock)._at_fork_reinit()
    manager.clear()


def _manager(proxy: Proxy | None, options: dict[str, Any]) -> PoolManager:
    if proxy is None:
        return urllib3.PoolManager(_POOLS, **options)
    if proxy.is_socks:
        return _socks_manager(proxy, options)
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    return urllib3.ProxyManager(
        proxy.url,
        _POOLS,
        proxy_headers=headers,
        proxy_ssl_context=options.get("ssl_context"),
        **options,
    )


def _socks_manager(proxy: Proxy, options: dict[str, Any]) -> PoolManager:
    # urllib3's module warns beside the ImportError, which would be one message too many.
    if find_spec("socks") is None:
        raise ConfigurationError(
            'the environment names a SOCKS proxy, which takes PySocks: pip install "urllib3[socks]"'
        )
    from urllib3.contrib.socks import SOCKSProxyManager

    return SOCKSProxyManager(proxy.url, proxy.user, proxy.password, _POOLS, **options)


def proxy_shown(manager: PoolManager) -> str:
    """A manager's proxy without credentials, "http proxy host:port"; "" where it has none."""
    # SOCKS is no business of the pools, and urllib3 keeps it elsewhere.
    url = str(manager.proxy or getattr(manager, "proxy_url", None) or "")
    if not url:
        return ""
    parsed = urllib3.util.parse_url(url)
    # No URL, of which an error would show no more than the scheme.
    return f"{parsed.scheme} proxy {parsed.netloc}"
