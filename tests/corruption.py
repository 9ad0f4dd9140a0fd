"""What the tests of corrupt data share: the refusal that is due, and memory that is measured."""

from __future__ import annotations

import pickle
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr
from servers.nginx import Nginx, find_nginx
from servers.site import Site

import zfast
from zfast import FastStore


def quiet_server(root: Path) -> Iterator[Nginx]:
    """For a module's fixture: nginx without the logs that thousands of requests would make."""
    if find_nginx() is None:
        pytest.skip("nginx is not installed")
    server = Nginx(root, access_log=False, autoindex=False, extra="log_not_found off;")
    server.shared = True
    with server:
        yield server


def folder_of(server: Nginx) -> Site:
    """A new folder on a server."""
    site = Site(server, f"site-{len(list(server.root.iterdir()))}")
    site.root.mkdir()
    return site


def opened(site: Site) -> zarr.Array[Any]:
    """The array `a` of a site, through a store of its own."""
    return zarr.open_array(store=FastStore(site.url), path="a", mode="r")


def refused(array: Any, window: Any, key: str, inner: tuple[int, ...] | None = None) -> None:
    """A read fails with an error that says where: which object, and which inner chunk of it."""
    with pytest.raises(zfast.ZfastError) as caught:
        array[window]
    error = caught.value
    assert type(error) is zfast.errors.CorruptError, repr(error)
    assert isinstance(error, ValueError)
    assert error.key == key
    assert key in str(error)
    if inner is not None:
        assert re.search(rf"inner chunk \({', '.join(map(str, inner))},?\)", str(error)), error
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


class PeakMemory:
    """The most memory that this process has had since this was made."""

    def __init__(self) -> None:
        self._before = 0
        if sys.platform == "linux":
            # Forget the peak of what came before (proc(5)).
            Path("/proc/self/clear_refs").write_text("5")
        self._before = self._peak()

    def grown(self) -> int:
        """By how many bytes it has grown."""
        return self._peak() - self._before

    def _peak(self) -> int:
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text()
            (kibibytes,) = re.findall(r"^VmHWM:\s*([0-9]+) kB$", status, re.MULTILINE)
            return 1024 * int(kibibytes)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
