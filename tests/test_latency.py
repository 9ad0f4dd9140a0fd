"""The histogram of latencies: its quantiles against exact ones, and that it forgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfast._core.latency import quantile_of

# A bucket is a quarter of an octave.
WIDTH = 2**0.25


def test_nothing_is_known_of_no_times() -> None:
    assert quantile_of([], 0.95) == 0


@given(
    st.lists(st.floats(2e-5, 100), min_size=1, max_size=300),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_a_quantile_is_in_its_bucket(times: list[float], quantile: float) -> None:
    exact = float(np.quantile(times, quantile, method="inverted_cdf"))
    found = quantile_of(times, quantile)
    assert exact / WIDTH**1.01 <= found <= exact * WIDTH**1.01


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9])
def test_times_too_short_to_tell_apart(seconds: float) -> None:
    assert 0 < quantile_of([seconds], 0.5) <= 1e-5 * WIDTH


def test_times_too_long_to_tell_apart() -> None:
    assert quantile_of([1e6] * 3, 0.5) == quantile_of([1e9], 0.5)


def test_what_was_long_ago_counts_for_less() -> None:
    slow, fast = [1.0] * 2000, [0.001] * 2000
    assert quantile_of(slow + fast[:20], 0.95) > 0.9
    assert quantile_of(slow + fast * 4, 0.95) < 0.0013
    assert quantile_of(fast * 4 + slow, 0.95) > 0.9
