"""Where plans look for mistakes: around the beginning of faults, where devices are away, and in rare faults."""

from __future__ import annotations

from tests.simulator.plan import AFTER, BEFORE, RARE_EMBEDDED_FAULTS, RARE_EVICTING_FAULTS, RARE_FAULTS, make

SEEDS = range(40)


def test_many_operations_are_asked_around_the_beginning_of_a_fault() -> None:
    near = total = by_chance = 0.0
    for seed in SEEDS:
        plan = make(seed, faults=2)
        faults = [step.at for step in plan.steps if step.fault]
        asked = [step.at for step in plan.steps if not step.fault]
        assert all(1.0 <= at <= plan.seconds for at in asked)
        near += sum(any(fault - BEFORE <= at <= fault + AFTER for fault in faults) for at in asked)
        total += len(asked)
        by_chance += len(asked) * min(1.0, 2 * (BEFORE + AFTER) / (plan.seconds - 1.0))
    assert near > 1.3 * by_chance
    assert total - near > 0.2 * total


def test_without_faults_there_are_operations_all_the_same() -> None:
    assert len(make(1, 30, 0).steps) == 30


def test_a_node_may_end_with_the_redis_whose_data_goes_back() -> None:
    steps = [step for seed in SEEDS for step in make(seed, faults=20).steps]
    lost = [step for step in steps if step.do in ("redis_lost", "failover_lost")]
    together = [step for step in lost if "node" in step.with_]
    assert 0 < len(together) < len(lost)


def test_messages_come_while_a_device_is_away() -> None:
    away = [step.with_ for seed in SEEDS for step in make(seed).steps if step.do == "away"]
    most = max(len(each["keys"]) for each in away)
    # More than the smallest inboxes hold.
    assert most > 8
    assert min(len(each["keys"]) for each in away) == 0


def test_some_runs_are_full_of_rare_faults_and_the_others_have_none() -> None:
    rare = {*RARE_FAULTS, *RARE_EMBEDDED_FAULTS, *RARE_EVICTING_FAULTS}
    shares = []
    for seed in SEEDS:
        faults = [step.do for step in make(seed, faults=20).steps if step.fault]
        shares.append(sum(name in rare for name in faults) / len(faults))
    full = [share for share in shares if share]
    assert len(SEEDS) / 5 < len(full) < len(SEEDS) / 2
    assert min(full) > 0.1
