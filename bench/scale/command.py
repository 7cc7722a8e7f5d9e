"""python -m bench scale [--connections N] [--workers N] [--files N] [--idle S] [--broadcasts N] [--results FILE]
python -m bench scale --report [FILE] [--write]

Starts the whole server with workers and a Redis, signs clients in, and measures them idle, at a broadcast, and when a
worker is killed. A run that is whole is a line in FILE. What goes wrong ends it: one line, exit status 1, no figures,
and nothing is left running. --report prints the newest stored run (or that of FILE), --write makes docs/scaling.md of
the newest.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from bench.measure import Progress, machine
from bench.scale.limits import plan, this_machine
from bench.scale.records import FULL, Record, keep, newest, record, runs, usual_file
from bench.scale.report import NOTHING, PAGE, text, write
from bench.scale.steps import BATCH, Run, Sizes
from bench.scoreboard.command import commit
from bench.scoreboard.records import Unusable
from bench.scoreboard.rounds import TROUBLE, one_line

#: Descriptors of a worker, where a process may have so many.
FILES = 18_000

#: Fewer connections than these are a try: it need not be idle for a whole round of pings.
SMALL = 1_000


def _terminated(number: int, _: FrameType | None) -> None:
    """As for an interrupt: what was started is stopped on the way out."""
    sys.exit(128 + number)


def positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a positive number")
    return value


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=positive, default=FULL)
    parser.add_argument("--workers", type=positive, default=4, help="2 or more")
    parser.add_argument(
        "--files", type=positive, help=f"descriptors of a worker (default: {FILES}, or the most allowed)"
    )
    parser.add_argument("--window", type=positive, default=64, help="sign-ins at a time, in each client process")
    parser.add_argument("--idle", type=float, help="seconds (default: 30; 2 where there are few connections)")
    parser.add_argument("--broadcasts", type=positive, default=5, help="before the kill, and after it")
    parser.add_argument("--publications", type=positive, help="over Redis (default: 2000; 500 where there are few)")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="default: bench/results/scale/DATE.jsonl, or build/"
    )
    parser.add_argument("--report", nargs="?", type=Path, const=Path(), metavar="FILE", help="measure nothing")
    parser.add_argument("--write", action="store_true", help="measure nothing; make docs/scaling.md of the newest run")
    return parser


def sizes(given: argparse.Namespace) -> Sizes:
    few = given.connections < SMALL
    idle = given.idle if given.idle is not None else 2.0 if few else 30.0
    publications = given.publications or (500 if few else 2_000)
    return Sizes(idle, given.broadcasts, max(BATCH, publications), given.window)


def said(given: argparse.Namespace, chosen: Sizes, files: int) -> str:
    """Return the command that takes the same figures: what a record tells of it, without where the record lies."""
    return (
        f"python -m bench scale --connections {given.connections} --workers {given.workers} --files {files} "
        f"--window {given.window} --idle {chosen.idle:g} --broadcasts {given.broadcasts} "
        f"--publications {chosen.publications}"
    )


def show(file: Path | None, written: bool) -> int:
    """Print a stored run, and make the page of the newest where that is wanted."""
    try:
        if file is None:
            found = newest()
        else:
            stored = runs(file)
            found = stored[-1] if stored else None
        if written:
            write(PAGE, newest())
    except (OSError, Unusable, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(NOTHING if found is None else text(found))
    return 0


def measure(given: argparse.Namespace, chosen: Sizes, progress: Progress) -> Record:
    """Take a whole run. Raises what ends one: one of TROUBLE."""
    there = this_machine()
    laid_out = plan(given.connections, given.workers, given.files or min(FILES, there.files), there)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    taken = record(laid_out, date, machine(), said(given, chosen, laid_out.files), commit())
    with ExitStack() as stack:
        run = Run(laid_out, chosen, progress, stack)
        figures = run.take()
    taken.figures.update((name, round(value, 6)) for name, value in figures.items())
    taken.others.update((name, round(value, 4)) for name, value in run.others.items())
    return taken


def main(words: list[str]) -> int:
    parser = options()
    given = parser.parse_args(words)
    if given.report is not None or given.write:
        return show(given.report if given.report != Path() else None, given.write)
    if given.workers < 2:
        parser.error("one worker alone has nobody to take over: --workers 2 or more")
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    progress = Progress()
    try:
        taken = measure(given, sizes(given), progress)
        file = given.results or usual_file(taken.date, taken.connections)
        keep(file, taken)
    except KeyboardInterrupt:
        progress.done()
        print("interrupted: nothing was measured", file=sys.stderr)
        return 128 + signal.SIGINT
    except (*TROUBLE, Unusable) as problem:
        progress.done()
        print(f"not measured: {one_line(problem)}", file=sys.stderr)
        return 1
    progress.done()
    print(text(taken))
    return 0
