"""The client for asyncio, on the library ``websockets`` (``pip install pushserver[client]``).

::

    async with Client("ws://127.0.0.1:8080/ws", token=token) as c:
        async for message in c.subscribe("news"):
            print(message.data)
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from weakref import WeakValueDictionary

try:
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.typing import Subprotocol
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("the asyncio client needs websockets: pip install pushserver[client]") from error

from pushserver.client import calls
from pushserver.client.core import ClientCore, Options, State
from pushserver.client.effects import (
    Answered,
    Changed,
    Connect,
    Ended,
    Failed,
    FetchToken,
    Hangup,
    Readable,
    Transmit,
)
from pushserver.client.errors import ClientClosed, ClientError, RequestTimeout
from pushserver.client.feeds import Feed
from pushserver.client.messages import ChatReceipt, History, Position, Presence, Published, Push, TaskState, Welcome

T = TypeVar("T")
R = TypeVar("R", bound="_Reader[Any]")
Token = str | Callable[[], str | Awaitable[str]]

_log = logging.getLogger("pushserver.client")

#: One inbound message; a replay of a long history comes as one.
_MAX_SIZE = 64 * 1024 * 1024
_CLOSE_TIMEOUT = 2.0


class _Reader(Generic[T]):
    """What all readers share: iterate, close, or leave an ``async with``."""

    def __init__(self, client: Client, feed: Feed) -> None:
        self._client = client
        self._feed = feed
        self._readable = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        await self.ready()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def ready(self) -> Self:
        """Wait until the server has confirmed; raises SubscriptionEnded where it refused."""
        while not self._feed.confirmed:
            if self._feed.ended is not None:
                raise self._feed.ended
            await self._wait()
        return self

    def close(self) -> None:
        """Stop reading. The last reader of a channel ends the subscription."""
        self._client._close_feed(self._feed)

    def __del__(self) -> None:
        if self._feed.ended is None:
            self._client._close_feed(self._feed)

    async def _wait(self) -> None:
        self._readable.clear()
        await self._readable.wait()

    async def _next(self) -> Push:
        while True:
            push = self._client._take(self._feed)
            if push is not None:
                return push
            ended = self._feed.ended
            if isinstance(ended, ClientClosed):
                raise StopAsyncIteration
            if ended is not None:
                raise ended
            await self._wait()


class Subscription(_Reader[Push]):
    """The messages of one channel, from now on or from a position on, over as many connections as it takes.

    A message of type ``resync`` says that some were missed for good. Ends with SubscriptionEnded where the server
    refuses or ends it.
    """

    #: the position of the last message read
    position: Position | None = None

    @property
    def channel(self) -> str:
        return self._feed.key

    @property
    def recovered(self) -> bool | None:
        """Whether the server could continue at the given position; None where none was asked for."""
        return self._feed.recovered

    async def __anext__(self) -> Push:
        push = await self._next()
        self.position = push.position or self.position
        return push


class Inbox(_Reader[Push]):
    """The user's inbox. A message is acknowledged when the loop asks for the next one.

    What the loop left before that comes again, to the next process too: at least once.
    """

    _last: Position | None = None

    async def __anext__(self) -> Push:
        self.ack()
        push = await self._next()
        self._last = push.position
        return push

    def ack(self) -> None:
        """Acknowledge the message read last without asking for another."""
        if self._last is not None:
            self._client._ack(self._last)
            self._last = None


class TaskUpdates(_Reader[TaskState]):
    """The states of one task, or of all the user's; never an older one after a newer. One task's end with its final."""

    _over = False

    async def __anext__(self) -> TaskState:
        if self._over:
            raise StopAsyncIteration
        while True:
            state = (await self._next()).task
            if state is None:
                continue
            if state.final and self._feed.channel is not None:
                self._over = True
                self.close()
            return state


class Client:
    """One connection to a push server that stays: it comes back, resumes, refreshes its token, acknowledges.

    `token` is a token, or a function (async or not) that returns a fresh one and is called again before one expires;
    None for a server that allows anonymous connections. `positions` are those of an earlier process (`positions()`).
    `on_state` hears every change of state. `open_timeout` (seconds) bounds the wait for the first connection; None
    waits for ever.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        positions: Mapping[str, Position] | None = None,
        options: Options | None = None,
        ssl: SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        open_timeout: float | None = 30.0,
        on_state: Callable[[State], None] | None = None,
    ) -> None:
        self._url = url
        self._token = token if callable(token) else None
        self._ssl = ssl
        self._headers = dict(headers or {})
        self._open_timeout = open_timeout
        self._on_state = on_state
        self._core = ClientCore(
            options or Options(),
            random=random.random,
            new_id=lambda: uuid.uuid4().hex,
            token=token if isinstance(token, str) else None,
            can_fetch=callable(token),
            positions=dict(positions or {}),
        )
        self._anchor = time.time() - time.monotonic()
        # Weak: a reader that a loop left behind with `break` stops reading when nobody holds it any more.
        self._readers: WeakValueDictionary[int, _Reader[Any]] = WeakValueDictionary()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._links: dict[int, _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._opened: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pumping = False

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Welcome | None:
        """Connect, and wait until the server knows who this is. Raises AuthFailed, Disconnected or RequestTimeout."""
        loop = self._loop = asyncio.get_running_loop()
        self._opened, self._ended = loop.create_future(), loop.create_future()
        self._core.start(self._now())
        self._pump()
        try:
            async with asyncio.timeout(self._open_timeout):
                await self._opened
        except TimeoutError:
            reason = self._core.last_error
            await self.close()
            raise RequestTimeout(f"no connection within {self._open_timeout} s: {reason}") from None
        except BaseException:
            await self.close()
            raise
        return self._core.welcome

    async def close(self) -> None:
        """Acknowledge what is due, close the socket, end all readers."""
        self._core.stop(self._now())
        self._pump()
        if self._ended is not None:
            # The core bounds this: the last acknowledgement has a second to be answered.
            await asyncio.wait([self._ended])
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def wait_closed(self) -> None:
        """Wait until the client is closed for good; raises Disconnected where the server forbade to come back."""
        if self._ended is None:
            raise ClientError("not opened yet")
        await asyncio.shield(self._ended)

    @property
    def state(self) -> State:
        return self._core.state

    @property
    def welcome(self) -> Welcome | None:
        """What the server said at the newest authentication: the user, the permissions, the expiry."""
        return self._core.welcome

    @property
    def user_id(self) -> str | None:
        return self._core.welcome.user_id if self._core.welcome else None

    @property
    def last_error(self) -> str | None:
        """Why there is no connection, while there is none."""
        return self._core.last_error

    def positions(self) -> dict[str, Position]:
        """Where the subscribed channels with history stand: give it to the `positions` of a later client."""
        return self._core.positions()

    # Reading

    def subscribe(self, channel: str, *, since: Position | None = None) -> Subscription:
        """Read a channel. May be called before there is a connection; several readers of a channel share it."""
        return self._read(Subscription(self, self._core.subscribe(channel, self._now(), since)))

    def inbox(self) -> Inbox:
        """Read what was sent to the user: notifications, direct chat, final task events. One reader at a time."""
        return self._read(Inbox(self, self._core.open_inbox()))

    def task(self, task_id: str) -> TaskUpdates:
        """Read one task's states until its final one."""
        return self._read(TaskUpdates(self, self._core.subscribe(f"task:{task_id}", self._now())))

    def tasks(self) -> TaskUpdates:
        """Read the states of all the user's own tasks, beginning with the unfinished ones."""
        return self._read(TaskUpdates(self, self._core.open_tasks()))

    # Asking

    async def publish(
        self, channel: str, data: Any, *, type: str | None = None, message_id: str | None = None
    ) -> Published:
        """Publish as this user, where the channel allows it. Waits for a connection if there is none."""
        return await self._call(calls.publish(channel, data, type, message_id or self._core.message_id()))

    async def chat(
        self,
        content: str,
        *,
        to: str | int | None = None,
        channel: str | None = None,
        type: str | None = None,
        message_id: str | None = None,
    ) -> ChatReceipt:
        """Send a chat message: `to` a user, or to a ``chat:`` room (``chat:lobby`` where neither is given)."""
        return await self._call(calls.chat(content, to, channel, type, message_id or self._core.message_id()))

    async def history(
        self, channel: str, *, limit: int | None = None, since: Position | None = None, reverse: bool = False
    ) -> History:
        return await self._call(calls.history(channel, limit, since, reverse))

    async def presence(self, channel: str) -> Presence:
        return await self._call(calls.presence(channel))

    async def get_task(self, task_id: str) -> TaskState:
        return await self._call(calls.task_get(task_id))

    async def cancel_task(self, task_id: str) -> TaskState:
        """Ask the worker to stop one's own task; it decides when."""
        return await self._call(calls.task_cancel(task_id))

    # The inside

    def _now(self) -> int:
        # The epoch once, then a clock that never jumps: a corrected wall clock must not look like silence.
        return int((self._anchor + time.monotonic()) * 1000)

    def _read(self, reader: R) -> R:
        self._readers[id(reader._feed)] = reader
        self._pump()
        return reader

    def _take(self, feed: Feed) -> Push | None:
        push = self._core.take(feed, self._now())
        self._pump()
        return push

    def _close_feed(self, feed: Feed) -> None:
        self._core.close_feed(feed, self._now())
        reader = self._readers.pop(id(feed), None)
        if reader is not None:
            reader._readable.set()
        self._pump()

    def _ack(self, position: Position) -> None:
        self._core.ack(position, self._now())
        self._pump()

    async def _call(self, call: calls.Call[T]) -> T:
        number = self._core.request(call, self._now())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self._pump()
        try:
            return call.convert(await future)
        finally:
            self._answers.pop(number, None)
            self._core.forget(number)

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
        loop = self._loop
        if deadline is not None and self._core.state is not State.CLOSED and loop is not None and not loop.is_closed():
            self._timer = loop.call_later(max(0.0, (deadline - self._now()) / 1000), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._core.tick(self._now())
        self._pump()

    def _carry_out(self, effect: Any) -> None:
        match effect:
            case Transmit(link, text):
                if (open_link := self._links.get(link)) is not None:
                    open_link.outgoing.put_nowait(text)
            case Readable(feed):
                if (reader := self._readers.get(id(feed))) is not None:
                    reader._readable.set()
            case Answered(request, data):
                if (future := self._answers.get(request)) is not None and not future.done():
                    future.set_result(data)
            case Failed(request, error):
                if (future := self._answers.get(request)) is not None and not future.done():
                    future.set_exception(error)
            case Connect(link):
                self._links[link] = _Link()
                self._links[link].task = self._spawn(self._live(link, self._links[link]))
            case Hangup(link, code, reason, abort):
                if (open_link := self._links.get(link)) is not None:
                    open_link.hang_up(code, reason, abort)
            case FetchToken():
                self._spawn(self._fetch_token())
            case Changed(state):
                self._changed(state)
            case Ended(error):
                self._end(error)

    def _changed(self, state: State) -> None:
        if state is State.CONNECTED and self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception:
                _log.exception("on_state failed")

    def _end(self, error: Exception | None) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error or ClientClosed("the client is closed"))
            # Read by `open`, unless that has given up already.
            self._opened.exception()
        if self._ended is not None and not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(error)
                self._ended.exception()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _fetch_token(self) -> None:
        assert self._token is not None
        try:
            token = self._token()
            if inspect.isawaitable(token):
                token = await token
        except Exception as error:
            _log.warning("no token: %r", error)
            self._core.token_failed(f"no token: {error!r}", self._now())
        else:
            self._core.token(token, self._now())
        self._pump()

    async def _live(self, number: int, link: _Link) -> None:
        """One socket, from its opening to its end; the core hears of it under its number."""
        code: int | None = None
        reason, status = "", None
        try:
            async with connect(
                self._url,
                subprotocols=[Subprotocol("pushserver.v1.json")],
                ssl=self._ssl,
                additional_headers=self._headers,
                open_timeout=None,
                ping_interval=None,
                close_timeout=_CLOSE_TIMEOUT,
                max_size=_MAX_SIZE,
            ) as socket:
                link.opened(socket)
                self._core.opened(number, self._now())
                self._pump()
                writer = asyncio.get_running_loop().create_task(link.write())
                try:
                    async for text in socket:
                        self._core.received(number, text, self._now())
                        self._pump()
                finally:
                    writer.cancel()
                    await asyncio.gather(writer, return_exceptions=True)
                code, reason = socket.close_code, socket.close_reason or ""
        except InvalidStatus as error:
            status, reason = error.response.status_code, f"HTTP {error.response.status_code}"
        except ConnectionClosed as error:
            if error.rcvd is not None:
                code, reason = error.rcvd.code, error.rcvd.reason
        except asyncio.CancelledError:
            if not link.hung_up:
                raise
        except Exception as error:
            # Name look-up, TCP, TLS, the handshake: whatever it was, the core decides when to come back.
            reason = repr(error)
        finally:
            self._links.pop(number, None)
        self._core.closed(number, self._now(), code, reason, status)
        self._pump()


class _Link:
    """One socket's outgoing side."""

    __slots__ = ("hung_up", "outgoing", "socket", "task")

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[bytes | tuple[int, str]] = asyncio.Queue()
        self.socket: ClientConnection | None = None
        self.task: asyncio.Task[Any] | None = None
        self.hung_up = False

    def opened(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def write(self) -> None:
        assert self.socket is not None
        while True:
            item = await self.outgoing.get()
            if isinstance(item, tuple):
                await self.socket.close(*item)
                return
            await self.socket.send(item, text=True)

    def hang_up(self, code: int, reason: str, abort: bool) -> None:
        self.hung_up = True
        if self.socket is None:
            if self.task is not None:
                self.task.cancel()
        elif abort:
            self.socket.transport.abort()
        else:
            self.outgoing.put_nowait((code, reason))
