"""Real servers as child processes on a free port, of loopback or of a network of their own.

A server is ready when it accepts, is ended by its own process id and always reaped, and shows its
log where it fails.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self
from urllib.parse import unquote

import trustme

if TYPE_CHECKING:
    from .netns import Network

HOST = "127.0.0.1"
READY_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
BIND_ATTEMPTS = 5
LOG_TAIL = 8000

_SENTINEL = "/.sentinel-"

_running: list[ChildServer] = []


class ServerFailed(RuntimeError):
    """A server did not start, or ended by itself; the message has its log."""


@dataclass(frozen=True)
class LoggedRequest:
    """One request, as the access log of a real server has it."""

    method: str
    target: str
    status: int
    range: str | None = None
    sent: int | None = None
    """Body bytes sent."""
    connection: str = ""
    """The same for all requests of one connection."""

    @property
    def path(self) -> str:
        """The target's path, percent-decoded, without its query."""
        return unquote(self.target.partition("?")[0])

    @property
    def key(self) -> str:
        """The path without its leading slash."""
        return self.path[1:]


class ChildServer(abc.ABC):
    """A server over a document root; use it as a context manager, or `start()` and `stop()`.

    Parameters
    ----------
    root
        The document root.
    ca
        Serve https with a certificate that this authority issues for its address and localhost.
    """

    name: ClassVar[str]
    shared = False
    """Whether it outlives the test that starts it."""
    logs_requests = True
    """Whether it has an access log."""

    def __init__(self, root: str | os.PathLike[str], ca: trustme.CA | None = None) -> None:
        self.root = Path(root)
        self.scheme = "http" if ca is None else "https"
        self._ca = ca
        self._network: Network | None = None
        self.host = HOST
        self.port = 0
        self.work = Path()
        """The server's own folder: configuration, logs, temporary files."""
        self._process: subprocess.Popen[bytes] | None = None
        self._reservation: socket.socket | None = None
        self._owner = 0
        self._sentinels = itertools.count()

    @abc.abstractmethod
    def command(self) -> Sequence[str]:
        """Write the configuration for `self.port` into `self.work`; the command that runs it."""

    @abc.abstractmethod
    def logged(self) -> list[LoggedRequest]:
        """The requests in the access log as it is now."""

    def within(self, network: Network | None) -> Self:
        """Have it start in the namespace of a network, unless that is None."""
        if network is not None:
            self._network, self.host = network, network.host
        return self

    @property
    def url(self) -> str:
        """The root's URL, without a trailing slash."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the server (of its parent process, where it has several)."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start, and wait until connections are accepted.

        Raises
        ------
        ServerFailed
            With the server's log, where it does not accept in time.
        """
        self._owner = os.getpid()
        self.work = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        for _ in range(BIND_ATTEMPTS):
            try:
                self._reserve_port()
                self._spawn()
                if self._wait_ready():
                    return self
            except BaseException:
                self._end()
                raise
            log = self.log()
            if "in use" not in log.lower():
                break
            self._end_process()
        self._end()
        raise ServerFailed(f"{self.name} did not start:\n{log}")

    def stop(self) -> None:
        """End the process and remove its folder; nothing happens where it is not running.

        Raises
        ------
        ServerFailed
            With the log, where the server had ended by itself.
        """
        if self._process is None or os.getpid() != self._owner:
            return
        code = self._process.poll()
        log = self.log()
        self._end()
        if code is not None:
            raise ServerFailed(f"{self.name} had ended by itself with {code}:\n{log}")

    def kill(self) -> None:
        """End the process and its children at once, as a crash would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._end()

    def requests(
        self, at_least: int = 0, timeout: float = 10.0, *, since: int = 0
    ) -> list[LoggedRequest]:
        """Every request answered so far, in the order of the log, but for its first `since` lines.

        A server may write its log after the client has the response. So a request of its own goes
        through the server first, and the log is read when that, and `at_least` others, are in it.

        Raises
        ------
        TimeoutError
            Where they are not in the log in time.
        """
        sentinel = self._sentinel()
        self._ask(sentinel)
        deadline = time.monotonic() + timeout
        while True:
            logged = self.logged()[since:]
            requests = [entry for entry in logged if not entry.target.startswith(_SENTINEL)]
            if len(requests) >= at_least and any(entry.target == sentinel for entry in logged):
                return requests
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(requests)} requests in {timeout} s, not {at_least}")
            time.sleep(0.002)

    @property
    def output_path(self) -> Path:
        """Where the process' stdout and stderr go."""
        return self.work / "output.log"

    def environment(self) -> dict[str, str]:
        """The environment of the process: nothing of the user's own configuration."""
        kept = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        return {**kept, "HOME": str(self.work), "LC_ALL": "C"}

    def log(self) -> str:
        """The end of what the server printed."""
        try:
            return self.output_path.read_bytes()[-LOG_TAIL:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def connect(self) -> socket.socket:
        """A new connection to the server."""
        sock = socket.create_connection((self.host, self.port), timeout=5.0)
        if self._ca is None:
            return sock
        try:
            context = ssl.create_default_context()
            self._ca.configure_trust(context)
            return context.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise

    def certificate(self) -> tuple[Path, Path]:
        """A new certificate of the authority's and its key, written to `self.work`."""
        assert self._ca is not None
        certificate = self._ca.issue_cert(self.host, "localhost")
        chain, key = self.work / "chain.pem", self.work / "key.pem"
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(str(chain), append=number > 0)
        certificate.private_key_pem.write_to_path(str(key))
        return chain, key

    def _sentinel(self) -> str:
        return f"{_SENTINEL}{next(self._sentinels)}"

    def _logged_targets(self) -> set[str]:
        return {entry.target for entry in self.logged()}

    def _ask(self, target: str, timeout: float = 5.0) -> None:
        with self.connect() as sock:
            sock.settimeout(timeout)
            sock.sendall(f"GET {target} HTTP/1.0\r\nHost: {self.host}\r\n\r\n".encode())
            while sock.recv(1 << 16):
                pass

    def _reserve_port(self) -> None:
        """Choose a free port; on Linux a bound, unlistening socket keeps others from it.

        A listener that sets SO_REUSEADDR, as all of these servers do, can still bind. Elsewhere
        the port is only likely to stay free, and `start` tries again where it did not.
        """
        if self._network is not None:
            self.port = self._network.free_port()
            return
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, 0))
        self.port = sock.getsockname()[1]
        if sys.platform == "linux":
            self._reservation = sock
        else:
            sock.close()

    def _wait_ready(self) -> bool:
        """Wait until the server answers, and has the request in its log: it is not another's."""
        assert self._process is not None
        sentinel = self._sentinel()
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self._ask(sentinel, timeout=0.25)
                if not self.logs_requests or sentinel in self._logged_targets():
                    return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.005)
                return False
        return False

    def _spawn(self) -> None:
        command = self.command()
        if self._network is not None:
            command = self._network.inside(command)
        with self.output_path.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.work,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C at the terminal is for the tests, not for their servers.
                start_new_session=True,
            )
        _running.append(self)

    def _end(self) -> None:
        self._end_process()
        shutil.rmtree(self.work, ignore_errors=True)

    def _end_process(self) -> None:
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None
        _running.remove(self)


def running_servers() -> list[ChildServer]:
    """The servers that this process has started and not stopped."""
    return [server for server in _running if server._owner == os.getpid()]


class GrowingLog:
    """The entries of a log that is being written; each line is read and parsed once.

    Parameters
    ----------
    parse
        Makes an entry of a line, None of one that is of no request. A last line that is incomplete
        is left for later.
    """

    def __init__(self, parse: Callable[[bytes], LoggedRequest | None]) -> None:
        self._parse = parse
        self._entries: list[LoggedRequest] = []
        self._read = 0

    def entries(self, path: Path) -> list[LoggedRequest]:
        """All entries so far; `path` is the same each time."""
        if path.exists():
            with path.open("rb") as log:
                log.seek(self._read)
                lines, newline, _ = log.read().rpartition(b"\n")
            self._read += len(lines) + len(newline)
            self._entries += filter(None, map(self._parse, lines.splitlines()))
        return list(self._entries)


@atexit.register
def _stop_all() -> None:
    for server in running_servers():
        with contextlib.suppress(ServerFailed):
            server.stop()
