"""What a FastStore is under any zarr: a configuration, and a mapping of keys to bytes.

A configuration is a client's, whether writing is allowed, and whether the fast codec pipeline is
wanted; it alone is compared, hashed, shown and pickled.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
    ValuesView,
)
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack

import numpy as np

from zfast._core.buffers import holds_objects
from zfast.arrivals import Arrivals
from zfast.client import Client
from zfast.config import setting
from zfast.errors import ConfigurationError, ConnectionFailedError
from zfast.keys import check_object, names_object
from zfast.options import ClientOptions, check_options
from zfast.refusals import Refusals

if TYPE_CHECKING:
    from zfast._core.buffers import Body

__all__ = ["KeyMapping"]

S = TypeVar("S", bound="KeyMapping")

_READ_AT_ONCE = 64
# The attributes of every store, under any zarr.
_OURS = frozenset(
    {
        "_client",
        "_closed",
        "_pipeline",
        "_read_only",
        "_refusals",
        "_sharers",
        # zarr 3
        "_collector",
        "_is_open",
        # zarr 2
        "_erasable",
        "_writeable",
    }
)


class KeyMapping(MutableMapping[str, bytes]):
    """The part of a store that does not depend on zarr.

    Its methods block, and need the server's index pages wherever keys are iterated over.
    """

    _client: Client
    _read_only: bool
    _pipeline: bool
    _refusals: Refusals
    _closed: bool
    # Whether values are read and written as they are, and nobody but the core need see them.
    _plain: bool = True
    _sharers: weakref.WeakValueDictionary[int, KeyMapping]

    # ------------------------------------------------------------------------------- what it is

    def __init__(
        self,
        url: str,
        *,
        read_only: bool = True,
        pipeline: bool | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        check_options(type(self).__name__, options)
        self._set_up(Client(url, **options), read_only, setting("pipeline", pipeline))

    def _set_up(self, client: Client, read_only: bool, pipeline: bool) -> None:
        if read_only not in (True, False):
            raise ConfigurationError(f"read_only is {read_only!r}, but has to be True or False")
        self._client = client
        self._read_only = bool(read_only)
        self._pipeline = pipeline
        self._refusals = Refusals(client)
        self._closed = False
        self._sharers = weakref.WeakValueDictionary({id(self): self})

    @property
    def read_only(self) -> bool:
        """Whether writing raises."""
        return self._read_only

    def _check_writable(self) -> None:
        if self._read_only:
            raise ValueError("store was opened in read-only mode and does not support writing")

    def with_read_only(self, read_only: bool = False) -> Self:
        """A store of the same configuration but for `read_only`, on the same client.

        It need not be opened; closing one of the two leaves the other usable.
        """
        store = _build(type(self), self._open_client(), read_only, self._pipeline)
        vars(store).update(self._own())
        store._sharers = self._sharers
        store._sharers[id(store)] = store
        return store

    @property
    def url(self) -> str:
        """The base URL without credentials and query string."""
        return self._client.url

    def stats(self) -> dict[str, Any]:
        """Counters of this store, and of those that share its client; see `zfast.stats`."""
        return self._client.stats()

    def close(self) -> None:
        """Refuse further reads and writes. Closing twice does no harm."""
        self._closed = True
        self._sharers.pop(id(self), None)
        if not self._sharers:
            self._client.close()

    def _open_client(self) -> Client:
        if self._closed:
            raise ConnectionFailedError("the store is closed", url=self._client.url)
        return self._client

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyMapping):
            return NotImplemented
        return (
            type(self) is type(other)
            and (self._client, self._read_only, self._pipeline)
            == (other._client, other._read_only, other._pipeline)
            and _are_alike(self._own(), other._own())
        )

    def __hash__(self) -> int:
        return hash((type(self), self._client, self._read_only, self._pipeline))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, read_only={self._read_only})"

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[Any, ...]:
        made = _build, (type(self), self._client, self.read_only, self._pipeline)
        # A subclass may leave out what does not travel, as any class may.
        says = getattr(type(self), "__getstate__", None)
        own = self._own() if says is getattr(object, "__getstate__", None) else self.__getstate__()
        return (*made, own) if own else made

    def _own(self) -> dict[str, Any]:
        # What a subclass keeps besides, such as the key by which it decrypts.
        return {name: value for name, value in vars(self).items() if name not in _OURS}

    def __copy__(self) -> Self:
        return self.with_read_only(self._read_only)

    def __deepcopy__(self, memo: Any) -> Self:
        # Nothing of it changes, and connections have no copies.
        return self.__copy__()

    # ---------------------------------------------------------------------------------- reading

    def _fetch(self, key: str, byte_range: Any = None) -> Body | None:
        client = self._open_client()
        if not names_object(key):
            return None
        return self._refusals.read(key, functools.partial(client.get, byte_range=byte_range))

    def __getitem__(self, key: str) -> bytes:
        # As of a dict: what cannot be a key is none.
        body = self._fetch(key) if isinstance(key, str) else None
        if body is None:
            raise KeyError(key)
        return bytes(body)

    def __contains__(self, key: object) -> bool:
        client = self._open_client()
        if not isinstance(key, str) or not names_object(key):
            return False
        return self._refusals.read(key, client.head) is not None

    def __bool__(self) -> bool:
        # Truth through the length would list every key, on a server that may have no listing.
        return True

    def __iter__(self) -> Iterator[str]:
        # nginx's pages leave out what begins with a dot: all that says what zarr 2's arrays are.
        client = self._open_client()
        return client._iterate(
            functools.partial(client._directories.list_prefix, "", documents=True)
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def items(self) -> ItemsView[str, bytes]:
        """Keys and values; many values are read at once."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """Values; many are read at once."""
        return _Values(self)

    def getitems(
        self,
        keys: Iterable[str],
        *,
        contexts: Mapping[str, Any] | None = None,
        on_error: Literal["omit", "raise", "return"] = "omit",
    ) -> Mapping[str, Any]:
        """Read keys as one batch, whose values are there as they arrive.

        Parameters
        ----------
        keys : iterable of str
            Below the base URL.
        contexts : mapping, optional
            Of no effect: values are in the host's memory, whatever zarr 2 says is preferred.
        on_error : {"omit", "raise", "return"}
            As of fsspec's mappings: leave missing keys out; or have the call itself wait for all
            values, and raise the first failure or put each in its key's place. A missing key is
            a KeyError then.

        Returns
        -------
        mapping of str to memoryview
            Asking it for a key waits for that key.

        Raises
        ------
        KeyError
            By "raise", of a key that is missing.
        ZfastError
            The first failure, by whatever waits for a key that has not arrived for it: this method
            itself where there is but one.
        """
        client = self._open_client()
        if on_error in ("raise", "return"):
            return self._each_item(list(_keys(keys)), on_error)
        if on_error != "omit":
            raise ValueError(f"on_error is {on_error!r}; it is 'omit', 'raise' or 'return'")
        wanted = [key for key in _keys(keys) if names_object(key)]
        if len(wanted) > 1:
            return Arrivals(client, wanted)
        # Nothing could overlap: the calling thread sees to a single small read itself.
        bodies = client.get_many([(key, None) for key in wanted])
        return {
            key: memoryview(body)
            for key, body in zip(wanted, bodies, strict=True)
            if body is not None
        }

    def _each_item(
        self, keys: Sequence[str], on_error: Literal["raise", "return"]
    ) -> dict[str, Any]:
        items: dict[str, Any] = {key: KeyError(key) for key in keys}
        named = [key for key in items if names_object(key)]
        bodies = self._open_client().get_many([(key, None) for key in named], on_error=on_error)
        for key, body in zip(named, bodies, strict=True):
            if body is not None:
                items[key] = body if isinstance(body, Exception) else memoryview(body)
        if on_error == "raise":
            for item in items.values():
                if isinstance(item, KeyError):
                    raise item
        return items

    def _pairs(self) -> Iterator[tuple[str, bytes]]:
        keys = iter(self)
        while now := list(itertools.islice(keys, _READ_AT_ONCE)):
            bodies = self._open_client().get_many([(key, None) for key in now])
            for key, body in zip(now, bodies, strict=True):
                # None: deleted since it was listed.
                if body is not None:
                    yield key, bytes(body)

    # ---------------------------------------------------------------------------------- writing

    def _contents(self, items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        contents = []
        for key, value in items:
            try:
                content = self._content(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"the value of {key!r} has no bytes: {error}") from error
            contents.append((check_object(key), content))
        return contents

    def _content(self, value: Any) -> Any:
        """The bytes of a value, in C order; raises TypeError if it has none."""
        if isinstance(value, np.ndarray) and value.dtype.kind in "mM":
            # numpy gives no buffers of times.
            value = value.view("i8")
        view = memoryview(value)
        if view.c_contiguous or holds_objects(view):
            # The latter the batch refuses.
            return view
        return view.tobytes()

    def _put_many(self, items: Iterable[tuple[str, Any]]) -> None:
        self._check_writable()
        client = self._open_client()
        client._run(functools.partial(client._operations.put_many, self._contents(items), False))

    def _delete_many(self, keys: Iterable[str]) -> None:
        self._check_writable()
        client = self._open_client()
        named = [key for key in _keys(keys) if names_object(key)]
        client._run(functools.partial(client._operations.delete_many, named))

    def setitems(self, values: Mapping[str, Any]) -> None:
        """Write keys as one batch."""
        if not isinstance(values, Mapping):
            raise TypeError(f"values is a {type(values).__name__}; pass a mapping of keys to bytes")
        self._put_many(values.items())

    def delitems(self, keys: Iterable[str]) -> None:
        """Delete keys as one batch; silent where one is missing."""
        self._delete_many(keys)

    def __setitem__(self, key: str, value: Any) -> None:
        self._put_many([(key, value)])

    def __delitem__(self, key: str) -> None:
        self._check_writable()
        if key not in self:
            raise KeyError(key)
        self._delete_many([key])


class _Items(ItemsView[str, bytes]):
    _mapping: KeyMapping

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return self._mapping._pairs()


class _Values(ValuesView[bytes]):
    _mapping: KeyMapping

    def __iter__(self) -> Iterator[bytes]:
        return (value for _, value in self._mapping._pairs())


def _are_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    try:
        return one == other
    except Exception:
        # An array has no truth.
        return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def _keys(keys: Iterable[str]) -> Iterable[str]:
    if isinstance(keys, str):
        raise TypeError("keys is a str; pass a list of keys")
    return keys


def _build(cls: type[S], client: Client, read_only: bool, pipeline: bool) -> S:
    store = cls.__new__(cls)
    store._set_up(client, read_only, pipeline)
    return store
