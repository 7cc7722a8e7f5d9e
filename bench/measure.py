"""What is measured and how it is told: processes' CPU time and memory, rounds, tables."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used, user and system, all its threads.

    Linux numbers the clock of each process by its pid (``clock_getcpuclockid``); ``/proc`` has the same in steps of
    10 ms, and a round is some hundred of them. Raises OSError where there is no such process.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident(pid: int) -> int:
    """KiB of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def machine() -> str:
    """What the figures were taken on, without its name."""
    model = "unknown processor"
    with open("/proc/cpuinfo") as file:
        found = re.search(r"model name\s*: (.*)", file.read())
    if found:
        model = found[1]
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip() if node else "none"
    load = os.getloadavg()[0]
    # One that somebody compiled is slower, as a rule, than the system's own.
    python = f"Python {platform.python_version()}{' of the system' if sys.base_prefix == '/usr' else ''}"
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release().split('-')[0]}, "
        f"{python}, node {version}, load {load:.1f}"
    )


def percentile(values: Iterable[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Progress:
    """One line on the terminal that says what is being measured."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._began = time.monotonic()

    def show(self, text: str) -> None:
        line = f"[{time.monotonic() - self._began:6.1f} s] {text}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line}")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def done(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@dataclass
class Row:
    """One server's figures over all rounds."""

    name: str
    values: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else float("nan")


@dataclass
class Target:
    """What ours should be: at most (or at least) ``bound`` times the row named, or ``bound`` itself."""

    bound: float
    of: str = ""
    least: bool = False
    #: which row is judged; empty: the table's first
    row: str = ""


@dataclass
class Table:
    """A benchmark's result: rows of figures taken in turns, and how they meet the targets."""

    name: str
    title: str
    unit: str
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        row = Row(name)
        self.rows.append(row)
        return row

    def judged(self) -> list[dict[str, Any]]:
        """For each target: what was reached (the median of the rounds' ratios), and whether that is enough."""
        verdicts = []
        for target in self.targets:
            mine = self.row(target.row) if target.row else self.rows[0]
            if target.of:
                other = self.row(target.of)
                if not other.values or not mine.values:
                    verdicts.append({"row": mine.name, "of": target.of, "bound": target.bound, "reached": None})
                    continue
                reached = statistics.median(a / b for a, b in zip(mine.values, other.values, strict=True) if b)
            else:
                reached = mine.median
            met = reached >= target.bound if target.least else reached <= target.bound
            verdicts.append(
                {"row": mine.name, "of": target.of, "bound": target.bound, "least": target.least}
                | {"reached": round(reached, 3), "met": met}
            )
        return verdicts

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "targets": self.judged()}

    def text(self) -> str:
        lines = [f"{self.title} ({self.unit})"]
        width = max([len(row.name) for row in self.rows] + [10])
        lines.append(f"  {'':{width}}  {'median':>10}  {'range':>19}")
        for row in self.rows:
            if row.values:
                spread = f"{_figure(min(row.values))} - {_figure(max(row.values))}"
                lines.append(f"  {row.name:{width}}  {_figure(row.median):>10}  {spread:>19}  {row.note}".rstrip())
            else:
                lines.append(f"  {row.name:{width}}  {'-':>10}  {'':>19}  {row.note}".rstrip())
        for verdict in self.judged():
            sign = "≥" if verdict.get("least") else "≤"
            of = f" x {verdict['of']}" if verdict["of"] else ""
            if verdict["reached"] is None:
                lines.append(f"  target {sign} {verdict['bound']:g}{of}: not measured")
                continue
            said = "met" if verdict["met"] else "MISSED"
            lines.append(
                f"  {verdict['row']}: {verdict['reached']:.2f}{of}, target {sign} {verdict['bound']:g}: {said}"
            )
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def in_turns(rounds: int, progress: Progress, table: Table, runs: Sequence[tuple[str, Callable[[], float]]]) -> None:
    """Measures each in turn, ``rounds`` times over."""
    for number in range(rounds):
        for name, run in runs:
            progress.show(f"{table.name}: round {number + 1} of {rounds}: {name}")
            table.row(name).values.append(run())


def plot(table: Table) -> str:
    """The table as bars, in SVG: medians, with the range as a line."""
    rows = [row for row in table.rows if row.values]
    left, width, height = 260, 460, 28
    top = max([max(row.values) for row in rows] + [1e-9])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 110}" height="{60 + height * len(rows)}" '
        'font-family="sans-serif" font-size="13">',
        f'<text x="10" y="24" font-size="15">{_escaped(table.title)} ({_escaped(table.unit)})</text>',
    ]
    for number, row in enumerate(rows):
        y = 44 + number * height
        length = width * row.median / top
        low, high = (left + width * v / top for v in (min(row.values), max(row.values)))
        colour = "#3366aa" if row.name.startswith("pushserver") else "#999999"
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{_escaped(row.name)}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{height - 10}" fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 9}" y2="{y + 9}" stroke="#000"/>',
            f'<text x="{max(high, left + length) + 6:.1f}" y="{y + 14}">{_figure(row.median)}</text>',
        ]
    return "\n".join([*parts, "</svg>"])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
