"""The embedded engine: its parts put together, what recurs, starting and stopping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core.errors import Unavailable
from pushserver.engine.fill_level import FillLevel
from pushserver.engine.interfaces import IEngine
from pushserver.engine.skew import SKEW, step_warning

from .broker import EmbeddedBroker, LocalDelivery
from .events import EmbeddedDeliveries, EmbeddedEvents
from .history import EmbeddedHistory
from .inbox import EmbeddedInbox
from .operations import MeasureStore, MoveEpochs, NoteChanges, Probe, RowCall, Sweep
from .outputs import EmbeddedOutputs
from .presence import EmbeddedPresence
from .revocations import EmbeddedRevocations
from .rows.quarantine import QuarantineRows
from .store import Opened, Store
from .tasks import EmbeddedTasks
from .writer import Writer

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from twisted.internet.interfaces import IDelayedCall

    from pushserver.engine.interfaces import EngineClock, IIngest, InboxRules, Listener, QuarantinedRow, Stoppable
    from pushserver.engine.registry import EngineReactor


#: How often old rows are looked for, s, and how many of each kind one step removes.
_SWEEP_INTERVAL: Final = 5.0
_SWEEP_STEP: Final = 100
#: How long until the next step where there is more, s.
_SWEEP_PAUSE: Final = 0.05
#: How often a store in trouble is tried, s.
_PROBE_INTERVAL: Final = 1.0


@implementer(IEngine)
class EmbeddedEngine:
    """One process with its store.

    Args:
        reactor: where the writer thread hands its answers back.
        clock: wall time for what is kept, monotonic time for what recurs.
        state_dir: the directory of the store; one engine at a time may use it.
        inbox: the bounds of every inbox.
        task_ttl: how long a final task stays known, ms.
        node_name: this process, as `IBroker.nodes` and `IBroker.survey` name it.
        migrations: the store's schema, where a test brings its own.
    """

    _log = Logger()
    ingest: IIngest | None = None

    def __init__(
        self,
        reactor: EngineReactor,
        clock: EngineClock,
        state_dir: Path,
        inbox: InboxRules,
        task_ttl: int,
        node_name: str,
        *,
        migrations: Traversable | None = None,
    ) -> None:
        self._clock = clock
        self._delivery = LocalDelivery()
        store = Store(state_dir, inbox, task_ttl, migrations)
        self._store = store
        self._fill = FillLevel("server.state_dir")
        self._writer = Writer(reactor, store, self._delivery, clock)
        self.broker = EmbeddedBroker(self._writer, self._delivery, clock, node_name)
        self.history = EmbeddedHistory(self._writer)
        self.inbox = EmbeddedInbox(self._writer)
        self.tasks = EmbeddedTasks(self._writer, store)
        self.outputs = EmbeddedOutputs(self._writer, store.output_rules)
        self.presence = EmbeddedPresence(self._writer, clock)
        self.revocations = EmbeddedRevocations(self._writer, clock)
        self.events = EmbeddedEvents(self._writer, store.event_rules)
        self.deliveries = EmbeddedDeliveries(self._writer, clock)
        self.durations = self._writer.durations
        self._opening = DeferredLock()
        self._recurring: list[Stoppable] = []
        self._next_step: IDelayedCall | None = None

    def start(self, listener: Listener) -> Deferred[None]:
        return Deferred.fromCoroutine(self._start(listener))

    async def _start(self, listener: Listener) -> None:
        async with self._opening:
            self._adopt(await self._writer.start(self._reopened))
            self._delivery.start(listener)
            self.broker.start()
            self._note_fill(*self._store.measure())
            self._recurring = [
                self._clock.every(_SWEEP_INTERVAL, self._sweep, self._log, "removing old rows"),
                self._clock.every(_PROBE_INTERVAL, self._probe, self._log, "trying the store"),
            ]

    def _adopt(self, opened: Opened) -> None:
        self.revocations.load(opened.revocations)
        for remark in opened.remarks:
            self._log.error("{remark}", remark=remark)

    def _reopened(self, opened: Opened) -> None:
        """Another database has taken the place of the one that was open."""
        self._adopt(opened)
        self._delivery.epochs_moved()

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # A store that is being opened, and brought to another format perhaps, is opened first.
        async with self._opening:
            pass
        for each in self._recurring:
            each.stop()
        if self._next_step is not None and self._next_step.active():
            self._next_step.cancel()
        if self._writer.accepting:
            try:
                await self.presence.save()
            except Unavailable:
                self._log.warn("Could not write down when users were last seen")
        await self._writer.stop()
        self._delivery.stop()
        self.broker.stop()
        self.presence.clear()

    def trouble(self) -> str | None:
        return self._writer.trouble()

    def move_epochs(self) -> Deferred[None]:
        return self._writer.submit(MoveEpochs())

    def secret(self, purpose: str) -> Deferred[bytes]:
        if not self._writer.accepting:
            return fail(Unavailable("the engine is stopped"))
        return succeed(self._store.epochs.derive(purpose))

    def quarantine(self, limit: int) -> Deferred[list[QuarantinedRow]]:
        return self._writer.submit(RowCall(QuarantineRows.entries, limit))

    def clock_skew(self) -> float:
        return -self._clock.step / 1000

    def warnings(self) -> list[str]:
        return [step_warning(self._clock.step)] if abs(self._clock.step) > SKEW else []

    def differences(self) -> dict[str, list[str]]:
        return {}

    def figures(self) -> dict[str, float]:
        return {
            "store_batches_total": self._writer.batches,
            "store_operations_total": self._writer.operations,
            "store_failed_batches_total": self._writer.failed_batches,
            "quarantined_total": self._store.quarantine.total,
            "store_waiting": self._writer.waiting,
            "channels": self._delivery.channels,
            "online_users": self.presence.users,
            "revocations": len(self.revocations),
            "output_bytes_in_total": self._store.outputs.appended,
            "output_bytes_kept": self._store.outputs.kept,
            "output_bytes_trimmed_total": self._store.outputs.trimmed,
        } | self._fill.figures()

    async def _sweep(self) -> None:
        """Remove some of what is past its age; the next step follows soon where there is more."""
        self.revocations.sweep(self._clock.settled())
        try:
            await self.presence.save()
            self._note_fill(*await self._writer.submit(MeasureStore()))
            await self._writer.submit(NoteChanges())
            more = await self._writer.submit(Sweep(_SWEEP_STEP))
        except Unavailable:
            return
        if more and self._writer.accepting and (self._next_step is None or not self._next_step.active()):
            self._next_step = self._clock.later(_SWEEP_PAUSE, self._sweep_on)

    def _note_fill(self, size: int, room: int) -> None:
        self._fill.note(size, size + room)

    def _sweep_on(self) -> None:
        self._clock.detach(self._sweep(), self._log, "removing old rows")

    async def _probe(self) -> None:
        """Write a row where the store is in trouble, so that its recovery is seen without a caller's write."""
        if self._writer.accepting and self.trouble() is not None:
            try:
                await self._writer.submit(Probe())
            except Unavailable:
                return
