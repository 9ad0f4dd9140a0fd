"""Opening a connection as urllib3 does, to one address after another where its host has several.

Of a pool's methods for subclasses it calls `_prepare_proxy` and `_validate_conn`, as
`HTTPConnectionPool.urlopen` does. Of a connection it has `_new_conn` see one address in place of
the name, and only there: the Host field, SNI and the certificate's check are about the name. Its
`response_class` reads a proxy's reply to CONNECT.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.util import connection as util_connection
from urllib3.util.ssl_match_hostname import CertificateError

from zfast import runtime
from zfast._core.types import Status
from zfast.addresses import Addresses
from zfast.connections.origins import tunnels
from zfast.connections.sessions import fault_of
from zfast.errors import shortened, status_text

__all__ = [
    "NO_DESCRIPTOR",
    "addresses",
    "close_unless_idle",
    "distrusts",
    "explain",
    "forget",
    "open_connection",
    "peer_of",
]

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
# While others are left, long enough for the first packet to be lost and sent again, a second later.
_PATIENCE_SECONDS = 2.0
# What a proxy says of itself for now: too slow, too early, too many (RFC 9110, RFC 8470, RFC 6585).
_PASSING = (408, 425, 429)
# As OpenSSL says that the two sides do not suit each other.
_INCOMPATIBLE = ("alert handshake failure", "alert protocol version", "unsupported protocol")
# As it says of what is no TLS at all.
_NO_TLS = "wrong version number"
_UNPRINTABLE = re.compile(r"[^ -~\u00a1-\ud7ff\ue000-\U0010ffff]+")
# For so long a host with one address is taken to have no more, and is asked for by urllib3 alone.
_SINGLE_SECONDS = 30.0
_MOST_HOSTS = 1024

# To be used under `runtime.fork_guard`.
addresses = Addresses()
_single_until: dict[tuple[str, int], float] = {}
_several: dict[tuple[str, int], None] = {}


def close_unless_idle(connection: Any) -> None:
    """Close a connection on which an exchange is not over: its rest would pass for the next one."""
    if not _is_idle(connection) or _holds_back(connection.sock):
        connection.close()


def _is_idle(connection: Any) -> bool:
    # As http.client tells it, under these names alone: should they go, connections are opened anew.
    # A response that was let go of is closed as well, but for its length: a chunked one has none.
    try:
        response = connection._HTTPConnection__response
        over = response is None or (response.isclosed() and response.length == 0)
        return bool(over and connection._HTTPConnection__state == "Idle")
    except AttributeError:
        return False


def _holds_back(sock: Any) -> bool:
    # Whether there may be more behind the last response than a poll tells of.
    if isinstance(sock, ssl.SSLSocket):
        return sock.pending() > 0
    # TLS within TLS cannot say.
    return not isinstance(sock, socket.socket)


def open_connection(
    pool: Any, connection: Any, scheme: str, timeout: float | None
) -> tuple[str, bool]:
    """Have a connection of `pool` be open, as it is before urllib3 sends a request.

    Parameters
    ----------
    pool : HTTPConnectionPool
        Its pool.
    connection : HTTPConnection
        Closed, or idle: see `close_unless_idle`.
    scheme : str
        Of the origin; the proxy's may be another.
    timeout : float or None
        Seconds to connect, over all addresses of the host.

    Returns
    -------
    str
        The address that it leads to, which `addresses` counts from now on; "" for none.
    bool
        Whether its host has others.
    """
    _refuse_http2(connection)
    connection.timeout = timeout
    clock = _Clock(timeout)
    with _Spread(connection) as spread:
        if connection.is_closed and pool.proxy is not None and tunnels(pool, scheme):
            with _reply_in_time(connection, clock):
                pool._prepare_proxy(connection)
        pool._validate_conn(connection)
        if connection.is_closed:
            connection.connect()
    if not spread.address and (peer := peer_of(connection.sock)):
        with runtime.fork_guard:
            addresses.hold(peer, time.monotonic())
            return peer, (connection._dns_host, connection.port) in _several
    return spread.address, bool(spread.address)


def _refuse_http2(connection: Any) -> None:
    # It sends a request of its own at once, whose answer would pass for the first one's.
    module = sys.modules.get("urllib3.http2.connection")
    if module is not None and isinstance(connection, module.HTTP2Connection):
        raise SSLError("urllib3 was told to speak HTTP/2, and zfast speaks HTTP/1.1")


@contextlib.contextmanager
def _reply_in_time(connection: Any, clock: _Clock) -> Iterator[None]:
    """While it is entered, the proxy's reply to CONNECT has to come in the clock's time."""
    kind = connection.response_class

    def timed(sock: Any, **options: Any) -> Any:
        return kind(_Reply(sock, clock), **options)

    connection.response_class = timed
    try:
        yield
    finally:
        connection.response_class = kind


class _Reply(io.RawIOBase):
    """A proxy's reply to CONNECT, in place of the socket that it comes over.

    The socket's own timeout is for each byte of it, and how many there are is the proxy's choice.
    """

    def __init__(self, sock: Any, clock: _Clock) -> None:
        self._sock = sock
        self._clock = clock

    def makefile(self, mode: str) -> io.BufferedReader:
        """As of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._clock.is_over():
            raise TimeoutError("timed out")
        # What is left then is for the handshake.
        self._sock.settimeout(self._clock.share(0))
        return int(self._sock.recv_into(buffer))


class _Spread:
    """While it is entered, the connection is opened to one of all the addresses of its host."""

    def __init__(self, connection: Any) -> None:
        self.address = ""
        self._connection = connection
        # A class that opens its connections in its own way (SOCKS, a socket of Unix) is let be, and
        # so is a program that has put its own in place of urllib3's, and wants to see the name.
        own = getattr(type(connection), "_new_conn", None)
        self._ours = (
            own is HTTPConnection._new_conn
            and "_new_conn" not in vars(connection)
            and getattr(own, "__module__", "") == HTTPConnection.__module__
            and util_connection.create_connection.__module__ == util_connection.__name__
        )

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._ours:
            self._connection._new_conn = self._new_conn
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ours:
            del self._connection._new_conn
        if not self.address:
            return
        now = time.monotonic()
        with runtime.fork_guard:
            if error is None:
                addresses.succeeded(self.address, self._began, now)
            else:
                # Of the handshake, or the tunnel.
                addresses.failed(self.address, now)
                addresses.drop(self.address)

    def _new_conn(self) -> socket.socket:
        connection = self._connection
        name, timeout = connection._dns_host, connection.timeout
        found = _addresses_of(name, connection.port)
        if len(found) < 2:
            return HTTPConnection._new_conn(connection)
        clock = _Clock(timeout)
        failures: dict[str, BaseException] = {}
        try:
            while found:
                with runtime.fork_guard:
                    address = addresses.take(found, time.monotonic())
                found.remove(address)
                connection._dns_host = address.rpartition(":")[0]
                connection.timeout = clock.share(len(found))
                try:
                    sock = HTTPConnection._new_conn(connection)
                except BaseException as error:
                    with runtime.fork_guard:
                        addresses.drop(address)
                        if not _is_of_address(error):
                            raise
                        addresses.failed(address, time.monotonic())
                    failures[address] = error.__cause__ or error
                else:
                    self.address = address
                    # What is left is for the handshake.
                    sock.settimeout(clock.share(0))
                    return sock
        finally:
            connection._dns_host, connection.timeout = name, timeout
        raise _none_of(failures, connection) from _telling(failures)


class _Clock:
    """The time for one connection, over all addresses of its host, and over a proxy's reply."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def is_over(self) -> bool:
        """Whether nothing is left of it."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def share(self, others: int) -> float | None:
        """Seconds for the next step, with `others` to come behind it."""
        patience = _PATIENCE_SECONDS if others else None
        if self._deadline is None:
            return patience
        # 0 would mean not to wait at all.
        fair = max((self._deadline - time.monotonic()) / (others + 1), 0.001)
        return fair if patience is None else min(fair, patience)


def _addresses_of(host: str, port: int) -> list[str]:
    """All addresses of a host in the resolver's order, or fewer than two: leave it to urllib3."""
    now = time.monotonic()
    with runtime.fork_guard:
        if _single_until.get((host, port), now) > now:
            return []
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, util_connection.allowed_gai_family(), socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        # urllib3 finds out as well, and has words for it.
        return []
    names = list(dict.fromkeys(_shown(entry[4]) for entry in found))
    with runtime.fork_guard:
        if len(names) < 2:
            _make_room(_single_until)
            _single_until[host, port] = now + _SINGLE_SECONDS
            _several.pop((host, port), None)
        else:
            _make_room(_several)
            _several[host, port] = None
    return names


def _make_room(known: dict[Any, Any]) -> None:
    if len(known) >= _MOST_HOSTS:
        known.clear()


def _shown(address: Any) -> str:
    host, port = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_of(sock: Any) -> str:
    """The address at the other end, a proxy's where there is one; "" where it has none."""
    # TLS within TLS has its socket within.
    sock = getattr(sock, "socket", sock)
    try:
        return _shown(socket.socket.getpeername(sock))
    except (OSError, TypeError, ValueError):
        return ""


def _is_of_address(error: BaseException) -> bool:
    return isinstance(error, ConnectTimeoutError) and _number(error) not in NO_DESCRIPTOR


def _none_of(failures: dict[str, BaseException], connection: Any) -> ConnectTimeoutError:
    """What urllib3 would say of one address, of all of them."""
    tried = "; ".join(f"{address}: {reason}" for address, reason in failures.items())
    if all(isinstance(reason, TimeoutError) for reason in failures.values()):
        return ConnectTimeoutError(
            connection,
            f"Connection to {connection.host} timed out. (connect timeout={connection.timeout}; "
            f"{tried})",
        )
    return NewConnectionError(connection, f"Failed to establish a new connection: {tried}")


def _telling(failures: dict[str, BaseException]) -> BaseException:
    return max(failures.values(), key=lambda reason: bool(_number(reason)))


def distrusts(error: BaseException) -> bool:
    """Whether a connection was not opened since a certificate is none to trust."""
    return any(isinstance(e, ssl.SSLCertVerificationError) for e in _causes(error))


def explain(error: BaseException) -> tuple[Status, int, str]:
    """What a connection that could not be opened is to the engine; see `Calls.dial_failed`."""
    chain = list(_causes(error))
    number = _number(error)
    # A proxy's words among it, which are not to move the cursor of who reads them.
    detail = _UNPRINTABLE.sub("?", shortened(_text(error) or type(error).__name__))
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return Status.CONNECT_FAILED, 0, "what it replies to CONNECT is not HTTP/1.1"
    if detail.startswith("Invalid header value"):
        # http.client shows it.
        return Status.CONNECT_FAILED, 0, "a header of the proxy's cannot be sent"
    if (
        distrusts(error)
        or any(isinstance(e, CertificateError) for e in chain)
        or (
            # Of urllib3 alone, such as one that misses the fingerprint it was told.
            isinstance(error, SSLError) and len(chain) == 1
        )
    ):
        return Status.TLS_FAILED, 0, detail
    faults = [fault_of(e) for e in chain if isinstance(e, ssl.SSLError)]
    if any(reason == _NO_TLS for reason, _ in faults):
        return Status.TLS_FAILED, 0, f"{detail}; the port does not speak TLS: try http://"
    # Who is there will not have us, or suits us not: the handshake would fail again.
    if any(refuses or reason.endswith(_INCOMPATIBLE) for reason, refuses in faults):
        return Status.TLS_FAILED, 0, detail
    if refusal := next(filter(None, map(_refusal, chain)), 0):
        # Its own words may hold what it was sent.
        detail = f"its reply to CONNECT is {status_text(refusal)}"
        if _is_lasting(refusal):
            return Status.TUNNEL_REFUSED, refusal, detail
        return Status.CONNECT_FAILED, 0, detail
    if isinstance(error, (ConnectTimeoutError, TimeoutError)) and not isinstance(
        error, NewConnectionError
    ):
        return Status.CONNECT_TIMEOUT, number, detail
    if isinstance(error, EmptyPoolError):
        return Status.CONNECT_FAILED, 0, "every connection of the pool is in use elsewhere"
    if isinstance(error, (SSLError, ssl.SSLError, ProxyError)):
        return Status.CONNECT_FAILED, 0, detail
    return Status.CONNECT_FAILED, number, detail


def _refusal(error: BaseException) -> int:
    """The status by which a proxy says no to CONNECT; 0 for none."""
    # http.client tells the status in these words alone.
    found = re.match(r"Tunnel connection failed: (\d\d\d)\b", _text(error))
    return int(found[1]) if found else 0


def _is_lasting(refusal: int) -> bool:
    # Whether a proxy would say it again.
    return 400 <= refusal < 500 and refusal not in _PASSING


def _text(error: BaseException) -> str:
    """What it says of itself; "" where that fails, as it may for somebody else's exception."""
    try:
        if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
            # urllib3 has the connection before the message.
            return str(error.args[-1])
        return str(error)
    except Exception:
        return ""


def _number(error: BaseException) -> int:
    return next((e.errno for e in _causes(error) if isinstance(e, OSError) and e.errno), 0)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    # An error may be its own cause, or that of its cause.
    while error is not None and not any(error is other for other in seen):
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def forget() -> None:
    """In a forked child: nothing is open, and nothing known."""
    addresses.clear()
    _single_until.clear()
    _several.clear()
