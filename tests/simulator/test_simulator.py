"""Seeds hold what is promised, and a seed is the same run each time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulator.mutants import MUTANTS, ROOT, Mutant, NotApplicable, apply, how_it_ended, main

#: How many seeds the ordinary suite tries, and `make full`: a number, so that a quick machine tries no others.
SEEDS, ALL_SEEDS = 12, 100
#: Plans that broke a promise, each with a line in docs/reliability.md.
FOUND = Path(__file__).parent / "found"
#: Beyond this a run does not end, s.
DEADLINE = 600


def simulate(*words: str, hashes: str = "", deadline: float = DEADLINE) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONHASHSEED": hashes} if hashes else {})
    command = [sys.executable, "-m", "tests.simulator", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=deadline, env=environment)


@pytest.mark.parametrize("seeds", [SEEDS, pytest.param(ALL_SEEDS, marks=pytest.mark.full)])
def test_seeds_hold_what_is_promised(seeds: int) -> None:
    """From ``SEED`` on, which the Makefile sets to 1: the same ones each time. Without it, and in `make sim`, chance
    chooses the first."""
    seed = os.environ.get("SEED")
    words = ["--from", seed] if seed is not None else []
    done = simulate(*words, "--seeds", str(seeds))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{seeds} seeds, 0 of them" in done.stdout


@pytest.mark.parametrize("seeds", [2, pytest.param(ALL_SEEDS, marks=pytest.mark.full)])
def test_readers_of_what_tasks_write_have_all_of_it(seeds: int) -> None:
    seed = os.environ.get("SEED")
    words = ["--from", seed] if seed is not None else []
    done = simulate(*words, "--outputs", "--seeds", str(seeds))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_devices_with_an_sdk_are_kept_what_is_promised() -> None:
    # The first of them found what an inbox that was lost did to its node.
    done = simulate("--from", os.environ.get("SEED", "141161778"), "--sdks", "--seeds", "8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_seeds_found_does_not_come_back() -> None:
    found = sorted(FOUND.glob("*.json"))
    done = simulate("--plan", *map(str, found))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("every promise held") == len(found) > 10


@pytest.mark.slow
def test_an_hour_of_long_seeds() -> None:
    """Two thousand seeds of 200 operations and 10 faults, and every fault while every operation is under way."""
    seconds = float(os.environ.get("SIMULATOR_SOAK_SECONDS", "3600"))
    words = ["--seeds", "1000000", "--seconds", str(seconds), "--operations", "200", "--faults", "10", "--jobs", "2"]
    done = simulate(*words, "--table", deadline=2 * seconds)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "empty: none" in done.stdout
    tried = re.search(r"^(\d+) seeds, 0 of them", done.stdout, re.MULTILINE)
    assert tried is not None
    assert int(tried[1]) >= 2_000 * seconds / 3600


def test_a_seed_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    for number, hashes in enumerate(("1", "77")):
        words = ["--from", "4", "--seeds", "1", "--faults", "8", "--history", str(tmp_path / str(number))]
        done = simulate(*words, hashes=hashes)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((tmp_path / name).read_bytes() for name in "01")
    assert first == second
    assert len(first) > 50_000


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_still_applies(mutant: Mutant, tmp_path: Path) -> None:
    for name in {change[0] for change in mutant.changes}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "pushserver" / name, tmp_path / name)
    apply(mutant, tmp_path)


def test_a_mutant_that_applies_no_more_fails(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "positions.py").write_text("nothing\n")
    mutant = next(each for each in MUTANTS if each.name == "gap-delivered")
    with pytest.raises(NotApplicable, match=r"gap-delivered: core/positions\.py holds this 0 times"):
        apply(mutant, tmp_path)


def test_a_run_without_a_verdict_says_what_it_fell_over_and_in_which_seed() -> None:
    errors = """Traceback (most recent call last):
  File "/a/checker.py", line 3, in judge
    wrong[1]
KeyError: 1
in seed 17: --faults 6
"""
    said = how_it_ended(1, errors)
    assert said == 'status 1, KeyError: 1, in seed 17: --faults 6, File "/a/checker.py", line 3, in judge'
    assert how_it_ended(-9, "") == "status -9"


@pytest.mark.slow
def test_every_mutant_is_found() -> None:
    assert main([]) == 0


def test_there_are_as_many_mutants_as_were_promised() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 16
