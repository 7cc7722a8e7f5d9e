"""The soak in its short form: everybody is back after each fault, and told where something was lost.

Of what is used a run this short sees the beginning alone, in which a server does grow: that it is measured is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.soak import STAGES, Recovery, play, slopes


@pytest.mark.parametrize("name", [pytest.param("embedded"), pytest.param("redis", marks=pytest.mark.full)])
def test_clients_are_back_after_each_fault(name: str, tmp_path: Path) -> None:
    stage = STAGES[name](tmp_path)
    lines: list[dict[str, Any]] = []
    try:
        samples, recovery = asyncio.run(play(stage, 8, 30, seed=1, note=lambda **what: lines.append(what)))
    finally:
        stage.stop()
    assert recovery.failed == []
    assert set(recovery.back) == set(stage.faults())
    assert {line["fault"] for line in lines if "fault" in line} == set(stage.faults())
    assert [line["descriptors"] for line in lines if "descriptors" in line] == [
        value for _, value in samples["descriptors"]
    ]
    assert set(recovery.told) == ({"Redis killed, back empty"} if name == "redis" else set())
    kept = {"store, octets"} if name == "embedded" else {"keys of Redis", "memory of Redis, octets"}
    assert set(slopes(samples, 8)) == {"memory, KiB", "descriptors"} | kept
    # A Redis that has just come back empty has no keys.
    assert all(value >= (what != "keys of Redis") for what, noted in samples.items() for _, value in noted)
    assert all(max(value for _, value in noted) > 0 for noted in samples.values())


def test_the_table_of_a_few_faults() -> None:
    recovery = Recovery(note=lambda **what: None)
    recovery.back |= {"cut": [0.5, 2.0, 1.0], "lost": [3.0]}
    recovery.told["lost"] = [4.0]
    assert recovery.rows() == [
        "| cut | 3 | 0.5 | 1.0 | 2.0 | nothing is lost | |  |",
        "| lost | 1 | 3.0 | 3.0 | 3.0 | 4.0 | 4.0 | 4.0 |",
    ]
