"""The handlers that serve ranges, and lay faults over them, as RFC 9110 has it."""

from __future__ import annotations

import pytest
import urllib3
from plain_sockets import Start
from servers.scripted import (
    Reply,
    Request,
    ScriptedServer,
    interim,
    ok,
    overlay,
    ranged,
    status,
)

DATA = bytes(range(100))


def ask(server: ScriptedServer, method: str = "GET", key: str = "key", **fields: str):  # type: ignore[no-untyped-def]
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return urllib3.request(method, f"{server.url}/{key}", headers=headers, retries=False)


@pytest.mark.parametrize(
    ("wanted", "content_range", "body"),
    [
        ("bytes=0-0", "bytes 0-0/100", DATA[:1]),
        ("bytes=10-19", "bytes 10-19/100", DATA[10:20]),
        ("bytes=90-1000", "bytes 90-99/100", DATA[90:]),
        ("bytes=99-", "bytes 99-99/100", DATA[99:]),
        ("bytes=0-", "bytes 0-99/100", DATA),
        ("bytes=-10", "bytes 90-99/100", DATA[90:]),
        ("bytes=-1000", "bytes 0-99/100", DATA),
    ],
)
def test_ranged_206(scripted: Start, wanted: str, content_range: str, body: bytes) -> None:
    response = ask(scripted(ranged({"key": DATA})), range=wanted)
    assert response.status == 206
    assert response.headers["Content-Range"] == content_range
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.data == body


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_ranged_416(scripted: Start, wanted: str) -> None:
    response = ask(scripted(ranged({"key": DATA})), range=wanted)
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */100"


@pytest.mark.parametrize("wanted", ["bytes=5-4", "bytes=a-b", "items=0-1", "bytes=0-1,4-5", "-1"])
def test_ranged_ignores_what_it_may(scripted: Start, wanted: str) -> None:
    response = ask(scripted(ranged({"key": DATA})), range=wanted)
    assert (response.status, response.data) == (200, DATA)
    assert "Content-Range" not in response.headers


def test_ranged_empty_object(scripted: Start) -> None:
    server = scripted(ranged({"key": b""}))
    assert ask(server).status == 200
    assert ask(server, range="bytes=0-").status == 416
    assert (ask(server, range="bytes=-5").status, ask(server, range="bytes=-0").status) == (
        200,
        416,
    )


def test_ranged_missing_and_head(scripted: Start) -> None:
    server = scripted(ranged({"a b/ä": DATA}, writable=False))
    assert ask(server, key="absent").status == 404
    response = ask(server, "HEAD", "a%20b/%C3%A4", range="bytes=0-1")
    assert (response.status, response.headers["Content-Length"]) == (200, "100")
    for method in ("PUT", "DELETE", "POST"):
        response = ask(server, method, "a%20b/%C3%A4")
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_ranged_preconditions(scripted: Start) -> None:
    objects = {"key": DATA}
    handler = ranged(objects)
    server = scripted(handler)
    tag, other = ask(server).headers["ETag"], '"other"'
    assert tag == handler.etag("key")
    assert ask(server, If_Match=tag).status == 200
    assert ask(server, If_Match=f"{other}, {tag}").status == 200
    assert ask(server, If_Match="*").status == 200
    assert ask(server, If_Match=other).status == 412
    assert ask(server, If_Match=f"W/{tag}").status == 412
    assert ask(server, If_Match="*", key="absent").status == 412
    assert ask(server, If_None_Match=tag).status == 304
    assert ask(server, If_None_Match=f"W/{tag}").status == 304
    assert ask(server, If_None_Match=other).status == 200
    assert ask(server, If_Range=tag, range="bytes=0-1").status == 206
    assert ask(server, If_Range=other, range="bytes=0-1").status == 200
    assert ask(server, If_Range=f"W/{tag}", range="bytes=0-1").status == 200
    objects["key"] = DATA[:50]
    assert ask(server, If_Match=tag, range="bytes=0-1").status == 412
    assert ask(server, If_Range=tag, range="bytes=0-1").data == DATA[:50]


def test_ranged_put_and_delete(scripted: Start) -> None:
    objects: dict[str, bytes] = {}
    server = scripted(ranged(objects))

    def put(body: bytes, **fields: str) -> int:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        url = f"{server.url}/a/key"
        return urllib3.request("PUT", url, body=body, headers=headers, retries=False).status

    assert put(b"1", If_None_Match="*") == 201
    assert put(b"2", If_None_Match="*") == 412
    assert objects == {"a/key": b"1"}
    assert put(b"3") == 204
    assert ask(server, key="a/key").data == b"3"
    assert ask(server, "DELETE", "a/key").status == 204
    assert ask(server, "DELETE", "a/key").status == 404
    assert objects == {}


def test_overlay(scripted: Start) -> None:
    def shorter(request: Request, reply: Reply) -> Reply:
        return reply.with_body(reply.body[:-1]).with_fields(x_fault="1")

    base = ranged({"key": DATA})
    listed = scripted(overlay(base, [status(503), None, shorter, [interim(100), ok(b"x")]]))
    assert [ask(listed).status for _ in range(2)] == [503, 200]
    response = ask(listed, range="bytes=0-9")
    assert (response.status, response.data) == (206, DATA[:9])
    assert response.headers["Content-Range"] == "bytes 0-9/100"
    assert ask(listed).data == b"x"
    assert ask(listed).data == DATA
    numbered = scripted(overlay(base, {1: shorter}))
    assert [len(ask(numbered).data) for _ in range(3)] == [100, 99, 100]
    chosen = scripted(
        overlay(base, lambda request, reply: shorter(request, reply) if request.range else None)
    )
    assert (len(ask(chosen).data), len(ask(chosen, range="bytes=0-9").data)) == (100, 9)
