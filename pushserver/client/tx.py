"""The client for Twisted, on Autobahn: a Service whose requests are Deferreds and whose readers are callables.

::

    client = ClientService("ws://127.0.0.1:8080/ws", token=token, reactor=reactor)
    client.subscribe("news", lambda message: print(message.data))
    client.startService()
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

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
from pushserver.client.errors import ClientClosed
from pushserver.client.feeds import Feed
from pushserver.client.messages import ChatReceipt, History, Position, Presence, Published, Push, TaskState, Welcome

T = TypeVar("T")

_STATUS = re.compile(r"\[(\d{3})\]|\((\d{3}) ")


class _Protocol(WebSocketClientProtocol):  # type: ignore[misc]
    """One socket: tells the service what happens, under its number."""

    factory: _Factory

    def onOpen(self) -> None:
        self.factory.service._opened(self.factory.link, self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.service._received(self.factory.link, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # 1005 and 1006 never travel (RFC 6455 section 7.4.1): no code came.
        told = None if code in (1005, 1006) else code
        refused = None if told is not None else _STATUS.search(reason or "")
        status = int(next(filter(None, refused.groups()))) if refused else None
        self.factory.service._closed(self.factory.link, told, reason or "", status)


class _Factory(WebSocketClientFactory):  # type: ignore[misc]
    protocol = _Protocol
    noisy = False

    def __init__(self, service: ClientService, link: int, url: str, headers: Mapping[str, str], reactor: Any) -> None:
        super().__init__(url, protocols=["pushserver.v1.json"], headers=dict(headers), reactor=reactor)
        self.service = service
        self.link = link
        self.setProtocolOptions(
            # The core bounds the handshake, the closing and the silence.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=2,
            autoPingInterval=0,
            perMessageCompressionOffers=[PerMessageDeflateOffer()],
            perMessageCompressionAccept=_accept_compression,
        )


def _accept_compression(response: Any) -> Any:
    return PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None


class Reading:
    """One reader: `ready` fires when the server has confirmed, `done` when reading is over.

    `done` fails with SubscriptionEnded or Disconnected where the server ended it, and with the callable's own failure
    where that failed; reading ends then, and an inbox message is not acknowledged.
    """

    def __init__(
        self, service: ClientService, feed: Feed, hear: Callable[[Push], Any], acks: bool, until_final: bool
    ) -> None:
        self.done: Deferred[None] = Deferred()
        self._service = service
        self._feed = feed
        self._hear = hear
        self._acks = acks
        self._until_final = until_final
        self._waiting: list[Deferred[None]] = []
        self._busy = False
        self._over = False

    def ready(self) -> Deferred[None]:
        if self._feed.confirmed:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    @property
    def recovered(self) -> bool | None:
        """Whether the server could continue at the given position; None where none was asked for."""
        return self._feed.recovered

    def close(self) -> None:
        """Stop reading. The last reader of a channel ends the subscription."""
        self._finish(None)

    def _run(self) -> None:
        if self._feed.confirmed:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)
        if self._busy or self._over:
            return
        push = self._service._take(self._feed)
        if push is None:
            ended = self._feed.ended
            if ended is not None:
                self._finish(None if isinstance(ended, ClientClosed) else Failure(ended))  # type: ignore[no-untyped-call]
            return
        self._busy = True
        heard = maybeDeferred(self._hear, push)
        heard.addCallbacks(self._heard, self._finish, callbackArgs=(push,))

    def _heard(self, _: Any, push: Push) -> None:
        self._busy = False
        if self._acks and push.position is not None:
            self._service._ack(push.position)
        if self._until_final and (state := push.task) is not None and state.final:
            self._finish(None)
            return
        # The next one in a turn of its own: a long backlog must not be a deep recursion, nor hold the reactor.
        self._service._later(self)

    def _finish(self, failure: Failure | None) -> None:
        if self._over:
            return
        self._over = True
        self._service._close_reading(self, self._feed)
        ended = failure or Failure(ClientClosed("no longer read"))  # type: ignore[no-untyped-call]
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(ended)
        if failure is None:
            self.done.callback(None)
        else:
            self.done.errback(failure)


class ClientService(Service):
    """One connection to a push server that stays: it comes back, resumes, refreshes its token, acknowledges.

    `token` is a token, or a callable that returns a fresh one or a Deferred of it; None for a server that allows
    anonymous connections. `endpoint` replaces the one that the URL names, for Unix sockets and proxies.
    """

    _log = Logger()

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], Any] | None = None,
        reactor: Any = None,
        positions: Mapping[str, Position] | None = None,
        options: Options | None = None,
        headers: Mapping[str, str] | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        on_state: Callable[[State], None] | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as running

            reactor = running
        self._url = url
        self._reactor = reactor
        self._token = token if callable(token) else None
        self._headers = dict(headers or {})
        self._endpoint = endpoint if endpoint is not None else self._endpoint_of(url)
        self._on_state = on_state
        self._core = ClientCore(
            options or Options(),
            random=random.random,
            new_id=lambda: uuid.uuid4().hex,
            token=token if isinstance(token, str) else None,
            can_fetch=callable(token),
            positions=dict(positions or {}),
        )
        self._anchor = time.time() - reactor.seconds()
        self._readings: dict[int, Reading] = {}
        self._answers: dict[int, Deferred[Any]] = {}
        self._dialing: dict[int, Deferred[Any]] = {}
        self._sockets: dict[int, _Protocol] = {}
        self._alarm: IDelayedCall | None = None
        self._pumping = False
        self._connecting: list[Deferred[Welcome | None]] = []
        self._stopping: Deferred[None] | None = None
        #: fires when the client is closed for good, and fails with Disconnected where the server forbade to come back
        self.ended: Deferred[None] = Deferred()

    # Life

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._core.start(self._now())
        self._pump()

    def stopService(self) -> Deferred[None]:
        """Acknowledge what is due and close the socket; fires when it is closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._core.stop(self._now())
        stopping: Deferred[None] = Deferred()
        self._stopping = stopping
        self._pump()
        for dialing in list(self._dialing.values()):
            dialing.cancel()
        self._stopped()
        return stopping

    def when_connected(self) -> Deferred[Welcome | None]:
        """Fires at the next successful authentication, at once where there is one; fails once that cannot come."""
        if self._core.state is State.CONNECTED:
            return succeed(self._core.welcome)
        waiting: Deferred[Welcome | None] = Deferred()
        if self._core.state is State.CLOSED:
            waiting.errback(ClientClosed("the client is closed"))
        else:
            self._connecting.append(waiting)
        return waiting

    @property
    def state(self) -> State:
        return self._core.state

    @property
    def welcome(self) -> Welcome | None:
        """What the server said at the newest authentication."""
        return self._core.welcome

    def positions(self) -> dict[str, Position]:
        """Where the subscribed channels with history stand: give it to the `positions` of a later client."""
        return self._core.positions()

    # Reading

    def subscribe(self, channel: str, hear: Callable[[Push], Any], *, since: Position | None = None) -> Reading:
        """Call `hear` with each message of a channel; where it returns a Deferred, the next waits for it."""
        return self._read(self._core.subscribe(channel, self._now(), since), hear)

    def inbox(self, hear: Callable[[Push], Any]) -> Reading:
        """Call `hear` with each message to the user; it is acknowledged when that has returned (or its Deferred)."""
        return self._read(self._core.open_inbox(), hear, acks=True)

    def task(self, task_id: str, hear: Callable[[TaskState], Any]) -> Reading:
        """Call `hear` with one task's states; reading is done after the final one."""
        return self._read(self._core.subscribe(f"task:{task_id}", self._now()), _with_task(hear), until_final=True)

    def tasks(self, hear: Callable[[TaskState], Any]) -> Reading:
        """Call `hear` with the states of all the user's own tasks."""
        return self._read(self._core.open_tasks(), _with_task(hear))

    # Asking

    def publish(
        self, channel: str, data: Any, *, type: str | None = None, message_id: str | None = None
    ) -> Deferred[Published]:
        return self._call(calls.publish(channel, data, type, message_id or self._core.message_id()))

    def chat(
        self,
        content: str,
        *,
        to: str | int | None = None,
        channel: str | None = None,
        type: str | None = None,
        message_id: str | None = None,
    ) -> Deferred[ChatReceipt]:
        return self._call(calls.chat(content, to, channel, type, message_id or self._core.message_id()))

    def history(
        self, channel: str, *, limit: int | None = None, since: Position | None = None, reverse: bool = False
    ) -> Deferred[History]:
        return self._call(calls.history(channel, limit, since, reverse))

    def presence(self, channel: str) -> Deferred[Presence]:
        return self._call(calls.presence(channel))

    def get_task(self, task_id: str) -> Deferred[TaskState]:
        return self._call(calls.task_get(task_id))

    def cancel_task(self, task_id: str) -> Deferred[TaskState]:
        return self._call(calls.task_cancel(task_id))

    # The inside

    def _endpoint_of(self, url: str) -> IStreamClientEndpoint:
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme == "wss"
        endpoint = HostnameEndpoint(self._reactor, host, parts.port or (443 if secure else 80))
        if not secure:
            return endpoint
        from twisted.internet.ssl import optionsForClientTLS

        return wrapClientTLS(optionsForClientTLS(host), endpoint)

    def _now(self) -> int:
        # The epoch once, then a clock that never jumps: a corrected wall clock must not look like silence.
        return int((self._anchor + self._reactor.seconds()) * 1000)

    def _read(
        self, feed: Feed, hear: Callable[[Push], Any], *, acks: bool = False, until_final: bool = False
    ) -> Reading:
        reading = Reading(self, feed, hear, acks, until_final)
        self._readings[id(feed)] = reading
        self._later(reading)
        self._pump()
        return reading

    def _later(self, reading: Reading) -> None:
        self._reactor.callLater(0, reading._run)

    def _take(self, feed: Feed) -> Push | None:
        push = self._core.take(feed, self._now())
        self._pump()
        return push

    def _ack(self, position: Position) -> None:
        self._core.ack(position, self._now())
        self._pump()

    def _close_reading(self, reading: Reading, feed: Feed) -> None:
        self._readings.pop(id(feed), None)
        self._core.close_feed(feed, self._now())
        self._pump()

    def _call(self, call: calls.Call[T]) -> Deferred[T]:
        number = self._core.request(call, self._now())

        def cancelled(_: Deferred[Any]) -> None:
            self._answers.pop(number, None)
            self._core.forget(number)

        answer: Deferred[Any] = Deferred(cancelled)
        self._answers[number] = answer
        self._pump()
        return answer.addCallback(call.convert)

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
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        deadline = self._core.deadline()
        if deadline is not None and self._core.state is not State.CLOSED:
            delay = max(0.0, (deadline - self._now()) / 1000)
            self._alarm = self._reactor.callLater(delay, self._tick)

    def _tick(self) -> None:
        self._alarm = None
        self._core.tick(self._now())
        self._pump()

    def _carry_out(self, effect: Any) -> None:
        match effect:
            case Transmit(link, text):
                if (socket := self._sockets.get(link)) is not None:
                    socket.sendMessage(text)
            case Readable(feed):
                if (reading := self._readings.get(id(feed))) is not None:
                    self._later(reading)
            case Answered(request, data):
                if (answer := self._answers.pop(request, None)) is not None:
                    answer.callback(data)
            case Failed(request, error):
                if (answer := self._answers.pop(request, None)) is not None:
                    answer.errback(error)
            case Connect(link):
                self._dial(link)
            case Hangup(link, code, reason, abort):
                self._hang_up(link, code, reason, abort)
            case FetchToken():
                self._fetch_token()
            case Changed(state):
                self._changed(state)
            case Ended(error):
                self._over(error)

    def _dial(self, link: int) -> None:
        factory = _Factory(self, link, self._url, self._headers, self._reactor)
        dialing = self._endpoint.connect(factory)
        self._dialing[link] = dialing

        def connected(protocol: _Protocol) -> None:
            del self._dialing[link]
            self._sockets[link] = protocol

        def failed(failure: Failure) -> None:
            self._dialing.pop(link, None)
            self._closed(link, None, failure.getErrorMessage(), None)

        dialing.addCallbacks(connected, failed)
        dialing.addErrback(lambda failure: self._log.failure("dialing failed", failure))

    def _hang_up(self, link: int, code: int, reason: str, abort: bool) -> None:
        if (dialing := self._dialing.get(link)) is not None:
            dialing.cancel()
        elif (socket := self._sockets.get(link)) is not None:
            if abort or socket.state != socket.STATE_OPEN:
                socket.transport.abortConnection()
            else:
                socket.sendClose(code, reason)

    def _fetch_token(self) -> None:
        assert self._token is not None

        def fetched(token: str) -> None:
            self._core.token(token, self._now())
            self._pump()

        def failed(failure: Failure) -> None:
            self._log.warn("no token: {reason}", reason=failure.getErrorMessage())
            self._core.token_failed(f"no token: {failure.getErrorMessage()}", self._now())
            self._pump()

        fetching = maybeDeferred(self._token)
        fetching.addCallbacks(fetched, failed)
        fetching.addErrback(lambda failure: self._log.failure("the fetched token could not be used", failure))

    def _opened(self, link: int, socket: _Protocol) -> None:
        self._sockets[link] = socket
        self._core.opened(link, self._now())
        self._pump()

    def _received(self, link: int, payload: bytes) -> None:
        self._core.received(link, payload, self._now())
        self._pump()

    def _closed(self, link: int, code: int | None, reason: str, status: int | None) -> None:
        self._sockets.pop(link, None)
        self._core.closed(link, self._now(), code, reason, status)
        self._pump()
        self._stopped()

    def _stopped(self) -> None:
        closed = self._core.state is State.CLOSED and not self._sockets and not self._dialing
        if self._stopping is not None and closed:
            stopping, self._stopping = self._stopping, None
            stopping.callback(None)

    def _changed(self, state: State) -> None:
        if state is State.CONNECTED:
            waiting, self._connecting = self._connecting, []
            for deferred in waiting:
                deferred.callback(self._core.welcome)
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception:
                self._log.failure("on_state failed")

    def _over(self, error: Exception | None) -> None:
        waiting, self._connecting = self._connecting, []
        for deferred in waiting:
            deferred.errback(error or ClientClosed("the client is closed"))
        if error is None:
            self.ended.callback(None)
        else:
            self._log.warn("the push server forbade to come back: {reason}", reason=str(error))
            self.ended.errback(error)
        self._stopped()


def _with_task(hear: Callable[[TaskState], Any]) -> Callable[[Push], Any]:
    def heard(push: Push) -> Any:
        state = push.task
        return hear(state) if state is not None else None

    return heard
