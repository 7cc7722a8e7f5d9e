"""Clients behind the samples for balancers, a few of them and not for long."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.reliability.balanced import PARTS, play

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", PARTS)
def test_who_says_nothing_stays_and_what_the_sample_limits_is_refused(name: str, tmp_path: Path) -> None:
    figures = play(PARTS[name], tmp_path, clients=20, idle=1.0, chance=random.Random(1))
    assert figures["connections gone"] == "0"
