"""The way to the store and back: batches between the reactor and the one writer thread.

What is submitted in one turn of the reactor becomes one batch; while the thread carries it out, the next one gathers.
When a batch is on the disk, the reactor is called once, and fires the operations' Deferreds in their order, as many in
a turn as leave time for others.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core.errors import PushError, Unavailable
from pushserver.core.histogram import Histograms

from .operations import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushserver.engine.interfaces import EngineClock
    from pushserver.engine.registry import EngineReactor

    from .operations import KeptListener, Operation
    from .store import Opened, Store

#: How many operations are one transaction at most, so that an answer does not wait for thousands of others.
_BATCH: Final = 1000
#: How many may wait; beyond it the store is far too slow for what is asked of it, and says so.
_WAITING: Final = 100_000
#: Seconds of one turn in which answers are given, at least.
_SLICE: Final = 0.002


def _unavailable(why: str) -> Failure:
    return Failure(Unavailable(why))  # type: ignore[no-untyped-call]


T = TypeVar("T")


class Writer:
    """Carries operations to the `Store`; each notifies ``delivery`` of what was kept after the commit, and before the
    submitter has its answer.

    Args:
        reactor: the real one, also where a test moves ``clock``: a batch leaves at the end of its turn.
        store: used on the writer thread alone.
        delivery: who is notified of what was kept.
        clock: the time of each batch, settled.
    """

    _log = Logger()

    def __init__(self, reactor: EngineReactor, store: Store, delivery: KeptListener, clock: EngineClock) -> None:
        self._reactor = reactor
        self._store = store
        self._delivery = delivery
        self._clock = clock
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._gathering: list[tuple[Operation[Any], Deferred[Any]]] = []
        #: when the first of what gathers was submitted, and of what the thread carries out now, s
        self._gathering_since = self._carrying_out_since = 0.0
        self._scheduled = False
        self._busy = False
        #: operations that were carried out, each with its answer of its own kind
        self._answers: deque[tuple[tuple[Operation[Any], Deferred[Any]], Any]] = deque()
        #: when the last ones were given, s
        self._rested_at = 0.0
        self._idle: Deferred[None] | None = None
        self.accepting = False
        self._fault: str | None = None
        self.batches = 0
        self.operations = 0
        self.failed_batches = 0
        #: how long operations took, from the first of their batch to their answers
        self.durations = Histograms(("operation",), ((name,) for name in NAMES))
        self._reopened: Callable[[Opened], None] = lambda opened: None

    @property
    def waiting(self) -> int:
        return len(self._gathering)

    def trouble(self) -> str | None:
        """Return why the store cannot answer now; None where it can."""
        return "the store is closed" if not self.accepting else self._fault

    async def start(self, reopened: Callable[[Opened], None]) -> Opened:
        """Start the thread and open the store; return what that has shown. Raises `ConfigError`. ``reopened`` is called
        where the database is found to be another one later."""
        self._reopened = reopened
        self._thread = threading.Thread(target=self._work, name="pushserver-store", daemon=True)
        self._thread.start()
        opened: Deferred[Opened] = Deferred()
        now = self._clock.settled()
        self._jobs.put((lambda: self._store.open(now), opened.callback))
        try:
            answer = await opened
        except BaseException:
            self._end_thread()
            raise
        self.accepting = True
        return answer

    async def stop(self) -> None:
        """Refuse what comes from now on, carry out what waits, and close the store."""
        if self._thread is None:
            return
        self.accepting = False
        if self._busy or self._gathering:
            self._idle = Deferred()
            await self._idle
        closed: Deferred[Any] = Deferred()
        self._jobs.put((self._store.close, closed.callback))
        await closed
        self._end_thread()

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def submit(self, operation: Operation[T]) -> Deferred[T]:
        """Return the operation's answer; fails with `Unavailable` where it cannot be known to have happened."""
        if not self.accepting:
            return fail(Unavailable("the store is closed"))
        if len(self._gathering) >= _WAITING:
            return fail(Unavailable("the store is too slow for what is asked of it"))
        answer: Deferred[T] = Deferred()
        if not self._gathering:
            self._gathering_since = self._clock.seconds()
        self._gathering.append((operation, answer))
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self._reactor.callLater(0, self._send)
        return answer

    def _send(self) -> None:
        self._scheduled = False
        batch, self._gathering = self._gathering[:_BATCH], self._gathering[_BATCH:]
        self._busy = True
        self._carrying_out_since = self._gathering_since
        operations = [operation for operation, _ in batch]
        now = self._clock.settled()
        self._jobs.put((lambda: self._store.carry_out(operations, now), lambda answers: self._done(batch, answers)))

    def _work(self) -> None:
        """The thread's life."""
        while (job := self._jobs.get()) is not None:
            work, done = job
            try:
                answer = work()
            except BaseException:
                answer = Failure()  # type: ignore[no-untyped-call]
            self._reactor.callFromThread(done, answer)
            # Nothing of a job may outlive it here: the last reference would be dropped on the wrong thread.
            del job, work, done, answer

    def _done(
        self,
        batch: list[tuple[Operation[Any], Deferred[Any]]],  # Any: each has an answer of its own kind
        answers: list[Any] | Failure,
    ) -> None:
        self.batches += 1
        self.operations += len(batch)
        self._note_duration(batch)
        if (reopened := self._store.take_reopened()) is not None:
            self._reopened(reopened)
        for row in self._store.quarantine.take_news():
            text = "A row of {kind} {name} cannot be read and is kept aside: {reason}"
            self._log.error(text, kind=row.kind, name=row.name, reason=row.reason)
        if not self._store.check_place() and not isinstance(answers, Failure):
            # It was written to a file that nobody will find.
            answers = _unavailable("the database was moved away, deleted or replaced under this server")
        if isinstance(answers, Failure):
            self.failed_batches += 1
            if self._fault is None:
                self._log.error("The store cannot be written or read: {why}", why=answers.getErrorMessage())
            self._fault = f"the store cannot be written or read: {answers.getErrorMessage()}"
            answers = [_unavailable("the store cannot be written or read now") for _ in batch]
        elif self._fault is not None:
            self._fault = None
            self._log.info("The store can be written and read again")
        for user_id in self._store.inboxes.take_unread_lost():
            self._delivery.unread_lost(user_id)
        self._answers.extend(zip(batch, answers, strict=True))
        self._hand_out(_SLICE)

    def _hand_out(self, seconds: float) -> None:
        """Give each operation its answer, for so long; the rest come in later turns."""
        began = self._clock.seconds()
        while self._answers:
            if self._clock.seconds() - began > seconds:
                self._rested_at = self._clock.seconds()
                self._reactor.callLater(0, self._hand_out_rest)
                return
            (operation, deferred), answer = self._answers.popleft()
            if isinstance(answer, Failure):
                if not isinstance(answer.value, PushError):
                    self._log.failure("An operation on the store failed", failure=answer)
                    answer = _unavailable("the store could not carry this out")
            else:
                try:
                    operation.notify(self._delivery, answer)
                except Exception:
                    self._log.failure("The node could not be notified of what was kept")
            deferred.callback(answer)
        self._busy = False
        if self._gathering:
            # After this turn, so that everything that the answers set off goes into one batch.
            self._scheduled = True
            self._reactor.callLater(0, self._send)
        elif self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _hand_out_rest(self) -> None:
        # As long as the turn took for all else: what waits here does not grow.
        self._hand_out(max(_SLICE, self._clock.seconds() - self._rested_at))

    def _note_duration(
        self,
        batch: list[tuple[Operation[Any], Deferred[Any]]],  # Any: each has an answer of its own kind
    ) -> None:
        took = self._clock.seconds() - self._carrying_out_since
        for name, times in Counter([operation.name for operation, _ in batch]).items():
            self.durations.of(name).observe(took, times)
