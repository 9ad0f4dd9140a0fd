"""A server of raw sockets that does to each request what the test's script says.

Every request is parsed strictly and recorded. What goes wrong on the server's side (a malformed
request, a failing script) is kept in `errors` and raised when the server is closed.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Self

from .connection import Connection, Ended, ending_of
from .parsing import BadRequest, Fields, PeerClosed, Request, RequestReader
from .ranged import Handler, Ranged, Result, overlay, ranged
from .replies import (
    Action,
    BelowTLS,
    Cork,
    Drip,
    Fin,
    HalfClose,
    KeyUpdate,
    Renegotiate,
    Reply,
    Reset,
    Stall,
    Tunnel,
    Vanish,
    Wait,
    interim,
    ok,
    partial,
    redirect,
    status,
    unsatisfiable,
)

__all__ = [
    "Action",
    "BadRequest",
    "BelowTLS",
    "Connection",
    "Cork",
    "Drip",
    "Fields",
    "Fin",
    "HalfClose",
    "Handler",
    "KeyUpdate",
    "Ranged",
    "Renegotiate",
    "Reply",
    "Request",
    "Reset",
    "ScriptedServer",
    "Stall",
    "Tunnel",
    "Vanish",
    "Wait",
    "blackhole",
    "interim",
    "ok",
    "overlay",
    "partial",
    "ranged",
    "redirect",
    "status",
    "unsatisfiable",
]

THREAD_NAME = "scripted-server"


class ScriptedServer:
    """A TCP server on a loopback port; use it as a context manager.

    Parameters
    ----------
    handler
        Called with each request, in the thread of its connection (so several at once), and
        gives a `Reply`, bytes, one action or an iterable of actions (a generator may hold between
        two of them). A list instead of a callable scripts the requests in order of arrival; each
        step is what a handler may return, or such a handler.
    on_accept
        Called with each connection before anything is read; the actions that it gives, if any,
        are done first.
    on_head
        Called with each request before its body is read (and before it has an `index`); an answer
        that is not None is given at once, and the connection closed.
    keepalive_requests
        Close each connection after so many requests, with `Connection: close` in the last reply.
    tls
        Speak TLS with this context.
    listening
        False: connecting is refused until `listen()`.
    strict
        False: malformed requests get a 400 and are no error of the server.
    host, port
        The address to listen at; by default a free port.
    """

    def __init__(
        self,
        handler: Callable[[Request], Result] | Sequence[object],
        *,
        on_accept: Callable[[Connection], Result | None] | None = None,
        on_head: Callable[[Request], Result | None] | None = None,
        keepalive_requests: int | None = None,
        tls: ssl.SSLContext | None = None,
        listening: bool = True,
        strict: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._handler = handler if callable(handler) else _sequence(handler)
        self._on_accept = on_accept
        self._on_head = on_head
        self._keepalive_requests = keepalive_requests
        self._tls = tls
        self._strict = strict
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._acceptor: threading.Thread | None = None
        self._waker, self._wakes = socket.socketpair()
        self._waiting = 0
        self.requests: list[Request] = []
        """Every request read so far, in order of arrival."""
        self.connections: list[Connection] = []
        """Every connection accepted so far, in order."""
        self.errors: list[BaseException] = []
        """What went wrong on the server's side; closing raises the first."""
        self.peak_waiting = 0
        """The most requests that were ever without the first byte of their reply at once."""
        self._listener = _bound(host, port)
        self.port: int = self._listener.getsockname()[1]
        self.address = (host, self.port)
        if listening:
            self.listen()

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        host = self.address[0]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{self.port}"

    @property
    def waiting(self) -> int:
        """How many requests are without the first byte of their reply."""
        return self._waiting

    @property
    def open_connections(self) -> list[Connection]:
        """The connections that neither side has closed."""
        return [connection for connection in list(self.connections) if connection.open]

    def keys(self, method: str = "GET") -> list[str]:
        """The keys asked for with `method`, in order of arrival."""
        return [request.key for request in list(self.requests) if request.method == method]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except BaseException as failure:
            if error is None:
                raise
            error.add_note(f"the scripted server failed as well: {failure!r}")

    def listen(self) -> None:
        """Accept connections (again)."""
        self._listener.listen(1024)
        thread = threading.Thread(target=self._accept, name=f"{THREAD_NAME}-accept", daemon=True)
        self._acceptor = thread
        thread.start()

    def refuse(self) -> None:
        """Refuse connections from now on, at the same port; those that are open stay."""
        self._stop_accepting()
        self._listener.close()
        self._listener = _bound(*self.address)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Accept nobody meanwhile: connecting neither succeeds nor fails; those that are open stay.

        Who waits to be accepted then is.
        """
        self._stop_accepting()
        with contextlib.ExitStack() as stack:
            _fill(stack, self._listener)
            yield
        self.listen()

    def close_idle(self, at_least: int | None = None, *, reset: bool = False) -> int:
        """Close the connections on which no request is under way, as an origin may at any time.

        Parameters
        ----------
        at_least
            Wait until so many are idle; None: until all open ones are.
        reset
            Close with RST instead of FIN.

        Returns
        -------
        int
            How many were closed; the client's kernel knows of each.
        """
        return self._end_idle(at_least, Reset() if reset else Fin())

    def vanish_idle(self) -> int:
        """End the connections, once all are idle, without a word to the client: see `Vanish`."""
        return self._end_idle(None, Vanish())

    def _end_idle(self, at_least: int | None, how: Fin | Reset | Vanish) -> int:
        def idle() -> list[Connection]:
            return [connection for connection in self.open_connections if connection.idle]

        if at_least is None:
            self.wait_for(lambda: len(idle()) == len(self.open_connections))
        else:
            self.wait_for(lambda: len(idle()) >= at_least)
        closed = [connection for connection in idle() if connection.close_if_idle(how)]
        self.wait_for(lambda: not any(connection.open for connection in closed))
        return len(closed)

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until `predicate` holds; it is asked again whenever the server's state changes.

        Raises
        ------
        TimeoutError
            Where it does not hold in time.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                raise TimeoutError(
                    f"not in {timeout} s: {len(self.requests)} requests, {self._waiting} waiting, "
                    f"{len(self.open_connections)} connections open, errors: {self.errors}"
                )

    def wait_requests(self, count: int, timeout: float = 30.0) -> list[Request]:
        """Wait until `count` requests have arrived; gives all that have."""
        self.wait_for(lambda: len(self.requests) >= count, timeout)
        return list(self.requests)

    def wait_closed(self, timeout: float = 30.0) -> None:
        """Wait until every connection accepted so far is closed."""
        self.wait_for(lambda: not self.open_connections, timeout)

    def close(self) -> None:
        """Cut every connection, end every thread, and raise the first error.

        Raises
        ------
        BaseException
            The first of `errors`.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._stop_accepting()
        self._listener.close()
        for connection in self.connections:
            connection.shut_down()
        deadline = time.monotonic() + 10.0
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"a script does not end: {thread.name}")
        self._waker.close()
        self._wakes.close()
        if self.errors:
            raise self.errors[0]

    def _stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._waker.send(b"x")
            self._acceptor.join()
            self._acceptor = None

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wakes, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                # Whoever has connected is let in before it is over.
                if self._listener in ready:
                    with contextlib.suppress(OSError):
                        self._open(*self._listener.accept())
                        continue
                if self._wakes in ready:
                    self._wakes.recv(1)
                    return

    def _open(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        number = len(self.connections)
        connection = Connection(sock, number, peer, self._closing, self._changed)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name=f"{THREAD_NAME}-{number}", daemon=True
        )
        self._threads.append(thread)
        with self._changed:
            self.connections.append(connection)
            self._changed.notify_all()
        thread.start()

    def _serve(self, connection: Connection) -> None:
        ending = "server"
        try:
            connection.handshake()
            if self._on_accept is not None:
                self._perform(connection, self._on_accept(connection))
            reader = RequestReader(connection.receive)
            while self._serve_one(connection, reader):
                pass
            connection.finish(Fin())
        except BadRequest as error:
            ending = "bad request"
            self._refuse_malformed(connection, error)
        except BaseException as error:
            ending = ending_of(error)
            if ending == "error":
                self._note(error)
        finally:
            self._replied(connection)
            connection.closed(ending)

    def _serve_one(self, connection: Connection, reader: RequestReader) -> bool:
        """Serve one request; whether another may follow on this connection."""
        connection.rest()
        head = reader.read_head()
        connection.work()
        request = replace(head, connection=connection.number, number=len(connection.requests))
        if self._on_head is not None and (answer := self._on_head(request)) is not None:
            request = self._record(connection, request)
            return self._perform(connection, answer, request, last=True)
        if (request.field("Expect") or "").lower() == "100-continue":
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = replace(request, body=reader.read_body(request))
        if reader.rest and request.method != "CONNECT":
            raise BadRequest(f"bytes before the reply to {request.target}: {reader.rest[:200]!r}")
        request = self._record(connection, request)
        last = self._keepalive_requests == request.number + 1
        said = (request.field("Connection") or "").lower()
        closes = "close" in said or (request.version == "HTTP/1.0" and "keep-alive" not in said)
        return self._perform(connection, self._handler(request), request, last) and not closes

    def _perform(
        self,
        connection: Connection,
        result: Result | None,
        request: Request | None = None,
        last: bool = False,
    ) -> bool:
        """Do what a script asks for; whether the connection is still good for another request."""
        for action in _actions(result):
            if not (isinstance(action, Wait | Stall) or _is_interim(action)):
                self._replied(connection)
                if last and isinstance(action, Reply):
                    action = action.closing()
            if not connection.perform(action, "GET" if request is None else request.method):
                return False
        if connection.waiting:
            raise AssertionError(f"the script gave no reply to {request}")
        return not last

    def _record(self, connection: Connection, request: Request) -> Request:
        with self._changed:
            request = replace(request, index=len(self.requests))
            self.requests.append(request)
            connection.requests.append(request)
            connection.waiting = True
            self._waiting += 1
            self.peak_waiting = max(self.peak_waiting, self._waiting)
            self._changed.notify_all()
        return request

    def _replied(self, connection: Connection) -> None:
        with self._changed:
            if connection.waiting:
                connection.waiting = False
                self._waiting -= 1
                self._changed.notify_all()

    def _refuse_malformed(self, connection: Connection, error: BadRequest) -> None:
        if self._strict and not self._closing.is_set():
            self._note(error)
        with contextlib.suppress(OSError, PeerClosed, Ended):
            connection.send(status(400).closing().wire())
            connection.finish(Fin())

    def _note(self, error: BaseException) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()


@contextlib.contextmanager
def blackhole(host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[str, int]]:
    """An address at which connecting neither succeeds nor fails: its accept queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(host, port))
        _fill(stack, listener)
        yield listener.getsockname()


def _fill(stack: contextlib.ExitStack, listener: socket.socket) -> None:
    """Fill the accept queue of a listener, until the stack is closed."""
    listener.listen(0)
    for _ in range(4):
        filler = stack.enter_context(socket.socket(listener.family))
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            filler.connect(listener.getsockname())


_used_ports: set[int] = set()


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address; where the port is 0, at one that no server of this process had.

    zfast would go on from what the server before bore, such as two requests at once after a 503.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    found = sock.getsockname()[1]
    if port == 0 and found in _used_ports:
        # Kept until there is another, or it might be found again.
        with sock:
            return _bound(host, 0)
    _used_ports.add(found)
    return sock


def _actions(result: Result | None) -> Iterable[Action]:
    if result is None:
        return ()
    if isinstance(result, Action):
        return (result,)
    return result


def _is_interim(action: Action) -> bool:
    return isinstance(action, Reply) and action.interim


def _sequence(steps: Sequence[object]) -> Callable[[Request], Result]:
    def handle(request: Request) -> Result:
        if request.index >= len(steps):
            raise AssertionError(f"no step is left for {request.method} {request.target}")
        step = steps[request.index]
        return step(request) if callable(step) else step  # type: ignore[return-value]

    return handle
