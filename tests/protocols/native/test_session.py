"""The native session: one reply for each message, errors in a row, and how fast a client may speak."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core import errors, operations
from pushserver.core.effects import Disconnect, Perform, Send
from pushserver.core.errors import Code, NotFound, PushError, Refused, Unavailable
from pushserver.core.positions import Position
from pushserver.core.rate_limit import Rates
from pushserver.protocols.native import messages
from pushserver.protocols.native.session import MAX_ERRORS, MAX_RATE_LIMITED, NativeSession

FREE = Rates(0, 0, 0)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted(messages.REQUEST_TYPES)) | JSON},
    optional={
        "id": st.integers(-(2**63), 2**63 - 1) | st.text(max_size=70) | JSON,
        "data": JSON
        | st.dictionaries(
            st.sampled_from(["token", "channels", "channel", "data", "taskId", "content", "offset", "epoch", "limit"]),
            JSON,
        ),
    },
).map(lambda m: json.dumps(m).encode())


def sent(effects: Any) -> list[Any]:
    return [json.loads(e.payload) for e in effects if isinstance(e, Send)]


@given(st.lists(MESSAGES | st.binary(max_size=40), max_size=30))
def test_each_message_gets_one_reply_or_one_operation(octets: list[bytes]) -> None:
    session = NativeSession(FREE, anonymous=True)
    for each in octets:
        effects = session.receive(each, 1, 1)
        first, *rest = effects
        assert all(isinstance(e, Disconnect) for e in rest)
        assert len(rest) <= 1
        if isinstance(first, Perform):
            effects = session.fail(first, NotFound("none"), 1)
            assert sent(effects)[0].get("id") == first.id
            continue
        assert isinstance(first, Send)
        reply = json.loads(first.payload)
        assert reply["type"] in ("pong", "error")
        if reply["type"] == "pong":
            assert reply["data"]["timestamp"] == 1


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=200), st.integers(1, 20), st.integers(1, 10))
def test_no_more_is_let_through_than_the_rate_allows(
    steps: list[tuple[int, bool]], per_second: int, burst: int
) -> None:
    session = NativeSession(Rates(per_second, burst, 0), anonymous=True)
    now = through = 0
    for wait, valid in steps:
        now += wait
        effects = session.receive(b'{"type":"ping","id":1}' if valid else b'{"id":1}', now, now)
        (reply,) = sent(effects)
        assert reply["id"] == 1
        if reply["data"].get("code") == "RATE_LIMITED":
            assert reply["data"]["retryAfter"] >= 1
        else:
            through += 1
    assert through <= burst + now * per_second / 1000 + 1e-6


def test_ten_errors_in_a_row_close_and_one_success_forgives() -> None:
    session = NativeSession(FREE, anonymous=True)
    for _ in range(3):
        for _ in range(MAX_ERRORS - 1):
            assert len(session.receive(b"no", 0, 0)) == 1
        session.receive(b'{"type":"ping"}', 0, 0)
    for _ in range(MAX_ERRORS - 1):
        session.receive(b"no", 0, 0)
    assert session.receive(b"no", 0, 0)[1] == Disconnect(errors.TOO_MANY_ERRORS)


def test_what_fails_on_the_side_of_the_server_is_held_against_nobody() -> None:
    session = NativeSession(FREE, anonymous=True)
    (asked,) = session.receive(b'{"type":"task_get","id":1,"data":{"taskId":"t"}}', 0, 0)
    assert isinstance(asked, Perform)
    for problem in [Unavailable("away"), PushError("fault")] * MAX_ERRORS:
        assert len(session.fail(asked, problem, 0)) == 1
    for _ in range(MAX_ERRORS - 1):
        assert len(session.receive(b"no", 0, 0)) == 1
    assert session.receive(b"no", 0, 0)[1] == Disconnect(errors.TOO_MANY_ERRORS)


def test_a_hundred_refusals_for_speed_in_a_row_close() -> None:
    session = NativeSession(Rates(1, 1, 0), anonymous=True)
    session.receive(b'{"type":"ping"}', 0, 0)
    for _ in range(MAX_RATE_LIMITED - 1):
        assert len(session.receive(b'{"type":"ping"}', 0, 0)) == 1
    assert session.receive(b"not json", 0, 0)[1] == Disconnect(errors.TOO_MANY_REQUESTS)


@pytest.mark.parametrize("type", ["subscribe", "unsubscribe"])
def test_channels_that_a_message_names_pay_as_messages_do(type: str) -> None:
    session = NativeSession(Rates(1, 10, 0), anonymous=True)
    names = json.dumps({"type": type, "data": {"channels": ["chat:a"] * 100}}).encode()
    ping = b'{"type": "ping"}'
    assert isinstance(session.receive(names, 0, 0)[0], Perform)
    replies = [sent(session.receive(ping, 0, 0))[0] for _ in range(5)]
    assert [reply["type"] for reply in replies] == ["pong"] * 4 + ["error"]
    assert replies[-1]["data"]["retryAfter"] == 1000
    # What was named beyond the burst is paid for afterwards.
    assert isinstance(session.receive(names, 1_000, 1_000)[0], Perform)
    assert sent(session.receive(ping, 2_000, 2_000))[0]["data"]["retryAfter"] == 5_000


def test_authenticating_too_often_closes_and_comes_back_with_time() -> None:
    session = NativeSession(Rates(0, 0, 2))
    attempt = b'{"type":"auth","data":{"token":"x"}}'
    assert isinstance(session.receive(attempt, 0, 0)[0], Perform)
    assert sent(session.receive(b'{"type":"auth","id":7}', 0, 0))[0]["data"]["code"] == "MISSING_TOKEN"
    effects = session.receive(attempt, 0, 0)
    assert sent(effects)[0]["data"]["code"] == "RATE_LIMITED"
    assert effects[1] == Disconnect(errors.TOO_MANY_REQUESTS)
    assert isinstance(session.receive(attempt, 60_000, 0)[0], Perform)


def test_a_stranger_may_not_ping() -> None:
    session = NativeSession(FREE)
    assert sent(session.receive(b'{"type":"ping","id":1}', 0, 0))[0]["data"]["code"] == "NOT_AUTHENTICATED"


@pytest.mark.parametrize(
    ("message", "operation"),
    [
        (
            {"type": "auth", "data": {"token": "t", "positions": {"system": {"offset": 1, "epoch": "e"}}}},
            operations.Authenticate("t", {"system": Position(1, "e")}),
        ),
        (
            {"type": "subscribe", "data": {"channels": ["a", {"channel": "b", "since": {"offset": 0, "epoch": "e"}}]}},
            operations.Subscribe((operations.SubscribeItem("a"), operations.SubscribeItem("b", Position(0, "e")))),
        ),
        ({"type": "unsubscribe", "data": {"channels": ["a"]}}, operations.Unsubscribe(("a",))),
        (
            {"type": "chat_message", "data": {"content": "x"}},
            operations.SendChat("x", "text", None, "chat:lobby", None),
        ),
        # No room of that name is let pass as the lobby, where all would read it.
        (
            {"type": "chat_message", "data": {"content": "x", "channel": ""}},
            operations.SendChat("x", "text", None, "", None),
        ),
        ({"type": "ack", "data": {"offset": 3, "epoch": "e"}}, operations.Acknowledge(Position(3, "e"))),
        ({"type": "history", "data": {"channel": "a"}}, operations.ReadHistory("a", 100, None, False)),
        ({"type": "presence", "data": {"channel": "a"}}, operations.ReadPresence("a")),
        (
            {"type": "task_subscribe", "data": {"taskId": "t"}},
            operations.Subscribe((operations.SubscribeItem("task:t"),)),
        ),
        ({"type": "task_get", "data": {"taskId": "t"}}, operations.ReadTask("t")),
        ({"type": "task_cancel", "data": {"taskId": "t"}}, operations.CancelTask("t")),
    ],
)
def test_a_message_becomes_an_operation(message: Any, operation: operations.Operation) -> None:
    (asked,) = NativeSession(FREE).receive(json.dumps(message | {"id": "i"}).encode(), 5, 5)
    assert asked == Perform(operation, "i")


@pytest.mark.parametrize(
    "data",
    [
        {"type": "publish", "data": {"channel": "a", "data": 1, "messageType": "task_progress"}},
        {"type": "publish", "data": {"channel": "a", "data": 1, "messageType": "user_notification"}},
        {"type": "publish", "data": {"channel": "a"}},
        {"type": "chat_message", "data": {"content": "x", "targetId": "u", "channel": "chat:a"}},
        {"type": "history", "data": {"channel": "a", "limit": 1001}},
        {"type": "ack", "data": {"offset": -1, "epoch": "e"}},
        {"type": "subscribe", "data": {"channels": [{"channel": "a", "since": {"offset": 1}}]}},
    ],
)
def test_what_cannot_be_asked_is_invalid(data: Any) -> None:
    (reply,) = sent(NativeSession(FREE).receive(json.dumps(data | {"id": 1}).encode(), 0, 0))
    assert (reply["id"], reply["data"]["code"]) == (1, "INVALID_MESSAGE")


def test_notices_and_refusals_have_their_shapes() -> None:
    session = NativeSession(FREE)
    assert sent(session.notify(operations.GoingAway(9), 1, "m"))[0]["data"] == {"reconnectAfter": 9}
    assert sent(session.notify(operations.InboxOverflow("user:a", 2), 1, "m"))[0]["data"] == {"lost": 2}
    assert sent(session.notify(operations.Resync("a"), 1, "m"))[0]["type"] == "resync"
    ended = operations.SubscriptionLost("a", Code.PERMISSION_DENIED, "r")
    assert sent(session.notify(ended, 1, "m"))[0]["data"] == {
        "channel": "a",
        "code": "PERMISSION_DENIED",
        "reason": "r",
    }
    asked = Perform(operations.Authenticate("t", {}), 1)
    reply, end = session.refuse(asked, Refused("no", Code.INVALID_TOKEN), errors.INVALID_TOKEN)
    assert sent([reply])[0]["type"] == "auth_failed"
    assert end == Disconnect(errors.INVALID_TOKEN)
