from collections.abc import Iterable

class Engine:
    """The I/O threads and queues that all clients of a process share.

    Parameters
    ----------
    io_threads : int
        Poll loops.
    max_in_flight : int
        Requests on the wire at once, over all callers.
    max_leases : int
        Connections borrowed at once.
    idle_timeout : float
        Seconds that an idle connection stays with the engine before its pool gets it back.
    max_head : int
        Bytes that a response head may have.
    max_dials_of_one : int
        Connections to one origin that are being opened at once.
    decode_threads : int
        Threads that decode chunks; they start with the first array read.
    """

    def __init__(
        self,
        io_threads: int,
        max_in_flight: int,
        max_leases: int,
        idle_timeout: float,
        max_head: int,
        max_dials_of_one: int,
        decode_threads: int,
    ) -> None: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def pid(self) -> int: ...
    @property
    def max_in_flight(self) -> int:
        """Requests on the wire at once, over all callers."""

    def raise_limits(self, max_in_flight: int, max_leases: int) -> None:
        """Let at least so many requests and connections be in flight at once."""

    def add_origin(
        self, id: int, authority: bytes, fields: bytes, prefix: bytes, max_leases: int = 0
    ) -> None:
        """Make an origin known.

        Parameters
        ----------
        id : int
            Unique in the process; connections are asked for by it.
        authority : bytes
            ``scheme://host[:port]``, what a redirect to the same origin begins with.
        fields : bytes
            Header lines that every request to it carries, ``Host`` first.
        prefix : bytes
            What goes before the target: empty, or the authority for a forwarding proxy.
        max_leases : int
            Connections that its pool allows, 0 for no limit.
        """

    def next_call(self) -> tuple[str, int, int] | None:
        """Wait for something that needs Python.

        Returns
        -------
        tuple of (str, int, int) or None
            ("dial", origin, 0), ("release" | "close", lease, 0), ("redirect", batch, index), or
            None when the engine has stopped.
        """

    def adopt(
        self,
        lease_id: int,
        origin_id: int,
        fd: int,
        used: bool,
        clean_end: bool,
        session: int = 0,
        address: int = 0,
    ) -> None:
        """Take over an open connection that answers a "dial".

        Parameters
        ----------
        lease_id : int
            What "release" and "close" will name it by.
        origin_id : int
            The origin that it leads to.
        fd : int
            Its non-blocking descriptor; nobody else may read, write or close it until then.
        used : bool
            It came out of its pool and may have been closed by the server meanwhile.
        clean_end : bool
            The end of its stream can be believed (false for TLS by way of Python, until
            close_notify was seen).
        session : int
            The address of its TLS session, see `zfast._core.tls.session_of`; 0 for none.
        address : int
            Tells the addresses of the host apart, where it has several; 0 for the only one.
        """

    def believe_end(self, lease_id: int) -> None:
        """The end of the stream that the lease will see next is the one that the peer meant."""

    def dial_failed(
        self, origin_id: int, code: int, error: int, no_descriptor: bool, detail: bytes
    ) -> None:
        """Answer a "dial" that opened no connection.

        Parameters
        ----------
        origin_id : int
            The origin.
        code : Status
            What became of it.
        error : int
            The errno, 0 if there is none.
        no_descriptor : bool
            The process is out of descriptors: fewer connections must do.
        detail : bytes
            What to tell the user, UTF-8.
        """

    def redirection(self, batch_id: int, index: int) -> tuple[bytes, bytes, bytes, int] | None:
        """What a "redirect" is about: (target, location, authority, origin), None if it is over."""

    def redirect(
        self, batch_id: int, index: int, origin_id: int, target: bytes, foreign: bool
    ) -> None:
        """Answer a "redirect"; an `origin_id` of -1 says that it leads nowhere."""

    def release_idle(self, origin_ids: Iterable[int]) -> None:
        """Give the idle connections of these origins back to their pools now."""

    def left(self, origin_id: int) -> None:
        """A connection that was to be released or closed is with its owner again."""

    def snapshot(self) -> dict[str, int]:
        """Connections and requests of this moment, as a dict of int."""

    def stop(self, exiting: bool = False) -> None:
        """End every batch with CLOSED, every thread, and every wait for a call. Idempotent.

        Parameters
        ----------
        exiting : bool
            The process ends: who still waits for a batch, a daemon thread, is left waiting.
        """

    def abandon(self) -> None:
        """In a forked child: the threads are the parent's. Close the descriptors, touch no lock."""
