"""The second look of the ordinary suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FAILS_ONCE = """
from pathlib import Path
def test_it():
    mark = Path(__file__).with_suffix(".mark")
    first = not mark.exists()
    mark.touch()
    assert not first
"""
FAILS = "def test_it(): assert False\n"
PASSES = "def test_it(): pass\n"


def run(path: Path, *texts: str) -> tuple[int, str]:
    for number, text in enumerate(texts):
        (path / f"test_{number}.py").write_text(text)
    command = [sys.executable, "-m", "tools.ordinary", "-q", "--hypothesis-seed=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout


def test_what_passes_by_itself_is_named_and_stops_nothing(tmp_path: Path) -> None:
    status, said = run(tmp_path, PASSES, FAILS_ONCE)
    assert status == 0
    assert said.rstrip().endswith("test_1.py::test_it")
    assert "to be mended" in said


def test_what_fails_again_is_a_failure(tmp_path: Path) -> None:
    status, said = run(tmp_path, FAILS, FAILS_ONCE)
    assert status == 1
    assert "to be mended" not in said


def test_many_failures_are_no_accident(tmp_path: Path) -> None:
    status, said = run(tmp_path, FAILS_ONCE, FAILS_ONCE, FAILS_ONCE, FAILS_ONCE)
    assert status == 1
    assert "once more" not in said
