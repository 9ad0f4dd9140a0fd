"""A key has one target, printable ASCII whatever it holds; only an index page is a listing."""

from __future__ import annotations

import base64
import copy
import pickle
import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zfast.errors import ConfigurationError
from zfast.locations import HTTPLocation


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "origin"),
    [
        ("http://host", "http", "host", 80, "http://host"),
        ("https://host/", "https", "host", 443, "https://host"),
        ("HTTPS://Host.Example/a", "https", "host.example", 443, "https://host.example"),
        ("http://host:8080/a", "http", "host", 8080, "http://host:8080"),
        ("http://host:80/a", "http", "host", 80, "http://host"),
        ("http://host:/a", "http", "host", 80, "http://host"),
        ("https://host:80/a", "https", "host", 80, "https://host:80"),
        ("http://host:00080/a", "http", "host", 80, "http://host"),
        ("http://127.0.0.1:1/a", "http", "127.0.0.1", 1, "http://127.0.0.1:1"),
        ("http://[::1]:8000/a", "http", "::1", 8000, "http://[::1]:8000"),
        ("http://[0:0::1]/a", "http", "::1", 80, "http://[::1]"),
        ("http://u:p@my_host.example./a", "http", "my_host.example.", 80, None),
        ("http://xn--mnchen-3ya.de/", "http", "xn--mnchen-3ya.de", 80, None),
    ],
)
def test_splits_a_url(url: str, scheme: str, host: str, port: int, origin: str | None) -> None:
    location = HTTPLocation(url)
    assert (location.scheme, location.host, location.port) == (scheme, host, port)
    assert location.origin == (origin or f"http://{host}")
    assert location.origin == f"{scheme}://{location.authority}"


@pytest.mark.parametrize(
    ("url", "key", "target"),
    [
        ("http://host", "", b"/"),
        ("http://host", "zarr.json", b"/zarr.json"),
        ("http://host/", "c/0/0", b"/c/0/0"),
        ("http://host/a.zarr", "", b"/a.zarr"),
        ("http://host/a.zarr/", "", b"/a.zarr/"),
        ("http://host/a.zarr", "c/0", b"/a.zarr/c/0"),
        ("http://host/a.zarr/", "c/0", b"/a.zarr/c/0"),
        ("http://host/a//", "k", b"/a//k"),
        ("http://host/a?token=x", "k", b"/a/k?token=x"),
        ("http://host/a?token=x", "", b"/a?token=x"),
        ("http://host?token=x", "k", b"/k?token=x"),
        ("http://host?token=x", "", b"/?token=x"),
        ("http://host/a?", "k", b"/a/k"),
        ("http://host/a?b=c?d/e%20f g\u00e9", "k", b"/a/k?b=c?d/e%20f%20g%C3%A9"),
        # A base path is a URL's: percent-encoded or not, it comes out encoded once.
        ("http://host/a b/%C3%A9\u00e9", "k", b"/a%20b/%C3%A9%C3%A9/k"),
        ("http://host/100%/x%2Fy/%zz", "k", b"/100%25/x%2Fy/%25zz/k"),
        ("http://host/a/../b/./c/..", "k", b"/b/k"),
        ("http://host/../..", "k", b"/k"),
        ('http://host/"<>[]^`{|}', "k", b"/%22%3C%3E%5B%5D%5E%60%7B%7C%7D/k"),
        # A key is bare text: nothing in it is syntax.
        ("http://host/a", "x y", b"/a/x%20y"),
        ("http://host/a", "100%", b"/a/100%25"),
        ("http://host/a", "%20", b"/a/%2520"),
        ("http://host/a?q", "x?y#z", b"/a/x%3Fy%23z?q"),
        ("http://host/a", "\u00e9", b"/a/%C3%A9"),
        ("http://host/a", "\U0001f600", b"/a/%F0%9F%98%80"),
        ("http://host/a", "x\r\nHost: evil\0", b"/a/x%0D%0AHost:%20evil%00"),
        ("http://host/a", "-._~!$&'()*,;=:@", b"/a/-._~!$&'()*,;=:@"),
        ("http://host/a+b", "c+d", b"/a+b/c%2Bd"),
        ("http://host/a", '"<>\\^`{|}[]', b"/a/%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D"),
        ("http://host/a", ".", b"/a/%2E"),
        ("http://host/a", "..", b"/a/%2E%2E"),
        ("http://host/a", "../../etc", b"/a/%2E%2E/%2E%2E/etc"),
        ("http://host/a", "b/./c/..", b"/a/b/%2E/c/%2E%2E"),
        ("http://host/a", ".zarray", b"/a/.zarray"),
        ("http://host/a", "...", b"/a/..."),
        ("http://host/a", "a./.b", b"/a/a./.b"),
        ("http://host/a", "end.", b"/a/end."),
        ("http://host/a", "/k", b"/a//k"),
        ("http://host", "//evil/k", b"///evil/k"),
        ("http://host/a", "dir/", b"/a/dir/"),
        ("http://host/a", "lat\udce9", b"/a/lat%E9"),
    ],
)
def test_target(url: str, key: str, target: bytes) -> None:
    assert HTTPLocation(url).target(key) == target


@pytest.mark.parametrize(
    ("url", "prefix", "target"),
    [
        ("http://host", "", b"/"),
        ("http://host/a", "", b"/a/"),
        ("http://host/a/?t=1", "", b"/a/?t=1"),
        ("http://host/a", "b", b"/a/b/"),
        ("http://host/a", "b/", b"/a/b/"),
        ("http://host/a?t=1", "b c/d", b"/a/b%20c/d/?t=1"),
        ("http://host/a", "..", b"/a/%2E%2E/"),
    ],
)
def test_directory_target(url: str, prefix: str, target: bytes) -> None:
    assert HTTPLocation(url).directory_target(prefix) == target


@pytest.mark.parametrize(
    ("url", "ancestors"),
    [
        ("http://host", []),
        ("http://host/", []),
        ("http://host/a/", [("a", b"/")]),
        ("http://host/a/b%20c?t=1", [("b c", b"/a/?t=1"), ("a", b"/?t=1")]),
        ("http://host/%FF", [("\udcff", b"/")]),
        # No index page can say whether these are there.
        ("http://host/a//b", [("b", b"/a//")]),
        ("http://host/a/b%2Fc", []),
    ],
)
def test_ancestors(url: str, ancestors: list[tuple[str, bytes]]) -> None:
    assert list(HTTPLocation(url).ancestors()) == ancestors


KEYS = st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.text(
    alphabet="ab.%/?#&+ \r\n\0\u00e9"
)


@given(KEYS)
@example("a/./b")
@example("..")
@example("a\n.")
def test_target_holds_the_key_and_nothing_else(key: str) -> None:
    target = HTTPLocation("http://host/base?query=1").target(key)
    assert all(0x21 <= byte <= 0x7E for byte in target)
    assert target.endswith(b"?query=1")
    path = target.removesuffix(b"?query=1")
    assert b"?" not in path
    assert b"#" not in path
    if key:
        assert unquote_to_bytes(path) == b"/base/" + key.encode()
        assert not {b".", b".."} & set(path.split(b"/"))


@given(KEYS, KEYS)
def test_different_keys_have_different_targets(one: str, other: str) -> None:
    location = HTTPLocation("http://host/base")
    assert (location.target(one) == location.target(other)) == (one == other)


@given(st.binary(min_size=1))
def test_any_file_name_of_the_system_has_a_target(name: bytes) -> None:
    key = name.decode("utf-8", "surrogateescape")
    target = HTTPLocation("http://host").target(key)
    assert unquote_to_bytes(target) == b"/" + name


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        HTTPLocation("http://host").target("\ud800")


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("https://host/", None),
        ("https://@host/", None),
        ("https://ann@host/", b"ann:"),
        ("https://ann:@host/", b"ann:"),
        ("https://ann:s3cret@host/", b"ann:s3cret"),
        ("https://ann:s3:c@ret@host/", b"ann:s3:c@ret"),
        ("https://a%40nn:s%2F%3F%23@host/", b"a@nn:s/?#"),
        ("https://ann:p\u00e4ss@host/", "ann:p\u00e4ss".encode()),
        ("https://:token@host/", b":token"),
    ],
)
def test_userinfo_is_basic_authorization(url: str, credentials: bytes | None) -> None:
    given = HTTPLocation(url).authorization
    if credentials is None:
        assert given is None
    else:
        assert given is not None
        scheme, _, encoded = given.partition(" ")
        assert scheme == "Basic"
        assert base64.b64decode(encoded, validate=True) == credentials


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "write http:// or https:// in front"),
        ("host/a", "write http:// or https:// in front"),
        ("host:80/a", "write http:// or https:// in front"),
        ("//host/a", "write http:// or https:// in front"),
        ("/local/path", "write http:// or https:// in front"),
        ("http:/host/a", "write http:// or https:// in front"),
        ("s3://bucket/a", "scheme is s3, but has to be http or https"),
        ("file:///a", "scheme is file, but has to be http or https"),
        ("http:///a", "there is no host"),
        ("http://:80/a", "there is no host"),
        ("http://host/a#b", "write a # in a path as %23"),
        ("http://host:http/a", "port has to be a number from 1 to 65535"),
        ("http://host:0/a", "port has to be a number from 1 to 65535"),
        ("http://host:65536/a", "port has to be a number from 1 to 65535"),
        ("http://host:-1/a", "port has to be a number from 1 to 65535"),
        ("http://host:\u0661/a", "port has to be a number from 1 to 65535"),
        ("http://::1/a", "write an IPv6 address in [ ]"),
        ("http://[::1/a", "write an IPv6 address in [ ]"),
        ("http://[nonsense]/a", "has to be an IPv6 address"),
        ("http://[fe80::1%25eth0]/a", "has to be an IPv6 address, without zone"),
        ("http://m\u00fcnchen.de/", "ASCII form, which starts with xn--"),
        ("http://ho st/a", "characters that no host name has"),
        ("http://ho%73t/a", "characters that no host name has"),
        ("http://host\\@evil/a", "write / instead of \\"),
        ("http://host/a\r\nX: y", "no control characters"),
        ("http://host/a\0", "no control characters"),
        (" http://host/a", "no space around it"),
        ("http://host/a\n", "no control characters"),
        ("http://a%3Ab:c@host/", "a user has no colon"),
        ("http://a:b%0D%0A@host/", "no control characters"),
        ("http://host/\udce9", "percent-encode the bytes of a path that is not UTF-8"),
    ],
)
def test_an_invalid_url_is_refused_with_advice(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HTTPLocation(url)
    assert message in str(caught.value)


def test_a_url_has_to_be_text() -> None:
    with pytest.raises(ConfigurationError, match="is a str, not bytes"):
        HTTPLocation(b"http://host/")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:s3cret@host:x/a?token=s3cret",
        "https://ann:s3cret/@host/a",
        "https://ann:s3cret?@host/a",
        "https://ann:s3cret#@host/a",
        "ftp://ann:s3cret@host/a?token=s3cret",
        "ann:s3cret@host/a?token=s3cret",
        "http:/ann:s3cret@host/a?token=s3cret",
        "https//ann:s3cret@host/a",
        "//ann:s3cret@host/a",
        "http:///ann:s3cret@host/a",
        "https://ann:s3cret@host/a?token=s3cret#frag",
        "https://a%3A:s3cret@host/",
        "https://ann:s3cret@host/\n?token=s3cret",
    ],
)
def test_a_refusal_shows_no_secret(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HTTPLocation(url)
    assert "s3cret" not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))


def test_shows_no_secret() -> None:
    location = HTTPLocation("https://ann:s3cret@host:8443/a b?token=s3cret")
    assert location.url == "https://host:8443/a%20b"
    assert repr(location) == "HTTPLocation('https://host:8443/a%20b')"
    assert location.display("x y/0") == "https://host:8443/a%20b/x%20y/0"
    assert location.display("") == location.url
    for shown in (repr(location), location.origin, location.authority, location.display("k")):
        assert "s3cret" not in shown
        assert "ann" not in shown


def test_pickles_and_compares_by_what_it_asks_for() -> None:
    url = "https://ann:s3cret@host/a?token=x"
    location = HTTPLocation(url)
    for twin in (pickle.loads(pickle.dumps(location)), copy.deepcopy(location), HTTPLocation(url)):
        assert twin == location
        assert hash(twin) == hash(location)
        assert twin.target("k") == location.target("k")
        assert twin.authorization == location.authorization
    assert HTTPLocation("http://Host:80/a/") == HTTPLocation("http://host/a")
    for other in (
        "http://ann:s3cret@host/a?token=x",
        "https://bob:s3cret@host/a?token=x",
        "https://ann:s3cret@host/b?token=x",
        "https://ann:s3cret@host/a?token=y",
        "https://ann:s3cret@host:1/a?token=x",
    ):
        assert HTTPLocation(other) != location
    assert location != url


# Directory index pages, as they could be; those of real servers are in test_listing.py.

LOCATION = HTTPLocation("http://host:81/a b/c?token=1")
TARGET = LOCATION.directory_target("")


def parse(body: str | bytes, content_type: str = "text/html") -> list[tuple[str, bool]] | None:
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogateescape")
    listing = LOCATION.parse_listing(raw, content_type, TARGET)
    return None if listing is None else [tuple(entry) for entry in listing]


def index_page(*links: str) -> str:
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    return f"<title>Index of /a b/c/</title><h1>Index of /a b/c/</h1><pre>{anchors}</pre>"


@pytest.mark.parametrize(
    ("link", "entry"),
    [
        ("k", ("k", False)),
        ("k/", ("k", True)),
        ("./k", ("k", False)),
        ("././k/", ("k", True)),
        ("/a%20b/c/k", ("k", False)),
        ("/a b/%63/k/", ("k", True)),
        ("http://host:81/a%20b/c/k", ("k", False)),
        ("HTTP://Host:81/a%20b/c/k", ("k", False)),
        ("//host:81/a%20b/c/k", ("k", False)),
        ("%2525", ("%25", False)),
        ("&quot;&amp;", ('"&', False)),
        ("\udce9", ("\udce9", False)),
        ("", None),
        ("/", None),
        (".", None),
        ("./", None),
        ("./..", None),
        ("../", None),
        ("../c/", None),
        ("%2e%2e/", None),
        ("%2e", None),
        ("k//", None),
        ("k/l", None),
        ("k%2Fl", None),
        ("k%00", None),
        ("../k", None),
        ("/k", None),
        ("/a%20b/k", None),
        ("/a%20b/c", None),
        ("/a%20b/c/", None),
        ("/a%20b/cc/k", None),
        ("/a%20b/c/k/l", None),
        ("?C=N;O=D", None),
        ("k?C=N", None),
        ("#k", None),
        ("k#l", None),
        ("http://host/a%20b/c/k", None),
        ("http://host:81.evil/a%20b/c/k", None),
        ("http://host:81@evil/a%20b/c/k", None),
        ("https://host:81/a%20b/c/k", None),
        ("http://evil:81/a%20b/c/k", None),
        ("//evil:81/a%20b/c/k", None),
        ("mailto:ann", None),
        ("javascript:k", None),
    ],
)
def test_only_a_link_to_a_direct_child_is_an_entry(
    link: str, entry: tuple[str, bool] | None
) -> None:
    assert parse(index_page("first", link)) == [("first", False), *([entry] if entry else [])]


def test_a_page_whose_way_up_has_no_slash_does_not_tell_directories_from_files() -> None:
    assert parse(index_page("first", "..")) is None
    assert parse('<a href="..">x</a>' + index_page("first")) == [("first", False)]


def test_links_around_the_list_are_no_entries() -> None:
    assert parse('<a href="phantom">x</a>' + index_page("k") + '<a href="z">x</a>') == [
        ("k", False)
    ]


def test_the_order_is_the_servers_and_nothing_is_listed_twice() -> None:
    assert parse(index_page("z", "a/", "./z", "m", "a/", "%7A")) == [
        ("z", False),
        ("a", True),
        ("m", False),
    ]


@pytest.mark.parametrize(
    "page",
    [
        "",
        "hello",
        index_page("k").replace("Index of /", "Index of "),
        index_page("k").replace("<title>", "<title>The "),
        index_page("k").replace("title>", "h2>"),
        index_page("k").replace("pre>", "p>"),
        '<title>k</title><div id="summary"></div><div class="listing"><a href="k">k</a></div>',
        '<div class="listing"><a href="k">k</a></div><a href="https://caddyserver.com">C</a>',
        "<title>Index of /</title><![broken",
    ],
)
def test_an_ordinary_page_is_no_listing(page: str) -> None:
    assert parse(page) is None


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/octet-stream", "application/xml", ";;"]
)
def test_only_html_and_json_are_read(content_type: str) -> None:
    assert parse(index_page("k"), content_type) is None


@pytest.mark.parametrize(
    "content_type", ["TEXT/HTML", "text/html;charset=ISO-8859-1", " text/html ; charset=utf-16"]
)
def test_parameters_of_the_content_type_do_not_matter(content_type: str) -> None:
    assert parse(index_page("%C3%A9"), content_type) == [("\u00e9", False)]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("[]", []),
        ('[{"name": "k/", "url": "./k/", "is_dir": true}]', [("k", True)]),
        ('[{"name": "k l", "url": "./k%20l", "is_dir": false}]', [("k l", False)]),
        ('[{"name": "k l", "type": "file"}]', [("k l", False)]),
        ('[{"name": "%?#:", "type": "directory"}]', [("%?#:", True)]),
        ('[{"name": "..", "type": "directory"}]', []),
        ('[{"name": "a/b", "type": "file"}]', []),
        ('[{"url": "http://evil/a%20b/c/k", "is_dir": false}]', []),
        ('[{"url": "\\ud800", "is_dir": false}]', []),
        ('[{"name": "\\ud800", "type": "file"}]', None),
        ('[{"name": "k", "type": "user"}]', None),
        ('[{"name": "k"}]', None),
        ('[{"name": "k", "type": "file"}, {"id": 1}]', None),
        ("[1]", None),
        ("[null]", None),
        ("null", None),
        ('{"name": "k", "type": "file"}', None),
        ('{"zarr_format": 3}', None),
        ("[", None),
        ("[" * 100_000, None),
    ],
)
def test_json(text: str, entries: list[tuple[str, bool]] | None) -> None:
    assert parse(text, "application/json; charset=utf-8") == entries


@pytest.mark.parametrize("junk", ["<", "<a href=", '<a href="', "<a ", "</", "<!--", "<![CDATA["])
def test_a_hostile_page_takes_no_quadratic_time(junk: str) -> None:
    page = index_page("k")
    started = time.process_time()
    parse(page + junk * 50_000)
    parse(page.replace("</pre>", junk * 50_000))
    # Seconds where it is linear would be minutes where it is not.
    assert time.process_time() - started < 5


MARKUP = st.lists(
    st.sampled_from(
        [
            "<title>Index of /",
            "</title>",
            "<pre>",
            "</pre>",
            "<ul",
            "<table>",
            '<a href="',
            "<a href=",
            '">',
            ">",
            "k/",
            "..",
            "/a%20b/c/",
            "http://host:81",
            "//",
            ":",
            "%",
            "%00",
            "&#x",
            "&#55296;",
            "<!",
            "<![",
            "<!--",
            "<?",
            "<script>",
            '<div class="listing" id=summary>',
            '<a href="https://caddyserver.com">',
            "\udcff",
            "\0",
        ]
    ),
    max_size=30,
).map("".join)


def check_sound(entries: list[tuple[str, bool]] | None) -> None:
    for name, is_dir in entries or []:
        assert isinstance(is_dir, bool)
        assert name not in ("", ".", "..")
        assert "/" not in name
        assert "\0" not in name
        LOCATION.target(name)


@given(MARKUP)
def test_any_page_is_a_listing_or_none(page: str) -> None:
    check_sound(parse(page))


@given(MARKUP)
def test_any_page_with_the_head_of_an_index_is_a_listing_or_none(page: str) -> None:
    check_sound(parse("<title>Index of /a/</title><pre>" + page))


@given(st.binary(), st.sampled_from(["text/html", "application/json"]))
def test_any_bytes_are_a_listing_or_none(body: bytes, content_type: str) -> None:
    check_sound(parse(body, content_type))
