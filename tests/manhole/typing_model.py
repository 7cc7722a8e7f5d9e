"""What a person expects of a prompt: a model of the line that is typed, and what the screen then shows.

Written from the manual alone, apart from the editor and the renderer that it judges.
"""

from __future__ import annotations

from random import Random

PROMPT = "push> "

#: What a terminal sends for each key, by the key's name.
KEYS = {
    "left": "\x1b[D",
    "right": "\x1b[C",
    "left, application mode": "\x1bOD",
    "back a character": "\x02",
    "home": "\x1b[H",
    "end": "\x1b[F",
    "start of line": "\x01",
    "end of line": "\x05",
    "backspace": "\x7f",
    "delete": "\x1b[3~",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "kill before": "\x15",
    "kill after": "\x0b",
    "kill word": "\x17",
    "redraw": "\x0c",
    "unknown": "\x1b[99~",
    "focus": "\x1b[I",
    "meta": "\x1bq",
    "control": "\x1d",
}
LETTERS = "abcdefgh xyz019_'\"([{#:=.,é房🙂"


class Model:
    """A line, a cursor, and the lines before. Statements are comments, so that nothing happens but editing."""

    def __init__(self) -> None:
        self.line: list[str] = []
        self.at = 0
        self.before: list[str] = []
        self.chosen: int | None = None
        self.unfinished = ""

    def press(self, name: str) -> None:
        """Press a key of `KEYS`, or type a character."""
        if name not in KEYS:
            self.line.insert(self.at, name)
            self.at += 1
        elif name in ("left", "left, application mode", "back a character"):
            self.at -= self.at > 0
        elif name == "right":
            self.at += self.at < len(self.line)
        elif name in ("home", "start of line"):
            self.at = 0
        elif name in ("end", "end of line"):
            self.at = len(self.line)
        elif name == "backspace" and self.at:
            self.at -= 1
            del self.line[self.at]
        elif name == "delete" and self.at < len(self.line):
            del self.line[self.at]
        elif name == "kill before":
            del self.line[: self.at]
            self.at = 0
        elif name == "kill after":
            del self.line[self.at :]
        elif name == "kill word":
            while self.at and self.line[self.at - 1] == " ":
                self._rub()
            while self.at and self.line[self.at - 1] != " ":
                self._rub()
        elif name == "up" and self.before and self.chosen != 0:
            if self.chosen is None:
                self.unfinished = "".join(self.line)
                self.chosen = len(self.before)
            self.chosen -= 1
            self._show(self.before[self.chosen])
        elif name == "down" and self.chosen is not None:
            self.chosen += 1
            if self.chosen == len(self.before):
                self.chosen = None
            self._show(self.unfinished if self.chosen is None else self.before[self.chosen])

    def _rub(self) -> None:
        self.at -= 1
        del self.line[self.at]

    def _show(self, text: str) -> None:
        self.line = list(text)
        self.at = len(self.line)

    def press_enter(self) -> None:
        """Press Enter on a line that does nothing."""
        text = "".join(self.line)
        if text.strip() and text not in self.before[-1:]:
            self.before.append(text)
        self.line, self.at, self.chosen, self.unfinished = [], 0, None, ""

    def rows(self, width: int) -> tuple[list[str], int, int]:
        """Return what stands on the screen's rows, and the row and the column of the cursor."""
        rows, used = [""], 0
        place = (0, 0)
        for number, one in enumerate([*PROMPT, *self.line]):
            size = 2 if ord(one) > 0x2000 else 1
            if used + size > width:
                rows.append("")
                used = 0
            if number == len(PROMPT) + self.at:
                place = (len(rows) - 1, used)
            rows[-1] += one
            used += size
        if self.at == len(self.line):
            if used == width:
                rows.append("")
                used = 0
            place = (len(rows) - 1, used)
        return rows, *place


def keys(seed: int, count: int) -> list[str]:
    """Return so many keys, most of them characters, by a seed."""
    random = Random(seed)
    return [random.choice(LETTERS) if random.random() < 0.6 else random.choice(list(KEYS)) for _ in range(count)]
