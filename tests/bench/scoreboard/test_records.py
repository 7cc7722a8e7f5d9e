"""The file of a run: what is read is what was written, and an interrupted run goes on where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.scoreboard.records import Book, Run, Unusable, begun, parse, stored

RUN = Run("2026-11-26", "2 cores", "python -m bench scoreboard", "abc1234567", "full")


def a_round(book: Book, number: int, peer: str, cpu: float) -> None:
    book.add(path="fanout", round=number, peer=peer, figures={"cpu": cpu}, facts={"load": 0.5})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results" / "2026-11-26.jsonl"


def test_what_was_written_is_read(file: Path) -> None:
    book = Book(file, RUN)
    book.add(peer="NATS", version="2.15.1", configuration="its own")
    a_round(book, 1, "pushserver", 3.0)
    a_round(book, 1, "NATS", 6.0)
    a_round(book, 2, "pushserver", 4.0)
    book.close()
    record = parse(file.read_text())
    assert record == book.record
    assert record.run == RUN
    assert record.versions == {"NATS": "2.15.1"}
    # The second round lacks one of the two: it has a figure of one, and no ratio.
    assert record.figures("fanout", "cpu", "pushserver", "NATS") == [(3.0, 6.0)]
    assert record.figures("fanout", "cpu", "pushserver") == [(3.0,), (4.0,)]
    assert record.figures("fanout", "wait", "pushserver") == []


def test_an_interrupted_run_goes_on(file: Path) -> None:
    book = Book(file, RUN)
    a_round(book, 1, "pushserver", 3.0)
    book.close()
    with open(file, "a") as open_file:
        open_file.write('{"path": "fanout", "round": 1, "pee')
    again = Book(file, replace(RUN, date="2026-11-27", command="another"))
    assert again.record.figures("fanout", "cpu", "pushserver") == [(3.0,)]
    a_round(again, 2, "pushserver", 4.0)
    again.close()
    record = parse(file.read_text())
    assert record.run == RUN
    assert record.figures("fanout", "cpu", "pushserver") == [(3.0,), (4.0,)]


def test_a_run_goes_on_past_midnight_and_after_another_commit_begins_anew(file: Path) -> None:
    folder = file.parent
    assert begun(folder, RUN) == file
    Book(file, RUN).close()
    (folder / "2026-11-25.jsonl").write_text("no record\n")
    assert begun(folder, replace(RUN, date="2026-11-27")) == file
    assert begun(folder, replace(RUN, date="2026-11-27", commit="other")) == folder / "2026-11-27.jsonl"
    assert begun(folder, replace(RUN, date="2026-11-27", sizes="quick")) == folder / "2026-11-27.jsonl"


@pytest.mark.parametrize("other", [replace(RUN, commit="other"), replace(RUN, sizes="quick")])
def test_figures_of_another_tree_or_size_do_not_join(file: Path, other: Run) -> None:
    Book(file, RUN).close()
    before = file.read_text()
    with pytest.raises(Unusable, match="begun at abc1234567 with full sizes: name another with --results"):
        Book(file, other)
    assert file.read_text() == before


@pytest.mark.parametrize("text", ["", "no JSON\n", "{}\n", '{"run": {"date": "today"}}\n', "[1]\n"])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(Unusable):
        parse(text)


def test_figures_that_come_after_all_replace_the_reason(file: Path) -> None:
    book = Book(file, RUN)
    book.add(path="fanout", peer="sockudo", missing="could not install: sockudo")
    book.add(path="fanout", stopped="busy")
    assert book.record.missing["fanout"] == {"sockudo": "could not install: sockudo"}
    a_round(book, 1, "sockudo", 5.0)
    book.close()
    assert book.record.missing["fanout"] == {}
    assert book.record.stopped == {}
    assert parse(file.read_text()) == book.record


def test_the_newest_file_comes_first(tmp_path: Path) -> None:
    for name in ("2026-11-26.jsonl", "2027-01-03.jsonl", "2026-12-31.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.stem for file in stored(tmp_path)] == ["2027-01-03", "2026-12-31", "2026-11-26"]
