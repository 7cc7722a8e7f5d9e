"""How answers are shown: as tables for people, or as JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pushserver.pushctl.place import ServerPlace

#: Columns where there is no terminal.
NO_WIDTH: Final = 100_000


def as_json(value: Any) -> None:
    """One line of JSON."""
    click.echo(msgspec.json.encode(value))


def compact(value: Any) -> str:
    """A value as JSON on one line."""
    return msgspec.json.encode(value).decode()


def moment(at: Any) -> str:
    """A time of the wire (ms since the epoch) as the local time of day, with the date where it is not today."""
    if not isinstance(at, int | float):
        return ""
    then = time.localtime(at / 1000)
    today = time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def cell(value: Any) -> str:
    """A value on one line of a table."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.0f}"
        case str():
            # Nothing from elsewhere may move the cursor.
            return "".join(c if c.isprintable() else "·" for c in value)
        case list() | tuple():
            return ", ".join(cell(item) for item in value)
        case Mapping():
            return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
        case _:
            return str(value)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table: headings, where there is one, and values as text, never as markup."""
    result = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_header=any(headings))
    for heading in headings:
        result.add_column(heading, overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell(value)) for value in row))
    return result


def arranged(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], sort: str | None = None, match: str | None = None
) -> list[Sequence[Any]]:
    """Return the rows in which a text occurs, by a column: numbers the largest first, texts in their order."""
    chosen = [row for row in rows if match is None or any(match in cell(value) for value in row)]
    if sort is None:
        return chosen
    column = headings.index(sort)
    if all(isinstance(row[column], int) for row in chosen):
        return sorted(chosen, key=lambda row: -row[column])
    return sorted(chosen, key=lambda row: cell(row[column]))


def facts(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested figures, one a line, by their path."""
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from facts(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


class Presenter:
    """Shows an answer the way that was asked for."""

    def __init__(self, place: ServerPlace) -> None:
        self._place = place
        # Into a pipe each row is one line, for grep and awk.
        width = None if sys.stdout.isatty() else NO_WIDTH
        self.console = Console(highlight=False, soft_wrap=False, width=width)

    def rows(self, value: Any, headings: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "none") -> None:
        """A list."""
        if self._place.as_json:
            as_json(value)
            return
        listed = list(rows)
        if listed:
            self.console.print(table(headings, listed))
        else:
            click.echo(empty)

    def facts(self, value: Mapping[str, Any]) -> None:
        """One thing with properties."""
        if self._place.as_json:
            as_json(value)
        else:
            self.console.print(table(("", ""), facts(value)), end="")

    def line(self, value: Any, text: str) -> None:
        """One thing that was done."""
        if self._place.as_json:
            as_json(value)
        else:
            click.echo(text)
