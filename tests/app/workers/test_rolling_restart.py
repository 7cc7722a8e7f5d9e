"""Replacing the workers one by one: the order of it on paper, and real processes with clients and publishers."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.app.workers.child import Child
from pushserver.app.workers.rolling_restart import GONE_TIMEOUT, READY_TIMEOUT, RestartState, RollingRestart
from pushserver.server.clock import Clock
from tests.app.workers.test_supervisor import alive, children, leaders, node_of, on_both
from tests.cluster.conftest import CONFIG, Deployment
from tests.cluster.talk import Talk, Talks, talking
from tests.harness import ROOT, Server, wait_until

# -- on paper ---------------------------------------------------------------------------------------------------------

DRAIN = 5


class Workers:
    """Three workers, 1 to 3, of which 2 leads; what is done with them stands in `done`."""

    def __init__(self) -> None:
        self.stopping = False
        self.done: list[str] = []
        self.children = [_child(number) for number in (1, 2, 3)]
        self.none_left = False
        self.undying = False

    def living(self) -> list[Child]:
        living = [child for child in self.children if not child.leaving and not child.gone]
        return sorted(living, key=lambda child: (child.number == 2, child.number))

    def start_beside(self) -> Child:
        if self.none_left:
            raise OSError("no process left")
        child = _child(10 + len(self.children))
        child.leaving = True
        self.children.append(child)
        self.done.append(f"start {child.number}")
        return child

    async def rest(self, children: list[Child], resting: bool) -> None:
        self.done.append(f"{'rest' if resting else 'wake'} {[child.number for child in children]}")

    def retire(self, child: Child) -> None:
        child.leaving = True
        self.done.append(f"retire {child.number}")

    def kill(self, child: Child) -> None:
        self.done.append(f"kill {child.number}")
        child.leaving, child.gone = True, not self.undying

    def __getitem__(self, number: int) -> Child:
        return next(child for child in self.children if child.number == number)

    def new(self) -> list[str]:
        done, self.done = self.done, []
        return done


def _child(number: int) -> Child:
    return Child(number, lambda child, report: None, lambda child: None)


class Stage:
    """A restart under way, under a clock that the test moves."""

    def __init__(self) -> None:
        self.reactor = task.Clock()
        self.workers = Workers()
        self.restart = RollingRestart(self.workers, Clock(self.reactor), DRAIN)
        work: Coroutine[Deferred[Any], Any, None] = self.restart.run()
        self.done = Deferred.fromCoroutine(work)

    def pass_by(self, seconds: float = 1) -> list[str]:
        """Let time go by; return what was done meanwhile."""
        self.reactor.pump([0.02] * round(seconds / 0.02 + 1))
        return self.workers.new()


def test_a_new_one_is_ready_before_an_old_one_goes_and_who_leads_goes_last() -> None:
    stage = Stage()
    workers = stage.workers
    for new, old, left in ((13, 1, [1, 3, 2]), (14, 3, [3, 2]), (15, 2, [2])):
        assert stage.pass_by(READY_TIMEOUT / 2) == [f"start {new}"]
        workers[new].ready_at = stage.reactor.seconds()
        assert stage.pass_by() == [f"rest {left}", f"retire {old}"]
        assert not workers[new].leaving
        workers[old].gone = True
    assert stage.restart.state.running
    assert stage.pass_by() == []
    assert stage.done.called
    assert stage.restart.state == RestartState(False, 3, 3)


def test_one_that_does_not_come_up_stops_it_and_the_old_ones_go_on() -> None:
    stage = Stage()
    workers = stage.workers
    assert stage.pass_by() == ["start 13"]
    workers[13].ready_at = 0.0
    assert stage.pass_by() == ["rest [1, 3, 2]", "retire 1"]
    workers[1].gone = True
    assert stage.pass_by(READY_TIMEOUT + 1) == ["start 14", "kill 14", "wake [3, 2]"]
    assert stage.restart.state == RestartState(False, 3, 1, f"worker 14 is not ready after {READY_TIMEOUT} s")


def test_what_it_said_of_itself_is_said() -> None:
    stage = Stage()
    stage.pass_by()
    stage.workers[13].problem = "half a version"
    stage.workers[13].gone = True
    assert stage.pass_by() == ["wake [1, 3, 2]"]
    assert stage.restart.state.problem == "worker 13 did not start: half a version"


def test_without_a_process_left_nothing_changes() -> None:
    stage = Stage.__new__(Stage)
    stage.reactor, stage.workers = task.Clock(), Workers()
    stage.workers.none_left = True
    stage.restart = RollingRestart(stage.workers, Clock(stage.reactor), DRAIN)
    stage.done = Deferred.fromCoroutine(stage.restart.run())
    assert stage.pass_by() == ["wake [1, 3, 2]"]
    assert stage.restart.state.problem == "no process left"


def test_an_old_one_that_does_not_go_is_killed_and_one_that_died_is_passed_over() -> None:
    stage = Stage()
    workers = stage.workers
    stage.pass_by()
    workers[13].ready_at = 0.0
    stage.pass_by()
    # It dies by itself, and is started again as any other.
    workers[3].gone = True
    assert stage.pass_by(DRAIN + GONE_TIMEOUT + 1) == ["kill 1", "start 14"]
    workers[14].ready_at = 0.0
    assert stage.pass_by() == ["rest [2]", "retire 2"]
    workers[2].gone = True
    stage.pass_by()
    assert stage.restart.state == RestartState(False, 3, 3)


def test_one_that_outlives_its_kill_stops_it_and_the_next_attempt_may_begin() -> None:
    stage = Stage()
    workers = stage.workers
    workers.undying = True
    stage.pass_by()
    workers[13].ready_at = 0.0
    assert stage.pass_by() == ["rest [1, 3, 2]", "retire 1"]
    assert stage.pass_by(DRAIN + GONE_TIMEOUT + 1) == ["kill 1"]
    assert stage.restart.state.running
    assert stage.pass_by(GONE_TIMEOUT + 1) == ["wake [3, 2]"]
    assert stage.done.called
    assert stage.restart.state == RestartState(False, 3, 0, "worker 1 does not end, though it was killed")


def test_whatever_ends_it_it_does_not_run_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    workers = stage.workers

    def broken(child: Child) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(workers, "retire", broken)
    stage.pass_by()
    workers[13].ready_at = 0.0
    failed: list[Failure] = []
    stage.done.addErrback(failed.append)
    assert stage.pass_by() == ["rest [1, 3, 2]", "wake [1, 3, 2]"]
    (failure,) = failed
    assert failure.check(ValueError)
    assert stage.restart.state == RestartState(False, 3, 0, "an error that stands in the log")


def test_the_end_of_the_server_ends_it() -> None:
    stage = Stage()
    stage.workers.stopping = True
    assert stage.pass_by() == ["start 13"]
    assert stage.restart.state.problem == "the server stops"
    assert stage.done.called


def test_where_the_server_ends_as_an_old_one_does_no_other_is_started() -> None:
    stage = Stage()
    workers = stage.workers
    stage.pass_by()
    workers[13].ready_at = 0.0
    assert stage.pass_by() == ["rest [1, 3, 2]", "retire 1"]
    workers[1].gone = workers.stopping = True
    assert stage.pass_by() == []
    assert stage.done.called
    assert stage.restart.state == RestartState(False, 3, 1, "the server stops")


def test_where_the_server_ends_while_the_old_ones_are_told_to_rest_none_is_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    workers = stage.workers

    async def rest(children: list[Child], resting: bool) -> None:
        workers.stopping = True

    monkeypatch.setattr(workers, "rest", rest)
    stage.pass_by()
    workers[13].ready_at = 0.0
    assert stage.pass_by() == []
    assert stage.restart.state == RestartState(False, 3, 0, "the server stops")


# -- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the server's code, to be changed under a running one."""
    for name in ("pushserver", "twisted"):
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tree"


@pytest.fixture
def server(tmp_path: Path, tree: Path) -> Iterator[Server]:
    place = Deployment(tmp_path)
    try:
        redis = place.redis()
        running = place.server("--redis", redis.url, "--workers", "2", env={"PYTHONPATH": str(tree)}, config=CONFIG)
        wait_until(lambda: running.log.count(" is ready") == 2)
        yield running
    finally:
        place.end()


@pytest.fixture
def talk() -> Iterator[Talks]:
    with talking() as talks:
        yield talks


class Publisher(threading.Thread):
    """Calls the API at full speed, over one kept connection or a new one each time."""

    def __init__(self, server: Server, kept: bool) -> None:
        super().__init__()
        self._server = server
        self._kept = kept
        self._connection: http.client.HTTPConnection | None = None
        self.calls = 0
        self.failed: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self._call()
            except (OSError, http.client.HTTPException) as problem:
                self.failed.append(repr(problem))

    def _call(self) -> None:
        connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        headers = {"X-API-Key": self._server.api_key, "Connection": "keep-alive" if self._kept else "close"}
        self.calls += 1
        connection.request(
            "POST", "/api/publish", json.dumps({"channel": "news:a", "data": {"n": self.calls}}), headers
        )
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            self.failed.append(str(answer.status))
        # What the server ends with its answer is no failure: the next call takes another connection.
        ends = not self._kept or answer.getheader("connection") == "close"
        self._connection = None if ends else connection
        if ends:
            connection.close()


def _rolled(server: Server) -> dict[str, Any]:
    state: dict[str, Any] = wait_until(
        lambda: (said := server.api("GET", "/api/restart-workers").body) and not said["running"] and said,
        60,
    )
    return state


def _version(server: Server) -> set[str]:
    return set(re.findall(r'^pushserver_info\{.*version="([^"]+)"', server.api("GET", "/metrics").body, re.MULTILINE))


@pytest.mark.full
def test_each_client_moves_once_no_call_fails_and_the_new_code_runs(server: Server, tree: Path, talk: Talks) -> None:
    worker = tree / "pushserver" / "app" / "workers" / "worker.py"
    init = tree / "pushserver" / "__init__.py"
    code = worker.read_text()
    talks = on_both(server, talk, "news:a")
    before = children(server.pid)
    publishers = [Publisher(server, kept) for kept in (False, True)]
    for publisher in publishers:
        publisher.start()
    try:
        # Half a version lies there: nothing changes.
        worker.write_text(f"{code}\nhalf a version")
        assert server.api("POST", "/api/restart-workers").body["running"]
        again = server.api("POST", "/api/restart-workers")
        assert (again.status, again.body["error"]["code"]) == (409, "CONFLICT")
        said = _rolled(server)
        assert (said["replaced"], said["workers"]) == (0, 2)
        assert said["problem"].startswith("worker 3 did not start")
        assert "SyntaxError" in server.log
        assert children(server.pid) == before
        for each in talks:
            each.barrier()
        # The whole of it.
        worker.write_text(code)
        version = re.search(r'__version__ = "(.+)"', init.read_text())
        assert version is not None
        init.write_text(init.read_text().replace(version[1], "99.0.0"))
        assert server.api("POST", "/api/restart-workers").body["running"]
        moved = _move(server, talk, talks)
        assert _rolled(server) == {"running": False, "workers": 2, "replaced": 2, "problem": ""}
    finally:
        for publisher in publishers:
            publisher.done.set()
        for publisher in publishers:
            publisher.join(30)
    assert not any(map(alive, before))
    assert len(children(server.pid)) == 2
    assert _version(server) == {"99.0.0"}
    # Whoever was moved stays where it came to, and nobody was moved again.
    server.api("POST", "/api/publish", {"channel": "news:a", "data": {"last": 1}})
    for each in moved:
        each.push("message", last=1)
    assert [publisher.failed for publisher in publishers] == [[], []]
    assert all(publisher.calls > 20 for publisher in publishers)


def _move(server: Server, talk: Talks, talks: list[Talk]) -> list[Talk]:
    """Come back with each connection once it is sent away; who leads is replaced last."""
    (leader,) = leaders(server)
    moved: list[Talk] = []
    for each in sorted(talks, key=lambda each: node_of(each) == leader):
        each.push("going_away")
        assert each.closed() == 3001
        moved.append(talk(server, "42", "news:a"))
    return moved


def test_sigterm_while_workers_are_replaced_ends_all(server: Server, talk: Talks) -> None:
    client = talk(server, "42")
    workers = children(server.pid)
    said = server.api("POST", "/api/restart-workers")
    assert said.status == 200, (said, server.log)
    workers += wait_until(lambda: len(found := children(server.pid)) == 3 and found)
    server.signal(signal.SIGTERM)
    client.push("going_away")
    assert client.closed() == 3001
    assert server.wait() == -signal.SIGTERM
    assert not any(map(alive, workers))


@pytest.mark.full
def test_a_drained_server_stays_so_whoever_comes_up(server: Server) -> None:
    assert server.api("POST", "/api/drain", {"over": "0s"}).status == 200
    assert server.api("POST", "/api/restart-workers").body["running"]
    assert _rolled(server)["problem"] == ""
    assert server.api("GET", "/readyz").body["reason"] == "draining"
    assert server.api("DELETE", "/api/drain").body == {"draining": False}
    assert server.api("GET", "/readyz").status == 200
