"""Seeds with events: the backend is told what happens, by a webhook whose receiver fails a third of the events once.

    python -m tests.simulator.events [--from N] [--seeds 100] [--seconds S] [--faults 4]
    python -m tests.simulator.events --mutants        known mistakes, and the seed and the rule that find each

A plan is that of the seed, and more of what is told. Exit status 1 where a promise was broken, or a mutant not found.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from dataclasses import replace

from tests.simulator.plan import USERS, Plan, Step, make

from .mutants import Mutant, hunt
from .receivers import SETTINGS

_SENDER = "server/events/sender.py"
_FAILED = "        wait = None if outcome.taken else self._next(entry.event, 1, outcome)\n"
_HELD = "            await self._hold(lane, state, list(lane.queue))\n            lane.held = state\n"

MUTANTS = (
    Mutant(
        "event-not-kept",
        (("engine/redis/lua/write.lua", "    emit(KEYS[#KEYS - 1], KEYS[#KEYS], ARGV[#ARGV - 1])\n", ""),),
    ),
    Mutant(
        "failed-and-passed-over",
        (
            (
                _SENDER,
                _FAILED,
                "        if not outcome.taken:\n            lane.queue.popleft()\n            self._finish(entry)\n"
                f"            return\n{_FAILED}",
            ),
        ),
    ),
    Mutant(
        "failed-and-overtaken",
        ((_SENDER, _HELD, "            await self._hold(lane, state, [entry])\n"),),
    ),
    Mutant(
        "cursor-beyond-what-is-under-way",
        ((_SENDER, "        while window and window[0].settled:\n", "        while window:\n"),),
    ),
)


def plan_of(seed: int, faults: int = 4) -> Plan:
    """Return a seed's plan with events."""
    plan, chance = make(seed, faults=faults), random.Random(f"events {seed}")
    more = [_step(chance, number, plan.seconds) for number in range(20)]
    steps = tuple(sorted([*plan.steps, *more], key=lambda step: step.at))
    return replace(plan, settings=plan.settings | {"events": SETTINGS}, steps=steps)


def _step(chance: random.Random, number: int, seconds: float) -> Step:
    at, user = round(chance.uniform(1.0, seconds), 3), chance.choice(USERS)
    if number % 4 == 0:
        with_ = {"task": f"e{number}", "user": user, "steps": [], "end": chance.choice(("complete", "fail", "cancel"))}
        return Step(at, "task", with_)
    to = chance.choice([other for other in USERS if other != user])
    return Step(at, "direct", {"user": user, "to": to, "key": f"e{number}"})


def try_seeds(first: int, seeds: int, seconds: float | None, faults: int) -> int:
    """Try seed after seed, until one breaks a promise; print what it broke. Return the exit status."""
    from .event_rules import judge
    from .run import run

    began = time.monotonic()
    for seed in range(first, first + seeds):
        for violation in judge(run(plan_of(seed, faults)))[:1]:
            print(f"seed {seed}: {violation}")
            print(f"  again: python -m tests.simulator.events --from {seed} --seeds 1 --faults {faults}")
            return 1
        if seconds is not None and time.monotonic() - began > seconds:
            break
    print(f"{seed - first + 1} seeds, 0 of them broke a promise")
    return 0


def hunt_mutants(first: int, seeds: int, seconds: float) -> int:
    """Print which seed finds each mutant, by which rule. Return the exit status."""
    missed = 0
    for mutant in MUTANTS:
        found = hunt(mutant, first, seeds, seconds, "tests.simulator.events")
        missed += found is None
        print(f"{mutant.name:28} {' '.join(found or ('not found',))}", flush=True)
    return 1 if missed else 0


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.events")
    parser.add_argument("--from", dest="first", type=int, help="the first seed; else one that chance chooses")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--faults", type=int, default=4)
    parser.add_argument(
        "--no-shrink", action="store_true", help="nothing is shrunk here; the simulator takes this word too"
    )
    parser.add_argument("--mutants", action="store_true")
    options = parser.parse_args(words)
    if options.mutants:
        return hunt_mutants(options.first or 1, options.seeds, options.seconds or 1_800.0)
    first = secrets.randbelow(1_000_000_000) if options.first is None else options.first
    print(f"first seed {first}", flush=True)
    return try_seeds(first, options.seeds, options.seconds, options.faults)


if __name__ == "__main__":
    from .__main__ import fix_hashes
    from .suite import silence

    fix_hashes("tests.simulator.events", sys.argv[1:])
    silence()
    sys.exit(main(sys.argv[1:]))
