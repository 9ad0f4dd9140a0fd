from zfast._core.engine import Engine

class Calls:
    """The calls of an engine.

    Parameters
    ----------
    engine : Engine
        Whose; several of these, and threads, may serve one engine.
    """

    def __init__(self, engine: Engine) -> None: ...
    @property
    def engine(self) -> Engine: ...
    def next(self) -> tuple[str, int, int] | None:
        """Wait for something that needs Python.

        Returns
        -------
        tuple of (str, int, int) or None
            ("dial", origin, 0), ("release", lease, 0), ("close", lease, how it ended: 1 where it
            broke, and 2 where nobody acknowledged what went out), ("redirect", batch, index),
            ("sweep", 0, 0) of what lies in pools, ("threads", how many are needed, 0), or None when
            the engine has stopped. On a free-threaded Python also ("", 0, 0) now and then, which is
            for the thread itself.
        """

    def next_at_once(self) -> tuple[str, int, int] | None:
        """As `next`, but no dial, and None where there is nothing: for who waits at a dial."""

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
            `session_ended` has told of it).
        session : int
            The address of its TLS session, see `zfast._core.tls_sessions.session_of`; 0 for none.
        address : int
            Tells the addresses of the host apart, where it has several; 0 for the only one.
        """

    def session_ended(self, lease_id: int, fault: bytes, refuses: bool) -> None:
        """Tell how a relayed session ended, before the end of its stream is to be seen.

        Parameters
        ----------
        lease_id : int
            The lease.
        fault : bytes
            What broke it, UTF-8; b"" for close_notify.
        refuses : bool
            The peer will not have us, however often it is asked.
        """

    def content_held(self, lease_id: int, held: bool) -> None:
        """Tell whether the server's next bytes came before it had taken all of the request."""

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
            The errno, 0 if there is none; of a refused tunnel the proxy's HTTP status.
        no_descriptor : bool
            The process is out of descriptors: fewer connections must do.
        detail : bytes
            What to tell the user, UTF-8.
        """

    def redirection(self, batch_id: int, index: int) -> tuple[bytes, bytes, bytes, int] | None:
        """What a "redirect" is about: (target, location, authority, origin), None if it is over."""

    def redirect(
        self,
        batch_id: int,
        index: int,
        origin_id: int,
        target: bytes,
        foreign: bool,
        detail: bytes = b"",
    ) -> None:
        """Answer a "redirect"; an `origin_id` of -1 says that it leads nowhere, `detail` why."""

    def left(self, origin_id: int, closed: int, rests: bool) -> None:
        """A connection that was to be released or closed is with its owner again.

        Parameters
        ----------
        origin_id : int
            The origin that it leads to.
        closed : int
            As in `count_closed`.
        rests : bool
            It may lie open in its pool: a "sweep" is to be asked for in a while.
        """

    def swept(self, closed: int, others: bool) -> None:
        """Answer a "sweep".

        Parameters
        ----------
        closed : int
            As in `count_closed`.
        others : bool
            Connections lie in pools: another is to be asked for in a while.
        """

    def count_closed(self, closed: int) -> None:
        """Count connections that were closed while they were not the engine's."""
