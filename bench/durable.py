"""Durable appends per second: the embedded engine with 100 concurrent publishers, beside raw SQLite.

Run: ``python -m bench.durable [--rounds 5] [--messages 20000] [--users 1000] [--dir DIR]``

Both write the same messages to the same disk with WAL and synchronous=FULL. "raw" inserts ready rows of the engine's
table from a loop in C (``executemany``), 100 rows a commit, and does nothing else. "engine" is the whole way: 100
publishers, each of which waits for its answer before it goes on; each message gets its offset, is kept within the
inbox' limits and is delivered to a subscribed listener. The two alternate; the table shows medians.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from pushserver.core.publication import Publication, body, encode
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import IdempotencyKey, InboxRules
from pushserver.server.clock import Clock

PUBLISHERS = 100


def message(user: int, number: int) -> Publication:
    return Publication(
        type="user_notification",
        channel=f"user:{user}",
        data=body(
            {"level": "info", "title": "Export", "message": f"Part {number} of your export is ready", "n": number}
        ),
        timestamp=1_700_000_000_000 + number,
        message_id=f"{number:032x}",
    )


class Listener:
    """Counts what is delivered."""

    def __init__(self) -> None:
        self.delivered = 0

    def deliver(self, publication: Publication) -> None:
        self.delivered += 1


def raw(directory: Path, messages: int, users: int) -> float:
    """Rows a second of SQLite alone."""
    connection = sqlite3.connect(directory / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.executescript(files("pushserver.engine.embedded").joinpath("sql/0001.sql").read_text())
    rows = [
        (n % users, n // users + 1, 0, 1_700_000_000_000 + n, None, encode(message(n % users, n)))
        for n in range(messages)
    ]
    insert = "INSERT INTO inbox (user, offset, kind, expires_at, collapse_key, body) VALUES (?, ?, ?, ?, ?, ?)"
    start = time.perf_counter()
    for at in range(0, messages, PUBLISHERS):
        connection.execute("BEGIN")
        connection.executemany(insert, rows[at : at + PUBLISHERS])
        connection.execute("COMMIT")
    taken = time.perf_counter() - start
    connection.close()
    return messages / taken


async def engine(reactor: Any, directory: Path, messages: int, users: int, once: bool) -> float:
    """Appends a second of the engine, until the last answer."""
    rules = InboxRules(size=100, chat_size=20, ttl=7 * 24 * 3600 * 1000)
    engine = EmbeddedEngine(reactor, Clock(reactor), directory / "engine", rules, 1_800_000, "bench")
    listener: Any = Listener()
    await engine.start(listener)
    for user in range(users):
        await engine.broker.subscribe(f"user:{user}")
    publications = [message(n % users, n) for n in range(messages)]

    async def publisher(first: int) -> None:
        for n in range(first, messages, PUBLISHERS):
            key = IdempotencyKey(publications[n].message_id) if once else None
            await engine.inbox.append(publications[n], str(n % users), False, None, None, key)

    start = time.perf_counter()
    await gatherResults([Deferred.fromCoroutine(publisher(n)) for n in range(PUBLISHERS)], consumeErrors=True)
    taken = time.perf_counter() - start
    assert listener.delivered == messages
    await engine.stop()
    return messages / taken


async def main(reactor: Any) -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--messages", type=int, default=20_000)
    arguments.add_argument("--users", type=int, default=1_000)
    arguments.add_argument("--dir", default=None, help="a directory on the disk to measure")
    arguments.add_argument("--json", action="store_true", help="the figures of every round, for programs")
    options = arguments.parse_args()
    figures: dict[str, list[float]] = {"raw": [], "engine": [], "engine, with messageId": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.dir) as directory:
            figures["raw"].append(raw(Path(directory), options.messages, options.users))
        for name, once in (("engine", False), ("engine, with messageId", True)):
            with tempfile.TemporaryDirectory(dir=options.dir) as directory:
                figures[name].append(await engine(reactor, Path(directory), options.messages, options.users, once))
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{options.messages} messages to {options.users} users, {PUBLISHERS} publishers, {options.rounds} rounds")
    print(f"{'':24}{'per second (median)':>22}{'range':>20}{'of raw (median)':>18}")
    for name, values in figures.items():
        ratio = statistics.median(a / b for a, b in zip(values, figures["raw"], strict=True))
        spread = f"{min(values):,.0f}-{max(values):,.0f}"
        print(f"{name:24}{statistics.median(values):>22,.0f}{spread:>20}{ratio:>18.2f}")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
