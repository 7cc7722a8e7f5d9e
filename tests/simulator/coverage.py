"""Which faults came while which operations were under way, from histories alone."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from .plan import (
    EMBEDDED_FAULTS,
    EVICTING_FAULTS,
    FAULTS,
    LAGGING_FAULTS,
    RARE_EMBEDDED_FAULTS,
    RARE_EVICTING_FAULTS,
    RARE_FAULTS,
    SENTINEL_FAULTS,
)

#: Those of nodes on Redis.
_ON_REDIS = FAULTS | EVICTING_FAULTS | SENTINEL_FAULTS | LAGGING_FAULTS | RARE_FAULTS | RARE_EVICTING_FAULTS

#: What is asked, in the order of the table; a device's way in counts as two operations.
OPERATIONS = (
    "notify", "publish", "task.create", "task.progress", "task.complete", "task.fail", "task.cancel", "ingest", "chat",
    "direct", "ack", "inbox", "inbox.list", "inbox.read", "inbox.delete", "history", "sign_in", "subscribe",
)  # fmt: skip

#: How long what a fault sets off goes on after it, ms.
AFTERMATH = 1_000.0

Cells = Counter[tuple[str, str]]


def under_way(history: str) -> Cells:
    """Return for each fault and operation how many operations were under way while the fault was.

    One that is repeated is under way from its first call to its last answer.
    """
    begun: dict[Any, float] = {}
    ended: dict[Any, float] = {}
    kinds: dict[Any, str] = {}
    calls: dict[int, Any] = {}
    faults: list[tuple[str, float, float]] = []
    for text in history.splitlines():
        line = json.loads(text)
        event, at = line["event"], line["at"]
        key: Any = None
        if event == "call":
            key = (line["by"], line["what"], json.dumps(line["arguments"]))
            kinds[key] = line["what"]
            calls[line["call"]] = key
            begun.setdefault(key, at)
        elif event == "answer":
            key = calls[line["call"]]
        elif event in ("opened", "signed_in", "subscribed", "lost"):
            key = (line["device"], line["connection"])
            if event == "opened":
                begun[key, "in"], kinds[key, "in"] = at, "sign_in"
            elif event == "signed_in":
                begun.setdefault((key, "sub"), at)
                kinds[key, "sub"] = "subscribe"
            key = (key, "in" if event in ("opened", "signed_in") else "sub")
            if event == "lost":
                ended.setdefault(((line["device"], line["connection"]), "in"), at)
        elif event == "fault":
            faults.append((line["fault"], at, at + 1000 * line.get("seconds", 0) + AFTERMATH))
        if key is not None and key in begun:
            ended[key] = at
    cells: Cells = Counter()
    for key, began in begun.items():
        for fault, since, until in faults:
            if began <= until and ended.get(key, began) >= since:
                cells[fault, kinds[key]] += 1
    return cells


def possible(fault: str, operation: str) -> bool:
    """Return whether there is such an operation where this fault is."""
    return operation != "ingest" or fault in _ON_REDIS


def table(cells: Cells, faults: Iterable[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return the table, and its empty cells."""
    rows: dict[str, list[str]] = defaultdict(list)
    empty: list[tuple[str, str]] = []
    for fault in faults:
        for operation in OPERATIONS:
            count = cells[fault, operation]
            rows[fault].append(str(count) if possible(fault, operation) else "–")
            if not count and possible(fault, operation):
                empty.append((fault, operation))
    lines = ["| |" + "|".join(OPERATIONS) + "|", "|---|" + "---:|" * len(OPERATIONS)]
    lines += [f"| {fault} |" + "|".join(row) + "|" for fault, row in rows.items()]
    return "\n".join(lines), empty


def all_faults() -> list[str]:
    """Return the names of all faults that plans choose from."""
    return list(_ON_REDIS | EMBEDDED_FAULTS | RARE_EMBEDDED_FAULTS)
