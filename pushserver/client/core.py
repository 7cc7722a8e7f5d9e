"""The client's core: everything that it decides, and nothing that it does.

Values in, effects out: no socket, no clock, no randomness of its own. `now` is an argument everywhere, in milliseconds
of a clock that never jumps and that was set to the epoch once; `random` and `new_id` are given. A shell opens sockets,
tells what happened to them, carries out the effects and calls `tick` when `deadline` is due. What is read lives in
`subscriptions`, what was acknowledged in `cursor`; here is the connection's life, and the requests.

    IDLE --start--> FETCHING --token--> CONNECTING --opened--> AUTHENTICATING --auth_success--> CONNECTED
                       ^                    |                        |                              |
                       |                    +-----------+------------+------------------------------+
                       +---- due ---- WAITING <---------+ lost
                                                        + forbidden to come back, or stop (the last ack) --> CLOSED

Each socket has a number. What an old socket still says is ignored: it cannot undo the new one's state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from pushserver.client.backoff import Backoff
from pushserver.client.calls import Call
from pushserver.client.cursor import Cursor
from pushserver.client.effects import (
    Answered,
    Changed,
    Connect,
    Effect,
    Ended,
    Failed,
    FetchToken,
    Hangup,
    Transmit,
)
from pushserver.client.errors import (
    AuthFailed,
    ClientClosed,
    Disconnected,
    QueueFull,
    RequestFailed,
    RequestTimeout,
)
from pushserver.client.feeds import Feed
from pushserver.client.messages import FRAMES, Frame, Heartbeat, Position, Push, TaskState, Welcome
from pushserver.client.subscriptions import RETRY, Subscriptions

#: Closes below 3000 after which coming back repeats the mistake: RFC 6455 section 7.4.1.
_FORBIDDEN: Final = frozenset({1002, 1007, 1009})
#: Closes that concern this connection alone, so that no crowd comes back with it: expired, slow consumer.
_ALONE: Final = frozenset({3005, 3008})
#: Answers to the upgrade that a second try does not change.
_HOPELESS: Final = frozenset({400, 401, 403, 404, 405, 426})
#: How long the answer to the last acknowledgement is waited for when the client is closed.
_LAST_ACK: Final = 1_000


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
    __slots__ = ("data", "deadline", "done", "number", "type")

    def __init__(
        self, number: int, type: str, data: Any, deadline: int, done: Callable[[Frame, int], None] | None
    ) -> None:
        self.number = number
        self.type = type
        self.data = data
        self.deadline = deadline
        #: for the core's own requests: what the reply means. They die with their link.
        self.done = done


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
        self._random = random
        self._new_id = new_id
        self._token = token
        self._can_fetch = can_fetch
        self._spent = False
        self._fetching = False
        self._effects: list[Effect] = []
        self._link = 0
        self._numbers = 0
        self._requests: dict[int, _Request] = {}
        self._outgoing: deque[int] = deque()
        self._subscriptions = Subscriptions(self, dict(positions or {}))
        self._cursor = Cursor(self)
        self._heartbeat = Heartbeat()
        self._credit = float(options.burst)
        self._credit_at: int | None = None
        self._wake_at: int | None = None
        self._return_at: int | None = None
        self._refresh_at: int | None = None
        self._heard_at = 0
        self._pinged_at: int | None = None

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
            if (ack_at := self._cursor.due_at()) is not None:
                due.append(ack_at)
            due.extend(self._subscriptions.retries())
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
        self._subscriptions.retry(now)
        self._cursor.send(now)
        self._flush(now)

    # The life of the connection

    def start(self, now: int) -> None:
        if self.state is State.IDLE:
            self._begin(now)

    def stop(self, now: int) -> None:
        """Close for good; what was acknowledged here is told the server first, and its answer waited for a moment."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        position = self._cursor.outstanding
        if self.state is State.CONNECTED and position is not None:
            # A server drops what a closed connection still had waiting, so the close follows the answer.
            self._enter(State.CLOSING)
            self._wake_at = now + _LAST_ACK
            self.ask("ack", position, now, lambda frame, now: self._close())
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
            self._refresh_at = now + RETRY
            self.ask("auth", {"token": token}, now, self._refreshed)

    def token_failed(self, error: str, now: int) -> None:
        """The application has no token now; the same is tried again later."""
        self._fetching = False
        self.last_error = error
        if self.state is State.FETCHING:
            self._wait(now)
        elif self.state is State.CONNECTED:
            self._refresh_at = now + max(RETRY, self.jitter(self._heartbeat.interval))

    def opened(self, link: int, now: int) -> None:
        if link != self._link or self.state is not State.CONNECTING:
            return
        self._enter(State.AUTHENTICATING)
        self._heard_at = now
        if self._token is None:
            self._transmit({"type": "ping", "data": {}})
            return
        positions = self._subscriptions.inbox_positions()
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
        elif frame.type == "going_away":
            self._return_at = now + int((frame.data or {}).get("reconnectAfter") or 0)
        else:
            self._subscriptions.pushed(frame, now)

    # Requests

    def request(self, call: Call[Any], now: int) -> int:
        """Ask the server; Answered or Failed comes under the returned number, over as many connections as it takes."""
        self.check_open()
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

    # Reading

    @property
    def tasks(self) -> dict[str, TaskState]:
        """The newest known state of each of the last tasks heard of."""
        return self._subscriptions.tasks

    def subscribe(self, name: str, now: int, since: Position | None = None) -> Feed:
        return self._subscriptions.subscribe(name, now, since)

    def open_inbox(self) -> Feed:
        return self._subscriptions.open_inbox()

    def open_tasks(self) -> Feed:
        return self._subscriptions.open_tasks()

    def take(self, feed: Feed, now: int) -> Push | None:
        return self._subscriptions.take(feed, now)

    def close_feed(self, feed: Feed, now: int) -> None:
        self._subscriptions.close_feed(feed, now)

    def positions(self) -> dict[str, Position]:
        return self._subscriptions.positions()

    def ack(self, position: Position, now: int) -> None:
        """Everything in the inbox up to here has been dealt with."""
        self._cursor.ack(position, now)

    # What the rooms of the core see of the connection: `subscriptions.Line`

    @property
    def connected(self) -> bool:
        return self.state is State.CONNECTED

    def check_open(self) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            raise ClientClosed("the client is closed")

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def ask(self, type: str, data: Any, now: int, done: Callable[[Frame, int], None]) -> int:
        request = self._new_request(type, data, now, done)
        self._transmit({"type": type, "id": request.number, "data": data})
        return request.number

    def jitter(self, most: int) -> int:
        return int(self._random() * most)

    def reconnect(self, now: int, reason: str) -> None:
        self._hang_up(now, 3000, reason, crowd=False)

    # The inside of the life of the connection

    def _enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self.emit(Changed(state))

    def _begin(self, now: int) -> None:
        if self._can_fetch and (self._token is None or self._spent):
            self._enter(State.FETCHING)
            if not self._fetching:
                self._fetch()
        else:
            self._connect(now)

    def _fetch(self) -> None:
        self._fetching = True
        self.emit(FetchToken())

    def _connect(self, now: int) -> None:
        self._numbers += 1
        self._link = self._numbers
        self._wake_at = now + self.options.connect_timeout
        self._enter(State.CONNECTING)
        self.emit(Connect(self._link))

    def _hang_up(self, now: int, code: int, reason: str, *, abort: bool = False, crowd: bool = True) -> None:
        self.emit(Hangup(self._link, code, reason, abort))
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
        self._wake_at = self._refresh_at = None
        self._requests = {n: request for n, request in self._requests.items() if request.done is None}
        # Requests carry a message id or only ask: what had no answer is sent again, in the old order.
        self._outgoing = deque(self._requests)
        self._cursor.lost()
        self._subscriptions.lost()

    def _close(self) -> None:
        if self._link:
            self.emit(Hangup(self._link, 1000, ""))
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._drop_link()
        reason = error or ClientClosed("the client is closed")
        for number in self._requests:
            self.emit(Failed(number, reason))
        self._requests.clear()
        self._outgoing.clear()
        self._subscriptions.end(reason)
        self._enter(State.CLOSED)
        self.emit(Ended(error))

    def _refused(self, frame: Frame, now: int) -> None:
        data = frame.data or {}
        code, message = str(data.get("code", "INVALID_TOKEN")), str(data.get("message", ""))
        expired = code == "TOKEN_EXPIRED"
        if code == "UNAVAILABLE" or (expired and self._can_fetch):
            self._spent = self._spent or expired
            self._hang_up(now, 3000, f"{code}: {message}", crowd=not expired)
        else:
            self.emit(Hangup(self._link, 1000, ""))
            self._end(AuthFailed(code, message))

    def _welcomed(self, frame: Frame, now: int) -> None:
        welcome = msgspec.convert(frame.data, Welcome)
        same_user = self.welcome is None or self.welcome.user_id == welcome.user_id
        self.welcome = welcome
        self._heartbeat = welcome.heartbeat
        self._plan_refresh(now)
        self._cursor.welcomed(welcome.inbox, same_user=same_user, now=now)
        self._subscriptions.welcomed(welcome, now)
        self._connected(now)

    def _connected(self, now: int) -> None:
        self.attempts = 0
        self.last_error = None
        self._wake_at = None
        self._credit, self._credit_at = float(self.options.burst), now
        self._enter(State.CONNECTED)
        self._subscriptions.resume(now)
        self._cursor.send(now)
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
            self._refresh_at = now + max(RETRY, _retry_after(frame) or 0)

    # The inside of requests

    def _transmit(self, message: dict[str, Any]) -> None:
        self._credit -= 1
        self.emit(Transmit(self._link, msgspec.json.encode(message)))

    def _new_request(self, type: str, data: Any, now: int, done: Callable[[Frame, int], None] | None) -> _Request:
        self._numbers += 1
        request = _Request(self._numbers, type, data, now + self.options.request_timeout, done)
        self._requests[request.number] = request
        return request

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
                self.emit(Failed(request.number, error))
            elif self.state is State.CONNECTED:
                self._hang_up(now, 3000, f"no answer to {request.type}")

    def _reply(self, request: _Request, frame: Frame, now: int) -> None:
        if request.done is not None:
            request.done(frame, now)
        elif frame.type == "error":
            data = frame.data or {}
            error = RequestFailed(str(data.get("code", "")), str(data.get("message", "")), _retry_after(frame))
            self.emit(Failed(request.number, error))
        else:
            self.emit(Answered(request.number, frame.data))


def _retry_after(frame: Frame) -> int | None:
    value = (frame.data or {}).get("retryAfter")
    return value if isinstance(value, int) else None
