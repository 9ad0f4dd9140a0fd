"""What real servers list is what the directory holds, and a listed name is a key."""

from __future__ import annotations

import html
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from servers.index_pages import COMMANDS

from zfast.locations import Entry, HTTPLocation, Listing

FILES = [
    b"zarr.json",
    b".zarray",
    b".zgroup",
    b"..hidden",
    b"0.0.0",
    b"x y",
    b" padded ",
    b"50%",
    b"%20",
    b"q?a=1&b",
    b"?C=N;O=D",
    b"h#1",
    b"am&amp;p&copy",
    b"qu\"o'te`",
    b"<i>tag",
    b"a:b",
    b"http:x",
    b"b\\c",
    b"p+q;r=s,t",
    b"~t",
    b"$(id)|{}[]^",
    b"Parent Directory",
    b"Index of ",
    b"new\nline",
    "\u00e9\u00df\u6f22\U0001f600".encode(),
    b"lat\xe9",
    b"n" * 200,
    b"n" * 199 + b"m",
    b"index.html.bak",
]
DIRECTORIES = [
    b"c",
    b".group",
    b"d e%?#&\"'<f>",
    "d\u00e9".encode(),
    b"d" * 200,
    b"d:0",
]
# Links to files that are there, such as a project's page may have.
ORDINARY_PAGE = b"""<!DOCTYPE html><html><head><title>Index of our data</title></head><body>
<h1>Our data</h1><ul><li><a href="zarr.json">zarr.json</a></li><li><a href="c/">c</a></li></ul>
</body></html>"""
HEADER = b'<table><tr><td>Notes</td></tr></table><p>See <a href="phantom">phantom</a>.</p>'

FOLDERS = ["all", "empty", "site", "headed", "off"]


@dataclass
class Tree:
    """The folder that every server serves, and what `all` in it holds."""

    root: Path
    all: set[Entry] = field(default_factory=set)

    def fill(self) -> None:
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True)
        top = os.fsencode(self.root / "all")
        for name in FILES:
            try:
                Path(os.fsdecode(top + b"/" + name)).write_bytes(name)
            except OSError:
                # A file system that takes nothing but UTF-8.
                assert name == b"lat\xe9"
                continue
            self.all.add(Entry(os.fsdecode(name), False))
        for name in DIRECTORIES:
            Path(os.fsdecode(top + b"/" + name)).mkdir()
            Path(os.fsdecode(top + b"/" + name + b"/in side")).write_bytes(name)
            self.all.add(Entry(os.fsdecode(name), True))
        (self.root / "site" / "index.html").write_bytes(ORDINARY_PAGE)
        (self.root / "site" / "zarr.json").write_bytes(b"{}")
        (self.root / "headed" / "HEADER.html").write_bytes(HEADER)
        (self.root / "headed" / "zarr.json").write_bytes(b"{}")
        (self.root / "off" / "zarr.json").write_bytes(b"{}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A web server as a child process."""

    def __init__(self, name: str, work: Path, root: Path) -> None:
        # Between finding a port free and listening on it another process may take it.
        for attempt in range(3):
            self.port = free_port()
            directory = work / f"{name}-{attempt}"
            # There already where a test before has been skipped.
            directory.mkdir(exist_ok=True)
            command = COMMANDS[name](directory, root, self.port)
            self.output = directory / "output"
            with self.output.open("wb") as output:
                self.process = subprocess.Popen(
                    command,
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory)},
                )
            if self._listens():
                return
            self.stop()
        pytest.fail(f"{name} does not start: {self.output.read_text(errors='replace')}")

    def _listens(self) -> bool:
        give_up = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < give_up:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            except OSError:
                time.sleep(0.02)
        return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Style:
    """One form in which a server lists."""

    server: str
    base: str = ""
    query: str = ""
    accept: str = "*/*"
    hides_dot_files: bool = False
    encodes_surrogates: bool = False
    refuses_controls: bool = False

    def listed_as(self, name: str) -> str:
        """The name by which this server lists a file, and serves it."""
        if not self.encodes_surrogates:
            return name
        # What is not UTF-8 comes as the UTF-8 form of Python's surrogates.
        return name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


STYLES = {
    "nginx": Style("nginx", hides_dot_files=True),
    "nginx-json": Style("nginx", base="/json", hides_dot_files=True),
    "apache-plain": Style("apache", query="?F=0"),
    "apache-fancy": Style("apache", query="?F=1"),
    "apache-table": Style("apache", query="?F=2"),
    "lighttpd": Style("lighttpd", refuses_controls=True),
    "caddy": Style("caddy"),
    "caddy-grid": Style("caddy", query="?layout=grid"),
    "caddy-json": Style("caddy", accept="application/json"),
    "python": Style("python", encodes_surrogates=True),
}


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    redirected_to: str | None


class Site:
    """What a style of a server answers, through a location."""

    def __init__(self, style: Style, port: int) -> None:
        self.style = style
        self.port = port
        self.url = f"http://127.0.0.1:{port}{style.base}"

    def location(self, path: str = "") -> HTTPLocation:
        return HTTPLocation(f"{self.url}{path}{self.style.query}")

    def get(self, target: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", target.decode("ascii"), headers={"Accept": self.style.accept})
            response = connection.getresponse()
            kind = response.getheader("Content-Type", "")
            return Answer(response.status, kind, response.read(), response.getheader("Location"))
        finally:
            connection.close()

    def list(self, location: HTTPLocation, prefix: str = "") -> Listing | None:
        target = location.directory_target(prefix)
        answer = self.get(target)
        assert answer.status == 200
        return location.parse_listing(answer.body, answer.content_type, target)


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    # Not tmp_path: that is closed to the user that Apache becomes.
    directory = Path(tempfile.mkdtemp(prefix="zfast-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def tree(work: Path) -> Tree:
    tree = Tree(work / "tree")
    tree.fill()
    return tree


@pytest.fixture(scope="module")
def servers(work: Path, tree: Tree) -> Iterator[Callable[[str], Server]]:
    started: dict[str, Server] = {}

    def start(name: str) -> Server:
        if name not in started:
            started[name] = Server(name, work, tree.root)
        return started[name]

    yield start
    for server in started.values():
        server.stop()


@pytest.fixture(params=STYLES)
def site(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Site:
    style = STYLES[request.param]
    return Site(style, servers(style.server).port)


def test_lists_every_child_once(site: Site, tree: Tree) -> None:
    listing = site.list(site.location("/all"))
    assert listing is not None
    expected = {
        Entry(site.style.listed_as(name), is_dir)
        for name, is_dir in tree.all
        if not (site.style.hides_dot_files and name.startswith("."))
    }
    assert set(listing) == expected
    assert len(listing) == len(expected)


def test_a_listed_name_is_the_key_of_what_it_names(site: Site, tree: Tree) -> None:
    contents = {site.style.listed_as(name): os.fsencode(name) for name, _ in tree.all}
    location = site.location("/all")
    listing = site.list(location)
    assert listing is not None
    for name, is_dir in listing:
        if is_dir:
            assert site.list(location, name) == Listing((Entry("in side", False),))
            answer = site.get(location.target(f"{name}/in side"))
        else:
            answer = site.get(location.target(name))
        if site.style.refuses_controls and not name.isprintable() and name.isascii():
            assert answer.status == 400
            continue
        assert (answer.status, answer.body) == (200, contents[name])


def test_dot_files_that_are_not_listed_are_there_all_the_same(site: Site) -> None:
    answer = site.get(site.location("/all").target(".zarray"))
    assert (answer.status, answer.body) == (200, b".zarray")


def test_an_empty_directory_is_an_empty_listing(site: Site) -> None:
    assert site.list(site.location("/empty")) == Listing(())
    assert site.list(site.location(), "empty") == Listing(())


def test_the_root_has_no_parent(site: Site) -> None:
    listing = site.list(site.location())
    assert listing is not None
    assert set(listing) == {Entry(folder, True) for folder in FOLDERS}


def test_a_page_of_the_directory_itself_is_no_listing(site: Site) -> None:
    location = site.location("/site")
    target = location.directory_target("")
    answer = site.get(target)
    assert answer.body == ORDINARY_PAGE
    assert location.parse_listing(answer.body, answer.content_type, target) is None


@pytest.mark.parametrize("query", ["?F=0", "?F=1", "?F=2"])
def test_links_of_a_header_are_no_entries(servers: Callable[[str], Server], query: str) -> None:
    site = Site(Style("apache", query=query), servers("apache").port)
    location = site.location("/headed")
    target = location.directory_target("")
    answer = site.get(target)
    assert HEADER in answer.body
    listing = location.parse_listing(answer.body, answer.content_type, target)
    assert listing == Listing((Entry("zarr.json", False),))


def _is_wrong_to_aiohttp(name: str) -> bool:
    is_utf_8 = name.encode("utf-8", "surrogateescape") == name.encode("utf-8", "replace")
    return not is_utf_8 or html.unescape(name) != name


def test_links_to_directories_that_have_no_slash(work: Path, tree: Tree) -> None:
    """aiohttp has it in their texts; it has no page for a name that is not UTF-8.

    Nor can one be told that has what HTML takes for a character: it does not escape its links.
    """
    root = work / "utf-8"
    (root / "empty").mkdir(parents=True)
    expected = {entry for entry in tree.all if not _is_wrong_to_aiohttp(entry.name)}
    for name, is_dir in expected:
        (root / name).mkdir() if is_dir else (root / name).touch()
    server = Server("aiohttp", work, root)
    try:
        site = Site(Style("aiohttp"), server.port)
        listing = site.list(site.location())
        assert listing is not None
        assert set(listing) == expected | {Entry("empty", True)}
        assert len(listing) == len(expected) + 1
        assert site.list(site.location(), "empty") == Listing(())
    finally:
        server.stop()


@pytest.mark.parametrize("path", ["", "/all", "/empty"])
def test_a_page_that_does_not_tell_directories_from_files_is_no_listing(
    servers: Callable[[str], Server], path: str
) -> None:
    site = Site(Style("h2o"), servers("h2o").port)
    assert site.list(site.location(path)) is None


@pytest.mark.parametrize(
    ("links", "names"),
    [
        ('<a href="c"><b>c</b>/</a> <a>no link/</a><a href="k">k</a>/', {"c": True, "k": False}),
        ('<a href="k">k</a><a name="top">all/</a>', {"k": False}),
        ('<a href="c/">c/</a><a href="k">/k..</a>', {"c": True, "k": False}),
        ('<a href="../">..</a><a href="..k">..k</a>', {"..k": False}),
    ],
)
def test_texts_that_end_in_a_slash(links: str, names: dict[str, bool]) -> None:
    page = f"<title>Index of /</title><pre>{links}</pre>".encode()
    listing = HTTPLocation("http://h").parse_listing(page, "text/html", b"/")
    assert listing is not None
    assert dict(listing) == names


def test_a_missing_directory_has_no_listing(site: Site) -> None:
    location = site.location("/nothing")
    target = location.directory_target("")
    answer = site.get(target)
    assert answer.status == 404
    assert location.parse_listing(answer.body, answer.content_type, target) is None


@pytest.mark.parametrize(("name", "status"), [("nginx", 403), ("apache", 403), ("caddy", 404)])
def test_a_server_that_does_not_list_answers_with_an_error(
    servers: Callable[[str], Server], name: str, status: int
) -> None:
    site = Site(Style(name), servers(name).port)
    location = site.location("/off")
    target = location.directory_target("")
    answer = site.get(target)
    assert answer.status == status
    assert location.parse_listing(answer.body, answer.content_type, target) is None
    assert site.get(location.target("zarr.json")).status == 200


def test_without_the_slash_there_is_a_redirect(site: Site) -> None:
    """Why a directory's target ends with a slash: one request instead of two."""
    answer = site.get(site.location("/all").target(""))
    assert answer.status in (301, 308)
    assert answer.redirected_to is not None
    assert answer.redirected_to.partition("?")[0].endswith("/all/")
