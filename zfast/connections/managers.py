"""Pool managers: the user's own, or one for each proxy that the environment names."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Protocol

import urllib3

from zfast.errors import ConfigurationError
from zfast.proxies import Proxies, Proxy

__all__ = ["EnvironmentManagers", "Managers", "OwnManager", "PoolManager", "proxy_shown"]

PoolManager = urllib3.PoolManager
urllib3_version = version("urllib3")

_POOLS = 1024


class Managers(Protocol):
    """Which pool manager leads to an origin."""

    def leading_to(self, scheme: str, host: str, port: int) -> PoolManager:
        """The one whose pools are dialled for this origin."""
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
        self._manager = manager

    def leading_to(self, scheme: str, host: str, port: int) -> PoolManager:
        return self._manager

    def clear(self) -> None:
        self._manager.clear()

    def forget(self) -> None:
        _forget(self._manager)


class EnvironmentManagers:
    """One for the origins without a proxy, and one for each proxy.

    Parameters
    ----------
    proxies : Proxies
        What the environment said when the client was made.
    **options
        Of each `urllib3.PoolManager`.
    """

    def __init__(self, proxies: Proxies, **options: Any) -> None:
        self._proxies = proxies
        self._options = options
        self._managers: dict[Proxy | None, PoolManager] = {}

    def leading_to(self, scheme: str, host: str, port: int) -> PoolManager:
        proxy = self._proxies.leading_to(scheme, host, port)
        manager = self._managers.get(proxy)
        if manager is None:
            manager = self._managers[proxy] = _manager(proxy, self._options)
        return manager

    def clear(self) -> None:
        for manager in self._managers.values():
            manager.clear()

    def forget(self) -> None:
        for manager in self._managers.values():
            _forget(manager)


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
    return urllib3.ProxyManager(proxy.url, _POOLS, proxy_headers=headers, **options)


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
