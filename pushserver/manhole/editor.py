"""The line that is being typed: its text, where the cursor is, and the lines before it. Pure: nothing is drawn here."""

from __future__ import annotations

from typing import Final

from pushserver.manhole.keyboard import Key

#: Characters of one line, and lines that are remembered.
MAX_LINE: Final = 8_192
MAX_HISTORY: Final = 500


class LineEditor:
    """A line and its history."""

    def __init__(self) -> None:
        self.text = ""
        #: characters before the cursor
        self.cursor = 0
        self.inserts = True
        self.history: list[str] = []
        #: which line of the history is shown; its length: the new one
        self._shown = 0
        #: the new line, while one of the history is shown
        self._new = ""

    def press(self, key: Key | str) -> bool:
        """Take a key that changes the line or moves in it; return whether it could do anything."""
        before = self.text, self.cursor, self.inserts
        match key:
            case str():
                self._type(key)
            case Key.LEFT:
                self.cursor = max(0, self.cursor - 1)
            case Key.RIGHT:
                self.cursor = min(len(self.text), self.cursor + 1)
            case Key.HOME:
                self.cursor = 0
            case Key.END:
                self.cursor = len(self.text)
            case Key.BACKSPACE:
                self._delete(max(0, self.cursor - 1), self.cursor)
            case Key.DELETE:
                self._delete(self.cursor, min(len(self.text), self.cursor + 1))
            case Key.DELETE_WORD:
                start = len(self.text[: self.cursor].rstrip())
                while start and not self.text[start - 1].isspace():
                    start -= 1
                self._delete(start, self.cursor)
            case Key.DELETE_BEFORE:
                self._delete(0, self.cursor)
            case Key.DELETE_AFTER:
                self._delete(self.cursor, len(self.text))
            case Key.INSERT:
                self.inserts = not self.inserts
            case Key.UP:
                self._choose(self._shown - 1)
            case Key.DOWN:
                self._choose(self._shown + 1)
        return before != (self.text, self.cursor, self.inserts)

    def _type(self, text: str) -> None:
        behind = self.cursor if self.inserts else min(len(self.text), self.cursor + len(text))
        if len(self.text) + len(text) <= MAX_LINE:
            self.text = self.text[: self.cursor] + text + self.text[behind:]
            self.cursor += len(text)

    def _delete(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start

    def _choose(self, number: int) -> None:
        if not 0 <= number <= len(self.history):
            return
        if self._shown == len(self.history):
            self._new = self.text
        self._shown = number
        self.text = self._new if number == len(self.history) else self.history[number]
        self.cursor = len(self.text)

    def finish(self) -> str:
        """Return the line, remember it, and begin a new one."""
        line = self.text
        if line.strip() and line not in self.history[-1:]:
            self.history.append(line)
            del self.history[:-MAX_HISTORY]
        self.clear()
        return line

    def clear(self) -> None:
        """Begin a new line, and forget what was typed."""
        self.text = self._new = ""
        self.cursor = 0
        self._shown = len(self.history)
