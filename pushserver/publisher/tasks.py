"""A task as its worker sees it: progress, an end, and whether the owner wants it to stop. Nothing here ever blocks."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pushserver.publisher import commands
from pushserver.publisher.background import Background
from pushserver.publisher.commands import Command
from pushserver.publisher.errors import TaskCancelled

T = TypeVar("T")

#: Characters of an exception's message that travel; a traceback's worth of text helps no reader of a progress bar.
_MAX_ERROR = 2_000


class Task:
    """One task. As a context manager, with or without ``async``: leaving completes it, an exception fails it.

    Calls return at once; a thread sends them in order. Once one of `complete`, `fail` and `cancel` was called, further
    calls change nothing.
    """

    def __init__(
        self, background: Background, user_id: str | int, title: str | None, task_id: str | None, details: Any
    ) -> None:
        self.task_id = task_id or commands.new_id()
        self._background = background
        self._lane = f"task:{self.task_id}"
        self._cancelled = False
        self._over = False
        params: dict[str, Any] = {"taskId": self.task_id, "userId": str(user_id)}
        if title is not None:
            params["title"] = title
        if details is not None:
            params["details"] = details
        create = Command("task.create", params)
        if not background.put(self._lane, create, durable=True, heard=self._created):
            self._over = True

    @property
    def cancelled(self) -> bool:
        """Whether the owner has asked to cancel, as far as the answers to what was sent have told.

        Also where the server no longer takes anything for this task, since somebody else has ended it.
        Over Redis alone there are no answers and this stays False; give the publisher an `http_url` too.
        """
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled where the owner asked to cancel; leaving the ``with`` block by it cancels the task."""
        if self._cancelled:
            raise TaskCancelled(f"task {self.task_id} was cancelled by its owner")

    def progress(
        self,
        current: float | None = None,
        *,
        of: float | None = None,
        percentage: float | None = None,
        message: str | None = None,
        eta: Any = None,
        details: Any = None,
        force: bool = False,
    ) -> None:
        """Say how far it is: ``progress(3, of=10)``, ``progress(percentage=30)``, or ``progress(30)``, a percentage.

        Of calls in quick succession the newest is sent. `force` lets the percentage go down.
        """
        command = commands.progress(self.task_id, current, of, percentage, message, eta, details, force)
        if command is not None and not self._over:
            self._put(command, durable=False)

    def steps(self, current: int, *, message: str | None = None) -> None:
        """Say how many steps are done where nobody knows how many there are."""
        if not self._over:
            self._put(commands.steps(self.task_id, current, message), durable=False)

    def status(self, status: str, *, message: str | None = None) -> None:
        """``pending`` or ``running``."""
        if not self._over:
            fields = {} if message is None else {"message": message}
            self._put(Command("task.status", {"taskId": self.task_id, "status": status, **fields}), durable=True)

    def complete(self, result: Any = None) -> None:
        self._end("task.complete", {} if result is None else {"result": result})

    def fail(self, error: str) -> None:
        self._end("task.fail", {"error": error[:_MAX_ERROR]})

    def cancel(self, message: str | None = None) -> None:
        self._end("task.cancel", {} if message is None else {"message": message})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left(error)

    def _left(self, error: BaseException | None) -> None:
        if error is None:
            self.complete()
        elif isinstance(error, TaskCancelled):
            self.cancel()
        else:
            self.fail(str(error) or type(error).__name__)

    def _end(self, method: str, fields: dict[str, Any]) -> None:
        if not self._over:
            self._over = True
            self._put(Command(method, {"taskId": self.task_id, **fields}), durable=True, ends=True)

    def _put(self, command: Command, *, durable: bool, ends: bool = False) -> None:
        self._background.put(self._lane, command, durable=durable, heard=self._heard, ends=ends)

    def _created(self, state: Any, error: Exception | None) -> None:
        if error is not None:
            self._over = True
        self._heard(state, None)

    def _heard(self, state: Any, error: Exception | None) -> None:
        """From the sending thread: what the server answered."""
        if isinstance(state, dict):
            self._cancelled = (
                self._cancelled or bool(state.get("cancelRequested")) or state.get("status") == "cancelled"
            )
        elif error is not None and getattr(error, "code", None) in ("NOT_FOUND", "CONFLICT"):
            # Ended or forgotten meanwhile: nothing that is said of it now can be accepted.
            self._cancelled = self._cancelled or not self._over
            self._over = True


class _Tracking(Generic[T]):
    """What the synchronous and the asynchronous loop share."""

    def __init__(self, task: Task, total: int | None) -> None:
        #: to add a message, to end it differently, to see whether the owner asked to cancel
        self.task = task
        self.total = total
        self.done = 0

    def _step(self) -> None:
        self.done += 1
        if self.total is None:
            self.task.steps(self.done)
        else:
            self.task.progress(self.done, of=self.total)

    def _left_early(self) -> None:
        of = "" if self.total is None else f" of {self.total}"
        self.task.fail(f"stopped after {self.done}{of}")


def length(rows: object, total: int | None) -> int | None:
    return len(rows) if total is None and isinstance(rows, Sized) else total


class Track(_Tracking[T]):
    """A loop with a task: each turn is a step, the end completes it.

    A loop that is left early, by ``break`` or by an exception in its body, fails the task with "stopped after 3 of 10";
    say ``task.complete()`` before a ``break`` that means success.
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
            self.task._left(error)
            raise
        self.task.complete()


class AsyncTrack(_Tracking[T]):
    """As `Track`, for ``async for``, over an iterable of either kind."""

    def __init__(self, rows: Iterable[T] | AsyncIterable[T], task: Task, total: int | None) -> None:
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
            self.task._left(error)
            raise
        self.task.complete()
