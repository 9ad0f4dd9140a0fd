"""What the tests of hedges share: a server that holds back what it is told to, and its clients."""

from __future__ import annotations

import threading
from typing import Any

from promises import OBJECT, Scripted, at_once
from servers.scripted import Request, ScriptedServer, ok

from zfast import Client

# What has to be answered before anything can be late, and 5 % of it is more than one hedge.
WARM = 60


class Held:
    """A server that does by script what "held" asks for, and serves everything else at once."""

    def __init__(self, scripted: Scripted, *script: Any, **options: Any) -> None:
        self.script = iter(script)
        self.lock = threading.Lock()
        self.server: ScriptedServer = scripted(self.handle, **options)

    def handle(self, request: Request) -> Any:
        if request.key != "held":
            return ok(OBJECT)
        with self.lock:
            step = next(self.script)
        return step(request) if callable(step) else step

    def client(self, **options: Any) -> Client:
        client = Client(self.server.url, **{"retries": at_once(), "deadline": 20.0} | options)
        for at in range(WARM):
            assert client.get(f"warm/{at}") == OBJECT
        return client

    def held(self) -> list[Request]:
        return [request for request in list(self.server.requests) if request.key == "held"]

    def wait_for_held(self, count: int) -> None:
        self.server.wait_for(lambda: len(self.held()) >= count)


def hedges(client: Client) -> tuple[int, int]:
    now = client.stats()
    return now["hedges"], now["hedge_wins"]
