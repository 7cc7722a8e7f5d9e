"""The user's tasks: the newest state of each, from wherever it came, and never an older one after a newer.

One that was made later is newer, whatever its version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from pushserver.client.effects import Readable
from pushserver.client.feeds import ReaderFeed
from pushserver.client.line import CoreLine
from pushserver.client.messages import Push, TaskState

_REMEMBERED: Final = 1_000


class KnownTasks:
    """What is known of tasks, and the readers of them all. Readers of one task read its channel."""

    def __init__(self, line: CoreLine) -> None:
        self._line = line
        self.states: dict[str, TaskState] = {}
        self.feeds: list[ReaderFeed] = []

    def open(self) -> ReaderFeed:
        """Return a feed of all tasks, beginning with those known here."""
        feed = ReaderFeed("tasks")
        feed.confirmed = True
        feed.queue.extend(as_push(state) for state in self.states.values())
        self.feeds.append(feed)
        return feed

    def learn(self, state: TaskState, push: Push, followers: Iterable[ReaderFeed]) -> None:
        """Take a state; only a newer one counts. `followers` read this one task."""
        known = self.states.pop(state.task_id, None)
        if known is not None and not _is_newer(state, known):
            self.states[state.task_id] = known
            return
        self.states[state.task_id] = state
        if len(self.states) > _REMEMBERED:
            del self.states[next(iter(self.states))]
        for feed in (*self.feeds, *followers):
            if len(feed.queue) >= self._line.options.max_pending:
                _conflate(feed)
            feed.awaits_state = False
            feed.queue.append(push)
            self._line.emit(Readable(feed))

    def forget(self) -> None:
        """What is known counts no more: versions may begin anew."""
        self.states.clear()


def _is_newer(state: TaskState, known: TaskState) -> bool:
    # A task that the server has forgotten, or that went with its data, begins with version 1 where it is made anew.
    if state.created_at != known.created_at:
        return state.created_at > known.created_at
    return state.version > known.version


def as_push(state: TaskState) -> Push:
    """Return a state that came without an event of its own in the shape of one."""
    type = {"pending": "task_created", "running": "task_progress"}.get(state.status, f"task_{state.status}")
    if state.status == "cancelled":
        type = "task_status_changed"
    return Push(type, f"task:{state.task_id}", msgspec.to_builtins(state), state.updated_at)


def _conflate(feed: ReaderFeed) -> None:
    """Keep only the newest state of each task; the newest is what a reader must see."""
    newest: dict[str, Push] = {}
    for push in feed.queue:
        task_id = push.data.get("taskId")
        newest.pop(task_id, None)
        newest[task_id] = push
    feed.queue.clear()
    feed.queue.extend(newest.values())
