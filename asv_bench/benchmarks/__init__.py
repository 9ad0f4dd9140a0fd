"""Benchmarks of zfast for asv: figures as ratios to what else runs in the same rounds.

`http1` measures the parser, `many` many bodies at once, `store` whole arrays through zarr under the
network's ceiling, `arrays` every kind of array beside zfast's peers, `networks` arrays over bad
networks and from a server that holds responses back, `overhead` what opening and dask cost.
Two variables of the environment scale them down, for a smoke run: BENCH_MIB, the size of each data
set (256), and BENCH_ROUNDS, how often everything is measured (5).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The servers are on this machine, where no proxy of its environment leads, zfast's or a peer's.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"

# The servers of the tests serve the benchmarks too.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
