"""web_floor.py LISTEN REDIS: the least that any server on twisted.web does for a request that is kept alive.

Twisted's `Site` and a resource whose answer is ready, with the octets of the server's. With the URL of a Redis
(else "") each answer waits for one script there by txredisapi, with as many octets as the server's has to publish.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urlsplit

import txredisapi
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from pushserver.app.process import freeze_gc
from pushserver.app.workers.sockets import widen
from pushserver.web.tls import endpoint

ANSWER = b'{"messageId":"2086a4c274cb-1f4","offset":500,"epoch":"c9f00f77deffce5e"}'
SCRIPT = "return {1, 500, ARGV[#ARGV]}"
#: A key, and the values of a publication: settings and numbers, then what is kept and what is spread.
KEYS = ["pushserver:{0}:history:log:own-1"]
VALUES = [b"200", b"600000", b"1795831783453", b"2086a4c274cb-1f4", b"x" * 150, b"x" * 150, b"c9f00f77deffce5e"]


class Ready(Resource):
    """Sends the same, whatever is asked for."""

    isLeaf = True

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        request.content.read()
        self._head(request)
        return ANSWER

    def _head(self, request: Request) -> None:
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")


class Asking(Ready):
    """The same, once Redis has answered."""

    def __init__(self, redis: Any, script: str) -> None:
        super().__init__()
        self._redis = redis
        self._script = script

    def render_POST(self, request: Request) -> Any:
        assert request.content is not None
        request.content.read()
        self._redis.evalsha(self._script, KEYS, VALUES).addCallback(self._answer, request)
        return NOT_DONE_YET

    def _answer(self, reply: Any, request: Request) -> None:
        self._head(request)
        request.setHeader(b"content-length", b"%d" % len(ANSWER))
        request.write(ANSWER)
        request.finish()


async def resource(redis: str) -> Resource:
    """Return what answers; with the URL of a Redis, once that is there."""
    if not redis:
        return Ready()
    place = urlsplit(redis)
    connection = await txredisapi.Connection(place.hostname, place.port)
    return Asking(connection, await connection.script_load(SCRIPT))


async def listen(reactor: Any, description: str, redis: str) -> None:
    site = Site(await resource(redis))
    site.noisy = False
    widen(await endpoint(reactor, description).listen(site), description)


def main() -> None:
    from twisted.internet import reactor

    listening = Deferred.fromCoroutine(listen(reactor, *sys.argv[1:3]))
    listening.addErrback(lambda failure: sys.exit(failure.getTraceback()))
    freeze_gc()
    reactor.run()


if __name__ == "__main__":
    main()
