"""Processes that stand still, also where one fault ends what another began."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulator.plan import Plan, Step, make
from tests.simulator.run import Run
from tests.simulator.world import Process, World


def with_sentinels(*steps: Step) -> Plan:
    plan = next(plan for plan in (make(seed, 0, 0) for seed in range(100)) if "sentinels" in plan.settings["redis"])
    return Plan(plan.seed, plan.nodes, plan.seconds, plan.settings, plan.devices, steps)


def test_the_end_of_a_hold_that_is_over_lets_no_later_one_go_on() -> None:
    world = World(1)
    process = Process(world, "redis", "10.0.1.1")
    over = process.hold()
    process.go_on()
    over()
    end = process.hold()
    ran: list[float] = []
    process.later(0, lambda: ran.append(world.now))
    world.at(1.0, over)
    world.at(2.0, end)
    world.run(3.0)
    assert (ran, process.held) == ([2.0], False)


def test_who_stands_still_when_told_to_end_is_back_in_the_end(tmp_path: Path) -> None:
    plan = make(0, 0, 0)
    node = {"node": "n1"}
    steps = (Step(5.7, "stop", {**node, "seconds": 25}), Step(5.7, "hold", {**node, "seconds": 1}))
    run = Run(Plan(plan.seed, 1, 6.0, plan.settings, plan.devices, steps), tmp_path)
    assert '"event":"device"' in run.run()
    assert run.nodes[0].ready


def test_an_old_master_stands_still_until_it_is_back_whatever_held_it_before(tmp_path: Path) -> None:
    hold, restart = Step(1.0, "redis_hold", {"seconds": 5.0}), Step(2.0, "redis_restart", {"seconds": 0.1})
    failover = Step(3.0, "failover_back", {"seconds": 6.0, "back": True})
    run = Run(with_sentinels(hold, restart, failover), tmp_path)
    for step in run._plan.steps:
        run._schedule(step)
    run.world.run(8.0)
    assert run.sentinels is not None
    old = run.sentinels.replica
    assert (old.process.held, old.model.master) == (True, True)
    run.world.run(11.0)
    assert (old.process.held, old.model.master, run.redis.model.followed) == (False, False, True)


def test_a_run_whose_master_nobody_follows_in_the_end_cannot_be_judged(tmp_path: Path) -> None:
    run = Run(with_sentinels(), tmp_path)
    assert run.sentinels is not None
    run.sentinels.ready = False
    with pytest.raises(RuntimeError, match="nobody follows the master"):
        run._read_all()
