"""Threads that do something at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def together(count: int, work: Callable[[int], None], seconds: float = 100.0) -> None:
    """Call `work(number)` in so many threads that begin at once; raises what one of them raised.

    A TimeoutError where one takes longer.
    """
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait(seconds)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(begin, number) for number in range(count)]:
            done.result(seconds)
