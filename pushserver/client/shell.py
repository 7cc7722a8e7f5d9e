"""What both clients share: a core, a clock, and everything that needs neither asyncio nor Twisted.

A shell carries out what its core wants. The two differ in how they open sockets, keep time and hand out answers: that
is what a subclass fills in.
"""

from __future__ import annotations

import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct

from pushserver.client.address import ServerAddress, address_of
from pushserver.client.calls import Call
from pushserver.client.channel_tokens import KeptToken
from pushserver.client.core import ClientCore
from pushserver.client.effects import (
    AnotherUser,
    Answered,
    Changed,
    Connect,
    Effect,
    Ended,
    Failed,
    FetchChannelToken,
    FetchToken,
    Hangup,
    InboxChanged,
    Readable,
    Transmit,
)
from pushserver.client.errors import NotOpened, Unauthorized, UserChanged
from pushserver.client.feeds import ReaderFeed
from pushserver.client.messages import InboxChange, Position, Push, TaskState, Unread, Welcome
from pushserver.client.state import Options, Settings, State

Reader = TypeVar("Reader")

SUBPROTOCOL: Final = "pushserver.v1.json"
#: Seconds after which a shell looks at the clock again at the latest: a timer stands still while the machine sleeps,
#: the core's clock does not.
_LONGEST_SLEEP: Final = 10.0


class Timer(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> Any: ...


class Setup(Struct, frozen=True, kw_only=True):
    """What a user chooses for a client of either kind; the clients say what each means."""

    url: str
    token: Any
    positions: Mapping[str, Position] | None
    settings: Settings | None
    options: Options | None
    headers: Mapping[str, str] | None
    proxy: str | bool | None
    on_state: Callable[[State], None] | None
    on_user_changed: Callable[[UserChanged], None] | None
    on_inbox_changed: Callable[[InboxChange], None] | None

    def __post_init__(self) -> None:
        if self.settings is not None and self.options is not None:
            raise ValueError("give settings (seconds) or options (milliseconds), not both")
        if self.token is not None and not callable(self.token) and not (isinstance(self.token, str) and self.token):
            raise ValueError("a token is text that is not empty, or a function that returns it")


class Shell(ABC, Generic[Reader]):
    """One client, but for its sockets, timers and answers."""

    def __init__(self, setup: Setup, clock: Callable[[], float], readers: MutableMapping[int, Reader]) -> None:
        self._url = setup.url
        self._token = setup.token
        self._options = setup.options or (setup.settings or Settings()).options()
        self._headers = dict(setup.headers or {})
        self._proxy = setup.proxy
        self._on_state = setup.on_state
        self._on_user_changed = setup.on_user_changed
        self._on_inbox_changed = setup.on_inbox_changed
        self._clock = clock
        # The epoch once, then a clock that never jumps: a corrected wall clock must not look like silence.
        self._anchor = time.time() - clock()
        self._readers = readers
        self._answers: dict[int, Any] = {}
        self._timer: Timer | None = None
        self._pumping = False
        self._told: set[str] = set()
        self._core = self._new_core(setup.positions)

    def _new_core(self, positions: Mapping[str, Position] | None) -> ClientCore:
        return ClientCore(
            self._options,
            random=random.random,
            new_id=lambda: uuid.uuid4().hex,
            token=None if callable(self._token) else self._token,
            can_fetch=callable(self._token),
            positions=dict(positions or {}),
        )

    # What an application may ask at any time

    @property
    def state(self) -> State:
        return self._core.state

    @property
    def welcome(self) -> Welcome | None:
        """What the server said at the newest authentication: the user, the permissions, the expiry."""
        return self._core.welcome

    @property
    def user_id(self) -> str | None:
        """The user whom the server knows this client as; None before that, and while another one signs in."""
        return self._core.user_id

    @property
    def last_error(self) -> str | None:
        """Why there is no connection, while there is none."""
        return self._core.last_error

    @property
    def unread(self) -> Unread | None:
        """How many messages of the inbox are unread; None before the server said it, and where it is of version 1."""
        return self._core.unread

    def positions(self) -> dict[str, Position]:
        """Return where the subscribed channels with history stand, for the `positions` of a later client."""
        return self._core.positions()

    # What a subclass fills in

    @abstractmethod
    def _later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Call after so many seconds."""

    @abstractmethod
    def _dial(self, link: int) -> None:
        """Open a socket, and tell the core of it. What it raises is an error that no second attempt mends."""

    @abstractmethod
    def _send(self, link: int, text: bytes) -> None: ...

    @abstractmethod
    def _hang_up(self, link: int, code: int, reason: str, abort: bool) -> None: ...

    @abstractmethod
    def _ask_for_token(
        self,
        purpose: object,
        function: Callable[[], Any],
        came: Callable[[object], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Call a token function, in a turn of its own; an earlier call for the same purpose is given up."""

    @abstractmethod
    def _wake(self, reader: Reader) -> None:
        """A reader has something to read, was confirmed, or has ended."""

    @abstractmethod
    def _answer(self, request: int, data: Any, error: Exception | None) -> None:
        """A request has its answer, or came to nothing."""

    @abstractmethod
    def _connected(self) -> None: ...

    @abstractmethod
    def _closed(self, error: Exception | None) -> None:
        """The client is closed for good."""

    @abstractmethod
    def _warn(self, text: str) -> None:
        """Write a line to the log."""

    @abstractmethod
    def _log_failure(self, text: str) -> None:
        """Write the exception that is being handled to the log."""

    # The inside

    def _now(self) -> int:
        return int((self._anchor + self._clock()) * 1000)

    @property
    def _address(self) -> ServerAddress:
        return address_of(self._url)

    def _read(self, feed: ReaderFeed, reader: Reader) -> None:
        self._readers[id(feed)] = reader
        self._pump()

    def _take(self, feed: ReaderFeed) -> Push | None:
        push = self._core.take(feed, self._now())
        self._pump()
        return push

    def _close_feed(self, feed: ReaderFeed) -> Reader | None:
        self._core.close_feed(feed, self._now())
        reader = self._readers.pop(id(feed), None)
        self._pump()
        return reader

    def _ack(self, feed: ReaderFeed, position: Position) -> None:
        self._core.ack(position, self._now(), feed)
        self._pump()

    def _ask(self, call: Call[Any]) -> int:
        """Ask the server and return the request's number. Raises NotOpened, ClientClosed or QueueFull."""
        if self._core.state is State.IDLE:
            raise NotOpened
        return self._core.request(call, self._now())

    def _is_last(self, feed: ReaderFeed, state: TaskState, follow: bool) -> bool:
        """Return whether a reader of tasks has nothing to wait for behind this state."""
        if not state.final or follow:
            return False
        return feed.channel is not None or (not feed.queue and self._core.tasks_finished)

    def _pump(self) -> None:
        """Carry out what the core wants, and set the alarm for what it will want."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while effects := self._core.effects():
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._pumping = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.deadline()
        if deadline is not None and self._core.state not in (State.IDLE, State.CLOSED):
            delay = max(0.0, (deadline - self._now()) / 1000)
            self._timer = self._later(min(delay, _LONGEST_SLEEP), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._core.tick(self._now())
        self._pump()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Transmit(link, text):
                self._send(link, text)
            case Readable(feed):
                if (reader := self._readers.get(id(feed))) is not None:
                    self._wake(reader)
            case Answered(request, data):
                self._answer(request, data, None)
            case Failed(request, error):
                self._answer(request, None, error)
            case Connect(link):
                self._try_to_dial(link)
            case Hangup(link, code, reason, abort):
                self._hang_up(link, code, reason, abort)
            case FetchToken():
                core = self._core
                self._ask_for_token(
                    core, self._token, partial(self._token_came, core), partial(self._token_failed, core)
                )
            case FetchChannelToken(channel, token):
                self._fetch_channel_token(self._core, channel, token)
            case Changed(state):
                self._changed(state)
            case AnotherUser(change):
                self._call_back("on_user_changed", self._on_user_changed, change)
            case InboxChanged(change):
                self._call_back("on_inbox_changed", self._on_inbox_changed, change)
            case Ended(error):
                self._closed(error)

    def _try_to_dial(self, link: int) -> None:
        try:
            self._dial(link)
        except Exception as raised:
            core, error = self._core, raised
            # In a turn of its own: whoever opens the client must be able to wait for it.
            self._later(0.0, lambda: self._lost(core, link, error=error))

    def _lost(
        self,
        core: ClientCore,
        link: int,
        code: int | None = None,
        reason: str = "",
        status: int | None = None,
        error: Exception | None = None,
    ) -> None:
        """A socket closed or did not open; `error` is what no second attempt mends."""
        core.closed(link, self._now(), code, reason, status, error)
        self._pump()

    def _warn_once(self, reason: str | None) -> None:
        """Say what keeps the connection away, each reason once between two connections."""
        if reason is None or reason in self._told:
            return
        self._told.add(reason)
        try:
            place = str(self._address)
        except ValueError:
            # It is looked at when it is needed, and a token may be asked for before.
            place = "an address that is none"
        self._warn(f"no connection to {place}: {reason}; trying again")

    def _changed(self, state: State) -> None:
        if state is State.CONNECTED:
            self._told.clear()
            self._connected()
        elif state is State.WAITING:
            self._warn_once(self._core.last_error)
        self._call_back("on_state", self._on_state, state)

    def _call_back(self, name: str, callback: Callable[[Any], None] | None, value: Any) -> None:
        if callback is not None:
            try:
                callback(value)
            except Exception:
                self._log_failure(f"{name} failed")

    def _token_came(self, core: ClientCore, token: object) -> None:
        core.token(token, self._now())
        self._pump()

    def _token_failed(self, core: ClientCore, error: BaseException) -> None:
        if isinstance(error, Unauthorized):
            core.unauthorized(error, self._now())
        else:
            reason = f"no token: {error!r}"
            if core.state is State.CONNECTED:
                self._warn(f"{reason}; the present one is kept while it lasts")
            core.token_failed(reason, self._now())
        self._pump()

    def _fetch_channel_token(self, core: ClientCore, channel: str, token: KeptToken) -> None:
        def came(text: object) -> None:
            core.channel_token(token, text, self._now())
            self._pump()

        def failed(error: BaseException) -> None:
            if isinstance(error, Unauthorized):
                core.channel_unauthorized(token, error, self._now())
            else:
                self._warn(f"no token for {channel}: {error!r}; trying again")
                core.channel_token_failed(token, self._now())
            self._pump()

        assert token.function is not None
        self._ask_for_token(token, token.function, came, failed)
