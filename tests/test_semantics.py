"""What each response head means, as a table; and that every head has one meaning."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfast._core.semantics import judge_response
from zfast._core.types import Method, RangeKind, Status
from zfast.planner import bounds, span

WHOLE = span(None)
BOUNDED = span((5, 9))
OFFSET = span((5, None))
SUFFIX = span((-5, None))
EMPTY = span((3, 3))

MISSING = (404, 410)
RETRY = (408, 429, 500, 502, 503, 504)

PLAIN = {
    "code": Status.OK,
    "skip": 0,
    "take": 0,
    "tail": False,
    "from_start": False,
    "range_ignored": False,
    "object_size": -1,
}


def head(status: int, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode()


def length(size: int) -> str:
    return f"Content-Length: {size}"


def part(value: str, size: int | None = None) -> bytes:
    return head(206, f"Content-Range: {value}", *([] if size is None else [length(size)]))


def judged(raw: bytes, wanted: Any = WHOLE, method: Method = Method.GET, **past: int) -> dict:
    verdict = judge_response(raw, method, wanted, missing=MISSING, retry=RETRY, **past)
    assert set(verdict) == {"meaning", *PLAIN}
    return verdict


def told(verdict: dict[str, Any]) -> dict[str, Any]:
    """What a verdict says beyond the plain one."""
    return {name: value for name, value in verdict.items() if PLAIN.get(name, value) != value} | {
        "meaning": verdict["meaning"]
    }


def content(skip: int, take: int, size: int, **more: Any) -> dict[str, Any]:
    facts = {"skip": skip, "take": take, "object_size": size, **more}
    return {n: v for n, v in facts.items() if PLAIN[n] != v} | {"meaning": "content"}


def empty(size: int = -1, **more: Any) -> dict[str, Any]:
    facts = {"object_size": size, **more}
    return {n: v for n, v in facts.items() if PLAIN[n] != v} | {"meaning": "empty"}


def failed(code: Status) -> dict[str, Any]:
    return {"meaning": "failure", "code": code}


IGNORED = {"range_ignored": True}
MISMATCH = failed(Status.RANGE_MISMATCH)

FIRST_ANSWERS = [
    # 200: the whole object, sliced
    (WHOLE, head(200, length(20)), content(0, 20, 20)),
    (WHOLE, head(200, length(0)), content(0, 0, 0)),
    (WHOLE, head(200), content(0, -1, -1)),
    (WHOLE, head(200, "Content-Range: bytes 0-19/20", length(20)), content(0, 20, 20)),
    (WHOLE, head(200, "Content-Range: bytes 0-19/*", length(20)), content(0, 20, 20)),
    (WHOLE, head(200, "Content-Range: bytes */20", length(20)), content(0, 20, 20)),
    (WHOLE, head(200, "Content-Range: bytes 0-9/20", length(10)), MISMATCH),
    (WHOLE, head(200, "Content-Range: bytes 0-9/*"), MISMATCH),
    (BOUNDED, head(200, "Content-Range: bytes 5-8/20", length(4)), MISMATCH),
    (BOUNDED, head(200, length(20)), content(5, 4, 20, **IGNORED)),
    (BOUNDED, head(200, length(7)), content(5, 2, 7, **IGNORED)),
    (BOUNDED, head(200, length(5)), empty(5, **IGNORED)),
    (BOUNDED, head(200, length(0)), empty(0)),
    (BOUNDED, head(200), content(5, -1, -1, **IGNORED)),
    (span((0, 20)), head(200, length(20)), content(0, 20, 20)),
    (span((0, 99)), head(200, length(20)), content(0, 20, 20)),
    (OFFSET, head(200, length(20)), content(5, 15, 20, **IGNORED)),
    (OFFSET, head(200, length(5)), empty(5, **IGNORED)),
    (OFFSET, head(200), content(5, -1, -1, **IGNORED)),
    (SUFFIX, head(200, length(20)), content(15, 5, 20, **IGNORED)),
    (SUFFIX, head(200, length(5)), content(0, 5, 5)),
    (SUFFIX, head(200, length(3)), content(0, 3, 3)),
    (SUFFIX, head(200, length(0)), content(0, 0, 0)),
    (SUFFIX, head(200), content(0, -1, -1, tail=True, **IGNORED)),
    (EMPTY, head(200, length(20)), empty(20, **IGNORED)),
    (EMPTY, head(200, length(0)), empty(0)),
    (EMPTY, head(200), empty(-1, **IGNORED)),
    # 206: exactly the part
    (BOUNDED, part("bytes 5-8/20", 4), content(0, 4, 20)),
    (BOUNDED, part("bytes 5-8/20"), content(0, 4, 20)),
    (BOUNDED, part("bytes 5-8/*"), content(0, 4, -1)),
    (BOUNDED, part("bytes 5-6/7"), content(0, 2, 7)),
    (BOUNDED, part("bytes 5-6/*"), MISMATCH),
    (BOUNDED, part("bytes 5-7/20"), MISMATCH),
    (BOUNDED, part("bytes 5-9/20"), MISMATCH),
    (BOUNDED, part("bytes 4-8/20"), MISMATCH),
    (BOUNDED, part("bytes 6-8/20"), MISMATCH),
    (BOUNDED, part("bytes */20"), MISMATCH),
    (BOUNDED, part("octets 5-8/20"), MISMATCH),
    (BOUNDED, head(206, length(4)), MISMATCH),
    (BOUNDED, head(206, "Content-Type: multipart/byteranges; boundary=x"), MISMATCH),
    (BOUNDED, part("bytes 5-8/20", 5), failed(Status.PROTOCOL)),
    (BOUNDED, part("bytes 5-8/20", 3), failed(Status.PROTOCOL)),
    (OFFSET, part("bytes 5-19/20"), content(0, 15, 20)),
    (OFFSET, part("bytes 5-18/20"), MISMATCH),
    (OFFSET, part("bytes 5-19/*"), MISMATCH),
    (OFFSET, part("bytes 4-19/20"), MISMATCH),
    (SUFFIX, part("bytes 15-19/20"), content(0, 5, 20)),
    (SUFFIX, part("bytes 0-2/3"), content(0, 3, 3)),
    (SUFFIX, part("bytes 14-19/20"), MISMATCH),
    (SUFFIX, part("bytes 15-18/20"), MISMATCH),
    (SUFFIX, part("bytes 15-19/*"), MISMATCH),
    (SUFFIX, part("bytes 0--1/0", 0), empty()),
    (SUFFIX, part("bytes 0--1/0", 1), MISMATCH),
    (SUFFIX, head(206, length(0)), MISMATCH),
    (SUFFIX, part("bytes 95-9x/100", 0), MISMATCH),
    (BOUNDED, part("bytes 0--1/0", 0), MISMATCH),
    (EMPTY, part("bytes 0-0/20"), empty(20)),
    (EMPTY, head(206), MISMATCH),
    (WHOLE, part("bytes 0-19/20"), MISMATCH),
    (WHOLE, head(206, length(20)), MISMATCH),
    # 416: after zarr's semantics
    (BOUNDED, head(416, "Content-Range: bytes */5"), empty(5)),
    (BOUNDED, head(416, "Content-Range: bytes */0"), empty(0)),
    (BOUNDED, head(416, "Content-Range: bytes */6"), MISMATCH),
    (BOUNDED, head(416), empty()),
    (BOUNDED, head(416, "Content-Range: nonsense"), empty()),
    (OFFSET, head(416, "Content-Range: bytes */5"), empty(5)),
    (OFFSET, head(416, "Content-Range: bytes */6"), MISMATCH),
    (OFFSET, head(416), empty()),
    (span((0, 5)), head(416), failed(Status.RANGE_UNSUPPORTED)),
    (span((0, 5)), head(416, "Content-Range: bytes */0"), empty(0)),
    (SUFFIX, head(416, "Content-Range: bytes */0"), empty(0)),
    (
        SUFFIX,
        head(416, "Content-Range: bytes */20"),
        failed(Status.RANGE_UNSUPPORTED) | {"object_size": 20},
    ),
    (SUFFIX, head(416), failed(Status.RANGE_UNSUPPORTED)),
    (EMPTY, head(416, "Content-Range: bytes */0"), empty(0)),
    (EMPTY, head(416, "Content-Range: bytes */20"), empty(20)),
    (EMPTY, head(416), empty()),
    (WHOLE, head(416), failed(Status.BAD_STATUS)),
    (WHOLE, head(416, "Content-Range: bytes */20"), failed(Status.BAD_STATUS)),
    # encoded bodies
    (WHOLE, head(200, "Content-Encoding: gzip", length(20)), failed(Status.ENCODED)),
    (BOUNDED, head(206, "Content-Encoding: br"), failed(Status.ENCODED)),
    (WHOLE, head(200, "Content-Encoding: identity", length(20)), content(0, 20, 20)),
    (WHOLE, head(404, "Content-Encoding: gzip"), {"meaning": "missing"}),
]


@pytest.mark.parametrize(("wanted", "raw", "expected"), FIRST_ANSWERS)
def test_first_answer(wanted: Any, raw: bytes, expected: dict[str, Any]) -> None:
    assert told(judged(raw, wanted)) == expected


RESUMED = {"delivered": 3, "known_size": 20}
AGAIN = {"from_start": True}

LATER_ANSWERS = [
    (WHOLE, part("bytes 3-19/20"), content(0, 17, 20)),
    (WHOLE, part("bytes 3-19/*"), content(0, 17, 20)),
    (WHOLE, part("bytes 3-18/20"), MISMATCH),
    (WHOLE, part("bytes 3-18/*"), MISMATCH),
    (WHOLE, part("bytes 2-19/20"), MISMATCH),
    (WHOLE, part("bytes 0-19/20"), MISMATCH),
    (WHOLE, part("bytes 3-20/21"), {"meaning": "restart"}),
    (WHOLE, head(200, length(20)), content(0, 20, 20, **AGAIN)),
    (BOUNDED, part("bytes 8-8/20"), content(0, 1, 20)),
    (BOUNDED, part("bytes 8-8/*"), content(0, 1, 20)),
    (BOUNDED, part("bytes 5-8/20"), MISMATCH),
    (BOUNDED, part("bytes 8-8/19"), {"meaning": "restart"}),
    (BOUNDED, head(200, length(20)), content(5, 4, 20, **AGAIN, **IGNORED)),
    (BOUNDED, head(200), content(5, -1, -1, **AGAIN, **IGNORED)),
    (OFFSET, part("bytes 8-19/20"), content(0, 12, 20)),
    (OFFSET, part("bytes 8-19/*"), content(0, 12, 20)),
    (OFFSET, part("bytes 8-18/*"), MISMATCH),
    (SUFFIX, part("bytes 18-19/20"), content(0, 2, 20)),
    (SUFFIX, part("bytes 15-19/20"), MISMATCH),
    (SUFFIX, part("bytes 18-20/21"), {"meaning": "restart"}),
    (BOUNDED, head(416, "Content-Range: bytes */6"), {"meaning": "restart"}),
    (BOUNDED, head(416), {"meaning": "restart"}),
    (WHOLE, head(416), {"meaning": "restart"}),
    (BOUNDED, head(412), {"meaning": "restart"}),
    (BOUNDED, head(404), {"meaning": "missing"}),
    (BOUNDED, head(503), {"meaning": "retry"}),
    (BOUNDED, head(206, "Content-Encoding: gzip"), failed(Status.ENCODED)),
]


@pytest.mark.parametrize(("wanted", "raw", "expected"), LATER_ANSWERS)
def test_answer_to_a_resumed_read(wanted: Any, raw: bytes, expected: dict[str, Any]) -> None:
    assert told(judged(raw, wanted, **RESUMED)) == expected


def test_a_size_that_was_never_known_binds_nobody() -> None:
    verdict = judged(part("bytes 8-8/20"), BOUNDED, delivered=3)
    assert told(verdict) == content(0, 1, 20)


MOVED = "Location: /there"
STATUSES = [
    (Method.GET, head(404), "missing"),
    (Method.GET, head(410), "missing"),
    (Method.HEAD, head(404), "missing"),
    (Method.PUT, head(404), Status.BAD_STATUS),
    (Method.PUT, head(410), Status.BAD_STATUS),
    (Method.DELETE, head(404), "missing"),
    *((method, head(code), "retry") for method in Method for code in RETRY),
    *((Method.GET, head(code, MOVED), "redirect") for code in (301, 302, 303, 307, 308)),
    *((Method.HEAD, head(code, MOVED), "redirect") for code in (301, 302, 303, 307, 308)),
    *((Method.PUT, head(code, MOVED), "redirect") for code in (307, 308)),
    *((Method.DELETE, head(code, MOVED), "redirect") for code in (307, 308)),
    *((Method.PUT, head(code, MOVED), Status.BAD_STATUS) for code in (301, 302, 303)),
    *((Method.DELETE, head(code, MOVED), Status.BAD_STATUS) for code in (301, 302, 303)),
    *((method, head(302), Status.BAD_STATUS) for method in Method),
    *((method, head(300, MOVED), Status.BAD_STATUS) for method in Method),
    *((method, head(304, MOVED), Status.BAD_STATUS) for method in Method),
    *((method, head(412), "precondition") for method in Method),
    *((Method.PUT, head(code), "done") for code in (200, 201, 202, 204)),
    *((Method.DELETE, head(code), "done") for code in (200, 201, 202, 204)),
    *((Method.PUT, head(code), Status.BAD_STATUS) for code in (203, 205, 206, 226, 416)),
    *((Method.GET, head(code), Status.BAD_STATUS) for code in (201, 202, 203, 204, 205, 226)),
    *((Method.HEAD, head(code), Status.BAD_STATUS) for code in (204, 206, 416)),
    (Method.HEAD, head(200, length(20)), "content"),
    *((m, head(c), Status.BAD_STATUS) for m in Method for c in (400, 401, 403, 409, 501, 999)),
    *((m, head(405), Status.BAD_STATUS) for m in Method if m != Method.MKCOL),
    *((Method.MKCOL, head(code), "done") for code in (201, 405)),
    *((Method.MKCOL, head(code), Status.BAD_STATUS) for code in (202, 404, 410, 507)),
]


@pytest.mark.parametrize(("method", "raw", "expected"), STATUSES)
def test_status(method: Method, raw: bytes, expected: str | Status) -> None:
    verdict = judged(raw, WHOLE, method)
    if isinstance(expected, Status):
        assert told(verdict) == failed(expected)
    else:
        assert verdict["meaning"] == expected


def test_head_tells_a_size_and_delivers_nothing() -> None:
    assert told(judged(head(200, length(20)), method=Method.HEAD)) == content(0, 0, 20)
    assert told(judged(head(200), method=Method.HEAD)) == content(0, 0, -1)


def test_the_policies_decide() -> None:
    assert judge_response(head(404))["meaning"] == "failure"
    assert judge_response(head(403), missing=[403])["meaning"] == "missing"
    assert judge_response(head(418), retry=[418])["meaning"] == "retry"
    # A status that both name is missing: asking again would not make it appear.
    assert judge_response(head(404), missing=[404], retry=[404])["meaning"] == "missing"


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200", head(200)[:-1], b"x" + head(200)])
def test_half_a_head_is_not_judged(raw: bytes) -> None:
    with pytest.raises(ValueError, match="head"):
        judge_response(raw)


sizes = st.integers(0, 30)
ranges = st.one_of(
    st.none(),
    st.tuples(sizes, sizes),
    st.tuples(sizes, st.none()),
    st.tuples(st.integers(-30, -1), st.none()),
)


@given(ranges, sizes)
def test_a_whole_object_gives_the_range_of_it(byte_range: Any, size: int) -> None:
    verdict = judged(head(200, length(size)), span(byte_range))
    start, end = bounds(span(byte_range), size)
    if verdict["meaning"] == "empty":
        assert start >= end
    else:
        assert (verdict["skip"], verdict["skip"] + verdict["take"]) == (start, end)
    assert verdict["object_size"] == size


@given(ranges, sizes, sizes, sizes, st.none() | sizes, st.sampled_from([0, 1, 5]))
def test_only_the_very_part_is_taken(
    byte_range: Any, first: int, last: int, total: int, size: int | None, delivered: int
) -> None:
    wanted = span(byte_range)
    raw = part(f"bytes {first}-{last}/{total}", size)
    verdict = judged(raw, wanted, delivered=delivered, known_size=total if delivered else -1)
    start, end = bounds(wanted, total)
    exact = (
        first <= last < total
        and (first, last + 1) == (start + delivered, end)
        and size in (None, last + 1 - first)
        and (wanted[0] != RangeKind.WHOLE or delivered > 0)
        and wanted[0] != RangeKind.EMPTY
    )
    assert (verdict["meaning"] == "content") == exact
    if exact:
        assert (verdict["skip"], verdict["take"]) == (0, end - start - delivered)
    else:
        assert verdict["meaning"] in ("failure", "empty")


lines = st.sampled_from(
    [
        "Content-Length: 4",
        "Content-Range: bytes 5-8/20",
        "Content-Range: bytes */20",
        "Content-Range: nonsense",
        "Content-Encoding: gzip",
        "Content-Type: multipart/byteranges",
        "Location: /there",
        "Transfer-Encoding: chunked",
        'ETag: W/"x"',
    ]
)


@given(
    st.integers(200, 999),
    st.lists(lines, unique_by=lambda line: line.partition(":")[0]),
    st.sampled_from(list(Method)),
    ranges,
    st.integers(0, 30),
    st.integers(-1, 30),
)
def test_every_head_has_one_meaning(
    status: int, fields: list[str], method: Method, byte_range: Any, delivered: int, known: int
) -> None:
    wanted = span(byte_range)
    verdict = judged(head(status, *fields), wanted, method, delivered=delivered, known_size=known)
    assert (verdict["meaning"] == "failure") == (verdict["code"] != Status.OK)
    assert verdict["skip"] >= 0
    assert verdict["take"] >= -1
    if verdict["meaning"] == "content":
        assert status in (200, 206)
    if verdict["meaning"] == "missing":
        assert status in MISSING
