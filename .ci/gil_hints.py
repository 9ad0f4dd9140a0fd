"""Fails where a nogil function of the core would take the GIL.

Two witnesses: Cython's performance hints, and the C++ that Cython makes. The hints know the
declarations that cost every caller a check under the GIL; the C++ also shows a check made only for
the value that means an error, a raise, a `with gil`.

A C++ exception, thrown where a container finds no memory, is let through: Cython reports it under
the GIL, and no run that has memory ever gets there.

A line that has to take the GIL says why in a comment, `# gil: ...`, and is let through.

    python .ci/gil_hints.py            the core
    python .ci/gil_hints.py --prove    planted faults: is each one found, and nothing else?
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = "zfast/_core"

_HINT = re.compile(r"^performance hint: (?P<path>.+?):(?P<line>\d+):\d+: (?P<text>.+)$", re.M)
_ABOUT_GIL = re.compile(r"\bgil\b", re.IGNORECASE)

# In the C++: the line of the source that follows, the function, and what takes the GIL in it.
_SOURCE = re.compile(r'^\s*/\* "(?P<path>[^"]+\.p(?:yx|xd))":(?P<line>\d+)$')
_BODY = re.compile(r"^\w.*\{$")
_FUNCTION = re.compile(r"^\w.*?\b__pyx_(?:f|pf|pw)_\w*\(.*\{$")
_END = "end {"
_TAKES = re.compile(
    r"\w*PyGILState_Ensure\(|__Pyx_ErrOccurredWithGIL\(|__PYX_XCLEAR_MEMVIEW\((?=[^;]*, 0\))"
)
_FAILS = re.compile(r"__PYX_ERR\(")
_ERROR_LABEL = re.compile(r"^\s*__pyx_L\d+_error:;$")
_ASSERTION = re.compile(r"^(?P<indent>\s*)#ifndef CYTHON_WITHOUT_ASSERTIONS$")
_CATCH = re.compile(r"^(?P<indent>\s*)\} catch\(\.\.\.\) \{$")
_WAIVED = re.compile(r"#\s*gil:\s*\S")

Finding = tuple[str, int, str]
"""Path, line and what was found there."""


def cythonize(root: Path, generated: Path) -> str:
    """Make the C++ of every core module below `root`; return what Cython said."""
    program = (
        "import os, runpy, sys\n"
        "from glob import glob\n"
        "from Cython.Build import cythonize\n"
        "if __name__ == '__main__':\n"
        "    setup = runpy.run_path(sys.argv[1], run_name='house')\n"
        "    directives = setup['directives']('release') | {'show_performance_hints': True}\n"
        "    sources = sorted(glob(sys.argv[3] + '/*.pyx'))\n"
        "    modules = [setup['Extension'](s[:-4].replace('/', '.'), [s], language='c++')\n"
        "               for s in sources]\n"
        "    cythonize(modules, build_dir=sys.argv[2], force=True, quiet=True,\n"
        "              nthreads=min(os.cpu_count() or 1, len(modules)),\n"
        "              compiler_directives=directives)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "setup.py"), str(generated), CORE],
        cwd=root,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def hints(said: str) -> Iterator[Finding]:
    for match in _HINT.finditer(said):
        if _ABOUT_GIL.search(match["text"]):
            yield match["path"], int(match["line"]), match["text"]


def takes(cpp: str) -> Iterator[Finding]:
    """Where the functions of one generated file take the GIL."""
    inside, skipped, where, before = False, "", ("", 0), ""
    taken: list[Finding] = []
    failing: list[Finding] = []
    for text in [*cpp.splitlines(), _END]:
        if _BODY.match(text):
            yield from taken
            inside = bool(_FUNCTION.match(text))
            taken, failing = [], []
        elif match := _SOURCE.match(text):
            where = match["path"], int(match["line"])
        elif skipped:
            skipped = "" if text.startswith(skipped) else skipped
        elif match := _CATCH.match(text):
            skipped = f"{match['indent']}}}"
        elif match := _ASSERTION.match(text):
            skipped = f"{match['indent']}#endif"
        elif inside and CORE in where[0]:
            if match := _TAKES.search(text):
                # At the label where its errors meet, a function only reports what went wrong
                # above: the fault is there, and counts here if nothing above was named.
                met = _ERROR_LABEL.match(before)
                taken += (failing[:1] if not taken else []) if met else [(*where, _name(match))]
            elif match := _FAILS.search(text):
                failing.append((*where, "may fail, and reports that under the GIL"))
        before = text


def _takes_of_file(path: Path) -> list[Finding]:
    return list(takes(path.read_text(encoding="utf-8")))


def _name(match: re.Match[str]) -> str:
    return f"takes the GIL ({match[0].rstrip('(')})"


def findings(root: Path) -> list[Finding]:
    with tempfile.TemporaryDirectory() as generated:
        said = cythonize(root, Path(generated))
        found = set(hints(said))
        with ProcessPoolExecutor() as pool:
            found.update(*pool.map(_takes_of_file, Path(generated).rglob("*.cpp")))
    return sorted(finding for finding in found if not waived(root, finding))


def waived(root: Path, finding: Finding) -> bool:
    path, line, _ = finding
    lines = (root / path).read_text(encoding="utf-8").splitlines()
    return 0 < line <= len(lines) and bool(_WAIVED.search(lines[line - 1]))


PLANTED = """\
from libcpp.vector cimport vector
cdef int quiet(int x) noexcept nogil:
    assert x != 3, "an assertion is compiled out of a release"
    return x + 1
cdef int raises(int x) nogil:
    return x
cdef void loses() nogil:
    pass
cdef int calls_raises(int x) noexcept nogil:
    return raises(x)
cdef int calls_loses() noexcept nogil:
    loses()
    return 0
cdef int asks(int x) noexcept nogil:
    with gil:
        return x
cdef int refuses(int x) except -1 nogil:
    if x > 3:
        raise ValueError(x)
    return x
cdef int asks_openly(int x) noexcept nogil:
    with gil:  # gil: planted
        return x
cdef int slices(int[:] m) noexcept nogil:
    cdef int[:] n = m[1:]
    return n[0]
cdef int grows(vector[int]& v) noexcept nogil:
    v.push_back(1)
    return 0
def face(int x, int[:] m):
    cdef vector[int] v
    with nogil:
        x = quiet(x)
    with nogil:
        x = raises(x)
    return x + calls_raises(x) + calls_loses() + asks(x) + refuses(x) + (
        asks_openly(x) + slices(m) + grows(v))
"""
# The line of each fault above.
EXPECTED = {7, 10, 12, 15, 19, 24, 25, 35}


def prove() -> int:
    with tempfile.TemporaryDirectory() as folder:
        core = Path(folder, CORE)
        core.mkdir(parents=True)
        for package in (core, core.parent):
            (package / "__init__.py").touch()
        (core / "planted.pyx").write_text(PLANTED, encoding="utf-8")
        found = {line for _, line, _ in findings(Path(folder))}
    if found != EXPECTED:
        print(f"planted at lines {sorted(EXPECTED)}, found at {sorted(found)}", file=sys.stderr)
        return 1
    print(f"all {len(EXPECTED)} planted faults found, and nothing else")
    return 0


def main(arguments: list[str]) -> int:
    if arguments == ["--prove"]:
        return prove()
    found = findings(ROOT)
    for path, line, text in found:
        print(f"{path}:{line}: {text}", file=sys.stderr)
    if found:
        print("A nogil function must not need the GIL (see .ci/gil_hints.py).", file=sys.stderr)
        return 1
    count = len(list((ROOT / CORE).glob("*.pyx")))
    print(f"{count} modules of the core: no nogil function needs the GIL")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
