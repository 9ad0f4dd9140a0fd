"""zarr's own tests with zfast in the place of what they test; `.ci/versions --upstream` runs them.

``UPSTREAM=pipeline`` has FastCodecPipeline read and write every array; ``UPSTREAM=store`` puts a
FastStore where the fixtures of zarr's tests make a store in memory, over Caddy, which serves and
lists the files that nginx writes and deletes. Nothing is left out but what `reasons` gives one for.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import Counter
from contextlib import ExitStack
from types import ModuleType

import pytest
import zarr
from servers.caddy import writable
from servers.nginx import Nginx
from upstream.reasons import reason_to_skip

from zfast import FastStore
from zfast.pipeline import FastCodecPipeline

FACE = os.environ["UPSTREAM"]
assert FACE in ("pipeline", "store"), FACE

used: Counter[str] = Counter()
"""How often zarr came to zfast; a run that never did proves nothing."""


class Origin:
    """What takes PUT and DELETE and lists: two real servers over one folder."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._url: str | None = None
        self._numbers = itertools.count()

    def folder(self) -> str:
        """The URL of a folder that nothing has been in."""
        if self._url is None:
            root = self._stack.enter_context(tempfile.TemporaryDirectory())
            writer = self._stack.enter_context(Nginx(root, dav=True))
            self._url = self._stack.enter_context(writable(writer)).url
        return f"{self._url}/{next(self._numbers)}"

    def stop(self) -> None:
        self._stack.close()


origin = Origin()


class RemoteMemory:
    """In the place of zarr's MemoryStore: a FastStore that nothing has been in."""

    def __new__(cls) -> FastStore:  # type: ignore[misc]
        used["stores"] += 1
        return FastStore(origin.folder(), read_only=False)

    @classmethod
    async def open(cls) -> FastStore:
        used["stores"] += 1
        return await FastStore.open(origin.folder(), read_only=False)


def pytest_plugin_registered(plugin: object) -> None:
    """Put FastStore into zarr's conftest, as soon as that is there."""
    if FACE == "store" and isinstance(plugin, ModuleType) and hasattr(plugin, "parse_store"):
        plugin.MemoryStore = RemoteMemory  # type: ignore[attr-defined]


def pytest_configure() -> None:
    """Count what comes to the pipeline, which has to be zarr's choice."""
    if FACE == "pipeline":
        chosen = zarr.config.get("codec_pipeline.path")
        assert chosen == "zfast.pipeline.FastCodecPipeline", f"the configuration says {chosen}"
        for name in ("read", "write"):
            _count(name)


def _count(name: str) -> None:
    method = getattr(FastCodecPipeline, name)

    async def counted(self: FastCodecPipeline, *arguments: object, **options: object) -> object:
        used[name] += 1
        return await method(self, *arguments, **options)

    setattr(FastCodecPipeline, name, counted)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be, for the reason that is given."""
    for item in items:
        reason = reason_to_skip(FACE, item.nodeid)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the servers, and fail where zarr never came to zfast."""
    origin.stop()
    if not used and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how often zarr came to zfast."""
    terminalreporter.write_line(f"zfast was used: {dict(used) or 'never'}")
