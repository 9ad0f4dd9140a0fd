"""cat_ranges: byte ranges of many URLs of many servers, in order, as one batch."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
import pytest
import urllib3
from servers.script import in_child
from servers.scripted import (
    Request,
    ScriptedServer,
    Stall,
    blackhole,
    ok,
    ranged,
    redirect,
    status,
)
from servers.site import Site

import zfast

Start = Callable[..., ScriptedServer]
Cat = Callable[..., list[Any]]

BODY = bytes(range(256)) * 4


class _Labelled(list[Any]):
    """As a pandas Series whose index are labels: a position is none of them."""

    def __getitem__(self, label: Any) -> Any:
        raise KeyError(label)


def _in_uvloop(*args: Any, **options: Any) -> list[Any]:
    uvloop = pytest.importorskip("uvloop")
    read: list[Any] = uvloop.run(zfast.cat_ranges_async(*args, **options))
    return read


def _in_asyncio(*args: Any, **options: Any) -> list[Any]:
    return asyncio.run(zfast.cat_ranges_async(*args, **options))


@pytest.fixture(params=[zfast.cat_ranges, _in_asyncio, _in_uvloop], ids=["sync", "async", "uvloop"])
def cat(request: pytest.FixtureRequest) -> Any:
    """`cat_ranges`, and its twin: whatever the one does, the other does."""
    return request.param


def echo(request: Request) -> Any:
    return ok(f"{request.field('Host')} {request.target}".encode())


# ------------------------------------------------------------------------------------------ ranges

RANGES = [
    (0, 10),
    (3, 4),
    (1000, 1024),
    (1000, 5000),
    (None, 7),
    (5, None),
    (None, None),
    (-9, None),
    (-5000, None),
    (0, 1024),
]


def test_the_same_as_fsspec(cat: Cat, nginx: Site) -> None:
    nginx.write({f"key-{i}": BODY[i:] + BODY[:i] for i in range(len(RANGES))})
    urls = [f"{nginx.url}/key-{i}" for i in range(len(RANGES))]
    starts, ends = (list(side) for side in zip(*RANGES, strict=True))
    ours = cat(urls, starts, ends)
    expected = [(BODY[i:] + BODY[:i])[slice(*wanted)] for i, wanted in enumerate(RANGES)]
    assert ours == expected
    # Its HTTP file system takes no open side, and resolves a suffix by asking for the size first.
    closed = [i for i, (start, end) in enumerate(RANGES) if start is not None and end is not None]
    theirs = fsspec.filesystem("http").cat_ranges(
        [urls[i] for i in closed], [starts[i] for i in closed], [ends[i] for i in closed]
    )
    assert theirs == [expected[i] for i in closed]


def test_one_number_is_for_all(cat: Cat, nginx: Site) -> None:
    nginx.write({"a": b"0123456789", "b": b"abcdefghij"})
    urls = [f"{nginx.url}/a", f"{nginx.url}/b"]
    assert cat(urls, 2, 5) == [b"234", b"cde"]
    assert cat(urls, -3) == [b"789", b"hij"]
    assert cat(urls, None, [1, 2]) == [b"0", b"ab"]
    assert cat(urls) == [b"0123456789", b"abcdefghij"]
    assert cat(urls, np.array([0, 8]), np.array([2, 9])) == [b"01", b"i"]
    assert cat(tuple(urls), (0, 1), (1, 2)) == [b"0", b"b"]


def test_positions_may_be_any_iterable(cat: Cat, nginx: Site) -> None:
    nginx.write({"a": b"0123456789", "b": b"abcdefghij"})
    urls = [f"{nginx.url}/a", f"{nginx.url}/b"]
    assert cat(urls, iter([0, -1]), (end for end in (2, None))) == [b"01", b"j"]
    assert cat(urls, _Labelled([1, 2]), np.array([3, 4], np.uint8)) == [b"12", b"cd"]
    assert cat(urls, np.array(8)) == [b"89", b"ij"]
    (error,) = cat([f"{nginx.url}/none"], np.array([0]), np.array([3]), on_error="return")
    assert [type(side) for side in error.byte_range] == [int, int]


def test_one_request_for_each_range(cat: Cat, nginx: Site) -> None:
    nginx.write({"key": BODY})
    count = 300
    urls = [f"{nginx.url}/key"] * count
    read = cat(urls, list(range(count)), list(range(1, count + 1)))
    assert b"".join(map(bytes, read)) == BODY[:count]
    logged = nginx.requests(count)
    assert [entry.method for entry in logged] == ["GET"] * count
    assert sorted(entry.range or "" for entry in logged) == sorted(
        f"bytes={i}-{i}" for i in range(count)
    )


def test_nothing_to_read(cat: Cat) -> None:
    assert cat([]) == []
    assert cat([], [], []) == []


def test_an_empty_range(cat: Cat, nginx: Site) -> None:
    nginx.write({"key": BODY})
    url = f"{nginx.url}/key"
    assert cat([url, url, url], [5, 5, 2000], [5, 6, 3000]) == [b"", b"\5", b""]
    assert cat([url, url], 5, np.int64(7)) == [b"\5\6"] * 2


def test_urls_may_be_any_iterable(cat: Cat, scripted: Start) -> None:
    server = scripted(lambda request: ok(b"x") if request.key == "key" else status(404))
    urls = [f"{server.url}/{key}" for key in ("key", "nothing")]
    for given in (_Labelled(urls), iter(urls), np.array(urls)):
        read = cat(given, on_error="return")  # type: ignore[arg-type]
        assert read[0] == b"x"
        assert (type(read[1]), read[1].url) == (zfast.MissingKeyError, urls[1])


@pytest.mark.parametrize(
    ("starts", "ends", "error", "match"),
    [
        ([0], None, ValueError, "2 urls, but 1 starts"),
        (None, [1, 2, 3], ValueError, "2 urls, but 3 ends"),
        (-5, 10, ValueError, "suffix"),
        (0, -1, ValueError, "negative"),
        ("ab", None, TypeError, None),
        ([0, 0.5], None, TypeError, r"starts\[1\] is a float"),
        (0.5, None, TypeError, "starts is a float"),
        (None, [None, "9"], TypeError, r"ends\[1\] is a str"),
        ([0, 5], [9, -1], ValueError, r"urls\[1\]: .*negative"),
    ],
)
def test_ranges_that_make_no_sense(
    cat: Cat,
    scripted: Start,
    starts: Any,
    ends: Any,
    error: type[Exception],
    match: str | None | None,
) -> None:
    server = scripted([])
    with pytest.raises(error, match=match):
        cat([f"{server.url}/a", f"{server.url}/b"], starts, ends)


def test_a_single_url_is_no_list(cat: Cat) -> None:
    for given in ("http://localhost/key", None):
        with pytest.raises(TypeError, match="list of URLs"):
            cat(given)


def test_an_option_that_is_none(cat: Cat) -> None:
    with pytest.raises(TypeError, match="takes no option 'max_gap'"):
        cat([], max_gap=9)
    with pytest.raises(TypeError, match="'coalesce_gap'; it is a setting"):
        cat([], coalesce_gap=9)


@pytest.mark.parametrize("url", ["ftp://localhost/key", "localhost/key", "http://", ""])
def test_a_url_that_is_none(cat: Cat, url: str) -> None:
    with pytest.raises(zfast.ConfigurationError):
        cat([url])


# -------------------------------------------------------------------------------------------- URLs


def test_urls_are_sent_as_they_are(cat: Cat, scripted: Start) -> None:
    server = scripted(echo)
    host = f"127.0.0.1:{server.port}"
    targets = ["/a%20b", "/%C3%A9/x.y~z", "/key?v=1&w=%2F", "/", "/a//b", "/a%2Fb"]
    read = cat([server.url + target for target in targets])
    assert read == [f"{host} {target}".encode() for target in targets]
    assert cat([f"{server.url}/key#fragment"]) == [f"{host} /key".encode()]
    assert cat([server.url]) == [f"{host} /".encode()]
    assert cat([f"http://LOCALHOST:{server.port}/key"]) == [
        f"localhost:{server.port} /key".encode()
    ]


def test_credentials_of_a_url_go_to_its_origin_alone(cat: Cat, scripted: Start) -> None:
    def answer(request: Request) -> Any:
        return ok((request.field("Authorization") or "none").encode())

    first, second = scripted(answer), scripted(answer)
    with_password = first.url.replace("//", "//user:secret@")
    read = cat([f"{with_password}/a", f"{second.url}/b", f"{first.url}/c"])
    assert read == [b"Basic dXNlcjpzZWNyZXQ=", b"none", b"none"]


# ------------------------------------------------------------------------------------- many origins


def test_many_origins_in_one_batch(cat: Cat, scripted: Start) -> None:
    servers = [scripted(echo) for _ in range(12)]
    urls = [f"{server.url}/{i}" for i in range(20) for server in servers]
    read = cat(urls)
    assert read == [f"127.0.0.1:{s.port} /{i}".encode() for i in range(20) for s in servers]
    assert [len(server.requests) for server in servers] == [20] * 12


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_more_origins_than_connections(cat: Cat, scripted: Start, limit: int) -> None:
    servers = [scripted(echo) for _ in range(12)]
    urls = [f"{server.url}/{i}" for i in range(10) for server in servers]

    def read() -> int:
        with zfast.config.set(max_concurrency=limit, idle_timeout=1000):
            for _ in range(3):
                assert cat(urls) == [
                    f"127.0.0.1:{s.port} /{i}".encode() for i in range(10) for s in servers
                ]
            return int(zfast.stats()["connections"])

    assert in_child(read) <= limit
    assert max(server.peak_waiting for server in servers) <= limit


def test_one_origin_that_fails_harms_no_other(cat: Cat, scripted: Start) -> None:
    good = scripted(echo)
    refused = scripted(echo, listening=False)
    broken = scripted(lambda request: b"not HTTP\r\n\r\n")
    with blackhole() as (host, port):
        urls = [
            f"{good.url}/0",
            f"{refused.url}/1",
            f"http://{host}:{port}/2",
            f"{broken.url}/3",
            f"{good.url}/4",
        ]
        read = cat(urls, on_error="return", timeout=0.3, retries=0)
    assert [type(item) for item in read] == [
        zfast.Body,
        zfast.ConnectionFailedError,
        zfast.DeadlineError,
        zfast.ResponseError,
        zfast.Body,
    ]
    for item, url in zip(read, urls, strict=True):
        if isinstance(item, zfast.ZfastError):
            assert item.url == url
            assert item.attempts == 1


def test_redirects_lead_to_other_origins(cat: Cat, scripted: Start) -> None:
    there = scripted(echo)
    here = scripted(lambda request: redirect(f"{there.url}/moved{request.target}"))
    urls = [f"{here.url}/{i}" for i in range(30)]
    assert cat(urls) == [f"127.0.0.1:{there.port} /moved/{i}".encode() for i in range(30)]


# ------------------------------------------------------------------------------------------ errors


def test_each_error_in_its_place(cat: Cat, scripted: Start) -> None:
    objects = {"a": BODY, "b": BODY}
    handler = ranged(objects)
    server = scripted(lambda r: status(403) if r.key == "secret" else handler(r))
    urls = [f"{server.url}/{key}" for key in ("a", "missing", "secret", "b")]
    read = cat(urls, [0, 1, 2, 3], [2, 3, 4, 5], on_error="return")
    assert (read[0], read[3]) == (BODY[0:2], BODY[3:5])
    assert isinstance(read[1], zfast.MissingKeyError)
    assert isinstance(read[1], FileNotFoundError)
    assert (read[1].url, read[1].byte_range, read[1].status) == (urls[1], (1, 3), 404)
    assert isinstance(read[2], zfast.AccessError)
    assert (read[2].url, read[2].status, read[2].attempts) == (urls[2], 403, 1)


@pytest.mark.parametrize(
    ("key", "error"), [("missing", zfast.MissingKeyError), ("secret", zfast.AccessError)]
)
def test_the_failure_is_raised(cat: Cat, scripted: Start, key: str, error: type[Exception]) -> None:
    handler = ranged({"a": BODY})
    server = scripted(lambda r: status(403) if r.key == "secret" else handler(r))
    with pytest.raises(error, match=key):
        cat([f"{server.url}/a", f"{server.url}/{key}", f"{server.url}/a"])


def test_each_error_says_which_url_it_is_of(cat: Cat, scripted: Start) -> None:
    server = scripted(lambda r: status(404 if "id=3" in r.target else 403))
    # They look alike: a query string is never shown.
    urls: list[Any] = [f"{server.url}/key?id={i}" for i in range(4)]
    urls += [None, "no-scheme/key"]
    for at, error in enumerate(cat(urls, on_error="return", retries=0)):
        for twin in (error, pickle.loads(pickle.dumps(error))):
            assert twin.index == at
            assert str(twin).startswith(f"urls[{at}]: ")
    there = scripted(echo)
    for url in (urls[0], urls[3], *urls[4:]):
        with pytest.raises(zfast.ZfastError) as raised:
            cat([f"{there.url}/key", url], retries=0)
        assert raised.value.index == 1


def test_a_failure_ends_what_is_under_way(cat: Cat, scripted: Start) -> None:
    stalled = threading.Event()

    def answer(request: Request) -> Any:
        if request.key == "stall":
            stalled.set()
            return Stall()
        assert stalled.wait(10)
        return status(403)

    server = scripted(answer)
    began = time.monotonic()
    with pytest.raises(zfast.AccessError):
        cat([f"{server.url}/stall", f"{server.url}/secret"])
    assert time.monotonic() - began < 5
    server.wait_for(lambda: all(connection.idle for connection in server.open_connections))


def test_on_error_that_is_unknown(cat: Cat) -> None:
    with pytest.raises(ValueError, match="on_error"):
        cat([], on_error="omit")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- options


def test_headers_go_to_every_origin(cat: Cat, scripted: Start) -> None:
    servers = [scripted(lambda r: ok((r.field("X-A") or "").encode())) for _ in range(3)]
    read = cat([f"{server.url}/key" for server in servers], headers={"X-A": "yes"})
    assert read == [b"yes"] * 3


def test_retries(cat: Cat, scripted: Start) -> None:
    server = scripted([status(503), status(503), ok(b"at last")])
    retries = urllib3.Retry(2, backoff_factor=0, status_forcelist=[503])
    assert cat([f"{server.url}/key"], retries=retries) == [b"at last"]
    once = scripted([status(503)])
    with pytest.raises(zfast.ResponseError) as raised:
        cat([f"{once.url}/key"], retries=0)
    assert (raised.value.status, raised.value.attempts) == (503, 1)


@pytest.mark.parametrize("option", ["deadline", "timeout"])
def test_time_limits(cat: Cat, scripted: Start, option: str) -> None:
    server = scripted(lambda request: Stall())
    began = time.monotonic()
    with pytest.raises(zfast.DeadlineError):
        cat([f"{server.url}/key"], retries=0, **{option: 0.1})
    assert time.monotonic() - began < 2


def test_max_concurrency(cat: Cat, scripted: Start) -> None:
    server = scripted(echo)
    read = cat([f"{server.url}/{i}" for i in range(100)], max_concurrency=2)
    assert len(read) == 100
    assert server.peak_waiting <= 2
    assert len(server.connections) <= 2


def test_missing_status(cat: Cat, scripted: Start) -> None:
    server = scripted(lambda request: status(403))
    (read,) = cat([f"{server.url}/key"], missing_status=[403], on_error="return")
    assert isinstance(read, zfast.MissingKeyError)


def test_suffix_ranges(cat: Cat, scripted: Start) -> None:
    handler = ranged({"key": BODY})

    def answer(request: Request) -> Any:
        from_the_end = (request.field("Range") or "").startswith("bytes=-")
        return status(501) if from_the_end else handler(request)

    server = scripted(answer)
    urls = [f"{server.url}/key"] * 2
    with pytest.raises(zfast.ResponseError, match="suffix_ranges=False"):
        cat(urls, -3, suffix_ranges=True, retries=0)
    assert cat(urls, [-3, 5], [None, 9], suffix_ranges=False) == [BODY[-3:], BODY[5:9]]


def test_ca_certs(cat: Cat, scripted: Start, tls_context: Any, tls_ca_file: str) -> None:
    secure = scripted(echo, tls=tls_context)
    plain = scripted(echo)
    urls = [f"{server.url}/key" for server in (secure, plain)] * 5
    read = cat(urls, ca_certs=tls_ca_file)
    assert read == [f"127.0.0.1:{s.port} /key".encode() for s in (secure, plain)] * 5


def test_pool_manager(cat: Cat, scripted: Start) -> None:
    proxy = scripted(lambda request: ok(request.target.encode()))
    manager = urllib3.ProxyManager(proxy.url)
    urls = ["http://a.example/1", "http://b.example:81/2?v=3"]
    assert cat(urls, pool_manager=manager) == [url.encode() for url in urls]


def test_a_url_that_cannot_be_read_is_one_failure_of_many(cat: Cat, nginx: Site) -> None:
    nginx.write({"key": BODY})
    url = f"{nginx.url}/key"
    (refused,) = cat([float("nan")], on_error="return")  # type: ignore[list-item]
    assert "is a str, not float" in str(refused)
    for given in (["s3://bucket/key", url], [url, "s3://bucket/key", url], ["s3://bucket/key"]):
        read = cat(given, 0, 3, on_error="return")
        for at, result in zip(given, read, strict=True):
            if at == url:
                assert result == BODY[:3]
            else:
                assert isinstance(result, zfast.ConfigurationError)
                assert "s3://bucket/key" in str(result)
        with pytest.raises(zfast.ConfigurationError, match="has to be http or https"):
            cat(given)
