"""What waits to be sent, in the order in which it must go: pure, `now` (seconds, of any steady clock) is an argument.

Each task has a lane of its own. In a lane everything goes in order and one at a time, so that a progress can never
overtake its creation, nor its end. Of a task's waiting progress only the newest is kept, and it goes at most once per
`min_interval`; what must not be lost (creations, ends, notifications) waits until it is accepted, up to `max_pending`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from pushserver.publisher.commands import Command, merged


class Entry:
    """One command on its way."""

    __slots__ = ("attempts", "command", "durable", "heard", "lane")

    def __init__(
        self, lane: Lane, command: Command, durable: bool, heard: Callable[[Any, Exception | None], None] | None
    ) -> None:
        self.lane = lane
        self.command = command
        self.durable = durable
        #: is told the result, or the error that it was refused with
        self.heard = heard
        self.attempts = 0


class Lane:
    __slots__ = ("entries", "name", "next_progress", "under_way")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: deque[Entry] = deque()
        self.under_way = False
        self.next_progress = 0.0

    def due_at(self, hurry: bool) -> float | None:
        """When the head may go: at once, unless it is a progress that nothing follows."""
        if self.under_way or not self.entries:
            return None
        if self.entries[0].durable or len(self.entries) > 1 or hurry:
            return 0.0
        return self.next_progress


class Outbox:
    def __init__(self, min_interval: float, max_pending: int) -> None:
        self.min_interval = min_interval
        self.max_pending = max_pending
        #: commands that wait or are under way
        self.pending = 0
        self._lanes: OrderedDict[str, Lane] = OrderedDict()

    def add(
        self,
        lane_name: str,
        command: Command,
        *,
        durable: bool,
        heard: Callable[[Any, Exception | None], None] | None = None,
        ends: bool = False,
    ) -> Lane | None:
        """Take a command; None where it is full. What ends a lane is always taken: its creation was."""
        lane = self._lanes.get(lane_name)
        if lane is not None and not durable and lane.entries and not lane.entries[-1].durable:
            last = lane.entries[-1]
            if not (lane.under_way and len(lane.entries) == 1):
                last.command = merged(last.command, command)
                return lane
        if self.pending >= self.max_pending and not ends:
            return None
        if lane is None:
            lane = self._lanes[lane_name] = Lane(lane_name)
        lane.entries.append(Entry(lane, command, durable, heard))
        self.pending += 1
        return lane

    def due_at(self, hurry: bool = False) -> float | None:
        """When the next command may go; None while there is none."""
        due = [at for lane in self._lanes.values() if (at := lane.due_at(hurry)) is not None]
        return min(due) if due else None

    def take(self, now: float, limit: int, hurry: bool = False) -> list[Entry]:
        """The heads of the lanes that are due; each stays in its lane until it is `settled` or `returned`."""
        taken: list[Entry] = []
        for name, lane in list(self._lanes.items()):
            if not lane.entries and now >= lane.next_progress:
                del self._lanes[name]
                continue
            at = lane.due_at(hurry)
            if at is None or at > now:
                continue
            entry = lane.entries[0]
            entry.attempts += 1
            lane.under_way = True
            if not entry.durable:
                lane.next_progress = now + self.min_interval
            taken.append(entry)
            # To the end: over many lanes and small batches each has its turn.
            self._lanes.move_to_end(name)
            if len(taken) == limit:
                break
        return taken

    def settled(self, entry: Entry) -> None:
        """Accepted, or refused for good."""
        lane = entry.lane
        lane.under_way = False
        lane.entries.popleft()
        self.pending -= 1

    def returned(self, entry: Entry) -> None:
        """Not sent: it goes again, and a progress that a newer one follows goes as one with it."""
        lane = entry.lane
        lane.under_way = False
        if len(lane.entries) > 1 and not entry.durable and not lane.entries[1].durable:
            lane.entries[1].command = merged(entry.command, lane.entries[1].command)
            lane.entries.popleft()
            self.pending -= 1

    def abandon(self, lane: Lane) -> None:
        """Nothing more of this lane makes sense: its creation was refused."""
        self.pending -= len(lane.entries)
        lane.entries.clear()
        lane.under_way = False
        self._lanes.pop(lane.name, None)
