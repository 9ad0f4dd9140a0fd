"""A static file server with byte ranges, for the demo and for trying zfast out.

Every response says its length, so that connections persist; a directory is always an index page.
A server started for a ``with serving(...)`` block never outlives the process that started it:
it holds the reading end of a pipe and stops when the other end is gone, however that came about.

The module stands alone (no other part of zfast is imported), so that the child process starts
quickly and measures nothing but itself.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import errno
import logging
import os
import re
import socket
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, BinaryIO

__all__ = ["RangeNotSatisfiable", "RangeServer", "select_range", "serving"]

_log = logging.getLogger("zfast.serve")

HOST = "127.0.0.1"

# Up to here a body is copied behind its head and leaves in one send; above, sendfile saves more
# by not copying than it costs as a second system call.
_COPIED_BODY = 64 * 1024

# A position of a hundred digits lies beyond every file; what is longer is no position but an
# attack on int(), and a Range field that is not understood may be ignored.
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,100})-([0-9]{0,100})\s*", re.ASCII | re.IGNORECASE)
_ENTITY_TAG = re.compile(r'(W/)?("[^"]*")')


class RangeNotSatisfiable(ValueError):
    """A range that has no byte in common with the representation."""


def select_range(field: str, size: int) -> tuple[int, int] | None:
    """The part of a representation that a ``Range`` field selects (RFC 9110, section 14.1.2).

    Parameters
    ----------
    field
        The field's value: ``bytes=first-last``, ``bytes=first-`` or ``bytes=-length``.
    size
        Length of the representation in bytes.

    Returns
    -------
    tuple of int, or None
        Start and exclusive end. None where the whole representation is to be sent: several
        ranges, another unit, an invalid field, or a suffix of an empty representation (which
        satisfies the range, but which no ``Content-Range`` can express).

    Raises
    ------
    RangeNotSatisfiable
        The first position lies at or behind the end, or the suffix has length zero.
    """
    match = _RANGE.fullmatch(field)
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = int(match[2])
        if length == 0:
            raise RangeNotSatisfiable(field)
        return (max(0, size - length), size) if size else None
    first = int(match[1])
    last = int(match[2]) if match[2] else None
    if last is not None and last < first:
        return None
    if first >= size:
        raise RangeNotSatisfiable(field)
    return first, size if last is None else min(last + 1, size)


def _modified(field: str) -> float | None:
    """Seconds since the epoch of an HTTP-date, None for one that cannot be read."""
    try:
        date = email.utils.parsedate_to_datetime(field)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class RangeRequestHandler(SimpleHTTPRequestHandler):
    """One connection: GET and HEAD, single byte ranges, preconditions, index pages."""

    protocol_version = "HTTP/1.1"
    server_version = "zfast"
    sys_version = ""
    disable_nagle_algorithm = True
    # Buffered, so that a head and its small body leave together.
    wbufsize = 2 * _COPIED_BODY

    def do_GET(self) -> None:
        """Answer with the file's bytes, or those that ``Range`` selects."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer a GET's head alone."""
        self._answer()

    def _answer(self) -> None:
        if "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0":
            # The request's content is not read; what follows it could not be told from it.
            self.close_connection = True
        path = self.translate_path(self.path)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                self._answer_directory(path)
            elif stat.S_ISREG(mode):
                with open(path, "rb", buffering=0) as file:
                    self._answer_file(file)
            else:
                self._refuse(HTTPStatus.NOT_FOUND)
        except PermissionError:
            self._refuse(HTTPStatus.FORBIDDEN)
        except ConnectionError:
            raise
        except (OSError, ValueError) as error:
            missing = isinstance(error, ValueError) or error.errno in _MISSING_ERRNO
            if not missing:
                _log.warning("cannot read %s: %s", path, error)
            self._refuse(HTTPStatus.NOT_FOUND if missing else HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer_directory(self, path: str) -> None:
        target, question_mark, query = self.path.partition("?")
        if not target.endswith("/"):
            # Without the slash the page's relative links would lead to its siblings.
            location = f"{target}/{question_mark}{query}"
            self._refuse(HTTPStatus.MOVED_PERMANENTLY, Location=location)
            return
        page = self.list_directory(path)
        if page is not None:
            with page:
                if self.command != "HEAD":
                    self.wfile.write(page.read())

    def _answer_file(self, file: BinaryIO) -> None:
        info = os.fstat(file.fileno())
        size = info.st_size
        etag = f'"{info.st_mtime_ns:x}-{size:x}-{info.st_ino:x}"'
        # A response's date is of whole seconds; a fraction would make every file look modified.
        modified = int(info.st_mtime)
        common = {
            "ETag": etag,
            "Last-Modified": self.date_time_string(modified),
            "Accept-Ranges": "bytes",
        }
        failed = self._failed_precondition(etag, modified)
        if failed is not None:
            self._refuse(failed, **common)
            return
        selected = None
        # Range is defined for GET alone (RFC 9110, section 14.2).
        if self.command == "GET" and "Range" in self.headers and self._if_range(etag, modified):
            try:
                selected = select_range(self._field("Range"), size)
            except RangeNotSatisfiable:
                self._refuse(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                    **common,
                    **{"Content-Range": f"bytes */{size}"},
                )
                return
        start, end = (0, size) if selected is None else selected
        self.send_response(HTTPStatus.OK if selected is None else HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(file.name))
        self.send_header("Content-Length", str(end - start))
        if selected is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for name, value in common.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_part(file, start, end - start)

    def _send_part(self, file: BinaryIO, start: int, length: int) -> None:
        if length <= _COPIED_BODY:
            file.seek(start)
            body = file.read(length)
            self.wfile.write(body)
            sent = len(body)
        else:
            self.wfile.flush()
            sent = self.connection.sendfile(file, start, length)
        if sent != length:
            # The file shrank after its length was announced: only closing can say so.
            self.close_connection = True

    def _refuse(self, status: HTTPStatus, **fields: str) -> None:
        """A response without a representation, after which the connection goes on."""
        body = f"{status.value} {status.phrase}\n".encode()
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status is not HTTPStatus.NOT_MODIFIED:
            self.wfile.write(body)

    def _field(self, name: str) -> str:
        """A field's value, its lines joined (RFC 9110, section 5.3)."""
        return ", ".join(self.headers.get_all(name, []))

    def _failed_precondition(self, etag: str, modified: int) -> HTTPStatus | None:
        """The status that a request's preconditions ask for, in the order of RFC 9110, 13.2.2."""
        if "If-Match" in self.headers:
            field = self._field("If-Match")
            strong = [tag for weak, tag in _ENTITY_TAG.findall(field) if not weak]
            if field.strip() != "*" and etag not in strong:
                return HTTPStatus.PRECONDITION_FAILED
        elif "If-Unmodified-Since" in self.headers:
            since = _modified(self._field("If-Unmodified-Since"))
            if since is not None and modified > since:
                return HTTPStatus.PRECONDITION_FAILED
        if "If-None-Match" in self.headers:
            field = self._field("If-None-Match")
            if field.strip() == "*" or etag in (tag for _, tag in _ENTITY_TAG.findall(field)):
                return HTTPStatus.NOT_MODIFIED
        elif "If-Modified-Since" in self.headers:
            since = _modified(self._field("If-Modified-Since"))
            if since is not None and modified <= since:
                return HTTPStatus.NOT_MODIFIED
        return None

    def _if_range(self, etag: str, modified: int) -> bool:
        """Whether ``Range`` holds: no ``If-Range``, or one that names this representation."""
        if "If-Range" not in self.headers:
            return True
        field = self._field("If-Range").strip()
        return field == etag if '"' in field else _modified(field) == modified

    def end_headers(self) -> None:
        """Finish the head, saying whether the connection persists where that is not implied."""
        if self.close_connection:
            self.send_header("Connection", "close")
        elif self.request_version == "HTTP/1.0":
            self.send_header("Connection", "keep-alive")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nobody's news: they go to the log at its lowest level."""
        _log.debug(format, *args)


_MISSING_ERRNO = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


class RangeServer(ThreadingHTTPServer):
    """The files below a directory over HTTP/1.1 on the loopback interface.

    Listens from its construction on; answers inside a ``with`` block, from a thread of its own
    and one more a connection. Leaving the block closes every connection.

    Parameters
    ----------
    directory
        The folder to serve.
    port
        The port to listen on; 0 finds a free one.

    Raises
    ------
    NotADirectoryError
        `directory` is no directory.
    OSError
        The port is taken, or may not be used.
    """

    daemon_threads = True
    # As many clients as may connect before the next accept(); the default of 5 makes a burst of
    # connections wait for a retransmission.
    request_queue_size = 1024

    def __init__(self, directory: str | os.PathLike[str], port: int = 0) -> None:
        self.directory = os.path.abspath(directory)
        if not os.path.isdir(self.directory):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", os.fspath(directory))
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((HOST, port), RangeRequestHandler)

    @property
    def url(self) -> str:
        """The directory's URL, without a slash at its end."""
        return f"http://{HOST}:{self.server_port}"

    def __enter__(self) -> RangeServer:
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="zfast-serve", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, close every connection and wait for their threads. May be repeated."""
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
            self._thread = None
        self.server_close()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout=5)

    def server_bind(self) -> None:
        """Bind without asking DNS for the name of the loopback address."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        RangeRequestHandler(request, client_address, self, directory=self.directory)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note a connection, then start its thread."""
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; anything else is logged."""
        if isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            _log.debug("connection from %s lost", client_address)
        else:
            _log.exception("connection from %s failed", client_address)


@contextlib.contextmanager
def serving(directory: str | os.PathLike[str]) -> Iterator[str]:
    """Serve a directory from a child process for the length of a ``with`` block.

    A process of its own, so that a measured reader shares neither GIL nor event loop with it.

    Parameters
    ----------
    directory
        The folder to serve.

    Yields
    ------
    str
        The directory's URL, without a slash at its end.

    Raises
    ------
    NotADirectoryError
        `directory` is no directory.
    ChildProcessError
        The child process ended before it was ready; its standard error says why.
    """
    path = os.path.abspath(directory)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", os.fspath(directory))
    child = subprocess.Popen(
        # By file and with -P: neither the package nor the folder it lies in is imported from.
        [sys.executable, "-P", os.path.abspath(__file__), "--until-eof", "--", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C in a terminal is for the parent to answer; the child follows the pipe.
        process_group=0,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        try:
            url = child.stdout.readline().decode().strip()
            if not url:
                raise ChildProcessError("the file server's process ended before it was ready")
            yield url
        finally:
            child.stdin.close()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()


def run(directory: str | os.PathLike[str], port: int = 0, *, until_eof: bool = False) -> None:
    """Serve a directory in this process, its URL on standard output once it can be read.

    Parameters
    ----------
    directory, port
        As for `RangeServer`.
    until_eof
        Return when standard input ends; otherwise serve until interrupted.
    """
    with RangeServer(directory, port) as server:
        print(server.url, flush=True)
        if not until_eof:
            threading.Event().wait()
        while os.read(0, 4096):
            pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server from a command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m zfast.serve", description="Serve a directory over HTTP with byte ranges."
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--port", type=int, default=0, help="port (default: a free one)")
    parser.add_argument(
        "--until-eof", action="store_true", help="stop when standard input is closed"
    )
    options = parser.parse_args(arguments)
    try:
        run(options.directory, options.port, until_eof=options.until_eof)
    except KeyboardInterrupt:
        return 130
    except (OSError, OverflowError) as error:
        print(f"zfast: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
