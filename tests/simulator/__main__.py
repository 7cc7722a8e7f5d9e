"""Run the simulator: ``python -m tests.simulator --from 1 --seeds 100``; the README has the rest."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Plan
    from .suite import Options, Verdict

#: Sets are gone through in an order that the hashes of texts decide: the same for every run.
_HASHES = "0"
#: So many broken promises of a run are shown.
_SHOWN = 20


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulator", description="Run seeds, and judge their histories."
    )
    parser.add_argument("--from", dest="first", type=int, help="the first seed; else one that chance chooses")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--operations", type=int, default=60)
    parser.add_argument("--faults", type=int, default=4)
    parser.add_argument("--outputs", action="store_true", help="also tasks that write, and who reads along")
    parser.add_argument("--sdks", action="store_true", help="some devices speak the Centrifuge protocol")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--keep", help="of one seed, run these steps alone: 0,3,7")
    parser.add_argument("--plan", type=Path, nargs="+", help="run these plans, in place of a seed's")
    parser.add_argument("--save", type=Path, help="of one seed, write the plan there")
    parser.add_argument("--history", type=Path, help="of one seed, write the history there")
    parser.add_argument("--log", action="store_true", help="of one seed, print the nodes' log")
    parser.add_argument("--steps", action="store_true", help="of one seed, print the steps")
    parser.add_argument("--no-shrink", action="store_true", help="leave the plan of a failing seed as it is")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first failing seed")
    parser.add_argument("--aim", nargs=2, default=[], metavar=("FAULT", "OPERATION"), help="have it come meanwhile")
    parser.add_argument(
        "--table",
        action="store_true",
        help="show which operations were under way in which faults, and aim at what chance left out",
    )
    return parser.parse_args(words)


def _made(options: argparse.Namespace) -> Options:
    from .suite import Options

    return Options(options.operations, options.faults, options.outputs, options.sdks, tuple(options.aim))


def _plans(options: argparse.Namespace) -> int:
    """Run plans that were kept, with everything that somebody may want to see of them."""
    from .plan import Plan

    worst = 0
    for file in options.plan:
        print(file.stem, flush=True)
        worst = max(worst, _one(options, Plan.from_text(file.read_text())))
    return worst


def _one(options: argparse.Namespace, plan: Plan) -> int:
    """Run one plan, with everything that somebody may want to see of it."""
    from .run import run
    from .suite import broken

    if options.keep is not None:
        plan = plan.keeping(frozenset(int(each) for each in options.keep.split(",") if each))
    if options.save is not None:
        options.save.write_text(plan.text())
    if options.steps:
        for number, step in enumerate(plan.steps):
            print(f"{number:4} {step}")
    history = run(plan, print if options.log else None)
    if options.history is not None:
        options.history.write_text(history)
    violations = broken(history)
    for violation in violations[:_SHOWN]:
        print(violation)
    if len(violations) > _SHOWN:
        print(f"and {len(violations) - _SHOWN} more")
    if not violations:
        print(f"seed {plan.seed}: every promise held ({history.count(chr(10))} lines)")
    return 1 if violations else 0


def _show(verdict: Verdict, made: Options, shrinks: bool) -> None:
    """Print what a seed broke, and how to repeat it."""
    from .suite import smaller

    first = verdict.violations[0]
    again = f"python -m tests.simulator --from {verdict.seed} --seeds 1 {made.words()}"
    print(f"seed {verdict.seed}: {first}\n  again: {again}", flush=True)
    if shrinks:
        plan, kept = smaller(verdict.seed, first.rule, made)
        print(f"  smaller: {again} --keep {','.join(map(str, kept))}")
        for step in plan.steps:
            print(f"    {step}")


def _many(options: argparse.Namespace) -> int:
    from collections import Counter

    from .coverage import Cells, all_faults, table
    from .suite import fill, try_seeds

    made = _made(options)
    print(f"first seed {options.first}", flush=True)
    tried = aimed = failed = 0
    cells: Cells = Counter()
    for verdict in try_seeds(options.first, options.seeds, made, seconds=options.seconds, jobs=options.jobs):
        tried += 1
        cells.update(verdict.under_way)
        if verdict.violations:
            failed += 1
            _show(verdict, made, not options.no_shrink)
            if not options.go_on:
                break
    if options.table and (not failed or options.go_on):
        for aiming, verdict in fill(options.first, cells, made):
            aimed += 1
            if verdict.violations:
                failed += 1
                _show(verdict, aiming, not options.no_shrink)
    if options.table:
        shown, empty = table(cells, all_faults())
        print(shown)
        print("empty: " + (", ".join(" × ".join(cell) for cell in empty) or "none"))
        print(f"{aimed} plans were aimed at what chance left empty")
    print(f"{tried} seeds, {failed} of them broke a promise")
    return 1 if failed else 0


def fix_hashes(module: str, words: list[str]) -> None:
    """Have the hashes of texts be the same for every run, by a new start of this program where they are not."""
    if os.environ.get("PYTHONHASHSEED") != _HASHES:
        os.environ["PYTHONHASHSEED"] = _HASHES
        os.execv(sys.executable, [sys.executable, "-m", module, *words])


def main(words: list[str]) -> int:
    fix_hashes("tests.simulator", words)
    from .suite import silence

    silence()
    options = _arguments(words)
    chosen = options.first is not None
    if not chosen:
        options.first = secrets.randbelow(1_000_000_000)
    files = (options.keep, options.save, options.history)
    shown = any(each is not None for each in files) or options.log or options.steps
    if options.plan is not None:
        return _plans(options)
    return _one(options, _made(options).plan(options.first)) if shown else _many(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
