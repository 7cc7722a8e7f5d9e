"""The WebSocket door: Autobahn reads the frames, everything else happens in the rooms (L3).

    PortProtocol -> WebSocketDoor (Autobahn: handshake, frames in) -> Conversation -> rooms
    rooms -> Connection.say / Outbox -> socket                    (Autobahn's own writes go the same way)

What Autobahn does for every connection and nobody here reads (copied options, debug texts, timers) is left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from secrets import token_urlsafe
from typing import Any, Final

from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.core.errors import Close
from pushserver.core.protocol import Dialect
from pushserver.protocols import rfc6455
from pushserver.protocols.native.framing import SUBPROTOCOL, Deflated, Plain
from pushserver.protocols.native.session import Rates, Session
from pushserver.server.client_requests import ClientRequests
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection
from pushserver.server.heartbeat import Heartbeat
from pushserver.server.hub import Hub
from pushserver.server.inbound import Inbound
from pushserver.server.outbox import Mark, Outbox, Policy, no_delay
from pushserver.server.stats import Counters
from pushserver.web.handshake import Deflation, Offer
from pushserver.web.port import Head

#: Characters of a User-Agent that are kept for the lists of connections.
MAX_USER_AGENT: Final = 200
#: A connection id is this many random bytes.
ID_BYTES: Final = 12

#: Frames of one message: pieces cost more than what is in them, and empty ones would never add up to too large.
MAX_FRAGMENTS: Final = 4_096


class _Quiet:
    """Autobahn's logger, saying nothing: what matters is logged once, by us, without what clients sent."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._nothing

    @staticmethod
    def _nothing(*args: object, **named: object) -> None:
        pass


class _Unheard:
    """A Deferred of Autobahn's that nobody waits for."""

    def callback(self, result: object) -> None:
        pass


class Inflation:
    """A client's compressed messages (RFC 7692), each by itself: between two of them nothing is kept.

    Autobahn feeds it, and bounds what comes out.
    """

    EXTENSION_NAME = "permessage-deflate"

    __slots__ = ("_inflate", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._inflate: Any = None

    def start_decompress_message(self) -> None:
        self._inflate = zlib.decompressobj(-self._window)

    def decompress_message_data(self, data: bytes, max_output_len: int | None) -> bytes:
        # zlib takes 0 for no bound; one byte too many is as good.
        bound = max(1, max_output_len or 0)
        try:
            octets: bytes = self._inflate.decompress(data, bound)
        except zlib.error as problem:
            raise PayloadCorruptError(str(problem)) from None
        if self._inflate.unconsumed_tail or len(octets) > (max_output_len or 0):
            raise PayloadExceededError("the message is too large")
        return octets

    def end_decompress_message(self) -> None:
        inflate, self._inflate = self._inflate, None
        try:
            inflate.decompress(b"\x00\x00\xff\xff")
        except zlib.error as problem:
            raise PayloadCorruptError(str(problem)) from None


class WebSocketDoor(WebSocketServerProtocol):  # type: ignore[misc]
    """One WebSocket. Autobahn's callbacks are translated; its output goes through the connection's outbox."""

    # What Autobahn would give each instance stands here once, for all (`WebSocketDoorFactory` adds the options): a
    # connection has attributes of its own only for what is its own, few enough that its instances share their keys.
    CONFIG_ATTRS = ()
    log = _Quiet()
    is_open = is_closed = _Unheard()
    trafficStats = TrafficStats()
    send_state = WebSocketServerProtocol.SEND_STATE_GROUND
    state = WebSocketServerProtocol.STATE_CONNECTING
    websocket_version = 13
    trackedTimings = None
    data = b""
    current_frame: Any = None
    current_frame_masker: Any = None
    inside_message = False
    frame_data: Any = None
    control_frame_data: Any = None
    message_data: Any = None
    _isMessageCompressed = False
    _perMessageCompress: Inflation | None = None
    utf8validateIncomingCurrentMessage = False
    wasMaxFramePayloadSizeExceeded = wasMaxMessagePayloadSizeExceeded = False
    closedByMe = failedByMe = droppedByMe = wasClean = False
    wasServerConnectionDropTimeout = wasOpenHandshakeTimeout = wasCloseHandshakeTimeout = False
    wasServingFlashSocketPolicyFile = False
    wasNotCleanReason = None
    localCloseCode = localCloseReason = remoteCloseCode = remoteCloseReason = None
    openHandshakeTimeoutCall = closeHandshakeTimeoutCall = None
    autoPingTimeoutCall = autoPingPending = autoPingPendingCall = None

    _log = Logger()

    _fragments = 0

    _house: WebSocketDoorFactory
    connection: Connection | None = None
    _inbound: Inbound | None = None
    _outbox: Outbox | None = None
    _paused = False

    def __init__(self, offer: Offer, address: str, user_agent: str) -> None:
        # Autobahn's own makes Deferreds and dictionaries that nobody looks at here.
        self._arrival: tuple[Offer, str, str] | None = (offer, address, user_agent)

    # -- the way in ---------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The offer was found good: answers it, and the WebSocket is open."""
        assert self._arrival is not None
        (offer, address, user_agent), self._arrival = self._arrival, None
        house = self._house
        outbox = self._outbox = Outbox(self.transport, house.max_queue_size, house.policy, self)
        no_delay(self.transport)
        house.countConnections += 1
        if offer.deflation is not None:
            self._perMessageCompress = Inflation(offer.deflation.client_window)
        outbox.write(offer.response)
        self.state = self.STATE_OPEN
        session = Session(house.rates, house.anonymous)
        connection = self.connection = Connection(
            token_urlsafe(ID_BYTES),
            house.dialect(offer.deflation),
            self,
            outbox,
            session.notify,
            address=address,
            user_agent=user_agent,
            protocol=SUBPROTOCOL,
            connected_at=house.clock.now(),
            counters=house.counters,
        )
        self._inbound = Inbound(connection, session, house.requests, house.counters, house.clock)
        house.requests.arrive(connection)
        if offer.token is not None:
            self._inbound.sign_in(offer.token)

    # -- Autobahn's side: frames in -----------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        connection = self.connection
        if connection is not None:
            connection.pinged_at = 0
            if not self.data and self.current_frame is None and not self.inside_message:
                data = self._ordinary(connection, data)
        if data:
            self._dataReceived(data)

    def _ordinary(self, connection: Connection, data: bytes) -> bytes:
        """Handles the ordinary messages at the beginning of what was read, and answers the rest.

        Ordinary is a whole text message in one masked frame of a length in its shortest form, in valid UTF-8 and of
        allowed size: what Autobahn's general way would hand over unchanged. Everything else is left to that.
        """
        conversation, outbox = self._inbound, self._outbox
        assert conversation is not None
        assert outbox is not None
        at, end = 0, len(data)
        corked = False
        while end - at >= 6 and data[at] == 0x81 and self.state == self.STATE_OPEN:
            size, head = data[at + 1] & 0x7F, 6
            if size == 126:
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 8
                if size < 126:
                    break
            if size > self._house.max_message_size:
                break
            if data[at + 1] < 0x80 or (size > 126 and head == 6) or at + head + size > end:
                break
            mask = data[at + head - 4 : at + head]
            payload = data[at + head : at + head + size]
            if mask != b"\0\0\0\0":
                key = (mask * (size // 4 + 1))[:size]
                payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
            try:
                payload.decode()
            except UnicodeDecodeError:
                break
            at += head + size
            if at < end and not corked:
                # There is more to answer: the answers leave together.
                corked = True
                outbox.cork()
            conversation.receive(payload)
        if corked:
            outbox.uncork()
        return data[at:] if at else data

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        if self._fragments:
            self._fragments = 0

    def onMessageFrameEnd(self) -> None:
        super().onMessageFrameEnd()
        if not self.current_frame.fin:
            self._fragments += 1
            if self._fragments >= MAX_FRAGMENTS and not self.failedByMe:
                self._max_message_size_exceeded(self._fragments, MAX_FRAGMENTS, "a message in too many fragments")

    def onPing(self, payload: bytes) -> None:
        # A client that does not read gets no pongs either: they would wait here without bound. The latest ping alone
        # needs an answer (RFC 6455 section 5.5.3), and it is the one after which the client reads.
        if self._outbox is not None and not self._outbox.stalled and self.state == self.STATE_OPEN:
            self.sendPong(payload)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        connection, conversation = self.connection, self._inbound
        if connection is None or conversation is None:
            return
        if isBinary:
            connection.close(errors.BAD_REQUEST)
            return
        try:
            payload.decode()
        except UnicodeDecodeError:
            self._invalid_payload("a text message that is not UTF-8")
        else:
            conversation.receive(payload)

    def onMessageEnd(self) -> None:
        if not self.failedByMe:
            self.onMessage(b"".join(self.message_data), self.message_is_binary)
        self.message_data = None

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        connection, conversation = self.connection, self._inbound
        self.connection = self._inbound = None
        if self._outbox is not None:
            self._outbox.close()
        if connection is None or conversation is None:
            return
        conversation.end()
        closing = connection.closing
        self._house.counters.connection_closed(self.closed_with(closing, code))
        self._house.requests.leave(connection)
        self._house.heartbeat.forget(connection)

    def closed_with(self, closing: Close | None, code: int | None) -> int:
        """The code that a close is counted under: ours, or the one the protocol failed with, or the client's."""
        if closing is not None:
            return closing.code
        return int(self.localCloseCode if self.failedByMe and self.localCloseCode else code or 1005)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        over: bool | None = super().onCloseFrame(code, reasonRaw)
        connection = self.connection
        if connection is not None and connection.closing is None:
            # The client has said its last word: nothing of it stays, however long its socket takes to end.
            connection.closing = Close(self.closed_with(None, code), "")
            self._goodbye(connection)
        return over

    # -- Autobahn's side: out -----------------------------------------------------------------------------------------

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        if self._outbox is not None:
            self._outbox.write(data)

    def _closeConnection(self, abort: bool = False) -> None:
        if self._outbox is not None:
            self._outbox.finish()
        # After a clean closing handshake there is nothing to abort, and a reset could overtake our last frame.
        if abort and not self.wasClean:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        """A violation of RFC 6455: the client is told the code and nothing of what it sent is handled any more."""
        super()._fail_connection(code, reason)
        connection = self.connection
        if connection is not None and connection.closing is None:
            connection.closing = Close(code, reason)
            self._goodbye(connection)

    # -- our side: `connection.Line` ----------------------------------------------------------------------------------

    def ping(self) -> bool:
        outbox = self._outbox
        if self.state == self.STATE_OPEN and outbox is not None and self.connection is not None:
            outbox.write_first(self.connection.dialect.ping())
            outbox.moved = False
            # While it is us who do not read, because the engine is slow, nothing can be heard of the client.
            return not self._paused or outbox.stalled
        return True

    def moves(self) -> bool:
        outbox = self._outbox
        if outbox is None or not outbox.moved:
            return False
        outbox.moved = False
        return True

    def hang_up(self, close: Close, discard: bool) -> None:
        connection = self.connection
        if discard and self._outbox is not None:
            self._outbox.discard()
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=close.code, reasonUtf8=rfc6455.cut(close.reason))
        if connection is not None:
            self._goodbye(connection)

    def _goodbye(self, connection: Connection) -> None:
        if self._inbound is not None:
            self._inbound.end()
        self._house.requests.leave(connection)
        self._house.heartbeat.closing(connection)

    def abort(self) -> None:
        self.transport.abortConnection()

    def pause(self) -> None:
        self._paused = True
        if self.connection is not None and self._outbox is not None and not self._outbox.stalled:
            self.connection.pinged_at = 0
        self.transport.pauseProducing()

    def resume(self) -> None:
        self._paused = False
        if self.state != self.STATE_CLOSED:
            self.transport.resumeProducing()

    # -- `delivery.Owner` ---------------------------------------------------------------------------------------------

    def left_out(self, mark: Mark) -> None:
        if self.connection is not None:
            self._house.hub.left_out(self.connection, mark)

    def route_changed(self) -> None:
        if self.connection is not None:
            self._house.hub.route_changed(self.connection)


class WebSocketDoorFactory(WebSocketServerFactory):  # type: ignore[misc]
    """Makes the doors, and holds what they share."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        hub: Hub,
        requests: ClientRequests,
        heartbeat: Heartbeat,
        counters: Counters,
        clock: Clock,
        *,
        rates: Rates,
        anonymous: bool,
        max_message_size: int,
        max_queue_size: int,
        policy: Policy,
        compression: bool,
        compression_min_size: int,
    ) -> None:
        super().__init__(protocols=[SUBPROTOCOL], server="", reactor=reactor)
        self.hub = hub
        self.requests = requests
        self.heartbeat = heartbeat
        self.counters = counters
        self.clock = clock
        self.rates = rates
        self.anonymous = anonymous
        self.max_message_size = max_message_size
        self.max_queue_size = max_queue_size
        self.policy = policy
        self._compression = compression
        self._compression_min_size = compression_min_size
        self._plain: Dialect = Plain()
        self._deflated: dict[int, Dialect] = {}
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxMessagePayloadSize=max_message_size,
            maxFramePayloadSize=0,
            failByDrop=False,
            echoCloseCodeReason=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            tcpNoDelay=True,
            allowedOrigins=["*"],
            allowNullOrigin=True,
            utf8validateIncoming=False,
        )
        options = {name: getattr(self, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
        # Only here: what was accepted is `Offer`'s to say.
        del options["perMessageCompressionAccept"]
        options |= {"factory": self, "_house": self}
        self._door = type("WebSocketDoor", (WebSocketDoor,), options)

    def door(self, head: Head, address: str) -> WebSocketDoor:
        """The protocol for an admitted upgrade. Raises `errors.Invalid` for an offer that cannot be met."""
        agent = head.headers.get("user-agent", "")[:MAX_USER_AGENT]
        protocol: WebSocketDoor = self._door(Offer(head, self._compression), address, agent)
        return protocol

    def dialect(self, deflation: Deflation | None) -> Dialect:
        """How to speak to a connection with this negotiated compression: one object for all with the same."""
        if deflation is None:
            return self._plain
        window = deflation.server_window
        if window not in self._deflated:
            self._deflated[window] = Deflated(window, self._compression_min_size)
        return self._deflated[window]
