"""``python -m tests.matrix [workers] [clients]``: real processes, tabs and networks, and what arrives.

Workers: publishers in the workers of a dozen frameworks; as many rows as hold every pair of values, with --all every
row. Clients: each fault, met by all clients together; with --all three times. A line for each row, and the seed that
chose them; exit status 1 where something was lost, came twice or came to somebody else. How long it took is said and
decides nothing. --write puts the tables into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from tests.matrix import clients, environment, tables, workers
from tests.matrix.cover import Row
from tests.matrix.nodes import nodes
from tests.matrix.players import Browsers
from tests.matrix.stage import stage

#: How often --all repeats each fault.
TIMES = 3
#: How many of the workers' rows are played beside each other: most of a row is waiting, for a start or for an end.
BESIDE = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("halves", nargs="*", metavar="HALF", help="workers, clients; default: both")
    parser.add_argument("--all", action="store_true", help="all of it: hours")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the choice and order of the rows")
    parser.add_argument("--only", action="append", default=[], help="rows whose text holds this; repeatable, all must")
    parser.add_argument("--python", type=Path, help="of an environment that has the frameworks already")
    parser.add_argument("--beside", type=int, default=BESIDE, help="so many of the workers' rows beside each other")
    parser.add_argument("--write", action="store_true", help="the tables into docs/reliability.md")
    parser.add_argument(
        "--keep", type=Path, help="a file of the workers' rows that hold: a run with it plays those that are not there"
    )
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write wants the whole table, --only leaves rows out")
    halves = {"workers": play_workers, "clients": play_clients}
    if unknown := set(options.halves) - halves.keys():
        parser.error(f"no such half: {', '.join(unknown)}")
    failed = [play(options) for name, play in halves.items() if not options.halves or name in options.halves]
    return 1 if any(failed) else 0


def play_workers(options: argparse.Namespace) -> int:
    """Play the workers' rows; return how many failed."""
    seed = options.seed
    rows = workers.all_rows() if options.all or options.only else workers.choose(seed)
    rows = [row for row in rows if all(text in " ".join(row) for text in options.only)]
    python = options.python or environment.python()
    kept = workers.Kept(options.keep)
    outcomes = [outcome for outcome in kept.outcomes if outcome.row in rows]
    started = time.monotonic()
    show(f"{len(rows)} rows of {workers.ENDS} ends, {options.beside} beside each other, seed {seed}")
    show(f"{'worker':17} {'leaves':9} {'server':6} {'by':5}  done  arrived  answered  lines  seconds")
    try:
        for outcome in played(python, list(filter(kept.lacks, rows)), options.beside):
            outcomes.append(outcome)
            kept.add(outcome)
            show(worker_line(outcome))
    finally:
        took = time.monotonic() - started
        kept.end(took)
    seconds = kept.took + took
    failed = [outcome for outcome in outcomes if not outcome.holds]
    done, received = sum(o.done for o in outcomes), sum(o.received for o in outcomes)
    lost = sum(outcome.lost for outcome in outcomes)
    each = sum(outcome.seconds for outcome in outcomes)
    show(
        f"{len(outcomes)} rows, {done} ends done, {received} arrived, {lost} lost, {len(failed)} rows failed, "
        f"{seconds:.0f} s (the rows by themselves {each:.0f} s), seed {seed}"
    )
    if options.write:
        tables.write("workers", tables.of_workers(outcomes, seed, seconds))
    return len(failed)


def played(python: Path, rows: list[Row], beside: int) -> Iterator[workers.Outcome]:
    """Play rows, so many beside each other: each has its own wire, queue and processes. Yield each as it ends."""
    with stage() as built, ThreadPoolExecutor(beside) as lanes:
        futures = [lanes.submit(workers.play, built, python, row, number) for number, row in enumerate(rows)]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def worker_line(outcome: workers.Outcome) -> str:
    worker, leaves, link, transport = outcome.row
    verdict = "" if outcome.holds else f"  FAILED: {outcome.fault or f'{outcome.lost} lost'}"
    return (
        f"{worker:17} {leaves:9} {link:6} {transport:5}  {outcome.done:4}  {outcome.received:7}  {outcome.answered:8}  "
        f"{outcome.logged:5}  {outcome.seconds:7.1f}{verdict}"
    )


def play_clients(options: argparse.Namespace) -> int:
    """Have the clients meet the faults; return how many cells failed."""
    seed = options.seed
    faults = list(clients.FAULTS)
    random.Random(seed).shuffle(faults)
    environment.browsers()
    show(f"{'fault':21} {'client':17}  due  missing  twice  wrong  seconds until back   (seed {seed})")
    started = time.monotonic()
    outcomes: list[clients.Outcome] = []
    with ExitStack() as stack:
        opened = stack.enter_context(nodes())
        browsers = Browsers()
        stack.callback(browsers.stop)
        for time_of in range(TIMES if options.all else 1):
            for fault in faults:
                meeting = [
                    client for client in clients.CLIENTS if all(text in f"{fault} {client}" for text in options.only)
                ]
                there = [client for client in meeting if not clients.why_empty(fault, client)]
                if there:
                    outcomes += (met := clients.play(opened, browsers, fault, there, seed + time_of))
                    for outcome in met:
                        show(client_line(outcome))
                for client in meeting:
                    if why := clients.why_empty(fault, client):
                        show(f"{fault:21} {client:17}  no such cell: {why}")
        tracebacks = opened.tracebacks()
    failed = [outcome for outcome in outcomes if not outcome.holds]
    due = sum(outcome.due for outcome in outcomes)
    seconds = time.monotonic() - started
    show(
        f"{len(outcomes)} cells, {due} messages due, {len(failed)} cells failed, {tracebacks} tracebacks of the nodes, "
        f"{seconds:.0f} s, seed {seed}"
    )
    if options.write:
        tables.write("clients", tables.of_clients(outcomes, seed, seconds))
    return len(failed) + tracebacks


def client_line(outcome: clients.Outcome) -> str:
    verdict = "" if outcome.holds else "  FAILED"
    counts = f"{outcome.due:4}  {outcome.missing:7}  {outcome.twice:5}  {outcome.wrong:5}"
    return f"{outcome.fault:21} {outcome.client:17} {counts}  {outcome.seconds:7.1f}{verdict}"


def show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
