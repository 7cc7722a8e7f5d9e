"""How fast one user may publish, on all nodes together.

    UserRates.take_… -> this node's buckets
    four times a second: what was taken here -> `IBroker.notify_others` -> `UserRates.receive` on every other node

No message waits for another node: each has whole buckets, and pays afterwards for what was taken elsewhere
(`core.rate_limit.SharedTokenBuckets`). So for a moment a user may have the rate on each node, and then on none until
that is paid back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from twisted.logger import Logger

from pushserver.core.errors import Unavailable
from pushserver.core.rate_limit import SharedTokenBuckets
from pushserver.server.clock import Clock, Recurring

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IBroker

#: Seconds between two reports.
REPORT_EVERY: Final = 0.25
#: Users of one report; what is beyond goes into another.
BATCH: Final = 1_000


class UserRateSettings(Struct, frozen=True, kw_only=True):
    """What one user may do; 0: no limit. ``bytes`` of what is kept, a second; ``new_channels`` a minute."""

    chat: float
    publications: float
    new_channels: float
    bytes: float


class _Report(Struct, frozen=True, omit_defaults=True):
    """What users took on one node, by user."""

    chat: dict[str, float] = {}
    publications: dict[str, float] = {}
    new_channels: dict[str, float] = {}
    bytes: dict[str, float] = {}


_report: Final = msgspec.json.Decoder(_Report)


class UserRates:
    """The buckets of this node's users."""

    _log = Logger()

    def __init__(self, clock: Clock, broker: IBroker, settings: UserRateSettings) -> None:
        self._clock = clock
        self._broker = broker
        self._chat = SharedTokenBuckets(0)
        self._publications = SharedTokenBuckets(0)
        self._new_channels = SharedTokenBuckets(0)
        self._bytes = SharedTokenBuckets(0)
        self._reporting: Recurring | None = None
        self.adopt(settings)

    def adopt(self, settings: UserRateSettings) -> None:
        """Go by other rates from now on, with full buckets."""
        self._chat.adopt(settings.chat)
        self._publications.adopt(settings.publications)
        self._new_channels.adopt(settings.new_channels / 60, settings.new_channels)
        self._bytes.adopt(settings.bytes)

    def start(self) -> None:
        """Tell the others from now on."""
        self._reporting = self._clock.every(REPORT_EVERY, self.report, self._log, "telling what users took")

    def stop(self) -> None:
        """Tell them no longer. May be called more than once."""
        if self._reporting is not None:
            self._reporting.stop()

    # -- what users do ------------------------------------------------------------------------------------------------

    def take_publication(self, user_id: str, chat: bool) -> None:
        """Count a message of a user, ``chat``: to a room or another user. Raises `errors.Refused` with RATE_LIMITED."""
        now = self._clock.milliseconds()
        if chat:
            self._chat.take(user_id, now, "chat messages")
        self._publications.take(user_id, now, "messages")

    def give_back_chat(self, user_id: str) -> None:
        """The message repeats one that is there: nobody gets it."""
        self._chat.give_back(user_id, self._clock.milliseconds())

    def take_bytes(self, user_id: str, size: int) -> None:
        """Count a message that is kept. Raises `errors.Refused` with RATE_LIMITED."""
        self._bytes.take(user_id, self._clock.milliseconds(), "bytes", size)

    def take_new_channel(self, user_id: str) -> int:
        """Count a channel that a message may be the first of. Return 0, or, with nothing counted, after how many ms
        there may be one."""
        return self._new_channels.wait(user_id, self._clock.milliseconds())

    def give_back_new_channel(self, user_id: str) -> None:
        """The channel was there before, or is not there now."""
        self._new_channels.give_back(user_id, self._clock.milliseconds())

    # -- the other nodes ----------------------------------------------------------------------------------------------

    async def report(self) -> None:
        """Tell every other node what users took here since the last report."""
        taken = {
            "chat": self._chat.report(REPORT_EVERY),
            "publications": self._publications.report(REPORT_EVERY),
            "new_channels": self._new_channels.report(REPORT_EVERY),
            "bytes": self._bytes.report(REPORT_EVERY),
        }
        for what, by_user in taken.items():
            users = list(by_user.items())
            for start in range(0, len(users), BATCH):
                report = {what: dict(users[start : start + BATCH])}
                try:
                    await self._broker.notify_others(msgspec.json.encode(report))
                except Unavailable:
                    # Without the engine nobody publishes, on any node.
                    return

    def receive(self, notice: bytes) -> None:
        """Take what another node told. Raises `msgspec.MsgspecError` for what is no report."""
        report, now = _report.decode(notice), self._clock.milliseconds()
        for buckets, taken in (
            (self._chat, report.chat),
            (self._publications, report.publications),
            (self._new_channels, report.new_channels),
            (self._bytes, report.bytes),
        ):
            for user_id, cost in taken.items():
                buckets.drain(user_id, now, cost)
