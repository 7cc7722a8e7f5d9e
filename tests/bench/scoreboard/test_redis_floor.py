"""What is taken to be the least over Redis asks as it says, and answers no earlier."""

from __future__ import annotations

from typing import Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from bench.peers.autobahn_floor import AUTHENTICATED
from bench.peers.redis_floor import AskingDoors, Names, Redis
from bench.servers import masked, token

from .test_autobahn_floor import UPGRADE, Visit

SUBSCRIBE = hiredis.pack_command(("SUBSCRIBE", "pushserver:live:user:u7", "pushserver:pub:user:u7"))


class Commands:
    """A connection to Redis on paper."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.reply: Deferred[list[Any]] = Deferred()

    def evalsha(self, digest: str, keys: list[str], arguments: list[Any]) -> Deferred[list[Any]]:
        self.keys = keys
        return self.reply


def begun() -> tuple[Visit, Names, Commands]:
    """A client that has shown its token, and said a second message at once."""
    names, commands = Names(), Commands()
    names.makeConnection(StringTransport())
    visit = Visit(AskingDoors(Redis(names, commands, "digest")))  # type: ignore[arg-type]
    visit.sent(UPGRADE)
    auth = masked(b'{"type":"auth","id":1,"data":{"token":"%b"}}' % token("u7").encode())
    subscribe = masked(b'{"type":"subscribe","id":2,"data":{"channels":["public:a"]}}')
    assert visit.sent(auth + subscribe) == b""
    return visit, names, commands


def confirm(names: Names) -> None:
    for each in (b"live", b"pub"):
        names.replyReceived([b"subscribe", b"pushserver:%b:user:u7" % each, 1])


def test_who_signs_in_is_answered_when_the_subscription_stands_and_redis_was_asked() -> None:
    visit, names, commands = begun()
    assert names.transport.value().endswith(SUBSCRIBE)
    assert commands.keys == []
    confirm(names)
    assert "pushserver:inbox:u7" in commands.keys
    commands.reply.callback([0, 1, [], [], []])
    answer = visit.socket.taken
    assert AUTHENTICATED in answer
    assert b'"subscription_success","id":2' in answer.partition(AUTHENTICATED)[2]


def test_who_shows_a_revoked_token_is_thrown_out() -> None:
    visit, names, commands = begun()
    confirm(names)
    commands.reply.callback([1, 1, [], [], []])
    assert visit.transport.disconnected
    assert AUTHENTICATED not in visit.socket.taken
