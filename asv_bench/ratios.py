"""Prints the figures that the project quotes, measured in one go on this machine.

    python asv_bench/ratios.py                    bodies of 64 KiB and 1 MiB
    python asv_bench/ratios.py --stores           and arrays through zarr, beside its other stores

Medians over rounds in which everything runs once, so that what else the machine does meanwhile
meets all alike.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import zarr
from benchmarks import many, store
from benchmarks.common import CONNECTIONS, CORES, Figures

import zfast

_HEAD = f"{'':<20} {'ceiling':>8} {'zfast':>8} {'ratio':>7} {'hog':>7} {'CPU':>7} {'requests':>9}"
_UNITS = f"{'':<20} {'MiB/s':>8} {'MiB/s':>8}"
_NOTES = """
ceiling   a bare poll loop in C, at its best number of threads; here: {shapes}
ratio     zfast by ceiling{goals[0]}
hog       zfast beside a spinning Python thread by zfast without, per core left{goals[1]}
CPU       time of the whole process, by the ceiling's{goals[2]}
requests  HTTP requests for each {object}
"""
_GOALS = ("; goal 0.85 for 64 KiB and 1 MiB", "; goal 0.90", "; goal 1.50 for 64 KiB")
_NO_GOALS = ("", "", "")


def main() -> None:
    parser = argparse.ArgumentParser(description="ratios of zfast to a bare poll loop")
    parser.add_argument("--mib", type=int, default=256, help="size of each data set (256)")
    parser.add_argument("--rounds", type=int, default=9, help="how often all is measured (9)")
    parser.add_argument(
        "--bodies", nargs="+", choices=many.BODIES, default=["64 KiB", "1 MiB"], metavar="SIZE"
    )
    parser.add_argument("--stores", action="store_true", help="arrays through zarr as well")
    options = parser.parse_args()
    print(
        f"zfast {zfast.__version__}, {CORES} cores, {CONNECTIONS} connections, "
        f"{options.mib} MiB, medians of {options.rounds} rounds\n"
    )
    with tempfile.TemporaryDirectory(prefix="zfast-bench-") as folder:
        measured = many.measure(Path(folder), options.bodies, options.mib, options.rounds)
    _print(measured, "body", _GOALS)
    if options.stores:
        print(
            f"\narrays through zarr {zarr.__version__}; at the end of a row: zfast by its peers\n"
        )
        with tempfile.TemporaryDirectory(prefix="zfast-bench-") as folder:
            arrays = store.measure(Path(folder), mib=options.mib, rounds=options.rounds)
        _print(arrays, "chunk or shard, those to open the array included", _NO_GOALS)


def _print(
    measured: Mapping[tuple[str, ...], Figures], what: str, goals: tuple[str, str, str]
) -> None:
    print(_HEAD, _UNITS, sep="\n")
    for params, found in measured.items():
        peers = (f"{peer} {ratio:.2f}" for peer, ratio in found.peer_ratios.items())
        print(
            f"{', '.join(params):<20} {found.ceiling_rate:>8.0f} {found.rate:>8.0f} "
            f"{found.ratio_to_ceiling:>7.2f} {found.hog_ratio:>7.2f} {found.cpu_ratio:>7.2f} "
            f"{found.requests:>9.2f}  {'  '.join(peers)}".rstrip()
        )
    shapes = ", ".join(dict.fromkeys(found.ceiling for found in measured.values()))
    print(_NOTES.format(shapes=shapes, object=what, goals=goals))


if __name__ == "__main__":
    main()
