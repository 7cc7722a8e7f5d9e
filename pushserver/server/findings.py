"""Why something does not reach a user: one table of causes, the likeliest first.

    Case (what all nodes know of the user) -> RULES -> sentences

The table in docs/troubleshooting.md is made of it (`python -m tools.findings`), so that both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from pushserver.core.task import TaskState
from pushserver.server.cluster import ConnectionInfo, NodeView
from pushserver.server.recent import RecentEvent

#: ms for which what ended well enough is still worth telling: a client that was too slow, or sent too much.
LATELY: Final = 600_000
#: ms that a ping has waited for its answer, after which a link is half-open.
PING_OVERDUE: Final = 5_000
#: Mean ms of an engine's operations above which it is slow.
SLOW_ENGINE: Final = 500
#: Bytes waiting for a socket that are worth telling.
MUCH_QUEUED: Final = 65_536


class InboxView(msgspec.Struct, frozen=True):
    """An inbox in numbers.

    Attributes:
        unread: kept messages that were not read, acknowledged or not.
        evicted: messages after the cursor that went by the inbox' limits.
        pending: kept messages after the cursor.
    """

    offset: int
    epoch: str
    acked: int
    unread: int
    evicted: int
    pending: int


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one user.

    Attributes:
        now: ms since the epoch.
        recent: the newest first.
        inbox, tasks: None where the engine could not say.
        idle: for how long each of the tasks did not change, nor write, ms.
        nodes: what each node that answered knows.
        unanswered: the nodes that did not.
        stuck_after: ms without a change, or output, after which an unfinished task is stuck.
    """

    now: int
    connections: list[ConnectionInfo]
    recent: list[RecentEvent]
    inbox: InboxView | None
    tasks: list[TaskState] | None
    idle: list[int]
    nodes: dict[str, NodeView]
    unanswered: list[str]
    stuck_after: int

    @property
    def connected(self) -> bool:
        return bool(self.connections)

    def events(self, *names: str, lately: bool = False) -> Iterable[RecentEvent]:
        """Return events by name, the newest first. ``lately``: not those that are older than `LATELY`."""
        since = self.now - LATELY if lately else 0
        return (event for event in self.recent if event.event in names and event.at >= since)

    @property
    def failed_sign_in(self) -> RecentEvent | None:
        """The newest failed sign-in that no later one has made good."""
        newest = max((max(each.connected_at, each.refreshed_at) for each in self.connections), default=0)
        # A signature that holds says more than one that anybody may have made.
        failed = sorted(self.events("sign_in_failed"), key=lambda event: not event.verified)
        return next((e for e in failed if e.at > newest and (e.verified or not self.connected)), None)


#: Codes of a failed sign-in whose cause a rule names.
_SIGN_IN_CAUSES: Final = frozenset(
    {"TOKEN_EXPIRED", "TOKEN_BLACKLISTED", "LIMIT_EXCEEDED", "INVALID_TOKEN", "UNAVAILABLE"}
)

#: What a rule fills its sentence with; None where it does not apply.
Match = dict[str, object] | None


class FindingRule(msgspec.Struct, frozen=True):
    """A cause.

    Attributes:
        symptom: what is seen, in a few words.
        sentence: what is said of a case, with places for what was found.
        advice: what to do.
        match: finds it in a case.
        last: whether it only counts where nothing else was found.
    """

    symptom: str
    sentence: str
    advice: str
    match: Callable[[Case], Match]
    last: bool = False


def _engine_away(case: Case) -> Match:
    for node, view in case.nodes.items():
        if view.trouble:
            return {"node": node, "trouble": view.trouble}
    return None


def _engine_slow(case: Case) -> Match:
    slow = [(view.engine_ms, node) for node, view in case.nodes.items() if view.engine_ms >= SLOW_ENGINE]
    if not slow:
        return None
    took, node = max(slow)
    return {"node": node, "seconds": f"{took / 1000:.1f}"}


def _node_silent(case: Case) -> Match:
    if case.connected or not case.unanswered:
        return None
    return {"nodes": ", ".join(case.unanswered)}


def _failed(accept: Callable[[RecentEvent], bool]) -> Callable[[Case], Match]:
    def match(case: Case) -> Match:
        event = case.failed_sign_in
        return _of(event) if event is not None and accept(event) else None

    return match


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _of(event: RecentEvent) -> dict[str, object]:
    return {
        "times": _times(event.times),
        "address": event.address,
        "code": event.code,
        "reason": event.reason,
        "node": event.node,
    }


def _ahead(event: RecentEvent) -> bool:
    return event.verified and event.reason.endswith(("issued in the future", "not valid yet"))


def _unknown_why(event: RecentEvent) -> bool:
    """Return whether no rule has a cause for this code of a failed sign-in."""
    return event.code not in _SIGN_IN_CAUSES


def _origin(case: Case) -> Match:
    refused = [event for view in case.nodes.values() for event in view.refused_origins]
    if case.connected or not refused:
        return None
    newest = max(refused, key=lambda event: event.at)
    # What is known of the user comes before what may be somebody else's page, unless the page came later.
    closed = next(iter(case.events("connection_closed")), None)
    if closed is not None and closed.at >= newest.at:
        return None
    return _of(newest) | {"times": _times(sum(event.times for event in refused))}


def _slow_consumer(case: Case) -> Match:
    for event in case.events("connection_closed", "evicted", lately=True):
        if event.event == "evicted" or event.code == "3008":
            return _of(event) | {"what": "was closed" if event.code == "3008" else "had messages left out"}
    return None


def _queued(case: Case) -> Match:
    worst = max(case.connections, key=lambda connection: connection.queued, default=None)
    if worst is None or worst.queued < MUCH_QUEUED:
        return None
    return {"connection": worst.connection_id, "queued": worst.queued}


def _half_open(case: Case) -> Match:
    worst = max(case.connections, key=lambda connection: connection.unanswered_for, default=None)
    if worst is not None and worst.unanswered_for >= PING_OVERDUE:
        return {"connection": worst.connection_id, "what": f"has not answered for {worst.unanswered_for // 1000} s"}
    for event in case.events("connection_closed", lately=True):
        if event.code == "3012" and not case.connected:
            return {"connection": event.connection_id, "what": "was closed for it (3012)"}
    return None


def _rejected(case: Case) -> Match:
    followed = {name for connection in case.connections for name in connection.channels}
    for event in case.events("subscription_rejected"):
        if event.reason.partition(": ")[0] not in followed:
            return {"reason": event.reason, "code": event.code}
    return None


def _throttled(case: Case) -> Match:
    event = next(iter(case.events("rate_limited", lately=True)), None)
    return None if event is None else _of(event)


def _evicted(case: Case) -> Match:
    if case.inbox is None or not case.inbox.evicted:
        return None
    return {"evicted": case.inbox.evicted, "pending": case.inbox.pending}


def _stuck(case: Case) -> Match:
    for task, idle in zip(case.tasks or (), case.idle, strict=True):
        if not task.final and idle >= case.stuck_after:
            status, percentage = task.status.value, task.percentage
            return {"task": task.task_id, "status": status, "percentage": percentage, "idle": idle // 1000}
    return None


def _refused(case: Case) -> Match:
    # A sign-in that was refused has a rule of its own, or was made good.
    sign_ins = {(event.connection_id, event.code, event.reason) for event in case.events("sign_in_failed")}
    for event in case.events("request_refused", lately=True):
        if (event.connection_id, event.code, event.reason) not in sign_ins:
            return _of(event)
    return None


def _closed(case: Case) -> Match:
    event = next(iter(case.events("connection_closed")), None)
    return None if event is None or case.connected else _of(event)


def _away(case: Case) -> Match:
    return None if case.connected else {}


RULES: Final = (
    FindingRule(
        "nobody can sign in, nothing is kept",
        "The engine of node {node} cannot answer: {trouble}.",
        "Bring Redis, or the disk under server.state_dir, back; /readyz says 503 until then.",
        _engine_away,
    ),
    FindingRule(
        "everything is late, for everybody",
        "The engine of node {node} answers slowly: an operation takes {seconds} s in the mean.",
        "Look at the load of Redis or of the disk, and at the way to it; pushserver_engine_seconds has each operation.",
        _engine_slow,
    ),
    FindingRule(
        "the user is said to be connected elsewhere",
        "No answer from {nodes}: who is connected there, and why not, cannot be told.",
        "Look at that node: it hangs, or Redis does not reach it.",
        _node_silent,
    ),
    FindingRule(
        "the client comes again and again, and is never signed in",
        "The token has expired: signing in failed {times}, the last time from {address}.",
        "The application must give the client a new token; look at what its token callback returns.",
        _failed(lambda event: event.code == "TOKEN_EXPIRED"),
    ),
    FindingRule(
        "new tokens are refused, older ones hold",
        "The clock of whoever issues the tokens is ahead of node {node}: {reason}.",
        "Set the clocks by NTP, or raise auth.leeway.",
        _failed(_ahead),
    ),
    FindingRule(
        "the client is closed for good",
        "The token was revoked: signing in failed {times}, the last time from {address}.",
        "Give the user a token that was issued after the revocation.",
        _failed(lambda event: event.code == "TOKEN_BLACKLISTED"),
    ),
    FindingRule(
        "one device too many",
        "The user has too many connections: the newest was refused, from {address}.",
        "Close what is not needed, or raise server.max_connections_per_user.",
        _failed(lambda event: event.code == "LIMIT_EXCEEDED"),
    ),
    FindingRule(
        "the client is closed for good, for a token that nobody knows",
        "The token is refused ({reason}): signing in failed {times}, the last time from {address}.",
        "Compare it with one that `pushctl token` makes: secret, algorithm, issuer, audience, claims.",
        _failed(lambda event: event.code == "INVALID_TOKEN" and not _ahead(event)),
    ),
    FindingRule(
        "signing in fails now, and works later",
        "Signing in failed {times} with {code}, the last time from {address}: {reason}.",
        "The engine or the server of the keys could not be asked; look at /readyz.",
        _failed(lambda event: event.code == "UNAVAILABLE"),
    ),
    FindingRule(
        "signing in fails for another cause",
        "Signing in was refused {times} with {code}, the last time from {address}: {reason}.",
        "The code says why; see the error codes of the protocol.",
        _failed(_unknown_why),
    ),
    FindingRule(
        "the network or the client is too slow",
        "A connection from {address} {what}, since it did not read what it was sent ({reason}).",
        "Send it less, or let it subscribe to less; delivery.slow_consumer says what becomes of what does not fit.",
        _slow_consumer,
    ),
    FindingRule(
        "messages come late, to this client alone",
        "{queued} bytes wait for the socket of connection {connection}.",
        "The network or the client is slower than what it is sent.",
        _queued,
    ),
    FindingRule(
        "the user is connected, and nothing arrives",
        "The link of connection {connection} is half-open: it {what}.",
        "The device lost its network without a word; it comes back by itself, and what was kept comes with it.",
        _half_open,
    ),
    FindingRule(
        "the user is connected, and does not follow the channel",
        "A subscription was rejected with {code}: {reason}.",
        "Give the token the permission, or the channel a rule in its namespace.",
        _rejected,
    ),
    FindingRule(
        "some of what the client sends is lost",
        "The client sent too much and was limited {times}: {reason}.",
        "Let it send less, or raise the limits in [rate_limits].",
        _throttled,
    ),
    FindingRule(
        "old notifications are missing",
        "{evicted} messages fell out of the inbox before a device took them; {pending} that none has taken are left.",
        "Let the client acknowledge, send fewer, or raise inbox.max_messages.",
        _evicted,
    ),
    FindingRule(
        "a bar of progress stands still",
        "Task {task} is {status} at {percentage} %, and has not changed or written for {idle} s.",
        "Look at the worker that does it; tasks.stale_after lets such tasks fail.",
        _stuck,
    ),
    FindingRule(
        "something that the client asks for does not happen",
        "A request of the client was refused {times} with {code}: {reason}.",
        "The code says why; see the error codes of the protocol.",
        _refused,
    ),
    FindingRule(
        "the page says that the WebSocket failed",
        "The user is not connected, and pages were refused for their origin {times}, the last one from {address}"
        " ({reason}).",
        "Where that is the user's page, add it to server.allowed_origins.",
        _origin,
        last=True,
    ),
    FindingRule(
        "the user was connected, and is not any more",
        "The server closed the last connection with {code}: {reason}.",
        "The code says whether the client comes back by itself; see the close codes of the protocol.",
        _closed,
        last=True,
    ),
    FindingRule(
        "the user is not connected",
        "The user is not connected, and nothing of the last hour says why.",
        "The client has left or is not running, does not reach the server, or connects with another user's token.",
        _away,
        last=True,
    ),
)


def findings(case: Case) -> list[str]:
    """Return what is wrong, the likeliest cause first; nothing for a user for whom all is well."""
    found: list[str] = []
    for rule in RULES:
        matched = None if rule.last and found else rule.match(case)
        if matched is not None:
            found.append(f"{rule.sentence.format_map(matched)} {rule.advice}")
    return found
