"""redis_floor.py HOST:PORT LISTEN...: `autobahn_floor.py`, whose clients show a token, and for whom Redis is asked.

    token (PyJWT, HS256) -> SUBSCRIBE of the user's two names, confirmed -> one EVALSHA -> the answer that is ready

It is the least that a sign-in can ask of Redis without giving up what it promises: what is read is read after the
subscription stands, so that nothing is lost in between. The script reads and writes as many keys as those of the server
do for a user who has nothing waiting: two for revocations, three for presence, the inbox, the tasks, the positions.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import hiredis
import jwt
import txredisapi
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from bench.peers.autobahn_floor import AUTHENTICATED, MAX_MESSAGE, Answers, Door, listen
from bench.servers import SECRET
from pushserver.web.autobahn_reader import AutobahnFactory

#: Milliseconds for which presence is kept.
TTL = 60_000
SCRIPT = """
local time = redis.call('TIME')
local revoked = redis.call('EXISTS', KEYS[1]) + #redis.call('ZRANGE', KEYS[2], '(' .. time[1], '+inf', 'BYSCORE')
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
local count = redis.call('INCR', KEYS[4])
redis.call('PEXPIRE', KEYS[4], ARGV[2])
local server = redis.call('HMGET', KEYS[5], 'generation', 'secret', 'writes', 'evicts', 'versions', 'marked')
local inbox = redis.call('HMGET', KEYS[6], 'epoch', 'offset', 'next')
local tasks = redis.call('ZRANGE', KEYS[7], 0, 99, 'REV', 'WITHSCORES')
return {revoked, count, server, inbox, tasks}
"""


class Names(txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """Subscribes, and says when that is confirmed: txredisapi's own takes one name at a time."""

    def __init__(self) -> None:
        super().__init__(charset=None)
        self._waiting: dict[bytes, Deferred[None]] = {}

    def wait_for(self, *names: str) -> Deferred[None]:
        """Subscribe to these; fires when the last is confirmed."""
        confirmed = self._waiting[names[-1].encode()] = Deferred()
        self.transport.write(hiredis.pack_command(("SUBSCRIBE", *names)))
        return confirmed

    def replyReceived(self, reply: Any) -> None:
        if reply[0] == b"subscribe" and (confirmed := self._waiting.pop(reply[1], None)) is not None:
            confirmed.callback(None)


@dataclass(frozen=True, slots=True)
class Redis:
    """The two connections, and the script's digest."""

    names: Names
    commands: txredisapi.RedisProtocol
    digest: str

    def keys(self, user: str, jti: str) -> list[str]:
        ends = (
            f"revoked:jti:{jti}", f"revoked:user:{user}", "node:1:connections", f"online:{user}",
            "server", f"inbox:{user}", f"tasks:open:{user}",
        )  # fmt: skip
        return [f"pushserver:{end}" for end in ends]


class AskingDoor(Door):
    """One connection; what its client says while Redis is asked waits."""

    redis: Redis
    _asked: list[bytes] | None = None
    _known = False

    def _answer(self, payload: bytes) -> bytes:
        if self._known:
            return self.answers[payload]
        if self._asked is not None:
            self._asked.append(payload)
            return b""
        self._asked = []
        told = jwt.decode(json.loads(payload)["data"]["token"], SECRET, ["HS256"])
        user = told["sub"]
        names = (f"pushserver:live:user:{user}", f"pushserver:pub:user:{user}")
        self.redis.names.wait_for(*names).addCallback(self._ask, user, told["jti"]).addCallbacks(
            self._go_on, self._fail
        )
        return b""

    def _ask(self, _: None, user: str, jti: str) -> Deferred[Any]:
        redis = self.redis
        asked: Deferred[Any] = redis.commands.evalsha(redis.digest, redis.keys(user, jti), [f"{id(self)} {user}", TTL])
        return asked

    def _go_on(self, reply: list[Any]) -> None:
        if reply[0]:
            self.transport.abortConnection()
            return
        self._known = True
        asked, self._asked = self._asked or [], None
        if not self.is_gone:
            self.write(b"".join([AUTHENTICATED, *(self.answers[payload] for payload in asked)]))

    def _fail(self, _: Failure) -> None:
        self.transport.abortConnection()

    def write(self, octets: bytes) -> None:
        if octets:
            super().write(octets)


class AskingDoors(Factory):
    noisy = False

    def __init__(self, redis: Redis) -> None:
        self._door = AutobahnFactory(MAX_MESSAGE).kind(AskingDoor, answers=Answers(), redis=redis)

    def buildProtocol(self, addr: IAddress | None) -> AskingDoor:
        door: AskingDoor = self._door()
        return door


@inlineCallbacks
def serve(reactor: Any, address: str, descriptions: list[str]) -> Any:
    host, _, port = address.partition(":")
    place = TCP4ClientEndpoint(reactor, host, int(port))
    names = yield place.connect(Factory.forProtocol(Names))
    commands = yield place.connect(Factory.forProtocol(lambda: txredisapi.RedisProtocol(charset=None)))
    digest = yield commands.script_load(SCRIPT)
    listen(reactor, AskingDoors(Redis(names, commands, digest.decode())), descriptions)


def main() -> None:
    from twisted.internet import reactor

    address, *descriptions = sys.argv[1:]
    serve(reactor, address, descriptions)
    reactor.run()


if __name__ == "__main__":
    main()
