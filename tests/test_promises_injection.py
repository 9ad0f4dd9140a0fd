"""Nothing that a user or a server says ends a line of a request, or becomes part of another one.

The scripted server takes every request to the letter: what slipped through would be an error of it.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promises import OBJECT, Scripted, client_of, failure
from servers.scripted import (
    Fin,
    Reply,
    Request,
    ScriptedServer,
    ok,
    partial,
    ranged,
    redirect,
)

import zfast
from zfast import Client
from zfast.errors import ConfigurationError, ResponseError

KEYS = [
    "a\r\nX-Injected: 1",
    "a HTTP/1.1\r\nHost: evil\r\n\r\nGET /b",
    "a\nb",
    "a\rb",
    "a\0b",
    "a b",
    " a ",
    "a\tb",
    "a?b=c",
    "a#b",
    "a%0d%0ab",
    "a%00b",
    "a\\b",
    "//evil/a",
    "../a",
    "a/../../b",
    "./a/./b/.../c",
    "caf\xe9\u2028\u0085",
    "\udcff",
    '"<>{}|^`',
    "*",
    "http://evil/a",
]

FIELD_NAMES = {"Host", "User-Agent", "Accept", "Accept-Encoding", "Range", "If-Range"}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "read_into"])
def test_a_key_is_one_target(scripted: Scripted, key: str, method: str) -> None:
    server = scripted(lambda request: ok(OBJECT))
    client = client_of(server)
    arguments: dict[str, Any] = {"put": (b"data",), "read_into": (None, bytearray(20))}
    getattr(client, method)(key, *arguments.get(method, ()))
    (request,) = server.requests
    assert request.key == key
    assert request.query == ""
    assert {name for name, _ in request.fields} <= FIELD_NAMES | {"Content-Length"}


@pytest.mark.parametrize("key", [".", "..", "a/.", "a/..", "../.."])
@pytest.mark.parametrize("method", ["put", "delete"])
def test_no_directory_is_written_to_or_deleted(scripted: Scripted, key: str, method: str) -> None:
    """Servers resolve them percent-encoded too: what is in the directory would go."""
    server = scripted(lambda request: ok(b""))
    client = client_of(server)
    with pytest.raises(ValueError, match="cannot name an object, but only a directory"):
        getattr(client, method)(key, *([b"data"] if method == "put" else []))
    assert server.requests == []


def test_any_key() -> None:
    with ScriptedServer(lambda request: ok(request.target.encode())) as server:
        client = client_of(server)

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(st.text(min_size=1))
        def one_request_of_this_key(key: str) -> None:
            before = len(server.requests)
            try:
                assert client.get(key) is not None
            except UnicodeEncodeError:
                # A surrogate that stands for no byte of a file name.
                assert any(0xD800 <= ord(c) <= 0xDFFF for c in key)
                return
            (sent,) = server.requests[before:]
            assert sent.key == key
            assert len(sent.fields) == 4

        one_request_of_this_key()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "b\r\nX-Injected: 1"),
        ("X-A", "b\nc"),
        ("X-A", "b\rc"),
        ("X-A", "b\0c"),
        ("X-A", "b\x7fc"),
        ("X-A", "\u20ac"),
        ("X-A\r\nX-Injected", "1"),
        ("X A", "1"),
        ("X-A:", "1"),
        ("", "1"),
        ("X-\xe9", "1"),
        ("X-A", 3),
        ("X-A", None),
        ("X-A", b"bytes"),
    ],
)
def test_a_field_that_could_end_its_line_is_refused(name: str, value: Any) -> None:
    for make in (
        lambda: Client("http://127.0.0.1:1", headers={name: value}),
        lambda: zfast.cat_ranges(["http://127.0.0.1:1/a"], headers={name: value}),
    ):
        with pytest.raises(ConfigurationError, match="cannot be sent"):
            make()


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "Range", "If-Range", "Accept-Encoding"]
)
def test_the_messages_own_fields_are_not_the_users(name: str) -> None:
    with pytest.raises(ConfigurationError, match="zfast writes it itself"):
        Client("http://127.0.0.1:1", headers={name: "1"})


def test_a_secret_is_not_shown_where_it_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client("http://127.0.0.1:1", headers={"Authorization": "Bearer s3cret\r\n"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1\r\nX: 1/",
        "http://127.0.0.1:1/\r\nX: 1",
        "http://a\0b/",
        "http://a/?b\nc",
    ],
)
def test_a_url_that_could_end_a_line_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Client(url)
    with pytest.raises(ConfigurationError):
        zfast.cat_ranges([url])


def test_fields_come_as_they_were_given(scripted: Scripted) -> None:
    server = scripted([ok(OBJECT)])
    fields = {"X-Text": "caf\xe9\t; q=1", "x-empty": "", "user-agent": "mine/1", "ACCEPT": "a/b"}
    client_of(server, headers=fields).get("key")
    (request,) = server.requests
    assert {name: request.field(name) for name in fields} == fields
    assert request.fields.all("User-Agent") == ["mine/1"]
    assert request.fields.all("Accept") == ["a/b"]


def test_a_url_with_credentials_and_a_field_of_ones_own(scripted: Scripted) -> None:
    server = scripted(lambda _: ok(OBJECT))
    url = server.url.replace("//", "//user:password@")
    fields = {"authorization": "Bearer t"}
    assert Client(url, headers=fields, deadline=20).get("key") == OBJECT
    assert zfast.cat_ranges([f"{url}/key"], headers=fields, deadline=20) == [OBJECT]
    assert [request.fields.all("Authorization") for request in server.requests] == [
        ["Bearer t"]
    ] * 2


# --------------------------------------------------------------------------------- what servers say

HOSTILE = [
    b'"v1\r\nX-Injected: 1"',
    b'"v1\nX-Injected: 1"',
    b'"v1\rX-Injected: 1"',
    b'"v1\0"',
    b'"v1\x7f"',
    b'"v1\r\n folded: 1"',
    b'"v1\tX"',
    b'"v1\xff\xe2\x80\xa8"',
    b'"v1", "v2"',
    b'"v1',
    b'""',
]


@pytest.mark.parametrize("etag", HOSTILE)
def test_a_hostile_etag(scripted: Scripted, etag: bytes) -> None:
    # It comes back as If-Range: one line and one field, or none at all.
    first = partial(OBJECT[5:17], 5, 20).cut_body(3)
    head = first.wire_head()[:-2] + b"ETag: " + etag + b"\r\n\r\n"
    wire = head + OBJECT[5:8]

    def handle(request: Request) -> Any:
        return [wire, Fin()] if request.index == 0 else ranged({"key": OBJECT})(request)

    server = scripted(handle)
    (outcome,) = client_of(server, deadline=5).get_many([("key", (5, 17))], on_error="return")
    assert outcome == OBJECT[5:17] or type(outcome) is ResponseError
    for request in server.requests:
        assert request.target == "/key"
        assert {name for name, _ in request.fields} <= FIELD_NAMES


@pytest.mark.parametrize(
    "location",
    [
        b"/b\r\nX-Injected: 1",
        b"/b\nX-Injected: 1",
        b"/b\rX-Injected: 1",
        b"/b\0c",
        b"/b\x7f",
        b"/b HTTP/1.1\r\n folded: 1",
        b"/b HTTP/1.1",
        b"/b\tc",
        b"/\xff\xfe",
        b"/%0d%0aX-Injected:%201",
        b"b c d",
        b"?\xe2\x80\xa8 x",
        b"/b\xc2\x85c",
    ],
)
def test_a_hostile_location(scripted: Scripted, location: bytes) -> None:
    head = redirect("/").wire_head()
    head = head.replace(b"Location: /", b"Location: " + location)
    page = Reply(302, b"moved\n", head=head)

    def handle(request: Request) -> Reply:
        return page if request.index == 0 else ok(OBJECT)

    server = scripted(handle)
    (outcome,) = client_of(server, deadline=5).get_many([("key", None)], on_error="return")
    assert outcome == OBJECT or type(outcome) is ResponseError
    assert len(server.requests) <= 2
    for request in server.requests:
        assert {name for name, _ in request.fields} <= FIELD_NAMES


def test_an_error_does_not_repeat_what_a_server_says(scripted: Scripted) -> None:
    page = Reply(400, b"\x1b[2J page", [("X", "y")], reason="\x1b[31m Bad\r\n")
    head = page.wire_head().replace(b"\x1b", b"")
    error = failure(ResponseError, client_of(scripted([Reply(400, head=head)])).get, "key")
    assert str(error).isprintable()
