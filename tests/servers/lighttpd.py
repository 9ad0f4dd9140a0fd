"""lighttpd over a document root, told to answer 403 for what is below a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from .processes import ChildServer, LoggedRequest

_CONFIGURATION = """\
server.modules = ("mod_dirlisting")
server.document-root = "{root}"
server.bind = "{host}"
server.port = {port}
server.upload-dirs = ("{work}")
mimetype.assign = (".html" => "text/html")
dir-listing.activate = "{listing}"
dir-listing.hide-dotfiles = "disable"
static-file.disable-pathinfo = "enable"
{extra}
"""


def find_lighttpd() -> str | None:
    """The path of lighttpd, if it is installed."""
    return shutil.which("lighttpd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Lighttpd(ChildServer):
    """lighttpd with directory index pages, unless `listing` is False; it keeps no access log."""

    name = "lighttpd"
    logs_requests = False

    def __init__(
        self, root: str | os.PathLike[str], *, listing: bool = True, extra: str = ""
    ) -> None:
        super().__init__(root)
        self._listing = "enable" if listing else "disable"
        self._extra = extra

    def command(self) -> Sequence[str]:
        lighttpd = find_lighttpd()
        assert lighttpd is not None, "lighttpd is not installed"
        path = self.work / "lighttpd.conf"
        path.write_text(
            _CONFIGURATION.format(
                root=self.root,
                host=self.host,
                port=self.port,
                work=self.work,
                listing=self._listing,
                extra=self._extra,
            )
        )
        return [lighttpd, "-D", "-f", str(path)]

    def logged(self) -> list[LoggedRequest]:
        return []
