"""The short form of `tls_sessions.py`: sessions come and go, and nothing of them stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_sessions_that_come_and_go() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tls_sessions.py")), "150"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "handshakes" in done.stdout
