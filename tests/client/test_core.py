"""The client's core, without a socket and without a clock: what it decides, told as what it wants done."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pushserver.client import (
    AuthFailed,
    Backoff,
    ClientClosed,
    ClientCore,
    Disconnected,
    InboxChange,
    Options,
    Position,
    Push,
    QueueFull,
    RequestFailed,
    RequestTimeout,
    State,
    SubscriptionEnded,
    TaskState,
    Unauthorized,
    UserChanged,
    calls,
)
from pushserver.client.channel_tokens import KeptToken, TokenFunction
from pushserver.client.effects import (
    AnotherUser,
    Answered,
    Connect,
    Ended,
    Failed,
    FetchChannelToken,
    FetchToken,
    Hangup,
    InboxChanged,
    Transmit,
)
from pushserver.client.feeds import UNREAD, ReaderFeed

START = 1_700_000_000_000


class Shell:
    """Carries effects out on paper: what was sent, what came of the requests, which socket is wanted."""

    def __init__(self, *, token: str | None = "t", can_fetch: bool = False, luck: float = 0.5, **options: Any) -> None:
        ids = itertools.count(1)
        positions = options.pop("positions", None)
        self.core = ClientCore(
            Options(**options),
            random=lambda: luck,
            new_id=lambda: f"id{next(ids)}",
            token=token,
            can_fetch=can_fetch,
            positions=positions,
        )
        self.now = START
        self.link = 0
        self.sent: list[dict[str, Any]] = []
        self.answers: dict[int, Any] = {}
        self.hangups: list[Hangup] = []
        self.fetches = 0
        self.channel_fetches: list[tuple[str, KeptToken]] = []
        self.connects = 0
        self.changes: list[tuple[str, str]] = []
        self.inbox_changes: list[InboxChange] = []
        self.ended: Ended | None = None

    def run(self) -> None:
        for effect in self.core.effects():
            match effect:
                case Connect(link):
                    self.link = link
                    self.connects += 1
                case Transmit(link, text):
                    assert link == self.link
                    self.sent.append(json.loads(text))
                case Answered(request, data):
                    assert request not in self.answers
                    self.answers[request] = data
                case Failed(request, error):
                    assert request not in self.answers
                    self.answers[request] = error
                case Hangup():
                    self.hangups.append(effect)
                case FetchToken():
                    self.fetches += 1
                case FetchChannelToken(channel, token):
                    self.channel_fetches.append((channel, token))
                case AnotherUser(change):
                    self.changes.append((change.from_, change.to))
                case InboxChanged(change):
                    self.inbox_changes.append(change)
                case Ended():
                    assert self.ended is None
                    self.ended = effect

    def after(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.core.tick(self.now)
        self.run()

    def until_due(self) -> int:
        """Let the time pass until the core wants to be woken; how long that was."""
        deadline = self.core.deadline()
        assert deadline is not None
        waited = max(0, deadline - self.now)
        self.after(waited)
        return waited

    def start(self, **welcome: Any) -> Shell:
        self.core.start(self.now)
        self.run()
        return self.connect(**welcome)

    def open(self) -> None:
        self.core.opened(self.link, self.now)
        self.run()

    def connect(self, **welcome: Any) -> Shell:
        self.open()
        self.deliver("auth_success", {"userId": "42", **welcome})
        return self

    def deliver(self, type: str, data: Any = None, link: int | None = None, **fields: Any) -> None:
        message = {"type": type, "data": data, **fields}
        self.core.received(self.link if link is None else link, json.dumps(message).encode(), self.now)
        self.run()

    def push(self, channel: str, data: Any, offset: int | None = None, epoch: str = "e", **fields: Any) -> None:
        place = {} if offset is None else {"offset": offset, "epoch": epoch}
        self.deliver(fields.pop("type", "message"), data, channel=channel, **place, **fields)

    def reply(self, type: str, data: Any = None, to: dict[str, Any] | None = None) -> None:
        self.deliver(type, data, id=(to or self.sent[-1])["id"])

    def lose(self, code: int | None = None, **fields: Any) -> None:
        self.core.closed(self.link, self.now, code, **fields)
        self.run()

    def come_back(self, **welcome: Any) -> Shell:
        while self.core.state is State.WAITING:
            self.until_due()
        return self.connect(**welcome)

    def subscribe(
        self,
        channel: str,
        result: dict[str, Any] | None = None,
        since: Position | None = None,
        token: str | TokenFunction | None = None,
    ) -> ReaderFeed:
        feed = self.core.subscribe(channel, self.now, since, token)
        self.run()
        if result is not None:
            self.reply("subscription_success", {"results": {channel: result}, "rejected": {}})
        return feed

    def read(self, feed: ReaderFeed) -> list[Any]:
        taken = []
        while (push := self.core.take(feed, self.now)) is not None:
            taken.append(push.data if push.type == "message" else push.type)
        self.run()
        return taken

    def of(self, type: str) -> list[dict[str, Any]]:
        return [message.get("data") for message in self.sent if message["type"] == type]


def result(offset: int = 0, epoch: str = "e", **fields: Any) -> dict[str, Any]:
    return {"recovered": False, "offset": offset, "epoch": epoch, "messages": [], **fields}


def message(offset: int, epoch: str = "e", channel: str = "news") -> dict[str, Any]:
    place = {"channel": channel, "offset": offset, "epoch": epoch}
    return {"type": "message", "data": offset, "messageId": f"m{offset}", **place}


# Authentication


def test_authenticates_then_subscribes_then_sends_what_waited() -> None:
    shell = Shell()
    shell.core.start(shell.now)
    shell.subscribe("news")
    shell.core.request(calls.publish("news", 1, None, "m"), shell.now)
    shell.run()
    assert shell.sent == []
    shell.connect()
    assert [m["type"] for m in shell.sent] == ["auth", "subscribe", "publish"]
    assert shell.sent[0]["data"] == {"token": "t"}


def test_a_token_is_fetched_before_the_first_connection_and_before_it_expires() -> None:
    shell = Shell(token=None, can_fetch=True)
    shell.core.start(shell.now)
    shell.run()
    assert (shell.core.state, shell.fetches, shell.connects) == (State.FETCHING, 1, 0)
    shell.core.token("one", shell.now)
    shell.run()
    shell.connect(expiresAt=START + 600_000, heartbeat={"interval": 10_000_000, "timeout": 1})
    assert shell.until_due() == 540_000
    assert shell.fetches == 2
    shell.core.token("two", shell.now)
    shell.run()
    assert shell.of("auth") == [{"token": "one"}, {"token": "two"}]
    shell.reply("auth_success", {"userId": "42", "expiresAt": shell.now + 600_000})
    assert shell.core.state is State.CONNECTED
    assert shell.until_due() > 10_000


@pytest.mark.parametrize("code", ["TOKEN_EXPIRED", "UNAVAILABLE"])
def test_a_refresh_that_cannot_be_now_is_tried_again(code: str) -> None:
    shell = Shell(can_fetch=True).start(expiresAt=START + 15_000)
    shell.after(10_000)
    shell.core.token("two", shell.now)
    shell.run()
    shell.reply("error", {"code": code, "message": ""})
    assert shell.core.state is State.CONNECTED
    shell.after(2_000)
    assert shell.fetches == 2


def test_a_token_source_that_fails_is_asked_again() -> None:
    shell = Shell(token=None, can_fetch=True)
    shell.core.start(shell.now)
    shell.core.token_failed("away", shell.now)
    shell.run()
    assert (shell.core.state, shell.core.last_error) == (State.WAITING, "away")
    shell.until_due()
    shell.core.token("t", shell.now)
    shell.run()
    shell.connect(expiresAt=START + 40_000)
    shell.after(20_000)
    shell.core.token_failed("away", shell.now)
    assert shell.core.state is State.CONNECTED


@pytest.mark.parametrize("code", ["INVALID_TOKEN", "TOKEN_BLACKLISTED"])
def test_a_refused_token_ends_it(code: str) -> None:
    shell = Shell(can_fetch=True)
    shell.core.start(shell.now)
    shell.run()
    shell.open()
    shell.deliver("auth_failed", {"code": code, "message": "no"})
    assert shell.ended is not None
    assert isinstance(shell.ended.error, AuthFailed)
    assert shell.ended.error.error == code


def test_an_expired_token_ends_it_only_where_no_other_can_be_had() -> None:
    for can_fetch in (False, True):
        shell = Shell(can_fetch=can_fetch)
        shell.core.start(shell.now)
        shell.run()
        shell.open()
        shell.deliver("auth_failed", {"code": "TOKEN_EXPIRED", "message": "late"})
        assert (shell.ended is None) is can_fetch
        if can_fetch:
            shell.until_due()
            assert (shell.core.state, shell.fetches) == (State.FETCHING, 1)


def test_anonymous_connections_are_open_once_the_server_answers() -> None:
    shell = Shell(token=None)
    shell.core.start(shell.now)
    shell.run()
    shell.open()
    assert (shell.core.state, [m["type"] for m in shell.sent]) == (State.AUTHENTICATING, ["ping"])
    shell.deliver("pong", {})
    assert shell.core.state is State.CONNECTED


def test_another_user_inherits_nothing() -> None:
    shell = Shell().start(inbox={"offset": 5, "epoch": "e", "acked": 0, "pending": 1})
    shell.push("user:42", 1, 5)
    shell.core.ack(Position(5, "e"), shell.now)
    shell.run()
    shell.lose()
    shell.come_back(userId="7", inbox={"offset": 1, "epoch": "e", "acked": 0, "pending": 0})
    assert shell.of("ack") == [{"offset": 5, "epoch": "e"}]
    assert shell.core.tasks == {}


# Coming back


def test_attempts_count_up_and_only_authentication_resets_them() -> None:
    shell = Shell(luck=0.999_999)
    shell.core.start(shell.now)
    shell.run()
    waits = []
    for _ in range(4):
        shell.open()
        shell.lose()
        waits.append(shell.until_due())
    assert waits == [999, 15_999, 47_999, 59_999]
    assert shell.core.attempts == 4
    shell.connect()
    assert shell.core.attempts == 0
    shell.lose()
    assert shell.until_due() == 999


@pytest.mark.parametrize("code", [1002, 1007, 1009, 3500, 3501, 3502, 3503, 3504, 3507, 3509])
def test_codes_that_forbid_to_come_back(code: int) -> None:
    shell = Shell().start()
    shell.lose(code, reason="why")
    assert shell.core.state is State.CLOSED
    assert shell.ended is not None
    assert isinstance(shell.ended.error, Disconnected)
    assert shell.ended.error.code == code


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 1011, 3000, 3001, 3004, 3008, 3011, 3012, 3013, 4000])
def test_codes_to_come_back_after(code: int | None) -> None:
    shell = Shell().start()
    shell.lose(code)
    assert shell.core.state is State.WAITING


def test_a_lone_cut_is_mended_soon_and_what_concerns_one_alone_stays_so() -> None:
    for code in (None, 3008, 3012):
        shell = Shell(luck=0.999).start()
        shell.lose(code)
        assert 900 < shell.until_due() <= 1_000
    assert [Backoff().window(n) for n in range(4)] == [1_000, 16_000, 48_000, 60_000]
    assert [Backoff().window(n, crowd=False) for n in range(4)] == [1_000, 3_000, 9_000, 27_000]


def test_expiry_fetches_a_token_or_ends() -> None:
    shell = Shell(can_fetch=True).start()
    shell.lose(3005)
    shell.until_due()
    assert shell.fetches == 1
    shell = Shell().start()
    shell.lose(3005)
    assert shell.core.state is State.CLOSED


def test_going_away_says_when() -> None:
    shell = Shell(luck=0.999).start()
    shell.deliver("going_away", {"reconnectAfter": 1_234})
    shell.lose(3001)
    assert shell.until_due() == 1_234
    shell.lose()
    assert shell.until_due() > 10_000


def test_an_upgrade_refused_ends_it_only_at_the_first_time() -> None:
    shell = Shell()
    shell.core.start(shell.now)
    shell.run()
    shell.lose(status=503)
    assert shell.core.state is State.WAITING
    shell.until_due()
    shell.lose(status=403)
    assert shell.ended is not None
    shell = Shell().start()
    shell.lose()
    shell.until_due()
    shell.lose(status=404)
    assert shell.core.state is State.WAITING


def test_a_limit_of_attempts() -> None:
    shell = Shell(max_attempts=1)
    shell.core.start(shell.now)
    shell.run()
    shell.lose(reason="refused")
    shell.until_due()
    shell.lose(reason="refused")
    assert shell.ended is not None
    assert "2 attempts failed; the last: refused" in str(shell.ended.error)


def test_a_server_that_says_nothing_is_left() -> None:
    shell = Shell()
    shell.core.start(shell.now)
    shell.run()
    assert shell.until_due() == 10_000
    assert shell.core.state is State.WAITING
    assert shell.hangups[-1].abort


def test_an_old_socket_cannot_undo_the_new_ones_state() -> None:
    shell = Shell().start()
    old = shell.link
    shell.lose()
    shell.come_back()
    shell.core.closed(old, shell.now, 3503, "late")
    shell.core.opened(old, shell.now)
    shell.deliver("auth_failed", {"code": "INVALID_TOKEN"}, link=old)
    assert shell.core.state is State.CONNECTED


def test_the_watchdog_asks_and_then_leaves() -> None:
    shell = Shell().start(heartbeat={"interval": 1_000, "timeout": 500})
    shell.after(999)
    shell.push("news", 1)
    assert shell.until_due() == 1_000
    assert shell.sent[-1]["type"] == "ping"
    shell.deliver("pong", {})
    assert shell.until_due() == 1_000
    assert shell.until_due() == 500
    assert (shell.core.state, shell.hangups[-1].abort) == (State.WAITING, True)


def test_a_message_that_comes_slowly_is_waited_for() -> None:
    shell = Shell().start(heartbeat={"interval": 1_000, "timeout": 500})
    feed = shell.subscribe("news")
    number = shell.core.request(calls.presence("a"), shell.now)
    shell.run()
    presence = shell.sent[-1]
    for _ in range(100):
        shell.after(900)
        shell.core.progressed(shell.link, shell.now)
    assert (shell.core.state, shell.of("ping")) == (State.CONNECTED, [])
    assert len(shell.of("subscribe")) == 1
    # What an application asked has its own time, whatever comes.
    assert isinstance(shell.answers[number], RequestTimeout)
    shell.reply("subscription_success", {"results": {"news": result(1, messages=[message(1)])}}, to=shell.sent[-2])
    assert shell.read(feed) == [1]
    shell.reply("presence", {}, to=presence)
    assert shell.until_due() == 1_000
    assert shell.until_due() == 500
    assert shell.core.state is State.WAITING


def test_one_that_stops_coming_is_not() -> None:
    shell = Shell().start(heartbeat={"interval": 10_000_000, "timeout": 1})
    shell.subscribe("news")
    shell.after(50_000)
    shell.core.progressed(shell.link, shell.now)
    assert shell.until_due() == 60_000
    assert (shell.core.state, shell.core.last_error) == (State.WAITING, "no answer to subscribe")


def test_a_welcome_that_comes_slowly_is_waited_for() -> None:
    shell = Shell()
    shell.core.start(shell.now)
    shell.run()
    shell.core.progressed(shell.link, shell.now)
    shell.open()
    for _ in range(10):
        shell.after(9_000)
        shell.core.progressed(shell.link, shell.now)
        shell.core.progressed(shell.link - 1, shell.now + 5_000)
    assert shell.core.state is State.AUTHENTICATING
    assert shell.until_due() == 10_000
    assert shell.core.state is State.WAITING
    shell.core.progressed(shell.link, shell.now)
    assert shell.come_back().core.state is State.CONNECTED


def test_what_is_no_message_ends_the_connection() -> None:
    shell = Shell().start()
    shell.core.received(shell.link, b"[1", shell.now)
    shell.run()
    assert shell.core.state is State.WAITING
    shell.come_back()
    shell.deliver("something_new", {"any": "thing"})
    shell.deliver("error", {"code": "INVALID_MESSAGE", "message": "hm"})
    assert (shell.core.state, shell.core.last_error) == (State.CONNECTED, "hm")


@pytest.mark.parametrize("outage", [1, 2, 5, 10, 15, 20, 30, 60, 120, 600])
def test_five_hundred_clients_make_no_storm(outage: int) -> None:
    """A server that was away for longer than the first second finds no second with over 15 % of the returns."""
    backoff = Backoff()
    for seed in range(5):
        dice = random.Random(seed)
        returns = []
        for _ in range(500):
            at = attempt = 0
            while True:
                at += backoff.delay(attempt, dice.random)
                attempt += 1
                if at >= outage * 1000:
                    break
            returns.append(at)
        returns.sort()
        fullest = max(sum(1 for other in returns[i:] if other < at + 1000) for i, at in enumerate(returns))
        assert fullest <= 75


def test_a_very_long_absence_overflows_nothing() -> None:
    assert Backoff().window(10**9) == 60_000


# Requests


def test_replies_go_to_their_requests_and_errors_too() -> None:
    shell = Shell().start()
    one = shell.core.request(calls.presence("a"), shell.now)
    two = shell.core.request(calls.presence("b"), shell.now)
    shell.run()
    asked = shell.sent[-2:]
    shell.reply("presence", {"total": 1}, to=asked[0])
    shell.reply("error", {"code": "RATE_LIMITED", "message": "slow", "retryAfter": 5}, to=asked[1])
    assert shell.answers[one] == {"total": 1}
    error = shell.answers[two]
    assert isinstance(error, RequestFailed)
    assert (error.code, error.retry_after) == ("RATE_LIMITED", 5)


def test_unanswered_requests_are_sent_again_in_order_with_the_same_ids() -> None:
    shell = Shell().start()
    for n in range(3):
        shell.core.request(calls.publish("news", n, None, shell.core.message_id()), shell.now)
    shell.run()
    shell.reply("published", {"messageId": "id1"}, to=shell.sent[1])
    shell.lose()
    shell.core.request(calls.publish("news", 3, None, shell.core.message_id()), shell.now)
    shell.come_back()
    assert [m["messageId"] for m in shell.of("publish")] == ["id1", "id2", "id3", "id2", "id3", "id4"]


def test_what_waits_is_bounded_and_ends_in_time() -> None:
    shell = Shell(max_queued=2, request_timeout=5_000)
    number = shell.core.request(calls.presence("a"), shell.now)
    shell.core.request(calls.presence("a"), shell.now)
    with pytest.raises(QueueFull):
        shell.core.request(calls.presence("a"), shell.now)
    assert shell.until_due() == 5_000
    assert isinstance(shell.answers[number], RequestTimeout)


def test_a_forgotten_request_is_not_sent() -> None:
    shell = Shell()
    number = shell.core.request(calls.presence("a"), shell.now)
    shell.core.forget(number)
    shell.start()
    assert shell.of("presence") == []


def test_requests_keep_under_the_servers_rate() -> None:
    shell = Shell(rate=50.0, burst=10).start()
    for _ in range(100):
        shell.core.request(calls.presence("a"), shell.now)
    shell.run()
    assert len(shell.of("presence")) == 10
    began = shell.now
    while len(shell.of("presence")) < 100:
        shell.until_due()
        shell.deliver("pong", {})
    assert 1_700 <= shell.now - began <= 2_000


def test_stopping_fails_what_waits() -> None:
    shell = Shell().start()
    number = shell.core.request(calls.presence("a"), shell.now)
    shell.core.stop(shell.now)
    shell.core.stop(shell.now)
    shell.run()
    assert isinstance(shell.answers[number], ClientClosed)
    assert shell.hangups == [Hangup(shell.link, 1000, "")]
    with pytest.raises(ClientClosed):
        shell.core.request(calls.presence("a"), shell.now)
    with pytest.raises(ClientClosed):
        shell.core.subscribe("news", shell.now)
    assert shell.core.deadline() is None


@pytest.mark.parametrize("answer", ["PERMISSION_DENIED", "UNAVAILABLE", "auth_failed", "no message"])
def test_nothing_that_comes_while_it_closes_opens_it_again(answer: str) -> None:
    """A refresh and the last acknowledgement are under way."""
    shell = Shell(can_fetch=True).start(expiresAt=START + 15_000)
    shell.after(10_000)
    shell.core.token("another", shell.now)
    shell.run()
    refresh = shell.sent[-1]
    shell.core.ack(Position(1, "e"), shell.now)
    shell.core.stop(shell.now)
    shell.run()
    assert shell.core.state is State.CLOSING
    match answer:
        case "no message":
            shell.core.received(shell.link, "{", shell.now)
        case "auth_failed":
            shell.reply("auth_failed", {"code": "UNAVAILABLE"}, to=refresh)
        case code:
            shell.reply("error", {"code": code, "message": ""}, to=refresh)
    shell.after(1_000)
    assert (shell.core.state, shell.ended, shell.connects) == (State.CLOSED, Ended(None), 1)
    assert shell.core.deadline() is None


# Channels


def test_resumes_where_it_was_and_drops_what_it_had() -> None:
    shell = Shell().start()
    feed = shell.subscribe("news", result(3))
    for offset in (4, 5, 5, 4):
        shell.push("news", offset, offset)
    assert shell.read(feed) == [4, 5]
    shell.lose()
    shell.come_back()
    assert shell.of("subscribe")[-1] == {"channels": [{"channel": "news", "since": {"offset": 5, "epoch": "e"}}]}
    replay = result(7, recovered=True, messages=[message(6), message(7)])
    shell.reply("subscription_success", {"results": {"news": replay}})
    shell.push("news", 7, 7)
    shell.push("news", 8, 8)
    assert (shell.read(feed), feed.recovered) == ([6, 7, 8], True)


def test_live_messages_wait_for_the_replay_that_they_follow() -> None:
    shell = Shell().start()
    feed = shell.subscribe("news", result(1))
    shell.lose()
    shell.come_back()
    shell.push("news", 3, 3)
    assert shell.read(feed) == []
    shell.reply("subscription_success", {"results": {"news": result(2, recovered=True, messages=[message(2)])}})
    assert shell.read(feed) == [2, 3]


def test_a_resubscription_put_off_loses_nothing() -> None:
    shell = Shell().start()
    feed = shell.subscribe("news", result(1))
    shell.lose()
    shell.come_back()
    shell.reply("error", {"code": "RATE_LIMITED", "message": "", "retryAfter": 50})
    shell.push("news", 3, 3)
    assert shell.read(feed) == []
    shell.until_due()
    replay = result(3, recovered=True, messages=[message(2), message(3)])
    shell.reply("subscription_success", {"results": {"news": replay}})
    assert shell.read(feed) == [2, 3]


def test_a_loss_that_is_told_behind_a_refusal_is_no_reason_to_ask_at_once() -> None:
    shell = Shell().start()
    feed = shell.subscribe("news", result(3))
    shell.deliver("resync", {"channel": "news"})
    away = {"news": {"code": "UNAVAILABLE", "message": "away"}}
    for tries in range(2, 5):
        assert len(shell.of("subscribe")) == tries
        shell.reply("subscription_success", {"results": {}, "rejected": away})
        # As a server of version 1 says each time.
        shell.deliver("resync", {"channel": "news"})
        assert len(shell.of("subscribe")) == tries
        shell.after(5_000)
    shell.reply("subscription_success", {"results": {"news": result(9, "f")}})
    shell.push("news", "after", 10, "f")
    assert shell.read(feed) == ["resync", "after"]


def test_loss_is_said() -> None:
    shell = Shell().start()
    feed = shell.subscribe("news", result(3))
    shell.deliver("resync", {"channel": "news"})
    assert shell.of("subscribe")[-1] == {"channels": ["news"]}
    shell.reply("subscription_success", {"results": {"news": result(9, "f")}})
    shell.push("news", "after", 10, "f")
    assert shell.read(feed) == ["resync", "after"]
    shell.lose()
    shell.come_back()
    shell.reply("subscription_success", {"results": {"news": result(1, "g")}})
    assert (shell.read(feed), feed.recovered) == (["resync"], False)


def test_repeats_are_known_by_their_id_where_there_is_no_offset() -> None:
    shell = Shell().start()
    feed = shell.subscribe("live", {})
    for _ in range(2):
        shell.push("live", "a", messageId="a")
    for n in range(300):
        shell.push("live", n, messageId=str(n))
    assert shell.read(feed) == ["a", *range(300)]


def test_readers_share_a_subscription_and_the_last_ends_it() -> None:
    shell = Shell().start()
    one = shell.subscribe("news", result(0))
    two = shell.subscribe("news")
    assert (two.confirmed, len(shell.of("subscribe"))) == (True, 1)
    with pytest.raises(ValueError, match="first reader"):
        shell.core.subscribe("news", shell.now, Position(1, "e"))
    shell.core.close_feed(one, shell.now)
    shell.push("news", 1, 1)
    assert shell.read(two) == [1]
    shell.core.close_feed(two, shell.now)
    shell.core.close_feed(two, shell.now)
    shell.run()
    assert shell.of("unsubscribe") == [{"channels": ["news"]}]
    shell.reply("error", {"code": "PERMISSION_DENIED", "message": "the server's own"})
    assert shell.core.state is State.CONNECTED


def test_refusals_end_the_one_and_put_off_the_other() -> None:
    shell = Shell()
    refused, later = shell.subscribe("a"), shell.subscribe("b")
    shell.start()
    no = {"a": {"code": "PERMISSION_DENIED", "message": "no"}, "b": {"code": "UNAVAILABLE", "message": "later"}}
    shell.reply("subscription_success", {"results": {}, "rejected": no})
    assert isinstance(refused.ended, SubscriptionEnded)
    assert later.ended is None
    shell.until_due()
    assert shell.of("subscribe")[-1] == {"channels": ["b"]}
    shell.reply("subscription_success", {"results": {"b": {}}})
    assert later.confirmed
    shell.deliver("unsubscribed", {"channel": "b", "code": "PERMISSION_DENIED", "reason": "role changed"})
    assert isinstance(later.ended, SubscriptionEnded)
    assert later.ended.reason == "role changed"


def test_many_channels_go_in_messages_that_the_server_takes() -> None:
    shell = Shell()
    names = ["x" * 240 + str(n) for n in range(250)]
    for name in names:
        shell.core.subscribe(name, shell.now, Position(2**53, "e" * 24))
    shell.start()
    asked = [m for m in shell.sent if m["type"] == "subscribe"]
    assert [c["channel"] for m in asked for c in m["data"]["channels"]] == names
    assert max(len(json.dumps(m)) for m in asked) < 65_536


def test_a_slow_reader_falls_behind_and_catches_up() -> None:
    shell = Shell(max_pending=3).start()
    feed = shell.subscribe("news", result(0))
    for offset in range(1, 7):
        shell.push("news", offset, offset)
    assert shell.read(feed) == [1, 2, 3]
    assert shell.of("subscribe")[-1]["channels"][0]["since"] == {"offset": 3, "epoch": "e"}
    replay = result(6, recovered=True, messages=[message(n) for n in (4, 5, 6)])
    shell.reply("subscription_success", {"results": {"news": replay}})
    assert shell.read(feed) == [4, 5, 6]


def test_a_slow_reader_of_a_channel_without_history_is_told_of_the_loss() -> None:
    shell = Shell(max_pending=2).start()
    feed = shell.subscribe("live", {})
    for n in range(5):
        shell.push("live", n, messageId=str(n))
    assert shell.read(feed) == [0, 1, "resync"]


def test_positions_can_be_taken_to_another_process() -> None:
    shell = Shell().start()
    shell.subscribe("news", result(3))
    other = Shell(positions=shell.core.positions() | {"user:42": Position(8, "i")})
    other.subscribe("news")
    other.start(inbox={"offset": 9, "epoch": "i", "acked": 2, "pending": 1})
    assert other.of("auth")[0]["positions"] == {"user:42": {"offset": 8, "epoch": "i"}}
    assert other.of("subscribe")[0] == {"channels": [{"channel": "news", "since": {"offset": 3, "epoch": "e"}}]}


# The inbox


def inbox(offset: int, acked: int = 0, epoch: str = "e") -> dict[str, Any]:
    return {"inbox": {"offset": offset, "epoch": epoch, "acked": acked, "pending": offset - acked}}


def test_the_inbox_is_resumed_by_what_was_received_and_acked_by_what_was_dealt_with() -> None:
    shell = Shell().start(**inbox(2))
    feed = shell.core.open_inbox()
    shell.push("user:42", "a", 1)
    shell.push("user:42", "b", 2)
    shell.core.ack(Position(1, "e"), shell.now)
    shell.run()
    shell.lose()
    shell.come_back(**inbox(3, acked=0))
    assert shell.of("auth")[-1]["positions"] == {"user:42": {"offset": 2, "epoch": "e"}}
    assert shell.of("ack") == [{"offset": 1, "epoch": "e"}] * 2
    shell.push("user:42", "b", 2)
    shell.push("user:42", "c", 3)
    assert shell.read(feed) == ["a", "b", "c"]


def test_acks_are_few_and_the_newest_is_never_forgotten() -> None:
    shell = Shell().start(**inbox(100))
    for offset in range(1, 51):
        shell.core.ack(Position(offset, "e"), shell.now)
    shell.core.ack(Position(7, "e"), shell.now)
    shell.run()
    assert shell.of("ack") == [{"offset": 1, "epoch": "e"}]
    shell.reply("ack_success", {"offset": 1})
    shell.until_due()
    assert shell.of("ack")[-1] == {"offset": 50, "epoch": "e"}
    shell.reply("error", {"code": "UNAVAILABLE", "message": ""})
    shell.until_due()
    assert len(shell.of("ack")) == 3
    shell.reply("ack_success", {"offset": 50})
    shell.core.ack(Position(60, "e"), shell.now)
    shell.core.stop(shell.now)
    shell.run()
    assert shell.of("ack")[-1] == {"offset": 60, "epoch": "e"}


def test_an_ack_of_another_epoch_is_dropped() -> None:
    shell = Shell().start(**inbox(5))
    shell.core.ack(Position(5, "e"), shell.now)
    shell.run()
    shell.reply("error", {"code": "CONFLICT", "message": ""})
    count = len(shell.of("ack"))
    shell.after(1_000)
    assert len(shell.of("ack")) == count
    shell.lose()
    shell.come_back(**inbox(1, epoch="f"))
    shell.push("user:42", "new", 1, "f")
    assert len(shell.of("ack")) == count


def test_what_came_before_anyone_read_is_kept() -> None:
    shell = Shell().start(**inbox(1))
    shell.push("user:42", "early", 1)
    shell.deliver("inbox_overflow", {"lost": 3})
    feed = shell.core.open_inbox()
    with pytest.raises(ValueError, match="already"):
        shell.core.open_inbox()
    assert shell.read(feed) == ["early", "inbox_overflow"]
    shell.push("user:42", "unread", 2)
    shell.core.close_feed(feed, shell.now)
    shell.push("user:42", "between", 3)
    assert shell.read(shell.core.open_inbox()) == ["unread", "between"]


def test_a_full_inbox_is_fetched_again_rather_than_skipped() -> None:
    shell = Shell(max_pending=2).start(**inbox(3))
    feed = shell.core.open_inbox()
    for offset in (1, 2, 3):
        shell.push("user:42", offset, offset)
    assert shell.read(feed) == [1, 2]
    shell.come_back(**inbox(3))
    assert shell.of("auth")[-1]["positions"] == {"user:42": {"offset": 2, "epoch": "e"}}
    shell.push("user:42", 3, 3)
    assert shell.read(feed) == [3]


# Tasks


def state(version: int, status: str = "running", task_id: str = "t", **fields: Any) -> dict[str, Any]:
    return {"taskId": task_id, "userId": "42", "status": status, "percentage": 0, "version": version, **fields}


def versions(shell: Shell, feed: ReaderFeed) -> list[int]:
    found = []
    while (push := shell.core.take(feed, shell.now)) is not None:
        assert push.task is not None
        found.append(push.task.version)
    return found


def test_tasks_never_go_back_wherever_their_states_come_from() -> None:
    shell = Shell().start(tasks=[state(3)])
    every = shell.core.open_tasks()
    one = shell.subscribe("task:t", {"task": state(4)})
    shell.push("task:t", state(2), type="task_progress", messageId="2")
    shell.push("task:t", state(6), type="task_progress", messageId="6")
    shell.push("task:t", state(5), type="task_progress", messageId="5")
    shell.push("user:42", state(7, "completed"), 1, type="task_completed")
    assert versions(shell, every) == [3, 4, 6, 7]
    assert versions(shell, one) == [3, 4, 6, 7]
    assert shell.core.tasks["t"].final
    assert [p.type for p in [shell.core.take(shell.core.open_inbox(), shell.now)] if p] == ["task_completed"]


def test_a_reader_of_a_task_that_ended_begins_with_what_the_server_says_now() -> None:
    shell = Shell().start(tasks=[state(3)])
    shell.push("user:42", state(4, "failed"), 1, type="task_failed")
    one = shell.subscribe("task:t")
    assert versions(shell, one) == []
    shell.reply("subscription_success", {"results": {"task:t": {"task": state(5, "pending", attempt=2)}}})
    shell.push("task:t", state(6, attempt=2), type="task_progress")
    assert versions(shell, one) == [5, 6]


def test_a_reader_of_a_task_that_ended_gets_its_end_where_nothing_followed() -> None:
    shell = Shell().start(tasks=[state(3)])
    shell.push("user:42", state(4, "failed"), 1, type="task_failed")
    one = shell.subscribe("task:t", {"task": state(4, "failed")})
    another = shell.subscribe("task:t")
    assert (versions(shell, one), versions(shell, another)) == ([4], [4])


def test_a_reader_of_a_task_that_the_server_forgot_gets_the_end_that_is_known() -> None:
    shell = Shell().start(tasks=[state(3)])
    shell.push("user:42", state(4, "failed"), 1, type="task_failed")
    one = shell.subscribe("task:t")
    rejected = {"task:t": {"code": "NOT_FOUND", "message": "no such task"}}
    shell.reply("subscription_success", {"results": {}, "rejected": rejected})
    assert versions(shell, one) == [4]
    assert isinstance(one.ended, SubscriptionEnded)


def test_a_slow_reader_of_tasks_sees_the_newest_of_each() -> None:
    shell = Shell(max_pending=3).start()
    every = shell.core.open_tasks()
    for version in range(1, 6):
        for task_id in "ab":
            shell.push(f"task:{task_id}", state(version, task_id=task_id), type="task_progress")
    newest: dict[str, int] = {}
    while (push := shell.core.take(every, shell.now)) is not None:
        assert push.task is not None
        newest[push.task.task_id] = push.task.version
    assert newest == {"a": 5, "b": 5}


def test_remembered_tasks_are_bounded() -> None:
    shell = Shell().start()
    for n in range(1_100):
        shell.push(f"task:{n}", state(1, task_id=str(n)), type="task_created")
    assert len(shell.core.tasks) == 1_000


def test_messages_are_frozen_values_with_python_names() -> None:
    push = Push("message", "news", {"n": 1}, 5, "m", 1, "e", "42")
    assert push.position == Position(1, "e")
    assert push.task is None
    assert Push("task_progress", data={"no": "state"}).task is None
    with pytest.raises(AttributeError):
        push.data = 2  # type: ignore[misc]
    assert TaskState("t", status="failed").final


# Whatever the network does


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["publish", "deliver", "lose", "read", "read other", "duplicate"]), max_size=80))
@example([*["publish"] * 5, "lose", "read", "publish", "read other"])
def test_a_channel_with_history_is_read_once_and_in_order_whatever_happens(events: list[str]) -> None:
    """A server on paper: what it publishes is delivered late, twice or not at all; its history has it.

    Two readers read it, each at its own pace.
    """
    shell = Shell(max_pending=4).start()
    feed = shell.subscribe("news", result(0))
    other = shell.subscribe("news")
    read_by_other: list[Any] = []
    published = 0
    wire: list[int] = []
    subscribed = True
    got: list[Any] = []

    def serve() -> None:
        nonlocal subscribed
        asked = [m for m in shell.sent if m["type"] == "subscribe"]
        if asked and asked[-1]["id"] not in answered:
            answered.add(asked[-1]["id"])
            since = asked[-1]["data"]["channels"][0]["since"]["offset"]
            replay = [message(n) for n in range(since + 1, published + 1)]
            wire.clear()
            subscribed = True
            shell.reply(
                "subscription_success",
                {"results": {"news": result(published, recovered=True, messages=replay)}},
                asked[-1],
            )

    answered = {m["id"] for m in shell.sent if m["type"] == "subscribe"}
    for event in [*events, "lose", "read"]:
        if event == "publish":
            published += 1
            if subscribed:
                wire.append(published)
        elif event == "deliver" and wire:
            n = wire.pop(0)
            shell.push("news", n, n, messageId=f"m{n}")
        elif event == "duplicate" and published and subscribed and not wire:
            shell.push("news", published, published, messageId=f"m{published}")
        elif event == "lose":
            wire.clear()
            subscribed = False
            shell.lose()
            shell.come_back()
            serve()
        elif event == "read":
            got += shell.read(feed)
            serve()
        elif event == "read other":
            read_by_other += shell.read(other)
            serve()
    for _ in range(published + 2):
        got += shell.read(feed)
        read_by_other += shell.read(other)
        serve()
    assert got == read_by_other == list(range(1, published + 1))


def another_user(shell: Shell) -> None:
    shell.lose()
    shell.come_back(userId="7", inbox={"offset": 0, "epoch": "x", "acked": 0, "pending": 0})


def test_what_another_user_had_waiting_is_not_handed_on() -> None:
    shell = Shell().start(tasks=[state(1)], **inbox(1))
    mine, every, news = shell.core.open_inbox(), shell.core.open_tasks(), shell.subscribe("news", result(0))
    shell.push("user:42", "private", 1)
    shell.push("news", "for 42", 1)
    another_user(shell)
    for feed in (mine, every, news):
        assert shell.read(feed) == []
        assert isinstance(feed.ended, UserChanged)
        assert (feed.ended.from_, feed.ended.to) == ("42", "7")
    assert shell.changes == [("42", "7")]
    assert len(shell.of("subscribe")) == 1
    theirs = shell.core.open_inbox()
    shell.push("user:42", "late", 2)
    shell.push("user:7", "for seven", 1, "x")
    assert shell.read(theirs) == ["for seven"]
    assert shell.core.tasks == {}


def test_what_one_user_asked_is_not_asked_as_another() -> None:
    shell = Shell().start()
    shell.lose()
    theirs = shell.core.request(calls.publish("news", "of 42", None, "m"), shell.now)
    shell.come_back(userId="7")
    assert isinstance(shell.answers[theirs], UserChanged)
    assert shell.of("publish") == []


def test_a_token_of_another_user_begins_anew_at_once() -> None:
    shell = Shell(can_fetch=True).start(expiresAt=START + 40_000, **inbox(1))
    mine = shell.core.open_inbox()
    shell.push("user:42", "private", 1)
    asked = shell.core.request(calls.presence("a"), shell.now)
    shell.run()
    first = shell.link
    shell.after(35_000)
    shell.core.token("of seven", shell.now)
    shell.run()
    shell.reply("error", {"code": "PERMISSION_DENIED", "message": "another user's"})
    assert shell.hangups == [Hangup(first, 1000, "")]
    assert (shell.core.state, shell.core.user_id, shell.fetches) == (State.CONNECTING, None, 1)
    shell.push("user:42", "private too", 2)
    assert (shell.read(mine), mine.ended) == ([], None)
    later = shell.core.request(calls.presence("b"), shell.now)
    shell.connect(userId="7", **inbox(0))
    assert shell.of("auth")[-1] == {"token": "of seven"}
    assert isinstance(mine.ended, UserChanged)
    assert isinstance(shell.answers[asked], UserChanged)
    assert later not in shell.answers
    assert [data["channel"] for data in shell.of("presence")] == ["a", "b"]
    assert (shell.changes, shell.core.user_id) == ([("42", "7")], "7")


def test_what_one_user_dealt_with_is_not_acknowledged_as_another() -> None:
    shell = Shell(can_fetch=True).start(expiresAt=START + 15_000, **inbox(1))
    mine = shell.core.open_inbox()
    shell.push("user:42", "private", 1)
    assert shell.read(mine) == ["private"]
    shell.after(10_000)
    shell.core.token("of seven", shell.now)
    shell.run()
    shell.reply("error", {"code": "PERMISSION_DENIED", "message": ""})
    shell.core.ack(Position(1, "e"), shell.now, mine)
    shell.connect(userId="7", **inbox(9))
    shell.core.ack(Position(1, "e"), shell.now, mine)
    shell.run()
    assert shell.of("ack") == []


def test_whoever_reads_before_it_is_known_who_came_reads_on() -> None:
    shell = Shell(can_fetch=True).start(expiresAt=START + 15_000)
    shell.after(10_000)
    shell.core.token("of seven", shell.now)
    shell.run()
    shell.reply("error", {"code": "PERMISSION_DENIED", "message": ""})
    theirs, news = shell.core.open_inbox(), shell.core.subscribe("news", shell.now)
    shell.connect(userId="7", **inbox(1))
    shell.reply("subscription_success", {"results": {"news": result(0)}})
    shell.push("user:7", "hello", 1)
    shell.push("news", 1, 1)
    assert (shell.read(theirs), shell.read(news)) == (["hello"], [1])


# The token function


@pytest.mark.parametrize("given", [None, "", 7, b"token"])
def test_a_token_function_that_gives_no_token_ends_it(given: object) -> None:
    shell = Shell(token=None, can_fetch=True)
    shell.core.start(shell.now)
    shell.core.token(given, shell.now)
    shell.run()
    assert shell.ended is not None
    assert isinstance(shell.ended.error, Unauthorized)
    assert "the token function gave" in str(shell.ended.error)


def test_a_user_who_signed_out_ends_a_living_connection() -> None:
    shell = Shell(can_fetch=True).start(expiresAt=START + 15_000)
    feed = shell.subscribe("news", result(0))
    shell.after(10_000)
    shell.core.unauthorized(Unauthorized(), shell.now)
    shell.run()
    assert shell.hangups == [Hangup(shell.link, 1000, "")]
    assert isinstance(feed.ended, Unauthorized)
    assert shell.core.deadline() is None


def test_a_token_function_that_hangs_is_given_up() -> None:
    shell = Shell(token=None, can_fetch=True)
    shell.core.start(shell.now)
    shell.run()
    assert shell.until_due() == 30_000
    assert (shell.core.state, shell.core.last_error) == (State.WAITING, "no token in time")
    shell.until_due()
    assert shell.fetches == 2


def test_a_token_is_kept_over_connections_until_it_is_refused() -> None:
    shell = Shell(token=None, can_fetch=True)
    shell.core.start(shell.now)
    shell.core.token("t", shell.now)
    shell.run()
    shell.connect()
    for _ in range(3):
        shell.lose()
        shell.come_back()
    assert shell.fetches == 1
    shell.lose(3005)
    shell.until_due()
    assert shell.fetches == 2


@pytest.mark.parametrize("wrong_by", [-3_600_000, -60_000, 0, 60_000, 3_600_000])
def test_a_tokens_end_is_told_by_the_servers_clock(wrong_by: int) -> None:
    server_now = START - wrong_by
    shell = Shell(can_fetch=True).start(expiresAt=server_now + 100_000)
    shell.deliver("pong", {**shell.of("ping")[-1], "timestamp": server_now})
    began = shell.now
    while not shell.fetches:
        shell.until_due()
        shell.deliver("pong", {"timestamp": server_now + shell.now - began})
    assert shell.now - began == 90_000


# What no second attempt mends


def test_an_error_that_is_no_network_ends_the_first_attempt_alone() -> None:
    shell = Shell()
    shell.core.start(shell.now)
    shell.run()
    error = ValueError("no address")
    shell.lose(error=error)
    assert shell.ended == Ended(error)
    shell = Shell().start()
    shell.lose()
    shell.until_due()
    shell.lose(error=error)
    assert (shell.core.state, shell.core.last_error) == (State.WAITING, "no address")


# Repeats


def test_a_later_offset_is_a_new_message_whatever_its_id() -> None:
    shell = Shell().start(**inbox(0))
    news, mine = shell.subscribe("news", result(0)), shell.core.open_inbox()
    for offset in (1, 2, 2):
        shell.push("news", offset, offset, messageId="daily")
        shell.push("user:42", offset, offset, messageId="daily")
    assert (shell.read(news), shell.read(mine)) == ([1, 2], [1, 2])


def test_an_id_is_forgotten_when_the_server_takes_it_for_new() -> None:
    shell = Shell().start()
    live = shell.subscribe("live", {})
    for minutes in (0, 4, 5, 9, 10):
        shell.push("live", minutes, messageId="price", timestamp=START + minutes * 60_000)
    assert shell.read(live) == [0, 5, 10]


def test_a_repeat_is_known_by_its_id_where_the_epoch_changed() -> None:
    shell = Shell().start(**inbox(1))
    mine = shell.core.open_inbox()
    shell.push("user:42", "a", 1, messageId="a", timestamp=START)
    shell.lose()
    shell.come_back(**inbox(2, epoch="f"))
    shell.push("user:42", "a", 1, "f", messageId="a", timestamp=START)
    shell.push("user:42", "b", 2, "f", messageId="b", timestamp=START)
    assert shell.read(mine) == ["a", "resync", "b"]


def test_a_position_of_an_earlier_epoch_is_kept_until_something_comes() -> None:
    shell = Shell().start(**inbox(2))
    mine = shell.core.open_inbox()
    shell.push("user:42", "a", 1)
    shell.push("user:42", "b", 2)
    # The phone acknowledged 3 and 4; the epoch moved on.
    for _ in range(2):
        shell.lose()
        shell.come_back(inbox={"offset": 4, "epoch": "f", "acked": 4, "pending": 2})
        assert shell.of("auth")[-1]["positions"] == {"user:42": {"offset": 2, "epoch": "e"}}
    shell.push("user:42", "c", 3, "f")
    shell.deliver("resync", {"channel": "user:42"})
    shell.lose()
    shell.come_back(inbox={"offset": 4, "epoch": "g", "acked": 4, "pending": 1})
    assert shell.of("auth")[-1]["positions"] == {"user:42": {"offset": 3, "epoch": "f"}}
    shell.push("user:42", "d", 4, "g")
    assert shell.read(mine) == ["a", "b", "resync", "c", "resync", "d"]


def test_where_nothing_follows_the_position_is_of_the_new_epoch() -> None:
    shell = Shell().start(**inbox(1))
    shell.core.open_inbox()
    shell.push("user:42", "a", 1)
    shell.lose()
    shell.come_back(inbox={"offset": 1, "epoch": "f", "acked": 1, "pending": 0})
    shell.lose()
    shell.come_back(inbox={"offset": 1, "epoch": "f", "acked": 1, "pending": 0})
    assert shell.of("auth")[-1]["positions"] == {"user:42": {"offset": 1, "epoch": "f"}}


def test_what_is_kept_after_a_position_of_an_earlier_epoch_comes_behind_the_loss() -> None:
    shell = Shell().start()
    messages = [message(offset, "f") for offset in (4, 5)]
    news = shell.subscribe("news", result(5, "f", messages=messages), Position(3, "e"))
    assert [push.type for push in news.queue] == ["resync", "message", "message"]
    shell.read(news)
    assert shell.core.positions()["news"] == Position(5, "f")


# Several readers


def test_a_reader_who_does_not_read_holds_up_nobody() -> None:
    shell = Shell(max_pending=3).start()
    idle, busy = shell.subscribe("news", result(0)), shell.subscribe("news")
    got = []
    for offset in range(1, 8):
        shell.push("news", offset, offset)
        got += shell.read(busy)
    assert got == list(range(1, 8))
    assert len(shell.of("subscribe")) == 1
    assert shell.read(idle) == [1, 2, 3]
    assert shell.of("subscribe")[-1]["channels"] == [{"channel": "news", "since": {"offset": 3, "epoch": "e"}}]
    shell.push("news", 8, 8)
    assert (shell.read(busy), shell.read(idle)) == ([8], [])
    replay = result(8, recovered=True, messages=[message(n) for n in (4, 5, 6, 7, 8)])
    shell.reply("subscription_success", {"results": {"news": replay}})
    assert (shell.read(busy), shell.read(idle)) == ([], [4, 5, 6])
    replay = result(8, recovered=True, messages=[message(n) for n in (7, 8)])
    shell.reply("subscription_success", {"results": {"news": replay}})
    shell.push("news", 9, 9)
    assert (shell.read(busy), shell.read(idle)) == ([9], [7, 8, 9])


def test_a_recovery_in_parts_is_read_in_order() -> None:
    shell = Shell(max_pending=3).start()
    feed = shell.subscribe("news", result(0))
    for offset in range(1, 8):
        shell.push("news", offset, offset)
    assert shell.read(feed) == [1, 2, 3]
    shell.push("news", 8, 8)
    part = result(5, recovered=True, messages=[message(n) for n in (4, 5)])
    shell.reply("subscription_success", {"results": {"news": part}})
    for offset in (6, 7, 8):
        shell.push("news", offset, offset)
    assert shell.of("subscribe")[-1]["channels"][0]["since"] == {"offset": 5, "epoch": "e"}
    assert shell.read(feed) == [4, 5]
    rest = result(8, recovered=True, messages=[message(n) for n in (6, 7, 8)])
    shell.reply("subscription_success", {"results": {"news": rest}})
    assert shell.read(feed) == [6, 7, 8]


def test_without_history_only_who_fell_behind_is_told_of_the_loss() -> None:
    shell = Shell(max_pending=2).start()
    idle, busy = shell.subscribe("live", {}), shell.subscribe("live")
    got = []
    for n in range(5):
        shell.push("live", n, messageId=str(n))
        got += shell.read(busy)
    assert got == list(range(5))
    assert shell.read(idle) == [0, 1, "resync"]
    shell.push("live", 5, messageId="5")
    assert (shell.read(idle), shell.read(busy)) == ([5], [5])


def test_a_reader_never_read_from_is_not_filled() -> None:
    shell = Shell().start()
    idle, busy = shell.subscribe("live", {}), shell.subscribe("live")
    assert shell.read(busy) == []
    for n in range(UNREAD + 500):
        shell.push("live", n, messageId=str(n))
    assert (len(idle.queue), len(busy.queue)) == (UNREAD, UNREAD + 500)


def test_a_catch_up_that_cannot_be_is_told_to_its_reader_alone() -> None:
    shell = Shell(max_pending=2).start()
    idle, busy = shell.subscribe("news", result(0)), shell.subscribe("news")
    for offset in range(1, 6):
        shell.push("news", offset, offset)
        shell.read(busy)
    assert shell.read(idle) == [1, 2]
    shell.reply("error", {"code": "UNAVAILABLE", "message": ""})
    shell.push("news", 6, 6)
    assert (shell.read(busy), shell.read(idle)) == ([6], [])
    shell.until_due()
    shell.reply("subscription_success", {"results": {"news": result(6)}})
    shell.push("news", 7, 7)
    assert (shell.read(busy), shell.read(idle)) == ([7], ["resync", 7])


def test_a_channel_that_keeps_no_history_any_more_is_asked_once() -> None:
    shell = Shell(max_pending=1).start()
    feed = shell.subscribe("news", result(0))
    shell.push("news", 1, 1)
    shell.push("news", 2, 2)
    assert shell.read(feed) == [1]
    shell.reply("subscription_success", {"results": {"news": {}}})
    assert shell.read(feed) == ["resync"]
    assert len(shell.of("subscribe")) == 2


def test_who_fell_behind_catches_up_over_a_new_connection() -> None:
    shell = Shell(max_pending=2).start()
    idle, busy = shell.subscribe("news", result(0)), shell.subscribe("news")
    for offset in range(1, 6):
        shell.push("news", offset, offset)
        shell.read(busy)
    shell.lose()
    assert shell.read(idle) == [1, 2]
    shell.come_back()
    assert shell.of("subscribe")[-1]["channels"][0]["since"] == {"offset": 2, "epoch": "e"}
    replay = result(6, recovered=True, messages=[message(n) for n in range(3, 7)])
    shell.reply("subscription_success", {"results": {"news": replay}})
    assert shell.read(busy) == [6]
    assert shell.read(idle) == [3, 4]
    replay = result(6, recovered=True, messages=[message(n) for n in (5, 6)])
    shell.reply("subscription_success", {"results": {"news": replay}})
    assert (shell.read(idle), shell.read(busy)) == ([5, 6], [])


def test_a_position_is_what_the_slowest_reader_has_read() -> None:
    shell = Shell().start()
    one, two, never = shell.subscribe("news", result(0)), shell.subscribe("news"), shell.subscribe("news")
    for offset in (1, 2, 3):
        shell.push("news", offset, offset)
    assert shell.core.positions() == {"news": Position(0, "e")}
    shell.read(one)
    shell.core.take(two, shell.now)
    assert shell.core.positions() == {"news": Position(1, "e")}
    shell.read(two)
    assert (shell.core.positions(), len(never.queue)) == ({"news": Position(3, "e")}, 3)
    shell.core.stop(shell.now)
    assert shell.core.positions() == {"news": Position(3, "e")}


def test_a_resync_of_the_user_forgets_what_was_known_of_tasks() -> None:
    shell = Shell().start(tasks=[state(7)], **inbox(0))
    every = shell.core.open_tasks()
    one = shell.subscribe("task:t", {"task": state(7)})
    assert (versions(shell, every), versions(shell, one)) == ([7], [7])
    shell.deliver("resync", {"channel": "user:42"}, channel="user:42")
    assert shell.of("subscribe")[-1] == {"channels": ["task:t"]}
    shell.reply("subscription_success", {"results": {"task:t": {"task": state(3)}}})
    assert (versions(shell, every), versions(shell, one)) == ([3], [3])
    assert shell.read(shell.core.open_inbox()) == ["resync"]


def test_an_inbox_of_another_epoch_at_sign_in_forgets_what_was_known_of_tasks() -> None:
    shell = Shell().start(tasks=[state(7)], **inbox(0))
    every = shell.core.open_tasks()
    one = shell.subscribe("task:t", {"task": state(7)})
    assert (versions(shell, every), versions(shell, one)) == ([7], [7])
    shell.lose()
    # Nothing is forgotten for a lost connection.
    shell.come_back(tasks=[state(6)], **inbox(0))
    shell.lose()
    assert versions(shell, every) == []
    shell.come_back(tasks=[state(3)], **inbox(0, epoch="f"))
    assert (versions(shell, every), versions(shell, one)) == ([3], [3])


def test_a_task_that_was_made_anew_is_newer_whatever_its_version() -> None:
    shell = Shell().start(tasks=[state(1_800_000_000_000, createdAt=1)])
    every = shell.core.open_tasks()
    for made_at, version in [(2, 1), (1, 1_800_000_000_001), (2, 2)]:
        shell.push("task:t", state(version, createdAt=made_at), type="task_progress", messageId=f"{version}")
    assert versions(shell, every) == [1_800_000_000_000, 1, 2]


def test_a_raw_request_is_what_it_says_and_happens_once() -> None:
    assert calls.raw("publish", {"channel": "a"}, "m").data == {"channel": "a", "messageId": "m"}
    assert calls.raw("chat_message", {"messageId": "own"}, "m").data == {"messageId": "own"}
    assert calls.raw("inbox", None, "m").data == {}
    for type in ("auth", "subscribe", "unsubscribe"):
        with pytest.raises(ValueError, match="the client's own"):
            calls.raw(type, {}, "m")
