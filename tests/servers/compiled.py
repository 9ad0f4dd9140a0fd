"""The programs in C beside this file, each compiled by the first who runs it in a process."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).resolve().parent


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def has_compiler() -> bool:
    """Whether there is a C compiler: `CC`, else `cc`."""
    return shutil.which(_compiler()[0]) is not None


def compiled(name: str) -> str:
    """The path of the program that `name`.c makes, for as long as this process lives; Linux."""
    return f"/proc/{os.getpid()}/fd/{_program(name)}"


@functools.cache
def _program(name: str) -> int:
    """A descriptor of the program: the file has no name, so that nothing of it can stay."""
    with tempfile.TemporaryDirectory(prefix="zfast-compiled-") as folder:
        program = f"{folder}/{name}"
        command = [*_compiler(), "-O2", str(_SOURCES / f"{name}.c"), "-o", program]
        subprocess.run(command, check=True)
        return os.open(program, os.O_RDONLY)
