from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import prometheus_client
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pushserver.core.histogram import Histograms
from pushserver.engine.interfaces import OutboxFigures
from pushserver.server.stats import Counters
from pushserver.web.metrics import EventMeasures, Measures, NodeFacts, registry_of
from tests.harness import Server
from tests.rawsocket import RawSocket


class FakeHub:
    def __init__(self) -> None:
        self.connections: dict[str, Any] = {}
        self.users: dict[str, Any] = {}
        self.channels: dict[str, Any] = {}


class FakeEngine:
    def __init__(self, figures: dict[str, float]) -> None:
        self._figures = figures

        self.durations = Histograms(("operation",), [("publish",)])

    def figures(self) -> dict[str, float]:
        return self._figures

    def clock_skew(self) -> float:
        return -1.5


def measures_of(
    counters: Counters, engine: dict[str, float] | None = None, certificate_expiry: float | None = None
) -> Measures:
    facts = NodeFacts(
        node="n1",
        uptime=lambda: 60_000,
        ready=lambda: True,
        nodes=lambda: 3,
        connections_limit=lambda: 500,
        handshakes={"not_tls": 2},
        certificate_expiry=lambda: certificate_expiry,
    )
    return Measures(counters, FakeHub(), FakeEngine(engine or {}), facts)  # type: ignore[arg-type]


def scrape(counters: Counters, engine: dict[str, float] | None = None, certificate_expiry: float | None = None) -> str:
    return generate_latest(registry_of(measures_of(counters, engine, certificate_expiry))).decode()


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_become_metrics() -> None:
    counters = Counters(1_000)
    counters.connection_opened(1)
    counters.connection_opened(2)
    counters.connection_closed(1000)
    counters.refused(503)
    counters.received(10)
    counters.sent(2, 60)
    counters.error("NOT_FOUND")
    counters.authenticated()
    counters.authentication_failed("INVALID_TOKEN")
    said = samples(scrape(counters))
    assert said["pushserver_connections_opened_total"] == said["pushserver_connections_total"] == 2
    assert said["pushserver_connections_highest"] == 2
    assert said["pushserver_connections_closed_total{code=1000}"] == 1
    assert said["pushserver_connections_refused_total{status=503}"] == 1
    assert said["pushserver_messages_received_total"] == 1
    assert said["pushserver_received_bytes_total"] == 10
    assert said["pushserver_messages_sent_total"] == 2
    assert said["pushserver_sent_bytes_total"] == 60
    assert said["pushserver_errors_total{code=NOT_FOUND}"] == 1
    assert said["pushserver_authentications_total"] == 1
    assert said["pushserver_authentication_failures_total{code=INVALID_TOKEN}"] == 1
    assert said["pushserver_uptime_seconds"] == 60
    assert said["pushserver_start_time_seconds"] == 1
    assert said["pushserver_ready"] == 1


def test_the_engines_own_figures_are_there_under_its_name() -> None:
    text = scrape(Counters(0), {"ingest_lag": 3, "store_batches_total": 7})
    assert samples(text)["pushserver_engine_ingest_lag"] == 3
    assert samples(text)["pushserver_engine_store_batches_total"] == 7
    assert "# TYPE pushserver_engine_ingest_lag gauge" in text
    assert "# TYPE pushserver_engine_store_batches_total counter" in text


class FakeEventService:
    def __init__(self, holds: bool) -> None:
        self.holds = holds
        self.figures = OutboxFigures(kept=4, dropped=7)
        self.waiting = {"mail": 3}


@pytest.mark.parametrize(("holds", "dropped"), [(True, 9), (False, 2)])
def test_events_that_a_node_dropped_itself_are_told_by_it(holds: bool, dropped: int) -> None:
    counters = Counters(0)
    counters.events_dropped = 2
    measures = EventMeasures(FakeEventService(holds), counters, lambda: 0)  # type: ignore[arg-type]
    said = samples(generate_latest(registry_of(measures)).decode())
    assert said["pushserver_events_dropped_total"] == dropped
    assert said["pushserver_events_kept"] == 4 * holds


def test_clients_cannot_make_series_with_close_codes_of_their_own() -> None:
    counters = Counters(0)
    for code in range(3000, 5000):
        counters.connection_closed(code)
    series = [name for name in samples(scrape(counters)) if "connections_closed" in name]
    assert len(series) < 60
    assert samples(scrape(counters))["pushserver_connections_closed_total{code=other}"] > 1_900


def test_every_metric_of_ours_has_help_and_follows_the_conventions() -> None:
    for family in text_string_to_metric_families(scrape(Counters(0), {"ingest_lag": 3})):
        if family.name.startswith("pushserver"):
            assert family.documentation
            # The one without a type has another metric's name, for who asks for it by that.
            old = family.name == "pushserver_connections_total"
            assert family.type in (("unknown",) if old else ("gauge", "counter", "histogram"))


def test_every_metric_has_a_name_of_its_own() -> None:
    families = [family.name for family in registry_of(measures_of(Counters(0))).collect()]
    assert len(families) == len(set(families))


def test_what_is_told_apart_by_a_label_is_there_at_zero_from_the_start() -> None:
    said = samples(scrape(Counters(0)))
    assert said["pushserver_connections_closed_total{code=3008}"] == 0
    assert said["pushserver_connections_refused_total{status=403}"] == 0
    assert said["pushserver_tls_handshakes_failed_total{reason=not_tls}"] == 2
    assert said["pushserver_tls_handshakes_failed_total{reason=closed}"] == 0
    assert said["pushserver_authentication_failures_total{code=TOKEN_EXPIRED}"] == 0
    assert said["pushserver_errors_total{code=RATE_LIMITED}"] == 0
    assert said["pushserver_engine_seconds_count{operation=publish}"] == 0
    spoken = {name for name in said if name.startswith("pushserver_dialect_connections")}
    kinds = ["pushserver.v1.json", "sse", *(f"centrifuge-{kind}" for kind in ("json", "protobuf", "sse"))]
    kinds += ["centrifuge-stream-json", "centrifuge-stream-protobuf"]
    assert spoken == {f"pushserver_dialect_connections{{dialect={kind}}}" for kind in kinds}
    assert {said[name] for name in spoken} == {0}
    assert said["pushserver_delivery_seconds_bucket{le=+Inf}"] == 0


def test_durations_become_histograms() -> None:
    counters = Counters(0)
    counters.timings.delivery.observe(0.003, times=2)
    counters.timings.api_request.of("publish", "200").observe(0.2)
    said = samples(scrape(counters))
    assert said["pushserver_delivery_seconds_bucket{le=0.0025}"] == 0
    assert said["pushserver_delivery_seconds_bucket{le=0.005}"] == 2
    assert said["pushserver_delivery_seconds_sum"] == 0.006
    assert said["pushserver_api_request_seconds_count{call=publish}{status=200}"] == 1


def test_what_bounds_the_node_is_told_beside_how_much_of_it_is_taken() -> None:
    said = samples(scrape(Counters(0), {"store_bytes": 10, "store_room_bytes": 90}, certificate_expiry=86_400.0))
    assert said["pushserver_connections_limit"] == 500
    assert said["pushserver_nodes"] == 3
    assert (said["pushserver_store_bytes"], said["pushserver_store_room_bytes"]) == (10, 90)
    assert said["pushserver_certificate_expiry_seconds"] == 86_400
    assert not any("certificate" in name for name in samples(scrape(Counters(0))))
    assert any(name.startswith("pushserver_build_info") for name in said)


def test_nothing_is_registered_in_the_process_wide_registry() -> None:
    scrape(Counters(0))
    registry = prometheus_client.REGISTRY
    assert not any(name.startswith("pushserver") for name in registry._names_to_collectors)


def test_a_running_server_shows_its_metrics_to_the_machine_that_it_runs_on(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with RawSocket(server.port) as client:
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
        answer = server.api("GET", "/metrics", key="")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        said = samples(answer.body)
        assert said["pushserver_connections"] == said["pushserver_users"] == 1
        assert said["pushserver_subscriptions"] == 2
        if sys.platform == "linux":
            assert said["process_resident_memory_bytes"] > 1_000_000
        assert server.api("GET", "/metrics", key="", headers={"X-Forwarded-For": "203.0.113.9"}).status == 401
