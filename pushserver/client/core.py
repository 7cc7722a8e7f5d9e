"""The client's core: everything that it decides, and nothing that it does.

Values in, effects out: no socket, no clock, no randomness of its own. `now` is an argument everywhere, in milliseconds
of a clock that never jumps and that was set to the epoch once; `random` and `new_id` are given. A shell opens sockets,
tells what happened to them, carries out the effects and calls `tick` when `deadline` is due.

    IDLE --start--> FETCHING --token--> CONNECTING --opened--> AUTHENTICATING --auth_success--> CONNECTED
                       ^                    |                        |                              |
                       |                    +-----------+------------+------------------------------+
                       +---- due ---- WAITING <---------+ lost
                                                        + forbidden to come back, or stop (the last ack) --> CLOSED

Each socket has a number. What an old socket still says is ignored: it cannot undo the new one's state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from pushserver.client.backoff import Backoff
from pushserver.client.calls import Call
from pushserver.client.effects import (
    Answered,
    Changed,
    Connect,
    Effect,
    Ended,
    Failed,
    FetchToken,
    Hangup,
    Readable,
    Transmit,
)
from pushserver.client.errors import (
    AuthFailed,
    ClientClosed,
    Disconnected,
    QueueFull,
    RequestFailed,
    RequestTimeout,
    SubscriptionEnded,
)
from pushserver.client.feeds import Channel, Feed
from pushserver.client.messages import FRAMES, Frame, Heartbeat, Position, Push, TaskState, Welcome

#: Closes below 3000 after which coming back repeats the mistake: RFC 6455 section 7.4.1.
_FORBIDDEN: Final = frozenset({1002, 1007, 1009})
#: Closes that concern this connection alone, so that no crowd comes back with it: expired, slow consumer.
_ALONE: Final = frozenset({3005, 3008})
#: Answers to the upgrade that a second try does not change.
_HOPELESS: Final = frozenset({400, 401, 403, 404, 405, 426})
#: Refusals that pass.
_PASSING: Final = frozenset({"RATE_LIMITED", "UNAVAILABLE", "INTERNAL_ERROR"})
#: Channels in one subscribe message: at most 255 characters of name and about 80 of position each, so that the message
#: stays under the server's default limit of 64 KiB.
_CHUNK: Final = 100
_RETRY: Final = 2_000
_ACK_INTERVAL: Final = 200
_LAST_ACK: Final = 1_000
_REMEMBERED_TASKS: Final = 1_000


class State(StrEnum):
    IDLE = "idle"
    WAITING = "waiting"
    FETCHING = "fetching"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    CONNECTED = "connected"
    CLOSING = "closing"
    CLOSED = "closed"


class Options(Struct, frozen=True):
    """Durations in milliseconds."""

    backoff: Backoff = Backoff()
    #: returns in a row without a successful authentication; None: without end
    max_attempts: int | None = None
    #: to open a socket and authenticate
    connect_timeout: int = 10_000
    #: for one request, over as many connections as that takes
    request_timeout: int = 60_000
    #: requests that may wait for a connection
    max_queued: int = 1_000
    #: messages that may wait for one reader before the channel falls behind
    max_pending: int = 10_000
    #: requests a second and at once, under the server's default limits of 50 and 100
    rate: float = 45.0
    burst: int = 90


class _Request:
    __slots__ = ("data", "deadline", "done", "link", "number", "type")

    def __init__(
        self, number: int, type: str, data: Any, deadline: int, done: Callable[[Frame, int], None] | None
    ) -> None:
        self.number = number
        self.type = type
        self.data = data
        self.deadline = deadline
        #: for the core's own requests: what the reply means. They die with their link.
        self.done = done
        self.link = 0


class ClientCore:
    """One client's side of the protocol."""

    def __init__(
        self,
        options: Options,
        *,
        random: Callable[[], float],
        new_id: Callable[[], str],
        token: str | None = None,
        can_fetch: bool = False,
        positions: dict[str, Position] | None = None,
    ) -> None:
        """`can_fetch`: the shell answers FetchToken. Without it and without `token` the client stays anonymous.

        `positions`: where an earlier process stopped, by channel; the inbox under ``user:<id>``.
        """
        self.options = options
        self.state = State.IDLE
        self.attempts = 0
        self.welcome: Welcome | None = None
        #: why the last connection, attempt or token came to nothing
        self.last_error: str | None = None
        self.tasks: dict[str, TaskState] = {}
        self._random = random
        self._new_id = new_id
        self._token = token
        self._can_fetch = can_fetch
        self._spent = False
        self._fetching = False
        self._known = dict(positions or {})
        self._effects: list[Effect] = []
        self._link = 0
        self._numbers = 0
        self._requests: dict[int, _Request] = {}
        self._outgoing: deque[int] = deque()
        self._channels: dict[str, Channel] = {}
        self._inbox = Channel("")
        self._inbox_feed: Feed | None = None
        self._task_feeds: list[Feed] = []
        self._heartbeat = Heartbeat()
        self._credit = float(options.burst)
        self._credit_at: int | None = None
        self._wake_at: int | None = None
        self._return_at: int | None = None
        self._refresh_at: int | None = None
        self._heard_at = 0
        self._pinged_at: int | None = None
        self._ack_wanted: Position | None = None
        self._acked: Position | None = None
        self._ack_number: int | None = None
        self._ack_at = 0

    # What the shell asks for

    def effects(self) -> list[Effect]:
        """Everything to carry out since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def deadline(self) -> int | None:
        """When `tick` is due, if nothing else happens before."""
        due: list[int] = [] if self._wake_at is None else [self._wake_at]
        if self._requests:
            # All have the same time to live and the order is kept, so the oldest is due first.
            due.append(next(iter(self._requests.values())).deadline)
        if self.state is State.CONNECTED:
            due.append(self._heard_at + self._heartbeat.interval)
            if self._pinged_at is not None:
                due[-1] = self._pinged_at + self._heartbeat.timeout
            if self._refresh_at is not None and not self._fetching:
                due.append(self._refresh_at)
            if self._outgoing and self._credit_at is not None:
                due.append(self._credit_at + int((1 - self._credit) * 1000 / self.options.rate) + 1)
            if self._ack_due():
                due.append(self._ack_at)
            due.extend(channel.retry_at for channel in self._channels.values() if channel.retry_at is not None)
        return min(due) if due else None

    def tick(self, now: int) -> None:
        """Do what is due."""
        self._expire_requests(now)
        if self._wake_at is not None and now >= self._wake_at:
            self._wake_at = None
            if self.state is State.WAITING:
                self._begin(now)
            elif self.state is State.CLOSING:
                self._close()
            else:
                self._hang_up(now, 3000, "no answer in time", abort=True)
        if self.state is not State.CONNECTED:
            return
        if self._pinged_at is not None:
            if now >= self._pinged_at + self._heartbeat.timeout:
                self._hang_up(now, 3012, "no heartbeat", abort=True)
                return
        elif now >= self._heard_at + self._heartbeat.interval:
            self._pinged_at = now
            self._transmit({"type": "ping", "data": {}})
        if self._refresh_at is not None and now >= self._refresh_at and not self._fetching:
            self._fetch()
        retries = [c for c in self._channels.values() if c.retry_at is not None and now >= c.retry_at]
        self._subscribe(retries, now)
        self._send_ack(now)
        self._flush(now)

    # The life of the connection

    def start(self, now: int) -> None:
        if self.state is State.IDLE:
            self._begin(now)

    def stop(self, now: int) -> None:
        """Close for good; what was acknowledged here is told the server first, and its answer waited for a moment."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        if self.state is State.CONNECTED and self._ack_wanted is not None and self._ack_wanted != self._acked:
            # A server drops what a closed connection still had waiting, so the close follows the answer.
            self._enter(State.CLOSING)
            self._wake_at = now + _LAST_ACK
            self._ask("ack", self._ack_wanted, now, lambda frame, now: self._close())
        else:
            self._close()

    def token(self, token: str, now: int) -> None:
        """The application's answer to FetchToken."""
        self._fetching = False
        self._token = token
        self._spent = False
        if self.state is State.FETCHING:
            self._connect(now)
        elif self.state is State.CONNECTED:
            self._refresh_at = now + _RETRY
            self._ask("auth", {"token": token}, now, self._refreshed)

    def token_failed(self, error: str, now: int) -> None:
        """The application has no token now; the same is tried again later."""
        self._fetching = False
        self.last_error = error
        if self.state is State.FETCHING:
            self._wait(now)
        elif self.state is State.CONNECTED:
            self._refresh_at = now + max(_RETRY, self._jitter(self._heartbeat.interval))

    def opened(self, link: int, now: int) -> None:
        if link != self._link or self.state is not State.CONNECTING:
            return
        self._enter(State.AUTHENTICATING)
        self._heard_at = now
        if self._token is None:
            self._transmit({"type": "ping", "data": {}})
            return
        # Only the inbox is replayed by `auth`; what else is read here is subscribed, with its position, right after it.
        positions = {name: at for name, at in self._known.items() if name.startswith("user:")}
        if self._inbox.position is not None:
            positions[self._inbox.name] = self._inbox.position
        data: dict[str, Any] = {"token": self._token}
        if positions:
            data["positions"] = positions
        self._transmit({"type": "auth", "data": data})

    def closed(self, link: int, now: int, code: int | None = None, reason: str = "", status: int | None = None) -> None:
        """A socket closed, or did not open; `status` is the HTTP answer that refused it, where there was one."""
        if link != self._link or self.state is State.CLOSED:
            return
        self._link = 0
        if self.state is State.CLOSING:
            self._close()
            return
        self.last_error = reason or (f"HTTP {status}" if status else f"closed with {code}")
        refused_for_good = status in _HOPELESS and self.welcome is None
        if refused_for_good:
            self._end(Disconnected(None, f"HTTP {status}"))
        elif code is not None and (code in _FORBIDDEN or 3500 <= code < 4000):
            self._end(AuthFailed("INVALID_TOKEN", reason, code) if code == 3500 else Disconnected(code, reason))
        elif code == 3005 and not self._can_fetch:
            self._end(AuthFailed("TOKEN_EXPIRED", reason, code))
        else:
            self._spent = self._spent or code == 3005
            self._wait(now, crowd=code not in _ALONE)

    def received(self, link: int, text: bytes | str, now: int) -> None:
        if link != self._link or self.state not in (State.AUTHENTICATING, State.CONNECTED, State.CLOSING):
            return
        self._heard_at = now
        self._pinged_at = None
        try:
            frame = FRAMES.decode(text)
        except (ValueError, RecursionError):
            self._hang_up(now, 3000, "not a message of this protocol")
            return
        if isinstance(frame.id, int) and frame.id in self._requests:
            self._reply(self._requests.pop(frame.id), frame, now)
        elif self.state is State.CLOSING:
            pass
        elif frame.type == "auth_success" and self.state is State.AUTHENTICATING:
            self._welcomed(frame, now)
        elif frame.type == "auth_failed":
            self._refused(frame, now)
        elif frame.type == "pong":
            if self.state is State.AUTHENTICATING and self._token is None:
                self._connected(now)
        elif frame.type == "error":
            self.last_error = str((frame.data or {}).get("message"))
            if self.state is State.AUTHENTICATING:
                self._hang_up(now, 3000, "not authenticated")
        else:
            self._pushed(frame, now)

    # Requests

    def request(self, call: Call[Any], now: int) -> int:
        """Ask the server; Answered or Failed comes under the returned number, over as many connections as it takes."""
        self._check_open()
        if len(self._outgoing) >= self.options.max_queued:
            raise QueueFull(f"{len(self._outgoing)} requests wait for a connection already")
        request = self._new_request(call.name, call.data, now, None)
        self._outgoing.append(request.number)
        self._flush(now)
        return request.number

    def forget(self, number: int) -> None:
        """Nobody waits for this request's answer any more; not sent yet, it is not sent."""
        if self._requests.pop(number, None) is not None and number in self._outgoing:
            self._outgoing.remove(number)

    def message_id(self) -> str:
        return self._new_id()

    # Feeds

    def subscribe(self, name: str, now: int, since: Position | None = None) -> Feed:
        """Read a channel; several readers share one subscription. `since` is for the first of them."""
        self._check_open()
        channel = self._channels.get(name)
        if channel is None:
            channel = Channel(name, since or self._known.pop(name, None))
            self._channels[name] = channel
        elif since is not None:
            raise ValueError(f"{name} is read here already; since can only be given by its first reader")
        feed = Feed(name, channel)
        feed.confirmed = channel.confirmed
        channel.feeds.append(feed)
        if name.startswith("task:") and (state := self.tasks.get(name[5:])) is not None:
            feed.queue.append(_as_push(state))
        if not channel.confirmed and channel.asked is None:
            self._subscribe([channel], now)
        return feed

    def open_inbox(self) -> Feed:
        """Read the user's inbox; one reader at a time, since reading acknowledges."""
        self._check_open()
        if self._inbox_feed is not None and self._inbox_feed.ended is None and self._inbox_feed in self._inbox.feeds:
            raise ValueError("the inbox is being read already")
        feed = Feed("inbox", self._inbox)
        feed.confirmed = self.welcome is not None
        if self._inbox_feed is not None:
            feed.queue = self._inbox_feed.queue
        self._inbox_feed = feed
        self._inbox.feeds = [feed]
        return feed

    def open_tasks(self) -> Feed:
        """Read the states of all the user's tasks, beginning with those known here."""
        self._check_open()
        feed = Feed("tasks", None)
        feed.confirmed = True
        feed.queue.extend(_as_push(state) for state in self.tasks.values())
        self._task_feeds.append(feed)
        return feed

    def take(self, feed: Feed, now: int) -> Push | None:
        """The next message of a feed, or None; `feed.ended` then says whether there is more to wait for."""
        if not feed.queue:
            return None
        push = feed.queue.popleft()
        channel = feed.channel
        if channel is not None and channel.behind and not any(other.queue for other in channel.feeds):
            self._catch_up(channel, now)
        return push

    def close_feed(self, feed: Feed, now: int) -> None:
        """Stop reading; the last reader's going ends the subscription."""
        if feed.ended is None:
            feed.ended = ClientClosed(f"{feed.key} is no longer read")
        if feed in self._task_feeds:
            self._task_feeds.remove(feed)
        channel = feed.channel
        if channel is None or feed not in channel.feeds:
            return
        channel.feeds.remove(feed)
        if channel.feeds or self._channels.get(channel.name) is not channel:
            return
        del self._channels[channel.name]
        if self.state is State.CONNECTED:
            self._ask("unsubscribe", {"channels": [channel.name]}, now, _ignore)

    def ack(self, position: Position, now: int) -> None:
        """Everything in the inbox up to here has been dealt with."""
        wanted = self._ack_wanted
        if wanted is None or wanted.epoch != position.epoch or position.offset > wanted.offset:
            self._ack_wanted = position
            self._send_ack(now)

    def positions(self) -> dict[str, Position]:
        """Where each channel with history stands, for `positions` of a later process.

        The inbox is not among them: its place is kept by the server, moved by `ack`.
        """
        return {name: c.position for name, c in self._channels.items() if c.position is not None}

    # The inside of the life of the connection

    def _enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._effects.append(Changed(state))

    def _check_open(self) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            raise ClientClosed("the client is closed")

    def _begin(self, now: int) -> None:
        if self._can_fetch and (self._token is None or self._spent):
            self._enter(State.FETCHING)
            if not self._fetching:
                self._fetch()
        else:
            self._connect(now)

    def _fetch(self) -> None:
        self._fetching = True
        self._effects.append(FetchToken())

    def _connect(self, now: int) -> None:
        self._numbers += 1
        self._link = self._numbers
        self._wake_at = now + self.options.connect_timeout
        self._enter(State.CONNECTING)
        self._effects.append(Connect(self._link))

    def _hang_up(self, now: int, code: int, reason: str, *, abort: bool = False, crowd: bool = True) -> None:
        self._effects.append(Hangup(self._link, code, reason, abort))
        self._link = 0
        self.last_error = reason
        self._wait(now, crowd=crowd)

    def _wait(self, now: int, *, crowd: bool = True) -> None:
        """Lost: make ready for the next connection, and say when."""
        self._drop_link()
        limit = self.options.max_attempts
        if limit is not None and self.attempts >= limit:
            self._end(Disconnected(None, f"{self.attempts + 1} attempts failed; the last: {self.last_error}"))
            return
        if self._return_at is not None:
            # The server spread the returns itself before it went.
            self._wake_at = max(now, self._return_at)
        else:
            self._wake_at = now + self.options.backoff.delay(self.attempts, self._random, crowd=crowd)
        self._return_at = None
        self.attempts += 1
        self._enter(State.WAITING)

    def _drop_link(self) -> None:
        self._link = 0
        self._pinged_at = None
        self._ack_number = None
        self._wake_at = self._refresh_at = None
        self._requests = {n: request for n, request in self._requests.items() if request.done is None}
        for request in self._requests.values():
            request.link = 0
        # Requests carry a message id or only ask: what had no answer is sent again, in the old order.
        self._outgoing = deque(self._requests)
        for channel in self._channels.values():
            channel.asked = channel.retry_at = None
            channel.confirmed = False
            channel.held.clear()

    def _close(self) -> None:
        if self._link:
            self._effects.append(Hangup(self._link, 1000, ""))
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._drop_link()
        reason = error or ClientClosed("the client is closed")
        for number in self._requests:
            self._effects.append(Failed(number, reason))
        self._requests.clear()
        self._outgoing.clear()
        for feed in self._all_feeds():
            feed.ended = reason
            self._effects.append(Readable(feed))
        self._channels.clear()
        self._task_feeds.clear()
        self._enter(State.CLOSED)
        self._effects.append(Ended(error))

    def _all_feeds(self) -> Iterable[Feed]:
        for channel in (*self._channels.values(), self._inbox):
            yield from channel.feeds
        yield from self._task_feeds

    def _refused(self, frame: Frame, now: int) -> None:
        data = frame.data or {}
        code, message = str(data.get("code", "INVALID_TOKEN")), str(data.get("message", ""))
        expired = code == "TOKEN_EXPIRED"
        if code == "UNAVAILABLE" or (expired and self._can_fetch):
            self._spent = self._spent or expired
            self._hang_up(now, 3000, f"{code}: {message}", crowd=not expired)
        else:
            self._effects.append(Hangup(self._link, 1000, ""))
            self._end(AuthFailed(code, message))

    def _welcomed(self, frame: Frame, now: int) -> None:
        welcome = msgspec.convert(frame.data, Welcome)
        if self.welcome is not None and self.welcome.user_id != welcome.user_id:
            # Another user's token: nothing of the first user's may leak into what follows.
            self._inbox.position = self._ack_wanted = self._acked = None
            self.tasks.clear()
        self.welcome = welcome
        self._heartbeat = welcome.heartbeat
        self._plan_refresh(now)
        inbox = self._inbox
        inbox.name = f"user:{welcome.user_id}"
        inbox.position = self._known.pop(inbox.name, inbox.position)
        if welcome.inbox is not None:
            if inbox.position is not None and inbox.position.epoch != welcome.inbox.epoch:
                inbox.position = None
            if self._ack_wanted is not None and self._ack_wanted.epoch != welcome.inbox.epoch:
                self._ack_wanted = None
            self._acked = Position(welcome.inbox.acked, welcome.inbox.epoch)
        for feed in inbox.feeds:
            feed.confirmed = True
            self._effects.append(Readable(feed))
        for state in welcome.tasks:
            self._task(state, _as_push(state))
        self._deliver_all(inbox, (welcome.results.get(inbox.name) or {}).get("messages", ()), now)
        self._connected(now)

    def _connected(self, now: int) -> None:
        self.attempts = 0
        self.last_error = None
        self._wake_at = None
        self._credit, self._credit_at = float(self.options.burst), now
        self._enter(State.CONNECTED)
        self._subscribe(list(self._channels.values()), now)
        self._ack_at = now
        self._send_ack(now)
        self._flush(now)

    def _plan_refresh(self, now: int) -> None:
        expires_at = self.welcome.expires_at if self.welcome else None
        self._refresh_at = None
        if expires_at is not None and self._can_fetch:
            # A tenth of the token's rest, between 5 and 60 s before its end: time for some tries. A clock that is
            # wrong must not make this a loop, so never within the next 10 s.
            margin = min(60_000, max(5_000, (expires_at - now) // 10))
            self._refresh_at = max(now + 10_000, expires_at - margin)

    def _refreshed(self, frame: Frame, now: int) -> None:
        if frame.type == "auth_success":
            self.welcome = msgspec.convert(frame.data, Welcome)
            self._plan_refresh(now)
        elif frame.type == "auth_failed":
            self._refused(frame, now)
        else:
            self._refresh_at = now + max(_RETRY, _retry_after(frame) or 0)

    def _jitter(self, most: int) -> int:
        return int(self._random() * most)

    # The inside of requests

    def _transmit(self, message: dict[str, Any]) -> None:
        self._credit -= 1
        self._effects.append(Transmit(self._link, msgspec.json.encode(message)))

    def _new_request(self, type: str, data: Any, now: int, done: Callable[[Frame, int], None] | None) -> _Request:
        self._numbers += 1
        request = _Request(self._numbers, type, data, now + self.options.request_timeout, done)
        self._requests[request.number] = request
        return request

    def _ask(self, type: str, data: Any, now: int, done: Callable[[Frame, int], None]) -> int:
        request = self._new_request(type, data, now, done)
        request.link = self._link
        self._transmit({"type": type, "id": request.number, "data": data})
        return request.number

    def _flush(self, now: int) -> None:
        """Send what waits, no faster than the server takes it."""
        if self.state is not State.CONNECTED:
            return
        options = self.options
        if self._credit_at is not None:
            self._credit = min(options.burst, self._credit + (now - self._credit_at) * options.rate / 1000)
        self._credit_at = now
        while self._outgoing and self._credit >= 1:
            request = self._requests[self._outgoing.popleft()]
            request.link = self._link
            self._transmit({"type": request.type, "id": request.number, "data": request.data})

    def _expire_requests(self, now: int) -> None:
        while self._requests:
            request = next(iter(self._requests.values()))
            if request.deadline > now:
                return
            del self._requests[request.number]
            if request.number in self._outgoing:
                self._outgoing.remove(request.number)
            if request.done is None:
                error = RequestTimeout(f"no answer to {request.type} within {self.options.request_timeout} ms")
                self._effects.append(Failed(request.number, error))
            elif self.state is State.CONNECTED:
                self._hang_up(now, 3000, f"no answer to {request.type}")

    def _reply(self, request: _Request, frame: Frame, now: int) -> None:
        if request.done is not None:
            request.done(frame, now)
        elif frame.type == "error":
            data = frame.data or {}
            error = RequestFailed(str(data.get("code", "")), str(data.get("message", "")), _retry_after(frame))
            self._effects.append(Failed(request.number, error))
        else:
            self._effects.append(Answered(request.number, frame.data))

    # The inside of subscriptions

    def _subscribe(self, channels: list[Channel], now: int) -> None:
        if self.state is not State.CONNECTED:
            return
        for start in range(0, len(channels), _CHUNK):
            asked = channels[start : start + _CHUNK]
            names: list[Any] = []
            for channel in asked:
                channel.retry_at = None
                at = channel.position
                names.append(channel.name if at is None else {"channel": channel.name, "since": at})
            since = {channel.name for channel in asked if channel.position is not None}

            def done(frame: Frame, now: int, asked: list[Channel] = asked, since: set[str] = since) -> None:
                self._subscriptions(asked, since, frame, now)

            number = self._ask("subscribe", {"channels": names}, now, done)
            for channel in asked:
                channel.asked = number

    def _subscriptions(self, asked: list[Channel], since: set[str], frame: Frame, now: int) -> None:
        data = frame.data or {}
        whole = data if frame.type == "error" else None
        results, rejected = data.get("results") or {}, data.get("rejected") or {}
        for channel in asked:
            channel.asked = None
            if self._channels.get(channel.name) is not channel:
                continue
            refusal = whole or rejected.get(channel.name)
            if refusal is None:
                self._subscribed(channel, results.get(channel.name) or {}, channel.name in since, now)
            elif refusal.get("code") in _PASSING:
                retry_after = refusal.get("retryAfter") or _RETRY
                channel.retry_at = now + retry_after + self._jitter(_RETRY)
                # Live messages would jump over what the replay still owes; it brings them too.
                channel.confirmed = False
                channel.held.clear()
            else:
                self._end_channel(channel, str(refusal.get("code")), str(refusal.get("message")))

    def _subscribed(self, channel: Channel, result: dict[str, Any], had_since: bool, now: int) -> None:
        channel.confirmed = True
        for feed in channel.feeds:
            feed.confirmed = True
            feed.recovered = result.get("recovered")
            self._effects.append(Readable(feed))
        if "task" in result:
            state = msgspec.convert(result["task"], TaskState)
            self._task(state, _as_push(state))
        elif "offset" in result:
            newest = Position(result["offset"], result["epoch"])
            if result.get("recovered"):
                self._deliver_all(channel, result.get("messages", ()), now)
                if not channel.behind:
                    channel.position = newest
            else:
                channel.position = newest
                if had_since:
                    self._lose(channel)
        self._release(channel, now)

    def _release(self, channel: Channel, now: int) -> None:
        held, channel.held = channel.held, []
        for frame in held:
            self._deliver(channel, frame, now)

    def _lose(self, channel: Channel) -> None:
        """Say to every reader that messages are gone: never a silent gap."""
        for feed in channel.feeds:
            feed.queue.append(Push("resync", channel.name, {"channel": channel.name}))
            self._effects.append(Readable(feed))

    def _end_channel(self, channel: Channel, code: str, reason: str) -> None:
        self._channels.pop(channel.name, None)
        for feed in channel.feeds:
            feed.ended = SubscriptionEnded(channel.name, code, reason)
            self._effects.append(Readable(feed))

    def _catch_up(self, channel: Channel, now: int) -> None:
        """A reader that was full has read everything: fetch what was left out meanwhile."""
        channel.behind = False
        if channel is self._inbox:
            if self.state is State.CONNECTED:
                self._hang_up(now, 3000, "fetching the inbox again", crowd=False)
        elif channel.position is None:
            self._lose(channel)
        elif self.state is State.CONNECTED and channel.asked is None:
            self._subscribe([channel], now)

    # The inside of pushes

    def _pushed(self, frame: Frame, now: int) -> None:
        data = frame.data if isinstance(frame.data, dict) else {}
        match frame.type:
            case "going_away":
                self._return_at = now + int(data.get("reconnectAfter") or 0)
                return
            case "resync":
                name = str(data.get("channel") or frame.channel)
                if (channel := self._channels.get(name)) is not None:
                    channel.position = None
                    self._lose(channel)
                    self._subscribe([channel], now)
                elif name == self._inbox.name:
                    self._inbox.position = None
                    self._lose(self._inbox)
                return
            case "unsubscribed":
                name = str(data.get("channel") or frame.channel)
                if (channel := self._channels.get(name)) is not None:
                    self._end_channel(channel, str(data.get("code")), str(data.get("reason")))
                return
            case "inbox_overflow":
                self._put(self._inbox, frame.push())
                return
        if frame.type.startswith("task_"):
            push = frame.push()
            if (state := push.task) is not None:
                self._task(state, push)
        if frame.channel == self._inbox.name:
            self._deliver(self._inbox, frame, now)
        channel = self._channels.get(frame.channel or "")
        if channel is not None and not channel.name.startswith("task:"):
            self._deliver(channel, frame, now)

    def _deliver_all(self, channel: Channel, messages: Iterable[Any], now: int) -> None:
        for message in messages:
            self._deliver(channel, msgspec.convert(message, Frame), now, replay=True)

    def _deliver(self, channel: Channel, frame: Frame, now: int, *, replay: bool = False) -> None:
        if channel is not self._inbox and channel.position is not None and not replay:
            if channel.asked is not None:
                channel.held.append(frame)
                return
            if not channel.confirmed:
                return
        if channel.is_repeat(frame) or channel.behind:
            return
        if any(len(feed.queue) >= self.options.max_pending for feed in channel.feeds):
            channel.behind = True
            return
        channel.remember(frame)
        self._put(channel, frame.push())

    def _put(self, channel: Channel, push: Push) -> None:
        if channel is self._inbox and not channel.feeds:
            # Kept for a reader that comes later, within the same bound as for one that is slow.
            self._keep_inbox()
        for feed in channel.feeds:
            feed.queue.append(push)
            self._effects.append(Readable(feed))

    def _keep_inbox(self) -> None:
        feed = Feed("inbox", self._inbox)
        feed.ended = ClientClosed("nobody reads the inbox yet")
        if self._inbox_feed is not None:
            feed.queue = self._inbox_feed.queue
        self._inbox_feed = feed
        self._inbox.feeds = [feed]

    def _task(self, state: TaskState, push: Push) -> None:
        """A state of a task, from wherever it came: only a newer one counts."""
        known = self.tasks.get(state.task_id)
        if known is not None and state.version <= known.version:
            return
        self.tasks.pop(state.task_id, None)
        self.tasks[state.task_id] = state
        if len(self.tasks) > _REMEMBERED_TASKS:
            del self.tasks[next(iter(self.tasks))]
        channel = self._channels.get(f"task:{state.task_id}")
        for feed in (*self._task_feeds, *(channel.feeds if channel is not None else ())):
            if len(feed.queue) >= self.options.max_pending:
                feed.conflate()
            feed.queue.append(push)
            self._effects.append(Readable(feed))

    # The inside of acknowledgements

    def _ack_due(self) -> bool:
        wanted = self._ack_wanted
        return self._ack_number is None and wanted is not None and wanted != self._acked

    def _send_ack(self, now: int) -> None:
        """One at a time and not too often: the newest says it for all before it."""
        if self.state is not State.CONNECTED or self._ack_wanted is None or not self._ack_due() or now < self._ack_at:
            return
        position = self._ack_wanted
        self._ack_at = now + _ACK_INTERVAL

        def done(frame: Frame, now: int) -> None:
            self._ack_number = None
            code = (frame.data or {}).get("code") if frame.type == "error" else None
            if code in _PASSING:
                self._ack_at = now + (_retry_after(frame) or _RETRY)
            else:
                # Refused for good means another epoch: that cursor is gone, and with it what this ack was about.
                self._acked = position
            self._send_ack(now)

        self._ack_number = self._ask("ack", position, now, done)


def _retry_after(frame: Frame) -> int | None:
    value = (frame.data or {}).get("retryAfter")
    return value if isinstance(value, int) else None


def _ignore(frame: Frame, now: int) -> None:
    """Leaving a channel that cannot be left changes nothing here."""


def _as_push(state: TaskState) -> Push:
    """A state that came without an event of its own, in the shape of one."""
    type = {"pending": "task_created", "running": "task_progress"}.get(state.status, f"task_{state.status}")
    if state.status == "cancelled":
        type = "task_status_changed"
    return Push(type, f"task:{state.task_id}", msgspec.to_builtins(state), state.updated_at)
