"""Everything that needs foreign programs, browsers or other versions, in steps, within an hour.

    python -m tools.full [STEP ...] [--seed N]        make full ARGS="STEP ..."

A step is a command with a time limit; what it needs and does not find here it installs. Its output goes to
``build/full/STEP.log``; of a step that fails, the end is shown. A step that cannot be run here ends with status 77 (it
is no target of make, which makes 2 of that); what it leaves out, it says in lines that begin with ``left out:``, and
the last lines here repeat them. Exit status 1 where a step fails. The seed stands in the environment of each step as
``SEED``.

The last step, ``versions``, takes one pair of a kind of versions, newest or oldest, and a Python that is here. The seed
chooses which; `make test-newest test-oldest` takes them all.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.versions import CANNOT_RUN, KINDS, PYTHONS, find

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "full"

#: Seconds that all steps may take together.
HOUR = 3600

LEFT_OUT = "left out:"

#: Seconds that a step whose time is over may still say how far it came.
LAST_WORDS = 15

#: Lines of a failed step's output that are shown.
SHOWN = 40


@dataclass(frozen=True, slots=True)
class Step:
    """A name, a command, the seconds that it may take; what it takes of more, and lines of what it does not take."""

    name: str
    command: Sequence[str]
    limit: float
    takes: str = ""
    leaves_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended: ``passed``, ``failed`` with the reason, or ``left out``; and the lines of what was left out."""

    verdict: str
    seconds: float
    left_out: list[str]

    @property
    def failed(self) -> bool:
        return self.verdict.startswith("failed")


#: Most of these tests wait for other programs; those of one file share a server or a browser. By name, so that the log
#: says what took how long, and which failed where the step's time was over.
_FULL = ["-v", "--tb=short", "--durations=25", "-n", "2", "--dist", "loadfile", "-m", "full and not slow"]

#: What the marks and the hour leave to commands of their own, of which the tests here hold a sample at most.
_ELSEWHERE = {
    "long runs": "make soak",
    "all rows of the matrix": "make matrix",
    "version 1 in every order": "make upgrade",
    "fresh seeds of the simulator": "make sim",
    "planted mistakes": "make mutants",
    "strangers at every door": "make attack",
    "parsers under a fuzzer": "make fuzz",
    "SDKs whose tokens end, and a drain": "make sdks",
    "clients over TLS": "make clients-tls",
    "the image": "make image",
    "advisories": "make audit",
    "measurements": "make bench, make scoreboard",
}


def steps(seed: int, pythons: Sequence[str]) -> list[Step]:
    """Return all steps; the seed chooses one of the pairs of versions and these Pythons (none: that cannot run)."""
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    python = ["--python", chance.choice(pythons)] if pythons else []
    return [
        Step("coverage", ["make", "check", "coverage"], 1_500),
        Step(
            "full",
            [sys.executable, "-m", "pytest", *_FULL],
            2_300,
            leaves_out=tuple(f"{LEFT_OUT} {what}: {command}" for what, command in _ELSEWHERE.items()),
        ),
        Step("conformance", [sys.executable, "-m", "tools.conformance"], 1_200),
        Step(
            "versions",
            [sys.executable, "-m", "tools.versions", kind, *python],
            900,
            " ".join([f"{kind} versions", *(f"with Python {version}" for version in python[1:])]),
            tuple(f"{LEFT_OUT} {other} versions: make test-{other}" for other in KINDS if other != kind),
        ),
    ]


#: The names of the steps, whatever the seed and the machine.
STEPS = tuple(step.name for step in steps(0, ()))


def run(step: Step, seed: int, limit: float, logs: Path = LOGS) -> Outcome:
    """Run a step with this limit, s; nothing that it started runs on."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{step.name}.log"
    began = time.monotonic()
    with open(log, "w") as output:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env={**os.environ, "SEED": str(seed)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(process)
    said = log.read_text(errors="replace").splitlines()
    left_out = [line for line in said if line.startswith(LEFT_OUT)] + list(step.leaves_out)
    seconds = time.monotonic() - began
    if status == 0:
        return Outcome("passed", seconds, left_out)
    if status == CANNOT_RUN:
        return Outcome("left out", seconds, left_out or [f"{LEFT_OUT} {step.name}"])
    print("\n".join(said[-SHOWN:]))
    reason = f"more than {limit:.0f} s" if status is None else f"exit status {status}"
    return Outcome(f"failed: {reason}, see {log}", seconds, left_out)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a step's process and what still runs of all that it started, in sessions of their own too."""
    started = _descendants(process.pid)
    if process.poll() is None:
        # A suite says what had failed before it goes.
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def _descendants(pid: int) -> list[int]:
    """Return the processes that came from this one, as far as their parents still run."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [each for child in children for each in _descendants(child)]


def play(steps: Sequence[Step], seed: int, limit: float = HOUR, logs: Path = LOGS) -> int:
    """Run the steps within the limit, s; print how each ended, and last what was left out. Return the exit status."""
    print(f"seed {seed}", flush=True)
    end = time.monotonic() + limit
    outcomes = []
    for step in steps:
        left = end - time.monotonic()
        if left > 0:
            outcome = run(step, seed, min(step.limit, left), logs)
        else:
            outcome = Outcome(f"failed: not run, {limit:.0f} s are over", 0, [])
        outcomes.append(outcome)
        takes = f" ({step.takes})" if step.takes else ""
        print(f"{step.name:16}{outcome.seconds:7.0f} s  seed {seed}  {outcome.verdict}{takes}", flush=True)
    failed = sum(outcome.failed for outcome in outcomes)
    print(f"{failed} of {len(steps)} steps failed" if failed else "no step failed")
    print("\n".join([line for outcome in outcomes for line in outcome.left_out] or ["nothing left out"]))
    return 1 if failed else 0


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tools.full", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("steps", nargs="*", metavar="STEP", help=f"default: all of {', '.join(STEPS)}")
    options.add_argument(
        "--seed", type=int, default=int(os.environ.get("SEED") or int.from_bytes(os.urandom(4), "big"))
    )
    given = options.parse_args()
    for name in given.steps:
        if name not in STEPS:
            options.error(f"no such step: {name} (there are {', '.join(STEPS)})")
    here = [version for version in PYTHONS if find(version)]
    return play([step for step in steps(given.seed, here) if step.name in (given.steps or STEPS)], given.seed)


if __name__ == "__main__":
    raise SystemExit(main())
