"""`IBroker` within one process: a subscription is an entry in a set, what is kept goes through the writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet import defer
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core.errors import Unavailable
from pushserver.core.inbox import INBOXES
from pushserver.core.positions import Position
from pushserver.engine.deadlines import limited
from pushserver.engine.identity import CHANNEL, content_digest, key_digest
from pushserver.engine.interfaces import ONCE_TTL, IBroker, NodeInfo, PublishResult, Survey

from .operations import AppendEvents, KeepPublication

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.python.failure import Failure

    from pushserver.core.events import NewEvent
    from pushserver.core.inbox import InboxChange
    from pushserver.core.output import OutputPublication
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import EngineClock, IdempotencyKey, Listener, Retention, TaskEvent

    from .writer import Writer

#: How many keys of publications without history are remembered; beyond it the oldest goes.
_KEYS: Final = 100_000


class LocalDelivery:
    """Which channels this process subscribed to, and the way of what was kept to the node's listener.

    Until `start` and after `stop` nobody is notified.
    """

    def __init__(self) -> None:
        #: the channels that are subscribed to, and up to where they were told, where that is known
        self._channels: dict[str, Position | None] = {}
        self._listener: Listener | None = None

    @property
    def listener(self) -> Listener | None:
        """Who is notified; None while the engine is not running."""
        return self._listener

    @property
    def channels(self) -> int:
        """How many channels are subscribed to."""
        return len(self._channels)

    def start(self, listener: Listener) -> None:
        """Notify this listener from now on."""
        self._listener = listener

    def stop(self) -> None:
        """Forget the listener and every subscription."""
        self._listener = None
        self._channels.clear()

    def subscribe(self, channel: str) -> None:
        self._channels.setdefault(channel)

    def unsubscribe(self, channel: str) -> None:
        self._channels.pop(channel, None)

    def deliver(self, publication: Publication, offset: int | None = None, epoch: str | None = None) -> None:
        """Notify the node of a publication, with its position where it has one."""
        if publication.channel in self._channels and self._listener is not None:
            if offset is not None and epoch is not None:
                publication = publication.positioned(offset, epoch)
                self._channels[publication.channel] = Position(offset, epoch)
            self._listener.deliver(publication)

    def inbox_changed(self, user_id: str, change: InboxChange) -> None:
        """Notify the node of what became of messages of an inbox."""
        if INBOXES + user_id in self._channels and self._listener is not None:
            self._listener.inbox_changed(user_id, change)

    def unread_lost(self, user_id: str) -> None:
        """Notify the node that unread messages of a user went by the limits or by age."""
        if INBOXES + user_id in self._channels and self._listener is not None:
            self._listener.unread_lost(user_id)

    def append(self, publication: OutputPublication) -> None:
        """Notify the node of what was appended to an output."""
        if publication.channel in self._channels and self._listener is not None:
            self._listener.deliver(publication)

    def epochs_moved(self) -> None:
        """Notify the node that what it knows of positions is of an earlier epoch."""
        if self._listener is not None:
            for channel, reached in list(self._channels.items()):
                self._channels[channel] = None
                self._listener.resync(channel, reached)
            self._listener.refresh()

    def task_event(self, event: TaskEvent) -> None:
        """Notify the node of a change of a task, as the owner's and as the task's own."""
        if self._listener is not None:
            state = event.state
            if not state.final and INBOXES + state.user_id in self._channels:
                self._listener.task_event(event, True)
            if f"task:{state.task_id}" in self._channels:
                self._listener.task_event(event, False)


@implementer(IBroker)
class EmbeddedBroker:
    """Live messages of the only node there is."""

    _log = Logger()

    def __init__(self, writer: Writer, delivery: LocalDelivery, clock: EngineClock, node_name: str) -> None:
        self._writer = writer
        self._delivery = delivery
        self._clock = clock
        self._node_name = node_name
        #: by the key's digest: when it is forgotten (s, monotonic), the first one's message id, its content's digest
        self._keys: dict[bytes, tuple[float, str, bytes]] = {}
        #: by the key's digest: who waits for a publication whose events are being kept, and for which answer
        self._under_way: dict[bytes, list[tuple[Deferred[PublishResult], PublishResult]]] = {}
        self._started_at = 0

    def start(self) -> None:
        self._started_at = self._clock.now()

    def stop(self) -> None:
        self._keys.clear()

    def subscribe(self, channel: str) -> Deferred[None]:
        if not self._writer.accepting:
            return fail(Unavailable("the engine is stopped"))
        self._delivery.subscribe(channel)
        return succeed(None)

    def unsubscribe(self, channel: str) -> None:
        self._delivery.unsubscribe(channel)

    def publish(
        self,
        publication: Publication,
        retention: Retention | None,
        once: IdempotencyKey | None,
        create: bool = True,
        events: Sequence[NewEvent] = (),
    ) -> Deferred[PublishResult]:
        if retention is not None:
            return self._writer.submit(KeepPublication(publication, retention, once, create, events))
        if not self._writer.accepting:
            return fail(Unavailable("the engine is stopped"))
        if once is not None:
            earlier = self._remembered(publication, once)
            if earlier is not None:
                return self._repeated(publication, once, earlier)
        if events:
            return self._publish_with(publication, once, events)
        self._delivery.deliver(publication)
        return succeed(PublishResult(publication.message_id))

    def _publish_with(
        self, publication: Publication, once: IdempotencyKey | None, events: Sequence[NewEvent]
    ) -> Deferred[PublishResult]:
        """Deliver what is told in events, once they are kept, also where nobody waits for the answer any more."""
        answer: Deferred[PublishResult] = Deferred()
        waiting = [(answer, PublishResult(publication.message_id))]
        digest = b"" if once is None else key_digest(CHANNEL, publication.channel, once)
        if digest:
            self._under_way[digest] = waiting

        def kept(_: object) -> None:
            self._under_way.pop(digest, None)
            self._delivery.deliver(publication)
            for each, result in waiting:
                if not each.called:
                    each.callback(result)

        def failed(failure: Failure) -> None:
            self._under_way.pop(digest, None)
            self._keys.pop(digest, None)
            for each, _ in waiting:
                if not each.called:
                    each.errback(failure)

        self._writer.submit(AppendEvents(events)).addCallbacks(kept, failed)
        return answer

    def _repeated(
        self, publication: Publication, once: IdempotencyKey, earlier: PublishResult
    ) -> Deferred[PublishResult]:
        """Return what a repeat is answered, once the first one has happened."""
        waiting = self._under_way.get(key_digest(CHANNEL, publication.channel, once)) if self._under_way else None
        if waiting is None:
            return succeed(earlier)
        answer: Deferred[PublishResult] = Deferred()
        waiting.append((answer, earlier))
        return answer

    def _remembered(self, publication: Publication, once: IdempotencyKey) -> PublishResult | None:
        """Return what a key answered before, or None after remembering it. Keys stand in the order of their age."""
        now = self._clock.seconds()
        keys = self._keys
        while keys and (len(keys) > _KEYS or next(iter(keys.values()))[0] <= now):
            del keys[next(iter(keys))]
        digest, content = key_digest(CHANNEL, publication.channel, once), content_digest(publication)
        if digest not in keys:
            keys[digest] = (now + ONCE_TTL / 1000, publication.message_id, content)
            return None
        _, message_id, first = keys[digest]
        return PublishResult(message_id, duplicate=True, conflict=content != first)

    def survey(self, question: bytes, timeout: int) -> Deferred[Survey]:
        listener = self._delivery.listener
        if not self._writer.accepting or listener is None:
            return fail(Unavailable("the engine is stopped"))
        return Deferred.fromCoroutine(self._survey(listener, question, timeout))

    async def _survey(self, listener: Listener, question: bytes, timeout: int) -> Survey:
        try:
            answer = await limited(listener.answer(question), timeout / 1000, self._clock)
        except defer.TimeoutError:
            return Survey({}, [self._node_name])
        except Exception as error:
            self._log.warn("This node did not answer a question: {error!r}", error=error)
            return Survey({}, [])
        return Survey({self._node_name: answer}, [])

    def request(self, node: str, question: bytes, timeout: int) -> Deferred[bytes | None]:
        listener = self._delivery.listener
        if not self._writer.accepting or listener is None:
            return fail(Unavailable("the engine is stopped"))
        return Deferred.fromCoroutine(self._request(listener, node, question, timeout))

    async def _request(self, listener: Listener, node: str, question: bytes, timeout: int) -> bytes | None:
        if node != self._node_name:
            return None
        answers = (await self._survey(listener, question, timeout)).answers
        if not answers:
            raise Unavailable("the node did not answer")
        return answers[node]

    def notify_others(self, notice: bytes) -> Deferred[None]:
        return succeed(None)

    def nodes(self) -> Deferred[list[NodeInfo]]:
        listener = self._delivery.listener
        if not self._writer.accepting or listener is None:
            return fail(Unavailable("the engine is stopped"))
        return succeed([NodeInfo(self._node_name, self._started_at, listener.connections(), self._clock.now())])
