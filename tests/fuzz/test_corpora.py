"""The targets of the fuzzer with all that it found so far, and what the runs are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.logger import Logger
from twisted.python.failure import Failure

from tests.conftest import LoggedErrors
from tests.fuzz import corpora
from tests.fuzz.__main__ import Outcome, main
from tests.fuzz.targets import TARGETS, failures_raised


@pytest.mark.parametrize("name", TARGETS)
def test_every_text_of_the_corpus_is_taken_or_refused(name: str) -> None:
    target = TARGETS[name]
    texts = corpora.read(name)
    assert texts, "make fuzz ARGS=--keep"
    with failures_raised():
        for text in (*target.seeds, *texts, b""):
            target.parse(text)


def test_what_is_done_with_a_task_is_carried_out() -> None:
    target = TARGETS["bodies"]
    seeds = [seed for seed in target.seeds if seed[1:].startswith(b'{"taskId"')]
    refused = [seed for seed in seeds if target.parse(seed) is None]
    assert (len(seeds), refused) == (7, [])


def test_the_corpora_are_small_and_have_targets() -> None:
    paths = list(corpora.FOLDER.iterdir())
    assert {corpora.path_of(name) for name in TARGETS} == set(paths)
    assert sum(path.stat().st_size for path in paths) < 2_000_000


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    texts = [b"\0\n", b"longer", b"\0\n"]
    corpora.write("event ids", texts, tmp_path)
    assert corpora.read("event ids", tmp_path) == [b"\0\n", b"longer"]
    assert corpora.read("toml", tmp_path) == []


def test_a_failure_that_is_logged_is_a_fault(flush_errors: LoggedErrors) -> None:
    def swallow() -> None:
        with failures_raised():
            Logger().failure("swallowed", Failure(ValueError("lost")))

    with pytest.raises(AssertionError, match="logged") as caught:
        swallow()
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(flush_errors(ValueError)) == 1


def test_what_a_run_says() -> None:
    cells = Outcome("heads", 0.5, 12_345, 678, 9, "").cells()
    assert cells == ["heads", "0.5", "12,345", "678", "9", "none"]
    with pytest.raises(SystemExit):
        main(["--target", "nothing"])
