from collections.abc import Iterable
from typing import Any

class Policy:
    """What all requests of a client have in common; immutable once made.

    Parameters
    ----------
    fields, foreign_fields : bytes
        Header lines for every request, and those that another origin may see after a redirect.
    missing, retry : iterable of int
        HTTP statuses that mean "missing", and those worth another attempt.
    retries : dict
        The numbers of a `urllib3.Retry`, None as -1; see ``RetryPolicy`` in retry.pxd.
    first_byte_timeout, read_timeout : float
        Seconds without an answer, and without progress, after which an attempt has failed; 0 for
        none.
    split_threshold, split_size : int
        Bytes of a range that goes over several connections, and of the part of each; 0 for none.
    hedge_budget, hedge_floor : float
        The share of requests that may be sent a second time, and after how many seconds at least.
    max_in_flight : int
        Requests of this client on the wire at once.
    suffix_ranges : bool
        Servers here answer ranges that count from the end; else the size is asked for first.
    keys_only : bool
        Targets are those of keys: a redirect from ``x`` to ``x/``, which is how servers answer
        for a directory, is a failure and not followed.
    """

    def __init__(
        self,
        fields: bytes,
        foreign_fields: bytes,
        missing: Iterable[int],
        retry: Iterable[int],
        retries: dict[str, Any],
        first_byte_timeout: float,
        read_timeout: float,
        split_threshold: int,
        split_size: int,
        hedge_budget: float,
        hedge_floor: float,
        max_in_flight: int,
        suffix_ranges: bool,
        keys_only: bool,
    ) -> None: ...
    def count_fallback(self, chunks: int) -> None:
        """Count chunks that zarr's own codec pipeline reads."""

    def counters(self) -> dict[str, Any]:
        """What the requests of this policy did, as a dict of int and of lists of int.

        ``first_byte`` and ``transfer`` are histograms: element b counts times below 2**b µs that
        no earlier element counts.
        """

def process_counters() -> dict[str, Any]:
    """The counters of all clients that this process has had, summed; see `Policy.counters`."""

def after_fork_in_child() -> None:
    """In a forked child: begin with no request in flight, and with nothing done."""
