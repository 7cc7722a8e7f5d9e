"""``python -m bench scale``: a small run is whole; what goes wrong ends it in one line and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.scale import command, server, steps
from bench.scale.limits import Machine
from bench.scale.records import runs
from bench.scale.report import MEASURED, NOTHING
from bench.scoreboard.quiet import session_of
from tools.trees import ROOT

#: Seconds for what takes a few, on a machine that has much else to do.
PATIENCE = 300

SMALL = ("--connections", "200", "--workers", "2", "--idle", "1", "--broadcasts", "2", "--publications", "100")


@pytest.mark.parametrize("words", [["--workers", "1"], ["--connections", "0"], ["--idle", "long"], ["--no-such"]])
def test_words_that_mean_nothing_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert "usage: python -m bench scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (
            Machine(1_024, 28_232, 20 << 20),
            "60000 connections on 4 workers need 16100 descriptors of each, and it has 1024",
        ),
        (Machine(20_000, 28_232, 1 << 10), "needs up to 2943 MiB of memory, and 1 are free"),
    ],
)
def test_a_machine_that_is_too_small_starts_nothing(
    machine: Machine, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "this_machine", lambda: machine)
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    file = tmp_path / "runs.jsonl"
    assert command.main(["--results", str(file)]) == 1
    assert capsys.readouterr().err == f"not measured: {said}\n"
    assert not file.exists()


def test_a_report_of_nothing_and_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("")
    assert command.main(["--report", str(file)]) == 0
    assert capsys.readouterr().out == f"{NOTHING}\n"
    file.write_text("what?\n")
    assert command.main(["--report", str(file)]) == 1
    assert re.fullmatch(r"runs\.jsonl is not a record of `bench scale`: .*\n", capsys.readouterr().err)


# -- runs: they start processes, and compile the clients first --------------------------------------------------------

Start = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running = []

    def begin(file: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "bench", "scale", *SMALL, "--results", str(file)]
        # Who is killed leaves its files: here they go with the test.
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        running.append(
            subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
            )
        )
        return running[-1]

    yield begin
    for one in running:
        one.kill()
        one.communicate()


def until(one: subprocess.Popen[str], step: str) -> str:
    """Read what a run says until it begins a step; return what it said."""
    assert one.stderr is not None
    said = ""
    while step not in said:
        line = one.stderr.readline()
        assert line, said
        said += line
    return said


def started_by(pid: int) -> set[int]:
    """Return the processes that a run has started: its children, and the sessions that these lead."""
    parents, sessions = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
                sessions[int(entry.name)] = session_of(stat)
    children = {child for child, parent in parents.items() if parent == pid}
    return children | {each for each, session in sessions.items() if session in children}


def worker(among: set[int], number: int) -> int:
    """Return the process of a worker."""
    (found,) = [pid for pid in among if f"workers.worker\0{number}\0" in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


def all_gone(processes: set[int]) -> None:
    """Wait until none of these runs any more."""
    end = time.monotonic() + PATIENCE
    for pid in processes:
        with suppress(OSError):
            while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX":
                assert time.monotonic() < end, Path(f"/proc/{pid}/cmdline").read_text()
                time.sleep(0.01)


@pytest.mark.full
def test_a_small_run_is_whole(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    one = start(file)
    out, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 0, err
    (run,) = runs(file)
    figures = run.figures
    assert {row.name for row in MEASURED} - figures.keys() <= {"kernel_kib"}
    assert (run.connections, run.workers, run.clients) == (200, 2, 2)
    assert figures["signed_in_least"] + figures["signed_in_most"] == 200
    assert figures["killed_connections"] > 0
    assert figures["others_disturbed"] == 0
    assert figures["worker_back_seconds"] > 0
    assert figures["after_least"] + figures["after_most"] == 200
    assert str(tmp_path) not in run.command
    assert "Calculated: 1,000,000 connections" in out


@pytest.mark.full
def test_a_client_that_is_refused_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "CONFIG", server.CONFIG.replace("{most}", "150"))
    monkeypatch.setattr(steps, "WARMING", 10)
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    file = tmp_path / "runs.jsonl"
    # Few at a time: of many that have not signed in, so small a server lets the oldest go.
    assert command.main([*SMALL, "--window", "2", "--results", str(file)]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.search(r"^not measured: .*: not upgraded: HTTP/1\.1 503 Service Unavailable .*the server is full", last)
    assert not file.exists()


@pytest.mark.full
def test_a_worker_that_dies_at_the_wrong_moment_ends_the_run(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    one = start(file)
    until(one, "idle for")
    started = started_by(one.pid)
    os.kill(worker(started, 1), signal.SIGKILL)
    _, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 1
    assert re.search(r"^not measured: Wrong: worker 1 ended while .*$", err.splitlines()[-1])
    assert not file.exists()
    all_gone(started)


@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_run_that_is_cut_leaves_nothing(number: int, status: int, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    one = start(file)
    until(one, "idle for")
    started = started_by(one.pid)
    # Redis, a supervisor, two workers, two processes of clients.
    assert len(started) == 6
    one.send_signal(number)
    one.communicate(timeout=PATIENCE)
    assert one.returncode == status
    assert not file.exists()
    all_gone(started)
