"""Plans that bring a fault while an operation is under way, for what chance alone left out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count

from . import plan as plans
from .plan import (
    EMBEDDED_FAULTS,
    EVICTING_FAULTS,
    FAULTS,
    LAGGING_FAULTS,
    NEWS,
    RARE_EMBEDDED_FAULTS,
    RARE_EVICTING_FAULTS,
    RARE_FAULTS,
    SENTINEL_FAULTS,
    USERS,
    Plan,
    Step,
)

#: When the fault begins, s; what it interrupts is asked from a little before on, so many times, and as often just
#: before: some faults take no time, and an answer some milliseconds.
MOMENT = 3.0
TIMES = 8
JUST_BEFORE = 0.02


def faults_of(plan: Plan) -> set[str]:
    """Return the faults that may come in a plan with these settings."""
    redis = plan.settings["redis"]
    if plan.settings["engine"]["kind"] == "embedded":
        return {*EMBEDDED_FAULTS, *RARE_EMBEDDED_FAULTS}
    found = {*FAULTS, *RARE_FAULTS}
    if plan.policy != "noeviction":
        found |= {*EVICTING_FAULTS, *RARE_EVICTING_FAULTS}
    if "sentinels" in redis:
        found |= set(SENTINEL_FAULTS) | (set() if redis["wait_replicas"] else set(LAGGING_FAULTS))
    return found


Made = Callable[[random.Random, float, int], Step]


def _task(end: str, steps: int) -> Made:
    def made(chance: random.Random, at: float, number: int) -> Step:
        done = sorted(chance.sample(range(1, 100), steps))
        return Step(at, "task", {"task": f"a{number}", "user": chance.choice(USERS), "steps": done, "end": end})

    return made


def _notify(chance: random.Random, at: float, number: int) -> Step:
    return Step(at, "notify", {"user": USERS[number % len(USERS)], "key": f"a{number}"})


def _on_a_device(do: str, **more: object) -> Made:
    """A step of a device; those who have something in their inbox have it by then."""
    return lambda chance, at, number: Step(at, do, {"device": f"{USERS[number % len(USERS)]}-phone", **more})


def _read(chance: random.Random, at: float, number: int) -> Step:
    return Step(at, "read", {"user": chance.choice(USERS), "channel": chance.choice(NEWS)})


def _drop(chance: random.Random, at: float, number: int) -> Step:
    return Step(at - 0.5, "drop_device", {"device": f"{USERS[number % len(USERS)]}-phone"}, fault=True)


#: What leads to each operation of the table.
STEPS: dict[str, Made] = {
    "notify": _notify,
    "ack": _notify,
    "publish": lambda chance, at, number: Step(at, "publish", {"channel": chance.choice(NEWS), "key": f"a{number}"}),
    "task.create": _task("", 1),
    "task.progress": _task("", 4),
    "task.complete": _task("complete", 0),
    "task.fail": _task("fail", 0),
    "task.cancel": _task("cancel", 0),
    "ingest": lambda chance, at, number: Step(at, "ingest", {"keyed": chance.random() < 0.5}),
    "chat": lambda chance, at, number: Step(at, "chat", {"user": chance.choice(USERS), "key": f"a{number}"}),
    "direct": lambda chance, at, number: Step(at, "direct", {"user": "ann", "to": "bob", "key": f"a{number}"}),
    "inbox.list": _on_a_device("list", unread=False),
    "inbox.read": _on_a_device("mark", read=True, up_to=False),
    "inbox.delete": _on_a_device("delete"),
    "inbox": _read,
    "history": _read,
    "sign_in": _drop,
    "subscribe": _drop,
}


def aim(first: int, fault: str, operation: str) -> Plan:
    """Return a plan in which this fault comes while this operation is under way, as far as chance lets it; of the
    first seed from ``first`` on in which there is such a fault."""
    for seed in count(first):
        plan = plans.make(seed, 0, 0)
        if fault in faults_of(plan) and (operation != "ingest" or plan.settings["engine"]["kind"] == "redis"):
            break
    chance = random.Random(f"aim {seed} {fault} {operation}")
    before = [_notify(chance, 1.0 + number / 10, 100 + number) for number in range(len(USERS))]
    made = STEPS[operation]
    moments = [round(chance.uniform(MOMENT - 0.3, MOMENT + 0.6), 3) for _ in range(TIMES)]
    moments += [round(chance.uniform(MOMENT - JUST_BEFORE, MOMENT), 3) for _ in range(TIMES)]
    steps = before + [made(chance, at, number) for number, at in enumerate(sorted(moments))]
    steps.append(replace(plans.fault(chance, fault, plan), at=MOMENT))
    return replace(plan, steps=tuple(sorted(steps, key=lambda step: step.at)))
