"""What the kernel says of all processors and of a process; and what is left when ours is taken off."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from bench.scoreboard import quiet
from bench.scoreboard.quiet import Processes, Watch, busy_ticks, session_cpu, session_of

STAT = "cpu  100 20 300 4000 50 6 7 8 0 0\ncpu0 50 10 150 2000 25 3 3 4 0 0\nintr 1 2 3\n"


def test_waiting_is_not_work_and_stolen_time_is() -> None:
    assert busy_ticks(STAT) == 100 + 20 + 300 + 6 + 7 + 8


def test_a_process_may_be_called_anything() -> None:
    assert session_of("4711 (node (a b) R 7) S 1 4710 4709 0 -1 4194560 1 2") == 4709


def test_a_session_has_what_its_processes_used() -> None:
    assert session_cpu(os.getsid(0)) > 0
    # No process has this number: the kernel's are below 2**22.
    assert session_cpu(2**22 + 1) == 0


def test_what_was_called_and_has_ended_was_ours() -> None:
    before = Processes().used()
    program = "import time\nwhile time.process_time() < 0.05: pass"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert Processes().used() - before > 0.05


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the readings say, in seconds; the test moves them."""
    now = {"time": 10.0, "busy": 5.0, "server": 1.0, "client": 2.0, "redis": 0.5, "self": 3.0}
    pids = {11: "server", 12: "client", 13: "redis"}
    monkeypatch.setattr(quiet, "cpu", lambda pid: now[pids.get(pid, "self")])
    monkeypatch.setattr(quiet, "session_cpu", lambda session: now[pids[session]] if session in pids else 0.0)
    monkeypatch.setattr(quiet, "machine_busy", lambda: now["busy"])
    monkeypatch.setattr(quiet, "monotonic", lambda: now["time"])
    return now


def watched(machine: dict[str, float], **used: Any) -> Watch:
    with Watch(Processes({11}, {12, 13}), 11, [12], 13) as watch:
        for name, seconds in used.items():
            machine[name] += seconds
    return watch


def test_a_watch_says_what_each_used(machine: dict[str, float]) -> None:
    watch = watched(machine, time=2.0, server=1.0, client=0.5, redis=0.25, self=0.1, busy=1.9)
    assert (watch.seconds, watch.server, watch.redis, watch.load) == (2.0, 1.0, 0.25, 0.25)
    assert watch.other == pytest.approx((1.9 - 1.85) / 2)
    assert watch.quiet


def test_something_else_is_noticed(machine: dict[str, float]) -> None:
    watch = watched(machine, time=2.0, server=1.0, busy=1.3)
    assert watch.other == pytest.approx(0.15)
    assert not watch.quiet


def test_three_ticks_of_a_short_round_are_chance(machine: dict[str, float]) -> None:
    assert watched(machine, time=0.1, server=0.06, busy=0.09).quiet
    assert not watched(machine, time=0.1, server=0.06, busy=0.11).quiet


def test_ticks_that_are_not_counted_yet_are_no_work(machine: dict[str, float]) -> None:
    assert watched(machine, time=1.0, server=0.01, busy=0.0).other == 0.0
