"""The location of a base URL: turns a key into a target, reads index pages; does no I/O."""

from __future__ import annotations

from zfast.locations.http import HTTPLocation
from zfast.locations.listing import CADDY_FILE_LIMIT, Entry, Listing

__all__ = ["CADDY_FILE_LIMIT", "Entry", "HTTPLocation", "Listing"]
