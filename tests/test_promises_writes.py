"""A PUT or DELETE has happened when the call returns; what was refused is an error that says so."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import urllib3
from promises import Scripted, at_once, client_of, failure
from servers.nginx import Nginx, has_dav
from servers.scripted import Fin, Reply, Request, Reset, Stall, Wait, interim, ok, ranged, status

from zfast import Client
from zfast.errors import (
    AccessError,
    ChangedError,
    ConnectionFailedError,
    DeadlineError,
    NotWritableError,
    ResponseError,
)

SIZES = [0, 1, 16 << 10, (16 << 10) + 1, 1 << 20, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_put(scripted: Scripted, size: int) -> None:
    objects: dict[str, bytes] = {}
    server = scripted(ranged(objects))
    client = client_of(server)
    data = np.random.default_rng(0).bytes(size)
    assert client.put("a/key", data) is True
    assert objects == {"a/key": data}
    assert client.put("a/key", data[::-1]) is True
    assert objects == {"a/key": data[::-1]}
    for request in server.requests:
        assert (request.method, request.field("Content-Length")) == ("PUT", str(size))
        assert not request.fields.has("Range")
        assert not request.fields.has("If-None-Match")
        assert not request.fields.has("Transfer-Encoding")
    assert client.stats()["bytes_sent"] == 2 * size
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"\1\0\2\0"),
        memoryview(b"\1\0\2\0"),
        np.array([1, 2], "<u2"),
        np.array([[1], [2]], "<i2"),
        np.frombuffer(b"\1\0\2\0", "V4"),
        np.array([(1, 2)], [("a", "<i2"), ("b", "<i2")]),
        np.array([131073], "<M8[s]")[:1].astype("<M8[s]").view("<i8").astype("<i4"),
    ],
)
def test_any_contiguous_buffer(scripted: Scripted, data: Any) -> None:
    objects: dict[str, bytes] = {}
    client_of(scripted(ranged(objects))).put("key", data)
    assert objects["key"] == b"\1\0\2\0"


def test_what_cannot_be_sent(scripted: Scripted) -> None:
    server = scripted([])
    client = client_of(server)
    for data in (np.arange(10)[::2], memoryview(b"abcdef")[::2]):
        with pytest.raises(ValueError, match=r"^the data to write .*ascontiguousarray"):
            client.put("key", data)
    with pytest.raises(TypeError, match=r"^the data to write is a str"):
        client.put("key", "text")
    assert server.connections == []


@pytest.mark.parametrize("code", [200, 201, 202, 204])
def test_success(scripted: Scripted, code: int) -> None:
    server = scripted(lambda _: Reply(code, b"done" if code != 204 else b""))
    client = client_of(server)
    assert client.put("key", b"data") is True
    client.delete("key")
    assert len(server.connections) == 1


@pytest.mark.parametrize("method", ["put", "delete"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, AccessError),
        (403, AccessError),
        (405, NotWritableError),
        (501, NotWritableError),
        (400, ResponseError),
        (409, ResponseError),
        (411, ResponseError),
        (413, ResponseError),
        (507, ResponseError),
        (203, ResponseError),
        (206, ResponseError),
    ],
)
def test_refusal(scripted: Scripted, method: str, code: int, kind: type[Any]) -> None:
    client = client_of(scripted(lambda _: status(code)))
    arguments = ("key", b"data") if method == "put" else ("key",)
    error = failure(kind, getattr(client, method), *arguments)
    assert (error.status, error.key, error.attempts) == (code, "key", 1)
    assert str(error).startswith(method.upper())


@pytest.mark.parametrize("code", [404, 410])
@pytest.mark.parametrize("if_absent", [False, True])
def test_a_place_where_nothing_can_be_put(scripted: Scripted, code: int, if_absent: bool) -> None:
    """Of a read it would be missing; what was not written is an error."""
    client = client_of(scripted(lambda _: status(code)))
    error = failure(ResponseError, client.put, "key", b"data", if_absent=if_absent)
    assert (error.status, error.attempts) == (code, 1)


def test_delete(scripted: Scripted) -> None:
    objects = {"key": b"1", "other": b"2"}
    client = client_of(scripted(ranged(objects)))
    client.delete("key")
    client.delete("missing")
    assert objects == {"other": b"2"}


# ---------------------------------------------------------------------------------------- only once


def test_if_absent(scripted: Scripted) -> None:
    objects = {"old": b"1"}
    server = scripted(ranged(objects))
    client = client_of(server)
    assert client.put("new", b"2", if_absent=True) is True
    assert client.put("old", b"2", if_absent=True) is False
    assert client.put("new", b"3", if_absent=True) is False
    assert objects == {"old": b"1", "new": b"2"}
    assert {request.field("If-None-Match") for request in server.requests} == {"*"}


@pytest.mark.parametrize("mishap", [status(503), Reply(201).cut(5), Reply(201).cut(5, Reset())])
def test_if_absent_is_not_sent_twice(scripted: Scripted, mishap: Reply) -> None:
    # The server may have written: then a second attempt would find the first one's object.
    server = scripted([mishap])
    with pytest.raises((ResponseError, ConnectionFailedError)) as caught:
        client_of(server).put("key", b"data", if_absent=True)
    assert caught.value.attempts == 1


def test_a_condition_that_nobody_set(scripted: Scripted) -> None:
    client = client_of(scripted(lambda _: status(412)))
    assert failure(ChangedError, client.put, "key", b"data").status == 412
    failure(ChangedError, client.delete, "key")


# ----------------------------------------------------------------------------- when things go wrong


@pytest.mark.parametrize("size", [5, 3_000_000])
@pytest.mark.parametrize("mishap", [Fin(), Reset(), status(503), Reply(201).cut(9)])
def test_sent_again(scripted: Scripted, size: int, mishap: Any) -> None:
    data = np.random.default_rng(1).bytes(size)
    objects: dict[str, bytes] = {}
    correct = ranged(objects)

    def handle(request: Request) -> Any:
        return mishap if request.index == 0 else correct(request)

    assert client_of(scripted(handle)).put("key", data) is True
    assert objects["key"] == data


@pytest.mark.parametrize("code", [400, 401, 403, 413])
@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("ending", [Fin(), Reset()])
def test_an_early_answer(scripted: Scripted, code: int, closes: bool, ending: Any) -> None:
    # The server answers before it has read the content, and reads no more of it.
    def refuse(request: Request) -> Any:
        if request.key != "large":
            return None
        reply = status(code, b"no")
        return [reply.closing() if closes else reply.wire(), ending]

    objects: dict[str, bytes] = {}
    server = scripted(ranged(objects), on_head=refuse)
    client = client_of(server, retries=0)
    for size in (100, 20_000_000):
        with pytest.raises((AccessError, ResponseError, ConnectionFailedError)) as caught:
            client.put("large", bytes(size))
        if ending == Fin():
            # A RST may overtake the answer; a FIN never does.
            assert caught.value.status == code
    assert client.put("small", b"data") is True
    assert objects == {"small": b"data"}


def test_an_early_answer_to_content_that_is_still_on_its_way(scripted: Scripted) -> None:
    # The connection must not be used again: the server would take the rest for a request.
    done = threading.Event()

    def refuse(request: Request) -> Any:
        # As bytes: a reply of the server's own would say that the connection ends.
        return [status(403, b"no").wire(), Wait(done)] if request.key == "large" else None

    server = scripted(ranged({}), on_head=refuse)
    client = client_of(server, retries=0, deadline=10)
    assert failure(AccessError, client.put, "large", bytes(20_000_000)).status == 403
    assert client.put("small", b"data") is True
    done.set()
    large, small = server.requests
    assert large.connection != small.connection


def test_an_early_success_is_none(scripted: Scripted) -> None:
    done = threading.Event()
    server = scripted([], on_head=lambda _: [Reply(201).wire(), Wait(done), Fin()])
    try:
        error = failure(ResponseError, client_of(server, retries=0).put, "key", bytes(50_000_000))
    finally:
        done.set()
    assert "before it had all of the content" in str(error)


@pytest.mark.parametrize("code", [404, 400, 301])
def test_a_page_that_nobody_wants_is_not_waited_for(scripted: Scripted, code: int) -> None:
    """What the answer means is known, long before the time for reading is over."""
    server = scripted(lambda _: [Reply(code, bytes(1000)).cut(-500), Stall()])
    client = client_of(server, retries=0, timeout=urllib3.Timeout(read=60), deadline=30)
    if code == 404:
        assert client.get("key") is None
    else:
        assert failure(ResponseError, client.get, "key").status == code


def test_an_answer_whose_page_never_ends(scripted: Scripted) -> None:
    """What it says is known by then; it is not asked for again, nor waited for to the end."""
    server = scripted([Reply(201, bytes(1000)).cut(-500, Stall())])
    timeout = urllib3.Timeout(connect=5, read=0.2)
    assert client_of(server, timeout=timeout).put("key", b"data") is True
    assert len(server.requests) == 1


def test_interim_answers_while_sending(scripted: Scripted) -> None:
    server = scripted([[interim(100), interim(103), Reply(201)]])
    assert client_of(server).put("key", bytes(3_000_000)) is True


def test_a_server_that_reads_no_more(scripted: Scripted) -> None:
    never = threading.Event()
    server = scripted([], on_head=lambda _: [Wait(never), Fin()])
    timeout = urllib3.Timeout(connect=5, read=0.2)
    error = failure(
        DeadlineError,
        client_of(server, retries=0, timeout=timeout).put,
        "key",
        bytes(50_000_000),
    )
    assert "read_timeout" in str(error)
    never.set()


def test_the_buffer_is_let_go_of(scripted: Scripted) -> None:
    data = bytearray(3_000_000)
    server = scripted([status(400), ok()])
    client = client_of(server)
    try:
        client.put("key", data)
    except ResponseError:
        pass
    else:
        raise AssertionError("a 400 is a failure")
    data.append(1)
    assert client.put("key", data) is True
    data.append(2)


def test_writes_are_not_retried_where_the_user_says_so(scripted: Scripted) -> None:
    server = scripted(lambda _: status(503))
    client = client_of(server, retries=at_once(allowed_methods=["GET"]))
    assert failure(ResponseError, client.put, "key", b"x").attempts == 1
    assert failure(ResponseError, client.get, "key").attempts == 5


def test_more_than_nginx_takes(start: Any, tmp_path: Any) -> None:
    if not has_dav():
        pytest.skip("this nginx has no DAV module")
    extra = "location /small/ { client_max_body_size 1m; }"
    client = Client(start(Nginx, tmp_path, dav=True, extra=extra).url)
    (tmp_path / "small").mkdir()
    error = failure(ResponseError, client.put, "small/key", bytes(2 << 20))
    assert error.status == 413
    assert "client_max_body_size" in str(error)


def test_nginx(start: Any, tmp_path: Any) -> None:
    if not has_dav():
        pytest.skip("this nginx has no DAV module")
    server = start(Nginx, tmp_path, dav=True)
    client = Client(server.url)
    data = np.random.default_rng(2).bytes(700_000)
    assert client.put("a/b/key", data) is True
    assert (tmp_path / "a" / "b" / "key").read_bytes() == data
    assert client.get("a/b/key", (5, 9)) == data[5:9]
    client.delete("a/b/key")
    client.delete("a/b/key")
    assert client.get("a/b/key") is None


@pytest.mark.parametrize("site", ["nginx", "caddy", "apache", "pythonhttp"])
def test_a_server_that_takes_no_writes(request: pytest.FixtureRequest, site: str) -> None:
    place = request.getfixturevalue(site)
    place.write({"key": b"data"})
    client = client_of(place)
    for write in (lambda: client.put("key", bytes(300_000)), lambda: client.delete("key")):
        error = failure(NotWritableError, write)
        assert error.status in (405, 501)
        assert isinstance(error, PermissionError)
    assert client.get("key") == b"data"


def test_what_is_refused_is_not_deleted(scripted: Scripted) -> None:
    """Not even by who takes that for missing: the object is still there."""
    server = scripted([status(403), status(404), status(410)])
    client = client_of(server, missing_status=(403, 404, 410))
    assert failure(AccessError, client.delete, "key").status == 403
    client.delete("key")
    client.delete("key")


@pytest.mark.parametrize("base", ["", "a"])
@pytest.mark.parametrize("key", ["", "a/"])
def test_an_object_is_deleted_and_no_directory(scripted: Scripted, base: str, key: str) -> None:
    server = scripted(ranged({"a/b": b""}))
    with pytest.raises(ValueError, match="a directory"):
        Client(f"{server.url}/{base}").delete(key)
    assert not server.requests
