"""The reads and writes of the embedded engine, one class each (L1).

An instance is made on the reactor, carried out once on the writer thread (twice where a batch is taken back), and
handed back with its answer to tell the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pushserver.core import errors, publication
from pushserver.core.task import TaskState
from pushserver.engine.interfaces import Published

from .rows import idempotency as once
from .rows import revocations as revocationrows

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import IdempotencyKey, Retention, TaskEvent

    from .store import Store

_encode = msgspec.json.Encoder().encode
_published = msgspec.json.Decoder(Published)
_task = msgspec.json.Decoder(TaskState)


class Broker(Protocol):
    """Where kept things are told."""

    def deliver(self, publication: Publication, offset: int | None = None, epoch: str | None = None) -> None:
        """A publication, with its position."""

    def task_event(self, event: TaskEvent) -> None:
        """A change of a task."""


class Operation:
    """One read or write. None in an attribute: it does not ask for such a thing."""

    __slots__ = ()
    #: the key that must be new
    digest: bytes | None = None
    #: whose inbox
    user_id: str | None = None
    #: which history
    channel: str | None = None
    #: which task
    task_id: str | None = None

    def carry_out(self, store: Store) -> Any:
        """Does it, and answers. A `PushError` means that nothing was changed."""
        raise NotImplementedError

    def tell(self, broker: Broker, answer: Any) -> None:
        """Tells the node what was kept, if there is something to tell."""


class Asking(Operation):
    """Anything that one call on the store answers."""

    __slots__ = ("_call", "channel", "user_id")

    def __init__(self, call: Callable[[Store], Any], *, user_id: str | None = None, channel: str | None = None) -> None:
        self._call = call
        self.user_id = user_id
        self.channel = channel

    def carry_out(self, store: Store) -> Any:
        return self._call(store)


def _earlier(store: Store, digest: bytes) -> Published | None:
    """What a repeat is answered."""
    answer = store.keys.answer(digest)
    return msgspec.structs.replace(_published.decode(answer), duplicate=True) if answer is not None else None


def _first(store: Store, digest: bytes, published: Published) -> Published:
    """What the first is answered, after it was written down for repeats."""
    store.keys.remember(digest, _encode(published), store.now)
    return published


class Publish(Operation):
    """A publication on a channel with history."""

    __slots__ = ("_body", "_publication", "_retention", "channel", "digest")

    def __init__(self, message: Publication, retention: Retention, key: IdempotencyKey | None) -> None:
        self.channel = message.channel
        self.digest = once.digest_of(once.CHANNEL, message.channel, key) if key is not None else None
        self._publication = message
        self._body = publication.encode(message)
        self._retention = retention

    def carry_out(self, store: Store) -> Published:
        message, digest = self._publication, self.digest
        if digest is not None and (earlier := _earlier(store, digest)) is not None:
            return earlier
        offset, epoch = store.histories.append(
            store.connection, message.channel, self._retention, self._body, store.now
        )
        published = Published(message.message_id, offset, epoch)
        return published if digest is None else _first(store, digest, published)

    def tell(self, broker: Broker, answer: Published) -> None:
        if not answer.duplicate:
            broker.deliver(self._publication, answer.offset, answer.epoch)


class Append(Operation):
    """A publication to one user's inbox."""

    __slots__ = ("_body", "_chat", "_collapse_key", "_publication", "_ttl", "digest", "user_id")

    def __init__(
        self,
        message: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        key: IdempotencyKey | None,
    ) -> None:
        self.user_id = user_id
        self.digest = once.digest_of(once.INBOX, user_id, key) if key is not None else None
        self._publication = message
        self._body = publication.encode(message)
        self._chat = chat
        self._ttl = ttl
        self._collapse_key = collapse_key

    def carry_out(self, store: Store) -> Published:
        user_id, digest = self.user_id, self.digest
        assert user_id is not None
        if digest is not None and (earlier := _earlier(store, digest)) is not None:
            return earlier
        offset, epoch = store.inboxes.append(
            store.connection, user_id, self._chat, self._ttl, self._collapse_key, self._body, store.now
        )
        published = Published(self._publication.message_id, offset, epoch)
        return published if digest is None else _first(store, digest, published)

    def tell(self, broker: Broker, answer: Published) -> None:
        if not answer.duplicate:
            broker.deliver(self._publication, answer.offset, answer.epoch)


class CreateTask(Operation):
    """A new task's first state."""

    __slots__ = ("_event", "_happened", "digest", "task_id")

    def __init__(self, event: TaskEvent, key: IdempotencyKey | None) -> None:
        self.task_id = event.state.task_id
        self.digest = once.digest_of(once.TASK, event.state.task_id, key) if key is not None else None
        self._event = event
        self._happened = False

    def carry_out(self, store: Store) -> TaskState:
        state = self._event.state
        if self.digest is not None and (earlier := store.keys.answer(self.digest)) is not None:
            return _task.decode(earlier)
        if store.tasks.version(state.task_id) is not None:
            raise errors.Conflict("a task of this id exists")
        store.tasks.put(state, store.now)
        if self.digest is not None:
            store.keys.remember(self.digest, _encode(state), store.now)
        self._happened = True
        return state

    def tell(self, broker: Broker, answer: TaskState) -> None:
        if self._happened:
            broker.task_event(self._event)


class ReplaceTask(Operation):
    """A task's next state, and the owner's message of a final one."""

    __slots__ = ("_body", "_event", "_final", "_happened", "_position", "digest", "task_id", "user_id")

    def __init__(self, event: TaskEvent, final: Publication | None, key: IdempotencyKey | None) -> None:
        self.task_id = event.state.task_id
        self.user_id = event.state.user_id if final is not None else None
        self.digest = once.digest_of(once.TASK, event.state.task_id, key) if key is not None else None
        self._event = event
        self._final = final
        self._body = publication.encode(final) if final is not None else b""
        self._position = (0, "")
        self._happened = False

    def carry_out(self, store: Store) -> bool:
        state = self._event.state
        if self.digest is not None and store.keys.answer(self.digest) is not None:
            return True
        version = store.tasks.version(state.task_id)
        if version is None:
            raise errors.NotFound("no such task")
        if version != state.version - 1:
            return False
        store.tasks.put(state, store.now)
        if self._final is not None:
            self._position = store.inboxes.append(
                store.connection, state.user_id, False, None, None, self._body, store.now
            )
        if self.digest is not None:
            store.keys.remember(self.digest, b"true", store.now)
        self._happened = True
        return True

    def tell(self, broker: Broker, answer: bool) -> None:
        if self._happened:
            if self._final is not None:
                broker.deliver(self._final, *self._position)
            broker.task_event(self._event)


class TaskDone(Operation):
    """Whether a key was used on a task."""

    __slots__ = ("digest",)

    def __init__(self, task_id: str, key: IdempotencyKey) -> None:
        self.digest = once.digest_of(once.TASK, task_id, key)

    def carry_out(self, store: Store) -> bool:
        return self.digest is not None and store.keys.answer(self.digest) is not None


class Sweep(Operation):
    """One small step of removing what is past its age; answers whether there may be more."""

    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def carry_out(self, store: Store) -> bool:
        limit = self._limit
        removed = [part.sweep(store.connection, store.now, limit) for part in (store.keys, store.tasks)]
        removed += [part.sweep(store.connection, store.now, limit) for part in (store.inboxes, store.histories)]
        removed.append(revocationrows.sweep(store.connection, store.now, limit))
        return max(removed) >= limit
