"""The embedded engine's face to the rooms above (L1, on the reactor)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import (
    ONCE_TTL,
    HistoryPage,
    IBroker,
    IdempotencyKey,
    IEngine,
    IHistory,
    IInbox,
    InboxPage,
    InboxState,
    ITaskStore,
    Node,
    Published,
)

from .operations import Append, Asking, CreateTask, Publish, ReplaceTask, Sweep, TaskDone
from .presence import EmbeddedPresence
from .revocations import EmbeddedRevocations
from .store import Store
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from pushserver.core.publication import Publication
    from pushserver.core.task import TaskState
    from pushserver.engine.interfaces import InboxRules, Listener, Retention, TaskEvent


#: How often old rows are looked for, s, and how many of each kind one step removes.
_SWEEP_INTERVAL: Final = 5.0
_SWEEP_STEP: Final = 100
#: How long until the next step where there is more, s.
_SWEEP_PAUSE: Final = 0.05
#: How often a store in trouble is tried, s.
_PROBE_INTERVAL: Final = 1.0
#: How many keys of publications without history are remembered; beyond it the oldest goes.
_KEYS: Final = 100_000


@implementer(IBroker)
class EmbeddedBroker:
    """Live messages within one process: a subscription is an entry in a set."""

    _log = Logger()

    def __init__(self, writer: Writer, clock: Any, now: Callable[[], int], node_name: str) -> None:
        self._writer = writer
        self._clock = clock
        self._now = now
        self._node_name = node_name
        self._channels: set[str] = set()
        self._keys: dict[tuple[str, str], tuple[int, Published]] = {}
        self.listener: Listener | None = None
        self.started_at = 0

    @property
    def channels(self) -> int:
        return len(self._channels)

    def clear(self) -> None:
        self._channels.clear()
        self._keys.clear()

    def subscribe(self, channel: str) -> Deferred[None]:
        if not self._writer.accepting:
            return fail(Unavailable("the engine is stopped"))
        self._channels.add(channel)
        return succeed(None)

    def unsubscribe(self, channel: str) -> None:
        self._channels.discard(channel)

    def publish(
        self, publication: Publication, retention: Retention | None, once: IdempotencyKey | None
    ) -> Deferred[Published]:
        if retention is not None:
            return self._writer.submit(Publish(publication, retention, once))
        if not self._writer.accepting:
            return fail(Unavailable("the engine is stopped"))
        published = Published(publication.message_id)
        if once is not None:
            earlier = self._remembered(publication.channel, once, published)
            if earlier is not None:
                return succeed(earlier)
        self.deliver(publication)
        return succeed(published)

    def _remembered(self, channel: str, once: IdempotencyKey, published: Published) -> Published | None:
        """What a key answered before; remembers it where it did not. Keys stand in the order of their age."""
        now = self._now()
        keys = self._keys
        while keys and (len(keys) > _KEYS or next(iter(keys.values()))[0] <= now):
            del keys[next(iter(keys))]
        earlier = keys.get((channel, once.key))
        if earlier is None:
            keys[channel, once.key] = (now + ONCE_TTL, published)
            return None
        return Published(earlier[1].message_id, duplicate=True)

    def deliver(self, publication: Publication, offset: int | None = None, epoch: str | None = None) -> None:
        """Tells the node of a publication, with its position where it has one."""
        if publication.channel in self._channels and self.listener is not None:
            if offset is not None and epoch is not None:
                publication = publication.positioned(offset, epoch)
            self.listener.deliver(publication)

    def task_event(self, event: TaskEvent) -> None:
        """Tells the node of a change of a task, as the owner's and as the task's own."""
        if self.listener is not None:
            state = event.state
            if not state.final and f"user:{state.user_id}" in self._channels:
                self.listener.task_event(event, True)
            if f"task:{state.task_id}" in self._channels:
                self.listener.task_event(event, False)

    def survey(self, question: bytes, timeout: int) -> Deferred[list[tuple[str, bytes]]]:
        if not self._writer.accepting or self.listener is None:
            return fail(Unavailable("the engine is stopped"))
        return Deferred.fromCoroutine(self._survey(self.listener, question, timeout))

    async def _survey(self, listener: Listener, question: bytes, timeout: int) -> list[tuple[str, bytes]]:
        try:
            answer = await listener.answer(question).addTimeout(timeout / 1000, self._clock)
        except Exception as error:
            self._log.warn("This node did not answer a question: {error!r}", error=error)
            return []
        return [(self._node_name, answer)]

    def nodes(self) -> Deferred[list[Node]]:
        if not self._writer.accepting or self.listener is None:
            return fail(Unavailable("the engine is stopped"))
        return succeed([Node(self._node_name, self.started_at, self.listener.connections())])


@implementer(IHistory)
class EmbeddedHistory:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def read(self, channel: str, since: int | None, limit: int, reverse: bool) -> Deferred[HistoryPage]:
        return self._writer.submit(
            Asking(
                lambda store: store.histories.read(store.connection, channel, since, limit, reverse, store.now),
                channel=channel,
            )
        )


@implementer(IInbox)
class EmbeddedInbox:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def append(
        self,
        publication: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        once: IdempotencyKey | None,
    ) -> Deferred[Published]:
        return self._writer.submit(Append(publication, user_id, chat, ttl, collapse_key, once))

    def read(self, user_id: str, after: int | None, limit: int) -> Deferred[InboxPage]:
        return self._writer.submit(
            Asking(
                lambda store: store.inboxes.read(store.connection, user_id, after, limit, store.now),
                user_id=user_id,
            )
        )

    def state(self, user_id: str) -> Deferred[InboxState]:
        return self._writer.submit(
            Asking(lambda store: store.inboxes.state(store.connection, user_id, store.now), user_id=user_id)
        )

    def acknowledge(self, user_id: str, offset: int, epoch: str) -> Deferred[int]:
        return self._writer.submit(
            Asking(
                lambda store: store.inboxes.acknowledge(store.connection, user_id, offset, epoch, store.now),
                user_id=user_id,
            )
        )

    def clear(self, user_id: str) -> Deferred[int]:
        return self._writer.submit(
            Asking(lambda store: store.inboxes.clear(store.connection, user_id, store.now), user_id=user_id)
        )


@implementer(ITaskStore)
class EmbeddedTasks:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def create(self, event: TaskEvent, once: IdempotencyKey | None) -> Deferred[TaskState]:
        return self._writer.submit(CreateTask(event, once))

    def replace(self, event: TaskEvent, final: Publication | None, once: IdempotencyKey | None) -> Deferred[bool]:
        return self._writer.submit(ReplaceTask(event, final, once))

    def get(self, task_id: str) -> Deferred[TaskState]:
        return self._writer.submit(Asking(lambda store: store.tasks.get(store.connection, task_id, store.now)))

    def of_user(self, user_id: str, unfinished: bool, limit: int) -> Deferred[list[TaskState]]:
        return self._writer.submit(
            Asking(lambda store: store.tasks.of_user(store.connection, user_id, unfinished, limit, store.now))
        )

    def stale(self, before: int, limit: int) -> Deferred[list[TaskState]]:
        return self._writer.submit(Asking(lambda store: store.tasks.stale(store.connection, before, limit)))

    def done(self, task_id: str, key: str) -> Deferred[bool]:
        return self._writer.submit(TaskDone(task_id, IdempotencyKey(key)))


@implementer(IEngine)
class EmbeddedEngine:
    """``task_ttl``: how long a final task stays known, ms. ``clock`` tells the time and drives what recurs; it is the
    reactor unless a test moves it."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        state_dir: Path,
        inbox: InboxRules,
        task_ttl: int,
        node_name: str,
        *,
        clock: Any = None,
        migrations: Traversable | None = None,
    ) -> None:
        self._clock = clock if clock is not None else reactor
        self._writer = Writer(reactor, Store(state_dir, inbox, task_ttl, migrations), self._now)
        self.broker = EmbeddedBroker(self._writer, self._clock, self._now, node_name)
        self._writer.broker = self.broker
        self.history = EmbeddedHistory(self._writer)
        self.inbox = EmbeddedInbox(self._writer)
        self.tasks = EmbeddedTasks(self._writer)
        self.presence = EmbeddedPresence(self._writer, self._now)
        self.revocations = EmbeddedRevocations(self._writer, self._now)
        self._sweeping: LoopingCall | None = None
        self._probing: LoopingCall | None = None
        self._again: Any = None

    def _now(self) -> int:
        return int(self._clock.seconds() * 1000)

    def start(self, listener: Listener) -> Deferred[None]:
        return Deferred.fromCoroutine(self._start(listener))

    async def _start(self, listener: Listener) -> None:
        self.revocations.load(await self._writer.start())
        self.broker.listener = listener
        self.broker.started_at = self._now()
        self._sweeping = self._recurring(self._sweep, _SWEEP_INTERVAL)
        self._probing = self._recurring(self._probe, _PROBE_INTERVAL)

    def _recurring(self, call: Callable[[], Deferred[None]], interval: float) -> LoopingCall:
        recurring = LoopingCall(call)
        recurring.clock = self._clock
        recurring.start(interval, now=False).addErrback(
            lambda failure: self._log.failure("A recurring job of the engine ended", failure=failure)
        )
        return recurring

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for recurring in (self._sweeping, self._probing):
            if recurring is not None and recurring.running:
                recurring.stop()
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self._writer.accepting:
            try:
                await self.presence.save()
            except Unavailable:
                self._log.warn("Could not write down when users were last seen")
        await self._writer.stop()
        self.broker.listener = None
        self.broker.clear()
        self.presence.clear()

    def trouble(self) -> str | None:
        return self._writer.trouble()

    def figures(self) -> dict[str, float]:
        return {
            "store_batches_total": self._writer.batches,
            "store_operations_total": self._writer.operations,
            "store_failed_batches_total": self._writer.failed_batches,
            "store_waiting": self._writer.waiting,
            "channels": self.broker.channels,
            "online_users": self.presence.users,
            "revocations": len(self.revocations),
        }

    def _sweep(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._sweep_step())

    async def _sweep_step(self) -> None:
        self.revocations.sweep(self._now())
        try:
            await self.presence.save()
            more = await self._writer.submit(Sweep(_SWEEP_STEP))
        except Unavailable:
            return
        if more and self._writer.accepting and (self._again is None or not self._again.active()):
            self._again = self._clock.callLater(_SWEEP_PAUSE, self._sweep_on)

    def _sweep_on(self) -> None:
        self._sweep().addErrback(lambda failure: self._log.failure("Removing old rows failed", failure=failure))

    def _probe(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._probe_store())

    async def _probe_store(self) -> None:
        """Writes a row where the store is in trouble, so that its recovery is seen without a caller's write."""
        if self._writer.accepting and self.trouble() is not None:
            now = self._now()
            try:
                await self._writer.submit(
                    Asking(
                        lambda store: (
                            store.connection.execute(
                                "INSERT OR REPLACE INTO probe (probe, written_at) VALUES (1, ?)", (now,)
                            ).rowcount
                        )
                    )
                )
            except Unavailable:
                return
