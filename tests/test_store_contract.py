"""zarr's own tests of what a store owes, over servers that are written to and listed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from servers.caddy import find_caddy, writable
from servers.listed import Listed
from servers.nginx import Nginx, find_nginx, has_dav
from servers.scripted import ScriptedServer

pytest.importorskip("zarr", minversion="3.0", reason="the contract of zarr 3")

from zarr.core.buffer import Buffer, cpu
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests
from zarr.testing.strategies import keys

from zfast import FastStore

# Courses of 30 steps that each state machine takes.
EXAMPLES = int(os.environ.get("TEST_COURSES", "5"))
_BASE = "base of the store/with % and é"


@pytest.fixture(scope="module")
def dav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """One nginx for all tests, that takes PUT and DELETE."""
    if find_nginx() is None or not has_dav():
        pytest.skip("there is no nginx with PUT and DELETE")
    server = Nginx(tmp_path_factory.mktemp("dav"), dav=True)
    server.shared = True
    with server:
        yield server


class Contract(StoreTests[FastStore, cpu.Buffer]):
    """What does not depend on the server."""

    store_cls = FastStore
    buffer_cls = cpu.Buffer

    def test_store_repr(self, store: FastStore) -> None:
        assert repr(store) == f"FastStore({store.url!r}, read_only=False)"
        assert str(store) == store.url

    def test_store_supports_writes(self, store: FastStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: FastStore) -> None:
        assert store.supports_listing

    def test_store_supports_partial_writes(self, store: FastStore) -> None:
        assert not store.supports_partial_writes


class TestOverNginx(Contract):
    """Files in a folder that nginx serves, with WebDAV's PUT and DELETE and index pages."""

    @pytest.fixture
    def store_kwargs(self, dav: Nginx, tmp_path: Path) -> dict[str, Any]:
        self.root = dav.root / tmp_path.name / _BASE
        self.root.mkdir(parents=True)
        return {"url": f"{dav.url}/{tmp_path.name}/{quote(_BASE)}", "read_only": False}

    async def set(self, store: FastStore, key: str, value: Buffer) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.to_bytes())

    async def get(self, store: FastStore, key: str) -> Buffer:
        return cpu.Buffer.from_bytes((self.root / key).read_bytes())


class TestOverConditions(Contract):
    """A server that knows conditional PUTs (nginx does not), and has no empty directories."""

    @pytest.fixture
    def store_kwargs(self, scripted: Callable[..., ScriptedServer]) -> dict[str, Any]:
        self.objects: dict[str, bytes] = {}
        return {"url": scripted(Listed(self.objects)).url, "read_only": False}

    async def set(self, store: FastStore, key: str, value: Buffer) -> None:
        self.objects[key] = value.to_bytes()

    async def get(self, store: FastStore, key: str) -> Buffer:
        return cpu.Buffer.from_bytes(self.objects[key])


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.timeout(60 + 3 * EXAMPLES)
@pytest.mark.parametrize("machine", [ZarrStoreStateMachine, ZarrHierarchyStateMachine])
def test_any_course_of_operations(
    scripted: Callable[..., ScriptedServer], machine: Callable[[FastStore], RuleBasedStateMachine]
) -> None:
    """zarr's state machines: whatever is done in whatever order, memory would answer the same."""
    objects: dict[str, bytes] = {}
    store = FastStore(scripted(Listed(objects)).url, read_only=False)

    def afresh() -> RuleBasedStateMachine:
        objects.clear()
        return machine(store)

    _run(afresh)


def _above(key: str) -> set[str]:
    return {key[:at] for at, letter in enumerate(key) if letter == "/"}


class KeysOfFiles(ZarrStoreStateMachine):
    """Of `0` and `0/0` there can be but one file, and a directory outlives what was in it.

    Neither is asked for where the other is: below a file Caddy refuses requests, and a directory is
    an error where a value was wanted.
    """

    def __init__(self, store: FastStore) -> None:
        super().__init__(store)
        self.directories: set[str] = set()

    def _is_file(self, key: str) -> bool:
        return key not in self.directories and not _above(key) & self.model.keys()

    # What cannot be is passed over: `assume` would throw away the whole course.
    @rule(key=keys(), data=st.binary(max_size=100))
    def set(self, key: str, data: bytes) -> None:
        if self._is_file(key):
            super().set(key, data)
            self.directories |= _above(key)

    @rule(key=keys(), data=st.data())
    def get_invalid_zarr_keys(self, key: str, data: Any) -> None:
        if self._is_file(key) and key not in self.model:
            super().get_invalid_zarr_keys(key, data)

    @rule(key=keys())
    def exists(self, key: str) -> None:
        if self._is_file(key):
            super().exists(key)

    @rule()
    def clear(self) -> None:
        super().clear()
        self.directories.clear()


class HierarchyOfFiles(ZarrHierarchyStateMachine):
    """A directory is listed that outlives what was in it."""

    @precondition(lambda self: bool(self.all_groups) and hasattr(self, "draw_directory"))
    @rule(data=st.data())
    def check_list_dir(self, data: Any) -> None:
        path = self.draw_directory(data)
        expected = {*self._sync_iter(self.model.list_dir(path))}
        found = {*self._sync_iter(self.store.list_dir(path))}
        assert found >= expected
        for name in found - expected:
            assert not self._sync_iter(self.store.list_prefix(f"{path}/{name}/".lstrip("/")))


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.timeout(60 + 3 * EXAMPLES)
@pytest.mark.parametrize("machine", [KeysOfFiles, HierarchyOfFiles])
def test_any_course_of_operations_on_files(
    dav: Nginx, tmp_path: Path, machine: Callable[[FastStore], RuleBasedStateMachine]
) -> None:
    if find_caddy() is None:
        pytest.skip("there is no Caddy")
    numbers = itertools.count()
    with writable(dav) as server:

        def afresh() -> RuleBasedStateMachine:
            folder = f"{tmp_path.name}-{next(numbers)}"
            return machine(FastStore(f"{server.url}/{folder}", read_only=False))

        _run(afresh)


def _run(machine: Callable[[], RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
