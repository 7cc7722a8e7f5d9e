"""The whole server beside its peers, beside what it was at a commit (``compare``), or beside today's (``scoreboard``);
or with tens of thousands of connections on one machine (``scale``); or what a client or a request costs it in calls
(``counts``).

python -m bench [--only NAME]… [--rounds N] [--json FILE] [--plot DIR]
python -m bench compare COMMIT [FIGURE ...] [--rounds N] [--seed N]
python -m bench scoreboard [PATH ...] [--rounds N] [--results FILE] [--quick]
python -m bench scale [--connections N] [--workers N] [--results FILE]
python -m bench counts [PATH ...] [--clients N] [--instructions] [--functions N]
python -m bench --report [FILE] [--plots DIR] [--write]

Exit status 1 where something was not measured, or a target was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench import compare, counts
from bench.measure import Progress, Table, machine, plot
from bench.scale import command as scale
from bench.scoreboard import command, report
from bench.servers import NotAvailable
from bench.suite import BENCHMARKS


def main() -> int:
    if sys.argv[1:2] == ["compare"]:
        return compare.main(sys.argv[2:])
    if sys.argv[1:2] == ["scoreboard"]:
        return command.main(sys.argv[2:])
    if sys.argv[1:2] == ["scale"]:
        return scale.main(sys.argv[2:])
    if sys.argv[1:2] == ["counts"]:
        return counts.main(sys.argv[2:])
    if sys.argv[1:2] == ["--report"]:
        return report.main(sys.argv[2:])
    options = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", action="append", choices=list(BENCHMARKS), help="repeatable; default: all")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", metavar="FILE", type=Path)
    options.add_argument("--plot", metavar="DIR", type=Path, help="one SVG for each table")
    given = options.parse_args()
    progress = Progress()
    tables: list[Table] = []
    date = time.strftime("%Y-%m-%d", time.gmtime())
    about = f"{date}, {machine()}, {given.rounds} rounds in turns"
    print(about, flush=True)
    failed = False
    for name in given.only or list(BENCHMARKS):
        try:
            result = BENCHMARKS[name](progress, given.rounds)
        except NotAvailable as problem:
            progress.done()
            print(f"\n{name}: not measured: {problem}", flush=True)
            failed = True
            continue
        progress.done()
        for table in result if isinstance(result, list) else [result]:
            tables.append(table)
            print(f"\n{table.text()}", flush=True)
            failed = failed or not all(verdict.get("met") for verdict in table.judged())
            if given.plot is not None:
                given.plot.mkdir(parents=True, exist_ok=True)
                (given.plot / f"{table.name}.svg").write_text(plot(table))
        if given.json is not None:
            given.json.write_text(json.dumps({"about": about, "tables": [t.as_dict() for t in tables]}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
