"""What a publisher reads, and what it does to inboxes: over HTTP, over Redis, in asyncio, to nowhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pushserver.publisher import AsyncPublisher, Publisher, PublishRefused
from pushserver.publisher.commands import Command
from pushserver.publisher.over_redis import RedisTransport
from pushserver.publisher.receipts import InboxChange, KeptMessage, Participant, Unread
from pushserver.publisher.transport import RedisEndpoint
from tests.publisher.fake_api import KEY, PATIENT, FakeApi


def test_an_inbox_is_read_by_pages(api: FakeApi, publisher: Publisher) -> None:
    page = publisher.inbox(42)
    assert [(message.offset, message.read_at) for message in page.messages] == [(4, None), (3, 7)]
    assert (page.more, page.unread, page.epoch) == (True, Unread(1, 2, 0), "e")
    assert page.unread is not None
    assert page.unread.total == 3
    publisher.inbox(42, limit=10, before=page.messages[-1], unread=True)
    assert api.log == [
        ("inbox", {"userId": "42", "limit": "50"}),
        ("inbox", {"userId": "42", "limit": "10", "before": "3", "epoch": "e", "unread": "true"}),
    ]


def test_messages_are_marked_by_themselves_or_by_their_offsets(api: FakeApi, publisher: Publisher) -> None:
    page = publisher.inbox(42)
    assert publisher.mark_read(42, page.messages[:1]) == InboxChange(Unread(1, 0, 0))
    publisher.mark_read(42, up_to=page.messages[0], read=False)
    publisher.mark_read(42, [3, 4], epoch="e")
    assert publisher.delete_from_inbox(42, [3]) == InboxChange(Unread(1, 0, 0), deleted=1)
    assert api.log[1:] == [
        ("inbox.read", {"userId": "42", "epoch": "e", "offsets": [4]}),
        ("inbox.read", {"userId": "42", "epoch": "e", "upTo": 4, "read": False}),
        ("inbox.read", {"userId": "42", "epoch": "e", "offsets": [3, 4]}),
        # Who names no epoch means the present one.
        ("inbox", {"userId": "42", "limit": "1"}),
        ("inbox.delete", {"userId": "42", "epoch": "e", "offsets": [3]}),
    ]
    with pytest.raises(PublishRefused, match="CONFLICT"):
        publisher.mark_read(42, [3], epoch="old")


@pytest.mark.parametrize(
    ("messages", "up_to", "epoch"),
    [
        (None, None, "e"),
        ([1], 2, "e"),
        ([KeptMessage("message")], None, None),
        (None, KeptMessage("message"), None),
        ([KeptMessage("message", offset=1, epoch="a")], None, "b"),
    ],
)
def test_what_names_no_messages_is_said_before_anything_is_sent(
    api: FakeApi, publisher: Publisher, messages: Any, up_to: Any, epoch: Any
) -> None:
    with pytest.raises(ValueError, match=r"give messages|without an offset|two epochs"):
        publisher.mark_read(42, messages, up_to=up_to, epoch=epoch)
    assert api.log == []


def test_histories_and_presence_are_read(api: FakeApi, publisher: Publisher) -> None:
    page = publisher.history("news")
    assert [(message.data, message.sender) for message in page.messages] == [(1, "7")]
    publisher.history("news", limit=5, since=page.messages[0], reverse=True)
    assert publisher.presence("chat:a b").users == [Participant("42", 2, {"name": "Ada"})]
    assert api.log == [
        ("history", {"channel": "news", "limit": "100"}),
        ("history", {"channel": "news", "limit": "5", "offset": "9", "epoch": "e", "reverse": "true"}),
        ("presence", {"channel": "chat:a b"}),
    ]


def test_asyncio_has_the_same(api: FakeApi) -> None:
    async def main() -> None:
        async with AsyncPublisher(api.url, api_key=KEY, **PATIENT) as publisher:
            page = await publisher.inbox(42)
            assert (await publisher.mark_read(42, page.messages)).unread == Unread(1, 0, 0)
            assert (await publisher.delete_from_inbox(42, up_to=page.messages[0])).deleted == 1
            assert (await publisher.history("news")).offset == 9
            assert (await publisher.presence("news")).total == 1

    asyncio.run(main())
    assert [method for method, _ in api.log] == ["inbox", "inbox.read", "inbox.delete", "history", "presence"]


def test_over_redis_it_is_asked_over_http(api: FakeApi) -> None:
    asked: list[Command] = []

    class Asking:
        def call(self, command: Command) -> Any:
            asked.append(command)
            return {}

    transport = RedisTransport(RedisEndpoint(host="127.0.0.1", port=1), "push", 1.0, Asking())  # type: ignore[arg-type]
    transport.call(Command("presence", {"channel": "news"}))
    assert asked == [Command("presence", {"channel": "news"})]
    with pytest.raises(ValueError, match="inbox is asked over HTTP"):
        RedisTransport(RedisEndpoint(host="127.0.0.1", port=1), "push", 1.0, None).call(
            Command("inbox", {"userId": "42"})
        )


def test_nowhere_there_is_nothing() -> None:
    publisher = Publisher("null://")
    assert publisher.inbox(42).messages == []
    assert publisher.mark_read(42, [1]) == InboxChange()
    assert publisher.presence("news").total == 0
