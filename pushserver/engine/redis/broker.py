"""`IBroker`: live messages over Pub/Sub; what is kept gets its position in the same script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core import publication as publications
from pushserver.core.positions import Position
from pushserver.engine.coroutines import started
from pushserver.engine.identity import CHANNEL, content_digest
from pushserver.engine.interfaces import POSITION_TTL, IBroker, NodeInfo, PublishResult, Survey

from .events import packed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.events import NewEvent
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import EventRules, IdempotencyKey, Retention

    from .cluster import RedisCluster
    from .commands import RedisCommands
    from .connection import Reply
    from .live import Live
    from .names import Names
    from .shared_settings import SharedSettings


def repeated(reply: list[Reply]) -> PublishResult:
    """Read a script's reply to a repeat: what the key of the publication answered first, and whether the content was
    another one."""
    _, answer, conflict = reply
    offset, epoch, message_id = answer.decode().split(" ", 2)
    if offset == "0":
        return PublishResult(message_id, duplicate=True, conflict=bool(conflict))
    return PublishResult(message_id, int(offset), epoch, duplicate=True, conflict=bool(conflict))


@implementer(IBroker)
class RedisBroker:
    """Publishing, and this node's subscriptions."""

    def __init__(
        self,
        commands: RedisCommands,
        live: Live,
        cluster: RedisCluster,
        names: Names,
        rules: EventRules,
        settings: SharedSettings,
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._commands = commands
        self._live = live
        self._cluster = cluster
        self._names = names
        self.published = 0

    def subscribe(self, channel: str) -> Deferred[None]:
        return started(self._live.subscribe(channel))

    def unsubscribe(self, channel: str) -> None:
        self._live.unsubscribe(channel)

    def publish(
        self,
        publication: Publication,
        retention: Retention | None,
        once: IdempotencyKey | None,
        create: bool = True,
        events: Sequence[NewEvent] = (),
    ) -> Deferred[PublishResult]:
        told = packed(events, self._rules)
        if retention is None:
            return started(self._publish(publication, once, told))
        return started(self._keep(publication, retention, once, create, told))

    def _once(self, channel: str, once: IdempotencyKey | None) -> tuple[str, IdempotencyKey] | None:
        return (self._names.once(CHANNEL, channel, once), once) if once is not None else None

    async def _publish(self, publication: Publication, once: IdempotencyKey | None, told: bytes) -> PublishResult:
        channel = publication.channel
        tag = self._live.tag(channel)
        live, body = self._names.live(channel), publications.encode(publication)
        if once is None and not told:
            kind = b"c" if publication.by_connection else b"m"
            await self._commands.call("PUBLISH", live, b"%s %s\n%s" % (kind, tag.encode(), body))
            self._live.published(publication, tag, True)
        else:
            keys = [self._names.history(channel), self._names.messages(channel)]
            reply = await self._commands.write(
                "publish", keys, live, body, publication.message_id, 0, 0, 0, tag, 0,
                once=self._once(channel, once), content=content_digest(publication), told=told, durable=bool(told),
            )  # fmt: skip
            self._live.published(publication, tag, not reply)
            if reply:
                return repeated(reply)
        self.published += 1
        return PublishResult(publication.message_id)

    async def _keep(
        self,
        publication: Publication,
        retention: Retention,
        once: IdempotencyKey | None,
        create: bool,
        told: bytes,
    ) -> PublishResult:
        channel = publication.channel
        retention = self._settings.retention(channel, retention)
        live, body = self._names.live(channel), publications.encode(publication)
        reply = await self._commands.write(
            "publish",
            [self._names.history(channel), self._names.messages(channel)],
            "" if self._commands.waits else live,
            body,
            publication.message_id,
            retention.size,
            retention.ttl,
            max(POSITION_TTL, retention.ttl),
            "",
            retention.max_bytes,
            int(create),
            once=self._once(channel, once),
            content=content_digest(publication) if once is not None else b"",
            told=told,
        )
        if reply[0] == b"duplicate":
            return repeated(reply)
        if reply[0] == b"absent":
            raise errors.NotFound("the channel keeps nothing yet")
        self.published += 1
        position = Position(int(reply[0]), reply[1].decode())
        await self._live.kept(publication, body, position)
        return PublishResult(publication.message_id, position.offset, position.epoch)

    def survey(self, question: bytes, timeout: int) -> Deferred[Survey]:
        return started(self._cluster.survey(question, timeout))

    def request(self, node: str, question: bytes, timeout: int) -> Deferred[bytes | None]:
        return started(self._cluster.request(node, question, timeout))

    def notify_others(self, notice: bytes) -> Deferred[None]:
        return started(self._cluster.notify_others(notice))

    def nodes(self) -> Deferred[list[NodeInfo]]:
        return started(self._cluster.nodes())
