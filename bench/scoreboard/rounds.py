"""The rounds of a path: its peers in turns, again where something else was at work, more where a target is open."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from random import Random

from bench.measure import Progress
from bench.scoreboard.clients import Wrong
from bench.scoreboard.meters import Meter, Sizes, Stage, Taken
from bench.scoreboard.paths import Path
from bench.scoreboard.peers import Ours, Peer, usable
from bench.scoreboard.quiet import MOST_OTHER
from bench.scoreboard.records import Book
from bench.scoreboard.verdicts import judge
from bench.servers import NotAvailable
from tools.trees import ROOT

#: How often a round is taken until it is quiet, and the seconds before it is taken again, twice as many each time: what
#: works for some seconds on a machine that is else at rest must not end a path.
TRIES = 5
PAUSE = 2.0

#: What a peer that cannot go on may raise: it died, answered wrongly, refused part of the load.
TROUBLE = (NotAvailable, Wrong, RuntimeError, OSError, ValueError)


class Busy(Exception):
    """The machine was at something else in each try; the message is one line."""


def one_line(problem: BaseException) -> str:
    """Return what a table says of a trouble, without where things lie on this machine."""
    said = " ".join(str(problem).split()).replace(f"{ROOT}/", "").replace(f"{tempfile.gettempdir()}/", "")
    return f"{type(problem).__name__}: {said[-200:]}".removeprefix("NotAvailable: ")


def quietly(meter: Meter, tolerant: bool = False) -> tuple[Taken, int]:
    """Return a round during which nothing else was at work, and how often it was taken again. Raises Busy."""
    others: list[float] = []
    for again in range(TRIES):
        if again:
            time.sleep(PAUSE * 2 ** (again - 1))
        taken = meter()
        if taken.quiet or tolerant:
            return taken, again
        others.append(taken.facts["other"])
    raise Busy(f"something else used {min(others):.2f} of a core or more in {TRIES} tries: {MOST_OTHER:.2f} is allowed")


def still_open(path: Path, book: Book) -> bool:
    """Whether a target of the path has no verdict yet, though both have figures."""
    for target in path.targets:
        names = [name for name in (target.row, target.peer) if name]
        verdict = judge(target, book.record.figures(path.name, target.figure, *names), Random(1))
        if verdict.reached is not None and verdict.word == "open":
            return True
    return False


class Rounds:
    """Takes the rounds of one path after another into a book."""

    def __init__(
        self, book: Book, sizes: Sizes, least: int, most: int, progress: Progress, tolerant: bool = False
    ) -> None:
        """``least`` rounds, and up to ``most`` while a target is open; ``tolerant`` of what else is at work."""
        self._book = book
        self._sizes = sizes
        self._least = least
        self._most = most
        self._progress = progress
        self._tolerant = tolerant
        #: Why a peer cannot be had: asked once, for all paths.
        self._absent: dict[str, str] = {}

    def leave_out(self, kind: type[Peer]) -> None:
        """Measure nothing of a peer: each table says so."""
        self._absent[kind.name] = "left out"

    def take(self, path: Path, install: Callable[[type[Peer]], str] = usable) -> None:
        """Take what a path lacks; what hinders a peer, or the path, is in the book."""
        there = [kind for kind in path.peers if self._is_there(path, kind, install)]
        if self._next(path, there) is None:
            return
        with ExitStack() as stack:
            stage = Stage(stack, self._sizes)
            meters: dict[type[Peer], Meter] = {}
            for kind in there:
                self._progress.show(f"{path.name}: starting {kind.name}")
                try:
                    meters[kind] = path.prepare(stage, kind)
                except TROUBLE as problem:
                    self._miss(path, kind, problem)
            try:
                while (
                    any(issubclass(kind, Ours) for kind in meters)
                    and (number := self._next(path, list(meters))) is not None
                ):
                    self._round(path, meters, number)
            except Busy as problem:
                self._book.add(path=path.name, stopped=str(problem))

    def _is_there(self, path: Path, kind: type[Peer], install: Callable[[type[Peer]], str]) -> bool:
        self._progress.show(f"{path.name}: installing {kind.name}")
        try:
            if kind.name in self._absent:
                raise NotAvailable(self._absent[kind.name])
            version = install(kind)
        except TROUBLE as problem:
            self._absent[kind.name] = one_line(problem)
            self._miss(path, kind, problem)
            return False
        if self._book.record.versions.get(kind.name) != version:
            self._book.add(peer=kind.name, version=version, configuration=kind.configuration)
        return True

    def _miss(self, path: Path, kind: type[Peer], problem: BaseException) -> None:
        self._book.add(path=path.name, peer=kind.name, missing=one_line(problem))

    def _next(self, path: Path, peers: list[type[Peer]]) -> int | None:
        """Return the first round in which one of these peers has no figures; None when there are enough."""
        names = {kind.name for kind in peers}
        taken = self._book.record.rounds.get(path.name, {})
        number = 1
        while number in taken and names <= taken[number].figures.keys():
            number += 1
        enough = self._most if still_open(path, self._book) else self._least
        return number if number <= enough else None

    def _round(self, path: Path, meters: dict[type[Peer], Meter], number: int) -> None:
        """Take one round, forth or back; a peer that cannot go on is left out from then on. Raises Busy."""
        for kind in list(meters) if number % 2 else list(reversed(meters)):
            self._progress.show(f"{path.name}: round {number}: {kind.name}")
            try:
                taken, again = quietly(meters[kind], self._tolerant)
            except TROUBLE as problem:
                self._miss(path, kind, problem)
                del meters[kind]
                continue
            facts = {**taken.facts, **({"again": again} if again else {})}
            figures = {name: round(value, 6) for name, value in taken.figures.items()}
            self._book.add(path=path.name, round=number, peer=kind.name, figures=figures, facts=facts)
