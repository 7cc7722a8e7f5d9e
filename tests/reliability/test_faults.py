"""Each part of the faults beside those of `cluster`, at its smallest: every fault once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.reliability.faults import PARTS, play


@pytest.mark.full
@pytest.mark.parametrize("name", PARTS)
def test_every_fault_once(name: str, tmp_path: Path) -> None:
    books = play(name, tmp_path, int(os.environ.get("SEED", "1")), seconds=5, clients=20)
    print(books.table())
    assert not books.broken()
    assert set(books.done) == set(PARTS[name].faults)
    assert books.history_delivered > 0
    assert any(books.received.values())
