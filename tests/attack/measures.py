"""What is measured of an attack: a process's memory and time, and what most of some waits are not above."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path


def memory(pid: int, name: str = "VmRSS:") -> int:
    """Return the bytes of memory that a process has now; with ``VmHWM:`` at most so far. 0 of one that has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def processor(pid: int) -> float:
    """Return the seconds of the processor that a process has used."""
    # Linux numbers the clock of each process by its pid (`clock_getcpuclockid`).
    return time.clock_gettime(~pid << 3 | 2)


def p99(waits: Sequence[float]) -> float:
    """Return the time that 99 of 100 of these take at most."""
    ordered = sorted(waits) or [float("inf")]
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
