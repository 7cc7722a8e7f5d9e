"""What a client protocol is to the rest of the server. Pure.

A protocol is a folder of `pushserver.protocols` that offers these three; nothing above or beside it knows its names.

    ClientProtocol    one object of the whole server: what the protocol is called, and how connections of it are made
    Session           one object for each connection: payloads in, effects out
    Dialect           one object for all connections that share frames: what they are sent
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pushserver.core.effects import Effect, Perform
from pushserver.core.errors import Close, PushError
from pushserver.core.operations import Notice, Outcome
from pushserver.core.positions import Position
from pushserver.core.publication import Publication


class Session(Protocol):
    """One connection's side of a protocol. `at` is ms of a clock that does not go back, `now` ms since the epoch."""

    def opened(self, connection_id: str, token: str | None) -> Sequence[Effect]:
        """Return what follows from the opened connection. ``token``: what came with the request that opened it."""

    def receive(self, payload: bytes, at: int, now: int) -> Sequence[Effect]:
        """Return what follows from one frame of the client, which arrived at ``at``, in order. Never raises."""

    def answer(self, asked: Perform, outcome: Outcome) -> Sequence[Effect]:
        """Return how the client is told what was carried out."""

    def fail(self, asked: Perform, problem: PushError, now: int) -> Sequence[Effect]:
        """Return how the client is told what could not be carried out."""

    def refuse(self, asked: Perform, problem: PushError, close: Close) -> Sequence[Effect]:
        """Return how the client is told of a failed authentication that ends the connection."""

    def notify(self, notice: Notice, now: int, message_id: str) -> Sequence[Effect]:
        """Return how the client is told what it did not ask for; no operation is among it."""

    def pinged(self, reached: Position | None) -> None:
        """The client is asked for a sign of life. ``reached``: how far it was sent its user's inbox before that; None
        where that cannot be told."""

    def answered(self) -> Sequence[Effect]:
        """Return what follows from the client's answer to a ping, where both were control frames."""


class Dialect(Protocol):
    """How one kind of client is spoken to. One object for all connections of the kind: they share its frames."""

    @property
    def name(self) -> str:
        """What the kind is called in lists of connections."""

    @property
    def first_ping(self) -> float:
        """The part of an interval that goes by in any case before a connection's first ping."""

    @property
    def takes_advice(self) -> bool:
        """Whether clients of the kind are told when to come back (`operations.GoingAway`), and keep to it."""

    def publication(self, publication: Publication) -> bytes:
        """Return the frame of a publication; empty where clients of the kind are not told of it."""

    def text(self, payload: bytes) -> bytes:
        """Return the frame of a reply or notice."""

    def ping(self) -> bytes:
        """Return the frame that asks the client for a sign of life: a control frame, or a message."""

    def close(self, close: Close) -> Close:
        """Return the code and reason by which the client is told of a close."""

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        """Return in JSON, for an operator who looks on, what came from a client (``inbound``) or goes to one; as it is
        where it cannot be read."""


class ClientProtocol(Protocol):
    """A protocol as a door for WebSockets offers it."""

    @property
    def subprotocol(self) -> str:
        """What it is called in ``Sec-WebSocket-Protocol``, and in lists of connections."""

    @property
    def binary(self) -> bool:
        """Whether its messages travel in binary frames rather than in text frames; the other kind is an error."""

    def session(self) -> Session:
        """Return a session for a new connection."""

    def dialect(self, window: int | None) -> Dialect:
        """Return the dialect for connections with this negotiated compression window (RFC 7692); None: without."""


class Endpoint(Protocol):
    """A path on which WebSockets are opened, and which protocol is spoken there."""

    @property
    def path(self) -> str:
        """The path, from its first slash on."""

    @property
    def subprotocols(self) -> Sequence[str]:
        """What a client may offer in ``Sec-WebSocket-Protocol``, the usual one first."""

    def choose(self, subprotocol: str | None, query: str) -> ClientProtocol:
        """Return what is spoken. ``subprotocol``: what was agreed on, None where the client offers none of these;
        ``query``: what stands behind the path's question mark."""
