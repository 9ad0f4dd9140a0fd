"""What hostile servers and keys get out of a reader: no secret, no line of a request, no crash."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import urllib3
from promises import at_once
from servers.caddy import Caddy
from servers.ranged import Ranged
from servers.scripted import Fin, Reply, Request, Reset, ScriptedServer, redirect, status
from servers.site import Site

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import (
    COMPRESSED,
    DIRECT,
    FACES,
    GET,
    GET_MANY,
    GET_RANGES,
    SHARDED_ANEW,
    STREAMED,
    Face,
    Faulty,
    Row,
    lasting,
    nothing_left,
    outcome,
    reading,
    warmed,
)
from few_chunks import VALUES, opened, stored

import zfast
from zfast import Client, FastStore, ZfastError
from zfast.errors import (
    ChangedError,
    ConnectionFailedError,
    CorruptError,
    NoMemoryError,
    ResponseError,
)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warmed()


# ----------------------------------------------------------------------------------------- secrets

SECRET = "s3cr3t/of:the@user"
QUOTED = quote(SECRET, safe="")


def forms(secret: str) -> set[str]:
    """A secret as it may be written."""
    plain = f"user:{secret}".encode()
    # Base64 of userinfo, but for the end that depends on what follows.
    return {secret, quote(secret), quote(secret, safe=""), base64.b64encode(plain).decode()[:-4]}


def said(error: BaseException) -> str:
    """All that an error says to anybody: to a user, a log, a debugger, another process."""
    again = pickle.loads(pickle.dumps(error))
    parts = [str(error), repr(error), repr(error.args), repr(error.__dict__), repr(again.__dict__)]
    parts += [pickle.dumps(error).decode("latin-1"), *traceback.format_exception(error)]
    chain: BaseException | None = error
    while chain is not None:
        parts += [str(chain), repr(chain), repr(chain.args)]
        chain = chain.__cause__ or chain.__context__
    return "\n".join(parts)


FAILURES: dict[str, Any] = {
    "refused credentials": lambda *_: status(401, www_authenticate='Basic realm="x"'),
    "refused": lambda *_: status(403),
    "busy": lambda *_: status(503),
    "reset": lambda *_: Reset(),
    "cut": lambda _, reply: reply.cut(-1),
    "junk": lambda *_: [b"junk\r\n\r\n", Fin()],
    "a redirect to nowhere": lambda *_: redirect(f"http://user:{QUOTED}@127.0.0.1:1/?a={QUOTED}"),
    "a redirect that cannot be": lambda *_: redirect(f"http://user:{QUOTED}@[::1/"),
    "a redirect to another scheme": lambda *_: redirect(f"ftp://user:{QUOTED}@127.0.0.1/"),
    "a redirect to a broken port": lambda *_: redirect(f"http://user:{QUOTED}@127.0.0.1:99999/"),
    "an echo": lambda request, _: Reply(400, repr(request).encode(), reason=SECRET),
}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What everybody logs, to the last detail."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.setLevel(before)
    root.removeHandler(handler)


@pytest.mark.parametrize("where", ["userinfo", "query", "authorization", "cookie", "proxy"])
@pytest.mark.parametrize("face", [GET, GET_RANGES, DIRECT, SHARDED_ANEW], ids=str)
def test_no_failure_tells_a_secret(face: Face, where: str, log: io.StringIO) -> None:
    fault: list[Any] = []
    faulty = Faulty(face.objects, lambda *args: fault[0](*args))
    with ScriptedServer(faulty) as server:
        url, options, values = server.url, {}, forms(SECRET)
        if where == "userinfo":
            url = url.replace("//", f"//user:{QUOTED}@")
        elif where == "query":
            url += f"?token={QUOTED}&user={QUOTED}"
        elif where == "authorization":
            options["headers"] = {"Authorization": f"Bearer {SECRET}"}
        elif where == "cookie":
            options["headers"] = {"Cookie": f"session={SECRET}"}
        else:
            fields = urllib3.make_headers(proxy_basic_auth=f"user:{SECRET}")
            proxy = url.replace("//", f"//user:{QUOTED}@")
            options["pool_manager"] = urllib3.ProxyManager(proxy, proxy_headers=fields)
        with reading(face, url, **options) as read:
            texts = [repr(zfast.stats()), str(zfast.show_config())]
            for name, each in FAILURES.items():
                fault[:] = [each]
                faulty.arm()
                error = outcome(read)
                assert isinstance(error, ZfastError), name
                texts.append(said(error))
                faulty.arm(0)
            read()
        # The server has met it: otherwise this would not be much of a promise.
        sent = repr([(request.target, list(request.fields)) for request in server.requests])
        assert any(value in sent for value in values)
    texts.append(log.getvalue())
    for text in texts:
        for value in values:
            assert value not in text


@pytest.mark.parametrize("way", ["userinfo", "headers"])
def test_no_object_shows_a_secret(way: str) -> None:
    with ScriptedServer(Ranged(dict(DIRECT.objects))) as server:
        url, options = server.url, {}
        if way == "userinfo":
            url = url.replace("//", f"//user:{QUOTED}@")
        else:
            options["headers"] = {"Authorization": f"Bearer {SECRET}"}
        store, client = FastStore(url, **options), Client(url, **options)
        array = opened(store)
        shown = [repr(each) for each in (store, client, array, array.info, client.url)]
        shown += [str(each) for each in (store, client, array, array.store_path, client.stats())]
        for text in shown:
            assert not any(value in text for value in forms(SECRET))
        # What the user put into it goes along, or a worker elsewhere could not read.
        again = opened(pickle.loads(pickle.dumps(store)))
        np.testing.assert_array_equal(again[...], VALUES)
        assert all(request.fields.has("Authorization") for request in server.requests)


def test_a_certificate_that_is_refused_tells_no_secret(tls_context: Any, log: io.StringIO) -> None:
    with ScriptedServer([], tls=tls_context) as server:
        url = server.url.replace("//", f"//user:{QUOTED}@") + f"?token={QUOTED}"
        error = outcome(lambda: Client(url, retries=at_once(1)).get("key"))
    assert type(error) is ConnectionFailedError
    for value in forms(SECRET):
        assert value not in said(error) + log.getvalue()


# ---------------------------------------------------------------------------- what servers may say

HOSTILE = [
    b'"v1\r\nX-Injected: 1"',
    b'"v1\nX-Injected: 1"',
    b'"v1\rX-Injected: 1"',
    b'"v1\0"',
    b'"v1\x7f"',
    b'"v1\r\n folded: 1"',
    b'"v1\tX"',
    b'"v1\xff\xe2\x80\xa8"',
    b'"v1", "v2"',
    b'"v1',
    b'"' + b"v" * 40_000 + b'"',
]
FIELDS = {"Host", "User-Agent", "Accept", "Accept-Encoding", "Range", "If-Range", "If-Match"}


@pytest.mark.parametrize("face", [GET, DIRECT, STREAMED, COMPRESSED, SHARDED_ANEW], ids=str)
@pytest.mark.parametrize("etag", HOSTILE, ids=lambda etag: repr(etag[:20]))
def test_a_hostile_tag_becomes_no_line_of_a_request(etag: bytes, face: Face) -> None:
    """It would come back as If-Match of a shard's inner chunks, and as If-Range of what was cut."""

    def hostile(request: Request, reply: Reply) -> Any:
        reply = reply.with_fields(etag=None)
        head = reply.wire_head()[:-2] + b"ETag: " + etag + b"\r\n\r\n"
        told = Reply(reply.status, reply.body, head=head)
        return told.cut_body(len(reply.body) // 2) if request.index % 3 == 0 else told

    faulty = Faulty(face.objects, hostile)
    with nothing_left(), ScriptedServer(faulty) as server:
        with reading(face, server.url, retries=at_once(9)) as read:
            faulty.arm()
            error = outcome(read)
            # Such a tag may match none of the server's own.
            assert error is None or type(error) in (ResponseError, ChangedError)
            # Malformed ones would be errors of the server.
            for request in server.requests:
                assert {name for name, _ in request.fields} <= FIELDS
                assert request.key in face.objects
            faulty.arm(0)
            read()


@pytest.mark.parametrize(
    "location",
    [b"/b\r\nX-Injected: 1", b"/b\nX: 1", b"/b\0c", b"/b HTTP/1.1\r\nX: 1", b"//\r\nHost: x/"],
)
@pytest.mark.parametrize("face", [DIRECT, SHARDED_ANEW], ids=str)
def test_a_hostile_location_becomes_no_line_of_a_request(location: bytes, face: Face) -> None:
    def hostile(request: Request, reply: Reply) -> Any:
        if request.key not in face.objects:
            return status(404)
        return [b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"]

    faulty = Faulty(face.objects, hostile)
    with nothing_left(), ScriptedServer(faulty) as server, reading(face, server.url) as read:
        read()
        faulty.arm()
        # Where the redirect leads there is no chunk, which is no failure.
        error = None
        with contextlib.suppress(AssertionError):
            error = outcome(read)
        assert error is None or type(error) in (ResponseError, ConnectionFailedError)
        for request in server.requests:
            assert {name for name, _ in request.fields} <= FIELDS


@pytest.mark.parametrize(
    "part",
    [
        ("0\r\nX-Injected: 1", 5),
        (0, "5\r\nX-Injected: 1"),
        (b"0", b"5"),
        (1.5, 3),
        (0, 1 << 70),
        (1 << 70, None),
        (-(1 << 70), None),
        (float("nan"), 3),
    ],
    ids=repr,
)
def test_a_range_is_two_numbers_or_refused(part: Any, scripted: Callable[..., Any]) -> None:
    server = scripted(Ranged({"key": b"body" * 9}))
    with Client(server.url, deadline=20) as client:
        try:
            got = client.get("key", part)
        except (TypeError, ValueError, OverflowError, ZfastError):
            pass
        else:
            # What is far beyond the end, as Python slices it.
            assert got == (b"body" * 9)[slice(*part)]
    for request in server.requests:
        assert {name for name, _ in request.fields} <= FIELDS


# ------------------------------------------------------------------------------------------- limits

LISTED = (NoMemoryError, ResponseError, CorruptError, ConnectionFailedError)


def _long(head: bytes, size: int) -> Row:
    wire = head.replace(b"{size}", b"%d" % size).replace(b"{hex}", b"%x" % size)
    name = f"{head[9:12].decode()} {'in a chunk ' if b'{hex}' in head else ''}of {size} bytes"
    return Row(name, lambda *_: [wire + b"x" * 99, Fin()], LISTED, retried=False)


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"
PART = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: {size}\r\n"
    b"Content-Range: bytes 0-{size}/*\r\n\r\n"
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{hex}\r\n"
SIZES = [1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**40]


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize(
    "row", [_long(head, size) for head in (LENGTH, PART, CHUNKED) for size in SIZES], ids=str
)
def test_a_body_that_nobody_has_memory_for(row: Row, face: Face) -> None:
    lasting(row, face, retries=0)


@pytest.mark.parametrize("face", [GET_MANY, GET_RANGES, DIRECT, STREAMED, SHARDED_ANEW], ids=str)
def test_an_endless_body_is_not_read_to_its_end(face: Face) -> None:
    """Where a range or a chunk says how much there can be; its server never comes to an end."""
    blocks = [0]

    def endless(request: Request, reply: Reply) -> Iterator[Any]:
        if request.range is None and face is GET_MANY:
            yield reply
            return
        yield reply.chunked().wire_head()
        while blocks[0] < 5000:
            blocks[0] += 1
            yield b"10000\r\n" + bytes(65536) + b"\r\n"
        yield Fin()

    row = Row("", endless, LISTED, retried=False)
    lasting(row, face, retries=0)
    assert blocks[0] < 5000


# --------------------------------------------------------------------------------------------- keys

NAMES = ["a b", "100%", "%41", "x#y", "q?z=1&w", "semi;colon", "plus+and&", "ü雪🜁", "~(tilde)'!"]
NAMES += ["a%2Fb", "caf\u00e9 e\u0301", "[x]", "{y}", "c:d", "@at", "$1,2*"]


@pytest.mark.parametrize("server", ["nginx", "caddy"])
def test_arrays_of_odd_names_on_real_servers(request: pytest.FixtureRequest, server: str) -> None:
    site: Site = request.getfixturevalue(server)
    for name in NAMES:
        site.write(stored("sharded", path=name))
    store = FastStore(site.url, deadline=20)
    for name in NAMES:
        np.testing.assert_array_equal(opened(store, name)[...], VALUES)
        assert store[f"{name}/zarr.json"] == (site.root / name / "zarr.json").read_bytes()
        assert f"{name}/c/0/0" in store
        assert f"{name}/c/9/9" not in store


def test_dots_in_a_key_lead_nowhere_else(start: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "key").write_bytes(b"inside")
    (tmp_path / "outside").write_bytes(b"outside")
    server = start(Caddy, tmp_path / "root")
    client = Client(f"{server.url}", deadline=20)
    for key in ("../outside", "..%2foutside", "a/../../outside", "./../outside", "%2e%2e/outside"):
        # That it is refused is as good as that it is missing.
        with contextlib.suppress(ZfastError):
            assert client.get(key) != b"outside"
