"""The HTTP/1.1 parser alone: heads a second, and bodies fed as a connection would deliver them.

Its calls come from Python here, as in its tests, and hold the GIL: a hog takes every other turn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zfast._core.http1 import Event, ResponseParser

from .ceiling import Ceiling
from .common import DATA_MIB, MIB, ROUNDS, Figures, Rounds, Tracked, clocked, figures, with_hogs

_HEAD = (
    b"HTTP/1.1 206 Partial Content\r\n"
    b"Server: nginx/1.26.0\r\n"
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    b"Content-Type: application/octet-stream\r\n"
    b"%b\r\n"
    b"Last-Modified: Sat, 29 Oct 1994 19:43:31 GMT\r\n"
    b"Connection: keep-alive\r\n"
    b'ETag: "5f3e2a10-100000"\r\n'
    b"Content-Range: bytes 0-1048575/268435456\r\n\r\n"
)
_PIECE = 64 * 1024
_BODY = bytes(range(256)) * (MIB // 256)
_CHUNKS = b"".join(
    b"%x\r\n%b\r\n" % (_PIECE, _BODY[at : at + _PIECE]) for at in range(0, MIB, _PIECE)
)

# The response as it is parsed, its body, and how many of them are a MiB's worth of work.
RESPONSES = {
    "head": (_HEAD % b"Content-Length: 0", b"", 400),
    "1 MiB body": (_HEAD % b"Content-Length: 1048576" + _BODY, _BODY, 2),
    "1 MiB in chunks": (
        _HEAD % b"Transfer-Encoding: chunked" + _CHUNKS + b"0\r\n\r\n",
        _BODY,
        2,
    ),
}


def measure(folder: Path, mib: int = DATA_MIB, rounds: int = ROUNDS) -> dict[tuple[str], Figures]:
    """Parse each response again and again.

    Returns
    -------
    dict
        Figures by response; rates are responses a second. A chunked body's ceiling is the same
        body without its chunks.
    """
    ceiling = Ceiling(folder)
    measured = {}
    for name, (response, body, per_mib) in RESPONSES.items():
        _check(response, body)
        times = mib * per_mib
        plain = _HEAD % b"Content-Length: %d" % len(body) + body
        subjects = {"zfast": clocked(_parsing(response, times))}
        ran = Rounds({"ceiling": ceiling.parser(plain, times), **with_hogs(subjects)}, rounds)
        # Of one GIL for two threads, a half is left.
        measured[(name,)] = figures(ran, "zfast", ["ceiling"], times, share_left=1 / 2)
    return measured


def _parsing(response: bytes, times: int) -> Callable[[], None]:
    pieces = _pieces(response)
    parser = ResponseParser()

    def parse() -> None:
        for _ in range(times):
            parser.start()
            for piece in pieces:
                parser.feed(piece)

    return parse


def _pieces(response: bytes) -> list[bytes]:
    return [response[at : at + _PIECE] for at in range(0, len(response), _PIECE)]


def _check(response: bytes, body: bytes) -> None:
    parser = ResponseParser()
    events = [event for piece in _pieces(response) for event in parser.feed(piece)]
    if events[-1] is not Event.END or body != b"".join(e for e in events if isinstance(e, bytes)):
        raise AssertionError("the response is not what was parsed")


class Http1(Tracked):
    """One response after another, in pieces of 64 KiB."""

    params = [list(RESPONSES)]
    param_names = ["response"]
    unit = "responses/s"

    def setup_cache(self) -> dict[Any, Figures]:
        return measure(Path.cwd())

    setup_cache.timeout = 300
