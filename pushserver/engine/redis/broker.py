"""`IBroker` and `IHistory`: publishing, and what channels keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.core import publication as publications
from pushserver.core.positions import Position
from pushserver.engine.interfaces import POSITION_TTL, HistoryPage, IBroker, IHistory, Node, Published

from .live import EMPTY_TTL

if TYPE_CHECKING:
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import IdempotencyKey, Retention

    from .cluster import Cluster
    from .live import Live
    from .names import Names
    from .server import Server

#: The largest offset that Lua's numbers hold exactly; there is nothing after it.
_BEYOND: Final = 2**53 - 1


def repeated(answer: bytes) -> Published:
    """What a key of a publication answered first."""
    offset, epoch, message_id = answer.decode().split(" ", 2)
    if offset == "0":
        return Published(message_id, duplicate=True)
    return Published(message_id, int(offset), epoch, duplicate=True)


@implementer(IBroker)
class RedisBroker:
    """Live messages over Pub/Sub; what is kept gets its position in the same script."""

    def __init__(self, server: Server, live: Live, cluster: Cluster, names: Names) -> None:
        self._server = server
        self._live = live
        self._cluster = cluster
        self._names = names
        self.published = 0

    def subscribe(self, channel: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._live.subscribe(channel))

    def unsubscribe(self, channel: str) -> None:
        self._live.unsubscribe(channel)

    def publish(
        self, publication: Publication, retention: Retention | None, once: IdempotencyKey | None
    ) -> Deferred[Published]:
        if retention is None:
            return Deferred.fromCoroutine(self._tell(publication, once))
        return Deferred.fromCoroutine(self._keep(publication, retention, once))

    def _once(self, channel: str, once: IdempotencyKey | None) -> tuple[str, IdempotencyKey] | None:
        return (self._names.once("channel", channel, once.key), once) if once is not None else None

    async def _tell(self, publication: Publication, once: IdempotencyKey | None) -> Published:
        channel = publication.channel
        tag = self._live.tag(channel)
        live, body = self._names.live(channel), publications.encode(publication)
        if once is None:
            await self._server.call("PUBLISH", live, b"m %s\n%s" % (tag.encode(), body))
            self._live.published(publication, tag, True)
        else:
            keys = [self._names.history(channel), self._names.messages(channel)]
            reply = await self._server.write(
                "publish", keys, live, body, publication.message_id, 0, 0, 0, tag,
                once=self._once(channel, once), durable=False,
            )  # fmt: skip
            self._live.published(publication, tag, not reply)
            if reply:
                return repeated(reply[1])
        self.published += 1
        return Published(publication.message_id)

    async def _keep(self, publication: Publication, retention: Retention, once: IdempotencyKey | None) -> Published:
        channel = publication.channel
        live, body = self._names.live(channel), publications.encode(publication)
        reply = await self._server.write(
            "publish",
            [self._names.history(channel), self._names.messages(channel)],
            "" if self._server.waits else live,
            body,
            publication.message_id,
            retention.size,
            retention.ttl,
            max(POSITION_TTL, retention.ttl),
            "",
            once=self._once(channel, once),
        )
        if reply[0] == b"duplicate":
            return repeated(reply[1])
        self.published += 1
        position = Position(int(reply[0]), reply[1].decode())
        await self._live.kept(publication, body, position)
        return Published(publication.message_id, position.offset, position.epoch)

    def survey(self, question: bytes, timeout: int) -> Deferred[list[tuple[str, bytes]]]:
        return Deferred.fromCoroutine(self._cluster.survey(question, timeout))

    def nodes(self) -> Deferred[list[Node]]:
        return Deferred.fromCoroutine(self._cluster.nodes())


@implementer(IHistory)
class RedisHistory:
    """What channels keep, each in a stream whose entries are called ``<offset>-<when it ends>``."""

    def __init__(self, server: Server, live: Live, names: Names) -> None:
        self._server = server
        self._live = live
        self._names = names

    def read(self, channel: str, since: int | None, limit: int, reverse: bool) -> Deferred[HistoryPage]:
        return Deferred.fromCoroutine(self._told(channel, since, limit, reverse))

    async def _told(self, channel: str, since: int | None, limit: int, reverse: bool) -> HistoryPage:
        """A page; all that it covers was told to the listener before, so that past and present join."""
        page = await self.page(channel, since, limit, reverse)
        await self._live.feeds.reached(channel, page.newest)
        return page

    async def page(self, channel: str, since: int | None, limit: int, reverse: bool) -> HistoryPage:
        reply: list[Any] = await self._server.run_in_epoch(
            "history",
            [self._names.history(channel), self._names.messages(channel)],
            "" if since is None else max(0, min(since, _BEYOND)),
            max(0, limit),
            "reverse" if reverse else "",
            EMPTY_TTL,
        )
        epoch, newest, floor = reply[0].decode(), int(reply[1]), int(reply[2])
        messages = [
            publications.decode(body).positioned(int(offset), epoch)
            for offset, body in zip(reply[3::2], reply[4::2], strict=True)
        ]
        return HistoryPage(messages, Position(newest, epoch), floor)
