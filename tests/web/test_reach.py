"""Keys that reach some channels only: each call is judged by what it touches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Answer, Server, start

KEY = "key-of-acme-in-the-tests"
CONFIG = f"""
[api]
keys = ["everything-there-is", {{key = "{KEY}", channels = ["acme:*", "user:acme-*", "task:acme-*"]}}]
[[namespaces]]
name = "acme"
history_size = 5
presence = true
[[namespaces]]
name = "rival"
history_size = 5
presence = true
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("reach")
    server = start(place, config=CONFIG, api_key="everything-there-is", env={"PUSHSERVER_API__KEYS": ""})
    for task_id in ("acme-1", "rival-1"):
        server.api("POST", "/api/tasks", {"taskId": task_id, "userId": "acme-ann"})
    yield server
    server.stop()


def ask(server: Server, call: str, body: Any = None) -> Answer:
    method, path = call.split(" ")
    return server.api(method, f"/api/{path}", body, key=KEY)


MESSAGE = {"data": 1}


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("POST publish", {"channel": "acme:a", **MESSAGE}),
        ("POST notify", {"userId": "acme-ann", **MESSAGE}),
        ("POST notify", {"userIds": ["acme-ann", "acme-bob"], **MESSAGE}),
        ("GET inbox?userId=acme-ann", None),
        ("GET inbox?userId=acme-ann&limit=5", None),
        ("DELETE inbox?userId=acme-ann", None),
        ("POST tasks", {"taskId": "acme-2", "userId": "acme-ann"}),
        ("POST tasks/acme-1/progress", {"percentage": 5}),
        ("GET tasks/acme-1", None),
        ("GET tasks?userId=acme-ann", None),
        ("GET history?channel=acme:a", None),
        ("GET presence?channel=acme:a", None),
        ("GET connections?userId=acme-ann", None),
        ("POST subscribe", {"userId": "acme-ann", "channels": ["acme:a"]}),
        ("POST disconnect", {"userId": "acme-ann"}),
        ("POST revoke", {"userId": "acme-ann"}),
        ("POST tickets", {"userId": "acme-ann", "channels": ["acme:a"]}),
    ],
)
def test_what_lies_within_is_done(server: Server, call: str, body: Any) -> None:
    answer = ask(server, call, body)
    assert answer.status in (200, 201), answer


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("POST publish", {"channel": "rival:a", **MESSAGE}),
        ("POST publish", {"channel": "system", **MESSAGE}),
        ("POST publish", {"channel": "user:rival", **MESSAGE}),
        ("POST notify", {"userId": "rival", **MESSAGE}),
        ("POST notify", {"userId": 7, **MESSAGE}),
        ("POST notify", {"userIds": ["acme-ann", "rival"], **MESSAGE}),
        ("POST notify", {"userIds": [], **MESSAGE}),
        ("POST inbox/read", {"userId": "rival", "epoch": "e", "upTo": 0}),
        ("POST inbox/delete", {"userId": "rival", "epoch": "e", "upTo": 0}),
        ("POST inbox/delete", {"epoch": "e", "upTo": 0}),
        ("GET inbox?userId=rival", None),
        ("DELETE inbox?userId=rival", None),
        ("GET inbox", None),
        ("POST tasks", {"taskId": "rival-2", "userId": "acme-ann"}),
        ("POST tasks", {"userId": "acme-ann"}),
        ("POST tasks/rival-1/progress", {"percentage": 5, "taskId": "acme-1"}),
        ("GET tasks/rival-1", None),
        ("GET tasks?userId=rival", None),
        ("GET history?channel=rival:a", None),
        ("GET presence?channel=rival:a", None),
        ("GET connections", None),
        ("GET connections?userId=rival", None),
        ("GET channels", None),
        ("GET channels?pattern=acme:*", None),
        ("GET stats", None),
        ("GET nodes", None),
        ("GET events", None),
        ("GET events/dead", None),
        ("POST events/retry", {"webhook": "a"}),
        ("POST subscribe", {"userId": "acme-ann", "channels": ["acme:a", "rival:a"]}),
        ("POST subscribe", {"userId": "rival", "channels": ["acme:a"]}),
        ("POST subscribe", {"connectionId": "c", "channels": ["acme:a"]}),
        ("POST disconnect", {"userId": "rival"}),
        ("POST disconnect", {"connectionId": "c"}),
        ("POST disconnect", {"userId": "acme-ann", "connectionId": "c"}),
        ("POST revoke", {"jti": "j"}),
        ("POST tickets", {"userId": "rival", "channels": []}),
        ("POST tickets", {"userId": "acme-ann", "channels": ["rival:a"]}),
        ("POST reload", None),
        ("POST drain", {}),
    ],
)
def test_what_lies_outside_or_touches_everything_is_refused(server: Server, call: str, body: Any) -> None:
    answer = ask(server, call, body)
    assert (answer.status, answer.body["error"]["code"]) == (403, "PERMISSION_DENIED"), answer


def test_a_batch_is_judged_item_by_item(server: Server) -> None:
    commands = [
        {"method": "publish", "params": {"channel": "acme:b", "data": 1}},
        {"method": "publish", "params": {"channel": "rival:b", "data": 1}},
        {"method": "task.progress", "params": {"taskId": "rival-1", "percentage": 50}},
        {"method": "broadcast", "params": {"channels": ["rival:b", "acme:b"], "data": 2}},
        {"method": "publish", "params": {"channel": "acme:b", "data": 3}},
    ]
    replies = ask(server, "POST batch", {"commands": commands}).body["replies"]
    assert [reply.get("error", {}).get("code") for reply in replies] == [
        None, "PERMISSION_DENIED", "PERMISSION_DENIED", None, None,
    ]  # fmt: skip
    first, second = replies[3]["result"]["results"]
    assert first["error"]["code"] == "PERMISSION_DENIED"
    assert second["result"]["offset"] == 2
    kept = server.api("GET", "/api/history?channel=acme:b").body["messages"]
    assert [message["data"] for message in kept] == [1, 2, 3]
    assert server.api("GET", "/api/history?channel=rival:b").body["messages"] == []


def test_a_broadcast_is_judged_item_by_item(server: Server) -> None:
    answer = ask(server, "POST broadcast", {"channels": ["rival:c", "acme:c"], "data": [1], "type": "note"})
    results = answer.body["results"]
    assert [reply.get("error", {}).get("code") for reply in results] == ["PERMISSION_DENIED", None]
    (message,) = server.api("GET", "/api/history?channel=acme:c").body["messages"]
    assert (message["type"], message["data"]) == ("note", [1])


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"channels": "acme:a", "data": 1}', b'{"channel": {"acme:a": 1}, "data": 1}'],
)
def test_nonsense_passes_no_key(server: Server, body: bytes) -> None:
    for call in ("publish", "broadcast", "notify", "subscribe"):
        assert server.api("POST", f"/api/{call}", body, key=KEY).status in (400, 403)


def test_an_inbox_within_is_marked_and_cleared_up(server: Server) -> None:
    notified = ask(server, "POST notify", {"userId": "acme-bob", **MESSAGE}).body["results"][0]
    chosen = {"userId": "acme-bob", "epoch": notified["epoch"], "upTo": notified["offset"]}
    assert ask(server, "POST inbox/read", chosen).status == 200
    commands = [
        {"method": "inbox.delete", "params": chosen},
        {"method": "inbox.read", "params": {**chosen, "userId": "rival"}},
    ]
    done, refused = ask(server, "POST batch", {"commands": commands}).body["replies"]
    assert done["result"]["deleted"] >= 1
    assert refused["error"]["code"] == "PERMISSION_DENIED"
