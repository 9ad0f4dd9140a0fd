"""Benchmarks of zfast for asv: figures as ratios to what else runs in the same rounds.

`http1` measures the parser, `many` many bodies at once, `store` whole arrays read through zarr.
Two variables of the environment scale them down, for a smoke run: BENCH_MIB, the size of each data
set (256), and BENCH_ROUNDS, how often everything is measured (5).
"""

from __future__ import annotations

import sys
from pathlib import Path

# The servers of the tests serve the benchmarks too.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
