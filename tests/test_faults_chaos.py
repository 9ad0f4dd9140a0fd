"""The short form of `chaos.py`: hundreds of harmed reads, by a fixed seed and by one drawn."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from chaos import LISTED, run
from faults import warmed
from servers.chaos import ANYWHERE, WITHIN


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warmed()


@pytest.mark.parametrize("seed", [1, random.randrange(1 << 32)], ids=["fixed", "drawn"])
def test_the_truth_or_a_listed_error(seed: int) -> None:
    print(f"python tests/chaos.py --reads 300 --seed {seed}")
    done, ends = run(300, seed)
    assert set(done) == {*ANYWHERE, *WITHIN}
    assert ends.total() == 300
    assert ends["the truth"] > 100
    assert set(ends) <= {"the truth", *(kind.__name__ for kind in LISTED)}
