"""The package tells the truth about itself: stubs, version, metadata, help when it is not built."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import typing
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import metadata, version
from pathlib import Path
from types import ModuleType

import pytest

import zfast
import zfast._core

TOP = Path(__file__).resolve().parents[1]
PACKAGE = Path(zfast.__file__).parent
CORE = PACKAGE / "_core"

EXTENSIONS = sorted(module.name for module in pkgutil.iter_modules(zfast._core.__path__))


@pytest.fixture(params=EXTENSIONS)
def extension(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"zfast._core.{request.param}")


def stub(module: ModuleType) -> ast.Module:
    path = CORE / f"{module.__name__.rpartition('.')[2]}.pyi"
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(body: list[ast.stmt]) -> set[str]:
    """What the statements of a stub define or pass on."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.If):
            found |= names_in(node.body) | names_in(node.orelse)
    return {name for name in found if not name.startswith("_")}


def public_names(module: ModuleType) -> set[str]:
    """What a module defines under a public name; what it imported from elsewhere is not its own."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


def public_members(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_every_extension_is_built_for_this_python() -> None:
    assert EXTENSIONS
    for name in EXTENSIONS:
        origin = importlib.import_module(f"zfast._core.{name}").__file__
        assert origin is not None
        assert origin.endswith(tuple(EXTENSION_SUFFIXES))


def test_every_source_is_built_and_every_stub_has_its_extension() -> None:
    for suffix in (".pyx", ".pyi"):
        assert {path.stem for path in CORE.glob(f"*{suffix}")} <= set(EXTENSIONS)


def test_the_stub_names_what_the_extension_has(extension: ModuleType) -> None:
    assert names_in(stub(extension).body) == public_names(extension)


def test_the_stub_names_the_members_of_every_class(extension: ModuleType) -> None:
    for node in stub(extension).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            kind = getattr(extension, node.name)
            assert names_in(node.body) == public_members(kind), node.name


def test_the_stub_names_the_parameters_of_every_function(extension: ModuleType) -> None:
    for node in stub(extension).body:
        if isinstance(node, ast.FunctionDef):
            given = node.args
            named = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            function = getattr(extension, node.name)
            assert named == list(inspect.signature(function).parameters), node.name


def test_the_stub_says_what_the_core_says(extension: ModuleType) -> None:
    def compare(body: list[ast.stmt], owner: object) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            found = getattr(owner, node.name)
            # Cython begins it with the signature.
            said = re.sub(r"\A[\w.]+\(.*\)( -> \w+)?\s*", "", found.__doc__ or "")
            if said:
                assert ast.get_docstring(node) == inspect.cleandoc(said), node.name
            if isinstance(node, ast.ClassDef):
                compare(node.body, found)

    compare(stub(extension).body, extension)


def test_every_public_function_of_the_core_says_what_it_does(extension: ModuleType) -> None:
    for node in stub(extension).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            written = ast.get_docstring(node) or inspect.getdoc(getattr(extension, node.name))
            assert written, node.name


def test_the_core_runs_without_the_gil_where_python_does(extension: ModuleType) -> None:
    """Importing a module that did not say so would turn the GIL on again (PEP 703)."""
    if hasattr(sys, "_is_gil_enabled") and "free-threading" in sys.version:
        assert not sys._is_gil_enabled()


def test_what_the_package_offers_is_there_and_documented() -> None:
    assert zfast.__all__
    for name in zfast.__all__:
        assert inspect.getdoc(getattr(zfast, name)), name


def test_the_types_of_functions_and_clients_are_there_at_run_time() -> None:
    public = [zfast.cat_ranges, zfast.cat_ranges_async, zfast.stats, zfast.show_config]
    public += [
        member
        for name, member in vars(zfast.Client).items()
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_"))
    ]
    for function in public:
        assert "return" in typing.get_type_hints(function), function


def test_one_version() -> None:
    declared = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changes = (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S*)", changes, re.MULTILINE)
    assert newest is not None
    assert version("zfast") == declared["version"] == newest[1]


def test_metadata() -> None:
    found = metadata("zfast")
    needed = [need for need in found.get_all("Requires-Dist") or [] if "extra ==" not in need]
    assert {re.split(r"[^\w-]", need)[0] for need in needed} == {
        "donfig",
        "numcodecs",
        "numpy",
        "urllib3",
        "zarr",
    }
    assert {"bench", "dev", "test"} <= set(found.get_all("Provides-Extra") or [])
    assert found["Requires-Python"] == ">=3.11"
    assert found["License-Expression"] == "BSD-3-Clause"
    assert "Typing :: Typed" in (found.get_all("Classifier") or [])


def test_an_import_without_the_extensions_says_what_to_do(tmp_path: Path) -> None:
    """`_core/__init__.py` alone, as in a checkout that was never built."""
    (tmp_path / "_core").mkdir()
    shutil.copy(CORE / "__init__.py", tmp_path / "_core")
    done = subprocess.run(
        [sys.executable, "-c", "import _core"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "ImportError: zfast's native core is not built" in done.stderr
    assert "pip install ." in done.stderr
    assert "python setup.py build_ext --inplace" in done.stderr


def test_importing_zfast_prints_nothing_and_starts_no_thread() -> None:
    code = "import threading, zfast; assert threading.active_count() == 1"
    done = subprocess.run(
        # Of google-crc32c, where it has no extension for this Python.
        [sys.executable, "-W", "error", "-W", "ignore:As the c:RuntimeWarning", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_readme_has_every_setting() -> None:
    from zfast.config import SETTINGS

    readme = TOP / "README.md"
    table = readme.read_text().partition("<!-- settings -->")[2].partition("<!-- end of")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line]
    shown = {
        name: entry.default_is
        or (", ".join(map(str, entry.default)) if name == "missing_status" else str(entry.default))
        for name, entry in SETTINGS.items()
    }
    assert rows[2:] == [
        [f"`{name}`", f"`{entry.environment}`", shown[name], entry.unit, entry.meaning]
        for name, entry in SETTINGS.items()
    ]
