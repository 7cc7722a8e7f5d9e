"""Whether the machine was quiet: what all processors did, without what we started ourselves.

The kernel counts ticks of 10 ms for each processor in ``/proc/stat``; what our processes used is subtracted from it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from bench.measure import cpu

#: Part of one core that something else may use during a round.
MOST_OTHER = 0.10

#: Seconds that chance may add to it: a tick is charged whole to what runs when it falls, and short rounds have few.
CHANCE = 0.03


def busy_ticks(stat: str) -> int:
    """Return the ticks in which any processor worked, or was kept from us, by the first line of ``/proc/stat``."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split(maxsplit=9)[1:9])
    return user + nice + system + irq + softirq + steal


def machine_busy() -> float:
    """Return the seconds in which any processor of this machine has worked."""
    return busy_ticks(Path("/proc/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def session_of(stat: str) -> int:
    """Return the session of the process whose ``/proc/PID/stat`` this is. Its name may hold spaces and brackets."""
    return int(stat[stat.rindex(")") + 2 :].split()[3])


def session_cpu(session: int) -> float:
    """Return the seconds of CPU that the living processes of a session have used: a whole server, workers and all."""
    used = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if session_of((entry / "stat").read_text()) == session:
                    used += cpu(int(entry.name))
            except OSError:
                # It ended meanwhile.
                continue
    return used


@dataclass
class Processes:
    """What was started: servers, each a session of its own, and the processes that load them, which are single."""

    sessions: set[int] = field(default_factory=set)
    clients: set[int] = field(default_factory=set)

    def used(self) -> float:
        # What was called and has ended, as what looks whether a peer is installed: no server ends during a round.
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        living = sum(map(session_cpu, self.sessions)) + sum(map(cpu, {os.getpid(), *self.clients}))
        return living + ended.ru_utime + ended.ru_stime


class Watch:
    """A context in which a figure is taken: afterwards it says what each of those concerned has used.

    ``server``, ``redis``    seconds of CPU
    ``load``                 the part of its core that the busiest client used
    ``other``                the part of a core that something else used
    ``seconds``              that passed
    """

    server = redis = load = other = seconds = 0.0

    def __init__(self, ours: Processes, server: int = -1, clients: Iterable[int] = (), redis: int = 0) -> None:
        self._ours = ours
        self._server = server
        self._clients = list(clients)
        self._redis = redis

    def _read(self) -> tuple[float, float, float, float, list[float], float]:
        loads = [cpu(pid) for pid in self._clients]
        redis = cpu(self._redis) if self._redis else 0.0
        return monotonic(), machine_busy(), self._ours.used(), session_cpu(self._server), loads, redis

    def __enter__(self) -> Watch:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        now, busy, used, server, loads, redis = self._read()
        then, busy0, used0, server0, loads0, redis0 = self._before
        self.seconds = now - then
        self.server = server - server0
        self.redis = redis - redis0
        self.load = max([(a - b) / self.seconds for a, b in zip(loads, loads0, strict=True)], default=0.0)
        self.other = max(0.0, ((busy - busy0) - (used - used0)) / self.seconds)

    @property
    def quiet(self) -> bool:
        return self.other * self.seconds <= MOST_OTHER * self.seconds + CHANCE
