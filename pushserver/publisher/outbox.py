"""What waits to be sent, in the order in which it must go: pure, `now` (seconds, of any steady clock) is an argument.

Each task has a lane of its own. In a lane everything goes in order and one at a time, so that a progress can never
overtake its creation, nor its end. Of a task's waiting progress only the newest is kept, and it goes at most once per
`min_interval`; what must not be lost (creations, ends, notifications) waits until it is accepted.

Only who sends touches an outbox; others hand their entries over through a queue of the sender's.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Final, Protocol

from pushserver.publisher.commands import Command, merged, smaller, truncated
from pushserver.publisher.delivery import Delivery
from pushserver.publisher.errors import PublishError

#: Seconds between two appends of one task.
OUTPUT_INTERVAL: Final = 0.04
#: Bytes of one append, but for a piece that crosses it: as JSON at most six times as much, which one request holds.
APPEND_LIMIT: Final = 100_000


class Reporter(Protocol):
    """A task, as its commands see it."""

    #: the server's count of its beginnings, once known
    attempt: int | None
    #: whether the server has refused to make it
    refused: bool
    #: whether something that was told of it had to be left out, which its end says
    has_cut: bool

    def receive(self, command: Command, state: Any, error: Exception | None) -> None:
        """Take what the server said."""


class OutputSource(Protocol):
    """An output of a task, as its entries see it."""

    def append(self, pieces: list[Any], left_out: int) -> Command:
        """Return the command that appends these behind so much that was left out, the next of its producer."""

    def renumbered(self, command: Command, error: PublishError) -> Command | None:
        """Return a refused append with another number; None where it would be refused as well."""

    def halved(self, command: Command) -> tuple[Command, list[Any]] | None:
        """Return the first half of an append that was too large, and the pieces of the other; None where it cannot be
        smaller."""

    def left_out(self, command: Command) -> None:
        """Note that an append never came to the server."""


class Entry:
    """One command on its way; one without a command is a progress, which takes up what is reported until it goes."""

    __slots__ = ("_news", "_taken", "command", "delivery", "durable", "ends", "lane", "name", "reporter", "tries")

    def __init__(
        self,
        name: str,
        command: Command | None = None,
        *,
        reporter: Reporter | None = None,
        ends: bool = False,
    ) -> None:
        #: of its lane
        self.name = name
        self.command = command
        self.durable = command is not None
        self._news: deque[Command] = deque()
        self._taken = False
        self.reporter = reporter
        #: whether it ends a task, whose creation was taken, so that this is taken too
        self.ends = ends
        self.delivery = Delivery()
        self.tries = 0
        self.lane: TaskLane | None = None

    def stamped(self) -> Command:
        """The command as it goes: with the attempt that it belongs to, where the server has told."""
        assert self.command is not None
        attempt = None if self.reporter is None else self.reporter.attempt
        if attempt is None or self.command.method == "task.create":
            return self.command
        return Command(self.command.method, self.command.params | {"attempt": attempt})

    @property
    def is_hurried(self) -> bool:
        """Whether somebody waits for it, or for what comes after it in its lane."""
        return self.lane is not None and any(entry.delivery.hurried for entry in self.lane.entries)

    def renumber(self, error: PublishError) -> bool:
        """Whether it is worth to be sent again after this refusal, with another number now."""
        return False

    def reduced(self) -> tuple[bool, Entry | None]:
        """Make it smaller, since it was too large; return whether it is, and what of it goes behind it instead."""
        less = None if self.command is None else smaller(self.command)
        self.command = less or self.command
        if less is not None and self.reporter is not None:
            self.reporter.has_cut = True
            self._cut_the_end()
        return less is not None, None

    def given_up(self) -> bool:
        """Return whether it is given up where something before the server finds it too large: it is kept, and may pass
        later."""
        return False

    def _cut_the_end(self) -> None:
        """Have the end say that something is missing, where it waits already."""
        for entry in self.lane.entries if self.lane is not None else ():
            if entry.ends and entry.command is not None:
                entry.command = truncated(entry.command)

    def report(self, command: Command) -> Command | None:
        """Take a progress up; return what was not, since this one has gone already. From any thread."""
        try:
            command = merged(self._news.pop(), command)
        except IndexError:
            pass
        self._news.append(command)
        return self._drained() if self._taken else None

    def refresh(self) -> bool:
        """Take nothing more up; False where there is nothing to tell. From the sender alone."""
        # Said before what was reported is taken: who reports between the two sees it, and takes theirs back.
        self._taken = True
        newest = self._drained()
        if newest is not None:
            self.command = merged(self.command, newest)
        return self.command is not None

    def close(self) -> None:
        """Take nothing more up: what was taken goes with whatever is reported next."""
        self._taken = True

    def _drained(self) -> Command | None:
        found: Command | None = None
        while True:
            try:
                found = merged(found, self._news.popleft())
            except IndexError:
                return found


class OutputEntry(Entry):
    """What a task writes: it takes pieces up until it goes, and then goes as one append.

    Each piece stands in a list of its own, and whoever empties that has it: the sender in their order, or who wrote it
    and found the entry gone.
    """

    __slots__ = ("_pieces", "_room", "_writer")

    def __init__(self, name: str, writer: OutputSource, reporter: Reporter) -> None:
        super().__init__(name, reporter=reporter)
        self.durable = True
        self._writer = writer
        self._pieces: deque[list[Any]] = deque()
        self._room = APPEND_LIMIT

    def take_up(self, piece: Any, size: int) -> bool:
        """Return whether the piece goes with this entry. From any thread."""
        if self._taken or self.is_full:
            return False
        self._room -= size
        own = [piece]
        self._pieces.append(own)
        return not (self._taken and self.claimed(own))

    def refresh(self) -> bool:
        if self.command is None:
            # As in `Entry.refresh`.
            self._taken = True
            found = [piece for own in list(self._pieces) for piece in self.emptied(own)]
            if found:
                self.command = self._writer.append(found, self.left_out)
        return self.command is not None

    def renumber(self, error: PublishError) -> bool:
        assert self.command is not None
        again = self._writer.renumbered(self.command, error)
        if again is not None:
            self._cut_the_end()
        self.command = again or self.command
        return again is not None

    def reduced(self) -> tuple[bool, Entry | None]:
        assert self.command is not None
        halves = self._writer.halved(self.command)
        if halves is None:
            return False, None
        assert self.reporter is not None
        # It has a number, and its other half gets one when it goes.
        self.command, pieces = halves
        behind = OutputEntry(self.name, self._writer, self.reporter)
        behind._pieces.extend([piece] for piece in pieces)
        return True, behind

    def given_up(self) -> bool:
        # All that the task does waits behind it.
        assert self.command is not None
        self._writer.left_out(self.command)
        self._cut_the_end()
        return True

    @property
    def left_out(self) -> int:
        """How many characters or items were written before its pieces, and will not go."""
        return 0

    @property
    def is_incomplete(self) -> bool:
        """Whether some of what it took up will not go."""
        return False

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return APPEND_LIMIT - self._room

    @property
    def is_full(self) -> bool:
        """Whether it takes nothing more up, so that waiting would gather nothing."""
        return self._room <= 0

    @classmethod
    def claimed(cls, own: list[Any]) -> bool:
        return bool(cls.emptied(own))

    @staticmethod
    def emptied(own: list[Any]) -> list[Any]:
        try:
            return [own.pop()]
        except IndexError:
            return []


class TailEntry(OutputEntry):
    """What a task writes while too much of it waits: of this the newest, as much as one append holds."""

    __slots__ = ("_gone", "_sizes")

    def __init__(self, name: str, writer: OutputSource, reporter: Reporter) -> None:
        super().__init__(name, writer, reporter)
        #: the size of each piece, in their order
        self._sizes: deque[int] = deque()
        #: what each piece that was left out was, in characters or items
        self._gone: deque[int] = deque()

    def take_up(self, piece: Any, size: int) -> bool:
        if self._taken:
            return False
        self._room -= size
        self._sizes.append(size)
        own = [piece]
        self._pieces.append(own)
        while self._room < 0 and len(self._pieces) > 1:
            self._leave_out()
        return not (self._taken and self.claimed(own))

    def _leave_out(self) -> None:
        try:
            oldest, size = self._pieces.popleft(), self._sizes.popleft()
        except IndexError:
            return
        self._room += size
        self._gone.extend(len(piece) if isinstance(piece, str) else 1 for piece in self.emptied(oldest))

    @property
    def left_out(self) -> int:
        return sum(self._gone)

    @property
    def is_incomplete(self) -> bool:
        return bool(self._gone)


class TaskLane:
    __slots__ = ("entries", "name", "next_progress", "not_before", "under_way")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: deque[Entry] = deque()
        self.under_way = False
        self.next_progress = 0.0
        #: after a refusal that concerned this lane alone
        self.not_before = 0.0

    def due_at(self, hurry: bool) -> float | None:
        """When the head may go: at once, unless it is a progress that nothing follows."""
        if self.under_way or not self.entries:
            return None
        if self.entries[0].durable or len(self.entries) > 1 or hurry:
            return self.not_before
        return max(self.next_progress, self.not_before)


class CommandQueue:
    def __init__(self, min_interval: float) -> None:
        self.min_interval = min_interval
        #: commands that wait or are under way
        self.pending = 0
        self._lanes: OrderedDict[str, TaskLane] = OrderedDict()

    def add(self, entry: Entry) -> None:
        lane = self._lanes.get(entry.name)
        if lane is None:
            lane = self._lanes[entry.name] = TaskLane(entry.name)
        entry.lane = lane
        lane.entries.append(entry)
        self.pending += 1
        if entry.delivery.hurried:
            lane.not_before = 0.0
            self._put_first(lane)

    def due_at(self, hurry: bool = False) -> float | None:
        """Return when the next command may go; None while there is none."""
        due = [at for lane in self._lanes.values() if (at := lane.due_at(hurry)) is not None]
        return min(due) if due else None

    def take(self, now: float, limit: int, hurry: bool = False) -> list[Entry]:
        """Return the heads of the lanes that are due; each stays in its lane until it is `finished` or `returned`."""
        taken: list[Entry] = []
        for name, lane in list(self._lanes.items()):
            if not lane.entries and now >= lane.next_progress:
                del self._lanes[name]
                continue
            at = lane.due_at(hurry)
            if at is None or at > now:
                continue
            entry = self._head(lane)
            if entry is None:
                continue
            entry.tries += 1
            lane.under_way = True
            if isinstance(entry, OutputEntry) and not entry.is_full:
                # What is written meanwhile goes together; an end that somebody waits for does not wait for it.
                lane.not_before = now + OUTPUT_INTERVAL
            if not entry.durable:
                lane.next_progress = now + self.min_interval
            taken.append(entry)
            # To the end: over many lanes and small batches each has its turn.
            self._lanes.move_to_end(name)
            if len(taken) == limit:
                break
        return taken

    def finished(self, entry: Entry) -> None:
        """Accepted, or refused for good."""
        lane = entry.lane
        if lane is not None and lane.entries and lane.entries[0] is entry:
            lane.under_way = False
            lane.entries.popleft()
            self.pending -= 1
            if lane.entries and lane.entries[0].is_hurried:
                self._put_first(lane)

    def returned(self, entry: Entry, not_before: float = 0.0) -> None:
        """Not sent: it goes again, and a progress that a newer one follows goes as one with it."""
        lane = entry.lane
        assert lane is not None
        lane.under_way = False
        lane.not_before = not_before
        if len(lane.entries) > 1 and not entry.durable and not lane.entries[1].durable:
            next_entry = lane.entries[1]
            next_entry.refresh()
            if entry.command is not None and next_entry.command is not None:
                next_entry.command = merged(entry.command, next_entry.command)
            elif next_entry.command is None:
                next_entry.command = entry.command
            lane.entries.popleft()
            self.pending -= 1

    @property
    def is_under_way(self) -> bool:
        """Whether something was taken, and is neither `finished` nor `returned`."""
        return any(lane.under_way for lane in self._lanes.values())

    def drain(self) -> list[Entry]:
        """Return all that waits, and forget it."""
        left = [entry for lane in self._lanes.values() for entry in lane.entries]
        self._lanes.clear()
        self.pending = 0
        return left

    def put_behind(self, entry: Entry, rest: Entry) -> None:
        """Have a part of an entry that waits at the head of its lane follow it."""
        assert entry.lane is not None
        rest.lane = entry.lane
        entry.lane.entries.insert(1, rest)
        self.pending += 1

    def release(self, entries: list[Entry]) -> None:
        """After a fault: what was taken, and neither finished nor returned, goes again."""
        for entry in entries:
            if entry.lane is not None and entry.lane.under_way and entry.lane.entries[0] is entry:
                self.returned(entry)

    def hasten(self) -> None:
        """Let everything go at once."""
        for lane in self._lanes.values():
            lane.not_before = 0.0

    def abandon(self, lane: TaskLane) -> list[Entry]:
        """Forget a lane whose creation was refused, and return what was in it: nothing more of it makes sense."""
        dropped = list(lane.entries)
        self.pending -= len(dropped)
        lane.entries.clear()
        lane.under_way = False
        self._lanes.pop(lane.name, None)
        return dropped

    def _put_first(self, lane: TaskLane) -> None:
        """Somebody waits for one of its commands, which need not wait for the many that nobody waits for."""
        self._lanes.move_to_end(lane.name, last=False)

    def _head(self, lane: TaskLane) -> Entry | None:
        """The first entry of a lane that has something to say."""
        while lane.entries:
            entry = lane.entries[0]
            if entry.refresh():
                return entry
            lane.entries.popleft()
            self.pending -= 1
            entry.delivery.finish(None)
        return None
