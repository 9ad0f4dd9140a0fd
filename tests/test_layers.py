"""An import goes down the layers or nowhere; urllib3 is known to one package.

Reads imports and cimports as text (nothing is imported), so it holds for every file of the
package, also for those that were not built.
"""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

# From the bottom up. A module belongs to the longest of these names that it starts with; modules
# of one layer may import each other as long as no cycle comes of it.
LAYERS = (
    ("zfast._core", "zfast._core.extern"),
    (
        "zfast._core.counters",
        "zfast._core.octets",
        "zfast._core.symbols",
        "zfast._core.tls_sessions",
        "zfast._core.types",
    ),
    (
        "zfast._core.buffers",
        "zfast._core.coalesce",
        "zfast._core.codecs_native",
        "zfast._core.crc32c",
        "zfast._core.latency",
        "zfast._core.placement",
        "zfast._core.request_head",
        "zfast._core.response_head",
        "zfast._core.retry",
        "zfast._core.strided",
        "zfast._core.tls",
        "zfast._core.transport",
    ),
    (
        "zfast._core.codecs",
        "zfast._core.governor",
        "zfast._core.scatter",
        "zfast._core.shard_index",
    ),
    ("zfast._core.recipe", "zfast._core.sink"),
    ("zfast._core.http1",),
    ("zfast._core.semantics",),
    ("zfast._core.request",),
    ("zfast._core.exchange",),
    ("zfast._core.transfer",),
    ("zfast._core.index_cache", "zfast._core.policy", "zfast._core.state"),
    ("zfast._core.lanes", "zfast._core.origins"),
    ("zfast._core.leases", "zfast._core.splitting"),
    ("zfast._core.scheduler",),
    ("zfast._core.finishing",),
    ("zfast._core.redirects", "zfast._core.ticks"),
    ("zfast._core.settlement",),
    ("zfast._core.assembly",),
    ("zfast._core.shard_read",),
    ("zfast._core.decoding",),
    ("zfast._core.reactor",),
    ("zfast._core.engine",),
    ("zfast._core.batch", "zfast._core.calls", "zfast._core.shard_indexes"),
    ("zfast._core.array_read",),
    ("zfast.arguments", "zfast.checks", "zfast.errors", "zfast.keys"),
    ("zfast.config",),
    ("zfast.checked_codecs", "zfast.recipes", "zfast.selections"),
    (
        "zfast.addresses",
        "zfast.lately",
        "zfast.locations",
        "zfast.loops",
        "zfast.planner",
        "zfast.proxies",
        "zfast.runtime",
    ),
    ("zfast.connections",),
    ("zfast.options", "zfast.policy", "zfast.range_support", "zfast.stats", "zfast.steps"),
    ("zfast.operations",),
    ("zfast.directories",),
    ("zfast.running",),
    ("zfast.cat", "zfast.client"),
    ("zfast.array_reads", "zfast.arrivals", "zfast.collector", "zfast.refusals"),
    ("zfast._mapping", "zfast._zarr3"),
    ("zfast.pipeline",),
    ("zfast._zarr2", "zfast.store"),
    ("zfast",),
    ("zfast.__main__", "zfast.cli", "zfast.demo", "zfast.serve"),
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# Packages whose modules share the rank of the package. A module of any other package, and every
# module of the core, has to be named above.
WHOLE = ("zfast._core.extern", "zfast.connections", "zfast.locations")

KNOWS_URLLIB3 = "zfast.connections"

# Decides, and leaves the doing to others: no clock, no socket, no thread.
PURE = (
    "zfast.checks",
    "zfast._core.coalesce",
    "zfast._core.codecs",
    "zfast._core.crc32c",
    "zfast._core.governor",
    "zfast._core.http1",
    "zfast._core.latency",
    "zfast._core.octets",
    "zfast._core.placement",
    "zfast._core.recipe",
    "zfast._core.request_head",
    "zfast._core.response_head",
    "zfast._core.retry",
    "zfast._core.scatter",
    "zfast._core.semantics",
    "zfast._core.shard_index",
    "zfast._core.sink",
    "zfast.addresses",
    "zfast.errors",
    "zfast.keys",
    "zfast.planner",
    "zfast.recipes",
    "zfast.selections",
)
WORLD = (
    "asyncio",
    "concurrent",
    "http.client",
    "os",
    "posix",
    "select",
    "socket",
    "ssl",
    "threading",
    "time",
    "libc.stdio",
    "libc.time",
    "zfast._core.extern.pthread",
    "zfast._core.extern.sockets",
)

SUFFIXES = (".py", ".pyi", ".pyx", ".pxd")


class Arrow(NamedTuple):
    """`source` imports `target`, and says so in `path` at `line`."""

    source: str
    target: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.source} imports {self.target}"


class Import(NamedTuple):
    module: str
    names: tuple[str, ...]
    level: int
    line: int


def _python_imports(text: str) -> list[Import]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, (), 0, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append(Import(node.module or "", names, node.level, node.lineno))
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            named = node.args[0]
            if called in ("import_module", "__import__") and isinstance(named, ast.Constant):
                found.append(Import(str(named.value), (), 0, node.lineno))
    return found


_NOT_CODE = re.compile(
    r'''
    """(?:\\.|[^\\])*?"""
    | \'\'\'(?:\\.|[^\\])*?\'\'\'
    | "(?:\\.|[^"\\\n])*"
    | '(?:\\.|[^'\\\n])*'
    | \#[^\n]*
    ''',
    re.DOTALL | re.VERBOSE,
)
_FROM = re.compile(
    r"^[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+c?import[ \t]*(\([^)]*\)|[^\n;]+)", re.MULTILINE
)
_IMPORT = re.compile(r"^[ \t]*c?import[ \t]+([^\n;]+)", re.MULTILINE)


def _cython_imports(text: str) -> list[Import]:
    code = _NOT_CODE.sub(lambda match: "\n" * match[0].count("\n"), text)
    code = code.replace("\\\n", " ")

    def line(match: re.Match[str]) -> int:
        return code.count("\n", 0, match.start()) + 1

    found = []
    for match in _FROM.finditer(code):
        names = match[3].strip("() \t\n").split(",")
        first = tuple(name.split()[0] for name in names if name.strip())
        found.append(Import(match[2], first, len(match[1]), line(match)))
    for match in _IMPORT.finditer(code):
        for name in match[1].split(","):
            found.append(Import(name.split()[0], (), 0, line(match)))
    return found


def _module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _files(root: Path) -> dict[Path, str]:
    """The package's files and the module that each belongs to."""
    paths = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    return {path: _module_of(path, root) for path in paths}


def arrows(root: Path) -> list[Arrow]:
    """Every import that a file of the package makes, of its own modules and of others."""
    files = _files(root)
    modules = set(files.values())
    found = []
    for path, source in files.items():
        text = path.read_text(encoding="utf-8")
        read = _cython_imports if path.suffix in (".pyx", ".pxd") else _python_imports
        package = source if path.stem == "__init__" else source.rpartition(".")[0]
        for module, names, level, line in read(text):
            base = module
            if level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - level + 1], *filter(None, [module])])
            submodules = [f"{base}.{name}" for name in names if f"{base}.{name}" in modules]
            targets = submodules if len(submodules) == len(names) > 0 else [base, *submodules]
            found += [Arrow(source, t, path, line) for t in targets if t != source]
    return found


def _within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def rank(module: str) -> int:
    """The layer of a module of zfast; a KeyError names one that has none yet."""
    for package in WHOLE:
        if _within(module, (package,)):
            return RANKS[package]
    return RANKS[module]


def upward(found: list[Arrow]) -> list[Arrow]:
    return [a for a in found if _within(a.target, ("zfast",)) and rank(a.target) > rank(a.source)]


def cycle(found: list[Arrow]) -> list[str]:
    graph: dict[str, set[str]] = {}
    for arrow in found:
        if _within(arrow.target, ("zfast",)):
            graph.setdefault(arrow.source, set()).add(arrow.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def knows_urllib3(found: list[Arrow]) -> list[Arrow]:
    return [
        a
        for a in found
        if _within(a.target, ("urllib3",)) and not _within(a.source, (KNOWS_URLLIB3,))
    ]


def impure(found: list[Arrow]) -> list[Arrow]:
    return [a for a in found if a.source in PURE and _within(a.target, WORLD)]


def _report(found: list[Arrow]) -> str:
    return "\n".join(map(str, found))


@pytest.fixture(scope="module")
def root() -> Path:
    spec = find_spec("zfast")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def found(root: Path) -> list[Arrow]:
    return arrows(root)


def test_every_module_has_a_layer(root: Path) -> None:
    def named(module: str) -> bool:
        try:
            rank(module)
        except KeyError:
            return False
        return True

    without = sorted({module for module in _files(root).values() if not named(module)})
    assert not without, f"give {', '.join(without)} a layer in LAYERS"


def test_the_reader_sees_imports_and_cimports(root: Path, found: list[Arrow]) -> None:
    """What follows would pass on an empty list as well."""
    readers = {arrow.path.suffix for arrow in found if _within(arrow.target, ("zfast",))}
    assert {".py", ".pxd"} <= readers
    assert any(arrow.target == "urllib3" for arrow in found)


def test_no_import_goes_up(found: list[Arrow]) -> None:
    assert not upward(found), _report(upward(found))


def test_no_cycle(found: list[Arrow]) -> None:
    assert not cycle(found), " -> ".join(cycle(found))


def test_only_connections_knows_urllib3(found: list[Arrow]) -> None:
    assert not knows_urllib3(found), _report(knows_urllib3(found))


def test_what_decides_does_nothing(found: list[Arrow]) -> None:
    assert not impure(found), _report(impure(found))


def plant(folder: Path, files: dict[str, str]) -> list[Arrow]:
    """The arrows of a small zfast with these files besides innocent ones."""
    root = folder / "zfast"
    innocent = {
        "__init__.py": "from zfast.client import Client\n",
        "client.py": "from . import errors\n",
        "errors.py": "from zfast._core.types import Status\n",
        "connections/__init__.py": "from .opening import open_connection\n",
        "connections/opening.py": "import urllib3.util\n",
        "_core/__init__.py": "",
        "_core/types.pxd": "cdef enum Status:\n    OK\n",
        "_core/http1.pxd": "from zfast._core.types cimport Status\n",
        "_core/engine.pyx": '"""\nfrom zfast.client import what the text says\n"""\n',
        "locations/__init__.py": "from .http import HTTPLocation\n",
        "locations/http.py": "from ..errors import ConfigurationError\n",
    }
    for name, text in (innocent | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return arrows(root)


def test_innocent_files_pass(tmp_path: Path) -> None:
    found = plant(tmp_path, {})
    assert len(found) == 8
    assert not upward(found)
    assert not cycle(found)
    assert not knows_urllib3(found)
    assert not impure(found)


@pytest.mark.parametrize(
    ("name", "text", "target", "line"),
    [
        ("errors.py", "import zfast.client\n", "zfast.client", 1),
        ("errors.py", "from zfast.client import Client\n", "zfast.client", 1),
        ("errors.py", "from zfast import client\n", "zfast.client", 1),
        ("errors.py", "from zfast import Client\n", "zfast", 1),
        ("errors.py", "from . import client\n", "zfast.client", 1),
        ("errors.py", "def late():\n    from .client import Client\n", "zfast.client", 2),
        ("errors.py", "if TYPE_CHECKING:\n    from .client import C\n", "zfast.client", 2),
        ("errors.py", "client = import_module('zfast.client')\n", "zfast.client", 1),
        ("locations/http.py", "from ..client import Client\n", "zfast.client", 1),
        ("locations/__init__.py", "from .. import client\n", "zfast.client", 1),
        ("_core/types.pyi", "from zfast.errors import ZfastError\n", "zfast.errors", 1),
        ("_core/http1.pyx", "from zfast._core.engine cimport Batch\n", "zfast._core.engine", 1),
        ("_core/http1.pyx", "from zfast._core cimport types, engine\n", "zfast._core.engine", 1),
        ("_core/http1.pyx", "from . cimport engine as e\n", "zfast._core.engine", 1),
        ("_core/http1.pyx", "cimport zfast._core.engine as e\n", "zfast._core.engine", 1),
        (
            "_core/http1.pyx",
            "'''text'''\nfrom zfast._core cimport (  # why\n    types,\n    engine,\n)\n",
            "zfast._core.engine",
            2,
        ),
        (
            "_core/types.pyx",
            "cdef int f() except? -1:\n    import zfast.errors\n",
            "zfast.errors",
            2,
        ),
    ],
)
def test_a_planted_upward_import_is_found(
    tmp_path: Path, name: str, text: str, target: str, line: int
) -> None:
    found = upward(plant(tmp_path, {name: text}))
    assert [(a.path.name, a.target, a.line) for a in found] == [(Path(name).name, target, line)]


@pytest.mark.parametrize("text", ["import urllib3\n", "from urllib3.util import Retry\n"])
@pytest.mark.parametrize("name", ["client.py", "connections_too.py", "_core/engine.pyx"])
def test_a_planted_urllib3_is_found(tmp_path: Path, name: str, text: str) -> None:
    assert len(knows_urllib3(plant(tmp_path, {name: text}))) == 1


def test_a_planted_cycle_is_found(tmp_path: Path) -> None:
    files = {"locations/http.py": "from . import s3\n", "locations/s3.py": "from . import http\n"}
    found = plant(tmp_path, files)
    assert not upward(found)
    assert {"zfast.locations.http", "zfast.locations.s3"} <= set(cycle(found))


def test_a_planted_world_is_found(tmp_path: Path) -> None:
    found = plant(tmp_path, {"_core/http1.pyx": "from posix.unistd cimport read\n"})
    assert len(impure(found)) == 1


def test_a_module_without_a_layer_is_found() -> None:
    with pytest.raises(KeyError):
        rank("zfast._core.surprise")
