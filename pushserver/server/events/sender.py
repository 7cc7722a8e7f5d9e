"""One webhook's events, from the outbox to the receiver: several at a time, those of one subject one after the other.

    outbox -> window: read and not settled -> a lane for each subject -> one attempt at a time
    an attempt failed -> the lane is held: its events wait in the store until it is due, behind them the cursor moves on
    an attempt hangs, and others wait for its place -> the lane is held meanwhile, and another one has the place
    an event failed until its retention ends -> it is dead, and the next one of its subject follows

What was read and not settled when a node dies is sent again by the next one: at least once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from random import random
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger

from pushserver.core import events, webhooks
from pushserver.core.errors import PushError, Unavailable
from pushserver.core.events import Event
from pushserver.core.webhooks import Webhook
from pushserver.engine.interfaces import DeadEvent, HeldSubject, StoredEvent
from pushserver.server.clock import Clock
from pushserver.server.events.attempt_result import GONE, AttemptResult
from pushserver.server.events.attempts import AT_ONCE, MOST_HANGING, Attempt, Attempts
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: Events that are read ahead and not settled, and how many may lie behind the oldest of them: so long goes on what is
#: not of its subject, and so many are sent again at most where this node dies. Those of one read; bytes of one read.
WINDOW: Final = 400
AHEAD: Final = 5 * WINDOW
BATCH: Final = 200
BATCH_BYTES: Final = 4 * 1024 * 1024
#: Subjects that may be held; beyond it nothing more is read: it is not subjects that fail, but the receiver.
MAX_HELD: Final = 10_000
#: Seconds between two looks at the outbox, at what is to be tried once more, and at the cursor in the store.
POLL: Final = 0.25
LOOK_AGAIN: Final = 1.0
CURSOR_PERIOD: Final = 0.2
#: Seconds without a failure after which a receiver is well, and a reason is written again.
QUIET: Final = 60.0

Post = Callable[[Webhook, str, bytes], Awaitable[AttemptResult]]


class _Slot:
    """Where an event stands that was read, and whether it is settled: taken, held in the store, dead, or not wanted."""

    __slots__ = ("id", "settled")

    def __init__(self, id: str) -> None:
        self.id = id
        self.settled = False


class _Entry:
    """An event that is not settled."""

    __slots__ = ("body", "event", "slot")

    def __init__(self, event: Event, body: bytes, slot: _Slot) -> None:
        self.event = event
        self.body = body
        self.slot = slot


class _Lane:
    """One subject."""

    __slots__ = ("again", "attempt", "held", "lock", "queue", "subject", "waiting")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.queue: deque[_Entry] = deque()
        #: dead events that are to be tried once more
        self.again: deque[DeadEvent] = deque()
        self.held: HeldSubject | None = None
        #: what is under way
        self.attempt: Attempt | None = None
        #: it stands among those that are ready
        self.waiting = False
        #: held by whoever changes what the store holds of it
        self.lock = DeferredLock()


class Work(NamedTuple):
    """What a node knows of its work for a webhook.

    Attributes:
        age: ms since this webhook is known here: where one begins that the store does not know.
        may_send: whether this node has the lease, by the clock: a process that stood still for longer finds answers
            to go on from before the timer runs that ends its work.
    """

    age: Callable[[], int]
    may_send: Callable[[], bool]


class WebhookSender:
    """Sends one webhook's events, as long as this node has the lease.

    Args:
        post: makes one attempt; never raises but CancelledError.
        most_hanging: attempts that may hang beside those that are under way at a time.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        engine: IEngine,
        webhook: Webhook,
        post: Post,
        counters: Counters,
        work: Work,
        most_hanging: int = MOST_HANGING,
    ) -> None:
        self._clock = clock
        self._outbox = engine.events
        self._store = engine.deliveries
        self.webhook = webhook
        self._name = webhook.name
        self._post = post
        self._counters = counters
        self._age, self._may_send = work
        self._window: deque[_Slot] = deque()
        #: how many of these are not settled
        self._open = 0
        #: the outbox has more than was read
        self._is_behind = False
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        #: when each held subject is sent again, ms of the monotonic clock; and each subject for each dead event of it
        #: that is to be tried once more
        self._due: list[tuple[int, str]] = []
        self._to_hold: set[_Lane] = set()
        self._under_way: set[Deferred[None]] = set()
        self._attempts = Attempts(webhook.timeout / 1000 / AT_ONCE, most_hanging)
        #: attempts that have given up their places, and that the store holds nothing of
        self._set_aside: list[Attempt] = []
        #: the ids of dead events that are being tried once more, or are about to be
        self._again: set[str] = set()
        self._position = self._cursor = self._kept_cursor = events.BEGINNING
        self._settled_at = self._looked_at = 0.0
        self._resting: Deferred[None] | None = None
        self._problem: PushError | None = None
        #: why it took no event since it last was well, and when it failed last, s
        self._reasons: set[str] = set()
        self._failed_at = 0.0
        self._stopping = False
        #: it answered that it is gone: nothing more is sent before a reload, of whichever node
        self.gone = False
        #: events that are held in the store
        self.held = 0

    @property
    def waiting(self) -> int:
        """Return how many events are known to wait: read, or held."""
        return self._open + self.held

    @property
    def cursor(self) -> str:
        """Return the event up to which all is settled."""
        return self._cursor

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until `stop`, or until this raises `errors.Unavailable`: then begin anew with another sender."""
        state = await self._store.begin(self._name, self._age())
        self._position = self._cursor = self._kept_cursor = state.cursor
        self.held = state.held
        self.gone = state.gone == self.webhook.address
        if self.gone:
            self._log_gone()
        # Of a clock that was set, the later time: rather too early than in an hour.
        now = max(self._clock.now(), self._clock.settled())
        for held in state.subjects:
            lane = self._lane(held.subject)
            lane.held = held
            self._note_due(held.due - now, held.subject)
        while not self._stopping:
            if self.gone:
                await self._look_whether_gone()
            else:
                await self._look_again()
                await self._read()
                await self._hold_back()
                self._start()
                await self._hold_what_hangs()
            await self._move_cursor(CURSOR_PERIOD)
            await self._rest()
            if self._problem is not None:
                raise self._problem
        # Nobody else sends to this receiver meanwhile.
        for attempt in list(self._under_way):
            await attempt

    async def stop(self, patience: float) -> None:
        """Begin nothing more, and wait so many seconds for what is under way; then end it."""
        self._stopping = True
        self._wake()
        if self._under_way and patience:
            deadline = self._clock.later(patience, self.abandon)
            for attempt in list(self._under_way):
                await attempt
            if deadline.active():
                deadline.cancel()
        self.abandon()
        if patience and self._problem is None:
            try:
                await self._move_cursor(0)
            except Unavailable:
                # What is not written down is sent again.
                return

    def abandon(self) -> None:
        """End all attempts now: the lease is lost, or patience is at its end."""
        self._stopping = True
        for attempt in list(self._under_way):
            attempt.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._resting is not None and not self._resting.called:
            self._resting.callback(None)

    async def _rest(self) -> None:
        if self._stopping or self._problem is not None or (self._is_behind and self._may_read and self._going):
            return
        seconds = POLL
        if self._due and self._going and self._attempts.has_place(again=True):
            seconds = min(seconds, max(0.0, (self._due[0][0] - self._clock.milliseconds()) / 1000))
        if self._going and self._is_pressed:
            seconds = min(seconds, self._attempts.next_in(self._clock.seconds()))
        self._resting = Deferred()
        call = self._clock.later(seconds, self._wake)
        await self._resting
        if call.active():
            call.cancel()

    # -- from the outbox to the lanes ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        self._is_behind = True
        while self._may_read and not self._stopping:
            page = await self._outbox.read(self._position, BATCH, BATCH_BYTES)
            if page.lost:
                self._log.warn(
                    "webhook {webhook}: some events are gone from the outbox before it took them",
                    event="webhook_lost",
                    webhook=self._name,
                )
            for stored in page.events:
                self._take(stored)
            self._position = page.last
            if len(page.events) == 0:
                self._is_behind = False
                return

    @property
    def _may_read(self) -> bool:
        return self._has_room and len(self._due) + self._attempts.hanging < MAX_HELD

    @property
    def _has_room(self) -> bool:
        return self._open < WINDOW and len(self._window) < AHEAD

    def _take(self, stored: StoredEvent) -> None:
        slot = _Slot(stored.id)
        self._window.append(slot)
        event = self._whole(stored)
        if event is None or event.type not in self.webhook.types:
            slot.settled = True
            return
        self._open += 1
        lane = self._lane(event.subject)
        lane.queue.append(_Entry(event, stored.body, slot))
        self._note(lane)

    def _whole(self, stored: StoredEvent) -> Event | None:
        """Return an event that was kept. None where it is gone, or damaged, or somebody else's entry in the stream: it
        is left out, and one that cannot be read counts as dropped."""
        if not stored.body:
            self._log.warn(
                "webhook {webhook}: the event {id} is gone from the outbox before it was taken",
                event="webhook_lost",
                webhook=self._name,
                id=stored.id,
            )
            return None
        try:
            return events.read_kept(stored.body, stored.id)
        except ValueError as problem:
            self._counters.events_dropped += 1
            self._log.warn(
                "webhook {webhook}: what is kept as {id} cannot be read and is left out: {reason}",
                event="webhook_lost",
                webhook=self._name,
                id=stored.id,
                reason=str(problem),
            )
            return None

    def _finish(self, entry: _Entry) -> None:
        entry.slot.settled = True
        self._open -= 1

    def _lane(self, subject: str) -> _Lane:
        lane = self._lanes.get(subject)
        if lane is None:
            lane = self._lanes[subject] = _Lane(subject)
        return lane

    def _note(self, lane: _Lane) -> None:
        """Put a lane where it belongs now."""
        if lane.held is not None and lane.queue:
            self._to_hold.add(lane)
        if lane.attempt is not None:
            return
        if lane.queue and lane.held is None:
            if not lane.waiting:
                lane.waiting = True
                self._ready.append(lane)
        elif not (lane.waiting or lane.queue or lane.again) and lane.held is None:
            self._lanes.pop(lane.subject, None)

    async def _hold_back(self) -> None:
        """Let the store hold what came for subjects that are held."""
        while self._to_hold:
            lane = self._to_hold.pop()
            async with lane.lock:
                if lane.held is not None and lane.queue:
                    await self._hold(lane, lane.held, list(lane.queue))

    async def _hold_what_hangs(self) -> None:
        """Let the store hold the subjects whose first attempt hangs: neither what is read nor the cursor waits for
        them."""
        while self._set_aside:
            attempt = self._set_aside.pop()
            lane = self._lanes.get(attempt.subject)
            if lane is None:
                continue
            async with lane.lock:
                if lane.attempt is attempt and attempt.waits and lane.held is None:
                    state = HeldSubject(lane.subject, 0, self._wall_clock() + self.webhook.timeout)
                    await self._hold(lane, state, list(lane.queue))
                    lane.held = state
            self._note(lane)

    async def _hold(self, lane: _Lane, state: HeldSubject, entries: list[_Entry]) -> None:
        """Have the store hold these events of a lane, which stand at the head of its queue."""
        await self._store.hold(self._name, state, [entry.event.id for entry in entries])
        self.held += len(entries)
        for entry in entries:
            self._finish(entry)
            if lane.queue and lane.queue[0] is entry:
                lane.queue.popleft()

    async def _look_again(self) -> None:
        """Look for dead events that are to be tried once more."""
        now = self._clock.seconds()
        if now - self._looked_at < LOOK_AGAIN:
            return
        self._looked_at = now
        for dead in await self._store.retried(self._name):
            event = events.decode(bytes(dead.event))
            if event.id in self._again:
                continue
            self._again.add(event.id)
            self._lane(event.subject).again.append(dead)
            heapq.heappush(self._due, (self._clock.milliseconds(), event.subject))

    async def _look_whether_gone(self) -> None:
        """Look whether a node was reloaded since this receiver answered that it is gone."""
        now = self._clock.seconds()
        if now - self._looked_at >= LOOK_AGAIN:
            self._looked_at = now
            self.gone = await self._store.gone(self._name) == self.webhook.address

    def _log_gone(self) -> None:
        self._log.error(
            "webhook {webhook} answered 410: nothing more is sent to it before a reload",
            event="webhook_gone",
            webhook=self._name,
        )

    async def _move_cursor(self, seconds: float) -> None:
        """Write down how far all is settled, at most every so many seconds."""
        window = self._window
        while window and window[0].settled:
            self._cursor = window.popleft().id
        if not window:
            self._cursor = self._position
        now = self._clock.seconds()
        if self._cursor != self._kept_cursor and now - self._settled_at >= seconds:
            self._settled_at = now
            cursor = self._cursor
            await self._store.move_cursor(self._name, cursor)
            self._kept_cursor = cursor

    @property
    def _going(self) -> bool:
        return not (self._stopping or self.gone) and self._problem is None and self._may_send()

    # -- attempts -----------------------------------------------------------------------------------------------------

    @property
    def _is_pressed(self) -> bool:
        """Return whether something waits that hangs under way keeps from going on."""
        if not self._has_room or (self._ready and not self._attempts.has_place()):
            return True
        is_due = bool(self._due) and self._due[0][0] <= self._clock.milliseconds()
        return is_due and not self._attempts.has_place(again=True)

    def _start(self) -> None:
        """Begin as many attempts as may be under way."""
        if self._going and self._is_pressed:
            self._set_aside += self._attempts.set_aside(self._clock.seconds())
        now = self._clock.milliseconds()
        while self._going and self._due and self._due[0][0] <= now and self._attempts.has_place(again=True):
            _, subject = heapq.heappop(self._due)
            lane = self._lanes.get(subject)
            if lane is None or not (lane.again or lane.held):
                continue
            if lane.attempt is not None:
                heapq.heappush(self._due, (now + 1_000, subject))
            elif lane.again:
                self._begin(lane, self._send_again, again=True)
            else:
                self._begin(lane, self._send_held, again=True)
        while self._going and self._ready and self._attempts.has_place():
            lane = self._ready.popleft()
            lane.waiting = False
            if lane.queue and lane.held is None and lane.attempt is None:
                self._begin(lane, self._send)

    def _begin(self, lane: _Lane, send: Callable[[_Lane, Attempt], Awaitable[None]], again: bool = False) -> None:
        attempt = lane.attempt = self._attempts.begin(lane.subject, again, self._clock.seconds())

        async def carry_out() -> None:
            try:
                await send(lane, attempt)
            except CancelledError:
                self._stopping = True
            except PushError as problem:
                self._problem = problem
            except Exception:
                # Whatever it was, it must not be tried again and again without a pause.
                self._log.failure("sending to webhook {webhook} failed", webhook=self._name)
                self._problem = Unavailable("an attempt failed")

        under_way = self._clock.detach(carry_out(), self._log, f"sending to webhook {self._name}")
        if not under_way.called:
            self._under_way.add(under_way)

        def done(_: None) -> None:
            self._under_way.discard(under_way)
            lane.attempt = None
            self._attempts.end(attempt)
            self._note(lane)
            self._wake()

        under_way.addCallback(done)

    async def _send(self, lane: _Lane, attempt: Attempt) -> None:
        """Send the first event of a lane that nothing is held of."""
        entry = lane.queue[0]
        outcome = await self._attempt(attempt, entry.event, entry.body)
        async with lane.lock:
            if lane.held is None:
                await self._take_outcome(lane, entry, outcome)
                return
        # The store has held it since it hung.
        if await self._take_outcome_held(lane, entry.event, entry.body, outcome):
            await self._send_held(lane, attempt)

    async def _take_outcome(self, lane: _Lane, entry: _Entry, outcome: AttemptResult) -> None:
        """The first event of a lane was tried that nothing is held of. Its lock is held."""
        wait = None if outcome.taken else self._next(entry.event, 1, outcome)
        if wait is not None:
            state = HeldSubject(lane.subject, 1, self._wall_clock() + wait)
            await self._hold(lane, state, list(lane.queue))
            lane.held = state
            self._note_due(wait, lane.subject)
            return
        if not outcome.taken:
            await self._store.add_dead([self._dead(entry.event, entry.body, outcome, 1)])
        lane.queue.popleft()
        self._finish(entry)

    async def _send_held(self, lane: _Lane, attempt: Attempt) -> None:
        """Send what is held of a subject, until something fails or nothing is left."""
        while lane.held is not None:
            if not self._going:
                # Where the lease was only late, it goes on; a sender that ends leaves all to the next one.
                self._note_due(0, lane.subject)
                return
            found = await self._store.held(self._name, lane.subject, 1)
            if not found:
                await self._release(lane, events.BEGINNING, None)
                continue
            (stored,) = found
            event = self._whole(stored)
            if event is None:
                await self._release(lane, stored.id, None)
                continue
            outcome = await self._attempt(attempt, event, stored.body)
            if not await self._take_outcome_held(lane, event, stored.body, outcome):
                return

    async def _take_outcome_held(self, lane: _Lane, event: Event, body: bytes, outcome: AttemptResult) -> bool:
        """The first event that is held of a subject was tried. Return whether the next one may follow."""
        assert lane.held is not None
        failures = lane.held.failures + 1
        wait = None if outcome.taken else self._next(event, failures, outcome)
        if wait is None:
            await self._release(lane, event.id, None if outcome.taken else self._dead(event, body, outcome, failures))
            return True
        async with lane.lock:
            lane.held = HeldSubject(lane.subject, failures, self._wall_clock() + wait)
            await self._hold(lane, lane.held, [])
        self._note_due(wait, lane.subject)
        return False

    async def _release(self, lane: _Lane, id: str, dead: DeadEvent | None) -> None:
        """An event is held no more; where it was the last one of its subject, the subject is free."""
        async with lane.lock:
            left = await self._store.release(self._name, lane.subject, id, dead)
            if id != events.BEGINNING:
                self.held = max(0, self.held - 1)
            lane.held = HeldSubject(lane.subject, 0, 0) if left else None

    async def _send_again(self, lane: _Lane, attempt: Attempt) -> None:
        """Try a dead event once more."""
        dead = lane.again.popleft()
        body = bytes(dead.event)
        event = events.decode(body)
        outcome = await self._attempt(attempt, event, body)
        if outcome.taken:
            await self._store.revive(self._name, event.id)
        else:
            await self._store.add_dead([self._dead(event, body, outcome, dead.attempts + 1)])
        self._again.discard(event.id)
        async with lane.lock:
            hung = lane.held is not None and lane.held.failures == 0
        if hung:
            # The store has held the subject since then, for the end of this.
            self._note_due(0, lane.subject)

    async def _attempt(self, attempt: Attempt, event: Event, body: bytes) -> AttemptResult:
        self._attempts.begin_request(attempt, self._clock.seconds())
        outcome = await self._post(self.webhook, event.id, body)
        self._attempts.end_request(attempt, outcome.status is not None, self._clock.seconds())
        if outcome.taken:
            self._counters.webhook_delivered[self._name] += 1
            if self._reasons and self._clock.seconds() - self._failed_at >= QUIET:
                self._reasons.clear()
                self._log.info("webhook {webhook} takes events again", event="webhook_back", webhook=self._name)
            return outcome
        self._counters.webhook_failed[self._name] += 1
        self._failed_at = self._clock.seconds()
        if outcome.status == GONE and not self.gone:
            self.gone = True
            self._log_gone()
            # For whichever node sends next.
            await self._store.mark_gone(self._name, self.webhook.address)
        elif outcome.problem not in self._reasons and len(self._reasons) < 100:
            self._reasons.add(outcome.problem)
            self._log.warn(
                "webhook {webhook} does not take an event: {reason}",
                event="webhook_failed",
                webhook=self._name,
                reason=outcome.problem,
            )
        return outcome

    def _next(self, event: Event, failures: int, outcome: AttemptResult) -> int | None:
        """Return ms until an event is sent again; None where it is dead by then, or the receiver is gone."""
        if outcome.status == GONE:
            return None
        wait = webhooks.delay(failures, outcome.retry_after, random())
        return wait if self._wall_clock() + wait < event.timestamp + self._outbox.rules.retention else None

    def _wall_clock(self) -> int:
        """Return ms since the epoch, by what also who sends next goes by. A clock that was set forward for a while
        makes no event older, and holds none up at a node whose clock was not."""
        return min(self._clock.now(), self._clock.settled())

    def _note_due(self, wait: int, subject: str) -> None:
        """A held subject is sent again in ``wait`` ms, however the wall clock is set until then."""
        heapq.heappush(self._due, (self._clock.milliseconds() + max(0, wait), subject))

    def _dead(self, event: Event, body: bytes, outcome: AttemptResult, attempts: int) -> DeadEvent:
        return DeadEvent(self._name, msgspec.Raw(body), outcome.problem, attempts, self._clock.now())
