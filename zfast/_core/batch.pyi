from collections import deque
from collections.abc import Collection
from typing import Any

from zfast._core.buffers import Body
from zfast._core.engine import Engine
from zfast._core.policy import Policy

LATE_SECONDS: float
NO_MORE: str

class Waker:
    """The one descriptor that wakes an event loop for completions of all its batches.

    Watch `fileno()` for reading and call `completions()` when it is readable.
    """

    def __init__(self, engine: Engine) -> None: ...
    def fileno(self) -> int:
        """The descriptor to watch."""

    @property
    def untold(self) -> deque[tuple[int, int]]: ...
    def completions(self) -> deque[tuple[int, int]]:
        """Add to `untold` what has completed since the last call.

        Returns
        -------
        collections.deque of (int, int)
            `untold`: batch id and read index; an index of -1 is the batch as a whole. Take out of
            it what has been told, and what an exception kept from it is told later.
        """

class Batch:
    """Reads (and writes) to be submitted together.

    Parameters
    ----------
    engine : Engine
        Where it will run.
    deadline : float
        Seconds from `submit` until everything unfinished fails, 0 for none.
    waker : Waker, optional
        Told of the completion.
    each : bool
        The waker is told of each read too.
    fail_fast : bool
        The first failure cancels what is not complete yet.
    open : bool
        More may be added after `submit`, until it is sealed; it is not complete before.
    """

    def __init__(
        self,
        engine: Engine,
        deadline: float = 0,
        waker: Waker | None = None,
        each: bool = False,
        fail_fast: bool = False,
        open: bool = False,
    ) -> None: ...
    @property
    def id(self) -> int: ...
    def __len__(self) -> int: ...
    def add(
        self,
        policy: Policy,
        origin: int,
        method: int,
        target: bytes,
        kind: int = 0,
        start: int = 0,
        end: int = 0,
        into: Any = None,
        fields: bytes = b"",
        credentials: bytes = b"",
        content: Any = None,
        repeatable: bool = True,
        keep_head: bool = False,
    ) -> None:
        """Add a request; its index in the batch is the number of those before it.

        Parameters
        ----------
        policy : Policy
            Of the client that asks.
        origin : int
            As in `Engine.add_origin`.
        method : Method
            Of HTTP, or WebDAV's MKCOL.
        target : bytes
            Request target in origin form (RFC 9112, section 3.2.1), already encoded.
        kind : RangeKind
            Of the byte range; `start` and `end` (exclusive) are as that kind has them.
        into : buffer, optional
            Writable C-contiguous destination; without it the body gets memory made to measure.
        fields : bytes
            Further header lines.
        credentials : bytes
            Header lines that must not follow a redirect to another origin.
        content : buffer, optional
            What a PUT sends.
        repeatable : bool
            A failed attempt may be sent again although the server may have acted on it.
        keep_head : bool
            The raw head of the response is part of the outcome.
        """

    def submit(self, seconds: float = 0) -> bool:
        """Hand the batch to the engine.

        Parameters
        ----------
        seconds : float
            The longest time to `attend` to it at once.

        Returns
        -------
        bool
            Whether the batch is complete; its waker was told of nothing then.
        """

    def run(self) -> None:
        """Submit the batch and `wait` for it; a small one is seen to by the calling thread."""

    def attend(self, seconds: float) -> bool:
        """Do the I/O of the batch here, without the GIL, if it was admitted to that.

        A small batch to a near server is, where nobody else waits: then no other thread has to
        wake up for it. What is not done in time goes on in the engine's threads.

        Parameters
        ----------
        seconds : float
            The longest time to do so.

        Returns
        -------
        bool
            Whether the batch is complete; its waker was not told of it then.
        """

    def cancel(self) -> None:
        """End all reads that are not complete as CANCELLED."""

    def cancel_some(self, indexes: Collection[int]) -> None:
        """The same of these reads alone; takes as long for many as for one."""

    def unpin(self) -> None:
        """Let go of the callers' buffers; the engine does when the batch is complete."""

    def discard(self) -> None:
        """Let go of all bodies of a complete batch, for a traceback may keep the batch itself."""

    def wait(self) -> None:
        """Wait, without the GIL, until every read is complete.

        A signal is served while waiting; when its handler raises (Ctrl-C), the batch is cancelled,
        its memory let go of, and the exception goes on.
        """

    @property
    def done(self) -> bool:
        """Whether every read is complete."""

    def ranges_ignored(self) -> list[int]:
        """Indexes of the completed reads for whose range the whole object came."""

    def ranges_answered(self) -> list[int]:
        """Indexes of the completed reads that a range came for (206 Partial Content)."""

    def code(self, index: int) -> int:
        """The Status of a completed read."""

    def failures(self) -> list[int]:
        """Indexes of the completed reads that are neither OK nor MISSING."""

    def body(self, index: int) -> Body | None:
        """The Body of a completed read, None unless it is OK. Taken once: the batch keeps none."""

    def body_into(self, index: int, bodies: dict[int, Body | None]) -> None:
        """Have `bodies` hold `body(index)`, if it does not yet; no signal comes between."""

    def bodies(self) -> list[Body | None]:
        """`body` of every read."""

    def outcome(self, index: int) -> dict[str, Any]:
        """The facts of a completed request, as a dict."""
