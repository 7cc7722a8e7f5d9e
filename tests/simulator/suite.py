"""Many seeds, one after another or side by side, and what they broke."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from twisted.logger import globalLogBeginner

from . import plan as plans
from .aims import aim
from .checker import Unjudged, Violation, judge
from .coverage import Cells, all_faults, table, under_way
from .plan import Plan
from .run import run
from .shrink import shrink

#: So often an empty cell is aimed at.
AIMS = 8
#: The runs that shrinking may take.
SHRINKING = 120


@dataclass(frozen=True)
class Options:
    """How plans are made of seeds."""

    operations: int = 60
    faults: int = 4
    outputs: bool = False
    sdks: bool = False
    #: a fault and the operation that it shall interrupt; empty: whatever chance chooses
    aim: tuple[str, ...] = ()

    def plan(self, seed: int) -> Plan:
        if self.aim:
            return aim(seed, *self.aim)
        return plans.make(seed, self.operations, self.faults, self.outputs, self.sdks)

    def words(self) -> str:
        """Return what repeats this on the command line."""
        text = f"--operations {self.operations} --faults {self.faults}"
        if self.aim:
            text = f"--aim {' '.join(self.aim)}"
        chosen = {" --outputs": self.outputs, " --sdks": self.sdks}
        return text + "".join(word for word, wanted in chosen.items() if wanted)


@dataclass(frozen=True)
class Verdict:
    """What became of a seed, and which operations were under way in which faults."""

    seed: int
    violations: list[Violation]
    under_way: Cells


def silence() -> None:
    """Let the product's log go nowhere: what matters of it is in the history."""
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False, discardBuffer=True)


def broken(history: str) -> list[Violation]:
    """Return what a history breaks; that it cannot be judged is a fault, too."""
    try:
        return judge(history)
    except Unjudged as problem:
        return [Violation("unjudged", 0, str(problem))]


def try_seed(seed: int, options: Options) -> Verdict:
    """Run a seed's plan, and judge it. What raises says in which seed."""
    try:
        history = run(options.plan(seed))
        return Verdict(seed, broken(history), under_way(history))
    except Exception as problem:
        problem.add_note(f"in seed {seed}: {options.words()}")
        raise


def _try(argument: tuple[int, Options]) -> Verdict:
    return try_seed(*argument)


def try_seeds(
    first: int, count: int, options: Options, *, seconds: float | None = None, jobs: int = 1
) -> Iterator[Verdict]:
    """Yield the verdict of seed after seed, until there are no more, or the time (s of the real clock) is over."""
    end = None if seconds is None else time.monotonic() + seconds
    work = ((seed, options) for seed in range(first, first + count))
    if jobs == 1:
        for each in work:
            yield _try(each)
            if end is not None and time.monotonic() > end:
                return
        return
    with multiprocessing.get_context("spawn").Pool(jobs, silence) as pool:
        for verdict in pool.imap(_try, work):
            yield verdict
            if end is not None and time.monotonic() > end:
                return


def fill(first: int, cells: Cells, options: Options) -> Iterator[tuple[Options, Verdict]]:
    """Yield the verdicts of plans that aim at the empty cells of the table, each with how it was made, until each has
    something, or was aimed at often enough. ``cells`` grows meanwhile."""
    for seed in range(first, first + AIMS):
        for cell in table(cells, all_faults())[1]:
            if not cells[cell]:
                made = replace(options, aim=cell)
                verdict = try_seed(seed, made)
                cells.update(verdict.under_way)
                yield made, verdict


def smaller(seed: int, rule: str, options: Options) -> tuple[Plan, list[int]]:
    """Return a smaller plan of a seed that still breaks a rule, and the numbers of its steps."""

    def breaks(plan: Plan) -> bool:
        return any(each.rule == rule for each in broken(run(plan)))

    return shrink(options.plan(seed), breaks, SHRINKING)
