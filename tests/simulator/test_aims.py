"""Every cell of the table has a plan that is aimed at it."""

from __future__ import annotations

import pytest

from tests.simulator.aims import MOMENT, STEPS, aim, faults_of
from tests.simulator.coverage import OPERATIONS, all_faults, possible
from tests.simulator.plan import make

CELLS = [(fault, operation) for fault in all_faults() for operation in OPERATIONS if possible(fault, operation)]


def test_each_operation_of_the_table_can_be_aimed_at() -> None:
    assert set(STEPS) == set(OPERATIONS)


def test_plans_have_the_faults_that_are_chosen_from() -> None:
    for seed in range(60):
        plan = make(seed, faults=30)
        assert {step.do for step in plan.steps if step.fault} <= faults_of(plan)


def test_an_aimed_plan_has_its_fault_and_what_it_interrupts() -> None:
    for fault, operation in CELLS:
        plan = aim(7, fault, operation)
        assert fault in {step.do for step in plan.steps if step.fault and step.at == MOMENT}
        assert len({step.at for step in plan.steps}) > 8
        assert aim(7, fault, operation) == plan


@pytest.mark.full
def test_no_cell_of_the_table_stays_empty() -> None:
    from .test_simulator import simulate

    done = simulate("--from", "1", "--seeds", "30", "--table", deadline=1800)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "empty: none" in done.stdout
