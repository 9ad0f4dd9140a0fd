"""A Body is read-only memory without a copy; an arena's bodies share slabs that outlive it."""

from __future__ import annotations

import gc
import pickle
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promises import OBJECT, Scripted, client_of
from servers.leaks import wait_until
from servers.script import in_child
from servers.scripted import ok, ranged

import zfast
from zfast._core.buffers import Body, arena_addresses, spare_memory

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def body(scripted: Scripted) -> Body:
    found = client_of(scripted([ok(OBJECT)])).get("key")
    assert found is not None
    return found


# --------------------------------------------------------------------------------------------- Body


def test_it_reads_as_bytes_do(body: Body) -> None:
    assert len(body) == len(OBJECT)
    assert bytes(body) == OBJECT
    assert body[3] == OBJECT[3]
    assert body[-1] == OBJECT[-1]
    assert body[3:7] == OBJECT[3:7]
    assert body[::-1] == OBJECT[::-1]
    assert list(memoryview(body)) == list(OBJECT)
    assert b"".join([body, body]) == OBJECT * 2
    assert int.from_bytes(body[:4], "little") == int.from_bytes(OBJECT[:4], "little")
    with pytest.raises(IndexError):
        body[len(OBJECT)]


def test_equality(body: Body) -> None:
    for same in (OBJECT, bytearray(OBJECT), memoryview(OBJECT), np.frombuffer(OBJECT, "<u4"), body):
        assert body == same
        assert not (body != same)  # noqa: SIM202
    assert OBJECT == body  # noqa: SIM300
    for other in (OBJECT[:-1], OBJECT + b"x", OBJECT[::-1], b"", None, 5, "text"):
        assert body != other
    assert OBJECT[3:9] in body
    assert OBJECT[0] in body
    assert OBJECT + b"x" not in body
    assert hash(body) == hash(OBJECT)
    assert {body: 1}[OBJECT] == 1  # type: ignore[index]


def test_it_is_read_only(body: Body) -> None:
    view = memoryview(body)
    assert view.readonly
    assert (view.format, view.itemsize, view.ndim, view.nbytes) == ("B", 1, 1, len(OBJECT))
    with pytest.raises(TypeError):
        body[0] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        view[0] = 1
    array = np.frombuffer(body, "<u2")
    assert not array.flags.writeable
    assert array.tobytes() == OBJECT
    with pytest.raises((BufferError, TypeError)):
        np.frombuffer(body, "u1").data.cast("B")[0] = 1


def test_views_are_of_the_same_memory(body: Body) -> None:
    one, two = np.frombuffer(body, "u1"), np.frombuffer(body, "u1")
    assert np.shares_memory(one, two)
    part = body.part(5, 9)
    assert part == OBJECT[5:9]
    assert np.frombuffer(part, "u1").ctypes.data == one.ctypes.data + 5


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 20), (0, 0), (20, 20), (5, 9), (19, 20), (-5, 9), (5, 99), (9, 5), (99, 99)],
)
def test_parts_stay_within(body: Body, start: int, end: int) -> None:
    part = body.part(start, end)
    first = max(0, min(start, 20))
    assert part == OBJECT[first : max(first, min(end, 20))]
    assert isinstance(part, Body)


def test_a_part_outlives_the_whole(body: Body) -> None:
    part = body.part(5, 9).part(1, 3)
    del body
    gc.collect()
    assert part == OBJECT[6:8]


def test_a_view_outlives_the_body(scripted: Scripted) -> None:
    client = client_of(scripted(ranged({str(i): bytes([i]) * 5000 for i in range(50)})))
    views = [memoryview(b) for b in client.get_many([(str(i), None) for i in range(50)])]
    gc.collect()
    client.get_many([(str(i), None) for i in range(50)])
    assert [bytes(view) for view in views] == [bytes([i]) * 5000 for i in range(50)]


def test_pickle_and_repr(body: Body) -> None:
    again = pickle.loads(pickle.dumps(body))
    assert type(again) is bytes
    assert again == OBJECT
    assert repr(body) == "<zfast.Body of 20 bytes>"


def test_an_empty_body(scripted: Scripted) -> None:
    body = client_of(scripted([ok(b"")])).get("key")
    assert body is not None
    assert (len(body), bytes(body), body == b"", not body) == (0, b"", True, True)
    assert memoryview(body).nbytes == 0
    assert body.part(0, 5) == b""
    assert hash(body) == hash(b"")


def test_it_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match="comes from a read"):
        Body()


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
@pytest.mark.parametrize("size", [1, 16 * KIB, 64 * KIB + 1, 3 * MIB])
def test_any_size(scripted: Scripted, size: int, framing: str) -> None:
    data = np.random.default_rng(size).bytes(size)
    shaped = {"length": ok(data), "chunked": ok(data).chunked(9999), "eof": ok(data).until_eof()}
    assert client_of(scripted([shaped[framing]])).get("key") == data


# ------------------------------------------------------------------------------------------- arenas


def spans(taken: list[tuple[int, int, Any]]) -> list[tuple[int, int]]:
    return sorted((start, start + len(body)) for _, start, body in taken)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 70_000) | st.sampled_from([0, 1, 63, 64, 65, 4095, 4096, 4097])))
def test_no_two_bodies_overlap(sizes: list[int]) -> None:
    taken = arena_addresses(sizes)
    assert [len(body) for _, _, body in taken] == sizes
    for (_, end), (start, _) in pairwise(spans(taken)):
        assert end <= start
    for slab, start, _ in taken:
        assert start >= slab


def test_small_bodies_share_slabs() -> None:
    taken = arena_addresses([64 * KIB] * 1000)
    slabs = {slab for slab, _, _ in taken}
    # 62.5 MiB in slabs of 4 MiB, but for the first few.
    assert len(slabs) <= 25
    for one in slabs:
        inside = [start - one for slab, start, _ in taken if slab == one]
        assert max(inside) + 64 * KIB <= 4 * MIB


def test_bodies_are_aligned() -> None:
    for _, start, _ in arena_addresses([1, 3, 64, 65, 1000, 70_000, 2 * MIB]):
        assert start % 16 == 0
    small = arena_addresses([1] * 100)
    assert all((start - slab) % 64 == 0 for slab, start, _ in small)


def test_a_large_body_has_a_slab_of_its_own() -> None:
    taken = arena_addresses([10, MIB + 1, 20, 5 * MIB, 30])
    slabs = [slab for slab, _, _ in taken]
    assert slabs[0] == slabs[2] == slabs[4]
    assert len({slabs[0], slabs[1], slabs[3]}) == 3
    assert taken[1][1] == slabs[1]
    # What can be is on huge pages, from its first byte on.
    assert taken[3][1] % (2 * MIB) == 0


def test_a_slab_grows_with_its_batch() -> None:
    # One small body must not touch a huge page: its slab is small too.
    (one,) = arena_addresses([100])
    first, second = arena_addresses([100, 4 * KIB])[:2]
    assert first[0] != second[0]
    assert one[1] == one[0]


def test_bodies_outlive_the_arena_and_each_other() -> None:
    taken = arena_addresses([1000] * 200)
    bodies = [body for _, _, body in taken]
    del taken
    survivor = bodies[77]
    del bodies
    gc.collect()
    other = arena_addresses([1000] * 200)
    assert len(bytes(survivor)) == 1000
    start = np.frombuffer(survivor, "u1").ctypes.data
    for _, begin, body in other:
        assert begin + len(body) <= start or start + 1000 <= begin


def test_memory_comes_back() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4 * KIB

    def touch() -> None:
        for _, _, body in arena_addresses([8 * MIB] * 4 + [KIB] * 1000):
            bytes(body)

    maps = Path("/proc/self/maps")
    if not maps.exists() or "libasan" in maps.read_text():
        pytest.skip("what is resident cannot be told here")
    touch()
    gc.collect()
    before = resident()
    for _ in range(20):
        touch()
    gc.collect()
    assert resident() - before < 24 * MIB


def test_too_much_memory_is_an_error() -> None:
    with pytest.raises(MemoryError):
        arena_addresses([1 << 60])
    with pytest.raises((OverflowError, MemoryError, ValueError)):
        arena_addresses([-1])


def test_a_pinned_buffer_cannot_move(scripted: Scripted) -> None:
    # While a read is under way its destination may not be resized; afterwards it may.
    into = bytearray(len(OBJECT))
    moved: list[type[BaseException]] = []

    def handle(_: object) -> object:
        try:
            into.append(1)
        except BufferError as error:
            moved.append(type(error))
        return ok(OBJECT)

    client_of(scripted(handle)).read_into("key", None, into)
    assert moved == [BufferError]
    into.append(1)
    assert into == OBJECT + b"\1"


def test_what_is_kept_for_bodies_goes_with_idle_connections(scripted: Scripted) -> None:
    server = scripted(ranged({"key": bytes(8 * MIB)}))

    def read() -> int:
        with zfast.config.set(idle_timeout=0.5):
            assert client_of(server).get("key") == bytes(8 * MIB)
        kept = spare_memory()
        wait_until(lambda: spare_memory() == 0, 20)
        return kept

    assert in_child(read) >= 8 * MIB


def test_an_array_is_let_go_of(scripted: Scripted) -> None:
    into = np.zeros(len(OBJECT), "u1")
    gone = weakref.ref(into)
    client = client_of(scripted([ok(OBJECT)]))
    client.read_into("key", None, into)
    del into
    gc.collect()
    assert gone() is None
