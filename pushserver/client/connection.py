"""The life of a client's connection: links that come and go, who is signed in, when to come back.

    IDLE --start--> FETCHING --token--> CONNECTING --opened--> AUTHENTICATING --auth_success--> CONNECTED
                       ^                    |                        |                              |
                       |                    +-----------+------------+------------------------------+
                       +---- due ---- WAITING <---------+ lost
                                                        + forbidden to come back, or stop (the last ack) --> CLOSED

Each socket has a number. What an old socket still says is ignored: it cannot undo the new one's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from pushserver.client.closes import ALONE, EXPIRED, end_of
from pushserver.client.cursor import Cursor
from pushserver.client.effects import AnotherUser, Changed, Connect, Effect, Ended, FetchToken, Hangup, Transmit
from pushserver.client.errors import AuthFailed, ClientClosed, Disconnected, Unauthorized, UserChanged
from pushserver.client.inbox import ANSWERS
from pushserver.client.line import RETRY, Done
from pushserver.client.messages import FRAMES, Frame, Position, Welcome
from pushserver.client.requests import Requests, retry_after
from pushserver.client.session import ClientSession
from pushserver.client.state import Options, State
from pushserver.client.subscriptions import ClientSubscriptions
from pushserver.client.watchdog import Watchdog

#: What a `ping` holds that asks for the server's time.
_CLOCK: Final = {"clock": True}
#: How long the answer to the last acknowledgement is waited for when the client is closed.
_LAST_ACK: Final = 1_000


class LastingConnection:
    """The life of one client's connection, over as many links as that takes."""

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
        #: why the last connection, attempt or token came to nothing
        self.last_error: str | None = None
        self._random = random
        self._new_id = new_id
        self._session = ClientSession(token, can_fetch)
        self._effects: list[Effect] = []
        self._link = 0
        self._links = 0
        #: a connection was good once, so address, certificate and token are
        self._proven = False
        self._requests = Requests(self)
        self._subscriptions = ClientSubscriptions(self, dict(positions or {}))
        self._cursor = Cursor(self)
        self._wake_at: int | None = None
        self._return_at: int | None = None
        self._watchdog = Watchdog()

    # What the shell asks for

    def effects(self) -> list[Effect]:
        """Return everything to carry out since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def deadline(self) -> int | None:
        """Return when `tick` is due, if nothing else happens before."""
        due = self._requests.due()
        due += [at for at in (self._wake_at, self._session.fetch_until) if at is not None]
        if self.state is State.CONNECTED:
            due.append(self._watchdog.due(self._session.heartbeat))
            if self._session.refresh_at is not None and self._session.fetch_until is None:
                due.append(self._session.refresh_at)
            if (ack_at := self._cursor.due_at()) is not None:
                due.append(ack_at)
            due.extend(self._subscriptions.retries())
        return min(due) if due else None

    def tick(self, now: int) -> None:
        """Do what is due."""
        unanswered = self._requests.expire(now)
        if unanswered is not None and self.state is State.CONNECTED:
            self._hang_up(now, 3000, f"no answer to {unanswered}")
        if self._session.fetch_until is not None and now >= self._session.fetch_until:
            self.token_failed("no token in time", now)
        if self._wake_at is not None and now >= self._wake_at:
            self._wake_at = None
            if self.state is State.WAITING:
                self._begin(now)
            elif self.state is State.CLOSING:
                self._close()
            else:
                self._hang_up(now, 3000, "no answer in time", abort=True)
        if self.state is State.CONNECTED:
            self._keep(now)

    def _keep(self, now: int) -> None:
        """Do what is due on a connection: heartbeat, refresh, what was put off."""
        if self._watchdog.is_dead(self._session.heartbeat, now):
            self._hang_up(now, 3012, "no heartbeat", abort=True)
            return
        if self._watchdog.must_ask(self._session.heartbeat, now):
            self.transmit({"type": "ping", "data": {}})
        refresh_at = self._session.refresh_at
        if refresh_at is not None and now >= refresh_at and self._session.fetch_until is None:
            self._fetch(now)
        self._subscriptions.retry(now)
        self._cursor.send(now)
        self._requests.send(now)

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
            self._change_state(State.CLOSING)
            self._wake_at = now + _LAST_ACK
            self.ask("ack", position, now, lambda frame, now: self._close())
        else:
            self._close()

    def abandon(self) -> None:
        """Close at once what `stop` closes in order."""
        if self.state is not State.CLOSED:
            self._close()

    def token(self, token: object, now: int) -> None:
        """The application's answer to FetchToken. Nothing, or what is no text, ends the client: see `unauthorized`."""
        self._session.fetch_until = None
        if not isinstance(token, str) or not token:
            given = "nothing" if not token else f"{type(token).__name__}, not text"
            self.unauthorized(Unauthorized(f"the token function gave {given}"), now)
            return
        self._session.take_token(token)
        if self.state is State.FETCHING:
            self._connect(now)
        elif self.state is State.CONNECTED:
            self._session.refresh_at = now + RETRY
            self.ask("auth", {"token": token}, now, self._refreshed)

    def token_failed(self, error: str, now: int) -> None:
        """The application has no token now; the same is tried again later."""
        self._session.fetch_until = None
        self.last_error = error
        if self.state is State.FETCHING:
            self._wait(now)
        elif self.state is State.CONNECTED:
            self._session.refresh_at = now + max(RETRY, self.jitter(self._session.heartbeat.interval))

    def unauthorized(self, error: Unauthorized, now: int) -> None:
        """The application has no token and will have none: the client ends."""
        self._session.fetch_until = None
        if self.state in (State.CLOSING, State.CLOSED):
            return
        if self._link:
            self.emit(Hangup(self._link, 1000, ""))
        self._end(error)

    def opened(self, link: int, now: int) -> None:
        if link != self._link or self.state is not State.CONNECTING:
            return
        self._change_state(State.AUTHENTICATING)
        self._watchdog.receive(now)
        if self._session.token is None:
            self.transmit({"type": "ping", "data": {}})
            return
        positions = self._subscriptions.inbox_positions()
        data: dict[str, Any] = {"token": self._session.token}
        if positions:
            data["positions"] = positions
        self.transmit({"type": "auth", "data": data})

    def closed(
        self,
        link: int,
        now: int,
        code: int | None = None,
        reason: str = "",
        status: int | None = None,
        error: Exception | None = None,
    ) -> None:
        """A socket closed, or did not open.

        `status` is the HTTP answer that refused it, where there was one; `error` is what no second attempt mends: an
        address that is none, a certificate that is not trusted.
        """
        if link != self._link or self.state is State.CLOSED:
            return
        self._link = 0
        if self.state is State.CLOSING:
            self._close()
            return
        self.last_error = reason or _reason(code, status, error)
        session = self._session
        end = end_of(code, reason, status, error, proven=self._proven, can_fetch=session.can_fetch)
        if end is not None:
            self._end(end)
            return
        session.spent = session.spent or code == EXPIRED
        self._wait(now, crowd=code not in ALONE)

    def progressed(self, link: int, now: int) -> None:
        """A part came of what is not a whole message yet.

        On a slow network that takes long. The link is alive, and what was asked is on its way or stands behind this: to
        ask it again on another link would have the server send all of it again, for ever.
        """
        if link != self._link or self.state not in (State.AUTHENTICATING, State.CONNECTED):
            return
        self._watchdog.receive(now)
        self._requests.progressed(now)
        if self.state is State.AUTHENTICATING:
            self._wake_at = now + self.options.connect_timeout

    def received(self, link: int, text: bytes | str, now: int) -> None:
        if link != self._link or self.state not in (State.AUTHENTICATING, State.CONNECTED, State.CLOSING):
            return
        self._watchdog.receive(now)
        try:
            frame = FRAMES.decode(text)
        except (ValueError, RecursionError):
            self._hang_up(now, 3000, "not a message of this protocol")
            return
        if frame.type in ANSWERS and frame.id is not None:
            self._subscriptions.inbox.learn(frame, now)
        if self._requests.reply(frame, now) or self.state is State.CLOSING:
            return
        data = frame.data if isinstance(frame.data, dict) else {}
        if frame.type == "auth_success" and self.state is State.AUTHENTICATING:
            self._welcomed(frame, now)
        elif frame.type == "auth_failed":
            self._refused(frame, now)
        elif frame.type == "pong":
            if self.state is State.AUTHENTICATING and self._session.token is None:
                self._connected(now)
            elif "clock" in data and isinstance(server_time := data.get("timestamp"), int):
                self._session.learn_time(server_time, now)
        elif frame.type == "error":
            self.last_error = str(data.get("message"))
            if self.state is State.AUTHENTICATING:
                self._hang_up(now, 3000, "not authenticated")
        elif frame.type == "going_away":
            self._return_at = now + int(data.get("reconnectAfter") or 0)
        else:
            self._subscriptions.pushed(frame, now)

    # What the rooms of the core see of the connection: `line.CoreLine`

    @property
    def connected(self) -> bool:
        return self.state is State.CONNECTED

    @property
    def server_ahead(self) -> int:
        return self._session.server_ahead

    def ask_time(self) -> None:
        self.transmit({"type": "ping", "data": _CLOCK})

    def check_open(self) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            raise ClientClosed("the client is closed")

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def transmit(self, message: dict[str, Any]) -> None:
        self._requests.spend()
        self.emit(Transmit(self._link, msgspec.json.encode(message)))

    def ask(self, type: str, data: Any, now: int, done: Done) -> int:
        return self._requests.ask(type, data, now, done)

    def jitter(self, most: int) -> int:
        return int(self._random() * most)

    def reconnect(self, now: int, reason: str) -> None:
        self._hang_up(now, 3000, reason, crowd=False)

    # The inside

    def _change_state(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self.emit(Changed(state))

    def _begin(self, now: int) -> None:
        if not self._session.needs_token:
            self._connect(now)
            return
        self._change_state(State.FETCHING)
        if self._session.fetch_until is None:
            self._fetch(now)

    def _fetch(self, now: int) -> None:
        self._session.fetch_until = now + self.options.token_timeout
        self.emit(FetchToken())

    def _connect(self, now: int) -> None:
        self._links += 1
        self._link = self._links
        self._wake_at = now + self.options.connect_timeout
        self._change_state(State.CONNECTING)
        self.emit(Connect(self._link))

    def _hang_up(self, now: int, code: int, reason: str, *, abort: bool = False, crowd: bool = True) -> None:
        self.emit(Hangup(self._link, code, reason, abort))
        self._link = 0
        self.last_error = reason
        self._wait(now, crowd=crowd)

    def _wait(self, now: int, *, crowd: bool = True) -> None:
        """Lost: make ready for the next connection, and say when. One that was closing is closed."""
        if self.state is State.CLOSING:
            self._end(None)
            return
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
        self._change_state(State.WAITING)

    def _drop_link(self) -> None:
        self._link = 0
        self._wake_at = self._session.refresh_at = None
        self._requests.lost()
        self._cursor.lost()
        self._subscriptions.lost()

    def _close(self) -> None:
        if self._link:
            self.emit(Hangup(self._link, 1000, ""))
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._drop_link()
        self._session.fetch_until = None
        reason = error or ClientClosed("the client is closed")
        self._requests.fail(reason)
        self._subscriptions.end(reason)
        self._change_state(State.CLOSED)
        self.emit(Ended(error))

    def _refused(self, frame: Frame, now: int) -> None:
        data = frame.data or {}
        code, message = str(data.get("code", "INVALID_TOKEN")), str(data.get("message", ""))
        expired = code == "TOKEN_EXPIRED"
        if code == "UNAVAILABLE" or (expired and self._session.can_fetch):
            self._session.spent = self._session.spent or expired
            self._hang_up(now, 3000, f"{code}: {message}", crowd=not expired)
        else:
            self.emit(Hangup(self._link, 1000, ""))
            self._end(AuthFailed(code, message))

    def _welcomed(self, frame: Frame, now: int) -> None:
        welcome = msgspec.convert(frame.data, Welcome)
        parted = self._session.left is not None
        before = self._session.signed_in(welcome, now)
        if before is not None:
            if not parted:
                self._forget_user()
            change = UserChanged(before, welcome.user_id)
            self._requests.fail(change, user_id=before)
            self.emit(AnotherUser(change))
        self._subscriptions.end_left(UserChanged(before or welcome.user_id, welcome.user_id))
        self._cursor.welcomed(welcome.inbox, now)
        self._subscriptions.welcomed(welcome, now)
        self._connected(now)
        if self._session.refresh_at is not None or self._subscriptions.tokens.any():
            self.ask_time()

    def _connected(self, now: int) -> None:
        self._proven = True
        self.attempts = 0
        self.last_error = None
        self._wake_at = None
        self._requests.connected(now)
        self._change_state(State.CONNECTED)
        self._subscriptions.resume(now)
        self._cursor.send(now)
        self._requests.send(now)

    def _refreshed(self, frame: Frame, now: int) -> None:
        if self.state is State.CLOSING:
            # Whoever the token is for, nobody comes any more.
            return
        data = frame.data if isinstance(frame.data, dict) else {}
        if frame.type == "auth_success":
            self._session.welcome = msgspec.convert(data, Welcome)
            self._session.plan_refresh(now)
        elif frame.type == "auth_failed":
            self._refused(frame, now)
        elif data.get("code") == "PERMISSION_DENIED":
            # A connection stays one user's: the token is good, for somebody else.
            self._session.leave()
            self._forget_user()
            self.emit(Hangup(self._link, 1000, ""))
            self._drop_link()
            self._connect(now)
        else:
            self._session.spent = self._session.spent or data.get("code") == "TOKEN_EXPIRED"
            self._session.refresh_at = now + max(RETRY, retry_after(frame) or 0)

    def _forget_user(self) -> None:
        """Nothing of the user before may reach whoever comes."""
        self._subscriptions.leave_user()
        self._cursor.forget_user()


def _reason(code: int | None, status: int | None, error: Exception | None) -> str:
    """Return why there is no connection, where the socket had no words for it."""
    if error is not None:
        return str(error) or repr(error)
    if status is not None:
        return f"HTTP {status}"
    return f"closed with {code}" if code is not None else "the connection broke"
