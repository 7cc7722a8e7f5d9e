"""From the figures of a run to 1,000,000 connections, and to the limit of one Redis.

Nothing here is measured. Each line has a name, a formula and a unit; a formula uses the names of figures, of what is
given, and of lines before it, and is Python: whoever has the figures can type it in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.scale.records import Record


class Line(NamedTuple):
    """A step of the arithmetic: what its value is called in later formulas, and what it means."""

    name: str
    formula: str
    unit: str
    meaning: str


#: What is given: the goal, and what the default configuration says.
GIVEN: Final = {"goal": 1_000_000.0, "ping_interval": 25.0}

MILLION: Final = (
    Line("per_worker", "connections / workers", "connections", "of one worker, as in the run"),
    Line("workers_needed", "ceil(goal / per_worker)", "workers", "each as full as those of the run"),
    Line("server_gib", "(goal * server_kib + workers_needed * server_base_mib / workers * 1024) / 2**20", "GiB",
         "memory of all server processes"),
    Line("kernel_gib", "goal * kernel_kib / 2**20", "GiB", "memory of the kernel, at most: the run had both ends"),
    Line("pings_a_second", "goal / ping_interval", "pings a second", "that are sent, and answered"),
    Line("idle_cores", "goal * (idle_cpu - empty_cpu) / connections + workers_needed * empty_cpu / workers",
         "cores", "for all idle connections, pings and all"),
    Line("sign_in_core_seconds", "goal * sign_in_us / 1e6", "s of a core", "to sign all in"),
    Line("broadcast_core_seconds", "goal * broadcast_us / 1e6", "s of a core", "for one broadcast to all"),
    Line("broadcast_seconds", "broadcast_core_seconds / workers_needed", "s",
         "until the last has it, where each worker has a core of its own"),
    Line("lost_with_a_worker", "goal / workers_needed", "connections", "that one killed worker ends"),
)  # fmt: skip

REDIS: Final = (
    Line("redis_node_us", "(redis_publish_all_us - redis_publish_one_us) / (workers - 1)", "µs",
         "of Redis for each further node that follows a channel"),
    Line("redis_idle_cores",
         "goal * max(0, idle_redis_cpu - empty_redis_cpu) / connections + workers_needed * empty_redis_cpu / workers",
         "cores", "of Redis for idle connections and their nodes"),
    Line("redis_free", "max(0, 1 - redis_idle_cores)", "cores", "of Redis left for all else: it uses one core"),
    Line("redis_gib", "goal * redis_bytes / 2**30", "GiB", "memory of Redis for who is online"),
    Line("sign_ins_a_second", "redis_free * 1e6 / redis_sign_in_us", "a second", "that one Redis takes"),
    Line("all_signed_in_seconds", "goal / sign_ins_a_second", "s", "until all are signed in, where Redis is the limit"),
    Line("broadcast_redis_us", "redis_publish_one_us + redis_node_us * (workers_needed - 1)", "µs",
         "of Redis for a message to a channel that all nodes follow"),
    Line("broadcasts_a_second", "redis_free * 1e6 / broadcast_redis_us", "a second", "that one Redis carries"),
    Line("messages_to_one_node", "redis_free * 1e6 / redis_publish_one_us", "a second",
         "to channels that one node follows, such as one user's"),
    Line("connections_of_one_redis", "goal / redis_idle_cores", "connections",
         "idle ones, on such workers, that take all of its core"),
)  # fmt: skip


class Step(NamedTuple):
    """A line with its value; None where a figure is missing on which it rests."""

    line: Line
    value: float | None


def inputs(record: Record) -> dict[str, float]:
    """Return what the formulas may use: the figures of a run, its layout, and what is given."""
    layout = {"connections": record.connections, "workers": record.workers, "files": record.files}
    return {**GIVEN, **layout, **record.figures}


def steps(lines: tuple[Line, ...], known: dict[str, float]) -> Iterator[Step]:
    """Yield each line with its value, and add it to what is known."""
    for line in lines:
        value = None
        try:
            # The formulas are the constants above.
            value = float(eval(line.formula, {"__builtins__": {}, "ceil": math.ceil, "max": max}, known))
            known[line.name] = value
        except (NameError, ZeroDivisionError):
            pass
        yield Step(line, value)
