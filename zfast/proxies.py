"""Which proxy the environment names for an origin; knows no urllib3, opens nothing."""

from __future__ import annotations

import base64
import contextlib
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined, unused-ignore]
    getproxies_environment,
    proxy_bypass_environment,
)

from zfast.errors import ConfigurationError

__all__ = ["Proxies", "Proxy"]

_HTTP = frozenset({"http", "https"})
_SOCKS = frozenset({"socks4", "socks4a", "socks5", "socks5h"})
_HOST = re.compile(r"[A-Za-z0-9._~\-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._~\-]+)?")


@dataclass(frozen=True)
class Proxy:
    """A proxy, its credentials apart from what may be shown."""

    url: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS instead of HTTP."""
        return self.url.partition(":")[0] in _SOCKS

    @property
    def authorization(self) -> str | None:
        """The value of a Proxy-Authorization field (RFC 7617)."""
        if self.user is None:
            return None
        userinfo = f"{self.user}:{self.password or ''}"
        return f"Basic {base64.b64encode(userinfo.encode()).decode()}"


@dataclass(frozen=True)
class Proxies:
    """What the variables ``*_proxy`` said at one moment, hashable.

    In lower case a variable goes before its twin in upper case; what a CGI script finds in
    HTTP_PROXY is a field of somebody's request, and no proxy.
    """

    _named: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of_environment(cls) -> Proxies:
        """The proxies that the environment names now."""
        named = getproxies_environment()
        used = ("http", "https", "all", "no")
        return cls(tuple((name, named[name]) for name in used if named.get(name)))

    def leading_to(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for an origin, None where there is none between.

        Raises
        ------
        ConfigurationError
            If the variable that counts does not name a proxy that zfast can use.
        """
        named = dict(self._named)
        # Some programs want an IPv6 address in brackets there, others want none.
        forms = (host, f"[{host}]") if ":" in host else (host,)
        if any(proxy_bypass_environment(f"{form}:{port}", named) for form in forms):
            return None
        for variable in (scheme, "all"):
            if variable in named:
                return _parsed(named[variable].strip(), f"{variable.upper()}_PROXY")
        return None


def _parsed(text: str, variable: str) -> Proxy:
    # Nothing of the text is shown: it may be a password from end to end.
    found = None
    with contextlib.suppress(ValueError):
        parts = urlsplit(text if "://" in text else f"http://{text}")
        found = parts.hostname, parts.port
    if found is None:
        # Not while Python's own error is handled, which shows the text.
        raise _refusal(variable)
    host, port = found
    scheme = parts.scheme
    if scheme not in _HTTP | _SOCKS:
        raise ConfigurationError(
            f"{variable} in the environment names a proxy by another scheme than "
            f"{', '.join(sorted(_HTTP | _SOCKS))}"
        )
    if not host or not _HOST.fullmatch(host) or port == 0:
        raise _refusal(variable)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _refusal(variable)
    shown = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{shown}" if port is None else f"{scheme}://{shown}:{port}"
    userinfo, at, _ = parts.netloc.rpartition("@")
    if not at or not userinfo:
        return Proxy(url)
    user, colon, password = userinfo.partition(":")
    return Proxy(url, unquote(user), unquote(password) if colon else None)


def _refusal(variable: str) -> ConfigurationError:
    return ConfigurationError(
        f"{variable} in the environment is no URL of a proxy; write one like http://proxy:3128 "
        "with user:password@ before the host if it asks for them, and percent-encode what these "
        "have of : / ? # [ ] @"
    )
