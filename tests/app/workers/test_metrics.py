"""The metrics of several workers as one text."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pushserver.app.workers.metrics import Totals, parse


def text(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def worker(messages: int, open: int, seconds: float = 0.2) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("push_messages", "Messages.", ["way"], registry=registry)
    counter.labels("in").inc(messages)
    counter.labels('o"u\\t, {x} 1\n').inc(2 * messages)
    Gauge("push_connections", "Open connections.", registry=registry).set(open)
    Gauge("push_connections_highest", "At most.", registry=registry).set(open)
    Histogram("push_seconds", "How long.", buckets=(0.1, 1), registry=registry).observe(seconds)
    Summary("push_bytes", "How much.", registry=registry).observe(open)
    Info("push_build", "What.", registry=registry).info({"version": "1"})
    return generate_latest(registry)


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
    assert samples(totals.text()) == samples(worker(3, 5))


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


def test_all_are_ready_only_where_each_is() -> None:
    totals = Totals()
    for number, ready in enumerate((1, 0)):
        totals.note(
            number,
            text(
                "# TYPE push_ready gauge",
                f"push_ready {ready}",
                f"push_start_time_seconds {number + 5}",
                f"engine_lag {number}",
            ),
        )
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


def test_odd_lines_do_no_harm() -> None:
    families = parse(text("# a remark", "alone 2 1700000000000", "none x", "", "# TYPE t gauge", 't{a="}"} NaN'))
    assert families["alone"].samples == {"alone": 2.0}
    assert math.isnan(families["t"].samples['t{a="}"}'])
    totals = Totals()
    totals.note(1, text("u +Inf", "v -Inf", "w NaN", "x 0.5"))
    assert totals.text() == text("u +Inf", "v -Inf", "w NaN", "x 0.5")
