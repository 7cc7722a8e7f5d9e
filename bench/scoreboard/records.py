"""What was measured, a line of JSON for each round: written as it comes, read when a run goes on or is reported.

    {"run": {"date": …, "machine": …, "command": …, "commit": …, "sizes": "full" | "quick"}}     the first line
    {"version": "6.9.1", "peer": …, "configuration": …}
    {"path": …, "round": 1, "peer": …, "figures": {…}, "facts": {…}}
    {"path": …, "peer": …, "missing": "why there is no figure"}
    {"path": …, "stopped": "why the path ended early"}

A later line about the same thing stands for the earlier one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: What a round tells beside its figures: the load's CPU, bytes of a frame, how often it was done again.
Facts = dict[str, float]


class Unusable(Exception):
    """A file is no record, or one of another run; the message is one line."""


@dataclass(frozen=True, slots=True)
class Run:
    """What all figures of a file share."""

    date: str
    machine: str
    command: str
    commit: str
    sizes: str

    def same_as(self, other: Run) -> bool:
        """Whether the figures of both may stand in one table."""
        return (self.commit, self.sizes) == (other.commit, other.sizes)


@dataclass(slots=True)
class Round:
    """One round of a path: each peer's figures, by name."""

    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """A whole file."""

    run: Run
    versions: dict[str, str] = field(default_factory=dict)
    configurations: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, dict[int, Round]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)

    def whole(self, path: str, peers: set[str]) -> list[Round]:
        """Return the rounds of a path in which each of these peers has its figures."""
        return [each for _, each in sorted(self.rounds.get(path, {}).items()) if peers <= each.figures.keys()]

    def figures(self, path: str, figure: str, *peers: str) -> list[tuple[float, ...]]:
        """Return a figure of several peers, a tuple for each round that has all of them."""
        return [
            tuple(each.figures[peer][figure] for peer in peers)
            for each in self.whole(path, set(peers))
            if all(figure in each.figures[peer] for peer in peers)
        ]


def parse(text: str) -> Record:
    """Return the record that a file's text holds. Raises Unusable.

    What stands behind the last line break was being written when the run was interrupted: it is left out.
    """
    lines = text[: text.rfind("\n") + 1].splitlines()
    try:
        first, *others = [json.loads(line) for line in lines]
        record = Record(Run(**first["run"]))
        for line in others:
            _add(record, line)
    except (ValueError, KeyError, TypeError) as problem:
        raise Unusable(f"not a record of the scoreboard: {type(problem).__name__}: {problem}") from None
    return record


def _add(record: Record, line: dict[str, Any]) -> None:
    if "version" in line:
        record.versions[line["peer"]] = line["version"]
        record.configurations[line["peer"]] = line["configuration"]
    elif "missing" in line:
        record.missing.setdefault(line["path"], {})[line["peer"]] = line["missing"]
    elif "stopped" in line:
        record.stopped[line["path"]] = line["stopped"]
    else:
        each = record.rounds.setdefault(line["path"], {}).setdefault(line["round"], Round())
        each.figures[line["peer"]] = line["figures"]
        each.facts[line["peer"]] = line["facts"]
        # Figures that came after all: whatever hindered them before is over.
        record.missing.get(line["path"], {}).pop(line["peer"], None)
        record.stopped.pop(line["path"], None)


class Book:
    """A file that a run writes, each line on the disk before the next figure is taken."""

    def __init__(self, path: Path, run: Run) -> None:
        """Open a file to go on with it, or begin it. Raises Unusable where it holds another run's figures."""
        self.record = Record(run)
        self.path = path
        if path.exists() and path.stat().st_size:
            self.record = parse(path.read_text())
            if not self.record.run.same_as(run):
                begun = self.record.run
                raise Unusable(
                    f"{path.name} was begun at {begun.commit} with {begun.sizes} sizes: name another with --results"
                )
            whole = path.read_bytes()
            os.truncate(path, whole.rfind(b"\n") + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a")  # noqa: SIM115  closed by close()
        if self._file.tell() == 0:
            self._write({"run": asdict(run)})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def add(self, **line: Any) -> None:
        """Keep a line."""
        self._write(line)
        _add(self.record, line)

    def close(self) -> None:
        self._file.close()


def begun(folder: Path, run: Run) -> Path:
    """Return the file in a folder of records with which a run goes on, on whatever day it began; else a new one's."""
    for file in stored(folder):
        with suppress(Unusable):
            if parse(file.read_text()).run.same_as(run):
                return file
    return folder / f"{run.date}.jsonl"


def stored(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder of records, the newest first: they are named by their dates."""
    yield from sorted(folder.glob("*.jsonl"), reverse=True)
