"""What the rooms tell: every type of event, when it is told, and that nothing is written of what nobody asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted

from pushserver.core import events
from pushserver.engine.embedded.database import FILE
from pushserver.server.events.occupancy import VACATED_AFTER
from pushserver.server.events.recorder import REFUSED
from tests.fakes import START, Rig

ALL = '[events]\ntypes = ["*"]\nunread_after = "10s"\n'
NEWS = '[[namespaces]]\nname = "news"\npublish = "authenticated"\nhistory_size = 5\npresence = true\n'
PLAIN = '[[namespaces]]\nname = "plain"\npublish = "authenticated"\n'

Open = Callable[[str], Any]


@pytest_twisted.async_yield_fixture
async def open_rooms(tmp_path: Path) -> AsyncIterator[Open]:
    rigs: list[Rig] = []

    async def opened(settings: str) -> Rig:
        rig = Rig(tmp_path / str(len(rigs)), settings)
        rigs.append(rig)
        return await rig.start()

    yield opened
    for rig in rigs:
        await rig.stop()


async def told(rig: Rig, *types: str) -> list[tuple[str, Any]]:
    """The events of these types, or all: type and data."""
    await rig.until_idle()
    page = await rig.engine.events.read(None, 1_000, 1 << 30)
    found = [events.decode(each.body) for each in page.events]
    return [(each.type, msgspec.json.decode(each.data)) for each in found if not types or each.type in types]


async def test_who_comes_and_goes_is_told(open_rooms: Open) -> None:
    rig = await open_rooms(ALL + NEWS)
    first = await rig.client("7")
    second = await rig.client("7")
    first.vanish()
    await rig.advance(6)
    second.vanish()
    await rig.advance(6)
    seen = (START + 6) * 1000
    assert await told(rig, "user.online", "user.offline") == [
        ("user.online", {"userId": "7", "lastSeenAt": START * 1000}),
        ("user.offline", {"userId": "7", "lastSeenAt": seen}),
    ]


async def test_a_channel_is_occupied_by_the_first_and_vacated_a_while_after_the_last(open_rooms: Open) -> None:
    rig = await open_rooms(ALL + NEWS)
    one, two = await rig.client("7"), await rig.client("8", {"permissions": ["subscribe:stats"]})
    await one.ask("subscribe", channels=["news:1", "task:none", "status:8", "chat:a"])
    await two.ask("subscribe", channels=["news:1", "stats"])
    occupied = [("channel.occupied", {"channel": name}) for name in ("news:1", "chat:a")]
    assert sorted(await told(rig, "channel.occupied"), key=str) == sorted(occupied, key=str)
    await one.ask("unsubscribe", channels=["news:1"])
    await rig.advance(VACATED_AFTER / 1000 + 1)
    await two.ask("unsubscribe", channels=["news:1"])
    await rig.advance(VACATED_AFTER / 1000 - 1)
    assert await told(rig, "channel.vacated") == []
    # Back in time: nothing happened.
    await two.ask("subscribe", channels=["news:1"])
    await rig.advance(10)
    assert await told(rig, "channel.vacated") == []
    two.vanish()
    await rig.advance(VACATED_AFTER / 1000 + 0.1)
    assert await told(rig, "channel.vacated") == [("channel.vacated", {"channel": "news:1"})]


async def test_presence_is_told_where_it_is_kept_pushed_or_not(open_rooms: Open) -> None:
    rig = await open_rooms(ALL + NEWS + PLAIN)
    client = await rig.client("7", {"info": {"name": "Ada"}})
    await client.ask("subscribe", channels=["news:1", "plain:1", "chat:a"])
    await client.ask("unsubscribe", channels=["news:1"])
    here = {"userId": "7", "info": {"name": "Ada"}}
    assert await told(rig, "presence.join", "presence.leave") == [
        ("presence.join", {"channel": "news:1"} | here),
        ("presence.join", {"channel": "chat:a"} | here),
        ("presence.leave", {"channel": "news:1"} | here),
    ]


@pytest.mark.parametrize("channel", ["news:1", "plain:1"])
async def test_a_clients_message_is_told_once_and_the_server_sides_is_not(open_rooms: Open, channel: str) -> None:
    rig = await open_rooms(ALL + NEWS + PLAIN)
    client = await rig.client("7")
    for _ in range(2):
        await client.ask("publish", channel=channel, data={"a": 1}, messageType="note", messageId="m")
    await rig.execute("publish", channel=channel, data=2)
    assert await told(rig, "message.published") == [
        ("message.published", {"channel": channel, "type": "note", "data": {"a": 1}, "messageId": "m", "userId": "7"})
    ]


async def test_chat_is_told_to_rooms_and_to_users(open_rooms: Open) -> None:
    rig = await open_rooms(ALL)
    client = await rig.client("7", {"permissions": ["publish:user:*"]})
    await client.ask("chat_message", content="hi")
    await client.ask("chat_message", content="psst", targetId="8")
    found = await told(rig, "message.published")
    assert [(data["channel"], data["type"], data["data"]["content"]) for _, data in found] == [
        ("chat:lobby", "chat_message", "hi"),
        ("user:8", "chat_message", "psst"),
    ]


async def test_the_end_of_a_task_is_told_and_that_it_shall_end(open_rooms: Open) -> None:
    rig = await open_rooms(ALL)
    client = await rig.client("7")
    await rig.execute("task.create", taskId="t", userId="7")
    await rig.execute("task.progress", taskId="t", percentage=5)
    for _ in range(2):
        await client.ask("task_cancel", taskId="t")
    await rig.execute("task.complete", taskId="t")
    found = await told(rig, "task.finished", "task.cancel_requested")
    assert [(type, data["taskId"], data["status"], data["cancelRequested"]) for type, data in found] == [
        ("task.cancel_requested", "t", "running", True),
        ("task.finished", "t", "completed", True),
    ]


async def test_a_notification_that_is_not_read_is_told(open_rooms: Open) -> None:
    rig = await open_rooms(ALL)
    await rig.execute("notify", userId="7", data=1)
    await rig.execute("notify", userId="7", data=2, unreadAfter="2s")
    await rig.execute("notify", userId="7", data=3, unreadAfter=0)
    await rig.execute("notify", userId="7", data=4, unreadAfter="0s")
    client = await rig.client("7", {"permissions": ["publish:user:*"]})
    await client.ask("chat_message", content="psst", targetId="7")
    await rig.execute("task.create", taskId="t", userId="7")
    await rig.execute("task.complete", taskId="t")
    told_of: list[Any] = []
    for seconds in (3, 8, 900):
        await rig.advance(seconds)
        await rig.engine.events.notify_unread(10)
        told_of.append([data["data"] for _, data in await told(rig, "inbox.unread")])
    assert told_of == [[2], [2, 1], [2, 1]]


@pytest.mark.parametrize("after", ["x", -1, "-1s", 1.5, None, []])
async def test_what_is_no_duration_is_refused(open_rooms: Open, after: Any) -> None:
    from pushserver.core.errors import Invalid

    rig = await open_rooms(ALL)
    if after is None:
        await rig.execute("notify", userId="7", data=1, unreadAfter=after)
        return
    with pytest.raises(Invalid):
        await rig.execute("notify", userId="7", data=1, unreadAfter=after)


async def test_failed_sign_ins_are_told_at_a_bounded_rate(open_rooms: Open) -> None:
    rig = await open_rooms(ALL)
    for token in (rig.token("7", exp=START - 100), "nonsense", rig.token("7")[:-3] + "abc"):
        await rig.connect().ask("auth", token=token)
    # One a second for an address.
    assert await told(rig, "user.refused") == [
        ("user.refused", {"address": "192.0.2.1", "code": "TOKEN_EXPIRED", "userId": "7"})
    ]
    await rig.advance(1)
    await rig.connect().ask("auth", token="nonsense")
    assert (await told(rig, "user.refused"))[1:] == [
        ("user.refused", {"address": "192.0.2.1", "code": "INVALID_TOKEN"})
    ]
    # Ten a second for the node.
    await rig.advance(10)
    for n in range(30):
        rig.node._recorder.refused(f"192.0.2.{n}", "INVALID_TOKEN", None)
    assert len(await told(rig, "user.refused")) == 2 + REFUSED


def written(rig: Rig) -> list[int]:
    connection = sqlite3.connect(rig.engine._store._directory / FILE)
    try:
        tables = ("event", "unread_timer", "webhook", "webhook_held", "webhook_dead")
        return [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables]
    finally:
        connection.close()


async def test_of_what_nobody_asked_for_nothing_is_written(open_rooms: Open) -> None:
    rig = await open_rooms(NEWS)
    client = await rig.client("7")
    await client.ask("subscribe", channels=["news:1"])
    await client.ask("publish", channel="news:1", data=1)
    await rig.execute("notify", userId="7", data=1)
    await rig.execute("task.create", taskId="t", userId="7")
    await rig.execute("task.complete", taskId="t")
    await rig.connect().ask("auth", token="nonsense")
    client.vanish()
    await rig.advance(10)
    assert written(rig) == [0] * 5
    assert not rig.node._occupancy._registered


async def test_a_node_that_stops_tells_that_its_channels_are_vacated(open_rooms: Open) -> None:
    rig = await open_rooms(ALL + NEWS)
    client = await rig.client("7")
    await client.ask("subscribe", channels=["news:1"])
    client.vanish()
    await rig.until_idle()
    await rig.node.hand_over()
    assert await told(rig, "channel.vacated") == [("channel.vacated", {"channel": "news:1"})]
