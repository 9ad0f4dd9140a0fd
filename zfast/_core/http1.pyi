from enum import IntEnum
from typing import Any

from zfast._core.response_head import Http1Error

class Event(IntEnum):
    """What feeding the parser came to."""

    NEED_DATA = ...
    HEAD = ...
    BODY = ...
    END = ...
    ERROR = ...

class ResponseParser:
    """The response parser of the core, one call in Python for one in C.

    It reads one response at a time: after `END` or `ERROR`, `start` begins the next. Not for use by
    two threads at once.

    Parameters
    ----------
    capacity : int
        Bytes of the largest head (and of the largest trailer section) that is accepted.
    head_request : bool
        Whether the response answers a HEAD request, and so has no body whatever its head says.
    """

    unused: int
    """Bytes of the last piece that belong to no part of the response."""

    def __init__(self, capacity: int = 65536, *, head_request: bool = False) -> None: ...
    def start(self, *, head_request: bool = False) -> None:
        """Forget the last response and read another, with the same buffer."""

    def feed(self, data: bytes) -> list[Event | bytes]:
        """Read the next bytes of the connection.

        Parameters
        ----------
        data : bytes
            The next bytes, split anywhere.

        Returns
        -------
        list of Event or bytes
            `Event.HEAD` once, when `head` is complete; pieces of the body as bytes; at last
            `Event.END`, or `Event.ERROR` with the cause in `error`. Empty where more data is
            needed to say anything.
        """

    def next_event(self, data: bytes) -> tuple[Event, int, bytes]:
        """One step: the next event, how many bytes it used, and the body bytes of `BODY`.

        After `HEAD` and `BODY` call again with the rest, even if nothing is left: the response may
        be at its end. `NEED_DATA` has used all of `data`.
        """

    def eof(self) -> Event:
        """Note that the connection was closed: `END`, or `ERROR` with one of the `EOF_` causes."""

    def direct(self) -> int:
        """How many body bytes may go straight to their destination, without being fed.

        0 where framing comes next, 2**63 - 1 where the body ends with the connection.
        """

    def direct_received(self, size: int) -> Event:
        """Account for `size` bytes that did so: `NEED_DATA`, or `END` after the last.

        More than `direct` allows is an `ERROR`: they cannot all belong to the body.
        """

    @property
    def error(self) -> Http1Error: ...
    @property
    def remaining(self) -> int:
        """Bytes still to come of the body or of the current chunk, -1 for all until the end."""

    @property
    def body_received(self) -> int: ...
    @property
    def raw_head(self) -> bytes:
        """The head as received, interim responses left out, folded lines unfolded."""

    @property
    def head(self) -> dict[str, Any]:
        """The fields that framing, caching and range reads need; of the rest see `parse_fields`.

        ``status``, ``minor_version``, ``keep_alive``, ``framing`` (a `Framing`), ``content_length``
        (-1 not announced), ``has_content_range``, ``content_range_valid``, ``range_start``,
        ``range_end`` (exclusive; both -1 in ``bytes */N``), ``range_total`` (-1 for ``*``),
        ``encoded``, ``multipart``, ``retry_after`` (seconds, -1 if it is no number), and as bytes,
        or None where absent, ``reason``, ``etag``, ``location``, ``retry_after_value``,
        ``content_type``, ``last_modified``, ``date``.
        """

def parse_fields(raw_head: bytes) -> list[tuple[str, str]]:
    """All fields of a response head, in order, names as they were sent.

    Parameters
    ----------
    raw_head : bytes
        A head as `ResponseParser.raw_head` has it, or as received.

    Raises
    ------
    ValueError
        It is no response head (RFC 9112, sections 4 and 5), or not a whole one.
    """
