"""The tqdm that tells the push server, and that is the plain one without configuration."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tqdm import tqdm as plain_tqdm

from pushserver.publisher import Publisher, tqdm, trange
from tests.publisher.fake_api import KEY, PATIENT, FakeApi, child_environment


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUSHSERVER_URL", "PUSHSERVER_API_KEY", "PUSHSERVER_USER_ID", "PUSHSERVER_PREFIX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bar(publisher: Publisher) -> dict[str, Any]:
    return {"user_id": 42, "publisher": publisher, "file": io.StringIO(), "mininterval": 0}


def test_without_configuration_it_is_the_plain_one(api: FakeApi) -> None:
    shown: dict[type, str] = {}
    for kind in (plain_tqdm, tqdm):
        out = io.StringIO()
        assert list(kind(range(3), file=out, bar_format="{l_bar}{n_fmt}/{total_fmt}", desc="x")) == [0, 1, 2]
        shown[kind] = out.getvalue()
    assert shown[plain_tqdm] == shown[tqdm]
    assert "3/3" in shown[tqdm]
    assert issubclass(tqdm, plain_tqdm)
    assert api.requests == 0


def test_iteration_is_told(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    assert list(tqdm("abc", desc="Import", **bar)) == ["a", "b", "c"]
    publisher.flush(30)
    state = api.only_task()
    assert (state["status"], state["currentStep"], state["totalSteps"]) == ("completed", 3, 3)
    assert (state["title"], state["userId"]) == ("Import", "42")
    assert "3/3" in bar["file"].getvalue()


def test_update_and_postfix(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    with tqdm(total=10, desc="Load", **bar) as progress:
        progress.update(4)
        progress.set_postfix(loss="0.5")
        publisher.flush(30)
        state = api.only_task()
        assert (state["status"], state["percentage"], state["message"]) == ("running", 40.0, "Load, loss=0.5")
        progress.set_description("Save")
        progress.update(6)
    publisher.flush(30)
    assert (api.only_task()["status"], api.only_task()["message"]) == ("completed", "Save, loss=0.5")


def test_without_a_total_steps_are_counted(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    progress = tqdm(total=None, **bar)
    progress.update(7)
    publisher.flush(30)
    assert api.only_task()["currentStep"] == 7
    assert "totalSteps" not in api.only_task()
    progress.close()
    publisher.flush(30)
    assert api.only_task()["status"] == "completed"
    progress.close()


@pytest.mark.parametrize("mininterval", [0, 3600])
def test_what_is_left_early_is_not_shown_as_done(
    api: FakeApi, publisher: Publisher, bar: dict[str, Any], mininterval: float
) -> None:
    # Also where tqdm, which counts as often as it draws, has not drawn yet.
    for n in tqdm(range(10), **bar | {"mininterval": mininterval}):
        if n == 3:
            break
    publisher.flush(30)
    assert (api.only_task()["status"], api.only_task()["error"]) == ("failed", "stopped after 3 of 10")


def test_exceptions_fail_it_with_their_message(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    def rows() -> Any:
        yield 1
        raise OSError("disk is gone")

    with pytest.raises(OSError):
        list(tqdm(rows(), title="source", **bar))

    def body() -> None:
        with tqdm(total=3, title="body", **bar):
            raise KeyError("no")

    with pytest.raises(KeyError):
        body()
    publisher.flush(30)
    errors = {state["title"]: state["error"] for state in api.tasks.values()}
    assert errors == {"source": "disk is gone", "body": "'no'"}


def test_an_abandoned_bar_is_not_shown_as_done(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    progress = tqdm(total=10, **bar)
    progress.update(2)
    del progress
    publisher.flush(30)
    assert api.only_task()["error"] == "stopped after 2 of 10"


def test_a_reset_bar_may_go_back(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    with tqdm(total=10, **bar) as progress:
        progress.update(9)
        publisher.flush(30)
        progress.reset()
        publisher.flush(30)
        assert (api.only_task()["percentage"], api.only_task()["force"]) == (0.0, True)


def test_nested_bars_are_each_their_own_or_plain(
    api: FakeApi, publisher: Publisher, bar: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in trange(2, title="outer", **bar):
        for _ in tqdm(range(2), title="inner", **bar):
            pass
    publisher.flush(30)
    # An inner bar's end, which is waited for, takes its creation ahead of an outer one's that still waits.
    titles = sorted(params["title"] for method, params in api.log if method == "task.create")
    assert titles == ["inner", "inner", "outer"]
    assert {state["status"] for state in api.tasks.values()} == {"completed"}

    api.tasks.clear()
    monkeypatch.setenv("PUSHSERVER_URL", api.url)
    monkeypatch.setenv("PUSHSERVER_API_KEY", KEY)
    monkeypatch.setenv("PUSHSERVER_USER_ID", "9")
    for _ in range(2):
        for _ in tqdm(range(2), desc="outer", file=io.StringIO()):
            for _ in tqdm(range(2), desc="inner", file=io.StringIO()):
                pass
    api.until(lambda: [s["status"] for s in list(api.tasks.values())] == ["completed"] * 2)
    assert [(s["title"], s["userId"]) for s in api.tasks.values()] == [("outer", "9")] * 2


def test_a_disabled_bar_tells_nothing(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    assert list(tqdm(range(3), disable=True, **bar)) == [0, 1, 2]
    assert list(tqdm(range(3), user_id=42, file=bar["file"])) == [0, 1, 2]
    publisher.flush(30)
    assert api.requests == 0


def test_a_quiet_terminal_keeps_no_user_waiting(
    api: FakeApi, publisher: Publisher, bar: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(tqdm(range(3), disable=None, **bar)) == [0, 1, 2]
    monkeypatch.setenv("TQDM_DISABLE", "1")
    code = (
        "from pushserver.publisher import Publisher, tqdm\n"
        f"publisher = Publisher({api.url!r}, api_key={KEY!r}, **{PATIENT!r})\n"
        "list(tqdm(range(3), user_id=42, publisher=publisher)); list(tqdm(range(3)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, check=True)
    assert [state["status"] for state in api.tasks.values()] == ["completed"] * 2
    assert (bar["file"].getvalue(), ended.stderr) == ("", b"")


def test_one_closed_short_of_its_total_says_where_it_stopped(api: FakeApi, bar: dict[str, Any]) -> None:
    with tqdm(total=10, title="block", **bar) as short:
        short.update(4)
    closed = tqdm(total=10, title="close", **bar)
    closed.update(4)
    closed.close()
    assert {state["error"] for state in api.tasks.values()} == {"stopped after 4 of 10"}


def test_one_whose_iterable_ended_is_done(api: FakeApi, bar: dict[str, Any]) -> None:
    assert list(tqdm(iter("abcd"), total=10, **bar)) == ["a", "b", "c", "d"]
    assert api.only_task()["status"] == "completed"


def test_one_closed_while_an_exception_passes_has_failed(api: FakeApi, bar: dict[str, Any]) -> None:
    def work() -> None:
        progress = tqdm(total=3, **bar)
        try:
            progress.update(3)
            raise OSError("disk is gone")
        finally:
            progress.close()

    with pytest.raises(OSError):
        work()
    assert (api.only_task()["status"], api.only_task()["error"]) == ("failed", "disk is gone")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_that_leaves_its_parents_bar_ends_nothing(
    api: FakeApi, publisher: Publisher, bar: dict[str, Any]
) -> None:
    with tqdm(total=10, **bar) as shown:
        shown.update(3)
        assert publisher.flush(30)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                shown.__exit__(SystemExit, SystemExit(0), None)
                status = 0 if publisher.flush(30) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        shown.update(7)
    assert publisher.flush(30)
    assert api.only_task()["status"] == "completed"
    assert "task.fail" not in api.methods()


def test_one_that_begins_while_an_exception_is_handled_is_its_own(api: FakeApi, bar: dict[str, Any]) -> None:
    try:
        raise OSError("first try")
    except OSError:
        with tqdm(total=1, **bar) as progress:
            progress.update()
    assert api.only_task()["status"] == "completed"


def test_a_total_may_grow(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    progress = tqdm(total=10, **bar)
    progress.update(5)
    publisher.flush(30)
    progress.total = 100
    progress.update(20)
    publisher.flush(30)
    state = api.only_task()
    assert (state["currentStep"], state["totalSteps"], state["percentage"]) == (25, 100, 25.0)
    assert state["force"]


def test_async_loops_and_gather(api: FakeApi, bar: dict[str, Any]) -> None:
    async def rows() -> AsyncIterator[int]:
        for n in range(3):
            yield n

    async def failing() -> AsyncIterator[int]:
        yield 1
        raise OSError("disk is gone")

    async def one(n: int) -> int:
        return n

    async def main() -> None:
        assert [n async for n in tqdm(rows(), total=3, title="loop", **bar)] == [0, 1, 2]
        assert await tqdm.gather(one(1), one(2), title="gather", **bar) == [1, 2]
        with pytest.raises(OSError):
            async for _ in tqdm(failing(), title="failing", **bar):
                pass

    asyncio.run(main())
    bar["publisher"].flush(30)
    assert {state["title"]: state["status"] for state in api.tasks.values()} == {
        "loop": "completed",
        "gather": "completed",
        "failing": "failed",
    }


def test_what_is_outermost_is_told_by_thread_and_by_asyncio_task(
    api: FakeApi, bar: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHSERVER_USER_ID", "9")
    del bar["user_id"]
    elsewhere = tqdm(total=1, title="closed elsewhere", **bar)
    thread = threading.Thread(target=lambda: (elsewhere.update(), elsewhere.close()))
    thread.start()
    thread.join()

    async def job(name: str) -> None:
        for _ in tqdm(range(2), title=name, **bar):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(job("a"), job("b"))

    asyncio.run(main())
    assert list(tqdm(range(2), title="after", **bar)) == [0, 1]
    bar["publisher"].flush(30)
    assert {s["title"] for s in api.tasks.values()} == {"closed elsewhere", "a", "b", "after"}


def test_a_bar_is_never_told_of_under_the_lock_of_tqdm(
    api: FakeApi, publisher: Publisher, bar: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.RLock()
    monkeypatch.setattr(tqdm, "_lock", lock)
    held: list[bool] = []
    real = tqdm._report

    def report(self: Any) -> None:
        held.append(lock._is_owned())  # type: ignore[attr-defined]
        real(self)

    monkeypatch.setattr(tqdm, "_report", report)
    with tqdm(total=3, **bar) as progress:
        progress.update()
        progress.set_description("x")
        progress.refresh()
        progress.reset()
        progress.update(3)
    assert list(tqdm(range(3), **bar)) == [0, 1, 2]
    assert held
    assert not any(held)


def test_bars_in_cycles_are_ended_by_the_sender_alone(api: FakeApi, publisher: Publisher, bar: dict[str, Any]) -> None:
    progress = tqdm(total=10, **bar)
    progress.me = progress
    del progress
    with publisher._background._condition:
        gc.collect()
    publisher.flush(30)
    assert api.only_task()["error"] == "stopped after 0 of 10"


def test_a_wrong_address_in_the_environment_leaves_the_plain_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PUSHSERVER_URL", "ftp://nowhere")
    for _ in range(2):
        assert list(tqdm(range(3), user_id=42, file=io.StringIO())) == [0, 1, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
