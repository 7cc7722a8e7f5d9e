"""An inbox that is too simple to be wrong: what the engines' inboxes are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

from pushserver.core.inbox import Unread
from pushserver.engine.interfaces import ONCE_TTL, InboxPage, InboxRules

from .nodes import contents


@dataclass
class KeptMessage:
    """One message, as it is kept."""

    offset: int
    text: str | int
    chat: bool
    expires_at: int
    own_ttl: bool
    collapse_key: str | None
    task: bool = False
    read_at: int | None = None


@dataclass
class InboxModel:
    """One inbox as its contract words it, without a thought for cost."""

    rules: InboxRules
    messages: list[KeptMessage] = field(default_factory=list)
    newest: int = 0
    acked: int = 0
    lost: set[int] = field(default_factory=set)
    answers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def expire(self, now: int) -> None:
        for message in list(self.messages):
            if message.expires_at <= now:
                self.messages.remove(message)
                if not message.own_ttl:
                    self.lost.add(message.offset)

    def append(
        self,
        text: str | int,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        once: str | None,
        now: int,
        task: bool = False,
    ) -> int:
        self.expire(now)
        if once is not None and once in self.answers and self.answers[once][1] > now:
            return self.answers[once][0]
        if collapse_key is not None:
            # The newest of a key alone may be replaced, however many of it were read before.
            newest = max((m.offset for m in self.messages if m.collapse_key == collapse_key), default=0)
            self.messages = [m for m in self.messages if m.offset != newest or m.read_at is not None]
        self.newest += 1
        own_ttl = ttl is not None and ttl < self.rules.ttl
        expires_at = now + (ttl if own_ttl and ttl is not None else self.rules.ttl)
        self.messages.append(KeptMessage(self.newest, text, chat, expires_at, own_ttl, collapse_key, task))
        if once is not None:
            self.answers[once] = (self.newest, now + ONCE_TTL)
        while (going := self._too_much(chat)) is not None:
            self.messages.remove(going)
            self.lost.add(going.offset)
        return self.newest

    def _too_much(self, chat: bool) -> KeptMessage | None:
        """What has to go next, where something has."""
        tasks = [m for m in self.messages if m.task]
        others = [m for m in self.messages if not m.task]
        chats = [m for m in others if m.chat]
        if len(tasks) > self.rules.task_size:
            return tasks[0]
        if len(chats) > self.rules.chat_size:
            return chats[0]
        if len(others) > self.rules.size:
            return chats[0] if chat and others[0].offset > self.acked else others[0]
        return None

    @property
    def unread(self) -> Unread:
        unread = [m for m in self.messages if m.read_at is None]
        chats, tasks = sum(m.chat for m in unread), sum(m.task for m in unread)
        return Unread(len(unread) - chats - tasks, chats, tasks)

    def chosen(self, offsets: list[int] | int) -> list[KeptMessage]:
        """The kept messages of these offsets, or up to one."""
        if isinstance(offsets, int):
            return [m for m in self.messages if m.offset <= offsets]
        return [m for m in self.messages if m.offset in offsets]


def compare(page: InboxPage, whole: InboxPage, model: InboxModel) -> None:
    """Hold what an engine reads of an inbox against the model: what waits to be acknowledged, and all that is kept."""
    assert contents(whole.messages) == [m.text for m in model.messages]
    assert [m.read_at for m in whole.messages] == [m.read_at for m in model.messages]
    assert whole.unread == model.unread
    waiting = [m for m in model.messages if m.offset > model.acked]
    assert [(m.offset, *contents([m])) for m in page.messages] == [(m.offset, m.text) for m in waiting]
    assert (page.offset, page.acked, page.pending) == (model.newest, model.acked, len(waiting))
    assert page.lost == sum(offset > model.acked for offset in model.lost)
