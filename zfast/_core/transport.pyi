class SocketTransport:
    """A plain-socket transport over an open descriptor, for tests of the operations.

    Parameters
    ----------
    fd : int
        An open, connected socket; it stays the caller's to close.
    """

    def __init__(self, fd: int) -> None: ...
    def recv(self, size: int) -> bytes | None:
        """Receive at most `size` bytes: bytes, b"" at the end of the stream, None when blocked.

        Raises
        ------
        OSError
            With the errno of the failed call.
        """

    def send(self, data: bytes | bytearray | memoryview) -> int | None:
        """Send some of `data`: how many bytes went out, None when blocked.

        Raises
        ------
        OSError
            With the errno of the failed call.
        """

    def shut(self) -> None:
        """End both directions; the peer sees the end of the stream."""
