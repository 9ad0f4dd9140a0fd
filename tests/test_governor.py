"""What an origin is thought to bear, by what it answered: pure, with times of the tests' own."""

from __future__ import annotations

import pytest

from zfast._core.governor import GovernorOf

UNLIMITED = 1 << 30


def known(first_byte: float = 0.01, answers: int = 100, most: int = 64) -> GovernorOf:
    """The governor of an origin that answered so many requests, each as fast."""
    governor = GovernorOf(most)
    for _ in range(answers):
        governor.asked()
        governor.answered(first_byte)
    return governor


# ------------------------------------------------------------------------------ requests at once


def test_there_is_no_limit_until_one_is_met() -> None:
    assert known().room(1000, 1.0) > UNLIMITED


def test_too_much_is_halved() -> None:
    governor = known()
    governor.throttled(begun=9.0, in_flight=64, pause=0, now=10.0)
    assert [governor.room(now, 10.0) for now in (0, 31, 32, 64)] == [32, 1, 0, 0]


def test_those_that_went_out_together_count_once() -> None:
    governor = known()
    for _ in range(64):
        governor.throttled(begun=9.0, in_flight=64, pause=0, now=10.0)
    assert governor.room(0, 10.0) == 32
    governor.throttled(begun=10.5, in_flight=64, pause=0, now=11.0)
    assert governor.room(0, 11.0) == 16


def test_one_request_always_goes() -> None:
    governor = known()
    for now in range(10, 40):
        governor.throttled(begun=now - 0.5, in_flight=1, pause=0, now=float(now))
    assert governor.room(0, 50.0) == 1


def test_the_window_grows_by_one_a_round_trip_until_there_is_no_limit() -> None:
    governor = known(most=10)
    governor.throttled(begun=9.0, in_flight=8, pause=0, now=10.0)
    sizes = [governor.room(0, 11.0)]
    while sizes[-1] < 10:
        for _ in range(sizes[-1] + 1):
            governor.answered()
        sizes.append(governor.room(0, 11.0))
    assert sizes[:-1] == list(range(4, 4 + len(sizes) - 1))
    assert sizes[-1] > UNLIMITED


def test_a_pause_is_one_for_all() -> None:
    governor = known()
    for pause in (5.0, 5.0, 1.0):
        governor.throttled(begun=9.0, in_flight=64, pause=pause, now=10.0)
    assert governor.room(0, 14.9) == 0
    assert governor.room(0, 15.0) == 32


def test_one_that_is_refused_pauses_nobody_else() -> None:
    governor = known()
    for _ in range(5):
        governor.throttled(begun=9.0, in_flight=64, pause=5.0, now=10.0)
        governor.answered()
    assert governor.room(0, 10.1) > 0


# ------------------------------------------------------------------------------- one at a time


def paced(refusals: int, **how: float) -> GovernorOf:
    """The governor of an origin that refused so many in a row, the last by 10 s."""
    governor = known()
    governor.throttled(begun=0.5, in_flight=1, pause=0, now=1.0)
    for at in range(refusals):
        now = 10.0 - refusals + at + 1
        governor.throttled(begun=now - 0.004, in_flight=1, pause=0, now=now, **how)
    return governor


def test_one_at_a_time_that_is_too_much_waits_in_between() -> None:
    governor = paced(0)
    assert not governor.asked(now=10.0)
    for refusals, pace in ((1, 0.004), (2, 0.008), (5, 0.064)):
        governor = paced(refusals)
        assert governor.room(0, 10.0) == 1
        assert governor.asked(now=10.0)
        assert governor.room(0, 10.0 + 0.9 * pace) == 0
        assert governor.room(0, 10.0 + 1.1 * pace) == 1


def test_no_pace_is_slower_than_the_longest_backoff() -> None:
    governor = paced(7, longest=0.1)
    governor.asked(now=10.0)
    assert governor.room(0, 10.09) == 0
    assert governor.room(0, 10.11) == 1
    # Somebody's who waits for nothing changes nothing.
    governor.throttled(begun=10.4, in_flight=1, pause=0, now=10.5, longest=0)
    governor.asked(now=11.0)
    assert governor.room(0, 11.09) == 0


def test_an_origin_that_is_away_has_no_pace() -> None:
    governor = known()
    for number in range(100):
        now = 10.0 + number
        governor.throttled(begun=now - 0.5, in_flight=64, pause=0, now=now)
    assert not governor.asked(now=200.0)


def test_a_pace_is_forgotten() -> None:
    assert paced(5).asked(now=19.0)
    assert not paced(5).asked(now=21.0)


def test_an_origin_that_comes_back_after_long_is_soon_asked_for_more() -> None:
    governor, now = paced(50), 100.0
    while governor.asked(now=now):
        while not governor.room(0, now):
            now += 1e-3
        governor.answered()
    assert now - 100.0 < 3


def test_the_pace_quickens_with_each_answer_and_then_the_window_grows() -> None:
    governor = paced(4)
    answers = 0
    while governor.asked(now=19.0):
        governor.answered()
        answers += 1
        assert governor.room(0, 30.0) == 1
    assert 10 < answers < 30
    governor.answered()
    assert governor.room(0, 30.0) == 2


# ----------------------------------------------------------------------------------------- hedges


def test_late_is_twice_as_long_as_nearly_all() -> None:
    assert 10.2 <= known(0.1).hedges_at(10.0, 0.0) <= 10 + 0.2 * 2**0.25
    assert known(0.001).hedges_at(10.0, 0.02) == 10.02


def test_a_few_that_were_slow_change_nothing() -> None:
    governor = known(0.01, answers=200)
    for _ in range(5):
        governor.answered(2.0)
    for _ in range(20):
        governor.answered(0.01)
    assert 1.0 < governor.hedges_at(1.0, 0.0) < 1.03


@pytest.mark.parametrize("answers", [0, 19])
def test_nothing_is_late_where_little_is_known(answers: int) -> None:
    governor = GovernorOf()
    for _ in range(1000):
        governor.asked()
    for _ in range(answers):
        governor.answered(0.01)
    assert governor.hedges_at(1.0, 0.02) == 0
    governor.answered(0.01)
    assert (governor.hedges_at(1.0, 0.02) > 0) == (answers == 19)


def test_the_budget_is_a_share_of_what_was_asked() -> None:
    governor = known(answers=100)
    assert [governor.hedge() for _ in range(7)] == [True] * 5 + [False] * 2
    assert governor.hedges_at(1.0, 0.02) == 0
    for _ in range(19):
        governor.asked()
    assert not governor.hedge()
    governor.asked()
    assert governor.hedge()
    governor.give_back()
    assert governor.hedge()


def test_the_budget_does_not_pile_up() -> None:
    governor = known(answers=10_000)
    assert sum(governor.hedge() for _ in range(1000)) == 16


def test_no_hedges_while_it_fails_or_has_too_much_to_do() -> None:
    governor = known(most=8)
    governor.failed(now=10.0)
    # Put off, not given up.
    assert governor.hedges_at(10.0, 0.02) == 11.0
    governor.throttled(begun=11.0, in_flight=8, pause=0, now=12.0)
    assert governor.hedges_at(20.0, 0.02) == 0
    for _ in range(50):
        governor.answered(0.01)
    assert governor.hedges_at(20.0, 0.02) > 20
