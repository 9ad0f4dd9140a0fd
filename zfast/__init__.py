"""zfast: zarr over the network at the speed of the network."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from zfast._core.buffers import Body
from zfast.arguments import Buffer, ByteRange
from zfast.cat import cat_ranges, cat_ranges_async
from zfast.client import Client, ObjectInfo
from zfast.config import config
from zfast.errors import (
    AccessError,
    ChangedError,
    ConfigurationError,
    ConnectionFailedError,
    CorruptError,
    DeadlineError,
    ListingError,
    MissingKeyError,
    NoMemoryError,
    NotWritableError,
    ResponseError,
    ZfastError,
)
from zfast.stats import show_config, stats

if TYPE_CHECKING or not _version("zarr").startswith("2."):
    from zfast.store import FastStore
else:
    from zfast._zarr2 import FastStore

__version__ = _version("zfast")


__all__ = [
    "AccessError",
    "Body",
    "Buffer",
    "ByteRange",
    "ChangedError",
    "Client",
    "ConfigurationError",
    "ConnectionFailedError",
    "CorruptError",
    "DeadlineError",
    "FastStore",
    "ListingError",
    "MissingKeyError",
    "NoMemoryError",
    "NotWritableError",
    "ObjectInfo",
    "ResponseError",
    "ZfastError",
    "__version__",
    "cat_ranges",
    "cat_ranges_async",
    "config",
    "show_config",
    "stats",
]


def __dir__() -> list[str]:
    return __all__
