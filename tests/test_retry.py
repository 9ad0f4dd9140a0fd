"""Retry arithmetic and HTTP dates, against urllib3's own Retry and the standard library."""

from __future__ import annotations

import datetime
from email.utils import format_datetime, formatdate, parsedate_to_datetime
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    ProtocolError,
    ResponseError,
)

from zfast._core.retry import delays, parse_http_date
from zfast._core.types import Method
from zfast.connections import credential_fields, retry_numbers, retry_statuses

KINDS = ("connect", "read", "status", "other")


def waits_of_urllib3(retry: urllib3.Retry, mishaps: list[tuple[str, float]]) -> list[float]:
    """The same waits as urllib3 has them; -1 from the first that is one too many."""
    errors: dict[str, Exception] = {
        "connect": ConnectTimeoutError("too slow"),
        "read": ProtocolError("cut"),
        "other": ResponseError("odd"),
    }
    # Of itself urllib3 has kept to it since it knows such a limit.
    longest = retry.retry_after_max
    waits: list[float] = []
    for kind, retry_after in mishaps:
        response = urllib3.HTTPResponse(status=503)
        if retry_after >= 0:
            response = urllib3.HTTPResponse(
                status=503, headers={"Retry-After": str(int(retry_after))}
            )
        try:
            if kind == "status":
                retry = retry.increment("GET", "/", response=response)
            else:
                retry = retry.increment("GET", "/", error=errors[kind])
        except (MaxRetryError, ProtocolError, ConnectTimeoutError, ResponseError):
            return [*waits, -1.0]
        asked = retry.get_retry_after(response) if retry.respect_retry_after_header else None
        waits.append(float(min(asked, longest)) if asked else retry.get_backoff_time())
    return waits


counts = st.none() | st.integers(0, 6)


def test_a_server_is_waited_for_as_long_as_was_agreed_to() -> None:
    """urllib3's own limit is six hours."""
    for retries in (None, 3):
        numbers = retry_numbers(retries)
        assert numbers["retry_after_max"] == numbers["backoff_max"] == 20.0
    assert retry_numbers(urllib3.Retry(3))["retry_after_max"] == 21600


@given(
    limits=st.fixed_dictionaries(
        {"total": counts, "connect": counts, "read": counts, "status": counts, "other": counts}
    ),
    factor=st.floats(0, 10),
    longest=st.floats(0, 100),
    respect=st.booleans(),
    retry_after_max=st.integers(1, 50),
    mishaps=st.lists(
        st.tuples(st.sampled_from(KINDS), st.just(-1.0))
        | st.tuples(st.just("status"), st.integers(0, 100).map(float)),
        max_size=12,
    ),
)
def test_as_urllib3_has_it(
    limits: dict[str, int | None],
    factor: float,
    longest: float,
    respect: bool,
    retry_after_max: int,
    mishaps: list[tuple[str, float]],
) -> None:
    retry = urllib3.Retry(
        **limits,
        backoff_factor=factor,
        backoff_max=longest,
        respect_retry_after_header=respect,
    )
    retry.retry_after_max = retry_after_max
    # Exactly the numbers that a client passes on.
    ours = delays(retry_numbers(retry), mishaps)
    expected = waits_of_urllib3(retry, mishaps)
    if -1.0 in expected:
        ours = ours[: expected.index(-1.0) + 1]
    assert ours == pytest.approx(expected)


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=70), st.floats(0, 1, exclude_max=True))
def test_jitter_is_added_within_the_limit(kinds: list[str], dice: float) -> None:
    mishaps = [(kind, -1.0) for kind in kinds]
    policy = {"backoff_factor": 0.5, "backoff_max": 20.0}
    plain = delays(policy, mishaps, dice)
    jittered = delays(policy | {"backoff_jitter": 2.0}, mishaps, dice)
    assert jittered == pytest.approx([min(wait + 2 * dice, 20.0) for wait in plain])
    assert all(wait <= 20 for wait in plain)


def test_the_first_retry_waits_for_jitter_alone() -> None:
    # urllib3's first retry is immediate; many readers must not come back as one.
    mishaps = [("read", -1.0)] * 2
    assert delays({"backoff_factor": 1.0}, mishaps, 0.5) == [0.0, 2.0]
    assert delays({"backoff_factor": 1.0, "backoff_jitter": 0.2}, mishaps, 0.5) == [0.1, 2.1]


def test_no_jitter_is_added_to_what_the_server_asked_for() -> None:
    policy = {"backoff_jitter": 5.0, "backoff_max": 1.0}
    assert delays(policy, [("status", 7.0)], 0.9) == [7.0]


def test_spent_is_spent() -> None:
    assert delays({"total": 1}, [("read", -1.0)] * 4) == [0.0, -1.0, -1.0, -1.0]
    assert delays({"total": 1}, [("status", 9.0)] * 2) == [9.0, -1.0]


# ------------------------------------------------------------------------ from urllib3's own values


def test_so_many_limits_are_not_counted() -> None:
    policy = {"total": 1, "limited": 2, "backoff_factor": 1.0, "backoff_jitter": 0.2}
    limits = [("limited", -1.0)] * 2
    assert delays(policy, limits + limits, 0.5) == [0.1, 0.2, 0.1, -1.0]
    # A server that says when to come again means it.
    assert delays(policy, [("limited", 7.0)] * 2, 0.5) == [7.0, -1.0]
    assert delays({"status": 0, "limited": 0}, limits) == [-1.0, -1.0]
    assert retry_numbers(None)["limited"] > 0
    assert retry_numbers(3)["limited"] == retry_numbers(urllib3.Retry(3))["limited"] == 0


def test_numbers_of_the_settings() -> None:
    numbers = retry_numbers(None)
    assert (numbers["total"], numbers["connect"], numbers["redirects"]) == (4, -1, 10)
    assert numbers["backoff_jitter"] > 0
    assert retry_numbers(7)["total"] == 7
    assert retry_numbers(0)["total"] == 0


def test_numbers_of_a_retry() -> None:
    retry = urllib3.Retry(3, connect=2, read=0, redirect=1, backoff_factor=0.25)
    numbers = retry_numbers(retry)
    picked = ("total", "connect", "read", "status", "other", "redirects", "backoff_factor")
    assert [numbers[name] for name in picked] == [3, 2, 0, -1, -1, 1, 0.25]
    assert retry_numbers(urllib3.Retry(False))["redirects"] == 0
    assert retry_numbers(urllib3.Retry(None))["total"] == -1
    # Less than none is none, as to urllib3: not -1, which is no limit.
    assert retry_numbers(urllib3.Retry(-1))["total"] == 0


@pytest.mark.parametrize(
    ("allowed", "methods"),
    [
        (urllib3.Retry.DEFAULT_ALLOWED_METHODS, {"GET", "HEAD", "PUT", "DELETE", "MKCOL"}),
        (["GET"], {"GET"}),
        # A directory is made for what is put.
        (frozenset({"PUT", "POST"}), {"PUT", "MKCOL"}),
        (None, {"GET", "HEAD", "PUT", "DELETE", "MKCOL"}),
    ],
)
def test_methods_of_a_retry(allowed: Any, methods: set[str]) -> None:
    bits = retry_numbers(urllib3.Retry(3, allowed_methods=allowed))["methods"]
    assert {method.name for method in Method if bits >> method & 1} == methods


def test_no_methods_mean_what_they_mean_to_urllib3() -> None:
    # Every method until urllib3 2, none from 3 on.
    retry = urllib3.Retry(3, status_forcelist=[503])
    retry.allowed_methods = frozenset()
    bits = retry_numbers(retry)["methods"]
    for method in Method:
        assert bool(bits >> method & 1) == retry.is_retry(method.name, 503)


def test_statuses_and_credentials_of_a_retry() -> None:
    default = {408, 429, 500, 502, 503, 504}
    assert retry_statuses(None) == retry_statuses(urllib3.Retry(2)) == default
    assert retry_statuses(urllib3.Retry(2, status_forcelist=[418])) == {418}
    assert credential_fields(None) == {
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-amz-security-token",
    }
    assert credential_fields(urllib3.Retry(remove_headers_on_redirect=["X-Key"])) == {"x-key"}


# -------------------------------------------------------------------------------------------- dates


@given(
    st.datetimes(
        datetime.datetime(1970, 1, 1),
        datetime.datetime(9999, 12, 31),
        timezones=st.just(datetime.UTC),
    )
)
def test_dates(moment: datetime.datetime) -> None:
    moment = moment.replace(microsecond=0)
    text = format_datetime(moment, usegmt=True)
    assert parse_http_date(text.encode()) == moment.timestamp()
    assert parsedate_to_datetime(text) == moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Thu, 29 Feb 2024 23:59:59 GMT", 1709251199),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        (b"Fri, 01 Mar 2100 00:00:00 GMT", 4107542400),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Wednesday, 30-Nov-68 23:59:59 GMT", 3121545599),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"Thu Feb 29 23:59:59 2024", 1709251199),
    ],
)
def test_known_dates(text: bytes, seconds: int) -> None:
    assert parse_http_date(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"120",
        b"soon",
        b"Sunday, 06-Nov-94 08:49:37 UTC",
        b"Sunday 06-Nov-94 08:49:37 GMT",
        b"Sunday, 06 Nov 94 08:49:37 GMT",
        b"Sunday, 06-Nov-9x 08:49:37 GMT",
        b"Sun Nov    08:49:37 1994",
        b"Sun Nov  6 08:49:37 199x",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +00",
        b"Sun, 06 Nox 1994 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, -6 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:4 :37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b"Sun, 06 Nov 1994 08:49:37 GM",
        b"\xff" * 29,
    ],
)
def test_no_dates(text: bytes) -> None:
    assert parse_http_date(text) == -1


@given(
    st.datetimes(
        datetime.datetime(1970, 1, 1),
        datetime.datetime(2068, 12, 31),
        timezones=st.just(datetime.UTC),
    )
)
def test_obsolete_dates(moment: datetime.datetime) -> None:
    for form in ("%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"):
        assert parse_http_date(moment.strftime(form).encode()) == int(moment.timestamp())


@given(st.binary(max_size=40) | st.binary(min_size=29, max_size=29))
def test_any_bytes_are_a_date_or_none(text: bytes) -> None:
    seconds = parse_http_date(text)
    assert seconds == -1 or len(text) == 24 or (len(text) >= 29 and text.endswith(b" GMT"))


def test_formatdate_agrees() -> None:
    assert parse_http_date(formatdate(1_800_000_000, usegmt=True).encode()) == 1_800_000_000
