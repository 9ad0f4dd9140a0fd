"""What a key can be: text, and to hold a value the name of an object. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["check_key", "check_object", "names_object"]


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
