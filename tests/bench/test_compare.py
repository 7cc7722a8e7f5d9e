"""`python -m bench compare`: what it prints, when it fails, and that nothing it started is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import compare
from bench.compare import FIGURES, Figure, Meter
from tools.trees import ROOT, WORKING_TREE, CannotBuild, Tree, build

#: The working tree once more, as if it were a commit's.
TWIN = Tree("twin", WORKING_TREE.root, WORKING_TREE.python)

VERDICT = re.compile(r"x \d+\.\d{3} \(\d+\.\d{3} - \d+\.\d{3}\)  (worse|better|same|not clear)$", re.MULTILINE)


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commit is the working tree."""
    monkeypatch.setattr(compare, "build", lambda commit: TWIN)


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tree], float]], list[str]]:
    """``figure(take)``: the only figure takes this from each tree; the list says which tree started and stopped."""

    def make(take: Callable[[Tree], float]) -> list[str]:
        said: list[str] = []

        def prepare(stack: ExitStack, tree: Tree) -> Meter:
            said.append(f"start {tree.name}")
            stack.callback(said.append, f"stop {tree.name}")
            return lambda: take(tree)

        monkeypatch.setitem(FIGURES, "planted", Figure("planted", "µs", prepare))
        monkeypatch.setattr(compare, "differing", lambda old, new: [])
        return said

    return make


Make = Callable[[Callable[[Tree], float]], list[str]]


def children(pid: int) -> list[int]:
    """The processes that a process has started and not waited for."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_working_tree_that_costs_more_is_worse(twin: None, figure: Make, capfd: pytest.CaptureFixture[str]) -> None:
    said = figure(lambda tree: 2.0 if tree is WORKING_TREE else 1.0)
    assert compare.main(["HEAD", "planted", "--seed", "3"]) == 1
    out = capfd.readouterr().out
    assert "seed 3" in out
    assert VERDICT.findall(out) == ["worse"]
    assert out.endswith("worse: planted\n")
    # Both were there in each round, and both were gone after it.
    assert [len(said), said.count("start twin"), said.count("stop twin")] == [60, 15, 15]


@pytest.mark.parametrize("cost", [1.0, 0.5])
def test_one_that_costs_as_much_or_less_is_not(
    cost: float, twin: None, figure: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    figure(lambda tree: cost if tree is WORKING_TREE else 1.0)
    assert compare.main(["HEAD", "planted"]) == 0
    assert capfd.readouterr().out.endswith("nothing worse\n")


def test_the_seed_decides_who_goes_first(twin: None, figure: Make) -> None:
    said = figure(lambda tree: 1.0)
    compare.main(["HEAD", "planted", "--seed", "1"])
    first = said.copy()
    said.clear()
    compare.main(["HEAD", "planted", "--seed", "1"])
    assert said == first
    assert {first[n] for n in range(0, len(first), 4)} == {"start twin", "start working tree"}


@pytest.mark.parametrize("rounds", ["14", "1", "0", "-3"])
def test_too_few_rounds_for_a_verdict_are_refused(
    rounds: str, twin: None, figure: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    said = figure(lambda tree: 1.0)
    assert compare.main(["HEAD", "planted", "--rounds", rounds]) == 2
    out, problem = capfd.readouterr()
    assert (out, said) == ("", [])
    assert problem == f"python -m bench compare: a verdict needs at least 15 rounds, not {rounds}\n"


def test_a_round_that_dies_ends_the_run_with_one_line(
    twin: None, figure: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    turns = iter([1.0] * 9)

    def take(tree: Tree) -> float:
        try:
            return next(turns)
        except StopIteration:
            raise ConnectionError("the server closed\nthe connection") from None

    said = figure(take)
    assert compare.main(["HEAD", "planted", "start", "--rounds", "15"]) == 1
    out = capfd.readouterr().out
    assert out.splitlines()[-1] == (
        "not compared: planted, round 5 of 15: ConnectionError: the server closed the connection"
    )
    assert VERDICT.findall(out) == []
    assert said.count("start twin") == said.count("stop twin") == 5


def test_a_server_that_does_not_start_is_such_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "twistd").write_text("#!/bin/sh\necho it has no legs >&2\nexit 3\n")
    (tmp_path / "twistd").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setattr(compare, "build", lambda commit: Tree("lame", ROOT, tmp_path / "python"))
    monkeypatch.setattr(compare, "differing", lambda old, new: [])
    before = children(os.getpid())
    assert compare.main(["HEAD", "start"]) == 1
    assert re.search(
        r"^not compared: start, round 1 of 15: NotAvailable: .*it has no legs$", capfd.readouterr().out, re.M
    )
    assert set(children(os.getpid())) <= set(before)


def test_a_commit_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["no-such-commit", "start"]) == 1
    assert capfd.readouterr().out.splitlines()[1:] == [
        "not compared: no-such-commit: no such commit",
    ]


@pytest.mark.full
def test_a_commit_that_does_not_build(tmp_path: Path) -> None:
    repository, place = tmp_path / "repository", tmp_path / "built"
    git = ("git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    (repository / "README").write_text("nothing to install")
    subprocess.run([*git, "add", "README"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "Plant it"], check=True)
    with pytest.raises(CannotBuild) as problem:
        build("HEAD", repository, place)
    assert re.match(r"[0-9a-f]{7}: python -m pip .*: ERROR: .*", str(problem.value))
    assert "\n" not in str(problem.value)
    assert list(place.glob("*/done")) == []


@pytest.mark.full
def test_a_commit_is_built_once_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    built = build("HEAD", place=tmp_path)
    (done,) = tmp_path.glob("*/done")
    made = done.stat().st_mtime_ns
    monkeypatch.setattr(compare, "build", lambda commit: build(commit, place=tmp_path))
    monkeypatch.setattr(compare, "LEAST", 1)
    compare.main(["HEAD", "start", "--rounds", "1"])
    out = capfd.readouterr().out
    assert f"\n{built.name} -> working tree" in out
    assert len(VERDICT.findall(out)) == 1
    assert done.stat().st_mtime_ns == made


def test_an_environment_that_runs_another_tree_is_found(tmp_path: Path) -> None:
    with pytest.raises(CannotBuild, match="its environment runs pushserver from"):
        Tree("stranger", tmp_path, WORKING_TREE.python).check()


@pytest.mark.full
def test_the_same_tree_beside_itself(
    twin: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "LEAST", 2)
    before = children(os.getpid())
    status = compare.main(["HEAD", "start", "--rounds", "2"])
    (verdict,) = VERDICT.findall(capfd.readouterr().out)
    assert status == (1 if verdict == "worse" else 0)
    assert set(children(os.getpid())) <= set(before)


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from bench import compare\n"
        "compare.build = lambda commit: compare.Tree('twin', compare.WORKING_TREE.root, compare.WORKING_TREE.python)\n"
        "take = compare.FIGURES['inbound'].prepare\n"
        "def prepare(stack, tree):\n"
        "    take(stack, tree)\n"
        "    print('up', flush=True)\n"
        "    return sys.stdin.read\n"
        "compare.FIGURES['inbound'] = compare.Figure('inbound', '', prepare)\n"
        "sys.exit(compare.main(['HEAD', 'inbound']))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert running.stdout is not None
        said = [next(running.stdout) for _ in range(4)]
        assert said[-2:] == ["up\n", "up\n"]
        started = children(running.pid)
        assert len(started) == 4
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 128 + signal.SIGTERM
    finally:
        running.kill()
        running.communicate()
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []
