"""Settings: argument > ``with config.set(...)`` > ``ZFAST_*`` environment > files > default.

Every setting is declared once, in `SETTINGS`; nothing reads a value but through `setting`, so
that a value that makes no sense is named before it does harm.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import donfig

from zfast.checks import NO_LIMIT, Check, Choice, Flag, Integer, Number, Statuses
from zfast.errors import ConfigurationError

__all__ = ["SETTINGS", "Config", "Setting", "config", "setting", "source"]

_MOST_BYTES = 1 << 40


@dataclass(frozen=True)
class Setting:
    """One setting, as the table of settings declares it."""

    name: str
    default: Any
    unit: str
    meaning: str
    check: Check
    # What the default is called where it differs from machine to machine.
    default_is: str = ""

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return f"ZFAST_{self.name.upper()}"

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        return self.check.allowed


def _cores() -> int:
    """Cores that this process may use, of which a container or a job may have few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_LIMIT = Number(1e-3, optional=True)

SETTINGS: dict[str, Setting] = {
    entry.name: entry
    for entry in (
        Setting(
            "max_concurrency",
            64,
            "requests",
            "requests in flight at once, over all callers and stores of the process; some more "
            "beside origins where none has ended for a second",
            Integer(1, 65536),
        ),
        Setting(
            "io_threads",
            2,
            "threads",
            "threads that send and receive; each polls many connections",
            Integer(1, 256),
        ),
        Setting(
            "decode_threads",
            _cores(),
            "threads",
            "threads that decompress chunks and put them in place",
            Integer(1, 256),
            default_is="number of cores",
        ),
        Setting(
            "dial_threads",
            64,
            "threads",
            "most threads that open connections; some are kept from origins that were never "
            "reached, or failed last",
            Integer(1, 256),
        ),
        Setting(
            "max_attempts",
            5,
            "attempts",
            "how often one request is tried; 1 means no retry",
            Integer(1, 1000),
        ),
        Setting(
            "connect_timeout",
            10.0,
            "s",
            "longest wait for a connection to open, and for its TLS handshake",
            _LIMIT,
        ),
        Setting(
            "first_byte_timeout",
            60.0,
            "s",
            "longest wait for the first byte of a response",
            _LIMIT,
        ),
        Setting(
            "read_timeout",
            60.0,
            "s",
            "longest wait for progress: the whole head, 4 KiB of a body, or its end",
            _LIMIT,
        ),
        Setting(
            "deadline",
            None,
            "s",
            "longest time for a whole batch, retries included",
            _LIMIT,
        ),
        Setting(
            "backoff_factor",
            0.1,
            "s",
            "wait before the second retry; it doubles with each one after it",
            Number(0.0),
        ),
        Setting(
            "backoff_max",
            20.0,
            "s",
            "longest wait between two attempts",
            Number(0.0),
        ),
        Setting(
            "backoff_jitter",
            0.1,
            "s",
            "most that is added at random to a wait between two attempts",
            Number(0.0),
        ),
        # Adaptive beyond that: late is what takes twice as long as 95 % of the answers of late.
        Setting(
            "hedge_budget",
            0.05,
            "of requests",
            "share that may be sent a second time when the answer is late; 0 for none",
            Number(0.0, 1.0),
        ),
        Setting(
            "hedge_floor",
            0.005,
            "s",
            "an answer that takes no longer than this is never late",
            Number(0.0),
        ),
        Setting(
            "max_redirects",
            10,
            "hops",
            "redirects followed for one request",
            Integer(0, 100),
        ),
        Setting(
            "idle_timeout",
            5.0,
            "s",
            "how long an open connection waits for the next request "
            "before it goes back to its urllib3 pool",
            Number(0.0),
        ),
        Setting(
            "trust_env",
            True,
            "",
            "whether proxies are taken from the environment (`HTTP_PROXY` and its kin), "
            "as it is when a client is made",
            Flag(),
        ),
        Setting(
            "tls",
            "auto",
            "",
            "`auto` reads TLS sessions natively where that is possible, "
            "`python` always by way of Python's ssl and so of the GIL",
            Choice(("auto", "python")),
        ),
        Setting(
            "max_head_size",
            65536,
            "bytes",
            "largest response head that is accepted",
            Integer(1024, 16 * 1024 * 1024),
        ),
        Setting(
            "missing_status",
            (404, 410),
            "HTTP statuses",
            "statuses that mean that there is no such key; nothing else ever does",
            Statuses(),
        ),
        Setting(
            "pipeline",
            True,
            "",
            "whether zarr reads and writes the arrays of a FastStore by zfast's codec pipeline",
            Flag(),
        ),
        Setting(
            "index_cache_size",
            16 * 1024 * 1024,
            "bytes",
            "shard indexes that a store keeps",
            Integer(0, _MOST_BYTES),
        ),
        # A gap costs the time its bytes take, and saves the time of a request. Much larger ones
        # are slower than none where chunks are read here and there.
        Setting(
            "coalesce_gap",
            32 * 1024,
            "bytes",
            "chunks of one shard at most so far apart are one request",
            Integer(0, _MOST_BYTES),
        ),
        Setting(
            "coalesce_size",
            1024 * 1024,
            "bytes",
            "... of at most so many bytes",
            Integer(1, _MOST_BYTES),
        ),
        # 64 MiB over 30 ms come with 104 MiB/s whole, and with 255, 486, 491, 359 and 295 in parts
        # of 1, 2, 4, 8 and 16 MiB; over 100 ms with 33, and 95, 96, 140, 144 and 88.
        Setting(
            "split_threshold",
            8 * 1024 * 1024,
            "bytes",
            "ranges of at least so many bytes go over several connections, if there are few",
            Integer(1, _MOST_BYTES),
        ),
        Setting(
            "split_size",
            4 * 1024 * 1024,
            "bytes",
            "what each of these connections gets; 0 for none",
            Integer(0, _MOST_BYTES),
        ),
        Setting(
            "suffix_ranges",
            True,
            "",
            "whether the server answers ranges counted from the end; "
            "else, as for Azure, the size is asked for first",
            Flag(),
        ),
    )
}

# Variables with our prefix that are not settings: the build's switch, and donfig's own.
_NOT_SETTINGS = frozenset({"build", "config", "root_config", "_internal_inherit_config"})


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no name of a setting")
        name = prefix + name.replace("-", "_")
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _files(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        # A folder that nobody may read holds nothing, as to donfig.
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(path)):
                if os.path.splitext(name)[1].lower() in {".json", ".yaml", ".yml"}:
                    yield os.path.join(path, name)


class Config(donfig.Config):
    """donfig's configuration, which refuses unknown names and nonsense values where they are set.

    What files and the environment say is checked when a setting is first read, not at import.

    Attributes
    ----------
    malformed : str
        Which file is no configuration, and why; empty if all are.
    """

    malformed: str

    def collect(
        self, paths: list[str] | None = None, env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Collect the settings of files and environment, as one flat dictionary."""
        # Settings are not nested: a nested one is kept under its dotted name, as unknown.
        flat: dict[str, Any] = {}
        self.malformed = ""
        # One by one: of what it merges, donfig does not say which file it came from.
        for file in _files(self.paths if paths is None else paths):
            try:
                for values in donfig.config_obj.collect_yaml([file]):
                    flat |= _flatten(values)
            except Exception as error:
                why = " ".join(str(error).split())
                self.malformed = f"the file {file!r} is no configuration of zfast: {why}"
        flat |= _flatten(super().collect([], env))
        return {name: value for name, value in flat.items() if name not in _NOT_SETTINGS}

    def refresh(self, **kwargs: Any) -> None:
        """Read defaults, files and environment again; what was set is forgotten."""
        # donfig would merge values that are mappings, and so take an empty one for none.
        collected = self.collect(**kwargs)
        self.clear()
        for values in (*self.defaults, collected):
            self.config.update(values)

    def set(self, arg: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Set values, for good or in a ``with`` block, for the whole process.

        Raises
        ------
        ConfigurationError
            If a name is not a setting's, or a value not allowed; nothing is set then.
        """
        # Kept in their final type; in the same order as donfig applies them.
        given = {**(arg or {}), **{name.replace("__", "."): kwargs[name] for name in kwargs}}
        checked = {}
        for name, value in given.items():
            name = str(name).replace("-", "_")
            checked[name] = _checked(_declared(name), value, "config.set")
        return super().set(checked)

    def reset(self) -> None:
        """Forget what was set; read defaults, files and environment again."""
        self.refresh()


config = Config("zfast", defaults=[{name: declared.default for name, declared in SETTINGS.items()}])


def setting(name: str, argument: Any = None) -> Any:
    """Resolve a setting: argument, else configuration, environment, default.

    Parameters
    ----------
    name : str
        A name in `SETTINGS`.
    argument : optional
        What the caller was given; None if nothing.

    Returns
    -------
    object
        The value in the setting's own type.

    Raises
    ------
    ConfigurationError
        If there is no such setting, a value is not allowed, the environment or a configuration
        file names a setting that does not exist, or such a file is malformed.
    """
    declared = _declared(name)
    if argument is not None:
        return _checked(declared, argument, "argument")
    if config.malformed:
        raise ConfigurationError(config.malformed)
    for other in config.config:
        if other not in SETTINGS:
            _refuse_unknown(other)
    return _checked(declared, config.config[name], source(name))


def source(name: str) -> str:
    """Say where the configured value of a setting comes from.

    Parameters
    ----------
    name : str
        A name in `SETTINGS`.

    Returns
    -------
    str
        ``"default"``, the name of the environment variable, or ``"config"`` for
        ``config.set`` and configuration files.

    Raises
    ------
    ConfigurationError
        If there is no such setting.
    """
    declared = _declared(name)
    value = config.config[name]
    # donfig keeps values, not where they came from: ask it again what the environment alone
    # says, which needs its own reading of the variable.
    text = config.env.get(declared.environment)
    if text is not None:
        only = donfig.config_obj.collect_env("ZFAST_", {declared.environment: text})
        return declared.environment if _same(declared, only.get(name), value) else "config"
    return "default" if _same(declared, declared.default, value) else "config"


def _same(declared: Setting, one: Any, other: Any) -> bool:
    try:
        return bool(declared.check(one) == declared.check(other))
    except ValueError:
        return bool(one == other)


def _declared(name: str) -> Setting:
    declared = SETTINGS.get(name)
    if declared is None:
        _refuse_unknown(name)
    return declared


def _refuse_unknown(name: str) -> NoReturn:
    shown = repr(name)
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    variable = f"ZFAST_{name.upper().replace('.', '__')}"
    if variable in config.env:
        shown = f"the environment variable {variable}"
        near = [SETTINGS[other].environment for other in near]
    hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join(SETTINGS)
    raise ConfigurationError(f"{shown} is not a setting of zfast{hint} (settings: {known})")


def _checked(declared: Setting, value: Any, origin: str) -> Any:
    try:
        return declared.check(value)
    except ValueError:
        pass
    allowed = declared.allowed
    if origin == "argument":
        # There, None is the setting's value.
        allowed = allowed.removesuffix(NO_LIMIT)
    raise ConfigurationError(
        f"{declared.name} is {value!r} (from {origin}), but has to be {allowed}"
    )
