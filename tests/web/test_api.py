"""The HTTP API over real HTTP, and how the port behaves towards clients that are slow, large or in a hurry."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from pushserver.config.checks import AuthSection, ServerSection
from pushserver.web import farewell, http, operators
from tests.answers import checked
from tests.harness import Answer, start
from tests.harness import Server as Process
from tests.inside import API_KEY, Inside, running, token
from tests.rawsocket import RawSocket

SCOPES = ("publish", "notify", "tasks", "read", "sessions", "admin")
CONFIG = """
[api]
keys = ["everything-there-is",
        {key = "publish-key-of-the-tests", scopes = ["publish"]},
        {key = "notify-key-of-the-tests", scopes = ["notify"]},
        {key = "tasks-key-of-the-tests", scopes = ["tasks"]},
        {key = "read-key-of-the-tests", scopes = ["read"]},
        {key = "sessions-key-of-the-tests", scopes = ["sessions"]},
        {key = "admin-key-of-the-tests", scopes = ["admin"]}]
[[namespaces]]
name = "news"
history_size = 10
presence = true
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = start(
        tmp_path_factory.mktemp("api"), config=CONFIG, api_key="everything-there-is", env={"PUSHSERVER_API__KEYS": ""}
    )
    process.api = checked(process.api)  # type: ignore[method-assign]
    yield process
    process.stop()


def failed(answer: Answer, status: int, code: str) -> bool:
    error = answer.body["error"]
    assert (answer.status, error["code"]) == (status, code), answer
    assert isinstance(error["message"], str)
    assert set(answer.body) == {"error"}
    return True


def process_memory() -> int:
    """Return the resident memory of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def post(server: Process, path: str, body: Any, status: int = 200, **more: Any) -> Any:
    answer = server.api("POST", path, body, **more)
    assert answer.status == status, answer
    return answer.body


def client_of(server: Process, user: str, *channels: str) -> RawSocket:
    client = RawSocket(server.port)
    client.upgrade()
    client.ask({"type": "auth", "id": "in", "data": {"token": server.token(user)}})
    if channels:
        said = client.ask({"type": "subscribe", "id": "s", "data": {"channels": list(channels)}})
        assert said["data"]["rejected"] == {}
    return client


def pushes(client: RawSocket) -> list[Any]:
    """What was pushed up to now: a ping goes behind it."""
    client.send_message({"type": "ping", "id": "barrier"})
    found: list[Any] = []
    while True:
        said = client.message()
        if said.get("id") == "barrier":
            return found
        found.append(said)


# -- keys and scopes --------------------------------------------------------------------------------------------------

CALLS = [
    ("POST", "/api/publish", {"channel": "news:scopes", "data": 1}, "publish"),
    ("POST", "/api/broadcast", {"channels": [], "data": 1}, "publish"),
    ("POST", "/api/notify", {"userIds": [], "data": 1}, "notify"),
    ("POST", "/api/tasks", {"userId": "scopes"}, "tasks"),
    ("POST", "/api/tasks/none/progress", {}, "tasks"),
    ("POST", "/api/tasks/none/status", {"status": "running"}, "tasks"),
    ("POST", "/api/tasks/none/cancel", {}, "tasks"),
    ("POST", "/api/tasks/none/complete", {}, "tasks"),
    ("POST", "/api/tasks/none/fail", {"error": "x"}, "tasks"),
    ("GET", "/api/tasks/none", None, "read"),
    ("GET", "/api/tasks?userId=scopes", None, "read"),
    ("GET", "/api/inbox?userId=scopes", None, "read"),
    ("GET", "/api/inbox?userId=scopes&limit=5&unread=true", None, "read"),
    ("POST", "/api/inbox/read", {"userId": "scopes", "epoch": "e", "upTo": 0}, "notify"),
    ("POST", "/api/inbox/delete", {"userId": "scopes", "epoch": "e", "upTo": 0}, "notify"),
    ("DELETE", "/api/inbox?userId=scopes", None, "admin"),
    ("GET", "/api/history?channel=news:scopes", None, "read"),
    ("DELETE", "/api/history?channel=news:scopes", None, "admin"),
    ("GET", "/api/presence?channel=news:scopes", None, "read"),
    ("GET", "/api/channels", None, "read"),
    ("GET", "/api/connections", None, "read"),
    ("GET", "/api/stats", None, "read"),
    ("GET", "/api/nodes", None, "read"),
    ("POST", "/api/subscribe", {"userId": "scopes", "channels": ["news:a"]}, "admin"),
    ("POST", "/api/unsubscribe", {"userId": "scopes", "channels": ["news:a"]}, "admin"),
    ("POST", "/api/disconnect", {"userId": "scopes"}, "sessions"),
    ("POST", "/api/revoke", {"jti": "scopes", "expiresAt": 4_000_000_000_000}, "sessions"),
    ("POST", "/api/tickets", {"userId": "scopes", "channels": ["news:a"]}, "sessions"),
]


@pytest.mark.parametrize(("method", "path", "body", "scope"), CALLS, ids=[f"{m} {p}" for m, p, _, _ in CALLS])
def test_each_call_needs_its_scope_and_no_other(server: Process, method: str, path: str, body: Any, scope: str) -> None:
    for other in SCOPES:
        answer = server.api(method, path, body, key=f"{other}-key-of-the-tests")
        if other == scope or (scope, other) == ("sessions", "admin"):
            expected = ("CONFLICT", 409) if "/inbox/" in path else ("NOT_FOUND", 404)
            assert answer.status in (200, 201) or failed(answer, expected[1], expected[0])
        else:
            failed(answer, 403, "PERMISSION_DENIED")
    failed(server.api(method, path, body, key=""), 401, "NOT_AUTHENTICATED")
    # Each from an address of its own: one address may show only so many wrong keys a second.
    number = next(n for n, call in enumerate(CALLS, 1) if call[:2] == (method, path))
    failed(server.api(method, path, body, key="wrong", source=f"127.0.2.{number}"), 401, "NOT_AUTHENTICATED")


def test_the_key_as_bearer_or_in_its_own_header(server: Process) -> None:
    for headers in (
        {"X-API-Key": "read-key-of-the-tests"},
        {"Authorization": "bearer read-key-of-the-tests"},
        {"Authorization": "Bearer  read-key-of-the-tests"},
    ):
        assert server.api("GET", "/api/nodes", key="", headers=headers).status == 200
    for headers in (
        {"X-API-Key": ""},
        {"Authorization": "Basic read-key-of-the-tests"},
        {"Authorization": "read-key-of-the-tests"},
    ):
        failed(server.api("GET", "/api/nodes", key="", headers=headers), 401, "NOT_AUTHENTICATED")


async def test_connections_of_nobody_count_among_their_nodes(tmp_path: Path) -> None:
    async with running(tmp_path) as inside:
        with RawSocket(inside.port) as guest, RawSocket(inside.port) as client:
            await deferToThread(guest.upgrade)
            (node,) = await deferToThread(_nodes, client)
            assert node["connections"] == 1


def _nodes(client: RawSocket) -> Any:
    return _get(client, "/api/nodes", [("X-API-Key", API_KEY)]).json["nodes"]


async def test_without_any_key_there_is_no_api(tmp_path: Path) -> None:
    from pushserver.config.checks import ApiSection

    async with running(tmp_path, api=ApiSection()) as inside:
        with RawSocket(inside.port) as client:
            answer = await deferToThread(_get, client, "/api/nodes", [("X-API-Key", "")])
            assert (answer.status, answer.json["error"]["code"]) == (404, "NOT_FOUND")


def _get(client: RawSocket, path: str, headers: list[tuple[str, str]]) -> Any:
    client.request("GET", path, headers=headers)
    return client.response()


def test_paths_and_methods_that_do_not_exist(server: Process) -> None:
    for path in ("/api", "/api/", "/api/dance", "/api/tasks/a/dance", "/api/tasks/a/progress/b", "/nothing", "/ws/b"):
        failed(server.api("GET", path), 404, "NOT_FOUND")
    for method, path, allowed in (
        ("GET", "/api/publish", "POST"),
        ("DELETE", "/api/tasks/a", "GET"),
        ("PUT", "/api/tasks", "GET, POST"),
        ("POST", "/api/inbox", "DELETE, GET"),
        ("PATCH", "/api/tasks/a/progress", "POST"),
    ):
        answer = server.api(method, path)
        assert failed(answer, 405, "INVALID_MESSAGE")
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("publish", b"not json"),
        ("publish", b'{"channel": "news:a", "data": "\xff"}'),
        ("publish", []),
        ("publish", {}),
        ("publish", {"channel": "news:a"}),
        ("publish", {"channel": 7, "data": 1}),
        ("publish", {"channel": "news:a", "data": 1, "type": "task_completed"}),
        ("publish", {"channel": "news:a", "data": 1, "type": "Shout"}),
        ("publish", {"channel": "news:a", "data": 1, "messageId": ""}),
        ("publish", {"channel": "news:a", "data": 1, "excludeUser": "a b"}),
        ("publish", b'{"channel": "news:a", "data": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
        ("broadcast", {"channels": "news:a", "data": 1}),
        ("notify", {"data": 1}),
        ("notify", {"data": 1, "userId": "a", "userIds": ["b"]}),
        ("notify", {"data": 1, "userId": "a b"}),
        ("notify", {"data": 1, "userId": "a", "ttl": "soon"}),
        ("notify", {"data": 1, "userId": "a", "ttl": 0}),
        ("notify", {"data": 1, "userId": "a", "ttl": 2**53}),
        ("notify", {"data": 1, "userId": "a", "ttl": 2**63}),
        ("notify", {"data": 1, "userId": "a", "ttl": "9" * 5_000 + "s"}),
        ("notify", {"data": 1, "userId": "a", "ttl": "1000000000d"}),
        ("notify", b'{"data": 1, "userId": 1' + b"0" * 5_000 + b"}"),
        ("publish", b'{"channel": "news:a", "data": 1, "excludeUser": 1' + b"0" * 5_000 + b"}"),
        ("notify", {"data": 1, "userId": "a", "collapseKey": 7}),
        ("tasks", {}),
        ("tasks", {"userId": "a", "status": "completed"}),
        ("tasks", b'{"userId": 1' + b"0" * 5_000 + b"}"),
        ("tasks/none/progress", {"currentStep": "1"}),
        ("tasks/none/progress", b'{"percentage": 1' + b"0" * 5_000 + b"}"),
        ("tickets", {"userId": "a", "channels": [], "ttl": 0}),
        ("tickets", {"userId": "a", "channels": [], "ttl": -1}),
        ("tickets", {"userId": "a", "channels": [], "ttl": "999ms"}),
        ("tickets", {"userId": "a", "channels": [], "ttl": 2**63}),
        ("batch", {"commands": [{"method": "publish"}] * 1_001}),
        ("batch", {}),
        ("subscribe", {"channels": ["news:a"]}),
        ("disconnect", {"userId": "a", "connectionId": "b"}),
        ("disconnect", {"userId": "a", "code": 1000}),
        ("disconnect", {"userId": "a", "code": 2**64}),
        ("revoke", {}),
        ("revoke", {"jti": "a", "userId": "b"}),
        ("revoke", {"jti": "a", "expiresAt": -1}),
        ("revoke", {"jti": "a", "expiresAt": 2**53}),
        ("revoke", {"jti": "a", "expiresAt": 2**63}),
    ],
)  # fmt: skip
def test_bodies_that_are_refused(server: Process, path: str, body: Any) -> None:
    failed(server.api("POST", f"/api/{path}", body), 400, "INVALID_MESSAGE")


def test_queries_that_are_refused(server: Process) -> None:
    for path in (
        "history",
        "history?channel=news:a&limit=-1",
        "history?channel=news:a&limit=1001",
        "history?channel=news:a&offset=1",
        "inbox",
        "inbox?userId=a%20b",
        "tasks",
        "presence",
    ):
        failed(server.api("GET", f"/api/{path}"), 400, "INVALID_MESSAGE")
    failed(server.api("GET", "/api/history?channel=news:a&offset=0&epoch=another"), 409, "CONFLICT")


def test_channels_that_are_refused(server: Process) -> None:
    failed(server.api("POST", "/api/publish", {"channel": "nowhere:a", "data": 1}), 404, "UNKNOWN_CHANNEL")
    failed(server.api("POST", "/api/publish", {"channel": "news:a b", "data": 1}), 400, "INVALID_CHANNEL")
    for channel in ("task:a", "status:a", "stats"):
        failed(server.api("POST", "/api/publish", {"channel": channel, "data": 1}), 403, "PERMISSION_DENIED")


# -- messages ---------------------------------------------------------------------------------------------------------


def test_publish(server: Process) -> None:
    with client_of(server, "p1", "news:p") as one, client_of(server, "p2", "news:p") as two:
        first = post(server, "/api/publish", {"channel": "news:p", "data": {"n": 1}, "type": "headline.new"})
        assert set(first) == {"messageId", "offset", "epoch"}
        post(server, "/api/publish", {"channel": "news:p", "data": 2, "excludeUser": "p1"})
        (push,) = pushes(one)
        assert push == {**first, "type": "headline.new", "channel": "news:p", "data": {"n": 1},
                        "timestamp": push["timestamp"]}  # fmt: skip
        assert [p["data"] for p in pushes(two)] == [{"n": 1}, 2]
        history = server.api("GET", "/api/history?channel=news:p&limit=1&reverse=true").body
        assert [m["data"] for m in history["messages"]] == [2]
        after = f"offset={first['offset']}&epoch={first['epoch']}"
        history = server.api("GET", f"/api/history?channel=news:p&{after}").body
        assert [m["data"] for m in history["messages"]] == [2]
        assert (history["offset"], history["epoch"]) == (first["offset"] + 1, first["epoch"])
        assert "excludeUser" not in history["messages"][0]


def test_publish_leaves_out_a_connection(server: Process) -> None:
    with client_of(server, "x1", "news:x") as one, client_of(server, "x1", "news:x") as two:
        (a, b) = server.api("GET", "/api/connections?userId=x1").body["connections"]
        post(server, "/api/publish", {"channel": "news:x", "data": 1, "excludeConnection": a["connectionId"]})
        assert [len(pushes(one)), len(pushes(two))] == [0, 1]
        assert set(a) >= {"connectionId", "userId", "node", "address", "userAgent", "protocol", "connectedAt",
                          "channels", "queued"}  # fmt: skip
        assert b["channels"] == ["news:x", "system", "user:x1"]


def test_a_repeated_message_id_gets_the_first_answer(server: Process) -> None:
    with client_of(server, "i1", "news:i") as client:
        body = {"channel": "news:i", "data": 1, "messageId": "m-1"}
        first = post(server, "/api/publish", body)
        assert post(server, "/api/publish", body) == {**first, "duplicate": True}
        again = post(server, "/api/publish", {**body, "data": "another body"})
        assert again == {**first, "duplicate": True, "conflict": True}
        again = post(server, "/api/publish", {**body, "type": "another"})
        assert again == {**first, "duplicate": True, "conflict": True}
        other = post(server, "/api/publish", {**body, "channel": "news:i2"})
        assert "duplicate" not in other
        assert len(pushes(client)) == 1
        told = post(server, "/api/notify", {"userId": "i1", "data": 1, "messageId": "m-2"})["results"][0]
        (repeat,) = post(server, "/api/notify", {"userId": "i1", "data": 2, "messageId": "m-2"})["results"]
        assert (repeat["offset"], repeat["messageId"], repeat["duplicate"]) == (told["offset"], "m-2", True)
        assert repeat["conflict"] is True
        assert len(pushes(client)) == 1


def test_repeats_at_the_same_time_happen_once(server: Process) -> None:
    body = json.dumps({"channel": "news:same", "data": 1, "messageId": "same"}).encode()
    clients = [RawSocket(server.port) for _ in range(20)]
    for client in clients:
        client.request("POST", "/api/publish", body, [("X-API-Key", "everything-there-is")])
    answers = [client.response().json for client in clients]
    for client in clients:
        client.close()
    assert len({answer["offset"] for answer in answers}) == 1
    assert sorted(answer.get("duplicate", False) for answer in answers) == [False] + [True] * 19


def test_broadcast_answers_in_order(server: Process) -> None:
    results = post(server, "/api/broadcast", {"channels": ["news:b", "nowhere:b", "public:b"], "data": 1})["results"]
    assert set(results[0]["result"]) == {"messageId", "offset", "epoch"}
    assert results[1]["error"]["code"] == "UNKNOWN_CHANNEL"
    assert set(results[2]["result"]) == {"messageId"}


def test_notify(server: Process) -> None:
    with client_of(server, "n1") as client:
        results = post(server, "/api/notify", {"userIds": ["n1", 7], "data": {"title": "t"}})["results"]
        assert [(r["userId"], r["delivered"], r["offset"]) for r in results] == [("n1", 1, 1), ("7", 0, 1)]
        (push,) = pushes(client)
        assert (push["type"], push["channel"], push["offset"]) == ("user_notification", "user:n1", 1)
    inbox = server.api("GET", "/api/inbox?userId=7").body
    assert set(inbox) == {"messages", "offset", "epoch", "acked", "unread"}
    assert inbox["unread"] == {"notification": 1, "chat": 0, "task": 0}
    assert [m["readAt"] for m in inbox["messages"]] == [None]
    assert [m["data"] for m in inbox["messages"]] == [{"title": "t"}]
    assert server.api("DELETE", "/api/inbox?userId=7").body == {"deleted": 1}
    assert server.api("GET", "/api/inbox?userId=7").body["messages"] == []


def test_an_inbox_larger_than_an_answer_is_told_in_part(server: Process) -> None:
    for _ in range(8):
        commands = [{"method": "notify", "params": {"userId": "much", "data": {"text": "x" * 60_000}}}] * 10
        post(server, "/api/batch", {"commands": commands})
    inbox = server.api("GET", "/api/inbox?userId=much").body
    assert inbox["more"] is True
    assert 60 < len(inbox["messages"]) < 70
    assert (inbox["offset"], inbox["messages"][-1]["offset"]) == (80, len(inbox["messages"]))
    first = server.api("GET", "/api/history?channel=user:much&limit=1000").body
    kept = [{name: value for name, value in each.items() if name != "readAt"} for each in inbox["messages"]]
    assert (first["more"], first["messages"], first["offset"]) == (True, kept, len(kept))
    since = f"&offset={first['offset']}&epoch={first['epoch']}"
    rest = server.api("GET", f"/api/history?channel=user:much&limit=1000{since}").body
    assert "more" not in rest
    assert [m["offset"] for m in first["messages"] + rest["messages"]] == list(range(1, 81))


def test_notify_collapses_what_is_unread_and_forgets_what_is_past_its_time(server: Process) -> None:
    for n in range(3):
        post(server, "/api/notify", {"userId": "c1", "data": n, "collapseKey": "k"})
    post(server, "/api/notify", {"userId": "c1", "data": "short", "ttl": "50ms"})
    kept = server.api("GET", "/api/inbox?userId=c1").body["messages"]
    assert kept[0]["data"] == 2
    deadline = time.monotonic() + 30
    while len(server.api("GET", "/api/inbox?userId=c1").body["messages"]) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_batch_goes_on_after_a_failure_and_asks_for_each_scope(server: Process) -> None:
    commands: list[dict[str, Any]] = [
        {"method": "publish", "params": {"channel": "news:batch", "data": 1}},
        {"method": "dance"},
        {"method": "publish", "params": {"channel": "nowhere:a", "data": 1}},
        {"method": "publish", "params": []},
        {"method": "task.create", "params": {"userId": "b1", "taskId": "batch-1"}},
        {"method": "task.progress", "params": {"taskId": "batch-1", "percentage": 50}},
        {"method": "task.complete", "params": {"taskId": "batch-1", "result": {"ok": True}}},
        {"method": "publish", "params": {"channel": "news:batch", "data": 2}},
    ]
    replies = post(server, "/api/batch", {"commands": commands})["replies"]
    codes = [reply.get("error", {}).get("code") for reply in replies]
    assert codes == [None, "INVALID_MESSAGE", "UNKNOWN_CHANNEL", "INVALID_MESSAGE", None, None, None, None]
    assert replies[7]["result"]["offset"] == replies[0]["result"]["offset"] + 1
    assert replies[6]["result"]["status"] == "completed"
    replies = post(server, "/api/batch", {"commands": commands[:1] + commands[5:6]}, key="publish-key-of-the-tests")[
        "replies"
    ]
    assert [reply.get("error", {}).get("code") for reply in replies] == [None, "PERMISSION_DENIED"]


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_from_its_beginning_to_its_end(server: Process) -> None:
    state = post(server, "/api/tasks", {"userId": "t1", "taskId": "t-1", "title": "Report"}, 201)
    assert (state["status"], state["percentage"], state["version"]) == ("pending", 0, 1)
    failed(server.api("POST", "/api/tasks", {"userId": "t1", "taskId": "t-1"}), 409, "CONFLICT")
    state = post(server, "/api/tasks/t-1/progress", {"percentage": 40, "message": "half"})
    assert (state["status"], state["percentage"], state["version"]) == ("running", 40, 2)
    lower = post(server, "/api/tasks/t-1/progress", {"percentage": 10})
    assert (lower["percentage"], lower["version"]) == (40, 2)
    assert post(server, "/api/tasks/t-1/progress", {"percentage": 10, "force": True})["percentage"] == 10
    failed(server.api("POST", "/api/tasks/t-1/progress", {"percentage": 101}), 400, "INVALID_MESSAGE")
    done = post(server, "/api/tasks/t-1/complete", {"result": [1]})
    assert (done["status"], done["percentage"], done["result"]) == ("completed", 100, [1])
    for verb, body in (("progress", {"percentage": 1}), ("fail", {"error": "x"}), ("cancel", {}), ("complete", {})):
        failed(server.api("POST", f"/api/tasks/t-1/{verb}", body), 409, "CONFLICT")
    assert server.api("GET", "/api/tasks/t-1").body == done
    assert [t["taskId"] for t in server.api("GET", "/api/tasks?userId=t1").body["tasks"]] == ["t-1"]
    post(server, "/api/tasks", {"userId": "t1", "taskId": "t-2"}, 201)
    assert post(server, "/api/tasks/t-2/status", {"status": "running"})["status"] == "running"
    assert post(server, "/api/tasks/t-2/cancel", {"message": "enough"})["status"] == "cancelled"
    post(server, "/api/tasks", {"userId": "t1", "taskId": "t-3"}, 201)
    assert post(server, "/api/tasks/t-3/fail", {"error": "disk"})["error"] == "disk"
    failed(server.api("GET", "/api/tasks/t-4"), 404, "NOT_FOUND")


def test_another_attempt_of_a_task(server: Process) -> None:
    asked = {"userId": "r1", "taskId": "r-1", "title": "Report", "details": [1]}
    first = post(server, "/api/tasks", asked | {"restart": True}, 201)
    assert (first["attempt"], first["version"]) == (1, 1)
    post(server, "/api/tasks/r-1/progress", {"percentage": 40, "attempt": 1})
    failed(server.api("POST", "/api/tasks", asked), 409, "CONFLICT")
    failed(server.api("POST", "/api/tasks", asked | {"restart": True, "userId": "r2"}), 409, "CONFLICT")
    again = post(server, "/api/tasks", {"userId": "r1", "taskId": "r-1", "restart": True}, 200)
    assert (again["attempt"], again["version"], again["status"], again["percentage"]) == (2, 3, "pending", 0)
    assert (again["title"], again["details"]) == ("Report", [1])
    assert again["createdAt"] > first["createdAt"]
    for verb, body in (
        ("progress", {"percentage": 50}),
        ("status", {"status": "running"}),
        ("fail", {"error": "lost"}),
        ("cancel", {}),
        ("complete", {}),
    ):
        failed(server.api("POST", f"/api/tasks/r-1/{verb}", body | {"attempt": 1}), 409, "CONFLICT")
        failed(server.api("POST", f"/api/tasks/r-1/{verb}", body | {"attempt": "1"}), 400, "INVALID_MESSAGE")
    assert server.api("GET", "/api/tasks/r-1").body == again
    end = post(server, "/api/tasks/r-1/fail", {"error": "disk", "truncated": True, "attempt": 2})
    assert (end["truncated"], end["status"]) == (True, "failed")
    assert [m["data"]["attempt"] for m in server.api("GET", "/api/inbox?userId=r1").body["messages"]] == [2]
    third = post(server, "/api/tasks", {"userId": "r1", "taskId": "r-1", "restart": True, "title": "Anew"}, 200)
    assert (third["attempt"], third["title"], "truncated" in third, "error" in third) == (3, "Anew", False, False)
    assert server.api("GET", "/api/inbox?userId=r1").body["messages"] == []
    done = post(server, "/api/tasks/r-1/complete", {"result": 1, "attempt": 3})
    assert (done["attempt"], done["status"]) == (3, "completed")
    failed(server.api("POST", "/api/tasks", asked | {"restart": True}), 409, "CONFLICT")


def test_a_repeat_of_a_tasks_message_id_begins_nothing(server: Process) -> None:
    asked = {"userId": "k1", "taskId": "k-1", "messageId": "begin once"}
    first = post(server, "/api/tasks", asked, 201)
    post(server, "/api/tasks/k-1/progress", {"percentage": 40})
    assert "duplicate" not in first
    assert post(server, "/api/tasks", asked, 201) == first | {"duplicate": True}
    for other in ({"title": "Another"}, {"details": None}, {"status": "running"}, {"userId": "k2"}):
        assert post(server, "/api/tasks", asked | other, 201) == first | {"duplicate": True, "conflict": True}
    restart = asked | {"restart": True, "messageId": "begin again"}
    again = post(server, "/api/tasks", restart, 200)
    assert again["attempt"] == 2
    post(server, "/api/tasks/k-1/complete", {})
    assert post(server, "/api/tasks", restart, 200) == again | {"duplicate": True}
    other = restart | {"title": "Another"}
    assert post(server, "/api/tasks", other, 200) == again | {"duplicate": True, "conflict": True}
    titled = restart | {"taskId": "k-2", "title": "Titled", "details": [1]}
    post(server, "/api/tasks", titled | {"messageId": "begin with a title"}, 201)
    anew = {key: value for key, value in titled.items() if key not in {"title", "details"}}
    first = post(server, "/api/tasks", anew, 200)
    assert post(server, "/api/tasks", anew, 200) == first | {"duplicate": True}
    assert server.api("GET", "/api/tasks/k-1").body["attempt"] == 2
    made = [post(server, "/api/tasks", {"userId": "k1", "messageId": "x" * 200}, 201) for _ in range(2)]
    assert made[0] | {"duplicate": True} == made[1]
    failed(server.api("POST", "/api/tasks", asked | {"messageId": ""}), 400, "INVALID_MESSAGE")
    failed(server.api("POST", "/api/tasks", asked | {"messageId": "x" * 201}), 400, "INVALID_MESSAGE")


# -- connections ------------------------------------------------------------------------------------------------------


def test_subscribe_unsubscribe_disconnect(server: Process) -> None:
    with client_of(server, "s1") as client:
        asked = {"userId": "s1", "channels": ["news:s", "stats"]}
        assert post(server, "/api/subscribe", asked) == {"connections": 1}
        post(server, "/api/publish", {"channel": "news:s", "data": 1})
        assert [p["data"] for p in pushes(client) if p["type"] == "message"] == [1]
        said = client.ask({"type": "unsubscribe", "id": "u", "data": {"channels": ["news:s"]}})
        assert said["data"]["rejected"]["news:s"]["code"] == "PERMISSION_DENIED"
        assert server.api("GET", "/api/channels?pattern=news:s").body == {
            "channels": [{"channel": "news:s", "connections": 1, "users": 1}]
        }
        assert server.api("GET", "/api/presence?channel=news:s").body["total"] == 1
        assert post(server, "/api/unsubscribe", {"userId": "s1", "channels": ["news:s", "user:s1"]}) == {
            "connections": 1
        }
        ended = [p for p in pushes(client) if p["type"] == "unsubscribed"]
        assert [p["data"]["channel"] for p in ended] == ["news:s"]
        (one,) = server.api("GET", "/api/connections?userId=s1").body["connections"]
        body = {"connectionId": one["connectionId"], "code": 3011, "reason": "moving"}
        assert post(server, "/api/disconnect", body) == {"closed": 1}
        assert client.close_code() == 3011
    assert post(server, "/api/disconnect", {"userId": "s1"}) == {"closed": 0}


def test_revoke(server: Process) -> None:
    with RawSocket(server.port) as client, client_of(server, "r2") as other:
        client.upgrade()
        jti = server.token("r1", jti="j-1")
        client.ask({"type": "auth", "id": 1, "data": {"token": jti}})
        assert post(server, "/api/revoke", {"jti": "j-1", "expiresAt": 4_000_000_000_000}) == {"closed": 1}
        assert client.close_code() == 3503
        # Before that: in the next second a token would be newer than what is revoked.
        older = server.token("r2", jti=None), server.token("r2", iat=None)
        revoked = post(server, "/api/revoke", {"userId": "r2"})
        assert revoked.pop("issuedBefore") <= time.time() * 1000
        assert revoked == {"closed": 1}
        assert other.close_code() == 3503
    for blocked in (jti, *older):
        with RawSocket(server.port) as client:
            client.upgrade()
            said = client.ask({"type": "auth", "id": 1, "data": {"token": blocked}})
            assert (said["type"], said["data"]["code"]) == ("auth_failed", "TOKEN_BLACKLISTED")
            assert client.close_code() == 3500


# -- HTTP itself ------------------------------------------------------------------------------------------------------


async def drive(inside: Inside, what: Callable[[RawSocket], Any]) -> Any:
    def run() -> Any:
        with RawSocket(inside.port) as client:
            return what(client)

    answer: Deferred[Any] = deferToThread(run)
    return await answer


KEY = ("X-API-Key", API_KEY)


async def test_head_keep_alive_and_pipelining(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        for path in ("/healthz", "/api/nodes"):
            client.request("HEAD", path, headers=[KEY])
            answer = client.response(head=True)
            assert answer.status == 200
            assert int(answer.headers["content-length"]) > 0
        body = b'{"channel": "public:a", "data": 1}'
        client.request("POST", "/api/publish", body, [KEY])
        client.request("GET", "/api/nodes", headers=[KEY])
        client.request("GET", "/nothing")
        client.request("GET", "/healthz", headers=[("Connection", "close")])
        assert [client.response().status for _ in range(4)] == [200, 200, 404, 200]
        assert client.ended()

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


async def test_a_form_is_json_all_the_same(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
            client.request("POST", "/api/publish", b'{"channel": "public:a", "data": 1}', [KEY, ("Content-Type", kind)])
            assert client.response().status == 200

    async with running(tmp_path) as inside:
        await drive(inside, talk)


@pytest.mark.parametrize("path", ["/ws", "/live/push"])
async def test_an_upgrade_on_a_connection_that_http_used(tmp_path: Path, path: str) -> None:
    def talk(client: RawSocket) -> None:
        for _ in range(2):
            client.request("GET", "/healthz")
            assert client.response().status == 200
        assert client.upgrade(path=f"{path}/more").status == 404
        assert client.upgrade(path=path).status == 101
        assert client.ask({"type": "auth", "id": 1, "data": {"token": token()}})["type"] == "auth_success"
        assert client.ask({"type": "ping", "id": 2})["type"] == "pong"

    async with running(tmp_path, server=ServerSection(websocket_path=path)) as inside:
        await drive(inside, talk)
        await inside.empty()


async def test_a_refused_upgrade_on_a_connection_that_http_used(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        client.request("GET", "/healthz")
        assert client.response().status == 200
        assert client.upgrade({"Origin": "null"}).status == 403
        assert client.ended()

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_answered_while_it_is_sent(tmp_path: Path, chunked: bool) -> None:
    def talk(client: RawSocket) -> None:
        body = b"x" * 8_000_000
        headers = [KEY, ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))]
        # All of it is sent before anything is read, as most clients do.
        client.request(
            "POST", "/api/publish", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body, headers
        )
        answer = client.response()
        assert (answer.status, answer.json["error"]["code"]) == (413, "MESSAGE_TOO_LARGE")
        assert client.ended()

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


@pytest.mark.parametrize(("size", "status"), [(1, 400), (8, 400), (40, 200), (4_000, 200)])
async def test_a_body_of_many_small_chunks_holds_nobody_up(tmp_path: Path, size: int, status: int) -> None:
    def talk(client: RawSocket) -> None:
        body = b'{"channel": "public:a", "data": "%b"}' % (b"x" * 50_000)
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in parts(body, size))
        client.request("POST", "/api/publish", chunks + b"0\r\n\r\n", [KEY, ("Transfer-Encoding", "chunked")])
        answer = client.response()
        assert answer.status == status
        if status == 400:
            assert "1000 chunks" in answer.json["error"]["message"]
            assert client.ended()

    def dribble(client: RawSocket) -> None:
        # In as many pieces, but each in a read of its own, as a slow client sends it.
        body = b'{"channel": "public:a", "data": "%b"}' % (b"x" * 3_000)
        client.request("POST", "/api/publish", headers=[KEY, ("Content-Length", str(len(body)))])
        for at in range(len(body)):
            client.send(body[at : at + 1])
        assert client.response().status == 200

    async with running(tmp_path, server=ServerSection(max_body_size=1_000_000)) as inside:
        await drive(inside, talk)
        await drive(inside, dribble)
        await inside.empty()
        assert inside.service._doors.context.limits.bodies.held == 0


@pytest.mark.parametrize(("lines", "status"), [(0, 200), (200, 200), (300, 400), (16_000, 400)])
async def test_headers_behind_a_body_are_few(tmp_path: Path, lines: int, status: int) -> None:
    def talk(client: RawSocket) -> None:
        body = b'{"channel": "public:a", "data": 1}'
        chunks = b"%x\r\n%b\r\n0\r\n" % (len(body), body) + b"a:\r\n" * lines + b"\r\n"
        client.request("POST", "/api/publish", chunks, [KEY, ("Transfer-Encoding", "chunked")])
        assert client.response().status == status

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


def parts(octets: bytes, size: int) -> list[bytes]:
    return [octets[at : at + size] for at in range(0, len(octets), size)]


async def test_a_body_that_is_announced_too_large_is_not_asked_for(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        headers = [KEY, ("Content-Length", "9000000"), ("Expect", "100-continue")]
        client.request("POST", "/api/publish", headers=headers)
        assert client.response().status == 413

    async with running(tmp_path) as inside:
        await drive(inside, talk)


async def test_a_body_of_exactly_the_limit(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        body = b'{"channel": "public:a", "data": 1}'
        client.request("POST", "/api/publish", body + b" " * (1000 - len(body)), [KEY])
        assert client.response().status == 200
        client.request("POST", "/api/publish", body + b" " * (1001 - len(body)), [KEY])
        assert client.response().status == 413

    async with running(tmp_path, server=ServerSection(max_body_size=1000)) as inside:
        await drive(inside, talk)


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /healthz HTTP/1.1\r\nHost: 127",
        b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\nContent-Length: 100\r\n\r\n{"
        % API_KEY.encode(),
    ],
)
async def test_a_later_request_that_stalls_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(http, "REQUEST_TIMEOUT", 0.3)
    monkeypatch.setattr(farewell, "LINGER", 0.3)

    def talk(client: RawSocket) -> None:
        client.request("GET", "/healthz")
        assert client.response().status == 200
        client.send(beginning)
        end = time.monotonic() + 30
        # A byte now and then is no reason to wait for longer.
        try:
            while time.monotonic() < end:
                client.send(b"x")
                time.sleep(0.02)
        except OSError:
            pass
        assert time.monotonic() < end
        with RawSocket(client.port) as other:
            other.send(beginning)
            if b"Content-Length" in beginning:
                assert other.response().status == 408

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


async def test_a_refused_body_that_never_ends_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "LINGER", 0.3)

    def talk(client: RawSocket) -> None:
        client.request("POST", "/api/publish", b"", [KEY, ("Content-Length", "900000000")])
        assert client.response().status == 413
        assert client.ended()

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


async def test_a_mistake_in_the_program_is_answered_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_errors: Any
) -> None:
    async def mistaken(*_arguments: Any) -> None:
        raise ZeroDivisionError

    def talk(client: RawSocket) -> Any:
        client.request("GET", "/api/operators/connections", headers=[KEY])
        return client.response()

    monkeypatch.setattr(operators, "list_connections", mistaken)
    async with running(tmp_path) as inside:
        with RawSocket(inside.port) as client:
            answer = await deferToThread(talk, client)
        assert (answer.status, answer.json["error"]["code"]) == (500, "INTERNAL_ERROR")
        assert len(flush_errors(ZeroDivisionError)) == 1
        assert inside.service.node.counters.errors == {"INTERNAL_ERROR": 1}


@pytest.mark.parametrize("path", ["/pushclient.js", "/metrics", "/api/operators/connections", "/api/explain?userId=42"])
async def test_the_next_request_waits_until_the_last_answer_has_left(path: str, tmp_path: Path) -> None:
    def status(client: RawSocket) -> int:
        answer = client.response()
        while "transfer-encoding" in answer.headers and client.chunk():
            pass
        return answer.status

    async with running(tmp_path) as inside:
        with RawSocket(inside.port) as client:
            request = f"GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {API_KEY}\r\n\r\n".encode()
            await deferToThread(client.send, request * 500)
            # It does not read: what waits for it is one answer, not five hundred.
            before = process_memory()
            for _ in range(50):
                await inside.turn()
            assert process_memory() - before < 8 << 20
            # It reads: every answer comes, in order.
            for _ in range(500):
                assert await deferToThread(status, client) == 200


async def test_who_half_closes_gets_its_answers(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        body = b'{"channel": "public:a", "data": 1}'
        client.request("POST", "/api/publish", body, [KEY])
        client.request("GET", "/healthz")
        client.finish()
        assert [client.response().status for _ in range(2)] == [200, 200]
        assert client.ended()

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


async def test_key_method_and_path_are_checked_before_a_body(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        for method, path, headers, status in (
            ("POST", "/api/publish", [], 401),
            ("POST", "/api/publish", [("X-API-Key", "a wrong key of some length")], 401),
            ("POST", "/api/nothing", [KEY], 404),
            ("PUT", "/api/publish", [KEY], 405),
            ("POST", "/healthz", [], 405),
            ("POST", "/nothing", [], 404),
            ("POST", "/sse/somebody", [], 401),
            ("POST", "/api/publish", [KEY, ("Content-Encoding", "gzip")], 415),
        ):
            with RawSocket(client.port) as other:
                more = [("Content-Length", "1000000"), ("Expect", "100-continue")]
                other.request(method, path, b"", [*headers, *more])
                answer = other.response()
                assert (answer.status, answer.headers["connection"]) == (status, "close"), path
                assert other.ended()

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()
        assert inside.service._doors.context.limits.bodies.held == 0


async def test_heads_are_those_of_rfc_9112_also_on_a_kept_connection(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        for head in (
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nX-A: 1\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n folded\r\n\r\n",
            b"GET http://b/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        ):
            for kept in (False, True):
                with RawSocket(client.port) as other:
                    if kept:
                        other.request("GET", "/healthz")
                        assert other.response().status == 200
                    other.send(head)
                    assert other.response().status == 400, head
                    assert other.ended()
        for _ in range(2):
            client.send(b"\r\nGET http://a/healthz HTTP/1.1\r\nHost: A\r\n\r\n")
            assert client.response().status == 200
        for path in ("/", "*", "/ws", "/healthz", "/readyz", "/metrics", "/pushclient/index.js", "/api/publish"):
            client.request("OPTIONS", path)
            answer = client.response()
            assert answer.status == 204
            assert "OPTIONS" in answer.headers["allow"]

    async with running(tmp_path) as inside:
        await drive(inside, talk)
        await inside.empty()


async def test_wrong_keys_come_slowly_and_the_right_one_does_not(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        said = []
        for n in range(60):
            client.request("GET", "/api/nodes", headers=[("X-API-Key", f"guess-number-{n:08d}")])
            said.append(client.response())
        assert {answer.status for answer in said} == {401, 429}
        assert all(answer.headers.get("retry-after") for answer in said if answer.status == 429)
        client.request("GET", "/api/nodes", headers=[KEY])
        assert client.response().status == 200

    async with running(tmp_path) as inside:
        await drive(inside, talk)


async def test_the_api_on_listeners_of_its_own(tmp_path: Path) -> None:
    from pushserver.config.checks import ServerSection as Section

    path = tmp_path / "api.sock"

    def talk(client: RawSocket) -> None:
        for where in ("/api/nodes", "/metrics"):
            client.request("GET", where, headers=[KEY])
            assert client.response().status == 404
        client.request("GET", "/readyz", headers=[KEY])
        assert client.response().json == {"status": "ready"}
        client.request("GET", "/healthz")
        assert client.response().status == 200
        with socket.socket(socket.AF_UNIX) as inner:
            inner.settimeout(60)
            inner.connect(str(path))
            for request, status in (
                (b"GET /api/nodes HTTP/1.1\r\nHost: a\r\nX-API-Key: " + API_KEY.encode(), b"200"),
                (b"GET /metrics HTTP/1.1\r\nHost: localhost", b"401"),
                (b"GET /ws HTTP/1.1\r\nHost: localhost", b"404"),
            ):
                inner.sendall(request + b"\r\n\r\n")
                assert inner.recv(65536).split(b" ")[1] == status

    async with running(tmp_path, server=Section(api_listen=(f"unix:{path}",))) as inside:
        await drive(inside, talk)


def test_development_mode_answers_to_loopback_names_alone(start_server: Callable[..., Process]) -> None:
    server = start_server(dev=True)
    for host, status in (
        ("127.0.0.1", 200), (f"localhost:{server.port}", 200), ("[::1]:80", 200), ("LOCALHOST", 200),
        ("rebound.example", 403), ("127.0.0.1.example", 403), ("localhost.", 403), ("", 403),
    ):  # fmt: skip
        with RawSocket(server.port) as client:
            client.request("GET", "/healthz", headers=[("Host", host)])
            assert client.response().status == status, host
            if status == 200:
                # The same connection, another name: each request is looked at.
                client.request("GET", "/", headers=[("Host", "rebound.example")])
                assert client.response().status == 403
        with RawSocket(server.port) as client:
            assert client.upgrade({"Host": host}).status == (101 if status == 200 else 403)


async def test_what_lies_behind_the_server_s_own_host_is_nobody_else_s_origin(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        for origin, allowed, status in (
            (None, (), 101),
            ("http://127.0.0.1:{port}", (), 101),
            ("http://127.0.0.1:1", (), 403),
            ("http://127.0.0.1", (), 403),
            ("null", (), 403),
            ("https://other.example", (), 403),
        ):
            with RawSocket(client.port) as other:
                headers: dict[str, str | None] = {"Host": f"127.0.0.1:{client.port}"}
                if origin is not None:
                    headers["Origin"] = origin.format(port=client.port)
                assert other.upgrade(headers).status == status, (origin, allowed)

    async with running(tmp_path, auth=AuthSection(anonymous=True)) as inside:
        await drive(inside, talk)
        await inside.empty()


async def test_origins_that_are_allowed(tmp_path: Path) -> None:
    def talk(client: RawSocket) -> None:
        for origin, status in (
            ("https://app.example", 101),
            ("https://app.example:443", 101),
            ("http://app.example", 403),
            ("https://app.example.evil", 403),
            ("null", 403),
        ):
            with RawSocket(client.port) as other:
                assert other.upgrade({"Origin": origin}).status == status, origin

    async with running(tmp_path, server=ServerSection(allowed_origins=("https://app.example",))) as inside:
        await drive(inside, talk)
        await inside.empty()
