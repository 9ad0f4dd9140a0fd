"""What is no entity tag (RFC 9110, section 8.8.3) is not sent back as one."""

from __future__ import annotations

import pytest
from promises import at_once
from servers.scripted import Reply, Request, ScriptedServer

pytest.importorskip("zarr", minversion="3.1", reason="zarr 3 over FastStore")

from faults import GET, SHARDED_ANEW, Face, Faulty, outcome, reading, warmed


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warmed()


@pytest.mark.parametrize("tag", ['"a', '"a"b"', '"a", "b"', '"a",*', '"a" b', '"a"; q=1', '"a\tb"'])
@pytest.mark.parametrize("face", [GET, SHARDED_ANEW], ids=str)
def test_a_malformed_tag_is_none(face: Face, tag: str) -> None:
    def fault(request: Request, reply: Reply) -> Reply:
        reply = reply.with_fields(etag=tag)
        cut = face is GET and request.index == 0
        return reply.cut_body(len(reply.body) // 2) if cut else reply

    faulty = Faulty(face.objects, fault)
    with ScriptedServer(faulty) as server, reading(face, server.url, retries=at_once(3)) as read:
        faulty.arm()
        assert outcome(read) is None
        for request in server.requests:
            assert not request.fields.has("If-Match")
            assert not request.fields.has("If-Range")
