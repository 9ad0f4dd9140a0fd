"""TLS sessions that urllib3 opened, in the one manner in which the relay uses them.

They never block, and only close_notify ends them cleanly: any other end raises.
"""

from __future__ import annotations

import ssl
from typing import Any

from urllib3.util.ssltransport import SSLTransport

__all__ = ["Session", "session_over"]

# With this option OpenSSL says the same of an end without close_notify. Not known before OpenSSL 3.
_IGNORE_UNEXPECTED_EOF = int(getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0))


class Session:
    """The session of an `ssl.SSLSocket`.

    Parameters
    ----------
    sock : ssl.SSLSocket
        Connected and non-blocking; its `suppress_ragged_eofs` is False.
    options : int
        Of the session, as in `ssl.SSLContext.options`.
    """

    def __init__(self, sock: Any, options: int) -> None:
        self._sock = sock
        self._may_be_cut = bool(options & _IGNORE_UNEXPECTED_EOF)

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
        received: bytes = self._sock.recv(size)
        if not received and self._may_be_cut:
            raise ConnectionResetError("the end of the stream may be a cut")
        return received

    def send(self, data: memoryview) -> int:
        """Send some of `data`; what would block is to be tried again with the same bytes."""
        return int(self._sock.send(data))


def session_over(sock: Any) -> Session:
    """The session of a TLS socket of urllib3's."""
    # TLS within TLS has no context of its own, but that of its session.
    within = sock.sslobj if isinstance(sock, SSLTransport) else sock
    return Session(sock, within.context.options)
