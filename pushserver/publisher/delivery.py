"""What becomes of a command: told once, by whoever sends it, to any number of threads and event loops that wait.

No lock is ever held here: threads that wait may hold locks of other libraries, and those that send run other people's
finalisers whenever the collector likes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("pushserver.publisher")


class Delivery:
    """Not known yet, then the server's `reply`, or the `error` that the command was refused with."""

    __slots__ = ("_waiting", "error", "finished", "hurried", "reply")

    def __init__(self) -> None:
        self.finished = False
        self.reply: Any = None
        self.error: Exception | None = None
        #: whether a thread waits, so that a sender in an outage does not take its time
        self.hurried = False
        self._waiting: deque[Callable[[Delivery], None]] = deque()

    def finish(self, reply: Any, error: Exception | None = None) -> None:
        if not self.finished:
            self.reply, self.error = reply, error
            self.finished = True
        self._notify()

    def then(self, callback: Callable[[Delivery], None]) -> None:
        """Call back once it is finished: at once, or from the sender's thread."""
        self._waiting.append(callback)
        if self.finished:
            self._notify()

    def wait(self, timeout: float | None) -> bool:
        """Wait for at most `timeout` seconds; True if it is finished."""
        if not self.finished and (timeout is None or timeout > 0):
            lock = threading.Lock()
            lock.acquire()
            self.then(lambda _: lock.release())
            lock.acquire(timeout=-1 if timeout is None else timeout)
        return self.finished

    async def arrival(self, timeout: float | None) -> bool:
        """As `wait`, in an event loop."""
        if not self.finished and (timeout is None or timeout > 0):
            loop = asyncio.get_running_loop()
            event = asyncio.Event()

            def wake(_: Delivery) -> None:
                try:
                    loop.call_soon_threadsafe(event.set)
                except RuntimeError:
                    # The loop has ended meanwhile: nobody waits any more.
                    pass

            self.then(wake)
            try:
                await asyncio.wait_for(event.wait(), timeout)
            except TimeoutError:
                pass
        return self.finished

    def _notify(self) -> None:
        while True:
            try:
                callback = self._waiting.popleft()
            except IndexError:
                return
            try:
                callback(self)
            except Exception:
                _log.exception("what was to be called with the push server's answer failed")
