"""The publisher for asyncio, over HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from pushserver.publisher import AsyncPublisher, PublishRefused, PublishUnavailable
from tests.publisher.fake_api import KEY, PATIENT, FakeApi, child_environment


def test_the_same_calls_awaited(api: FakeApi) -> None:
    async def main() -> None:
        async with AsyncPublisher(api.url, api_key=KEY, min_interval=0.01, **PATIENT) as publisher:
            assert (await publisher.publish("news", 1)).offset == 1
            (_, bad) = await publisher.broadcast(["news", "bad"], 1)
            assert isinstance(bad, PublishRefused)
            assert [n.user_id for n in await publisher.notify([1, 2], title="t")] == ["1", "2"]
            assert len(await publisher.batch([("publish", {"channel": "c", "data": 1})] * 1_001)) == 1_001
            receipt = await publisher.publish("later", 1, background=True)
            await publisher.notify(3, message="later", background=True)
            assert await publisher.flush(30)
            assert receipt.message_id in api.published
            with pytest.raises(ValueError):
                await publisher.publish("news", 1, live=True)
            api.answers = [(400, {"error": {"code": "INVALID_CHANNEL", "message": "no"}})]
            with pytest.raises(PublishRefused, match="INVALID_CHANNEL"):
                await publisher.publish("?", 1)
            api.lose_answers = 1
            assert (await publisher.publish("news", 2)).duplicate
            api.stop()
            with pytest.raises(PublishUnavailable):
                await publisher.publish("news", 1)

    asyncio.run(main())


def test_tasks_and_loops(api: FakeApi) -> None:
    async def source() -> AsyncIterator[int]:
        for n in range(3):
            yield n

    async def main() -> None:
        async with AsyncPublisher(api.url, api_key=KEY, min_interval=0.01, **PATIENT) as publisher:
            async with publisher.task(42, "whole") as task:
                task.progress(1, of=2)
            assert [n async for n in publisher.track(source(), 42, "stream", total=3)] == [0, 1, 2]
            assert [n async for n in publisher.track([5, 6], 42, "list")] == [5, 6]
            with pytest.raises(ValueError):
                async with publisher.task(42, "bad"):
                    raise ValueError("no")

    asyncio.run(main())
    assert {state["title"]: state["status"] for state in api.tasks.values()} == {
        "whole": "completed",
        "stream": "completed",
        "list": "completed",
        "bad": "failed",
    }


def test_one_publisher_over_several_loops_at_once_and_one_after_another(api: FakeApi) -> None:
    publisher = AsyncPublisher(api.url, api_key=KEY, **PATIENT)

    async def work(name: str) -> None:
        async with publisher.task(42, name) as task:
            await publisher.publish("news", name)
        assert task.answered

    for n in range(3):
        asyncio.run(work(f"after another {n}"))
    threads = [threading.Thread(target=lambda n=n: asyncio.run(work(f"at once {n}"))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(publisher.close())
    assert len(api.published) == 6
    assert {state["status"] for state in api.tasks.values()} == {"completed"}


def test_both_sides_of_a_fork_have_sockets_of_their_own(api: FakeApi) -> None:
    program = f"""
import asyncio, os, sys
from pushserver.publisher import AsyncPublisher
publisher = AsyncPublisher({api.url!r}, api_key={KEY!r}, **{PATIENT!r})
async def work(n):
    for m in range(20):
        await publisher.publish("news", [n, m])
asyncio.run(work(0))
child = os.fork()
asyncio.run(work(1 if child else 2))
if child == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(api.published) == 60


def test_what_a_call_returns_may_be_left_or_awaited(api: FakeApi) -> None:
    async def main() -> list[bool]:
        async with AsyncPublisher(api.url, api_key=KEY, **PATIENT) as publisher:
            publisher.task(1).complete()
            return [await publisher.task(2).fail("no"), await publisher.task(3).cancel("enough")]

    assert asyncio.run(main()) == [True, True]
    assert sorted(state["status"] for state in api.tasks.values()) == ["cancelled", "completed", "failed"]
