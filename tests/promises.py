"""What the tests of the promises share: clients that retry without a wait, and common questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from servers.scripted import Fields, Request, ScriptedServer

from zfast import Client
from zfast.errors import ZfastError

Scripted = Callable[..., ScriptedServer]

OBJECT = bytes(range(20))
"""What most scripts serve: every byte tells its place."""


def at_once(retries: int = 4, **policy: Any) -> urllib3.Retry:
    """A policy of so many retries, none of which waits."""
    return urllib3.Retry(retries, backoff_factor=0.0, **policy)


def client_of(server: Any, **options: Any) -> Client:
    """A client of `server` that retries at once and never hangs for long."""
    return Client(server.url, **{"retries": at_once(), "deadline": 20.0} | options)


def failure(
    kind: type[ZfastError], read: Callable[..., Any], *args: Any, **options: Any
) -> ZfastError:
    """The error that `read(*args, **options)` raises; its class is exactly `kind`."""
    with pytest.raises(ZfastError) as caught:
        read(*args, **options)
    assert type(caught.value) is kind, repr(caught.value)
    return caught.value


def sent_ranges(server: ScriptedServer) -> list[str | None]:
    """The Range field of every request, in order of arrival."""
    return [request.range for request in server.requests]


def fields_but(request: Request, *names: str) -> Fields:
    """The fields of a request without those named."""
    return request.fields.without(*names)
