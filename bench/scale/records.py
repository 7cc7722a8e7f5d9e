"""Whole runs, a line of JSON for each, the newest last. What was cut or went wrong has no line.

{"date": …, "machine": …, "command": …, "commit": …, "connections": …, "workers": …, "files": …, "clients": …,
 "addresses": …, "figures": {…}, "others": {…}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.scale.limits import Plan
from bench.scoreboard.records import Unusable, stored
from tools.trees import ROOT

#: Where the records are kept that the page is made from.
RESULTS = ROOT / "bench" / "results" / "scale"

#: From so many connections on a run is one to be kept there; others are tries.
FULL = 60_000


@dataclass(frozen=True, slots=True)
class Record:
    """A run: where and how it was taken, its figures, and what else was at work in each of its steps."""

    date: str
    machine: str
    command: str
    commit: str
    connections: int
    workers: int
    files: int
    clients: int
    addresses: int
    figures: dict[str, float] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)


def record(plan: Plan, date: str, machine: str, command: str, commit: str) -> Record:
    """Return the record of a run that has no figures yet."""
    layout = (plan.connections, plan.workers, plan.files, len(plan.per_client), plan.addresses)
    return Record(date, machine, command, commit, *layout)


def usual_file(date: str, connections: int) -> Path:
    """Return where a run is kept that names no file: beside the others, or in build/ where it is a try."""
    return RESULTS / f"{date}.jsonl" if connections >= FULL else ROOT / "build" / "scale.jsonl"


def keep(path: Path, run: Record) -> None:
    """Add a run to a file; it is on the disk then. What a cut write has left at the end is taken away first.

    Raises Unusable where the file holds something else.
    """
    if path.exists() and path.stat().st_size:
        runs(path)
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(asdict(run)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def runs(path: Path) -> list[Record]:
    """Return the runs of a file. Raises Unusable where it holds something else."""
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    try:
        found = [Record(**json.loads(line)) for line in lines]
        if not all(isinstance(one.figures, dict) and isinstance(one.connections, int) for one in found):
            raise TypeError("a run has no figures")
    except (ValueError, TypeError) as problem:
        raise Unusable(f"{path.name} is not a record of `bench scale`: {problem}") from None
    return found


def newest(folder: Path | None = None) -> Record | None:
    """Return the newest run that is stored; None where none is."""
    return next(_newest_first(folder or RESULTS), None)


def _newest_first(folder: Path) -> Iterator[Record]:
    for file in stored(folder):
        yield from reversed(runs(file))
