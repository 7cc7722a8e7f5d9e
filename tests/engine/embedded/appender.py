"""A program of the tests: an embedded engine that appends until it is killed.

``appender.py DIRECTORY``: writes one line ``user offset text`` to its output for each append that was answered.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import InboxRules, Retention
from pushserver.server.clock import Clock
from tests.contracts.nodes import Recorder, publication

USERS = 20


async def main(reactor: Any, directory: str) -> None:
    rules = InboxRules(size=100_000, chat_size=10, ttl=3_600_000)
    engine = EmbeddedEngine(reactor, Clock(reactor), Path(directory), rules, 60_000, "child")
    await engine.start(Recorder())

    async def publisher(user: int) -> None:
        number = 0
        while True:
            number += 1
            message = publication(f"user:{user}", f"{user}-{number}")
            published = await engine.inbox.append(message, str(user), False, None, None, None)
            kept = await engine.broker.publish(publication("news:a", "n"), Retention(10, 60_000), None)
            assert kept.offset is not None
            os.write(1, f"{user} {published.offset} {user}-{number}\n".encode())

    await gatherResults([Deferred.fromCoroutine(publisher(user)) for user in range(USERS)], consumeErrors=True)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, sys.argv[1])))
