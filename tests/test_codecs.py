"""Codec chains in memory, against numcodecs and Python's own gzip and zlib."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import textwrap
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from codec_frames import (
    ENCODERS,
    by_numcodecs,
    some_bytes,
    with_crc32c,
    zstd_frame,
    zstd_skippable,
)
from hypothesis import given
from hypothesis import strategies as st

from zfast._core.codecs import ChunkDecoder, decode_bytes, sources

KIB = 1 << 10
CODECS = ("zstd", "blosc", "gzip", "zlib", "lz4", "crc32c", "shuffle", "delta")

words = st.binary(min_size=0, max_size=600).map(lambda data: data * 4).filter(len)
"""Bytes, a multiple of four, at least one."""


# --------------------------------------------------------------------------------- every codec


@pytest.mark.parametrize("name", ENCODERS)
@given(data=words)
def test_what_was_encoded_is_decoded(name: str, data: bytes) -> None:
    steps, encode = ENCODERS[name]
    assert decode_bytes(steps, encode(data), len(data)) == data


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [4, KIB, 100 * KIB, 2 << 20])
def test_chunks_of_every_size(name: str, size: int) -> None:
    steps, encode = ENCODERS[name]
    data = some_bytes(size)
    assert decode_bytes(steps, encode(data), size) == data


@given(
    data=words,
    name=st.sampled_from(("blosclz", "lz4", "lz4hc", "zlib", "zstd")),
    level=st.integers(0, 9),
    shuffle=st.integers(0, 2),
    blocksize=st.sampled_from((0, 1, 128, 4096)),
    typesize=st.sampled_from((1, 2, 3, 4, 8, 16, 17, 255)),
)
def test_blosc_of_every_kind(
    data: bytes, name: str, level: int, shuffle: int, blocksize: int, typesize: int
) -> None:
    items = np.frombuffer(data * typesize, f"V{typesize}")
    frame = bytes(numcodecs.Blosc(name, level, shuffle, blocksize).encode(items))
    assert decode_bytes([("blosc", 0)], frame, items.nbytes) == items.tobytes()


@pytest.mark.parametrize("name", ["zstd", "lz4", "zlib", "blosclz"])
def test_blosc_of_many_blocks(name: str) -> None:
    data = some_bytes(3 << 20)
    for shuffle in (0, 1, 2):
        frame = by_numcodecs(numcodecs.Blosc(name, 5, shuffle, 64 * KIB), "<u8")(data)
        assert decode_bytes([("blosc", 0)], frame, len(data)) == data


# --------------------------------------------------------------------- what a format also allows


@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=4))
def test_zstd_frames_follow_each_other(parts: list[bytes]) -> None:
    data = b"".join(parts)
    whole = by_numcodecs(numcodecs.Zstd(1))
    frames = [
        zstd_frame(part) if at % 2 else whole(part) if part else zstd_frame(b"")
        for at, part in enumerate(parts)
    ]
    stored = zstd_skippable(b"aside").join([b"", *frames, b""])
    assert decode_bytes([("zstd", 0)], stored, len(data)) == data


def test_a_declared_zstd_window_is_not_allocated() -> None:
    # 1 KiB << 21: two GiB, more than zstd's own streaming decoder would take.
    frame = zstd_frame(b"small", window=21)
    assert decode_bytes([("zstd", 0)], frame, 5) == b"small"


@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_gzip_members_follow_each_other(parts: list[bytes], zeros: list[int]) -> None:
    stored = b"".join(
        gzip.compress(part) + bytes(count) for part, count in zip(parts, zeros, strict=False)
    )
    data = gzip.decompress(stored)
    assert data == b"".join(parts)
    assert decode_bytes([("gzip", 0)], stored, len(data)) == data


def test_gzip_headers_may_say_more(tmp_path: Path) -> None:
    named = tmp_path / "with a name.gz"
    with gzip.GzipFile(str(named), "wb", mtime=1e9) as file:
        file.write(b"named")
    assert decode_bytes([("gzip", 0)], named.read_bytes(), 5) == b"named"


def test_what_follows_a_gzip_member_is_a_member() -> None:
    stored = gzip.compress(b"chunk") + b"rest"
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(stored)
    with pytest.raises(ValueError, match="gzip: the data is corrupt"):
        decode_bytes([("gzip", 0)], stored, 5)


def test_what_follows_a_zlib_stream_is_of_no_account() -> None:
    stored = zlib.compress(b"chunk") + b"rest"
    assert decode_bytes([("zlib", 0)], stored, 5) == zlib.decompress(stored) == b"chunk"


@pytest.mark.parametrize("size", [-1, 0, 1, 2, 3, 4, 7, 8, 16, 100])
def test_shuffle_of_every_element_size(size: int) -> None:
    data = bytes(range(256)) * 25
    elements = data[: len(data) // max(size, 1) * max(size, 1)]
    shuffled = by_numcodecs(numcodecs.Shuffle(size))(elements)
    assert decode_bytes([("shuffle", size)], shuffled, len(elements)) == elements


def test_shuffle_takes_whole_elements() -> None:
    with pytest.raises(ValueError, match="shuffle: the size of the data is no multiple"):
        decode_bytes([("shuffle", 4)], b"seven..", 7)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_delta_wraps(dtype: str) -> None:
    encoded = np.random.default_rng(7).integers(0, 256, 4000, "u1").tobytes()
    steps = [("delta", np.dtype(dtype).itemsize)]
    expected = numcodecs.Delta(dtype).decode(np.frombuffer(encoded, dtype)).tobytes()
    assert decode_bytes(steps, encoded, len(encoded)) == expected


@pytest.mark.parametrize(("size", "of"), [(0, 8), (3, 9), (16, 16), (-4, 8), (4, 7)])
def test_delta_takes_whole_integers(size: int, of: int) -> None:
    with pytest.raises(ValueError, match=r"delta: (the size of the data|elements must be)"):
        decode_bytes([("delta", size)], bytes(of), of)


@pytest.mark.parametrize("step", [("shuffle", 2), ("shuffle", 8), ("delta", 4), ("delta", 8)])
def test_nothing_needs_to_be_aligned(step: tuple[str, int]) -> None:
    data = some_bytes(800)
    aligned = decode_bytes([step], data, 800)
    moved = memoryview(b"." + data)[1:]
    into = bytearray(801)
    assert ChunkDecoder().decode([step], moved, 800, memoryview(into)[1:]) == aligned
    assert into[1:] == aligned


# --------------------------------------------------------------------------------------- chains


@given(
    data=st.binary(min_size=1, max_size=300).map(lambda data: data * 8),
    names=st.lists(st.sampled_from(sorted(ENCODERS)), max_size=4),
    into=st.booleans(),
)
def test_chains_are_undone_step_by_step(data: bytes, names: list[str], into: bool) -> None:
    stored = data
    steps: list[tuple[str, int]] = []
    for name in names:
        (step,), encode = ENCODERS[name]
        # What numcodecs takes for elements has to be a multiple of them.
        if len(stored) % 4 and (step[1] or step[0] == "blosc"):
            continue
        stored = encode(stored)
        steps.insert(0, step)
    target = bytearray(len(data)) if into else None
    decoder = ChunkDecoder()
    assert decoder.decode(steps, stored, len(data), target) == data
    if decoder.place == "into":
        assert target == data


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        ([], "data"),
        ([("crc32c", 0)], "data"),
        ([("zstd", 0)], "into"),
        ([("crc32c", 0), ("zstd", 0)], "into"),
        ([("zstd", 0), ("crc32c", 0)], "scratch"),
        ([("zstd", 0), ("shuffle", 4)], "into"),
        ([("shuffle", 4)], "into"),
        ([("zstd", 0), ("shuffle", 4), ("delta", 4)], "into"),
    ],
)
def test_where_the_result_is(steps: list[tuple[str, int]], place: str) -> None:
    data = some_bytes(4000)
    stored = data
    for step in reversed(steps):
        stored = ENCODERS[step[0]][1](stored)
    decoder = ChunkDecoder()
    into = bytearray(4100)
    assert decoder.decode(steps, stored, 4000, into) == data
    assert decoder.place == place
    # Not a byte more than the chunk's is written, and none that it is not made in.
    assert into == (data if place == "into" else bytes(4000)) + bytes(100)
    assert decoder.decode(steps, stored, 4000) == data
    assert decoder.place == ("data" if place == "data" else "scratch")


def test_checksums_of_checksums() -> None:
    stored = with_crc32c(with_crc32c(with_crc32c(b"chunk")))
    assert decode_bytes([("crc32c", 0)] * 3, stored, 5) == b"chunk"
    with pytest.raises(ValueError, match="crc32c: the data before it is of another size"):
        decode_bytes([("crc32c", 0)] * 2, stored, 5)


def test_without_steps_the_size_must_be_right() -> None:
    assert decode_bytes([], b"chunk", 5) == b"chunk"
    for size in (0, 4, 6):
        with pytest.raises(ValueError, match="the stored bytes are of another size"):
            decode_bytes([], b"chunk", size)


def test_a_chunk_without_bytes() -> None:
    for name in ("zstd undeclared", "gzip", "zlib", "crc32c"):
        steps, encode = ENCODERS[name]
        assert decode_bytes(steps, encode(b""), 0) == b""
        assert ChunkDecoder().decode(steps, encode(b""), 0, bytearray(1)) == b""


# --------------------------------------------------------------------------------------- reuse


def test_a_decoder_is_used_again() -> None:
    decoder = ChunkDecoder()
    for size in (4000, 40, 40000, 400):
        for name, (steps, encode) in ENCODERS.items():
            data = some_bytes(size, seed=size)
            stored = encode(data)
            assert decoder.decode(steps, stored, size) == data, name
            with pytest.raises(ValueError):
                decoder.decode(steps, stored[: len(stored) // 2], size)
            assert decoder.decode(steps, stored, size, bytearray(size)) == data, name


def test_scratch_is_kept_until_trimmed() -> None:
    decoder = ChunkDecoder()
    data = some_bytes(3 << 20)
    steps = [("zstd", 0), ("shuffle", 4)]
    stored = ENCODERS["zstd"][1](ENCODERS["shuffle"][1](data))
    decoder.decode(steps, stored, len(data), bytearray(len(data)))
    assert decoder.scratch == (len(data), 0)
    decoder.decode(steps, stored, len(data))
    assert decoder.scratch == (len(data), len(data))
    decoder.decode([("lz4", 0)], ENCODERS["lz4"][1](data[:400]), 400)
    assert decoder.scratch == (len(data), len(data))
    decoder.trim()
    assert decoder.scratch == (0, 0)
    decoder.decode([("lz4", 0)], ENCODERS["lz4"][1](data[:400]), 400)
    decoder.trim()
    assert decoder.scratch == (400, 0)


def test_decoders_of_many_threads() -> None:
    chunks = [some_bytes(50000, seed) for seed in range(8)]

    def work(seed: int) -> None:
        decoder = ChunkDecoder()
        for name in ("zstd", "blosc zstd 1", "gzip", "lz4", "blosc blosclz 2"):
            steps, encode = ENCODERS[name]
            stored = encode(chunks[seed])
            for _ in range(10):
                assert decoder.decode(steps, stored, 50000) == chunks[seed]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


# ------------------------------------------------------------------------------------- sources


def test_sources_name_numcodecs() -> None:
    here = sources()
    assert set(here) == set(CODECS)
    for name in ("zstd", "blosc", "gzip", "zlib", "lz4"):
        assert here[name] == f"numcodecs {numcodecs.__version__}"
    assert {here[name] for name in ("crc32c", "shuffle", "delta")} == {"zfast"}


def import_with(numcodecs_folder: Path | None) -> str:
    """What a fresh Python prints of the codecs: without numcodecs, or with another one."""
    program = """
        import sys
        path = sys.argv[1]
        if path:
            sys.path.insert(0, path)
        else:
            sys.modules["numcodecs"] = None
        from importlib.util import find_spec, module_from_spec
        # Not executed: zfast/__init__ imports zarr, which does not go without numcodecs.
        sys.modules["zfast"] = module_from_spec(find_spec("zfast"))
        from zfast._core.codecs import decode_bytes, sources
        for codec, source in sources().items():
            print(codec, "-", source)
        print(decode_bytes([("delta", 1)], bytes([1, 1, 1]), 3))
        for codec in ("zstd", "blosc", "gzip", "zlib", "lz4"):
            try:
                decode_bytes([(codec, 0)], b"some bytes", 3)
            except ValueError as fault:
                print(fault)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(numcodecs_folder or "")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_without_numcodecs_the_rest_works() -> None:
    printed = import_with(None)
    for codec in ("zstd", "blosc", "gzip", "zlib", "lz4"):
        assert f"{codec} - not found: " in printed
        assert f"{codec}: there is no native decompressor here" in printed
    assert "delta - zfast" in printed
    assert "b'\\x01\\x02\\x03'" in printed


WRONG_LZ4 = {
    "fails": "return -1;",
    "makes nothing": "return 240;",
    "cannot fail": 'for (int i = 0; i < 240; i++) into[i] = "known frame "[i % 12]; return 240;',
}


@pytest.mark.parametrize("body", WRONG_LZ4.values(), ids=WRONG_LZ4)
def test_a_decoder_that_is_missing_or_wrong_is_not_used(tmp_path: Path, body: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build another numcodecs with")
    package = tmp_path / "numcodecs"
    package.mkdir()
    source = tmp_path / "other.c"
    source.write_text(f"int LZ4_decompress_safe(const char* data, char* into) {{ {body} }}\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", package / "other.so", source], check=True)
    (package / "__init__.py").write_text("__version__ = '9.9'\n")
    (package / "blosc.py").write_text("__file__ = __file__.replace('blosc.py', 'other.so')\n")
    printed = import_with(tmp_path)
    assert "lz4 - not found: numcodecs 9.9 did not decode a known frame" in printed
    assert "zstd - not found: numcodecs 9.9 does not export ZSTD_createDCtx, " in printed
    assert "lz4: there is no native decompressor here" in printed
