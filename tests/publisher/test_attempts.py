"""Jobs that are delivered again: the publisher against the server itself, on both engines, by HTTP and by Redis."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from pushserver.publisher import Publisher
from pushserver.testing import PushServer
from tests.harness import wait_until
from tests.publisher.fake_api import PATIENT

_numbers = itertools.count(1)


class Way(NamedTuple):
    """A server, and a way to it for publishers."""

    server: PushServer
    publisher: Callable[[], Publisher]

    def state(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.api("GET", f"/api/tasks/{task_id}")
        return found

    def ends(self, user: str) -> list[tuple[str, int]]:
        """What the user's inbox holds: type and attempt of each end."""
        messages = self.server.api("GET", f"/api/inbox?userId={user}")["messages"]
        return [(message["type"], message["data"]["attempt"]) for message in messages]


@pytest.fixture(scope="module")
def embedded() -> Iterator[PushServer]:
    with PushServer() as server:
        yield server


@pytest.fixture(scope="module")
def on_redis(redis_url: str) -> Iterator[PushServer]:
    redis = f'[engine]\nkind = "redis"\n[redis]\nurl = "{redis_url}"\ncommand_timeout = "60s"\n'
    with PushServer(redis) as server:
        yield server


@pytest.fixture(params=["embedded", "redis", "ingest"])
def way(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Way]:
    """Either engine by HTTP; and Redis' stream, where answers come by HTTP."""
    server: PushServer = request.getfixturevalue("embedded" if request.param == "embedded" else "on_redis")
    opened: list[Publisher] = []

    def publisher() -> Publisher:
        if request.param == "ingest":
            made = Publisher(redis_url, http_url=server.url, api_key=server.api_key, min_interval=0.02, **PATIENT)
        else:
            made = server.publisher(min_interval=0.02, **PATIENT)
        opened.append(made)
        return made

    yield Way(server, publisher)
    for made in opened:
        made.close()


@pytest.fixture
def job() -> str:
    """The queue's id of a job, and the name of its user."""
    return f"job-{next(_numbers)}"


@pytest.mark.parametrize("way", ["embedded", "redis"], indirect=True)
def test_a_worker_thought_dead_harms_nothing_and_is_told(way: Way, job: str) -> None:
    slow, other = way.publisher(), way.publisher()
    first = slow.task(job, "Import", task_id=job)
    first.progress(4, of=10)
    assert slow.flush(30)
    wait_until(lambda: way.state(job).get("percentage") == 40)
    second = other.task(job, "Import", task_id=job)
    second.progress(1, of=10)
    assert other.flush(30)
    state = wait_until(lambda: (now := way.state(job))["percentage"] == 10 and now)
    assert (state["attempt"], state["status"]) == (2, "running")
    first.progress(5, of=10)
    assert slow.flush(30)
    wait_until(lambda: first.cancelled)
    assert not first.complete("of the first")
    assert second.complete("of the second")
    state = wait_until(lambda: (now := way.state(job))["status"] == "completed" and now)
    assert (state["result"], state["attempt"]) == ("of the second", 2)
    assert way.ends(job) == [("task_completed", 2)]


def test_a_retry_takes_back_the_failure(way: Way, job: str) -> None:
    publisher = way.publisher()
    with pytest.raises(LookupError):
        with publisher.task(job, "Import", task_id=job, details={"rows": 10}):
            raise LookupError("the database is gone")
    wait_until(lambda: way.ends(job) == [("task_failed", 1)])
    with publisher.task(job, "Import again", task_id=job) as again:
        publisher.flush(30)
        begun = wait_until(lambda: (now := way.state(job))["attempt"] == 2 and now)
        assert (begun["status"], begun["title"], begun["details"]) == ("pending", "Import again", {"rows": 10})
        assert "error" not in begun
        assert way.ends(job) == []
        again.progress(5, of=10)
    wait_until(lambda: way.ends(job) == [("task_completed", 2)])


def test_what_is_completed_stays_so(way: Way, job: str, caplog: pytest.LogCaptureFixture) -> None:
    assert way.publisher().task(job, task_id=job).complete({"pages": 3})
    wait_until(lambda: way.ends(job) == [("task_completed", 1)])
    publisher = way.publisher()
    with publisher.task(job, task_id=job) as again:
        publisher.flush(30)
        again.progress(1, of=10)
        again.raise_if_cancelled()
    state = way.state(job)
    assert (state["status"], state["result"], state["attempt"]) == ("completed", {"pages": 3}, 1)
    assert way.ends(job) == [("task_completed", 1)]
    assert caplog.records == []


def test_an_end_whose_result_cannot_go_is_cut_and_the_next_attempt_is_whole(way: Way, job: str) -> None:
    publisher = way.publisher()
    publisher.task(job, task_id=job).fail("x" * 2_000_000)
    state = wait_until(lambda: (now := way.state(job)).get("status") == "failed" and now)
    assert state["truncated"] is True
    assert 0 < len(state["error"]) < 2_000_000
    publisher.task(job, task_id=job).complete([1, 2])
    state = wait_until(lambda: (now := way.state(job))["status"] == "completed" and now)
    assert (state["result"], state["attempt"], "truncated" in state) == ([1, 2], 2, False)


def test_the_task_of_another_user_is_left_alone(way: Way, job: str) -> None:
    publisher = way.publisher()
    publisher.task(job, task_id=job).progress(4, of=10)
    publisher.flush(30)
    wait_until(lambda: way.state(job).get("percentage") == 40)
    with publisher.task("somebody-else", task_id=job) as theirs:
        theirs.progress(9, of=10)
    publisher.flush(30)
    state = way.state(job)
    assert (state["userId"], state["status"], state["percentage"], state["attempt"]) == (job, "running", 40, 1)


class Mute:
    """Before a server: passes on what is asked, and of the first answer only the end of the connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._muted = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._there, args=(near, far), daemon=True).start()
            threading.Thread(target=self._back, args=(far, near), daemon=True).start()

    def _there(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(65_536):
                far.sendall(data)
        except OSError:
            pass
        far.close()

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        try:
            while data := far.recv(65_536):
                if not self._muted:
                    self._muted = True
                    near.shutdown(socket.SHUT_RDWR)
                    return
                near.sendall(data)
        except OSError:
            pass
        near.close()


@pytest.mark.parametrize("engine", ["embedded", "on_redis"])
def test_a_lost_answer_makes_no_attempt_of_its_own(engine: str, job: str, request: pytest.FixtureRequest) -> None:
    server: PushServer = request.getfixturevalue(engine)
    with server.publisher(**PATIENT) as publisher:
        publisher.task(job, task_id=job).fail("once")
    mute = Mute(server.port)
    try:
        with Publisher(mute.url, api_key=server.api_key, **PATIENT) as publisher:
            with publisher.task(job, task_id=job):
                pass
    finally:
        mute.close()
    state = server.api("GET", f"/api/tasks/{job}")
    assert (state["status"], state["attempt"]) == ("completed", 2)


def test_over_redis_alone_a_job_begins_anew_too(on_redis: PushServer, redis_url: str, job: str) -> None:
    with Publisher(redis_url, **PATIENT) as publisher:
        publisher.task(job, task_id=job).fail("once")
        with publisher.task(job, task_id=job) as again:
            again.progress(1, of=2)
        assert again.attempt is None
    state = wait_until(lambda: (now := on_redis.api("GET", f"/api/tasks/{job}")).get("status") == "completed" and now)
    assert state["attempt"] == 2
