"""The embedded file server: ranges, preconditions, framing, index pages, and its end."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from zfast import serve
from zfast.serve import RangeNotSatisfiable, RangeServer, select_range, serving

BODY = bytes(range(256)) * 4
LARGE = os.urandom(3 * 1024 * 1024 + 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    (root / "a" / "c").mkdir(parents=True)
    (root / "a" / "c" / "0").write_bytes(BODY)
    (root / "a" / "zarr.json").write_text("{}")
    (root / "empty").write_bytes(b"")
    (root / "large").write_bytes(LARGE)
    (root / "sp ace %25 #?é").write_bytes(b"odd")
    (root / "index.html").write_text("an ordinary file")
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as running:
        yield running


@pytest.fixture
def connection(server: RangeServer) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    ) as opened:
        yield opened


def ask(
    connection: http.client.HTTPConnection, target: str, method: str = "GET", **fields: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(
        method, target, headers={name.replace("_", "-"): value for name, value in fields.items()}
    )
    response = connection.getresponse()
    return response, response.read()


# select_range


@pytest.mark.parametrize(
    ("field", "size", "selected"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=2-5", 10, (2, 6)),
        ("bytes=8-99", 10, (8, 10)),
        ("bytes=9-", 10, (9, 10)),
        ("bytes=0-", 10, (0, 10)),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=-30", 10, (0, 10)),
        ("Bytes=1-1", 10, (1, 2)),
        (" bytes=1-1 ", 10, (1, 2)),
        ("bytes=-5", 0, None),
        ("bytes=5-2", 10, None),
        ("bytes=-", 10, None),
        ("bytes=", 10, None),
        ("bytes=0-1,4-5", 10, None),
        ("items=0-1", 10, None),
        ("bytes=+1-2", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=\u0661-\u0662", 10, None),
        ("bytes=" + "9" * 5000 + "-", 10, None),
    ],
)
def test_select_range(field: str, size: int, selected: tuple[int, int] | None) -> None:
    assert select_range(field, size) == selected


@pytest.mark.parametrize(
    ("field", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_select_range_unsatisfiable(field: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable):
        select_range(field, size)


# Files


def test_whole_file(connection: http.client.HTTPConnection) -> None:
    response, body = ask(connection, "/a/c/0")
    assert (response.status, body) == (200, BODY)
    assert response.headers["Content-Length"] == str(len(BODY))
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Range"] is None
    assert response.headers["ETag"].startswith('"')
    assert response.headers["Last-Modified"].endswith("GMT")


@pytest.mark.parametrize(
    ("field", "start", "end"),
    [("bytes=3-9", 3, 10), ("bytes=1000-", 1000, 1024), ("bytes=-16", 1008, 1024)],
)
def test_range(connection: http.client.HTTPConnection, field: str, start: int, end: int) -> None:
    response, body = ask(connection, "/a/c/0", Range=field)
    assert (response.status, body) == (206, BODY[start:end])
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BODY)}"
    assert response.headers["Content-Length"] == str(end - start)


def test_range_not_satisfiable(connection: http.client.HTTPConnection) -> None:
    response, _ = ask(connection, "/a/c/0", Range=f"bytes={len(BODY)}-")
    assert response.status == 416
    assert response.headers["Content-Range"] == f"bytes */{len(BODY)}"
    assert ask(connection, "/a/c/0")[1] == BODY


def test_several_ranges_are_ignored(connection: http.client.HTTPConnection) -> None:
    response, body = ask(connection, "/a/c/0", Range="bytes=0-1,5-6")
    assert (response.status, body) == (200, BODY)


def test_two_range_fields_are_several_ranges(server: RangeServer) -> None:
    head = exchange(server, b"GET /a/c/0 HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\n"
                            b"Range: bytes=5-6\r\nConnection: close\r\n\r\n")  # fmt: skip
    assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("field", ["bytes=-5", "bytes=0-"])
def test_empty_file(connection: http.client.HTTPConnection, field: str) -> None:
    response, body = ask(connection, "/empty")
    assert (response.status, body) == (200, b"")
    response, body = ask(connection, "/empty", Range=field)
    assert response.status == (200 if field == "bytes=-5" else 416)


@pytest.mark.parametrize(
    ("start", "end"), [(0, len(LARGE)), (5, len(LARGE) - 1), (100_000, 200_000)]
)
def test_large_bodies_by_sendfile(
    connection: http.client.HTTPConnection, start: int, end: int
) -> None:
    response, body = ask(connection, "/large", Range=f"bytes={start}-{end - 1}")
    assert response.status == 206
    assert body == LARGE[start:end]
    assert ask(connection, "/a/zarr.json")[1] == b"{}"


def test_head_has_no_body(connection: http.client.HTTPConnection) -> None:
    for target, length in (("/a/c/0", len(BODY)), ("/large", len(LARGE))):
        response, body = ask(connection, target, "HEAD")
        assert (response.status, body) == (200, b"")
        assert response.headers["Content-Length"] == str(length)
    response, body = ask(connection, "/missing", "HEAD")
    assert (response.status, body) == (404, b"")


def test_head_ignores_range(connection: http.client.HTTPConnection) -> None:
    response, _ = ask(connection, "/a/c/0", "HEAD", Range="bytes=0-1")
    assert response.status == 200
    assert response.headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize(
    "target", ["/missing", "/a/c/0/", "/a/c/0/1", "/a%00b", "/" + "n" * 300, "/a/c/0%2F1"]
)
def test_missing_keeps_the_connection(connection: http.client.HTTPConnection, target: str) -> None:
    assert ask(connection, "/a/c/0")[0].status == 200
    sock = connection.sock
    assert ask(connection, target)[0].status == 404
    assert ask(connection, "/a/c/0")[1] == BODY
    assert connection.sock is sock


def test_nothing_outside_the_folder(connection: http.client.HTTPConnection, folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    for target in ("/../secret", "/%2e%2e/secret", "/a/../../secret", "/..%2fsecret"):
        response, body = ask(connection, target)
        assert response.status == 404, target
        assert b"secret" not in body


def test_percent_encoded_target(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/sp%20ace%20%2525%20%23%3F%C3%A9")[1] == b"odd"
    assert ask(connection, "/a/c/0?a=b")[1] == BODY


def test_special_files_are_missing(connection: http.client.HTTPConnection, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    try:
        assert ask(connection, "/fifo")[0].status == 404
    finally:
        (folder / "fifo").unlink()


@pytest.mark.parametrize(
    ("error", "status"),
    [(errno.EACCES, 403), (errno.EPERM, 403), (errno.ELOOP, 404), (errno.EMFILE, 500)],
)
def test_a_file_that_cannot_be_read(
    connection: http.client.HTTPConnection,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    status: int,
) -> None:
    real = os.stat

    def failing(path: str) -> os.stat_result:
        if str(path).endswith("locked"):
            raise OSError(error, os.strerror(error), path)
        return real(path)

    monkeypatch.setattr(os, "stat", failing)
    assert ask(connection, "/locked")[0].status == status
    assert ask(connection, "/a/c/0")[1] == BODY


# Preconditions


def test_if_match(connection: http.client.HTTPConnection) -> None:
    etag = ask(connection, "/a/c/0", "HEAD")[0].headers["ETag"]
    for field in (etag, "*", f'"other", {etag}'):
        response, body = ask(connection, "/a/c/0", If_Match=field, Range="bytes=1-2")
        assert (response.status, body) == (206, BODY[1:3]), field
    for field in ('"other"', f"W/{etag}", ""):
        response, body = ask(connection, "/a/c/0", If_Match=field, Range="bytes=1-2")
        assert response.status == 412, field
        assert response.headers["ETag"] == etag


def test_if_match_comes_before_the_range(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/a/c/0", If_Match='"other"', Range="bytes=9999-")[0].status == 412


def test_if_range(connection: http.client.HTTPConnection) -> None:
    head = ask(connection, "/a/c/0", "HEAD")[0].headers
    for field in (head["ETag"], head["Last-Modified"]):
        assert ask(connection, "/a/c/0", If_Range=field, Range="bytes=1-2")[0].status == 206
    for field in ('"other"', f"W/{head['ETag']}", "Thu, 01 Jan 1970 00:00:00 GMT", "no date"):
        response, body = ask(connection, "/a/c/0", If_Range=field, Range="bytes=1-2")
        assert (response.status, body) == (200, BODY), field
    assert ask(connection, "/a/c/0", If_Range='"o"', Range="bytes=9999-")[0].status == 200


def test_not_modified(connection: http.client.HTTPConnection) -> None:
    head = ask(connection, "/a/c/0", "HEAD")[0].headers
    for fields in (
        {"If_None_Match": head["ETag"]},
        {"If_None_Match": "W/" + head["ETag"]},
        {"If_None_Match": "*"},
        {"If_Modified_Since": head["Last-Modified"]},
    ):
        response, body = ask(connection, "/a/c/0", **fields)
        assert (response.status, body) == (304, b""), fields
    for fields in (
        {"If_None_Match": '"other"', "If_Modified_Since": head["Last-Modified"]},
        {"If_Modified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"If_Modified_Since": "yesterday"},
    ):
        assert ask(connection, "/a/c/0", **fields)[0].status == 200, fields


def test_if_unmodified_since(connection: http.client.HTTPConnection) -> None:
    modified = ask(connection, "/a/c/0", "HEAD")[0].headers["Last-Modified"]
    assert ask(connection, "/a/c/0", If_Unmodified_Since=modified)[0].status == 200
    old = "Thu, 01 Jan 1970 00:00:00 GMT"
    assert ask(connection, "/a/c/0", If_Unmodified_Since=old)[0].status == 412


def test_a_changed_file_has_another_etag(
    connection: http.client.HTTPConnection, folder: Path
) -> None:
    path = folder / "changing"
    path.write_bytes(b"one")
    etag = ask(connection, "/changing")[0].headers["ETag"]
    replacement = folder / "replacement"
    replacement.write_bytes(b"two")
    status = path.stat()
    os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))
    replacement.replace(path)
    response, body = ask(connection, "/changing")
    assert body == b"two"
    assert response.headers["ETag"] != etag
    path.unlink()


def test_a_file_cut_short_closes_the_connection(
    connection: http.client.HTTPConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_part = serve.RangeRequestHandler._send_part

    def longer(self: serve.RangeRequestHandler, file: object, start: int, length: int) -> None:
        send_part(self, file, start + 10, length)  # type: ignore[arg-type]

    monkeypatch.setattr(serve.RangeRequestHandler, "_send_part", longer)
    for target in ("/a/c/0", "/large"):
        with pytest.raises(http.client.IncompleteRead):
            ask(connection, target)
        connection.close()


# Directories


def test_index_page(connection: http.client.HTTPConnection) -> None:
    response, body = ask(connection, "/a/")
    assert response.status == 200
    assert response.headers.get_content_type() == "text/html"
    assert response.headers["Content-Length"] == str(len(body))
    assert b'href="c/"' in body
    assert b'href="zarr.json"' in body
    _, root = ask(connection, "/")
    assert b'href="sp%20ace%20%2525%20%23%3F%C3%A9"' in root
    assert b'href="index.html"' in root
    response, nothing = ask(connection, "/a/", "HEAD")
    assert (response.headers["Content-Length"], nothing) == (str(len(body)), b"")


def test_directory_without_slash_redirects(connection: http.client.HTTPConnection) -> None:
    response, _ = ask(connection, "/a?x=1")
    assert (response.status, response.headers["Location"]) == (301, "/a/?x=1")
    assert ask(connection, "/a/c/0")[1] == BODY


# Connections


def exchange(server: RangeServer, request: bytes) -> bytes:
    """What the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_pipelined_requests(server: RangeServer) -> None:
    one = b"GET /a/zarr.json HTTP/1.1\r\nHost: h\r\n\r\n"
    last = b"GET /a/zarr.json HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answer = exchange(server, one * 3 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.count(b"Connection: close") == 1


def test_http_1_0(server: RangeServer) -> None:
    answer = exchange(server, b"GET /a/zarr.json HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"Connection: close\r\n\r\n{}")
    keep = b"GET /a/zarr.json HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = exchange(server, keep + b"GET /a/zarr.json HTTP/1.0\r\n\r\n")
    assert answer.count(b"{}") == 2


def test_request_content_is_not_taken_for_a_request(server: RangeServer) -> None:
    smuggled = b"GET /a/zarr.json HTTP/1.1\r\nHost: h\r\n\r\n"
    answer = exchange(
        server,
        b"GET /a/c/0 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled,
    )
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_writing_is_not_implemented(server: RangeServer, method: str) -> None:
    response = urllib3.request(method, server.url + "/a/zarr.json", body=b"x", retries=False)
    assert response.status == 501


def test_many_connections_at_once(server: RangeServer) -> None:
    with (
        urllib3.PoolManager(maxsize=64, block=True) as pool,
        ThreadPoolExecutor(64) as threads,
    ):

        def fetch(index: int) -> bool:
            start = index * 1000
            response = pool.request(
                "GET", f"{server.url}/large", headers={"Range": f"bytes={start}-{start + 4999}"}
            )
            return response.status == 206 and response.data == LARGE[start : start + 5000]

        assert all(threads.map(fetch, range(512)))


def test_a_client_that_leaves_is_no_news(
    server: RangeServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        sock.recv(1)
    with server._changed:
        assert server._changed.wait_for(lambda: not server._connections, timeout=5)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# Life


def test_leaving_the_block_closes_every_connection(folder: Path) -> None:
    with RangeServer(folder) as server:
        idle = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
        idle.sendall(b"GET /a/zarr.json HTTP/1.1\r\nHost: h\r\n\r\n")
        assert idle.recv(65536)
    with idle:
        assert idle.recv(1) == b""
    assert not server._connections
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
    server.close()


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(NotADirectoryError):
            RangeServer(path)
        with pytest.raises(NotADirectoryError), serving(path):
            pass


def test_serving_from_a_child(folder: Path) -> None:
    with serving(folder) as url:
        response = urllib3.request("GET", url + "/a/c/0", headers={"Range": "bytes=-2"})
        assert (response.status, response.data) == (206, BODY[-2:])
    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.request("GET", url, retries=False)


def test_serving_says_when_the_child_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError), serving(folder):
        pass


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_ends_with_its_parent(folder: Path, ending: signal.Signals) -> None:
    script = (
        "import sys, time; from zfast.serve import serving\n"
        "with serving(sys.argv[1]) as url: print(url, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            parent.send_signal(ending)
            # The server's end of the connection is closed when its process is gone.
            assert sock.recv(1) == b""


def test_command_line(folder: Path) -> None:
    command = [sys.executable, "-m", "zfast.serve", str(folder), "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert select.select([child.stdout], [], [], 20)[0]
        url = child.stdout.readline().decode().strip()
        assert urllib3.request("GET", url + "/a/zarr.json").data == b"{}"
        child.stdin.close()
        assert child.wait(10) == 0


def test_command_line_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "zfast.serve", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(b"http://127.0.0.1:")
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        assert child.stderr.read() == b""


@pytest.mark.parametrize("arguments", [["/no/such/folder"], ["--port", "99999", "."]])
def test_command_line_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(arguments) == 1
    assert capsys.readouterr().err.startswith("zfast: ")
