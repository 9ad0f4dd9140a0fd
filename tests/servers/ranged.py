"""A correct range-serving handler over a dict, and faults laid over it.

Preconditions and ranges follow RFC 9110, sections 13.2.2 and 14; several ranges in one Range field
are ignored, as the RFC allows.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence

from .parsing import Request
from .replies import Action, Reply, ok, partial, status, unsatisfiable

Result = Action | Iterable[Action]
Handler = Callable[[Request], Result]
Fault = Reply | Sequence[Action] | Callable[[Request, Reply], Result | None]

LAST_MODIFIED = "Thu, 01 Jan 2026 00:00:00 GMT"


class Ranged:
    """Serves `objects` (by key: the path without its leading slash) to GET, HEAD, PUT, DELETE."""

    def __init__(self, objects: MutableMapping[str, bytes], *, writable: bool = True) -> None:
        self.objects = objects
        self.writable = writable
        self._lock = threading.Lock()
        self._tags: dict[str, tuple[bytes, str]] = {}

    def __call__(self, request: Request) -> Reply:
        """The reply that RFC 9110 asks for."""
        methods = ["GET", "HEAD", "PUT", "DELETE"] if self.writable else ["GET", "HEAD"]
        if request.method not in methods:
            return status(405, allow=", ".join(methods))
        with self._lock:
            body = self.objects.get(request.key)
            tag = None if body is None else self._tag(request.key, body)
            refusal = self._precondition(request, tag)
            if refusal is not None:
                return refusal
            if request.method == "PUT":
                self.objects[request.key] = request.body
                tag = self._tag(request.key, request.body)
                return Reply(201 if body is None else 204, fields={"ETag": tag})
            if body is None or tag is None:
                return status(404)
            if request.method == "DELETE":
                del self.objects[request.key]
                return Reply(204)
        return self._read(request, body, tag)

    def etag(self, key: str) -> str:
        """The entity tag of the object as it is now."""
        return self._tag(key, self.objects[key])

    def _tag(self, key: str, body: bytes) -> str:
        known = self._tags.get(key)
        if known is None or known[0] is not body:
            digest = hashlib.blake2b(body, digest_size=8).hexdigest()
            known = self._tags[key] = (body, f'"{digest}"')
        return known[1]

    def _precondition(self, request: Request, tag: str | None) -> Reply | None:
        expected = request.field("If-Match")
        if expected is not None and not _matches(expected, tag, weak=False):
            return status(412)
        excluded = request.field("If-None-Match")
        if excluded is not None and _matches(excluded, tag, weak=True):
            if request.method in ("GET", "HEAD"):
                return Reply(304, fields={"ETag": tag or ""})
            return status(412)
        return None

    def _read(self, request: Request, body: bytes, tag: str) -> Reply:
        fields = {
            "accept_ranges": "bytes",
            "etag": tag,
            "last_modified": LAST_MODIFIED,
            "content_type": "application/octet-stream",
        }
        wanted = parse_range(request.range) if request.method == "GET" else None
        condition = request.field("If-Range")
        if wanted is None or condition not in (None, tag, LAST_MODIFIED):
            return ok(body, **fields)
        first, last = wanted
        if first is None:
            assert last is not None
            if last == 0:
                return unsatisfiable(len(body))
            if not body:
                # Satisfiable by RFC 9110, 14.1.2, yet no Content-Range could say so.
                return ok(body, **fields)
            first, last = max(0, len(body) - last), len(body) - 1
        elif first >= len(body):
            return unsatisfiable(len(body))
        end = len(body) if last is None else min(last + 1, len(body))
        return partial(body[first:end], first, len(body), **fields)


def parse_range(value: str | None) -> tuple[int | None, int | None] | None:
    """(first, last), (first, None) or (None, suffix length) of a single byte range, else None."""
    matched = re.fullmatch(r"bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))", value or "")
    if matched is None:
        return None
    first, last, suffix = matched.groups()
    if suffix is not None:
        return None, int(suffix)
    if last and int(last) < int(first):
        return None
    return int(first), int(last) if last else None


def _matches(condition: str, tag: str | None, *, weak: bool) -> bool:
    if tag is None:
        return False
    if condition.strip() == "*":
        return True
    candidates = re.findall(r'(?:W/)?"[^"]*"', condition)
    if weak:
        candidates = [candidate.removeprefix("W/") for candidate in candidates]
    return tag in candidates


def ranged(objects: MutableMapping[str, bytes], *, writable: bool = True) -> Ranged:
    """A correct handler over `objects`; what the test changes in the dict changes the replies."""
    return Ranged(objects, writable=writable)


def overlay(
    handler: Callable[[Request], Reply],
    faults: Callable[[Request, Reply], Result | None]
    | Sequence[Fault | None]
    | Mapping[int, Fault],
) -> Handler:
    """Lay faults over a correct handler.

    Parameters
    ----------
    handler
        Gives the correct reply of each request.
    faults
        Either a function of (request, correct reply) asked for each request, or such functions
        or ready replies (or lists of actions) for single requests: in order of arrival, or by
        `request.index`. A function that gives None, a None in the list and every request beyond
        it get the correct reply.
    """

    def handle(request: Request) -> Result:
        reply = handler(request)
        fault: Fault | None
        if callable(faults):
            fault = faults
        elif isinstance(faults, Mapping):
            fault = faults.get(request.index)
        else:
            fault = faults[request.index] if request.index < len(faults) else None
        if callable(fault):
            fault = fault(request, reply)  # type: ignore[assignment]
        return reply if fault is None else fault  # type: ignore[return-value]

    return handle
