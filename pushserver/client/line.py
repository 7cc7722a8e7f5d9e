"""What the core's rooms (requests, channels, inbox, tasks, cursor) see of the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from pushserver.client.effects import Effect
from pushserver.client.messages import Frame
from pushserver.client.state import Options

#: Refusals that pass.
PASSING: Final = frozenset({"RATE_LIMITED", "UNAVAILABLE", "INTERNAL_ERROR"})
#: Milliseconds until something refused in passing is tried again, where the server does not say.
RETRY: Final = 2_000

Done = Callable[[Frame, int], None]


class CoreLine(Protocol):
    """The connection, as narrow as the rooms need it."""

    options: Options

    @property
    def connected(self) -> bool: ...

    @property
    def server_ahead(self) -> int:
        """Milliseconds by which the server's clock is ahead of the core's."""

    def ask_time(self) -> None:
        """Ask the server for its time: `server_ahead` is right from its answer on."""

    def check_open(self) -> None:
        """Raise ClientClosed where nothing can be asked any more."""

    def emit(self, effect: Effect) -> None: ...

    def transmit(self, message: dict[str, Any]) -> None:
        """Send one message on the present link."""

    def ask(self, type: str, data: Any, now: int, done: Done) -> int:
        """Send a request of the core's own and return its number; it dies with its link."""

    def jitter(self, most: int) -> int: ...

    def reconnect(self, now: int, reason: str) -> None:
        """Leave this link for a new one, soon."""
