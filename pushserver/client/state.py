"""A client's states, and what can be chosen about its behaviour."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from pushserver.client.backoff import Backoff, Retry


class State(StrEnum):
    """Where the connection stands; `core` has the picture."""

    IDLE = "idle"
    WAITING = "waiting"
    FETCHING = "fetching"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    CONNECTED = "connected"
    CLOSING = "closing"
    CLOSED = "closed"


class Options(Struct, frozen=True):
    """What `Settings` says, in milliseconds: the core's own unit, and the older way to choose."""

    backoff: Backoff = Backoff()
    #: returns in a row without a successful authentication; None: without end
    max_attempts: int | None = None
    #: to open a socket and authenticate
    connect_timeout: int = 10_000
    #: for one request, over as many connections as that takes
    request_timeout: int = 60_000
    #: requests that may wait for a connection
    max_queued: int = 1_000
    #: messages that may wait for one reader before it falls behind
    max_pending: int = 10_000
    #: requests a second and at once, under the server's default limits of 50 and 100
    rate: float = 45.0
    burst: int = 90
    #: for one call of the token function
    token_timeout: int = 30_000


class Settings(Struct, frozen=True, kw_only=True):
    """How a client behaves. Durations are seconds.

    connect_timeout: to open a socket and authenticate; what takes longer has as much again from each part that comes.
    request_timeout: for one request, over as many connections as that takes. token_timeout: for one call of the token
    function. retry: the waits between two attempts. max_attempts: attempts in a row that may come to nothing before the
    client gives up; None: without end. max_queued: requests that may wait for a connection. max_pending: messages that
    may wait for one reader before it falls behind. rate, burst: requests a second and at once, under the server's
    default limits of 50 and 100.
    """

    connect_timeout: float = 10.0
    request_timeout: float = 60.0
    token_timeout: float = 30.0
    retry: Retry = Retry()
    max_attempts: int | None = None
    max_queued: int = 1_000
    max_pending: int = 10_000
    rate: float = 45.0
    burst: int = 90

    def options(self) -> Options:
        """Return the same in the core's milliseconds."""
        return Options(
            backoff=self.retry.backoff(),
            max_attempts=self.max_attempts,
            connect_timeout=int(self.connect_timeout * 1000),
            request_timeout=int(self.request_timeout * 1000),
            max_queued=self.max_queued,
            max_pending=self.max_pending,
            rate=self.rate,
            burst=self.burst,
            token_timeout=int(self.token_timeout * 1000),
        )
