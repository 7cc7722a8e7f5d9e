"""Reads that several wait for together: one is under way, and one more waits for it to end.

    who asks     while none is under way    is given what is read now
                 while one is               shares the next one with all who come meanwhile

Nobody is given what was being read before it asked: what was published since might be missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.server.concurrency import begin

T = TypeVar("T")


class SharedReads(Generic[T]):
    """Reads, by what is asked for."""

    _log = Logger()

    def __init__(self) -> None:
        #: who waits for the next read, where one is under way
        self._waiting: dict[Hashable, list[Deferred[T]]] = {}

    async def read(self, asked: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Return what ``read`` finds, which begins from now on, once for all who wait for it with the same ``asked``.
        Raises what it raises. To cancel it is to wait no more."""
        waiting = self._waiting.get(asked)
        if waiting is not None:
            waiter: Deferred[T] = Deferred()
            waiting.append(waiter)
            return await waiter
        self._waiting[asked] = []
        try:
            return await read()
        finally:
            self._go_on(asked, read)

    def _go_on(self, asked: Hashable, read: Callable[[], Awaitable[T]]) -> None:
        """A read is over: begin the next one, for who waits for it."""
        waiting = [each for each in self._waiting.pop(asked) if not each.called]
        if waiting:
            self._waiting[asked] = []
            begin(self._share(asked, read, waiting), self._failed)

    async def _share(self, asked: Hashable, read: Callable[[], Awaitable[T]], waiting: list[Deferred[T]]) -> None:
        found: T | Failure
        try:
            found = await read()
        except Exception as problem:
            found = Failure(problem)
        self._go_on(asked, read)
        for each in waiting:
            if not each.called:
                each.callback(found)
        # Its traceback holds this frame.
        del found

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a shared read failed", failure)
