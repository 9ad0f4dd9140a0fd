"""The short form of `soak.py`, whose requests leave nothing; and how the long forms are begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_requests_leave_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("soak.py")), "20000"],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 10


@pytest.mark.parametrize("script", ["chaos", "short_lives", "soak", "tls_sessions"])
def test_each_long_form_says_how_it_is_begun(script: str) -> None:
    pytest.importorskip("zarr", minversion="3.0", reason="some read arrays of zarr 3")
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py"))]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script}.py")
    done = subprocess.run([*command, "--nonsense"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
