"""Tokens for one channel, in the core: what is asked, when, and what follows from the answer."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from pushserver.client import Position, SubscriptionEnded, Unauthorized, UserChanged
from pushserver.client.channel_tokens import KeptToken, end_of_token
from tests.client.test_core import START, Shell

MINUTE = 60_000


def token(ends_at: int, name: str = "") -> str:
    """A token of the right form; `ends_at` in ms."""
    parts = ({"alg": "none"}, {"channel": "doc:1", "exp": ends_at / 1000}, {"name": name})
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def function() -> str:
    raise AssertionError("the core calls nothing")


def items(shell: Shell) -> list[Any]:
    """What each subscribe message that was sent asked for."""
    return [message["data"]["channels"] for message in shell.sent if message["type"] == "subscribe"]


def give(shell: Shell, text: object) -> None:
    """The application answers the newest question for a channel's token."""
    shell.core.channel_token(shell.channel_fetches[-1][1], text, shell.now)
    shell.run()


def reject(shell: Shell, code: str, channel: str = "doc:1") -> None:
    rejected = {channel: {"code": code, "message": "no"}}
    shell.reply("subscription_success", {"results": {}, "rejected": rejected})


def accept(shell: Shell, result: dict[str, Any] | None = None, channel: str = "doc:1") -> None:
    shell.reply("subscription_success", {"results": {channel: result or {}}, "rejected": {}})


def end_of(feed: Any) -> tuple[str, str]:
    assert isinstance(feed.ended, SubscriptionEnded)
    return feed.ended.code, feed.ended.reason


def reading(ends_at: int = START + 10 * MINUTE, result: dict[str, Any] | None = None) -> tuple[Shell, Any]:
    """A connected client that reads ``doc:1`` with a function's token."""
    shell = Shell().start()
    feed = shell.subscribe("doc:1", token=function)
    give(shell, token(ends_at, "first"))
    accept(shell, result)
    assert feed.confirmed
    return shell, feed


def test_a_given_token_goes_with_each_subscription() -> None:
    shell = Shell()
    feed = shell.subscribe("doc:1", token="a.b.c")
    shell.start()
    assert items(shell) == [[{"channel": "doc:1", "token": "a.b.c"}]]
    accept(shell, {"offset": 3, "epoch": "e", "recovered": False})
    assert feed.confirmed
    shell.lose()
    shell.come_back()
    assert items(shell)[1:] == [[{"channel": "doc:1", "since": {"offset": 3, "epoch": "e"}, "token": "a.b.c"}]]
    assert shell.channel_fetches == []


def test_a_function_is_asked_before_the_channel_is_subscribed() -> None:
    shell = Shell().start()
    feed = shell.subscribe("doc:1", token=function)
    assert items(shell) == []
    ((channel, kept),) = shell.channel_fetches
    assert (channel, kept.function) == ("doc:1", function)
    give(shell, "opaque")
    assert items(shell) == [[{"channel": "doc:1", "token": "opaque"}]]
    accept(shell)
    assert feed.confirmed


def test_a_token_is_renewed_before_it_ends_by_the_servers_clock() -> None:
    ahead = 5 * MINUTE
    shell, feed = reading(START + ahead + 10 * MINUTE, {"offset": 3, "epoch": "e", "recovered": False})
    (ping,) = [message for message in shell.sent if message["type"] == "ping"]
    shell.deliver("pong", {**ping["data"], "timestamp": START + ahead})
    due = shell.core._subscriptions.tokens.due()
    assert due == [START + 9 * MINUTE]
    shell.core._watchdog.receive(START + 9 * MINUTE)
    shell.after(9 * MINUTE)
    assert len(shell.channel_fetches) == 2
    give(shell, token(START + ahead + 20 * MINUTE, "second"))
    # Nothing is asked for again, and nothing that comes is taken for a repeat.
    ((renewed,),) = items(shell)[1:]
    assert set(renewed) == {"channel", "token"}
    shell.push("doc:1", "before the answer", 4)
    accept(shell, {"offset": 5, "epoch": "e", "recovered": False})
    shell.push("doc:1", "behind it", 5)
    assert shell.read(feed) == ["before the answer", "behind it"]
    assert feed.ended is None


def test_what_a_renewal_passed_by_is_asked_for_after_a_loss() -> None:
    shell, _ = reading(result={"offset": 3, "epoch": "e", "recovered": False})
    shell.core._watchdog.receive(START + 9 * MINUTE)
    shell.after(9 * MINUTE)
    give(shell, token(START + 20 * MINUTE))
    # The server has a message 4 already, whose push the link does not live to bring.
    accept(shell, {"offset": 4, "epoch": "e", "recovered": False})
    shell.lose()
    shell.come_back()
    assert items(shell)[-1][0]["since"] == {"offset": 3, "epoch": "e"}


def test_a_token_is_kept_over_connections_while_it_lasts() -> None:
    shell, _ = reading()
    shell.lose()
    shell.come_back()
    assert len(shell.channel_fetches) == 1
    assert items(shell)[0] == items(shell)[1]


def test_one_that_ended_meanwhile_is_asked_for_anew() -> None:
    shell, _ = reading()
    shell.lose()
    shell.now += 11 * MINUTE
    shell.come_back()
    assert len(items(shell)) == 1
    assert len(shell.channel_fetches) == 2
    give(shell, "second")
    assert items(shell)[1] == [{"channel": "doc:1", "token": "second"}]


def test_a_function_that_fails_is_asked_again() -> None:
    shell = Shell().start()
    feed = shell.subscribe("doc:1", token=function)
    shell.core.channel_token_failed(shell.channel_fetches[0][1], shell.now)
    shell.run()
    assert len(shell.channel_fetches) == 1
    assert shell.until_due() <= 4_000
    assert len(shell.channel_fetches) == 2
    # And once more, where it gives nothing within its time; a late answer is good all the same.
    shell.core._watchdog.receive(shell.now + 30_000)
    shell.after(30_000)
    give(shell, "late")
    accept(shell)
    assert feed.confirmed


@pytest.mark.parametrize("nothing", [None, "", b"octets", 17])
def test_a_function_that_gives_none_ends_the_subscription(nothing: object) -> None:
    shell = Shell().start()
    feed = shell.subscribe("doc:1", token=function)
    give(shell, nothing)
    code, reason = end_of(feed)
    assert code == "UNAUTHORIZED"
    assert reason.startswith("the token function gave ")
    assert items(shell) == []


def test_who_is_unauthorized_later_leaves_the_channel() -> None:
    shell, feed = reading()
    shell.core.channel_unauthorized(shell.channel_fetches[0][1], Unauthorized("left the team"), shell.now)
    shell.run()
    assert end_of(feed) == ("UNAUTHORIZED", "UNAUTHORIZED: left the team")
    assert shell.sent[-1]["data"] == {"channels": ["doc:1"]}


@pytest.mark.parametrize("code", ["INVALID_TOKEN", "TOKEN_BLACKLISTED", "TOKEN_EXPIRED", "NOT_AUTHENTICATED"])
@pytest.mark.parametrize("given", ["a.b.c", function])
def test_a_refused_token_is_told(code: str, given: Any) -> None:
    shell = Shell().start()
    feed = shell.subscribe("doc:1", token=given)
    if callable(given):
        give(shell, token(START - MINUTE))
    reject(shell, code)
    assert end_of(feed) == (code, "no")
    assert len(items(shell)) == 1


def test_a_renewal_that_is_refused_is_told_and_leaves_the_channel() -> None:
    shell, feed = reading()
    shell.core._watchdog.receive(START + 9 * MINUTE)
    shell.after(9 * MINUTE)
    give(shell, "second")
    reject(shell, "INVALID_TOKEN")
    assert end_of(feed)[0] == "INVALID_TOKEN"
    assert shell.sent[-1]["type"] == "unsubscribe"


def test_a_renewal_that_is_refused_in_passing_is_tried_again() -> None:
    shell, feed = reading()
    shell.core._watchdog.receive(START + 9 * MINUTE)
    shell.after(9 * MINUTE)
    give(shell, "second")
    reject(shell, "UNAVAILABLE")
    shell.until_due()
    assert items(shell)[-1] == [{"channel": "doc:1", "token": "second"}]
    accept(shell)
    assert feed.ended is None


def test_a_revoked_token_is_told() -> None:
    shell, feed = reading()
    shell.deliver("unsubscribed", {"channel": "doc:1", "code": "TOKEN_BLACKLISTED", "reason": "gone"}, channel="doc:1")
    assert end_of(feed) == ("TOKEN_BLACKLISTED", "gone")


def test_where_the_server_ended_it_with_the_token_another_brings_what_was_missed() -> None:
    shell, feed = reading(result={"offset": 3, "epoch": "e", "recovered": False})
    shell.deliver("unsubscribed", {"channel": "doc:1", "code": "TOKEN_EXPIRED", "reason": "over"}, channel="doc:1")
    assert feed.ended is None
    give(shell, "second")
    assert items(shell)[-1] == [{"channel": "doc:1", "since": {"offset": 3, "epoch": "e"}, "token": "second"}]
    missed = {"type": "message", "channel": "doc:1", "data": "missed", "offset": 4, "epoch": "e"}
    accept(shell, {"offset": 4, "epoch": "e", "recovered": True, "messages": [missed]})
    assert shell.read(feed) == ["missed"]


def test_where_a_given_token_ended_it_is_told() -> None:
    shell = Shell().start()
    feed = shell.subscribe("doc:1", {}, token="a.b.c")
    shell.deliver("unsubscribed", {"channel": "doc:1", "code": "TOKEN_EXPIRED", "reason": "over"}, channel="doc:1")
    assert end_of(feed) == ("TOKEN_EXPIRED", "over")


def test_a_token_that_ends_while_the_new_one_is_on_its_way_ends_nothing() -> None:
    shell, feed = reading()
    shell.core._watchdog.receive(START + 9 * MINUTE)
    shell.after(9 * MINUTE)
    give(shell, "second")
    shell.deliver("unsubscribed", {"channel": "doc:1", "code": "TOKEN_EXPIRED", "reason": "over"}, channel="doc:1")
    accept(shell)
    shell.push("doc:1", "live")
    assert (shell.read(feed), feed.ended, len(items(shell))) == (["live"], None, 2)


def test_a_later_readers_token_takes_the_place_of_the_first_ones() -> None:
    shell = Shell().start()
    first = shell.subscribe("doc:1", token="one")
    asked = shell.sent[-1]
    second = shell.subscribe("doc:1", token="two")
    # The first question's refusal says nothing of the second token.
    shell.reply("subscription_success", {"rejected": {"doc:1": {"code": "INVALID_TOKEN", "message": "no"}}}, asked)
    assert (first.ended, second.ended) == (None, None)
    accept(shell)
    shell.push("doc:1", "hello")
    assert (shell.read(first), shell.read(second)) == (["hello"], ["hello"])


def test_nobody_is_asked_for_a_channel_that_is_read_no_more() -> None:
    shell, feed = reading()
    shell.core.close_feed(feed, shell.now)
    assert shell.core._subscriptions.tokens.due() == []
    shell.core.channel_token(shell.channel_fetches[0][1], "late", shell.now)
    shell.run()
    assert len(items(shell)) == 1


def test_another_user_gets_nothing_by_it() -> None:
    shell = Shell(can_fetch=True).start(expiresAt=START + 10 * MINUTE)
    feed = shell.subscribe("doc:1", {}, token="a.b.c")
    shell.core.token("another", shell.now)
    shell.run()
    shell.reply("error", {"code": "PERMISSION_DENIED", "message": "another user"})
    shell.open()
    shell.deliver("auth_success", {"userId": "43"})
    assert isinstance(feed.ended, UserChanged)
    assert len(items(shell)) == 1


def test_many_tokens_go_in_messages_that_the_server_takes() -> None:
    shell = Shell()
    for n in range(100):
        shell.subscribe(f"doc:{n}", since=Position(2**53, "e" * 36), token="t" * 1_500)
    shell.start()
    sizes = [len(json.dumps(message)) for message in shell.sent if message["type"] == "subscribe"]
    assert max(sizes) < 64 * 1024
    assert sum(len(each) for each in items(shell)) == 100


@pytest.mark.parametrize("given", ["", 17, b"a.b.c"])
def test_what_is_no_token_is_said_at_once(given: Any) -> None:
    with pytest.raises(ValueError, match="a channel's token is text"):
        KeptToken(given)


def with_body(octets: bytes) -> str:
    return f"a.{urlsafe_b64encode(octets).decode()}.c"


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (token(START), START),
        ("opaque", None),
        ("a.b.c", None),
        ("a.!!!.c", None),
        (with_body(b"[]"), None),
        (with_body(b"{}"), None),
        (with_body(b'{"exp": "soon"}'), None),
        (with_body(b'{"exp": 1e999}'), None),
        (with_body(b"[" * 4000), None),
    ],
)
def test_the_end_of_a_token_is_read_where_it_says_so(text: str, end: int | None) -> None:
    assert end_of_token(text) == end
