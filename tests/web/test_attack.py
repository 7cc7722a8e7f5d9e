"""A short form of ``make attack``: each row, with few sockets, over tcp and the embedded engine."""

from __future__ import annotations

from pathlib import Path

from tests.attack import MEMORY, ROWS, attack


def test_nobody_else_pays_for_an_attack(tmp_path: Path) -> None:
    results = attack(tmp_path, "tcp", "embedded", ROWS, 1, 0.1)
    assert [result.row for result in results] == [row.name for row in ROWS]
    for result in results:
        # Times are for `make attack`, on a machine of its own.
        assert not result.broken, result.line()
        assert result.memory <= MEMORY, result.line()
        assert result.sign_in < 5, result.line()
