"""Puts the table of what `pushctl explain` finds into docs/troubleshooting.md.

python -m tools.findings          writes the page
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pushserver.server.findings import RULES

PAGE: Final = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
_BEGIN: Final = "<!-- made by python -m tools.findings -->\n"
_END: Final = "<!-- end -->\n"


def table() -> str:
    """Return the table, a row for each rule, in their order."""
    rows = ["| what is seen | what `explain` says | what to do |", "|---|---|---|"]
    for rule in RULES:
        sentence = re.sub(r"\{(\w+)\}", r"*\1*", rule.sentence)
        rows.append(f"| {rule.symptom} | {sentence} | {rule.advice} |")
    return "\n".join(rows) + "\n"


def placed(text: str, made: str) -> str:
    """Return the page's text with a table in the place of the one that it has."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{made}\n{_END}{after}"


if __name__ == "__main__":
    PAGE.write_text(placed(PAGE.read_text(), table()))
