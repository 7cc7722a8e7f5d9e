"""The WebSocket door: octets become messages for the rooms, and what the rooms say goes to the socket.

    port -> WebSocketDoor (frames in: `autobahn_reader`, `rfc6455`) -> Inbound -> rooms
    rooms -> Connection -> Outbox -> socket              (Autobahn's own writes go the same way)

No socket holds the reactor for longer than `TURN`: what is left of a read waits for the next turn, and meanwhile
nothing more is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from secrets import token_urlsafe
from typing import Final

from pushserver.core import errors
from pushserver.core.errors import Close
from pushserver.core.operations import Notice
from pushserver.core.protocol import ClientProtocol, Endpoint
from pushserver.protocols import rfc6455
from pushserver.server.connection import Connection, Peer
from pushserver.server.heartbeat import AT_WILL
from pushserver.server.inbound import Inbound
from pushserver.server.outbox import Outbox, no_delay
from pushserver.server.waiting import Mark
from pushserver.web.autobahn_reader import PIECE, AutobahnFactory, AutobahnReader, Inflation
from pushserver.web.context import Context
from pushserver.web.endpoints import endpoints as configured_endpoints
from pushserver.web.handshake import Offer
from pushserver.web.port import Head

#: Characters of a User-Agent that are kept for the lists of connections.
MAX_USER_AGENT: Final = 200
#: A connection id is this many random bytes.
ID_BYTES: Final = 12

#: Seconds of one turn that one socket may take, and one without a token: there may be many of these at once.
TURN: Final = 0.002
STRANGERS_TURN: Final = 0.0005
#: Octets that are looked through for the other side's close frame once we have closed: what it said before it heard of
#: that, a message of any size counting as one piece.
CLOSING: Final = 4_096
#: Ordinary messages that are taken out of a read at a time.
AT_ONCE: Final = 16
#: Frames beyond the rate that end a connection, as so many refused messages in a row do.
MAX_FRAMES_OVER: Final = 100


class WebSocketDoor(AutobahnReader):
    """One WebSocket, from its accepted handshake on."""

    connection: Connection | None = None
    _factory: WebSocketDoorFactory
    #: who has something waiting for a later turn (`UserTurns.waiting`)
    _waiting_owners: Mapping[str, object]
    _inbound: Inbound | None = None
    _outbox: Outbox | None = None
    _paused = False
    #: what was received and not read yet
    _unread = b""
    #: a token was shown
    _identified = False
    #: octets that came after we closed
    _after_close = 0
    #: frames that may still come, and when that was reckoned, s; None while there were no others than ordinary ones
    _frames: tuple[float, float] | None = None

    #: whether the client's messages travel in binary frames
    _binary = False

    def __init__(self, offer: Offer, protocol: ClientProtocol, address: str, user_agent: str) -> None:
        super().__init__()
        self._arrival: tuple[Offer, ClientProtocol, str, str] | None = (offer, protocol, address, user_agent)

    def connectionMade(self) -> None:
        """The offer was found good: answer it, and the WebSocket is open."""
        assert self._arrival is not None
        (offer, protocol, address, user_agent), self._arrival = self._arrival, None
        factory = self._factory
        context = factory.context
        outbox = self._outbox = Outbox(
            self.transport, factory.context.sections.delivery.max_queue_size, factory.context.policy, self
        )
        no_delay(self.transport)
        outbox.write(offer.response)
        self.begin(None if offer.deflation is None else Inflation(offer.deflation.client_window))
        session = protocol.session()
        self._binary = protocol.binary
        connection = self.connection = Connection(
            token_urlsafe(ID_BYTES),
            protocol.dialect(None if offer.deflation is None else offer.deflation.server_window),
            self,
            outbox,
            self._send_notice,
            Peer(address, user_agent, protocol.subprotocol, context.clock.now()),
            context.counters,
        )
        self._inbound = Inbound(
            connection,
            session,
            context.rooms.requests,
            context.counters,
            context.clock,
            context.rooms.hub.turns,
            context.rooms.hub.long_replies,
        )
        context.rooms.requests.begin(connection)
        self._inbound.open(offer.token)

    # -- in -----------------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        connection = self.connection
        if connection is not None:
            connection.pinged_at = 0
        if self._unread:
            # TLS gives all that it had decrypted, also to who pauses.
            self._unread += data
        elif self._waiting_owners and connection is not None and connection.owner in self._waiting_owners:
            self._wait(data)
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Read until all is read, or this turn's time is over; what is answered meanwhile leaves together."""
        outbox = self._outbox
        corked = False
        seconds = self._factory.context.reactor.seconds
        at, end, until = 0, len(data), 0.0
        while not self.is_gone:
            payloads: list[bytes] = []
            if not self.is_up:
                # Nothing of it is handled: a flood is not even parsed to its end.
                if self._after_close > CLOSING:
                    break
                self._after_close += min(end - at, PIECE)
            elif self.between_frames:
                opcode = rfc6455.BINARY if self._binary else rfc6455.TEXT
                limit = self._factory.context.sections.server.max_message_size
                payloads, at = rfc6455.take_messages(data, at, opcode, limit, AT_ONCE)
            if payloads:
                if not corked and outbox is not None and (at < end or len(payloads) > 1):
                    corked = True
                    outbox.cork()
                self._receive(payloads)
            else:
                at = self.read(data, at)
            if at >= end:
                break
            if not until:
                until = seconds() + (TURN if self._identified else STRANGERS_TURN)
            elif seconds() >= until:
                self._wait(data[at:])
                break
        if corked and outbox is not None:
            outbox.uncork()

    def _wait(self, data: bytes) -> None:
        """Read this when it is its owner's turn, and nothing more before."""
        self._unread = data
        self.transport.pauseProducing()
        self._ask()

    def _ask(self) -> None:
        if self.connection is not None:
            self._factory.context.rooms.hub.turns.ask(self.connection.owner, self._go_on)

    def _go_on(self) -> None:
        if not self._unread or self._paused or self.is_gone:
            return
        data, self._unread = self._unread, b""
        self._take(data)
        if not self._unread and not self._paused and not self.is_gone:
            self.transport.resumeProducing()

    def _receive(self, payloads: list[bytes]) -> None:
        inbound = self._inbound
        for payload in payloads:
            if inbound is None or not self.is_up:
                break
            inbound.receive(payload)

    def on_message(self, payload: bytes, binary: bool) -> None:
        connection, inbound = self.connection, self._inbound
        if connection is None or inbound is None:
            return
        if binary is not self._binary:
            connection.close(errors.BAD_REQUEST)
            return
        if binary:
            inbound.receive(payload)
            return
        try:
            payload.decode()
        except UnicodeDecodeError:
            self.refuse_text()
        else:
            inbound.receive(payload)

    def on_ping(self, payload: bytes) -> None:
        # Of a client that does not read, pongs would wait here without bound: the latest ping alone needs its answer
        # (RFC 6455 section 5.5.3).
        if self._outbox is not None and self.is_up:
            self._outbox.write_next(rfc6455.frame(rfc6455.PONG, payload))

    def on_pong(self) -> None:
        if self._inbound is not None:
            self._inbound.answered()

    def on_frame(self) -> None:
        # Frames pay what messages pay: an empty ping costs as much to read as a message.
        rate = self._factory.context.rates.messages
        connection = self.connection
        if rate.per_second <= 0 or connection is None or connection.closing is not None:
            return
        now = self._factory.context.reactor.seconds()
        left, at = self._frames or (float(rate.burst), now)
        left = min(rate.burst, left + (now - at) * rate.per_second) - 1
        self._frames = (left, now)
        if left < -MAX_FRAMES_OVER:
            connection.close(errors.TOO_MANY_REQUESTS)

    # -- the end ------------------------------------------------------------------------------------------------------

    def on_close(self, code: int) -> None:
        connection, inbound = self.connection, self._inbound
        self.connection = self._inbound = None
        self._unread = b""
        self._factory.context.limits.places.leave(self.transport)
        if self._outbox is not None:
            self._outbox.close()
        if connection is None or inbound is None:
            return
        inbound.end()
        context = self._factory.context
        context.counters.connection_closed(code if connection.closing is None else connection.closing.code)
        context.rooms.requests.leave(connection)
        context.rooms.heartbeat.forget(connection)

    def on_goodbye(self, code: int) -> None:
        # Nothing of the client stays, however long its socket takes to end.
        self._end(Close(code, ""))

    def on_violation(self, code: int, reason: str) -> None:
        close, connection = Close(code, reason), self.connection
        if connection is not None and connection.open:
            connection.note_closed(close)
        self._end(close)

    def _end(self, close: Close) -> None:
        connection = self.connection
        if connection is not None and connection.closing is None:
            connection.closing = close
            self._goodbye(connection)

    def _goodbye(self, connection: Connection, patient: bool = False) -> None:
        if self._inbound is not None:
            self._inbound.end()
        self._factory.context.rooms.requests.leave(connection)
        self._factory.context.rooms.heartbeat.closing(connection, patient)

    # -- out ----------------------------------------------------------------------------------------------------------

    def _send_notice(self, notice: Notice, now: int, message_id: str) -> None:
        if self._inbound is not None:
            self._inbound.notify(notice, now, message_id)

    def write(self, octets: bytes) -> None:
        if self._outbox is not None:
            self._outbox.write(octets)

    def finish(self) -> None:
        if self._outbox is not None:
            self._outbox.finish()

    # -- `connection.Line` --------------------------------------------------------------------------------------------

    def identified(self) -> None:
        self._identified = True
        self._factory.context.limits.places.leave(self.transport)

    def ping(self) -> bool:
        outbox = self._outbox
        if self.is_up and outbox is not None and self.connection is not None:
            # What is before the ping has to be taken first.
            outbox.watch()
            outbox.write_first(self.connection.dialect.ping())
            if self._inbound is not None:
                self._inbound.pinged()
            # While it is us who do not read, because the engine is slow, nothing can be heard of the client.
            return not self._paused or outbox.stalled
        return True

    def moves(self) -> bool:
        return self._outbox is not None and self._outbox.moves()

    def hang_up(self, close: Close, discard: bool) -> None:
        connection, patient = self.connection, close not in AT_WILL
        if self._outbox is not None:
            if discard:
                self._outbox.discard()
            self._outbox.watch()
        if connection is not None:
            close = connection.dialect.close(close)
        self.close_with(close.code, close.reason)
        if connection is not None:
            self._goodbye(connection, patient)

    def abort(self) -> None:
        self.transport.abortConnection()

    def pause(self) -> None:
        self._paused = True
        if self.connection is not None and self._outbox is not None and not self._outbox.stalled:
            self.connection.pinged_at = 0
        self.transport.pauseProducing()

    def resume(self) -> None:
        self._paused = False
        if self._unread:
            self._ask()
        elif not self.is_gone:
            self.transport.resumeProducing()

    # -- `outbox.Owner` -----------------------------------------------------------------------------------------------

    def left_out(self, mark: Mark) -> None:
        if self.connection is not None:
            self._factory.context.rooms.hub.left_out(self.connection, mark)

    def route_changed(self) -> None:
        if self.connection is not None:
            self._factory.context.rooms.hub.route_changed(self.connection)


class WebSocketDoorFactory(AutobahnFactory):
    """Makes the doors, and holds what they share.

    Args:
        endpoints: makes the paths on which WebSockets are opened, by the context's sections.
    """

    def __init__(
        self, context: Context, endpoints: Callable[[Context], Sequence[Endpoint]] = configured_endpoints
    ) -> None:
        super().__init__(context.sections.server.max_message_size)
        self.context = context
        self._make = endpoints
        #: by their paths
        self.endpoints = {one.path: one for one in endpoints(context)}
        self._door = self.kind(WebSocketDoor, _factory=self, _waiting_owners=context.rooms.hub.turns.waiting)

    def adopt(self) -> None:
        """The context has other sections: go by them, also for the messages of who is here."""
        self.limit_messages(self._door, self.context.sections.server.max_message_size)
        self.endpoints |= {one.path: one for one in self._make(self.context) if one.path in self.endpoints}

    def door(self, head: Head, address: str) -> WebSocketDoor:
        """Return the protocol for an admitted upgrade. Raises `errors.Invalid` for an offer that cannot be met."""
        agent = head.headers.get("user-agent", "")[:MAX_USER_AGENT]
        endpoint = self.endpoints[head.path]
        offer = Offer(head, self.context.sections.delivery.compression, endpoint.subprotocols)
        spoken = endpoint.choose(offer.protocol, head.query)
        door: WebSocketDoor = self._door(offer, spoken, address, agent)
        return door
