"""Locations: each kind turns a key into a target, signs requests, reads listings; none does I/O."""

from __future__ import annotations

from zfast.locations.http import HTTPLocation
from zfast.locations.listing import CADDY_FILE_LIMIT, Entry, Listing

__all__ = ["CADDY_FILE_LIMIT", "Entry", "HTTPLocation", "Listing"]
