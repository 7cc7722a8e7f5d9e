"""Each kind of setting changed by a reload under load, with few clients; no time that it took decides anything here."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.reliability.reloading import CHANGES, PARTS, play

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", PARTS)
def test_every_change_counts_and_nobody_notices(name: str, tmp_path: Path) -> None:
    outcome, took, _ = play(tmp_path, 20, PARTS[name], random.Random(1))
    assert outcome.broken() == []
    assert len(took) == len(CHANGES)
