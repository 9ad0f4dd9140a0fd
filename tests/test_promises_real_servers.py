"""The same promises, kept against nginx, Caddy, Apache and a server that knows no ranges."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from promises import at_once, client_of
from servers.caddy import Caddy
from servers.nginx import Nginx
from servers.site import Site

import zfast
from zfast.planner import bounds, span

SITES = ["nginx", "caddy", "apache", "pythonhttp"]
SIZES = [0, 1, 2, 20, 70_000, 3_000_000]
RANGES: list[Any] = [
    None,
    (0, 1),
    (0, 20),
    (1, 2),
    (5, 9),
    (19, 20),
    (19, 100),
    (20, 30),
    (0, 10**15),
    (1, None),
    (19, None),
    (20, None),
    (10**15, None),
    (-1, None),
    (-20, None),
    (-21, None),
    (-(10**15), None),
    (3, 3),
    (66_000, 69_999),
]


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    site: Site = request.getfixturevalue(request.param)
    return site


# `python -m http.server` lets five connections wait; a sixth waits for a second.
FEW = {"max_concurrency": 4}


def objects() -> dict[str, bytes]:
    return {f"folder/{size}": np.random.default_rng(size).bytes(size) for size in SIZES}


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_every_range_of_every_size(site: Site) -> None:
    known = objects()
    site.write(known)
    client = client_of(site, **FEW)
    items = [(key, byte_range) for key in known for byte_range in RANGES]
    expected = []
    for key, byte_range in items:
        start, end = bounds(span(byte_range), len(known[key]))
        expected.append(known[key][start:end])
    # Twice: the second time a server without ranges is known to be one.
    for _ in range(2):
        bodies = client.get_many(items)
        wrong = [item for item, a, b in zip(items, bodies, expected, strict=True) if a != b]
        assert wrong == []
    for (key, byte_range), data in zip(items, expected, strict=True):
        into = np.zeros(len(data), "V1")
        assert client.read_into(key, byte_range, into) == len(data)
        assert into.tobytes() == data


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_missing_is_missing(site: Site) -> None:
    site.write({"key": b"data"})
    client = client_of(site, **FEW)
    items = [("absent", byte_range) for byte_range in RANGES]
    assert client.get_many([*items, ("key", None), ("absent/below", None)]) == [
        *([None] * len(items)),
        b"data",
        None,
    ]
    assert client.head("absent") is None


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_head(site: Site) -> None:
    known = objects()
    site.write(known)
    client = client_of(site)
    for key, data in known.items():
        info = client.head(key)
        assert info is not None
        # Apache leaves a length of 0 out.
        assert info.size == len(data) or (info.size is None and not data)


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_odd_keys(site: Site) -> None:
    keys = ["a b", "caf\xe9", "per%20cent", "q?x=1", "h#x", "plus+and&", "semi;colon", "~tilde"]
    site.write({key: key.encode() for key in keys})
    client = client_of(site, **FEW)
    assert client.get_many([(key, None) for key in keys]) == [key.encode() for key in keys]


@pytest.mark.parametrize("site", SITES[:3], indirect=True)
def test_many_ranges_at_once(site: Site) -> None:
    data = np.random.default_rng(7).bytes(400_000)
    site.write({"key": data})
    ranges = [(i * 1000, i * 1000 + 1500) for i in range(390)]
    assert client_of(site).get_ranges("key", ranges) == [data[a:b] for a, b in ranges]


def test_one_get_a_range_and_nothing_else(nginx: Site) -> None:
    nginx.write({"key": bytes(1000)})
    client = client_of(nginx)
    client.get_ranges("key", [(i, i + 10) for i in range(100)])
    logged = nginx.requests(100)
    assert [entry.method for entry in logged] == ["GET"] * 100
    assert len({entry.range for entry in logged}) == 100
    assert {(entry.status, entry.sent) for entry in logged} == {(206, 10)}


def test_a_server_that_closes_after_some_requests(start: Any, tmp_path: Any) -> None:
    data = np.random.default_rng(3).bytes(50_000)
    (tmp_path / "key").write_bytes(data)
    server = start(Nginx, tmp_path, keepalive_requests=3)
    client = client_of(server, retries=0)
    ranges = [(i * 100, i * 100 + 200) for i in range(400)]
    assert client.get_ranges("key", ranges) == [data[a:b] for a, b in ranges]
    assert client.stats()["retries"] == 0


def test_a_server_without_ranges(start: Any, tmp_path: Any) -> None:
    data = np.random.default_rng(4).bytes(500_000)
    (tmp_path / "key").write_bytes(data)
    server = start(Nginx, tmp_path, extra="max_ranges 0;")
    client = client_of(server)
    assert client.get("key", (100, 200)) == data[100:200]
    before = len(server.requests(1))
    ranges = [(i, i + 5000) for i in range(0, 400_000, 10_000)]
    assert client.get_ranges("key", ranges) == [data[a:b] for a, b in ranges]
    assert len(server.requests(before + 1)) == before + 1


def test_a_server_that_is_restarted(start: Any, tmp_path: Any) -> None:
    (tmp_path / "key").write_bytes(b"data")
    server = start(Caddy, tmp_path)
    client = client_of(server)
    assert client.get("key") == b"data"
    server.stop()
    with pytest.raises(zfast.ZfastError) as caught:
        client_of(server, retries=at_once(1)).get("key")
    assert isinstance(caught.value, ConnectionError)


def test_an_object_that_is_replaced_while_it_is_read(nginx: Site) -> None:
    # Whatever the moment, all the bytes of one read are of one object.
    generations = [bytes([i]) * 300_000 for i in range(8)]
    nginx.write({"key": generations[0]})
    stop = threading.Event()

    def replace() -> None:
        at = 0
        while not stop.is_set():
            at = (at + 1) % len(generations)
            (nginx.root / "next").write_bytes(generations[at])
            (nginx.root / "next").rename(nginx.root / "key")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        client = client_of(nginx, max_concurrency=4)
        for _ in range(10):
            for body in client.get_many([("key", None)] * 8):
                assert len(set(memoryview(body)[::997])) == 1
                assert len(body) == 300_000
    finally:
        stop.set()
        writer.join()
