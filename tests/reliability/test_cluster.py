"""Three nodes, one Redis, hundreds of clients, every fault in random order: a pause, never a lie."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.reliability.cluster import FAULTS, Books, run


def _check(books: Books, seconds: float, seed: int) -> None:
    print(json.dumps({"seconds": seconds, "seed": seed, **books.table()}, indent=1))
    assert not books.broken()
    assert sum(map(len, books.received.values())) > 100
    assert books.history_delivered > 0
    assert books.live_delivered > 0
    assert books.seen_ended


@pytest.mark.full
def test_a_few_faults(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "1"))
    books = asyncio.run(run(tmp_path, 15, seed, clients=150))
    _check(books, 15, seed)


@pytest.mark.full
def test_a_minute_of_faults(tmp_path: Path) -> None:
    seconds, seed = float(os.environ.get("SECONDS_OF_FAULTS", "60")), int(os.environ.get("SEED", "1"))
    books = asyncio.run(run(tmp_path, seconds, seed, clients=300))
    _check(books, seconds, seed)
    assert set(books.done) == set(FAULTS), "every fault was tried"


@pytest.mark.slow
def test_ten_minutes_of_faults(tmp_path: Path) -> None:
    seconds, seed = float(os.environ.get("SECONDS_OF_FAULTS", "600")), int(os.environ.get("SEED", "1"))
    books = asyncio.run(run(tmp_path, seconds, seed, clients=300))
    _check(books, seconds, seed)
