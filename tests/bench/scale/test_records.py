"""The file of whole runs: what is read, what is cut, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.scale import records
from bench.scale.limits import Plan
from bench.scale.records import FULL, keep, newest, record, runs, usual_file
from bench.scoreboard.records import Unusable

RUN = record(Plan(200, 2, 1_000, (100, 100), 20), "2026-11-27", "a machine", "a command", "abc")


def test_each_run_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "new" / "runs.jsonl"
    later = replace(RUN, figures={"idle_cpu": 0.5}, others={"idle": 0.01})
    keep(file, RUN)
    keep(file, later)
    assert runs(file) == [RUN, later]
    assert len(file.read_text().splitlines()) == 2


def test_what_a_cut_write_has_left_is_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    keep(file, RUN)
    with open(file, "a") as cut:
        cut.write('{"date": "2026')
    assert runs(file) == [RUN]
    keep(file, RUN)
    assert runs(file) == [RUN, RUN]


@pytest.mark.parametrize("line", ["what?", "[1]", '{"date": "D"}', '{"run": {"sizes": "full"}}'])
def test_a_file_of_something_else_is_refused_and_kept(line: str, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(Unusable, match=r"^other\.jsonl is not a record of `bench scale`: .*$"):
        keep(file, RUN)
    assert file.read_text() == f"{line}\n"


def test_the_newest_is_the_last_of_the_newest_file(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for date in ("2026-11-27", "2026-11-28"):
        for workers in (2, 3):
            keep(tmp_path / f"{date}.jsonl", replace(RUN, date=date, workers=workers))
    assert newest(tmp_path) == replace(RUN, date="2026-11-28", workers=3)


def test_only_a_whole_size_is_kept_where_the_page_is_made_from() -> None:
    assert usual_file("2026-11-27", FULL) == records.RESULTS / "2026-11-27.jsonl"
    assert records.RESULTS not in usual_file("2026-11-27", FULL - 1).parents
