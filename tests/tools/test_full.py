"""`tools.full`: how steps end, what the last lines say, and that nothing of a step runs on."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools import full
from tools.full import ROOT, STEPS, Step, end, play, steps
from tools.versions import KINDS, PYTHONS

#: The goals of make that belong to make full, and those that claim nothing.
INSIDE = {"check", "suite", "test", "coverage", "conformance", "test-newest", "test-oldest", "dist", "full"}
NO_CLAIM = {"run", "venv", "tools", "clean", "scoreboard-plots"}

PASSES = Step("passes", ["true"], 10)
FAILS = Step("fails", ["sh", "-c", "echo it broke here; exit 3"], 10)
CANNOT = Step("cannot", ["sh", "-c", "echo left out: cannot: no such program; exit 77"], 10)
PARTLY = Step("partly", ["sh", "-c", "echo left out: partly: one of two; exit 0"], 10)


def test_what_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play([PASSES], 5, logs=tmp_path) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r"seed 5\npasses +\d+ s  seed 5  passed\nno step failed\nnothing left out\n", out)


def test_a_step_that_fails_shows_its_end_and_the_others_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play([FAILS, PASSES], 5, logs=tmp_path) == 1
    out = capsys.readouterr().out
    assert "it broke here" in out
    assert re.search(r"fails .* failed: exit status 3, see .*/fails\.log\n", out)
    assert re.search(r"passes .* passed\n1 of 2 steps failed\nnothing left out\n$", out)


def test_the_last_lines_name_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play([CANNOT, PARTLY, PASSES], 5, logs=tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("  left out")
    assert lines[-3:] == ["no step failed", "left out: cannot: no such program", "left out: partly: one of two"]


def test_make_hides_why_a_recipe_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Makefile").write_text("cannot:\n\t@exit 77\n")
    assert play([Step("cannot", ["make", "-C", str(tmp_path), "cannot"], 10)], 5, logs=tmp_path) == 1
    assert "failed: exit status 2" in capsys.readouterr().out


def test_without_its_python_the_conformance_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, programs = tmp_path / "root", tmp_path / "bin"
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("node_modules"))
    programs.mkdir()
    for name in ("bash", "dirname"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    monkeypatch.setattr(full, "ROOT", root)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path))
    (conformance,) = [step for step in steps(5, PYTHONS) if step.name == "conformance"]
    assert play([conformance], 5, logs=tmp_path / "logs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("  left out")
    assert lines[2] == "no step failed"
    assert lines[3].startswith("left out: conformance: ")


def test_a_step_that_takes_too_long_is_ended_with_its_children(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Step("slow", ["sh", "-c", f"setsid sleep 600 & echo $! >{tmp_path}/child; wait"], 0.5)
    assert play([slow], 5, logs=tmp_path / "logs") == 1
    assert "failed: more than 0 s" in capsys.readouterr().out
    try:
        child = os.pidfd_open(int((tmp_path / "child").read_text()))
    except ProcessLookupError:
        return
    # Killed, but perhaps not yet gone: the descriptor can be read when it is.
    assert select.select([child], [], [], 10)[0]
    os.close(child)


def test_a_step_whose_time_is_over_says_what_it_has_to_say() -> None:
    script = "trap 'echo two had failed; exit 1' INT; echo ready; sleep 600 & wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        end(process)
        assert process.stdout.read() == b"two had failed\n"


def test_what_the_hour_does_not_hold_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play([PASSES], 5, limit=0, logs=tmp_path) == 1
    assert "failed: not run, 0 s are over" in capsys.readouterr().out


def test_each_step_knows_the_seed(tmp_path: Path) -> None:
    step = Step("seed", [sys.executable, "-c", "import os; print(os.environ['SEED'])"], 10)
    play([step], 77_001, logs=tmp_path)
    assert (tmp_path / "seed.log").read_text() == "77001\n"


def test_the_steps_have_names_of_their_own() -> None:
    assert len(set(STEPS)) == len(STEPS)


def test_they_fit_into_the_hour_with_one_suite_of_versions() -> None:
    *others, last = steps(5, PYTHONS)
    assert last.name == "versions"
    assert not [step for step in others if "tools.versions" in step.command]


def test_the_seed_chooses_the_versions_and_seeds_choose_each_pair() -> None:
    pairs = {seed: steps(seed, PYTHONS)[-1].takes for seed in range(100)}
    assert pairs == {seed: steps(seed, PYTHONS)[-1].takes for seed in range(100)}
    assert set(pairs.values()) == {f"{kind} versions with Python {python}" for kind in KINDS for python in PYTHONS}


def test_only_a_python_that_is_here_is_chosen() -> None:
    commands = {tuple(steps(seed, ["3.12"])[-1].command[2:]) for seed in range(20)}
    assert commands == {("tools.versions", kind, "--python", "3.12") for kind in KINDS}


def test_which_versions_were_taken_is_said_and_which_were_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = steps(5, ["3.12"])[-1]
    kind, other = KINDS if KINDS[0] in chosen.command else reversed(KINDS)
    assert play([replace(chosen, command=PARTLY.command)], 5, logs=tmp_path) == 0
    out = capsys.readouterr().out
    assert re.search(rf"versions +\d+ s  seed 5  passed \({kind} versions with Python 3\.12\)\n", out)
    assert out.splitlines()[-2:] == [
        "left out: partly: one of two",
        f"left out: {other} versions: make test-{other}",
    ]


def test_each_command_of_make_belongs_to_it_or_is_named_as_left_out() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY: ")]
    goals = {goal for line in lines for goal in line.split()[1:]}
    (whole,) = [step for step in steps(5, PYTHONS) if step.name == "full"]
    named = {words.removeprefix("make ") for line in whole.leaves_out for words in line.split(": ")[-1].split(", ")}
    assert goals - INSIDE - NO_CLAIM == named
