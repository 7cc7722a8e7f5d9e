"""``python -m tests.matrix workers [--all] [--seed N] [--only TEXT]…``: real processes, and what arrives of their ends.

Prints a line for each row and the seed that chose them; exit status 1 where an end was lost.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from tests.matrix import environment
from tests.matrix.cover import every, pairwise
from tests.matrix.stage import stage
from tests.matrix.workers import AXES, ENDS, Outcome, play, possible

HEAD = f"{'worker':17} {'leaves':9} {'server':6} {'by':5}  done  arrived  answered  lines  seconds"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("half", choices=["workers"])
    parser.add_argument("--all", action="store_true", help="every row, not only as many as hold every pair of values")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the choice and order of the rows")
    parser.add_argument("--only", action="append", default=[], help="rows whose text holds this; repeatable, all must")
    parser.add_argument("--python", type=Path, help="of an environment that has the frameworks already")
    options = parser.parse_args()
    rows = every(AXES, possible) if options.all or options.only else pairwise(AXES, possible, options.seed)
    rows = [row for row in rows if all(text in " ".join(row) for text in options.only)]
    python = options.python or environment.python()
    say(f"{len(rows)} rows of {ENDS} ends, seed {options.seed}\n{HEAD}")
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with stage() as built:
        for number, row in enumerate(rows):
            outcomes.append(play(built, python, row, number))
            say(line(outcomes[-1]))
    failed = [outcome for outcome in outcomes if not outcome.holds]
    done, arrived = sum(o.done for o in outcomes), sum(o.arrived for o in outcomes)
    lost = sum(outcome.lost for outcome in outcomes)
    say(
        f"{len(outcomes)} rows, {done} ends done, {arrived} arrived, {lost} lost, {len(failed)} rows failed, "
        f"{time.monotonic() - started:.0f} s, seed {options.seed}"
    )
    return 1 if failed else 0


def line(outcome: Outcome) -> str:
    worker, leaves, link, transport = outcome.row
    verdict = "" if outcome.holds else f"  FAILED: {outcome.fault or f'{outcome.lost} lost'}"
    return (
        f"{worker:17} {leaves:9} {link:6} {transport:5}  {outcome.done:4}  {outcome.arrived:7}  {outcome.answered:8}  "
        f"{outcome.logged:5}  {outcome.seconds:7.1f}{verdict}"
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
