"""Each part of the faults beside those of `cluster`, at its smallest: every fault once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.reliability.faults import PARTS, main, play


def test_a_program_that_is_not_here_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["--seed", "3"]) == 1
    said = capsys.readouterr()
    assert said.out == "seed 3\n"
    assert said.err == "the part clocks wants the program faketime: install Debian's package of that name\n"


@pytest.mark.full
@pytest.mark.parametrize("name", PARTS)
def test_every_fault_once(name: str, tmp_path: Path) -> None:
    books = play(name, tmp_path, int(os.environ.get("SEED", "1")), seconds=5, clients=20)
    print(books.table())
    assert not books.broken()
    assert set(books.done) == set(PARTS[name].faults)
    assert books.history_delivered > 0
    assert any(books.received.values())
