"""The options of a client, which a store takes as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from zfast.config import SETTINGS
from zfast.connections import PoolManager, Retries, Timeouts

__all__ = ["ClientOptions", "check_options"]


class ClientOptions(TypedDict, total=False):
    """The options of a `Client`, which a store takes as well."""

    headers: Mapping[str, str] | None
    retries: Retries
    timeout: Timeouts
    deadline: float | None
    pool_manager: PoolManager | None
    ca_certs: str | None
    max_concurrency: int | None
    missing_status: Iterable[int] | int | None
    index_cache_size: int | None
    coalesce_gap: int | None
    coalesce_size: int | None
    suffix_ranges: bool | None


def check_options(taker: str, options: Iterable[str]) -> None:
    """Raise TypeError for an option that no client has, and say where it may belong."""
    for name in options:
        if name not in ClientOptions.__annotations__:
            where = f"; it is a setting: zfast.config.set({name}=...)" if name in SETTINGS else ""
            raise TypeError(f"{taker} takes no option {name!r}{where}")
