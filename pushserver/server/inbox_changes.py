"""What became of users' inboxes, told to their connections: what was read or deleted, and how many are unread.

engine -> InboxChanges.changed -> a push on ``user:<id>``, in its place among the messages there
limits, age, doubt -> InboxChanges.recount -> once a second at most -> `IInbox.announce_unread` -> changed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from pushserver.core import publication
from pushserver.core.errors import Unavailable
from pushserver.core.inbox import INBOXES, InboxChange
from pushserver.core.publication import Publication
from pushserver.server.clock import Clock
from pushserver.server.hub import Hub

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from pushserver.engine.interfaces import IInbox

#: How often one user is told how many are unread where nothing else is to be told, ms.
EVERY: Final = 1000


def _data(change: InboxChange) -> dict[str, Any]:  # Any: JSON values
    """The data of the push that tells a change."""
    data: dict[str, Any] = {"unread": change.unread}
    if change.epoch is None:
        return data
    data |= {"offsets": change.offsets} if change.up_to is None else {"upTo": change.up_to}
    data |= {"epoch": change.epoch}
    return data | ({"deleted": True} if change.deleted else {"readAt": change.read_at})


class InboxChanges:
    """Tells the connections of this node what became of their users' inboxes."""

    _log = Logger()

    def __init__(self, clock: Clock, inbox: IInbox, hub: Hub) -> None:
        self._clock = clock
        self._inbox = inbox
        self._hub = hub
        #: until when a user is not told anew, ms of the monotonic clock, in the order of these times
        self._quiet: dict[str, int] = {}
        self._due: dict[str, IDelayedCall] = {}

    def changed(self, user_id: str, change: InboxChange) -> None:
        """The engine says what became of an inbox: push it."""
        if change.epoch is None:
            self._hush(user_id)
        self._hub.deliver(
            Publication(
                type="inbox_changed",
                channel=INBOXES + user_id,
                data=publication.body(_data(change)),
                timestamp=self._clock.now(),
                message_id=self._hub.message_id(),
                exclude_connection=change.exclude,
            )
        )

    def recount(self, user_id: str) -> None:
        """What a user's connections know of how many are unread may not hold: have it told."""
        if user_id not in self._due:
            wait = max(0, self._quiet.get(user_id, 0) - self._clock.milliseconds())
            self._due[user_id] = self._clock.later(wait / 1000, self._announce, user_id)

    def _announce(self, user_id: str) -> None:
        del self._due[user_id]
        self._hush(user_id)
        self._clock.detach(self._ask(user_id), self._log, "telling how many messages are unread")

    async def _ask(self, user_id: str) -> None:
        try:
            await self._inbox.announce_unread(user_id)
        except Unavailable:
            self.recount(user_id)

    def _hush(self, user_id: str) -> None:
        """The user is told now, and not again for a while."""
        now, quiet = self._clock.milliseconds(), self._quiet
        quiet.pop(user_id, None)
        while quiet and quiet[first := next(iter(quiet))] <= now:
            del quiet[first]
        quiet[user_id] = now + EVERY
        due = self._due.pop(user_id, None)
        if due is not None:
            due.cancel()
            self.recount(user_id)

    def stop(self) -> None:
        """Tell nobody any more. May be called more than once."""
        for due in self._due.values():
            due.cancel()
        self._due.clear()
