"""What the contract suite runs on: nodes with an engine each, on a backend, under a clock that the test moves.

A backend is registered under its name in `BACKENDS`: a callable that takes an empty directory and returns an object
that provides `Backend`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, succeed

from pushserver.core.inbox import InboxChange
from pushserver.core.positions import Position
from pushserver.core.publication import Publication, body
from pushserver.engine.interfaces import IEngine, InboxRules, Member, TaskEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RULES = InboxRules(size=5, chat_size=2, ttl=20_000)


class Backend(Protocol):
    """Makes engines that share one state, and moves their time."""

    #: several engines may run on the state at once
    shared: bool
    #: time is moved by the test alone, so that hours cost nothing
    fake_time: bool
    #: how many ms the suite takes as one unit of time: far more than a call takes
    unit: int

    def now(self) -> int:
        """The time as the engines see it, ms."""

    async def advance(self, duration: int) -> None:
        """Lets so many ms pass."""

    def engine(self, node_name: str, inbox: InboxRules, task_ttl: int) -> Any:
        """An engine that is not started yet."""

    def footprint(self) -> Any:
        """Everything that is stored by name, in whatever form: the same where nothing was added or removed."""

    def octets(self) -> int:
        """How many bytes everything that is stored takes, once it is at rest."""

    async def measure(self, engine: Any) -> None:
        """Has an engine count now what it counts from time to time."""

    def spoil(self, kind: str, name: str, offset: int = 0, body: bytes = b"\xff\x00") -> None:
        """Put something else in the place of what is kept: a message of an ``inbox`` or a ``history``, the state of a
        ``task``, when a user was last seen (``status``)."""

    async def close(self) -> None:
        """Frees what the backend holds, after every engine was stopped."""


BACKENDS: dict[str, Callable[[Path], Backend]] = {}


class Recorder:
    """A `Listener` that keeps what it was told, in order, and tells who waits for more."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.count = 0
        #: up to where a channel had been told when it was last said to be missing something
        self.reached: dict[str, Position | None] = {}
        self.reply: Callable[[bytes], Deferred[bytes]] = lambda question: succeed(b"re:" + question)
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def _record(self, *event: Any) -> None:
        self.events.append(event)
        for entry in list(self._waiting):
            condition, waiting = entry
            if condition():
                self._waiting.remove(entry)
                waiting.callback(None)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires once the condition holds, which is looked at after each event."""
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
        else:
            self._waiting.append((condition, waiting))
        return waiting

    @property
    def delivered(self) -> list[Publication]:
        return [event[1] for event in self.events if event[0] == "deliver"]

    @property
    def task_events(self) -> list[tuple[TaskEvent, bool]]:
        return [(event[1], event[2]) for event in self.events if event[0] == "task_event"]

    def deliver(self, publication: Publication) -> None:
        self._record("deliver", publication)

    def inbox_changed(self, user_id: str, change: InboxChange) -> None:
        self._record("inbox_changed", user_id, change)

    def unread_lost(self, user_id: str) -> None:
        self._record("unread_lost", user_id)

    @property
    def inbox_changes(self) -> list[InboxChange]:
        return [event[2] for event in self.events if event[0] == "inbox_changed"]

    def task_event(self, event: TaskEvent, to_owner: bool) -> None:
        self._record("task_event", event, to_owner)

    def resync(self, channel: str, reached: Position | None) -> None:
        self.reached[channel] = reached
        self._record("resync", channel)

    def refresh(self) -> None:
        self._record("refresh")

    def offline(self, user_id: str, last_seen_at: int) -> None:
        self._record("offline", user_id, last_seen_at)

    def absent(self, channel: str, member: Member, connection_id: str, last: bool) -> None:
        self._record("left", channel, member.user_id, connection_id, last)
        if last:
            self._record("absent", channel, member)

    def connections(self) -> int:
        return self.count

    def online(self, user_id: str) -> None:
        self._record("online", user_id)

    def present(self, channel: str, member: Member, connection_id: str, first: bool) -> None:
        self._record("back", channel, member.user_id, connection_id, first)
        if first:
            self._record("present", channel, member)

    def answer(self, question: bytes) -> Deferred[bytes]:
        return self.reply(question)

    def notice(self, notice: bytes) -> None:
        self._record("notice", notice)

    def unusable(self, reason: str) -> None:
        self._record("unusable", reason)


class RunningNode:
    """A started engine and what it told."""

    def __init__(self, name: str, engine: Any) -> None:
        self.name = name
        self.engine = engine
        self.listener = Recorder()
        self.broker = engine.broker
        self.history = engine.history
        self.inbox = engine.inbox
        self.tasks = engine.tasks
        self.outputs = engine.outputs
        self.presence = engine.presence
        self.revocations = engine.revocations
        self.events = engine.events
        self.deliveries = engine.deliveries

    async def received(self, count: int) -> list[Publication]:
        """The first ``count`` publications that were delivered here, after waiting for them."""
        from twisted.internet import reactor

        waiting = self.listener.until(lambda: len(self.listener.delivered) >= count)
        await waiting.addTimeout(60, reactor)
        return self.listener.delivered

    async def changes(self, count: int) -> list[InboxChange]:
        """What the first ``count`` changes of inboxes were, after waiting for them."""
        from twisted.internet import reactor

        waiting = self.listener.until(lambda: len(self.listener.inbox_changes) >= count)
        await waiting.addTimeout(60, reactor)
        return self.listener.inbox_changes

    async def resynced(self, *channels: str) -> None:
        """Wait until each of these was said to be missing something."""
        from twisted.internet import reactor

        waiting = self.listener.until(lambda: self.listener.reached.keys() >= set(channels))
        await waiting.addTimeout(60, reactor)


class Nodes:
    """The nodes of one test."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.running: list[RunningNode] = []

    @property
    def unit(self) -> int:
        return self.backend.unit

    def now(self) -> int:
        return self.backend.now()

    async def advance(self, units: float) -> None:
        await self.backend.advance(int(units * self.backend.unit))

    async def start(
        self,
        name: str = "a",
        *,
        size: int = 5,
        chat_size: int = 2,
        task_size: int = 50,
        ttl: int = 1_000,
        task_ttl: int = 20,
    ) -> RunningNode:
        """Starts a node; ``ttl`` and ``task_ttl`` are in units of the backend's time."""
        rules = InboxRules(size=size, chat_size=chat_size, ttl=ttl * self.unit, task_size=task_size)
        node = RunningNode(name, self.backend.engine(name, rules, task_ttl * self.unit))
        assert IEngine.providedBy(node.engine)
        await node.engine.start(node.listener)
        self.running.append(node)
        return node

    async def second(self, first: RunningNode) -> RunningNode:
        """Another node on the same state, or the first itself where the backend carries one node only."""
        return await self.start("b") if self.backend.shared else first

    async def stop(self, node: RunningNode) -> None:
        self.running.remove(node)
        await node.engine.stop()

    async def close(self) -> None:
        try:
            for node in list(self.running):
                await self.stop(node)
        finally:
            await self.backend.close()


def publication(channel: str, data: Any, message_id: str | None = None, **fields: Any) -> Publication:
    """A publication as the rooms make them; its id follows from its data unless given."""
    return Publication(
        type=fields.pop("type", "message"),
        channel=channel,
        data=body(data),
        timestamp=fields.pop("timestamp", 1_000),
        message_id=message_id if message_id is not None else f"{channel}/{data}",
        **fields,
    )


def contents(messages: list[Publication]) -> list[Any]:
    """The data of publications, decoded."""
    import msgspec

    return [msgspec.json.decode(message.data) for message in messages]
