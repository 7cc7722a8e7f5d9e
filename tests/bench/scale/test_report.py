"""The tables of a run and of what follows from it, and the page that holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.scale.arithmetic import MILLION, REDIS, inputs, steps
from bench.scale.limits import Plan
from bench.scale.records import Record, newest, record
from bench.scale.report import MEASURED, NOTHING, PAGE, PARTS, current, number, parts, text, write

#: Figures with which each formula is done in the head.
FIGURES = {
    "sign_in_us": 400.0,
    "redis_sign_in_us": 50.0,
    "server_base_mib": 256.0,
    "server_kib": 5.0,
    "kernel_kib": 8.0,
    "redis_bytes": 1024.0,
    "empty_cpu": 0.04,
    "empty_redis_cpu": 0.004,
    "idle_cpu": 0.1,
    "idle_redis_cpu": 0.004,
    "broadcast_us": 4.0,
    "redis_publish_one_us": 10.0,
    "redis_publish_all_us": 16.0,
}


def run() -> Record:
    laid_out = Plan(60_000, 4, 18_000, (15_000,) * 4, 1_000)
    return replace(record(laid_out, "2026-11-27", "a machine", "a command", "abc"), figures=FIGURES)


def values(given: Record) -> dict[str, float | None]:
    known = inputs(given)
    return {step.line.name: step.value for lines in (MILLION, REDIS) for step in steps(lines, known)}


def test_every_step_is_what_its_formula_says() -> None:
    found = values(run())
    expected = {
        "per_worker": 15_000,
        "workers_needed": 67,
        "server_gib": (5_000_000 + 67 * 64 * 1024) / 2**20,
        "kernel_gib": 8_000_000 / 2**20,
        "pings_a_second": 40_000,
        "idle_cores": 1.0 + 0.67,
        "sign_in_core_seconds": 400,
        "broadcast_core_seconds": 4,
        "broadcast_seconds": 4 / 67,
        "lost_with_a_worker": 1_000_000 / 67,
        "redis_node_us": 2,
        "redis_idle_cores": 0.067,
        "redis_free": 0.933,
        "redis_gib": 1_024_000_000 / 2**30,
        "sign_ins_a_second": 18_660,
        "all_signed_in_seconds": 1_000_000 / 18_660,
        "broadcast_redis_us": 142,
        "broadcasts_a_second": 933_000 / 142,
        "messages_to_one_node": 93_300,
        "connections_of_one_redis": 1_000_000 / 0.067,
    }
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


def test_a_figure_that_is_missing_leaves_out_what_rests_on_it_and_no_more() -> None:
    given = replace(run(), figures={name: value for name, value in FIGURES.items() if name != "kernel_kib"})
    found = values(given)
    assert [name for name, value in found.items() if value is None] == ["kernel_gib"]
    assert "The kernel's memory could not be told" in text(given)


def test_a_redis_that_has_nothing_left_carries_nothing() -> None:
    found = values(replace(run(), figures={**FIGURES, "empty_redis_cpu": 0.4}))
    assert found["redis_free"] == 0
    assert found["sign_ins_a_second"] == 0
    assert found["all_signed_in_seconds"] is None


def test_a_try_says_that_it_is_one() -> None:
    assert "A try: what is calculated from fewer than 60,000 connections says little." in text(
        replace(run(), connections=2_000)
    )
    assert "A try" not in text(run())


def test_a_run_that_was_not_quiet_says_so() -> None:
    said = text(replace(run(), others={"idle": 0.05, "broadcast": 0.25}))
    assert "something else used 0.25 of a core in the step `broadcast`" in said
    assert "step `idle`" not in said
    busy = replace(run(), figures={**FIGURES, "broadcast_client_load": 0.9})
    assert "The clients may be the limit in the step `broadcast`: one used 90% of its core." in text(busy)


@pytest.mark.parametrize(("value", "said"), [(0, "0"), (1_234.5, "1,234"), (12.34, "12.3"), (0.01234, "0.0123")])
def test_digits(value: float, said: str) -> None:
    assert number(value) == said


def test_the_page_has_what_the_newest_run_says() -> None:
    assert current(PAGE.read_text()) == parts(newest()), "python -m bench scale --write makes it"


def test_the_page_names_each_figure_that_a_formula_takes() -> None:
    known = inputs(replace(run(), figures=dict.fromkeys((row.name for row in MEASURED), 0.001)))
    assert [step.line.name for lines in (MILLION, REDIS) for step in steps(lines, known) if step.value is None] == []


def test_a_page_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("".join(f"text\n<!-- {part} -->\nold\n<!-- /{part} -->\n" for part in PARTS) + "end\n")
    write(page, None)
    assert current(page.read_text())["scale"] == NOTHING
    write(page, run())
    assert current(page.read_text()) == parts(run())
    assert page.read_text().startswith("text\n<!-- scale -->\n2026-11-27, a machine")
    assert page.read_text().endswith("<!-- /scale-redis -->\nend\n")
    page.write_text("<!-- scale -->\n\n<!-- /scale -->\n")
    with pytest.raises(ValueError, match="no marks for scale-million, scale-redis"):
        write(page, run())
