"""A commit beside the working tree, in turns: is anything worse?

    python -m bench compare COMMIT [FIGURE ...] [--rounds 15] [--seed N]

The commit is built once, in an environment of its own as its ``setup.cfg`` says, and kept in ``build/trees``. In each
round both start anew, since processes of one program differ too; chance says which of them goes first. All figures are
costs. Of each, the median of the rounds' ratios (working tree / commit) is printed with its 95 % interval, and

    worse       where the interval lies wholly above 1.03
    better      where it lies wholly below 1 / 1.03
    same        where it lies wholly between them
    not clear   otherwise: too few rounds, or too much else on the machine

Exit status 1 where anything is worse. A commit that cannot be built, or a round that dies, ends the run with one line
and exit status 1; nothing is said of a figure that lacks a round.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random
from types import FrameType
from typing import Final

from bench.figures import idle_memory, inbound, notify, one_a_turn, running, sign_in, ten_a_turn, warm
from bench.measure import Progress, machine
from bench.ratios import ratio
from bench.servers import KeepingServer, Load, NotAvailable, PushServer, SecurePushServer, Server, redis_server
from tools.trees import WORKING_TREE, CannotBuild, Tree, build

#: Of fewer rounds nothing is said: the interval of their ratios would be too wide, or right by chance.
LEAST: Final = 15

#: Takes a figure once.
Meter = Callable[[], float]

#: What a round that dies may raise: a server that ends or does not answer, a load client that gives up.
DEATHS = (NotAvailable, RuntimeError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Figure:
    """What is compared. ``prepare`` starts a tree's server, to be stopped by the stack, and returns how it is read.

    In a round each meter is read ``slices`` times, in turns, and the mean counts.
    """

    title: str
    unit: str
    prepare: Callable[[ExitStack, Tree], Meter]
    slices: int = 1


class RoundDied(Exception):
    """A round did not come to its end; the message is one line."""


def _own_redis(stack: ExitStack, wanted: bool) -> str:
    """Return the address of a Redis of its own; empty where none is wanted."""
    return f"redis://127.0.0.1:{stack.enter_context(redis_server())}/0" if wanted else ""


def _fan_out(
    take: Callable[[Server, Load, int, int], float],
    times: int,
    stack: ExitStack,
    tree: Tree,
    connections: int = 1_000,
    redis: bool = False,
    kind: type[Server] = PushServer,
) -> Meter:
    server, load = stack.enter_context(running(kind, connections, tree=tree, redis=_own_redis(stack, redis)))
    take(server, load, 10, connections)
    return partial(take, server, load, times, connections)


def _sign_in(
    stack: ExitStack,
    tree: Tree,
    which: int = 0,
    window: int = 64,
    redis: bool = False,
    kind: type[Server] = PushServer,
) -> Meter:
    """Clients of other users in each slice; they stay until the round is over, so that no leaving is measured."""
    server, _ = stack.enter_context(running(kind, tree=tree, redis=_own_redis(stack, redis)))
    warm(server, 200)
    clients = 100 if window == 1 else 400
    firsts = count(1_000, clients)

    def read() -> float:
        load = Load(server)
        stack.callback(load.close)
        return sign_in(server, load, clients, next(firsts), window)[which]

    return read


def _notify(stack: ExitStack, tree: Tree) -> Meter:
    users = 100
    server, load = stack.enter_context(running(PushServer, users, tree=tree))
    notify(server, load, users, users)
    return partial(notify, server, load, 2 * users, users)


def _inbound(stack: ExitStack, tree: Tree) -> Meter:
    connections = 100
    server, load = stack.enter_context(running(PushServer, connections, tree=tree))
    inbound(server, load, connections, 20)
    return partial(inbound, server, load, connections, 250)


def _memory(stack: ExitStack, tree: Tree) -> Meter:
    server, load = stack.enter_context(running(PushServer, tree=tree))
    warm(server, 100)
    return partial(idle_memory, server, load, 4_000)


def _start(_: ExitStack, tree: Tree) -> Meter:
    def read() -> float:
        with running(PushServer, tree=tree) as (server, _):
            return server.started_in * 1e3

    return read


FIGURES = {
    "fanout": Figure("fan-out, one a turn", "µs of CPU", partial(_fan_out, one_a_turn, 40), slices=4),
    "bursts": Figure("fan-out, ten a turn", "µs of CPU", partial(_fan_out, ten_a_turn, 25), slices=4),
    "accept": Figure("accept with sign-in", "µs of CPU", _sign_in, slices=3),
    "redis-sign-in": Figure("sign-in over Redis", "µs of CPU", partial(_sign_in, redis=True), slices=3),
    "redis-wait": Figure(
        "sign-in over Redis, one by one", "ms", partial(_sign_in, which=1, window=1, redis=True), slices=4
    ),
    "tls-fanout": Figure(
        "fan-out over TLS", "µs of CPU", partial(_fan_out, one_a_turn, 20, kind=SecurePushServer), slices=4
    ),
    "tls-accept": Figure(
        "accept over TLS with sign-in", "µs of CPU", partial(_sign_in, kind=SecurePushServer), slices=3
    ),
    "notify": Figure("notify, kept and handed out", "µs of CPU", _notify, slices=4),
    "history": Figure(
        "publish with history",
        "µs of CPU",
        partial(_fan_out, one_a_turn, 300, connections=1, kind=KeepingServer),
        slices=4,
    ),
    "redis-history": Figure(
        "publish with history over Redis",
        "µs of CPU",
        partial(_fan_out, one_a_turn, 300, connections=1, redis=True, kind=KeepingServer),
        slices=4,
    ),
    "inbound": Figure("inbound", "µs of CPU", _inbound, slices=4),
    "memory": Figure("idle memory", "KiB", _memory),
    "start": Figure("start to ready", "ms", _start, slices=2),
}


def play(figure: Figure, trees: list[Tree]) -> dict[str, float]:
    """Return one round's figure of each tree, by name, taken in turns in the order of the list."""
    with ExitStack() as stack:
        meters = {tree.name: figure.prepare(stack, tree) for tree in trees}
        taken: dict[str, list[float]] = {name: [] for name in meters}
        for _ in range(figure.slices):
            for name, read in meters.items():
                taken[name].append(read())
    return {name: statistics.fmean(values) for name, values in taken.items()}


def rounds(name: str, trees: tuple[Tree, Tree], times: int, random: Random, progress: Progress) -> list[list[float]]:
    """Return a figure of each tree, a value for each round. Raises RoundDied."""
    taken: list[list[float]] = [[], []]
    for number in range(1, times + 1):
        progress.show(f"{name}: round {number} of {times}")
        order = random.sample(trees, k=2)
        try:
            values = play(FIGURES[name], order)
        except DEATHS as problem:
            said = " ".join(str(problem).split())
            raise RoundDied(f"{name}, round {number} of {times}: {type(problem).__name__}: {said[-300:]}") from problem
        for series, tree in zip(taken, trees, strict=True):
            series.append(values[tree.name])
    return taken


def differing(old: Tree, new: Tree) -> list[str]:
    """Return what both environments have, in different versions."""
    was, now = old.versions(), new.versions()
    return [f"{name} {was[name]} -> {now[name]}" for name in sorted(was.keys() & now.keys()) if was[name] != now[name]]


def compare(commit: str, names: list[str], times: int, seed: int) -> int:
    """Print the comparison; return the exit status."""
    progress, random, worse = Progress(), Random(seed), []
    print(f"{time.strftime('%Y-%m-%d', time.gmtime())}, {machine()}, {times} rounds, seed {seed}", flush=True)
    try:
        progress.show(f"building {commit}")
        WORKING_TREE.check()
        old = build(commit)
        versions = differing(old, WORKING_TREE)
        progress.done()
        print(f"{old.name} -> working tree; other versions: {', '.join(versions) or 'none'}", flush=True)
        for name in names:
            before, after = rounds(name, (old, WORKING_TREE), times, random, progress)
            progress.done()
            found = ratio(after, before, random)
            worse += [name] if found.verdict == "worse" else []
            was, now = statistics.median(before), statistics.median(after)
            print(
                f"{FIGURES[name].title:32}{was:9.2f} -> {now:9.2f} {FIGURES[name].unit:10}"
                f"x {found.median:.3f} ({found.low:.3f} - {found.high:.3f})  {found.verdict}",
                flush=True,
            )
    except (CannotBuild, RoundDied) as problem:
        progress.done()
        print(f"not compared: {problem}", flush=True)
        return 1
    print(f"worse: {', '.join(worse)}" if worse else "nothing worse")
    return 1 if worse else 0


def _terminated(number: int, _: FrameType | None) -> None:
    """As for an interrupt: what was started is stopped on the way out."""
    sys.exit(128 + number)


def main(words: list[str]) -> int:
    options = argparse.ArgumentParser(
        prog="python -m bench compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("commit")
    options.add_argument("figures", nargs="*", metavar="FIGURE", help=f"default: all of {', '.join(FIGURES)}")
    options.add_argument("--rounds", type=int, default=LEAST, help=f"at least {LEAST} (the default)")
    options.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = options.parse_args(words)
    for name in given.figures:
        if name not in FIGURES:
            options.error(f"no such figure: {name} (there are {', '.join(FIGURES)})")
    if given.rounds < LEAST:
        print(f"python -m bench compare: a verdict needs at least {LEAST} rounds, not {given.rounds}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminated)
    return compare(given.commit, given.figures or list(FIGURES), given.rounds, given.seed)
