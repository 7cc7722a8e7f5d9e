"""What an inbox may hold, and for how long it stays, as the scripts take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pushserver.engine.interfaces import POSITION_TTL

if TYPE_CHECKING:
    from pushserver.engine.interfaces import InboxRules

    from .shared_settings import SharedSettings

#: How long an inbox that has no message yet stays, ms, where a node of an older version made one by reading.
_EMPTY_TTL: Final = 3600 * 1000
#: How long an inbox remembers, without any news, that unread messages were lost, ms.
_LOST_TTL: Final = 365 * 24 * 3600 * 1000


class InboxLimits:
    """The bounds of every inbox as the scripts take them, while nodes differ the widest of them.

    ``rules``: size, size of its chat, ttl of a message (ms), how many ends of tasks. ``ttls``, ms: how long an inbox
    stays that never had a message, one that had, and one whose user does not know of a loss yet.
    """

    __slots__ = ("_rules", "_settings")

    def __init__(self, rules: InboxRules, settings: SharedSettings) -> None:
        self._rules = rules
        self._settings = settings

    @property
    def rules(self) -> tuple[int, int, int, int]:
        widest, own = self._settings.widest, self._rules
        return (
            widest("inbox.max_messages", own.size),
            widest("inbox.max_chat_messages", own.chat_size),
            widest("inbox.ttl", own.ttl),
            widest("inbox.max_task_messages", own.task_size),
        )

    @property
    def ttls(self) -> tuple[int, int, int]:
        ttl = self._settings.widest("inbox.ttl", self._rules.ttl)
        return _EMPTY_TTL, max(POSITION_TTL, ttl), max(_LOST_TTL, ttl)

    def task_ttl(self, own: int) -> int:
        """Return how long an ended task stays known, ms."""
        return self._settings.widest("tasks.ttl", own)
