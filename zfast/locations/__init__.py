"""Locations: each kind turns a key into a target, signs requests, reads listings; none does I/O."""

from __future__ import annotations

from zfast.locations.http import HTTPLocation
from zfast.locations.listing import Entry, Listing

__all__ = ["Entry", "HTTPLocation", "Listing"]
