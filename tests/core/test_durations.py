"""The grammar of durations."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core.durations import LONGEST, UNITS, parse, write


@given(st.integers(0, LONGEST))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    assert parse(write(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0s", 0), ("250ms", 250), ("1.5s", 1_500), ("0.001s", 1), ("2.25h", 8_100_000), ("7d", 604_800_000)],
)
def test_a_number_and_a_unit(text: str, milliseconds: int) -> None:
    assert parse(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    ["", "10", "s", "-1s", "+1s", "1 s", "1s ", "1S", "1.s", ".5s", "1.2345s", "0.5ms", "1e3s", "٣s", "9" * 13 + "s",
     "36501d", "1w", "1s1s", "1s\n"],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse(text)


def test_the_units_are_multiples_of_each_other() -> None:
    sizes = list(UNITS.values())
    assert all(larger % smaller == 0 for smaller, larger in pairwise(sizes))
