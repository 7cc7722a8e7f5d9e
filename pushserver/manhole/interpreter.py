"""What is typed at the console, carried out: Python, with the verbs as names.

A mistake typed here ends the statement, never the server: exceptions and ``exit()`` are caught, output is bounded, and
a statement's own code (not what it calls) is stopped when it runs too long. What computes inside one call into C (a
giant power) cannot be stopped: it is the operator's to avoid.
"""

from __future__ import annotations

import ast
import codeop
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import TextIOBase
from traceback import TracebackException
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core.errors import PushError
from pushserver.manhole.tables import VerbAnswer
from pushserver.manhole.verbs import ConsoleVerbs

#: Characters that one statement may print.
MAX_OUTPUT: Final = 256 * 1024
#: Seconds that one statement's own code may run, while everybody else waits.
MAX_RUNNING: Final = 3.0
#: Seconds until it is stopped anew where it caught the first time.
AGAIN: Final = 0.05

FILENAME: Final = "<console>"


class Stopped(BaseException):
    """A statement went over a bound. Not an Exception, so that ``except Exception`` in a loop does not keep it."""


class Quit(Exception):
    """The operator wants out; ``status`` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class StatementOutput(TextIOBase):
    """Where a statement prints to; raises `Stopped` where it prints without end."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self._left = MAX_OUTPUT

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._left <= 0:
            raise Stopped(f"stopped: more than {MAX_OUTPUT} characters of output")
        self._write(text[: self._left])
        self._left -= len(text)
        if self._left <= 0:
            raise Stopped(f"stopped: more than {MAX_OUTPUT} characters of output")
        return len(text)


class Deadline:
    """Stops the statement's own code (that of `FILENAME`) after a while, again and again until it is out of whatever
    catches everything; the server's code is never interrupted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, self._seconds, AGAIN)

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename == FILENAME:
            raise Stopped(f"stopped: it ran for more than {self._seconds:g} s, and everybody waited")


def _quit(status: object = None) -> None:
    raise SystemExit(status)


class Interpreter:
    """Runs statements in one login's own namespace.

    Args:
        write: takes what is printed.
        width: how wide the terminal is now.
        pending: called with each Deferred that a statement showed and that had no result yet.
    """

    _log = Logger()

    def __init__(
        self, verbs: ConsoleVerbs, write: Callable[[str], None], width: Callable[[], int], colour: bool, who: str
    ) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__console__", "__doc__": None}
        self.namespace |= verbs.named | {"quit": _quit, "exit": _quit}
        self._print = write
        #: what a running statement has printed: it goes out in one piece
        self._gathered: list[str] | None = None
        self._width = width
        self._colour = colour
        self._who = who
        self._compile = codeop.CommandCompiler()
        #: the lines of a statement that is not finished
        self._lines: list[str] = []
        self._showing: list[Deferred[Any]] = []

    def reset(self) -> None:
        """Forget the lines of a statement that is not finished."""
        self._lines = []

    def push(self, line: str) -> tuple[bool, list[Deferred[bool]]]:
        """Take one line. Return whether the statement needs more, and what is still to come of it: Deferreds that
        fire with whether it went well. Raises `Quit`."""
        self._lines.append(line)
        source = "\n".join(self._lines)
        try:
            code = self._compile(source, FILENAME, "single")
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError) as problem:
            self.reset()
            self._show_problem(problem)
            return False, []
        if code is None:
            return True, []
        self.reset()
        self._run(code)
        return False, self._take()

    def run(self, source: str) -> tuple[bool, list[Deferred[bool]]]:
        """Run a whole text; every expression in it is shown. Return whether it went well so far, and what is still to
        come. Raises `Quit`."""
        try:
            tree = ast.parse(source, FILENAME)
            code = compile(ast.Interactive(body=tree.body), FILENAME, "single")
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError) as problem:
            self._show_problem(problem)
            return False, []
        return self._run(code), self._take()

    def _take(self) -> list[Deferred[bool]]:
        shown, self._showing = self._showing, []
        return shown

    def _write(self, text: str) -> None:
        if self._gathered is None:
            self._print(text)
        else:
            self._gathered.append(text)

    def _run(self, code: CodeType) -> bool:
        self._gathered = []
        try:
            return self._carry_out(code)
        finally:
            text, self._gathered = "".join(self._gathered), None
            if text:
                self._print(text)

    def _carry_out(self, code: CodeType) -> bool:
        output = StatementOutput(self._write)
        before = sys.displayhook
        sys.displayhook = lambda value: self._display(value, output)
        try:
            with redirect_stdout(output), redirect_stderr(output), Deadline(MAX_RUNNING):
                exec(code, self.namespace)
        except SystemExit as end:
            raise Quit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1) from None
        except Stopped as stopped:
            printed = self._gathered or ["\n"]
            self._write(f"{stopped}\n" if printed[-1].endswith("\n") else f"\n{stopped}\n")
            self._log.warn("console: {who}: {why}", who=self._who, why=str(stopped))
            return False
        except BaseException as problem:
            self._show_problem(problem)
            return False
        finally:
            sys.displayhook = before
        return True

    def _display(self, value: Any, output: StatementOutput) -> None:
        if value is None:
            return
        self.namespace["_"] = value
        if isinstance(value, Deferred):
            shown: Deferred[bool] = Deferred()
            self._showing.append(shown)
            value.addCallbacks(
                self._came, self._failed, callbackArgs=(shown,), errbackArgs=(shown,)
            )  # what goes on with the Deferred finds its result as it was
        else:
            output.write(self._text(value) + "\n")

    def _text(self, value: Any) -> str:
        if isinstance(value, VerbAnswer):
            return value.text(self._width(), self._colour)
        text = repr(value)
        return text if len(text) <= MAX_OUTPUT else f"{text[:MAX_OUTPUT]}…"

    def _came(self, value: Any, shown: Deferred[bool]) -> Any:
        if value is not None:
            self.namespace["_"] = value
            try:
                self._write(self._text(value) + "\n")
            except Exception as problem:
                self._show_problem(problem)
        shown.callback(True)
        return value

    def _failed(self, failure: Failure, shown: Deferred[bool]) -> None:
        self._show_problem(failure.value)
        shown.callback(False)

    def _show_problem(self, problem: BaseException | None) -> None:
        if problem is None:
            return
        if isinstance(problem, PushError):
            self._write(f"{problem.code.value}: {problem.message}\n")
            return
        try:
            traceback = problem.__traceback__
            while traceback is not None and traceback.tb_frame.f_code.co_filename != FILENAME:
                traceback = traceback.tb_next
            if not isinstance(problem, SyntaxError):
                traceback = traceback or problem.__traceback__
            said = TracebackException(type(problem), problem, traceback, limit=-8)
            lines = list(said.format(chain=False))
        except Exception:
            # An exception can have a __str__ that fails.
            lines = [f"{type(problem).__name__}\n"]
        self._write("".join(lines)[-MAX_OUTPUT:])

    def complete(self, line: str) -> tuple[str, list[str]]:
        """Return what can be added to the name at the end of a line, and all names that it may become."""
        start = len(line)
        while start and (line[start - 1].isalnum() or line[start - 1] in "_."):
            start -= 1
        word = line[start:]
        prefix, dot, last = word.rpartition(".")
        if dot:
            found: Any = self.namespace.get(prefix.partition(".")[0])
            for part in prefix.split(".")[1:]:
                # Only what is stored: a property could do anything.
                found = vars(found).get(part) if hasattr(found, "__dict__") else None
            names = [] if found is None else [name for name in dir(found) if not name.startswith("_") or last]
        else:
            names = [name for name in self.namespace if not name.startswith("_") or last]
        fitting = sorted(name for name in names if name.startswith(last)) if word else []
        if not fitting:
            return "", []
        common = fitting[0]
        for name in fitting[1:]:
            while not name.startswith(common):
                common = common[:-1]
        added = common[len(last) :]
        if len(fitting) == 1 and not dot and callable(self.namespace.get(common)):
            added += "("
        return added, fitting
