"""A directory is no key: its index page is never taken for a value, on any server."""

from __future__ import annotations

import pytest
from servers.site import Site

import zfast

SERVERS = ("nginx", "caddy", "apache", "pythonhttp")


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    found.write({"group/zarr.json": b"{}", "group/c/0": b"chunk"})
    return found


def test_reading_a_directory_is_an_error(site: Site) -> None:
    with zfast.Client(site.url) as client:
        with pytest.raises(zfast.ResponseError, match="directory") as caught:
            client.get("group")
        assert caught.value.status in (301, 308)
        assert client.get("group/zarr.json") == b"{}"


def test_a_directory_is_not_there(site: Site) -> None:
    with zfast.Client(site.url) as client:
        assert client.head("group") is None
    store = zfast.FastStore(site.url)
    assert "group" not in store
    assert "group/c/0" in store


async def test_a_file_is_no_directory(site: Site) -> None:
    store = zfast.FastStore(site.url)
    assert [key async for key in store.list_prefix("group/c/0/")] == []
    assert [name async for name in store.list_dir("group/c/0")] == []
    assert await store.getsize_prefix("group/c/0") == 0
    assert await store.is_empty("group/c/0")
    assert [name async for name in store.list_dir("group/c")] == ["0"]


def test_a_url_may_lead_to_a_directory(site: Site) -> None:
    """`cat_ranges` reads URLs, not keys: what a redirect leads to is what was asked for."""
    (page,) = zfast.cat_ranges([f"{site.url.rstrip('/')}/group"])
    assert b"zarr.json" in bytes(page)
