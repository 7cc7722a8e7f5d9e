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
import ssl as tls
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.typing import Subprotocol
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("the asyncio client needs websockets: pip install pushserver[client]") from error

from pushserver.client import calls
from pushserver.client.address import Tls, proxy_for
from pushserver.client.aio_link import Link, Socket, lasting_error
from pushserver.client.aio_readers import Inbox, Reader, Subscription, TaskOutput, TaskUpdates
from pushserver.client.clock import steady
from pushserver.client.core import ClientCore
from pushserver.client.errors import ClientClosed, NotOpened, RequestTimeout, UserChanged
from pushserver.client.messages import (
    ChatReceipt,
    History,
    InboxChange,
    InboxPage,
    Position,
    Presence,
    Published,
    Push,
    TaskState,
    Welcome,
)
from pushserver.client.shell import SUBPROTOCOL, Setup, Shell, Timer
from pushserver.client.state import Options, Settings, State

T = TypeVar("T")
R = TypeVar("R", bound=Reader[Any])
Token = str | Callable[[], str | Awaitable[str]]

_log = logging.getLogger("pushserver.client")

#: One inbound message; a replay of a long history comes as one.
_MAX_SIZE = 64 * 1024 * 1024
_CLOSE_TIMEOUT = 2.0


class _NoTimer:
    def cancel(self) -> None:
        """There is nothing to cancel."""


NO_TIMER = _NoTimer()


class Client(Shell[Reader[Any]]):
    """One connection to a push server that stays: it comes back, resumes, refreshes its token, acknowledges.

    `token` is a token, or a function (async or not) that returns a fresh one, is called again before one expires, and
    raises `Unauthorized` where there is none any more; None for a server that allows anonymous connections.
    `positions` are those of an earlier process (`positions()`). `settings` chooses timeouts, waits and limits in
    seconds (`options` in milliseconds). `on_state` hears every change of state, `on_user_changed` that another user
    signed in, `on_inbox_changed` what other devices did to the inbox. `open_timeout` (seconds) bounds the wait for the
    first connection; None waits for ever.

    A ``wss:`` address is verified against the system's certificates, or those in `ca_file`; `cert_file` and `key_file`
    are the client's own certificate; `ssl` replaces all three. `proxy` is a proxy's URL, None for none, True for what
    the environment says.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        positions: Mapping[str, Position] | None = None,
        settings: Settings | None = None,
        options: Options | None = None,
        ssl: SSLContext | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        proxy: str | bool | None = True,
        headers: Mapping[str, str] | None = None,
        open_timeout: float | None = 30.0,
        on_state: Callable[[State], None] | None = None,
        on_user_changed: Callable[[UserChanged], None] | None = None,
        on_inbox_changed: Callable[[InboxChange], None] | None = None,
        clock: Callable[[], float] = steady,
    ) -> None:
        setup = Setup(
            url=url,
            token=token,
            positions=positions,
            settings=settings,
            options=options,
            headers=headers,
            proxy=proxy,
            on_state=on_state,
            on_user_changed=on_user_changed,
            on_inbox_changed=on_inbox_changed,
        )
        # Weak: a reader that a loop left behind with `break` stops reading when nobody holds it any more.
        super().__init__(setup, clock, WeakValueDictionary())
        self._ssl = ssl
        self._tls = Tls(ca_file, cert_file, key_file)
        self._open_timeout = open_timeout
        self._links: dict[int, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: calls of token functions, by what they are for
        self._fetching: dict[object, asyncio.Task[None]] = {}
        self._opening: set[asyncio.Future[None]] = set()
        self._ended: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Welcome | None:
        """Connect, and wait until the server knows who this is. On an open client, return what it said.

        Raises AuthFailed, Disconnected, RequestTimeout, or what no second attempt mends: ValueError for an address that
        is none, ssl.SSLError for a certificate that is not trusted. Raises ClientClosed on a client that was closed:
        a client is opened once.
        """
        if self.state in (State.CLOSING, State.CLOSED):
            raise ClientClosed("this client was closed; make a new one")
        first = self.state is State.IDLE
        if first:
            self._loop = asyncio.get_running_loop()
            self._ended = self._loop.create_future()
            self._core.start(self._now())
            self._pump()
        try:
            async with asyncio.timeout(self._open_timeout):
                await self._until_connected()
        except TimeoutError:
            reason = self._core.last_error
            if first:
                await self.close()
            raise RequestTimeout(f"no connection within {self._open_timeout} s: {reason}") from None
        except BaseException:
            if first:
                await self.close()
            raise
        return self._core.welcome

    async def _until_connected(self) -> None:
        if self.state is State.CONNECTED:
            return
        if self._ended is not None and self._ended.done():
            # It came to nothing already.
            self._ended.result()
            raise ClientClosed("the client is closed")
        opening = asyncio.get_running_loop().create_future()
        self._opening.add(opening)
        try:
            await opening
        finally:
            self._opening.discard(opening)

    async def close(self) -> None:
        """Acknowledge what is due, close the socket, end all readers."""
        self._core.stop(self._now())
        self._pump()
        if self._ended is not None:
            # The core bounds this: the last acknowledgement has a second to be answered.
            await asyncio.wait([self._ended])
        if self._timer is not None:
            self._timer.cancel()
        for fetching in self._fetching.values():
            fetching.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def wait_closed(self) -> None:
        """Wait until the client is closed for good; raises Disconnected where the server forbade to come back."""
        if self._ended is None:
            raise NotOpened
        await asyncio.shield(self._ended)

    # Reading

    def subscribe(self, channel: str, *, since: Position | None = None, token: Token | None = None) -> Subscription:
        """Read a channel. May be called before there is a connection; several readers of a channel share it.

        `token` is one for this channel alone, or a function (async or not) that returns a fresh one, is called again
        before that ends, and raises `Unauthorized` where there is none any more.
        """
        return self._reading(Subscription(self, self._core.subscribe(channel, self._now(), since, token)))

    def inbox(self) -> Inbox:
        """Read what was sent to the user: notifications, direct chat, final task events. One reader at a time."""
        return self._reading(Inbox(self, self._core.open_inbox()))

    def task(self, task_id: str) -> TaskUpdates:
        """Read one task's states until its final one."""
        return self._reading(TaskUpdates(self, self._core.subscribe(f"task:{task_id}", self._now())))

    def task_output(self, task_id: str, name: str = "main", *, since: Position | None = None) -> TaskOutput:
        """Read what a task writes to an output until that is closed: all that is kept, or what follows `since`."""
        return self._reading(TaskOutput(self, self._core.open_output(task_id, name, self._now(), since)))

    def tasks(self, *, follow: bool = False) -> TaskUpdates:
        """Read the states of all the user's own tasks, beginning with the unfinished ones.

        Ends like `task`, when there has been a state and none is unfinished any more; with `follow` it goes on for
        tasks to come.
        """
        return self._reading(TaskUpdates(self, self._core.open_tasks(), follow))

    # Asking

    async def request(self, type: str, data: Mapping[str, Any] | None = None) -> Any:
        """Send a message of any type of the protocol and return the data of its reply. Raises RequestFailed."""
        return await self._call(calls.raw(type, data, self._core.message_id()))

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
        """Return kept messages of a channel, oldest first, or with `reverse` newest first."""
        return await self._call(calls.history(channel, limit, since, reverse))

    async def read_inbox(
        self, *, limit: int | None = None, before: Position | Push | None = None, unread: bool = False
    ) -> InboxPage:
        """Return what the inbox keeps, newest first: `limit` messages (50), older than `before`, or unread."""
        return await self._call(calls.inbox(limit, before, unread))

    async def mark_read(
        self,
        messages: Iterable[Position | Push | int] | None = None,
        *,
        up_to: Position | Push | int | None = None,
        read: bool = True,
    ) -> InboxChange:
        """Mark messages of the inbox as read on every device, or all up to one; with `read=False` as unread.

        They are messages, or their offsets in the inbox's present epoch. Acknowledging is another thing: it says that
        this program has them.
        """
        return await self._call(calls.mark_read(self._choose(messages, up_to), read))

    async def delete_from_inbox(
        self,
        messages: Iterable[Position | Push | int] | None = None,
        *,
        up_to: Position | Push | int | None = None,
    ) -> InboxChange:
        """Delete messages of the inbox on every device, named as for `mark_read`."""
        return await self._call(calls.delete_from_inbox(self._choose(messages, up_to)))

    def _choose(
        self, messages: Iterable[Position | Push | int] | None, up_to: Position | Push | int | None
    ) -> calls.InboxChoice:
        if self._core.state is State.IDLE:
            # Before that nobody knows in which epoch an offset is, which is not what the caller did wrong.
            raise NotOpened
        return calls.choice(messages, up_to, self._core.inbox_epoch)

    async def presence(self, channel: str) -> Presence:
        """Return who is present in a channel."""
        return await self._call(calls.presence(channel))

    async def get_task(self, task_id: str) -> TaskState:
        """Return the present state of a task."""
        return await self._call(calls.task_get(task_id))

    async def cancel_task(self, task_id: str) -> TaskState:
        """Ask the worker to stop one's own task; it decides when."""
        return await self._call(calls.task_cancel(task_id))

    # What the shell leaves to asyncio

    def _reading(self, reader: R) -> R:
        self._read(reader._feed, reader)
        return reader

    async def _call(self, call: calls.Call[T]) -> T:
        number = self._ask(call)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self._pump()
        try:
            return call.convert(await future)
        finally:
            self._answers.pop(number, None)
            self._core.forget(number)

    def _later(self, delay: float, call: Callable[[], None]) -> Timer:
        assert self._loop is not None
        # A reader that is collected after the loop's end still tells; there is nothing to wait for any more.
        return NO_TIMER if self._loop.is_closed() else self._loop.call_later(delay, call)

    def _wake(self, reader: Reader[Any]) -> None:
        reader._readable.set()

    def _answer(self, request: int, data: Any, error: Exception | None) -> None:
        future = self._answers.get(request)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(data)
        else:
            future.set_exception(error)

    def _connected(self) -> None:
        for opening in self._opening:
            if not opening.done():
                opening.set_result(None)

    def _closed(self, error: Exception | None) -> None:
        for opening in self._opening:
            if not opening.done():
                opening.set_exception(error or ClientClosed("the client is closed"))
        if self._ended is not None and not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(error)
                # Whoever asks hears of it; nobody has to.
                self._ended.exception()

    def _warn(self, text: str) -> None:
        _log.warning("%s", text)

    def _log_failure(self, text: str) -> None:
        _log.exception("%s", text)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _ask_for_token(
        self,
        purpose: object,
        function: Callable[[], Any],
        came: Callable[[object], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        async def ask() -> None:
            try:
                token = function()
                if inspect.isawaitable(token):
                    token = await token
            except Exception as error:
                failed(error)
            else:
                came(token)

        def forget(done: asyncio.Task[None]) -> None:
            if self._fetching.get(purpose) is done:
                del self._fetching[purpose]

        if (earlier := self._fetching.get(purpose)) is not None:
            earlier.cancel()
        self._fetching[purpose] = self._spawn(ask())
        self._fetching[purpose].add_done_callback(forget)

    def _dial(self, link: int) -> None:
        address = self._address
        proxy = proxy_for(address, self._proxy)
        if self._ssl is None and self._tls != Tls():
            self._ssl = tls.create_default_context(cafile=self._tls.ca_file)
            if self._tls.cert_file is not None:
                self._ssl.load_cert_chain(self._tls.cert_file, self._tls.key_file)
        options: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
        opening = connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=self._headers,
            proxy=None if proxy is None else proxy.url,
            open_timeout=None,
            ping_interval=None,
            close_timeout=_CLOSE_TIMEOUT,
            max_size=_MAX_SIZE,
            create_connection=Socket,
            **options,
        )
        self._links[link] = Link()
        self._links[link].task = self._spawn(self._live(self._core, link, self._links[link], opening))

    def _send(self, link: int, text: bytes) -> None:
        if (open_link := self._links.get(link)) is not None:
            open_link.outgoing.put_nowait(text)

    def _hang_up(self, link: int, code: int, reason: str, abort: bool) -> None:
        if (open_link := self._links.get(link)) is not None:
            open_link.hang_up(code, reason, abort)

    async def _live(self, core: ClientCore, number: int, link: Link, opening: connect) -> None:
        """One socket, from its opening to its end; the core hears of it under its number."""
        code: int | None = None
        reason, status = "", None
        lasting: Exception | None = None
        try:
            async with opening as socket:
                assert isinstance(socket, Socket)
                link.socket = socket
                socket.on_part = lambda: core.progressed(number, self._now())
                core.opened(number, self._now())
                self._pump()
                writer = asyncio.get_running_loop().create_task(link.write())
                try:
                    async for text in socket:
                        core.received(number, text, self._now())
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
            reason = repr(error)
            lasting = lasting_error(error)
        finally:
            self._links.pop(number, None)
        self._lost(core, number, code, reason, status, lasting)
