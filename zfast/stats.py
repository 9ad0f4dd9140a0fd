"""What zfast did, and how it is set up: counters of the process, settings and native parts."""

from __future__ import annotations

import os
import ssl
import sys
from typing import Any

import zarr

from zfast import connections, runtime
from zfast._core import codecs
from zfast._core.engine import SNAPSHOT
from zfast._core.policy import process_counters
from zfast.config import SETTINGS, setting, source

__all__ = ["Configuration", "show_config", "stats"]


def stats() -> dict[str, Any]:
    """Counters of this process, over all clients that it has had.

    Returns
    -------
    dict
        ``batches`` (handed to the engine), ``requests`` (HTTP exchanges begun), ``reads``
        (operations that came to their end: by success, or one of the next three), ``missing``,
        ``failed``, ``cancelled``, ``bytes_received``, ``bytes_sent``, ``retries``,
        ``stale_retries`` (free ones: an idle connection had been closed), ``redirects``,
        ``resumed``, ``split`` (reads over several connections), ``hedges`` (requests sent a second
        time because their answer was late), ``hedge_wins`` (of which the second answer came first),
        ``ranges_ignored`` (reads of a part for which the server sent the whole object),
        ``throttled`` (answers 429 and 503); ``first_byte`` and ``transfer``, histograms whose
        element b counts times below 2**b µs that no earlier element counts;
        ``requests_on_new_connections``, the first on theirs, and ``requests_on_used_connections``;
        ``index_hits``, reads of shards whose index was kept, or under way, and ``index_misses``,
        that had to read it; ``fallback_reads``, served by way of Python's ssl;
        ``fallback_chunks``, read by zarr's own codec pipeline.
        Of the process also ``connections_opened`` (by urllib3, for the engine),
        ``connections_pooled`` (those that came open out of a urllib3 pool),
        ``connections_closed`` (of these, by zfast: what is left of those opened is with the engine,
        or lies in a pool or went with one that urllib3 let go), ``connections_through_python``,
        ``batches_attended`` (small ones, whose I/O the thread did that waited for them), and of
        this moment ``in_flight``, ``connections``, ``dialling``, ``delayed``, ``origins``,
        ``max_in_flight`` and
        ``max_connections``: 0 while no engine runs. All but those of this moment only grow.
    """
    engine = runtime.running()
    numbers = dict.fromkeys(SNAPSHOT, 0) | process_counters()
    if engine is not None and not engine.stopped:
        numbers |= engine.snapshot()
    numbers["connections_through_python"] = connections.relayed()[0]
    return numbers


class Configuration:
    """Settings with their sources, and which parts are native; prints as a table.

    Attributes
    ----------
    settings : dict of str to (value, source)
        Resolved values; the source is ``"default"``, ``"config"`` or an environment variable. What
        the engine took at its start it keeps: a value that was set since is named as too late.
    parts : dict of str to str
        What does each part of the work in this process.
    """

    def __init__(self) -> None:
        self.settings = {name: _in_force(name) for name in SETTINGS}
        self.parts = _parts()

    def __str__(self) -> str:
        rows = [
            (name, str(value), SETTINGS[name].unit, origin)
            for name, (value, origin) in self.settings.items()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        width = max(map(len, self.parts))
        lines += ["", *(f"{part.ljust(width)}  {what}" for part, what in self.parts.items())]
        return "\n".join(lines)

    __repr__ = __str__


def show_config() -> Configuration:
    """The settings that hold now, where each comes from, and which native parts are active.

    Returns
    -------
    Configuration
        Those of the engine (``io_threads``, ``decode_threads``, ``dial_threads``, ``idle_timeout``
        and ``max_head_size``) are what it runs with, once it does; what was set since is beside it.
    """
    return Configuration()


def _in_force(name: str) -> tuple[Any, str]:
    """The value of a setting, and where it comes from."""
    configured = setting(name), source(name)
    value, origin = runtime.settings_taken().get(name, configured)
    if configured[0] != value:
        origin = f"{origin}; {configured[0]} ({configured[1]}) is too late, the engine runs"
    return value, origin


def _parts() -> dict[str, str]:
    engine = runtime.running()
    state = "not started" if engine is None else "running"
    if engine is not None and not engine.stopped:
        now = engine.snapshot()
        state += f", {now['max_in_flight']} requests, {now['max_connections']} connections at most"
    return {
        "engine": f"native, {state}",
        "http": "native",
        "tls": _tls(),
        "codec pipeline": _codec_pipeline(),
        "codecs": _codecs(),
        "connections": f"urllib3 {connections.urllib3_version}",
        "zarr": zarr.__version__,
        "python": f"{sys.version.split()[0]}, process {os.getpid()}",
    }


def _tls() -> str:
    """How sessions go from here on; some may go through Python all the same."""
    why = connections.tls_fallback()
    if why:
        return f"Python's ssl, with the GIL: {why}"
    native = f"native, {ssl.OPENSSL_VERSION} of Python's ssl"
    count, why = connections.relayed()
    return f"{native}; {count} sessions by Python, the last: {why}" if count else native


def _codec_pipeline() -> str:
    """What zarr opens arrays with, from here on."""
    # zarr 2 has neither pipelines nor a configuration.
    config = getattr(zarr, "config", None)
    return "none" if config is None else str(config.get("codec_pipeline.path"))


def _codecs() -> str:
    """The native decoders by where they are from; what has none is decoded by zarr."""
    names: dict[str, list[str]] = {}
    for name, origin in sorted(codecs.sources().items()):
        names.setdefault(origin, []).append(name)
    return "; ".join(f"{', '.join(names[origin])}: {origin}" for origin in sorted(names))
