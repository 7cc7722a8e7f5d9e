"""What the console prints: values as tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from io import StringIO
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pushserver.core.errors import Invalid
from pushserver.server.clock import wall_clock

#: Rows of one table; the rest is counted.
MAX_ROWS: Final = 200


class VerbAnswer:
    """What a verb answers: ``value`` for going on with, and how it is shown."""

    def __init__(self, value: Any, *parts: Any) -> None:
        self.value = value
        self._parts = parts

    def text(self, width: int = 100, colour: bool = False) -> str:
        """As it is printed, on lines of at most ``width`` characters."""
        file = StringIO()
        console = Console(
            file=file,
            width=max(20, width),
            force_terminal=colour,
            color_system="standard" if colour else None,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        for part in self._parts:
            console.print(part)
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))

    def __repr__(self) -> str:
        return self.text()


def cell(value: Any) -> str:
    """A value on one line. Nothing that comes from elsewhere may move the cursor."""
    match value:
        case None | msgspec.UNSET:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.0f}" if abs(value) >= 1e6 else f"{value:.4g}"
        case str():
            return printable(value)
        case list() | tuple() | set() | frozenset():
            return ", ".join(cell(item) for item in value) or "-"
        case Mapping():
            return ", ".join(f"{cell(key)}={cell(item)}" for key, item in value.items()) or "-"
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else "·" for c in text)


def compact(value: Any, limit: int = 500) -> str:
    """A value as JSON on one line of at most ``limit`` characters."""
    text = printable(msgspec.json.encode(value).decode())
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def moment(at: int | None) -> str:
    """ms since the epoch as the server's local time, with the date where it is not today."""
    if not at:
        return "-"
    then, today = datetime.fromtimestamp(at / 1000), datetime.fromtimestamp(wall_clock() / 1000)
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M")


def span(ms: int) -> str:
    """A duration as a person says it."""
    seconds = ms // 1000
    for size, unit, smaller, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // smaller}{part}"
    return f"{seconds}s"


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "none") -> list[Any]:
    """A table, as parts of a `VerbAnswer`."""
    listed = list(rows)
    if not listed:
        return [Text(empty)]
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in listed[:MAX_ROWS]:
        drawn.add_row(*(Text(cell(value)) for value in row))
    left = len(listed) - MAX_ROWS
    return [drawn] if left <= 0 else [drawn, Text(f"… and {left} more")]


def arranged(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], sort: str | None = None, match: str | None = None
) -> list[Sequence[Any]]:
    """Return the rows in which a text occurs, by a column: numbers the largest first, texts in their order.

    Raises `errors.Invalid` for a column that is not there.
    """
    chosen = [row for row in rows if match is None or any(match in cell(value) for value in row)]
    if sort is None:
        return chosen
    if sort not in headings:
        raise Invalid(f"sort by one of {', '.join(headings)}")
    column = headings.index(sort)
    if all(isinstance(row[column], int) for row in chosen):
        return sorted(chosen, key=lambda row: -row[column])
    return sorted(chosen, key=lambda row: cell(row[column]))


def facts(value: Mapping[str, Any]) -> list[Any]:
    """One thing with properties, one on each line."""
    drawn = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, item in value.items():
        drawn.add_row(Text(cell(name)), Text(cell(item)))
    return [drawn]


def line(text: str) -> list[Any]:
    return [Text(printable(text))]
