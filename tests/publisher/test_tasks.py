"""Tasks, as a worker tells of them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time

import pytest

from pushserver.publisher import Publisher, TaskCancelled
from tests.publisher.fake_api import KEY, PATIENT, FakeApi, child_environment


def test_leaving_completes_and_what_was_said_last_arrives(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(user_id=42, title="Render") as task:
        for n in range(1, 11):
            task.progress(n, of=10, message=f"frame {n}")
    assert publisher.flush(30)
    methods = api.methods(task.task_id)
    assert (methods[0], methods[-1]) == ("task.create", "task.complete")
    last = [params for method, params in api.log if method == "task.progress"][-1]
    assert last == {
        "taskId": task.task_id,
        "percentage": 100.0,
        "currentStep": 10,
        "totalSteps": 10,
        "message": "frame 10",
        "attempt": 1,
    }
    assert api.only_task()["status"] == "completed"
    assert api.only_task()["userId"] == "42"


def test_an_exception_fails_it_and_goes_on(api: FakeApi, publisher: Publisher) -> None:
    with pytest.raises(ZeroDivisionError):
        with publisher.task(42):
            print(1 / 0)
    publisher.flush(30)
    assert (api.only_task()["status"], api.only_task()["error"]) == ("failed", "division by zero")


def test_a_fast_loop_is_thinned_out(api: FakeApi) -> None:
    with Publisher(api.url, api_key=KEY, min_interval=0.2, **PATIENT) as publisher:
        started = time.monotonic()
        with publisher.task(42) as task:
            for n in range(10_000):
                task.progress(n, of=10_000)
        took = time.monotonic() - started
    percentages = [params["percentage"] for method, params in api.log if method == "task.progress"]
    # One at once, one at each interval, one at the end.
    assert len(percentages) <= 2 + took / 0.2
    assert percentages == sorted(percentages)
    assert percentages[-1] == pytest.approx(99.99)


def test_the_owner_can_ask_to_cancel(api: FakeApi, publisher: Publisher) -> None:
    def work() -> None:
        with publisher.task(42) as task:
            assert not task.cancelled
            api.cancel_requested.add(task.task_id)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                task.progress(percentage=1)
                task.raise_if_cancelled()
                time.sleep(0.005)

    with pytest.raises(TaskCancelled):
        work()
    publisher.flush(30)
    assert api.only_task()["status"] == "cancelled"


def test_an_end_has_its_answer_when_the_call_returns(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42, "block") as left:
        left.progress(1, of=2)
    assert left.answered
    ends = [publisher.task(42).complete({"n": 1}), publisher.task(42).fail("no"), publisher.task(42).cancel("enough")]
    assert ends == [True, True, True]
    statuses = [state["status"] for state in api.tasks.values()]
    assert statuses == ["completed", "completed", "failed", "cancelled"]


def test_without_an_end_timeout_nothing_is_waited_for(api: FakeApi) -> None:
    with Publisher(api.url, api_key=KEY, end_timeout=0, timeout=30) as publisher:
        api.unblocked.clear()
        task = publisher.task(42)
        assert not task.complete()
        assert not task.answered
        api.unblocked.set()
        publisher.flush(30)
        assert task.answered


def test_an_end_waits_for_a_server_that_hangs_no_longer_than_it_may(api: FakeApi) -> None:
    with Publisher(api.url, api_key=KEY, end_timeout=0.2, timeout=30) as publisher:
        api.unblocked.clear()
        tasks = [publisher.task(42) for _ in range(5)]
        assert not tasks[0].complete()
        # The first has waited; nobody else does.
        assert publisher._background.patience == 0
        assert [task.complete() for task in tasks[1:]] == [False] * 4
        api.unblocked.set()
        publisher.flush(30)
    assert [state["status"] for state in api.tasks.values()] == ["completed"] * 5


def test_in_an_event_loop_nothing_is_held_up(api: FakeApi, publisher: Publisher) -> None:
    async def main() -> None:
        api.unblocked.clear()
        task = publisher.task(42)
        assert not task.complete()
        api.unblocked.set()
        async with publisher.task(42) as waited_for:
            pass
        assert waited_for.answered

    asyncio.run(main())
    publisher.flush(30)
    assert [state["status"] for state in api.tasks.values()] == ["completed"] * 2


class Odd:
    """Has no form in JSON, and refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_an_end_arrives_though_its_payload_cannot(
    api: FakeApi, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    for result in ({"odd": Odd(), "n": 1}, {"rows": "x" * 2_000_000}, {("a", 1): float("nan")}):
        publisher.task(42).complete(result)
    publisher.task(42).fail(ValueError("boom \udcff"))
    states = list(api.tasks.values())
    assert [state["status"] for state in states] == ["completed"] * 3 + ["failed"]
    assert [state.get("truncated", False) for state in states] == [True, True, False, False]
    assert states[0]["result"] == {"n": 1}
    assert 600_000 < len(states[1]["result"]["rows"]) < 1_000_000
    assert states[2]["result"] == {"('a', 1)": None}
    assert states[3]["error"] == "boom \ufffd"
    assert len(caplog.records) == 1


def test_a_proxy_that_takes_less_gets_less(api: FakeApi, publisher: Publisher) -> None:
    api.proxy_limit = 5_000
    with publisher._background._condition:
        tasks = [publisher.task(42) for _ in range(20)]
    for task in tasks:
        task.complete({"html": "x" * 20_000})
    assert [(s["status"], s["truncated"]) for s in api.tasks.values()] == [("completed", True)] * 20


def test_a_job_that_is_delivered_again_begins_its_task_anew(api: FakeApi, publisher: Publisher) -> None:
    first = publisher.task(42, "Import", task_id="job")
    first.progress(40)
    publisher.flush(30)
    second = publisher.task(42, "Import", task_id="job")
    second.progress(10)
    publisher.flush(30)
    assert (api.only_task()["attempt"], api.only_task()["percentage"]) == (2, 10.0)
    # The worker that was thought dead harms nothing, and is told.
    first.progress(50)
    publisher.flush(30)
    assert first.cancelled
    assert not first.complete()
    assert api.only_task()["percentage"] == 10.0
    assert second.complete()
    assert second.attempt == 2


def test_where_the_task_is_completed_already_its_reports_end_without_a_word(
    api: FakeApi, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    assert publisher.task(42, task_id="job").complete("result")
    with publisher.task(42, task_id="job") as again:
        publisher.flush(30)
        again.progress(1)
        again.raise_if_cancelled()
    assert (api.only_task()["status"], api.only_task()["result"]) == ("completed", "result")
    assert api.methods()[-1] == "task.create"
    assert caplog.records == []


def test_a_server_of_version_1_goes_on_with_an_unfinished_task(api: FakeApi, publisher: Publisher) -> None:
    api.version = 1
    first = publisher.task(42, task_id="job")
    first.progress(40)
    publisher.flush(30)
    with publisher.task(42, task_id="job") as again:
        again.progress(60)
    assert (api.only_task()["status"], again.attempt) == ("completed", None)


@pytest.mark.parametrize("version", [1, 1.1])
def test_the_task_of_another_user_is_left_alone_and_said(
    api: FakeApi, publisher: Publisher, caplog: pytest.LogCaptureFixture, version: float
) -> None:
    api.version = version
    publisher.task(7, task_id="theirs")
    publisher.flush(30)
    assert not publisher.task(42, task_id="theirs").complete()
    assert api.tasks["theirs"]["status"] == "pending"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "another user" in caplog.text


def test_a_child_that_leaves_its_parents_block_ends_nothing(api: FakeApi) -> None:
    ended = _script(
        api,
        """
import os, sys
with publisher.task(1) as task:
    publisher.flush(30)
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    task.progress(50)
    publisher.flush(30)
    assert not task.cancelled
""",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert api.methods().count("task.complete") == 1


def test_what_others_ended_is_left_alone(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:
        publisher.flush(30)
        api.tasks[task.task_id]["status"] = "cancelled"
        task.progress(percentage=5)
        publisher.flush(30)
        assert task.cancelled
        count = len(api.log)
        task.progress(percentage=6)
    publisher.flush(30)
    assert len(api.log) == count


def test_numbers_that_are_none_are_not_told(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:
        task.progress(float("nan"))
        task.progress(percentage=float("inf"))
        task.progress(1, of=0)
        task.progress(150)
        publisher.flush(30)
    told = [params.get("percentage") for method, params in api.log if method == "task.progress"]
    assert told[-1] == 100.0
    assert set(told) <= {100.0, None}


def test_the_job_goes_on_while_the_server_is_away(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pushserver.publisher")
    api.stop()
    with Publisher(api.url, api_key=KEY, min_interval=0.02, end_timeout=0.5) as publisher:
        with publisher.task(42, "first") as first:
            for n in range(1_000):
                first.progress(n, of=1_000)
        # It has waited for the server; nobody else does until that is back.
        assert publisher._background.patience == 0
        with pytest.raises(ValueError):
            with publisher.task(42, "second") as second:
                raise ValueError("no")
        assert not publisher.flush(0.5)
        api.start()
        assert publisher.flush(30)
        assert publisher._background.patience == 0.5
    for task, status, end in ((first, "completed", "task.complete"), (second, "failed", "task.fail")):
        assert api.tasks[task.task_id]["status"] == status
        methods = api.methods(task.task_id)
        assert (methods[0], methods[-1]) == ("task.create", end)
    assert api.methods(first.task_id) == ["task.create", "task.progress", "task.complete"]
    said = [record.levelname for record in caplog.records]
    assert said == ["WARNING", "INFO"], caplog.text


def test_a_lost_answer_does_not_fail_a_task(api: FakeApi, publisher: Publisher) -> None:
    api.lose_answers = 1
    with publisher.task(42) as task:
        publisher.flush(30)
        api.lose_answers = 1
        task.progress(percentage=50)
        publisher.flush(30)
        api.lose_answers = 1
    assert publisher.flush(30)
    assert api.only_task()["status"] == "completed"
    assert not task.cancelled


def test_a_refused_creation_ends_it_quietly(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    with Publisher(api.url, api_key="wrong", min_interval=0, **PATIENT) as publisher:
        with publisher.task(42) as task:
            publisher.flush(30)
            requests = api.requests
            for n in range(100):
                task.progress(n)
        publisher.flush(30)
    assert api.requests == requests
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_waits_is_bounded(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    api.stop()
    publisher = Publisher(api.url, api_key=KEY, max_pending=5, exit_timeout=0)
    tasks = [publisher.task(42) for _ in range(50)]
    for task in tasks:
        task.progress(percentage=1)
        task.complete()
    assert publisher._background._outbox.pending <= 10
    api.start()
    assert publisher.close(10)
    # Whatever was begun was also ended.
    assert {state["status"] for state in api.tasks.values()} == {"completed"}
    assert len([r for r in caplog.records if "dropped" in r.message]) == 1


def test_one_bad_value_does_not_hold_the_others(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42, "good") as good, publisher.task(42, "bad") as bad:
        publisher.flush(30)
        api.lock.acquire()
        try:
            # Both wait for the same batch.
            bad.progress(percentage=1, details=object())
            good.progress(percentage=1)
        finally:
            api.lock.release()
        publisher.flush(30)
    publisher.flush(30)
    assert {state["status"] for state in api.tasks.values()} == {"completed"}
    assert good.task_id in api.tasks


def test_track_tells_each_step(api: FakeApi, publisher: Publisher) -> None:
    assert list(publisher.track("abc", user_id=42, title="Import")) == ["a", "b", "c"]
    publisher.flush(30)
    state = api.only_task()
    assert (state["title"], state["status"], state["currentStep"], state["totalSteps"]) == ("Import", "completed", 3, 3)


def test_track_without_a_length_counts(api: FakeApi, publisher: Publisher) -> None:
    assert list(publisher.track(iter("abc"), user_id=42)) == ["a", "b", "c"]
    publisher.flush(30)
    assert api.only_task()["currentStep"] == 3
    assert "totalSteps" not in api.only_task()


def test_a_loop_left_early_is_not_shown_as_done(api: FakeApi, publisher: Publisher) -> None:
    for row in publisher.track(range(10), user_id=42):
        if row == 3:
            break
    publisher.flush(30)
    assert (api.only_task()["status"], api.only_task()["error"]) == ("failed", "stopped after 3 of 10")
    rows = publisher.track(range(10), user_id=42)
    for row in rows:
        if row == 3:
            rows.task.complete("found")
            break
    publisher.flush(30)
    assert api.tasks[rows.task.task_id]["result"] == "found"


def test_a_failing_source_fails_it_with_its_message(api: FakeApi, publisher: Publisher) -> None:
    def rows() -> object:
        yield 1
        raise OSError("disk is gone")

    with pytest.raises(OSError):
        list(publisher.track(rows(), user_id=42))  # type: ignore[arg-type]
    publisher.flush(30)
    assert api.only_task()["error"] == "disk is gone"


def test_progress_never_waits_for_the_server(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:
        publisher.flush(30)
        sent = api.requests
        api.unblocked.clear()
        for n in range(20_000):
            task.progress(n, of=20_000)
        assert api.requests == sent
        api.unblocked.set()
    assert api.only_task()["currentStep"] == 19_999


def _script(api: FakeApi, body: str) -> subprocess.CompletedProcess[str]:
    publisher = f"Publisher({api.url!r}, api_key={KEY!r}, **{PATIENT!r})"
    code = f"from pushserver.publisher import Publisher\npublisher = {publisher}\n{body}"
    command = [sys.executable, "-c", code]
    environment = child_environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_script_that_ends_at_once_loses_nothing(api: FakeApi) -> None:
    ended = _script(api, "with publisher.task(42) as task: task.progress(50)\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert api.only_task()["status"] == "completed"


def test_a_script_that_dies_of_an_exception_says_so(api: FakeApi) -> None:
    ended = _script(api, "with publisher.task(42) as task: raise SystemExit('enough')\n")
    assert ended.returncode == 1
    assert api.only_task()["error"] == "enough"


def test_a_script_ends_in_bounded_time_without_a_server(api: FakeApi) -> None:
    api.stop()
    hasty = "publisher._background.exit_timeout = publisher._background.end_timeout = 0.5\n"
    ended = _script(api, hasty + "with publisher.task(42): pass\n")
    assert ended.returncode == 0
    assert "could not be sent" in ended.stderr


def test_a_forked_child_sends_its_own_and_only_its_own(api: FakeApi) -> None:
    ended = _script(
        api,
        """
import os
with publisher.task(1) as parent: pass
child = os.fork()
if child == 0:
    with publisher.task(2): pass
    os._exit(0 if publisher.flush(30) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(state["userId"] for state in api.tasks.values()) == ["1", "2"]
    assert {state["status"] for state in api.tasks.values()} == {"completed"}
    assert api.methods().count("task.create") == 2


def test_a_forked_child_tells_of_a_task_while_its_parents_progress_waits(api: FakeApi) -> None:
    ended = _script(
        api,
        """
import os
publisher._background._outbox.min_interval = 60
task = publisher.task(1)
task.progress(10)
publisher.flush(30)
task.progress(20)
child = os.fork()
if child == 0:
    task.progress(30)
    os._exit(0 if publisher.flush(30) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    told = [params["percentage"] for method, params in api.log if method == "task.progress"]
    assert told == [10, 30, 20]


def test_a_process_of_multiprocessing_loses_nothing(api: FakeApi) -> None:
    ended = _script(
        api,
        """
import multiprocessing
def work(n):
    with publisher.task(n): pass
context = multiprocessing.get_context("fork")
children = [context.Process(target=work, args=(n,)) for n in (1, 2)]
for child in children: child.start()
for child in children: child.join()
""",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(state["userId"] for state in api.tasks.values()) == ["1", "2"]
    assert {state["status"] for state in api.tasks.values()} == {"completed"}


def test_many_threads_share_a_publisher(api: FakeApi, publisher: Publisher) -> None:
    def work(n: int) -> None:
        for _ in publisher.track(range(50), user_id=n):
            pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert publisher.flush(30)
    assert [state["status"] for state in api.tasks.values()] == ["completed"] * 8
