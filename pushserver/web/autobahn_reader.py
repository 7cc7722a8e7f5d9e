"""Autobahn behind one adapter: frames in, four things out.

    octets -> `AutobahnReader.read` -> on_message, on_ping, on_pong, on_close, on_violation

All that is known of Autobahn's inside stands here, its private names in `PRIVATE`, which a test holds against the
installed version. What Autobahn does for every connection and nobody here reads (copied options, debug texts, timers)
is left out; so is its own adapter to Twisted, which loads all of WAMP before a server can start.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final

import txaio
from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.websocket.protocol import (
    TrafficStats,
    WebSocketProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from pushserver.protocols import rfc6455

#: Frames of one message: pieces cost more than what is in them, and empty ones would never add up to too large.
MAX_FRAGMENTS: Final = 128

#: Octets that are given to Autobahn at a time, unless the frame that has begun is longer: it copies what is left of
#: them with each frame.
PIECE: Final = 128

#: What is used of Autobahn that it does not document, by where it stands.
PRIVATE: Final = {
    WebSocketServerProtocol: (
        "CONFIG_ATTRS", "SEND_STATE_GROUND", "STATE_CONNECTING", "STATE_OPEN", "STATE_CLOSED", "_dataReceived",
        "_fail_connection", "_invalid_payload", "_max_message_size_exceeded", "onCloseFrame", "onFrameBegin",
        "onFrameData", "onFrameEnd", "onMessageBegin", "onMessageFrame", "onMessageFrameBegin", "onMessageFrameData",
        "onMessageFrameEnd", "sendCloseFrame", "sendData",
    ),
    WebSocketProtocol: ("_connectionLost",),
    WebSocketServerFactory: ("setProtocolOptions",),
}  # fmt: skip

# Autobahn's library for more than one kind of event loop is told its own.
txaio.use_twisted()


class _Quiet:
    """Autobahn's logger, saying nothing: what matters is logged once, by us, without what clients sent."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._nothing

    @staticmethod
    def _nothing(*args: object, **named: object) -> None:
        pass


class _Unmasking:
    """What takes the mask from one frame's payload, piece by piece.

    Autobahn's own is either slow, or loads a parser of C with the library, a tenth of the time that a server starts in.
    """

    __slots__ = ("_mask", "_read")

    def __init__(self, mask: bytes) -> None:
        self._mask = mask
        self._read = 0

    def pointer(self) -> int:
        """Return how many octets of the payload were read."""
        return self._read

    def process(self, data: bytes) -> bytes:
        turned = self._read % 4
        self._read += len(data)
        return rfc6455.unmasked(self._mask[turned:] + self._mask[:turned], data)


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
        if self._inflate is None:
            # The message's end was corrupt. Autobahn goes on with it where more comes in another piece.
            raise PayloadCorruptError("the message is corrupt")
        room = max(0, max_output_len or 0)
        try:
            # One byte more than there is room for shows that there is more: zlib may have read all and still hold some.
            octets: bytes = self._inflate.decompress(data, room + 1)
        except zlib.error as problem:
            raise PayloadCorruptError(str(problem)) from None
        if len(octets) > room:
            raise PayloadExceededError("the message is too large")
        return octets

    def end_decompress_message(self) -> None:
        inflate, self._inflate = self._inflate, None
        if inflate is None:
            raise PayloadCorruptError("the message is corrupt")
        try:
            inflate.decompress(b"\x00\x00\xff\xff")
        except zlib.error as problem:
            raise PayloadCorruptError(str(problem)) from None


class AutobahnReader(Protocol, WebSocketServerProtocol):  # type: ignore[misc]
    """The reading half of a WebSocket whose handshake is done, and its closing handshake.

    A subclass takes what was read (the ``on_…`` methods) and writes what is to be sent (`write`, `finish`).
    """

    transport: Any

    # What Autobahn would give each instance stands here once, for all (`options_of` adds the options): a connection has
    # attributes of its own only for what is its own, few enough that its instances share their keys.
    CONFIG_ATTRS = ()
    log = _Quiet()
    is_open = is_closed = _Unheard()
    trafficStats = TrafficStats()
    send_state = WebSocketServerProtocol.SEND_STATE_GROUND
    state = WebSocketServerProtocol.STATE_CONNECTING
    websocket_version = 13
    peer = None
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

    _fragments = 0

    def __init__(self) -> None:
        # Autobahn's own makes Deferreds and dictionaries that nobody looks at here.
        pass

    # -- for the subclass to fill -------------------------------------------------------------------------------------

    def on_message(self, payload: bytes, binary: bool) -> None:
        """A whole message that was not read as an ordinary one; a text need not be UTF-8."""
        raise NotImplementedError

    def on_ping(self, payload: bytes) -> None:
        raise NotImplementedError

    def on_pong(self) -> None:
        """The client answers a ping."""
        raise NotImplementedError

    def on_frame(self) -> None:
        """A frame, of whatever kind, that was not an ordinary message."""
        raise NotImplementedError

    def on_goodbye(self, code: int) -> None:
        """The client said its last word."""
        raise NotImplementedError

    def on_violation(self, code: int, reason: str) -> None:
        """The client broke RFC 6455, or a bound; it has been told the code."""
        raise NotImplementedError

    def on_close(self, code: int) -> None:
        """The socket is gone; ``code`` is the client's, or the one that the protocol failed with, or 1005."""
        raise NotImplementedError

    def write(self, octets: bytes) -> None:
        """Send this to the client."""
        raise NotImplementedError

    def finish(self) -> None:
        """What waits is to be sent at once, as far as it goes: the socket ends."""
        raise NotImplementedError

    # -- for the subclass to use --------------------------------------------------------------------------------------

    def begin(self, inflation: Inflation | None) -> None:
        """From now on frames come."""
        if inflation is not None:
            self._perMessageCompress = inflation
        self.state = self.STATE_OPEN

    @property
    def is_up(self) -> bool:
        """Whether messages may be sent and are handled."""
        return bool(self.state == self.STATE_OPEN)

    @property
    def is_gone(self) -> bool:
        return bool(self.state == self.STATE_CLOSED)

    @property
    def between_frames(self) -> bool:
        """Whether what comes next begins a message."""
        return not self.data and self.current_frame is None and not self.inside_message

    def read(self, data: bytes, at: int) -> int:
        """Read a piece of ``data`` from ``at`` on; return where the rest begins."""
        end = at + PIECE
        if self.current_frame is not None:
            end = max(end, at + self.current_frame.length - self.current_frame_masker.pointer() - len(self.data))
        self._dataReceived(data[at:end])
        held = 0
        while not self.is_up and not self.is_gone and len(self.data) not in (0, held):
            # Autobahn stops where it refused something. What it holds behind that may be the client's own close.
            held = len(self.data)
            self._dataReceived(b"")
        return min(end, len(data))

    def close_with(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        if self.is_up:
            self.sendCloseFrame(code=code, reasonUtf8=rfc6455.cut(reason))

    def refuse_text(self) -> None:
        """A text message was not UTF-8."""
        self._invalid_payload("a text message that is not UTF-8")

    # -- what Autobahn calls ------------------------------------------------------------------------------------------

    def onFrameBegin(self) -> None:
        if self.current_frame.mask:
            self.current_frame_masker = _Unmasking(self.current_frame.mask)
        super().onFrameBegin()

    def onFrameData(self, payload: bytes) -> bool | None:
        if self._isMessageCompressed and self.current_frame.opcode < rfc6455.CLOSE:
            self.message_data_total_length += len(payload)
        over: bool | None = super().onFrameData(payload)
        return over

    def onFrameEnd(self) -> bool | None:
        self.on_frame()
        over: bool | None = super().onFrameEnd()
        return over

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Not the server's own, which counts connections down that were not counted.
        WebSocketProtocol._connectionLost(self, reason)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        over: bool | None = super().onCloseFrame(code, reasonRaw)
        self.on_goodbye(self._code(code))
        return over

    def _code(self, code: int | None) -> int:
        return int(self.localCloseCode if self.failedByMe and self.localCloseCode else code or 1005)

    # What Autobahn leaves to an adapter of an event loop.

    def _onMessageBegin(self, isBinary: bool) -> None:
        self.onMessageBegin(isBinary)
        if self._fragments:
            self._fragments = 0

    def _onMessageFrameBegin(self, length: int) -> None:
        self.onMessageFrameBegin(length)
        if self._isMessageCompressed:
            # Autobahn counts all of a compressed frame here, and takes off what comes of each piece: what is still to
            # come would leave less room for what it becomes, by how the octets are cut. Each piece counts as it comes.
            self.message_data_total_length -= length

    _onMessageFrameData = WebSocketServerProtocol.onMessageFrameData
    _onMessageFrame = WebSocketServerProtocol.onMessageFrame

    def _onMessageFrameEnd(self) -> None:
        self.onMessageFrameEnd()
        if not self.current_frame.fin:
            self._fragments += 1
            if self._fragments >= MAX_FRAGMENTS and not self.failedByMe:
                self._max_message_size_exceeded(self._fragments, MAX_FRAGMENTS, "a message in too many fragments")

    def _onMessageEnd(self) -> None:
        if not self.failedByMe:
            self.on_message(b"".join(self.message_data), self.message_is_binary)
        self.message_data = None

    def _onPing(self, payload: bytes) -> None:
        self.on_ping(payload)

    def _onPong(self, payload: bytes) -> None:
        self.on_pong()

    def _onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.on_close(self._code(code))

    def unregisterProducer(self) -> None:
        self.transport.unregisterProducer()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        self.write(data)

    def _closeConnection(self, abort: bool = False) -> None:
        self.finish()
        # After a clean closing handshake there is nothing to abort, and a reset could overtake our last frame.
        if abort and not self.wasClean:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        # Whoever was told a code may still be sending. What is refused behind that is passed over: the end of its
        # socket would be a reset, and take the code from who did not read it yet.
        if self.is_up:
            super()._fail_connection(code, reason)
            self.on_violation(code, reason)


class AutobahnFactory(WebSocketServerFactory):  # type: ignore[misc]
    """What all readers share on Autobahn's side."""

    log = _Quiet()

    def __init__(self, max_message_size: int) -> None:
        super().__init__(server="")
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            # `_Unmasking` does.
            applyMask=False,
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

    def limit_messages(self, kind: type[Any], max_message_size: int) -> None:
        """Take messages of at most so many octets from all connections of a `kind`, also those that are open."""
        kind.maxMessagePayloadSize = max_message_size

    def kind(self, reader: type[AutobahnReader], **shared: Any) -> type[Any]:
        """Return a reader's class with Autobahn's options and what else all of them share."""
        options = {name: getattr(self, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
        # Only here: what was accepted is the handshake's to say.
        del options["perMessageCompressionAccept"]
        return type(reader.__name__, (reader,), options | {"factory": self} | shared)
