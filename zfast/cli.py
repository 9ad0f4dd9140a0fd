"""The ``zfast`` command: what the package does, from a shell.

Results go to standard output, and nothing else does. An error is one line on standard error and
exit status 1; wrong usage is 2, a reader that left early 141, Ctrl-C 130, as shells expect.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import functools
import io
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO
from urllib.parse import quote

from zfast import __version__, serve

__all__ = ["main"]

ByteRange = tuple[int | None, int | None]
Facts = list[tuple[str, str]]


def _byte_range(text: str) -> ByteRange:
    """``A:B`` as a byte range: the end is exclusive, ``A:`` goes on to the end, ``-N:`` is a
    suffix of N bytes."""
    start_text, colon, end_text = text.partition(":")
    try:
        start = int(start_text) if start_text else None
        end = int(end_text) if end_text else None
    except ValueError:
        colon = ""
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form A:B, A:, :B or -N:")
    if start_text.startswith("-"):
        if end is not None:
            raise argparse.ArgumentTypeError(f"{text!r}: a suffix has no end")
    elif end is not None and end < (start or 0):
        raise argparse.ArgumentTypeError(f"{text!r}: the end lies before the start")
    if start == 0 and start_text.startswith("-"):
        # No suffix of theirs is empty: it would be the whole.
        return 0, 0
    return start, end


def _key(text: str) -> str:
    from zfast.keys import names_object

    if not names_object(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot name an object, but only a directory")
    return text


def _directory(text: str) -> str:
    # A variable of the shell that is not set would serve what is here.
    if not text:
        raise argparse.ArgumentTypeError("the name of a directory is empty; . is this one")
    return text


def _mebibytes(text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of MiB, 1 or more")
    return size


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return port


def _join_suffix(arguments: Sequence[str]) -> list[str]:
    """Make ``--range -16:`` one argument: argparse would take ``-16:`` for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--range" and argument.startswith("-"):
            joined[-1] = f"--range={argument}"
        else:
            joined.append(argument)
    return joined


def _output() -> TextIO:
    if sys.stdout is None:
        raise RuntimeError("there is no standard output to write to")
    return sys.stdout


def _say(line: str) -> None:
    """Print a line. Names come from servers: one may hold a line break or a terminal's command,
    be of no alphabet that the terminal has, or not be text at all."""
    output = _output()

    def is_shown(character: str) -> bool:
        with contextlib.suppress(UnicodeEncodeError):
            return bool(character.encode(output.encoding or "utf-8")) and character.isprintable()
        return False

    print(*[c if is_shown(c) else quote(c, "", errors="surrogateescape") for c in line], sep="")


# Facts about a node: (name, value) pairs


def _codec_text(codec: Any) -> str:
    """A codec as ``name(option=value, ...)``, from either format's metadata."""
    if not isinstance(codec, Mapping):
        return str(codec)
    options = dict(codec.get("configuration", codec))
    name = str(codec.get("name", codec.get("id")))
    shown = ", ".join(
        f"{key}={value}" for key, value in options.items() if key not in ("id", "name")
    )
    return f"{name}({shown})" if shown else name


def _codec_chain(codecs: Iterable[Any]) -> str:
    return ", ".join(map(_codec_text, codecs)) or "none"


def _codec_facts(metadata: Mapping[str, Any]) -> Facts:
    if "codecs" not in metadata:
        stages = [*(metadata.get("filters") or ()), metadata.get("compressor")]
        return [("codecs", _codec_chain(stage for stage in stages if stage is not None))]
    codecs = list(metadata["codecs"])
    sharding = codecs[0] if len(codecs) == 1 and isinstance(codecs[0], Mapping) else {}
    if sharding.get("name") != "sharding_indexed":
        return [("codecs", _codec_chain(codecs))]
    options = sharding["configuration"]
    index = _codec_chain(options["index_codecs"])
    return [
        ("codecs", _codec_chain(options["codecs"])),
        ("shard index", f"at the {options.get('index_location', 'end')}: {index}"),
    ]


def _grid(shape: Sequence[int], chunks: Sequence[int]) -> int:
    """How many chunks it takes to cover a shape."""
    return math.prod(-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))


def _size_text(nbytes: int) -> str:
    if nbytes < 1024:
        return f"{nbytes} B"
    power = min((nbytes.bit_length() - 1) // 10, 4)
    return f"{nbytes / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def _array_facts(array: Any) -> Facts:
    if hasattr(array, "metadata"):
        metadata = array.metadata.to_dict()
    else:  # zarr 2
        metadata = {"zarr_format": 2, "filters": array.filters, "compressor": array.compressor}

    def bytes_of(shape: Sequence[int]) -> str:
        # What strings of any length take is nowhere to be read.
        fixed = array.dtype.kind not in "OT"
        return _size_text(math.prod(shape) * array.dtype.itemsize) if fixed else "any size"

    facts = [
        ("node", f"array, zarr format {metadata['zarr_format']}"),
        ("shape", str(array.shape)),
        ("data type", str(array.dtype)),
        ("size", bytes_of(array.shape)),
        ("chunk shape", f"{array.chunks}, {bytes_of(array.chunks)}"),
        ("chunks", str(_grid(array.shape, array.chunks))),
    ]
    shards = getattr(array, "shards", None)
    if shards is not None:
        facts += [("shard shape", str(shards)), ("shards", str(_grid(array.shape, shards)))]
    facts += _codec_facts(metadata)
    facts.append(("fill value", str(array.fill_value)))
    if metadata.get("dimension_names"):
        facts.append(("dimensions", ", ".join(map(str, metadata["dimension_names"]))))
    facts += _attribute_facts(array)
    if hasattr(array, "_async_array"):
        # Chosen when an array is opened, and public nowhere: what this very array is read with.
        facts.append(("pipeline", type(array._async_array.codec_pipeline).__name__))
    return facts


def _attribute_facts(node: Any) -> Facts:
    names = ", ".join(node.attrs.keys())
    return [("attributes", names)] if names else []


def _member_text(name: str, member: Any) -> str:
    if not hasattr(member, "shape"):
        return f"{name}/"
    return f"{name}  {member.dtype} {member.shape}"


def _group_facts(group: Any) -> Facts:
    from zfast.errors import ListingError

    if hasattr(group, "metadata"):
        zarr_format = group.metadata.zarr_format
        consolidated = group.metadata.consolidated_metadata is not None
        members = group.members
    else:  # zarr 2
        zarr_format, consolidated, members = 2, ".zmetadata" in group.store, group.items
    facts = [
        ("node", f"group, zarr format {zarr_format}"),
        ("consolidated", "yes" if consolidated else "no"),
        *_attribute_facts(group),
    ]
    with warnings.catch_warnings():
        # A folder beside the members that is none itself is no news here.
        warnings.simplefilter("ignore", UserWarning)
        try:
            texts = [_member_text(*item) for item in sorted(members(), key=lambda item: item[0])]
        except ListingError:
            texts = ["unknown: neither consolidated metadata nor a listing"]
    return facts + _lines_of("members", texts)


def _native_facts() -> Facts:
    from zfast import show_config

    parts = show_config().parts
    names = [name for name in ("engine", "http", "tls", "codecs") if name in parts]
    return _lines_of("native parts", [f"{name}: {parts[name]}" for name in names])


def _lines_of(name: str, texts: Iterable[str]) -> Facts:
    """One fact of several lines: the name stands before the first."""
    return [("" if number else name, text) for number, text in enumerate(texts)]


def _long_line(client: Any, name: str) -> str:
    """Size, date and name of a key; a directory has only a name, with a slash at its end."""
    info = client.head(name)
    # A directory's name redirects to its index page, which no server gives an entity tag; some
    # give none to files either.
    page = info is not None and info.etag is None and "text/html" in (info.content_type or "")
    if info is None or (page and client.head(name + "/") is not None):
        return f"{'-':>14}  {'-':<20}  {name}/"
    date = "-"
    with contextlib.suppress(ValueError, TypeError, IndexError):
        date = f"{email.utils.parsedate_to_datetime(info.last_modified):%Y-%m-%dT%H:%M:%SZ}"
    return f"{'-' if info.size is None else info.size:>14}  {date:<20}  {name}"


# Commands


def _demo(options: argparse.Namespace) -> int:
    from zfast import demo

    return demo.run(options.size, say=_say)


def _info(options: argparse.Namespace) -> int:
    import zarr

    from zfast import FastStore
    from zfast.demo import leaving_nothing_to_zarr

    with FastStore(options.url) as store, leaving_nothing_to_zarr():
        node: Any = zarr.open(store=store, mode="r")
        facts = _array_facts(node) if hasattr(node, "shape") else _group_facts(node)
        facts += [("requests", str(store.stats()["requests"])), *_native_facts()]
        width = max(len(name) for name, _ in facts)
        _say(f"{'url':<{width}}  {store}")
        for name, value in facts:
            _say(f"{name:<{width}}  {value}")
    return 0


def _ls(options: argparse.Namespace) -> int:
    from zfast import Client

    with Client(options.url) as client:
        names = list(client.list_dir())
        if not options.long:
            for name in names:
                _say(name)
            return 0
        with ThreadPoolExecutor(16) as pool:
            for line in pool.map(functools.partial(_long_line, client), names):
                _say(line)
    return 0


def _get(options: argparse.Namespace) -> int:
    from zfast import Client
    from zfast._core.types import Status
    from zfast.errors import error_for

    with Client(options.url) as client:
        body = client.get(options.key, options.range)
    if body is None:
        raise error_for(Status.MISSING, url=options.url, key=options.key, byte_range=options.range)
    if options.output in (None, "-"):
        _write_all(_output().buffer, body)
    else:
        with open(options.output, "wb") as file:
            file.write(body)
    return 0


def _write_all(file: Any, body: Any) -> None:
    # Python's output is without a buffer where the environment asks for that (PYTHONUNBUFFERED),
    # and a file without one takes as much of the body as it likes.
    if isinstance(file, io.RawIOBase):
        file = io.BufferedWriter(file)
        try:
            file.write(body)
            file.flush()
        finally:
            with contextlib.suppress(OSError):
                file.detach()
    else:
        file.write(body)


def _serve(options: argparse.Namespace) -> int:
    serve.run(options.directory, options.port)
    return 0


def _config(_: argparse.Namespace) -> int:
    from zfast import show_config

    for line in str(show_config()).splitlines():
        _say(line)
    return 0


# The command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zfast", description="Zarr arrays over HTTP, read without the GIL."
    )
    parser.add_argument("--version", action="version", version=f"zfast {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error comes from"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo", help="read real arrays over HTTP on this machine, check and time them"
    )
    # Long enough a read to say something, the whole within ten seconds or so.
    demo.add_argument(
        "--size", type=_mebibytes, default=64, metavar="MiB", help="of each array (default: 64)"
    )
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="describe the array or group at a URL")
    info.add_argument("url", metavar="URL")
    info.set_defaults(run=_info)

    ls = commands.add_parser("ls", help="list the keys and directories right below a URL")
    ls.add_argument("url", metavar="URL")
    ls.add_argument("-l", "--long", action="store_true", help="with size and date")
    ls.set_defaults(run=_ls)

    get = commands.add_parser("get", help="write the bytes of a key to standard output or a file")
    get.add_argument("url", metavar="URL")
    get.add_argument("key", metavar="KEY", type=_key)
    get.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")
    get.add_argument(
        "--range",
        type=_byte_range,
        metavar="A:B",
        help="bytes A to B, B not among them; A: from A on, -N: the last N",
    )
    get.set_defaults(run=_get)

    serve_ = commands.add_parser("serve", help="serve a directory on this machine over HTTP")
    serve_.add_argument("directory", metavar="DIR", type=_directory)
    serve_.add_argument("--port", type=_port, default=0, help="(default: a free one)")
    serve_.set_defaults(run=_serve)

    config = commands.add_parser("config", help="show the settings and which native parts work")
    config.set_defaults(run=_config)
    return parser


def _run(options: argparse.Namespace) -> int:
    """Run a command; what it printed has left this process when it is over."""
    try:
        return int(options.run(options))
    finally:
        if sys.stdout is not None:
            try:
                sys.stdout.flush()
            except OSError:
                # Else the interpreter tries once more at its exit, and complains itself.
                with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), sys.stdout.fileno())
                raise


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # An OSError's text stands for itself; other builtins say only "'x'" or "3".
    if text and isinstance(error, (OSError, ValueError, RuntimeError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ``zfast`` command.

    Parameters
    ----------
    arguments
        The command line without the program's name; by default that of the process.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    SystemExit
        From argparse: status 2 for wrong usage, 0 after ``--help`` and ``--version``.
    """
    options = _parser().parse_args(_join_suffix(sys.argv[1:] if arguments is None else arguments))
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        if options.traceback:
            raise
        print(f"zfast: {_one_line(error)}", file=sys.stderr)
        return 1
