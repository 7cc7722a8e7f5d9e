"""One socket of the asyncio client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidHandshake, InvalidMessage, ProxyError
from websockets.protocol import Event

from pushserver.client.errors import Disconnected


class Socket(ClientConnection):
    """A connection that calls `on_part` for octets that complete nothing."""

    on_part: Callable[[], None] | None = None
    _is_whole = False

    def data_received(self, data: bytes) -> None:
        self._is_whole = False
        super().data_received(data)
        if not self._is_whole and self.on_part is not None:
            self.on_part()

    def process_event(self, event: Event) -> None:
        self._is_whole = True
        super().process_event(event)


class Link:
    """One socket's outgoing side."""

    __slots__ = ("hung_up", "outgoing", "socket", "task")

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[bytes | tuple[int, str]] = asyncio.Queue()
        self.socket: ClientConnection | None = None
        self.task: asyncio.Task[None] | None = None
        self.hung_up = False

    async def write(self) -> None:
        assert self.socket is not None
        while True:
            item = await self.outgoing.get()
            if isinstance(item, tuple):
                await self.socket.close(*item)
                return
            await self.socket.send(item, text=True)

    def hang_up(self, code: int, reason: str, abort: bool) -> None:
        self.hung_up = True
        if self.socket is None:
            if self.task is not None:
                self.task.cancel()
        elif abort:
            self.socket.transport.abort()
        else:
            self.outgoing.put_nowait((code, reason))


def lasting_error(error: Exception) -> Exception | None:
    """Return what an attempt that failed for no matter of the network ends the client with; None where it may pass."""
    if not _is_lasting(error):
        return None
    if isinstance(error, InvalidHandshake):
        # Who uses the client need not know whose exceptions these are.
        ended = Disconnected(None, f"no push server is there: {error}")
        ended.__cause__ = error
        return ended
    return error


def _is_lasting(error: Exception) -> bool:
    """Return whether an attempt failed for something that is no matter of the network."""
    if isinstance(error, ssl.SSLError):
        # Python has it that a certificate which is not trusted is an OSError.
        return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    if isinstance(error, InvalidMessage):
        # The peer left, or it never spoke HTTP.
        return not isinstance(error.__cause__, EOFError)
    return not isinstance(error, OSError | TimeoutError | EOFError | ProxyError)
