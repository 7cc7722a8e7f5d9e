"""Events that belong to no write of the engine: kept in their order, as soon as the engine can."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core.errors import Unavailable
from pushserver.core.events import NewEvent
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.server.clock import Clock
from pushserver.server.events.maker import EventMaker
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEvents

#: How many wait for an engine that is away; beyond it the oldest goes.
MAX_WAITING: Final = 10_000
#: How many are kept at once.
BATCH: Final = 500
#: Seconds until an engine that could not answer is asked again.
AGAIN: Final = 1.0
#: How many refused sign-ins are told in a second: of one address, and of this node.
REFUSED_PER_ADDRESS: Final = 1.0
REFUSED: Final = 10.0


class EventRecorder:
    """Takes events at any moment, and gives them to the engine, a batch at a time."""

    _log = Logger()

    def __init__(self, clock: Clock, store: IEvents, maker: EventMaker, counters: Counters) -> None:
        self._clock = clock
        self._store = store
        self._maker = maker
        self._counters = counters
        self._waiting: deque[NewEvent] = deque()
        self._writing: Deferred[None] | None = None
        #: whether the engine is keeping some of them now
        self._asked = False
        self._stopping = False
        self._by_address = KeyedTokenBuckets(REFUSED_PER_ADDRESS)
        self._by_node = KeyedTokenBuckets(REFUSED)
        #: how many went since too many waited
        self._dropped = 0

    def record(self, type: str, data: object) -> None:
        """Keep an event, where its type is made."""
        made = self._maker.make(type, data)
        if not made:
            return
        self._waiting.extend(made)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._counters.events_dropped += 1
            self._dropped += 1
            if self._dropped % MAX_WAITING == 1:
                self._log.warn("events are dropped: the engine is away, and too many wait", event="events_dropped")
        if self._writing is None and not self._stopping:
            self._writing = self._clock.detach(self._write(), self._log, "keeping events")
            self._writing.addCallback(self._written)

    def refused(self, address: str, code: str, user_id: str | None) -> None:
        """A sign-in failed. ``user_id``: whose token it was, where its signature holds."""
        if "user.refused" not in self._maker.types:
            return
        now = self._clock.milliseconds()
        if self._by_address.wait(address, now) == 0 and self._by_node.wait("", now) == 0:
            data = {"address": address, "code": code}
            self.record("user.refused", data if user_id is None else data | {"userId": user_id})

    async def _write(self) -> None:
        # At the end of the turn, so that what comes together is kept together.
        await self._clock.sleep(0)
        while self._waiting:
            if await self._keep_oldest():
                continue
            if self._stopping:
                return
            await self._clock.sleep(AGAIN)

    async def _keep_oldest(self) -> bool:
        """Keep a batch of what waits; return whether the engine could."""
        batch = list(islice(self._waiting, BATCH))
        self._asked = True
        try:
            await self._store.append(batch)
        except Unavailable:
            return False
        finally:
            self._asked = False
        for event in batch:
            # Where too many came meanwhile, the first of these are gone already.
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()
        return True

    def _written(self, _: None) -> None:
        self._writing = None

    def stop(self) -> None:
        """Keep nothing more. May be called more than once."""
        self._stopping = True
        if self._writing is not None:
            self._writing.cancel()

    async def flush(self) -> None:
        """Keep what waits, as far as the engine answers, and take nothing more."""
        self._stopping = True
        if self._asked and self._writing is not None:
            # It goes on with the rest. Asked for anew, the engine would keep these twice.
            await self._writing
        self.stop()
        if self._waiting:
            try:
                await self._store.append(list(self._waiting))
            except Unavailable:
                self._counters.events_dropped += len(self._waiting)
                self._log.warn("{count} events could not be kept", event="events_dropped", count=len(self._waiting))
        self._waiting.clear()
