"""The client for Twisted, on Autobahn: a Service whose requests are Deferreds and whose readers are callables.

::

    client = ClientService("ws://127.0.0.1:8080/ws", token=token, reactor=reactor)
    client.subscribe("news", lambda message: print(message.data))
    client.startService()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorCore, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.client import calls
from pushserver.client.address import Tls, proxy_for
from pushserver.client.clock import steady
from pushserver.client.core import ClientCore
from pushserver.client.errors import ClientClosed, ClientError, UserChanged
from pushserver.client.feeds import ReaderFeed
from pushserver.client.messages import (
    ChatReceipt,
    History,
    InboxChange,
    InboxPage,
    OutputChunk,
    Position,
    Presence,
    Published,
    Push,
    TaskState,
    Welcome,
)
from pushserver.client.shell import Setup, Shell, Timer
from pushserver.client.state import Options, Settings, State
from pushserver.client.tx_link import Factory, Link
from pushserver.client.tx_reading import Reading

T = TypeVar("T")


class ClientService(Shell[Reading], Service):
    """One connection to a push server that stays: it comes back, resumes, refreshes its token, acknowledges.

    `token` is a token, or a callable that returns a fresh one or a Deferred of it, and raises `Unauthorized` where
    there is none any more; None for a server that allows anonymous connections. `settings` chooses timeouts, waits and
    limits in seconds (`options` in milliseconds). `on_state` hears every change of state, `on_user_changed` that
    another user signed in, `on_inbox_changed` what other devices did to the inbox.

    A ``wss:`` address is verified against the system's certificates, or those in `ca_file`; `cert_file` and `key_file`
    are the client's own certificate. `proxy` is an HTTP proxy's URL, None for none, True for what the environment says.
    `endpoint` replaces all of these and the address's host, for Unix sockets and what else there is.

    A service that was stopped can be started again: its readers have ended, its positions are kept.
    """

    _log = Logger()

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], Any] | None = None,
        reactor: Any = None,
        positions: Mapping[str, Position] | None = None,
        settings: Settings | None = None,
        options: Options | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        proxy: str | bool | None = True,
        headers: Mapping[str, str] | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        on_state: Callable[[State], None] | None = None,
        on_user_changed: Callable[[UserChanged], None] | None = None,
        on_inbox_changed: Callable[[InboxChange], None] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as running

            reactor = running
        if clock is None:
            # A real reactor's seconds are the wall clock's; a test's `Clock` is the time there is.
            clock = steady if IReactorCore.providedBy(reactor) else reactor.seconds
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
        super().__init__(setup, clock, {})
        self._reactor = reactor
        self._tls = Tls(ca_file, cert_file, key_file)
        self._endpoint = endpoint
        self._links: list[Link] = []
        #: calls of token functions, by what they are for
        self._fetching: dict[object, Deferred[Any]] = {}
        self._connecting: list[Deferred[Welcome | None]] = []
        self._stopping: list[tuple[ClientCore, Deferred[None]]] = []
        #: fires when the client is closed for good, and fails with Disconnected where the server forbade to come back;
        #: another one after each start
        self.ended: Deferred[None] = Deferred()

    # Life

    def startService(self) -> None:
        """Connect, and stay connected. After the end of an earlier connection, begin anew."""
        super().startService()  # type: ignore[no-untyped-call]
        if self.state in (State.CLOSING, State.CLOSED):
            if self.state is State.CLOSING:
                self._core.abandon()
                self._pump()
            self._core = self._new_core(self._core.positions())
            self.ended = Deferred()
        self._core.start(self._now())
        self._pump()

    def stopService(self) -> Deferred[None]:
        """Acknowledge what is due and close the socket; fires when it is closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._core.stop(self._now())
        stopping: Deferred[None] = Deferred()
        self._stopping.append((self._core, stopping))
        self._pump()
        for link in list(self._links):
            if link.dialing is not None:
                link.dialing.cancel()
        self._stopped()
        return stopping

    def when_connected(self) -> Deferred[Welcome | None]:
        """Fires at the next successful authentication, at once where there is one; fails once that cannot come."""
        if self.state is State.CONNECTED:
            return succeed(self._core.welcome)
        if self.state is State.CLOSED:
            return fail(ClientClosed("the client is closed"))
        waiting: Deferred[Welcome | None] = Deferred()
        self._connecting.append(waiting)
        return waiting

    # Reading

    def subscribe(
        self,
        channel: str,
        hear: Callable[[Push], Any],
        *,
        since: Position | None = None,
        token: str | Callable[[], Any] | None = None,
    ) -> Reading:
        """Call `hear` with each message of a channel; where it returns a Deferred, the next waits for it.

        `token` is one for this channel alone, or a callable that returns a fresh one or a Deferred of it, is called
        again before that ends, and raises `Unauthorized` where there is none any more.
        """
        feed = self._core.subscribe(channel, self._now(), since, token)
        return self._reading(Reading(self, feed, hear))

    def inbox(self, hear: Callable[[Push], Any]) -> Reading:
        """Call `hear` with each message to the user; it is acknowledged when that has returned (or its Deferred)."""
        return self._reading(Reading(self, self._core.open_inbox(), hear, acks=True))

    def task(self, task_id: str, hear: Callable[[TaskState], Any]) -> Reading:
        """Call `hear` with one task's states; reading is done after the final one."""
        return self._task_reading(self._core.subscribe(f"task:{task_id}", self._now()), hear, False)

    def tasks(self, hear: Callable[[TaskState], Any], *, follow: bool = False) -> Reading:
        """Call `hear` with the states of all the user's own tasks.

        Reading is done when there has been a state and none is unfinished any more; with `follow` it goes on for tasks
        to come.
        """
        return self._task_reading(self._core.open_tasks(), hear, follow)

    def task_output(
        self, task_id: str, hear: Callable[[OutputChunk], Any], name: str = "main", *, since: Position | None = None
    ) -> Reading:
        """Call `hear` with what a task writes to one of its outputs: all that is kept, or what follows `since`.

        Each byte comes once and in order. Reading is done behind the chunk that is `closed`.
        """

        def receive(push: Push) -> Any:
            return hear(chunk) if (chunk := push.output) is not None else None

        def is_last(push: Push) -> bool:
            return push.output is not None and push.output.closed

        feed = self._core.open_output(task_id, name, self._now(), since)
        return self._reading(Reading(self, feed, receive, is_last=is_last))

    # Asking

    def request(self, type: str, data: Mapping[str, Any] | None = None) -> Deferred[Any]:
        """Send a message of any type of the protocol; fires with the data of its reply, or fails with RequestFailed."""
        return self._call(calls.raw(type, data, self._core.message_id()))

    def publish(
        self, channel: str, data: Any, *, type: str | None = None, message_id: str | None = None
    ) -> Deferred[Published]:
        """Publish as this user, where the channel allows it. Waits for a connection if there is none."""
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
        """Send a chat message: `to` a user, or to a ``chat:`` room (``chat:lobby`` where neither is given)."""
        return self._call(calls.chat(content, to, channel, type, message_id or self._core.message_id()))

    def history(
        self, channel: str, *, limit: int | None = None, since: Position | None = None, reverse: bool = False
    ) -> Deferred[History]:
        """Fires with kept messages of a channel, oldest first, or with `reverse` newest first."""
        return self._call(calls.history(channel, limit, since, reverse))

    def read_inbox(
        self, *, limit: int | None = None, before: Position | Push | None = None, unread: bool = False
    ) -> Deferred[InboxPage]:
        """Fires with what the inbox keeps, newest first: `limit` messages (50), older than `before`, or unread."""
        return self._call(calls.inbox(limit, before, unread))

    def mark_read(
        self,
        messages: Iterable[Position | Push | int] | None = None,
        *,
        up_to: Position | Push | int | None = None,
        read: bool = True,
    ) -> Deferred[InboxChange]:
        """Mark messages of the inbox as read on every device, or all up to one; with `read=False` as unread.

        They are messages, or their offsets in the inbox's present epoch. Acknowledging is another thing: it says that
        this program has them. Raises ValueError at once for what names no messages.
        """
        return self._call(calls.mark_read(calls.choice(messages, up_to, self._core.inbox_epoch), read))

    def delete_from_inbox(
        self,
        messages: Iterable[Position | Push | int] | None = None,
        *,
        up_to: Position | Push | int | None = None,
    ) -> Deferred[InboxChange]:
        """Delete messages of the inbox on every device, named as for `mark_read`."""
        return self._call(calls.delete_from_inbox(calls.choice(messages, up_to, self._core.inbox_epoch)))

    def presence(self, channel: str) -> Deferred[Presence]:
        """Fires with who is present in a channel."""
        return self._call(calls.presence(channel))

    def get_task(self, task_id: str) -> Deferred[TaskState]:
        """Fires with the present state of a task."""
        return self._call(calls.task_get(task_id))

    def cancel_task(self, task_id: str) -> Deferred[TaskState]:
        """Ask the worker to stop one's own task; it decides when."""
        return self._call(calls.task_cancel(task_id))

    # What the shell leaves to Twisted

    def _reading(self, reading: Reading) -> Reading:
        self._read(reading._feed, reading)
        self._wake(reading)
        return reading

    def _task_reading(self, feed: ReaderFeed, receiver: Callable[[TaskState], Any], follow: bool) -> Reading:
        def receive(push: Push) -> Any:
            state = push.task
            return receiver(state) if state is not None else None

        def is_last(push: Push) -> bool:
            return (state := push.task) is not None and self._is_last(feed, state, follow)

        return self._reading(Reading(self, feed, receive, is_last=is_last))

    def _call(self, call: calls.Call[T]) -> Deferred[T]:
        try:
            number = self._ask(call)
        except ClientError as error:
            return fail(error)

        def cancelled(_: Deferred[Any]) -> None:
            self._answers.pop(number, None)
            self._core.forget(number)

        answer: Deferred[Any] = Deferred(cancelled)
        self._answers[number] = answer
        self._pump()
        return answer.addCallback(call.convert)

    def _later(self, delay: float, call: Callable[[], None]) -> Timer:
        timer: Timer = self._reactor.callLater(delay, call)
        return timer

    def _wake(self, reader: Reading) -> None:
        self._reactor.callLater(0, reader._run)

    def _answer(self, request: int, data: Any, error: Exception | None) -> None:
        answer = self._answers.pop(request, None)
        if answer is None:
            return
        if error is None:
            answer.callback(data)
        else:
            answer.errback(error)

    def _dial(self, link: int) -> None:
        endpoint = self._endpoint or self._endpoint_of_address()
        opening = Link(self, self._core, link, self._link_closed)
        factory = Factory(opening, self._url, self._headers, self._reactor)
        self._links.append(opening)
        opening.dial(endpoint, factory)

    def _endpoint_of_address(self) -> IStreamClientEndpoint:
        address = self._address
        proxy = proxy_for(address, self._proxy)
        endpoint: IStreamClientEndpoint
        if proxy is None:
            endpoint = HostnameEndpoint(self._reactor, address.host, address.port)
        elif proxy.scheme == "http":
            from pushserver.client.tunnel import TunnelEndpoint

            endpoint = TunnelEndpoint(HostnameEndpoint(self._reactor, proxy.host, proxy.port), proxy, address)
        else:
            raise ValueError(f"no {proxy.scheme} proxy here: give an http:// proxy, or an endpoint")
        return wrapClientTLS(self._tls_options(address.host), endpoint) if address.secure else endpoint

    def _tls_options(self, host: str) -> Any:
        from twisted.internet import ssl

        tls = self._tls
        trusted = own = None
        if tls.ca_file is not None:
            with open(tls.ca_file, "rb") as file:
                trusted = ssl.trustRootFromCertificates(_certificates(file.read()))
        if tls.cert_file is not None:
            with open(tls.cert_file, "rb") as file, open(tls.key_file or tls.cert_file, "rb") as key:
                own = ssl.PrivateCertificate.loadPEM(file.read() + key.read())
        return ssl.optionsForClientTLS(host, trustRoot=trusted, clientCertificate=own)

    def _link_of(self, number: int) -> Link | None:
        return next((link for link in self._links if link.core is self._core and link.number == number), None)

    def _send(self, link: int, text: bytes) -> None:
        if (open_link := self._link_of(link)) is not None and open_link.socket is not None:
            open_link.socket.sendMessage(text)

    def _hang_up(self, link: int, code: int, reason: str, abort: bool) -> None:
        if (open_link := self._link_of(link)) is not None:
            open_link.hang_up(code, reason, abort)

    def _link_closed(self, link: Link) -> None:
        self._links.remove(link)
        self._stopped()

    def _ask_for_token(
        self,
        purpose: object,
        function: Callable[[], Any],
        came: Callable[[object], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        def refused(failure: Failure) -> None:
            if not failure.check(CancelledError):
                failed(failure.value)  # type: ignore[arg-type]

        def forget(result: Any) -> Any:
            if self._fetching.get(purpose) is fetching:
                del self._fetching[purpose]
            return result

        if (earlier := self._fetching.get(purpose)) is not None:
            earlier.cancel()
        # In a turn of its own: whoever starts the service must be able to wait for it.
        fetching = self._fetching[purpose] = deferLater(self._reactor, 0, maybeDeferred, function)
        fetching.addBoth(forget)
        fetching.addCallbacks(came, refused)
        fetching.addErrback(lambda failure: self._log.failure("the fetched token could not be used", failure))

    def _connected(self) -> None:
        waiting, self._connecting = self._connecting, []
        for deferred in waiting:
            deferred.callback(self._core.welcome)

    def _closed(self, error: Exception | None) -> None:
        for fetching in list(self._fetching.values()):
            fetching.cancel()
        waiting, self._connecting = self._connecting, []
        for deferred in waiting:
            deferred.errback(error or ClientClosed("the client is closed"))
        if error is None:
            self.ended.callback(None)
        else:
            self._warn(f"the connection has ended for good: {error}")
            self.ended.errback(error)
        self._stopped()

    def _stopped(self) -> None:
        """Tell those who wait for the end of a core whose sockets are closed."""
        open_cores = {id(link.core) for link in self._links}
        stopping, self._stopping = self._stopping, []
        for core, deferred in stopping:
            if core.state is State.CLOSED and id(core) not in open_cores:
                deferred.callback(None)
            else:
                self._stopping.append((core, deferred))

    def _warn(self, text: str) -> None:
        self._log.warn("{text}", text=text)

    def _log_failure(self, text: str) -> None:
        self._log.failure("{text}", text=text)


def _certificates(pem: bytes) -> list[Any]:
    """Return all certificates of a PEM file. Raises ValueError where it holds none."""
    from twisted.internet.ssl import Certificate

    end = b"-----END CERTIFICATE-----"
    found = [Certificate.loadPEM(part + end) for part in pem.split(end)[:-1]]
    if not found:
        raise ValueError("no certificate in the file")
    return found
