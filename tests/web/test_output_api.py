"""The output of tasks over the HTTP API: what is appended and read, and what each wrong request is answered."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.answers import checked
from tests.harness import Server, start

CONFIG = """
[api]
keys = ["everything-there-is",
        {key = "read-key-of-the-tests", scopes = ["read"]},
        {key = "reaches-one-task-only", scopes = ["tasks", "read"], channels = ["task:near"]}]
[tasks]
output_max_bytes = 2048
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    process = start(
        tmp_path_factory.mktemp("output"),
        config=CONFIG,
        api_key="everything-there-is",
        env={"PUSHSERVER_API__KEYS": ""},
    )
    process.api = checked(process.api)  # type: ignore[method-assign]
    yield process
    process.stop()


@pytest.fixture
def task(server: Server, request: pytest.FixtureRequest) -> str:
    name = request.node.name
    assert server.api("POST", "/api/tasks", {"taskId": name, "userId": "42"}).status == 201
    return f"/api/tasks/{name}"


def append(server: Server, task: str, **params: Any) -> Any:
    answer = server.api("POST", f"{task}/output", params)
    assert answer.status == 200, answer
    return answer.body


def read(server: Server, task: str, **query: Any) -> Any:
    arguments = "&".join(f"{name}={value}" for name, value in query.items())
    answer = server.api("GET", f"{task}/output?{arguments}")
    assert answer.status == 200, answer
    return answer.body


def plain(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", path, headers={"X-API-Key": "everything-there-is", **headers})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_text_is_appended_and_read_from_a_position(server: Server, task: str) -> None:
    first = append(server, task, text="zwölf ")
    assert set(first) == {"offset", "epoch"}
    epoch = first["epoch"]
    assert append(server, task, text="Worte\0\x1b[31m") == {"offset": 18, "epoch": epoch}
    whole = "zwölf Worte\0\x1b[31m"
    kept = {"offset": 18, "epoch": epoch, "start": 0, "closed": False, "more": False}
    assert read(server, task) == {"text": whole} | kept
    assert read(server, task, offset=7, epoch=epoch) == {"text": whole[6:]} | kept
    assert read(server, task, limit=3) == {"text": "zw"} | kept | {"offset": 2, "more": True}
    other = read(server, task, offset=7, epoch="other")
    assert other == {"text": whole, "reset": True} | kept
    status, headers, octets = plain(server, f"{task}/output?name=main", Accept="text/plain")
    assert (status, octets) == (200, whole.encode())
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert (headers["output-offset"], headers["output-epoch"], headers["output-more"]) == ("18", epoch, "false")
    assert json.loads(plain(server, f"{task}/output", Accept="*/*")[2]) == {"text": whole} | kept


def test_items_have_an_output_of_their_own(server: Server, task: str) -> None:
    taken = append(server, task, items=[1, {"a": None}], name="steps")
    assert taken["offset"] == 2
    assert read(server, task, name="steps")["items"] == [1, {"a": None}]
    assert read(server, task, name="steps", offset=1, epoch=taken["epoch"])["items"] == [{"a": None}]
    empty = read(server, task)
    assert (empty["text"], empty["offset"], empty["closed"]) == ("", 0, False)


def test_a_batch_and_every_end_of_a_task_append(server: Server) -> None:
    commands: list[dict[str, Any]] = []
    ends = {
        "task.complete": {"result": 1},
        "task.fail": {"error": "no"},
        "task.cancel": {},
        "task.status": {"status": "completed"},
    }
    for method, params in ends.items():
        name = {"taskId": method}
        commands += [
            {"method": "task.create", "params": name | {"userId": "42"}},
            {"method": "task.output", "params": name | {"text": "one "}},
            {"method": "task.status", "params": name | {"status": "running", "output": {"text": "two "}}},
            {"method": "task.status", "params": name | {"status": "running", "output": {"text": "three "}}},
            {"method": method, "params": name | params | {"output": {"text": "end"}}},
        ]
    replies = server.api("POST", "/api/batch", {"commands": commands}).body["replies"]
    assert [reply for reply in replies if "error" in reply] == []
    for method in ends:
        page = read(server, f"/api/tasks/{method}")
        assert (page["text"], page["closed"]) == ("one two three end", True)
    late = server.api("POST", "/api/tasks/task.fail/output", {"text": "late"})
    assert (late.status, late.body["error"]["code"]) == (409, "CONFLICT")


def test_a_producer_is_told_what_is_expected(server: Server, task: str) -> None:
    first = append(server, task, text="a", producer={"id": "p", "epoch": 3, "seq": 0})
    assert append(server, task, text="a", producer={"id": "p", "epoch": 3, "seq": 0}) == first | {"duplicate": True}
    for epoch, seq in ((3, 2), (2, 0)):
        answer = server.api(
            "POST", f"{task}/output", {"text": "b", "producer": {"id": "p", "epoch": epoch, "seq": seq}}
        )
        error = answer.body["error"]
        assert (answer.status, error["code"], error["epoch"], error["expected"]) == (409, "CONFLICT", 3, 1)
    params = {"taskId": task.split("/")[-1], "text": "b", "producer": {"id": "p", "epoch": 3, "seq": 9}}
    batch = {"commands": [{"method": "task.output", "params": params}]}
    reply = server.api("POST", "/api/batch", batch).body["replies"][0]
    assert (reply["error"]["epoch"], reply["error"]["expected"]) == (3, 1)
    assert read(server, task)["text"] == "a"


def test_an_older_attempt_is_refused_and_another_begins_anew(server: Server, task: str) -> None:
    taken = append(server, task, text="first", attempt=1)
    again = {"taskId": task.split("/")[-1], "userId": "42", "restart": True}
    assert server.api("POST", "/api/tasks", again).body["attempt"] == 2
    answer = server.api("POST", f"{task}/output", {"text": "x", "attempt": 1})
    assert (answer.status, answer.body["error"]["code"]) == (409, "CONFLICT")
    page = read(server, task, offset=5, epoch=taken["epoch"])
    assert (page["text"], page["reset"]) == ("", True)
    assert append(server, task, text="second", attempt=2) == {"offset": 6, "epoch": page["epoch"]}


def test_what_is_beyond_the_limit_is_trimmed(server: Server, task: str) -> None:
    for n in range(100):
        taken = append(server, task, text=f"{n:>49}\n")
    page = read(server, task, offset=50, epoch=taken["epoch"])
    assert page["trimmed"]
    assert page["start"] % 50 == 0
    assert 1_998 < len(page["text"]) <= 2_048
    assert page["start"] + len(page["text"]) == page["offset"] == 5_000
    # One that is larger than the limit by itself.
    assert append(server, task, text="y" * 5_000)["offset"] == 10_000
    assert read(server, task)["text"] == "y" * 2_048


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({}, 400, "INVALID_MESSAGE"),
        ({"text": ""}, 400, "INVALID_MESSAGE"),
        ({"items": []}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "items": [1]}, 400, "INVALID_MESSAGE"),
        ({"text": "\ud800"}, 400, "INVALID_MESSAGE"),
        ({"items": ["\udfff"]}, 400, "INVALID_MESSAGE"),
        ({"text": 7}, 400, "INVALID_MESSAGE"),
        ({"items": "a"}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "name": ""}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "name": "Main"}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "name": "a/b"}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "name": "a" * 33}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "producer": {"id": "p", "epoch": 0, "seq": 1}}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "producer": {"id": "p", "epoch": -1, "seq": 0}}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "producer": {"id": "p", "epoch": 0, "seq": 2**53}}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "producer": {"id": "", "epoch": 0, "seq": 0}}, 400, "INVALID_MESSAGE"),
        ({"text": "a", "attempt": 2}, 409, "CONFLICT"),
        ({"items": [1], "name": "text"}, 409, "CONFLICT"),
        ({"text": "x", "name": "another"}, 429, "LIMIT_EXCEEDED"),
    ],
)
def test_what_cannot_be_appended_is_refused(server: Server, params: Any, status: int, code: str) -> None:
    server.api("POST", "/api/tasks", {"taskId": "refusing", "userId": "42"})
    for name in ("main", "text", *(f"n{n}" for n in range(14))):
        append(server, "/api/tasks/refusing", text="x", name=name)
    answer = server.api("POST", "/api/tasks/refusing/output", params)
    assert (answer.status, answer.body["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("offset=1&epoch={epoch}", 400, "INVALID_MESSAGE"),
        ("offset=2", 400, "INVALID_MESSAGE"),
        ("offset=-1&epoch={epoch}", 400, "INVALID_MESSAGE"),
        ("name=A", 400, "INVALID_MESSAGE"),
        ("limit=0", 400, "INVALID_MESSAGE"),
    ],
)
def test_what_cannot_be_read_is_refused(server: Server, query: str, status: int, code: str) -> None:
    server.api("POST", "/api/tasks", {"taskId": "read", "userId": "42"})
    epoch = append(server, "/api/tasks/read", text="é")["epoch"]
    answer = server.api("GET", "/api/tasks/read/output?" + query.format(epoch=epoch))
    assert (answer.status, answer.body["error"]["code"]) == (status, code)


def test_scopes_and_reach_hold(server: Server, task: str) -> None:
    for method, body in (("POST", {"text": "x"}), ("GET", None)):
        assert server.api(method, "/api/tasks/unknown/output", body).status == 404
        far = server.api(method, f"{task}/output", body, key="reaches-one-task-only")
        assert (far.status, far.body["error"]["code"]) == (403, "PERMISSION_DENIED")
    assert server.api("POST", f"{task}/output", {"text": "x"}, key="read-key-of-the-tests").status == 403
    assert server.api("GET", f"{task}/output", key="read-key-of-the-tests").status == 200
    server.api("POST", "/api/tasks", {"taskId": "near", "userId": "42"})
    assert server.api("POST", "/api/tasks/near/output", {"text": "x"}, key="reaches-one-task-only").status == 200
