"""The native protocol as a door offers it. Pure."""

from __future__ import annotations

from pushserver.core.rate_limit import Rates
from pushserver.protocols.native.framing import SUBPROTOCOL, Deflated, Plain
from pushserver.protocols.native.session import NativeSession


class NativeEndpoint:
    """The path on which the native protocol is spoken (`core.protocol.Endpoint`)."""

    subprotocols = (SUBPROTOCOL,)

    def __init__(self, path: str, protocol: NativeProtocol) -> None:
        self.path = path
        self._protocol = protocol

    def choose(self, subprotocol: str | None, query: str) -> NativeProtocol:
        return self._protocol


class NativeProtocol:
    """Makes sessions and dialects (`core.protocol.ClientProtocol`).

    Args:
        rates: what each connection may send.
        anonymous: whether who has not signed in may ping.
        compression_min_size: messages of fewer bytes are sent uncompressed.
    """

    subprotocol = SUBPROTOCOL
    binary = False

    def __init__(self, rates: Rates, anonymous: bool, compression_min_size: int) -> None:
        self._rates = rates
        self._anonymous = anonymous
        self._compression_min_size = compression_min_size
        self._plain = Plain()
        self._deflated: dict[int, Deflated] = {}

    def session(self) -> NativeSession:
        return NativeSession(self._rates, self._anonymous)

    def dialect(self, window: int | None) -> Plain:
        """Return the dialect for a compression window: one object for all connections with the same."""
        if window is None:
            return self._plain
        if window not in self._deflated:
            self._deflated[window] = Deflated(window, self._compression_min_size)
        return self._deflated[window]
