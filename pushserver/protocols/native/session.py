"""One connection's session in the native protocol: messages in, effects out. Pure (L0).

    octets --receive--> Say (a reply), End (a close), Asked (an operation for the rooms above the engine)
    Asked.operation --carried out--> outcome --answer--> Say
                                     problem --fail----> Say, perhaps End

The session knows how much its client may say (a token bucket), and how often in a row it was wrong. It never sees a
socket, and what it asks for is told in the words of `pushserver.core.operations`, which know nothing of this protocol.
Another protocol stands beside this module with the same methods.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from pushserver.core import errors, operations, publication
from pushserver.core.errors import Close, Code, Invalid, PushError, Refused
from pushserver.core.operations import Authenticate
from pushserver.core.positions import Position
from pushserver.protocols.native import messages

#: So many errors in a row end a connection; so many refusals for speed do.
MAX_ERRORS: Final = 10
MAX_RATE_LIMITED: Final = 100
#: The room for chat that names none.
LOBBY: Final = "chat:lobby"
#: Attempts to authenticate come back at this pace, so that hourly refreshes never count as hammering: ms for the lot.
AUTH_REFILL: Final = 60_000


class Hammering(Refused):
    """Too many attempts to authenticate. (Made anew each time: an exception that is raised again keeps every frame that
    it ever passed.)"""

    def __init__(self, wait: int) -> None:
        super().__init__("too many attempts to authenticate", Code.RATE_LIMITED, retry_after=wait)


class Rates(Struct, frozen=True):
    """Inbound limits of one connection: messages per second, how many at once, authentications at once."""

    per_second: float
    burst: int
    auth_attempts: int


class Say(Struct, frozen=True):
    """Send this text to the client. ``error``: the code that it tells, where it tells one."""

    payload: bytes
    error: Code | None = None


class End(Struct, frozen=True):
    """Close the connection."""

    close: Close


class Asked(Struct, frozen=True):
    """Carry this out, and give the outcome to `Session.answer` or the problem to `Session.fail`."""

    operation: operations.Operation
    id: str | int | None
    at: int


Effect = Say | End | Asked


class Session:
    """The native protocol's side of one connection."""

    __slots__ = (
        "_allowance",
        "_auth_allowance",
        "_auth_at",
        "_errors",
        "_may_ping",
        "_rate_limited",
        "_rates",
        "_spoke_at",
    )

    def __init__(self, rates: Rates, now: int, anonymous: bool = False) -> None:
        self._may_ping = anonymous
        self._rates = rates
        self._allowance: float = rates.burst
        self._spoke_at = now
        self._auth_allowance: float = rates.auth_attempts
        self._auth_at = now
        self._errors = 0
        self._rate_limited = 0

    # -- in -----------------------------------------------------------------------------------------------------------

    def receive(self, octets: bytes, now: int) -> tuple[Effect, ...]:
        """What follows from one message that arrived at ``now`` (ms)."""
        wait = self._wait(now)
        if wait:
            id = None
            try:
                id = messages.decode(octets).id
            except messages.Malformed as malformed:
                id = malformed.id
            return self.fail(id, Refused("too many messages", Code.RATE_LIMITED, retry_after=wait), now)
        try:
            request = messages.decode(octets)
        except messages.Malformed as malformed:
            return self.fail(malformed.id, malformed, now)
        if type(request) is messages.Ping:
            if not self._may_ping:
                return self.fail(request.id, _STRANGER, now)
            self._went_well()
            data = {} if request.data is None else request.data
            data["timestamp"] = now
            return (Say(messages.reply("pong", request.id, data)),)
        try:
            operation = self._operation(request, now)
        except PushError as problem:
            effects = self.fail(request.id, problem, now)
            if type(problem) is Hammering:
                effects += (End(errors.TOO_MANY_REQUESTS),)
            return effects
        return (Asked(operation, request.id, now),)

    def _operation(self, request: messages.Request, now: int) -> operations.Operation:
        match request:
            case messages.Auth(data=data):
                self._count_authentication(now)
                if data is None or not data.token:
                    raise Refused("auth needs a token", Code.MISSING_TOKEN)
                return Authenticate(data.token, {c: _position(s) for c, s in data.positions.items()})
            case messages.SubscribeRequest(data=data):
                return operations.Subscribe(
                    tuple(
                        operations.SubscribeItem(c)
                        if isinstance(c, str)
                        else operations.SubscribeItem(c.channel, _maybe(c.since))
                        for c in data.channels
                    )
                )
            case messages.UnsubscribeRequest(data=names):
                return operations.Unsubscribe(tuple(names.channels))
            case messages.PublishRequest(data=publish):
                if not messages.may_send(publish.message_type, server_side=False):
                    raise Invalid(f"clients cannot publish messages of type {publish.message_type[:64]!r}")
                return operations.Publish(
                    publish.channel, publish.message_type, publication.body(publish.data), publish.message_id
                )
            case messages.ChatRequest(data=chat):
                if chat.target_id is not None and chat.channel is not None:
                    raise Invalid("either targetId or channel")
                return operations.Chat(
                    chat.content, chat.message_type, chat.target_id, chat.channel or LOBBY, chat.message_id
                )
            case messages.AckRequest(data=ack):
                return operations.Acknowledge(Position(ack.offset, ack.epoch))
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

    def _wait(self, now: int) -> int:
        """Takes one message from the allowance; answers 0, or after how many ms the next one fits."""
        rates = self._rates
        if rates.per_second <= 0:
            return 0
        # A clock that was set back takes nothing away.
        passed = max(0, now - self._spoke_at)
        allowance = min(rates.burst, self._allowance + passed * rates.per_second / 1000)
        self._spoke_at = now
        if allowance < 1:
            self._allowance = allowance
            return max(1, round((1 - allowance) * 1000 / rates.per_second))
        self._allowance = allowance - 1
        return 0

    def _count_authentication(self, now: int) -> None:
        limit = self._rates.auth_attempts
        if limit <= 0:
            return
        passed = max(0, now - self._auth_at)
        self._auth_allowance = min(limit, self._auth_allowance + passed * limit / AUTH_REFILL)
        self._auth_at = now
        if self._auth_allowance < 1:
            raise Hammering(max(1, round((1 - self._auth_allowance) * AUTH_REFILL / limit)))
        self._auth_allowance -= 1

    # -- out ----------------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked, outcome: operations.Outcome) -> tuple[Effect, ...]:
        """The reply to what was carried out."""
        self._went_well()
        if isinstance(outcome, operations.Authenticated):
            self._may_ping = True
        type, data = reply_of(outcome)
        return (Say(messages.reply(type, asked.id, data)),)

    def fail(self, id: str | int | None, problem: PushError, now: int) -> tuple[Effect, ...]:
        """The reply to what could not be carried out; too many of them in a row end the connection."""
        said = Say(messages.error(problem, id, now), problem.code)
        if problem.code is Code.RATE_LIMITED:
            self._rate_limited += 1
            if self._rate_limited >= MAX_RATE_LIMITED:
                return (said, End(errors.TOO_MANY_REQUESTS))
            return (said,)
        self._rate_limited = 0
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            return (said, End(errors.TOO_MANY_ERRORS))
        return (said,)

    def _went_well(self) -> None:
        self._errors = self._rate_limited = 0

    def refuse(self, id: str | int | None, problem: PushError, close: Close) -> tuple[Effect, ...]:
        """A failed authentication that ends the connection."""
        data = {"code": problem.code.value, "message": problem.message}
        return (Say(messages.reply("auth_failed", id, data), problem.code), End(close))

    def notify(self, notice: operations.Notice, now: int, message_id: str) -> bytes:
        """The text of what the server tells this connection by itself."""
        match notice:
            case operations.SubscriptionEnded(channel, code, reason):
                data: dict[str, Any] = {"channel": channel, "code": code.value, "reason": reason}
                return messages.notice("unsubscribed", channel, data, now, message_id)
            case operations.InboxOverflow(channel, lost):
                return messages.notice("inbox_overflow", channel, {"lost": lost}, now, message_id)
            case operations.Resync(channel):
                return messages.notice("resync", channel, {"channel": channel}, now, message_id)
            case operations.GoingAway(after):
                return messages.notice("going_away", None, {"reconnectAfter": after}, now, message_id)

    push = staticmethod(messages.push)


_STRANGER: Final = Refused("authenticate first", Code.NOT_AUTHENTICATED)


def _position(since: messages.Since) -> Position:
    return Position(since.offset, since.epoch)


def _maybe(since: messages.Since | None) -> Position | None:
    return None if since is None else _position(since)


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
                "messages": [msgspec.Raw(messages.push(m)) for m in kept],
            }
        case operations.Status():
            return {"status": value}
        case state:
            return {"task": state}


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
                "expiresAt": who.expires_at,
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
        case operations.PublicationTaken(message_id, offset, epoch, duplicate):
            data = {"messageId": message_id}
            if offset is not None:
                data |= {"offset": offset, "epoch": epoch}
            if duplicate:
                data["duplicate"] = True
            return "published", data
        case operations.ChatTaken(message_id, delivered, queued, duplicate):
            data = {"messageId": message_id, "delivered": delivered, "queued": queued}
            if duplicate:
                data["duplicate"] = True
            return "message_sent", data
        case operations.Acknowledged(offset):
            return "ack_success", {"offset": offset}
        case operations.History(kept, offset, epoch):
            return "history", {
                "messages": [msgspec.Raw(messages.push(m)) for m in kept],
                "offset": offset,
                "epoch": epoch,
            }
        case operations.Presence(users, total):
            return "presence", {"users": users, "total": total}
        case operations.Task(state):
            return "task", state
