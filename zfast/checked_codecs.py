"""zarr's own codecs, where its pipeline reads a FastStore: a truncated frame is an error there too.

numcodecs' blosc believes what a frame's header says of its length and reads on behind the data,
which gives other values rather than an error. The core checks each frame; so do these.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numcodecs
from numcodecs.compat import ensure_contiguous_ndarray
from zarr.codecs import BloscCodec, ShardingCodec
from zarr.codecs._v2 import V2Codec

from zfast._core.codecs_native import blosc_fault

__all__ = ["checked"]


def checked(pipeline: Any) -> Any:
    """The pipeline with codecs that check what they decode; itself where there is no need.

    Parameters
    ----------
    pipeline : BatchedCodecPipeline
        zarr's, or a subclass.
    """
    array_bytes = _checked(pipeline.array_bytes_codec)
    bytes_bytes = tuple(map(_checked, pipeline.bytes_bytes_codecs))
    if array_bytes is pipeline.array_bytes_codec and all(
        new is old for new, old in zip(bytes_bytes, pipeline.bytes_bytes_codecs, strict=True)
    ):
        return pipeline
    return replace(pipeline, array_bytes_codec=array_bytes, bytes_bytes_codecs=bytes_bytes)


def _checked(codec: Any) -> Any:
    if type(codec) is ShardingCodec:
        return _with(codec, codecs=tuple(map(_checked, codec.codecs)))
    if type(codec) is V2Codec:
        filters = None if codec.filters is None else tuple(map(_checked, codec.filters))
        return _with(codec, filters=filters, compressor=_checked(codec.compressor))
    if type(codec) is numcodecs.Blosc:
        return _CheckedBlosc(codec)
    if type(codec) is not BloscCodec and getattr(codec, "codec_name", "") != "numcodecs.blosc":
        return codec
    kind: Any = type(codec)
    return _copied(codec, _checking(kind), {})


def _with(codec: Any, **changed: Any) -> Any:
    """The codec itself, or where one of these is another a copy that has them."""
    if all(_same(value, getattr(codec, name)) for name, value in changed.items()):
        return codec
    return _copied(codec, type(codec), changed)


def _copied(codec: Any, kind: type, changed: dict[str, Any]) -> Any:
    # As it is: its constructor, or copy, may parse all that is in it anew, and a codec that nobody
    # has registered cannot be made out of its name.
    new: Any = object.__new__(kind)
    vars(new).update(vars(codec), **changed)
    return new


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(a is b for a, b in zip(one, other, strict=True))
    return one is other


def _check(data: Any) -> None:
    # Whatever the bytes are called that the codec before has left.
    if fault := blosc_fault(ensure_contiguous_ndarray(data).view("u1")):
        raise ValueError(fault)


class _CheckedBlosc:
    """One of numcodecs, as arrays of zarr format 2 have it."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        if name == "_codec":
            # Of a copy, before it has one.
            raise AttributeError(name)
        return getattr(self._codec, name)

    def decode(self, data: Any, out: Any = None) -> Any:
        _check(data)
        return self._codec.decode(data, out)


@lru_cache
def _checking(kind: Any) -> Any:
    """A subclass of a codec of zarr 3's."""

    async def decode_single(self: Any, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _check(chunk_bytes.as_numpy_array())
        return await kind._decode_single(self, chunk_bytes, chunk_spec)

    def decode_sync(self: Any, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _check(chunk_bytes.as_numpy_array())
        return kind._decode_sync(self, chunk_bytes, chunk_spec)

    methods: dict[str, Any] = {"_decode_single": decode_single}
    if hasattr(kind, "_decode_sync"):
        methods["_decode_sync"] = decode_sync
    return type(kind.__name__, (kind,), methods)
