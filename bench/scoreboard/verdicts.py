"""Is a target met? Pure: rounds come in, a verdict goes out; chance is an argument.

met      the whole 95 % interval of the median ratio keeps the bound
missed   the whole interval breaks it
open     the bound lies within the interval, or there are too few rounds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from bench.ratios import Ratio, ratio

#: Rounds that a verdict needs.
LEAST_ROUNDS = 7

#: A load client that uses more of its core than this may be what was measured.
LOAD_LIMIT = 0.8

Word = Literal["met", "missed", "open"]


@dataclass(frozen=True, slots=True)
class Target:
    """What ours may be at most (or must be at least) of a peer's figure; of 1, where no peer is named.

    ``planted``: the row was made worse on purpose, and all is well when the target is missed.
    """

    figure: str
    bound: float
    peer: str = ""
    least: bool = False
    #: The row that is judged.
    row: str = "pushserver"
    planted: bool = False

    def text(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.bound:g}{f' × {self.peer}' if self.peer else ''}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what was reached; `reached` is None where a figure is missing."""

    target: Target
    reached: Ratio | None
    rounds: int
    word: Word

    @property
    def as_wanted(self) -> bool:
        return self.word == ("missed" if self.target.planted else "met")


def judge(target: Target, rounds: Sequence[tuple[float, ...]], random: Random) -> Verdict:
    """Return the verdict on rounds of ours and the peer's figure, or of ours alone where the target has no peer."""
    if not rounds or min(map(min, rounds)) <= 0:
        # What rounds to nothing, as the memory of a few connections may, has no ratio.
        return Verdict(target, None, len(rounds), "open")
    ours = [each[0] for each in rounds]
    theirs = [each[1] for each in rounds] if target.peer else [1.0] * len(rounds)
    found = ratio(ours, theirs, random)
    keeps, breaks = found.high <= target.bound, found.low > target.bound
    if target.least:
        keeps, breaks = found.low >= target.bound, found.high < target.bound
    word: Word = "open"
    if len(rounds) >= LEAST_ROUNDS and (keeps or breaks):
        word = "met" if keeps else "missed"
    return Verdict(target, found, len(rounds), word)
