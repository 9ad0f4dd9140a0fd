"""TLS sessions that urllib3 opened, in the one manner in which the relay uses them.

They never block, and only close_notify ends them cleanly: any other end raises.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import Callable
from typing import Any

from urllib3.util.ssltransport import SSLTransport

__all__ = ["Session", "fault_of", "session_over"]

# What is in one at most (RFC 8446, section 5.1).
_RECORD = 16 << 10
# Not before OpenSSL 3.
_IGNORE_UNEXPECTED_EOF = int(getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0))
# What a peer says that does not like our certificate, or that we have none: see _core.tls.
_REFUSALS = (
    "bad certificate",
    "unsupported certificate",
    "certificate revoked",
    "certificate expired",
    "certificate unknown",
    "illegal parameter",
    "unknown ca",
    "access denied",
    "certificate required",
)


class Session:
    """The session of an `ssl.SSLSocket`, or of what is used like one.

    Parameters
    ----------
    sock : ssl.SSLSocket
        Connected and non-blocking; its `suppress_ragged_eofs` is False.
    may_be_cut : bool
        It does not tell close_notify from an end that anybody can have made.
    """

    def __init__(self, sock: Any, may_be_cut: bool) -> None:
        self._sock = sock
        self._may_be_cut = may_be_cut

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def recv(self, size: int) -> bytes:
        """Receive at most `size` bytes, b"" at close_notify.

        Raises
        ------
        ssl.SSLWantReadError, ssl.SSLWantWriteError
            Nothing has come; what to wait for.
        OSError
            The session failed, or its end is none to believe.
        """
        try:
            return self._believed(self._sock.recv(size))
        except (BlockingIOError, TimeoutError):
            # Of what is used like a session, and is a socket by itself.
            raise ssl.SSLWantReadError from None

    def send(self, data: memoryview) -> int:
        """Send some of `data`; what would block is to be tried again with the same bytes."""
        try:
            return int(self._sock.send(data))
        except (BlockingIOError, TimeoutError):
            raise ssl.SSLWantWriteError from None

    def _believed(self, received: bytes) -> bytes:
        if not received and self._may_be_cut:
            raise ConnectionResetError("the end of the stream may be a cut")
        return received


class SessionWithin(Session):
    """The session of TLS within TLS, urllib3's `SSLTransport`.

    Its own methods lose what the socket does not take at once.

    Parameters
    ----------
    transport : SSLTransport
        Connected, over a non-blocking socket.
    """

    def __init__(self, transport: SSLTransport) -> None:
        super().__init__(transport.socket, _may_be_cut(transport.sslobj.context.options))
        self._tls = transport.sslobj
        self._incoming = transport.incoming
        self._outgoing = transport.outgoing
        # Encrypted, and not with the socket yet.
        self._records = memoryview(b"")
        # Of the bytes that `send` was given last, how many are.
        self._taken = 0

    def recv(self, size: int) -> bytes:
        return self._believed(self._step(self._tls.read, size))

    def send(self, data: memoryview) -> int:
        if not self._taken:
            self._taken = self._step(self._tls.write, data)
        self._flush()
        taken, self._taken = self._taken, 0
        return taken

    def _step(self, call: Callable[[Any], Any], argument: Any) -> Any:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                return call(argument)
            held_up = None
            try:
                self._flush()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                held_up = error
            try:
                self._fill()
            except ssl.SSLWantReadError:
                # What a `send` has taken, that one waits for.
                if held_up is None or self._taken:
                    raise
                raise held_up from None

    def _flush(self) -> None:
        while self._records or self._outgoing.pending:
            # Until the socket has taken them it is to be offered the same again.
            self._records = self._records or memoryview(self._outgoing.read())
            self._records = self._records[self._sock.send(self._records) :]

    def _fill(self) -> None:
        try:
            block = self._sock.recv(_RECORD)
        except ssl.SSLZeroReturnError:
            # The proxy's word, which is not the server's.
            block = b""
        if block:
            self._incoming.write(block)
        else:
            self._incoming.write_eof()


class SessionOfPyOpenSSL(Session):
    """The session of a `WrappedSocket` of `urllib3.contrib.pyopenssl`.

    Its own methods wait, or are not there.

    Parameters
    ----------
    wrapped : WrappedSocket
        Connected and non-blocking.
    errors : module
        `OpenSSL.SSL`, which need not be installed where nobody uses it.
    """

    def __init__(self, wrapped: Any, errors: Any) -> None:
        self._tls = wrapped.connection
        # Adds none, and says which there are; only the context did in the past.
        set_options = getattr(self._tls, "set_options", self._tls.get_context().set_options)
        super().__init__(wrapped, _may_be_cut(set_options(0)))
        self._errors = errors

    def recv(self, size: int) -> bytes:
        try:
            received: bytes = self._step(self._tls.recv, size)
        except ssl.SSLZeroReturnError:
            received = b""
        return self._believed(received)

    def send(self, data: memoryview) -> int:
        return int(self._step(self._tls.send, data))

    def _step(self, call: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return call(argument)
        except self._errors.WantReadError:
            raise ssl.SSLWantReadError from None
        except self._errors.WantWriteError:
            raise ssl.SSLWantWriteError from None
        except self._errors.ZeroReturnError:
            raise ssl.SSLZeroReturnError from None
        except self._errors.SysCallError as error:
            # An end without close_notify among them.
            raise ConnectionResetError(*error.args) from error
        except self._errors.Error as error:
            failed = ssl.SSLError(ssl.SSL_ERROR_SSL, str(error))
            # A queue of (library, function, reason), and what is first is what happened first.
            failed.reason = next((reason for *_, reason in (error.args or ((),))[0]), "")
            raise failed from error


def session_over(sock: Any) -> Session:
    """The session of a TLS socket of urllib3's, which does not block."""
    if isinstance(sock, SSLTransport):
        return SessionWithin(sock)
    pyopenssl = sys.modules.get("urllib3.contrib.pyopenssl")
    if pyopenssl is not None and isinstance(sock, pyopenssl.WrappedSocket):
        return SessionOfPyOpenSSL(sock, pyopenssl.OpenSSL.SSL)
    known = isinstance(sock, ssl.SSLSocket)
    return Session(sock, not known or _may_be_cut(sock.context.options))


def fault_of(error: OSError) -> tuple[str, bool]:
    """What broke a session, and whether the peer will not have us, however often it is asked.

    The text is "" where nothing below HTTP did: the connection was lost, or cut.
    """
    ends = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    if not isinstance(error, ssl.SSLError) or isinstance(error, ends):
        return "", False
    reason = (error.reason or "a TLS protocol error").replace("_", " ").lower()
    if reason == "unexpected eof while reading":
        return "", False
    return reason, reason.partition(" alert ")[2] in _REFUSALS


def _may_be_cut(options: int) -> bool:
    # OpenSSL says the same of an end without close_notify then.
    return bool(options & _IGNORE_UNEXPECTED_EOF)
