"""The Makefile: the seed that is given to it reaches each command in which chance takes part."""

from __future__ import annotations

import subprocess

import pytest

from tests.harness import ROOT

#: What stands in place of the seed that chance would choose.
SEED = "4711"


def commands(goal: str, *given: str) -> list[str]:
    """Return the commands in Python of a goal, which are not run."""
    made = subprocess.run(["make", "-n", goal, *given], cwd=ROOT, capture_output=True, text=True, check=True)
    found = [line for line in made.stdout.splitlines() if line.startswith(".venv/bin/") and " combine " not in line]
    return [line for line in found if "coverage report" not in line]


# `make full` gives it in the environment, to `tools.full`.
@pytest.mark.parametrize(
    "goal",
    ["suite", "coverage", "test-newest", "test-oldest", "soak", "upgrade", "matrix", "attack", "fuzz", "sdks", "sim"],
)
def test_the_seed_that_is_given_reaches_each_command(goal: str) -> None:
    found = commands(goal, f"SEED={SEED}")
    assert found
    assert [line for line in found if SEED not in line] == []


def test_the_first_seed_of_the_simulator_may_be_given_by_itself() -> None:
    (command,) = commands("sim", f"SEED={SEED}", "FROM=23")
    assert "--from 23 " in command
    assert SEED not in command
