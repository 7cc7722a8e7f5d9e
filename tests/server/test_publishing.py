"""The one way in: what may not be published to, and what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_twisted

import pushserver.server.publishing
from pushserver.core.errors import Code, Invalid, NotFound, Refused
from pushserver.engine.interfaces import ONCE_TTL, PublishResult, Retention
from tests.fakes import Rig

SETTINGS = """
[[namespaces]]
name = "news"
history_size = 5
history_ttl = "1m"
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("", Code.INVALID_CHANNEL),
        ("news a", Code.INVALID_CHANNEL),
        ("nowhere:a", Code.UNKNOWN_CHANNEL),
        ("user:", Code.INVALID_CHANNEL),
    ],
)
async def test_a_channel_must_be_one(rig: Rig, channel: str, code: Code) -> None:
    with pytest.raises(Refused) as refused:
        rig.node.publishing.namespace(channel)
    assert refused.value.code is code


@pytest.mark.parametrize("channel", ["task:a", "status:a", "stats"])
async def test_the_servers_own_channels_are_its_own(rig: Rig, channel: str) -> None:
    with pytest.raises(Refused):
        await rig.node.publishing.publish(channel, "message", msgspec.Raw(b"1"))


async def test_an_id_of_the_publishers_makes_it_happen_once(rig: Rig) -> None:
    publish = rig.node.publishing.publish
    first = await publish("news:a", "message", msgspec.Raw(b"1"), message_id="m")
    again = await publish("news:a", "message", msgspec.Raw(b"1"), message_id="m")
    assert (first.offset, first.duplicate) == (1, False)
    assert (again.offset, again.duplicate) == (1, True)


async def test_tags_come_with_the_message_live_and_kept(rig: Rig) -> None:
    ann = await rig.client("ann")
    await ann.ask("subscribe", channels=["news:a"])
    tags = {"colour": "blue"}
    await rig.execute("publish", channel="news:a", data=1, tags=tags)
    await rig.execute("broadcast", channels=["news:a"], data=2, tags=tags)
    await rig.execute("notify", userId="ann", data=3, tags=tags)
    await rig.execute("publish", channel="news:a", data=4, tags={})
    kept = (await ann.ask("history", channel="news:a"))["data"]["messages"]
    assert [one.get("tags") for one in kept] == [tags, tags, None]
    assert [one.get("tags") for one in ann.pushes("message")] == [tags, tags, None]
    assert [one.get("tags") for one in ann.pushes("user_notification")] == [tags]


@pytest.mark.parametrize("tags", [{"a": "b" * 1100}, {"a": 1}, ["a"], "a"])
@pytest.mark.parametrize("method", ["publish", "broadcast", "notify"])
async def test_tags_are_few_and_texts(rig: Rig, method: str, tags: object) -> None:
    with pytest.raises(Invalid):
        await rig.execute(method, channel="news:a", channels=["news:a"], userId="ann", data=1, tags=tags)


@pytest.mark.parametrize("others", [True, False], ids=["clients that ask for it", "none"])
async def test_of_who_published_clients_are_told_the_user_and_the_rest_is_kept_for_those_who_ask(
    tmp_path: Path, others: bool
) -> None:
    rig = await Rig(tmp_path, f"{SETTINGS}[centrifuge]\nenabled = {str(others).lower()}\n").start()
    ann = await rig.client("ann", {"info": {"name": "Ann"}, "permissions": ["publish:news:*"]})
    await ann.ask("subscribe", channels=["news:a"])
    await ann.ask("publish", channel="news:a", data=1)
    (push,) = ann.pushes("message")
    assert (push["from"], {"client", "info"} & set(push)) == ("ann", set())
    (kept,) = (await rig.engine.history.read("news:a", None, 10, False)).messages
    shown = (ann.connection.id, '{"name":"Ann"}') if others else (None, None)
    assert (kept.sender, kept.sender_connection, kept.sender_info) == ("ann", *shown)
    await rig.stop()


async def test_what_shall_not_be_kept_is_live_alone(rig: Rig) -> None:
    ann = await rig.client("ann")
    await ann.ask("subscribe", channels=["news:a"])
    for channel in ("news:a", "user:ann"):
        published = await rig.execute("publish", channel=channel, data=1, skipHistory=True)
        assert list(published) == ["messageId"]
    await rig.until_idle()
    assert [(one["channel"], "offset" in one) for one in ann.pushes("message")] == [
        ("news:a", False),
        ("user:ann", False),
    ]
    assert (await ann.ask("history", channel="news:a"))["data"]["messages"] == []
    assert (await rig.engine.inbox.state("ann")).offset == 0


async def test_what_is_cleared_is_lost_for_who_was_behind_it(rig: Rig) -> None:
    ann = await rig.client("ann")
    first = await rig.execute("publish", channel="news:a", data=1)
    second = await rig.execute("publish", channel="news:a", data=2)
    await rig.execute("notify", userId="ann", data=3)
    for channel in ("news:a", "user:ann"):
        await rig.node.publishing.clear(channel)
    results = []
    for offset in (first["offset"], second["offset"]):
        since = {"offset": offset, "epoch": first["epoch"]}
        reply = await ann.ask("subscribe", channels=[{"channel": "news:a", "since": since}])
        result = reply["data"]["results"]["news:a"]
        results.append((result["recovered"], result["offset"], result["messages"]))
    assert results == [(False, 2, []), (True, 2, [])]
    assert (await rig.engine.inbox.read("ann", 0, 10)).messages == []
    with pytest.raises(NotFound):
        await rig.node.publishing.clear("public:a")


async def test_what_a_namespace_keeps_is_how_long(rig: Rig) -> None:
    publishing = rig.node.publishing
    assert publishing.retention(publishing.namespace("news:a")) == Retention(5, 60_000)
    assert publishing.retention(publishing.namespace("public:a")) is None


async def test_a_repeat_says_what_the_first_answer_said_of_whom_it_reached(rig: Rig) -> None:
    ann = await rig.client("ann")
    bob = await rig.client("bob", {"permissions": ["publish:user:*"]})
    for n in range(2):
        (notified,) = (await rig.execute("notify", userId="ann", data=n, messageId="m"))["results"]
        said = (await bob.ask("chat_message", content=str(n), targetId="ann", messageId="c"))["data"]
        assert [(each["delivered"], each.get("duplicate", False)) for each in (notified, said)] == [(1, n == 1)] * 2
        # Whoever is there by now did not get it.
        await rig.client("ann")
    assert len(ann.pushes("user_notification", "chat_message")) == 2


async def test_whom_a_message_reached_is_remembered_as_long_as_its_key(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushserver.server.publishing, "MAX_REMEMBERED", 2)
    delivered = rig.node.publishing.delivered
    first, repeat = PublishResult("m"), PublishResult("m", duplicate=True)
    assert delivered("user:a", None, first, 7) == 7
    for n, user in enumerate("abc", 1):
        assert delivered(f"user:{user}", "m", first, n) == n
    assert [delivered(f"user:{user}", "m", repeat, 9) for user in "abc"] == [0, 2, 3]
    rig.clock.advance(ONCE_TTL / 1000)
    assert delivered("user:c", "m", repeat, 9) == 0
    assert delivered("user:d", "m", first, 4) == 4
    assert len(rig.node.publishing._delivered) == 1
