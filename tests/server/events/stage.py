"""An outbox on the embedded engine under a clock that the test moves, and a receiver on paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from pushserver.core import events
from pushserver.core.events import SUBJECTS, Event, NewEvent
from pushserver.core.publication import body
from pushserver.core.webhooks import Webhook
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import DeadEvent, InboxRules
from pushserver.server.events.attempt_result import AttemptResult
from pushserver.server.events.sender import WebhookSender, Work
from pushserver.server.stats import Counters
from tests.contracts.nodes import Recorder
from tests.engine.clocks import FakeTime

OK = AttemptResult(200)
FAILED = AttemptResult(500, "answered 500 Internal Server Error")
GONE = AttemptResult(410, "answered 410 Gone")
MAIL = Webhook(name="mail", url="http://h/", secrets=(bytes(24),), types=frozenset(SUBJECTS), timeout=1_000)

Answer = Callable[[Event], AttemptResult | Deferred[AttemptResult]]


def number(event: Event) -> int:
    n: int = msgspec.json.decode(event.data).get("n", 0)
    return n


class Stage:
    """The outbox, and what came to the receiver."""

    def __init__(self, place: Path) -> None:
        from twisted.internet import reactor

        self.time = FakeTime()
        self.engine = EmbeddedEngine(reactor, self.time.clock, place, InboxRules(9, 9, 60_000), 60_000, "a")
        self.counters = Counters(0)
        self.answer: Answer = lambda event: OK
        #: the attempts whose answer the test gives (`hold`)
        self.held: list[Deferred[AttemptResult]] = []
        #: every attempt as it began, and those that were taken: subject and number
        self.attempts: list[tuple[str, int]] = []
        self.taken: list[tuple[str, int]] = []
        self.under_way: list[str] = []
        self.most_at_once = 0
        #: whether no event may be tried before all that came before it of its subject were taken
        self.in_order = False
        self._told: dict[str, list[int]] = {}

    async def start(self) -> Stage:
        await self.engine.start(Recorder())
        return self

    async def stop(self) -> None:
        await self.engine.stop()

    async def post(self, webhook: Webhook, event_id: str, body: bytes) -> AttemptResult:
        event = events.decode(body)
        assert event.id == event_id
        assert event.subject not in self.under_way, "two of one subject at a time"
        if self.in_order:
            earlier = [n for n in self._told[event.subject] if n < number(event)]
            assert all((event.subject, n) in self.taken for n in earlier), "tried before its turn"
        self.attempts.append((event.subject, number(event)))
        self.under_way.append(event.subject)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        try:
            answer = self.answer(event)
            result = await answer if isinstance(answer, Deferred) else answer
        finally:
            self.under_way.remove(event.subject)
        if result.taken:
            self.taken.append((event.subject, number(event)))
        return result

    def hold(self, event: Event) -> Deferred[AttemptResult]:
        """An answer that does not come: until the test gives it, the attempt waits."""
        self.held.append(Deferred())
        return self.held[-1]

    def sender(self, webhook: Webhook = MAIL, age: int = 0) -> RunningSender:
        return RunningSender(self, webhook, age)

    async def record(self, *told: tuple[str, int], type: str = "user.online") -> None:
        """Keep events: user and number."""
        now = self.time.now()
        for user, n in told:
            self._told.setdefault(f"user:{user}", []).append(n)
        await self.engine.events.append([NewEvent(type, now, body({"userId": u, "n": n})) for u, n in told])

    async def until_idle(self) -> None:
        """Until what was asked of the engine is answered, and what follows from it too: nothing more is asked."""
        writer, at_rest = self.engine._writer, 0
        for _ in range(1_000):
            before = writer.operations
            await self.engine.inbox.state("nobody")
            self.time.advance(0)
            at_rest = at_rest + 1 if writer.operations == before + 1 else 0
            if at_rest == 3:
                return
        raise AssertionError("the engine is asked without end")

    async def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, a little at a time."""
        await self.until_idle()
        for _ in range(round(seconds / step)):
            self.time.advance(step)
            await self.until_idle()

    async def dead(self) -> list[DeadEvent]:
        return await self.engine.deliveries.dead()


class RunningSender:
    """A sender that runs."""

    def __init__(self, stage: Stage, webhook: Webhook, age: int) -> None:
        self._stage = stage
        self.sender = WebhookSender(
            stage.time.clock, stage.engine, webhook, stage.post, stage.counters, Work(lambda: age, lambda: True)
        )
        self.running: Deferred[Any] = Deferred.fromCoroutine(self.sender.run())

    async def stop(self) -> None:
        stopping = Deferred.fromCoroutine(self.sender.stop(2.0))
        await self._stage.pass_time(3)
        await stopping
        await self.running

    async def die(self) -> None:
        """As when its node is killed: nothing more is written."""
        self.sender.abandon()
        await self._stage.until_idle()
