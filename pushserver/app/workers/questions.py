"""Questions to all workers: put to each of them, and answered together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushserver.app.workers.child import Child
from pushserver.app.workers.messages import AllAnswers, Measure, Question, Request, WorkerAnswer

#: Seconds to answer: to tell figures, and to do anything else.
MEASURE_TIMEOUT: Final = 1.0
ANSWER_TIMEOUT: Final = 5.0


class _Gathering:
    __slots__ = ("call", "done", "missing", "problem", "results")

    def __init__(self, missing: set[Child], call: IDelayedCall) -> None:
        self.missing = missing
        self.call = call
        self.results: list[Any] = []
        self.problem = ""
        self.done: Deferred[AllAnswers] = Deferred()


class Questions:
    """The questions that are open.

    Args:
        name_of: the node's name of a worker.
    """

    def __init__(self, clock: IReactorTime, name_of: Callable[[Child], str]) -> None:
        self._clock = clock
        self._name_of = name_of
        self._last = 0
        self._open: dict[int, _Gathering] = {}

    def ask(self, children: Iterable[Child], question: Question, asker: int = 0) -> Deferred[AllAnswers]:
        """Return what all of them say, once each has answered, is gone, or is late."""
        self._last += 1
        number = self._last
        asked = set(children)
        timeout = MEASURE_TIMEOUT if isinstance(question, Measure) else ANSWER_TIMEOUT
        gathering = self._open[number] = _Gathering(asked, self._clock.callLater(timeout, self._end, number))
        done = gathering.done
        for child in tuple(asked):
            child.send(Request(number, asker, question))
        if not asked:
            self._end(number)
        return done

    def answered(self, child: Child, answer: WorkerAnswer) -> None:
        """Take a worker's answer; one that comes late is passed over."""
        gathering = self._open.get(answer.number)
        if gathering is None or child not in gathering.missing:
            return
        gathering.missing.discard(child)
        if answer.problem:
            gathering.problem = answer.problem
        else:
            gathering.results.append(answer.result)
        if not gathering.missing:
            self._end(answer.number)

    def gone(self, child: Child) -> None:
        """A worker has ended and answers nothing more: who ended is not one that did not answer."""
        for number, gathering in list(self._open.items()):
            gathering.missing.discard(child)
            if not gathering.missing:
                self._end(number)

    def close(self) -> None:
        """Wait for nothing any more."""
        for number in list(self._open):
            self._end(number)

    def _end(self, number: int) -> None:
        gathering = self._open.pop(number, None)
        if gathering is None:
            return
        if gathering.call.active():
            gathering.call.cancel()
        unanswered = sorted(map(self._name_of, gathering.missing))
        gathering.done.callback(AllAnswers(number, gathering.results, unanswered, gathering.problem))
