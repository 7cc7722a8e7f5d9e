"""A wall clock that is set under a running server: nothing that is kept goes by it for ten minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from pushserver.core.settling import SETTLING
from pushserver.core.task import NewTask, create
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import Credential, InboxRules, Retention, TaskEvent
from tests.contracts.nodes import RunningNode, publication
from tests.engine.clocks import FakeTime

DAY = 24 * 3600
WEEK = 7 * DAY * 1000


class Stage:
    """An engine whose clocks the test moves."""

    def __init__(self, directory: Path) -> None:
        from twisted.internet import reactor

        self.time = FakeTime()
        rules = InboxRules(size=50, chat_size=20, ttl=WEEK)
        self.node = RunningNode("a", EmbeddedEngine(reactor, self.time.clock, directory, rules, WEEK, "a"))

    async def fill(self) -> None:
        node, now = self.node, self.time.now()
        await node.inbox.append(publication("user:7", 1), "7", False, None, None, None)
        await node.broker.publish(publication("n:a", 1), Retention(10, WEEK), None)
        await node.tasks.create(TaskEvent("task_created", create(NewTask(user_id="7", task_id="t"), now)), None)
        await node.revocations.revoke_user("7", now, now + WEEK)

    async def kept(self) -> tuple[int, int, int, list[bool]]:
        """How many messages are kept, how many tasks are no staler than a day, whether an old token is blocked."""
        node = self.node
        inbox, history = await node.inbox.read("7", None, 10), await node.history.read("n:a", None, 10, False)
        stale = await node.tasks.stale(DAY * 1000, 10)
        revoked = await node.revocations.revoked([Credential("7", None, None)])
        assert inbox.lost == 0
        return len(inbox.messages), len(history.messages), 1 - len(stale), revoked

    async def sweep(self) -> None:
        for _ in range(3):
            self.time.advance(5)
            await self.node.inbox.state("7")


@pytest_twisted.async_yield_fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.node.engine.start(stage.node.listener)
    yield stage
    await stage.node.engine.stop()


@pytest.mark.parametrize("days", [8, 400, -3])
async def test_a_step_deletes_nothing_and_ends_nothing(stage: Stage, days: int) -> None:
    await stage.fill()
    stage.time.step(days * DAY)
    await stage.sweep()
    assert await stage.kept() == (1, 1, 1, [True])
    assert stage.node.engine.clock_skew() == -days * DAY
    (warning,) = stage.node.engine.warnings()
    assert f"by {abs(days) * DAY} s" in warning
    stage.time.step(-days * DAY)
    await stage.sweep()
    assert await stage.kept() == (1, 1, 1, [True])
    assert (stage.node.engine.clock_skew(), stage.node.engine.warnings()) == (0, [])


async def test_a_clock_that_stays_is_followed_after_ten_minutes(stage: Stage) -> None:
    await stage.fill()
    stage.time.step(8 * DAY)
    await stage.sweep()
    for _ in range(SETTLING // 30_000 - 1):
        stage.time.advance(30)
        await stage.node.inbox.state("7")
    assert await stage.kept() == (1, 1, 1, [True])
    stage.time.advance(60)
    inbox = await stage.node.inbox.read("7", None, 10)
    assert (inbox.messages, inbox.lost) == ([], 1)


async def test_what_comes_after_a_step_back_is_kept_for_its_time(stage: Stage) -> None:
    await stage.node.inbox.state("7")
    stage.time.step(-3 * DAY)
    await stage.fill()
    await stage.sweep()
    assert await stage.kept() == (1, 1, 1, [True])
