"""The workers' half of the matrix: whoever does a job, however it leaves, however the server is: its ends arrive."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from pushserver.testing.server import PushServer
from tests.matrix.cover import Row, every, pairwise
from tests.matrix.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
ENDS = 20
WORKERS = (
    "rq Worker", "rq SpawnWorker", "rq SimpleWorker", "celery prefork", "celery solo", "celery threads",
    "celery gevent", "Pool", "process executor", "thread executor", "dramatiq", "huey", "gunicorn", "uwsgi",
    "runserver", "asyncio",
)  # fmt: skip
AXES = (WORKERS, ("returns", "raises", "os._exit", "SIGTERM"), ("up", "slow", "away", "413"), ("HTTP", "Redis"))
#: What runs a job again whose process was killed: the first run of each job is, once the server knows of its task.
KILLED = "killed"
AGAIN = (("rq Worker", "celery prefork"), (KILLED,), ("up", "slow", "away"), AXES[3])
#: Who ends its processes by SIGTERM when it ends itself.
KILLS = ("Pool", "huey")
#: Seconds for a row, and for what is on its way after it.
_ROW = 300.0
_ARRIVAL = 10.0


class Outcome(NamedTuple):
    row: Row
    #: ends whose call has returned; of these, with the server's answer
    done: int
    answered: int
    received: int
    #: that should have arrived and did not
    lost: int
    #: lines of the publisher in the worker's log
    logged: int
    seconds: float
    #: why the row is no row, where it is none
    fault: str = ""

    @property
    def holds(self) -> bool:
        return self.done == ENDS and not self.lost and not self.fault


class Kept:
    """Rows that were played and hold, and how long the runs took, in a file, a line each: a run goes on from there."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path is not None and path.exists() else []
        found = [msgspec.json.decode(line, type=Outcome | float) for line in lines]
        self.outcomes = [each for each in found if isinstance(each, Outcome)]
        #: seconds
        self.took = sum(each for each in found if isinstance(each, float))

    def lacks(self, row: Row) -> bool:
        return all(outcome.row != row for outcome in self.outcomes)

    def add(self, outcome: Outcome) -> None:
        if outcome.holds:
            self._write(outcome)

    def end(self, seconds: float) -> None:
        """A run has ended, or was broken off."""
        self._write(seconds)

    def _write(self, what: Outcome | float) -> None:
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(what) + b"\n")


def possible(row: Row) -> bool:
    """nginx stands before HTTP alone."""
    return row[2:] != ("413", "Redis")


def choose(seed: int) -> list[Row]:
    """Return as many rows as hold every pair of values."""
    return [*pairwise(AXES, possible, seed), *pairwise(AGAIN, possible, seed)]


def all_rows() -> list[Row]:
    return [*every(AXES, possible), *every(AGAIN, possible)]


def play(stage: Stage, python: Path, row: Row, number: int) -> Outcome:
    worker, leaves, link, transport = row
    place = stage.place / f"row-{number}"
    place.mkdir()
    wire = stage.wire(link, transport)
    server = stage.server(transport)
    scheme = "redis" if transport == "Redis" else "http"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT / "tests" / "matrix" / "inside"), str(ROOT))),
        "MATRIX_WORKER": worker.partition(" ")[0] if worker.startswith(("rq", "celery")) else worker,
        "MATRIX_URL": f"{scheme}://127.0.0.1:{wire.port}",
        "MATRIX_KEY": server.api_key,
        "MATRIX_PREFIX": "matrix",
        "MATRIX_ROW": f"row-{number}",
        "MATRIX_LEAVES": leaves,
        "MATRIX_LINK": link,
        "MATRIX_REPORT": str(place / "report"),
        # A database for each row: what a dead worker left in a queue is another's otherwise.
        "MATRIX_BROKER": f"redis://127.0.0.1:{stage.broker.port}/{1 + number}",
    }
    started = time.monotonic()
    fault = ""
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), "-m", "play", worker], cwd=place, env=environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(_ROW)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            fault = f"not done after {_ROW:.0f} s"
    report = place / "report"
    reported = dict(line.split() for line in report.read_text().splitlines()) if report.exists() else {}
    # Who is killed loses what had no answer by then; all others send it before they end.
    killed = leaves == "SIGTERM" or worker in KILLS
    due = [n for n, how in reported.items() if how == "answered" or not killed]
    received = _received(server, f"row-{number}", list(reported), due, attempt=2 if leaves == KILLED else None)
    logged = sum("pushserver.publisher" in line for line in (place / "log").read_text(errors="replace").splitlines())
    wire.close()
    outcome = Outcome(
        row,
        len(reported),
        sum(how == "answered" for how in reported.values()),
        len(received),
        len(set(due) - received),
        logged,
        time.monotonic() - started,
        fault,
    )
    if not outcome.holds:
        sys.stdout.write((place / "log").read_text(errors="replace")[-3_000:] + "\n")
    return outcome


def _received(server: PushServer, row: str, reported: list[str], due: list[str], attempt: int | None) -> set[str]:
    """The numbers of the ends that the server has, of this attempt where one is named; waits for those that are due."""
    deadline = time.monotonic() + _ARRIVAL
    while True:
        states = {n: server.api("GET", f"/api/tasks/{row}-{n}") for n in reported}
        ended = {n: state for n, state in states.items() if state.get("status") in ("completed", "failed")}
        received = {n for n, state in ended.items() if attempt in (None, state["attempt"])}
        if set(due) <= received or time.monotonic() > deadline:
            return received
        time.sleep(0.2)
