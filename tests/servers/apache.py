"""Apache httpd over a document root, for its directory index pages (mod_autoindex)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .processes import ChildServer, GrowingLog, LoggedRequest

_CONFIGURATION = """\
ServerRoot "{work}"
ServerName {host}
Listen {host}:{port}
PidFile "{work}/httpd.pid"
{modules}
ErrorLog /dev/stderr
DocumentRoot "{root}"
KeepAlive On
MaxKeepAliveRequests 0
<Directory "{root}">
    Options +Indexes
    IndexOptions {index_options}
    Require all granted
    {dav}
</Directory>
LogFormat "{{\\"line\\":\\"%r\\",\\"status\\":%>s,\
\\"range\\":\\"%{{Range}}i\\",\\"sent\\":%B,\\"connection\\":\\"%{{remote}}p\\"}}" requests
CustomLog "{work}/access.log" requests
{extra}
"""

# There is no User directive: workers of a root httpd stay root (and say so in the log), since any
# other user cannot enter pytest's temporary folders.
_MODULES = ("mpm_event", "authz_core", "dir", "autoindex", "log_config", "unixd", "mime")
_DAV_MODULES = ("dav", "dav_fs")
_MODULE_FOLDERS = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/libexec/apache2",
    "/opt/homebrew/lib/httpd/modules",
)


def find_apache() -> tuple[str, Path] | None:
    """The path of httpd and of the folder with its modules, if it is installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    httpd = shutil.which("apache2", path=path) or shutil.which("httpd", path=path)
    folders = [Path(folder) for folder in _MODULE_FOLDERS if Path(folder).is_dir()]
    return (httpd, folders[0]) if httpd and folders else None


class Apache(ChildServer):
    """Apache httpd with directory index pages and an access log of every request.

    `index_options` are those of mod_autoindex: "None" for a plain list, `FancyIndexing HTMLTable`
    and the like for a table. With `dav` it takes PUT, DELETE and MKCOL.
    """

    name = "apache"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        index_options: str = "FancyIndexing HTMLTable NameWidth=*",
        dav: bool = False,
        extra: str = "",
    ) -> None:
        super().__init__(root)
        self._dav = dav
        self._log = GrowingLog(_logged)
        self._index_options = index_options
        self._extra = extra

    def command(self) -> Sequence[str]:
        found = find_apache()
        assert found is not None, "Apache is not installed"
        httpd, folder = found
        # A module that is not a file is one that was linked in.
        modules = [
            f'LoadModule {name}_module "{folder}/mod_{name}.so"'
            for name in (*_MODULES, *(_DAV_MODULES if self._dav else ()))
            if (folder / f"mod_{name}.so").exists()
        ]
        mime_types = self.work / "mime.types"
        mime_types.write_text("text/html html\napplication/json json\n")
        path = self.work / "httpd.conf"
        path.write_text(
            _CONFIGURATION.format(
                work=self.work,
                host=self.host,
                port=self.port,
                root=self.root,
                modules="\n".join([*modules, f'TypesConfig "{mime_types}"']),
                index_options=self._index_options,
                dav="Dav On" if self._dav else "",
                extra=f'DavLockDB "{self.work}/locks"\n{self._extra}' if self._dav else self._extra,
            )
        )
        return [httpd, "-d", str(self.work), "-f", str(path), "-D", "FOREGROUND"]

    def logged(self) -> list[LoggedRequest]:
        return self._log.entries(self.work / "access.log")


def _logged(line: bytes) -> LoggedRequest | None:
    entry = json.loads(line)
    if entry["line"] == "-":
        # A connection over which none came in time.
        return None
    method, target, *_ = entry["line"].split(" ")
    return LoggedRequest(
        method=method,
        target=target,
        status=int(entry["status"]),
        range=None if entry["range"] == "-" else entry["range"],
        sent=int(entry["sent"]),
        connection=entry["connection"],
    )
