"""What was written just now may be written anew under the same tag: it is read in one piece."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from promises import at_once, client_of, sent_ranges
from servers.ranged import Ranged
from servers.scripted import Fin, Reply, Request, ScriptedServer

import zfast

Scripted = Callable[..., ScriptedServer]

PART = 128 << 10
BODY = random.Random(1).randbytes(4 * PART)
OTHER = random.Random(2).randbytes(len(BODY))
WHOLE = (0, len(BODY))


@pytest.fixture(autouse=True)
def _small_parts() -> Iterator[None]:
    with zfast.config.set(split_threshold=2 * PART, split_size=PART):
        yield


class Alike(Ranged):
    """Whatever an object is made of, its tag is the same."""

    def _tag(self, key: str, body: bytes) -> str:
        return '"alike"'


def aged(body: bytes, age: float) -> Callable[[Request], Reply]:
    """An object that was written so many seconds ago."""
    handler = Alike({"key": body})

    def handle(request: Request) -> Reply:
        now = time.time()
        dates = {"date": now, "last_modified": now - age}
        return handler(request).with_fields(
            **{name: formatdate(value, usegmt=True) for name, value in dates.items()}
        )

    return handle


@pytest.mark.parametrize(("age", "parts"), [(0.0, False), (60.0, True)])
def test_it_is_not_split(scripted: Scripted, age: float, parts: bool) -> None:
    server = scripted(aged(BODY, age))
    client = client_of(server)
    for _ in range(2):
        assert client.get("key", WHOLE) == BODY
    pinned = [request for request in server.requests if request.field("If-Match")]
    assert bool(pinned) is parts
    assert (f"bytes=0-{len(BODY) - 1}" in sent_ranges(server)) is not parts


@pytest.mark.parametrize(("age", "continued"), [(0.0, False), (60.0, True)])
def test_it_is_not_continued(scripted: Scripted, age: float, continued: bool) -> None:
    """The connection breaks, and meanwhile the object is another, of the same size and tag."""
    first, other = (aged(body, age) for body in (BODY, OTHER))

    def handle(request: Request) -> Any:
        if len(server.requests) == 1:
            return [first(request).wire()[:-1], Fin()]
        return other(request)

    server = scripted(handle)
    body = client_of(server, retries=at_once()).get("key", (0, PART + 1))
    assert body is not None
    assert (bytes(body) == OTHER[: PART + 1]) is not continued
    again = sent_ranges(server)[1]
    assert (again == f"bytes=0-{PART}") is not continued
