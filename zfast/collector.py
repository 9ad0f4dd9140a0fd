"""Reads that are asked for in one turn of an event loop leave as one native batch.

The first read of a turn schedules the batch for the next one, the others join it, and each ends
when its own bytes are there.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any

from zfast import loops
from zfast._core.batch import Batch
from zfast._core.types import Method, Status
from zfast.keys import names_object
from zfast.planner import Span, bounds_within, grouped, span

if TYPE_CHECKING:
    from zfast._core.buffers import Body
    from zfast.client import Client
    from zfast.operations import Operations

__all__ = ["Collector", "Read"]

_LONG_TURN_SECONDS = 0.1
_GET = int(Method.GET)
_MISSING = int(Status.MISSING)


class Read(asyncio.Future["Body | None"]):
    """One read under way, and the future of its bytes.

    Cancelling it ends it in the engine as well.
    """

    def __init__(
        self, key: str, byte_range: Any, target: bytes, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop=loop)
        self.key = key
        self.byte_range = byte_range
        self.target = target
        self.wanted: Span = span(byte_range)
        self._flight: _Flight | None = None
        self._index = 0

    def board(self, flight: _Flight, index: int) -> None:
        """Name the request that serves this read."""
        self._flight, self._index = flight, index

    def fail(self, error: Exception) -> None:
        """Have whoever awaits it get an error; of nobody who has gone asyncio is to complain."""
        self.set_exception(error)
        self.exception()

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the read; False if it is complete."""
        cancelled = super().cancel(msg)
        if cancelled and self._flight is not None:
            self._flight.leave(self._index)
        return cancelled


class _Turn:
    """The reads of one turn of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.reads: list[Read] = []
        self.began = loop.time()


class _Flight:
    """A batch under way, and the reads that each of its requests serves."""

    def __init__(self, operations: Operations, batch: Batch) -> None:
        self._operations = operations
        self._batch = batch
        self._asked: list[tuple[bytes, Span]] = []
        # Until they arrive. A read keeps its flight: kept by it in turn, what was read would stay
        # until the garbage collector comes by.
        self._served: dict[int, tuple[Span, list[Read]]] = {}
        # A body is taken once, and whoever takes it may be interrupted before he has it.
        self._taken: dict[int, Body | None] = {}
        # Requests that nobody waits for any more, from one turn of the loop to the next: to cancel
        # one takes as long as there are in the batch, and they are mostly cancelled together.
        self._left: set[int] = set()
        self._cancels_until = 0.0

    def add(self, origin: int, wanted: Span, reads: list[Read]) -> None:
        index = len(self._batch)
        self._batch.add(self._operations.policy, origin, _GET, reads[0].target, *wanted)
        for read in reads:
            read.board(self, index)
        self._served[index] = wanted, reads
        self._asked.append((reads[0].target, wanted))

    def leave(self, index: int) -> None:
        served = self._served.get(index)
        if served is None or not all(read.done() for read in served[1]):
            return
        loop = served[1][0].get_loop()
        if loop.is_closed():
            self._batch.cancel_some([index])
            return
        self._left.add(index)
        if loop.time() > self._cancels_until:
            # Once a turn; or again, where a signal's handler raised just then.
            loop.call_soon(self._cancel_left)
            self._cancels_until = loop.time() + _LONG_TURN_SECONDS

    def _cancel_left(self) -> None:
        self._cancels_until = 0.0
        if self._served.keys() <= self._left:
            self._batch.cancel()
            self._left.clear()
            return
        left = list(self._left)
        self._batch.cancel_some(left)
        self._left.difference_update(left)

    def fail(self, error: Exception) -> None:
        for _, reads in self._served.values():
            for read in reads:
                if not read.done():
                    read.fail(error)

    def arrive(self, index: int) -> None:
        """Settle the reads of a completed request; -1 is the batch as a whole."""
        operations, batch = self._operations, self._batch
        if index < 0:
            operations.ranges.learn(batch, self._asked.__getitem__)
            return
        if index not in self._served:
            return
        wanted, reads = self._served[index]
        batch.body_into(index, self._taken)
        body = self._taken[index]
        for read in reads:
            if read.done():
                continue
            if body is not None:
                if read.wanted != wanted:
                    part = bounds_within(wanted, read.wanted, len(body))
                    read.set_result(body.part(*part))
                else:
                    read.set_result(body)
            elif batch.code(index) == _MISSING:
                read.set_result(None)
            else:
                read.fail(operations.error(batch, index, read.key, read.byte_range))
        del self._served[index]
        self._taken.clear()


class Collector:
    """Collects the reads of a client, for any number of event loops and threads at once.

    Parameters
    ----------
    client : Client
        Who reads.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        # A thread runs one loop at a time: its turn is that loop and the reads so far.
        self._here = threading.local()

    def read(self, key: str, byte_range: Any = None) -> Read:
        """Begin a read in the running event loop.

        Parameters
        ----------
        key : str
            Below the client's URL.
        byte_range : optional
            See the notes of `zfast.Client`.

        Returns
        -------
        Read
            The future of a Body, None if the key is missing; fails with a ZfastError.

        Raises
        ------
        TypeError, ValueError
            If the byte range makes no sense.
        """
        loop = asyncio.get_running_loop()
        read = Read(key, byte_range, self._client._operations.location.target(key), loop)
        if not names_object(key):
            read.set_result(None)
            return read
        turn: _Turn | None = getattr(self._here, "turn", None)
        # A turn of another loop was left when that loop was stopped, or by a fork.
        if turn is None or turn.loop is not loop:
            turn = _Turn(loop)
            loop.call_soon(self._depart, turn)
            self._here.turn = turn
        elif len(turn.reads) < 2 or loop.time() > turn.began + _LONG_TURN_SECONDS:
            # A signal's handler may have raised where the loop had taken up what was to come: who
            # joins first sees to that again, and who joins what should have left long ago.
            turn.began = loop.time()
            loop.call_soon(self._depart, turn)
        turn.reads.append(read)
        return read

    async def as_completed(
        self, items: Iterable[tuple[str, Any]], most: int | None = None
    ) -> AsyncGenerator[tuple[int, Body | None], None]:
        """Read keys or byte ranges of them; iterate over (index, body) in order of completion.

        At most `most` of them are under way at once. Closing the iterator cancels what is not
        complete, and so does a failure.

        Raises
        ------
        ValueError
            If `most` is less than 1.
        ZfastError
            The first failure.
        """
        if most is not None and most < 1:
            raise ValueError(f"{most} reads at once: it has to be at least 1")
        completed: asyncio.Queue[Any] = asyncio.Queue()
        places: dict[Any, int] = {}
        waiting = enumerate(items)

        def begin(count: int | None) -> None:
            for index, (key, byte_range) in itertools.islice(waiting, count):
                read = self.read(key, byte_range)
                read.add_done_callback(completed.put_nowait)
                places[read] = index

        try:
            begin(most)
            while places:
                done = await completed.get()
                # At once, whether or not the caller comes back for more before long.
                begin(1)
                # What has been handed over is the caller's alone: he may read more than there is
                # memory for.
                handed = [(places.pop(done), done.result())]
                del done
                yield handed.pop()
        finally:
            for read in places:
                # Looked at, so that asyncio does not report a failure that came after the first.
                if not read.cancel() and not read.cancelled():
                    read.exception()

    def _depart(self, turn: _Turn) -> None:
        try:
            if getattr(self._here, "turn", None) is turn:
                self._here.turn = None
            reads = [read for read in turn.reads if not read.done()]
            if reads:
                self._submit(reads)
            turn.reads = []
        except Exception as error:
            for read in turn.reads:
                if not read.done():
                    read.fail(error)
        except BaseException:
            # A signal's handler raised, and ends the loop; but its owner may run it again.
            turn.loop.call_soon(self._depart, turn)
            raise

    def _submit(self, reads: list[Read]) -> None:
        client = self._client
        operations = client._operations
        hub = loops.hub(client._engine())
        origin = operations.origin()
        batch = Batch(hub.engine, client._deadline, hub.waker, each=True)
        flight = _Flight(operations, batch)
        if operations.ranges.suspect:
            asked = {at: (read.target, read.wanted) for at, read in enumerate(reads)}
            for wanted, members in grouped(asked, operations.ranges.ignores):
                flight.add(origin, wanted, [reads[at] for at in members])
        else:
            for read in reads:
                flight.add(origin, read.wanted, [read])
        hub.submit(batch, flight.arrive, flight.fail, hub.attends())
