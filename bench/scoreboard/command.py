"""python -m bench scoreboard [PATH ...] [--rounds N] [--most N] [--results FILE] [--without PEER] [--quick]

Takes the figures of the paths (default: all but proof) beside today's peers, and keeps each round in FILE. The same
command goes on where an interrupted run was. The path proof sets this build beside itself, and beside itself with a
planted slowdown of a tenth: the one must keep its target, the other miss it. Exit status 1 where something was not
measured or a target is not met.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from bench.measure import Progress, machine
from bench.scoreboard.meters import FULL, QUICK
from bench.scoreboard.paths import BY_NAME, PATHS, PEERS
from bench.scoreboard.records import Book, Run, Unusable, begun
from bench.scoreboard.report import RESULTS, all_met, text
from bench.scoreboard.rounds import Rounds
from bench.scoreboard.verdicts import LEAST_ROUNDS
from tools.trees import ROOT

#: Rounds after which a target that is still open stays so.
MOST_ROUNDS = 15


def commit() -> str:
    """Return the commit of the working tree, with a plus where it was changed since."""

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


def said(given: argparse.Namespace) -> str:
    """Return the command that takes the same figures: what a record tells of it, without where the record lies."""
    without = [f"--without {shlex.quote(name)}" for name in given.without]
    options = [f"--rounds {given.rounds}", f"--most {given.most}", *without, *(["--quick"] if given.quick else [])]
    return " ".join(["python -m bench scoreboard", *given.paths, *options])


def _terminated(number: int, _: FrameType | None) -> None:
    """As for an interrupt: what was started is stopped on the way out."""
    sys.exit(128 + number)


def main(words: list[str]) -> int:
    options = argparse.ArgumentParser(
        prog="python -m bench scoreboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("paths", nargs="*", metavar="PATH", help=f"of {', '.join(BY_NAME)}")
    options.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help=f"a verdict needs {LEAST_ROUNDS}")
    options.add_argument(
        "--most", type=int, help=f"rounds while a target is open (default {MOST_ROUNDS}; --quick: none)"
    )
    options.add_argument("--results", type=Path, metavar="FILE", help="default: of this commit's run in bench/results")
    options.add_argument("--quick", action="store_true", help="tiny sizes on a busy machine: shows that it works")
    options.add_argument("--without", action="append", default=[], choices=PEERS, metavar="PEER", help="repeatable")
    given = options.parse_args(words)
    for name in given.paths:
        if name not in BY_NAME:
            options.error(f"no such path: {name} (there are {', '.join(BY_NAME)})")
    if given.most is None:
        # Tiny sizes decide nothing, however often they are taken.
        given.most = given.rounds if given.quick else MOST_ROUNDS
    given.most = max(given.rounds, given.most)
    signal.signal(signal.SIGTERM, _terminated)
    # That of a terminal that is closed; who asked to be spared it (nohup) goes on.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminated)
    sizes = QUICK if given.quick else FULL
    date = time.strftime("%Y-%m-%d", time.gmtime())
    run = Run(date, machine(), said(given), commit(), sizes.name)
    usual = ROOT / "build" / f"quick-{run.commit}.jsonl" if given.quick else begun(RESULTS, run)
    try:
        book = Book(given.results or usual, run)
    except Unusable as problem:
        print(problem, file=sys.stderr)
        return 1
    progress = Progress()
    paths = [BY_NAME[name] for name in given.paths] or list(PATHS)
    try:
        rounds = Rounds(book, sizes, given.rounds, given.most, progress, tolerant=given.quick)
        for name in given.without:
            rounds.leave_out(PEERS[name])
        for path in paths:
            rounds.take(path)
            progress.done()
            print(f"\n{text(book.record, path)}", flush=True)
    finally:
        progress.done()
        book.close()
    return 0 if all_met(book.record, paths) else 1
