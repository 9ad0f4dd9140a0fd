"""The options of whoever reads: a call of `cat_ranges`, a client, a store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TypedDict

from zfast.config import SETTINGS
from zfast.connections import PoolManager, Retries, Timeouts

__all__ = ["ClientOptions", "RequestOptions", "check_options"]


class RequestOptions(TypedDict, total=False):
    """How requests are made, and what their answers mean."""

    headers: Mapping[str, str] | None
    retries: Retries
    timeout: Timeouts
    deadline: float | None
    pool_manager: PoolManager | None
    ca_certs: str | os.PathLike[str] | None
    max_concurrency: int | None
    missing_status: Iterable[int] | int | None
    suffix_ranges: bool | None


class ClientOptions(RequestOptions, total=False):
    """The options of a `Client`, which a store takes as well."""

    index_cache_size: int | None
    coalesce_gap: int | None
    coalesce_size: int | None


def check_options(
    taker: str, options: Iterable[str], known: type[RequestOptions] = ClientOptions
) -> None:
    """Raise TypeError for an option that there is none of, and say where it may belong."""
    for name in options:
        if name not in known.__annotations__:
            where = f"; it is a setting: zfast.config.set({name}=...)" if name in SETTINGS else ""
            raise TypeError(f"{taker} takes no option {name!r}{where}")
