"""Directory index pages of web servers → the names of a directory's direct children.

Total over all bodies: a page that is not known to be a directory index, or does not say which of
its entries are directories, is None, never a guess. Names come from the links' targets, since
servers shorten the text that they show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

__all__ = ["CADDY_FILE_LIMIT", "Entry", "Listing", "parse_listing"]

CADDY_FILE_LIMIT = 10_000
"""After so many entries Caddy ends a page, unless its `file_limit` is another."""
# What it then takes out of them again: its own configuration, the documents of zarr format 2.
_MOST_HIDDEN = 16


class Entry(NamedTuple):
    """A direct child of a directory; a name that is not UTF-8 is as `os.fsdecode` has it."""

    name: str
    is_dir: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """The direct children of a directory, in the server's order, each once.

    Some are missing, perhaps, where it `may_be_cut`.
    """

    entries: tuple[Entry, ...]
    may_be_cut: bool = False

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def parse_listing(
    body: bytes, content_type: str, directory_target: bytes, origin: str
) -> Listing | None:
    """Read the directory index page of a known server.

    Known are the HTML pages of nginx (autoindex), Apache (mod_autoindex in each of its styles),
    lighttpd (dir-listing), Caddy (file_server browse), aiohttp (show_index) and Python's
    http.server, and the JSON of Caddy (which it sends when asked with
    ``Accept: application/json``) and of nginx (``autoindex_format json``).

    Parameters
    ----------
    body : bytes
        The whole body.
    content_type : str
        The value of its Content-Type field.
    directory_target : bytes
        The target that was asked for; its path ends with a slash.
    origin : str
        ``scheme://authority`` of the server; links to any other are ignored.

    Returns
    -------
    Listing or None
        None where the page is not a directory index.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    # Not the charset of the Content-Type: links are ASCII but for names that are not UTF-8,
    # and Apache names a charset that its file names do not have.
    text = body.decode("utf-8", "surrogateescape")
    if media_type in ("text/html", "application/xhtml+xml"):
        links = _links_of_html(text)
    elif media_type == "application/json":
        links = _links_of_json(text)
    else:
        links = None
    if links is None:
        return None
    # Its pages do not say so; those of others have no such limit.
    is_full = CADDY_FILE_LIMIT - _MOST_HIDDEN <= len(links) <= CADDY_FILE_LIMIT
    may_be_cut = is_full and media_type == "application/json" and _is_by_caddy(text)
    directory = _segments(directory_target.partition(b"?")[0])
    children = (_child(link, directory, origin) for link in links)
    entries = tuple(dict.fromkeys(child for child in children if child is not None))
    return Listing(entries, may_be_cut)


# nginx, Apache, lighttpd, aiohttp; http.server. "/" begins the directory's path: an ordinary page
# may well be an "Index of plants".
_TITLE = re.compile(r"\s*(?:Index of|Directory listing for) /")


class _IndexPage(HTMLParser):
    """Collects the links of a page, and the marks by which an index page is known."""

    _CONTAINERS = frozenset({"pre", "ul", "table"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._title: list[str] = []
        self._in_title = False
        self._open_containers = 0
        self._has_container = False
        self._has_summary = False
        self._has_listing = False
        self._names_caddy = False
        self._links: list[str] = []
        self._contained: list[str] = []
        self._in_entry = False
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            href = next((value for name, value in attrs if name == "href"), None)
            self._in_entry = bool(href and self._open_containers)
            self._text = ""
            if href:
                self._links.append(href)
                if self._open_containers:
                    self._contained.append(href)
                if href.startswith("https://caddyserver.com"):
                    self._names_caddy = True
        elif tag in self._CONTAINERS:
            self._open_containers += 1
            self._has_container = True
        elif tag == "title":
            self._in_title = True
        elif tag == "div":
            given = dict(attrs)
            if given.get("id") == "summary":
                self._has_summary = True
            if "listing" in (given.get("class") or "").split():
                self._has_listing = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            # aiohttp says so in the text alone that a link leads to a directory.
            if self._in_entry and self._text.endswith("/"):
                self._contained[-1] = self._contained[-1].removesuffix("/") + "/"
            self._in_entry = False
        elif tag in self._CONTAINERS:
            self._open_containers = max(0, self._open_containers - 1)
        elif tag == "title":
            self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title.append(data)
        self._text = data

    def links(self) -> list[str] | None:
        """The links that may be entries; None if this is not an index page."""
        if self._has_container and _TITLE.match("".join(self._title)):
            # A header or footer that the administrator wrote has links of its own. Where the one
            # above has no slash (h2o), none that leads to a directory has.
            return None if ".." in self._contained else self._contained
        if self._has_summary and self._has_listing and self._names_caddy:
            return self._links
        return None


def _links_of_html(text: str) -> list[str] | None:
    page = _IndexPage()
    try:
        # Not close(): it parses an unfinished tail again from every "<" in it, in quadratic time,
        # and no entry is in there.
        page.feed(text)
    except (AssertionError, ValueError):
        # html.parser gives up this way on a malformed marked section, and on a long number.
        return None
    return page.links()


def _links_of_json(text: str) -> list[str] | None:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list):
        return None
    links = [_link_of_row(row) for row in rows]
    return None if None in links else [link for link in links if link is not None]


def _is_by_caddy(text: str) -> bool:
    return all("is_dir" in row for row in json.loads(text))


def _link_of_row(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    name, url, is_dir, kind = (row.get(field) for field in ("name", "url", "is_dir", "type"))
    if isinstance(url, str) and isinstance(is_dir, bool):
        # Caddy's name has lost what is not UTF-8; its url has not.
        return url
    if isinstance(name, str) and kind in ("directory", "file", "other"):
        try:
            encoded = quote(name, safe="", errors="surrogateescape")
        except UnicodeEncodeError:
            return None
        return encoded + "/" if kind == "directory" else encoded
    return None


def _segments(path: bytes) -> list[bytes]:
    return [unquote_to_bytes(segment) for segment in path.split(b"/")]


def _child(link: str, directory: list[bytes], origin: str) -> Entry | None:
    """Resolve a link (RFC 3986, section 5.2) as far as it can name a child of the directory."""
    if "?" in link or "#" in link:
        return None  # sorts, filters, anchors
    link = _path_of(link, origin)
    try:
        path = link.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    if path.startswith(b"/"):
        segments = _segments(path)
        above = len(directory) - 1
        if len(segments) <= above or segments[:above] != directory[:above]:
            return None
        rest = path.split(b"/", above)[above]
    else:
        rest = path
        while rest.startswith(b"./"):
            rest = rest[2:]
    is_dir = rest.endswith(b"/")
    rest = rest.removesuffix(b"/")
    if b"/" in rest:
        return None
    name = unquote_to_bytes(rest)
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        return None
    return Entry(name.decode("utf-8", "surrogateescape"), is_dir)


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


def _path_of(link: str, origin: str) -> str:
    """Return the path of a link on this origin; of any other, the empty path."""
    if link.startswith("//"):
        link = origin.partition(":")[0] + ":" + link
    elif not _SCHEME.match(link):
        return link
    root = origin + "/"
    return link[len(origin) :] if link[: len(root)].lower() == root else ""
