"""The sender: one daemon thread for each publisher and process, that empties the outbox and never disturbs the job.

Putting a command takes a lock and returns. While the server is away everything that must not be lost waits, progress
shrinks to its newest value, and the log has one line for each outage. At the end of the process what waits is sent,
for at most `exit_timeout` seconds. After a fork the child begins with an empty outbox and a thread of its own: what the
parent had waiting is the parent's to send.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PASSING, PublishError, PublishRefused, PublishUnavailable
from pushserver.publisher.outbox import Entry, Outbox
from pushserver.publisher.transports import Transport

_log = logging.getLogger("pushserver.publisher")

_BATCH: Final = 100
_FIRST_RETRY: Final = 0.5
_LAST_RETRY: Final = 30.0
#: Between tries while somebody waits in `flush`.
_HURRIED_RETRY: Final = 0.1
#: Seconds between questions for a task's state, where publishing itself does not answer with it.
_ASK_INTERVAL: Final = 2.0
#: The most that a fork waits for the sender to be between two exchanges, in seconds.
_FORK_WAIT: Final = 0.5

_all: weakref.WeakSet[Background] = weakref.WeakSet()


class Background:
    def __init__(
        self, transport: Callable[[], Transport], *, min_interval: float, max_pending: int, exit_timeout: float
    ) -> None:
        self._make_transport = transport
        self._min_interval = min_interval
        self._max_pending = max_pending
        self._exit_timeout = exit_timeout
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._condition = threading.Condition()
        self._outbox = Outbox(self._min_interval, self._max_pending)
        self._thread: threading.Thread | None = None
        self._transport: Transport | None = None
        self._closed = False
        self._flushing = 0
        self._failures = 0
        self._retry_at = 0.0
        self._wakes_at: float | None = None
        self._dropped = 0
        self._refused_codes: set[str] = set()
        self._asked_at: dict[str, float] = {}
        #: held while the thread is inside a transport, whose libraries have locks that a fork would copy as they are
        self._sending = threading.Lock()
        self._held_for_fork = False

    def put(
        self,
        lane: str,
        command: Command,
        *,
        durable: bool,
        heard: Callable[[Any, Exception | None], None] | None = None,
        ends: bool = False,
    ) -> bool:
        """Take a command to be sent; False where it was not taken, since too much waits."""
        with self._condition:
            if self._closed:
                _log.warning("the publisher is closed: %s is dropped", command.method)
                return False
            taken = self._outbox.add(lane, command, durable=durable, heard=heard, ends=ends)
            if taken is None:
                self._dropped += 1
                if self._dropped == 1:
                    _log.warning("%d commands wait for the push server: new ones are dropped", self._outbox.pending)
                return False
            if self._thread is None:
                self._start()
            # Waking a thread costs a switch: only where this one is due before what it waits for.
            due = taken.due_at(self._flushing > 0)
            if due is not None and (self._wakes_at is None or max(due, self._retry_at) < self._wakes_at):
                self._condition.notify_all()
        return True

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything is sent; True if it is. Tries at once, also in an outage."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            if not self._outbox.pending:
                return True
            if self._thread is not None and self._thread.is_alive():
                self._flushing += 1
                self._retry_at = 0.0
                self._condition.notify_all()
                try:
                    return self._condition.wait_for(
                        lambda: not self._outbox.pending, None if timeout is None else timeout
                    )
                finally:
                    self._flushing -= 1
        # No thread any more, as at the end of an interpreter: this one does it.
        self._flushing += 1
        try:
            while self._outbox.pending and (deadline is None or time.monotonic() < deadline):
                if not self._step():
                    time.sleep(_HURRIED_RETRY)
        finally:
            self._flushing -= 1
        return not self._outbox.pending

    def close(self, timeout: float | None) -> bool:
        """Flush, and end the thread."""
        flushed = self.flush(timeout)
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return flushed

    def at_exit(self) -> None:
        if not self._closed and not self.flush(self._exit_timeout):
            _log.warning("%d commands could not be sent to the push server before the end", self._outbox.pending)

    def before_fork(self) -> None:
        """Wait for a moment in which the thread is in none of the libraries; not long, the job comes first."""
        self._held_for_fork = self._sending.acquire(timeout=_FORK_WAIT)

    def after_fork_in_parent(self) -> None:
        if self._held_for_fork:
            self._held_for_fork = False
            self._sending.release()

    def after_fork(self) -> None:
        transport = self._transport
        if transport is not None:
            transport.reset()
        self._begin()

    # The thread's side

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="pushserver publisher", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter is ending and takes no new threads; `flush` at exit sends what waits.
            self._thread = None
        _at_process_exit()

    def _run(self) -> None:
        while self._wait():
            try:
                self._step()
            except Exception:
                _log.exception("sending to the push server failed unexpectedly")
                self._retry_at = time.monotonic() + _FIRST_RETRY

    def _wait(self) -> bool:
        """Sleep until something is due; False when it is time to end."""
        with self._condition:
            while True:
                if self._closed:
                    return False
                due = self._outbox.due_at(self._flushing > 0)
                now = time.monotonic()
                if due is None:
                    self._wakes_at = None
                    self._condition.wait()
                elif max(due, self._retry_at) > now:
                    self._wakes_at = max(due, self._retry_at)
                    self._condition.wait(self._wakes_at - now)
                else:
                    self._wakes_at = 0.0
                    return True

    def _step(self) -> bool:
        """Send one batch; False where there was nothing to send, or the server is away."""
        with self._condition:
            entries = self._outbox.take(time.monotonic(), _BATCH, self._flushing > 0)
        if not entries:
            return False
        try:
            replies = self._send([entry.command for entry in entries])
        except PublishUnavailable as error:
            self._went_away(entries, error)
            return False
        except (PublishRefused, TypeError, ValueError, RecursionError) as error:
            # Refused as a whole: a wrong key concerns all, something too large or not to be encoded only one.
            alone = len(entries) > 1 and not (isinstance(error, PublishRefused) and error.code != "MESSAGE_TOO_LARGE")
            replies = [self._send_alone(entry.command) if alone else error for entry in entries]
        except Exception as error:
            # A fault of this process and not of what is sent (no file descriptors left, say): it may pass.
            self._went_away(entries, error)
            return False
        again = [entry for entry, reply in zip(entries, replies, strict=True) if _passing(reply)]
        for entry, reply in zip(entries, replies, strict=True):
            if not _passing(reply):
                self._settle(entry, reply)
        if again:
            first = next(reply for reply in replies if _passing(reply))
            self._went_away(again, first)
        else:
            self._came_back()
        with self._condition:
            self._condition.notify_all()
        self._ask_for_states(entries)
        return not again

    def _send(self, commands: list[Command]) -> list[Any]:
        with self._sending:
            if self._transport is None:
                self._transport = self._make_transport()
            return self._transport.batch(commands)

    def _send_alone(self, command: Command) -> Any:
        """One that may spoil a batch (too large, not to be encoded) must not take the others with it."""
        try:
            return self._send([command])[0]
        except Exception as error:
            return error

    def _went_away(self, entries: list[Entry], error: Exception) -> None:
        with self._condition:
            for entry in entries:
                self._outbox.returned(entry)
            self._failures += 1
            window = min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(self._failures - 1, 10))
            delay = _HURRIED_RETRY if self._flushing else window * random.random()
            retry_after = getattr(error, "retry_after", None)
            if retry_after is not None and not self._flushing:
                delay = max(delay, retry_after / 1000)
            self._retry_at = time.monotonic() + delay
        if self._failures == 1:
            _log.warning("the push server cannot be reached (%s); what must not be lost is kept and tried again", error)

    def _came_back(self) -> None:
        if self._failures:
            _log.info("the push server is back after %d failed tries", self._failures)
        self._failures = 0
        self._retry_at = 0.0
        self._dropped = 0

    def _settle(self, entry: Entry, reply: Any) -> None:
        error = reply if isinstance(reply, Exception) else None
        if isinstance(error, PublishError) and error.code == "CONFLICT" and entry.attempts > 1:
            # The first try had been carried out, only its answer was lost.
            error, reply = None, {}
        with self._condition:
            if error is not None and entry.command.method == "task.create":
                self._outbox.abandon(entry.lane)
            else:
                self._outbox.settled(entry)
        if error is not None:
            code = getattr(error, "code", type(error).__name__)
            level = logging.DEBUG if code in self._refused_codes else logging.WARNING
            self._refused_codes.add(code)
            _log.log(level, "the push server refused %s: %s", entry.command.method, error)
        if entry.heard is not None:
            entry.heard(reply if error is None else None, error)

    def _ask_for_states(self, entries: list[Entry]) -> None:
        """Where publishing answers nothing (Redis), ask over HTTP now and then whether the owner wants to cancel."""
        now = time.monotonic()
        for entry in entries:
            task_id = str(entry.command.params.get("taskId"))
            if entry.command.method != "task.progress" or entry.heard is None or self._transport is None:
                continue
            if now < self._asked_at.get(task_id, 0.0):
                continue
            if len(self._asked_at) > 1_000:
                self._asked_at.clear()
            self._asked_at[task_id] = now + _ASK_INTERVAL
            if not self._transport.answers:
                try:
                    state = self._transport.task(task_id)
                except PublishError:
                    continue
                if state is not None:
                    entry.heard(state, None)


def _passing(reply: Any) -> bool:
    return isinstance(reply, PublishError) and reply.code in PASSING


def _before_fork() -> None:
    for background in list(_all):
        background.before_fork()


def _after_fork_in_parent() -> None:
    for background in list(_all):
        background.after_fork_in_parent()


def _after_fork() -> None:
    for background in list(_all):
        background.after_fork()
    _finalized.clear()


def _flush_all(**_: object) -> None:
    for background in list(_all):
        background.at_exit()


_finalized: set[str] = set()


def _at_process_exit() -> None:
    """Worker processes of multiprocessing and of Celery end without atexit; they have ways of their own."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and "multiprocessing" not in _finalized:
        _finalized.add("multiprocessing")
        util.Finalize(None, _flush_all, exitpriority=100)
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.worker_process_shutdown.connect(_flush_all, weak=False, dispatch_uid=__name__)


atexit.register(_flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
