"""The output of tasks over the HTTP API: what is appended and read, and who may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted

from pushserver.web.api import prefers_text
from tests.fakes import Rig
from tests.web.paper_http import Exchange, PaperHttp

CONFIG = """
[tasks]
output_max_bytes = 2048
"""
READER, NARROW, SINGLE = "read-key-of-the-tests", "reaches-one-task-only", "reaches-one-output-only"


@pytest_twisted.async_yield_fixture(scope="module")
async def http(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PaperHttp]:
    rig = await Rig(tmp_path_factory.mktemp("output"), CONFIG).start()
    yield PaperHttp(
        rig,
        (READER, ("read",), "", ()),
        (NARROW, ("tasks", "read"), "", ("task:near",)),
        (SINGLE, ("tasks", "read"), "", ("output:log/*",)),
    )
    await rig.stop()


@pytest_twisted.async_fixture
async def task(http: PaperHttp, request: pytest.FixtureRequest) -> str:
    name = request.node.name
    assert (await http.api("POST", "/api/tasks", {"taskId": name, "userId": "42"})).status == 201
    return f"/api/tasks/{name}"


async def append(http: PaperHttp, task: str, **params: Any) -> Any:
    answer = await http.api("POST", f"{task}/output", params)
    assert answer.status == 200, answer
    return answer.body


async def read(http: PaperHttp, task: str, **query: Any) -> Any:
    arguments = "&".join(f"{name}={value}" for name, value in query.items())
    answer = await http.api("GET", f"{task}/output?{arguments}")
    assert answer.status == 200, answer
    return answer.body


@pytest_twisted.ensureDeferred
async def test_text_is_appended_and_read_from_a_position(http: PaperHttp, task: str) -> None:
    first = await append(http, task, text="zwölf ")
    assert set(first) == {"offset", "epoch"}
    epoch = first["epoch"]
    assert await append(http, task, text="Worte\0\x1b[31m") == {"offset": 18, "epoch": epoch}
    whole = "zwölf Worte\0\x1b[31m"
    kept = {"offset": 18, "epoch": epoch, "start": 0, "closed": False, "more": False}
    assert await read(http, task) == {"text": whole} | kept
    assert await read(http, task, offset=7, epoch=epoch) == {"text": whole[6:]} | kept
    assert await read(http, task, limit=3) == {"text": "zw"} | kept | {"offset": 2, "more": True}
    other = await read(http, task, offset=7, epoch="other")
    assert other == {"text": whole, "reset": True} | kept
    plain = await http.api("GET", f"{task}/output?name=main", Accept="text/plain")
    assert (plain.status, plain.body) == (200, whole.encode())
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    names = ("output-offset", "output-epoch", "output-more")
    assert [plain.headers[name] for name in names] == ["18", epoch, "false"]
    assert (await http.api("GET", f"{task}/output", Accept="*/*")).body == {"text": whole} | kept


@pytest_twisted.ensureDeferred
async def test_items_have_an_output_of_their_own(http: PaperHttp, task: str) -> None:
    taken = await append(http, task, items=[1, {"a": None}], name="steps")
    assert taken["offset"] == 2
    assert (await read(http, task, name="steps"))["items"] == [1, {"a": None}]
    assert (await read(http, task, name="steps", offset=1, epoch=taken["epoch"]))["items"] == [{"a": None}]
    lines = await http.api("GET", f"{task}/output?name=steps", Accept="text/plain")
    assert [json.loads(line) for line in lines.body.splitlines()] == [1, {"a": None}]
    empty = await read(http, task)
    assert (empty["text"], empty["offset"], empty["closed"]) == ("", 0, False)


@pytest_twisted.ensureDeferred
async def test_a_batch_and_every_end_of_a_task_append(http: PaperHttp) -> None:
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
    replies = (await http.api("POST", "/api/batch", {"commands": commands})).body["replies"]
    assert [reply for reply in replies if "error" in reply] == []
    for method in ends:
        page = await read(http, f"/api/tasks/{method}")
        assert (page["text"], page["closed"]) == ("one two three end", True)
    late = await http.api("POST", "/api/tasks/task.fail/output", {"text": "late"})
    assert (late.status, late.body["error"]["code"]) == (409, "CONFLICT")


@pytest_twisted.ensureDeferred
async def test_a_producer_is_told_what_is_expected(http: PaperHttp, task: str) -> None:
    first = await append(http, task, text="a", producer={"id": "p", "epoch": 3, "seq": 0})
    again = await append(http, task, text="a", producer={"id": "p", "epoch": 3, "seq": 0})
    assert again == first | {"duplicate": True}
    for epoch, seq in ((3, 2), (2, 0)):
        wrong = {"text": "b", "producer": {"id": "p", "epoch": epoch, "seq": seq}}
        answer = await http.api("POST", f"{task}/output", wrong)
        error = answer.body["error"]
        assert (answer.status, error["code"], error["epoch"], error["expected"]) == (409, "CONFLICT", 3, 1)
    params = {"taskId": task.split("/")[-1], "text": "b", "producer": {"id": "p", "epoch": 3, "seq": 9}}
    batch = {"commands": [{"method": "task.output", "params": params}]}
    reply = (await http.api("POST", "/api/batch", batch)).body["replies"][0]
    assert (reply["error"]["epoch"], reply["error"]["expected"]) == (3, 1)
    assert (await read(http, task))["text"] == "a"


@pytest_twisted.ensureDeferred
async def test_an_older_attempt_is_refused_and_another_begins_anew(http: PaperHttp, task: str) -> None:
    taken = await append(http, task, text="first", attempt=1)
    again = {"taskId": task.split("/")[-1], "userId": "42", "restart": True}
    assert (await http.api("POST", "/api/tasks", again)).body["attempt"] == 2
    answer = await http.api("POST", f"{task}/output", {"text": "x", "attempt": 1})
    assert (answer.status, answer.body["error"]["code"]) == (409, "CONFLICT")
    page = await read(http, task, offset=5, epoch=taken["epoch"])
    assert (page["text"], page["reset"]) == ("", True)
    assert await append(http, task, text="second", attempt=2) == {"offset": 6, "epoch": page["epoch"]}


@pytest_twisted.ensureDeferred
async def test_what_is_beyond_the_limit_is_trimmed(http: PaperHttp, task: str) -> None:
    for n in range(50):
        taken = await append(http, task, text=f"{2 * n:>49}\n{2 * n + 1:>49}\n")
    page = await read(http, task, offset=50, epoch=taken["epoch"])
    assert page["trimmed"]
    assert page["start"] % 50 == 0
    assert 1_998 < len(page["text"]) <= 2_048
    assert page["start"] + len(page["text"]) == page["offset"] == 5_000
    # One that is larger than the limit by itself.
    assert (await append(http, task, text="y" * 5_000))["offset"] == 10_000
    assert (await read(http, task))["text"] == "y" * 2_048


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
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_read_is_refused(http: PaperHttp, query: str, status: int, code: str) -> None:
    await http.api("POST", "/api/tasks", {"taskId": "read", "userId": "42"})
    epoch = (await append(http, "/api/tasks/read", text="é", producer={"id": "p", "epoch": 0, "seq": 0}))["epoch"]
    answer = await http.api("GET", "/api/tasks/read/output?" + query.format(epoch=epoch))
    assert (answer.status, answer.body["error"]["code"]) == (status, code)


@pytest_twisted.ensureDeferred
async def test_scopes_and_reach_hold(http: PaperHttp, task: str) -> None:
    for method, body in (("POST", {"text": "x"}), ("GET", None)):
        assert (await http.api(method, "/api/tasks/unknown/output", body)).status == 404
        far = await http.api(method, f"{task}/output", body, key=NARROW)
        assert (far.status, far.body["error"]["code"]) == (403, "PERMISSION_DENIED")
    assert (await http.api("POST", f"{task}/output", {"text": "x"}, key=READER)).status == 403
    assert (await http.api("GET", f"{task}/output", key=READER)).status == 200
    await http.api("POST", "/api/tasks", {"taskId": "near", "userId": "42"})
    assert (await http.api("POST", "/api/tasks/near/output", {"text": "x"}, key=NARROW)).status == 200


@pytest_twisted.ensureDeferred
async def test_an_output_is_reached_with_its_task_and_by_its_own_name(http: PaperHttp, task: str) -> None:
    own, far = {"text": "x", "name": "log"}, {"text": "x"}
    assert (await http.api("POST", f"{task}/output", own, key=SINGLE)).status == 200
    assert (await http.api("GET", f"{task}/output?name=log", key=SINGLE)).body["text"] == "x"
    for wrong in (far, {"text": "x", "name": "logs"}, {"text": "x", "name": "main/log"}):
        assert (await http.api("POST", f"{task}/output", wrong, key=SINGLE)).status == 403
        assert (await http.api("GET", f"{task}/output?name={wrong.get('name', '')}", key=SINGLE)).status == 403
    assert (await http.api("GET", task, key=SINGLE)).status == 403
    named = [{"method": "task.output", "params": {"taskId": task.split("/")[-1], **params}} for params in (own, far)]
    replies = (await http.api("POST", "/api/batch", {"commands": named}, key=SINGLE)).body["replies"]
    assert ["error" in reply for reply in replies] == [False, True]
    # A stream, too, follows the outputs of a task that its key reaches.
    await http.api("POST", "/api/tasks", {"taskId": "near", "userId": "42"})
    for key, status in ((NARROW, 200), (SINGLE, 403)):
        stream = Exchange(http.site).ask("GET", "/sse?channels=output:main/near", **{"X-API-Key": key})
        await http.until(lambda stream=stream: stream.transport.value())
        assert stream.transport.value().startswith(b"HTTP/1.1 %d " % status)
        stream.vanish()


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("text/plain", True),
        ("TEXT/plain ; charset=utf-8", True),
        ("text/plain, application/json", True),
        ("application/json, text/plain", False),
        ("application/json;q=0.5, text/plain", True),
        ("text/plain;q=0.5, application/json", False),
        ("text/plain;q=0.5, application/json;q=x", False),
        ("text/plain;q=0", False),
        ("text/html, */*", False),
        ("", False),
    ],
)
def test_text_is_answered_where_it_is_wanted_most(accept: str, text: bool) -> None:
    assert prefers_text(accept) == text
