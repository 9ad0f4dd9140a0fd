"""The build keeps to what who builds has asked for: how many at once, and which compiler flags."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

setuptools = pytest.importorskip("setuptools")
TOP = Path(__file__).resolve().parents[1]
if not (TOP / "setup.py").exists():
    pytest.skip("not in the source tree", allow_module_level=True)


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module setup.py, in its folder, and with no flags or mode from outside."""
    for name in ("CFLAGS", "CXXFLAGS", "ZFAST_BUILD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(TOP)
    spec = importlib.util.spec_from_file_location("building", TOP / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("variable", ["CFLAGS", "CXXFLAGS"])
def test_flags_from_outside_are_not_overridden(
    building: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    overriding = {"-O3", "-g0"}
    for extension in building.extensions("release"):
        assert overriding <= set(extension.extra_compile_args)
    monkeypatch.setenv(variable, "-O2 -g")
    for extension in building.extensions("release"):
        assert not overriding & set(extension.extra_compile_args)
        assert {"-std=c++17", "-DNDEBUG"} <= set(extension.extra_compile_args)
    assert "-O1" in building.extensions("asan")[0].extra_compile_args


@pytest.mark.parametrize(("parallel", "threads"), [("1", 1), (None, 3)])
def test_as_many_at_once_as_was_asked_for(
    building: Any, monkeypatch: pytest.MonkeyPatch, parallel: str | None, threads: int
) -> None:
    def cythonize(extensions: list[Any], *, nthreads: int, **_: Any) -> list[Any]:
        asked.append(nthreads)
        return extensions

    asked: list[int] = []
    monkeypatch.setattr(pytest.importorskip("Cython.Build"), "cythonize", cythonize)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    distribution = setuptools.Distribution({"ext_modules": building.extensions("release")})
    distribution.cmdclass = {"build": building.Build, "build_ext": building.BuildExt}
    command = distribution.get_command_obj("build_ext")
    command.parallel = parallel
    command.ensure_finalized()
    command._cythonize()
    assert (asked, command.parallel) == ([threads], threads)
