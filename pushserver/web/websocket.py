"""The WebSocket door: Autobahn reads the frames, everything else happens in the rooms (L3).

    Doorway -> WebSocketDoor (Autobahn: handshake, frames in) -> Conversation -> rooms
    rooms -> Connection.say / Outbox -> socket                    (Autobahn's own writes go the same way)

What Autobahn does for every connection and nobody here reads (copied options, debug texts, timers) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_urlsafe
from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.logger import Logger

from pushserver import errors
from pushserver.connection import Connection, Dialect
from pushserver.conversation import Conversation
from pushserver.delivery import Mark, Outbox, Policy
from pushserver.errors import Close, Invalid
from pushserver.heartbeat import Heartbeat
from pushserver.hub import Hub
from pushserver.requests import Requests
from pushserver.session import Rates, Session
from pushserver.stats import Counters
from pushserver.web.doorway import Head
from pushserver.wire import frames
from pushserver.wire.native import SUBPROTOCOL, Deflated, Plain

#: Characters of a User-Agent that are kept for the lists of connections.
MAX_USER_AGENT: Final = 200
#: A client's compression window is asked down to this where it offers to, so that inflating costs little memory.
CLIENT_WINDOW: Final = 12
#: A connection id is this many random bytes.
ID_BYTES: Final = 12

#: Frames of one message: pieces cost more than what is in them, and empty ones would never add up to too large.
MAX_FRAGMENTS: Final = 4_096

_BEARER: Final = "bearer."


class Offer:
    """What an upgrade request offers: the protocols it named, and a token that came with it."""

    __slots__ = ("protocol", "token")

    def __init__(self, head: Head) -> None:
        """Raises `errors.Invalid` for a token among the subprotocols without the protocol beside it: there would be
        nothing to accept, and browsers then fail the connection without a word."""
        offered = [p.strip() for p in head.headers.get("sec-websocket-protocol", "").split(",") if p.strip()]
        bearer = next((p for p in offered if p.startswith(_BEARER)), None)
        self.protocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        if bearer is not None and self.protocol is None:
            raise Invalid(f"a bearer subprotocol needs {SUBPROTOCOL} beside it")
        scheme, _, credentials = head.headers.get("authorization", "").partition(" ")
        self.token: str | None = None
        if bearer is not None:
            self.token = bearer.removeprefix(_BEARER)
        elif scheme.lower() == "bearer" and credentials.strip():
            self.token = credentials.strip()


class _Quiet:
    """Autobahn's logger, saying nothing: what matters is logged once, by us, without what clients sent."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._nothing

    @staticmethod
    def _nothing(*args: object, **named: object) -> None:
        pass


class WebSocketDoor(WebSocketServerProtocol):  # type: ignore[misc]
    """One WebSocket. Autobahn's callbacks are translated; its output goes through the connection's outbox."""

    # Options are the class's, not copied onto each instance (`WebSocketDoorFactory` sets them).
    CONFIG_ATTRS = ()
    log = _Quiet()

    _log = Logger()

    _fragments = 0

    connection: Connection | None = None
    _conversation: Conversation | None = None
    _outbox: Outbox | None = None
    _paused = False

    def __init__(self, house: WebSocketDoorFactory, offer: Offer, address: str, user_agent: str) -> None:
        super().__init__()
        self._house = house
        self._offer = offer
        self._address = address
        self._agent = user_agent

    # -- Autobahn's side: the handshake -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        house = self._house
        self._outbox = Outbox(self.transport, house.max_queue_size, house.policy, self._left_out)
        super().connectionMade()

    def onConnect(self, request: Any) -> str | None:
        return self._offer.protocol

    def succeedHandshake(self, res: Any) -> None:
        # A client that has left meanwhile must not be opened (Autobahn would).
        if self.state != self.STATE_CONNECTING:
            return
        try:
            super().succeedHandshake(res)
        except Exception:
            # Autobahn calls this from a Deferred that nobody watches.
            self._log.failure("opening a WebSocket failed")
            self.transport.abortConnection()

    def onOpen(self) -> None:
        house = self._house
        assert self._outbox is not None
        session = Session(house.rates, house.now(), house.anonymous)
        connection = self.connection = Connection(
            token_urlsafe(ID_BYTES),
            house.dialect(self._perMessageCompress),
            self,
            self._outbox,
            session.notify,
            address=self._address,
            user_agent=self._agent,
            protocol=SUBPROTOCOL,
            now=house.now(),
            counters=house.counters,
        )
        self._conversation = Conversation(connection, session, house.requests, house.counters, house.now)
        house.requests.arrive(connection)
        if self._offer.token is not None:
            self._conversation.sign_in(self._offer.token)
        del self._offer, self._address, self._agent

    # -- Autobahn's side: frames in -----------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        connection = self.connection
        if connection is not None:
            connection.heard_at = self._house.now()
            connection.pinged_at = 0
        self._dataReceived(data)

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
        connection, conversation = self.connection, self._conversation
        if connection is None or conversation is None:
            return
        if isBinary:
            connection.close(errors.BAD_REQUEST)
        else:
            conversation.receive(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        connection, conversation = self.connection, self._conversation
        self.connection = self._conversation = None
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
        if self.state == self.STATE_OPEN and outbox is not None:
            outbox.interject(frames.HEARTBEAT)
            # While it is us who do not read, because the engine is slow, nothing can be heard of the client.
            return not self._paused or outbox.stalled
        return True

    def hang_up(self, close: Close, discard: bool) -> None:
        connection = self.connection
        if discard and self._outbox is not None:
            self._outbox.discard()
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=close.code, reasonUtf8=frames.cut(close.reason))
        if connection is not None:
            self._goodbye(connection)

    def _goodbye(self, connection: Connection) -> None:
        if self._conversation is not None:
            self._conversation.end()
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

    def _left_out(self, mark: Mark) -> None:
        if self.connection is not None:
            self._house.hub.left_out(self.connection, mark)


class WebSocketDoorFactory(WebSocketServerFactory):  # type: ignore[misc]
    """Makes the doors, and holds what they share."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        hub: Hub,
        requests: Requests,
        heartbeat: Heartbeat,
        counters: Counters,
        now: Callable[[], int],
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
        self.now = now
        self.rates = rates
        self.anonymous = anonymous
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
            perMessageCompressionAccept=self._accept,
        )
        options = {name: getattr(self, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
        options["perMessageCompressionAccept"] = staticmethod(self._accept)
        self._door = type("WebSocketDoor", (WebSocketDoor,), options)

    def door(self, head: Head, address: str) -> WebSocketDoor:
        """The protocol for an admitted upgrade. Raises `errors.Invalid` for an offer that cannot be met."""
        agent = head.headers.get("user-agent", "")[:MAX_USER_AGENT]
        protocol: WebSocketDoor = self._door(self, Offer(head), address, agent)
        protocol.factory = self
        return protocol

    def dialect(self, compression: Any) -> Dialect:
        """How to speak to a connection with this negotiated compression: one object for all with the same."""
        if compression is None:
            return self._plain
        window = compression.server_max_window_bits
        if window not in self._deflated:
            self._deflated[window] = Deflated(window, self._compression_min_size)
        return self._deflated[window]

    def _accept(self, offers: Sequence[Any]) -> PerMessageDeflateOfferAccept | None:
        """The first offer that can be met (RFC 7692 section 7): never with context between our messages."""
        if not self._compression:
            return None
        for offer in offers:
            # zlib cannot make a raw deflate window of 2^8.
            if isinstance(offer, PerMessageDeflateOffer) and offer.request_max_window_bits != 8:
                return PerMessageDeflateOfferAccept(
                    offer,
                    request_no_context_takeover=True,
                    request_max_window_bits=CLIENT_WINDOW if offer.accept_max_window_bits else 0,
                    no_context_takeover=True,
                    window_bits=offer.request_max_window_bits or None,
                )
        return None
