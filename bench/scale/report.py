"""What a run says, as tables: for the terminal, and for docs/scaling.md between its marks.

What was measured and what was calculated from it have a table each. A run in which something else was at work says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench.scale.arithmetic import GIVEN, MILLION, REDIS, Line, inputs, steps
from bench.scale.records import FULL, Record
from bench.scoreboard.quiet import MOST_OTHER
from bench.scoreboard.verdicts import LOAD_LIMIT
from tools.trees import ROOT

PAGE = ROOT / "docs" / "scaling.md"

#: The parts of the page that are made from the newest stored run.
PARTS: Final = ("scale", "scale-million", "scale-redis")

NOTHING: Final = "No run has been stored yet."


class Row(NamedTuple):
    """A measured figure: its name in the record, what it is, and its unit."""

    name: str
    meaning: str
    unit: str


MEASURED: Final = (
    Row("sign_in_seconds", "all signed in after", "s"),
    Row("sign_in_us", "a sign-in with a subscription: CPU of the server", "µs"),
    Row("redis_sign_in_us", "the same: CPU of Redis", "µs"),
    Row("signed_in_least", "connections of the worker that has the fewest", ""),
    Row("signed_in_most", "connections of the worker that has the most", ""),
    Row("server_base_mib", "memory of all server processes before (PSS)", "MiB"),
    Row("server_kib", "memory of the server for a connection (PSS)", "KiB"),
    Row("kernel_kib", "memory of the kernel for a connection, both its ends", "KiB"),
    Row("redis_bytes", "memory of Redis for a connection", "bytes"),
    Row("empty_cpu", "nobody connected: CPU of the server, for each second", "s"),
    Row("empty_redis_cpu", "nobody connected: CPU of Redis, for each second", "s"),
    Row("idle_cpu", "idle, pings as by default: CPU of the server, for each second", "s"),
    Row("idle_redis_cpu", "idle: CPU of Redis, for each second", "s"),
    Row("idle_pings", "pings a second, each answered", ""),
    Row("broadcast_half_ms", "a broadcast: half have it after, about", "ms"),
    Row("broadcast_last_ms", "a broadcast: the last has it after", "ms"),
    Row("broadcast_last_ms_worst", "the same, the worst", "ms"),
    Row("broadcast_us", "a broadcast: CPU of the server for a delivery", "µs"),
    Row("redis_publish_one_us", "a message to a channel that one worker follows: CPU of Redis", "µs"),
    Row("redis_publish_all_us", "a message to a channel that all workers follow: CPU of Redis", "µs"),
    Row("killed_connections", "a worker is killed: connections that it had", ""),
    Row("worker_back_seconds", "the worker is ready again after", "s"),
    Row("all_back_seconds", "the last of its clients is back after", "s"),
    Row("away_median_seconds", "a client was away for: median", "s"),
    Row("away_p99_seconds", "a client was away for: 99th percentile", "s"),
    Row("failed_returns", "attempts to come back that failed, and were made again", ""),
    Row("return_us", "a return: CPU of the server, start of the worker included", "µs"),
    Row("others_disturbed", "connections of other workers that were ended", ""),
    Row("after_least", "connections of the worker that then has the fewest", ""),
    Row("after_most", "connections of the worker that then has the most", ""),
    Row("again_last_ms", "a broadcast then: the last has it after", "ms"),
    Row("again_us", "a broadcast then: CPU of the server for a delivery", "µs"),
)


def number(value: float) -> str:
    """Return a figure with as many digits as it is worth."""
    if value == int(value) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def with_unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{number(value)} {unit}".strip()


def about(record: Record) -> str:
    return (
        f"{record.date}, {record.machine}, commit {record.commit}: `{record.command}`. "
        f"{record.connections:,} connections on {record.workers} workers with {record.files:,} descriptors each, "
        f"from {record.clients} client processes and {record.addresses:,} addresses."
    )


def remarks(record: Record) -> Iterator[str]:
    """Yield what must be known to read the figures: what else was at work, and where the clients may be the limit."""
    if record.connections < FULL:
        yield f"A try: what is calculated from fewer than {FULL:,} connections says little."
    for step, other in record.others.items():
        if other > MOST_OTHER:
            yield f"Not quiet: something else used {other:.2f} of a core in the step `{step}`."
    for step in ("broadcast", "again"):
        load = record.figures.get(f"{step}_client_load", 0.0)
        if load > LOAD_LIMIT:
            yield f"The clients may be the limit in the step `{step}`: one used {load:.0%} of its core."
    if "kernel_kib" not in record.figures:
        yield "The kernel's memory could not be told: it does not say, or something else gave memory back meanwhile."


def measured(record: Record) -> list[tuple[str, str, str]]:
    """Return the rows of what was measured: name, meaning, value."""
    return [
        (row.name, row.meaning, with_unit(record.figures[row.name], row.unit))
        for row in MEASURED
        if row.name in record.figures
    ]


def calculated(lines: tuple[Line, ...], known: dict[str, float]) -> list[tuple[str, str, str, str]]:
    """Return the rows of what follows: name, formula, meaning, value. ``known`` grows by them."""
    return [(line.name, line.formula, line.meaning, with_unit(value, line.unit)) for line, value in steps(lines, known)]


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table of Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def parts(record: Record | None) -> dict[str, str]:
    """Return what stands on the page between each pair of marks."""
    known = dict(GIVEN) if record is None else inputs(record)
    found = {}
    if record is None:
        found["scale"] = NOTHING
    else:
        rows: list[tuple[str, ...]] = [(f"`{name}`", meaning, value) for name, meaning, value in measured(record)]
        found["scale"] = "\n\n".join([about(record), table(("name", "what", "measured"), rows), *remarks(record)])
    for part, lines in (("scale-million", MILLION), ("scale-redis", REDIS)):
        rows = [
            (f"`{name}`", f"`{formula}`", meaning, value) for name, formula, meaning, value in calculated(lines, known)
        ]
        found[part] = table(("name", "formula", "what", "value"), rows)
    return found


def text(record: Record) -> str:
    """Return all tables of a run, for a terminal."""
    known = inputs(record)
    lines = [about(record).replace("`", ""), "", "Measured"]
    lines += [f"  {value:>16}  {meaning}" for _, meaning, value in measured(record)]
    for title, part in (("Calculated: 1,000,000 connections", MILLION), ("Calculated: one Redis", REDIS)):
        lines += ["", title]
        rows = calculated(part, known)
        lines += [f"  {value:>22}  {meaning}: {name} = {formula}" for name, formula, meaning, value in rows]
    return "\n".join([*lines, *(f"\n{remark}" for remark in remarks(record))])


def _between(part: str) -> re.Pattern[str]:
    return re.compile(f"(?<=<!-- {part} -->\n).*?(?=\n<!-- /{part} -->)", re.DOTALL)


def current(page: str) -> dict[str, str]:
    """Return what a page has between its marks. Raises ValueError where one pair is missing."""
    found = {part: _between(part).search(page) for part in PARTS}
    missing = [part for part, match in found.items() if match is None]
    if missing:
        raise ValueError(f"the page has no marks for {', '.join(missing)}")
    return {part: match[0] for part, match in found.items() if match is not None}


def write(page: Path, record: Record | None) -> None:
    """Put what a run says into a page. Raises ValueError where the page has no marks."""
    said = page.read_text()
    current(said)
    for part, new in parts(record).items():
        said = _between(part).sub(lambda _, new=new: new, said)  # type: ignore[misc]
    page.write_text(said)
