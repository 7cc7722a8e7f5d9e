"""The methods of Centrifugo's server API, on a node without sockets."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted

from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.web.centrifuge_methods import Caller, CentrifugeMethods
from pushserver.web.reach import Reach
from tests.protocols.centrifuge.sdk import Json, Sdk
from tests.protocols.paper import LocalNode

SETTINGS = """
[[namespaces]]
name = "room"
history_size = 3
presence = true
"""
EVERYTHING = frozenset({"publish", "notify", "read", "admin", "sessions"})


class Api:
    """The methods as a key calls them."""

    def __init__(self, place: LocalNode) -> None:
        node = place.node
        names = ChannelNames("#{id}")
        self._methods = CentrifugeMethods(node.clock, node.cluster, node.commands, node.reading, names)

    async def call(
        self, name: str, params: Any, scopes: frozenset[str] = EVERYTHING, reach: Reach | None = None
    ) -> Any:
        """Return what stands for a call: its result, or its error."""
        reply = await self._methods.reply(name, json.dumps(params).encode(), Caller(scopes, reach))
        return json.loads(msgspec.json.encode(reply))

    async def ask(self, name: str, **params: Any) -> Any:
        """Return the result of a call that succeeds."""
        reply = await self.call(name, params)
        assert list(reply) == ["result"], reply
        return reply["result"]

    async def fail(self, name: str, params: Any, **more: Any) -> tuple[int, str]:
        """Return the error of a call that fails."""
        reply = await self.call(name, params, **more)
        assert list(reply) == ["error"], reply
        return reply["error"]["code"], reply["error"]["message"]


@pytest_twisted.async_yield_fixture
async def place(tmp_path: Path) -> AsyncIterator[LocalNode]:
    place = await LocalNode(tmp_path, SETTINGS).start()
    yield place
    await place.stop()


@pytest.fixture
def api(place: LocalNode) -> Api:
    return Api(place)


async def connected(place: LocalNode, user: str, *channels: str, **claims: Any) -> Sdk:
    client = Sdk(place, Json())
    reply = await client.call(connect={"token": place.token(user, **claims)})
    assert "connect" in reply
    for channel in channels:
        assert "subscribe" in await client.call(subscribe={"channel": channel})
    return client


# -- messages ---------------------------------------------------------------------------------------------------------


async def test_what_is_published_is_kept_told_and_counted(place: LocalNode, api: Api) -> None:
    ann = await connected(place, "ann", "room:a", "free:a")
    first = await api.ask("publish", channel="room:a", data={"n": 1}, tags={"colour": "blue"})
    second = await api.ask("publish", channel="room:a", b64data=b64encode(b"[2]").decode())
    assert (first["offset"], second["offset"], first["epoch"]) == (1, 2, second["epoch"])
    # Zeros are written.
    assert await api.ask("publish", channel="free:a", data=None) == {"offset": 0, "epoch": ""}
    assert await api.ask("publish", channel="room:a", data=3, skip_history=True) == {"offset": 0, "epoch": ""}
    await place.until(lambda: len(ann.published("room:a")) == 3 and ann.published("free:a"))
    assert [(one["data"], one.get("offset")) for one in ann.published("room:a")] == [({"n": 1}, 1), ([2], 2), (3, None)]
    assert ann.published("room:a")[0]["tags"].items() >= {"type": "message", "colour": "blue"}.items()
    assert ann.published("free:a")[0]["data"] is None


async def test_a_key_of_the_publishers_makes_it_happen_once(place: LocalNode, api: Api) -> None:
    told = [await api.ask("publish", channel="room:a", data=n, idempotency_key="k") for n in range(2)]
    assert told[0] == told[1]
    assert (await api.ask("history", channel="room:a"))["offset"] == 1


async def test_the_inbox_goes_by_its_name_and_a_tag_may_say_the_type(place: LocalNode, api: Api) -> None:
    ann = await connected(place, "ann")
    await api.ask("publish", channel="#ann", data=1)
    await api.ask("publish", channel="#ann", data=2, tags={"type": "user_notification"})
    await api.ask("publish", channel="#ann", data=3, tags={"type": "task_completed"})
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    kept = (await place.engine.inbox.read("ann", 0, 10)).messages
    # What only the server itself says stays a tag.
    assert [message.type for message in kept] == ["message", "user_notification", "message"]
    assert [one["tags"]["type"] for one in ann.published("user:ann")] == [
        "message", "user_notification", "task_completed",
    ]  # fmt: skip


async def test_a_broadcast_answers_for_each_channel(place: LocalNode, api: Api) -> None:
    told = await api.ask("broadcast", channels=["room:a", "nowhere:a", "free:a", "#ann", "stats"], data=1)
    results = [each.get("result", {}).get("offset") for each in told["responses"]]
    errors = [each.get("error", {}).get("code") for each in told["responses"]]
    assert (results, errors) == ([1, None, 0, 1, None], [None, 102, None, None, 103])


# -- reading ----------------------------------------------------------------------------------------------------------


async def test_what_is_kept_can_be_read_and_removed(place: LocalNode, api: Api) -> None:
    ann = await connected(place, "ann", info={"name": "Ann"})
    await ann.call(publish={"channel": "kept:a", "data": 0})
    for n in (1, 2):
        await api.ask("publish", channel="kept:a", data=n)
    page = await api.ask("history", channel="kept:a", limit=-1)
    assert [one["data"] for one in page["publications"]] == [0, 1, 2]
    sender = {"user": "ann", "client": ann.connection.id, "conn_info": {"name": "Ann"}}
    assert page["publications"][0]["info"] == sender
    assert "info" not in page["publications"][1]
    assert await api.ask("history", channel="kept:a") == {"publications": [], "offset": 3, "epoch": page["epoch"]}
    since = {"offset": 1, "epoch": page["epoch"]}
    told = await api.ask("history", channel="kept:a", limit=1, since=since)
    assert [one["offset"] for one in told["publications"]] == [2]
    told = await api.ask("history", channel="kept:a", limit=1, reverse=True)
    assert [one["offset"] for one in told["publications"]] == [3]
    assert await api.ask("history_remove", channel="kept:a") == {}
    assert (await api.ask("history", channel="kept:a", limit=-1)) == {
        "publications": [], "offset": 3, "epoch": page["epoch"],
    }  # fmt: skip


async def test_who_is_there(place: LocalNode, api: Api) -> None:
    assert await api.ask("presence", channel="room:a") == {"presence": {}}
    ann = await connected(place, "ann", "room:a", info={"name": "Ann"})
    again = await connected(place, "ann", "room:a")
    told = await api.ask("presence", channel="room:a")
    assert told["presence"] == {
        ann.connection.id: {"user": "ann", "client": ann.connection.id, "conn_info": {"name": "Ann"}},
        again.connection.id: {"user": "ann", "client": again.connection.id},
    }
    assert await api.ask("presence_stats", channel="room:a") == {"num_clients": 2, "num_users": 1}
    told = await api.ask("channels")
    assert told["channels"] == {
        "#ann": {"num_clients": 2}, "room:a": {"num_clients": 2}, "system": {"num_clients": 2},
    }  # fmt: skip
    assert await api.ask("channels", pattern="room:*") == {"channels": {"room:a": {"num_clients": 2}}}
    (node,) = (await api.ask("info"))["nodes"]
    counted = {name: node[name] for name in ("name", "num_clients", "num_users", "num_subs", "num_channels")}
    assert counted == {"name": "here", "num_clients": 2, "num_users": 1, "num_subs": 6, "num_channels": 3}
    assert node["version"]
    assert set(node) == {*counted, "uid", "version", "uptime"}


# -- connections ------------------------------------------------------------------------------------------------------


async def test_connections_are_subscribed_and_unsubscribed(place: LocalNode, api: Api) -> None:
    ann, other = await connected(place, "ann"), await connected(place, "ann")
    first = await api.ask("publish", channel="room:a", data=1)
    await api.ask("publish", channel="room:a", data=2)
    since = {"offset": first["offset"], "epoch": first["epoch"]}
    assert (
        await api.ask(
            "subscribe",
            user="ann",
            client=ann.connection.id,
            channel="room:a",
            data={"hello": 1},
            info={"seat": 4},
            recover_since=since,
        )
        == {}
    )
    await place.until(lambda: ann.published("room:a"))
    (push,) = [each for each in ann.told if "subscribe" in each]
    assert push["subscribe"] == {
        "recoverable": True, "positioned": True, "epoch": first["epoch"], "offset": 1, "data": {"hello": 1},
    }  # fmt: skip
    assert [one["data"] for one in ann.published("room:a")] == [2]
    present = (await api.ask("presence", channel="room:a"))["presence"]
    assert present == {
        ann.connection.id: {"user": "ann", "client": ann.connection.id, "chan_info": {"seat": 4}},
    }  # fmt: skip
    assert await api.ask("subscribe", user="ann", channel="room:a") == {}
    await place.until(lambda: [each for each in other.told if "subscribe" in each])
    assert [each["subscribe"]["offset"] for each in other.told if "subscribe" in each] == [2]
    assert await api.ask("unsubscribe", user="ann", channel="room:a") == {}
    for client in (ann, other):
        (push,) = [each for each in client.told if "unsubscribe" in each]
        assert (push["channel"], push["unsubscribe"]["code"]) == ("room:a", 2000)
    assert (await api.ask("presence", channel="room:a"))["presence"] == {}
    # Nobody is there: that is none's fault.
    for method in ("subscribe", "unsubscribe"):
        assert await api.ask(method, user="bob", channel="room:a") == {}


async def test_a_position_that_is_lost_is_none(place: LocalNode, api: Api) -> None:
    ann = await connected(place, "ann")
    await api.ask("publish", channel="room:a", data=1)
    await api.ask("subscribe", user="ann", channel="room:a", recover_since={"offset": 0, "epoch": "another"})
    (push,) = await place.until(lambda: [each for each in ann.told if "subscribe" in each])
    assert push["subscribe"]["offset"] == 1
    assert ann.published("room:a") == []


async def test_an_owner_is_told_that_the_server_subscribed_it_to_its_task(place: LocalNode, api: Api) -> None:
    ann = await connected(place, "ann")
    await place.execute("task.create", taskId="t1", userId="ann")
    assert await api.ask("subscribe", user="ann", channel="task:t1", data={"hello": 1}) == {}
    (push,) = await place.until(lambda: [each for each in ann.told if "subscribe" in each])
    assert (push["channel"], push["subscribe"]) == ("task:t1", {"data": {"hello": 1}})
    place.time.advance(2)
    await place.execute("task.progress", taskId="t1", percentage=50)
    (told,) = await place.until(lambda: ann.published("task:t1"))
    assert ann.told.index(push) < ann.told.index({"channel": "task:t1", "pub": told})
    assert await api.ask("unsubscribe", user="ann", channel="task:t1") == {}
    (push,) = [each for each in ann.told if "unsubscribe" in each]
    assert (push["channel"], push["unsubscribe"]["code"]) == ("task:t1", 2000)


async def test_an_inbox_that_its_user_left_is_subscribed_again(place: LocalNode, api: Api) -> None:
    ann = await connected(place, "ann")
    await api.ask("publish", channel="#ann", data=0)
    await place.until(lambda: ann.published("user:ann"))
    # Who has it is told nothing anew.
    assert await api.ask("subscribe", user="ann", channel="#ann") == {}
    assert not [each for each in ann.told if "subscribe" in each]
    await ann.call(unsubscribe={"channel": "user:ann"})
    told = await api.ask("publish", channel="#ann", data=1)
    await ann.call(ping={})
    assert len(ann.published("user:ann")) == 1
    since = {"offset": 1, "epoch": told["epoch"]}
    assert await api.ask("subscribe", user="ann", channel="#ann", recover_since=since, data={"again": 1}) == {}
    await place.until(lambda: len(ann.published("user:ann")) == 2)
    (push,) = [each for each in ann.told if "subscribe" in each]
    assert (push["channel"], push["subscribe"]) == (
        "user:ann",
        {"recoverable": True, "positioned": True, "epoch": told["epoch"], "offset": 1, "data": {"again": 1}},
    )
    assert ann.published("user:ann")[1]["data"] == 1
    # From here on it is as if it had not been left: what comes is sent, and counts as sent.
    await api.ask("publish", channel="#ann", data=2)
    await place.until(lambda: len(ann.published("user:ann")) == 3)
    ann.ping()
    ann.pong()
    await ann.call(ping={})
    assert (await place.engine.inbox.state("ann")).acked == 3


async def test_connections_are_closed(place: LocalNode, api: Api) -> None:
    ann, second, third = [await connected(place, "ann") for _ in range(3)]
    bob = await connected(place, "bob")
    close = {"code": 4000, "reason": "enough"}
    await api.ask("disconnect", user="ann", disconnect=close, whitelist=[ann.connection.id, second.connection.id])
    assert third.closed is not None
    assert (third.closed.code, third.closed.reason) == (4000, "enough")
    await api.ask("disconnect", user="ann", client=second.connection.id, disconnect={"code": 0, "reason": ""})
    assert second.closed is not None
    assert second.closed.code == 3503
    await api.ask("disconnect", user="bob", client=ann.connection.id)
    assert (ann.closed, bob.closed) == (None, None)
    await api.ask("refresh", user="ann", expired=True)
    await api.ask("refresh", user="bob", expire_at=1)
    assert ann.closed is not None
    assert bob.closed is not None
    assert [ann.closed.code, bob.closed.code] == [3005, 3005]
    assert await api.ask("disconnect", user="nobody") == {}


# -- several ----------------------------------------------------------------------------------------------------------


async def test_a_batch_goes_on_after_a_failure(place: LocalNode, api: Api) -> None:
    commands = [
        {"publish": {"channel": "room:a", "data": 1}},
        {"publish": {"channel": "nowhere:a", "data": 1}},
        {"presence_stats": {"channel": "room:a"}},
        {"nonsense": {}},
        {"batch": {"commands": []}},
        {},
        {"info": {}, "channels": {}},
    ]
    replies = (await api.ask("batch", commands=commands, parallel=True))["replies"]
    assert [list(each) for each in replies] == [["publish"], ["error"], ["presence_stats"], *[["error"]] * 4]
    assert [each["error"]["code"] for each in replies if "error" in each] == [102, 104, 108, 107, 107]
    assert (await api.ask("batch"))["replies"] == []


# -- what is refused --------------------------------------------------------------------------------------------------

DEEP = "[" * 600 + "]" * 600


REFUSED: list[tuple[str, Any, int]] = [
    ("publish", {}, 107),
    ("publish", {"channel": "room:a"}, 107),
    ("publish", {"data": 1}, 107),
    ("publish", {"channel": 1, "data": 1}, 107),
    ("publish", {"channel": "room a", "data": 1}, 107),
    ("publish", {"channel": "nowhere:a", "data": 1}, 102),
    ("publish", {"channel": "task:a", "data": 1}, 103),
    ("publish", {"channel": "room:a", "data": 1, "version": 1}, 108),
    ("publish", {"channel": "room:a", "b64data": "é"}, 107),
    ("publish", {"channel": "room:a", "b64data": b64encode(b"{").decode()}, 107),
    ("publish", {"channel": "room:a", "b64data": b64encode(DEEP.encode()).decode()}, 107),
    ("publish", {"channel": "room:a", "data": json.loads(DEEP)}, 107),
    ("publish", {"channel": "room:a", "data": 1, "tags": {"a": "b" * 2000}}, 107),
    ("publish", {"channel": "room:a", "data": 1, "tags": {"a": 1}}, 107),
    ("publish", {"channel": "room:a", "data": 1, "idempotency_key": "k" * 300}, 107),
    ("broadcast", {"data": 1}, 107),
    ("broadcast", {"channels": [], "data": 1}, 107),
    ("broadcast", {"channels": ["room:a"]}, 107),
    ("broadcast", {"channels": ["room:a"] * 10_001, "data": 1}, 107),
    ("presence", {}, 107),
    ("presence", {"channel": "free:a"}, 108),
    ("presence", {"channel": "nowhere:a"}, 102),
    ("presence_stats", {"channel": "free:a"}, 108),
    ("history", {"channel": "free:a", "limit": 1}, 108),
    ("history", {"channel": "room:a", "limit": "1"}, 107),
    ("history", {"channel": "room:a", "since": {"offset": 1}}, 112),
    ("history", {"channel": "room:a", "since": {"offset": 1, "epoch": "another"}}, 112),
    ("history_remove", {"channel": "free:a"}, 108),
    ("history_remove", {"channel": "nowhere:a"}, 102),
    ("subscribe", {"channel": "room:a"}, 107),
    ("subscribe", {"user": "a b", "channel": "room:a"}, 107),
    ("subscribe", {"user": "ann"}, 107),
    ("subscribe", {"user": "ann", "channel": "nowhere:a"}, 102),
    ("subscribe", {"user": "ann", "channel": "task:none"}, 102),
    ("subscribe", {"user": "ann", "channel": "#bob"}, 103),
    ("subscribe", {"user": "ann", "channel": "output:log/t1"}, 108),
    ("unsubscribe", {"user": "ann", "channel": "output:log/t1"}, 108),
    ("presence", {"channel": "output:log/t1"}, 108),
    ("history", {"channel": "output:log/t1", "limit": 1}, 108),
    ("history_remove", {"channel": "output:log/t1"}, 108),
    ("publish", {"channel": "output:log/t1", "data": 1}, 108),
    ("subscribe", {"user": "ann", "channel": "room:a", "expire_at": 1}, 108),
    ("subscribe", {"user": "ann", "channel": "room:a", "override": {"presence": {"value": True}}}, 108),
    ("subscribe", {"user": "ann", "channel": "room:a", "label_filter": {"a": "b"}}, 108),
    ("subscribe", {"all_users": True, "channel": "room:a"}, 108),
    ("subscribe", {"user": "ann", "channel": "room:a", "info": "x" * 1100}, 107),
    ("subscribe", {"user": "ann", "channel": "room:a", "b64info": "!"}, 107),
    ("unsubscribe", {"user": "ann"}, 107),
    ("unsubscribe", {"channel": "room:a"}, 107),
    ("unsubscribe", {"user": "ann", "channel": "nowhere:a"}, 102),
    ("disconnect", {}, 107),
    ("disconnect", {"user": "ann", "disconnect": {"code": 1000}}, 107),
    ("disconnect", {"user": "ann", "disconnect": {"code": 4000, "reason": "x" * 121}}, 107),
    ("refresh", {"user": "ann"}, 108),
    ("refresh", {"user": "ann", "expire_at": 99_999_999_999}, 108),
    ("batch", {"commands": [{"info": {}}] * 1_001}, 107),
    ("batch", {"commands": [1]}, 107),
    ("rpc", {"method": "a"}, 104),
    ("map_publish", {"channel": "room:a"}, 108),
    ("user_topic_list", {}, 108),
    ("rate_limit", {"key": "a", "interval": 60_000, "rate": 10}, 108),
    ("nonsense", {}, 104),
]


async def test_what_cannot_be_done_is_an_error_by_number(api: Api) -> None:
    for method, params, code in REFUSED:
        found, message = await api.fail(method, params)
        assert (found, bool(message)) == (code, True), (method, params, message)
        assert code != 102 or message == "unknown channel"


SCOPES: list[tuple[set[str], set[str]]] = [
    ({"publish"}, {"publish", "broadcast"}),
    ({"notify"}, {"broadcast", "publish to the inbox"}),
    ({"read"}, {"presence", "presence_stats", "history", "channels", "info"}),
    ({"admin"}, {"subscribe", "unsubscribe", "history_remove"}),
    ({"sessions"}, {"disconnect", "refresh"}),
]


async def test_each_method_needs_its_scope(api: Api) -> None:
    for scopes, allowed in SCOPES:
        assert await callable_with(api, scopes) == allowed
    params = {"channels": ["room:a", "#ann"], "data": 1}
    told = await api.call("broadcast", params, frozenset({"notify"}))
    assert [list(each) for each in told["result"]["responses"]] == [["error"], ["result"]]


async def callable_with(api: Api, scopes: set[str]) -> set[str]:
    """Return what may be done with these scopes."""
    params = {"channel": "room:a", "channels": ["room:a"], "data": 1, "user": "ann", "expired": True}
    found = set()
    for method in (
        "publish", "broadcast", "presence", "presence_stats", "history", "channels", "info", "subscribe", "unsubscribe",
        "disconnect", "refresh", "history_remove",
    ):  # fmt: skip
        reply = await api.call(method, params, frozenset(scopes))
        if "result" in reply:
            found.add(method)
        else:
            assert reply["error"]["code"] == 103
    if "result" in await api.call("publish", params | {"channel": "#ann"}, frozenset(scopes)):
        found.add("publish to the inbox")
    return found


async def test_a_key_that_reaches_some_channels_does_nothing_elsewhere(api: Api) -> None:
    reach = Reach(["room:a", "user:ann"])
    params = {"data": 1, "user": "ann", "expired": True}
    for method in (
        "publish", "presence", "presence_stats", "history", "history_remove", "subscribe", "unsubscribe", "disconnect",
        "refresh",
    ):  # fmt: skip
        assert "result" in await api.call(method, params | {"channel": "room:a"}, reach=reach), method
        elsewhere = params | {"channel": "room:b", "user": "bob"}
        assert (await api.fail(method, elsewhere, reach=reach))[0] == 103, method
    for method in ("channels", "info"):
        assert (await api.fail(method, {}, reach=reach))[0] == 103
    told = await api.call("broadcast", {"channels": ["room:a", "room:b", "#ann"], "data": 1}, reach=reach)
    assert [list(each) for each in told["result"]["responses"]] == [["result"], ["error"], ["result"]]
