"""Fuzz the parsers of what comes from outside, guided by coverage: ``make fuzz`` or ``python -m tests.fuzz``.

    python -m tests.fuzz [--minutes 20] [--target NAME ...] [--beside N] [--keep] [--seed N] [--write]

Each target of `tests.fuzz.targets` runs for so many minutes, from its corpus in the tree and from what was found before
in ``build/fuzz``; as many run beside each other as there are processors. ``--keep`` writes into the tree the fewest
texts that reach all that was reached; ``--write`` puts the table into docs/security.md. A text that makes a target fail
is left in ``build/fuzz`` and named. Exit status 1 where there is one, 77 where atheris cannot be had for this Python.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from tests.fuzz import corpora
from tests.fuzz.targets import TARGETS
from tests.tables import replace_table

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = ROOT / "build" / "fuzz"
#: The exit status of what cannot be run here, as automake has it.
CANNOT_RUN: Final = 77
#: Seconds that one text may take.
PATIENCE: Final = 10
TITLE: Final = "Fuzzing"


class Outcome(NamedTuple):
    """What came of one target: ``edges`` that were reached of the instrumented code, ``texts`` that reach them."""

    target: str
    minutes: float
    executions: int
    edges: int
    texts: int
    fault: str

    def cells(self) -> list[str]:
        return [
            self.target, f"{self.minutes:g}", f"{self.executions:,}", f"{self.edges:,}", f"{self.texts:,}",
            self.fault or "none",
        ]  # fmt: skip


def _environment() -> dict[str, str]:
    paths = [str(PLACE / "atheris"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def install() -> str:
    """Install atheris where it is missing, beside everything else; return why it cannot be had, or nothing."""
    probe = [sys.executable, "-c", "import atheris"]
    if subprocess.run(probe, env=_environment(), capture_output=True, check=False).returncode == 0:
        return ""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--target", str(PLACE / "atheris"), "atheris >= 3.0, < 4"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return (lines or ["pip failed"])[-1].split("http")[0]
    return ""


def _spread(target: str, folder: Path) -> None:
    """Write the seeds and the corpus of the tree as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for text in (*TARGETS[target].seeds, *corpora.read(target)):
        (folder / sha256(text).hexdigest()[:16]).write_bytes(text)


def _run(target: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.fuzz.engine", target, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def fuzz(target: str, minutes: float, seed: int) -> Outcome:
    """Run one target."""
    place = PLACE / target.replace(" ", "_")
    _spread(target, place / "corpus")
    seconds = max(1, round(60 * minutes))
    status, said = _run(
        target, str(place / "corpus"), f"-max_total_time={seconds}", f"-seed={seed or 1}", "-print_final_stats=1",
        f"-timeout={PATIENCE}", "-rss_limit_mb=2048", f"-artifact_prefix={place}/",
    )  # fmt: skip
    (place / "log.txt").write_text(said)
    executions, edges = _last(r"stat::number_of_executed_units: *(\d+)", said), _last(r"cov: (\d+)", said)
    texts = _last(r"corp: (\d+)", said)
    fault = ""
    if status or not executions:
        artifacts = re.findall(r"Test unit written to (\S+)", said)
        problems = re.findall(r"^(\w[\w.]*(?:Error|Exception|Timeout)\b.*|.*ERROR: libFuzzer.*)$", said, re.MULTILINE)
        where = Path(artifacts[-1]).relative_to(ROOT) if artifacts else (place / "log.txt").relative_to(ROOT)
        fault = f"{problems[0][:120] if problems else f'exit status {status}'}: see {where}"
    return Outcome(target, minutes, executions, edges, texts, fault)


def keep(target: str) -> int:
    """Write into the tree the fewest texts, beside the seeds, that reach all that was reached; return how many."""
    place = PLACE / target.replace(" ", "_")
    with tempfile.TemporaryDirectory(dir=place) as fewest:
        status, said = _run(
            target, "-merge=1", f"-timeout={PATIENCE}", f"-artifact_prefix={place}/", fewest, str(place / "corpus")
        )
        texts = {path.read_bytes() for path in Path(fewest).iterdir()}
    if status or not texts:
        raise RuntimeError(f"{target}: the texts could not be merged: {said[-500:]}")
    texts -= set(TARGETS[target].seeds)
    corpora.write(target, texts)
    return len(texts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="for each target (default: 20)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument(
        "--beside",
        type=int,
        default=os.cpu_count() or 1,
        help="so many targets beside each other (default: processors)",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--keep", action="store_true", help="write what was found into the corpora in the tree")
    parser.add_argument("--write", action="store_true", help="put the table into docs/security.md")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    missing = install()
    if missing:
        print(f"left out: atheris cannot be had here: {missing}", flush=True)
        return CANNOT_RUN
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(options.beside) as lanes:
        targets = options.target or list(TARGETS)
        for future in as_completed([lanes.submit(fuzz, target, options.minutes, options.seed) for target in targets]):
            outcome = future.result()
            print("  ".join(outcome.cells()), flush=True)
            if options.keep and not outcome.fault:
                outcome = outcome._replace(texts=keep(outcome.target))
            outcomes.append(outcome)
    if options.write:
        header = ["target", "minutes", "executions", "edges reached", "texts in the corpus", "faults"]
        replace_table(ROOT / "docs" / "security.md", TITLE, header, [outcome.cells() for outcome in outcomes])
    return 1 if any(outcome.fault for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
