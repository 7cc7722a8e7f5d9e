"""What one publisher sends without being waited for. It never disturbs the job.

Handing a command over appends it to a queue and returns; the process' one sender (`pushserver.publisher.sender`)
calls `work`, which alone touches the outbox. While the server is away everything that must not be lost waits,
progress shrinks to its newest value, and the log has one line for each outage and each kind of it.

Nobody who hands something over takes a lock: a bar may be redrawn under tqdm's lock, a log line written under a
handler's, and the collector may run a finaliser that wants either while the sender works.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pushserver.publisher.commands import Command, parts
from pushserver.publisher.errors import PublishError, PublishRefused, PublishUnavailable, is_final, too_large
from pushserver.publisher.outbox import CommandQueue, Entry
from pushserver.publisher.sender import sender
from pushserver.publisher.transport import Transport

_log = logging.getLogger("pushserver.publisher")

_BATCH: Final = 100
_FIRST_RETRY: Final = 0.5
_LAST_RETRY: Final = 30.0
#: Between tries while somebody waits.
_HURRIED_RETRY: Final = 0.1
#: Seconds between questions for a task's state, where publishing itself does not answer with it.
_ASK_INTERVAL: Final = 2.0


class Background:
    def __init__(
        self,
        transport: Callable[[], Transport],
        *,
        min_interval: float,
        max_pending: int,
        max_pending_bytes: int,
        exit_timeout: float,
        end_timeout: float,
    ) -> None:
        self._make_transport = transport
        self._min_interval = min_interval
        self._max_pending = max_pending
        #: of what one task writes
        self.max_pending_bytes = max_pending_bytes
        self.exit_timeout = exit_timeout
        self.end_timeout = end_timeout
        self._abandoned: deque[tuple[Callable[[str], Any], str]] = deque()
        self._begin()
        sender.register(self)

    def _begin(self) -> None:
        #: held by who sends: the sender's thread, or, when the interpreter ends, whoever flushes
        self._condition = threading.RLock()
        self._handed_over: deque[Entry] = deque()
        self._flushes: deque[Entry] = deque()
        self._outbox = CommandQueue(self._min_interval)
        self._transport: Transport | None = None
        self._closed = False
        #: whether something was not sent when it was closed
        self._lost = False
        self._failures = 0
        #: codes of the errors since the last success
        self._outage: set[str] = set()
        self._retry_at = 0.0
        #: whether somebody has waited for a server that did not answer, and it has not come back since
        self._in_vain = False
        self._dropped = 0
        self._logged: set[str] = set()
        self._asked_at: dict[str, float] = {}
        self._held_for_fork = False

    # The job's side: no locks

    def put(self, entry: Entry, waits: bool = False) -> bool:
        """Hand an entry over; False where it was not taken, since too much waits. `waits`: somebody will, for it."""
        if self._closed:
            self.log("closed", logging.WARNING, "the publisher is closed: what comes now is dropped")
            return False
        if self.pending >= self._max_pending and not entry.ends:
            if entry.durable:
                self._dropped += 1
                if self._dropped == 1:
                    _log.warning("%d commands wait for the push server: new ones are dropped", self.pending)
            return False
        entry.delivery.hurried = waits
        self._handed_over.append(entry)
        if self._closed:
            # Since this looked first: nobody sends it any more.
            self._leave()
        else:
            sender.ring(self)
        return True

    def abandon(self, end: Callable[[str], Any], words: str) -> None:
        """For finalisers: have the sender call `end(words)`, and take no lock here."""
        if not self._closed:
            self._abandoned.append((end, words))
            sender.remind(self)

    @property
    def pending(self) -> int:
        return len(self._handed_over) + self._outbox.pending

    @property
    def patience(self) -> float:
        """Seconds to wait for an end: none while the server is known to be away and somebody has waited already."""
        return 0.0 if self._in_vain or sender.is_here() else self.end_timeout

    def waited_in_vain(self, entry: Entry) -> None:
        self._in_vain = True
        entry.delivery.hurried = False

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything is sent; True if it is. Tries at once, also in an outage."""
        if self._idle or self._closed or sender.is_here():
            return self._all_sent
        marker = Entry("")
        self._flushes.append(marker)
        if self._closed:
            # As in `put`.
            self._leave()
            return self._all_sent
        if sender.ring(self):
            done = marker.delivery.wait(timeout)
            marker.delivery.finish(None)
            return done and marker.delivery.error is None
        # No thread any more, as at the end of an interpreter: this one does it.
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._idle and (deadline is None or time.monotonic() < deadline):
            due = self.work(time.monotonic())
            if not self._idle and due is not None:
                time.sleep(min(max(0.0, due - time.monotonic()), _HURRIED_RETRY))
        marker.delivery.finish(None)
        return self._all_sent

    def close(self, timeout: float | None) -> bool:
        """Flush, and take nothing more; what is not sent by then is lost, and who waits for it is told."""
        if not self._closed:
            self.at_exit(timeout)
            self._closed = True
            sender.forget(self)
            self._leave(_HURRIED_RETRY)
        return self._all_sent

    def _leave(self, patience: float = 0.0) -> None:
        """Closed: end all that waits, and let go of the sockets. What is under way is told by who sends it, who comes
        here after that."""
        while self._condition.acquire(timeout=patience):
            try:
                if self._outbox.is_under_way:
                    return
                left = self._outbox.drain()
                while self._handed_over:
                    left.append(self._handed_over.popleft())
                self._lost = self._lost or bool(left)
                while self._flushes:
                    left.append(self._flushes.popleft())
                if self._transport is not None:
                    self._transport.close()
            finally:
                self._condition.release()
            for entry in left:
                entry.delivery.finish(None, PublishUnavailable("the publisher was closed before the server answered"))
            if not self._handed_over and not self._flushes:
                return

    def at_exit(self, timeout: float | None) -> None:
        if not self._closed and not self.flush(timeout):
            _log.warning("%d commands could not be sent to the push server before the end", self.pending)

    @property
    def _idle(self) -> bool:
        return not self._handed_over and not self._outbox.pending and not self._abandoned

    @property
    def _all_sent(self) -> bool:
        return self._idle and not self._lost

    @property
    def idle(self) -> bool:
        """Whether nothing waits, not even a flush."""
        return self._idle and not self._flushes

    @property
    def _thread(self) -> threading.Thread | None:
        return sender.thread

    # Around a fork

    def before_fork(self, timeout: float) -> None:
        """Wait for a moment in which nothing is sent; not long, the job comes first."""
        self._held_for_fork = self._condition.acquire(timeout=timeout)

    def after_fork_in_parent(self) -> None:
        if self._held_for_fork:
            self._held_for_fork = False
            self._condition.release()

    def after_fork(self) -> None:
        """What the parent had waiting is the parent's to send, and its sockets are the parent's to close."""
        if self._transport is not None:
            self._transport.reset()
        self._abandoned.clear()
        self._begin()

    # The sender's side

    def work(self, now: float) -> float | None:
        """Send one batch of what is due; return when there is more to do, None: not before something is handed over."""
        try:
            with self._condition:
                return self._work(now)
        finally:
            if self._closed:
                self._leave()

    def _work(self, now: float) -> float | None:
        self._gather()
        hurry = bool(self._flushes)
        if max(self._outbox.due_at(hurry) or 0.0, self._retry_at) <= now:
            entries = self._outbox.take(now, _BATCH, hurry)
            try:
                self._send(entries)
            except BaseException:
                self._outbox.release(entries)
                raise
        self._end_flushes()
        due = self._outbox.due_at(bool(self._flushes))
        return None if due is None else max(due, self._retry_at)

    def _gather(self) -> None:
        while self._abandoned:
            end, words = self._abandoned.popleft()
            end(words)
        while self._handed_over:
            # Counted in both places for a moment, never in none.
            entry = self._handed_over[0]
            self._outbox.add(entry)
            self._handed_over.popleft()
            if entry.delivery.hurried:
                self._retry_at = 0.0
        for marker in list(self._flushes):
            if not marker.tries:
                marker.tries = 1
                self._retry_at = 0.0
                self._outbox.hasten()

    def _end_flushes(self) -> None:
        for marker in list(self._flushes):
            if self._idle:
                marker.delivery.finish(None)
            if marker.delivery.finished:
                self._flushes.remove(marker)

    def _send(self, entries: list[Entry]) -> None:
        if not entries:
            return
        commands = [entry.stamped() for entry in entries]
        replies: list[Any] = []
        for part in parts(commands):
            replies += self._exchange(part)
        # What the server said of one of several concerns that one; what it said of all of them concerns the server.
        answered = any(not _is_passing(reply) for reply in replies)
        again: list[tuple[Entry, PublishError]] = []
        for entry, command, reply in zip(entries, commands, replies, strict=True):
            if isinstance(reply, PublishError) and too_large(reply) and self._reduce(entry):
                self._outbox.returned(entry)
            elif isinstance(reply, PublishError) and entry.renumber(reply):
                words = "the push server has lost some of what a task wrote: the rest follows (%s)"
                self.log("renumbered", logging.WARNING, words, reply)
                self._outbox.returned(entry)
            elif not _is_passing(reply) or (too_large(reply) and entry.given_up()):
                self._finish(entry, command, reply)
            elif answered or too_large(reply):
                self._postpone(entry, reply)
            else:
                again.append((entry, reply))
        if again:
            self._went_away([entry for entry, _ in again], again[0][1])
        elif answered:
            self._came_back()
        self._ask_for_states(entries)

    def _reduce(self, entry: Entry) -> bool:
        """Make a command smaller that was too large; return whether that could be."""
        is_smaller, rest = entry.reduced()
        if rest is not None:
            self._outbox.put_behind(entry, rest)
        elif is_smaller and entry.command is not None:
            words = "%s was too large for the server, or on the way, and was cut: send where its data is stored"
            self.log("cut", logging.WARNING, words, entry.command.method)
        return is_smaller

    def _exchange(self, commands: list[Command]) -> list[Any]:
        """Return a result or an error for each, whatever happens."""
        try:
            if self._transport is None:
                self._transport = self._make_transport()
            return self._transport.batch(commands)
        except PublishRefused as error:
            if not too_large(error) or len(commands) == 1:
                return [error] * len(commands)
            middle = len(commands) // 2
            return self._exchange(commands[:middle]) + self._exchange(commands[middle:])
        except PublishUnavailable as error:
            return [error] * len(commands)
        except Exception as error:
            # A fault of this process and not of what is sent (no file descriptors left, say): it may pass.
            return [PublishUnavailable(f"{type(error).__name__}: {error}")] * len(commands)

    def _postpone(self, entry: Entry, error: PublishError) -> None:
        """Keep one that cannot go now, while others can."""
        hurried = bool(self._flushes) or entry.is_hurried
        delay = _HURRIED_RETRY if hurried else _window(entry.tries) * random.random()
        if error.retry_after is not None:
            delay = max(delay, error.retry_after / 1000)
        self._outbox.returned(entry, time.monotonic() + delay)
        method = entry.command.method if entry.command is not None else "progress"
        self.log(error.code, logging.WARNING, "%s cannot be taken now (%s): it is kept and tried again", method, error)

    def _went_away(self, entries: list[Entry], error: PublishError) -> None:
        for entry in entries:
            self._outbox.returned(entry)
        self._failures += 1
        hurried = bool(self._flushes) or any(entry.is_hurried for entry in entries)
        delay = _HURRIED_RETRY if hurried else _window(self._failures) * random.random()
        if error.retry_after is not None and not hurried:
            delay = max(delay, error.retry_after / 1000)
        self._retry_at = time.monotonic() + delay
        # An outage may become another one that somebody must mend, as a Redis that is back without its rights.
        if error.code not in self._outage:
            self._outage.add(error.code)
            where = "" if self._transport is None else f" at {self._transport.where}"
            words = "the push server cannot be reached%s (%s); what must not be lost is kept and tried again"
            _log.warning(words, where, error)

    def _came_back(self) -> None:
        if self._failures:
            _log.info("the push server is back after %d failed tries", self._failures)
        self._failures = 0
        self._outage.clear()
        self._retry_at = 0.0
        self._in_vain = False
        self._dropped = 0

    def _finish(self, entry: Entry, command: Command, reply: Any) -> None:
        error = reply if isinstance(reply, PublishError) else None
        reporter = entry.reporter
        if error is not None and error.code == "CONFLICT" and entry.tries > 1 and "restart" not in command.params:
            # The first try had been carried out, only its answer was lost.
            error, reply = None, {}
        if error is not None and error.code == "CONFLICT" and "restart" in command.params:
            reply, error = self._continued(command, error)
        if error is not None and command.method == "task.create":
            dropped = self._outbox.abandon(entry.lane) if entry.lane is not None else []
        else:
            self._outbox.finished(entry)
            dropped = [entry]
        # What was on its way to a task that was refused is the same mistake.
        if error is not None and not _is_quiet(command, error) and not (reporter is not None and reporter.refused):
            self.log(error.code, logging.WARNING, "the push server refused %s: %s", command.method, error)
        if reporter is not None:
            reporter.receive(command, reply if error is None else None, error)
        for one in dropped:
            one.delivery.finish(reply if error is None else None, error)

    def _continued(self, command: Command, error: PublishError) -> tuple[Any, PublishError | None]:
        """Look why a task cannot begin anew.

        A server of version 1 restarts nothing, but where its task is this user's and unfinished, it can go on.
        """
        try:
            state = self._transport.task(command.params["taskId"]) if self._transport is not None else None
        except PublishError:
            state = None
        if state is None:
            return None, error
        if state.get("userId") != command.params["userId"]:
            return None, PublishRefused("PERMISSION_DENIED", f"the task {command.params['taskId']} is another user's")
        if "attempt" not in state and state.get("status") in ("pending", "running"):
            return state, None
        return None, error

    def _ask_for_states(self, entries: list[Entry]) -> None:
        """Where publishing answers nothing (Redis), ask over HTTP now and then whether the owner wants to cancel."""
        if self._transport is None or self._transport.answers:
            return
        now = time.monotonic()
        for entry in entries:
            command = entry.command
            if command is None or command.method not in ("task.progress", "task.output") or entry.reporter is None:
                continue
            task_id = str(command.params.get("taskId"))
            if now < self._asked_at.get(task_id, 0.0):
                continue
            if len(self._asked_at) > 1_000:
                self._asked_at.clear()
            self._asked_at[task_id] = now + _ASK_INTERVAL
            try:
                state = self._transport.task(task_id)
            except PublishError:
                continue
            if state is not None:
                entry.reporter.receive(command, state, None)

    def log_left_out(self, command: Command) -> None:
        """Say that a command goes without some of its data."""
        words = "%s holds what cannot be sent, or too much of it, which was left out: send where it is stored"
        self.log("left out", logging.WARNING, words, command.method)

    def log(self, what: str, level: int, text: str, *values: Any) -> None:
        """A line for the first of its kind; the rest are for who looks closely."""
        _log.log(logging.DEBUG if what in self._logged else level, text, *values)
        self._logged.add(what)


def _window(failures: int) -> float:
    return float(min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(failures - 1, 10)))


def _is_passing(reply: Any) -> bool:
    return isinstance(reply, PublishError) and not is_final(reply)


def _is_quiet(command: Command, error: PublishError) -> bool:
    """Reports of a task that was completed meanwhile, or begun again by another worker, end without a word."""
    return error.code == "CONFLICT" and ("restart" in command.params or "attempt" in command.params)
