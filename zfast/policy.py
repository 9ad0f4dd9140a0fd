"""What all requests of a client have in common: header lines, retries, what a status means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from zfast._core.policy import Policy
from zfast._core.request_head import check_field_value, check_token
from zfast.config import setting
from zfast.connections import credential_fields, retry_numbers, retry_statuses
from zfast.errors import ConfigurationError

if TYPE_CHECKING:
    from zfast.connections import Limits, Retries

__all__ = ["field_lines", "header_fields", "policy_for"]

_USER_AGENT = f"zfast/{version('zfast')}"
# The message's own framing and the range are the engine's to write.
_RESERVED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-match",
        "if-none-match",
        "if-range",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def header_fields(headers: Any, usual: Mapping[str, str] | None = None) -> dict[str, str]:
    """The argument of that name as a dict, and what a pool manager usually sends besides.

    Raises
    ------
    ConfigurationError
        If it is no mapping of str to str. Its values are not shown: they may be credentials.
    """
    try:
        fields = dict(headers or {})
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"headers is a {type(headers).__name__}, but has to be a mapping of names to values, "
            'such as {"X-Tenant": "a"}'
        ) from None
    for name, value in fields.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ConfigurationError(
                f"header {name!r} cannot be sent: name and value have to be str, but are "
                f"{type(name).__name__} and {type(value).__name__}"
            )
    named = {*map(str.lower, fields), *_RESERVED}
    besides = {name: usual[name] for name in usual if name.lower() not in named} if usual else {}
    return besides | fields


def field_lines(fields: Mapping[str, str]) -> bytes:
    """Header lines of checked fields.

    Raises
    ------
    ConfigurationError
        If a name or value could end its line, or the field is the engine's to write.
    """
    lines = []
    for name, value in fields.items():
        refusal = ""
        try:
            encoded_name, encoded_value = name.encode("ascii"), value.encode("latin-1")
            check_token(encoded_name)
            check_field_value(encoded_value)
        except ValueError as error:
            refusal = str(error)
        if refusal:
            # Not while that is handled: in its context would be the value, which may be a secret.
            raise ConfigurationError(f"header {name!r} cannot be sent: {refusal}")
        if name.lower() in _RESERVED:
            raise ConfigurationError(f"header {name!r} is not yours to set: zfast writes it itself")
        lines.append(encoded_name + b": " + encoded_value + b"\r\n")
    return b"".join(lines)


def policy_for(
    headers: Mapping[str, str],
    retries: Retries,
    limits: Limits,
    max_concurrency: int,
    missing_status: Iterable[int],
    *,
    suffix_ranges: bool,
    keys_only: bool,
) -> Policy:
    """What the engine needs to know of a client, from its settings."""
    fields = {"User-Agent": _USER_AGENT, "Accept": "*/*"}
    for name, value in headers.items():
        for default in [other for other in fields if other.lower() == name.lower()]:
            del fields[default]
        fields[name] = value
    secret = credential_fields(retries)
    identity = b"Accept-Encoding: identity\r\n"
    return Policy(
        field_lines(fields) + identity,
        field_lines({n: v for n, v in fields.items() if n.lower() not in secret}) + identity,
        missing_status,
        retry_statuses(retries),
        retry_numbers(retries),
        limits.first_byte or 0.0,
        limits.read or 0.0,
        setting("split_threshold"),
        setting("split_size"),
        setting("hedge_budget"),
        setting("hedge_floor"),
        max_concurrency,
        suffix_ranges,
        keys_only,
    )
