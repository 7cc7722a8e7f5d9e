"""Durations as people write them, ``250ms`` or ``1.5h``: one grammar for the configuration, the API and ``pushctl``.

duration = number unit          number: up to 13 digits, and up to 3 after a point
                                unit: ms, s, m, h or d
"""

from __future__ import annotations

import re
from typing import Final

#: ms in each unit.
UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

#: ms; one hundred years. Longer is a slip of the pen, and every sum with a moment stays exact in JSON.
LONGEST: Final = 36_500 * UNITS["d"]

_match = re.compile(r"(\d{1,13})(?:\.(\d{1,3}))?(ms|s|m|h|d)", re.ASCII).fullmatch


def parse(text: str) -> int:
    """Return a duration in ms. Raises ValueError for another grammar, a part of a ms, and more than `LONGEST`."""
    match = _match(text)
    if match is None:
        raise ValueError("not a duration")
    whole, fraction, unit = match[1], match[2] or "", UNITS[match[3]]
    scale: int = 10 ** len(fraction)
    amount, rest = divmod(int(whole + fraction) * unit, scale)
    if rest or amount > LONGEST:
        raise ValueError("not a duration")
    return amount


def write(milliseconds: int) -> str:
    """Return the shortest text that `parse` reads as this duration: 60000 is ``1m``."""
    for unit, size in reversed(UNITS.items()):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return "0s"
