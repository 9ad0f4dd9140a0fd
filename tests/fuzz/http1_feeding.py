"""All ways to feed one stream to the HTTP/1.1 parser, each step held to what it promises."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fuzz.http1_oracle import Outcome, read_response

from zfast._core.http1 import Event, ResponseParser
from zfast._core.response_head import Framing, Http1Error


def named_head(parser: ResponseParser) -> dict[str, Any]:
    head = parser.head
    return {**head, "framing": Framing(head["framing"]).name}


def conclude(
    parser: ResponseParser, event: Event, head: dict[str, Any] | None, body: bytes, unused: int
) -> Outcome:
    error = Http1Error(parser.error)
    if event == Event.ERROR:
        # An error is for good.
        assert error != Http1Error.NONE
        assert parser.feed(b"HTTP/1.1 200 OK\r\n") == [Event.ERROR]
        assert parser.eof() == Event.ERROR
        assert not parser.head["keep_alive"]
        assert parser.error == error
    if event == Event.END:
        assert parser.feed(b"") == [Event.END]
        assert parser.eof() == Event.END
    done = event == Event.END
    return Outcome(Event(event).name, error.name, head, body, unused if done else 0)


def feed(pieces: list[bytes], *, eof: bool = False, **options: Any) -> Outcome:
    """Feed piece by piece, holding each step to its promises."""
    parser = ResponseParser(options.pop("capacity", 65536), **options)
    head, body = None, b""
    event = Event.NEED_DATA
    for number, piece in enumerate(pieces):
        event, rest = Event.HEAD, piece
        while event in (Event.HEAD, Event.BODY):
            event, used, found = parser.next_event(rest)
            assert used <= len(rest)
            assert bool(found) == (event == Event.BODY)
            assert rest[:used].endswith(found)
            if event == Event.HEAD:
                assert head is None
                assert used
                head = named_head(parser)
            if event == Event.NEED_DATA:
                assert used == len(rest)
            rest = rest[used:]
            assert parser.unused == len(rest)
            body += found
            assert parser.body_received == len(body)
        if event in (Event.END, Event.ERROR):
            unused = len(rest) + sum(map(len, pieces[number + 1 :]))
            return conclude(parser, event, head, body, unused)
    if not eof:
        assert parser.feed(b"") == []
    return conclude(parser, parser.eof() if eof else event, head, body, 0)


def feed_direct(pieces: list[bytes], *, eof: bool = False, **options: Any) -> Outcome:
    """Feed only what is no body, and hand the body over by its length alone."""
    parser = ResponseParser(options.pop("capacity", 65536), **options)
    head, body = None, b""
    event = Event.NEED_DATA
    for number, piece in enumerate(pieces):
        rest = piece
        while True:
            if direct := min(parser.direct(), len(rest)):
                event = parser.direct_received(direct)
                body, rest = body + rest[:direct], rest[direct:]
            else:
                event, used, found = parser.next_event(rest[:1] if head else rest)
                assert not found
                rest = rest[used:]
                if event == Event.HEAD:
                    head = named_head(parser)
            if event in (Event.END, Event.ERROR) or (event == Event.NEED_DATA and not rest):
                break
        assert parser.body_received == len(body)
        if event in (Event.END, Event.ERROR):
            unused = len(rest) + sum(map(len, pieces[number + 1 :]))
            return conclude(parser, event, head, body, unused)
    return conclude(parser, parser.eof() if eof else event, head, body, 0)


def single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def split(data: bytes, at: list[int]) -> list[bytes]:
    cuts = sorted({cut % (len(data) + 1) for cut in at} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(cuts)]


def read(data: bytes, **options: Any) -> Outcome:
    """All ways to feed `data` give one outcome, and the oracle's; return it."""
    outcome = feed([data], **options)
    assert feed(single_bytes(data), **options) == outcome
    assert feed_direct([data], **options) == outcome
    assert feed_direct(single_bytes(data), **options) == outcome
    assert read_response(data, **options) == outcome
    return outcome


def head_of(*lines: str, status_line: str = "HTTP/1.1 200 OK", **options: Any) -> dict[str, Any]:
    """Read a response of these lines, which is a good one; return its head."""
    data = "\r\n".join([status_line, *lines, "", ""]).encode("latin-1")
    outcome = read(data, **options)
    assert outcome.error == "NONE"
    assert outcome.head is not None
    return outcome.head


def error_of(data: bytes, **options: Any) -> str:
    """Read a response that is none; return the name of its error."""
    outcome = read(data, **options)
    assert outcome.event == "ERROR"
    return outcome.error
