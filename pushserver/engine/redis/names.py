"""How the engine's keys and Pub/Sub channels are called. ``pub:``, ``ingest``, ``events`` and
``revoked:jti:`` are public."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pushserver.core import output
from pushserver.core.inbox import INBOXES
from pushserver.engine.identity import key_digest

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IdempotencyKey

TASK = "task:"
STATUS = "status:"


class Names:
    """Every name under one prefix. Pub/Sub knows no databases, so the private channels carry their number."""

    __slots__ = (
        "_control",
        "_live",
        "_pub",
        "control",
        "dead",
        "dead_events",
        "events",
        "ingest",
        "nodes",
        "outbox",
        "prefix",
        "quarantine",
        "server",
        "stale",
        "tries",
        "unread",
    )

    def __init__(self, prefix: str, database: int) -> None:
        self.prefix = prefix
        self.server = f"{prefix}:server"
        self.nodes = f"{prefix}:nodes"
        self.stale = f"{prefix}:stale"
        self.ingest = f"{prefix}:ingest"
        self.dead = f"{prefix}:ingest:dead"
        self.tries = f"{prefix}:ingesting"
        self.quarantine = f"{prefix}:quarantine"
        self.events = f"{prefix}:events"
        self.outbox = f"{prefix}:events:state"
        self.unread = f"{prefix}:events:unread"
        #: the dead events, the moments of their deaths, and those to be tried once more
        self.dead_events = (f"{prefix}:events:dead", f"{prefix}:events:dead:at", f"{prefix}:events:again")
        self.control = f"{prefix}:control:{database}"
        self._control = f"{prefix}:control:{database}:"
        self._live = f"{prefix}:live:{database}:"
        self._pub = f"{prefix}:pub:"

    # -- Pub/Sub ------------------------------------------------------------------------------------------------------

    def live(self, channel: str) -> str:
        """Where nodes publish to each other what was published on a channel."""
        return self._live + channel

    def pub(self, channel: str) -> str:
        """Where programs that are no nodes publish on a channel."""
        return self._pub + channel

    def answers(self, incarnation: str) -> str:
        """Where a node receives the answers to its questions."""
        return self._control + incarnation

    def channel_of(self, name: str) -> tuple[str, bool] | None:
        """The channel of a `live` or `pub` name, and whether it is `pub`."""
        if name.startswith(self._live):
            return name[len(self._live) :], False
        if name.startswith(self._pub):
            return name[len(self._pub) :], True
        return None

    # -- keys ---------------------------------------------------------------------------------------------------------

    def history(self, channel: str) -> str:
        return f"{self.prefix}:history:{channel}"

    def messages(self, channel: str) -> str:
        return f"{self.prefix}:messages:{channel}"

    def inbox(self, user_id: str) -> str:
        return f"{self.prefix}:inbox:{user_id}"

    def position(self, channel: str) -> str:
        """The hash that holds a channel's ``epoch`` and ``offset``."""
        if channel.startswith(output.PREFIX):
            return self.output(channel)[0]
        return self.inbox(channel[len(INBOXES) :]) if channel.startswith(INBOXES) else self.history(channel)

    def task(self, task_id: str) -> str:
        return f"{self.prefix}:task:{task_id}"

    def tasks(self, user_id: str) -> tuple[str, str, str]:
        """A user's tasks: the unfinished and the final by creation, and the final by when they are forgotten."""
        return (
            f"{self.prefix}:tasks:open:{user_id}",
            f"{self.prefix}:tasks:final:{user_id}",
            f"{self.prefix}:tasks:until:{user_id}",
        )

    def output(self, channel: str) -> tuple[str, str]:
        """An output, by its channel, and its pieces."""
        return f"{self.prefix}:{channel}", f"{self.prefix}:chunks:{channel[len(output.PREFIX) :]}"

    def once(self, kind: str, scope: str, once: IdempotencyKey) -> str:
        return f"{self.prefix}:once:{key_digest(kind, scope, once).hex()}"

    def lease(self, name: str) -> str:
        return f"{self.prefix}:lease:{name}"

    def webhook(self, name: str) -> tuple[str, str, str]:
        """How far a webhook has come, its subjects that wait, and what is held of them."""
        return (
            f"{self.prefix}:webhook:{name}",
            f"{self.prefix}:webhook:{name}:subjects",
            f"{self.prefix}:webhook:{name}:held",
        )

    def revoked_token(self, jti: str) -> str:
        return f"{self.prefix}:revoked:jti:{jti}"

    def revoked_user(self, user_id: str) -> str:
        return f"{self.prefix}:revoked:user:{user_id}"

    def node(self, incarnation: str) -> str:
        return f"{self.prefix}:node:{incarnation}"

    def connections(self, incarnation: str) -> str:
        return f"{self.prefix}:node:{incarnation}:connections"

    def joins(self, incarnation: str) -> str:
        return f"{self.prefix}:node:{incarnation}:joins"

    def leaving(self, incarnation: str) -> str:
        """The users whose last connection ended on a node that has not said so yet, each with when that was, ms; below
        0 from when on it says so."""
        return f"{self.prefix}:node:{incarnation}:leaving"

    def left_by(self, incarnation: str) -> list[str]:
        """What a node leaves behind, as ``expire.lua`` takes it."""
        keys = (self.node, self.connections, self.joins, self.leaving)
        return [self.nodes, *(key(incarnation) for key in keys)]

    def online(self, user_id: str) -> str:
        return f"{self.prefix}:online:{user_id}"

    def seen(self, user_id: str) -> str:
        return f"{self.prefix}:seen:{user_id}"

    def members(self, channel: str) -> str:
        return f"{self.prefix}:members:{channel}"

    def infos(self, channel: str) -> str:
        return f"{self.prefix}:infos:{channel}"
