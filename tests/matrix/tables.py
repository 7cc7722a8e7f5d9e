"""The matrix' tables in docs/reliability.md: each stands between two marks, and is written anew by the run."""

from __future__ import annotations

import datetime
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.harness import ROOT
from tests.matrix import clients, workers

PAGE = ROOT / "docs" / "reliability.md"


def of_workers(outcomes: Iterable[workers.Outcome], seed: int, seconds: float) -> str:
    """One line for each kind of worker, over all its rows."""
    by_worker: dict[str, list[workers.Outcome]] = defaultdict(list)
    for outcome in outcomes:
        worker, leaves, *_ = outcome.row
        by_worker[worker + ", killed and run again" * (leaves == workers.KILLED)].append(outcome)
    lines = [
        f"| {_today()}, seed {seed}, {seconds:.0f} s | rows | ends done | arrived | lost | lines logged |",
        "|---|---|---|---|---|---|",
    ]
    kinds = [kind for worker in workers.WORKERS for kind in (worker, f"{worker}, killed and run again")]
    named = [(kind, by_worker[kind]) for kind in kinds if kind in by_worker]
    for name, each in [*named, ("all", [outcome for _, rows in named for outcome in rows])]:
        sums = [sum(getattr(o, field) for o in each) for field in ("done", "received", "lost", "logged")]
        lines.append(f"| {name} | {len(each)} | " + " | ".join(f"{value:,}" for value in sums) + " |")
    return "\n".join(lines)


def of_clients(outcomes: Sequence[clients.Outcome], seed: int, seconds: float) -> str:
    """A line for each fault, a column for each client: seconds until it was back, or why there is no such cell."""
    names = list(clients.CLIENTS)
    found: dict[tuple[str, str], list[clients.Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.fault, outcome.client].append(outcome)
    lines = [f"| {_today()}, seed {seed} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for fault in clients.FAULTS:
        lines.append(f"| {fault} | " + " | ".join(_cell(fault, name, found[fault, name]) for name in names) + " |")
    due, missing, twice, wrong = (
        sum(getattr(o, field) for o in outcomes) for field in ("due", "missing", "twice", "wrong")
    )
    lines.append("")
    lines.append(
        f"{due:,} messages were due in {len(outcomes)} cells: {missing} missing, {twice} shown twice, {wrong} shown to "
        f"somebody else. Two shared cores, {seconds:.0f} s."
    )
    return "\n".join(lines)


def _cell(fault: str, client: str, outcomes: list[clients.Outcome]) -> str:
    why = clients.why_empty(fault, client)
    if why or not outcomes:
        return why or "not run"
    worst = max(outcome.seconds for outcome in outcomes)
    back = f"{worst:.1f} s" if math.isfinite(worst) else "never"
    return back if all(outcome.holds for outcome in outcomes) else f"**{back}, failed**"


def write(name: str, table: str, page: Path = PAGE) -> None:
    """Put the table between its marks. Raises ValueError where the page has none."""
    text = page.read_text()
    pattern = rf"(<!-- make matrix: {name} -->\n).*?(\n<!-- end -->)"
    new, count = re.subn(pattern, lambda found: found[1] + "\n" + table + "\n" + found[2], text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{page.name} has {count} places for the table of the {name}")
    page.write_text(new)


def _today() -> str:
    return datetime.date.today().isoformat()
