"""One connection's session in the native protocol: messages in, effects out. Pure.

One text frame is one message, and one message is one effect: a reply, a close, or an operation for the rooms. The
session knows how much its client may send (a token bucket), and how often in a row it was wrong. It never sees a
socket, and what it asks for is in the words of `pushserver.core.operations`, which know nothing of this protocol.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pushserver.core import errors, operations, publication
from pushserver.core.effects import Disconnect, Effect, Perform, Send
from pushserver.core.errors import Close, Code, Invalid, PushError, Refused
from pushserver.core.message_types import may_send
from pushserver.core.operations import Authenticate
from pushserver.core.positions import Position
from pushserver.core.rate_limit import Hammering, Rates, TokenBucket
from pushserver.core.tokens import NEVER
from pushserver.protocols.native import messages

#: So many errors in a row end a connection; so many refusals for speed do.
MAX_ERRORS: Final = 10
MAX_RATE_LIMITED: Final = 100
#: So many channels of a subscription, or of its end, cost as much as one more message.
NAMES_PER_MESSAGE: Final = 20
#: The room for chat that names none.
LOBBY: Final = "chat:lobby"


class NativeSession:
    """The native protocol's side of one connection."""

    __slots__ = ("_authentications", "_errors", "_may_ping", "_messages", "_rate_limited")

    def __init__(self, rates: Rates, anonymous: bool = False) -> None:
        self._may_ping = anonymous
        self._messages = TokenBucket(rates.messages)
        self._authentications = TokenBucket(rates.authentications)
        self._errors = 0
        self._rate_limited = 0

    # -- in -----------------------------------------------------------------------------------------------------------

    def opened(self, connection_id: str, token: str | None) -> tuple[Effect, ...]:
        """Return the authentication by a token that came with the upgrade, as if the client had sent it first."""
        return () if token is None else (Perform(Authenticate(token, {})),)

    def receive(self, payload: bytes, at: int, now: int) -> tuple[Effect, ...]:
        """Return what follows from one message (`core.protocol.Session`)."""
        wait = self._messages.take(at)
        if wait:
            id = None
            try:
                id = messages.decode(payload).id
            except messages.Malformed as malformed:
                id = malformed.id
            return self._fail(id, Refused("too many messages", Code.RATE_LIMITED, retry_after=wait), now)
        try:
            request = messages.decode(payload)
        except messages.Malformed as malformed:
            return self._fail(malformed.id, malformed, now)
        if type(request) is messages.Ping:
            if not self._may_ping:
                return self._fail(request.id, _STRANGER, now)
            self._went_well()
            data = {} if request.data is None else request.data
            data["timestamp"] = now
            return (Send(messages.reply("pong", request.id, data)),)
        try:
            operation = self._operation(request, at)
        except PushError as problem:
            effects = self._fail(request.id, problem, now)
            if type(problem) is Hammering:
                effects += (Disconnect(errors.TOO_MANY_REQUESTS),)
            return effects
        return (Perform(operation, request.id),)

    def _operation(self, request: messages.Request, at: int) -> operations.Operation:
        if isinstance(request, messages.Auth):
            wait = self._authentications.take(at)
            if wait:
                raise Hammering(wait)
        elif isinstance(request, messages.SubscribeRequest | messages.UnsubscribeRequest):
            self._messages.drain(at, len(request.data.channels) / NAMES_PER_MESSAGE)
        return operation_of(request)

    # -- out ----------------------------------------------------------------------------------------------------------

    def answer(self, asked: Perform, outcome: operations.Outcome) -> tuple[Effect, ...]:
        """Return the reply to what was carried out."""
        self._went_well()
        if isinstance(outcome, operations.Authenticated):
            self._may_ping = True
        type, data = reply_of(outcome)
        return (Send(messages.reply(type, asked.id, data)),)

    def fail(self, asked: Perform, problem: PushError, now: int) -> tuple[Effect, ...]:
        """Return the reply to what could not be carried out; too many of them in a row end the connection."""
        return self._fail(asked.id, problem, now)

    def _fail(self, id: str | int | None, problem: PushError, now: int) -> tuple[Effect, ...]:
        reply = Send(messages.error(problem, id, now), problem.code, problem.message)
        if problem.code is Code.RATE_LIMITED:
            self._rate_limited += 1
            if self._rate_limited >= MAX_RATE_LIMITED:
                return (reply, Disconnect(errors.TOO_MANY_REQUESTS))
            return (reply,)
        if problem.code in errors.SERVER_FAILURES:
            return (reply,)
        self._rate_limited = 0
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            return (reply, Disconnect(errors.TOO_MANY_ERRORS))
        return (reply,)

    def _went_well(self) -> None:
        self._errors = self._rate_limited = 0

    def refuse(self, asked: Perform, problem: PushError, close: Close) -> tuple[Effect, ...]:
        """Return the reply to a failed authentication that ends the connection."""
        data = {"code": problem.code.value, "message": problem.message}
        reply = messages.reply("auth_failed", asked.id, data)
        return (Send(reply, problem.code, problem.message), Disconnect(close))

    def pinged(self, reached: Position | None) -> None:
        """Clients acknowledge their inbox by messages."""

    def answered(self) -> tuple[Effect, ...]:
        """Nothing follows from a pong."""
        return ()

    def notify(self, notice: operations.Notice, now: int, message_id: str) -> tuple[Effect, ...]:
        """Return what the server tells this connection by itself."""
        told = self._notice(notice, now, message_id)
        return () if told is None else (Send(told),)

    def _notice(self, notice: operations.Notice, now: int, message_id: str) -> bytes | None:
        match notice:
            case operations.SubscriptionGained():
                # Clients learn of it by the channel's messages.
                return None
            case operations.SubscriptionLost(channel, code, reason):
                data: dict[str, Any] = {"channel": channel, "code": code.value, "reason": reason}
                return messages.notice("unsubscribed", channel, data, now, message_id)
            case operations.InboxOverflow(channel, lost):
                return messages.notice("inbox_overflow", channel, {"lost": lost}, now, message_id)
            case operations.Resync(channel):
                return messages.notice("resync", channel, {"channel": channel}, now, message_id)
            case operations.GoingAway(after):
                return messages.notice("going_away", None, {"reconnectAfter": after}, now, message_id)

    push = staticmethod(messages.push)


def operation_of(request: messages.Request) -> operations.Operation:
    """Return what a request asks the rooms for. Raises `errors.PushError` for what it may not ask for."""
    match request:
        case messages.Auth(data=data):
            if data is None or not data.token:
                raise Refused("auth needs a token", Code.MISSING_TOKEN)
            return Authenticate(data.token, {c: _position(s) for c, s in data.positions.items()})
        case messages.SubscribeRequest(data=data):
            return operations.Subscribe(
                tuple(
                    operations.SubscribeItem(c)
                    if isinstance(c, str)
                    else operations.SubscribeItem(c.channel, _maybe(c.since), c.token)
                    for c in data.channels
                )
            )
        case messages.UnsubscribeRequest(data=names):
            return operations.Unsubscribe(tuple(names.channels))
        case messages.PublishRequest(data=publish):
            if not may_send(publish.message_type, server_side=False):
                raise Invalid(f"clients cannot publish messages of type {publish.message_type[:64]!r}")
            return operations.Publish(
                publish.channel, publish.message_type, publication.body(publish.data), publish.message_id
            )
        case messages.ChatRequest(data=chat):
            if chat.target_id is not None and chat.channel is not None:
                raise Invalid("either targetId or channel")
            channel = LOBBY if chat.channel is None else chat.channel
            return operations.SendChat(chat.content, chat.message_type, chat.target_id, channel, chat.message_id)
        case messages.AckRequest(data=ack):
            return operations.Acknowledge(Position(ack.offset, ack.epoch))
        case messages.InboxRequest(data=page):
            return operations.ReadInbox(_maybe(page.before), page.limit, page.unread)
        case messages.InboxReadRequest(data=chosen):
            return operations.MarkInbox(chosen.selection, chosen.read)
        case messages.InboxDeleteRequest(data=chosen):
            return operations.DeleteFromInbox(chosen.selection)
        case messages.HistoryRequest(data=h):
            return operations.ReadHistory(h.channel, h.limit, _maybe(h.since), h.reverse)
        case messages.PresenceRequest(data=where):
            return operations.ReadPresence(where.channel)
        case messages.TaskSubscribeRequest(data=task):
            return operations.Subscribe((operations.SubscribeItem(f"task:{task.task_id}"),))
        case messages.TaskGetRequest(data=task):
            return operations.ReadTask(task.task_id)
        case messages.TaskCancelRequest(data=task):
            return operations.CancelTask(task.task_id)
        case _:
            raise AssertionError(request)


_STRANGER: Final = Refused("authenticate first", Code.NOT_AUTHENTICATED)


def _position(since: messages.Since) -> Position:
    return Position(since.offset, since.epoch)


def _maybe(since: messages.Since | None) -> Position | None:
    return None if since is None else _position(since)


def _encoded(kept: publication.Messages) -> msgspec.Raw:
    return msgspec.Raw(messages.encode([*map(messages.shown, kept)]))


def result(value: operations.Result) -> Any:
    """One channel's part of a subscription's answer."""
    match value:
        case None:
            return {}
        case operations.Recovery(recovered, offset, epoch, kept):
            return {
                "recovered": recovered,
                "offset": offset,
                "epoch": epoch,
                "messages": kept.once(_encoded),
            }
        case operations.UserStatus():
            return {"status": value}
        case operations.OutputStart() as start:
            return {"output": start.shown()}
        case state:
            return {"task": state}


def _repeat(duplicate: bool, conflict: bool) -> dict[str, bool]:
    """What a reply says of a ``messageId`` that was used before: for the same content, or for another."""
    return ({"duplicate": True} if duplicate else {}) | ({"conflict": True} if conflict else {})


def _rejections(rejected: dict[str, operations.Rejection]) -> dict[str, Any]:
    return {channel: {"code": r.code.value, "message": r.message} for channel, r in rejected.items()}


def reply_of(outcome: operations.Outcome) -> tuple[str, Any]:
    """The type and data of the reply that tells an outcome."""
    match outcome:
        case operations.Authenticated() as who:
            data: dict[str, Any] = {
                "connectionId": who.connection_id,
                "userId": who.user_id,
                "permissions": who.permissions,
                "expiresAt": None if who.expires_at == NEVER else who.expires_at,
                "channels": who.channels,
                "results": {channel: result(value) for channel, value in who.results.items()},
                "heartbeat": {"interval": who.heartbeat_interval, "timeout": who.heartbeat_timeout},
                "node": who.node,
                "inbox": who.inbox,
                "tasks": who.tasks,
            }
            if who.tasks_truncated:
                data["tasksTruncated"] = True
            return "auth_success", data
        case operations.Subscribed(channels, results, rejected):
            return "subscription_success", {
                "channels": channels,
                "results": {channel: result(value) for channel, value in results.items()},
                "rejected": _rejections(rejected),
            }
        case operations.Unsubscribed(channels, rejected):
            return "unsubscription_success", {"channels": channels, "rejected": _rejections(rejected)}
        case operations.PublicationTaken(message_id, offset, epoch, duplicate, conflict):
            data = {"messageId": message_id}
            if offset is not None:
                data |= {"offset": offset, "epoch": epoch}
            return "published", data | _repeat(duplicate, conflict)
        case operations.ChatTaken(message_id, delivered, queued, duplicate, conflict):
            data = {"messageId": message_id, "delivered": delivered, "queued": queued}
            return "message_sent", data | _repeat(duplicate, conflict)
        case operations.Acknowledged(offset):
            return "ack_success", {"offset": offset}
        case operations.InboxRead(kept, more, unread, offset, epoch):
            return "inbox", {
                "messages": [msgspec.Raw(messages.inbox_message(m)) for m in kept],
                "more": more,
                "unread": unread,
                "offset": offset,
                "epoch": epoch,
            }
        case operations.InboxMarked(unread):
            return "inbox_read_success", {"unread": unread}
        case operations.InboxDeleted(deleted, unread):
            return "inbox_delete_success", {"deleted": deleted, "unread": unread}
        case operations.HistoryRead(kept, offset, epoch, _, more):
            data = {"messages": [*map(messages.shown, kept)], "offset": offset, "epoch": epoch}
            return "history", data | ({"more": True} if more else {})
        case operations.PresenceRead(users, total):
            return "presence", {"users": users, "total": total}
        case operations.TaskRead(state):
            return "task", state
        case operations.ChannelTokenRenewed() | operations.ConnectionsRead():
            raise AssertionError(outcome)
