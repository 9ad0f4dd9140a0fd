"""Request heads: what is written, and that nothing gets into one that does not belong there."""

from __future__ import annotations

import string
from typing import Any

import pytest
from fuzz.http1_oracle import MAX_NUMBER
from hypothesis import given
from hypothesis import strategies as st

from zfast._core.request_head import check_field_value, check_target, check_token, request_head

TOKEN = set((string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode())
TARGET = set(range(0x21, 0x7F))
TEXT = {*range(0x20, 0x7F), *range(0x80, 0x100), 0x09}
INVISIBLE = {*range(0x20), 0x7F}


def test_request_head() -> None:
    assert request_head("GET", "/a/b?c=d") == b"GET /a/b?c=d HTTP/1.1\r\n\r\n"
    assert request_head(
        b"PUT", b"/k", [("Host", "h:1"), (b"X-Caf\x65", "é\t "), ("Empty", "")], content_length=0
    ) == (
        b"PUT /k HTTP/1.1\r\nHost: h:1\r\nX-Cafe: \xe9\t \r\nEmpty: \r\nContent-Length: 0\r\n\r\n"
    )
    large = request_head("PUT", "/", content_length=MAX_NUMBER)
    assert f"Content-Length: {MAX_NUMBER}\r\n".encode() in large


@pytest.mark.parametrize(
    ("byte_range", "value"),
    [
        ((0, 1), b"0-0"),
        ((5, 10), b"5-9"),
        ((0, MAX_NUMBER), b"0-9223372036854775806"),
        ((0, None), b"0-"),
        ((5, None), b"5-"),
        ((-5, None), b"-5"),
        ((5, 5), None),
        ((5, 4), None),
        ((-5, 4), None),
    ],
)
def test_range_field(byte_range: tuple[int, int | None], value: bytes | None) -> None:
    if value is None:
        with pytest.raises(ValueError, match="Range"):
            request_head("GET", "/", byte_range=byte_range)
    else:
        head = request_head("GET", "/", byte_range=byte_range)
        assert head == b"GET / HTTP/1.1\r\nRange: bytes=" + value + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("check", "allowed"),
    [(check_token, TOKEN), (check_field_value, TEXT), (check_target, TARGET)],
)
def test_every_octet_is_let_through_or_named(check: Any, allowed: set[int]) -> None:
    for octet in range(256):
        value = b"ab" + bytes([octet]) + b"c"
        if octet in allowed:
            assert check(value) == check(value.decode("latin-1")) == value
        else:
            for spelled in (value, value.decode("latin-1")):
                with pytest.raises(ValueError, match=rf"0x{octet:02X} at position 2$"):
                    check(spelled)
    # A careless narrowing makes CR and LF of these.
    for trick in ("ab\u010d", "ab\u010a", "ab\U0001010d", "ab\ud80d"):
        with pytest.raises(ValueError, match=rf"U\+{ord(trick[2]):04X} at position 2$"):
            check(trick)
    with pytest.raises(TypeError):
        check(7)
    if check is check_field_value:
        assert check("") == b""
    else:
        with pytest.raises(ValueError, match="empty"):
            check("")


@pytest.mark.parametrize("octet", sorted(INVISIBLE - {0x09}))
def test_nothing_can_be_injected_into_a_request(octet: int) -> None:
    bad = "x" + chr(octet) + "y"
    with pytest.raises(ValueError, match="position 1"):
        request_head(bad, "/")
    with pytest.raises(ValueError, match="position 1"):
        request_head("GET", bad)
    with pytest.raises(ValueError, match="position 1"):
        request_head("GET", "/", [("A", "b"), (bad, "c")])
    with pytest.raises(ValueError, match="position 1") as refused:
        request_head("GET", "/", [("Authorization", bad + "secret")])
    assert "secret" not in str(refused.value)


@given(
    st.text(max_size=8),
    st.text(max_size=8),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3),
)
def test_a_request_head_holds_what_it_was_given(
    method: str, target: str, fields: list[tuple[str, str]]
) -> None:
    try:
        head = request_head(method, target, fields)
    except ValueError:
        return
    request_line, *lines = head.decode("latin-1").split("\r\n")
    assert request_line == f"{method} {target} HTTP/1.1"
    assert lines == [*(f"{name}: {value}" for name, value in fields), "", ""]
