"""A failure is an error that says what, where and after how many attempts; it is never data."""

from __future__ import annotations

import logging
import pickle
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from promises import OBJECT, Scripted, at_once, client_of, failure
from servers.leaks import wait_until
from servers.scripted import (
    Fin,
    Reply,
    Request,
    Reset,
    ScriptedServer,
    Stall,
    blackhole,
    ok,
    ranged,
    status,
)

import zfast
from zfast import Client
from zfast.errors import (
    AccessError,
    ConnectionFailedError,
    DeadlineError,
    MissingKeyError,
    NotWritableError,
    ResponseError,
    ZfastError,
)

SHORT = urllib3.Timeout(connect=5.0, read=0.15)


def closed_server() -> str:
    with ScriptedServer([], listening=False) as server:
        return server.url


# ---------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("code", [404, 410])
def test_missing(scripted: Scripted, code: int) -> None:
    server = scripted(lambda _: status(code))
    client = client_of(server)
    assert client.get("key") is None
    assert client.get("key", (5, 9)) is None
    assert client.get_ranges("key", [(0, 1), (2, 3)]) == [None, None]
    assert client.head("key") is None
    client.delete("key")
    error = failure(MissingKeyError, client.read_into, "key", None, bytearray(20))
    assert isinstance(error, FileNotFoundError)
    assert (error.status, error.attempts, error.key) == (code, 1, "key")
    error = failure(MissingKeyError, zfast.cat_ranges, [f"{server.url}/key"])
    assert error.status == code


@pytest.mark.parametrize("code", [400, 401, 402, 403, 405, 406, 409, 411, 414, 418, 421, 451, 499])
def test_nothing_else_is_missing(scripted: Scripted, code: int) -> None:
    server = scripted(lambda _: status(code))
    client = client_of(server)
    kind = AccessError if code in (401, 403) else ResponseError
    for read in (client.get, client.head):
        error = failure(kind, read, "key")
        assert (error.status, error.attempts) == (code, 1)
        assert str(code) in str(error)
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [201, 202, 203, 204, 205, 300, 304, 305, 399, 505, 511, 599, 999])
@pytest.mark.parametrize("byte_range", [None, (5, 9)])
def test_no_other_status_is_data(scripted: Scripted, code: int, byte_range: Any) -> None:
    error = failure(ResponseError, client_of(scripted([status(code)])).get, "key", byte_range)
    assert (error.status, error.attempts) == (code, 1)


def test_403_is_missing_where_the_user_says_so(scripted: Scripted) -> None:
    server = scripted(lambda request: status(int(request.key)))
    client = client_of(server, missing_status=(403, 404))
    assert client.get("403") is None
    assert client.get("404") is None
    failure(ResponseError, client.get, "410")
    hint = failure(AccessError, client_of(server).get, "403")
    assert "missing_status" in str(hint)


def test_404_is_an_error_where_the_user_says_so(scripted: Scripted) -> None:
    client = client_of(scripted(lambda _: status(404)), missing_status=(410,))
    error = failure(ResponseError, client.get, "key")
    assert not isinstance(error, FileNotFoundError)


@pytest.mark.parametrize("ending", [Fin(), Reset()])
def test_an_error_page_with_status_200_and_a_wrong_length(
    scripted: Scripted, ending: Fin | Reset
) -> None:
    # A gateway's page under the object's Content-Length is a body cut short.
    page = Reply(200, b"<h1>Bad gateway</h1>").with_fields(content_length="4000").then(ending)
    server = scripted(lambda _: page)
    client = client_of(server, retries=at_once(2))
    for byte_range in (None, (5, 3000)):
        error = failure(ConnectionFailedError, client.get, "key", byte_range)
        assert (error.status, error.attempts) == (200, 3)
        assert "cut short" in str(error)


# --------------------------------------------------------------------------------- connecting fails


def test_refused() -> None:
    url = closed_server()
    for retries in range(3):
        error = failure(ConnectionFailedError, Client(url, retries=at_once(retries)).get, "key")
        assert isinstance(error, ConnectionError)
        assert (error.status, error.attempts) == (None, retries + 1)
        assert "refused" in str(error)


def test_refused_for_a_whole_batch() -> None:
    client = Client(closed_server(), retries=at_once(1))
    errors = client.get_many([(str(i), None) for i in range(100)], on_error="return")
    assert {(type(error), error.attempts) for error in errors} == {(ConnectionFailedError, 2)}
    assert [error.key for error in errors] == [str(i) for i in range(100)]


def test_a_server_that_comes_back(scripted: Scripted) -> None:
    server = scripted(ranged({"key": OBJECT}), listening=False)
    client = Client(server.url, retries=urllib3.Retry(20, backoff_factor=0.01, backoff_max=0.05))
    timer = threading.Timer(0.1, server.listen)
    timer.start()
    assert client.get("key") == OBJECT
    timer.join()


def test_connect_timeout() -> None:
    with blackhole() as (host, port):
        client = Client(f"http://{host}:{port}", retries=0, timeout=urllib3.Timeout(connect=0.1))
        began = time.monotonic()
        error = failure(DeadlineError, client.get, "key")
        assert isinstance(error, TimeoutError)
        assert 0.1 <= time.monotonic() - began < 3
        assert "connect_timeout" in str(error)


def test_a_host_that_cannot_be() -> None:
    # Too long for a name in DNS: refused before anything is asked.
    client = Client(f"http://{'a' * 64}.example", retries=0, deadline=15)
    assert isinstance(failure(ConnectionFailedError, client.get, "key"), ConnectionError)


# ------------------------------------------------------------------------------------ time runs out


@pytest.mark.parametrize("sent", [0, 1, 10, -1])
def test_a_stall_is_a_read_timeout(scripted: Scripted, sent: int) -> None:
    server = scripted(lambda _: ok(OBJECT).cut(sent, Stall()))
    client = client_of(server, timeout=SHORT, retries=at_once(1))
    began = time.monotonic()
    error = failure(DeadlineError, client.get, "key")
    assert 0.3 <= time.monotonic() - began < 3
    assert isinstance(error, TimeoutError)
    assert error.attempts == 2
    assert f"within {'read' if sent else 'first_byte'}_timeout (0.15 s)" in str(error)


def slowly(wire: bytes, size: int, seconds: float) -> Iterator[Any]:
    """Bytes of a response, so many at a time and so far apart."""
    pause = threading.Event()
    for at in range(0, len(wire), size):
        yield wire[at : at + size]
        pause.wait(seconds)


def test_missing_is_known_however_its_page_ends(scripted: Scripted) -> None:
    page = status(404, b"not here" * 1000).cut(-10, Reset())
    assert client_of(scripted([page]), retries=0).get("key") is None


def test_progress_is_no_stall(scripted: Scripted) -> None:
    body = bytes(100_000)
    server = scripted(lambda _: slowly(ok(body).wire(), 8192, 0.08))
    timeout = urllib3.Timeout(connect=5.0, read=0.4)
    assert client_of(server, timeout=timeout, retries=0).get("key") == body


@pytest.mark.parametrize("size", [20, 2000, 102_000], ids=["head", "body", "rest of a body"])
def test_a_byte_now_and_then_is_no_progress(scripted: Scripted, size: int) -> None:
    """It could go on for ever, and each byte would come in time."""
    wire = ok(bytes(size)).wire()
    fast = len(wire) - 2000 if size >= 2000 else 0

    def handle(_: Request) -> Iterator[Any]:
        yield from slowly(wire[:fast], 50_000, 0.02)
        yield from slowly(wire[fast:], 1, 0.02)

    timeout = urllib3.Timeout(connect=5.0, read=0.3)
    began = time.monotonic()
    error = failure(
        DeadlineError, client_of(scripted(handle), timeout=timeout, retries=0).get, "key"
    )
    assert 0.3 <= time.monotonic() - began < 3
    assert "read_timeout" in str(error)


def test_the_first_byte_has_a_limit_of_its_own(scripted: Scripted) -> None:
    server = scripted([Stall(), ok(OBJECT).cut(10, Stall())])
    with zfast.config.set(first_byte_timeout=0.1, read_timeout=0.3, max_attempts=1):
        client = Client(server.url)
    for limit, seconds in (("first_byte_timeout", 0.1), ("read_timeout", 0.3)):
        began = time.monotonic()
        assert limit in str(failure(DeadlineError, client.get, "key"))
        assert seconds <= time.monotonic() - began < 3


def test_a_stall_is_seen_in_time_on_every_thread(scripted: Scripted) -> None:
    """Also where another limit, which is longer, was the next to look at."""
    server = scripted(
        lambda r: Stall() if r.key == "mute" else ok(bytes(1000)).cut_body(100, Stall())
    )
    with zfast.config.set(first_byte_timeout=4.0, read_timeout=0.3, max_attempts=1):
        client = Client(server.url)
    with ThreadPoolExecutor(2) as threads:
        mute = threads.submit(failure, DeadlineError, client.get, "mute")
        server.wait_requests(1)
        began = time.monotonic()
        assert "read_timeout" in str(failure(DeadlineError, client.get, "held"))
        assert time.monotonic() - began < 3
        mute.result()


def test_the_deadline_ends_a_stalled_batch(scripted: Scripted) -> None:
    def handle(request: Request) -> Any:
        return ok(OBJECT) if int(request.key) % 2 else Stall()

    server = scripted(handle)
    client = Client(server.url, deadline=0.3, retries=at_once(), timeout=60)
    began = time.monotonic()
    outcomes = client.get_many([(str(i), None) for i in range(20)], on_error="return")
    assert 0.3 <= time.monotonic() - began < 3
    assert [outcome == OBJECT for outcome in outcomes] == [False, True] * 10
    for error in outcomes[::2]:
        assert type(error) is DeadlineError
        assert error.attempts == 1
        assert "deadline" in str(error)


def test_the_deadline_ends_waiting_for_a_retry(scripted: Scripted) -> None:
    server = scripted(lambda _: status(503, retry_after="60"))
    client = Client(server.url, deadline=0.2)
    began = time.monotonic()
    error = failure(DeadlineError, client.get, "key")
    assert 0.2 <= time.monotonic() - began < 3
    assert (error.status, error.attempts) == (503, 1)
    assert client.get_many([], on_error="return") == []


def test_the_deadline_ends_connecting() -> None:
    with blackhole() as (host, port):
        client = Client(f"http://{host}:{port}", deadline=0.2, timeout=urllib3.Timeout(connect=0.5))
        began = time.monotonic()
        failure(DeadlineError, client.get, "key")
        assert 0.2 <= time.monotonic() - began < 3


def test_a_deadline_that_is_met(scripted: Scripted) -> None:
    server = scripted(ranged({"key": OBJECT}))
    assert Client(server.url, deadline=10).get("key") == OBJECT


# ------------------------------------------------------------------------------ what an error tells


def failures_of_every_kind(scripted: Scripted) -> list[ZfastError]:
    replies: dict[str, Any] = {
        "missing": status(404),
        "access": status(401),
        "response": status(400),
        "reset": Reset(),
        "stall": Stall(),
        "range": Reply(206, b"x"),
        "retried": status(503),
    }
    server = scripted(lambda request: replies[request.path.rpartition("/")[2]])
    secret = server.url.replace("//", "//user:passw0rd@") + "/base?token=s3cret"
    client = Client(secret, timeout=urllib3.Timeout(connect=5.0, read=0.5), retries=at_once(1))
    errors = client.get_many(
        [(key, (3, 7)) for key in replies if key != "missing"], on_error="return"
    )
    errors += [failure(MissingKeyError, client.read_into, "missing", (3, 7), bytearray(9))]
    errors += [failure(NotWritableError, client_of(scripted([status(405)])).put, "k", b"x")]
    errors += zfast.cat_ranges([secret.replace("?", "/access?")], on_error="return", retries=0)
    refused = closed_server().replace("//", "//user:passw0rd@") + "/base?token=s3cret"
    errors += [failure(ConnectionFailedError, Client(refused, retries=0).get, "k")]
    return errors


def test_errors_tell_and_pickle_and_keep_secrets(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors = failures_of_every_kind(scripted)
    assert len(errors) == 10
    for error in errors:
        assert isinstance(error, ZfastError)
        for text in (str(error), repr(error), error.url, error.reason, repr(error.__dict__)):
            assert text is not None
            for secret in ("user", "passw0rd", "s3cret", "token", "dXNlcjpwYXNzdzByZA"):
                assert secret not in text
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.__dict__) == (str(error), error.__dict__)
        assert f"after {error.attempts} attempt" in str(error)
    assert "passw0rd" not in caplog.text
    assert "s3cret" not in caplog.text
    access, response, reset, stall, ranged_, retried, missing = errors[:7]
    assert [(e.key, e.status, e.attempts) for e in errors[:7]] == [
        ("access", 401, 1),
        ("response", 400, 1),
        ("reset", None, 2),
        ("stall", None, 2),
        ("range", 206, 1),
        ("retried", 503, 2),
        ("missing", 404, 1),
    ]
    assert isinstance(access, PermissionError)
    assert isinstance(response, OSError)
    assert isinstance(reset, ConnectionError)
    assert isinstance(stall, TimeoutError)
    assert isinstance(missing, FileNotFoundError)
    for error in (access, response, reset, stall, ranged_, retried):
        assert error.byte_range == (3, 7)
        assert error.url is not None
        assert error.url.endswith(f"/base/{error.key}")
        assert "bytes 3-6" in str(error)


def test_returned_errors_take_their_places(scripted: Scripted) -> None:
    replies = {"a": ok(OBJECT), "b": status(404), "c": status(403), "d": status(500), "e": Reset()}
    client = client_of(scripted(lambda request: replies[request.key]), retries=at_once(1))
    items = [(key, None) for key in "abcdeabcde"]
    outcomes = client.get_many(items, on_error="return")
    kinds = [type(outcome).__name__ for outcome in outcomes]
    expected = ["Body", "NoneType", "AccessError", "ResponseError", "ConnectionFailedError"]
    assert kinds == expected * 2
    assert [outcome.key for outcome in outcomes[2:5]] == ["c", "d", "e"]
    with pytest.raises(ZfastError) as caught:
        client.get_many(items)
    assert caught.value.key in ("c", "d", "e")
    with pytest.raises(ValueError, match="on_error"):
        client.get_many(items, on_error="ignore")  # type: ignore[arg-type]


def test_the_first_failure_ends_the_others(scripted: Scripted) -> None:
    def handle(request: Request) -> Any:
        if request.key != "bad":
            return Stall()
        server.wait_requests(4)
        return status(400)

    server = scripted(handle)
    client = Client(server.url, timeout=60, deadline=60)
    began = time.monotonic()
    error = failure(ResponseError, client.get_many, [(key, None) for key in ("a", "b", "bad", "c")])
    assert error.key == "bad"
    assert time.monotonic() - began < 10
    server.wait_for(lambda: len(server.open_connections) <= 1)


def test_many_origins_in_one_batch(scripted: Scripted) -> None:
    good, bad = scripted(ranged({"key": OBJECT})), scripted(lambda _: status(404))
    urls = [f"{good.url}/key", f"{bad.url}/key", f"{closed_server()}/key", f"{good.url}/key"]
    outcomes = zfast.cat_ranges(urls, [0, 0, 0, -4], [4, 4, 4, None], on_error="return", retries=0)
    assert outcomes[0] == OBJECT[:4]
    assert type(outcomes[1]) is MissingKeyError
    assert type(outcomes[2]) is ConnectionFailedError
    assert outcomes[3] == OBJECT[-4:]


def test_a_failure_leaves_the_client_usable(scripted: Scripted) -> None:
    replies: list[Any] = [Reset(), status(400), Reply(206, b""), b"garbage\r\n\r\n", status(404)]
    server = scripted([step for reply in replies for step in (reply, ok(OBJECT))])
    client = client_of(server, retries=0)
    for _ in replies:
        client.get_many([("key", None)], on_error="return")
        assert client.get("key") == OBJECT


def test_a_closed_client(scripted: Scripted) -> None:
    server = scripted([])
    client = client_of(server)
    client.close()
    assert "closed" in str(failure(ConnectionFailedError, client.get, "key"))


# ---------------------------------------------------------------------------------------------- TLS


def test_a_certificate_that_nobody_trusts(scripted: Scripted, tls_context: ssl.SSLContext) -> None:
    server = scripted(ranged({"key": OBJECT}), tls=tls_context)
    error = failure(ConnectionFailedError, client_of(server, retries=at_once(1)).get, "key")
    assert "TLS" in str(error)
    assert error.attempts >= 1
    assert server.requests == []


@pytest.mark.usefixtures("tls_path")
def test_tls(scripted: Scripted, tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    server = scripted(ranged({"key": OBJECT}), tls=tls_context)
    client = client_of(server, ca_certs=tls_ca_file)
    assert client.get("key", (5, 9)) == OBJECT[5:9]
    assert client.get("missing") is None


@pytest.mark.usefixtures("tls_path")
def test_a_tls_stream_that_is_cut(
    scripted: Scripted, tls_context: ssl.SSLContext, tls_ca_file: str
) -> None:
    # Without close_notify anybody on the way may have ended the stream.
    whole = ok(OBJECT).until_eof()
    replies = [whole.then(Fin(notify=False)), whole.then(Fin()), ok(OBJECT).cut(-3)]
    server = scripted(replies, tls=tls_context)
    client = client_of(server, ca_certs=tls_ca_file, retries=0)
    assert "cut short" in str(failure(ConnectionFailedError, client.get, "key"))
    assert client.get("key") == OBJECT
    assert "cut short" in str(failure(ConnectionFailedError, client.get, "key"))


def test_what_is_no_key_or_no_pair_is_said() -> None:
    client = Client("http://localhost:1/")
    for key in (None, b"key", Path("key"), 3):
        with pytest.raises(TypeError, match="a key is a str, not"):
            client.get(key)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a key is a str, not"):
            client.put(key, b"")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a key is a str, not"):
            client.delete(key)  # type: ignore[arg-type]
    for items in (["ab", "cd"], [("a", 0, 5)], [5]):
        with pytest.raises(TypeError, match=r"\(key, None\)"):
            client.get_many(items)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the content of 'a' is None"):
        client.put("a", None)
    with pytest.raises(TypeError, match="the buffer to read into is None"):
        client.read_into("a", None, None)
    for objects in (np.array([{}]), memoryview(np.array([{}])), np.zeros(2, [("x", "O")])):
        with pytest.raises(TypeError, match="a buffer of Python objects"):
            client.put("a", objects)
        with pytest.raises(TypeError, match="a buffer of Python objects"):
            client.read_into("a", None, objects)
    for listing in (client.list, client.list_async, client.list_dir, client.list_dir_async):
        # Not when it is iterated over, which may be elsewhere.
        with pytest.raises(TypeError, match="is a str, not int"):
            listing(5)  # type: ignore[operator]
    with pytest.raises(TypeError, match="urls is a bytes"):
        zfast.cat_ranges(b"abc")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="starts is a float: give a list"):
        zfast.cat_ranges(["http://localhost:1/a"], 0.5)  # type: ignore[arg-type]
    with pytest.raises(zfast.ConfigurationError, match=r"urllib3.Timeout\(connect="):
        Client("http://localhost:1/", timeout=(3, 5))  # type: ignore[arg-type]


def test_connections_that_fail_are_in_the_log(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted([Reset(), ok(b"1")])
    with caplog.at_level("DEBUG", logger="zfast"):
        assert client_of(server, retries=at_once(1)).get("key") == b"1"
        with pytest.raises(ConnectionFailedError):
            Client("http://user:secret@127.0.0.1:1/", retries=0).get("key")
        # The thread that dials tells the engine before the log.
        wait_until(lambda: "broke" in caplog.text)
        wait_until(lambda: "no connection to http://127.0.0.1:1:" in caplog.text)
    assert "secret" not in caplog.text
