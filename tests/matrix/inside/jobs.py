"""What the workers of the matrix do: ends of tasks, and then they leave in one of four ways.

Everything comes by the environment, so that a job means the same in every process that a framework makes of it.
"""

from __future__ import annotations

import logging
import os
import signal
import time

from pushserver.publisher import AsyncPublisher, Publisher

ENDS = 20
#: Over the limit of the nginx of the matrix.
LARGE = "x" * 24_000


class Boom(Exception):
    """What a job that fails raises."""


logging.basicConfig(level=logging.WARNING)

_where = {
    "url": os.environ["MATRIX_URL"],
    "api_key": os.environ["MATRIX_KEY"],
    "prefix": os.environ["MATRIX_PREFIX"],
}
ROW = os.environ["MATRIX_ROW"]
LEAVES = os.environ["MATRIX_LEAVES"]
WITH_LARGE = os.environ["MATRIX_LINK"] == "413"

publisher = Publisher(**_where)
async_publisher = AsyncPublisher(**_where)


def job(first: int, count: int) -> None:
    """End so many tasks, and leave."""
    for number in range(first, first + count):
        task = None
        try:
            with publisher.task(ROW, f"end {number}", task_id=name_of(number)) as task:
                task.progress(1, of=2, details=LARGE if WITH_LARGE else None)
                if LEAVES == "killed" and _is_first_run(number):
                    publisher.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                _work(task)
        except Boom:
            pass
        write_down(number, task is not None and task.answered)
    leave()


async def async_job(first: int, count: int) -> None:
    for number in range(first, first + count):
        task = None
        try:
            async with async_publisher.task(ROW, f"end {number}", task_id=name_of(number)) as task:
                task.progress(1, of=2, details=LARGE if WITH_LARGE else None)
                if LEAVES == "raises":
                    raise Boom
                if WITH_LARGE:
                    await task.complete({"html": LARGE})
        except Boom:
            pass
        write_down(number, task is not None and task.answered)


def name_of(number: int) -> str:
    return f"{ROW}-{number}"


def write_down(number: int, answered: bool) -> None:
    """Write down that the call has returned, and whether the server had answered by then."""
    with open(os.environ["MATRIX_REPORT"], "a") as report:
        report.write(f"{number} {'answered' if answered else 'on-its-way'}\n")


def leave() -> None:
    if LEAVES == "raises":
        raise Boom
    if LEAVES == "os._exit":
        os._exit(0)
    if LEAVES == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
        # Where somebody handles it, the job has this long to be asked to end.
        time.sleep(0.2)


def _is_first_run(number: int) -> bool:
    """Whether nobody has run this job before; asked once in a run."""
    try:
        open(f"{os.environ['MATRIX_REPORT']}.{number}", "x").close()
    except FileExistsError:
        return False
    return True


def _work(task: object) -> None:
    if LEAVES == "raises":
        raise Boom
    if WITH_LARGE:
        task.complete({"html": LARGE})  # type: ignore[attr-defined]
