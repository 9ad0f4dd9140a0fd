"""Redirects: followed for one request, up to a limit of hops, and without credentials elsewhere."""

from __future__ import annotations

import pickle
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from promises import OBJECT, Scripted, at_once, client_of, failure, sent_ranges
from servers.leaks import wait_until
from servers.scripted import Fin, Reply, Request, Reset, ok, overlay, ranged, redirect, status

import zfast
from zfast import Client
from zfast.errors import AccessError, ConnectionFailedError, MissingKeyError, ResponseError

SECRETS = {
    "Authorization": "Bearer secret",
    "Cookie": "a=b",
    "Proxy-Authorization": "Basic x",
    "X-Amz-Security-Token": "secret",
}


def moving(moves: dict[str, str], code: int = 302) -> Callable[[Request], Reply]:
    """Redirect the keys of `moves`, serve the object under every other one."""

    def handle(request: Request) -> Reply:
        if request.key in moves:
            return redirect(moves[request.key], code)
        return ranged({request.key: OBJECT})(request)

    return handle


# ------------------------------------------------------------------------------- to the same origin


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("byte_range", [None, (5, 9), (-4, None)])
def test_every_kind(scripted: Scripted, code: int, byte_range: Any) -> None:
    server = scripted(moving({"key": "/there"}, code))
    expected = OBJECT if byte_range is None else OBJECT[slice(*byte_range)]
    client = client_of(server)
    assert client.get("key", byte_range) == expected
    first, second = server.requests
    assert (first.target, second.target) == ("/key", "/there")
    assert second.fields == first.fields
    assert second.connection == first.connection
    assert client.stats()["redirects"] == 1


LOCATIONS = [
    ("/b", "/b"),
    ("/b?x=1&y=%20", "/b?x=1&y=%20"),
    ("/b#fragment", "/b"),
    ("/b?q#fragment", "/b?q"),
    ("{origin}/b/c", "/b/c"),
    ("{origin}/b?x=1#y", "/b?x=1"),
    ("{origin}//other.example/b", "//other.example/b"),
    ("{origin}//127.0.0.1:9/../b", "//b"),
    ("{origin}///b?x=1", "///b?x=1"),
    ("{origin}", "/"),
    ("{origin}?x=1", "/?x=1"),
    ("HTTP://127.0.0.1:{port}/b", "/b"),
    ("http://user:pw@127.0.0.1:{port}/b", "/b"),
    ("//127.0.0.1:{port}/b", "/b"),
    ("sibling", "/base/folder/sibling"),
    ("./sibling", "/base/folder/sibling"),
    ("../uncle", "/base/uncle"),
    ("?x=1", "/base/folder/key?x=1"),
    ("a b", "/base/folder/a%20b"),
    ("/a b", "/a%20b"),
    ("/caf\xc3\xa9", "/caf%C3%A9"),
    ("", "/base/folder/key?access=1"),
    ("  /b  ", "/b"),
    ("/x/../b", "/b"),
    ("/b/./c/.", "/b/c/"),
    ("{origin}/x/../b/..", "/"),
    ("/.b/..c/d.?x=/../y", "/.b/..c/d.?x=/../y"),
]


@pytest.mark.parametrize(("location", "target"), LOCATIONS)
def test_where_a_location_leads(scripted: Scripted, location: str, target: str) -> None:
    def handle(request: Request) -> Reply:
        if request.index == 0:
            return redirect(location.format(origin=server.url, port=server.port))
        return ok(OBJECT)

    server = scripted(handle)
    client = Client(f"{server.url}/base?access=1", deadline=20)
    assert client.get("folder/key") == OBJECT
    assert [request.target for request in server.requests] == [
        "/base/folder/key?access=1",
        target,
    ]
    assert len(server.connections) == 1


def test_a_prefix_of_the_origin_is_another_origin(scripted: Scripted) -> None:
    # http://127.0.0.1:8000 is how http://127.0.0.1:80000 begins, too.
    server = scripted(lambda _: redirect(f"{server.url}0/b"))
    failure(ResponseError, client_of(server).get, "key")


def test_several_hops(scripted: Scripted) -> None:
    server = scripted(moving({"key": "/1", "1": "/2", "2": "/3", "3": "/end"}))
    assert client_of(server).get("key", (5, 9)) == OBJECT[5:9]
    assert server.keys() == ["key", "1", "2", "3", "end"]


@pytest.mark.parametrize("origin", ["", "{origin}", "//127.0.0.1:{port}"])
def test_a_key_is_there_by_way_of_a_directorys_name(scripted: Scripted, origin: str) -> None:
    moves = {"key": "/there/key/", "there/key/": ""}
    server = scripted(moving(moves))
    moves["there/key/"] = origin.format(origin=server.url.rstrip("/"), port=server.port) + (
        "/there/key"
    )
    assert client_of(server).get("key") == OBJECT
    assert [request.target for request in server.requests] == ["/key", "/there/key/", "/there/key"]


def test_for_one_request_alone(scripted: Scripted) -> None:
    server = scripted(moving({"key": "/there"}, 308))
    client = client_of(server)
    for _ in range(3):
        assert client.get("key") == OBJECT
    assert server.keys() == ["key", "there"] * 3


def test_of_many_at_once(scripted: Scripted) -> None:
    server = scripted(moving({str(i): f"/{i}/there" for i in range(0, 100, 2)}))
    ranges = [(str(i), (i % 10, i % 10 + 5)) for i in range(100)]
    bodies = client_of(server).get_many(ranges)
    assert bodies == [OBJECT[i % 10 : i % 10 + 5] for i in range(100)]
    assert len(server.requests) == 150


def test_retries_begin_where_the_redirect_led(scripted: Scripted) -> None:
    steps: list[Any] = [redirect("/there"), status(503), ok(OBJECT).cut(9, Reset()), ok(OBJECT)]
    server = scripted(steps)
    assert client_of(server, retries=at_once(2)).get("key") == OBJECT
    assert server.keys() == ["key", "there", "there", "there"]


def test_hops_are_no_retries(scripted: Scripted) -> None:
    server = scripted(moving({"key": "/1", "1": "/end"}))
    assert client_of(server, retries=0).get("key") == OBJECT


@pytest.mark.parametrize("origin", ["this", "another"])
def test_hops_are_no_attempts(scripted: Scripted, origin: str) -> None:
    there = scripted([redirect("/b"), status(403)])
    here = there if origin == "this" else scripted([redirect(f"{there.url}/a")])
    error = failure(AccessError, client_of(here, retries=0).get, "key")
    assert error.attempts == 1
    assert str(error).endswith("after 1 attempt")


def test_a_missing_key_behind_a_redirect(scripted: Scripted) -> None:
    server = scripted([redirect("/there"), status(404)] * 2)
    client = client_of(server)
    assert client.get("key") is None
    error = failure(MissingKeyError, client.read_into, "key", None, bytearray(1))
    assert error.key == "key"


def test_head_and_into(scripted: Scripted) -> None:
    server = scripted(moving({"key": "/there"}))
    client = client_of(server)
    info = client.head("key")
    assert info is not None
    assert info.size == len(OBJECT)
    buffer = bytearray(4)
    assert client.read_into("key", (5, 9), buffer) == 4
    assert buffer == OBJECT[5:9]
    assert sent_ranges(server) == [None, None, "bytes=5-8", "bytes=5-8"]


def test_a_redirect_with_a_long_page(scripted: Scripted) -> None:
    pages = [
        redirect("/1").with_body(b"x" * 1000),
        redirect("/2").with_body(b"x" * 200_000),
        redirect("/3").with_body(b"x" * 100).chunked(7),
        redirect("/4").with_body(b"x" * 100).until_eof(),
        redirect("/5").with_body(b"x" * 100).cut(-3),
    ]
    server = scripted([*pages, ok(OBJECT)])
    assert client_of(server).get("key") == OBJECT
    assert server.keys() == ["key", "1", "2", "3", "4", "5"]


# ---------------------------------------------------------------------------------------- the limit


@pytest.mark.parametrize("location", ["/key", "{origin}/key", "key"])
def test_a_loop_ends(scripted: Scripted, location: str) -> None:
    server = scripted(lambda _: redirect(location.format(origin=server.url)))
    client = client_of(server)
    error = failure(ResponseError, client.get, "key")
    assert "redirect" in str(error)
    assert "max_redirects" in str(error)
    assert (error.status, len(server.requests)) == (302, 11)
    with zfast.config.set({"max_redirects": 3}):
        failure(ResponseError, client_of(server).get, "key")
    assert len(server.requests) == 15


@pytest.mark.parametrize(
    ("policy", "hops"),
    [({"redirect": 2}, 2), ({"redirect": 0}, 0), ({"redirect": False}, 0), ({"redirect": 20}, 20)],
)
def test_the_limit_is_urllib3s(scripted: Scripted, policy: dict[str, Any], hops: int) -> None:
    server = scripted(lambda request: redirect(f"/{request.index}"))
    client = client_of(server, retries=at_once(3, **policy))
    assert failure(ResponseError, client.get, "key").status == 302
    assert len(server.requests) == hops + 1


def test_a_loop_over_two_origins_ends(scripted: Scripted) -> None:
    there = scripted(lambda _: redirect(f"{here.url}/key"))
    here = scripted(lambda _: redirect(f"{there.url}/key"))
    failure(ResponseError, client_of(here).get, "key")
    assert len(here.requests) + len(there.requests) == 11


# -------------------------------------------------------------------------------- to another origin


def test_another_origin(scripted: Scripted) -> None:
    there = scripted(ranged({"base/key": OBJECT}))
    here = scripted(lambda request: redirect(there.url + request.target))
    client = Client(f"{here.url}/base", deadline=20)
    ranges = [(i, i + 4) for i in range(10)]
    assert client.get_ranges("key", ranges) == [OBJECT[a:b] for a, b in ranges]
    assert client.get("key", (-4, None)) == OBJECT[-4:]
    assert {request.field("Host") for request in there.requests} == {f"127.0.0.1:{there.port}"}
    assert (len(here.requests), len(there.requests)) == (11, 11)


@pytest.mark.parametrize("method", ["get", "head"])
def test_credentials_stay_here(scripted: Scripted, method: str) -> None:
    there = scripted([ok(OBJECT)])
    here = scripted([redirect(f"{there.url}/key")])
    client = client_of(here, headers=SECRETS | {"X-Kept": "yes", "User-Agent": "mine"})
    getattr(client, method)("key")
    (first,), (second,) = here.requests, there.requests
    assert {name: first.field(name) for name in SECRETS} == SECRETS
    kept = first.fields.without("Host", *SECRETS)
    assert second.fields.without("Host") == kept
    assert second.field("X-Kept") == "yes"
    assert second.field("User-Agent") == "mine"


def test_credentials_of_a_url_stay_here(scripted: Scripted) -> None:
    there = scripted(lambda _: ok(OBJECT))
    here = scripted(lambda _: redirect(f"{there.url}/key"))
    url = here.url.replace("//", "//user:password@")
    assert Client(url, deadline=20).get("key") == OBJECT
    assert zfast.cat_ranges([f"{url}/key"], deadline=20) == [OBJECT]
    for request in here.requests:
        assert request.field("Authorization") == "Basic dXNlcjpwYXNzd29yZA=="
    assert len(there.requests) == 2
    for request in there.requests:
        assert not request.fields.has("Authorization")


def test_credentials_of_a_location_are_not_taken_up(scripted: Scripted) -> None:
    there = scripted([ok(OBJECT)])
    here = scripted([redirect(there.url.replace("//", "//user:password@") + "/key")])
    assert client_of(here).get("key") == OBJECT
    assert not there.requests[0].fields.has("Authorization")


def test_credentials_once_dropped_do_not_come_back(scripted: Scripted) -> None:
    # Who was sent elsewhere and back carries out the bidding of elsewhere.
    here = scripted(
        lambda request: redirect(f"{there.url}/x") if request.key == "key" else ok(OBJECT)
    )
    there = scripted(lambda _: redirect(f"{here.url}/chosen-there"))
    client = client_of(here, headers=SECRETS)
    assert client.get("key") == OBJECT
    assert here.keys() == ["key", "chosen-there"]
    assert here.requests[0].fields.has("Authorization")
    assert not any(here.requests[1].fields.has(name) for name in SECRETS)
    assert client.get("other") == OBJECT
    assert here.requests[2].fields.has("Authorization")


@pytest.mark.parametrize(
    "location", ["/next", "next", "{origin}/next", "{origin}", "//{host}/next"]
)
def test_credentials_stay_here_over_further_hops(scripted: Scripted, location: str) -> None:
    def handle(request: Request) -> Reply:
        place = location.format(origin=there.url, host=there.url.removeprefix("http://"))
        return redirect(place) if request.index == 0 else ok(OBJECT)

    there = scripted(handle)
    here = scripted([redirect(f"{there.url}/key")])
    assert client_of(here, headers=SECRETS).get("key") == OBJECT
    assert len(there.requests) == 2
    for request in there.requests:
        assert not any(request.fields.has(name) for name in SECRETS)


def test_the_names_to_drop_are_urllib3s(scripted: Scripted) -> None:
    there = scripted([ok(OBJECT)])
    here = scripted([redirect(f"{there.url}/key")])
    retries = at_once(remove_headers_on_redirect=["X-Api-Key"])
    client = client_of(here, headers={"x-api-key": "s", "Cookie": "a=b"}, retries=retries)
    assert client.get("key") == OBJECT
    assert not there.requests[0].fields.has("X-Api-Key")
    assert there.requests[0].field("Cookie") == "a=b"


def test_a_query_of_ones_own_stays_here(scripted: Scripted) -> None:
    there = scripted([ok(OBJECT)])
    here = scripted([redirect(f"{there.url}/key")])
    assert Client(f"{here.url}?token=secret", deadline=20).get("key") == OBJECT
    assert there.requests[0].target == "/key"


def test_retries_at_another_origin(scripted: Scripted) -> None:
    faults: list[Any] = [status(503), lambda _, reply: reply.cut_body(3), [Fin()]]
    there = scripted(overlay(ranged({"key": OBJECT}), faults))
    here = scripted(lambda request: redirect(there.url + request.target))
    assert client_of(here).get("key") == OBJECT
    assert sent_ranges(there) == [None, None, "bytes=3-", "bytes=3-"]
    assert len(here.requests) == 1


def test_to_an_origin_that_is_not_there(scripted: Scripted) -> None:
    gone = scripted([], listening=False)
    here = scripted([redirect(f"{gone.url}/key")])
    error = failure(ConnectionFailedError, client_of(here, retries=at_once(1)).get, "key")
    assert error.url == f"{here.url}/key"
    assert f"redirected to {gone.url}/key" in str(error)


def test_what_is_refused_elsewhere_says_where(scripted: Scripted) -> None:
    there = scripted([status(403)])
    here = scripted([redirect(f"{there.url}/b?signature=s3cret")])
    error = failure(AccessError, client_of(here).get, "key")
    assert f"redirected to {there.url}/b" in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.usefixtures("tls_path")
def test_to_https(scripted: Scripted, tls_context: ssl.SSLContext, tls_ca_file: str) -> None:
    there = scripted(lambda _: ok(OBJECT), tls=tls_context)
    here = scripted(lambda _: redirect(f"{there.url}/key"))
    assert client_of(here, ca_certs=tls_ca_file).get("key") == OBJECT
    error = failure(ConnectionFailedError, client_of(here, retries=0).get, "key")
    assert "TLS" in str(error)
    assert len(there.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/key",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:,x",
        "mailto:a@b",
        "unix:/run/x",
        "http://:80/key",
        "http://[::1/key",
        "http://127.0.0.1:99999/key",
        "http://127.0.0.1:port/key",
        "http://exa mple/key",
        "http:\\\\127.0.0.1\\key",
        "http://\xff/",
    ],
)
def test_nowhere(scripted: Scripted, location: str) -> None:
    server = scripted([Reply(302, b"", [("Location", location)]), ok(OBJECT)])
    client = client_of(server)
    error = failure(ResponseError, client.get, "key")
    assert (error.status, error.attempts) == (302, 1)
    assert client.get("key") == OBJECT


def test_nowhere_with_a_password(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    # Python's own error about such a host shows all of what is before it.
    location = "http://user:s3cret@ex\u2100mple.com/".encode().decode("latin-1")
    server = scripted([Reply(302, b"", [("Location", location)])])
    assert "s3cret" not in str(failure(ResponseError, client_of(server).get, "key"))
    wait_until(lambda: "a redirect cannot be followed" in caplog.text)
    assert "s3cret" not in caplog.text


def test_without_a_location(scripted: Scripted) -> None:
    server = scripted([Reply(302, b"moved"), Reply(300, b"choose", [("Location", "/b")])])
    client = client_of(server)
    assert failure(ResponseError, client.get, "key").status == 302
    assert failure(ResponseError, client.get, "key").status == 300


def test_of_two_locations_the_first_counts(scripted: Scripted) -> None:
    fields = [("Location", "/first"), ("Location", "/second")]
    server = scripted([Reply(302, b"", fields), ok(OBJECT)])
    assert client_of(server).get("key") == OBJECT
    assert server.keys() == ["key", "first"]


# ---------------------------------------------------------------------------------------- of writes


@pytest.mark.parametrize("code", [307, 308])
@pytest.mark.parametrize("size", [5, 3_000_000])
def test_a_write_is_sent_again(scripted: Scripted, code: int, size: int) -> None:
    data = b"\xab" * size
    objects: dict[str, bytes] = {}
    there = scripted(ranged(objects))
    here = scripted(lambda request: redirect(there.url + request.target, code))
    client = client_of(here, headers=SECRETS)
    assert client.put("key", data) is True
    assert objects == {"key": data}
    assert not there.requests[0].fields.has("Authorization")
    assert client.put("key", b"other", if_absent=True) is False
    assert there.requests[1].field("If-None-Match") == "*"
    assert objects == {"key": data}
    client.delete("key")
    assert objects == {}


@pytest.mark.parametrize("code", [301, 302, 303])
def test_a_write_that_would_become_a_get(scripted: Scripted, code: int) -> None:
    server = scripted(lambda request: redirect("/there", code))
    client = client_of(server)
    assert failure(ResponseError, client.put, "key", b"data").status == code
    assert failure(ResponseError, client.delete, "key").status == code
    assert server.keys("PUT") == server.keys("DELETE") == ["key"]
    assert server.keys("GET") == []


def test_a_pool_manager_of_ones_own_goes_along(scripted: Scripted) -> None:
    class Counting(urllib3.PoolManager):
        hosts: list[int | None] = []

        def connection_from_host(self, host: Any, port: Any = None, *rest: Any, **kw: Any) -> Any:
            self.hosts.append(port)
            return super().connection_from_host(host, port, *rest, **kw)

    there = scripted([ok(OBJECT)])
    here = scripted([redirect(f"{there.url}/key")])
    with Counting() as manager:
        with client_of(here, pool_manager=manager) as client:
            assert client.get("key") == OBJECT
    assert {here.port, there.port} <= set(Counting.hosts)


# ------------------------------------------------------------------------------ what it may not do


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_delete_is_not_led_to_a_directory(scripted: Scripted, elsewhere: bool) -> None:
    """All that is in it would go, and nobody has named it."""
    other = scripted(lambda _: status(204))
    base = other.url if elsewhere else ""
    server = scripted(
        lambda r: redirect(f"{base}/all/?a=b", 308) if r.key == "key" else status(204)
    )
    with pytest.raises(ResponseError, match="cannot be followed"):
        client_of(server).delete("key")
    assert [request.target for request in [*server.requests, *other.requests]] == ["/key"]


def test_a_location_that_is_too_long(scripted: Scripted) -> None:
    """It is compared and kept: a server's choice is neither to take long, nor much memory."""
    server = scripted(lambda _: redirect("/" + "a/" * 16000))
    with pytest.raises(ResponseError, match="longer than any") as raised:
        client_of(server).get("key")
    assert len(str(raised.value)) < 300
    assert len(server.requests) == 1


@pytest.mark.parametrize("tail", ["?x=1&sig='S3CRET", "'b?S3CRET", "?a=''&S3CRET"])
def test_what_a_location_is_signed_with_is_not_shown(scripted: Scripted, tail: str) -> None:
    server = scripted(lambda r: redirect(f"/there{tail}") if r.key == "key" else status(503))
    with pytest.raises(ResponseError, match="redirected to") as raised:
        client_of(server, retries=1).get("key")
    assert "S3CRET" not in f"{raised.value}{pickle.dumps(raised.value)!r}"
