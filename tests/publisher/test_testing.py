"""Publishers that go nowhere."""

from __future__ import annotations

import asyncio

from pushserver.publisher import AsyncPublisher, Publisher, tqdm
from pushserver.publisher.testing import AsyncRecordingPublisher, RecordingPublisher


def test_it_remembers_what_was_sent() -> None:
    publisher = RecordingPublisher()
    assert isinstance(publisher, Publisher)
    publisher.publish("news", {"n": 1})
    publisher.broadcast(["news", "other"], 2)
    publisher.publish("news", 3, live=True)
    publisher.notify(42, title="Paid", background=True)
    publisher.notify([42, 43], {"n": 4})
    with publisher.task(42, "Render") as task:
        task.progress(1, of=2)
    for _ in tqdm(range(2), user_id=43, publisher=publisher, title="Rows", disable=None):
        pass
    assert publisher.published_to("news") == [{"n": 1}, 2, 3]
    assert publisher.notifications_for(42) == [{"title": "Paid"}, {"n": 4}]
    assert [(state["title"], state["status"]) for state in publisher.tasks_of(42)] == [("Render", "completed")]
    assert [state["status"] for state in publisher.tasks_of(43)] == ["completed"]
    assert [command.method for command in publisher.sent[:2]] == ["publish", "broadcast"]
    publisher.clear()
    assert publisher.sent == []


def test_for_asyncio_as_well() -> None:
    async def main() -> AsyncRecordingPublisher:
        publisher = AsyncRecordingPublisher()
        await publisher.notify(42, title="Paid")
        async with publisher.task(42, "Render"):
            pass
        return publisher

    publisher = asyncio.run(main())
    assert isinstance(publisher, AsyncPublisher)
    assert publisher.notifications_for(42) == [{"title": "Paid"}]
    assert publisher.tasks_of(42)[0]["status"] == "completed"


def test_nowhere_answers_as_a_server_would() -> None:
    with Publisher("null://") as publisher:
        assert publisher.publish("news", 1, message_id="m").message_id == "m"
        assert [n.user_id for n in publisher.notify([1, 2], {})] == ["1", "2"]
        assert len(publisher.broadcast(["a", "b"], 1)) == 2
        assert publisher.revoke(42, issued_before=5).issued_before == 5
        assert publisher.disconnect(42).closed == 0
        assert publisher.ticket(42).ticket
        with publisher.task(42) as task:
            task.progress(1)
        assert task.answered
