"""Draws a prompt and a line on a terminal, and prints above them. The only place that moves the cursor.

Between two calls the cursor stands in the line, and everything below its rows is empty. Each call goes to the first of
these rows, erases from there to the end of the screen, prints what is to be printed, and draws prompt and line anew;
what is on the screen depends on nothing that was there before.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Callable
from itertools import groupby
from typing import Final

from rich.cells import get_character_cell_size

_ERASE_BELOW: Final = "\x1b[J"
_NORMAL: Final = "\x1b[0m"
_COLOURS: Final = {"keyword": "\x1b[32m", "string": "\x1b[35m", "number": "\x1b[36m"}

#: One character and its colour, "" for none.
Cell = tuple[str, str]


def colours(text: str) -> list[str]:
    """Return the colour of each character of a line of Python; none from where it can be read no further."""
    found = [""] * len(text)
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = ""
            if token.type == tokenize.STRING:
                kind = "string"
            elif token.type == tokenize.NUMBER:
                kind = "number"
            elif token.type == tokenize.NAME and keyword.iskeyword(token.string):
                kind = "keyword"
            if kind and token.start[0] == token.end[0] == 1:
                for at in range(token.start[1], min(token.end[1], len(text))):
                    found[at] = _COLOURS[kind]
    except (tokenize.TokenError, SyntaxError):
        # An unfinished string or bracket: the rest stays as it is.
        pass
    return found


class Renderer:
    r"""One terminal.

    Args:
        write: takes text for the terminal, lines ended by ``\r\n``.
    """

    def __init__(self, write: Callable[[str], None], width: int, height: int) -> None:
        self._write = write
        self.resize(width, height)
        #: the row of the cursor below the first one that was drawn
        self._row = 0

    def resize(self, width: int, height: int) -> None:
        """Draw for another size from now on; a size that is no size counts as 80 by 24."""
        self.width = max(20, width or 80)
        self.height = max(2, height or 24)

    def draw(self, prompt: str, line: str, cursor: int, printed: str = "") -> None:
        """Draw prompt and line, the cursor before its character ``cursor``, below what is to be printed."""
        out = [self._to_start(), _ERASE_BELOW]
        if printed:
            out.append(_on_lines(printed))
        cells: list[Cell] = [(one, "") for one in prompt] + list(zip(line, colours(line), strict=True))
        rows, row, column = self._lay_out(cells, len(prompt) + cursor)
        # Of a line that is higher than the screen, a part with the cursor in it.
        first = max(0, min(row, len(rows) - self.height))
        rows = rows[first : first + self.height]
        out.append("\r\n".join(map(_coloured, rows)))
        up = len(rows) - 1 - (row - first)
        out.append((f"\x1b[{up}A" if up else "") + "\r" + (f"\x1b[{column}C" if column else ""))
        self._row = row - first
        self._write("".join(out))

    def leave(self, prompt: str, line: str) -> None:
        """Draw prompt and line once more, and go below: they stay."""
        self.draw(prompt, line, len(line))
        self._write("\r\n")
        self._row = 0

    def print(self, text: str) -> None:
        """Print where no prompt is drawn. It ends with a whole line."""
        self._write(_on_lines(text))

    def clear(self) -> None:
        """Empty the screen."""
        self._write("\x1b[2J\x1b[H")
        self._row = 0

    def bell(self) -> None:
        """Say that a key could do nothing."""
        self._write("\a")

    def _to_start(self) -> str:
        return (f"\x1b[{self._row}A" if self._row else "") + "\r"

    def _lay_out(self, cells: list[Cell], cursor: int) -> tuple[list[list[Cell]], int, int]:
        """Return the rows, and the row and the column of the cursor."""
        rows: list[list[Cell]] = [[]]
        used = row = column = 0
        for at, cell in enumerate(cells):
            size = get_character_cell_size(cell[0])
            if used + size > self.width:
                rows.append([])
                used = 0
            if at == cursor:
                row, column = len(rows) - 1, used
            rows[-1].append(cell)
            used += size
        if cursor >= len(cells):
            if used >= self.width:
                # The cursor has no room behind a row that is full.
                rows.append([])
                used = 0
            row, column = len(rows) - 1, used
        return rows, row, column


def _coloured(row: list[Cell]) -> str:
    parts = ((colour, "".join(one for one, _ in cells)) for colour, cells in groupby(row, key=lambda cell: cell[1]))
    return "".join(f"{colour}{text}{_NORMAL}" if colour else text for colour, text in parts)


def _on_lines(text: str) -> str:
    return "".join(f"{line}\r\n" for line in text.removesuffix("\n").split("\n"))
