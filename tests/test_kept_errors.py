"""An error that is kept holds no body, and one that is dropped is gone at once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import FrameType, TracebackType
from typing import Any

import pytest
from servers.scripted import Fin, Request, ScriptedServer, ranged, status

import zfast
from zfast import Body, Client
from zfast._core.batch import Batch
from zfast._core.buffers import spare_memory

Start = Callable[..., ScriptedServer]
Failing = Callable[[str], zfast.ZfastError]

SIZE = 100_000


@pytest.fixture
def url(scripted: Start) -> str:
    handler = ranged({"a": bytes(SIZE)})

    def answer(request: Request) -> Any:
        return status(403) if request.key == "secret" else handler(request)

    return str(scripted(answer).url)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def raised(call: Callable[[], Any]) -> zfast.ZfastError:
    try:
        call()
    except zfast.ZfastError as error:
        return error
    raise AssertionError("nothing was raised")


def raised_async(call: Callable[[], Awaitable[Any]]) -> zfast.ZfastError:
    async def main() -> zfast.ZfastError:
        # Within the coroutine: its task keeps what it ends by.
        try:
            await call()
        except zfast.ZfastError as error:
            return error
        raise AssertionError("nothing was raised")

    return asyncio.run(main())


def returned(results: list[Any]) -> zfast.ZfastError:
    error = results[-1]
    assert isinstance(error, zfast.ZfastError)
    assert isinstance(results[0], Body)
    return error


def cat_urls(url: str, last: str) -> list[str]:
    return [f"{url}/a"] * 5 + [last if last == "no URL" else f"{url}/{last}"]


def client(url: str) -> Client:
    # One after the other: the failure is the last to come.
    return Client(url, max_concurrency=1)


ITEMS = [("a", None)] * 5 + [("secret", None)]


def cat(url: str, last: str, on_error: str) -> zfast.ZfastError:
    if on_error == "return":
        return returned(zfast.cat_ranges(cat_urls(url, last), on_error="return", max_concurrency=1))
    return raised(lambda: zfast.cat_ranges(cat_urls(url, last), max_concurrency=1))


def cat_async(url: str, last: str, on_error: str) -> zfast.ZfastError:
    read = partial(zfast.cat_ranges_async, cat_urls(url, last), max_concurrency=1)
    if on_error == "return":
        return returned(asyncio.run(read(on_error="return")))
    return raised_async(read)


FAILING: dict[str, Failing] = {
    **{
        f"{face.__name__}, {last}, {on_error}": partial(face, last=last, on_error=on_error)
        for face in (cat, cat_async)
        for last in ("missing", "secret", "no URL")
        for on_error in ("raise", "return")
    },
    "get_many, raise": lambda url: raised(lambda: client(url).get_many(ITEMS)),
    "get_many, return": lambda url: returned(client(url).get_many(ITEMS, on_error="return")),
    "get_many_async, raise": lambda url: raised_async(lambda: client(url).get_many_async(ITEMS)),
    "get_many_async, return": lambda url: returned(
        asyncio.run(client(url).get_many_async(ITEMS, on_error="return"))
    ),
    "get": lambda url: raised(lambda: client(url).get("secret")),
    "read_into": lambda url: raised(lambda: client(url).read_into("secret", None, bytearray(9))),
}


def held_bodies(error: BaseException) -> list[Body]:
    """The bodies that can be reached from an error, by the frames of its traceback too."""
    found: list[Body] = []
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type) or hasattr(thing, "__spec__"):
            continue
        seen.add(id(thing))
        if isinstance(thing, Body):
            found.append(thing)
        elif isinstance(thing, Batch):
            found += [body for i in range(len(thing)) if (body := thing.body(i))]
        elif isinstance(thing, FrameType):
            waiting += thing.f_locals.values()
        elif isinstance(thing, TracebackType):
            waiting += [thing.tb_frame, thing.tb_next]
        elif isinstance(thing, BaseException):
            waiting += [thing.__traceback__, thing.__context__, thing.__cause__]
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, list | tuple | set):
            waiting += thing
    return found


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
def test_an_error_holds_no_body(url: str, failing: Failing) -> None:
    assert held_bodies(failing(url)) == []


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
def test_an_error_that_is_dropped_is_gone(url: str, failing: Failing) -> None:
    error = failing(url)
    there = weakref.ref(error)
    del error
    assert there() is None


def test_what_was_received_of_a_body_goes_with_the_error(scripted: Start) -> None:
    size = 8 << 20
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    server = scripted(lambda request: [head, bytes(size // 2), Fin()])
    before = spare_memory()
    error = raised(lambda: Client(server.url, retries=0).get("a"))
    # Large bodies that nobody has any more are kept for the next ones.
    assert spare_memory() - before >= size
    assert isinstance(error, zfast.ConnectionFailedError)
