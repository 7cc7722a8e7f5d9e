"""A store without its thread: batches carried out at once, at the time that the test says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from pushserver.core.publication import Publication, body
from pushserver.engine.embedded.operations import Operation
from pushserver.engine.embedded.store import Store
from pushserver.engine.interfaces import InboxRules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RULES = InboxRules(size=5, chat_size=2, ttl=100, task_size=2)


def publication(channel: str, data: Any, message_id: str = "m") -> Publication:
    return Publication(type="message", channel=channel, data=body(data), timestamp=1, message_id=message_id)


def contents(messages: list[Publication]) -> list[Any]:
    return [msgspec.json.decode(message.data) for message in messages]


class Asking(Operation[Any]):
    """Whatever one call on the store answers."""

    def __init__(self, call: Callable[[Store], Any], *, user_id: str | None = None, channel: str | None = None) -> None:
        self._call = call
        self.user_id = user_id
        self.channel = channel

    def carry_out(self, store: Store) -> Any:
        return self._call(store)


class Failing(Operation[Any]):
    """An operation that fails as only a mistake of ours could make it fail, after it wrote something."""

    def __init__(self, mistake: Callable[[Store], Any]) -> None:
        self._mistake = mistake

    def carry_out(self, store: Store) -> Any:
        return self._mistake(store)


class OpenStore:
    """A store on a directory, which can be opened anew."""

    def __init__(self, directory: Path, rules: InboxRules = RULES, task_ttl: int = 100) -> None:
        self._directory = directory
        self._rules = rules
        self._task_ttl = task_ttl
        self.now = 1_700_000_000_000
        self.open()

    def open(self) -> None:
        self.store = Store(self._directory, self._rules, self._task_ttl)
        opened = self.store.open(self.now)
        self.revocations, self.remarks = opened.revocations, opened.remarks

    def restart(self) -> None:
        self.store.close()
        self.open()

    def die(self) -> None:
        """End as a process that is killed: nothing is written any more, and its lock is free."""
        assert self.store._lock is not None
        os.close(self.store._lock)
        self.store._lock = None
        self.store._database.drop()

    def batch(self, *operations: Operation[Any]) -> list[Any]:
        return self.store.carry_out(operations, self.now)

    def do(self, operation: Operation[Any]) -> Any:
        (answer,) = self.batch(operation)
        return answer

    def close(self) -> None:
        self.store.close()
