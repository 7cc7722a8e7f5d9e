"""What one node at a time does for all: it sends to webhooks, and tells of what was not read in time.

the lease is taken -> a `WebhookSender` for each webhook
the lease may be lost -> every attempt is ended before another node can have it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core.errors import Unavailable
from pushserver.core.events import number_of
from pushserver.core.webhooks import Webhook
from pushserver.engine.interfaces import DEAD_TTL, EventRules, OutboxFigures
from pushserver.server.clock import Clock, Recurring
from pushserver.server.events.attempts import MOST_HANGING
from pushserver.server.events.sender import Post, WebhookSender, Work
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from pushserver.engine.interfaces import IEngine

#: How long the lease holds, ms, and how often it is taken anew, s.
LEASE: Final = 9_000
RENEW: Final = LEASE / 3000
#: Seconds between two looks at what was not read, at what is past its time, and until webhooks are named anew.
TICK: Final = 1.0
TRIM: Final = 5.0
#: Messages that are looked at in one step.
STEP: Final = 200
KEEP: Final = 60.0
#: Seconds until a sender whose store could not answer begins anew.
AGAIN: Final = 0.5
#: Seconds for what is under way when this node stops.
PATIENCE: Final = 2.0


class EventSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service goes by: the types that are made, the outbox' bounds, and the receivers."""

    types: frozenset[str]
    rules: EventRules
    webhooks: tuple[Webhook, ...]


class EventService:
    """This node's part in the work. With no types there is none.

    Args:
        post: makes one attempt.
        open_files: how many files this process may have open; 0: no limit. Attempts that hang take an eighth at most.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        engine: IEngine,
        counters: Counters,
        post: Post,
        settings: EventSettings,
        open_files: int = 0,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._counters = counters
        self._post = post
        self._settings = settings
        self._most_hanging = min(MOST_HANGING, open_files // 8) if open_files else MOST_HANGING
        #: when each webhook was configured here, s
        self._known: dict[str, float] = {}
        self._senders: dict[str, WebhookSender] = {}
        self._sending: dict[str, Deferred[None]] = {}
        self._recurring: list[Recurring] = []
        self._ending: IDelayedCall | None = None
        self._held_until = 0.0
        self._trimmed_at = 0.0
        self._kept_at: float | None = None
        self._running = False
        #: the store is to be told of a reload
        self._reloaded = False
        self.figures = OutboxFigures()

    @property
    def holds(self) -> bool:
        """Return whether this node has the lease, as far as it can know."""
        return self._held_until > self._clock.seconds()

    @property
    def waiting(self) -> dict[str, int]:
        """Return how many events wait for each webhook, on the node that sends; 0 on the others."""
        waiting = dict.fromkeys((webhook.name for webhook in self._settings.webhooks), 0)
        if self.holds:
            for name, sender in self._senders.items():
                waiting[name] = sender.held + max(0, self.figures.newest - number_of(sender.cursor))
        return waiting

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take part from now on. The engine has started."""
        self._running = True
        self._adopt(self._settings)
        self._recurring = [
            self._clock.every(RENEW, self._renew, self._log, "taking the lease of events"),
            self._clock.every(TICK, self._tick, self._log, "looking after events"),
        ]
        if self._settings.types:
            self._clock.detach(self._renew(), self._log, "taking the lease of events")

    async def stop(self) -> None:
        """Take no part any more: what is under way may end, then the lease is given back."""
        self._running = False
        for each in self._recurring:
            each.stop()
        await self._stop_senders(list(self._senders), PATIENCE)
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        if self.holds:
            try:
                await self._engine.deliveries.lease(0)
            except Unavailable:
                # It ends by itself.
                pass
        self._held_until = 0.0

    def adopt(self, settings: EventSettings) -> None:
        """Go by these from now on: this node was reloaded. A receiver that was gone is asked again, by whichever node
        sends."""
        changed = [webhook.name for webhook in self._settings.webhooks if webhook not in settings.webhooks]
        self._adopt(settings)
        self._reloaded = True
        self._clock.detach(self._go_by(changed), self._log, "going by other settings of events")

    async def _go_by(self, changed: Sequence[str]) -> None:
        await self._stop_senders(changed, PATIENCE)
        # After them: whatever these were told of their receivers counts no more.
        await self._forget_gone()
        if self._running:
            await self._clock.sleep(0)
            self._begin()

    async def _forget_gone(self) -> None:
        if not self._reloaded:
            return
        self._reloaded = False
        try:
            await self._engine.deliveries.forget_gone([webhook.name for webhook in self._settings.webhooks])
        except Unavailable:
            # With the next tick.
            self._reloaded = True

    def _adopt(self, settings: EventSettings) -> None:
        self._settings = settings
        self._engine.events.rules.adopt(settings.rules)
        names = [webhook.name for webhook in settings.webhooks]
        now = self._clock.seconds()
        self._known = {name: self._known.get(name, now) for name in names}

    # -- the lease ----------------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        if not self._settings.types or not self._running:
            return
        asked = self._clock.seconds()
        try:
            held = await self._engine.deliveries.lease(LEASE)
        except Unavailable:
            return
        if not held or not self._running:
            self._lose()
            return
        self._held_until = asked + LEASE / 1000
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        self._ending = self._clock.later(max(0.0, self._held_until - self._clock.seconds()), self._lose)
        self._begin()

    def _lose(self) -> None:
        """The lease may be another node's: nothing of this one may be under way."""
        self._held_until = 0.0
        for sender in list(self._senders.values()):
            sender.abandon()

    # -- senders ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Have a sender for each webhook."""
        if not (self.holds and self._running):
            return
        for webhook in self._settings.webhooks:
            if webhook.name not in self._sending:
                self._sending[webhook.name] = self._clock.detach(
                    self._send(webhook), self._log, f"sending to webhook {webhook.name}"
                )
                self._sending[webhook.name].addCallback(self._ended, webhook.name)

    def _ended(self, _: None, name: str) -> None:
        self._sending.pop(name, None)
        self._senders.pop(name, None)

    async def _send(self, webhook: Webhook) -> None:
        # At the end of the turn: the caller has not noted this one yet.
        await self._clock.sleep(0)
        if not self.holds or webhook not in self._settings.webhooks:
            return
        known = self._known.get(webhook.name, self._clock.seconds())
        sender = WebhookSender(
            self._clock,
            self._engine,
            webhook,
            self._post,
            self._counters,
            Work(lambda: round(1000 * (self._clock.seconds() - known)), lambda: self.holds),
            self._most_hanging // len(self._settings.webhooks),
        )
        self._senders[webhook.name] = sender
        try:
            try:
                await sender.run()
            finally:
                sender.abandon()
        except Unavailable:
            await self._clock.sleep(AGAIN)

    async def _stop_senders(self, names: Sequence[str], patience: float) -> None:
        """All at once. They stay known until they have ended: the lease may be lost before that, or this node stop."""
        stopping = [
            self._clock.detach(sender.stop(patience), self._log, f"ending what is sent to webhook {name}")
            for name in names
            if (sender := self._senders.get(name)) is not None
        ]
        for each in stopping:
            await each

    # -- what is due --------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        await self._forget_gone()
        if not self.holds:
            return
        self._begin()
        try:
            if "inbox.unread" in self._settings.types:
                while self.holds and await self._engine.events.notify_unread(STEP) == STEP:
                    pass
            if self._clock.seconds() - self._trimmed_at >= TRIM:
                self._trimmed_at = self._clock.seconds()
                await self._trim()
            await self._keep()
        except Unavailable:
            return

    async def _keep(self) -> None:
        """What is known of webhooks that the configuration names no more goes a while after the last of the dead."""
        now = self._clock.seconds()
        if self._kept_at is None or now - self._kept_at >= KEEP:
            self._kept_at = now
            ttl = max(DEAD_TTL, self._settings.rules.retention)
            await self._engine.deliveries.keep([webhook.name for webhook in self._settings.webhooks], ttl)

    async def _trim(self) -> None:
        before, self.figures = self.figures, await self._engine.events.trim()
        dropped = self.figures.dropped - before.dropped
        if dropped > 0 and before.newest:
            self._log.warn(
                "{count} events were dropped: the outbox holds {bytes} bytes at most (events.max_bytes)",
                event="events_dropped",
                count=dropped,
                bytes=self._engine.events.rules.max_bytes,
            )
