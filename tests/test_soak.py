"""The short form of `soak.py`: requests by the thousand leave nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


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
