"""The metrics of several workers as one text."""

from __future__ import annotations

import math

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from pushserver.app.workers.metrics import Family, Sample, Totals, families


def registry_of(messages: int, opened: int, seconds: float = 0.2) -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("push_messages", "Messages.", ["way"], registry=registry)
    counter.labels("in").inc(messages)
    counter.labels('o"u\\t, {x} 1\n').inc(2 * messages)
    Gauge("push_connections", "Open connections.", registry=registry).set(opened)
    Gauge("push_connections_highest", "At most.", registry=registry).set(opened)
    Histogram("push_seconds", "How long.", buckets=(0.1, 1), registry=registry).observe(seconds)
    Summary("push_bytes", "How much.", registry=registry).observe(opened)
    Info("push_build", "What.", registry=registry).info({"version": "1"})
    return registry


def worker(messages: int, opened: int, seconds: float = 0.2) -> tuple[Family, ...]:
    return families(registry_of(messages, opened, seconds))


def samples(octets: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("way", sample.labels.get("le", ""))): sample.value
        for family in text_string_to_metric_families(octets.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_one_worker_reads_as_it_was() -> None:
    totals = Totals()
    totals.note(1, worker(3, 5))
    assert samples(totals.text()) == samples(generate_latest(registry_of(3, 5)))


def test_counts_add_up_and_what_all_see_does_not() -> None:
    totals = Totals()
    totals.note(1, worker(3, 5, 0.05))
    totals.note(2, worker(4, 9, 0.5))
    said = samples(totals.text())
    assert said["push_messages_total", "in"] == 7
    assert said["push_messages_total", 'o"u\\t, {x} 1\n'] == 14
    assert said["push_connections", ""] == 14
    assert said["push_connections_highest", ""] == 14
    assert said["push_build_info", ""] == 1
    assert (said["push_bytes_sum", ""], said["push_bytes_count", ""]) == (14, 2)
    assert [said["push_seconds_bucket", le] for le in ("0.1", "1.0", "+Inf")] == [1, 2, 2]
    assert math.isclose(said["push_seconds_sum", ""], 0.55)


def gauge(name: str, value: float) -> Family:
    return Family(name, "", "gauge", (Sample(name, (), value),))


def test_all_are_ready_only_where_each_is() -> None:
    totals = Totals()
    for number, ready in enumerate((1, 0)):
        figures = gauge("push_ready", ready), gauge("push_start_time_seconds", number + 5), gauge("engine_lag", number)
        totals.note(number, figures)
    said = samples(totals.text())
    assert (said["push_ready", ""], said["push_start_time_seconds", ""], said["engine_lag", ""]) == (0, 5, 1)


def test_counters_do_not_go_back_when_a_worker_dies() -> None:
    totals = Totals()
    totals.note(1, worker(3, 5))
    totals.note(2, worker(4, 9))
    totals.gone(2)
    totals.note(2, worker(1, 1))
    said = samples(totals.text())
    assert said["push_messages_total", "in"] == 8
    assert said["push_seconds_count", ""] == 3
    assert said["push_connections", ""] == 6, "gauges are of the living"
    totals.gone(1)
    totals.gone(2)
    assert samples(totals.text())["push_messages_total", "in"] == 8


def test_a_later_word_replaces_an_earlier_one() -> None:
    totals = Totals()
    totals.note(1, worker(3, 5))
    totals.note(1, worker(4, 2))
    assert samples(totals.text())["push_messages_total", "in"] == 4


def test_nobody_there_is_nothing() -> None:
    assert Totals().text() == b""


def test_figures_that_are_no_number_and_labels_of_any_text_pass_through() -> None:
    odd = Sample("u", (("who", 'o"u\\t, {x} 1\n'),), math.inf), Sample("u", (("who", "nan"),), math.nan)
    totals = Totals()
    totals.note(1, (Family("u", "", "gauge", odd),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(odd), type=tuple[Sample, ...])[0] == odd[0]
    found = [s for family in text_string_to_metric_families(totals.text().decode()) for s in family.samples]
    assert [(s.labels["who"], s.value) for s in found[:1]] == [('o"u\\t, {x} 1\n', math.inf)]
    assert math.isnan(found[1].value)


def test_what_the_supervisor_counts_stands_behind() -> None:
    totals = Totals()
    totals.note(1, worker(3, 5))
    said = samples(totals.text([CounterMetricFamily("push_restarts", "Ends.", value=2)]))
    assert (said["push_restarts_total", ""], said["push_messages_total", "in"]) == (2, 3)


def test_a_gauge_and_a_counter_of_one_name_stay_apart() -> None:
    open_now = Family("connections", "Open now.", "gauge", (Sample("connections", (), 3.0),))
    ever = Family("connections", "Ever.", "counter", (Sample("connections_total", (), 5.0),))
    totals = Totals()
    totals.note(1, (open_now, ever))
    totals.note(2, (open_now, ever))
    totals.gone(1)
    assert {one.name: one.value for metric in totals.collect() for one in metric.samples} == {
        "connections": 3.0,
        "connections_total": 10.0,
    }
