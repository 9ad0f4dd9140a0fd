"""What the value of a setting may be: each check returns it in its final type, or raises. Pure."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["NO_LIMIT", "Check", "Choice", "Flag", "Integer", "Number", "Statuses"]

# Eleven days; in milliseconds it still fits the int that poll() takes.
_LONGEST = 1_000_000.0
NO_LIMIT = ", or None for no limit"
# Statuses with a meaning of their own for a read: retried, changed object, range past the end.
_NEVER_MISSING = frozenset({408, 412, 416, 429})


class Check(Protocol):
    """What a setting may be: returns the value in its final type, or raises ValueError."""

    @property
    def allowed(self) -> str: ...

    def __call__(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Integer:
    """A whole number."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f"an integer from {self.low} to {self.high}"

    def __call__(self, value: Any) -> int:
        if isinstance(value, bool):
            raise ValueError
        try:
            number = operator.index(value)
        except TypeError:
            raise ValueError from None
        if not self.low <= number <= self.high:
            raise ValueError
        return number


@dataclass(frozen=True)
class Number:
    """A number, or None for no limit where that is `optional`."""

    low: float
    high: float = _LONGEST
    optional: bool = False

    @property
    def allowed(self) -> str:
        none = NO_LIMIT if self.optional else ""
        return f"a number from {self.low:g} to {self.high:.0f}{none}"

    def __call__(self, value: Any) -> float | None:
        if self.optional and (
            value is None or (isinstance(value, str) and value.lower() in {"none", "null"})
        ):
            return None
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError
        try:
            number = float(value)
        except OverflowError:
            raise ValueError from None
        if not math.isfinite(number) or not self.low <= number <= self.high:
            raise ValueError
        return number


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    @property
    def allowed(self) -> str:
        return "True or False (in the environment also 1 or 0, yes or no, on or off)"

    def __call__(self, value: Any) -> bool:
        if isinstance(value, str):
            value = value.strip().lower()
        if value in (True, "true", "yes", "on"):
            return True
        if value in (False, "false", "no", "off"):
            return False
        raise ValueError


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    values: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(map(repr, self.values))

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or value.strip().lower() not in self.values:
            raise ValueError
        return value.strip().lower()


@dataclass(frozen=True)
class Statuses:
    """HTTP statuses of missing keys."""

    @property
    def allowed(self) -> str:
        never = ", ".join(map(str, sorted(_NEVER_MISSING)))
        return f"HTTP statuses from 400 to 499, such as (404, 410), but none of {never}"

    def __call__(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            value = (value,)
        check = Integer(400, 499)
        statuses = tuple(sorted({check(status) for status in value}))
        if _NEVER_MISSING.intersection(statuses):
            raise ValueError
        return statuses
