"""zarr 2's own tests of arrays and groups, on FastStore over a server that takes all it does."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from numcodecs import pickles
from servers.listed import Listed
from servers.scripted import ScriptedServer

zarr: Any = pytest.importorskip("zarr")
if not zarr.__version__.startswith("2."):
    pytest.skip("zarr 2 is not installed", allow_module_level=True)

from zfast import FastStore  # noqa: E402

with warnings.catch_warnings():
    # Their modules start with stores and escapes that Python and zarr warn of.
    warnings.simplefilter("ignore")
    from zarr.tests import test_core, test_hierarchy

pytestmark = pytest.mark.filterwarnings("ignore")


class OnFastStore:
    """A store of its own for whatever is to be tested, over a server of its own."""

    @pytest.fixture(autouse=True)
    def _servers(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        # They were written when numcodecs would unpickle.
        monkeypatch.setattr(pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
        with contextlib.ExitStack() as self.stack:
            yield

    def start(self) -> FastStore:
        server = self.stack.enter_context(ScriptedServer(Listed({})))
        return FastStore(server.url, read_only=False)


class TestArrays(OnFastStore, test_core.TestArray):  # type: ignore[misc]
    """zarr's tests of arrays."""

    def create_store(self) -> FastStore:
        return self.start()


class TestGroups(OnFastStore, test_hierarchy.TestGroup):  # type: ignore[misc]
    """zarr's tests of groups."""

    def create_store(self) -> tuple[FastStore, None]:
        return self.start(), None
