"""The real servers start, serve, log and end as their wrappers say; nothing of them stays."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3
from servers.apache import Apache
from servers.caddy import Caddy
from servers.leaks import open_descriptors, wait_until
from servers.nginx import Nginx, has_dav
from servers.processes import HOST, ChildServer, LoggedRequest, ServerFailed, running_servers
from servers.pythonhttp import PythonHTTP
from servers.site import Site

Start = Callable[..., Any]

DATA = bytes(range(100))
RANGED = ["nginx", "caddy", "caddy_tls", "apache"]


@pytest.fixture
def pool(tls_ca_file: str) -> Any:
    with urllib3.PoolManager(ca_certs=tls_ca_file, retries=False) as pool:
        yield pool


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    site = request.getfixturevalue(request.param)
    assert isinstance(site, Site)
    return site


@pytest.mark.parametrize("site", RANGED, indirect=True)
def test_ranges_and_log(site: Site, pool: urllib3.PoolManager) -> None:
    site.write({"a/b c": DATA, "d": b"other"})
    assert pool.request("GET", f"{site.url}/d").data == b"other"
    for wanted, body in [("bytes=10-19", DATA[10:20]), ("bytes=-10", DATA[90:])]:
        response = pool.request("GET", f"{site.url}/a/b%20c", headers={"Range": wanted})
        assert (response.status, response.data) == (206, body)
        assert response.headers["ETag"]
    assert pool.request("GET", f"{site.url}/absent").status == 404
    logged = site.requests()
    assert [(r.method, r.status, r.range, r.sent) for r in logged[:3]] == [
        ("GET", 200, None, 5),
        ("GET", 206, "bytes=10-19", 10),
        ("GET", 206, "bytes=-10", 10),
    ]
    assert [r.path for r in logged[1:3]] == [f"/{site.name}/a/b c"] * 2
    assert [r.target for r in logged[1:3]] == [f"/{site.name}/a/b%20c"] * 2
    assert len(logged) == 4
    assert len({r.connection for r in logged}) == 1


@pytest.mark.parametrize("site", [*RANGED, "pythonhttp"], indirect=True)
def test_directory_index(site: Site, pool: urllib3.PoolManager) -> None:
    site.write({"child": b"", "folder/file": b""})
    response = pool.request("GET", f"{site.url}/")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert b"child" in response.data
    assert b"folder/" in response.data


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_pythonhttp(start: Start, tmp_path: Path, pool: urllib3.PoolManager, protocol: str) -> None:
    (tmp_path / "key").write_bytes(DATA)
    server = start(PythonHTTP, protocol=protocol)
    response = pool.request("GET", f"{server.url}/key", headers={"Range": "bytes=0-1"})
    assert (response.status, response.data) == (200, DATA)
    assert response.version == {"HTTP/1.0": 10, "HTTP/1.1": 11}[protocol]
    assert pool.request("GET", f"{server.url}/absent").status == 404
    assert server.requests() == [
        LoggedRequest("GET", "/key", 200),
        LoggedRequest("GET", "/absent", 404),
    ]


def test_nginx_options(start: Start, tmp_path: Path, pool: urllib3.PoolManager) -> None:
    (tmp_path / "key").write_bytes(DATA)
    server = start(Nginx, tmp_path, autoindex=False, keepalive_requests=2, extra="max_ranges 0;")
    assert pool.request("GET", f"{server.url}/").status == 403
    for _ in range(3):
        response = pool.request("GET", f"{server.url}/key", headers={"Range": "bytes=0-1"})
        assert (response.status, response.data) == (200, DATA)
    connections = [entry.connection for entry in server.requests(at_least=4)]
    assert connections[0] == connections[1] != connections[2] == connections[3]


def test_nginx_dav(start: Start, tmp_path: Path, pool: urllib3.PoolManager) -> None:
    if not has_dav():
        pytest.skip("this nginx has no DAV module")
    server = start(Nginx, tmp_path, dav=True)
    url = f"{server.url}/folder/key"
    assert pool.request("PUT", url, body=DATA).status == 201
    assert (tmp_path / "folder" / "key").read_bytes() == DATA
    assert pool.request("PUT", url, body=b"").status == 204
    assert pool.request("DELETE", url).status == 204
    assert pool.request("DELETE", url).status == 404


def test_nginx_workers_without_log(start: Start, tmp_path: Path, pool: urllib3.PoolManager) -> None:
    (tmp_path / "key").write_bytes(DATA)
    server = start(Nginx, tmp_path, workers=2, access_log=False)
    assert pool.request("GET", f"{server.url}/key").data == DATA
    with pytest.raises(TimeoutError):
        server.requests(timeout=0.05)


def test_caddy_options(start: Start, tmp_path: Path, pool: urllib3.PoolManager) -> None:
    (tmp_path / "key").write_bytes(DATA)
    server = start(Caddy, tmp_path, browse=False, extra="respond /teapot 418")
    assert pool.request("GET", f"{server.url}/").status == 404
    assert pool.request("GET", f"{server.url}/teapot").status == 418
    assert [entry.target for entry in server.requests()] == ["/", "/teapot"]


def test_caddy_json_index(caddy: Site, pool: urllib3.PoolManager) -> None:
    caddy.write({"child": b"1", "folder/file": b""})
    response = pool.request("GET", f"{caddy.url}/", headers={"Accept": "application/json"})
    assert {entry["name"] for entry in response.json()} == {"child", "folder/"}


def test_tls_is_verified(caddy_tls: Site, tls_ca_file: str) -> None:
    with urllib3.PoolManager(retries=False) as pool:
        with pytest.raises(urllib3.exceptions.SSLError):
            pool.request("GET", f"{caddy_tls.url}/")
    port = caddy_tls.server.port
    with urllib3.PoolManager(retries=False, ca_certs=tls_ca_file) as pool:
        assert pool.request("GET", f"https://{HOST}:{port}/").status == 200


@pytest.mark.parametrize("kind", [Nginx, Caddy, PythonHTTP, Apache])
def test_nothing_stays(start: Start, tmp_path: Path, kind: type[ChildServer]) -> None:
    start(kind).stop()
    before = open_descriptors()
    server = kind(tmp_path)
    with server:
        pid, work, port = server.pid, server.work, server.port
        assert server in running_servers()
        with server.connect():
            pass
    assert not server.running
    assert server not in running_servers()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port))
    assert not work.exists()
    # Idle connections of earlier tests' clients may be gone meanwhile.
    wait_until(lambda: open_descriptors().items() <= before.items())
    server.stop()


@pytest.mark.parametrize("kind", [Nginx, Caddy, PythonHTTP, Apache])
def test_a_server_that_ends_by_itself_shows_its_log(
    tmp_path: Path, kind: type[ChildServer], start: Start
) -> None:
    start(kind).stop()
    server = kind(tmp_path).start()
    os.kill(server.pid, 15)
    assert server._process is not None
    server._process.wait(10)
    with pytest.raises(ServerFailed, match=f"{server.name} had ended by itself"):
        server.stop()
    assert server not in running_servers()


def test_kill_is_at_once(tmp_path: Path) -> None:
    server = PythonHTTP(tmp_path).start()
    server.kill()
    assert server not in running_servers()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, server.port))


def test_a_server_that_cannot_start_shows_its_log(start: Start, tmp_path: Path) -> None:
    start(Nginx, tmp_path).stop()
    server = Nginx(tmp_path, extra="nonsense;")
    with pytest.raises(ServerFailed, match='unknown directive "nonsense"'):
        server.start()
    assert not server.work.exists()
    assert server not in running_servers()


@pytest.mark.parametrize("kind", [Caddy, PythonHTTP, Apache])
def test_a_port_that_was_taken_is_tried_no_more(
    monkeypatch: pytest.MonkeyPatch, start: Start, tmp_path: Path, kind: type[ChildServer]
) -> None:
    start(kind).stop()
    ports: list[int] = []
    reserve = ChildServer._reserve_port
    with socket.create_server((HOST, 0)) as taken:

        def reserve_taken_first(self: ChildServer) -> None:
            if not ports:
                self.port = taken.getsockname()[1]
            else:
                reserve(self)
            ports.append(self.port)

        monkeypatch.setattr(ChildServer, "_reserve_port", reserve_taken_first)
        with kind(tmp_path) as server:
            assert server.port == ports[-1] != ports[0]
            assert server.requests() == []
    assert len(ports) == 2


def test_shared_servers_tell_sites_apart(nginx: Site, pool: urllib3.PoolManager) -> None:
    other = Site(nginx.server, f"{nginx.name}-other")
    nginx.write({"key": b"1"})
    other.write({"key": b"2"})
    assert pool.request("GET", f"{nginx.url}/key").data == b"1"
    assert pool.request("GET", f"{other.url}/key").data == b"2"
    assert [entry.key for entry in nginx.requests(at_least=1)] == [f"{nginx.name}/key"]
