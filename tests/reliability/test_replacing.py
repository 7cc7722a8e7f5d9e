"""Servers that are replaced under load, each way at its smallest; how long a call took decides nothing here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.reliability.caller import Calls
from tests.reliability.replacing import PARTS, Outcome

CLIENTS = 30


@pytest.mark.full
@pytest.mark.parametrize("name", PARTS)
def test_nobody_is_refused_and_nothing_is_missing(name: str, tmp_path: Path) -> None:
    outcome = PARTS[name](tmp_path, CLIENTS)
    assert outcome.broken() == []
    assert all(calls.calls > 0 for calls in outcome.calls)


def test_what_does_not_hold_is_said() -> None:
    well = Outcome(2, calls=[Calls(9, 0.1, [])], moves=Counter({0: 1, 1: 1}))
    assert well.broken() == []
    assert well.cells()["each had to move"] == "once"
    bad = Outcome(3, calls=[Calls(9, 0.1, ["503"])], moves=Counter({0: 1, 1: 2}), failed=["reset"], missing=["gap"])
    assert bad.broken() == [
        "a call failed: 503",
        "a connection failed: reset",
        "missing: gap",
        "1 clients had to move 0 times",
        "1 clients had to move 2 times",
    ]
