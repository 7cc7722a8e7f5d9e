"""The publisher for asyncio, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pushserver.publisher import AsyncPublisher, PublishRefused, PublishUnavailable
from tests.publisher.fake_api import KEY, FakeApi


def test_the_same_calls_awaited(api: FakeApi) -> None:
    async def main() -> None:
        async with AsyncPublisher(api.url, api_key=KEY, min_interval=0.01) as publisher:
            assert (await publisher.publish("news", 1)).offset == 1
            (_, bad) = await publisher.broadcast(["news", "bad"], 1)
            assert isinstance(bad, PublishRefused)
            assert [n.user_id for n in await publisher.notify([1, 2], title="t")] == ["1", "2"]
            assert len(await publisher.batch([("publish", {"channel": "c", "data": 1})] * 1_001)) == 1_001
            receipt = await publisher.publish("later", 1, background=True)
            await publisher.notify(3, message="later", background=True)
            assert await publisher.flush(10)
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
        async with AsyncPublisher(api.url, api_key=KEY, min_interval=0.01) as publisher:
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
