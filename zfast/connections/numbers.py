"""urllib3's Retry and Timeout as plain numbers, for the engine."""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple, SupportsIndex

import urllib3

from zfast._core.types import Method
from zfast.config import setting
from zfast.errors import ConfigurationError

__all__ = [
    "Limits",
    "Retries",
    "Timeouts",
    "credential_fields",
    "retry_numbers",
    "retry_statuses",
    "time_limits",
]

Retries = urllib3.Retry | int | None
Timeouts = urllib3.Timeout | float | None

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_MOST_RETRIES = 10**9
# Retries of one request that an origin refused while it served others. It seldom takes five: an
# origin that serves all but one for ever is not to be asked for ever.
_MOST_LIMITED = 16
_SECRET = {"authorization", "cookie", "proxy-authorization", "x-amz-security-token"}


def _retry(retries: Any) -> urllib3.Retry:
    if isinstance(retries, urllib3.Retry):
        return retries
    if retries is None:
        total = setting("max_attempts") - 1
    elif isinstance(retries, SupportsIndex):
        total = max(index(retries), 0)
    else:
        raise ConfigurationError(
            f"retries={retries!r}: pass a urllib3.Retry, a number of retries, or None"
        )
    return urllib3.Retry(
        total,
        status_forcelist=_RETRIED,
        backoff_factor=setting("backoff_factor"),
        backoff_max=setting("backoff_max"),
        backoff_jitter=setting("backoff_jitter"),
    )


def _count(retry: urllib3.Retry, name: str) -> int:
    value = getattr(retry, name)
    if value is None:
        return -1
    if isinstance(value, SupportsIndex) and index(value) <= _MOST_RETRIES:
        return max(index(value), 0)
    raise ConfigurationError(
        f"retries has {name}={value!r}, but has to have an integer of at most {_MOST_RETRIES} "
        "there, False, or None for no limit"
    )


def retry_numbers(retries: Retries) -> dict[str, Any]:
    """What the engine needs of a `urllib3.Retry`, as numbers; None of urllib3 becomes -1.

    Parameters
    ----------
    retries : urllib3.Retry, int or None
        None takes the settings' attempts and backoff.
    """
    try:
        numbers = _numbers(_retry(retries))
    except ConfigurationError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"retries has what is no number: {error}") from None
    if not isinstance(retries, urllib3.Retry):
        # urllib3's own would be six hours, for which nobody asked.
        numbers["retry_after_max"] = numbers["backoff_max"]
    if retries is None:
        numbers["limited"] = _MOST_LIMITED
    return numbers


def _numbers(retry: urllib3.Retry) -> dict[str, Any]:
    methods = 0
    for method in Method:
        # A directory is made twice as well as once.
        name = "PUT" if method is Method.MKCOL else method.name
        if retry._is_method_retryable(name):
            methods |= 1 << method
    redirects = _count(retry, "redirect")
    return {
        "limited": 0,
        "total": _count(retry, "total"),
        "connect": _count(retry, "connect"),
        "read": _count(retry, "read"),
        "status": _count(retry, "status"),
        "other": _count(retry, "other"),
        "redirects": setting("max_redirects") if redirects < 0 else redirects,
        "backoff_factor": float(retry.backoff_factor),
        "backoff_max": float(retry.backoff_max),
        "backoff_jitter": float(retry.backoff_jitter),
        "retry_after_max": float(getattr(retry, "retry_after_max", 21600)),
        "respect_retry_after": bool(retry.respect_retry_after_header),
        "methods": methods,
    }


def retry_statuses(retries: Retries) -> frozenset[int]:
    """The HTTP statuses worth another attempt: `status_forcelist`, or the default where empty."""
    given = _retry(retries).status_forcelist or _RETRIED
    statuses = (given,) if isinstance(given, SupportsIndex) else tuple(given)
    for status in statuses:
        if not (isinstance(status, SupportsIndex) and 100 <= index(status) <= 599):
            raise ConfigurationError(f"retries has {status!r} in status_forcelist, no HTTP status")
    return frozenset(map(index, statuses))


def credential_fields(retries: Retries) -> frozenset[str]:
    """Names, in lower case, of the fields that must not follow a redirect to another origin."""
    names = frozenset(name.lower() for name in _retry(retries).remove_headers_on_redirect)
    defaults = urllib3.Retry.DEFAULT_REMOVE_HEADERS_ON_REDIRECT
    # urllib3's own defaults became these in the course of its second version.
    return names | _SECRET if names == {name.lower() for name in defaults} else names


class Limits(NamedTuple):
    """Seconds to open a connection, to the first byte of a response, and without progress.

    None for no limit.
    """

    connect: float | None
    first_byte: float | None
    read: float | None


def time_limits(timeout: Timeouts) -> Limits:
    """The limits that a client's timeout means.

    Parameters
    ----------
    timeout : urllib3.Timeout, float or None
        A number stands for all of them, the time for reading of a Timeout also for the first byte;
        None takes the settings'.
    """
    if isinstance(timeout, tuple):
        raise ConfigurationError(
            f"timeout is {timeout!r}: pass urllib3.Timeout(connect=..., read=...), or one number"
        )
    if timeout is None or not isinstance(timeout, urllib3.Timeout):
        names = ("connect_timeout", "first_byte_timeout", "read_timeout")
        try:
            return Limits(*(setting(name, timeout) for name in names))
        except ConfigurationError as error:
            if timeout is None:
                raise
            # By its own name: the argument is called otherwise.
            text = str(error).replace(names[0], "timeout")
            raise ConfigurationError(f"{text}, or a urllib3.Timeout") from None
    # With a total, urllib3 tells the limit for reading only once the clock of connecting runs.
    running = timeout.clone()
    running.start_connect()
    connect = urllib3.Timeout.resolve_default_timeout(timeout.connect_timeout)
    read = urllib3.Timeout.resolve_default_timeout(running.read_timeout)
    return Limits(connect, read, read)
