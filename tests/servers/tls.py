"""What Python's ssl cannot do to a session, by OpenSSL itself."""

from __future__ import annotations

import ctypes
import ssl
from importlib import import_module
from typing import Any

from zfast._core.tls_sessions import session_of

SSL_KEY_UPDATE_REQUESTED = 1


def update_keys(sock: ssl.SSLSocket) -> None:
    """Change the keys of a TLS 1.3 session, and ask the peer to do so too (RFC 8446, 4.6.3)."""
    assert _library().SSL_key_update(_session(sock), SSL_KEY_UPDATE_REQUESTED) == 1
    # That only marked it: this sends it.
    sock.do_handshake()


def renegotiate(sock: ssl.SSLSocket) -> None:
    """Ask the client of a TLS 1.2 session for another handshake (RFC 5246, section 7.4.1.1)."""
    assert _library().SSL_renegotiate(_session(sock)) == 1
    sock.do_handshake()


def _library() -> Any:
    return ctypes.CDLL(getattr(import_module("_ssl"), "__file__", None))


def _session(sock: ssl.SSLSocket) -> ctypes.c_void_p:
    session, why = session_of(sock)
    assert session, why
    return ctypes.c_void_p(session)
