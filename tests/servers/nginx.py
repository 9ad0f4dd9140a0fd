"""nginx over a document root."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import trustme

from .processes import ChildServer, GrowingLog, LoggedRequest

_CONFIGURATION = """\
{user}
worker_processes {workers};
daemon off;
pid {work}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    log_format requests escape=json '{{"method":"$request_method","target":"$request_uri",'
        '"status":$status,"range":"$http_range","sent":$body_bytes_sent,'
        '"connection":"$connection"}}';
    access_log {access_log};
    default_type application/octet-stream;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    log_not_found off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests {keepalive_requests};
    keepalive_timeout {keepalive_timeout};
    server {{
        listen {host}:{port} {ssl} backlog=4096;
        {certificate}
        root "{root}";
        autoindex {autoindex};
        {extra}
    }}
}}
"""

_DAV = """\
dav_methods PUT DELETE;
        create_full_put_path on;
        client_max_body_size 0;
"""


def find_nginx() -> str | None:
    """The path of nginx, if it is installed."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@cache
def has_dav() -> bool:
    """Whether this nginx was built with PUT and DELETE."""
    nginx = find_nginx()
    if nginx is None:
        return False
    version = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True)
    return "--with-http_dav_module" in version.stderr


class Nginx(ChildServer):
    """nginx with sendfile, a directory index, and an access log of every request.

    Parameters
    ----------
    root, ca
        See `ChildServer`.
    autoindex
        Give directory index pages.
    keepalive_requests, keepalive_timeout
        After how many requests, and seconds of idleness, a connection is closed.
    workers
        Worker processes; `requests()` is exact with one.
    access_log
        False: no access log, for benchmarks.
    dav
        Take PUT and DELETE (see `has_dav`).
    extra
        More lines for the server block, such as `max_ranges 0;` (no ranges at all).
    """

    name = "nginx"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        autoindex: bool = True,
        keepalive_requests: int = 1_000_000,
        keepalive_timeout: float = 60,
        workers: int = 1,
        access_log: bool = True,
        dav: bool = False,
        ca: trustme.CA | None = None,
        extra: str = "",
    ) -> None:
        super().__init__(root, ca)
        self._log = GrowingLog(_logged)
        self.logs_requests = access_log
        self._options = {
            "autoindex": "on" if autoindex else "off",
            "keepalive_requests": keepalive_requests,
            "keepalive_timeout": f"{round(keepalive_timeout * 1000)}ms",
            "workers": workers,
            "extra": (_DAV if dav else "") + extra,
        }

    def command(self) -> Sequence[str]:
        nginx = find_nginx()
        assert nginx is not None, "nginx is not installed"
        configuration = _CONFIGURATION.format(
            user=_user(),
            work=self.work,
            host=self.host,
            port=self.port,
            root=self.root,
            ssl="" if self._ca is None else "ssl",
            certificate=self._certificate(),
            access_log=f"{self._log_path} requests" if self.logs_requests else "off",
            **self._options,
        )
        path = self.work / "nginx.conf"
        path.write_text(configuration)
        return [nginx, "-p", str(self.work), "-c", str(path), "-e", "stderr"]

    def _certificate(self) -> str:
        if self._ca is None:
            return ""
        chain, key = self.certificate()
        return f'ssl_certificate "{chain}"; ssl_certificate_key "{key}";'

    def logged(self) -> list[LoggedRequest]:
        return self._log.entries(self._log_path)

    @property
    def _log_path(self) -> Path:
        return self.work / "access.log"


def _logged(line: bytes) -> LoggedRequest:
    entry = json.loads(line)
    return LoggedRequest(**{**entry, "range": entry["range"] or None})


def _user() -> str:
    # Workers of a root nginx would run as nobody, who cannot enter pytest's temporary folders.
    if os.geteuid() != 0:
        return ""
    return f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
