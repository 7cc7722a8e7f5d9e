"""A program of the tests: an embedded engine whose disk gets full and has room again.

``smalldisk.py DIRECTORY``: the directory is a file system of a few MB. Writes what happened to its output, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from pushserver.core import output
from pushserver.core.errors import Unavailable
from pushserver.core.output import Producer
from pushserver.core.task import Status, TaskState
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import InboxRules, TaskEvent
from pushserver.server.clock import Clock
from tests.contracts.nodes import Recorder, contents, publication


async def main(reactor: Any, directory: str) -> None:
    filler = Path(directory) / "filler"
    filler.write_bytes(b"x" * 2_000_000)
    rules = InboxRules(size=10_000, chat_size=10, ttl=3_600_000)
    engine = EmbeddedEngine(reactor, Clock(reactor), Path(directory) / "state", rules, 60_000, "child")
    listener = Recorder()
    await engine.start(listener)
    await engine.broker.subscribe("user:7")
    answered: list[int] = []
    refused: list[int] = []

    async def append(number: int) -> None:
        message = publication("user:7", [number, "x" * 5_000], message_id=str(number))
        try:
            await engine.inbox.append(message, "7", False, None, None, None)
        except Unavailable:
            refused.append(number)
        else:
            answered.append(number)

    state = TaskState(
        task_id="t", user_id="7", status=Status.PENDING, percentage=0.0, version=1, created_at=1_000, updated_at=1_000
    )
    await engine.tasks.create(TaskEvent("task_created", state), None)
    written: list[str] = []

    async def write(text: str) -> None:
        new = output.new_output("main", text, None, 1_000)
        try:
            taken = await engine.outputs.append("t", new, Producer("w", 0, len(written)), None, None)
        except Unavailable:
            return
        written.append(text)
        assert taken.offset == sum(map(len, written))

    number = 0
    while len(refused) < 5:
        number += 1
        await append(number)
        await write(f"{number:>5000}")
    trouble = engine.trouble()
    filler.unlink()
    for _ in range(500):
        if engine.trouble() is None:
            break
        await deferLater(reactor, 0.02)
    recovered = engine.trouble() is None
    await append(number + 1)
    await write(f"{number + 1:>5000}")
    page = await engine.inbox.read("7", None, 10_000)
    json.dump(
        {
            "answered": answered,
            "refused": refused,
            "trouble": trouble,
            "recovered": recovered,
            "kept": [value[0] for value in contents(page.messages)],
            "offsets": [message.offset for message in page.messages],
            "written": "".join(written),
            "output": (await engine.outputs.read("t", "main", None, 10_000_000)).body.decode(),
            "delivered": [value[0] for value in contents(listener.delivered)],
        },
        sys.stdout,
    )
    await engine.stop()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, sys.argv[1])))
