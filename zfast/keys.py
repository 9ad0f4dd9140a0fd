"""What a key can be: text, and to hold a value the name of an object; as it goes out. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

__all__ = ["check_key", "check_object", "directories_above", "names_object", "quote_key"]

# pchar without percent-encoded, RFC 3986, section 3.3; unreserved is what quote() keeps anyway. The
# plus sign is left out: object stores take it for a space.
_PCHAR = "!$&'()*,;=:@"
_SAFE_KEY = re.compile(r"[A-Za-z0-9\-._~!$&'()*,;=:@/]*")


def check_key(key: Any) -> str:
    """Return a key; raises TypeError if it is no str."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {type(key).__name__}: {key!r:.80}")
    return key


def names_object(key: Any) -> bool:
    """Whether a key can name an object; one whose last segment is empty, "." or ".." cannot.

    They lead to directories (RFC 3986, section 5.2.4), whose index pages must not pass for values.

    Raises
    ------
    TypeError
        If it is no str.
    """
    return check_key(key).rpartition("/")[2] not in ("", ".", "..")


def check_object(key: Any) -> str:
    """Return a key that can name an object; raises ValueError if it cannot, TypeError as above."""
    if not names_object(key):
        raise ValueError(f"{key!r} cannot name an object, but only a directory")
    return str(key)


def directories_above(key: str) -> Iterator[str]:
    """Yield the names of the directories that a key is in, the outermost first."""
    return itertools.accumulate(key.split("/")[:-1], "{}/{}".format)


def quote_key(key: str, errors: str = "surrogateescape") -> str:
    """Return a key percent-encoded, as it stands in a path.

    Parameters
    ----------
    key : str
        Any.
    errors : str
        What becomes of what UTF-8 cannot encode, as in `str.encode`: by default a file name that is
        not UTF-8 comes out as its bytes, as `os.fsdecode` and a listing give it.
    """
    if _SAFE_KEY.fullmatch(key) and "./" not in key and not key.endswith("."):
        return key
    # A bare dot segment would be taken out of the path on the way (RFC 3986, section 5.2.4).
    return "/".join(
        segment.replace(".", "%2E") if segment in (".", "..") else segment
        for segment in quote(key, safe="/" + _PCHAR, errors=errors).split("/")
    )
