"""Loops that show how far they are."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import Generic, TypeVar

from pushserver.publisher.tasks import AsyncTask, Task

T = TypeVar("T")
A = TypeVar("A", Task, AsyncTask)


def length(rows: object, total: int | None) -> int | None:
    return len(rows) if total is None and isinstance(rows, Sized) else total


class _Tracking(Generic[A]):
    """What the synchronous and the asynchronous loop share."""

    def __init__(self, task: A, total: int | None) -> None:
        #: to add a message, to end it differently, to see whether the owner asked to cancel
        self.task: A = task
        self.total = total
        self.done = 0

    def _step(self) -> None:
        self.done += 1
        if self.total is None:
            self.task.steps(self.done)
        else:
            self.task.progress(self.done, of=self.total)

    def _left_early(self) -> None:
        # Also called by the collector, on any thread.
        of = "" if self.total is None else f" of {self.total}"
        self.task.abandon(f"stopped after {self.done}{of}")


class Track(_Tracking[Task], Generic[T]):
    """A loop with a task: each turn is a step, the end completes it.

    A loop that is left early, by ``break`` or by an exception in its body, fails the task with "stopped after 3 of 10";
    say ``task.complete()`` before a ``break`` that means success. Such a loop is not waited for: what it says comes
    from a finaliser.
    """

    def __init__(self, rows: Iterable[T], task: Task, total: int | None) -> None:
        super().__init__(task, length(rows, total))
        self._rows = rows

    def __iter__(self) -> Iterator[T]:
        try:
            for row in self._rows:
                yield row
                self._step()
        except GeneratorExit:
            self._left_early()
            raise
        except BaseException as error:
            self.task.left(error)
            raise
        self.task.complete()


class AsyncTrack(_Tracking[AsyncTask], Generic[T]):
    """As `Track`, for ``async for``, over an iterable of either kind."""

    def __init__(self, rows: Iterable[T] | AsyncIterable[T], task: AsyncTask, total: int | None) -> None:
        super().__init__(task, length(rows, total))
        self._rows = rows

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            if isinstance(self._rows, AsyncIterable):
                async for row in self._rows:
                    yield row
                    self._step()
            else:
                for row in self._rows:
                    yield row
                    self._step()
        except GeneratorExit:
            self._left_early()
            raise
        except BaseException as error:
            await self.task.ending(error)
            raise
        await self.task.complete()
