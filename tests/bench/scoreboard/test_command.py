"""``python -m bench scoreboard``: what it refuses, and that a signal leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.scoreboard import command
from bench.scoreboard.paths import PATHS
from bench.scoreboard.records import parse
from tools.trees import ROOT

BEGUN = '{"run": {"date": "D", "machine": "m", "command": "c", "commit": "another", "sizes": "quick"}}\n'


@pytest.mark.parametrize("words", [["no-such-path"], ["start", "--without", "nobody"], ["start", "--rounds", "many"]])
def test_words_that_mean_nothing_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert "usage: python -m bench scoreboard" in capsys.readouterr().err


def test_a_file_of_another_commit_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "begun.jsonl"
    file.write_text(BEGUN)
    monkeypatch.setattr(command, "commit", lambda: "this")
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    assert command.main(["start", "--quick", "--results", str(file)]) == 1
    said = capsys.readouterr()
    assert said.err == "begun.jsonl was begun at another with quick sizes: name another with --results\n"
    assert file.read_text() == BEGUN


def servers_of(pid: int) -> list[int]:
    """The servers that a process has started: each leads a session."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,sid="], capture_output=True, text=True, check=True).stdout
    lines = (map(int, line.split()) for line in listed.splitlines())
    return [child for child, parent, session in lines if parent == pid and session == child]


def test_a_record_says_the_command_and_not_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "record.jsonl"
    monkeypatch.setattr(command, "commit", lambda: "this")
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(command.Rounds, "take", lambda rounds, path: None)
    words = ["start", "--rounds", "9", "--without", "node ws", "--quick"]
    # Nothing was taken, so no target is met.
    assert command.main([*words, "--results", str(file)]) == 1
    said = "python -m bench scoreboard start --rounds 9 --most 9 --without 'node ws' --quick"
    assert parse(file.read_text()).run.command == said


@pytest.mark.parametrize(
    ("words", "most"),
    [([], 15), (["--quick"], 7), (["--quick", "--rounds", "2"], 2), (["--rounds", "20"], 20), (["--most", "9"], 9)],
)
def test_tiny_sizes_are_not_taken_more_often_to_decide_what_they_cannot(
    words: list[str], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.jsonl"
    monkeypatch.setattr(command, "commit", lambda: "this")
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(command.Rounds, "take", lambda rounds, path: None)
    command.main(["start", *words, "--results", str(file)])
    assert f"--most {most}" in parse(file.read_text()).run.command


def test_the_proof_is_taken_only_when_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(command, "commit", lambda: "this")
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(command.Rounds, "take", lambda rounds, path: taken.append(path.name))
    command.main(["--results", str(tmp_path / "all.jsonl")])
    assert taken == [path.name for path in PATHS]
    taken.clear()
    command.main(["proof", "--results", str(tmp_path / "proof.jsonl")])
    assert taken == ["proof"]


#: Seconds for what takes a few, on a machine that has much else to do.
PATIENCE = 300


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_and_the_run_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("these tests were started by nohup, and so are their programs")
    file = tmp_path / "quick.jsonl"
    words = [sys.executable, "-m", "bench", "scoreboard", "start", "--quick", "--rounds", "2", "--most", "2"]
    for peer in ("Centrifugo", "socket.io", "node ws"):
        words += ["--without", peer]
    words += ["--results", str(file)]
    running = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        started: list[int] = []
        # Until a round is kept and the next has started a server.
        while not (started and '"round": 1' in file.read_text()):
            started = servers_of(running.pid)
            assert running.poll() is None
            assert time.monotonic() < end
        running.send_signal(number)
        assert running.wait(PATIENCE) == 128 + number
    finally:
        running.kill()
        running.wait()
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    begun = len(file.read_text().splitlines())
    # The status says whether the target of the start was met: on a slow machine it is not, and that is no matter here.
    subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=False)
    record = parse(file.read_text())
    assert len(file.read_text().splitlines()) > begun
    assert record.missing["start"] == dict.fromkeys(("Centrifugo", "socket.io", "node ws"), "left out")
    assert len(record.whole("start", {"pushserver", "µWebSockets"})) == 2
