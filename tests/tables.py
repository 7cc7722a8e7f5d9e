"""Tables in the documentation that a run writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def replace_table(page: Path, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Put a table in the place of the first one below a heading; rows of the old one that the new one does not name
    stay. Raises ValueError where the page has no such heading or table."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    start, end = _place(page, lines, title)
    old = {line.split("|")[1].strip(): line for line in lines[start + 2 : end]}
    new = {row[0]: table(header, [row]).splitlines(keepends=True)[2] for row in rows}
    head = table(header, []).splitlines(keepends=True)
    lines[start:end] = [*head, *(old | new).values()]
    page.write_text("".join(lines), encoding="utf-8")


def write_column(page: Path, title: str, column: str, cells: Mapping[str, str]) -> None:
    """Put cells into one column of the first table below a heading, by the first cell of their rows; rows that are new
    come last. Raises ValueError where the page has no such table, or the table no such column."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    start, end = _place(page, lines, title)
    header, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[start:end]]
    if column not in header[1:]:
        raise ValueError(f"the table below {title!r} has no column {column!r}")
    at = header.index(column)
    known = {row[0]: row + [""] * (len(header) - len(row)) for row in rows}
    for name, cell in cells.items():
        row = known.setdefault(name, [name, *[""] * (len(header) - 1)])
        row[at] = cell
    lines[start:end] = table(header, list(known.values())).splitlines(keepends=True)
    page.write_text("".join(lines), encoding="utf-8")


def _place(page: Path, lines: Sequence[str], title: str) -> tuple[int, int]:
    """Return where the first table below a heading begins and ends."""
    at = next((n for n, line in enumerate(lines) if line.startswith("#") and line.lstrip("# ").strip() == title), None)
    start = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("|")), None) if at is not None else None
    if start is None:
        raise ValueError(f"{page.name} has no table below {title!r}")
    return start, next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
