"""What type checkers make of the public names: for mypy, which CI runs; nothing here is called.

Each ``type: ignore`` stands where a call is wrong, and mypy says where one is not needed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import urllib3
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype

import zfast
from zfast import (
    Body,
    ByteRange,
    Client,
    FastStore,
    ObjectInfo,
    ZfastError,
    cat_ranges,
    cat_ranges_async,
)
from zfast.operations import OnError


class Tenant(Client):
    """A client of one's own."""


class Decrypting(FastStore):
    """A store of one's own."""


def stores() -> None:
    assert_type(FastStore("x"), FastStore)
    store = FastStore(
        "x",
        read_only=False,
        pipeline=None,
        headers={"a": "b"},
        retries=urllib3.Retry(3),
        timeout=urllib3.Timeout(3),
        ca_certs=Path("x"),
        missing_status=(403, 404),
    )
    as_zarr_takes_it: Store = store
    del as_zarr_takes_it
    assert_type(store["a"], bytes)
    assert_type(store.with_read_only(), FastStore)
    assert_type(Decrypting("x").with_read_only(True), Decrypting)
    assert_type(store.stats(), dict[str, Any])
    with Decrypting("x") as own:
        assert_type(own, Decrypting)

    FastStore()  # type: ignore[call-arg]
    FastStore(3)  # type: ignore[arg-type]
    FastStore("x", True)  # type: ignore[call-arg]
    FastStore("x", read_only="r")  # type: ignore[arg-type]
    FastStore("x", mode="r")  # type: ignore[call-arg]
    FastStore("x", deadline="soon")  # type: ignore[arg-type]
    store.with_read_only("r")  # type: ignore[arg-type]


async def stores_in_coroutines(store: FastStore) -> None:
    assert_type(await store.get("a", default_buffer_prototype()), Buffer | None)


def clients() -> None:
    with Tenant("x", ca_certs=Path("x")) as client:
        assert_type(client, Tenant)
        assert_type(copy.copy(client), Tenant)
    body = client.get("a", (0, 100))
    assert_type(body, Body | None)
    assert client.get("a") == b"x"
    assert body is not None
    assert_type(body == b"x", bool)
    assert_type(body[0], int)
    assert_type(body[:3], memoryview)
    assert_type(client.head("a"), ObjectInfo | None)
    assert_type(client.get_ranges("a", [(0, 1), None, (-5, None)]), list[Body | None])
    np.frombuffer(memoryview(body), "<f4")

    Client("x", mode="r")  # type: ignore[call-arg]
    Client("x", ca_certs=3)  # type: ignore[arg-type]
    client.get("a", [0, 1])  # type: ignore[arg-type]
    client.get("a", (0, "x"))  # type: ignore[arg-type]
    client.get("a", slice(0, 1))  # type: ignore[arg-type]


def byte_ranges(client: Client) -> None:
    said: list[ByteRange] = [
        None,
        (0, None),
        (np.int64(0), np.int64(5)),
        RangeByteRequest(0, 5),
        OffsetByteRequest(5),
        SuffixByteRequest(5),
    ]
    for byte_range in said:
        client.get("a", byte_range)


def memory(client: Client) -> None:
    assert_type(client.read_into("a", None, bytearray(3)), int)
    client.read_into("a", None, memoryview(bytearray(3)))
    client.read_into("a", None, np.empty(3))
    client.put("a", np.zeros(3), if_absent=True)
    client.put("a", b"x")
    into: zfast.Buffer = np.empty(3)
    del into

    client.read_into("a", None, "x")  # type: ignore[arg-type]
    client.put("a", "x")  # type: ignore[arg-type]


def many(client: Client, on_error: OnError) -> None:
    items = [("a", None), ("b", (0, 4))]
    assert_type(client.get_many(items), list[Body | None])
    assert_type(client.get_many(items, "return"), list[Body | ZfastError | None])
    either = client.get_many(items, on_error)
    assert_type(either, list[Body | None] | list[Body | ZfastError | None])

    client.get_many(items, on_error="omit")  # type: ignore[call-overload]
    client.get_many([5])  # type: ignore[list-item]


async def many_in_coroutines(client: Client) -> None:
    items = [("a", None), ("b", (0, 4))]
    assert_type(await client.get_many_async(items), list[Body | None])
    returned = await client.get_many_async(items, on_error="return")
    assert_type(returned, list[Body | ZfastError | None])


def urls(some: Iterator[str], on_error: OnError) -> None:
    assert_type(cat_ranges(some), list[Body])
    assert_type(cat_ranges(some, 0, 4, on_error="return"), list[Body | ZfastError])
    either = cat_ranges(some, on_error=on_error)
    assert_type(either, list[Body] | list[Body | ZfastError])
    cat_ranges(["x"], [0], [None], suffix_ranges=False, ca_certs=Path("x"))
    cat_ranges(("x", "y"), np.array([0, 4]), (4, None))
    cat_ranges(["x"], np.int64(3), range(1))

    cat_ranges(["x"], on_error="omit")  # type: ignore[call-overload]
    cat_ranges(["x"], [0.5])  # type: ignore[list-item]
    cat_ranges(["x"], max_gap=3)  # type: ignore[call-overload]


async def urls_in_coroutines(some: Iterator[str]) -> None:
    assert_type(await cat_ranges_async(some), list[Body])
    returned = await cat_ranges_async(some, 0, 4, on_error="return", deadline=5)
    assert_type(returned, list[Body | ZfastError])
