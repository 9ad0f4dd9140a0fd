from typing import Any

class SessionTransport:
    """A transport over the session of an `ssl.SSLSocket`, for tests of the operations.

    Parameters
    ----------
    sock : ssl.SSLSocket
        Connected, its handshake done, and not blocking.

    Raises
    ------
    ValueError
        Where the session cannot be used natively, with the reason.
    """

    def __init__(self, sock: Any) -> None: ...
    def recv(self, size: int) -> bytes | None:
        """Receive at most `size` bytes: bytes, b"" at close_notify, None when blocked.

        Raises
        ------
        OSError
            With the errno of the failure; EPROTO, and what OpenSSL says of it, for one of TLS.
        """

    def send(self, data: bytes | bytearray | memoryview) -> int | None:
        """Send some of `data`: how many bytes went out, None when blocked.

        Raises
        ------
        OSError
            As in `recv`.
        """

    def pending(self) -> bool:
        """Whether bytes wait that were received already."""

    def wants(self) -> tuple[int, int]:
        """What to poll for before another `recv`, and before another `send`."""

    def shut(self) -> None:
        """End both directions of the connection; the peer sees an end without close_notify."""
