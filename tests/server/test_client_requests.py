"""What clients ask for, carried out on the embedded engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail

from pushserver.app.node import settings_of
from pushserver.core import errors
from pushserver.core.channels import Namespaces
from pushserver.core.errors import Code, Refused
from pushserver.core.positions import Position
from pushserver.core.rate_limit import Rates
from pushserver.server.outbox import Policy
from tests.conftest import LoggedErrors
from tests.fakes import Rig, hold_up

SETTINGS = """
[auth]
anonymous = true
[server]
max_connections_per_user = 3
max_channels_per_connection = 4
[[namespaces]]
name = "news"
history_size = 50
publish = "authenticated"
presence = true
join_leave = true
[[namespaces]]
name = "public"
subscribe = "anyone"
presence = true
join_leave = true
[[namespaces]]
name = "live"
publish = "authenticated"
"""


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path, SETTINGS).start()
    yield rig
    await rig.stop()


async def test_every_request_gets_its_one_reply_in_order(rig: Rig) -> None:
    client = await rig.client("ann")
    for id, (type, data) in enumerate(
        [
            ("subscribe", {"channels": ["news:a", "live:a"]}),
            ("publish", {"channel": "news:a", "data": 1, "messageId": "m"}),
            ("publish", {"channel": "news:a", "data": 2, "messageId": "m"}),
            ("history", {"channel": "news:a"}),
            ("presence", {"channel": "news:a"}),
            ("ping", {"x": 1}),
            ("chat_message", {"content": "hi"}),
            ("task_get", {"taskId": "none"}),
            ("unsubscribe", {"channels": ["news:a", "system"]}),
            ("history", {"channel": "live:a"}),
        ]
    ):
        client.send(type, id, **data)
    await rig.until_idle()
    await rig.until_idle()
    replies = [m for m in client.all if isinstance(m.get("id"), int)]
    assert [m["id"] for m in replies] == list(range(10))
    subscribed, first, repeat, history, presence, pong, chat, task, left, none = (m["data"] for m in replies)
    assert subscribed["results"]["live:a"] == {}
    assert subscribed["results"]["news:a"]["recovered"] is False
    assert first["offset"] == repeat["offset"] == 1
    assert (repeat["duplicate"], repeat["conflict"]) == (True, True)
    assert [m["data"] for m in history["messages"]] == [1]
    assert presence == {"users": [{"userId": "ann", "connections": 1}], "total": 1}
    assert pong["x"] == 1
    assert (chat["delivered"], chat["queued"]) == (0, False)
    assert task["code"] == none["code"] == "NOT_FOUND"
    assert left["channels"] == ["live:a", "system", "user:ann"]
    assert left["rejected"]["system"]["code"] == "PERMISSION_DENIED"


async def test_live_messages_follow_a_recovered_past_without_gap_or_repeat(rig: Rig) -> None:
    writer = await rig.client("bob")
    for n in range(1, 6):
        await writer.ask("publish", channel="news:a", data=n)
    reader = await rig.client("ann")
    epoch = (await reader.ask("subscribe", channels=["news:a"]))["data"]["results"]["news:a"]["epoch"]
    reader.send("subscribe", "again", channels=[{"channel": "news:a", "since": {"offset": 2, "epoch": epoch}}])
    for n in range(6, 10):
        writer.send("publish", None, channel="news:a", data=n)
    await rig.until_idle()
    await rig.until_idle()
    (reply,) = [m for m in reader.all if m.get("id") == "again"]
    result = reply["data"]["results"]["news:a"]
    assert result["recovered"] is True
    after = reader.all[reader.all.index(reply) + 1 :]
    seen = [m["data"] for m in result["messages"]] + [m["data"] for m in after if m["type"] == "message"]
    assert seen == list(range(3, 10))


async def test_a_past_longer_than_is_read_is_not_called_recovered(rig: Rig) -> None:
    client = await rig.client("ann")
    for n in range(10):
        await rig.execute("publish", channel="news:a", data=n)
    position = (await client.ask("history", channel="news:a"))["data"]
    past = await rig.node.replay.history("news:a", Position(1, position["epoch"]), 5)
    assert past.recovered is False


async def test_limits_and_rules_of_subscriptions(rig: Rig) -> None:
    client = await rig.client("ann")
    wanted = ["news:a", "news:b", "news:c", "news:d", "news:e", "no where", "nix:a", "user:bob", "stats", "task:none"]
    data = (await client.ask("subscribe", channels=wanted))["data"]
    codes = {name: refusal["code"] for name, refusal in data["rejected"].items()}
    assert codes == {
        "news:e": "LIMIT_EXCEEDED",
        "no where": "INVALID_CHANNEL",
        "nix:a": "UNKNOWN_CHANNEL",
        "user:bob": "PERMISSION_DENIED",
        "stats": "PERMISSION_DENIED",
        "task:none": "LIMIT_EXCEEDED",
    }
    await client.ask("unsubscribe", channels=wanted)
    data = (await client.ask("subscribe", channels=wanted[5:]))["data"]
    assert {name: refusal["code"] for name, refusal in data["rejected"].items()} == {
        "no where": "INVALID_CHANNEL",
        "nix:a": "UNKNOWN_CHANNEL",
        "user:bob": "PERMISSION_DENIED",
        "stats": "PERMISSION_DENIED",
        "task:none": "NOT_FOUND",
    }
    assert data["channels"] == ["system", "user:ann"]


async def test_the_newest_connection_over_the_limit_goes(rig: Rig) -> None:
    for _ in range(3):
        await rig.client("ann")
    fourth = rig.connect()
    fourth.send("auth", 1, token=rig.token("ann"))
    await rig.until_idle()
    assert fourth.closed == errors.CONNECTION_LIMIT


async def test_anonymous_connections_hear_what_anyone_may_hear(rig: Rig) -> None:
    client = rig.connect()
    reply = await client.ask("subscribe", channels=["public:a", "news:a"])
    assert reply["data"]["channels"] == ["public:a"]
    assert reply["data"]["rejected"]["news:a"]["code"] == "NOT_AUTHENTICATED"
    assert (await client.ask("publish", channel="public:a", data=1))["data"]["code"] == "NOT_AUTHENTICATED"
    assert (await client.ask("history", channel="public:a"))["data"]["code"] == "NOT_FOUND"
    assert (await client.ask("unsubscribe", channels=["public:a"]))["data"]["channels"] == []
    # Past `auth.timeout`, which is not for those who may stay.
    await rig.advance(60)
    assert client.closed is None


async def test_a_sign_in_that_fails_half_way_ends_the_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, flush_errors: LoggedErrors
) -> None:
    for problem, code in ((errors.Unavailable("away"), "UNAVAILABLE"), (ZeroDivisionError(), "INTERNAL_ERROR")):
        monkeypatch.setattr(rig.engine.presence, "connect", lambda *_, problem=problem: fail(problem))
        client = rig.connect()
        reply = await client.ask("auth", token=rig.token("ann"))
        assert (reply["type"], reply["data"]["code"]) == ("auth_failed", code)
        assert client.closed == errors.INTERNAL
        client.vanish()
        monkeypatch.undo()
    await rig.until_idle()
    assert rig.leftovers() == {}
    assert len(flush_errors(ZeroDivisionError)) == 1


async def test_a_connection_that_closes_while_it_subscribes_is_no_internal_error(rig: Rig) -> None:
    client = await rig.client("ann")
    client.send("subscribe", 1, channels=["news:a", "news:b"])
    client.vanish()
    await rig.until_idle()
    assert rig.leftovers() == {}


async def test_a_subscription_that_cannot_be_opened_is_rejected_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, flush_errors: LoggedErrors
) -> None:
    client = await rig.client("ann")
    await client.ask("subscribe", channels=["news:b"])
    history = rig.node.replay.history

    async def sometimes(channel: str, *args: object) -> object:
        if channel == "news:a":
            raise ZeroDivisionError
        if channel == "news:b":
            raise errors.Unavailable("away")
        return await history(channel, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.node.replay, "history", sometimes)
    data = (await client.ask("subscribe", channels=["news:a", "news:b", "news:c"]))["data"]
    assert {name: r["code"] for name, r in data["rejected"].items()} == {
        "news:a": "INTERNAL_ERROR",
        "news:b": "UNAVAILABLE",
    }
    assert data["channels"] == ["news:b", "news:c", "system", "user:ann"]
    await rig.execute("publish", channel="news:b", data="still live")
    await rig.until_idle()
    assert client.pushes()[-1]["data"] == "still live"
    assert len(flush_errors(ZeroDivisionError)) == 1


async def test_a_subscription_forced_upon_a_connection_that_ends_leaves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await rig.client("ann")
    held: Deferred[None] = Deferred()
    monkeypatch.setattr(rig.engine.broker, "subscribe", lambda channel: held)
    work = Deferred.fromCoroutine(rig.node.subscriptions.force_subscribe(client.connection, ("news:a", "news:b")))
    client.vanish()
    held.callback(None)
    await work
    await rig.until_idle()
    assert rig.leftovers() == {}


async def test_an_output_forced_upon_a_connection_that_ends_keeps_it_from_nobody(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, other = await rig.client("ann"), await rig.client("ann")
    await rig.execute("task.create", taskId="t", userId="ann")
    get = rig.engine.tasks.get

    def leaves(task_id: str) -> Any:
        gone.vanish()
        return get(task_id)

    monkeypatch.setattr(rig.engine.tasks, "get", leaves)
    for client in (gone, other):
        await rig.node.subscriptions.force_subscribe(client.connection, ("output:main/t",))
    await rig.until_idle()
    assert rig.node.hub.followers("output:main/t") == [other.connection]


async def test_who_is_refused_takes_nobodys_room(rig: Rig) -> None:
    client = await rig.client("ann")
    wanted = ["task:none", "news:a", "task:other", "news:b", "news:c", "news:d", "news:e"]
    data = (await client.ask("subscribe", channels=wanted))["data"]
    assert [name for name in data["channels"] if name.startswith("news:")] == ["news:a", "news:b", "news:c", "news:d"]
    assert {name: refusal["code"] for name, refusal in data["rejected"].items()} == {
        "task:none": "NOT_FOUND",
        "task:other": "NOT_FOUND",
        "news:e": "LIMIT_EXCEEDED",
    }


async def test_a_task_that_is_forced_upon_its_owner_is_still_heard_once(rig: Rig) -> None:
    owner, other = await rig.client("ann"), await rig.client("bob")
    await rig.execute("task.create", taskId="t", userId="ann")
    await rig.advance(2)
    for client in (owner, other):
        client.new()
    for user in ("ann", "bob"):
        assert await rig.execute("subscribe", userId=user, channels=["task:t"]) == {"connections": 1}
    await rig.execute("task.progress", taskId="t", percentage=40)
    await rig.advance(2)
    await rig.execute("task.complete", taskId="t")
    await rig.until_idle()
    for client, final in ((owner, "user:ann"), (other, "task:t")):
        received = [(push["type"], push["channel"]) for push in client.new() if push["type"].startswith("task_")]
        assert received == [("task_progress", "task:t"), ("task_completed", final)]
    assert await rig.execute("unsubscribe", userId="ann", channels=["task:t"]) == {"connections": 1}
    assert "task:t" not in owner.connection.channels
    with pytest.raises(errors.NotFound):
        await rig.execute("subscribe", userId="bob", channels=["task:none"])


async def test_a_forced_subscription_that_fails_is_taken_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await rig.client("ann")

    async def away(*args: object) -> object:
        raise errors.Unavailable("away")

    monkeypatch.setattr(rig.node.replay, "history", away)
    with pytest.raises(errors.Unavailable):
        await rig.node.subscriptions.force_subscribe(client.connection, ("news:a",))
    assert "news:a" not in rig.node.hub.channels
    assert "news:a" not in client.connection.channels


async def test_a_reload_ends_nothing_that_the_server_side_is_just_subscribing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS + '[[namespaces]]\nname = "secret"\nsubscribe = "permission"'
    rig.reload(settings)
    client = await rig.client("ann")
    released = hold_up(rig.engine.broker, "subscribe", monkeypatch)
    asked = Deferred.fromCoroutine(rig.execute("subscribe", userId="ann", channels=["secret:a"]))
    await rig.until_idle()
    rig.reload(settings)
    released.callback(None)
    await asked
    await rig.until_idle()
    assert client.new() == []
    await rig.execute("publish", channel="secret:a", data=1)
    await rig.until_idle()
    assert [push["data"] for push in client.pushes("message")] == [1]


async def test_the_server_side_subscribes_and_ends_subscriptions(rig: Rig) -> None:
    client = await rig.client("ann")
    assert await rig.execute("subscribe", userId="ann", channels=["news:a"]) == {"connections": 1}
    await rig.execute("publish", channel="news:a", data=1)
    await rig.until_idle()
    assert client.pushes("message")[-1]["data"] == 1
    left = await client.ask("unsubscribe", channels=["news:a"])
    assert left["data"]["rejected"]["news:a"]["code"] == "PERMISSION_DENIED"
    assert await rig.execute("unsubscribe", userId="ann", channels=["news:a", "system"]) == {"connections": 1}
    assert client.pushes("unsubscribed")[-1]["data"]["channel"] == "news:a"
    assert sorted(client.connection.channels) == ["system", "user:ann"]


async def test_a_refresh_ends_what_is_no_longer_allowed_and_keeps_an_owners_task(rig: Rig) -> None:
    await rig.execute("task.create", taskId="t", userId="ann")
    owner = await rig.client("ann", {"permissions": ["subscribe:stats"]})
    watcher = await rig.client("bob", {"permissions": ["subscribe:task:*"]})
    await owner.ask("task_subscribe", taskId="t")
    await owner.ask("subscribe", channels=["stats"])
    await watcher.ask("task_subscribe", taskId="t")
    reply = await owner.ask("auth", token=rig.token("ann"))
    assert reply["type"] == "auth_success"
    assert [m["channel"] for m in owner.pushes("unsubscribed")] == ["stats"]
    assert "task:t" in owner.connection.channels
    await watcher.ask("auth", token=rig.token("bob"))
    assert [m["channel"] for m in watcher.pushes("unsubscribed")] == ["task:t"]


async def test_what_the_server_subscribed_goes_with_its_namespace(rig: Rig) -> None:
    client = await rig.client("ann")
    connection, subscriptions = client.connection, rig.node.subscriptions
    await subscriptions.force_subscribe(connection, ("news:a", "chat:lobby"))
    assert subscriptions.refused(connection, Namespaces()) == [("news:a", Code.UNKNOWN_CHANNEL)]
    subscriptions.drop(connection, "news:a")
    assert connection.server_channels == ("user:ann", "system", "chat:lobby")
    assert connection.channels == {"user:ann", "system", "chat:lobby"}


async def test_presence_goes_by_the_rules_of_a_reload(rig: Rig) -> None:
    client, nobody = await rig.client("ann"), rig.connect()
    await client.ask("subscribe", channels=["news:a", "live:a"])
    await nobody.ask("subscribe", channels=["public:a"])
    configured = [rig.node.namespaces.all[name] for name in ("news", "live", "public")]
    await rig.until_idle()
    told = len(client.all)
    for kept, present in ((False, [("live:a", 1), ("news:a", 0)]), (True, [("live:a", 0), ("news:a", 1)])):
        changed = [replace(each, presence=(each.name == "live") != kept) for each in configured]
        rig.node.adopt(Namespaces(changed), {}, settings_of(rig.config, "here"))
        await rig.until_idle()
        for channel, count in present:
            assert len(await rig.engine.presence.members(channel)) == count
    assert len(client.all) == told


async def test_what_the_server_subscribed_nobody_to_is_its_own_to_end(rig: Rig) -> None:
    client = rig.connect()
    await client.ask("subscribe", channels=["public:b"])
    for channel in ("public:a", "live:a"):
        await rig.node.subscriptions.force_subscribe(client.connection, (channel,))
    assert rig.node.subscriptions.force_unsubscribe(client.connection, ("public:a",))
    assert client.pushes("unsubscribed")[-1]["data"]["channel"] == "public:a"
    reply = await client.ask("auth", token=rig.token("ann"))
    assert reply["data"]["channels"] == ["live:a", "system", "user:ann"]
    left = await client.ask("unsubscribe", channels=["live:a", "public:b"])
    assert list(left["data"]["rejected"]) == ["live:a"]
    assert not rig.node.subscriptions.force_unsubscribe(client.connection, ("system", "user:ann"))
    assert rig.node.subscriptions.force_unsubscribe(client.connection, ("live:a",))
    assert client.connection.server_channels == ("user:ann", "system")


async def test_presence_shows_what_the_newer_token_says(rig: Rig) -> None:
    client = await rig.client("7", {"info": {"name": "Ada"}})
    await client.ask("subscribe", channels=["chat:lobby"])
    for info in ({"name": "Ada L."}, None):
        await client.ask("auth", token=rig.token("7", info=info))
        (user,) = (await client.ask("presence", channel="chat:lobby"))["data"]["users"]
        assert (user["connections"], user.get("info")) == (1, info)


async def test_a_refresh_announces_nothing_of_the_inbox(rig: Rig) -> None:
    await rig.execute("notify", userId="ann", data=1)
    client = rig.connect()
    for pending in (1, 0):
        reply = await client.ask("auth", token=rig.token("ann"))
        inbox = reply["data"]["inbox"]
        assert (inbox["offset"], inbox["acked"], inbox["pending"]) == (1, 0, pending)
    assert len(client.pushes("user_notification")) == 1


async def test_direct_chat_needs_a_shared_room_or_a_permission(rig: Rig) -> None:
    ann, bob = await rig.client("ann"), await rig.client("bob")
    refused = await ann.ask("chat_message", content="hi", targetId="bob")
    assert refused["data"]["code"] == "PERMISSION_DENIED"
    await bob.ask("subscribe", channels=["chat:x"])
    other = await rig.client("ann")
    await other.ask("subscribe", channels=["chat:x"])
    sent = await ann.ask("chat_message", content="hi", targetId="bob")
    assert (sent["data"]["delivered"], sent["data"]["queued"]) == (1, True)
    assert bob.pushes("chat_message")[-1]["data"]["content"] == "hi"


async def test_a_room_is_shared_whether_or_not_its_presence_is_shown(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, '[[namespaces]]\nname = "chat"\npresence = false').start()
    try:
        ann, bob = await rig.client("ann"), await rig.client("bob")
        for each in (ann, bob):
            await each.ask("subscribe", channels=["chat:x"])
        assert (await ann.ask("chat_message", content="hi", targetId="bob"))["type"] == "message_sent"
        assert (await ann.ask("presence", channel="chat:x"))["data"]["code"] == "NOT_FOUND"
        bob.vanish()
        await rig.until_idle()
        assert (await ann.ask("chat_message", content="hi", targetId="bob"))["data"]["code"] == "PERMISSION_DENIED"
        ann.vanish()
        await rig.until_idle()
        assert ann.pushes("presence_join", "presence_leave") == []
        assert rig.leftovers() == {}
    finally:
        await rig.stop()


async def test_a_pending_inbox_is_replayed_at_the_pace_of_the_socket_and_task_events_do_not_wait_for_it(
    rig: Rig,
) -> None:
    for n in range(60):
        await rig.execute("notify", userId="ann", data={"n": n})
    await rig.execute("task.create", taskId="t", userId="ann")
    client = rig.connect()
    client.socket.blocked = True
    client.send("auth", 1, token=rig.token("ann"))
    await rig.until_idle()
    assert len(client.pushes("user_notification")) < 5
    await rig.execute("task.progress", taskId="t", percentage=50)
    again = rig.node.hub.channels["user:ann"]
    assert client.connection in (again.catching_up or {})
    client.send("subscribe", 2, channels=["user:ann"])
    for _ in range(200):
        client.socket.unblock()
        await rig.until_idle()
    await rig.execute("notify", userId="ann", data={"n": 60})
    await rig.until_idle()
    assert [m["data"]["n"] for m in client.pushes("user_notification")] == list(range(61))
    assert client.pushes("task_progress")[-1]["data"]["percentage"] == 50


async def test_what_a_slow_consumer_left_out_is_read_again(rig: Rig) -> None:
    client = await rig.client("ann", policy=Policy.DROP_OLDEST, limit=500)
    await client.ask("subscribe", channels=["news:a"])
    client.socket.blocked = True
    for n in range(1, 31):
        await rig.execute("publish", channel="news:a", data=n)
        await rig.until_idle()
    for _ in range(100):
        client.socket.unblock()
        await rig.until_idle()
    assert [m["data"] for m in client.pushes("message")] == list(range(1, 31))


async def test_a_slow_consumer_is_disconnected_where_so_configured(rig: Rig) -> None:
    client = await rig.client("ann", limit=500)
    await client.ask("subscribe", channels=["live:a"])
    client.socket.blocked = True
    for n in range(30):
        await rig.execute("publish", channel="live:a", data=n)
        await rig.until_idle()
    assert client.closed == errors.SLOW
    assert rig.node.counters.slow_consumers == 1


async def test_who_signs_in_later_is_present_where_they_already_were(rig: Rig) -> None:
    watcher = await rig.client("eve")
    await watcher.ask("subscribe", channels=["public:room"])
    client = rig.connect()
    await client.ask("subscribe", channels=["public:room"])
    assert [m["data"]["userId"] for m in watcher.pushes("presence_join")] == ["eve"]
    assert (await client.ask("auth", token=rig.token("ann")))["type"] == "auth_success"
    present = await watcher.ask("presence", channel="public:room")
    assert [user["userId"] for user in present["data"]["users"]] == ["ann", "eve"]
    assert [m["data"]["userId"] for m in watcher.pushes("presence_join") if m["data"]["userId"] == "ann"] == ["ann"]
    client.vanish()
    await rig.until_idle()
    assert [m["data"]["userId"] for m in watcher.pushes("presence_leave")] == ["ann"]


async def test_presence_joins_and_leaves_come_in_pairs(rig: Rig) -> None:
    watcher = await rig.client("eve")
    await watcher.ask("subscribe", channels=["news:a", "status:ann"])
    clients = [await rig.client("ann"), await rig.client("ann")]
    for client in clients:
        await client.ask("subscribe", channels=["news:a"])
    for client in clients:
        client.vanish()
    await rig.until_idle()
    kinds = [m["type"] for m in watcher.pushes("presence_join", "presence_leave") if m["data"]["userId"] == "ann"]
    assert kinds == ["presence_join", "presence_leave"]
    again = await rig.client("ann")
    await rig.advance(6)
    assert [m["data"]["status"] for m in watcher.pushes("user_status")] == ["online"]
    again.vanish()
    await rig.advance(6)
    assert [m["data"]["status"] for m in watcher.pushes("user_status")] == ["online", "offline"]
    assert rig.node.presence._leaving == {}


async def test_chat_that_is_too_fast_is_refused_and_in_the_end_closed(rig: Rig) -> None:
    client = await rig.client("ann", rates=Rates(0, 0, 0))
    refused = 0
    for _ in range(110):
        client.send("chat_message", None, content="x")
        await rig.until_idle()
        refused += 1
        if client.closed:
            break
    assert client.closed == errors.TOO_MANY_REQUESTS
    assert refused == 105  # five are allowed, a hundred refused


async def test_what_is_refused_counts_once_and_is_remembered_with_its_reason(rig: Rig) -> None:
    client = await rig.client("ann")
    assert (await client.ask("history", channel="secret:plan"))["data"]["code"] == "UNKNOWN_CHANNEL"
    assert (await client.ask("nonsense"))["data"]["code"] == "UNKNOWN_MESSAGE_TYPE"
    assert rig.node.counters.errors == {"UNKNOWN_CHANNEL": 1, "UNKNOWN_MESSAGE_TYPE": 1}
    assert client.connection.errors == 2
    refused = {event.code: (event.times, event.reason) for event in rig.node.recent.of("ann")}
    assert refused == {
        "UNKNOWN_CHANNEL": (1, "no such namespace"),
        "UNKNOWN_MESSAGE_TYPE": (1, "unknown message type"),
    }


async def test_a_revocation_that_comes_while_the_engine_is_asked_is_not_missed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: Deferred[list[bool]] = Deferred()
    monkeypatch.setattr(rig.engine.revocations, "revoked", lambda credentials: answer)
    client = rig.connect()
    client.send("auth", 1, token=rig.token("ann"))
    await rig.advance(1)
    await rig.execute("revoke", userId="ann")
    answer.callback([False])
    await rig.until_idle()
    assert client.closed == errors.INVALID_TOKEN


async def test_no_client_uses_up_the_message_id_of_the_server_side_or_of_another(rig: Rig) -> None:
    ann = await rig.client("ann", {"permissions": ["chat:*", "publish:*"]})
    mallory = await rig.client("mallory", {"permissions": ["chat:*", "publish:*"]})
    for client in (ann, mallory):
        await client.ask("subscribe", channels=["news:a"])
    await mallory.ask("subscribe", channels=["chat:lobby"])
    for message_id in ("order-1", "order-2"):
        await mallory.ask("publish", channel="news:a", data="forged", messageId=message_id)
        await mallory.ask("chat_message", content="forged", messageId=message_id)
    sent = await mallory.ask("chat_message", content="other", messageId="order-1")
    assert (sent["data"]["duplicate"], sent["data"]["conflict"]) == (True, True)
    published = await rig.execute("publish", channel="news:a", data="true", messageId="order-1")
    assert "duplicate" not in published
    (notified,) = (await rig.execute("notify", userId="ann", data="paid", messageId="order-1"))["results"]
    assert "duplicate" not in notified
    own = await ann.ask("publish", channel="news:a", data="hers", messageId="order-2")
    assert "duplicate" not in own["data"]
    await rig.until_idle()
    assert [push["data"] for push in ann.pushes("user_notification")] == ["paid"]
    assert [push["data"] for push in ann.pushes("message")] == ["forged", "forged", "true", "hers"]


async def test_chat_counts_whichever_message_carries_it(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, "[rate_limits]\nchat_messages_per_second = 2\n").start()
    try:
        ann = await rig.client("ann")
        assert (await ann.ask("chat_message", content="hi"))["type"] == "message_sent"
        assert (await ann.ask("publish", channel="chat:a", data=1))["type"] == "published"
        for refused in (
            await ann.ask("publish", channel="chat:a", data=1),
            await ann.ask("chat_message", content="hi"),
        ):
            assert refused["data"]["code"] == "RATE_LIMITED"
            assert refused["data"]["retryAfter"] > 0
    finally:
        await rig.stop()


async def test_a_request_names_a_thousand_channels_at_most(rig: Rig) -> None:
    ann = await rig.client("ann")
    for type in ("subscribe", "unsubscribe"):
        many = [f"chat:{n}" for n in range(1_001)]
        assert (await ann.ask(type, channels=many))["data"]["code"] == "INVALID_MESSAGE"
        assert (await ann.ask(type, channels=many[1:]))["type"].endswith("subscription_success")


async def test_nobody_is_subscribed_to_another_users_channel(rig: Rig) -> None:
    ann = await rig.client("ann")
    stranger = rig.connect()
    for whose in ({"userId": "ann"}, {"connectionId": ann.connection.id}):
        with pytest.raises(Refused) as refused:
            await rig.execute("subscribe", channels=["chat:a", "user:bob"], **whose)
        assert refused.value.code is Code.PERMISSION_DENIED
        assert ann.connection.channels == {"user:ann", "system"}
    with pytest.raises(Refused):
        await rig.execute("subscribe", channels=["user:bob"], connectionId=stranger.connection.id)
    assert await rig.execute("subscribe", channels=["user:ann"], userId="ann") == {"connections": 0}
    assert await rig.execute("subscribe", channels=["user:bob"], connectionId="gone") == {"connections": 0}
    with pytest.raises(Refused):
        await rig.node.subscriptions.force_subscribe(ann.connection, ("user:bob",))
