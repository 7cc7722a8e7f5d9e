"""A task as its worker sees it: progress, an end, and whether the owner wants it to stop.

Progress never waits. An end waits for the server's answer, for at most `end_timeout` seconds, and then goes on in the
background: so that a process which leaves by ``os._exit`` right after has lost nothing. While the server is away only
the first end waits.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import logging
import os
import subprocess
from collections.abc import Generator
from types import TracebackType
from typing import Any, Final, Self, Unpack

from pushserver.publisher import commands, outputs, plain
from pushserver.publisher.background import Background
from pushserver.publisher.commands import Command, ProgressOptions
from pushserver.publisher.errors import TaskCancelled
from pushserver.publisher.outbox import Entry, OutputEntry, TailEntry
from pushserver.publisher.outputs import OutputProducer, OutputWriter

#: The output where none is named.
MAIN: Final = "main"


class BaseTask:
    """What tasks of both publishers share: everything but how an end is waited for."""

    def __init__(self, background: Background, user_id: Any, title: Any, task_id: Any, details: Any) -> None:
        self.task_id = commands.new_id() if task_id is None else plain.text(task_id)
        #: the server's count of this task's beginnings; None until it has told, and over Redis alone
        self.attempt: int | None = None
        #: whether the server has refused to make it: nothing that is said of it can arrive
        self.refused = False
        #: whether something that was told of it had to be left out, which its end says
        self.has_cut = False
        self._background = background
        self._lane = f"task:{self.task_id}"
        self._process = os.getpid()
        self._cancelled = False
        self._finished = False
        self._given_up = False
        self._ending: Entry | None = None
        #: the process that the following are of
        self._writing = self._process
        self._producers: dict[str, OutputProducer] = {}
        #: what it has written and not sent
        self._unsent: list[OutputEntry] = []
        #: where progress is gathered until it goes
        self._progress: Entry | None = None
        command, cut = commands.create_task(self.task_id, user_id, title, details, restart=task_id is not None)
        self._warn(cut, command)
        if not background.put(Entry(self._lane, command, reporter=self)):
            self._finished = True

    @property
    def cancelled(self) -> bool:
        """Whether the owner has asked to cancel, as far as the answers to what was sent have told.

        Also where the server no longer takes anything for this task, since somebody else has ended it or begun it
        anew. Over Redis alone there are no answers and this stays False; give the publisher an `http_url` too.
        """
        return self._cancelled

    @property
    def answered(self) -> bool:
        """Whether the server has taken its end; until then it is on its way, or there is none yet."""
        return self._ending is not None and self._ending.delivery.finished and self._ending.delivery.error is None

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled where the owner asked to cancel; leaving the ``with`` block by it cancels the task."""
        if self._cancelled:
            raise TaskCancelled(f"task {self.task_id} was cancelled by its owner")

    def progress(self, current: float | None = None, **options: Unpack[ProgressOptions]) -> None:
        """Say how far it is: ``progress(3, of=10)``, ``progress(percentage=30)``, or ``progress(30)``, a percentage.

        Also `message`, `eta` (seconds, or text), `details`. Of calls in quick succession the newest is sent. `force`
        lets the percentage go down.
        """
        self._report(*commands.progress(self.task_id, current, **options))

    def steps(self, current: int, *, message: Any = None) -> None:
        """Say how many steps are done where nobody knows how many there are."""
        self._report(*commands.steps(self.task_id, current, message))

    def status(self, status: str, *, message: Any = None) -> None:
        """Set ``pending`` or ``running``."""
        if self._finished:
            return
        # What is reported later must not go before it.
        self._progress = None
        command, cut = commands.status(self.task_id, status, message)
        self._warn(cut, command)
        self._background.put(Entry(self._lane, command, reporter=self))

    def write(self, text: Any, name: str = MAIN) -> None:
        """Append text to an output. It is sent from the background, and what comes within 40 ms goes together.

        Where more than `max_pending_bytes` wait for the server, wait for room, for at most `end_timeout` and never in
        an event loop. Of what is written while there is none the newest is kept, and the text says how much is missing.
        """
        for piece in outputs.pieces(plain.text(text)):
            self._append(name, "text", piece, len(piece.encode()))

    def emit(self, item: Any, name: str = MAIN) -> None:
        """Append an item, any value that can go as JSON, to an output of items."""
        value, cut = commands.item(item)
        command = commands.output(self.task_id, name, {}, "", 0)
        self._warn(cut, command)
        self._append(name, "items", value, commands.size_of(value))

    def output(self, name: str) -> OutputWriter:
        """Return a file that writes to an output: 1 to 32 of ``a-z``, ``0-9``, ``_`` and ``-``."""
        return OutputWriter(self, name)

    @property
    def out(self) -> OutputWriter:
        """The output ``main`` as a file."""
        return self.output(MAIN)

    def _run(self, args: Any, output: str, options: dict[str, Any]) -> int:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as program:
            assert isinstance(program.stdout, io.BufferedReader)
            while said := program.stdout.read1(65_536):
                self.write(decoder.decode(said), output)
        self.write(decoder.decode(b"", final=True), output)
        return program.returncode

    def abandon(self, error: str) -> None:
        """For finalisers: fail it without waiting, and without taking a lock."""
        if not self._finished and self.is_ours:
            self._given_up = True
            self._background.abandon(self._abandoned, error)

    @property
    def ended(self) -> bool:
        """Whether nothing more is told of it."""
        return self._finished or self._given_up

    def ending(self, error: BaseException | str | None) -> Ending:
        """End it as leaving a block does, or fail it with a text; awaited, wait for the answer."""
        return Ending(self, *self._how_left(error))

    # What the background asks

    def receive(self, command: Command, state: Any, error: Exception | None) -> None:
        if isinstance(state, dict):
            if command.method == "task.create" and isinstance(state.get("attempt"), int):
                self.attempt = state["attempt"]
            if state.get("cancelRequested") or state.get("status") == "cancelled":
                self._cancelled = True
        elif error is not None and command.method == "task.create":
            self._finished = self.refused = True
        elif getattr(error, "code", None) in ("NOT_FOUND", "CONFLICT"):
            # Ended, forgotten or begun anew meanwhile: nothing that is said of it now can be accepted.
            self._cancelled = self._cancelled or not self._finished
            self._finished = True

    # The rest

    def _begin_in_a_child(self) -> None:
        """In a forked child begin anew: what the parent had waiting is the parent's to send."""
        if self._writing != os.getpid():
            self._writing = os.getpid()
            self._producers, self._unsent, self._progress = {}, [], None

    def _append(self, name: str, kind: str, piece: Any, size: int) -> None:
        if self._finished or (not piece and kind == "text"):
            return
        self._begin_in_a_child()
        if not outputs.is_name(name):
            self._background.log("name", logging.WARNING, "%s is no name of an output", plain.text(name))
            return
        producer = self._producers.get(name)
        if producer is None:
            producer = self._producers[name] = OutputProducer(self.task_id, name, kind)
        if producer.kind != kind:
            self._background.log("kind", logging.WARNING, "the output %s holds %s", name, producer.kind)
            return
        entry = producer.entry
        if entry is not None and entry.take_up(piece, size):
            if entry.is_incomplete:
                self._log_left_out(name)
            return
        entry = (OutputEntry if self._has_room() else TailEntry)(self._lane, producer, self)
        entry.take_up(piece, size)
        if self._background.put(entry):
            producer.entry = entry
            self._unsent = [*self._unsent, entry]
        else:
            producer.lost += len(piece) if kind == "text" else 1
            self._log_left_out(name)

    def _log_left_out(self, name: str) -> None:
        words = "too much waits for the server: some of what a task writes to its output %s is left out"
        self._background.log("output left out", logging.WARNING, words, name)

    @property
    def _has_left_out(self) -> bool:
        """Whether some of what was told will be missing, in its state or its outputs."""
        return (
            self.has_cut
            or any(each.incomplete or each.lost for each in self._producers.values())
            or any(entry.is_incomplete for entry in self._unsent)
        )

    def _has_room(self) -> bool:
        """Return whether more may wait for the server; where it may not, wait for that as `write` says."""
        limit, patience = self._background.max_pending_bytes, 0.0
        if self._waiting() > limit and not _in_event_loop():
            patience = self._background.patience
        if patience > 0 and self._unsent:
            # Whoever writes without end goes on by half of what may wait.
            middle = self._unsent[len(self._unsent) // 2]
            if not middle.delivery.wait(patience):
                self._background.waited_in_vain(middle)
        return self._waiting() <= limit

    def _waiting(self) -> int:
        """Return how many bytes are written and not sent, about."""
        self._unsent = [entry for entry in self._unsent if not entry.delivery.finished]
        return sum(entry.size for entry in self._unsent)

    def _report(self, command: Command | None, cut: bool) -> None:
        if command is None or self._finished:
            return
        self._warn(cut, command)
        self._begin_in_a_child()
        if self._progress is not None:
            command = self._progress.report(command)
            if command is None:
                return
        entry = Entry(self._lane, reporter=self)
        entry.report(command)
        self._progress = entry
        if not self._background.put(entry):
            entry.close()

    def _end(self, command: Command, cut: bool, waits: bool) -> Entry | None:
        """Hand over what ends it; None where it has ended already, or cannot."""
        if self._finished:
            return None
        self._finished = True
        self._warn(cut, command)
        if self._has_left_out:
            command = commands.truncated(command)
        entry = Entry(self._lane, command, reporter=self, ends=True)
        if not self._background.put(entry, waits):
            return None
        self._ending = entry
        return entry

    def _how_left(self, error: BaseException | str | None) -> tuple[Command, bool]:
        if error is None:
            return commands.complete(self.task_id, None)
        if isinstance(error, TaskCancelled):
            return commands.cancel(self.task_id, None)
        return commands.fail(self.task_id, error)

    @property
    def is_ours(self) -> bool:
        """False in a forked child that leaves a block which its parent entered, and leaves as well."""
        return self._process == os.getpid()

    def _abandoned(self, error: str) -> None:
        self._end(*commands.fail(self.task_id, error), waits=False)

    def _warn(self, cut: bool, command: Command) -> None:
        if cut:
            self.has_cut = True
            self._background.log_left_out(command)


class Task(BaseTask):
    """One task. As a context manager, with or without ``async``: leaving completes it, an exception fails it.

    Once one of `complete`, `fail` and `cancel` was called, further calls change nothing. Each returns True where the
    server has answered.
    """

    def run(self, args: Any, *, output: str = MAIN, **options: Any) -> int:
        """Run a program, write what it says, and return its status. `options`: as `subprocess.Popen` takes them."""
        return self._run(args, output, options)

    def complete(self, result: Any = None) -> bool:
        return self._end_and_wait(*commands.complete(self.task_id, result))

    def fail(self, error: Any) -> bool:
        """`error`: a text, or an exception."""
        return self._end_and_wait(*commands.fail(self.task_id, error))

    def cancel(self, message: Any = None) -> bool:
        return self._end_and_wait(*commands.cancel(self.task_id, message))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_ours:
            self._end_and_wait(*self._how_left(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_ours:
            await self.ending(error)

    def left(self, error: BaseException | None) -> bool:
        """End it as leaving a block does."""
        return self._end_and_wait(*self._how_left(error))

    def _end_and_wait(self, command: Command, cut: bool) -> bool:
        # An event loop is never held up; who leaves the process by os._exit is caught there.
        patience = 0.0 if _in_event_loop() else self._background.patience
        entry = self._end(command, cut, waits=patience > 0)
        if entry is None:
            return False
        if not entry.delivery.wait(patience) and patience > 0:
            self._background.waited_in_vain(entry)
        return self.answered


class AsyncTask(BaseTask):
    """A task of an `AsyncPublisher`: ``async with`` waits for the answer, and so does awaiting what a call returns.

    A call that is not awaited is sent all the same.
    """

    def run(self, args: Any, *, output: str = MAIN, **options: Any) -> asyncio.Future[int]:
        """As `Task.run`, while the event loop goes on: await the status."""
        return asyncio.get_running_loop().run_in_executor(None, self._run, args, output, options)

    def complete(self, result: Any = None) -> Ending:
        return Ending(self, *commands.complete(self.task_id, result))

    def fail(self, error: Any) -> Ending:
        """`error`: a text, or an exception."""
        return Ending(self, *commands.fail(self.task_id, error))

    def cancel(self, message: Any = None) -> Ending:
        return Ending(self, *commands.cancel(self.task_id, message))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_ours:
            self.ending(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_ours:
            await self.ending(error)


class Ending:
    """An end that is on its way; awaited, it tells whether the server has answered within `end_timeout`."""

    def __init__(self, task: BaseTask, command: Command, cut: bool) -> None:
        self._task = task
        self._background = task._background
        self._patience = self._background.patience
        self._entry = task._end(command, cut, waits=self._patience > 0)

    def __await__(self) -> Generator[Any, None, bool]:
        return self._arrival().__await__()

    async def _arrival(self) -> bool:
        entry = self._entry
        if entry is None:
            return False
        if not await entry.delivery.arrival(self._patience) and self._patience > 0:
            self._background.waited_in_vain(entry)
        return self._task.answered


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
