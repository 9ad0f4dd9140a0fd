"""Which certificates https is verified by, and whether the files that hold them have changed."""

from __future__ import annotations

import os
import ssl
import stat
import weakref
from collections.abc import Iterable
from typing import Any

from urllib3.util import ssl_ as urllib3_ssl
from urllib3.util.ssl_ import ALPN_PROTOCOLS, create_urllib3_context

from zfast.errors import ConfigurationError

__all__ = ["Trust", "stamp_of"]

Stamp = tuple[tuple[str | int, ...], ...]


class Trust:
    """The CA certificates of a bundle, or of the system, as they were when they were read.

    Parameters
    ----------
    ca_certs : str, optional
        Path of the bundle; the system's trust store by default.

    Raises
    ------
    ConfigurationError
        If no certificate can be read from the bundle.
    """

    def __init__(self, ca_certs: str | None) -> None:
        # Before they are read: what is written meanwhile is another state.
        self.stamp = stamp_of(ca_certs)
        self._ca_certs = ca_certs
        self._unreadable: Stamp | None = None
        # By the kind of context that urllib3 makes, which pyOpenSSL may change.
        self._options: dict[Any, dict[str, Any]] = {}
        if ca_certs is not None:
            # At once: the client that is being made names it.
            self.options()

    def options(self) -> dict[str, Any]:
        """What a `PoolManager` is told of it."""
        kind = urllib3_ssl.SSLContext
        if kind not in self._options:
            self._options[kind] = _options(self._ca_certs)
        return self._options[kind]

    def renewed(self) -> Trust:
        """What the same files hold now: itself where they have not changed, or cannot be read."""
        stamp = stamp_of(self._ca_certs)
        if stamp in (self.stamp, self._unreadable):
            return self
        try:
            return Trust(self._ca_certs)
        except ConfigurationError:
            # One that is being written, or has gone: not to be read anew for each connection.
            self._unreadable = stamp
            return self

    def forget(self) -> None:
        """In a forked child: a thread of the parent that was at a handshake had a context's locks.

        One of another `Trust` as well, which this one has followed.
        """
        _abandoned.update(_contexts)
        self._options.clear()


def stamp_of(ca_certs: str | None) -> Stamp:
    """What tells one state of the trusted certificates from another, without reading them.

    Parameters
    ----------
    ca_certs : str, optional
        Path of a bundle; by default what OpenSSL takes for the system's trust store, as the
        environment says now.

    Returns
    -------
    tuple
        Empty where there is no file.
    """
    if ca_certs is not None:
        return _stamps(ca_certs, stat.S_ISREG)
    system = ssl.get_default_verify_paths()
    bundle = os.environ.get(system.openssl_cafile_env, system.openssl_cafile)
    folders = os.environ.get(system.openssl_capath_env, system.openssl_capath).split(os.pathsep)
    found = _stamps(bundle, stat.S_ISREG)
    for folder in folders:
        found += _stamps(folder, stat.S_ISDIR)
    return found


def _stamps(path: str, is_of_kind: Any) -> Stamp:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    if not is_of_kind(found.st_mode):
        return ()
    return ((path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns),)


_contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
# In a child: those of the parent's, of which nothing may run, not even a destructor.
_abandoned: set[ssl.SSLContext] = set()


def _options(ca_certs: str | None) -> dict[str, Any]:
    # By itself urllib3 makes a context for each connection, and reads all certificates anew: a
    # bundle of the usual size takes 20 ms of a core each time, and the first read of 200 chunks
    # over https took seven times as long by that.
    try:
        context = create_urllib3_context()
        if type(context) is not ssl.SSLContext or type(context).__module__ != "ssl":
            raise TypeError("pyOpenSSL, or another library in place of Python's ssl")
        if ca_certs is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca_certs)
        context.set_alpn_protocols(ALPN_PROTOCOLS)
    except OSError as error:
        if ca_certs is None:
            # urllib3 finds out as well, and has words for it.
            return {}
        raise ConfigurationError(
            f"ca_certs is {ca_certs!r}, where no certificate can be read: {error}"
        ) from None
    except TypeError:
        return {} if ca_certs is None else {"ca_certs": ca_certs}

    def keep_alpn_protocols(protocols: Iterable[str]) -> None:
        # urllib3 sets them for each connection, while OpenSSL copies them to another thread's.
        pass

    vars(context)["set_alpn_protocols"] = keep_alpn_protocols
    _contexts.add(context)
    return {"ssl_context": context}
