"""What is kept for a minute is gone then, and never much."""

from __future__ import annotations

import pytest

from zfast.lately import Lately


def test_what_was_added_is_there() -> None:
    found: Lately[str] = Lately()
    assert not found
    assert "a" not in found
    found.add("a")
    assert found
    assert "a" in found
    assert "b" not in found
    found.discard("b")
    found.discard("a")
    assert not found
    assert "a" not in found


def test_the_oldest_goes_first() -> None:
    found: Lately[int] = Lately()
    for number in range(2000):
        found.add(number)
        found.add(0)
    kept = [number for number in range(2000) if number in found]
    assert kept == [0, *range(2000 - len(kept) + 1, 2000)]
    assert 500 < len(kept) < 2000


def test_it_lasts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Lately[str] = Lately()
    monkeypatch.setattr("zfast.lately.SECONDS", 0.0)
    found.add("a")
    assert not found
    assert "a" not in found
