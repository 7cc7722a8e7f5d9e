"""Signing in: how often the engine is waited for, one wait after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.engine.redis.servers import RedisServer
from tests.protocols.paper import LANGUAGES, LocalNode


class Counted:
    """Counts, through every store of an engine, the rounds of waiting: calls that are under way together are one."""

    STORES = ("broker", "history", "inbox", "tasks", "presence", "revocations")

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rounds: list[list[str]] = []
        self._under_way = 0
        for store in self.STORES:
            one = getattr(engine, store)
            for name in dir(type(one)):
                call = getattr(one, name)
                if not name.startswith("_") and callable(call):
                    monkeypatch.setattr(one, name, self._counted(f"{store}.{name}", call))

    def _counted(self, name: str, call: Any) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            answer = call(*arguments, **named)
            if not isinstance(answer, Deferred) or answer.called:
                return answer
            if not self._under_way:
                self.rounds.append([])
            self.rounds[-1].append(name)
            self._under_way += 1
            return answer.addBoth(self._answered)

        return counted

    def _answered(self, result: Any) -> Any:
        self._under_way -= 1
        return result


async def sign_in(place: LocalNode, user: str) -> None:
    client = place.connect(LANGUAGES["native"]())
    positions = {"system": (0, "another"), f"user:{user}": (0, (await place.engine.inbox.state(user)).epoch)}
    assert (await client.ask("auth", place.token(user), positions))[0] == "ok"


async def test_redis_is_waited_for_five_times_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = RedisServer(tmp_path / "redis").start()
    place = LocalNode(tmp_path, f'[engine]\nkind = "redis"\n[redis]\nurl = "{server.url}"\n')
    try:
        await place.start()
        await sign_in(place, "ann")
        counted = Counted(place.engine, monkeypatch)
        await sign_in(place, "bob")
        (together,) = [calls for calls in counted.rounds if "inbox.read" in calls]
        assert {"inbox.read", "history.read", "tasks.of_user"} <= set(together)
        rounds = [calls for calls in counted.rounds if calls != ["inbox.state"]]
        assert len(rounds) <= 5, rounds
    finally:
        await place.stop()
        server.kill()


async def test_the_store_is_asked_in_one_batch(tmp_path: Path) -> None:
    place = await LocalNode(tmp_path, "").start()
    try:
        await place.engine.inbox.state("ann")
        before = place.engine.figures()
        client = place.connect(LANGUAGES["native"]())
        assert (await client.ask("auth", place.token("ann"), {"system": (0, "another")}))[0] == "ok"
        after = place.engine.figures()
        assert after["store_batches_total"] - before["store_batches_total"] == 1
        assert after["store_operations_total"] - before["store_operations_total"] == 3
    finally:
        await place.stop()
