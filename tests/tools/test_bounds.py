"""What `tools.bounds` reads from a ``setup.cfg``, and what ours says."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.harness import ROOT
from tools.bounds import SETUP, constraints, newest, oldest, requirements, unbounded

SAMPLE = """
[metadata]
name = sample
[options]
install_requires =
    # what it stands on
    twisted[tls] >= 24.10, < 27
    rich
[options.extras_require]
dev =
    sample[more]
    pytest >= 8.3
more =
    redis < 9, >= 5.0.1
"""


def test_requirements_are_of_all_extras_without_the_project_itself() -> None:
    assert [r.name for r in requirements(SAMPLE)] == ["twisted", "rich", "pytest", "redis"]


def test_bounds() -> None:
    requirement = Requirement("redis < 9, >= 5.0.1, != 6")
    assert (oldest(requirement), newest(requirement)) == ("5.0.1", "9")
    assert (oldest(Requirement("rich")), newest(Requirement("rich"))) == (None, None)


def test_constraints_hold_each_at_its_lower_bound() -> None:
    text = SAMPLE.replace("    rich\n", "")
    assert constraints(text) == ["pytest == 8.3", "redis == 5.0.1", "twisted == 24.10"]


def test_a_requirement_without_a_lower_bound_has_no_oldest_version() -> None:
    with pytest.raises(ValueError, match="rich has no lower bound"):
        constraints(SAMPLE)


def test_what_has_no_bound_is_named() -> None:
    assert unbounded(SAMPLE) == ["rich: no lower bound", "rich: no upper bound", "pytest: no upper bound"]


def test_ours_is_bounded_on_both_sides() -> None:
    text = SETUP.read_text()
    assert unbounded(text) == []
    for requirement in requirements(text):
        lower, upper = oldest(requirement), newest(requirement)
        assert lower is not None
        assert upper is not None
        assert Version(lower) < Version(upper), requirement


def test_what_builds_and_what_the_makefile_installs_is_bounded_on_both_sides() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    asked = [re.findall(r'"([\w-]+ >=[^"]*)"', line) for line in installs]
    assert len(installs) == 3
    assert all(asked)
    for text in (*built, *(each for line in asked for each in line)):
        requirement = Requirement(text)
        lower, upper = oldest(requirement), newest(requirement)
        assert lower is not None, text
        assert upper is not None, text
        assert Version(lower) < Version(upper), text
