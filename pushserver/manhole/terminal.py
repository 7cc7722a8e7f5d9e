"""The prompt of one login: keys in, a line of Python out, and what is printed above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.logger import Logger

from pushserver.manhole.editor import LineEditor
from pushserver.manhole.interpreter import Interpreter, Quit
from pushserver.manhole.keyboard import Key, Keyboard
from pushserver.manhole.renderer import Renderer

PROMPTS: Final = ("push> ", "  ... ")
#: What a tab is where there is nothing to complete.
INDENT: Final = "    "


class TerminalOwner(Protocol):
    """What a terminal asks of the login that it belongs to."""

    def stop_watching(self) -> bool:
        """End all that is watched; return whether there was anything."""

    def finish(self, status: int) -> None:
        """End the login with an exit status."""


class Terminal:
    """One login's terminal.

    Args:
        write: takes octets for the client.
        make_interpreter: given what takes printed text, and what says how wide the terminal is.
    """

    _log = Logger()

    def __init__(
        self,
        write: Callable[[bytes], None],
        size: tuple[int, int],
        greeting: str,
        make_interpreter: Callable[[Callable[[str], None], Callable[[], int]], Interpreter],
        login: TerminalOwner,
    ) -> None:
        self._login = login
        self._keyboard = Keyboard()
        self._editor = LineEditor()
        self._renderer = Renderer(lambda text: write(text.encode("utf-8", "replace")), *size)
        self._interpreter = make_interpreter(self.print, lambda: self._renderer.width)
        self._prompt = PROMPTS[0]
        #: whether a statement is being carried out: there is no prompt then
        self._busy = False
        self._left = False
        self._renderer.print(greeting)
        self._draw()

    def resize(self, width: int, height: int) -> None:
        """The window has another size."""
        self._renderer.resize(width, height)
        self._draw()

    def receive(self, octets: bytes) -> None:
        """Take what the client sends. A key that fails is logged, said, and costs the line."""
        for key in self._keyboard.take(octets):
            if self._left:
                return
            try:
                self._press(key)
            except Exception:
                self._log.failure("console: a key could not be taken")
                self._busy = False
                self._editor.clear()
                self._interpreter.reset()
                self._prompt = PROMPTS[0]
                self._draw("something went wrong here; the server's log has it")

    def print(self, text: str) -> None:
        """Print; while nothing is being carried out, above the line that is typed."""
        if self._left or not text:
            return
        if self._busy:
            self._renderer.print(text)
        else:
            self._draw(text)

    def _draw(self, printed: str = "") -> None:
        self._renderer.draw(self._prompt, self._editor.text, self._editor.cursor, printed)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _press(self, key: Key | str) -> None:
        match key:
            case Key.ENTER:
                self._take_line()
            case Key.TAB:
                self._complete()
            case Key.REDRAW:
                self._renderer.clear()
                self._draw()
            case Key.INTERRUPT:
                self._interrupt()
            case Key.QUIT:
                self._quit(0)
            case Key.END_OF_INPUT if not self._editor.text:
                self._quit(0)
            case _ if self._editor.press(key):
                self._draw()
            case _:
                self._renderer.bell()

    def _take_line(self) -> None:
        self._renderer.leave(self._prompt, self._editor.text)
        line = self._editor.finish()
        self._busy = True
        try:
            more, _ = self._interpreter.push(line)
        except Quit as end:
            self._quit(end.status)
            return
        finally:
            self._busy = False
        self._prompt = PROMPTS[int(more)]
        self._draw()

    def _complete(self) -> None:
        before = self._editor.text[: self._editor.cursor]
        if not before.strip():
            self._editor.press(INDENT)
            self._draw()
            return
        added, names = self._interpreter.complete(before)
        if added:
            self._editor.press(added)
        self._draw("" if added or len(names) < 2 else "  ".join(names))

    def _interrupt(self) -> None:
        if self._login.stop_watching():
            return
        self._renderer.leave(self._prompt, self._editor.text)
        self._editor.clear()
        self._interpreter.reset()
        self._prompt = PROMPTS[0]
        self._draw("KeyboardInterrupt")

    def _quit(self, status: int) -> None:
        if not self._busy:
            self._renderer.leave(self._prompt, self._editor.text)
        self._left = True
        self._login.finish(status)
