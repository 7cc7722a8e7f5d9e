"""Two nodes on one Redis behave as one: what is asked of either reaches what is connected to the other."""

from __future__ import annotations

import signal
import time
from typing import Any, NamedTuple

import pytest

from tests.cluster.conftest import CONFIG, Deployment
from tests.cluster.talk import Talks, becomes
from tests.harness import Server, wait_until


class Nodes(NamedTuple):
    a: Server
    b: Server
    redis: str


@pytest.fixture(scope="module")
def nodes(site: Deployment) -> Nodes:
    redis = site.redis()
    a, b = (site.server("--redis", redis.url, config=CONFIG.replace("[server]", f'[server]\nnode_name = "{name}"'))
            for name in "ab")  # fmt: skip
    wait_until(lambda: len(_get(a, "nodes")["nodes"]) == 2)
    return Nodes(a, b, redis.url)


def _get(server: Server, path: str) -> Any:
    said = server.api("GET", f"/api/{path}")
    assert said.status == 200, said
    return said.body


def _post(server: Server, path: str, **body: Any) -> Any:
    said = server.api("POST", f"/api/{path}", body)
    assert said.status in (200, 201), said
    return said.body


def _connections(server: Server, user: str) -> list[Any]:
    found: list[Any] = _get(server, f"connections?userId={user}")["connections"]
    return found


def test_subscribe_and_unsubscribe_on_the_other_node(nodes: Nodes, talk: Talks) -> None:
    here, there = talk(nodes.a, "sub"), talk(nodes.b, "sub")
    assert _post(nodes.a, "subscribe", userId="sub", channels=["news:x"]) == {"connections": 2}
    _post(nodes.b, "publish", channel="news:x", data={"n": 1})
    for each in (here, there):
        each.push("message", n=1)
    connection = there.welcome["data"]["connectionId"]
    assert _post(nodes.a, "unsubscribe", connectionId=connection, channels=["news:x"]) == {"connections": 1}
    there.until(lambda m: m["type"] == "unsubscribed" and m["data"]["channel"] == "news:x")
    _post(nodes.a, "publish", channel="news:x", data={"n": 2})
    here.push("message", n=2)
    _post(nodes.a, "notify", userId="sub", data={"after": 2})
    there.push("user_notification", after=2)
    assert there.count(lambda m: m.get("data", {}).get("n") == 2) == 0


def test_disconnect_reaches_every_node(nodes: Nodes, talk: Talks) -> None:
    here, there, other = talk(nodes.a, "kick"), talk(nodes.b, "kick"), talk(nodes.b, "stays")
    assert _post(nodes.a, "disconnect", userId="kick", code=3011, reason="elsewhere") == {"closed": 2}
    assert (here.closed(), there.closed()) == (3011, 3011)
    other.barrier()


@pytest.mark.parametrize("by", ["user", "token"])
def test_revoking_closes_live_connections_of_the_other_node(nodes: Nodes, talk: Talks, by: str) -> None:
    user = f"revoked-by-{by}"
    here, there = talk(nodes.a, user, jti=f"{by}-1"), talk(nodes.b, user, jti=f"{by}-2")
    if by == "user":
        revoked = _post(nodes.a, "revoke", userId=user)
        assert (revoked["closed"], set(revoked)) == (2, {"closed", "issuedBefore"})
        assert (here.closed(), there.closed()) == (3503, 3503)
    else:
        expires_at = int(time.time() * 1000) + 3_600_000
        assert _post(nodes.a, "revoke", jti=f"{by}-2", expiresAt=expires_at) == {"closed": 1}
        assert there.closed() == 3503
        here.barrier()
    guest = talk.guest(nodes.b)
    guest.send_message("auth", token=nodes.b.token(user, jti=f"{by}-2", iat=int(time.time()) - 1))
    assert guest.until(lambda m: m["type"] == "auth_failed")["data"]["code"] == "TOKEN_BLACKLISTED"
    assert guest.closed() == 3500


def test_connections_channels_nodes_and_figures_are_of_all(nodes: Nodes, talk: Talks) -> None:
    here, there = talk(nodes.a, "seen", "room:seen"), talk(nodes.b, "seen", "room:seen")
    third = talk(nodes.b, "third", "room:seen")
    for node in (nodes.a, nodes.b):
        assert {c["connectionId"]: c["node"] for c in _connections(node, "seen")} == {
            here.welcome["data"]["connectionId"]: "a",
            there.welcome["data"]["connectionId"]: "b",
        }
        assert _get(node, "channels?pattern=room:seen")["channels"] == [
            {"channel": "room:seen", "connections": 3, "users": 2}
        ]
        assert {n["node"] for n in _get(node, "nodes")["nodes"]} == {"a", "b"}
        assert {"a", "b"} <= set(_get(node, "stats")["nodes"])
    third.barrier()


def test_a_room_that_the_sender_is_in_through_another_node_is_shared(nodes: Nodes, talk: Talks) -> None:
    here, target = talk(nodes.a, "writer"), talk(nodes.b, "reader", "chat:shared")
    assert here.ask("chat_message", content="hi", targetId="reader")["data"]["code"] == "PERMISSION_DENIED"
    talk(nodes.b, "writer", "chat:shared")
    assert here.ask("chat_message", content="hi", targetId="reader")["type"] == "message_sent"
    target.push("chat_message", content="hi")


def test_presence_is_of_users_not_of_nodes(nodes: Nodes, talk: Talks) -> None:
    watcher = talk(nodes.a, "watcher", "room:p")
    here, there = talk(nodes.a, "two", "room:p"), talk(nodes.b, "two", "room:p")
    for node in (nodes.a, nodes.b):
        said = _get(node, "presence?channel=room:p")
        assert {u["userId"]: u["connections"] for u in said["users"]} == {"watcher": 1, "two": 2}
    here.leave()
    becomes(lambda: {u["userId"]: u["connections"] for u in _get(nodes.b, "presence?channel=room:p")["users"]},
            {"watcher": 1, "two": 1})  # fmt: skip
    there.leave()
    watcher.push("presence_leave", userId="two")
    assert watcher.count(lambda m: m["type"] == "presence_join" and m["data"]["userId"] == "two") == 1
    assert watcher.count(lambda m: m["type"] == "presence_leave") == 1


def test_a_user_comes_and_goes_once_over_all_nodes(nodes: Nodes, talk: Talks) -> None:
    watchers = [talk(node, "watcher", "status:roams") for node in (nodes.a, nodes.b)]
    first, second = talk(nodes.a, "roams"), talk(nodes.b, "roams")
    for watcher in watchers:
        watcher.push("user_status", userId="roams", status="online")
    first.leave()
    becomes(lambda: len(_connections(nodes.b, "roams")), 1)
    second.leave()
    for watcher in watchers:
        watcher.push("user_status", userId="roams", status="offline")
        changes = [m["data"]["status"] for m in watcher.received if m["type"] == "user_status"]
        assert changes == ["online", "offline"]


def test_a_notification_finds_its_user_on_the_other_node(nodes: Nodes, talk: Talks) -> None:
    there = talk(nodes.b, "told")
    said = _post(nodes.a, "notify", userId="told", data={"title": "hello"}, messageId="note-1")
    push = there.push("user_notification", title="hello")
    assert (push["messageId"], push["offset"], push["epoch"]) == (
        "note-1", said["results"][0]["offset"], said["results"][0]["epoch"])  # fmt: skip
    assert _post(nodes.b, "notify", userId="told", data={"title": "again"}, messageId="note-1")["results"][0][
        "duplicate"
    ]
    assert there.count(lambda m: m["type"] == "user_notification") == 1


def test_events_of_a_task_come_once_to_each_connection(nodes: Nodes, talk: Talks) -> None:
    _post(nodes.a, "tasks", taskId="both", userId="owner", title="work")
    owners = [talk(nodes.a, "owner"), talk(nodes.b, "owner", "task:both")]
    follower = talk(nodes.a, "follower", "task:both", permissions=["subscribe:task:*"])
    _post(nodes.a, "tasks/both/progress", percentage=40)
    for each in (*owners, follower):
        each.push("task_progress", percentage=40)
    _post(nodes.b, "tasks/both/complete", result={"rows": 3})
    for each in owners:
        assert each.push("task_completed")["channel"] == "user:owner"
    assert follower.push("task_completed")["channel"] == "task:both"
    for each in (*owners, follower):
        events = [(m["type"], m["data"]["version"]) for m in each.received if m["type"].startswith("task_")]
        assert len(events) == len(set(events)), events
        assert each.count(lambda m: m["type"] == "task_completed") == 1


def test_each_node_throttles_for_its_own_and_loses_no_last_value(nodes: Nodes, talk: Talks) -> None:
    _post(nodes.a, "tasks", taskId="fast", userId="busy")
    here, there = talk(nodes.a, "busy"), talk(nodes.b, "busy")
    for percentage in range(1, 61):
        # Both nodes take turns in accepting: what one shows depends on neither.
        _post((nodes.a, nodes.b)[percentage % 2], "tasks/fast/progress", percentage=percentage)
    for each in (here, there):
        each.push("task_progress", percentage=60)
        shown = [m["data"]["percentage"] for m in each.received if m["type"] == "task_progress"]
        assert shown == sorted(set(shown))
        assert len(shown) < 60


@pytest.mark.full
def test_what_a_dead_node_held_is_gone_within_a_minute_and_told_once(
    nodes: Nodes, site: Deployment, talk: Talks
) -> None:
    dying = site.server("--redis", nodes.redis, config=CONFIG.replace("[server]", '[server]\nnode_name = "dying"'))
    watchers = [talk(node, "watcher", "status:victim", "room:d") for node in (nodes.a, nodes.b)]
    victim = talk(dying, "victim", "room:d")
    for watcher in watchers:
        watcher.push("presence_join", userId="victim")
    dying.signal(signal.SIGKILL)
    dying.wait()
    victim.abort()
    for watcher in watchers:
        watcher._patience = 90
        watcher.push("user_status", userId="victim", status="offline")
        watcher.push("presence_leave", userId="victim")
    for node in (nodes.a, nodes.b):
        assert [u["userId"] for u in _get(node, "presence?channel=room:d")["users"]] == ["watcher"]
        assert {n["node"] for n in _get(node, "nodes")["nodes"]} == {"a", "b"}
    for watcher in watchers:
        assert watcher.count(lambda m: m["type"] == "user_status" and m["data"]["status"] == "offline") == 1
        assert watcher.count(lambda m: m["type"] == "presence_leave") == 1
