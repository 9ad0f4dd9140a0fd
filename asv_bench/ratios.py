"""Prints the figures that the project quotes, measured in one go on this machine.

    python asv_bench/ratios.py                    bodies of 64 KiB and 1 MiB
    python asv_bench/ratios.py --stores           and arrays through zarr, under the same ceiling
    python asv_bench/ratios.py --arrays           arrays of every kind, beside zfast's peers
    python asv_bench/ratios.py --fused            the same by zarr's FusedCodecPipeline
    python asv_bench/ratios.py --networks         bad networks (takes root), and a slow server
    python asv_bench/ratios.py --overhead         opening an array, and dask's threads

Medians over rounds in which everything runs once, so that what else the machine does meanwhile
meets all alike.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr
from benchmarks import arrays, many, networks, overhead, store
from benchmarks.common import CONNECTIONS, CORES, Figures
from benchmarks.peers import FUSED, HAS_FUSED, PEERS, STORES
from servers.netns import why_no_networks

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

_PEER = f"{'MiB/s':>7} {'ratio':>6} {'goal':>5} {'rest':>6} {'most':>5}"
_ARRAY_NOTES = """
MiB/s     of what was asked for, decompressed
packed    how many times smaller the array is as it is stored
hog       zfast beside a spinning Python thread by zfast without, per core left{hog_goal}
alone     the part of zfast's time that zarr takes if nothing is read, to say what is wanted; hog as
          above, of zarr alone
ratio     zfast by the peer, of the same round; < where it misses its goal
rest      the same without what zarr takes alone: of zfast, and of each peer that is read through it
ceiling   zfast by a bare poll loop in C that reads and decodes the same once zarr has said what it
          wants; - where it does not know how
most      that loop by the peer: what the ratio would be if zfast took no time of its own
"""

_NETWORK_NOTES = """
MiB/s     of what was asked for
ratio     zfast by the peer, of the same round
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="ratios of zfast to a bare poll loop, to its peers"
    )
    parser.add_argument("--mib", type=int, default=256, help="size of each data set (256)")
    parser.add_argument("--rounds", type=int, default=9, help="how often all is measured (9)")
    parser.add_argument(
        "--bodies", nargs="+", choices=many.BODIES, default=["64 KiB", "1 MiB"], metavar="SIZE"
    )
    parser.add_argument("--stores", action="store_true", help="arrays through zarr as well")
    parser.add_argument("--arrays", action="store_true", help="arrays beside peers, instead")
    parser.add_argument(
        "--fused", action="store_true", help="arrays by zarr's FusedCodecPipeline, instead"
    )
    parser.add_argument(
        "--networks", action="store_true", help="bad networks and a slow server, instead"
    )
    parser.add_argument("--overhead", action="store_true", help="opening, and dask, instead")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="those with this in their names"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="those of arrays")
    options = parser.parse_args()
    cases = [case for case in arrays.CASES if any(text in case for text in options.only)]
    if (options.arrays or options.fused) and not cases:
        parser.error(f"--only: no such array; there are {', '.join(arrays.CASES)}")
    print(
        f"zfast {zfast.__version__}, zarr {zarr.__version__}, {CORES} cores, "
        f"{CONNECTIONS} connections, {options.mib} MiB, medians of {options.rounds} rounds\n"
    )
    if options.arrays:
        _print_arrays(cases, options.peers, options.mib, options.rounds)
        return
    if options.fused:
        if not HAS_FUSED:
            parser.error("--fused: this zarr has no FusedCodecPipeline; 3.3 was the first")
        stores = [peer for peer in STORES if peer in options.peers]
        _print_arrays(cases, stores, options.mib, options.rounds, FUSED)
        return
    if options.networks:
        peers = [peer for peer in networks.PEERS if peer in options.peers]
        _print_networks(options.only, peers, options.mib, options.rounds)
        return
    if options.overhead:
        _print_overhead(options.mib, options.rounds)
        return
    with tempfile.TemporaryDirectory(prefix="zfast-bench-") as folder:
        measured = many.measure(Path(folder), options.bodies, options.mib, options.rounds)
    _print(measured, "body", _GOALS)
    if options.stores:
        print("\narrays through zarr\n")
        with tempfile.TemporaryDirectory(prefix="zfast-bench-") as folder:
            stored = store.measure(Path(folder), mib=options.mib, rounds=options.rounds)
        _print(stored, "chunk or shard, those to open the array included", _NO_GOALS)


def _print(
    measured: Mapping[tuple[str, ...], Figures], what: str, goals: tuple[str, str, str]
) -> None:
    print(_HEAD, _UNITS, sep="\n")
    for params, found in measured.items():
        print(
            f"{', '.join(params):<20} {found.ceiling_rate:>8.0f} {found.rate:>8.0f} "
            f"{found.ratio_to_ceiling:>7.2f} {found.hog_ratio:>7.2f} {found.cpu_ratio:>7.2f} "
            f"{found.requests:>9.2f}"
        )
    shapes = ", ".join(dict.fromkeys(found.ceiling for found in measured.values()))
    print(_NOTES.format(shapes=shapes, object=what, goals=goals))


def _print_arrays(
    cases: Sequence[str],
    peers: Sequence[str],
    mib: int,
    rounds: int,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """A line for each case as soon as it has been measured."""

    hog_goal = arrays.HOG_GOAL if settings is None else None

    def goal(case: str, peer: str) -> float | None:
        return arrays.CASES[case].goals.get(peer) if settings is None else arrays.FUSED_GOAL

    print(
        f"{'':<23} {'packed':>6} {'zfast':>7} {'hog':>6}  {'alone':>6} {'hog':>6} {'ceiling':>7} ",
        *(f"{peer:<33}" for peer in peers),
    )
    print(
        f"{'':<23} {'':>6} {'MiB/s':>7} {'':>6}  {'':>6} {'':>6} {'':>7} ",
        *(f"{_PEER:<33}" for _ in peers),
    )
    with tempfile.TemporaryDirectory(prefix="zfast-bench-") as folder:
        for name, found in arrays.measure(Path(folder), cases, peers, mib, rounds, settings):
            beside = (_beside(found, peer, goal(name, peer)) for peer in peers)
            print(
                f"{name:<23} {found.packed:>6.2f} {_rate(found.rate):>7} "
                f"{_judged(found.hog_ratio, hog_goal)} "
                f"{found.alone:>6.2f} {found.alone_hog_ratio:>6.2f} "
                f"{_known(found.ratio_to_ceiling, 7)} ",
                *beside,
                flush=True,
            )
    print(_ARRAY_NOTES.format(hog_goal="" if hog_goal is None else f"; goal {hog_goal}"))


def _print_overhead(mib: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="zfast-bench-") as folder:
        opening = overhead.opening(Path(folder), rounds)
        if opening is not None:
            print("opening an array and reading one chunk of 64 KiB")
            print(
                f"    zfast {opening.zfast:.0f} us; zarr in memory and one round trip "
                f"{opening.least:.0f} us; ratio {opening.ratio:.2f}, goal {overhead.OPENING_GOAL}\n"
            )
        print(f"{CONNECTIONS} threads of dask, by one read of the same array\n")
        print(f"{'a task reads':<23} {'reader':<10} {'MiB/s':>7} {'kept':>6}")
        for (blocks, reader), found in overhead.by_dask(Path(folder), mib=mib, rounds=rounds):
            print(f"{blocks:<23} {reader:<10} {_rate(found.rate):>7} {found.kept:>6.2f}")


def _print_networks(only: Sequence[str], peers: Sequence[str], mib: int, rounds: int) -> None:
    def wanted(name: str) -> bool:
        return any(text in name for text in only)

    cases = list(filter(wanted, networks.CASES))
    chunks = [chunk for chunk in networks.CHUNKS if wanted(f"held back, {chunk}")]
    with tempfile.TemporaryDirectory(prefix="zfast-bench-") as name:
        folder = Path(name)
        if why := why_no_networks():
            print(f"no networks: {why}\n")
        else:
            if cases:
                _print_distant(folder, cases, peers, mib, rounds)
            if wanted("round trips"):
                _print_round_trips(folder, mib, rounds)
        if chunks:
            _print_held_back(folder, chunks, peers, mib, rounds)


def _print_distant(
    folder: Path, cases: Sequence[str], peers: Sequence[str], mib: int, rounds: int
) -> None:
    print(f"{'':<23} {'zfast':>7}  ", *(f"{peer:>14}" for peer in peers))
    print(f"{'':<23} {'MiB/s':>7}  ", *(f"{'MiB/s':>7} {'ratio':>6}" for _ in peers))
    for name, found in networks.beside_peers(folder, cases, peers, mib, rounds):
        beside = (
            f"{_rate(found.peer_rates[peer]):>7} {found.peer_ratios[peer]:>6.2f}"
            if peer in found.peer_ratios
            else f"{'-':>7} {'-':>6}"
            for peer in peers
        )
        print(f"{name:<23} {_rate(found.rate):>7}  ", *beside, flush=True)
    print(_NETWORK_NOTES)


def _print_round_trips(folder: Path, mib: int, rounds: int) -> None:
    found = networks.round_trips(folder, mib, rounds)
    count = networks.bodies(mib)
    print(
        f"{count} bodies of 64 KiB over {networks.ROUND_TRIP * 1000:.0f} ms: "
        f"time by that of {count}/{CONNECTIONS} round trips\n"
    )
    for warmth, ratio in found.items():
        print(f"{f'connections {warmth}':<23} {ratio:>7.2f}")
    print(flush=True)


def _print_held_back(
    folder: Path, chunks: Sequence[str], peers: Sequence[str], mib: int, rounds: int
) -> None:
    print("1 % of responses held back for 2 s: time by that of none\n")
    print(f"{'':<23} {'zfast':>7}  ", *(f"{peer:>14}" for peer in peers))
    for chunk, found in networks.held_back(folder, chunks, peers, mib, rounds):
        beside = (f"{found[peer]:>14.2f}" if peer in found else f"{'-':>14}" for peer in peers)
        print(f"{f'held back, {chunk}':<23} {found['zfast']:>7.2f}  ", *beside, flush=True)


def _beside(found: arrays.Beside, peer: str, goal: float | None) -> str:
    if peer not in found.peer_ratios:
        return f"{'-':>7} {'-':>6} {'':>5} {'-':>6} {'-':>5}"
    ratio = _judged(found.peer_ratios[peer], goal)
    aimed_at = "" if goal is None else f"{goal:g}"
    rest = found.peer_ratios_without[peer]
    most = _known(found.ceiling_peer_ratios.get(peer), 5)
    return f"{_rate(found.peer_rates[peer]):>7} {ratio} {aimed_at:>4} {rest:>6.2f} {most}"


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _known(ratio: float | None, width: int) -> str:
    return f"{'-':>{width}}" if ratio is None else f"{ratio:>{width}.2f}"


def _judged(ratio: float, goal: float | None) -> str:
    return f"{ratio:>6.2f}{'<' if goal is not None and ratio < goal else ' '}"


if __name__ == "__main__":
    main()
