"""The inbox script against the embedded engine's inbox: the same calls, the same answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import InboxRules
from pushserver.engine.redis import RedisEngine
from pushserver.engine.registry import EngineOptions
from pushserver.server.clock import Clock
from tests.contracts.nodes import Recorder, contents, publication
from tests.engine.clocks import FakeTime

from .nodes import settings
from .servers import RedisServer

RULES = InboxRules(size=6, chat_size=3, ttl=3_600_000)


async def answers(engine: Any, seed: int) -> list[Any]:
    """What an engine answers to a sequence of calls that follows from the seed."""
    chance = random.Random(seed)
    inbox = engine.inbox
    told: list[Any] = []
    newest = 0
    for number in range(120):
        match chance.choice(["append"] * 6 + ["read"] * 3 + ["acknowledge", "acknowledge", "state", "clear"]):
            case "append":
                collapse = chance.choice([None, None, "k1", "k2", f"k{number}"])
                chat = chance.random() < 0.4
                published = await inbox.append(publication("user:7", number), "7", chat, None, collapse, None)
                newest = published.offset
                told.append(newest)
            case "read":
                after = chance.choice([None, 0, newest // 2, max(0, newest - 3), newest])
                page = await inbox.read("7", after, chance.choice([2, 100]))
                offsets = [each.offset for each in page.messages]
                told.append(
                    (contents(page.messages), offsets, page.offset, page.acked, page.lost, page.beyond, page.pending)
                )
            case "acknowledge":
                state = await inbox.state("7")
                told.append(await inbox.acknowledge("7", chance.randint(0, newest), state.epoch))
            case "state":
                state = await inbox.state("7")
                told.append((state.offset, state.acked, state.pending))
            case "clear" if chance.random() < 0.2:
                told.append(await inbox.clear("7"))
    return told


@pytest.mark.parametrize("seed", range(8))
async def test_both_engines_answer_the_same(redis: RedisServer, tmp_path: Path, seed: int) -> None:
    from twisted.internet import reactor

    embedded = EmbeddedEngine(reactor, FakeTime().clock, tmp_path / "state", RULES, 1_000, "a")
    shared = RedisEngine(
        reactor,
        Clock(reactor),
        settings(redis.url),
        EngineOptions(
            node_name="a",
            state_dir=tmp_path,
            inbox=RULES,
            task_ttl=1_000,
            position_check=10_000,
            accepts=lambda type: True,
        ),
    )
    told = []
    for engine in (embedded, shared):
        await engine.start(Recorder())
        try:
            told.append(await answers(engine, seed))
        finally:
            await engine.stop()
    assert len(told[0]) > 80
    assert told[0] == told[1]
