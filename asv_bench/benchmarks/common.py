"""How everything here is measured: in rounds, each of which runs every subject once.

The machine may be shared and its speed drift, so that a figure alone means little. What is kept are
medians, and of ratios those between runs of the same round.
"""

from __future__ import annotations

import abc
import contextlib
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import trustme
from servers.netns import Network
from servers.nginx import Nginx, find_nginx
from servers.processes import ChildServer

MIB = 1024 * 1024
DATA_MIB = int(os.environ.get("BENCH_MIB", "256"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))

# Requests at once, of zfast, its ceiling and its peers alike: zfast's own default.
CONNECTIONS = 64

CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
_LEFT_BY_HOG = (CORES - 1) / CORES


@dataclass(frozen=True)
class Run:
    """One run of a subject; `cpu` is the time of all threads of its process."""

    seconds: float
    cpu: float


Subject: TypeAlias = Callable[[], Run]


def clocked(call: Callable[[], object]) -> Subject:
    """A subject of this process. What `call` returns is freed after the clock has stopped."""

    def run() -> Run:
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        took = Run(time.perf_counter() - wall, time.process_time() - cpu)
        del result
        return took

    return run


def hogged(subject: Subject) -> Subject:
    """The same subject beside a Python thread that lets go of the GIL only when it is made to."""

    def run() -> Run:
        with _gil_hog():
            return subject()

    return run


@contextlib.contextmanager
def _gil_hog() -> Iterator[None]:
    spinning = [True]

    def spin() -> None:
        x = 0
        while spinning:
            x += 1

    thread = threading.Thread(target=spin, name="gil-hog")
    thread.start()
    try:
        yield
    finally:
        spinning.clear()
        thread.join()


class Rounds:
    """The runs of all subjects, round by round; every other round goes the other way about."""

    def __init__(self, subjects: Mapping[str, Subject], count: int) -> None:
        self._runs: dict[str, list[Run]] = {name: [] for name in subjects}
        order = list(subjects)
        for _ in range(count):
            for name in order:
                self._runs[name].append(subjects[name]())
            order.reverse()

    def seconds(self, name: str) -> float:
        """The median time of a subject."""
        return statistics.median(run.seconds for run in self._runs[name])

    def seconds_ratio(self, name: str, other: str) -> float:
        """How much longer `name` takes than `other`."""
        return self._ratio(name, other, lambda run: run.seconds)

    def without(self, name: str, part: str) -> str:
        """Name what is left, in each round, of `name` without a part of it.

        Where that is nearly all of it, noise alone is left.
        """
        return self._combined(f"{name} without {part}", name, part, -1)

    def after(self, name: str, first: str) -> str:
        """Name what `name` and what has to come before it take together, in each round."""
        return self._combined(f"{name} after {first}", name, first, +1)

    def _combined(self, combined: str, name: str, other: str, sign: int) -> str:
        self._runs[combined] = [
            Run(one.seconds + sign * two.seconds, one.cpu + sign * two.cpu)
            for one, two in zip(self._runs[name], self._runs[other], strict=True)
        ]
        return combined

    def cpu_ratio(self, name: str, other: str) -> float:
        """How much more CPU time `name` takes than `other`."""
        return self._ratio(name, other, lambda run: run.cpu)

    def _ratio(self, name: str, other: str, of: Callable[[Run], float]) -> float:
        pairs = zip(self._runs[name], self._runs[other], strict=True)
        return statistics.median(of(one) / of(two) for one, two in pairs)


@dataclass(frozen=True)
class Figures:
    """What came of one subject: what is kept, printed and tracked."""

    rate: float
    """Its own, in units of work a second."""
    ceiling_rate: float
    ceiling: str
    """Which of the ceilings was the best."""
    ratio_to_ceiling: float
    hog_ratio: float
    """Rate beside a GIL hog by the rate without, for each share of the machine that is left."""
    cpu_ratio: float
    """CPU time for the same work by the ceiling's."""
    requests: float | None = None
    """HTTP requests for each body."""


def with_hogs(subjects: Mapping[str, Subject]) -> dict[str, Subject]:
    """Subjects, each followed by itself beside a GIL hog."""
    both: dict[str, Subject] = {}
    for name, subject in subjects.items():
        both[name] = subject
        both[_hog_of(name)] = hogged(subject)
    return both


def hog_ratio(rounds: Rounds, name: str, *, share_left: float = _LEFT_BY_HOG) -> float:
    """Rate beside a GIL hog by the rate without, for each share of the machine that is left."""
    # On a single core nothing is left to compare with.
    return rounds.seconds_ratio(name, _hog_of(name)) / (share_left or math.nan)


def figures(
    rounds: Rounds,
    name: str,
    ceilings: Iterable[str],
    work: float,
    *,
    share_left: float = _LEFT_BY_HOG,
    requests: float | None = None,
) -> Figures:
    """Compare a subject with the best of its ceilings, and with its hogged self.

    Parameters
    ----------
    work
        Units of work in one run.
    share_left
        What the hog leaves: all cores but one, by default.
    """
    best = min(ceilings, key=rounds.seconds)
    return Figures(
        rate=work / rounds.seconds(name),
        ceiling_rate=work / rounds.seconds(best),
        ceiling=best,
        ratio_to_ceiling=rounds.seconds_ratio(best, name),
        hog_ratio=hog_ratio(rounds, name, share_left=share_left),
        cpu_ratio=rounds.cpu_ratio(name, best),
        requests=requests,
    )


def _hog_of(name: str) -> str:
    return f"{name} beside a hog"


CA = trustme.CA()
"""Who signs the certificates of the servers here."""


def trust(folder: Path) -> None:
    """Have this process, its peers' libraries included, trust `CA`; before the first session."""
    path = folder / "ca.pem"
    CA.cert_pem.write_to_path(str(path))
    for name in ("SSL_CERT_FILE", "TENSORSTORE_CA_BUNDLE"):
        os.environ[name] = str(path)


@contextlib.contextmanager
def serving(
    root: Path, *, tls: bool = False, network: Network | None = None
) -> Iterator[ChildServer]:
    """nginx over a folder, with as many workers as there are cores; Caddy where there is none."""
    with running(_server(root, CA if tls else None).within(network)) as server:
        yield server


@contextlib.contextmanager
def running(server: ChildServer) -> Iterator[ChildServer]:
    """Have a server run, and end it in any case."""
    # asv ends what takes too long with SIGTERM, and the server would stay.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with server:
            yield server
    finally:
        signal.signal(signal.SIGTERM, previous)


def _server(root: Path, ca: trustme.CA | None) -> ChildServer:
    if find_nginx() is not None:
        return Nginx(root, workers=CORES, access_log=False, ca=ca)
    from servers.caddy import Caddy

    return Caddy(root, ca=ca)


class Tracked(abc.ABC):
    """A benchmark whose rounds asv runs once, as its cache, to track one figure after another.

    `unit` is that of its rate.
    """

    unit: ClassVar[str]

    @abc.abstractmethod
    def setup_cache(self) -> dict[Any, Figures]:
        """The figures, by the benchmark's parameters."""

    def setup(self, measured: dict[Any, Figures], *params: str) -> None:
        if params not in measured:
            raise NotImplementedError("what it measures is not installed")

    def track_rate(self, measured: dict[Any, Figures], *params: str) -> float:
        return measured[params].rate

    def track_ratio_to_ceiling(self, measured: dict[Any, Figures], *params: str) -> float:
        return measured[params].ratio_to_ceiling

    def track_hog_ratio(self, measured: dict[Any, Figures], *params: str) -> float:
        return measured[params].hog_ratio

    def track_cpu_ratio(self, measured: dict[Any, Figures], *params: str) -> float:
        return measured[params].cpu_ratio

    track_ratio_to_ceiling.unit = "zfast / ceiling"
    track_hog_ratio.unit = "beside a hog / without, per core left"
    track_cpu_ratio.unit = "CPU of zfast / of the ceiling"
