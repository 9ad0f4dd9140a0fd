"""FastStore for zarr 2: translates zarr's `Store` into calls of a Client."""

from __future__ import annotations

import functools
from typing import Any

from zarr.errors import ReadOnlyError  # type: ignore[attr-defined]
from zarr.storage import Store  # type: ignore[attr-defined]
from zarr.util import (  # type: ignore[import-not-found]
    ensure_contiguous_ndarray_or_bytes,
    normalize_storage_path,
)

from zfast._mapping import KeyMapping
from zfast.client import Client
from zfast.directories import ZARR_2_DOCUMENTS
from zfast.errors import ListingError
from zfast.keys import names_object

__all__ = ["FastStore"]


class FastStore(KeyMapping, Store):
    """The objects below a URL as a zarr store and as a mapping of keys to bytes.

    Parameters
    ----------
    url : str
        ``http(s)://[user:pass@]host[:port]/base/path[?query]``
    read_only : bool
        Whether writing raises; a store that is not sends PUT and DELETE.
    pipeline : bool, optional
        Kept with the configuration, and of no effect: zarr 2 has no codec pipelines.
    **options
        Those of `zfast.Client`.

    Raises
    ------
    ConfigurationError
        If an argument or setting is not one that zfast can use.

    Notes
    -----
    The chunks of one array read leave as one native batch, and zarr decodes the first while the
    others arrive. A missing key is a KeyError; every
    other failure is a `ZfastError`. Whatever lists or iterates needs the server's directory index
    pages and raises `ListingError` where it has none; arrays, groups and consolidated metadata
    open without.
    """

    def _set_up(self, client: Client, read_only: bool, pipeline: bool) -> None:
        super()._set_up(client, read_only, pipeline)
        self._writeable = self._erasable = not read_only

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyError

    def _content(self, value: Any) -> Any:
        # As zarr's own stores take it: of any dtype, and in the order that the chunk has.
        return ensure_contiguous_ndarray_or_bytes(value)

    def __contains__(self, key: object) -> bool:
        # zarr looks for arrays in all that it lists, its own documents too (".zgroup/.zarray").
        # Below a file there is nothing, which servers say in many ways, Caddy by 400.
        if isinstance(key, str) and any(part in ZARR_2_DOCUMENTS for part in key.split("/")[:-1]):
            return False
        return super().__contains__(key)

    def listdir(self, path: str = "") -> list[str]:
        """Names of what is directly below a path, sorted."""
        return sorted(self._open_client().list_dir(normalize_storage_path(path)))

    def rmdir(self, path: str = "") -> None:
        """Delete all keys below a path, and the directory where the server has such."""
        self._check_writable()
        client = self._open_client()
        client._run(functools.partial(client._directories.delete_dir, _directory(path)))

    def clear(self) -> None:
        """Delete all keys."""
        self.rmdir()

    def getsize(self, path: str | None = None) -> int:
        """Size in bytes of the values directly below a path, or of the value of a key.

        Returns
        -------
        int
            -1 where it cannot be had for want of a listing, which is zarr's "unknown".
        """
        client = self._open_client()
        prefix = _directory(path)
        try:
            below = list(client.list(prefix))
        except ListingError:
            return -1
        # Never a HEAD of a directory: a server may answer it for its index page.
        keys = [key for key in below if "/" not in key.removeprefix(prefix)]
        if not below:
            keys = [prefix.removesuffix("/")]
        named = list(filter(names_object, keys))
        found = client._run(functools.partial(client._operations.head_many, named))
        sizes = [-1 if info.size is None else info.size for info in found if info is not None]
        return -1 if -1 in sizes else sum(sizes)


def _directory(path: str | None) -> str:
    path = normalize_storage_path(path)
    return f"{path}/" if path else ""
