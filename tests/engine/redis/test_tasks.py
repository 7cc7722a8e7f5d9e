"""Tasks that Redis refuses: the others of the same batch are served."""

from __future__ import annotations

import pytest

from pushserver.core.errors import Unavailable
from pushserver.core.task import Status, TaskState
from pushserver.engine.interfaces import TaskEvent

from .nodes import Cluster
from .servers import RedisServer


def state(task_id: str, version: int = 1) -> TaskState:
    return TaskState(
        task_id=task_id, user_id="7", status=Status.RUNNING, percentage=float(version), version=version,
        created_at=1, updated_at=1,
    )  # fmt: skip


def reports(*changes: tuple[str, int]) -> list[tuple[TaskEvent, int]]:
    return [(TaskEvent("task_progress", state(task_id, version)), version - 1) for task_id, version in changes]


async def test_a_task_that_cannot_be_read_or_kept_is_nothing_to_the_others(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await cluster.start(redis.url)
    tasks = node.engine.tasks
    for task_id in ("a", "b"):
        await tasks.create(TaskEvent("task_created", state(task_id)), None)
    redis.command("SET", "push:task:bad", "no hash")
    found = await tasks.get_all(["a", "bad", "unknown", "b"])
    assert isinstance(found.pop("bad"), Unavailable)
    assert found == {"a": state("a"), "b": state("b")}
    bad, a, again, b = await tasks.replace_all(reports(("bad", 2), ("a", 2), ("bad", 3), ("b", 2)))
    assert (a, b) == (True, True)
    assert isinstance(bad, Unavailable)
    assert again is bad
    assert await tasks.get_all(["a", "b"]) == {"a": state("a", 2), "b": state("b", 2)}
