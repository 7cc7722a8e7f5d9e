"""Events through a receiver and nodes that fail; and that the judge of that run sees what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.events import CHANNELS, PAGE, TITLE, Outcome, judge, rows, run
from tests.tables import replace_table


def attempt(n: int, answer: str = "taken", event: str = "") -> list[dict[str, Any]]:
    event = event or f"e{n}"
    return [{"begun": event, "subject": f"room:{n % CHANNELS}", "n": n}, {answer: event}]


WELL = [*attempt(0), *attempt(1, "failed"), *attempt(1), *attempt(CHANNELS), *attempt(0)]


def judged(lines: list[dict[str, Any]], published: int = 2) -> Outcome:
    return judge(lines, published, Outcome(published, {}))


def test_what_is_right_holds() -> None:
    outcome = judged(WELL)
    assert outcome.holds
    assert (outcome.attempts, outcome.failed, outcome.repeated) == (5, 1, 1)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([*attempt(0), *attempt(1, "failed")], "lost"),
        ([*attempt(0), *attempt(1)[:1]], "lost"),
        ([*attempt(1), *attempt(CHANNELS), *attempt(0)], "disorder"),
        ([*attempt(1), *attempt(0, "failed"), *attempt(CHANNELS), *attempt(0)], "disorder"),
        ([*WELL, *attempt(1, event="another")], "disorder"),
        ([*WELL, {"fault": "e0 of room:0 came while another of it was here"}], "receiver"),
    ],
)
def test_what_is_wrong_is_found(lines: list[dict[str, Any]], found: str) -> None:
    outcome = judged(lines)
    assert not outcome.holds
    assert [kind for kind in ("lost", "disorder", "receiver") if getattr(outcome, kind)] == [found]


def test_the_page_has_a_place_for_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    replace_table(page, TITLE, ["now", "events"], rows(judged(WELL)))
    assert "| events lost | 0 |" in page.read_text()


@pytest.mark.full
def test_every_event_arrives_while_nodes_and_the_receiver_fail(tmp_path: Path) -> None:
    outcome = run(tmp_path, 500, int(os.environ.get("SEED", "1")))
    assert outcome.holds, (outcome.lost[:5], outcome.disorder[:5], outcome.receiver[:5], outcome.dead)
    assert len(outcome.faults) == 4
    assert outcome.failed > 100
