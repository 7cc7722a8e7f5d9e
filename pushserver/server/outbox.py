"""The way out of one connection: ready frames to its socket, and what waits where that is full.

Everything that leaves a connection goes through its `Outbox`, in order. Where nothing waits, a frame goes to the
socket at once (one system call, no turn of the reactor); what the socket did not take of it goes into the transport,
whose buffer cannot be taken back, and every later frame waits here, whole, until the transport has drained.

Two kinds of frames wait: those that were asked for (replies, notices, replay), which are never left out and do not
count, since whoever makes them waits for `Outbox.drained`; and live messages, which count against ``limit`` and meet
the `Policy` when they go over it.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from array import array
from collections.abc import Sequence
from enum import StrEnum
from itertools import repeat
from typing import Any, Final, Protocol

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer

from pushserver.server.waiting import Mark, WaitingFrames

#: Where Linux says of a TCP connection (``TCP_INFO``, linux/tcp.h) how many bytes the other side has acknowledged
#: (``tcpi_bytes_acked``), how many segments it has not (``tcpi_unacked``), and how often that was sent again
#: (``tcpi_retransmits``).
ACKNOWLEDGED: Final = slice(120, 128)
UNACKNOWLEDGED: Final = slice(24, 28)
SENT_AGAIN: Final = slice(2, 3)
#: Frames that wait are handed over in pieces of about this size: large enough for one system call to be worth it.
CHUNK: Final = 65536


class Policy(StrEnum):
    """What becomes of live messages that a connection cannot take in time; with ``latest`` only the newest of each
    channel and subject waits."""

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop_oldest"
    LATEST = "latest"


class Overflow(Exception):
    """More waits than may wait, and the policy is to disconnect."""


class Owner(Protocol):
    """Whose an outbox is, and who is told of what becomes of it."""

    def left_out(self, mark: Mark) -> None:
        """A live message was dropped."""

    def route_changed(self) -> None:
        """`Outbox.direct_socket` is another than before."""


@implementer(IPullProducer, IPushProducer)
class Outbox:
    """The way out of one connection.

    Args:
        transport: where the bytes go. The socket of a TCP or Unix connection of Twisted is written to directly (a
            socket that speaks TLS by itself too); anything else (TLS through memory, an HTTP response) through its
            ``write``, paced as its consumer interface says.
        limit: bytes of live messages that may wait.
        policy: what to do beyond that.
        owner: who is told of what is left out, and of when the way to the socket changed.
    """

    __slots__ = (
        "_ahead",
        "_closed",
        "_corked",
        "_direct",
        "_moved",
        "_owner",
        "_transport",
        "_waiters",
        "_waiting",
        "direct_socket",
        "limit",
        "policy",
        "stalled",
    )

    def __init__(
        self,
        transport: Any,  # Any: what is asked of a socket, and of a stream's body, has no interface in Twisted
        limit: int,
        policy: Policy,
        owner: Owner | None = None,
    ) -> None:
        self._transport = transport
        self._direct = isinstance(transport, tcp.Connection)
        #: whether frames wait for the socket
        self.stalled = False
        self._closed = False
        #: frames kept back by `cork`
        self._corked: list[bytes] | None = None
        self._waiting: WaitingFrames | None = None
        self._waiters: list[Deferred[None]] | None = None
        self._owner = owner
        self.limit = limit
        self.policy = policy
        #: whether something of what waited has gone since `watch` or `moves` was asked last
        self._moved = False
        #: how much the other side had taken then, and how much that is once it has all that it had been given before;
        #: None where it had
        self._ahead: tuple[int, int] | None = None
        #: the socket, while whole frames may be given to it and nothing is before them: a fan-out sends by itself then,
        #: and tells `rest` what was not taken. None while anything waits or is kept back, on a transport without
        #: one, and from the moment that the connection ends.
        self.direct_socket: socket.socket | None = transport.socket if self._direct else None
        if not self._direct:
            transport.registerProducer(self, True)

    @property
    def counted(self) -> int:
        """Return the bytes of live messages that wait."""
        return 0 if self._waiting is None else self._waiting.counted

    @property
    def has_vanished(self) -> bool:
        """Return whether nothing of what was on its way at `watch` was acknowledged: no network leads to the other side
        any more. False where nobody says."""
        before, now = self._ahead, progress(self._transport)
        return before is not None and now is not None and now[0] == before[0] and in_flight(self._transport)

    @property
    def sent_again(self) -> int:
        """Return how often the kernel has sent the same again, since nothing is acknowledged. 0 where nobody says."""
        return _of_tcp(self._transport, SENT_AGAIN) or 0

    @property
    def is_behind(self) -> bool:
        """Return whether the other side, when `watch` or `moves` was asked last, had yet to take what was before it."""
        return self._ahead is not None

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Send what was asked for; it may wait, and is never left out."""
        if self.stalled:
            self._wait(frame, None)
        else:
            self._put(frame)

    def push(self, frame: bytes, mark: Mark) -> bool:
        """Send a live message. False where it was left out, or others for it. Raises `Overflow`."""
        if self.stalled or self._closed:
            return self._push_waiting(frame, mark)
        self._put(frame)
        return True

    def write_first(self, frame: bytes) -> None:
        """Send a frame whose place among the others does not matter before all that waits."""
        if self.stalled and self._waiting:
            self._waiting.prepend(frame)
        else:
            self.write(frame)

    def write_next(self, frame: bytes) -> None:
        """Send a frame before all that waits, in place of the one that was sent so and waits still."""
        if self.stalled and not self._closed:
            self._waits().next = frame
        else:
            self.write(frame)

    def _put(self, frame: bytes) -> None:
        if self._closed:
            return
        direct = self.direct_socket
        if self._corked is not None:
            self._corked.append(frame)
        elif direct is not None:
            try:
                taken = direct.send(frame)
            except OSError as problem:
                taken = refused(problem)
            if taken != len(frame):
                self.rest(frame, taken)
        elif not self._direct:
            self._transport.write(frame)

    def cork(self) -> None:
        """Keep frames back until `uncork`, so that they leave together. Within one turn of the reactor only."""
        if not self.stalled and not self._closed:
            self._corked = []
            self.direct_socket = None

    def uncork(self) -> None:
        corked, self._corked = self._corked, None
        if corked is not None and not self._closed:
            self._reopen()
            if corked:
                self._put(b"".join(corked))

    def _reopen(self) -> None:
        """The socket may be written to directly again, unless the connection is ending."""
        transport = self._transport
        if self._direct and not self._closed and transport.connected and not transport.disconnecting:
            self.direct_socket = transport.socket

    def _route_changed(self) -> None:
        if self._owner is not None:
            self._owner.route_changed()

    def rest(self, frame: bytes, taken: int) -> None:
        """The socket took only so much of a frame: the rest goes when there is room, and everything else waits."""
        self.direct_socket = None
        self.stalled = True
        self._route_changed()
        transport = self._transport
        if taken < 0:
            # The connection is lost: Twisted notices by its own next write, so ask for one.
            transport.startWriting()
            return
        transport.write(frame[taken:])
        transport.registerProducer(self, False)

    def _wait(self, frame: bytes, mark: Mark | None) -> None:
        if not self._closed and frame:
            self._waits().append(frame, mark)

    def _waits(self) -> WaitingFrames:
        if self._waiting is None:
            self._waiting = WaitingFrames(self.policy is Policy.LATEST)
        return self._waiting

    def _push_waiting(self, frame: bytes, mark: Mark) -> bool:
        if self._closed:
            return False
        waiting, behind = self._waiting, set[str]()
        if waiting is not None:
            behind = self._report(waiting.leave_out_older(mark))
        excess = self.counted + len(frame) - self.limit
        if excess > 0:
            if self.policy is Policy.DISCONNECT:
                raise Overflow
            if waiting is not None:
                behind |= self._report(waiting.leave_out_oldest(excess))
            if self.counted + len(frame) > self.limit:
                self._leave_out(mark)
                return False
        if mark.channel in behind:
            return False  # it will be read again, together with what was left out before it
        self._wait(frame, mark)
        return True

    # -- leaving out --------------------------------------------------------------------------------------------------

    def drop_channel(self, channel: str) -> None:
        """Forget the waiting live messages of a channel: they will be read again, or nobody wants them any more."""
        if self._waiting is not None:
            self._waiting.leave_out_channel(channel)

    def _report(self, left_out: list[Mark]) -> set[str]:
        """Tell the owner; return the channels that keep messages and are now behind."""
        for mark in left_out:
            self._leave_out(mark)
        return {mark.channel for mark in left_out if mark.offset is not None}

    def _leave_out(self, mark: Mark) -> None:
        if self._owner is not None:
            self._owner.left_out(mark)

    # -- draining -----------------------------------------------------------------------------------------------------

    def drained(self) -> Deferred[None]:
        """Fires when nothing waits any more (or the connection is gone): whoever makes replay or replies waits here."""
        waiter: Deferred[None] = Deferred()
        if not self.stalled or self._closed:
            waiter.callback(None)
        else:
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
        return waiter

    def watch(self) -> None:
        """From now on `moves` tells of what is taken of all that was written until now."""
        self._moved = False
        self._ahead = _ahead(progress(self._transport))

    def moves(self) -> bool:
        """Return whether the other side took something since this was asked last, or since `watch`: of what was written
        before that, or of what waits.

        A long frame is taken bit by bit, and much that waits for nothing here waits in the kernel, before a slow
        network: it is the kernel that knows, for both ends of a TCP or Unix connection. Where it does not say, only the
        end of a frame counts.
        """
        moved, self._moved = self._moved, False
        before, now = self._ahead, progress(self._transport)
        self._ahead = _ahead(now) if self.stalled else None
        if before is None or now is None:
            # What has begun to wait since the last look is given the time until the next.
            return moved or self._ahead is not None
        taken, untaken = now
        if untaken and taken < before[1]:
            self._ahead = taken, before[1]
        return moved or not untaken or taken > before[0]

    def resumeProducing(self) -> None:
        """The transport's buffer is empty: hand over what waits, then let writers go on."""
        transport = self._transport
        if self._direct:
            if transport._tempDataLen or len(transport.dataBuffer) > transport.offset:
                return  # registerProducer asks at once; the rest of a frame is still there
            transport.unregisterProducer()
            self._reopen()
            self._route_changed()
        self._moved = True
        self.stalled = False
        while self._waiting and not self.stalled and not self._closed:
            pieces: list[bytes] = []
            size = 0
            while self._waiting and size < CHUNK:
                frame = self._waiting.take()
                pieces.append(frame)
                size += len(frame)
            self._put(b"".join(pieces))
        if not self.stalled:
            self._waiting = None
            self._release()

    def pauseProducing(self) -> None:
        self.stalled = True

    def stopProducing(self) -> None:
        self.close()

    def _release(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.called:
                waiter.callback(None)

    def discard(self) -> None:
        """Forget everything that waits; what the transport holds already still goes."""
        self._waiting = None
        if self._corked is not None:
            self._corked.clear()

    def finish(self) -> None:
        """The transport closes when what it holds is out: nothing more is handed to the socket past it, and of what
        waits the goodbye alone to it. All of that would be a copy of its own for each connection that ends."""
        self.uncork()
        if self._waiting is not None:
            self._transport.write(self._waiting.last)
            self._waiting = None
        self.direct_socket = None
        self._route_changed()

    def close(self) -> None:
        """The connection is gone: nothing is written any more, whoever waits goes on."""
        if not self._closed:
            self._closed = True
            self.direct_socket = None
            self._route_changed()
            self._owner = None
            self.discard()
            self._release()


def progress(transport: Any) -> tuple[int, int] | None:  # Any: as for `Outbox`
    """Return how many bytes of what a transport was given the other side has taken, counted from anywhere, and how many
    it has not; None where nobody says: on another system, or of a transport that is no socket."""
    size = array("i", [0])
    try:
        fcntl.ioctl(transport.fileno(), termios.TIOCOUTQ, size)
        untaken = size[0] + int(transport._tempDataLen) + len(transport.dataBuffer) - int(transport.offset)
    except (AttributeError, OSError, ValueError):
        return None
    acknowledged = _of_tcp(transport, ACKNOWLEDGED) if untaken else None
    return -untaken if acknowledged is None else acknowledged, untaken


def in_flight(transport: Any) -> bool:  # Any: as for `Outbox`
    """Return whether a TCP connection has sent something that is not acknowledged: not where it waits for the other
    side's room. False where nobody says."""
    return bool(_of_tcp(transport, UNACKNOWLEDGED))


def _of_tcp(transport: Any, field: slice) -> int | None:  # Any: as for `Outbox`
    """Return a number that the kernel has of a TCP connection; None of what is none, and on another system."""
    try:
        told: bytes = transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, field.stop)
    except (AttributeError, OSError, ValueError):
        return None
    return int.from_bytes(told[field], sys.byteorder)


def _ahead(now: tuple[int, int] | None) -> tuple[int, int] | None:
    return (now[0], sum(now)) if now is not None and now[1] else None


def refused(problem: OSError) -> int:
    """How much a socket took that raised this: nothing for now, or -1 where it is lost."""
    return 0 if isinstance(problem, BlockingIOError | InterruptedError) else -1


def send_each(sockets: Sequence[socket.socket], octets: bytes) -> list[int]:
    """Give the same octets to each socket, all of one class; return what each took: less where it is full, -1 where it
    is lost.

    The loop runs in C, without an instruction of Python's for each socket. A socket that raises ends ``extend``, which
    keeps what it had by then, and ``map`` goes on behind that socket.
    """
    taken: list[int] = []
    sending = map(type(sockets[0]).send, sockets, repeat(octets))
    while len(taken) < len(sockets):
        try:
            taken.extend(sending)
        except OSError as problem:
            taken.append(refused(problem))
    return taken


def no_delay(transport: object) -> None:
    """Frames are whole and small: they should not wait for each other in the kernel."""
    if isinstance(transport, tcp.Connection) and transport.socket.family in (socket.AF_INET, socket.AF_INET6):
        transport.setTcpNoDelay(True)
