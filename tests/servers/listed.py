"""A writable object server over a dict that also lists: what a store needs to be tested whole."""

from __future__ import annotations

import json

from .parsing import Request
from .ranged import Ranged
from .replies import Reply, ok, status


class Listed(Ranged):
    """`Ranged`, with an index page in the manner of nginx's `autoindex_format json` below it.

    A directory is there as long as an object is; the root always is.
    """

    def __call__(self, request: Request) -> Reply:
        """The index page of a directory, else the reply that RFC 9110 asks for."""
        directory = request.key
        if directory and not directory.endswith("/"):
            return super().__call__(request)
        if request.method not in ("GET", "HEAD"):
            return status(405, allow="GET, HEAD")
        below = [
            key.removeprefix(directory) for key in list(self.objects) if key.startswith(directory)
        ]
        if directory and not below:
            return status(404)
        names = dict.fromkeys(key.partition("/")[::2] for key in below)
        kinds = {name: "directory" if rest else "file" for name, rest in names}
        rows = [{"name": name, "type": kind} for name, kind in kinds.items()]
        return ok(json.dumps(rows).encode(), content_type="application/json")
