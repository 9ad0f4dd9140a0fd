from collections.abc import Iterable

SNAPSHOT: tuple[str, ...]
"""What `Engine.snapshot` tells."""

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
    most_leases : int
        ... where some of these are lent for origins that hang.
    idle_timeout : float
        Seconds that an idle connection stays with the engine before its pool gets it back.
    max_head : int
        Bytes that a response head may have.
    max_dial_threads : int
        Most threads that may serve its `Calls`. One origin's dials leave two of those there are to
        others, but get one at least.
    decode_threads : int
        Threads that decode chunks; they start with the first array read.
    """

    def __init__(
        self,
        io_threads: int,
        max_in_flight: int,
        max_leases: int,
        most_leases: int,
        idle_timeout: float,
        max_head: int,
        max_dial_threads: int,
        decode_threads: int,
    ) -> None: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def pid(self) -> int: ...
    @property
    def max_in_flight(self) -> int:
        """Requests on the wire at once, over all callers."""

    def raise_limits(self, max_in_flight: int, max_leases: int, most_leases: int) -> None:
        """Let at least so many requests and connections be in flight at once."""

    def count_dial_threads(self, threads: int) -> None:
        """Say how many threads serve its `Calls`."""

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

    def forget_origins(self, origin_ids: Iterable[int]) -> None:
        """Free what is known of these origins, of which the caller makes no more requests.

        At once, or when another is added after the last of their requests and connections.
        """

    def forget_rested(self, origin_ids: Iterable[int], seconds: float) -> list[int]:
        """Free what is known of those of these origins that nothing has used for so long.

        Parameters
        ----------
        origin_ids : iterable of int
            In the order in which they are looked at.
        seconds : float
            How long no batch has to have been theirs; with a connection or a dial they are in use.

        Returns
        -------
        list of int
            The origins that are forgotten: the caller makes no more requests of them.
        """

    def release_idle(self, origin_ids: Iterable[int]) -> None:
        """Give the idle connections of these origins back to their pools now."""

    def ask_back(self, origin_id: int) -> None:
        """Give a connection of an origin back to its pool as soon as one is idle."""

    def snapshot(self) -> dict[str, int]:
        """Connections and requests, of this moment and so far: a dict of `SNAPSHOT` to int."""

    def stop(self, exiting: bool = False) -> None:
        """End every batch with CLOSED, every thread, and every wait for a call. Idempotent.

        Parameters
        ----------
        exiting : bool
            The process ends: who still waits for a batch, a daemon thread, is left waiting, for so
            long as it should take to end.
        """

    def abandon(self) -> None:
        """In a forked child: the threads are the parent's. Close the descriptors, touch no lock."""
