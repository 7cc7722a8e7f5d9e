"""The metrics of one node in the Prometheus text format, made from its counts when they are asked for.

Nothing is kept here and nothing registers itself: counting costs an integer on the hot path, and a scrape reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from platform import python_version
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

import twisted
from pushserver import __version__
from pushserver.core import errors
from pushserver.core.errors import HTTP_STATUS, Code
from pushserver.core.histogram import Histogram, Histograms
from pushserver.server.events.service import EventService
from pushserver.server.hub import Hub
from pushserver.server.stats import Counters
from pushserver.web import endpoints, sse, tls

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: The close codes of this protocol. A client may choose others, and shall not choose how many series we have.
_CODES: Final = frozenset(
    {str(close.code) for close in vars(errors).values() if isinstance(close, errors.Close)}
    | {"1001", "1003", "1005", "1006", "1010", "1011"}
)
#: The HTTP statuses of refused upgrades, and the codes of errors and failed authentications, there from the start.
_STATUSES: Final = frozenset(map(str, HTTP_STATUS.values()))
_ERRORS: Final = frozenset(code.value for code in Code)
_FAILURES: Final = frozenset(
    {
        "INVALID_TOKEN",
        "MISSING_TOKEN",
        "TOKEN_EXPIRED",
        "TOKEN_BLACKLISTED",
        "PERMISSION_DENIED",
        "LIMIT_EXCEEDED",
        "UNAVAILABLE",
        "INTERNAL_ERROR",
    }
)
#: What is spoken on connections.
_DIALECTS: Final = (sse.PROTOCOL, *endpoints.DIALECTS)
#: The engine's figures that are not its own matter, but the operator's: they stand without its name before them.
_STORE: Final = ("store_bytes", "store_room_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What the metrics say of a node beside its counts.

    Attributes:
        node: its name.
        uptime: how long it runs, ms.
        ready: whether it takes connections and its engine answers.
        nodes: how many nodes there are.
        connections_limit: how many connections the server takes.
        handshakes: failed TLS handshakes, by reason.
        certificate_expiry: seconds until the first certificate of the listeners ends; None where there is none.
    """

    node: str
    uptime: Callable[[], int]
    ready: Callable[[], bool]
    nodes: Callable[[], int]
    connections_limit: Callable[[], int]
    handshakes: Mapping[str, int]
    certificate_expiry: Callable[[], float | None]


class Measures:
    """Collects one node's figures."""

    def __init__(self, counters: Counters, hub: Hub, engine: IEngine, facts: NodeFacts) -> None:
        self._counters = counters
        self._hub = hub
        self._engine = engine
        self._facts = facts

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._about()
        yield from self._gauges()
        yield from self._counts()
        yield from self._durations()
        for name, value in sorted(self._engine.figures().items()):
            text = name.replace("_", " ").removesuffix(" total")
            if name in _STORE:
                yield _gauge(name, f"The {text}.", value)
            elif name.endswith("_total"):
                yield _counter(f"engine_{name}", f"The engine: {text}.", value)
            else:
                yield _gauge(f"engine_{name}", f"The engine: {text}.", value)

    def _about(self) -> Iterator[Metric]:
        node = self._facts.node
        info = GaugeMetricFamily("pushserver_info", "The version and the node's name.", labels=["version", "node"])
        info.add_metric([__version__, node], 1)
        yield info
        labels = ["version", "python", "twisted"]
        build = GaugeMetricFamily("pushserver_build_info", "What the server is made of.", labels=labels)
        build.add_metric([__version__, python_version(), twisted.__version__], 1)
        yield build

    def _gauges(self) -> Iterator[Metric]:
        counters, hub, facts = self._counters, self._hub, self._facts
        yield _gauge("ready", "1 while the node takes connections and its engine answers.", float(facts.ready()))
        yield _gauge("start_time_seconds", "When the node started, since the epoch.", counters.started_at / 1000)
        yield _gauge("uptime_seconds", "How long the node runs.", facts.uptime() / 1000)
        yield _gauge("nodes", "Nodes that live, as far as this one knows.", facts.nodes())
        yield _gauge("connections", "Open connections.", len(hub.connections))
        kinds = Counter(connection.dialect.name for connection in hub.connections.values())
        by_dialect = GaugeMetricFamily(
            "pushserver_dialect_connections", "Open connections, by what is spoken on them.", labels=["dialect"]
        )
        for name in sorted({*_DIALECTS, *kinds}):
            by_dialect.add_metric([name], kinds[name])
        yield by_dialect
        yield _gauge("connections_limit", "Connections that the server takes.", facts.connections_limit())
        yield _gauge("connections_closing", "Sockets in a closing handshake.", counters.sockets - len(hub.connections))
        yield _gauge("connections_highest", "The most connections at one moment.", counters.connections_highest)
        yield _gauge("users", "Users with a connection.", len(hub.users))
        yield _gauge("channels", "Channels with a subscriber.", len(hub.channels))
        yield _gauge("subscriptions", "Subscriptions of all connections.", _subscriptions(hub))
        skew = self._engine.clock_skew()
        yield _gauge("clock_skew_seconds", "How far the time that nodes go by is ahead of this node's clock.", skew)
        yield _gauge("queued_bytes", "Live messages that wait for sockets.", _queued(hub))
        expiry = facts.certificate_expiry()
        if expiry is not None:
            yield _gauge("certificate_expiry_seconds", "Until the first certificate of the listeners ends.", expiry)

    def _counts(self) -> Iterator[Metric]:
        c, handshakes = self._counters, self._facts.handshakes
        yield _counter("connections_opened_total", "Connections that were opened.", c.connections_total)
        # As a counter it would be of one family with the gauge `pushserver_connections`.
        yield UnknownMetricFamily(
            "pushserver_connections_total", "The same, by its name in version 1.", c.connections_total
        )
        closes: dict[str, int] = {}
        for code, count in c.closes.items():
            name = str(code) if str(code) in _CODES else "other"
            closes[name] = closes.get(name, 0) + count
        yield _by("connections_closed_total", "Connections that ended, by close code.", "code", closes, _CODES)
        yield _by("connections_refused_total", "Refused upgrades, by HTTP status.", "status", c.refusals, _STATUSES)
        yield _by("tls_handshakes_failed_total", "Failed TLS handshakes, by reason.", "reason", handshakes, tls.REASONS)
        yield _counter("messages_received_total", "Messages from clients.", c.messages_in)
        yield _counter("messages_sent_total", "Messages to clients.", c.messages_out)
        yield _counter("messages_left_out_total", "Live messages that did not fit a queue.", c.messages_left_out)
        yield _counter("received_bytes_total", "Messages from clients, in bytes.", c.bytes_in)
        yield _counter("sent_bytes_total", "Frames of messages to clients, in bytes.", c.bytes_out)
        yield _counter("publications_total", "Messages that were published here.", c.publications)
        yield _counter("slow_consumers_total", "Connections closed for not reading.", c.slow_consumers)
        yield _counter("authentications_total", "Authentications that succeeded.", c.auth_successes)
        failures = c.auth_failures
        yield _by("authentication_failures_total", "Failed authentications, by code.", "code", failures, _FAILURES)
        yield _by("errors_total", "Errors that were answered, by code.", "code", c.errors, _ERRORS)
        yield _counter("output_sent_bytes_total", "What tasks wrote, to live followers, in bytes.", c.output_bytes_out)
        yield _counter("output_merged_total", "Appends that left together with an earlier one.", c.output_merged)
        yield _counter("task_events_pushed_total", "Events of tasks that were shown.", c.tasks_pushed)
        yield _counter("task_events_throttled_total", "Events of tasks that were held back.", c.tasks_throttled)
        yield _counter("task_events_queued_total", "Final events of tasks put into inboxes.", c.tasks_queued)

    def _durations(self) -> Iterator[Metric]:
        timings = self._counters.timings
        yield _durations("delivery_seconds", "From accepted until a channel's followers had it.", timings.delivery)
        yield _durations("sign_in_seconds", "From a verified token to the answer.", timings.sign_in)
        yield _durations("reactor_lag_seconds", "How late the reactor calls what is due.", timings.reactor_lag)
        yield _durations("engine_seconds", "Operations of the engine.", self._engine.durations)
        yield _durations("api_request_seconds", "Requests to the API, by route.", timings.api_request)


class EventMeasures:
    """Collects what is known of events: the outbox on the node that works on it, attempts on all."""

    def __init__(self, service: EventService, counters: Counters, now: Callable[[], int]) -> None:
        self._service = service
        self._counters = counters
        self._now = now

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        figures, counters = self._service.figures, self._counters
        holds = self._service.holds
        oldest_at = figures.oldest_at
        age = max(0, self._now() - oldest_at) / 1000 if holds and oldest_at is not None else 0
        yield _gauge("events_kept", "Events in the outbox, on the node that works on it.", holds * figures.kept)
        yield _gauge("events_oldest_seconds", "How long the oldest event is in the outbox.", age)
        dropped = holds * figures.dropped + counters.events_dropped
        yield _counter("events_dropped_total", "Events that went before their time.", dropped)
        waiting = GaugeMetricFamily("pushserver_events_waiting", "Events that wait, by webhook.", labels=["webhook"])
        names = self._service.waiting.keys()
        for webhook, count in sorted(self._service.waiting.items()):
            waiting.add_metric([webhook], count)
        yield waiting
        yield _by("webhook_delivered_total", "Events that were taken.", "webhook", counters.webhook_delivered, names)
        yield _by("webhook_failed_total", "Attempts that failed.", "webhook", counters.webhook_failed, names)


def _subscriptions(hub: Hub) -> int:
    return sum(len(channel.followers) + len(channel.catching_up or ()) for channel in hub.channels.values())


def _queued(hub: Hub) -> int:
    return sum(connection.outbox.counted for connection in hub.connections.values())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pushserver_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"pushserver_{name}", text, value=value)


def _by(
    name: str,
    text: str,
    label: str,
    counts: Mapping[Any, int],  # Any: whatever is counted, as the label's value says it
    known: Iterable[str],
) -> Metric:
    """Return a counter for each of the ``known`` values of a label, and for what else was counted."""
    family = CounterMetricFamily(f"pushserver_{name}", text, labels=[label])
    values = dict.fromkeys(known, 0) | {str(key): count for key, count in counts.items()}
    for value in sorted(values):
        family.add_metric([value], values[value])
    return family


def _durations(name: str, text: str, durations: Histogram | Histograms) -> Metric:
    labels, each = ((), [((), durations)]) if isinstance(durations, Histogram) else (durations.labels, durations)
    family = HistogramMetricFamily(f"pushserver_{name}", text, labels=labels)
    for values, histogram in each:
        family.add_metric(values, histogram.buckets(), histogram.sum)
    return family


def registry_of(*measures: Measures | EventMeasures) -> CollectorRegistry:
    """Return what a scrape asks: the node's figures and the process'."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    for each in measures:
        registry.register(each)  # type: ignore[arg-type]
    return registry
