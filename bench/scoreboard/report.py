"""What a record says: the tables, the plots, the history, and the parts of the pages that are made from the newest.

Nothing here measures. A peer that could not be had, died or answered wrongly has a row that says so and no figure.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path as File
from random import Random

from bench.scoreboard.paths import BY_NAME, PATHS, Path
from bench.scoreboard.records import Record, Unusable, parse, stored
from bench.scoreboard.verdicts import LOAD_LIMIT, Target, Verdict, judge
from tools.trees import ROOT

#: Where the records are kept that the pages are made from.
RESULTS = ROOT / "bench" / "results"

#: Chance is the same in every report, so that the same record makes the same page.
SEED = 1

#: Between these, a page holds what is made from the newest record.
BEGIN, END = "<!-- scoreboard -->", "<!-- /scoreboard -->"

PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md", ROOT / "README.zh-CN.md")

NOTHING = "No run of the scoreboard has been stored yet."


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def named(record: Record, peer: str) -> str:
    """Return a peer's name with its version; the floors have none."""
    return f"{peer} {record.versions.get(peer, '')}".strip(" -")


def titled(record: Record, path: Path) -> str:
    """Return a path's title; what was taken with tiny sizes says so."""
    return path.title if record.run.sizes == "full" else f"{path.title} [{record.run.sizes} sizes: no figures]"


def usable_peers(record: Record, path: Path) -> list[str]:
    """Return the peers of a path whose figures count, ours first."""
    rounds = record.rounds.get(path.name, {}).values()
    there = {name for each in rounds for name in each.figures} - record.missing.get(path.name, {}).keys()
    return sorted((kind.name for kind in path.peers if kind.name in there), key=lambda name: name != "pushserver")


def _verdict(record: Record, path: Path, target: Target) -> Verdict:
    names = [name for name in (target.row, target.peer) if name]
    there = usable_peers(record, path)
    rounds = record.figures(path.name, target.figure, *names) if set(names) <= set(there) else []
    return judge(target, rounds, Random(SEED))


def verdicts(record: Record, path: Path) -> list[Verdict]:
    """Return the verdict on each target of a path."""
    return [_verdict(record, path, target) for target in path.targets]


def all_met(record: Record, paths: Iterable[Path]) -> bool:
    """Whether nothing is missing and every target is met, or missed where it has to be."""
    return all(
        path.name not in record.stopped
        and not record.missing.get(path.name)
        and all(verdict.as_wanted for verdict in verdicts(record, path))
        for path in paths
    )


def said(verdict: Verdict, path: Path) -> str:
    """Return a verdict as a line."""
    target = verdict.target
    meaning = path.figures[target.figure]
    if verdict.reached is None:
        return f"{meaning}: target {target.text()}: not measured"
    reached, of = verdict.reached, f" × {target.peer}" if target.peer else ""
    word = "MISSED" if verdict.word == "missed" else verdict.word
    if target.row != "pushserver":
        meaning = f"{target.row}: {meaning}"
    planted = ", as it must be" if target.planted and verdict.as_wanted else ""
    return (
        f"{meaning}: {reached.median:.2f} ({reached.low:.2f} - {reached.high:.2f}){of}, "
        f"target {target.text()}: {word}{planted}, {verdict.rounds} rounds"
    )


#: What becomes of a target that ours missed, where our part is taken out.
_WITHOUT_OURS = {"missed": "misses the target too", "met": "keeps the target", "open": "open"}


def floors(record: Record, path: Path) -> Iterator[str]:
    """Yield, for each target that ours missed, what the floor under it reaches: whether it was us who missed it."""
    there = usable_peers(record, path)
    standing = [kind.name for kind in path.peers if kind.is_floor and kind.name in there]
    missed = [each.target for each in verdicts(record, path) if each.word == "missed" and not each.target.planted]
    for target, floor in itertools.product(missed, standing):
        found = _verdict(record, path, replace(target, row=floor))
        if found.reached is not None:
            reached, of = found.reached, f" × {target.peer}" if target.peer else ""
            yield (
                f"{floor}: {path.figures[target.figure]}: {reached.median:.2f} ({reached.low:.2f} - {reached.high:.2f})"
                f"{of}: {_WITHOUT_OURS[found.word]}, {found.rounds} rounds"
            )


def _row(record: Record, path: Path, peer: str) -> list[str]:
    """Return a peer's cells: its name and version, then the median and the range of each figure."""
    cells = [named(record, peer)]
    for figure in path.figures:
        values = [values for (values,) in record.figures(path.name, figure, peer)]
        if values:
            spread = f"({number(min(values))} - {number(max(values))})"
            cells.append(f"{number(statistics.median(values))} {spread}")
        else:
            cells.append("-")
    frames = [each.facts[peer]["frame"] for each in record.whole(path.name, {peer}) if "frame" in each.facts[peer]]
    if _has_frames(record, path):
        cells.append(f"{statistics.median(frames):.0f}" if frames else "-")
    return cells


def _has_frames(record: Record, path: Path) -> bool:
    rounds = record.rounds.get(path.name, {}).values()
    return any("frame" in facts for each in rounds for facts in each.facts.values())


def remarks(record: Record, path: Path) -> Iterator[str]:
    """Yield what belongs under a table: who has no figures, where the load may be what was measured, why it ended."""
    for peer, reason in record.missing.get(path.name, {}).items():
        yield f"{peer}: not measured: {reason}"
    for peer in usable_peers(record, path):
        loads = [each.facts[peer]["load"] for each in record.whole(path.name, {peer})]
        if loads and statistics.median(loads) > LOAD_LIMIT:
            yield f"{peer}: the load client may be the limit: it used {statistics.median(loads):.0%} of its core"
    if path.name in record.stopped:
        yield f"ended early: {record.stopped[path.name]}"
    absent = {kind.name for kind in path.peers} - set(usable_peers(record, path))
    # Of who has no row there is nothing to explain.
    yield from (note for note in path.notes if note.partition(":")[0] not in absent)


def text(record: Record, path: Path, red: bool | None = None) -> str:
    """Return a path's table; ``red`` colours what is missed (default: on a terminal)."""
    heads = ["", *path.figures.values(), *(["bytes of a frame"] if _has_frames(record, path) else [])]
    rows = [heads, *(_row(record, path, peer) for peer in usable_peers(record, path))]
    widths = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    lines = [titled(record, path)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(["", *cells]).rstrip())
    if red is None:
        red = sys.stdout.isatty()
    for verdict in verdicts(record, path):
        line = f"  {said(verdict, path)}"
        lines.append(f"\x1b[31m{line}\x1b[0m" if red and verdict.word == "missed" else line)
    return "\n".join([*lines, *(f"  {remark}" for remark in (*floors(record, path), *remarks(record, path)))])


def about(record: Record) -> str:
    run = record.run
    return f"{run.date}, {run.machine}, commit {run.commit}, {run.sizes} sizes: {run.command}"


def whole(record: Record) -> str:
    """Return all tables of a record."""
    measured = record.rounds.keys() | record.missing.keys()
    tables = [text(record, path, red=False) for path in BY_NAME.values() if path.name in measured]
    configured = [f"  {named(record, peer)}: {said}" for peer, said in record.configurations.items()]
    return "\n\n".join([about(record), *tables, "\n".join(["Configurations", *configured])])


def newest() -> Record | None:
    """Return the newest stored record of full sizes."""
    for file in stored(RESULTS):
        record = parse(file.read_text())
        if record.run.sizes == "full":
            return record
    return None


def history(records: Iterable[Record]) -> str:
    """Return what our figures were over the records, one line for each figure."""
    lines = []
    newest_first = list(records)
    for path in PATHS:
        for figure, meaning in path.figures.items():
            found = []
            for record in newest_first:
                values = [value for (value,) in record.figures(path.name, figure, "pushserver")]
                if values:
                    found.append(f"{record.run.date} {number(statistics.median(values))}")
            if found:
                lines.append(f"  {path.name}, {meaning}: {', '.join(found)}")
    return "\n".join(["History, the newest first", *lines])


# -- pages ------------------------------------------------------------------------------------------------------------

#: What the tables of the READMEs call the rows of the targets: in English and in Chinese.
BRIEF = {
    "fanout": ("CPU for a delivery, 1,000 connections", "每次投递的 CPU，1,000 个连接"),
    "tls-fanout": ("the same over TLS", "同上，经 TLS"),
    "tls-sign-in": ("sign-in over TLS", "经 TLS 登录"),
    "publish-history-redis": ("published with history through Redis, a second", "经 Redis 发布并保留历史，每秒"),
    "sign-in-redis": ("sign-in with 3 subscriptions over Redis", "经 Redis 登录并订阅 3 个频道"),
    "storm": ("reconnect storm of 5,000, until all are live", "5,000 个客户端同时重连，到全部恢复"),
    "recovery": ("CPU to recover 100 messages", "恢复 100 条消息的 CPU"),
    "presence": ("CPU for a join, presence of 10,000", "加入的 CPU，10,000 人在线"),
    "idle": ("10,000 idle connections", "10,000 个空闲连接"),
    "latency": ("99th percentile at half of the peer's capacity", "对方一半容量时的第 99 百分位延迟"),
    "start": ("start, s", "启动，秒"),
}

#: Of the READMEs: which of both languages, the head of the table, and what stands there while nothing is stored.
READMES = {
    "README.md": (
        0,
        "| | beside | ratio (95 %) | target | |",
        "Beside the servers that people would pick today: `python -m bench scoreboard`.",
    ),
    "README.zh-CN.md": (
        1,
        "| | 对比 | 比值（95 %） | 目标 | |",
        "与当今常用的服务器对比：`python -m bench scoreboard`。",
    ),
}


def summary(record: Record | None, page: str) -> str:
    """Return the short table of a README: each target and what was reached."""
    language, head, nothing = READMES[page]
    if record is None:
        return nothing
    lines = [head, "|---|---|---|---|---|"]
    for path in PATHS:
        for verdict in verdicts(record, path):
            if verdict.reached is None:
                continue
            reached, target = verdict.reached, verdict.target
            brief = BRIEF[path.name if path.name in BRIEF else path.name.partition("-")[0]][language]
            of = named(record, target.peer) if target.peer else "-"
            interval = f"{reached.median:.2f} ({reached.low:.2f} - {reached.high:.2f})"
            name = f"{brief} ({target.figure})" if len(path.targets) > 1 and path.name != "fanout" else brief
            lines.append(f"| {name} | {of} | {interval} | {target.text()} | {verdict.word} |")
    return "\n".join(lines)


def part(page: File, record: Record | None) -> str:
    """Return what a page says of a record, between its marks."""
    if page.name in READMES:
        return summary(record, page.name)
    return NOTHING if record is None else f"```\n{whole(record)}\n```"


def current(page: str) -> str:
    """Return what a page has between its marks. Raises ValueError where it has none."""
    found = re.search(f"{BEGIN}\n(.*?)\n{END}", page, re.DOTALL)
    if not found:
        raise ValueError("the page has no marks of the scoreboard")
    return found[1]


def write(page: File, record: Record | None) -> None:
    """Put a record's part into a page."""
    old = page.read_text()
    page.write_text(old.replace(f"{BEGIN}\n{current(old)}\n{END}", f"{BEGIN}\n{part(page, record)}\n{END}"))


# -- plots ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plot:
    """What one picture shows: bars, ours first."""

    name: str
    title: str
    axis: str
    rows: tuple[tuple[str, tuple[float, ...]], ...]


def plots(record: Record) -> Iterator[Plot]:
    """Yield a plot for each figure of each path that was measured."""
    for path in PATHS:
        for figure, meaning in path.figures.items():
            rows = [
                (peer, tuple(value for (value,) in record.figures(path.name, figure, peer)))
                for peer in usable_peers(record, path)
            ]
            rows = [(peer, values) for peer, values in rows if values]
            if rows:
                axis = f"{meaning}: median and range, {record.run.date}"
                yield Plot(f"{path.name}-{figure}", titled(record, path), axis, tuple(rows))


def draw(plot: Plot, folder: File) -> File:
    """Draw a plot into a PNG in the folder; return the file. Raises ImportError where matplotlib is not installed."""
    import matplotlib  # type: ignore[import-not-found]

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    middles = [statistics.median(values) for _, values in plot.rows]
    below = [middle - min(values) for middle, (_, values) in zip(middles, plot.rows, strict=True)]
    above = [max(values) - middle for middle, (_, values) in zip(middles, plot.rows, strict=True)]
    colours = ["#3366aa" if peer == "pushserver" else "#999999" for peer, _ in plot.rows]
    drawing, axes = pyplot.subplots(figsize=(9, 1.2 + 0.4 * len(plot.rows)), layout="constrained")
    axes.barh([peer for peer, _ in plot.rows], middles, xerr=[below, above], color=colours, capsize=3)
    axes.invert_yaxis()
    axes.set_title(plot.title, fontsize=9, loc="left")
    axes.set_xlabel(plot.axis)
    file = folder / f"{plot.name}.png"
    drawing.savefig(file, dpi=120)
    pyplot.close(drawing)
    return file


# -- the command ------------------------------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    options = argparse.ArgumentParser(
        prog="python -m bench --report",
        description="Print the tables of a record (default: the newest that is stored) and the history.",
    )
    options.add_argument("file", nargs="?", type=File)
    options.add_argument("--plots", type=File, metavar="DIR", help="draw a PNG for each figure (needs matplotlib)")
    options.add_argument("--write", action="store_true", help="make the pages of the newest stored record")
    given = options.parse_args(words)
    try:
        record = parse(given.file.read_text()) if given.file else newest()
    except (OSError, Unusable) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(NOTHING if record is None else whole(record))
    print(f"\n{history(parse(file.read_text()) for file in stored(RESULTS))}")
    if given.write:
        for page in PAGES:
            write(page, newest())
    if given.plots and record is not None:
        try:
            for plot in plots(record):
                print(draw(plot, given.plots))
        except ImportError as problem:
            print(f"no plots: {problem} (make scoreboard-plots installs it)", file=sys.stderr)
            return 1
    return 0
