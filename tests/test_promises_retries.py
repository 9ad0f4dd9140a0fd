"""What is tried again, how often and after which wait, is what the user's `urllib3.Retry` says."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
import urllib3
from promises import OBJECT, Scripted, at_once, client_of, failure
from servers.scripted import Fin, Reply, Reset, Stall, ok, partial, ranged, status

import zfast
from zfast import Client
from zfast.errors import ConfigurationError, ConnectionFailedError, DeadlineError, ResponseError

DEFAULT = [408, 429, 500, 502, 503, 504]
MISHAPS: list[Any] = [
    *(pytest.param(status(code), id=str(code)) for code in DEFAULT),
    pytest.param(Fin(), id="fin-before-the-head"),
    pytest.param(Reset(), id="reset-before-the-head"),
    pytest.param(ok(OBJECT).cut(9), id="fin-in-the-head"),
    pytest.param(ok(OBJECT).cut(9, Reset()), id="reset-in-the-head"),
    pytest.param(ok(OBJECT).cut_body(9), id="fin-in-the-body"),
    pytest.param(ok(OBJECT).cut_body(9, Reset()), id="reset-in-the-body"),
    pytest.param(Stall(), id="stall"),
]
FINAL: list[Any] = [
    pytest.param(status(400), id="400"),
    pytest.param(status(501), id="501"),
    pytest.param(Reply(206, OBJECT), id="206"),
    pytest.param(ok(OBJECT, content_encoding="gzip"), id="gzip"),
    pytest.param([b"garbage\r\n\r\n", Fin()], id="garbage"),
]


def patience(mishap: Any) -> float:
    """Seconds without progress: few where nothing will come, many where something must."""
    return 0.15 if mishap == Stall() else 10.0


def waits(server: Any) -> list[float]:
    arrivals = [request.arrival for request in server.requests]
    return [after - before for before, after in pairwise(arrivals)]


# ------------------------------------------------------------------------------ what is tried again


@pytest.mark.parametrize("mishap", MISHAPS)
def test_tried_again(scripted: Scripted, mishap: Any) -> None:
    server = scripted([mishap, mishap, ok(OBJECT)])
    client = client_of(server, timeout=patience(mishap))
    assert client.get("key") == OBJECT
    counters = client.stats()
    assert (len(server.requests), counters["retries"], counters["failed"]) == (3, 2, 0)


@pytest.mark.parametrize("mishap", MISHAPS)
@pytest.mark.parametrize("retries", [0, 2])
def test_exhausted(scripted: Scripted, mishap: Any, retries: int) -> None:
    server = scripted(lambda _: mishap)
    client = client_of(server, timeout=patience(mishap), retries=at_once(retries))
    with pytest.raises(zfast.ZfastError) as caught:
        client.get("key")
    error = caught.value
    expected: Any = ConnectionFailedError
    if mishap == Stall():
        expected = DeadlineError
    elif isinstance(mishap, Reply) and mishap.status in DEFAULT:
        expected = ResponseError
        assert error.status == mishap.status
    assert type(error) is expected
    assert error.attempts == retries + 1 == len(server.requests)
    assert f"after {retries + 1} attempt" in str(error)
    assert client.stats()["failed"] == 1


@pytest.mark.parametrize("reply", FINAL)
def test_final(scripted: Scripted, reply: Any) -> None:
    server = scripted([reply])
    assert failure(ResponseError, client_of(server).get, "key").attempts == 1


@pytest.mark.parametrize("method", ["head", "delete", "put"])
@pytest.mark.parametrize("mishap", [status(503), Fin(), Reset()])
def test_every_method(scripted: Scripted, method: str, mishap: Any) -> None:
    server = scripted([mishap, Reply(200).with_fields(content_length="0")])
    arguments = ("key", b"data") if method == "put" else ("key",)
    getattr(client_of(server), method)(*arguments)
    assert [request.method for request in server.requests] == [method.upper()] * 2
    assert {request.body for request in server.requests} == {b"data" if method == "put" else b""}


def test_the_others_of_a_batch_do_not_wait(scripted: Scripted) -> None:
    def handle(request: Any) -> Reply:
        fails = request.key == "7" and server.keys().count("7") < 4
        return status(503) if fails else ok(request.key.encode())

    server = scripted(handle)
    client = client_of(server)
    assert client.get_many([(str(i), None) for i in range(50)]) == [
        str(i).encode() for i in range(50)
    ]
    assert len(server.requests) == 53


def test_five_attempts_by_default(scripted: Scripted) -> None:
    server = scripted(lambda _: status(503))
    with zfast.config.set({"backoff_factor": 0.0, "backoff_jitter": 0.0}):
        assert failure(ResponseError, Client(server.url).get, "key").attempts == 5
        with zfast.config.set({"max_attempts": 2}):
            assert failure(ResponseError, Client(server.url).get, "key").attempts == 2
        assert failure(ResponseError, Client(server.url, retries=1).get, "key").attempts == 2


def test_backoff_of_the_settings(scripted: Scripted) -> None:
    server = scripted([status(503)] * 3 + [ok(OBJECT)])
    settings = {"backoff_factor": 0.05, "backoff_jitter": 0.0, "backoff_max": 0.15}
    with zfast.config.set(settings):
        assert Client(server.url).get("key") == OBJECT
    _, second, third = waits(server)
    assert second >= 0.1
    assert 0.15 <= third < 2


@pytest.mark.parametrize("nonsense", ["3", 2.5, object()])
def test_nonsense_is_refused(nonsense: Any) -> None:
    with pytest.raises(ConfigurationError, match="retries"):
        Client("http://127.0.0.1:1", retries=nonsense)


# ---------------------------------------------------------------------------------- urllib3's Retry


@pytest.mark.parametrize(
    ("policy", "mishap", "attempts"),
    [
        ({"total": 2}, status(503), 3),
        ({"total": 0}, status(503), 1),
        ({"total": False}, status(503), 1),
        ({"total": 9, "status": 1}, status(503), 2),
        ({"total": 9, "status": 0, "read": 5}, status(503), 1),
        ({"total": 9, "read": 1}, Reset(), 2),
        ({"total": 9, "read": 0, "status": 5}, Reset(), 1),
        ({"total": 9, "read": False}, Reset(), 1),
        ({"total": 9, "read": 2}, ok(OBJECT).cut(-1), 3),
        ({"total": 9, "read": 2}, ok(OBJECT).until_eof().then(Reset()), 3),
        ({"total": None, "read": 3}, Reset(), 4),
        ({"total": None, "status": 3}, status(503), 4),
        ({"total": 2, "connect": 0}, status(503), 3),
        ({"total": 2, "status_forcelist": [400, 418]}, status(418), 3),
        ({"total": 2, "status_forcelist": [400, 418]}, status(503), 1),
        ({"total": 2, "allowed_methods": ["PUT"]}, status(503), 1),
        ({"total": 2, "allowed_methods": ["PUT"]}, Reset(), 1),
        ({"total": 2, "allowed_methods": ["GET"]}, Reset(), 3),
        ({"total": 2, "allowed_methods": None}, Reset(), 3),
        ({"total": 2, "allowed_methods": None}, status(503), 3),
    ],
)
def test_counts(scripted: Scripted, policy: dict[str, Any], mishap: Any, attempts: int) -> None:
    server = scripted(lambda _: mishap)
    retries = urllib3.Retry(**policy, backoff_factor=0.0)
    with pytest.raises(zfast.ZfastError) as caught:
        client_of(server, retries=retries).get("key")
    assert caught.value.attempts == attempts == len(server.requests)


@pytest.mark.parametrize(("policy", "attempts"), [({"connect": 2}, 3), ({"connect": 0}, 1)])
def test_connects_are_counted_apart(
    scripted: Scripted, policy: dict[str, Any], attempts: int
) -> None:
    server = scripted([], listening=False)
    # A request that was never sent may be sent again, whatever its method.
    retries = at_once(9, **policy, allowed_methods=["PUT"])
    error = failure(ConnectionFailedError, client_of(server, retries=retries).get, "key")
    assert error.attempts == attempts


def test_kinds_add_up_to_the_total(scripted: Scripted) -> None:
    mishaps = [status(503), ok(OBJECT).cut(9, Reset()), ok(OBJECT).cut(-1), status(500)]
    server = scripted([*mishaps, ok(OBJECT)])
    failure(ResponseError, client_of(server, retries=at_once(3, read=2, status=2)).get, "key")
    server = scripted([*mishaps, ok(OBJECT)])
    assert client_of(server, retries=at_once(4, read=2, status=2)).get("key") == OBJECT


def test_the_policy_is_not_used_up(scripted: Scripted) -> None:
    server = scripted([status(503), status(503), ok(OBJECT)] * 2)
    client = client_of(server, retries=at_once(2))
    for _ in range(2):
        assert client.get("key") == OBJECT


def test_backoff(scripted: Scripted) -> None:
    server = scripted([Reset()] * 3 + [partial(OBJECT[:4], 0, 20)])
    retries = urllib3.Retry(3, backoff_factor=0.05, backoff_max=0.15)
    client = Client(server.url, retries=retries)
    assert client.get("key", (0, 4)) == OBJECT[:4]
    _, second, third = waits(server)
    assert second >= 0.1
    assert 0.15 <= third < 2


# -------------------------------------------------------------------------------------- Retry-After


def test_seconds_to_wait(scripted: Scripted) -> None:
    server = scripted([status(503, retry_after="1"), ok(OBJECT)])
    assert client_of(server).get("key") == OBJECT
    (wait,) = waits(server)
    assert 1 <= wait < 3


@pytest.mark.parametrize(
    "form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
)
def test_a_date_to_wait_for(scripted: Scripted, form: str) -> None:
    moment = int(time.time()) + 2
    date = time.strftime(form, time.gmtime(moment))
    server = scripted([status(429, retry_after=date), ok(OBJECT)])
    assert client_of(server).get("key") == OBJECT
    assert time.time() >= moment
    (wait,) = waits(server)
    assert 0.5 < wait < 4


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "Sat, 01 Jan 2022 00:00:00 GMT",
        "soon",
        "-3",
        "1.5",
        "",
        "Sun Nov  6 08:49:37 1994",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37",
        "99999999999999999999",
    ],
)
def test_no_reason_to_wait(scripted: Scripted, value: str) -> None:
    server = scripted([status(503, retry_after=value), ok(OBJECT)])
    client = client_of(server, deadline=5)
    assert client.get("key") == OBJECT
    assert waits(server)[0] < 1


def test_zero_seconds_leave_the_backoff(scripted: Scripted) -> None:
    server = scripted([status(503, retry_after="0")] * 2 + [ok(OBJECT)])
    assert Client(server.url, retries=urllib3.Retry(3, backoff_factor=0.1)).get("key") == OBJECT
    assert waits(server)[1] >= 0.2


def test_retry_after_is_not_respected_where_the_user_says_so(scripted: Scripted) -> None:
    server = scripted([status(503, retry_after="60"), ok(OBJECT)])
    retries = at_once(respect_retry_after_header=False)
    assert client_of(server, retries=retries, deadline=5).get("key") == OBJECT


def test_retry_after_has_a_limit(scripted: Scripted) -> None:
    server = scripted([status(503, retry_after="3600"), ok(OBJECT)])
    retries = at_once()
    retries.retry_after_max = 0  # type: ignore[attr-defined]
    assert client_of(server, retries=retries, deadline=5).get("key") == OBJECT


def test_retry_after_of_a_failure_is_not_waited_for(scripted: Scripted) -> None:
    server = scripted([status(503, retry_after="60"), status(400, retry_after="60")])
    began = time.monotonic()
    assert failure(ResponseError, client_of(server, retries=0).get, "key").status == 503
    assert failure(ResponseError, client_of(server).get, "key").status == 400
    assert time.monotonic() - began < 5


def test_waiting_holds_up_nobody_else(scripted: Scripted) -> None:
    correct = ranged({"key": OBJECT})
    steps: list[Any] = [status(503, retry_after="60"), correct]
    server = scripted(steps)
    client = Client(server.url, deadline=1.0)
    began = time.monotonic()
    first, second = client.get_many([("slow", None), ("key", None)], on_error="return")
    assert time.monotonic() - began < 5
    outcomes = {type(first), type(second)}
    assert DeadlineError in outcomes
    assert len(outcomes) == 2
