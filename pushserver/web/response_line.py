"""The endless answer to an HTTP request, as a connection's way out: what event streams of all protocols share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.web.server import Request

from pushserver.core import errors
from pushserver.core.errors import Close
from pushserver.core.operations import Notice
from pushserver.core.protocol import Dialect, Session
from pushserver.server.connection import Connection, Peer
from pushserver.server.heartbeat import AT_WILL
from pushserver.server.inbound import Inbound
from pushserver.server.outbox import Outbox
from pushserver.server.waiting import Mark
from pushserver.web.context import Context
from pushserver.web.http import headers_of
from pushserver.web.port import peer_address

if TYPE_CHECKING:
    from pushserver.server.connection import Line

#: Characters of a User-Agent that are kept for the lists of connections.
_MAX_USER_AGENT: Final = 200


class Body:
    """The body of a response, as an outbox writes it: from `cut` on, what is written goes nowhere."""

    __slots__ = ("_request", "cut")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.cut = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._request.registerProducer(producer, streaming)

    def write(self, octets: bytes) -> None:
        if not self.cut:
            self._request.write(octets)

    def __getattr__(self, name: str) -> Any:  # Any: of the socket under the response
        return getattr(self._request.transport, name)


class Spoken(NamedTuple):
    """What is spoken in one answer. ``name``: what lists of connections call it."""

    name: str
    dialect: Dialect
    session: Session


class _NoLine:
    """The `Line` of a connection whose answer has ended."""

    def identified(self) -> None: ...

    def ping(self) -> bool:
        return False

    def moves(self) -> bool:
        return False

    def hang_up(self, close: Close, discard: bool) -> None: ...

    def abort(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


_NO_LINE: Final = _NoLine()


def _notify_nobody(notice: Notice, now: int, message_id: str) -> None: ...


class ResponseLine:
    """The `Line` of a connection that is the answer to a request, and its outbox' owner.

    Args:
        connection_id: what the connection is called.
        farewell: returns what says in the answer that it ends, and why: HTTP has no close code.
        ended: called once, when the answer has ended, by the client or by us, with the close's code. Neither refers to
            this object.
    """

    def __init__(
        self,
        context: Context,
        request: Request,
        connection_id: str,
        spoken: Spoken,
        farewell: Callable[[Close], bytes],
        ended: Callable[[int], None],
    ) -> None:
        self._context = context
        self._request = request
        self._farewell = farewell
        self._has_ended = ended
        headers = headers_of(request)
        self.body = Body(request)
        self.outbox = Outbox(self.body, context.sections.delivery.max_queue_size, context.policy, self)
        address = context.admission.address(peer_address(request.transport), headers)
        peer = Peer(address, headers.get("user-agent", "")[:_MAX_USER_AGENT], spoken.name, context.clock.now())
        line: Line = self
        self.connection = Connection(
            connection_id, spoken.dialect, line, self.outbox, self._send_notice, peer, context.counters
        )
        self.inbound = Inbound(
            self.connection,
            spoken.session,
            context.rooms.requests,
            context.counters,
            context.clock,
            context.rooms.hub.turns,
            context.rooms.hub.long_replies,
        )
        self._ended = False
        self.code = 1005

    def _send_notice(self, notice: Notice, now: int, message_id: str) -> None:
        self.inbound.notify(notice, now, message_id)

    # -- `connection.Line` --------------------------------------------------------------------------------------------

    def identified(self) -> None:
        """The request itself showed the token."""

    def ping(self) -> bool:
        # Nobody answers on a stream.
        outbox = self.outbox
        if outbox.stalled:
            # Whoever takes nothing of what waits for it is gone.
            outbox.watch()
            outbox.drained().addCallback(self._reads)
            return True
        if outbox.has_vanished:
            self.connection.close(errors.NO_HEARTBEAT, discard=True)
        else:
            outbox.write(self.connection.dialect.ping())
            outbox.watch()
        return False

    def _reads(self, _: None) -> None:
        self.connection.pinged_at = 0

    def moves(self) -> bool:
        return self.outbox.moves()

    def hang_up(self, close: Close, discard: bool) -> None:
        if discard or self.body.cut:
            self.outbox.discard()
            self.body.cut = False
        self.outbox.watch()
        self.outbox.write(self._farewell(self.connection.dialect.close(close)))
        self.code = close.code
        self.inbound.end()
        self._context.rooms.requests.leave(self.connection)
        self._context.rooms.heartbeat.closing(self.connection, close not in AT_WILL)
        self.outbox.drained().addCallback(lambda _: self._finish())

    def _finish(self) -> None:
        if not self._ended:
            self._request.unregisterProducer()
            self._request.finish()

    def abort(self) -> None:
        if not self._ended:
            channel: Any = self._request.channel
            channel.forceAbortClient()

    def pause(self) -> None:
        """Messages come in requests of their own: what is too much is refused there."""

    def resume(self) -> None: ...

    # -- `outbox.Owner` -----------------------------------------------------------------------------------------------

    def left_out(self, mark: Mark) -> None:
        self._context.rooms.hub.left_out(self.connection, mark)

    def route_changed(self) -> None:
        """An HTTP response is never written to past its channel."""

    def end(self) -> None:
        """The client, or we, ended the response."""
        if self._ended:
            return
        self._ended = True
        self.outbox.close()
        self.inbound.end()
        self._has_ended(self.code)
        self._context.counters.connection_closed(self.code)
        self._context.rooms.requests.leave(self.connection)
        self._context.rooms.heartbeat.forget(self.connection)
        # These refer to this answer too: circles, which may stay for hours, with all that it had.
        self.connection.line, self.connection.send_notice = _NO_LINE, _notify_nobody
        self._request.producer = None
