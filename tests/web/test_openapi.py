"""The API's description: every call is in it, it is made of the types that decode, and a difference is found."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.threads import deferToThread

from pushserver import __version__
from pushserver.config.checks import ApiKey, ApiSection
from pushserver.core.message_types import REPLIES
from pushserver.protocols.native import messages
from pushserver.server.backend_commands import NotifyParams, decode
from pushserver.web import openapi, results
from pushserver.web.openapi import OPERATIONS, document
from tests.answers import REPLY_TYPES, STATUSES, check, check_message, operation_of
from tests.inside import running

ROOT = Path(__file__).parent.parent.parent
ROUTES = [(path, method, "read") for path, method in OPERATIONS]
DOCUMENT = document(ROUTES)


def references(value: Any) -> set[str]:
    """Every schema that is referred to."""
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def description(port: int, key: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/api/openapi.json", headers={"X-API-Key": key})
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())
    finally:
        connection.close()


def schema(name: str) -> Any:
    return DOCUMENT["components"]["schemas"][name]


async def test_every_call_is_described_and_anybody_with_a_key_may_read_it(tmp_path: Path) -> None:
    keys = (ApiKey("reads-everything", ("read",)), ApiKey("reaches-one-channel", ("publish",), "", ("news:a",)))
    async with running(tmp_path, api=ApiSection(keys=keys)) as inside:
        routes = [(path, method) for path, method, _ in inside.service._doors._calls.routes()]
        assert sorted(routes) == sorted(OPERATIONS)
        for key in ("reads-everything", "reaches-one-channel"):
            answer = await deferToThread(description, inside.port, key)
            assert answer["openapi"] == "3.1.0"
            assert answer["info"]["version"] == __version__
            described = [
                (path.removeprefix("/api/"), method.upper())
                for path, methods in answer["paths"].items()
                for method in methods
            ]
            assert sorted(described) == sorted(OPERATIONS)
            scopes = {
                one["operationId"]: one.get("x-scope") for each in answer["paths"].values() for one in each.values()
            }
            assert (scopes["publish"], scopes["disconnect"], scopes["describe"]) == ("publish", "sessions", None)


def test_a_call_that_nobody_described_is_found() -> None:
    with pytest.raises(KeyError):
        document([*ROUTES, ("secret", "POST", "admin")])


def test_it_holds_together() -> None:
    names = [one["operationId"] for each in DOCUMENT["paths"].values() for one in each.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS)
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references(DOCUMENT) <= known
    assert json.loads(msgspec.json.encode(DOCUMENT)) == DOCUMENT


def test_what_is_asked_is_described_by_what_decodes_it() -> None:
    body = DOCUMENT["paths"]["/api/notify"]["post"]["requestBody"]
    assert body == {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NotifyParams"}}},
    }
    told = schema("NotifyParams")
    fields = msgspec.structs.fields(NotifyParams)
    assert list(told["properties"]) == [field.encode_name for field in fields]
    assert told["required"] == [field.encode_name for field in fields if field.required]
    assert "default" not in told["properties"]["collapseKey"]
    assert told["properties"]["type"]["default"] == "user_notification"
    assert told["properties"]["collapseKey"]["anyOf"][0] == {"type": "string", "minLength": 1, "maxLength": 200}
    history = {one["name"]: one for one in DOCUMENT["paths"]["/api/history"]["get"]["parameters"]}
    assert [name for name, one in history.items() if one["required"]] == ["channel"]
    assert history["limit"]["schema"] == {"type": "integer", "minimum": 0, "maximum": 1000, "default": 100}
    assert "requestBody" not in DOCUMENT["paths"]["/api/history"]["get"]
    assert DOCUMENT["paths"]["/api/drain"]["post"]["requestBody"]["required"] is False


def integers(value: Any) -> list[dict[str, Any]]:
    """Every schema of an integer."""
    if isinstance(value, list):
        return [found for each in value for found in integers(each)]
    if not isinstance(value, dict):
        return []
    return [value] * (value.get("type") == "integer") + [found for each in value.values() for found in integers(each)]


def test_what_is_created_is_of_the_type_that_is_read_later() -> None:
    created = DOCUMENT["paths"]["/api/tasks"]["post"]["responses"]
    read = DOCUMENT["paths"]["/api/tasks/{id}"]["get"]["responses"]
    assert created["200"]["content"] == created["201"]["content"] == read["200"]["content"]
    assert {"taskId", "duplicate", "conflict"} <= set(schema("TaskState")["properties"])
    assert "RepeatedTask" not in DOCUMENT["components"]["schemas"]


def test_integers_of_more_than_32_bits_say_so() -> None:
    assert schema("PushMessage")["properties"]["timestamp"] == {"type": "integer", "format": "int64"}
    assert schema("PushMessage")["properties"]["readAt"]["anyOf"][0] == {"type": "integer", "format": "int64"}
    assert schema("InboxReadParams")["properties"]["upTo"]["anyOf"][0]["format"] == "int64"
    before = {one["name"]: one for one in DOCUMENT["paths"]["/api/inbox"]["get"]["parameters"]}["before"]["schema"]
    assert {one.get("format") for one in integers(before)} == {"int64"}
    narrow = [one for one in integers(DOCUMENT) if "format" not in one]
    assert narrow
    assert all(one["maximum"] < 2**31 for one in narrow)


def test_the_messages_of_clients_are_there() -> None:
    told = schema("ClientMessage")
    assert set(told["discriminator"]["mapping"]) == set(messages.REQUEST_TYPES)
    for reference in told["discriminator"]["mapping"].values():
        assert schema(reference.rpartition("/")[2])["properties"]["type"]["enum"]


def test_what_the_server_says_is_there() -> None:
    told = schema("ServerReply")
    assert set(told["discriminator"]["mapping"]) == REPLIES | {"inbox", "history", "presence"} == REPLY_TYPES
    assert schema("PushMessage")["required"] == ["type", "data", "timestamp", "messageId"]
    for message in (
        {"type": "published", "id": 1, "data": {"messageId": "m", "surprise": 1}},
        {"type": "ack_success", "data": {"offset": "1"}},
        {"type": "message", "data": 1, "timestamp": 1},
    ):
        with pytest.raises((AssertionError, msgspec.ValidationError)):
            check_message(message)


def test_a_planted_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"messageId": "m1", "offset": 1, "epoch": "e"}
    check("POST", "/api/publish", 200, good)
    check("POST", "/api/publish", 403, {"error": {"code": "PERMISSION_DENIED", "message": "no"}})
    for status, body in (
        (200, good | {"undocumented": 1}),
        (200, good | {"offset": "1"}),
        (200, {"offset": 1}),
        (201, good),
        (500, {"error": {"code": "INTERNAL_ERROR", "message": "something went wrong here"}}),
        (400, {"error": {"code": "NO_SUCH_CODE", "message": "no"}}),
        (400, {"error": {"code": "INVALID_MESSAGE", "message": "no", "more": 1}}),
        (400, good),
    ):
        with pytest.raises((AssertionError, msgspec.ValidationError)):
            check("POST", "/api/publish", status, body)
    planted = msgspec.structs.replace(OPERATIONS["publish", "POST"], result=results.DeletedResult)
    monkeypatch.setitem(openapi.OPERATIONS, ("publish", "POST"), planted)
    with pytest.raises((AssertionError, msgspec.ValidationError)):
        check("POST", "/api/publish", 200, good)


EXAMPLES = re.findall(
    r"^api > (\w+) (\S+) ?(.*)\napi < (\d+) (.+)$", (ROOT / "docs" / "protocol.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize(("method", "target", "body", "status", "answer"), EXAMPLES)
def test_the_examples_of_the_protocol_are_what_it_says(
    method: str, target: str, body: str, status: str, answer: str
) -> None:
    operation = operation_of(method, target)
    assert operation is not None
    if body and operation.body is not None:
        decode(body.encode(), operation.body)
    check(method, target, int(status), json.loads(answer))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
    assert all(400 in statuses and 200 in statuses for statuses in STATUSES.values())
