"""Which address comes first: the least used, and those that failed last."""

from __future__ import annotations

import pytest

from zfast.addresses import Addresses

BOTH = ("a", "b")


@pytest.fixture
def known() -> Addresses:
    return Addresses()


def test_takes_turns_in_the_resolvers_order(known: Addresses) -> None:
    assert [known.take("abc", 0.0) for _ in range(7)] == list("abcabca")


def test_the_least_used_comes_first(known: Addresses) -> None:
    for _ in range(3):
        known.hold("a", 0.0)
    assert [known.take(BOTH, 0.0) for _ in range(5)] == ["b", "b", "b", "a", "b"]
    for _ in range(3):
        known.drop("a")
    assert [known.take(BOTH, 0.0) for _ in range(4)] == ["a", "a", "a", "b"]


def test_turns_go_on_where_nothing_is_open(known: Addresses) -> None:
    taken = []
    for _ in range(4):
        taken.append(known.take(BOTH, 0.0))
        known.drop(taken[-1])
    assert taken == ["a", "b", "a", "b"]


def test_one_that_failed_is_tried_last_for_a_while(known: Addresses) -> None:
    known.failed("a", 100.0)
    assert [known.take(BOTH, 129.9) for _ in range(3)] == ["b", "b", "b"]
    assert known.take("a", 129.9) == "a"
    assert known.take(BOTH, 130.0) == "a"


def test_of_those_that_failed_the_first_to_be_forgiven(known: Addresses) -> None:
    known.failed("a", 10.0)
    known.failed("b", 5.0)
    assert known.take(BOTH, 11.0) == "b"
    known.drop("b")
    assert known.take(BOTH, 12.0) == "b"


def avoided(known: Addresses, now: float) -> int:
    """How long "a" is tried last from now on, to the second."""
    seconds = 0
    while known.take(BOTH, now + seconds) == "b":
        known.drop("b")
        seconds += 1
    known.drop("a")
    return seconds


def test_it_is_avoided_for_longer_where_it_fails_again(known: Addresses) -> None:
    now, lengths = 0.0, []
    for _ in range(7):
        known.hold("b", now)
        known.failed("a", now)
        known.drop("b")
        # Turns alone would choose it.
        known.take("b", now)
        known.drop("b")
        lengths.append(avoided(known, now))
        now += lengths[-1]
    assert lengths == [30, 60, 120, 240, 480, 600, 600]
    # So long without a failure, and all is forgiven.
    now += 600
    known.failed("a", now)
    assert avoided(known, now) == 30


def test_connections_that_break_together_are_one_failure(known: Addresses) -> None:
    for _ in range(50):
        known.failed("a", 0.0)
    assert avoided(known, 0.0) == 30


def test_a_connection_that_opens_ends_it(known: Addresses) -> None:
    known.failed("a", 0.0)
    known.succeeded("a", began=1.0, now=2.0)
    assert known.take(BOTH, 2.0) == "a"
    # Not for good.
    known.failed("a", 3.0)
    known.drop("a")
    known.take("a", 3.0)
    known.drop("a")
    known.take("b", 3.0)
    known.drop("b")
    assert avoided(known, 3.0) == 60


def test_one_that_began_to_open_before_the_failure_does_not(known: Addresses) -> None:
    known.failed("a", 1.0)
    known.succeeded("a", began=0.5, now=2.0)
    assert known.take(BOTH, 2.0) == "b"


def test_what_is_over_is_forgotten(known: Addresses) -> None:
    known.hold("open", 0.0)
    known.failed("failing", 0.0)
    for number in range(10_000):
        known.hold(str(number), 0.0)
        known.drop(str(number))
    assert len(known._known) <= 1024
    assert {"open", "failing"} <= known._known.keys()
    known.drop("never heard of")
    known.clear()
    assert not known._known
