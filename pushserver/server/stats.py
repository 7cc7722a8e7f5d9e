"""Counting: what this node did, as plain integers on the hot paths, and what is derived from them when asked.

    hot paths -> Counters -> figures (one node) -> total (all nodes) -> API, console, metrics, the ``stats`` channel

A figure is derived from counts that only grow, so that figures taken at one moment agree with each other:
connections that were opened are those that are open, being closed, or counted under a close code.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

from pushserver import __version__
from pushserver.core.errors import PushError
from pushserver.core.histogram import Histogram, Histograms

#: Rates are over so many seconds.
WINDOW: Final = 10
#: So many of the users with the most are named.
TOP: Final = 10
#: Users whose task pushes are counted apart; beyond, those with the fewest are forgotten.
MAX_COUNTED_USERS: Final = 10_000

#: What is looked at once a second for the rates.
_RATED: Final = ("connections", "messagesIn", "messagesOut", "bytesIn", "bytesOut", "publications")


K = TypeVar("K", int, str)


class Events(Protocol):
    """Where single events are written down, beside being counted."""

    def note(
        self,
        event: str,
        text: str,
        address: str,
        code: int | str,
        *,
        verified: bool = True,
        **fields: Any,  # Any: what the event says beside it, in whatever type it has
    ) -> None:
        """Write an event; see `event_log.EventLog.note`."""

    def refused(self, address: str, problem: PushError) -> None:
        """A sign-in from an address failed."""

    def remember(
        self, event: str, user_id: str, code: int | str, reason: str, address: str, connection_id: str
    ) -> None:
        """Remember an event of a user; see `event_log.EventLog.remember`."""


class NoEvents:
    """Writes nothing down."""

    def note(
        self,
        event: str,
        text: str,
        address: str,
        code: int | str,
        *,
        verified: bool = True,
        **fields: Any,  # Any: what the event says beside it, in whatever type it has
    ) -> None:
        pass

    def refused(self, address: str, problem: PushError) -> None:
        pass

    def remember(
        self, event: str, user_id: str, code: int | str, reason: str, address: str, connection_id: str
    ) -> None:
        pass


class Timings:
    """How long things took on this node, since its start.

    Args:
        seconds: a monotonic time.
    """

    __slots__ = ("api_request", "delivery", "reactor_lag", "seconds", "sign_in")

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        #: from the moment that a message was accepted, on whichever node, until a channel's followers here had it
        self.delivery = Histogram()
        #: from a verified token to the answer
        self.sign_in = Histogram()
        #: how late the reactor calls what is due
        self.reactor_lag = Histogram()
        self.api_request = Histograms(("call", "status"))


class Counters:
    """The counts of one node since its start. Every method only adds.

    Args:
        started_at: ms since the epoch.
        events: where what is counted one by one is written down too.
        at: the same moment on the clock of `sample`, `rates`, `averages` and `uptime`: ms that do not go back.
        seconds: the clock of `timings`, s that do not go back.
    """

    __slots__ = (
        "_started",
        "auth_failures",
        "auth_successes",
        "bytes_in",
        "bytes_out",
        "closes",
        "connections_highest",
        "connections_total",
        "errors",
        "events",
        "events_dropped",
        "messages_in",
        "messages_left_out",
        "messages_out",
        "output_bytes_out",
        "output_merged",
        "publications",
        "refusals",
        "samples",
        "slow_consumers",
        "sockets",
        "started_at",
        "task_pushes",
        "tasks_pushed",
        "tasks_queued",
        "tasks_throttled",
        "timings",
        "webhook_delivered",
        "webhook_failed",
    )

    def __init__(
        self, started_at: int, at: int = 0, events: Events | None = None, seconds: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.timings = Timings(seconds)
        self.events: Events = NoEvents() if events is None else events
        self.started_at = started_at
        self._started = at
        self.connections_total = 0
        self.connections_highest = 0
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.publications = 0
        #: of outputs: bytes of JSON given to live followers, and appends that left together with an earlier one
        self.output_bytes_out = 0
        self.output_merged = 0
        self.messages_left_out = 0
        self.slow_consumers = 0
        self.auth_successes = 0
        self.auth_failures: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        #: open sockets, those that are being closed included
        self.sockets = 0
        self.tasks_pushed = 0
        self.tasks_throttled = 0
        self.tasks_queued = 0
        self.task_pushes: Counter[str] = Counter()
        #: events that this node could not keep while the engine was away, or could not read to send them
        self.events_dropped = 0
        #: attempts to send an event, by webhook
        self.webhook_delivered: Counter[str] = Counter()
        self.webhook_failed: Counter[str] = Counter()
        #: (ms, the rated counts), one a second, for the rates
        self.samples: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=WINDOW + 1)

    def output_delivered(self, octets: int, followers: int, merged: int) -> None:
        """So many bytes of an output left for its followers, with so many appends behind the first in them."""
        self.output_bytes_out += octets * followers
        self.output_merged += merged

    def connection_opened(self, open_now: int) -> None:
        self.connections_total += 1
        self.sockets += 1
        if open_now > self.connections_highest:
            self.connections_highest = open_now

    def connection_closed(self, code: int) -> None:
        self.sockets -= 1
        self.closes[code] += 1

    def refused(self, status: int) -> None:
        """A connection that was answered with an HTTP status instead of an upgrade."""
        self.refusals[status] += 1

    def received(self, octets: int) -> None:
        self.messages_in += 1
        self.bytes_in += octets

    def sent(self, messages: int, octets: int) -> None:
        self.messages_out += messages
        self.bytes_out += octets

    def error(self, code: str) -> None:
        self.errors[code] += 1

    def authenticated(self) -> None:
        self.auth_successes += 1

    def authentication_failed(self, code: str) -> None:
        self.auth_failures[code] += 1

    def published(self) -> None:
        self.publications += 1

    def left_out(self) -> None:
        self.messages_left_out += 1

    def slow_consumer(self) -> None:
        self.slow_consumers += 1

    def task_pushed(self, user_id: str) -> None:
        """A task's event was shown to those who follow it; ``user_id`` is the task's owner."""
        self.tasks_pushed += 1
        pushes = self.task_pushes
        pushes[user_id] += 1
        if len(pushes) > MAX_COUNTED_USERS:
            self.task_pushes = Counter(dict(pushes.most_common(MAX_COUNTED_USERS // 2)))

    def sample(self, at: int) -> None:
        """Remember where the counts stand; called once a second."""
        self.samples.append((at, self._rated()))

    def uptime(self, at: int) -> int:
        """Return ms since the start."""
        return at - self._started

    def _rated(self) -> tuple[int, ...]:
        return (
            self.connections_total,
            self.messages_in,
            self.messages_out,
            self.bytes_in,
            self.bytes_out,
            self.publications,
        )

    def rates(self, at: int) -> dict[str, float]:
        """Return counts per second, over the last `WINDOW` seconds, or since the start."""
        current = self._rated()
        oldest = at - (WINDOW + 1) * 1000
        since, base = next(((then, rated) for then, rated in self.samples if then >= oldest), (at, current))
        return _per_second(current, base, at - since)

    def averages(self, at: int) -> dict[str, float]:
        """Return counts per second, since the start."""
        return _per_second(self._rated(), (0,) * len(_RATED), self.uptime(at))


def _per_second(current: tuple[int, ...], base: tuple[int, ...], ms: int) -> dict[str, float]:
    # The first second counts as a whole one: a rate is never higher than the count that it is of.
    seconds = max(1_000, ms) / 1000
    return {name: round(max(0, now - then) / seconds, 3) for name, now, then in zip(_RATED, current, base, strict=True)}


def success_rate(succeeded: int, failed: int) -> float | None:
    """Between 0 and 1; None where nothing was tried."""
    tried = succeeded + failed
    return None if tried == 0 else round(succeeded / tried, 6)


def busiest(counts: Iterable[tuple[str, int]], count_name: str) -> list[dict[str, object]]:
    """The `TOP` users with the most, the most first."""
    ranked = sorted(counts, key=lambda pair: (-pair[1], pair[0]))[:TOP]
    return [{"userId": user_id, count_name: count} for user_id, count in ranked]


def figures(
    counters: Counters,
    node: str,
    at: int,
    *,
    open_now: int,
    users: Mapping[str, Collection[object]],
    channels: int,
    subscriptions: int,
) -> dict[str, object]:
    """Return one node's figures, ready for JSON.

    ``at``: as for `Counters.sample`; ``open_now``: connections; ``users``: their connections, by user.
    """
    failed = sum(counters.auth_failures.values())
    return {
        "node": node,
        "version": __version__,
        "startedAt": counters.started_at,
        "uptime": counters.uptime(at),
        "connections": {
            "current": open_now,
            "closing": counters.sockets - open_now,
            "total": counters.connections_total,
            "highest": counters.connections_highest,
        },
        "users": {
            "current": len(users),
            "busiest": busiest(((user, len(mine)) for user, mine in users.items()), "connections"),
        },
        "channels": {"current": channels, "subscriptions": subscriptions},
        "messages": {
            "in": counters.messages_in,
            "out": counters.messages_out,
            "leftOut": counters.messages_left_out,
        },
        "bytes": {"in": counters.bytes_in, "out": counters.bytes_out},
        "publications": counters.publications,
        "authentications": {
            "succeeded": counters.auth_successes,
            "failed": failed,
            "failures": _by_name(counters.auth_failures),
            "successRate": success_rate(counters.auth_successes, failed),
        },
        "errors": _by_name(counters.errors),
        "closes": _by_name(counters.closes),
        "refusals": _by_name(counters.refusals),
        "slowConsumers": counters.slow_consumers,
        "tasks": {
            "pushed": counters.tasks_pushed,
            "throttled": counters.tasks_throttled,
            "queued": counters.tasks_queued,
            "busiest": busiest(counters.task_pushes.items(), "pushed"),
        },
        "rates": counters.rates(at),
        "averages": counters.averages(at),
    }


def _by_name(counts: Mapping[K, int]) -> dict[str, int]:
    return {str(name): counts[name] for name in sorted(counts)}


def total(
    nodes: Iterable[dict[str, Any]],  # Any: numbers, lists and mappings, as JSON has them
) -> dict[str, Any]:
    """The figures of several nodes as one.

    Counts and rates are added; the start is the first one's, the uptime the longest. The highest number of connections
    is the sum of the nodes' highest, which need not have been at one moment, and a user who is connected to two nodes
    counts on each.
    """
    every = list(nodes)
    summed: dict[str, Any] = {"nodes": len(every)}
    for one in every:
        for name, value in one.items():
            if name not in ("node", "version", "startedAt", "uptime"):
                summed[name] = _added(summed.get(name), value)
    if every:
        summed["startedAt"] = min(one["startedAt"] for one in every)
        summed["uptime"] = max(one["uptime"] for one in every)
        tried = summed["authentications"]
        tried["successRate"] = success_rate(tried["succeeded"], tried["failed"])
        summed["users"]["busiest"] = _again(summed["users"]["busiest"], "connections")
        summed["tasks"]["busiest"] = _again(summed["tasks"]["busiest"], "pushed")
    return summed


def _added(
    one: Any,  # Any: numbers, lists and mappings, as JSON has them
    other: Any,
) -> Any:
    """What two nodes say of the same thing: numbers added, lists joined, mappings by their keys."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict):
        return {name: _added(one.get(name), other.get(name)) for name in sorted({*one, *other}, key=str)}
    if isinstance(one, list):
        return one + other
    return round(one + other, 3) if isinstance(one, float) or isinstance(other, float) else one + other


def _again(
    listed: list[dict[str, Any]],  # Any: a user's id, and a number, as JSON has them
    count_name: str,
) -> list[dict[str, object]]:
    counts: Counter[str] = Counter()
    for entry in listed:
        counts[entry["userId"]] += entry[count_name]
    return busiest(counts.items(), count_name)
