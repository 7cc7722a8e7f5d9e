"""Which channels are followed by anybody, on any node: told when the first comes, and a while after the last is gone.

Each node is entered once for a channel in the engine's presence, under a name that no channel has. So what a dead node
leaves behind is found, and told, as that of its users is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from pushserver.core.channels import Kind, Namespaces
from pushserver.core.errors import Unavailable
from pushserver.server.clock import Clock
from pushserver.server.events.maker import EventMaker
from pushserver.server.events.recorder import EventRecorder

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IDelayedCall

    from pushserver.engine.interfaces import IPresence

#: ms between the end of a channel's last subscription and the event.
VACATED_AFTER: Final = 5_000
#: What stands before a channel's name, and for its only user: no channel and no user is called so.
MARK: Final = "*"

#: Channels of these kinds are never told.
_UNTOLD: Final = frozenset({Kind.USER, Kind.TASK, Kind.OUTPUT, Kind.STATUS, Kind.SYSTEM, Kind.STATS})
_TYPES: Final = frozenset({"channel.occupied", "channel.vacated"})


class Occupancy:
    """The channels that this node follows, as the others see it. ``node``: this node's name."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        presence: IPresence,
        namespaces: Namespaces,
        maker: EventMaker,
        recorder: EventRecorder,
        node: str,
    ) -> None:
        self._clock = clock
        self._presence = presence
        self._namespaces = namespaces
        self._maker = maker
        self._recorder = recorder
        self._node = node
        #: entered in the engine; the call that will take a channel out, where nobody follows it here now
        self._registered: dict[str, IDelayedCall | None] = {}
        #: what the engine is being told of, one after the other for each channel
        self._notifying: dict[str, Deferred[None]] = {}

    @property
    def _told(self) -> bool:
        return bool(self._maker.types & _TYPES)

    def followed(self, channel: str) -> None:
        """Somebody follows the channel here."""
        if not self._told:
            return
        namespace = self._namespaces.find(channel)
        if namespace is None or namespace.kind in _UNTOLD:
            return
        if channel in self._registered:
            waiting = self._registered[channel]
            if waiting is not None:
                waiting.cancel()
                self._registered[channel] = None
            return
        self._registered[channel] = None
        self._notify(channel, self._register(channel))

    def deserted(self, channel: str) -> None:
        """Nobody follows the channel here any more."""
        if channel in self._registered and self._registered[channel] is None:
            self._registered[channel] = self._clock.later(VACATED_AFTER / 1000, self._leave_soon, channel)

    def _leave_soon(self, channel: str) -> None:
        del self._registered[channel]
        self._notify(channel, self._leave(channel))

    def _notify(self, channel: str, work: Coroutine[Deferred[object], object, None]) -> None:
        """Let the engine know, after what it is being told of the channel already."""
        before = self._notifying.get(channel)

        async def told() -> None:
            if before is not None:
                await before
            try:
                await work
            except Unavailable:
                # What ended is told when the engine is back; what began is entered again by it.
                pass

        notifying = self._clock.detach(told(), self._log, "notifying which channels are followed")
        if notifying.called:
            return
        self._notifying[channel] = notifying

        def done(_: None) -> None:
            if self._notifying.get(channel) is notifying:
                del self._notifying[channel]

        notifying.addCallback(done)

    async def _register(self, channel: str) -> None:
        if await self._presence.join(MARK + channel, MARK, self._node, None):
            self._recorder.record("channel.occupied", {"channel": channel})

    async def _leave(self, channel: str) -> None:
        if await self._presence.leave(MARK + channel, MARK, self._node):
            self._recorder.record("channel.vacated", {"channel": channel})

    # -- what the engine found ----------------------------------------------------------------------------------------

    def absent(self, channel: str) -> None:
        """The channel's last node is gone; it falls to this one to say so."""
        self._recorder.record("channel.vacated", {"channel": channel})

    def present(self, channel: str) -> None:
        """A channel whose nodes had vanished is followed here after all; it falls to this node to say so."""
        self._recorder.record("channel.occupied", {"channel": channel})

    # -- life ---------------------------------------------------------------------------------------------------------

    async def flush(self) -> list[str]:
        """This node stops: return the channels that it followed, for another node to take over."""
        left = list(self._registered)
        for waiting in self._registered.values():
            if waiting is not None:
                waiting.cancel()
        self._registered.clear()
        for notifying in list(self._notifying.values()):
            await notifying
        return left

    async def vacate(self, channels: list[str]) -> None:
        """No other node takes these over: nobody follows them any more."""
        for channel in channels:
            await self._leave(channel)

    def take_over(self, channels: list[str]) -> None:
        """Channels that a stopping node followed: this one tells that they are vacated, unless somebody comes."""
        for channel in channels:
            if self._told and channel not in self._registered:
                self._registered[channel] = self._clock.later(VACATED_AFTER / 1000, self._leave_soon, channel)
                self._notify(channel, self._register(channel))

    def stop(self) -> None:
        """Tell nothing more. May be called more than once."""
        for waiting in self._registered.values():
            if waiting is not None:
                waiting.cancel()
        self._registered.clear()

    def adopt(self, followed: list[str]) -> None:
        """Other types may be told from now on. ``followed``: the channels that somebody follows here."""
        if self._told:
            for channel in followed:
                self.followed(channel)
