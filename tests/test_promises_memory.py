"""Bytes land in the caller's memory, whatever its dtype, and only there; too small is an error."""

from __future__ import annotations

import array
import contextlib
import ctypes
import mmap
import sys
import threading
from typing import Any

import numpy as np
import pytest
import urllib3
from corruption import PeakMemory
from promises import OBJECT, Scripted, at_once, client_of, failure
from servers.scripted import Drip, Request, Stall, ok, partial, ranged, status

from zfast.errors import DeadlineError, MissingKeyError, ResponseError

MIB = 1 << 20
DATA = np.random.default_rng(0).bytes(240)
LARGE = np.random.default_rng(1).bytes(3_000_000)
MARK = 0xEE

DTYPES = [
    "u1",
    "i1",
    "?",
    "<u2",
    ">u2",
    ">i4",
    "<f4",
    ">f8",
    "<c16",
    "<M8[s]",
    ">M8[ns]",
    "<m8[us]",
    "S8",
    "<U2",
    ">U2",
    "V8",
    [("a", "<i4"), ("b", ">f8")],
    [("t", "<M8[D]"), ("x", "u1", (4,))],
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("byte_range", [None, (24, 168), (-96, None)])
def test_any_dtype(scripted: Scripted, dtype: Any, byte_range: Any) -> None:
    expected = DATA if byte_range is None else DATA[slice(*byte_range)]
    client = client_of(scripted(ranged({"key": DATA})))
    size = np.dtype(dtype).itemsize
    into = np.zeros(len(expected) // size, dtype)
    assert client.read_into("key", byte_range, into) == len(expected)
    assert into.tobytes() == expected


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (24, 1), (1, 1, 24)])
def test_any_shape(scripted: Scripted, shape: tuple[int, ...]) -> None:
    client = client_of(scripted(ranged({"key": DATA})))
    into = np.zeros(shape, ">f8")
    assert client.read_into("key", (0, 192), into) == 192
    assert into.tobytes() == DATA[:192]


@pytest.mark.parametrize(
    "into",
    [
        bytearray(240),
        memoryview(bytearray(240)),
        memoryview(bytearray(240)).cast("d"),
        array.array("d", [0] * 30),
        (ctypes.c_char * 240)(),
        mmap.mmap(-1, 240),
        np.zeros((30, 30))[7],
        np.zeros((30, 30))[:1],
        np.asfortranarray(np.zeros((30, 1))),
    ],
    ids=lambda into: type(into).__name__,
)
def test_any_buffer(scripted: Scripted, into: Any) -> None:
    client = client_of(scripted(ranged({"key": DATA})))
    assert client.read_into("key", None, into) == 240
    assert bytes(memoryview(into).cast("B")) == DATA


@pytest.mark.parametrize("extra", [0, 1, 1000])
@pytest.mark.parametrize("body", [b"", OBJECT, LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
def test_nothing_beyond_what_was_read(
    scripted: Scripted, extra: int, body: bytes, framing: str
) -> None:
    reply = ok(body)
    shaped = {"length": reply, "chunked": reply.chunked(50_000), "eof": reply.until_eof()}
    into = bytearray([MARK]) * (len(body) + extra)
    assert client_of(scripted([shaped[framing]])).read_into("key", None, into) == len(body)
    assert into == body + bytes([MARK]) * extra


@pytest.mark.parametrize("room", [0, 1, 19])
@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
def test_too_small(scripted: Scripted, room: int, framing: str) -> None:
    for reply in (ok(OBJECT), partial(OBJECT, 0, 30)):
        shaped = {"length": reply, "chunked": reply.chunked(3), "eof": reply.until_eof()}
        memory = bytearray([MARK]) * 100
        into = memoryview(memory)[:room]
        client = client_of(scripted([shaped[framing], ok(OBJECT)]))
        byte_range = None if reply.status == 200 else (0, 20)
        error = failure(ResponseError, client.read_into, "key", byte_range, into)
        assert (error.status, error.attempts) == (reply.status, 1)
        assert f"the buffer is too small (it has {room} bytes" in str(error)
        assert memory[room:] == bytes([MARK]) * (100 - room)
        assert client.get("key") == OBJECT


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
@pytest.mark.parametrize("byte_range", [(5, 9), (5, None), (-7, None)])
def test_too_small_for_a_slice(scripted: Scripted, framing: str, byte_range: Any) -> None:
    reply = ok(OBJECT)
    shaped = {"length": reply, "chunked": reply.chunked(3), "eof": reply.until_eof()}
    expected = OBJECT[slice(*byte_range)]
    client = client_of(scripted([shaped[framing]] * 2))
    memory = bytearray([MARK]) * 100
    room = len(expected) - 1
    failure(ResponseError, client.read_into, "key", byte_range, memoryview(memory)[:room])
    assert memory[room:] == bytes([MARK]) * (100 - room)
    assert client.read_into("key", byte_range, memoryview(memory)[: room + 1]) == len(expected)
    assert memory[: room + 1] == expected


@pytest.mark.parametrize(
    ("into", "words"),
    [
        (b"constant", "writable"),
        (memoryview(b"constant"), "writable"),
        (np.zeros(40)[::2], "contiguous"),
        (np.zeros((4, 4)).T, "contiguous"),
        (np.zeros((4, 4))[:, :2], "contiguous"),
        (np.asfortranarray(np.zeros((4, 4))), "contiguous"),
        (memoryview(bytearray(40))[::2], "contiguous"),
        (np.broadcast_to(np.zeros(1), (40,)), "contiguous"),
    ],
)
def test_refused(scripted: Scripted, into: Any, words: str) -> None:
    server = scripted([])
    with pytest.raises(ValueError, match=f"^the buffer to read into .*{words}.*bytearray"):
        client_of(server).read_into("key", None, into)
    assert server.connections == []


@pytest.mark.parametrize("into", ["text", 40, [0] * 40])
def test_what_is_no_buffer(scripted: Scripted, into: Any) -> None:
    server = scripted([])
    with pytest.raises(TypeError, match=r"^the buffer to read into is a .*bytearray"):
        client_of(server).read_into("key", None, into)
    assert server.connections == []


def test_a_read_only_array_is_refused(scripted: Scripted) -> None:
    into = np.zeros(40, "u1")
    into.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        client_of(scripted([])).read_into("key", None, into)


def test_missing(scripted: Scripted) -> None:
    into = bytearray([MARK]) * 40
    client = client_of(scripted([status(404, b"an error page"), status(400, b"another one")]))
    failure(MissingKeyError, client.read_into, "key", None, into)
    failure(ResponseError, client.read_into, "key", None, into)
    assert into == bytes([MARK]) * 40


def test_an_error_page_of_a_retried_status_never_lands(scripted: Scripted) -> None:
    into = bytearray([MARK]) * 40
    server = scripted([status(503, b"p" * 30), status(302, b"q" * 30, location="/b"), ok(OBJECT)])
    assert client_of(server).read_into("key", None, into) == len(OBJECT)
    assert into == OBJECT + bytes([MARK]) * 20


@pytest.mark.parametrize("reply", [partial(b"x" * 20, 1, 40), ok(b"x" * 20, content_encoding="br")])
def test_bytes_that_were_not_asked_for_never_land(scripted: Scripted, reply: Any) -> None:
    into = bytearray([MARK]) * 20
    failure(ResponseError, client_of(scripted([reply])).read_into, "key", (0, 20), into)
    assert into == bytes([MARK]) * 20


def test_the_memory_is_let_go_of(scripted: Scripted) -> None:
    server = scripted([ok(LARGE), ok(LARGE).cut(-1), Stall()])
    timeout = urllib3.Timeout(connect=5, read=0.1)
    client = client_of(server, retries=0, timeout=timeout)
    into = bytearray(len(LARGE))
    for _ in range(3):
        with contextlib.suppress(OSError):
            client.read_into("key", None, into)
        into.append(0)


def test_not_a_byte_lands_after_the_call(scripted: Scripted) -> None:
    # The deadline ends the call; what the server sends later has no place any more.
    ended = threading.Event()

    def handle(request: Request) -> Any:
        yield ok(OBJECT).wire()[:-10]
        ended.wait(10)
        yield Drip(OBJECT[-10:])

    client = client_of(scripted(handle), deadline=0.2, retries=at_once(0))
    into = bytearray([MARK]) * 20
    failure(DeadlineError, client.read_into, "key", None, into)
    before = bytes(into)
    assert before[10:] == bytes([MARK]) * 10
    ended.set()
    client_of(scripted([ok(OBJECT)])).get("key")
    assert into == before


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is Linux's")
@pytest.mark.parametrize("size", [1, 16, 100_000, 3 * MIB])
def test_the_end_of_a_body_of_unknown_length(scripted: Scripted, size: int) -> None:
    """Only so much of it is kept as is wanted, and as much again."""
    pieces = [bytes([number]) * MIB for number in range(64)]

    def handle(_: Request) -> Any:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in pieces:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    client = client_of(scripted(handle))
    peak = PeakMemory()
    assert client.get("key", (-size, None)) == b"".join(pieces[-3:])[-size:]
    assert peak.grown() < 3 * size + 16 * MIB


@pytest.mark.parametrize("size", [5, 70_000, 200_000, 500_000])
def test_the_end_of_a_body_in_pieces(scripted: Scripted, size: int) -> None:
    body = np.random.default_rng(2).bytes(300_000)
    for piece in (1_009, 65_537, 299_999):
        server = scripted(lambda _, piece=piece: ok(body).chunked(piece))
        assert client_of(server).get("key", (-size, None)) == body[-size:]
