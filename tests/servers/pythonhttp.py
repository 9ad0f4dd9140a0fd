"""Python's own `http.server` over a document root: no ranges, and HTTP/1.0 unless asked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Literal

from .processes import ChildServer, LoggedRequest

_LINE = re.compile(r'^\S+ - - \[[^]]*\] "(\S+) (\S+) HTTP/[0-9.]+" ([0-9]{3}) ', re.MULTILINE)


class PythonHTTP(ChildServer):
    """`python -m http.server`; it ignores Range and gives directory index pages."""

    name = "pythonhttp"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        protocol: Literal["HTTP/1.0", "HTTP/1.1"] = "HTTP/1.0",
    ) -> None:
        super().__init__(root)
        self._protocol = protocol

    def command(self) -> Sequence[str]:
        options = ["--bind", self.host, "--directory", str(self.root), "--protocol", self._protocol]
        return [sys.executable, "-u", "-m", "http.server", *options, str(self.port)]

    def logged(self) -> list[LoggedRequest]:
        text = self.output_path.read_text(errors="replace")
        return [LoggedRequest(m[1], m[2], int(m[3])) for m in _LINE.finditer(text)]
