"""A base URL on a plain HTTP server: key → request target, one to one, without I/O.

Whatever a key holds, its target is printable ASCII: no key can end a request line or reach
into the query.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from zfast.errors import ConfigurationError, redact
from zfast.keys import check_key, quote_key
from zfast.locations.listing import Listing, parse_listing

__all__ = ["DEFAULT_PORTS", "HTTPLocation"]

DEFAULT_PORTS = {"http": 80, "https": 443}

_NOT_PATH = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~!$&'()*+,;=:@/%]")
_NOT_QUERY = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%]")
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)"
    r"(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?"
)
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<host>[^\[\]:]*))(?::(?P<port>[^:]*))?")
_HOST = re.compile(r"[a-z0-9._~\-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _quote_char(match: re.Match[str]) -> str:
    return quote(match[0], safe="")


def _remove_dot_segments(path: str) -> str:
    """RFC 3986, section 5.2.4, for a path that is empty or starts with a slash."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)


class HTTPLocation:
    """The location of ``http(s)://[user:pass@]host[:port]/base/path[?query]``.

    The base path may be percent-encoded or not; keys never are. The query, such as an access
    token, goes with every request.

    Parameters
    ----------
    url : str
        The base URL.

    Attributes
    ----------
    scheme : str
        ``"http"`` or ``"https"``.
    host : str
        In lower case; an IPv6 address without brackets.
    port : int
        The default port of the scheme where the URL has none.
    authority : str
        The ``host[:port]`` of a Host field, without the default port (RFC 9110, section 7.2).
    origin : str
        ``scheme://authority`` (RFC 9110, section 4.3.1).
    url : str
        The base URL as it may be shown: no userinfo, no query.
    authorization : str or None
        The value of an Authorization field for the URL's userinfo (RFC 7617).

    Raises
    ------
    ConfigurationError
        If the URL is not one that zfast can use; says what to do.
    """

    __slots__ = (
        "_base",
        "_given",
        "_query",
        "authority",
        "authorization",
        "host",
        "origin",
        "port",
        "scheme",
        "url",
    )

    def __init__(self, url: str) -> None:
        self._given = url
        parts = _split(url)
        self.scheme: str = parts["scheme"].lower()
        if self.scheme not in DEFAULT_PORTS:
            raise _refusal(
                url,
                f"the scheme is {self.scheme}, but has to be http or https; an object store is "
                "reached by the https:// URL of its bucket",
            )
        if parts["fragment"]:
            raise _refusal(url, "a base URL has no fragment; write a # in a path as %23")
        userinfo, at, host_and_port = parts["authority"].rpartition("@")
        self.host, port, shown_host = _host_and_port(url, host_and_port)
        default = DEFAULT_PORTS[self.scheme]
        self.port: int = default if port is None else port
        self.authority: str = shown_host if self.port == default else f"{shown_host}:{self.port}"
        self.origin: str = f"{self.scheme}://{self.authority}"
        self.authorization: str | None = _basic(url, userinfo) if at and userinfo else None
        path = _remove_dot_segments(_NOT_PATH.sub(_quote_char, parts["path"]))
        # One slash stands between base and key, wherever it was written.
        self._base: str = path.removesuffix("/")
        query = parts["query"]
        self._query: str = f"?{_NOT_QUERY.sub(_quote_char, query)}" if query else ""
        self.url: str = self.origin + path

    def target(self, key: str) -> bytes:
        """Return the request target of a key in origin form (RFC 9112, section 3.2.1).

        Parameters
        ----------
        key : str
            Not percent-encoded; the empty key is the base URL itself.

        Returns
        -------
        bytes
            Path and query, percent-encoded as RFC 3986 has it.

        Raises
        ------
        TypeError
            If the key is no str.
        UnicodeEncodeError
            If the key holds a lone surrogate that no file name could give it.
        """
        if not check_key(key):
            path = self.url[len(self.origin) :] or "/"
            return (path + self._query).encode("ascii")
        return f"{self._base}/{quote_key(key)}{self._query}".encode("ascii")

    def affixes(self) -> tuple[bytes, bytes]:
        """Return what comes before and after a key of unreserved characters in its target."""
        return f"{self._base}/".encode("ascii"), self._query.encode("ascii")

    def directory_target(self, prefix: str) -> bytes:
        """Return the target of the directory of a prefix: with a slash at its end.

        Parameters
        ----------
        prefix : str
            With or without a slash at its end; the empty prefix is the base URL.

        Returns
        -------
        bytes
            As `target` gives it.
        """
        prefix = prefix.removesuffix("/")
        path = f"{self._base}/{quote_key(prefix)}/" if prefix else f"{self._base}/"
        return (path + self._query).encode("ascii")

    def ancestors(self) -> Iterator[tuple[str, bytes]]:
        """Yield the directories above the base URL, the nearest first.

        Yields
        ------
        name : str
            Of the directory below, as `Entry` has it.
        target : bytes
            As `directory_target` gives it.
        """
        below = self._base
        while below:
            above, _, segment = below.rpartition("/")
            name = os.fsdecode(unquote_to_bytes(segment))
            if not name or "/" in name:
                # No listing has it.
                return
            yield name, f"{above}/{self._query}".encode("ascii")
            below = above

    def display(self, key: str) -> str:
        """Return the URL of a key as it may be shown: no userinfo, no query."""
        return f"{self.origin}{self._base}/{quote_key(key)}" if key else self.url

    def parse_listing(
        self, body: bytes, content_type: str, directory_target: bytes, redirected_to: str = ""
    ) -> Listing | None:
        """Read a directory index page that this location answered with.

        Parameters
        ----------
        body : bytes
            The whole body.
        content_type : str
            The value of its Content-Type field.
        directory_target : bytes
            The target that was asked for, from `directory_target`.
        redirected_to : str
            The URL that answered in its place; its links are relative to that.

        Returns
        -------
        Listing or None
            None where the page is not a directory index, or one of a directory below.
        """
        origin = self.origin
        if redirected_to:
            scheme, _, rest = redirected_to.partition("://")
            host, _, path = rest.partition("/")
            asked_for = directory_target
            origin, directory_target = f"{scheme}://{host}", f"/{path}".encode("latin-1")
            if urlsplit(redirected_to).hostname == self.host and _is_index_below(
                directory_target, asked_for
            ):
                # To a directory with the name of an index file (nginx): the page lists that one.
                return None
        return parse_listing(body, content_type, directory_target, origin)

    def _identity(self) -> tuple[Any, ...]:
        return self.origin, self._base, self._query, self.authorization

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HTTPLocation):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"HTTPLocation({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return HTTPLocation, (self._given,)


def _is_index_below(target: bytes, directory_target: bytes) -> bool:
    names, above = (
        [unquote_to_bytes(name) for name in path.partition(b"?")[0].split(b"/") if name]
        for path in (target, directory_target)
    )
    return names[:-1] == above and names != above and names[-1].startswith(b"index.")


def _refusal(url: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{reason} (URL {redact(url)})")


def _split(url: str) -> dict[str, str]:
    if not isinstance(url, str):
        raise ConfigurationError(f"a URL is a str, not {type(url).__name__}")
    if _CONTROL.search(url) or url != url.strip():
        raise _refusal(url, "a URL has no control characters and no space around it")
    # No error in whose context the whole URL would be, password and all.
    if any("\ud800" <= character <= "\udfff" for character in url):
        raise _refusal(url, "percent-encode the bytes of a path that is not UTF-8")
    if "\\" in url.partition("?")[0]:
        raise _refusal(url, "write / instead of \\, or a \\ that is meant as %5C")
    match = _URL.fullmatch(url)
    if match is None:
        raise _refusal(url, "write http:// or https:// in front of the host")
    return match.groupdict(default="")


def _host_and_port(url: str, text: str) -> tuple[str, int | None, str]:
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise _refusal(
            url,
            "host and port cannot be told apart; write an IPv6 address in [ ], and percent-encode "
            "what user and password have of : / ? # [ ] @",
        )
    port = None
    if match["port"]:
        digits = match["port"]
        if not (re.fullmatch(r"[0-9]{1,5}", digits) and 0 < int(digits) <= 65535):
            raise _refusal(
                url,
                "the port has to be a number from 1 to 65535 (percent-encode what user and "
                "password have of : / ? # [ ] @)",
            )
        port = int(digits)
    if match["ipv6"] is not None:
        try:
            if "%" in match["ipv6"]:
                raise ValueError
            address = str(ipaddress.IPv6Address(match["ipv6"]))
        except ValueError:
            raise _refusal(url, "what is in [ ] has to be an IPv6 address, without zone") from None
        return address, port, f"[{address}]"
    host = match["host"].lower()
    if not host:
        raise _refusal(url, "there is no host; write it after http:// or https://")
    if not host.isascii():
        raise _refusal(url, "write the host in its ASCII form, which starts with xn--")
    if not _HOST.fullmatch(host):
        raise _refusal(url, "the host has characters that no host name has")
    return host, port, host


def _basic(url: str, userinfo: str) -> str:
    """The Basic credentials of a userinfo (RFC 7617, section 2)."""
    user, _, password = userinfo.partition(":")
    credentials = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    if b":" in unquote_to_bytes(user) or _CONTROL.search(unquote(userinfo)):
        raise _refusal(url, "a user has no colon, user and password no control characters")
    return "Basic " + base64.b64encode(credentials).decode("ascii")
