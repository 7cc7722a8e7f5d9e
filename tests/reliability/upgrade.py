"""A node of an older version and a node of this tree, on one Redis and on one store: what version 1 promises holds.

    python -m tests.reliability.upgrade [--seed N] [--seconds N] [--only PART] [--commit COMMIT]        make upgrade

The commit is built once, in an environment of its own, and kept in ``build/trees``. Parts:

- ``store``: a store of the old server, written under load, migrated by this tree; killed half-way.
- ``old-first``, ``new-first``: a node of each version under every fault of `cluster`. Whoever is first makes what lies
  in Redis.
- ``replace``: old nodes, replaced by new ones under load in random order, by stop and by kill; rolled back; and so on.

Prints the seed and the books of each part; exit status 1 where a promise does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability import cluster
from tests.reliability.cluster import FAULTS, Books, Cluster, Fault, Steps
from tests.reliability.migration import Broken, migrate
from tests.reliability.writing import write_and_read
from tools.trees import CannotBuild, build

#: The last commit of version 1.
VERSION_1 = "99de839"

NODES = 3


def replaced(number: int, program: Path | None, kill: bool) -> Fault:
    """Return the step that replaces a node by a server of these programs, stopped before or killed."""

    async def replace(nodes: Cluster, books: Books, chance: random.Random) -> None:
        if kill:
            await asyncio.to_thread(nodes.nodes[number].kill)
        else:
            status = await asyncio.to_thread(nodes.nodes[number].terminate)
            if status != -15:
                books.faults.append(f"a node ended with status {status} after SIGTERM")
        # Only now: whoever looks for a node of the newer version must not find the older one here.
        nodes.programs[number] = program
        await asyncio.to_thread(nodes.restart, number)

    return replace


def replacements(old: Path, chance: random.Random) -> Steps:
    """All nodes to new, all back to old, and then any node to the other version, each by stop or by kill."""
    now: list[Path | None] = [old] * NODES

    def swap(number: int) -> tuple[str, Fault]:
        now[number] = old if now[number] is None else None
        kill = chance.random() < 0.5
        name = f"{'upgraded' if now[number] is None else 'rolled back'} by {'kill' if kill else 'stop'}"
        return name, replaced(number, now[number], kill)

    for _ in range(2):
        for number in chance.sample(range(NODES), NODES):
            yield swap(number)
    while True:
        yield swap(chance.randrange(NODES))


def store(place: Path, seed: int, seconds: float, old: Path) -> dict[str, Any]:
    """Play the part ``store``; return its books. Raises `Broken` and AssertionError."""
    server, scratch = place / "server", place / "scratch"
    server.mkdir()
    books, done = asyncio.run(migrate(server, scratch, seed, seconds / 6, old))
    return done | books.table()


def mixed(
    place: Path,
    seed: int,
    seconds: float,
    programs: list[Path | None],
    steps: Callable[[random.Random], Steps],
    least: int,
) -> dict[str, Any]:
    """Play a part on Redis; return its books. Raises `Broken`."""
    books = asyncio.run(cluster.run(place, seconds, seed, 50, programs, steps, least, companions=[write_and_read]))
    broken = books.broken()
    came = books.seen_ended and books.history_delivered and books.live_delivered and books.outputs_read
    if not (came and any(books.received.values())):
        broken.append(f"too little came: {books.table()}")
    if broken:
        raise Broken("; ".join(broken))
    return books.table()


Part = Callable[[Path, int, float, Path], dict[str, Any]]

PARTS: dict[str, Part] = {
    "store": store,
    "old-first": lambda place, seed, seconds, old: mixed(
        place, seed, seconds, [old, None], cluster.faults_in_turn, len(FAULTS)
    ),
    "new-first": lambda place, seed, seconds, old: mixed(
        place, seed, seconds, [None, old], cluster.faults_in_turn, len(FAULTS)
    ),
    "replace": lambda place, seed, seconds, old: mixed(
        place, seed, seconds, [old] * NODES, lambda chance: replacements(old, chance), 2 * NODES
    ),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.upgrade", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the order of all that is done")
    parser.add_argument("--seconds", type=float, default=60, help="that each part lasts, at least")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeatable")
    parser.add_argument("--commit", default=VERSION_1, help=f"the older version (default: {VERSION_1})")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    try:
        old = build(options.commit).python.parent
    except CannotBuild as problem:
        print(problem, file=sys.stderr)
        return 1
    failed = [name for name in options.only or PARTS if not play(name, options.seed, options.seconds, old)]
    if failed:
        print(f"broken: {', '.join(failed)}; repeat with --seed {options.seed}")
    return bool(failed)


def play(name: str, seed: int, seconds: float, old: Path) -> bool:
    """Play a part in a folder of its own, and print how it went; return whether all held."""
    with tempfile.TemporaryDirectory(prefix="upgrade-") as place:
        try:
            table = PARTS[name](Path(place), seed, seconds, old)
        except (Broken, AssertionError) as problem:
            print(f"{name}: broken: {problem}", flush=True)
            return False
    print(f"{name}: holds {json.dumps(table, indent=1)}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
