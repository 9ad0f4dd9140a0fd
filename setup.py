"""Builds every ``zfast/_core/*.pyx`` as a C++ extension of its own.

``ZFAST_BUILD=release|debug|asan|tsan|cov`` chooses how. Each mode has its own directory under
``build/``, so objects of two modes never meet; an in-place build always takes those of the mode
asked for. The directives and flags of all modes are in the tables below and nowhere else.

asan and tsan builds need their runtime before Python's own code, for example
``LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 python -m pytest``.
A cov build leaves gcov notes under ``build/cov`` and traces lines for ``Cython.Coverage``.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CCompilerError, ExecError

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = ("release", "debug", "asan", "tsan", "cov")

DIRECTIVES: dict[str, object] = {
    "language_level": 3,
    "freethreading_compatible": True,
    "embedsignature": True,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}
CHECKED: dict[str, object] = {
    "boundscheck": True,
    "initializedcheck": True,
    "nonecheck": True,
    # An index below zero is a fault in the core, and with boundscheck it is seen as one:
    # wraparound stays off, or it would be read from the end instead.
    "wraparound": False,
}
MODE_DIRECTIVES: dict[str, dict[str, object]] = {
    "release": {},
    "debug": CHECKED,
    "asan": CHECKED,
    "tsan": {},
    "cov": {"linetrace": True},
}

# Cython emits helpers that a module may turn out not to need.
COMPILE_ARGS = ["-std=c++17", "-Wall", "-Wno-unused-function", "-pthread", "-fvisibility=hidden"]
ASSERTIONS = ["-UNDEBUG", "-D_GLIBCXX_ASSERTIONS", "-g"]
MODE_COMPILE_ARGS = {
    "release": ["-DNDEBUG", "-DCYTHON_WITHOUT_ASSERTIONS"],
    "debug": ["-O1", *ASSERTIONS],
    "asan": ["-O1", *ASSERTIONS, "-fno-omit-frame-pointer", "-fsanitize=address,undefined"],
    "tsan": ["-O1", *ASSERTIONS, "-fno-omit-frame-pointer", "-fsanitize=thread"],
    "cov": ["-O0", *ASSERTIONS, "--coverage", "-DCYTHON_TRACE_NOGIL=0", "-DCYTHON_TRACE=1"],
}
# Of a release. These go behind the flags of the environment and would override a distributor's
# optimisation, and the debug symbols that are split off later: who sets CFLAGS or CXXFLAGS gets
# what those, and Python's own flags, say.
SPEED = ["-O3", "-g0"]
LINK_ARGS = ["-pthread"]
MODE_LINK_ARGS = {
    "release": [],
    "debug": [],
    "asan": ["-fsanitize=address,undefined"],
    "tsan": ["-fsanitize=thread"],
    "cov": ["--coverage"],
}

NO_COMPILER = """
zfast is compiled when it is installed, and no working C++17 compiler was found. Install one:
    Debian, Ubuntu:  apt-get install g++ python3-dev
    Fedora, RHEL:    dnf install gcc-c++ python3-devel
    Alpine:          apk add g++ python3-dev
    macOS:           xcode-select --install
and run the same command again. Another compiler is chosen with CXX=... and CC=... .
"""
NO_HEADERS = """
zfast is compiled when it is installed, and this Python's header files (Python.h) are not in
    {include}
Install them:
    Debian, Ubuntu:  apt-get install python3-dev
    Fedora, RHEL:    dnf install python3-devel
    Alpine:          apk add python3-dev
and run the same command again.
"""
PROBE = "#include <atomic>\n#include <thread>\nstd::atomic<int> probe{0};\n"


def build_mode() -> str:
    mode = os.environ.get("ZFAST_BUILD") or "release"
    if mode not in MODES:
        sys.exit(f"ZFAST_BUILD={mode!r} is not a build mode of zfast: choose {', '.join(MODES)}.")
    return mode


def directives(mode: str) -> dict[str, object]:
    return {**DIRECTIVES, **MODE_DIRECTIVES[mode]}


def compile_args(mode: str) -> list[str]:
    flags_are_given = "CFLAGS" in os.environ or "CXXFLAGS" in os.environ
    speed = SPEED if mode == "release" and not flags_are_given else []
    return [*COMPILE_ARGS, *speed, *MODE_COMPILE_ARGS[mode]]


def usable_cores() -> int:
    # A container or a job may have few of the machine's.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def extensions(mode: str) -> list[Extension]:
    return [
        Extension(
            path[: -len(".pyx")].replace(os.sep, "."),
            [path],
            language="c++",
            # A flag changed below is a reason to compile again.
            depends=["setup.py"],
            extra_compile_args=compile_args(mode),
            extra_link_args=[*LINK_ARGS, *MODE_LINK_ARGS[mode]],
        )
        for path in sorted(glob("zfast/_core/*.pyx"))
    ]


class Build(build):
    """A directory for each mode: no object of one mode is taken for another's."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_base = os.path.join("build", build_mode())


class BuildExt(build_ext):
    """cythonize and compile ``--parallel`` at once, and say what to install when that fails."""

    parallel: int | None
    force: bool | None

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = usable_cores()

    def run(self) -> None:
        super().run()
        if not self.inplace:
            # `python -m zfast` in the checkout imports the checkout's zfast, whatever is installed:
            # after `pip install .` that one has to work as well.
            self.copy_extensions_to_source()

    def build_extensions(self) -> None:
        self._cythonize()
        try:
            super().build_extensions()
        except (CCompilerError, ExecError):
            if advice := self._missing_toolchain():
                sys.exit(advice)
            raise

    def _cythonize(self) -> None:
        # Here and not in setup(): an sdist must list the .pyx files, not what they become.
        from Cython.Build import cythonize

        mode = build_mode()
        # Cython.Coverage looks for the generated file next to its .pyx.
        base = self.get_finalized_command("build").build_base
        generated = None if mode == "cov" else os.path.join(base, "cython")
        made = cythonize(
            self.extensions,
            build_dir=generated,
            nthreads=min(self.parallel or 1, len(self.extensions)),
            compiler_directives=directives(mode),
            force=bool(self.force) or _older_than_setup(generated or "."),
        )
        sources = {ext.name: ext.sources for ext in made}
        for ext in self.extensions:
            ext.sources = sources[ext.name]

    def copy_extensions_to_source(self) -> None:
        # Whether the file in place is older says nothing: it may be another mode's.
        kept, self.force = self.force, True
        try:
            super().copy_extensions_to_source()
        finally:
            self.force = kept

    def _missing_toolchain(self) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.cpp")
            probe.write_text(PROBE)
            try:
                objects = self.compiler.compile(
                    [str(probe)], output_dir=folder, extra_postargs=[*COMPILE_ARGS]
                )
                self.compiler.link_shared_object(
                    objects,
                    os.path.join(folder, "probe.so"),
                    extra_postargs=LINK_ARGS,
                    target_lang="c++",
                )
            except (CCompilerError, ExecError):
                return NO_COMPILER
        include = sysconfig.get_path("include")
        if not Path(include, "Python.h").exists():
            return NO_HEADERS.format(include=include)
        return None


def _older_than_setup(generated: str) -> bool:
    made = [os.path.getmtime(path) for path in glob(f"{generated}/zfast/_core/*.cpp")]
    return bool(made) and min(made) < os.path.getmtime("setup.py")


class Sdist(sdist):
    """The sdist carries tests and checks, so that what is built from it can be tested."""

    def make_distribution(self) -> None:
        graft: Callable[[str], bool] = self.filelist.graft
        for folder in (".ci", "tests", "asv_bench"):
            if os.path.isdir(folder):
                graft(folder)
        for made in ("env", "html", "results"):
            self.filelist.prune(os.path.join("asv_bench", made))
        for pattern in ("*.py[cod]", "*.so"):
            self.filelist.global_exclude(pattern)
        for file in (".pre-commit-config.yaml", "CHANGELOG.md"):
            self.filelist.include(file)
        super().make_distribution()


if __name__ == "__main__":
    setup(
        ext_modules=extensions(build_mode()),
        cmdclass={"build": Build, "build_ext": BuildExt, "sdist": Sdist},
    )
