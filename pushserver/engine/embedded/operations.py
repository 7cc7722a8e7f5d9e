"""The reads and writes of the embedded engine, one class each (L1).

An instance is made on the reactor, carried out once on the writer thread (twice where a batch is taken back), and
handed back with its answer. See `store.Operation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pushserver import errors, publication
from pushserver.engine.interfaces import Published

from . import once, revocationrows

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushserver.engine.interfaces import Once, Retention, TaskEvent
    from pushserver.progress import TaskState
    from pushserver.publication import Publication

    from .store import Store

_encode = msgspec.json.Encoder().encode
_published = msgspec.json.Decoder(Published)


class Asking:
    """Anything that one call on the store answers."""

    __slots__ = ("_call", "channel", "user_id")
    digest: bytes | None = None
    task_id: str | None = None

    def __init__(self, call: Callable[[Store], Any], *, user_id: str | None = None, channel: str | None = None) -> None:
        self._call = call
        self.user_id = user_id
        self.channel = channel

    def carry_out(self, store: Store) -> Any:
        return self._call(store)


class _Positioned:
    """A publication that is kept somewhere and then delivered."""

    __slots__ = ("_body", "digest", "publication")
    task_id: str | None = None

    def __init__(self, message: Publication, digest: bytes | None) -> None:
        self.publication = message
        self.digest = digest
        self._body = publication.encode(message)

    def carry_out(self, store: Store) -> Published:
        digest = self.digest
        if digest is not None and (earlier := store.keys.answer(digest)) is not None:
            return msgspec.structs.replace(_published.decode(earlier), duplicate=True)
        offset, epoch = self._append(store)
        published = Published(self.publication.message_id, offset, epoch)
        if digest is not None:
            store.keys.remember(digest, _encode(published), store.now)
        return published

    def _append(self, store: Store) -> tuple[int, str]:
        raise NotImplementedError


class Publish(_Positioned):
    """A publication on a channel with history."""

    __slots__ = ("_retention", "channel")
    user_id: str | None = None

    def __init__(self, message: Publication, retention: Retention, key: Once | None) -> None:
        super().__init__(message, once.digest_of(once.CHANNEL, message.channel, key) if key is not None else None)
        self.channel: str | None = message.channel
        self._retention = retention

    def _append(self, store: Store) -> tuple[int, str]:
        return store.histories.append(
            store.connection, self.publication.channel, self._retention, self._body, store.now
        )


class Append(_Positioned):
    """A publication to one user's inbox."""

    __slots__ = ("_chat", "_collapse_key", "_ttl", "_user_id")
    channel: str | None = None

    def __init__(
        self,
        message: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        key: Once | None,
    ) -> None:
        super().__init__(message, once.digest_of(once.INBOX, user_id, key) if key is not None else None)
        self._user_id = user_id
        self._chat = chat
        self._ttl = ttl
        self._collapse_key = collapse_key

    @property
    def user_id(self) -> str:
        return self._user_id

    def _append(self, store: Store) -> tuple[int, str]:
        return store.inboxes.append(
            store.connection, self._user_id, self._chat, self._ttl, self._collapse_key, self._body, store.now
        )


class _TaskChange:
    """A new state of a task."""

    __slots__ = ("digest", "event", "final", "happened")
    channel: str | None = None
    user_id: str | None = None

    def __init__(self, event: TaskEvent, key: Once | None) -> None:
        self.event = event
        self.digest = once.digest_of(once.TASK, event.state.task_id, key) if key is not None else None
        #: the owner's message of a final state, with its position once it has one
        self.final: Publication | None = None
        #: whether this very change was made, and is to be told
        self.happened = False

    @property
    def task_id(self) -> str:
        return self.event.state.task_id


class CreateTask(_TaskChange):
    __slots__ = ()

    def carry_out(self, store: Store) -> TaskState:
        state = self.event.state
        if self.digest is not None and (earlier := store.keys.answer(self.digest)) is not None:
            return msgspec.json.decode(earlier, type=type(state))
        if store.tasks.version(state.task_id) is not None:
            raise errors.Conflict("a task of this id exists")
        store.tasks.put(state, state.final, store.now)
        if self.digest is not None:
            store.keys.remember(self.digest, _encode(state), store.now)
        self.happened = True
        return state


class ReplaceTask(_TaskChange):
    __slots__ = ("_body", "_message")

    def __init__(self, event: TaskEvent, message: Publication | None, key: Once | None) -> None:
        super().__init__(event, key)
        self._message = message
        self._body = publication.encode(message) if message is not None else b""

    @property
    def user_id(self) -> str | None:  # type: ignore[override]
        return self.event.state.user_id if self._message is not None else None

    def carry_out(self, store: Store) -> bool:
        state = self.event.state
        if self.digest is not None and store.keys.answer(self.digest) is not None:
            return True
        version = store.tasks.version(state.task_id)
        if version is None:
            raise errors.NotFound("no such task")
        if version != state.version - 1:
            return False
        store.tasks.put(state, state.final, store.now)
        if self._message is not None:
            position = store.inboxes.append(store.connection, state.user_id, False, None, None, self._body, store.now)
            self.final = self._message.positioned(*position)
        if self.digest is not None:
            store.keys.remember(self.digest, b"true", store.now)
        self.happened = True
        return True


class TaskDone:
    """Whether a key was used on a task."""

    __slots__ = ("digest",)
    user_id: str | None = None
    channel: str | None = None
    task_id: str | None = None

    def __init__(self, task_id: str, key: Once) -> None:
        self.digest = once.digest_of(once.TASK, task_id, key)

    def carry_out(self, store: Store) -> bool:
        return store.keys.answer(self.digest) is not None


class Sweep:
    """One small step of removing what is past its age; answers whether there may be more."""

    __slots__ = ("_limit",)
    digest: bytes | None = None
    user_id: str | None = None
    channel: str | None = None
    task_id: str | None = None

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def carry_out(self, store: Store) -> bool:
        limit = self._limit
        removed = [part.sweep(store.connection, store.now, limit) for part in (store.keys, store.tasks)]
        removed += [part.sweep(store.connection, store.now, limit) for part in (store.inboxes, store.histories)]
        removed.append(revocationrows.sweep(store.connection, store.now, limit))
        return max(removed) >= limit
