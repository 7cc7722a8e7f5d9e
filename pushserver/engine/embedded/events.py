"""`IEvents` and `IDeliveries`: the outbox, and how far webhooks have come, in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import IDeliveries, IEvents

from .operations import AppendEvents, DeadEventCall, EventCall, EventRowCall, NotifyUnread, RowCall, TrimEvents
from .rows import deliveries
from .rows.events import EventRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.events import NewEvent
    from pushserver.engine.interfaces import (
        DeadEvent,
        DeliveryState,
        EngineClock,
        EventPage,
        EventRules,
        HeldSubject,
        OutboxFigures,
        StoredEvent,
    )

    from .writer import Writer


@implementer(IEvents)
class EmbeddedEvents:
    """The outbox in the store."""

    def __init__(self, writer: Writer, rules: EventRules) -> None:
        self._writer = writer
        self.rules = rules

    def append(self, made: Sequence[NewEvent]) -> Deferred[None]:
        return self._writer.submit(AppendEvents(made))

    def read(self, after: str | None, limit: int, max_bytes: int) -> Deferred[EventPage]:
        return self._writer.submit(EventRowCall(EventRows.read, after, limit, max_bytes))

    def notify_unread(self, limit: int) -> Deferred[int]:
        return self._writer.submit(NotifyUnread(limit))

    def trim(self) -> Deferred[OutboxFigures]:
        return Deferred.fromCoroutine(self._trim())

    async def _trim(self) -> OutboxFigures:
        await self._writer.submit(TrimEvents())
        return await self._writer.submit(EventRowCall(EventRows.figures))


@implementer(IDeliveries)
class EmbeddedDeliveries:
    """How far webhooks have come, in the store; the lease is always this process' own."""

    def __init__(self, writer: Writer, clock: EngineClock) -> None:
        self._writer = writer
        self._clock = clock

    def lease(self, ttl: int) -> Deferred[bool]:
        if not self._writer.accepting:
            return fail(Unavailable("the engine is stopped"))
        return succeed(ttl > 0)

    def begin(self, webhook: str, age: int) -> Deferred[DeliveryState]:
        return self._writer.submit(EventCall(deliveries.begin, webhook, self._clock.now() - age))

    def move_cursor(self, webhook: str, cursor: str) -> Deferred[None]:
        return self._writer.submit(RowCall(deliveries.move_cursor, webhook, cursor))

    def mark_gone(self, webhook: str, address: str) -> Deferred[None]:
        return self._writer.submit(RowCall(deliveries.mark_gone, webhook, address))

    def gone(self, webhook: str) -> Deferred[str]:
        return self._writer.submit(RowCall(deliveries.gone, webhook))

    def forget_gone(self, webhooks: Sequence[str]) -> Deferred[None]:
        return self._writer.submit(RowCall(deliveries.forget_gone, webhooks))

    def keep(self, webhooks: Sequence[str], ttl: int) -> Deferred[None]:
        return self._writer.submit(RowCall(deliveries.keep, webhooks, self._clock.settled(), ttl))

    def hold(self, webhook: str, state: HeldSubject, ids: Sequence[str]) -> Deferred[None]:
        return self._writer.submit(RowCall(deliveries.hold, webhook, state, ids))

    def held(self, webhook: str, subject: str, limit: int) -> Deferred[list[StoredEvent]]:
        return self._writer.submit(EventCall(deliveries.held, webhook, subject, limit))

    def release(self, webhook: str, subject: str, id: str, dead: DeadEvent | None) -> Deferred[int]:
        return self._writer.submit(RowCall(deliveries.release, webhook, subject, id, dead))

    def add_dead(self, dead: Sequence[DeadEvent]) -> Deferred[None]:
        return self._writer.submit(RowCall(deliveries.add_dead, dead))

    def dead(self) -> Deferred[list[DeadEvent]]:
        return self._writer.submit(DeadEventCall(deliveries.dead))

    def retry(self, webhook: str, ids: Sequence[str] | None) -> Deferred[int]:
        return self._writer.submit(RowCall(deliveries.retry, webhook, ids, self._clock.now()))

    def retried(self, webhook: str) -> Deferred[list[DeadEvent]]:
        return self._writer.submit(DeadEventCall(deliveries.retried, webhook))

    def revive(self, webhook: str, id: str) -> Deferred[None]:
        return self._writer.submit(RowCall(deliveries.revive, webhook, id))
