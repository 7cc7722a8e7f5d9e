"""What is asked, as it goes over the wire."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import fields

from pushserver.publisher import commands
from pushserver.publisher.commands import BODY_LIMIT, TEXT_LIMIT, Command, parts, smaller
from pushserver.server.backend_commands import BroadcastParams, NotifyParams, PublishParams


def test_one_user_or_many_by_any_kind_of_id() -> None:
    def to(users: Any) -> Any:
        params = commands.notify(users, {}).params
        return params.get("userId", params.get("userIds"))

    assert to(42) == "42"
    assert to(UUID(int=1)) == str(UUID(int=1))
    assert to([1, "b"]) == ["1", "b"]
    assert to(n for n in (1, 2)) == ["1", "2"]
    # Nobody: the server refuses it. A user who is called "None" would never hear of it.
    assert (to(None), to([1, None])) == ("", ["1", ""])
    assert (to(True), to([False, 1])) == ("", ["", "1"])
    assert commands.create_task("t", None, None, None, restart=False)[0].params["userId"] == ""
    assert commands.ticket(None, [], None).params["userId"] == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"current": 3, "of": 10}, {"percentage": 30.0, "currentStep": 3, "totalSteps": 10}),
        ({"current": Decimal(3), "of": Decimal(4)}, {"percentage": 75.0, "currentStep": 3, "totalSteps": 4}),
        ({"current": 0.5, "of": 2.5}, {"percentage": 20.0}),
        ({"current": 150}, {"percentage": 100.0}),
        ({"current": math.nan, "of": 3, "message": "m"}, {"message": "m"}),
        ({"current": 1, "of": 0}, {"currentStep": 1, "totalSteps": 0}),
        ({"current": "three"}, None),
        ({"current": 10**400, "of": 10}, None),
        ({"percentage": 5, "eta": timedelta(minutes=1)}, {"percentage": 5.0, "eta": 60.0}),
        ({"percentage": 5, "eta": math.inf}, {"percentage": 5.0}),
        ({"percentage": 5, "eta": -1}, {"percentage": 5.0}),
        ({"message": "m", "eta": datetime(2026, 1, 1)}, {"message": "m", "eta": "2026-01-01T00:00:00"}),
        ({"percentage": 5, "force": True}, {"percentage": 5.0, "force": True}),
        ({"message": "x" * 5_000}, {"message": "x" * TEXT_LIMIT}),
    ],
)  # fmt: skip
def test_progress_tells_what_it_can(given: dict[str, Any], expected: dict[str, Any] | None) -> None:
    command, cut = commands.progress("t", given.pop("current", None), **given)
    assert cut == (len(given.get("message", "")) > TEXT_LIMIT)
    assert (None if command is None else command.params) == (None if expected is None else {"taskId": "t", **expected})


def test_an_end_says_what_was_left_out() -> None:
    assert commands.complete("t", {"n": 1}) == (Command("task.complete", {"taskId": "t", "result": {"n": 1}}), False)
    assert commands.complete("t", object())[0].params == {"taskId": "t", "result": None, "truncated": True}
    assert commands.fail("t", KeyError())[0].params == {"taskId": "t", "error": "KeyError"}
    command, cut = commands.fail("t", "x" * 5_000)
    assert (cut, command.params["truncated"], len(command.params["error"])) == (True, True, TEXT_LIMIT)
    assert commands.cancel("t", "enough")[0].params == {"taskId": "t", "message": "enough"}


def test_too_large_becomes_smaller_until_nothing_is_left_to_cut() -> None:
    command: Command | None = commands.complete("t", {"rows": ["x" * 100] * 5_000})[0]
    sizes = []
    while command is not None:
        sizes.append(len(msgspec.json.encode(command)))
        last, command = command, smaller(command)
    assert sizes == sorted(sizes, reverse=True)
    assert last.params == {"taskId": "t", "truncated": True}
    assert smaller(commands.notify(1, {"rows": "x" * 5_000})) is None


def test_requests_are_bounded_by_bytes_and_by_number() -> None:
    small, large = Command("publish", {"data": 1}), Command("publish", {"data": "x" * (BODY_LIMIT // 2)})
    assert [len(part) for part in parts([small] * 5, 2)] == [2, 2, 1]
    assert [len(part) for part in parts([large, large, small, large])] == [1, 2, 1]
    assert parts([]) == []


def test_publications_and_notifications_say_all_that_the_api_takes() -> None:
    options: dict[str, Any] = {
        "type": "t", "message_id": "m", "exclude_user": 7, "exclude_connection": "c", "tags": {"by": "x"},
        "skip_history": True,
    }  # fmt: skip
    published = {
        "data": 1, "type": "t", "messageId": "m", "excludeUser": "7", "excludeConnection": "c", "tags": {"by": "x"},
        "skipHistory": True,
    }  # fmt: skip
    assert commands.publish("news", 1, **options).params == {"channel": "news", **published}
    assert commands.broadcast(["a", "b"], 1, **options).params == {"channels": ["a", "b"], **published}
    notified = commands.notify(
        42, {"n": 1}, type="t", message_id="m", ttl="7d", collapse_key="k", unread_after=90, tags={"by": "x"}
    )
    told = {"type": "t", "messageId": "m", "ttl": "7d", "collapseKey": "k", "unreadAfter": "90s", "tags": {"by": "x"}}
    assert notified.params == {"userId": "42", "data": {"n": 1}, **told}
    assert commands.notify(42, {}, unread_after=0).params["unreadAfter"] == "0s"
    for asked, said in (
        (PublishParams, commands.publish("news", 1, **options)),
        (BroadcastParams, commands.broadcast(["news"], 1, **options)),
        (NotifyParams, notified),
    ):
        # One user, or many.
        assert {field.encode_name for field in fields(asked)} - {"userIds"} == said.params.keys()


def test_what_nobody_knows_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="tittle"):
        commands.notify(42, {}, tittle="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="total"):
        commands.progress("t", 1, total=10)  # type: ignore[call-arg]


def test_who_is_meant_must_be_clear() -> None:
    with pytest.raises(ValueError):
        commands.revoke(None, None, None, None)
    with pytest.raises(ValueError):
        commands.disconnect(42, "c", None, None)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert commands.revoke(42, None, None, moment).params == {"userId": "42", "issuedBefore": 1_767_225_600_000}
