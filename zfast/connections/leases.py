"""Leases: connections dialled for the engine, lent to it, and given back to their pools.

A pool's `_get_conn` and `_put_conn` are called as `HTTPConnectionPool.urlopen` calls them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import ssl
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urljoin

from urllib3.exceptions import HTTPError, SSLError
from urllib3.util.ssl_match_hostname import CertificateError

from zfast import runtime
from zfast._core.calls import Calls
from zfast._core.request_head import check_target
from zfast._core.tls_sessions import session_of, unavailable
from zfast._core.types import Status
from zfast.config import setting
from zfast.connections import opening, resting, turns
from zfast.connections.managers import OwnManager
from zfast.connections.opening import (
    NO_DESCRIPTOR,
    addresses,
    close_unless_idle,
    open_connection,
)
from zfast.connections.origins import Origin, all_connections, origins
from zfast.connections.relay import Relay
from zfast.connections.sessions import session_over
from zfast.connections.trust import Trust
from zfast.errors import ConfigurationError, shortened, without_secrets
from zfast.locations.http import HTTPLocation

__all__ = ["relayed", "tls_fallback"]

_log = logging.getLogger("zfast")

_lease_ids = itertools.count(1)

# How a connection ended: see `Calls.next`.
_BROKE, _SILENT = 1, 2


@dataclass(eq=False)
class _Lease:
    """A connection out of its pool: about to be opened, with the engine, or on its way back.

    `own` says that the pool is of a user's manager, and `rested` that the connection had been left
    open there; `address` is where the connection leads, as
    `addresses` counts it, a proxy's where there is one, and `of_several` whether the host has
    others; `far` is its end of the relay, if any.
    """

    origin: int
    pool: Any
    connection: Any
    own: bool
    rested: bool
    address: str = ""
    of_several: bool = False
    far: socket.socket | None = None


_leases: dict[int, _Lease] = {}
_relay: Relay | None = None
_relayed = 0
_relayed_for = ""


def relayed() -> tuple[int, str]:
    """How many connections took the way through Python so far, and why the last one did."""
    return _relayed, _relayed_for


# ----------------------------------------------------------------------------------------- dialling


def _dial(calls: Calls, origin_id: int) -> None:
    origin = origins.get(origin_id)
    if origin is None:
        calls.dial_failed(origin_id, Status.CONNECT_FAILED, 0, False, b"the client is closed")
        return
    try:
        _connect_as_trusted(calls, origin)
    except BaseException as error:
        code, number, detail = Status.CONNECT_FAILED, 0, type(error).__name__
        try:
            code, number, detail = opening.explain(error)
            if origin.proxy:
                detail = f"through the {origin.proxy}: {detail}"
            if number in NO_DESCRIPTOR:
                # Those that wait in pools for nothing in particular are worth less than this one.
                calls.count_closed(resting.clear(origin.connections.managers))
        finally:
            # Whatever else goes wrong, the engine hears of it: a request waits for the answer.
            with contextlib.suppress(RuntimeError):
                calls.dial_failed(
                    origin_id,
                    code,
                    number,
                    number in NO_DESCRIPTOR,
                    detail.encode(errors="replace"),
                )
        # Last, here and elsewhere: a handler of the program's may raise.
        _log.debug("no connection to %s: %s", origin, without_secrets(detail))
        if not isinstance(
            error, (OSError, HTTPError, HTTPException, CertificateError, RuntimeError)
        ):
            raise


def _connect_as_trusted(calls: Calls, origin: Origin) -> None:
    trust = origin.connections.managers.trust
    try:
        _connect(calls, origin)
    except Exception as error:
        if not (opening.distrusts(error) and _has_other_trust(origin, trust)):
            raise
    else:
        return
    _connect(calls, origin)


def _connect(calls: Calls, origin: Origin) -> None:
    lease_id = next(_lease_ids)
    try:
        _borrow(calls, lease_id, origin)
        lease = _leases[lease_id]
        close_unless_idle(lease.connection)
        used = not lease.connection.is_closed
        if lease.rested and not used:
            calls.count_closed(1)
        timeout = origin.connections.connect_timeout
        lease.address, lease.of_several = open_connection(
            lease.pool, lease.connection, origin.scheme, timeout
        )
        _lend(calls, lease_id, lease, used)
    except BaseException:
        _return(lease_id, reusable=False)
        raise


def _has_other_trust(origin: Origin, trust: Trust | None) -> bool:
    managers = origin.connections.managers
    with runtime.fork_guard:
        managers.renew_trust()
        return managers.trust is not trust


def _borrow(calls: Calls, lease_id: int, origin: Origin) -> None:
    # Not under the guard, as wherever a user's manager is asked: it may do as it likes.
    pool = origin.pool()
    own = isinstance(origin.connections.managers, OwnManager)

    def take(connection: Any) -> None:
        rested = resting.taken(pool, connection)
        _leases[lease_id] = _Lease(origin.id, pool, connection, own, rested)

    def lent() -> Counter[int]:
        return Counter(lease.origin for lease in _leases.values() if lease.pool is pool)

    def meanwhile() -> None:
        # The connection may have to be given back by this very thread.
        while (call := calls.next_at_once()) is not None:
            try:
                _serve(calls, *call)
            except BaseException:
                runtime.report("serving the engine's call %r failed", call[0])

    turns.take_turn(calls.engine, origin, pool, lent, take, meanwhile)


def _lend(calls: Calls, lease_id: int, lease: _Lease, used: bool) -> None:
    sock: Any = lease.connection.sock
    session = 0
    sock.settimeout(0)
    if not isinstance(sock, socket.socket) or (
        isinstance(sock, ssl.SSLSocket) or _has_own_ways(sock, socket.socket)
    ):
        session, why = _session_of(sock)
        if why:
            sock = lease.far = _attach(calls, lease_id, sock, why)
    calls.adopt(
        lease_id,
        lease.origin,
        sock.fileno(),
        used,
        lease.far is None,
        session,
        (zlib.crc32(lease.address.encode()) or 1) if lease.of_several else 0,
    )
    if lease.far is not None:
        # Not before there is somebody to be told of the session's end.
        assert _relay is not None
        _relay.begin(lease_id)


def tls_fallback() -> str:
    """Why TLS goes through Python from here on, "" where the engine uses the sessions itself."""
    return "the setting tls is 'python'" if setting("tls") == "python" else unavailable()


def _session_of(sock: Any) -> tuple[int, str]:
    why = tls_fallback()
    if not why and isinstance(sock, ssl.SSLSocket) and _has_own_ways(sock, ssl.SSLSocket):
        why = f"a {type(sock).__name__} sends and receives in its own way"
    return (0, why) if why else session_of(sock)


# What urllib3 sends and receives by, and what the relay does in its place.
_WAYS = {"sendall": "send", "recv_into": "recv", "makefile": "recv"}


def _has_own_ways(sock: Any, kind: type) -> bool:
    # Who overrides what urllib3 uses may encrypt. PySocks does not.
    overridden = {
        name
        for name in {*_WAYS, *_WAYS.values()}
        if getattr(type(sock), name) is not getattr(kind, name)
    }
    for name in overridden & _WAYS.keys():
        if _WAYS[name] not in overridden:
            raise SSLError(
                f"a {type(sock).__name__} has {name} of its own, and no {_WAYS[name]} to read and "
                "write by without waiting"
            )
    return not overridden.isdisjoint(_WAYS)


def _attach(calls: Calls, lease_id: int, tls: Any, why: str) -> socket.socket:
    global _relay, _relayed, _relayed_for
    if not _relayed:
        _log.info(
            "TLS goes through Python's ssl module, with the GIL, and slower than it could: %s", why
        )
    # A stream cut without close_notify must not look like one that ended.
    _suppress_ragged_eofs(tls, False)
    with runtime.fork_guard:
        _relay = _relay or Relay()
        _relayed += 1
        _relayed_for = why
    return _relay.attach(lease_id, session_over(tls), calls)


# ------------------------------------------------------------------------------------ giving back


def _discard(lease: _Lease) -> None:
    closed = None
    try:
        lease.connection.close()
        closed = lease.connection
    finally:
        # What cannot be closed has had its place in the pool all the same.
        resting.put_back(lease.pool, closed)


def _return(lease_id: int, *, reusable: bool) -> int:
    """Have a connection be its pool's again, whose own it is until then.

    Returns
    -------
    int
        Connections that were closed, of which the engine does not know.
    """
    lease = _leases.get(lease_id)
    if lease is None:
        return 0
    try:
        rests = False
        try:
            rests = _end_relaying(lease_id, lease)
        finally:
            if not (rests and reusable):
                _discard(lease)
        if not reusable:
            return 0
        if not rests:
            return 1
        pool, connection = lease.pool, lease.connection
        if lease.own or connection.is_closed:
            return resting.put_back(pool, connection)
        return resting.keep(pool, connection)
    finally:
        with runtime.fork_guard:
            _leases.pop(lease_id, None)
            if lease.address:
                addresses.drop(lease.address)


def _end_relaying(lease_id: int, lease: _Lease) -> bool:
    """Whether the connection is fit for somebody else, as one is that was not relayed."""
    if lease.far is None:
        return True
    assert _relay is not None
    # Half a request, or an answer to none, is nothing for whoever is next.
    rests = _relay.detach(lease_id)
    try:
        rests = rests and not lease.far.recv(1)
    except OSError:
        rests = False
    lease.far.close()
    if lease.connection.sock is not None:
        _suppress_ragged_eofs(lease.connection.sock, True)
    return rests


def _suppress_ragged_eofs(tls: Any, suppress: bool) -> None:
    # Who is not of Python's ssl need not have a place for it.
    with contextlib.suppress(AttributeError):
        tls.suppress_ragged_eofs = suppress


def _redirect(calls: Calls, batch_id: int, index: int) -> None:
    found = calls.redirection(batch_id, index)
    if found is None:
        return
    target, location, authority, origin_id = found
    origin = origins.get(origin_id)
    try:
        if origin is None:
            raise ConfigurationError("the client is closed")
        base = f"{authority.decode()}{target.decode()}"
        url = urljoin(base, location.decode("utf-8", "surrogateescape"))
        there = HTTPLocation(url.partition("#")[0])
        new_target = there.target("")
        check_target(new_target)
        new_origin = origin.connections.origin(calls.engine, there.scheme, there.host, there.port)
    except BaseException as error:
        # A user's pool manager may raise anything, and the request waits for an answer.
        # Of a URL that is none, Python's own errors may show the password.
        told = type(error).__name__
        if isinstance(error, ConfigurationError):
            told = str(error)
        elif isinstance(error, ValueError):
            told = "its Location is no URL"
        told = shortened(told)
        calls.redirect(batch_id, index, -1, b"", False, told.encode(errors="replace"))
        _log.warning("a redirect cannot be followed: %s", told)
    else:
        calls.redirect(batch_id, index, new_origin, new_target, new_origin != origin_id)


def _serve(calls: Calls, kind: str, id: int, index: int) -> None:
    if kind == "dial":
        _dial(calls, id)
    elif kind == "redirect":
        _redirect(calls, id, index)
    elif kind == "sweep":
        calls.swept(*resting.sweep())
    elif (lease := _leases.get(id)) is not None:
        broke, silent = (kind == "close" and bool(index & bit) for bit in (_BROKE, _SILENT))
        closed = 0
        try:
            # At exit urllib3 may have closed what is in its pools before.
            closed = _return(id, reusable=kind != "close" and not calls.engine.stopped)
            if silent:
                # A firewall on the way has forgotten what lay idle, or the address leads nowhere.
                closed += resting.drop(lease.pool)
        finally:
            if broke:
                # Others of the host's addresses go first for a while.
                with runtime.fork_guard:
                    addresses.failed(lease.address, time.monotonic())
            calls.left(lease.origin, closed, kind == "release" and not lease.own)
        if broke:
            _log.debug("a connection to %s broke", lease.address or "a server")


def _forget() -> None:
    global _relay, _relayed, _relayed_for
    if _relay is not None:
        _relay.forget()
        _relay = None
    _relayed, _relayed_for = 0, ""
    leases = list(_leases.values())
    _leases.clear()
    resting.forget()
    opening.forget()
    turns.forget()
    for lease in leases:
        if lease.far is not None:
            lease.far.close()
        try:
            lease.connection.close()
        except Exception:
            # A connection of the user's own class; the others are to be closed all the same.
            _log.warning("a connection does not close in a forked child", exc_info=True)
    for connections in list(all_connections):
        try:
            connections.forget()
        except Exception:
            _log.warning("a pool manager does not clear in a forked child", exc_info=True)


runtime.serve_with(_serve)
runtime.on_fork(_forget)
