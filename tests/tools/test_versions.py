"""`tools.versions`: which Pythons it takes, and what it says of one that is not here or fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools import versions


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a path with nothing in them; returns the one folder of the path."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_a_name_on_the_path_that_does_not_run_is_passed_over(nowhere: Path, tmp_path: Path) -> None:
    script(nowhere / "python3.12", "echo command not found >&2; exit 127")
    assert versions.find("3.12") is None
    real = script(tmp_path / "home/.pyenv/versions/3.12.1/bin/python3.12", "echo 3.12")
    assert versions.find("3.12") == real


def test_a_python_of_another_version_is_passed_over(nowhere: Path) -> None:
    script(nowhere / "python3.12", "echo 3.11")
    assert versions.find("3.12") is None


def test_the_one_that_runs_this_is_found(nowhere: Path) -> None:
    version = "{}.{}".format(*sys.version_info)
    nowhere.mkdir()
    os.symlink(sys.executable, nowhere / f"python{version}")
    assert versions.find(version) == nowhere / f"python{version}"


def test_what_is_not_here_is_left_out_by_name_and_with_none_nothing_was_run(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["versions", "oldest"])
    assert versions.main() == versions.CANNOT_RUN
    assert capsys.readouterr().out.splitlines() == [
        f"left out: oldest versions with Python {version}: not on this machine" for version in versions.PYTHONS
    ]


def test_what_fails_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def install(interpreter: Path, place: Path, kind: str) -> None:
        raise subprocess.CalledProcessError(1, [str(interpreter), "-m", "pip", "install", "--quiet"])

    monkeypatch.setattr(versions, "find", lambda version: Path("python") if version != "3.12" else None)
    monkeypatch.setattr(versions, "install", install)
    monkeypatch.setattr(sys, "argv", ["versions", "newest", "--python", "3.11"])
    assert versions.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "-- newest versions, Python 3.11",
        "left out: newest versions with Python 3.12: not on this machine",
        "left out: newest versions with Python 3.13: not asked for",
        "newest versions with Python 3.11: failed: -m pip install: exit status 1",
    ]


def test_a_suite_that_is_interrupted_says_what_it_knows() -> None:
    suite = (
        "import time\nprint('ready', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('one failed')"
    )
    outer = f"import sys\nfrom tools import versions\nversions._call([sys.executable, '-c', {suite!r}])"
    command = [sys.executable, "-c", outer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "one failed\n"
    assert process.returncode != 0
