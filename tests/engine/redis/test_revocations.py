"""Tokens that are checked in one turn are asked about together, and each is answered by itself."""

from __future__ import annotations

from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import Credential
from pushserver.engine.redis.names import Names
from pushserver.engine.redis.revocations import RedisRevocations
from pushserver.server.clock import Clock


class PaperCommands:
    """Redis on paper: what it was asked, and a reply for each."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.replies: list[Deferred[list[int]]] = []

    async def run(self, name: str, keys: list[str], *arguments: Any) -> list[int]:
        assert name == "revoked"
        self.asked.append(keys[::2])
        self.replies.append(Deferred())
        return await self.replies[-1]


class Room:
    def __init__(self) -> None:
        self.reactor = task.Clock()
        self.redis = PaperCommands()
        self.store = RedisRevocations(self.redis, Names("p", 0), Clock(self.reactor))  # type: ignore[arg-type]
        self.told: list[Any] = []

    def ask(self, *names: str) -> list[Deferred[list[bool]]]:
        asked = [self.store.revoked([Credential("u", name, 1)]) for name in names]
        for each in asked:
            each.addCallbacks(self.told.append, lambda failure: self.told.append(type(failure.value)))
        return asked


def test_a_turn_is_one_command_and_each_is_answered() -> None:
    room = Room()
    room.ask("a", "b", "c")
    assert room.redis.asked == []
    room.reactor.advance(0)
    assert room.redis.asked == [["p:revoked:jti:a", "p:revoked:jti:b", "p:revoked:jti:c"]]
    room.ask("d")
    room.reactor.advance(0)
    assert room.redis.asked[1:] == [["p:revoked:jti:d"]]
    room.redis.replies[0].callback([0, 1, 0])
    assert room.told == [[False], [True], [False]]
    room.redis.replies[1].callback([1])
    assert room.told[3:] == [[True]]


def test_each_is_told_that_redis_cannot_say() -> None:
    room = Room()
    room.ask("a", "b")
    room.reactor.advance(0)
    room.redis.replies[0].errback(Unavailable("away"))
    assert room.told == [Unavailable, Unavailable]


def test_who_leaves_takes_no_answer_from_the_others() -> None:
    room = Room()
    first, *_ = room.ask("a", "b")
    first.cancel()
    room.reactor.advance(0)
    room.redis.replies[0].callback([1, 1])
    assert room.told[1:] == [[True]]
