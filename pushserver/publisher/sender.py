"""The sender: one daemon thread for a process, which empties the outboxes of all its publishers.

It begins with the first command and ends with the last publisher. At the end of the process what waits is sent, for
at most `exit_timeout` seconds of each publisher; also where a process leaves by `os._exit`, as the forked workers of
RQ and multiprocessing do, which run no other hook. After a fork the child begins with empty outboxes and a thread of
its own.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

_log = logging.getLogger("pushserver.publisher")

#: The most that a fork waits for the sender to be between two exchanges, in seconds.
_FORK_WAIT: Final = 0.5
#: Seconds until the next try after a fault of our own.
_FAULT_PAUSE: Final = 1.0
_NEVER: Final = float("inf")


class Sending(Protocol):
    """One publisher's background, as the sender sees it."""

    exit_timeout: float

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""

    def work(self, now: float) -> float | None:
        """Send what is due. Return when there is more to do, s of the monotonic clock; None: when it rings."""

    def before_fork(self, timeout: float) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork(self) -> None: ...

    def at_exit(self, timeout: float | None) -> None: ...


class Sender:
    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Sending]] = {}
        self._begin()

    def _begin(self) -> None:
        self.thread: threading.Thread | None = None
        #: locked while there is no news: the thread sleeps by acquiring it, and to wake it is to release it, which
        #: waits for nobody
        self._bell = threading.Lock()
        self._bell.acquire()
        #: those with something to send, kept alive until it is sent
        self._busy: dict[int, Sending] = {}

    def register(self, background: Sending) -> None:
        key = id(background)
        self._known[key] = weakref.ref(background, lambda _: self._gone(key))
        _watch_exits()

    def forget(self, background: Sending) -> None:
        self._busy.pop(id(background), None)
        self._gone(id(background))

    def ring(self, background: Sending) -> bool:
        """Say that there is something to send. False where no thread can be had: the interpreter is ending."""
        self.remind(background)
        thread = self.thread
        if thread is None or not thread.is_alive():
            thread = threading.Thread(target=self._run, name="pushserver publisher", daemon=True)
            self.thread = thread
            try:
                thread.start()
            except RuntimeError:
                self.thread = None
                return False
        return True

    def remind(self, background: Sending) -> None:
        """Say so where the thread is known to run, or will be started by somebody else: takes no lock."""
        self._busy[id(background)] = background
        self._wake()

    def is_here(self) -> bool:
        """Whether this is the sender's own thread, as in a callback: it cannot wait for itself."""
        return self.thread is threading.current_thread()

    def each(self) -> list[Sending]:
        return [background for known in list(self._known.values()) if (background := known()) is not None]

    def _gone(self, key: int) -> None:
        # Runs in a finaliser, too: nothing here takes a lock.
        self._known.pop(key, None)
        self._wake()

    def _wake(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            # Rung already, and not heard yet.
            pass

    def _run(self) -> None:
        # Another one may have been started, where this one was thought dead.
        while self.thread is threading.current_thread():
            due = self._round()
            if not self._known and self.thread is threading.current_thread():
                self.thread = None
                if not self._known or self.thread is not None:
                    return
                self.thread = threading.current_thread()
            pause = due - time.monotonic()
            if pause > 0:
                self._bell.acquire(timeout=min(pause, threading.TIMEOUT_MAX))

    def _round(self) -> float:
        """One batch of each publisher; returns when there is more to do."""
        due = _NEVER
        for background in self.each():
            try:
                next_due = background.work(time.monotonic())
            except Exception:
                _log.exception("sending to the push server failed unexpectedly")
                next_due = time.monotonic() + _FAULT_PAUSE
            due = min(due, _NEVER if next_due is None else next_due)
            if background.idle:
                self._busy.pop(id(background), None)
                if not background.idle:
                    self._busy[id(background)] = background
        return due

    # Around a fork, and at the end

    def before_fork(self) -> None:
        deadline = time.monotonic() + _FORK_WAIT
        for background in self.each():
            background.before_fork(max(0.0, deadline - time.monotonic()))

    def after_fork_in_parent(self) -> None:
        for background in self.each():
            background.after_fork_in_parent()

    def after_fork(self) -> None:
        for background in self.each():
            background.after_fork()
        self._begin()

    def at_exit(self) -> None:
        for background in self.each():
            background.at_exit(background.exit_timeout)


sender: Final = Sender()


@functools.cache
def _watch_exits() -> None:
    atexit.register(sender.at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=sender.before_fork,
            after_in_parent=sender.after_fork_in_parent,
            after_in_child=sender.after_fork,
        )
    os._exit = _after_sending(os._exit)  # type: ignore[assignment]


def _after_sending(leave: Callable[[int], Any]) -> Callable[[int], Any]:
    @functools.wraps(leave)
    def leave_after_sending(status: int) -> Any:
        try:
            sender.at_exit()
        finally:
            leave(status)

    return leave_after_sending
