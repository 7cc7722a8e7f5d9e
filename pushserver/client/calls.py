"""The requests of the protocol, each with the type of its answer; the shells only send them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from pushserver.client.messages import (
    ChatReceipt,
    History,
    InboxChange,
    InboxPage,
    Position,
    Presence,
    Published,
    Push,
    TaskState,
)

T = TypeVar("T")


class Call(Struct, Generic[T], frozen=True):
    """One request: its message type, its data, and what the answer is converted to."""

    name: str
    data: dict[str, Any]
    answer: type[T]

    def convert(self, data: Any) -> T:
        """Return the reply's data as the type of the answer."""
        return msgspec.convert(data, self.answer)


#: Requests that the client itself keeps account of, and what to use instead.
_KEPT: Final = {"auth": "token=", "subscribe": "subscribe()", "unsubscribe": "close()", "task_subscribe": "task()"}
#: Requests that would be carried out twice where an answer is lost, without a message id.
_REPEATED: Final = frozenset({"publish", "chat_message"})


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def publish(channel: str, data: Any, type: str | None, message_id: str) -> Call[Published]:
    fields = {"channel": channel, "data": data, **_present(messageType=type, messageId=message_id)}
    return Call("publish", fields, Published)


def chat(
    content: str, to: str | int | None, channel: str | None, type: str | None, message_id: str
) -> Call[ChatReceipt]:
    target = None if to is None else str(to)
    fields = _present(content=content, targetId=target, channel=channel, messageType=type, messageId=message_id)
    return Call("chat_message", fields, ChatReceipt)


def history(channel: str, limit: int | None, since: Position | None, reverse: bool) -> Call[History]:
    fields = _present(channel=channel, limit=limit, since=since, reverse=reverse or None)
    return Call("history", fields, History)


def inbox(limit: int | None, before: Position | Push | None, unread: bool) -> Call[InboxPage]:
    fields = _present(limit=limit, before=before and _place(before), unread=unread or None)
    return Call("inbox", fields, InboxPage)


def mark_read(chosen: InboxChoice, read: bool) -> Call[InboxChange]:
    return Call("inbox_read", {**chosen.fields(), **({} if read else {"read": False})}, InboxChange)


def delete_from_inbox(chosen: InboxChoice) -> Call[InboxChange]:
    return Call("inbox_delete", chosen.fields(), InboxChange)


class InboxChoice(Struct, frozen=True):
    """Messages of an inbox, by their offsets, or all up to one."""

    epoch: str
    offsets: list[int] | None = None
    up_to: int | None = None

    def fields(self) -> dict[str, Any]:
        return _present(epoch=self.epoch, offsets=self.offsets, upTo=self.up_to)


def choice(
    messages: Iterable[Position | Push | int] | None, up_to: Position | Push | int | None, epoch: str | None
) -> InboxChoice:
    """Choose messages by themselves or by their offsets; those are of `epoch`.

    Raises ValueError for both or neither, for a message without a position, and where nothing says the epoch.
    """
    if (messages is None) == (up_to is None):
        raise ValueError("give messages or up_to")
    listed = [up_to] if messages is None else list(messages)
    places = [_place(each) for each in listed if each is not None and not isinstance(each, int)]
    epochs: set[str | None] = {place.epoch for place in places} or {epoch}
    if len(epochs) > 1:
        raise ValueError("the messages are of two epochs: read the inbox again")
    named = epochs.pop()
    if named is None:
        raise ValueError("offsets say nothing before the client knows the inbox: give messages, or open the client")
    offsets = [each if isinstance(each, int) else _place(each).offset for each in listed if each is not None]
    return InboxChoice(named, offsets) if messages is not None else InboxChoice(named, None, offsets[0])


def _place(message: Position | Push) -> Position:
    place = message.position if isinstance(message, Push) else message
    if place is None:
        raise ValueError("a message without a position is in no inbox")
    return place


def presence(channel: str) -> Call[Presence]:
    return Call("presence", {"channel": channel}, Presence)


def task_get(task_id: str) -> Call[TaskState]:
    return Call("task_get", {"taskId": task_id}, TaskState)


def task_cancel(task_id: str) -> Call[TaskState]:
    return Call("task_cancel", {"taskId": task_id}, TaskState)


def raw(type: str, data: Mapping[str, Any] | None, message_id: str) -> Call[Any]:
    """Return a request of any type. Raises ValueError for those that the client itself keeps account of."""
    if type in _KEPT:
        raise ValueError(f"{type} is the client's own: use {_KEPT[type]}")
    fields = dict(data or {})
    if type in _REPEATED:
        fields.setdefault("messageId", message_id)
    return Call(type, fields, Any)  # type: ignore[arg-type]
