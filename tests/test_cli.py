"""The command line: what it prints, where, and with which exit status."""

from __future__ import annotations

import argparse
import http.client
import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr
from servers.scripted import ScriptedServer, Stall

import zfast
from zfast import cli, demo, serve
from zfast.serve import RangeServer

zarr3 = pytest.mark.skipif(zarr.__version__ < "3", reason="needs zarr 3")
pytestmark = zarr3

COMMAND = [sys.executable, "-m", "zfast"]
DATA = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("store")
    group = zarr.create_group(root, attributes={"title": "t", "source": "s"})
    values = np.arange(100 * 70, dtype="f4").reshape(100, 70)
    for name, shards in (("plain", None), ("sharded", (16, 16))):
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(8, 8),
            shards=shards,
            dimension_names=("y", "x"),
            attributes={"units": "m"},
        )
        array[...] = values
    group.create_group("inner")
    old = zarr.create_array(
        root / "old", shape=(10,), chunks=(4,), dtype="i2", zarr_format=2, fill_value=7
    )
    old[...] = np.arange(10)
    (root / "raw").mkdir()
    (root / "raw" / "data").write_bytes(DATA)
    (root / "raw" / "empty").write_bytes(b"")
    (root / "raw" / "page.html").write_bytes(b"<html>")
    (root / "raw" / "sub").mkdir()
    (root / "raw" / "sub" / "leaf").write_bytes(b"x")
    with RangeServer(root) as server:
        yield server.url


def facts(text: str) -> dict[str, str]:
    """The output of ``info`` by name; a name that is not repeated goes on."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        column = len(line) - len(line.lstrip()) if line.startswith(" ") else line.index("  ")
        name = line[:column].strip() or name
        found[name] = f"{found[name]}\n{line.strip()}" if name in found else line[column:].strip()
    return found


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, timeout=60, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


# Arguments


@pytest.mark.parametrize(
    ("text", "byte_range"),
    [
        ("3:9", (3, 9)),
        ("3:3", (3, 3)),
        ("3:", (3, None)),
        (":9", (None, 9)),
        (":", (None, None)),
        ("-16:", (-16, None)),
        ("-0:", (0, 0)),
    ],
)
def test_byte_range(text: str, byte_range: tuple[int | None, int | None]) -> None:
    assert cli._byte_range(text) == byte_range


@pytest.mark.parametrize(
    "text", ["", "5", "a:b", "9:3", "1:2:3", "-5:-2", "-5:3", ":-3", "0x1:", "-0:3"]
)
def test_byte_range_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        cli._byte_range(text)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["get", "http://h/"],
        ["get", "http://h/", "k", "--range", "nonsense"],
        ["ls"],
        ["demo", "--size", "0"],
        ["demo", "--size", "big"],
        ["serve", ".", "--port", "65536"],
        ["serve", ""],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: zfast")


@pytest.mark.parametrize("arguments", [["--help"], ["get", "--help"], ["--version"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 0
    out, err = capsys.readouterr()
    assert "zfast" in out
    assert err == ""


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 10, "1.5 MiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_size_text(nbytes: int, text: str) -> None:
    assert cli._size_text(nbytes) == text


# get


def test_get(url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["get", url, "raw/data"]) == 0
    assert capfdbinary.readouterr() == (DATA, b"")


@pytest.mark.parametrize(
    ("byte_range", "part"),
    [("3:9", DATA[3:9]), (":5", DATA[:5]), ("10000:", DATA[10000:]), ("-16:", DATA[-16:])],
)
def test_get_range(
    url: str, byte_range: str, part: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert cli.main(["get", url, "raw/data", "--range", byte_range]) == 0
    assert capfdbinary.readouterr() == (part, b"")


def test_get_to_a_file(url: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "out"
    assert cli.main(["get", url + "/raw", "data", "-o", str(path)]) == 0
    assert path.read_bytes() == DATA
    assert cli.main(["get", url + "/raw", "empty", "-o", str(path)]) == 0
    assert path.read_bytes() == b""
    assert capfdbinary.readouterr() == (b"", b"")


def test_get_missing(url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out"
    assert cli.main(["get", url, "raw/nothing", "-o", str(path)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("zfast: ")
    assert err.count("\n") == 1
    assert "raw/nothing" in err
    assert not path.exists()


def test_get_into_a_folder_that_is_not_there(
    url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none" / "out"
    assert cli.main(["get", url, "raw/data", "-o", str(path)]) == 1
    assert capfd.readouterr().err == f"zfast: [Errno 2] No such file or directory: '{path}'\n"


# ls


def test_ls(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", url + "/raw"]) == 0
    out, err = capfd.readouterr()
    assert sorted(line.rstrip("/") for line in out.splitlines()) == [
        "data",
        "empty",
        "page.html",
        "sub",
    ]
    assert err == ""


def test_ls_long(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "-l", url + "/raw"]) == 0
    lines = {
        line.split()[-1].rstrip("/"): line.split() for line in capfd.readouterr().out.splitlines()
    }
    assert lines["data"][0] == str(len(DATA))
    assert lines["empty"][0] == "0"
    assert lines["sub"][0] == "-"
    assert lines["page.html"][0] == "6"
    assert lines["data"][1].startswith("20")


# info


def test_info_array(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", url + "/plain"]) == 0
    out, err = capfd.readouterr()
    shown = facts(out)
    assert err == ""
    assert shown["node"] == "array, zarr format 3"
    assert shown["shape"] == "(100, 70)"
    assert shown["data type"] == "float32"
    assert shown["chunk shape"] == "(8, 8), 256 B"
    assert shown["chunks"] == "117"
    assert shown["codecs"].startswith("bytes(endian=little), zstd(")
    assert shown["dimensions"] == "y, x"
    assert shown["attributes"] == "units"
    assert "shards" not in shown
    assert int(shown["requests"]) >= 1
    assert shown["native parts"].startswith("engine: native")
    assert len(shown["native parts"].splitlines()) == 4


def test_info_sharded_array(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", url + "/sharded"]) == 0
    shown = facts(capfd.readouterr().out)
    assert shown["chunk shape"] == "(8, 8), 256 B"
    assert shown["shard shape"] == "(16, 16)"
    assert shown["shards"] == "35"
    assert shown["codecs"].startswith("bytes(endian=little), zstd(")
    assert shown["shard index"] == "at the end: bytes(endian=little), crc32c"


def test_info_format_2(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", url + "/old"]) == 0
    shown = facts(capfd.readouterr().out)
    assert shown["node"] == "array, zarr format 2"
    assert shown["chunks"] == "3"
    assert shown["codecs"].startswith("zstd(level=")
    assert shown["fill value"] == "7"


def test_info_group(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", url]) == 0
    shown = facts(capfd.readouterr().out)
    assert shown["node"] == "group, zarr format 3"
    assert shown["consolidated"] == "no"
    assert shown["attributes"] == "title, source"
    assert "inner/" in shown["members"].splitlines()
    assert "plain  float32 (100, 70)" in shown["members"].splitlines()


def test_info_where_there_is_nothing(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", url + "/raw"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("zfast: ")
    assert err.count("\n") == 1


# config


def test_config(capfd: pytest.CaptureFixture[str]) -> None:
    with zfast.config.set(max_concurrency=37):
        assert cli.main(["config"]) == 0
    out, err = capfd.readouterr()
    assert "max_concurrency" in out
    assert "37" in out
    assert err == ""


# Errors and ends


def test_no_server(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        url = server.url
    with zfast.config.set(max_attempts=1):
        assert cli.main(["get", url, "k"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("zfast: ")
    assert err.count("\n") == 1


def test_secrets_are_not_shown(capfd: pytest.CaptureFixture[str], url: str) -> None:
    host = urlsplit(url).netloc
    cli.main(["get", f"http://user:hunter2@{host}/raw?token=s3cret", "nothing"])
    cli.main(["info", f"http://user:hunter2@{host}/plain?token=s3cret"])
    out, err = capfd.readouterr()
    assert err.startswith("zfast: ")
    assert "plain" in out
    for secret in ("hunter2", "s3cret"):
        assert secret not in out + err


def test_traceback_on_demand(url: str) -> None:
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "get", url, "raw/nothing"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("k"), "KeyError: 'k'"),
        (ValueError("two\nlines"), "two lines"),
        (AssertionError(), "AssertionError"),
        (FileNotFoundError(2, "No such file", "f"), "[Errno 2] No such file: 'f'"),
    ],
)
def test_every_error_is_one_line(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(cli, "_config", fail)
    assert cli.main(["config"]) == 1
    assert capsys.readouterr() == ("", f"zfast: {line}\n")


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_config", interrupted)
    assert cli.main(["config"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_left(url: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for arguments in (("config",), ("get", url, "raw/data"), ("ls", url)):
            done = subprocess.run(
                [*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=60
            )
            assert (done.returncode, done.stderr) == (141, b""), arguments
    finally:
        os.close(writing)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "config"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"zfast: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_file_that_may_not_grow(url: str, tmp_path: Path, unbuffered: str) -> None:
    """A write that takes a part of the bytes is none."""
    size = len(DATA) // 2
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(
            [*COMMAND, "get", url, "raw/data"],
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment,
            preexec_fn=limit,
            timeout=60,
        )
    assert done.returncode == 1
    assert b"File too large" in done.stderr


def test_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    (tmp_path / "\xfcn\xef").write_bytes(b"")
    (tmp_path / "z").write_bytes(b"")
    with serve.serving(str(tmp_path)) as url:
        done = run("ls", url, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, b"z\n%C3%BCn%C3%AF\n")


@pytest.mark.parametrize("arguments", [("config",), ("get", "URL", "raw/data"), ("ls", "URL")])
def test_without_standard_output(url: str, arguments: tuple[str, ...]) -> None:
    wanted = [url if argument == "URL" else argument for argument in arguments]
    command = " ".join(map(shlex.quote, [*COMMAND, *wanted]))
    done = subprocess.run(
        ["bash", "-c", f"{command} >&-"], stderr=subprocess.PIPE, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == b"zfast: there is no standard output to write to\n"


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--size", "400"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while len(list(tmp_path.glob("zfast-demo-*/*/c/*/*"))) < 50:
        assert demo.poll() is None
        time.sleep(0.01)
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=60)
    assert (demo.returncode, said) == (130, b"")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_info_says_nothing(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(lambda request: Stall())
    info = subprocess.Popen(
        [*COMMAND, "info", server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    server.wait_requests(1)
    info.send_signal(signal.SIGINT)
    said = info.communicate(timeout=60)
    assert (info.returncode, *said) == (130, b"", b"")


def test_as_a_process(url: str) -> None:
    done = run("get", url, "raw/data", "--range", "-16:")
    assert (done.returncode, done.stdout, done.stderr) == (0, DATA[-16:], b"")
    done = run("get", url, "raw/nothing")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"zfast: ")
    assert run().returncode == 2


# serve


def test_serve(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"value")
    with subprocess.Popen(
        [*COMMAND, "serve", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        url = urlsplit(child.stdout.readline().decode().strip())
        connection = http.client.HTTPConnection(url.netloc, timeout=10)
        connection.request("GET", "/k")
        assert connection.getresponse().read() == b"value"
        connection.close()
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        assert child.stderr.read() == b""


def test_serve_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(tmp_path / "none")]) == 1
    assert "not a directory" in capsys.readouterr().err


# demo


def check_table(text: str, size: int) -> None:
    head, *rows = text.splitlines()
    assert head.startswith("array ")
    assert [row[:16].strip() for row in rows] == [layout.name for layout in demo._LAYOUTS]
    ends = {len(row) for row in rows}
    assert len(ends) == 1, "columns are aligned"
    for row in rows:
        cells = row[16:].split()
        assert cells[0] == str(size)
        assert float(cells[1]) > 0
        assert int(cells[2]) > 0
        assert cells[-1] == "equal"


def test_demo_piped() -> None:
    done = run("demo", "--size", "1")
    assert (done.returncode, done.stderr) == (0, b"")
    check_table(done.stdout.decode(), 1)


def test_demo_on_a_terminal_shows_progress_and_erases_it() -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [*COMMAND, "demo", "--size", "1"], stdout=subprocess.PIPE, stderr=theirs
        ) as child:
            assert child.stdout is not None
            out = child.stdout.read().decode()
            assert child.wait(60) == 0
        seen = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    check_table(out, 1)
    assert "writing 1 MiB" in seen
    assert "reading" in seen
    assert seen.endswith("\r\x1b[2K")
    assert "\n" not in seen


def test_demo_without_fsspec(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_has_fsspec", lambda: False)
    assert demo.run(4) == 0
    out = capsys.readouterr().out
    assert "fsspec" not in out
    check_table(out, 4)


def test_demo_requests_are_one_a_chunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_has_fsspec", lambda: False)
    monkeypatch.setattr(demo, "_LAYOUTS", demo._LAYOUTS[:1])
    assert demo.run(8) == 0
    requests = int(capsys.readouterr().out.splitlines()[1].split()[-2])
    # 8 MiB in chunks of 256 KiB, and a few documents of metadata.
    assert 32 <= requests <= 36


def test_demo_tells_wrong_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = demo._write

    def spoil(folder: str, layout: demo._Layout, values: np.ndarray) -> None:
        write(folder, layout, values)
        values[-1, -1] += 1

    monkeypatch.setattr(demo, "_has_fsspec", lambda: False)
    monkeypatch.setattr(demo, "_write", spoil)
    assert demo.run(4) == 1
    assert capsys.readouterr().out.count("DIFFERENT") == 3


def test_demo_needs_zarr_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zarr, "__version__", "2.18.7")
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "zfast: the demo needs zarr 3, this is zarr 2.18.7\n"
