"""The embedded engine under a clock that only the test moves."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.embedded.database import FILE
from tests.engine.clocks import FakeTime

if TYPE_CHECKING:
    from pathlib import Path

    from pushserver.engine.interfaces import InboxRules


class EmbeddedBackend:
    shared = False
    fake_time = True
    unit = 1_000

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.time = FakeTime()

    def now(self) -> int:
        return self.time.now()

    async def advance(self, duration: int) -> None:
        self.time.advance(duration / 1000)

    def engine(self, node_name: str, inbox: InboxRules, task_ttl: int) -> EmbeddedEngine:
        from twisted.internet import reactor

        return EmbeddedEngine(reactor, self.time.clock, self.directory / "state", inbox, task_ttl, node_name)

    def footprint(self) -> Any:
        connection = sqlite3.connect(f"{(self.directory / 'state' / FILE).as_uri()}?mode=ro", uri=True)
        try:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in tables}
        finally:
            connection.close()

    def octets(self) -> int:
        connection = sqlite3.connect(f"{(self.directory / 'state' / FILE).as_uri()}?mode=ro", uri=True)
        try:
            pages, unused, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            return int((pages - unused) * size)
        finally:
            connection.close()

    async def measure(self, engine: Any) -> None:
        await engine._sweep()

    def spoil(self, kind: str, name: str, offset: int = 0, body: bytes = b"\xff\x00") -> None:
        statements = {
            "inbox": "UPDATE inbox SET body = ? WHERE offset = ?"
            " AND user = (SELECT user FROM inbox_user WHERE user_id = ?)",
            "history": "UPDATE history SET body = ? WHERE offset = ?"
            " AND channel = (SELECT channel FROM channel WHERE name = ?)",
            "task": "UPDATE task SET body = ? WHERE 0 = ? AND task_id = ?",
            "event": "UPDATE webhook_dead SET body = ? WHERE 0 = ? AND event_id = ?",
            "status": "INSERT OR REPLACE INTO last_seen (seen_at, user_id) SELECT ?, ?3 WHERE ?2 = 0",
        }
        connection = sqlite3.connect(self.directory / "state" / FILE)
        assert connection.execute(statements[kind], (body, offset, name)).rowcount == 1
        connection.commit()
        connection.close()

    async def close(self) -> None:
        pass
