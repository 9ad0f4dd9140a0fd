"""An array's codec chain → what has to be done to one stored chunk, in the core's terms. Pure.

A chain is described only where each of its codecs is known by its exact class: a subclass, or what
somebody registered in place of zarr's own, may mean something else, and zarr itself reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Description", "Step", "describe", "why_not"]

# What it is called in _core/codecs, and the bytes of an element where that matters, else 0.
Step = tuple[str, int]

# As many as the core's Layout has room for.
_MAX_DIMENSIONS = 32
# bool, integers, floats, complex, datetimes, fixed-width bytes and text, void and structured.
_FIXED_SIZE_KINDS = "biufcmMSUV"
_SWAPPED_KINDS = "iufcmMU"

_BYTES = "zarr.codecs.bytes.BytesCodec"
_TRANSPOSE = "zarr.codecs.transpose.TransposeCodec"
_SHARDING = "zarr.codecs.sharding.ShardingCodec"
_CRC32C = "zarr.codecs.crc32c_.Crc32cCodec"
_FORMAT_2 = "zarr.codecs._v2.V2Codec"
_STEPS = {
    "zarr.codecs.zstd.ZstdCodec": "zstd",
    "zarr.codecs.blosc.BloscCodec": "blosc",
    "zarr.codecs.gzip.GzipCodec": "gzip",
    _CRC32C: "crc32c",
}
# zarr 3's classes around numcodecs' codecs: zarr's own, and those that numcodecs had before.
_WRAPPERS = ("zarr.codecs.numcodecs._codecs", "numcodecs.zarr3")
_NUMCODECS_STEPS = {
    "numcodecs.zstd.Zstd": "zstd",
    "numcodecs.blosc.Blosc": "blosc",
    "numcodecs.gzip.GZip": "gzip",
    "numcodecs.zlib.Zlib": "zlib",
    "numcodecs.lz4.LZ4": "lz4",
}
_SHUFFLE = "numcodecs.shuffle.Shuffle"
_DELTA = "numcodecs.delta.Delta"
_BITROUND = "numcodecs.bitround.BitRound"
_QUANTIZE = "numcodecs.quantize.Quantize"


@dataclass(frozen=True)
class Description:
    """How a chunk is stored.

    Attributes
    ----------
    shape : tuple of int
        Of the chunk as stored, so that its bytes are this shape in C order.
    axes : tuple of int
        Axis k of the stored chunk is axis ``axes[k]`` of zarr's; of an inner chunk, of the stored
        axes of the shard around it.
    item_size : int
        Bytes of an element.
    swap : int
        Bytes of the units whose byte order is to be reversed; 0 if none.
    steps : tuple of (str, int)
        Codecs from bytes to bytes in the order of decoding: names of `zfast._core.codecs`, and the
        bytes of an element for ``shuffle`` and ``delta``. Of a shard, those around it.
    inner : Description or None
        Of the inner chunks of a shard.
    index_at_end, index_checksum, index_big_endian : bool
        Where the shard index is, whether a CRC32C follows it, and its byte order.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    item_size: int
    swap: int
    steps: tuple[Step, ...]
    inner: Description | None = None
    index_at_end: bool = True
    index_checksum: bool = True
    index_big_endian: bool = False


def describe(pipeline: Any, spec: Any, out_dtype: np.dtype[Any]) -> Description | None:
    """Describe how the chunks of an array are stored.

    Parameters
    ----------
    pipeline : CodecPipeline
        With zarr's attributes ``array_array_codecs``, ``array_bytes_codec`` and
        ``bytes_bytes_codecs``.
    spec : ArraySpec
        Of a chunk, as zarr gives it to the pipeline.
    out_dtype : numpy.dtype
        What the elements are wanted in: the array's own dtype, in either byte order.

    Returns
    -------
    Description or None
        None if the core cannot read such chunks; `why_not` says why.
    """
    try:
        return _described(pipeline, spec, out_dtype)
    except _UnsupportedError:
        return None


def why_not(pipeline: Any, spec: Any, out_dtype: np.dtype[Any]) -> str:
    """Say in a few words why `describe` gives None, such as "codec numcodecs.pcodec"; else ""."""
    try:
        _described(pipeline, spec, out_dtype)
    except _UnsupportedError as error:
        return str(error)
    return ""


class _UnsupportedError(Exception):
    """What the core cannot read."""


def _described(pipeline: Any, spec: Any, out_dtype: np.dtype[Any]) -> Description:
    dtype = _native_dtype(spec.dtype)
    if not _is_numpys_own(dtype) or dtype.kind not in _FIXED_SIZE_KINDS or not dtype.itemsize:
        raise _UnsupportedError(f"dtype {dtype}")
    shape = tuple(map(int, spec.shape))
    if len(shape) > _MAX_DIMENSIONS:
        raise _UnsupportedError(f"more than {_MAX_DIMENSIONS} dimensions")
    if 0 in shape:
        raise _UnsupportedError("chunks of no element")
    codec = pipeline.array_bytes_codec
    if _class_of(codec) == _FORMAT_2:
        axes = tuple(range(len(shape)))
        if spec.order == "F":
            axes = axes[::-1]
        steps = tuple(_numcodecs_steps((*(codec.filters or ()), codec.compressor)))
        stored = tuple(shape[axis] for axis in axes)
        return Description(stored, axes, dtype.itemsize, _swap(dtype, out_dtype), steps)
    chain = (*pipeline.array_array_codecs, codec, *pipeline.bytes_bytes_codecs)
    return _chain(chain, shape, dtype, out_dtype)


def _chain(
    codecs: Iterable[Any],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    out_dtype: np.dtype[Any],
) -> Description:
    axes = tuple(range(len(shape)))
    # What comes later in the chain is undone earlier.
    steps: list[Step] = []
    filters: list[str] = []
    stored_dtype = dtype
    shard: Description | None = None
    for codec in codecs:
        name = _class_of(codec)
        if name == _TRANSPOSE:
            if steps:
                # Delta then flattens in whichever order the transposed chunk lies in memory.
                raise _UnsupportedError("codec transpose after numcodecs.delta")
            if sorted(codec.order) != list(range(len(shape))):
                raise _UnsupportedError("codec transpose of other dimensions")
            axes = tuple(axes[axis] for axis in codec.order)
        elif name == _BYTES:
            stored_dtype = _in_byte_order(dtype, codec)
            if filters and stored_dtype != dtype:
                # Which numcodecs takes for the one that it was made with.
                raise _UnsupportedError(f"codec {filters[-1]} in another byte order")
        elif name == _SHARDING:
            if steps:
                raise _UnsupportedError("codec numcodecs.delta around shards")
            shard = _shard(codec, tuple(shape[axis] for axis in axes), dtype, out_dtype)
        elif name in _STEPS:
            steps.insert(0, (_STEPS[name], 0))
        elif type(codec).__module__ in _WRAPPERS:
            filters.append(_label(codec))
            steps[:0] = _wrapped_steps(codec, dtype)
        else:
            raise _UnsupportedError(f"codec {_label(codec)}")
    if shard is not None:
        return replace(shard, axes=axes, steps=tuple(steps))
    stored = tuple(shape[axis] for axis in axes)
    swap = _swap(stored_dtype, out_dtype)
    return Description(stored, axes, dtype.itemsize, swap, tuple(steps))


def _shard(
    codec: Any, shape: tuple[int, ...], dtype: np.dtype[Any], out_dtype: np.dtype[Any]
) -> Description:
    inner_shape = tuple(map(int, codec.chunk_shape))
    if len(inner_shape) != len(shape) or any(
        size < 1 or whole % size for whole, size in zip(shape, inner_shape, strict=True)
    ):
        raise _UnsupportedError("shards that are not whole in inner chunks")
    index_codecs = [_class_of(index_codec) for index_codec in codec.index_codecs]
    if index_codecs not in ([_BYTES], [_BYTES, _CRC32C]):
        raise _UnsupportedError(f"index codecs {', '.join(map(_label, codec.index_codecs))}")
    byte_order = _byte_order(codec.index_codecs[0])
    if byte_order is None:
        raise _UnsupportedError("index codec bytes without a byte order")
    inner = _chain(codec.codecs, inner_shape, dtype, out_dtype)
    return Description(
        shape,
        tuple(range(len(shape))),
        dtype.itemsize,
        inner.swap,
        (),
        inner,
        index_at_end=_text(codec.index_location) == "end",
        index_checksum=len(index_codecs) == 2,
        index_big_endian=byte_order == "big",
    )


def _wrapped_steps(codec: Any, dtype: np.dtype[Any]) -> list[Step]:
    try:
        wrapped = codec._codec
    except Exception:
        # It takes a package that is not there; zarr says so, if there is anything to decode.
        raise _UnsupportedError(f"codec {_label(codec)}") from None
    name = _class_of(wrapped)
    # Without one, zarr versions differ in whose element it is.
    if name == _SHUFFLE and codec.codec_config.get("elementsize") is None:
        raise _UnsupportedError("codec numcodecs.shuffle without elementsize")
    # Between arrays, so that its dtype matters; among bytes it is only a view.
    if name in (_DELTA, _QUANTIZE) and wrapped.dtype != dtype:
        raise _UnsupportedError(f"codec {_label(codec)} of another dtype")
    if name == _BITROUND and dtype.kind != "f":
        raise _UnsupportedError(f"codec {_label(codec)} of what is no float")
    return _numcodecs_steps((wrapped,))


def _numcodecs_steps(codecs: Iterable[Any]) -> list[Step]:
    """The steps that undo codecs of numcodecs, which are in the order of encoding."""
    steps: list[Step] = []
    for codec in codecs:
        name = _class_of(codec)
        if codec is None:
            continue
        if name in _NUMCODECS_STEPS:
            steps.insert(0, (_NUMCODECS_STEPS[name], 0))
        elif name == _SHUFFLE:
            if codec.elementsize > 1:
                steps.insert(0, ("shuffle", int(codec.elementsize)))
        elif name == _DELTA and _is_plain_delta(codec):
            steps.insert(0, ("delta", int(codec.dtype.itemsize)))
        elif name == _BITROUND or (name == _QUANTIZE and codec.dtype == codec.astype):
            # They lose what they lose in encoding: there is nothing to be undone.
            continue
        else:
            raise _UnsupportedError(f"codec {_label(codec)}")
    return steps


def _is_plain_delta(codec: Any) -> bool:
    return (
        codec.dtype == codec.astype
        and codec.dtype.kind in "iu"
        and (codec.dtype.isnative or codec.dtype.itemsize == 1)
    )


def _native_dtype(dtype: Any) -> np.dtype[Any]:
    # zarr 3.0 has numpy's own, later ones a class of theirs.
    native: np.dtype[Any] = dtype if isinstance(dtype, np.dtype) else dtype.to_native_dtype()
    return native


def _is_numpys_own(dtype: np.dtype[Any]) -> bool:
    # What a package registers may pass for bytes of no order (bfloat16 of ml_dtypes is a "V").
    if dtype.subdtype is not None:
        return _is_numpys_own(dtype.base)
    if dtype.fields is not None:
        return all(_is_numpys_own(field[0]) for field in dtype.fields.values())
    return dtype.isbuiltin != 2 and not dtype.hasobject


def _in_byte_order(dtype: np.dtype[Any], codec: Any) -> np.dtype[Any]:
    """What BytesCodec views stored bytes as."""
    order = _byte_order(codec)
    if dtype.kind in _SWAPPED_KINDS and dtype.itemsize > 1:
        if order is None:
            raise _UnsupportedError("codec bytes without a byte order")
        return dtype.newbyteorder("<" if order == "little" else ">")
    # Of records, the order of the fields' own dtypes held up to zarr 3.2, since then the codec's.
    either = dtype if order is None else dtype.newbyteorder("<" if order == "little" else ">")
    if dtype.fields and either != dtype:
        raise _UnsupportedError("structured dtype in another byte order")
    return dtype


def _swap(stored: np.dtype[Any], wanted: np.dtype[Any]) -> int:
    if stored == wanted:
        return 0
    if stored.kind not in _SWAPPED_KINDS or stored.newbyteorder() != wanted:
        raise _UnsupportedError(f"dtype {stored} into {wanted}")
    if stored.kind == "c":
        return stored.itemsize // 2
    return 4 if stored.kind == "U" else stored.itemsize


def _byte_order(codec: Any) -> str | None:
    return None if codec.endian is None else _text(codec.endian)


def _text(value: Any) -> str:
    # An enum's member up to zarr 3.2, then a str.
    return str(getattr(value, "value", value))


def _class_of(codec: Any) -> str:
    return f"{type(codec).__module__}.{type(codec).__qualname__}"


def _label(codec: Any) -> str:
    """The name of a codec in metadata."""
    if isinstance(name := getattr(codec, "codec_name", None), str):
        return name
    if isinstance(name := getattr(codec, "codec_id", None), str):
        return f"numcodecs.{name}"
    try:
        return str(codec.to_dict()["name"])
    except Exception:
        # A codec of somebody else's, which need not have a name.
        return type(codec).__qualname__
